//! Loads the kernel modules of the payload.

use std::{
    ffi::{CStr, CString},
    path::Path,
};

use host::Result;
use rustix::{io::Errno, system::init_module};

use super::lean;

/// The file that lists the boot modules in the order in which they are loaded, one path from the root per line.
const LIST: &str = "/banger/modules.load";

/// Drivers of devices that a machine may not have. Loading one costs as much as it does, and in software emulation that is a
/// good part of a boot; where the device comes later, udev loads its driver from the modules disk.
const OPTIONAL: [(&str, Needs); 13] = [
    ("virtio_mmio", Needs::MmioTransport),
    ("virtio_net", Needs::Virtio(1)),
    ("net_failover", Needs::Virtio(1)),
    ("failover", Needs::Virtio(1)),
    ("virtio_blk", Needs::Virtio(2)),
    ("virtio_console", Needs::Virtio(3)),
    ("virtio_rng", Needs::Virtio(4)),
    ("virtio_balloon", Needs::Virtio(5)),
    ("vmw_vsock_virtio_transport", Needs::Virtio(19)),
    ("vmw_vsock_virtio_transport_common", Needs::Virtio(19)),
    ("vsock", Needs::Virtio(19)),
    ("pvpanic_pci", Needs::Pci("0x1b36", "0x0011")),
    ("pvpanic", Needs::Pci("0x1b36", "0x0011")),
];

/// What must be there for a driver to be of use.
#[derive(Clone, Copy)]
enum Needs {
    /// A virtio device of this type (virtio specification, section 5).
    Virtio(u32),
    /// A PCI device of this vendor and product.
    Pci(&'static str, &'static str),
    /// A virtio transport at a fixed address.
    MmioTransport,
}

/// Loads the boot modules and frees the memory that their files take. Gives those that the kernel refused: some drive
/// a device or an instruction that the machine may not have, so a refusal matters only if something is missing later.
///
/// # Errors
/// Where the list cannot be read. A kernel without modules has none.
pub fn load() -> Result<Vec<String>> {
    let list = match host::fs::read_text(Path::new(LIST)) {
        Ok(list) => list,
        Err(error) if error.is_missing() => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let command_line = host::fs::read_text(Path::new("/proc/cmdline"))?;
    let mut refused = Vec::new();
    for line in list.lines().filter(|line| !line.is_empty()) {
        let (path, name) = (Path::new("/").join(line), name(line));
        if is_of_use(&name, &command_line) {
            match load_one(&path, &arguments(&command_line, &name))? {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => refused.push(format!("{name} ({})", std::io::Error::from(error))),
            }
        }
        host::fs::remove(&path)?;
    }
    Ok(refused)
}

/// Loads the module at `path`; slimmed where the kernel takes it so.
fn load_one(path: &Path, arguments: &CStr) -> Result<rustix::io::Result<()>> {
    let mut module = host::fs::read(path)?;
    let slim = lean::slim(&mut module);
    match init_module(&module, arguments) {
        // It insists on signatures.
        Err(Errno::KEYREJECTED | Errno::PERM) if slim => Ok(init_module(&host::fs::read(path)?, arguments)),
        result => Ok(result),
    }
}

/// Whether the machine has what module `name` drives; asked when the transports, which come first, are loaded.
fn is_of_use(name: &str, command_line: &str) -> bool {
    let Some((_, needs)) = OPTIONAL.iter().find(|(optional, _)| *optional == name) else { return true };
    let any = |bus: &str, fits: &dyn Fn(&Path) -> bool| {
        let devices = host::fs::list(&Path::new("/sys/bus").join(bus).join("devices"));
        // Where it cannot be told, loading it harms nothing.
        devices.is_ok_and(|devices| devices.iter().any(|device| fits(device)))
    };
    let is = |path: std::path::PathBuf, value: &str| {
        host::fs::read_limited(&path, 64).is_ok_and(|text| text.trim_ascii() == value.as_bytes())
    };
    match needs {
        Needs::Virtio(kind) => any("virtio", &|device| is(device.join("device"), &format!("0x{kind:04x}"))),
        Needs::Pci(vendor, product) => {
            any("pci", &|device| is(device.join("vendor"), vendor) && is(device.join("device"), product))
        }
        Needs::MmioTransport => {
            let acpi = any("acpi", &|device| {
                device.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"LNRO0005"))
            });
            acpi || command_line.contains("virtio_mmio.device=")
        }
    }
}

/// A module's name by its path.
fn name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split('.').next().unwrap_or(file).replace('-', "_")
}

/// What the kernel's command line has for module `name`: `name.key=value`, as the kernel takes it for built-in ones.
fn arguments(command_line: &str, name: &str) -> CString {
    let own = |word: &str| {
        let (module, argument) = word.split_once('.')?;
        (module.replace('-', "_") == name && !argument.is_empty()).then(|| argument.to_owned())
    };
    let words: Vec<String> = words(command_line).iter().filter_map(|word| own(word)).collect();
    CString::new(words.join(" ")).unwrap_or_default()
}

/// The words of a command line. Blanks within double quotes do not divide, as in the kernel.
fn words(command_line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quoted = false;
    for c in command_line.trim().chars() {
        match c {
            '"' => quoted = !quoted,
            c if c.is_whitespace() && !quoted => {
                words.push(String::new());
                continue;
            }
            _ => {}
        }
        words.last_mut().expect("it begins with one").push(c);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_come_from_the_command_line() {
        let line =
            "quiet virtio-blk.num_request_queues=2 virtio_blk.x=\"a b\" ext4.y=1 virtio_blk. root=/dev/vda\n";
        let check =
            |name: &str, expect: &str| assert_eq!(arguments(line, name).to_str().unwrap(), expect, "{name}");
        check("virtio_blk", "num_request_queues=2 x=\"a b\"");
        check("ext4", "y=1");
        check("overlay", "");
    }

    #[test]
    fn a_module_is_named_by_its_file() {
        assert_eq!(name("lib/modules/6.1/kernel/drivers/virtio/virtio-pci.ko"), "virtio_pci");
    }
}
