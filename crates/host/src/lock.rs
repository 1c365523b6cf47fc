//! Advisory locks on files (`flock(2)`), held for as long as the guard lives and gone with the process.
//!
//! # Locking
//! One lock file says "one daemon per state directory". It is taken once, at the daemon's start, and never waited for. A disk's lock is
//! handed to the process that writes it, and is held for as long as that lives.

use std::{
    fs::{File, TryLockError},
    os::fd::OwnedFd,
    path::Path,
};

use crate::{Error, Result, fs};

/// A lock that is held.
#[derive(Debug)]
#[must_use = "the lock ends with this value"]
pub struct Lock(File);

impl From<Lock> for OwnedFd {
    /// The descriptor that holds it: whoever gets that has the lock, until the last copy is closed.
    fn from(lock: Lock) -> Self {
        lock.0.into()
    }
}

/// Takes the exclusive lock on `path`, making the file where it is missing; `None` where another process has it.
///
/// # Errors
/// Where the file cannot be opened or locked at all.
pub fn try_exclusive(path: &Path) -> Result<Option<Lock>> {
    let file = fs::append(path)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(Lock(file))),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(e)) => Err(Error::path("lock", path, e)),
    }
}
