//! Removes parts of a tree.

use std::{
    ffi::{OsStr, OsString},
    io,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::ffi::{OsStrExt, OsStringExt},
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{self, AtFlags, Mode, OFlags},
    io::Errno,
};
use wire::Word;

use super::place::{Top, beneath};

/// Removes each of `paths` with all below, and the directories that are empty then; no link is followed.
///
/// # Errors
/// Where something stays. What is not there is fine.
pub fn remove(path: &Path, paths: &[Word]) -> io::Result<()> {
    let top = Top::open(path)?;
    for path in paths {
        let path = PathBuf::from(OsString::from_vec(path.as_bytes().to_vec()));
        let Some(path) = beneath(&path).filter(|path| !path.as_os_str().is_empty()) else { continue };
        let Some((dir, name)) = top.holder(&path)? else { continue };
        remove_all(dir.as_fd(), name)?;
        let mut parent = path.parent();
        while let Some((dir, name)) = parent.map(|path| top.holder(path)).transpose()?.flatten() {
            if fs::unlinkat(&dir, name, AtFlags::REMOVEDIR).is_err() {
                break;
            }
            parent = parent.and_then(Path::parent);
        }
    }
    Ok(())
}

fn remove_all(dir: BorrowedFd<'_>, name: &OsStr) -> rustix::io::Result<()> {
    match fs::unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(error) => return Err(error),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let inner = fs::openat(dir, name, flags, Mode::empty())?;
    for entry in fs::Dir::read_from(&inner)? {
        let entry = entry?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if name != "." && name != ".." {
            remove_all(inner.as_fd(), name)?;
        }
    }
    fs::unlinkat(dir, name, AtFlags::REMOVEDIR)
}
