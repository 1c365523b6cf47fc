//! Which QEMU there is, and whether KVM runs guests.
//!
//! That `/dev/kvm` opens says little: it may belong to a hypervisor that runs only guests of its own kind, or that
//! interprets all others, at a hundredth of the speed of QEMU's own emulation. So a guest of two hundred bytes is run to its
//! end. It goes from the reset vector into 64-bit mode with paging, does [`STEPS`] additions, looks whether it really is
//! privileged, and writes a number to the port that ends QEMU with it.

use std::path::Path;

use host::{
    fs,
    proc::{Command, Exit, Program},
};

use crate::{
    Accelerator, Report,
    probe::{self, ProbeError, Product, STEPS, Settings},
};

/// QEMU.
pub(crate) const PRODUCT: Product = Product {
    name: "QEMU",
    program: "qemu-system-x86_64",
    start: Program::Qemu,
    before_version: "QEMU emulator version ",
    oldest: (7, 2),
    newest: (7, 2),
    install: "install it: sudo apt-get install qemu-system-x86",
    check: "check `qemu_bin` in the configuration",
};

/// Finds QEMU and decides on its accelerator.
pub(super) fn find(settings: &Settings) -> Result<Report, ProbeError> {
    let (program, version) = PRODUCT.find(settings)?;
    let why_not_kvm = match settings.accelerator {
        Some(Accelerator::Kvm) => None,
        Some(Accelerator::Tcg) => Some("software emulation is configured".to_owned()),
        None => probe::why_not_kvm((&program, &version), &settings.cache_dir.join("kvm-probe"), || {
            run_guest(&program, Accelerator::Kvm, &settings.cache_dir)
        }),
    };
    let accelerator = if why_not_kvm.is_none() { Accelerator::Kvm } else { Accelerator::Tcg };
    let untested = PRODUCT.untested(&version);
    Ok(Report { backend: "qemu", program, version, untested, accelerator, why_not_kvm })
}

/// Runs the guest; why it did not come to its good end.
fn run_guest(program: &Path, accelerator: Accelerator, directory: &Path) -> Option<String> {
    let rom = directory.join("kvm-probe.rom");
    if let Err(error) = fs::write_atomic(&rom, &guest()) {
        return Some(error.to_string());
    }
    let cpu = match accelerator {
        Accelerator::Kvm => "host",
        Accelerator::Tcg => "max",
    };
    let command = Command::new(Program::Qemu(program.to_owned()))
        .dir(directory)
        .args([
            "-nodefaults",
            "-no-user-config",
            "-no-reboot",
            "-display",
            "none",
            "-machine",
            "q35",
            "-m",
            "16",
        ])
        .args(["-accel", accelerator.name(), "-cpu", cpu, "-bios", "kvm-probe.rom"])
        .args(["-device", "isa-debug-exit,iobase=0xf4,iosize=4"]);
    let why = probe::run_guest(command, GOOD);
    let _ = fs::remove(&rom);
    why
}

/// The device ends QEMU with twice the number and one; the guest writes 42.
const GOOD: Exit = Exit::Code(42 * 2 + 1);

/// A ROM of 64 KiB that ends with [`GUEST_CODE`], where the processor begins.
fn guest() -> Vec<u8> {
    let mut rom = vec![0; (64 << 10) - GUEST_CODE.len()];
    rom.extend(GUEST_CODE);
    rom
}

