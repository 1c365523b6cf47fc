//! Which user of a file system is which user here, as a mount takes it: in a user namespace that nobody is in.

use std::{
    fs::File,
    io::{self, Read},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::Path,
};

use rustix::process::Pid;

use super::{Process, pipe};
use crate::{Error, Result, fs, net::errno};

/// One user or group: as the file system stores it, and as it is seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mapping {
    /// In the file system.
    pub stored: u32,
    /// Here.
    pub seen: u32,
}

/// One user and one group; all others are nobody.
#[derive(Debug)]
pub struct UserMap(OwnedFd);

impl UserMap {
    /// The map of this user and this group.
    ///
    /// # Errors
    /// Where this process is not root, or there can be no more user namespaces.
    pub fn new(user: Mapping, group: Mapping) -> Result<Self> {
        let holder = Holder::new()?;
        let id = holder.process.id().pid;
        for (file, Mapping { stored, seen }) in [("uid_map", user), ("gid_map", group)] {
            fs::set_value(Path::new(&format!("/proc/{id}/{file}")), &format!("{stored} {seen} 1"))?;
        }
        let file = fs::open(Path::new(&format!("/proc/{id}/ns/user")))?;
        Ok(Self(file.into()))
    }
}

impl AsFd for UserMap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A child that does nothing but be in a user namespace of its own. It ends with this, and with this process.
struct Holder {
    process: Process,
    /// The child ends when this is closed.
    hold: Option<File>,
}

impl Holder {
    fn new() -> Result<Self> {
        let error = |e: io::Error| Error::new("make", "a user namespace", e);
        let ((mut told, tell), (held, hold)) = (pipe()?, pipe()?);
        // SAFETY: the child calls only async-signal-safe functions and never returns.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            // SAFETY: as above; `byte` has room for what is read, and the numbers are open.
            unsafe {
                let failed = libc::unshare(libc::CLONE_NEWUSER) != 0;
                let mut byte = if failed { errno().to_ne_bytes()[0] } else { 0 };
                libc::write(tell.as_raw_fd(), (&raw const byte).cast(), 1);
                libc::close(hold.as_raw_fd());
                libc::read(held.as_raw_fd(), (&raw mut byte).cast(), 1);
                libc::_exit(0)
            }
        }
        let pid = Pid::from_raw(pid).filter(|_| pid > 0).ok_or_else(|| error(io::Error::last_os_error()))?;
        drop(tell);
        let holder = Self { process: Process::of_child(pid)?, hold: Some(hold) };
        let mut byte = [0];
        match told.read(&mut byte).map_err(error)? {
            1 if byte[0] == 0 => Ok(holder),
            1 => Err(error(io::Error::from_raw_os_error(byte[0].into()))),
            _ => Err(error(io::ErrorKind::UnexpectedEof.into())),
        }
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        drop(self.hold.take());
        let _ = self.process.wait();
    }
}
