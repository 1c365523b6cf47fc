//! QEMU alone, for comparison: the machine, kernel, command line and initramfs of a VM of banger's, but an init that says
//! one word and waits.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::world::World;

/// What the probe says.
const WORD: &str = "init-reached";

/// A way to start QEMU.
pub struct Machine {
    program: PathBuf,
    options: Vec<String>,
    command_line: String,
    kernel: PathBuf,
    initramfs: PathBuf,
}

impl Machine {
    /// Takes what matters from the command line of the running VM `vm`.
    pub fn like(world: &World, vm: &Value) -> Result<Self> {
        let pid = vm["pid"].as_u64().context("the VM has no pid")?;
        let process = PathBuf::from(format!("/proc/{pid}"));
        let read = |name: &str| {
            fs::read(process.join(name)).with_context(|| format!("cannot read /proc/{pid}/{name}"))
        };
        let arguments = String::from_utf8(read("cmdline")?).context("QEMU's command line is not UTF-8")?;
        let arguments: Vec<&str> = arguments.split_terminator('\0').collect();
        let value = |option: &str| {
            let at = arguments.iter().position(|argument| *argument == option)?;
            arguments.get(at + 1).map(|value| (*value).to_owned())
        };
        let mut options = Vec::new();
        for option in ["-machine", "-accel", "-cpu", "-smp", "-m"] {
            if let Some(value) = value(option) {
                options.extend([option.to_owned(), value]);
            }
        }
        // Relative names are relative to its working directory, which goes away with the VM.
        let directory = fs::read_link(process.join("cwd")).context("cannot tell QEMU's working directory")?;
        let kernel = directory.join(value("-kernel").context("QEMU was given no kernel")?);
        let kernel = kernel.canonicalize().with_context(|| format!("cannot find {}", kernel.display()))?;
        let command_line = value("-append").context("QEMU was given no command line for the kernel")?;
        let program = fs::read_link(process.join("exe")).context("cannot tell which QEMU it is")?;
        let mut initramfs = fs::read(world.base_payload()?).context("cannot read the boot payload")?;
        let probe = entry("probe", 0o100_755, &program_that_says(WORD));
        initramfs.extend([probe, entry("TRAILER!!!", 0, &[])].concat());
        let path = std::env::temp_dir().join(format!("banger-bench-{}.cpio", std::process::id()));
        fs::write(&path, initramfs).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self { program, options, command_line, kernel, initramfs: path })
    }

    /// How long it takes from the start of QEMU until `/init` runs.
    pub fn until_init(&self) -> Result<Duration> {
        let mut command = Command::new(&self.program);
        command.args(&self.options).args([
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-no-reboot",
        ]);
        command
            .args(["-serial", "stdio"])
            .arg("-kernel")
            .arg(&self.kernel)
            .arg("-initrd")
            .arg(&self.initramfs);
        command.args(["-append", &format!("{} console=ttyS0 rdinit=/probe", self.command_line)]);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let begin = Instant::now();
        let mut qemu = Ended(command.spawn().context("cannot run QEMU")?);
        let output = BufReader::new(qemu.0.stdout.take().expect("standard output is a pipe"));
        for line in output.split(b'\n') {
            let line = line.context("cannot read the console")?;
            if String::from_utf8_lossy(&line).contains(WORD) {
                return Ok(begin.elapsed());
            }
        }
        bail!("bare QEMU ended before it reached /init")
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.initramfs) {
            eprintln!("warning: cannot remove {}: {error}", self.initramfs.display());
        }
    }
}

/// A child that does not outlive its owner.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // It may have ended by itself; either way it is waited for.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// One entry of a cpio archive in the `newc` form, padded to four bytes.
fn entry(name: &str, mode: u32, content: &[u8]) -> Vec<u8> {
    let length = u32::try_from(content.len()).expect("a few hundred bytes");
    let name_length = u32::try_from(name.len() + 1).expect("a short name");
    let mut entry = format!(
        "070701{:08x}{mode:08x}{:08x}{:08x}{:08x}{:08x}{length:08x}{:08x}{:08x}{:08x}{:08x}{name_length:08x}{:08x}{name}\0",
        0, 0, 0, 1, 0, 0, 0, 0, 0, 0
    )
    .into_bytes();
    entry.resize(entry.len().next_multiple_of(4), 0);
    entry.extend(content);
    entry.resize(entry.len().next_multiple_of(4), 0);
    entry
}

/// The smallest program for Linux on x86-64 that writes `word` and a newline to its standard output and then sleeps.
fn program_that_says(word: &str) -> Vec<u8> {
    const BASE: u64 = 0x40_0000;
    const CODE: usize = 64 + 56;
    let text = format!("{word}\n");
    let mut code = vec![
        0xb8, 1, 0, 0, 0, // mov eax, 1 (write)
        0xbf, 1, 0, 0, 0, // mov edi, 1
        0x48, 0x8d, 0x35, 17, 0, 0, 0, // lea rsi, [rip + 17]: the text
        0xba,
    ];
    code.extend(u32::try_from(text.len()).expect("a word").to_le_bytes()); // mov edx, its length
    code.extend([
        0x0f, 0x05, // syscall
        0xb8, 34, 0, 0, 0, // mov eax, 34 (pause)
        0x0f, 0x05, // syscall
        0xeb, 0xf7, // jump to the `mov eax, 34`
        0x90, // nothing
    ]);
    code.extend(text.as_bytes());
    let size = (CODE + code.len()) as u64;
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    file.extend([2, 0, 62, 0, 1, 0, 0, 0]); // an executable for x86-64
    file.extend((BASE + CODE as u64).to_le_bytes()); // where it begins
    file.extend(64u64.to_le_bytes()); // program headers
    file.extend(0u64.to_le_bytes()); // no section headers
    file.extend([0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 0, 0, 0, 0, 0, 0]); // flags; sizes and counts
    file.extend([1, 0, 0, 0, 5, 0, 0, 0]); // load, readable and executable
    for field in [0, BASE, BASE, size, size, 0x1000] {
        file.extend(field.to_le_bytes());
    }
    file.extend(code);
    file
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_probe_says_its_word_and_waits() {
        use std::os::unix::fs::PermissionsExt;
        let path = std::env::temp_dir().join(format!("banger-probe-{}", std::process::id()));
        fs::write(&path, program_that_says(WORD)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        let mut probe = Ended(Command::new(&path).stdout(Stdio::piped()).spawn().unwrap());
        let mut line = String::new();
        BufReader::new(probe.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, format!("{WORD}\n"));
        assert_eq!(probe.0.try_wait().unwrap(), None, "it must not end: it is to be process 1");
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn entries_of_an_archive_are_aligned() {
        for length in 0..8 {
            assert_eq!(entry("probe", 0o100_755, &vec![1; length]).len() % 4, 0);
        }
        assert!(entry("TRAILER!!!", 0, &[]).starts_with(b"070701"));
    }
}
