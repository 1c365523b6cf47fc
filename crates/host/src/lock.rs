//! Advisory locks on files (`flock(2)`), held for as long as the guard lives and gone with the process.
//!
//! # Locking
//! One lock file says "one daemon per state directory". It is taken once, at the daemon's start, and never waited for.

use std::{
    fs::{File, TryLockError},
    path::Path,
};

use crate::{Error, Result, fs};

/// A lock that is held.
#[derive(Debug)]
#[must_use = "the lock ends with this value"]
pub struct Lock(#[expect(dead_code, reason = "held for its lock")] File);

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
