//! What comes along with a request, opened by somebody who may be hostile: each is what it must be, or all are refused.

use std::{
    fs::File,
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use rustix::fs::{FileType, OFlags};
use wire::helper::{Jail, JailFile, Refusal};

use super::JailError;

/// A file that the jail may have.
#[derive(Debug)]
pub(super) struct Granted {
    /// What it is.
    pub what: JailFile,
    /// As it was given.
    given: OwnedFd,
    /// The same file as this process finds it; the console has no name, and is what was given.
    pub found: OwnedFd,
    /// Its group.
    pub group: u32,
}

impl Granted {
    /// A further descriptor of what was given.
    pub fn stream(&self) -> host::Result<File> {
        let copy = self.given.try_clone();
        copy.map(File::from).map_err(|e| host::Error::new("copy", "a descriptor", e))
    }
}

/// What `given`, which came along with `jail`, is: files of `owner` on the file system of `state`, and a pipe.
pub(super) fn check(
    jail: &Jail,
    given: Vec<OwnedFd>,
    owner: u32,
    state: &Path,
) -> Result<Vec<Granted>, JailError> {
    if given.len() != jail.files().count() {
        return Err(Refusal::Descriptors.into());
    }
    let state = host::fs::open_place(state)?;
    let device = rustix::fs::fstat(&state).map_err(|e| host::Error::new("look at", "the state", e))?.st_dev;
    jail.files().zip(given).map(|(what, given)| grant(what, given, owner, device)).collect()
}

fn grant(what: JailFile, given: OwnedFd, owner: u32, device: u64) -> Result<Granted, JailError> {
    let look = |e| host::Error::new("look at", "a descriptor", e);
    let stat = rustix::fs::fstat(&given).map_err(look)?;
    let flags = rustix::fs::fcntl_getfl(&given).map_err(look)?;
    let mode = flags & OFlags::RWMODE;
    let opened = if what.is_written() { mode != OFlags::RDONLY } else { mode == OFlags::RDONLY };
    // Who has only a path of a file may not have been able to open it.
    let opened = opened && !flags.contains(OFlags::PATH) && stat.st_uid == owner;
    let kind = FileType::from_raw_mode(stat.st_mode);
    let found = match what {
        JailFile::Console if opened && kind == FileType::Fifo => {
            given.try_clone().map_err(|e| host::Error::new("copy", "a descriptor", e))?
        }
        JailFile::Console => return Err(Refusal::File.into()),
        JailFile::Log
        | JailFile::Kernel
        | JailFile::Initrd
        | JailFile::Image
        | JailFile::Overlay
        | JailFile::Work
        | JailFile::Modules => {
            let plain = kind == FileType::RegularFile && stat.st_nlink == 1 && stat.st_dev == device;
            if !opened || !plain {
                return Err(Refusal::File.into());
            }
            // What has no name any longer, or is hidden from this process, is nobody's to mount.
            host::fs::find_again(given.as_fd()).map_err(|_| Refusal::File)?
        }
    };
    Ok(Granted { what, given, found, group: stat.st_gid })
}
