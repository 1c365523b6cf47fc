//! A control group for each command, so that all it leaves behind can be found. Only where the guest has cgroup v2.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
};

const HIERARCHY: &str = "/sys/fs/cgroup";
/// The agent's part of it.
const OWN: &str = "/sys/fs/cgroup/banger";
/// `CGROUP2_SUPER_MAGIC` of `linux/magic.h`.
const MAGIC: i64 = 0x6367_7270;

/// A command's control group. Dropped, it is removed, if nothing runs in it any more.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
    dir: OwnedFd,
}

impl Cgroup {
    /// A new one; `None` where there can be none.
    pub fn new() -> Option<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        rustix::fs::statfs(HIERARCHY).ok().filter(|stat| stat.f_type == MAGIC)?;
        make_dir(Path::new(OWN))?;
        sweep();
        // Not the numbers of an agent before this one.
        let name = format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = Path::new(OWN).join(name);
        make_dir(&path)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::open(&path, flags, Mode::empty()).ok()?;
        Some(Self { path, dir })
    }

    /// Whether something runs in it.
    pub fn is_populated(&self) -> bool {
        // The dead that nobody has reaped yet are not listed.
        host::fs::read_limited(&self.path.join("cgroup.procs"), 1 << 20).is_ok_and(|procs| !procs.is_empty())
    }

    /// Kills all that runs in it.
    pub fn kill(&self) {
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        // Kernels before 5.14 have no such file; the process group is killed in any case.
        if let Ok(file) = rustix::fs::openat(&self.dir, "cgroup.kill", flags, Mode::empty()) {
            let _ = rustix::io::write(&file, b"1");
        }
    }
}

impl AsFd for Cgroup {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // What runs on in it, runs on; `sweep` comes back for it.
        let _ = rustix::fs::rmdir(&self.path).and_then(|()| rustix::fs::rmdir(OWN));
    }
}

/// Removes groups whose last process has ended meanwhile; the kernel refuses the others.
fn sweep() {
    for path in host::fs::list(Path::new(OWN)).unwrap_or_default() {
        if path.extension().is_none() {
            let _ = rustix::fs::rmdir(&path);
        }
    }
}

fn make_dir(path: &Path) -> Option<()> {
    match rustix::fs::mkdir(path, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => Some(()),
        Err(_) => None,
    }
}
