//! Which Firecracker there is, and whether KVM runs its guests.
//!
//! A guest of some dozen bytes is run to its end, for the reasons that [`crate::qemu`]'s probe has, and by Firecracker itself,
//! which needs no other program for that. It is an ELF file as Firecracker boots a kernel: in 64-bit mode, with the first GiB of
//! memory mapped to itself. It does [`STEPS`] additions and resets its machine by the keyboard controller.

use std::path::{Path, PathBuf};

use host::{
    fs,
    proc::{Command, Exit, Program},
};

use crate::{
    Accelerator, Report,
    probe::{self, ProbeError, Product, STEPS, Settings},
};

/// Firecracker.
pub(crate) const PRODUCT: Product = Product {
    name: "Firecracker",
    program: "firecracker",
    start: Program::Firecracker,
    before_version: "Firecracker v",
    // Older ones tell a guest of its devices by its command line only, which distributions' kernels do not read.
    oldest: (1, 8),
    newest: (1, 12),
    install: "put the firecracker of https://github.com/firecracker-microvm/firecracker/releases into /usr/local/bin, or use \
              --vmm qemu",
    check: "check `firecracker_bin` in the configuration",
};

/// Finds Firecracker, and that guests run with it.
pub(super) fn find(settings: &Settings) -> Result<Report, ProbeError> {
    let (program, version) = PRODUCT.find(settings)?;
    let why_not_kvm = match settings.accelerator {
        Some(Accelerator::Kvm) => None,
        Some(Accelerator::Tcg) => Some("software emulation is configured".to_owned()),
        None => {
            let file = settings.cache_dir.join("firecracker-probe");
            probe::why_not_kvm((&program, &version), &file, || run_guest(&program, &settings.cache_dir))
        }
    };
    if let Some(why) = why_not_kvm {
        return Err(ProbeError::NoKvm { name: PRODUCT.name, why });
    }
    let untested = PRODUCT.untested(&version);
    let accelerator = Accelerator::Kvm;
    Ok(Report { backend: "firecracker", program, version, untested, accelerator, why_not_kvm })
}

/// Runs the guest; why it did not come to its good end.
fn run_guest(program: &Path, directory: &Path) -> Option<String> {
    const CONFIG: &str = r#"{"boot-source": {"kernel_image_path": "firecracker-probe.elf"}, "drives": [],
        "machine-config": {"vcpu_count": 1, "mem_size_mib": 32}}"#;
    let files = [("firecracker-probe.elf", guest()), ("firecracker-probe.json", CONFIG.into())];
    let paths: Vec<PathBuf> = files.iter().map(|(name, _)| directory.join(name)).collect();
    let written = files.iter().zip(&paths).try_for_each(|((_, bytes), path)| fs::write_atomic(path, bytes));
    let why = match written {
        Ok(()) => {
            let command = Command::new(Program::Firecracker(program.to_owned())).dir(directory).args([
                "--no-api",
                "--config-file",
                "firecracker-probe.json",
                "--level",
                "Error",
            ]);
            probe::run_guest(command, Exit::Code(0))
        }
        Err(error) => Some(error.to_string()),
    };
    for path in paths {
        let _ = fs::remove(&path);
    }
    why
}

/// Where the guest's one segment is loaded, and begins to run.
const LOADED_AT: u64 = 0x10_0000;
/// The lengths of the ELF header and of the one program header, which follows it (elf(5)).
const HEADER: u16 = 64;
const PROGRAM_HEADER: u16 = 56;

/// An ELF file of [`CODE`].
fn guest() -> Vec<u8> {
    let length = CODE.len() as u64;
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    // An executable for x86-64, version 1.
    file.extend([2u16, 62].map(u16::to_le_bytes).as_flattened());
    file.extend(1u32.to_le_bytes());
    // Entry; program headers; no section headers.
    file.extend([LOADED_AT, u64::from(HEADER), 0].map(u64::to_le_bytes).as_flattened());
    file.extend(0u32.to_le_bytes());
    file.extend([HEADER, PROGRAM_HEADER, 1, 0, 0, 0].map(u16::to_le_bytes).as_flattened());
    // To be loaded, readable and executable; where it lies, goes virtually and physically; lengths; alignment.
    file.extend([1u32, 5].map(u32::to_le_bytes).as_flattened());
    let at = u64::from(HEADER + PROGRAM_HEADER);
    file.extend([at, LOADED_AT, LOADED_AT, length, length, 0x1000].map(u64::to_le_bytes).as_flattened());
    file.extend(CODE);
    file
}

#[rustfmt::skip]
const CODE: [u8; 24] = [
    // ecx = STEPS; repeat [0x200000] += rax; until --ecx == 0
    0xb9, STEPS.to_le_bytes()[0], STEPS.to_le_bytes()[1], STEPS.to_le_bytes()[2], STEPS.to_le_bytes()[3],
    0x48, 0x01, 0x04, 0x25, 0x00, 0x00, 0x20, 0x00, 0xff, 0xc9, 0x75, 0xf4,
    // al = 0xfe, the command that resets; out 0x64, al; halt for ever
    0xb0, 0xfe, 0xe6, 0x64, 0xf4, 0xeb, 0xfd,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guest_is_an_elf_file_whose_entry_is_its_segment() {
        let file = guest();
        let number = |at: usize| u64::from_le_bytes(file[at..at + 8].try_into().unwrap());
        assert_eq!(file.len(), usize::from(HEADER + PROGRAM_HEADER) + CODE.len());
        assert_eq!((number(24), number(32)), (LOADED_AT, u64::from(HEADER)), "entry, program headers");
        let segment = usize::from(HEADER);
        let (offset, virtually, physically) =
            (number(segment + 8), number(segment + 16), number(segment + 24));
        assert_eq!((virtually, physically), (LOADED_AT, LOADED_AT));
        assert_eq!(file[usize::try_from(offset).unwrap()..], CODE);
        assert_eq!((number(segment + 32), number(segment + 40)), (24, 24));
    }
}