/// Lies at 0xfff00 below 1 MiB and again at the end of 4 GiB.
#[rustfmt::skip]
const GUEST_CODE: [u8; 256] = {
    let code: &[u8] = &[
        // 16 bits: cli; lgdt gdtr; cr0 |= 1; ljmp 0x08:next
        0xfa, 0x2e, 0x66, 0x0f, 0x01, 0x16, 0x9c, 0xff, 0x0f, 0x20, 0xc0, 0x0c, 0x01, 0x0f, 0x22, 0xc0,
        0x66, 0xea, 0x18, 0xff, 0x0f, 0x00, 0x08, 0x00,
        // 32 bits: ds = ss = 0x10; a page table that maps the first 2 MiB to themselves at 0x1000
        0xb8, 0x10, 0x00, 0x00, 0x00, 0x8e, 0xd8, 0x8e, 0xd0,
        0xc7, 0x05, 0x00, 0x10, 0x00, 0x00, 0x03, 0x20, 0x00, 0x00,
        0xc7, 0x05, 0x00, 0x20, 0x00, 0x00, 0x03, 0x30, 0x00, 0x00,
        0xc7, 0x05, 0x00, 0x30, 0x00, 0x00, 0x83, 0x00, 0x00, 0x00,
        // cr4 = PAE; cr3 = 0x1000; EFER |= LME; cr0 |= PG; ljmp 0x18:next
        0xb8, 0x20, 0x00, 0x00, 0x00, 0x0f, 0x22, 0xe0, 0xb8, 0x00, 0x10, 0x00, 0x00, 0x0f, 0x22, 0xd8,
        0xb9, 0x80, 0x00, 0x00, 0xc0, 0x0f, 0x32, 0x80, 0xcc, 0x01, 0x0f, 0x30,
        0x0f, 0x20, 0xc0, 0x0d, 0x00, 0x00, 0x00, 0x80, 0x0f, 0x22, 0xc0,
        0xea, 0x6d, 0xff, 0x0f, 0x00, 0x18, 0x00,
        // 64 bits: esp = 0x8000; ecx = STEPS; repeat [0x9000] += rax; until --ecx == 0
        0xbc, 0x00, 0x80, 0x00, 0x00,
        0xb9, STEPS.to_le_bytes()[0], STEPS.to_le_bytes()[1], STEPS.to_le_bytes()[2], STEPS.to_le_bytes()[3],
        0x48, 0x01, 0x04, 0x25, 0x00, 0x90, 0x00, 0x00, 0xff, 0xc9, 0x75, 0xf4,
        // cli; pushf; pop rax; is the interrupt flag clear?
        0xfa, 0x9c, 0x58, 0xf6, 0xc4, 0x02, 0x75, 0x0a,
        // eax = cs; is this ring 0?
        0x8c, 0xc8, 0xa8, 0x03, 0x75, 0x04,
        // al = 42, or 1 where it was not; out 0xf4, al; halt for ever
        0xb0, 0x2a, 0xeb, 0x02, 0xb0, 0x01, 0xe6, 0xf4, 0xf4, 0xeb, 0xfd,
        // gdtr: 31, 0xfffa2; gdt: null, 32-bit code, data, 64-bit code
        0x1f, 0x00, 0xa2, 0xff, 0x0f, 0x00,
        0, 0, 0, 0, 0, 0, 0, 0,
        0xff, 0xff, 0x00, 0x00, 0x00, 0x9b, 0xcf, 0x00,
        0xff, 0xff, 0x00, 0x00, 0x00, 0x93, 0xcf, 0x00,
        0xff, 0xff, 0x00, 0x00, 0x00, 0x9b, 0xaf, 0x00,
    ];
    let mut out = [0; 256];
    let mut at = 0;
    while at < code.len() {
        out[at] = code[at];
        at += 1;
    }
    // The reset vector, 16 bytes before the end: ljmp 0xf000:0xff00
    let reset = [0xea, 0x00, 0xff, 0x00, 0xf0];
    at = 0;
    while at < reset.len() {
        out[0xf0 + at] = reset[at];
        at += 1;
    }
    out
};

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("banger-probe-{name}-{}", std::process::id()));
        fs::remove_all(&dir).unwrap();
        fs::create_dir(&dir).unwrap();
        dir
    }

    #[test]
    fn what_is_not_qemu_is_refused() {
        let dir = scratch("foreign");
        let settings = |program: &str| Settings {
            program: Some(program.into()),
            accelerator: None,
            cache_dir: dir.clone(),
        };
        let error = find(&settings("/bin/echo")).unwrap_err();
        assert!(error.to_string().starts_with("/bin/echo is not QEMU: it says \"echo"), "{error}");
        let error = find(&settings("/nonexistent")).unwrap_err();
        assert_eq!(error.to_string(), "cannot ask /nonexistent for its version");
        fs::remove_all(&dir).unwrap();
    }

    #[test]
    fn the_guest_ends_well_in_software() {
        if testkit::need::qemu().is_none() {
            return;
        }
        let dir = scratch("guest");
        let settings =
            Settings { program: None, accelerator: Some(Accelerator::Tcg), cache_dir: dir.clone() };
        let program = find(&settings).unwrap().program;
        assert_eq!(run_guest(&program, Accelerator::Tcg, &dir), None);
        assert_eq!(fs::list(&dir).unwrap(), Vec::<PathBuf>::new(), "nothing is left");
        fs::remove_all(&dir).unwrap();
    }

    #[test]
    fn the_answer_about_kvm_is_remembered_for_this_boot_and_program() {
        if testkit::need::qemu().is_none() || fs::open_rw("/dev/kvm".as_ref()).is_err() {
            return;
        }
        let dir = scratch("memory");
        let settings = Settings { program: None, accelerator: None, cache_dir: dir.clone() };
        let first = find(&settings).unwrap();
        assert_eq!(first.accelerator == Accelerator::Kvm, first.why_not_kvm.is_none());
        let file = dir.join("kvm-probe");
        let answer = fs::read_text(&file).unwrap();
        let (question, _) = answer.rsplit_once('\n').unwrap();
        for said in ["usable", "because"] {
            fs::write_atomic(&file, format!("{question}\n{said}").as_bytes()).unwrap();
            let why = find(&settings).unwrap().why_not_kvm;
            assert_eq!(why, (said != "usable").then(|| said.to_owned()));
        }
        fs::write_atomic(&file, format!("other-boot {question}\nusable").as_bytes()).unwrap();
        assert_eq!(find(&settings).unwrap(), first, "another boot's answer does not count");
        fs::remove_all(&dir).unwrap();
    }
}
