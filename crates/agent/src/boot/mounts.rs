//! The kernel's own file systems.

use std::{ffi::CStr, path::Path};

use host::{Error, Result};
use rustix::{
    fs::Mode,
    io::Errno,
    mount::{MountFlags, mount},
};

/// Mounts proc, sys, dev with its terminals, and run.
///
/// # Errors
/// Where one cannot be mounted.
pub fn kernel() -> Result<()> {
    let safe = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    special("proc", "/proc", safe, None)?;
    special("sysfs", "/sys", safe, None)?;
    special("devtmpfs", "/dev", MountFlags::NOSUID, Some(c"mode=0755"))?;
    // Before init does it: a terminal may be asked for at once. 5 is the group that owns terminals everywhere.
    special(
        "devpts",
        "/dev/pts",
        MountFlags::NOSUID | MountFlags::NOEXEC,
        Some(c"gid=5,mode=0620,ptmxmode=0000"),
    )?;
    special("tmpfs", "/run", MountFlags::NOSUID | MountFlags::NODEV, Some(c"mode=0755,size=20%"))?;
    for (link, target) in [("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")]
    {
        // Shells open these for process substitution; devtmpfs has only devices.
        match rustix::fs::symlink(target, format!("/dev/{link}")) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(Error::new("link", link, e)),
        }
    }
    Ok(())
}

/// Mounts what an init would, where the agent stays PID 1.
///
/// # Errors
/// Where one cannot be mounted.
pub fn without_init() -> Result<()> {
    let safe = MountFlags::NOSUID | MountFlags::NODEV;
    special("tmpfs", "/dev/shm", safe | MountFlags::NOEXEC, Some(c"mode=1777"))?;
    special("tmpfs", "/tmp", safe, Some(c"mode=1777,size=50%"))?;
    special("cgroup2", "/sys/fs/cgroup", safe | MountFlags::NOEXEC, Some(c"nsdelegate"))
}

/// Mounts a file system without a device at `target`, which is made where it is missing.
fn special(kind: &str, target: &str, flags: MountFlags, options: Option<&CStr>) -> Result<()> {
    match rustix::fs::mkdir(target, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(e) => return Err(Error::new("make directory", target, e)),
    }
    match mount(kind, target, kind, flags, options) {
        // The kernel mounts devtmpfs itself where it is told to.
        Ok(()) | Err(Errno::BUSY) => Ok(()),
        Err(e) => Err(Error::path("mount", Path::new(target), e)),
    }
}
