//! What the tests of kernels share: a directory that goes away, and a guest that runs a script.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use image::initramfs::{Archive, Entry};

/// A directory of one test, removed with the value.
#[derive(Debug)]
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new(name: &str) -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// A new directory in it.
    pub fn dir(&self, name: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::create_dir_all(&path).unwrap();
        path
    }

    /// A new file in it, with its directories.
    pub fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Runs a program that must succeed, and gives what it said.
#[track_caller]
pub fn run(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{command:?}: {said}{}", String::from_utf8_lossy(&output.stderr));
    said
}

/// A busybox that runs without anything beside it, to be `/init`.
pub fn static_busybox() -> Option<PathBuf> {
    let path = testkit::need::program("busybox", "busybox")?;
    let bytes = fs::read(&path).unwrap();
    if memchr::memmem::find(&bytes, b"/ld-linux").is_some() {
        return testkit::need::missing("busybox", "no static busybox");
    }
    Some(path)
}

/// Boots `kernel` with `payload`, whose `/init` is busybox, to run `script`, with `disk` attached read-only; gives what
/// the guest said on its console. The script ends the guest with `reboot -f`.
pub fn boot(
    scratch: &Scratch,
    kernel: &Path,
    payload: &Path,
    disk: Option<&Path>,
    script: &str,
) -> Option<String> {
    let qemu = testkit::need::qemu()?;
    // busybox does what it is called by: as "init" it would want an inittab.
    let mut extra = Archive::new(fs::read(payload).unwrap());
    extra.add("busybox", &Entry::Symlink { target: "init" }).unwrap();
    extra.add("script", &Entry::File { mode: 0o755, content: script.as_bytes() }).unwrap();
    let initrd = scratch.file("initrd", &extra.finish().unwrap());
    let line = model::boot::command_line(model::boot::Machine::Pc);
    let mut command = Command::new("timeout");
    command.args(["--kill-after=5", "120"]).arg(qemu);
    command.args([
        "-machine",
        "q35",
        "-accel",
        "tcg",
        "-cpu",
        "max",
        "-m",
        "256",
        "-nodefaults",
        "-no-user-config",
    ]);
    command.args(["-display", "none", "-serial", "stdio", "-no-reboot", "-device", "virtio-serial-pci"]);
    command.arg("-kernel").arg(kernel).arg("-initrd").arg(initrd);
    command.args(["-append", &format!("{line} rdinit=/busybox -- sh /script")]);
    if let Some(disk) = disk {
        let disk = disk.display();
        command.args(["-drive", &format!("file={disk},format=raw,if=none,id=modules,readonly=on")]);
        let serial = model::boot::DiskRole::Modules.serial();
        command.args(["-device", &format!("virtio-blk-pci,drive=modules,serial={serial}")]);
    }
    Some(run(&mut command))
}
