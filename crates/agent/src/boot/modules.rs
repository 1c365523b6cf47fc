//! Loads the kernel modules of the payload.

use std::{ffi::CString, path::Path};

use host::Result;
use rustix::{io::Errno, system::finit_module};

/// The file that lists the boot modules in the order in which they are loaded, one path from the root per line.
const LIST: &str = "/banger/modules.load";

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
        let path = Path::new("/").join(line);
        let file = host::fs::open(&path)?;
        let arguments = arguments(&command_line, &name(line));
        match finit_module(&file, &arguments, 0) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => refused.push(format!("{} ({})", name(line), std::io::Error::from(error))),
        }
        host::fs::remove(&path)?;
    }
    Ok(refused)
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
