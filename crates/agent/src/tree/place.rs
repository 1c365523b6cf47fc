//! A file of a tree, reached through no link.

use std::{
    ffi::{OsStr, OsString},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Component, Path, PathBuf},
};

use rustix::{
    fs::{self, CWD, FileType, Mode, OFlags, ResolveFlags},
    io::Errno,
};

const PLACE: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// A directory and what is below it.
#[derive(Debug)]
pub struct Top(OwnedFd);

impl Top {
    /// The directory `path`, which may be reached through links.
    ///
    /// # Errors
    /// Where it is none.
    pub fn open(path: &Path) -> rustix::io::Result<Self> {
        fs::open(path, PLACE, Mode::empty()).map(Self)
    }

    /// The directory that holds `path`, with its name there; `None` where there is no such directory below the top.
    ///
    /// # Errors
    /// Where it cannot be looked for.
    pub fn holder<'a>(&self, path: &'a Path) -> rustix::io::Result<Option<(OwnedFd, &'a OsStr)>> {
        let Some(name) = path.file_name() else { return Ok(None) };
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        match fs::openat2(&self.0, parent.unwrap_or(Path::new(".")), PLACE, Mode::empty(), resolve) {
            Ok(dir) => Ok(Some((dir, name))),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl AsFd for Top {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// `path` relative to the top; `None` where it would climb.
pub fn beneath(path: &Path) -> Option<PathBuf> {
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::CurDir | Component::RootDir => {}
            Component::ParentDir | Component::Prefix(_) => return None,
        }
    }
    Some(clean)
}

/// Where something goes that is copied to `path`: the directory, and its new name where it gets one. Into a directory that is
/// there it goes with its own.
///
/// # Errors
/// Where there is no such place.
pub fn destination(path: &Path) -> rustix::io::Result<(PathBuf, Option<OsString>)> {
    match fs::stat(path) {
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
            return Ok((path.to_owned(), None));
        }
        Ok(_) | Err(Errno::NOENT) => {}
        Err(error) => return Err(error),
    }
    if path.as_os_str().as_encoded_bytes().ends_with(b"/") {
        return Err(Errno::NOTDIR);
    }
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Err(Errno::NOTDIR) };
    Ok((parent.to_owned(), Some(name.to_owned())))
}

/// Makes the directory `path` and its parents where they are missing.
///
/// # Errors
/// Where one of them cannot be made.
pub fn make_directory(path: &Path) -> rustix::io::Result<()> {
    match fs::mkdirat(CWD, path, Mode::from_raw_mode(0o755)) {
        Err(Errno::NOENT) => {
            make_directory(path.parent().ok_or(Errno::NOENT)?)?;
            make_directory(path)
        }
        Err(Errno::EXIST) | Ok(()) => Ok(()),
        Err(error) => Err(error),
    }
}
