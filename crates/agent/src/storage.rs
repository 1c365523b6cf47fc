//! The writable file systems under the root, through descriptors kept from the boot: overlayfs itself can neither grow
//! nor freeze, and no path leads to what lies under it.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use host::{Error, Result};
use wire::guest::{Grown, Usage};

use crate::sys;

/// The file systems of the overlay disk and the work disk.
#[derive(Debug)]
pub struct Storage {
    /// The top directory of the overlay disk's.
    pub overlay: OwnedFd,
    /// The top directory of the work disk's.
    pub work: OwnedFd,
}

impl Storage {
    /// Lets both fill their disks.
    ///
    /// # Errors
    /// Where one cannot grow.
    pub fn grow(&self) -> Result<Grown> {
        Ok(Grown { overlay: grow(&self.overlay, "overlay")?, work: grow(&self.work, "work")? })
    }

    /// How full the overlay and the work disk are.
    #[must_use]
    pub fn usage(&self) -> (Usage, Usage) {
        (usage(&self.overlay), usage(&self.work))
    }

    /// Writes out all and stops writing, for good: what is on the disks then is whole, without a journal to replay.
    /// Unlike a remount it does not mind files that are open.
    pub fn seal(&self) {
        rustix::fs::sync();
        // One that fails has at least been written out by the line above.
        for disk in [&self.work, &self.overlay] {
            let _ = sys::freeze(disk.as_fd());
        }
    }
}

fn grow(fd: &OwnedFd, name: &'static str) -> Result<u64> {
    let fail = |e: io::Error| Error::new("grow the disk", name, e);
    let stat = rustix::fs::fstat(fd).map_err(|e| fail(e.into()))?;
    let (major, minor) = (rustix::fs::major(stat.st_dev), rustix::fs::minor(stat.st_dev));
    let sectors = host::fs::read_text(Path::new(&format!("/sys/dev/block/{major}:{minor}/size")))?;
    let sectors: u64 = sectors.trim().parse().map_err(|_| fail(io::ErrorKind::InvalidData.into()))?;
    let before = rustix::fs::fstatfs(fd).map_err(|e| fail(e.into()))?;
    let block = u64::try_from(before.f_bsize).unwrap_or(4096).max(1);
    // The kernel does nothing where it is that large already.
    sys::resize_ext4(fd.as_fd(), sectors * 512 / block).map_err(fail)?;
    Ok(usage(fd).total)
}

fn usage(fd: &OwnedFd) -> Usage {
    match rustix::fs::fstatvfs(fd) {
        Ok(stat) => Usage {
            total: stat.f_blocks * stat.f_frsize,
            used: (stat.f_blocks - stat.f_bfree) * stat.f_frsize,
        },
        Err(_) => Usage::default(),
    }
}
