//! A directory whose files are reached through no link: for trees in which somebody else may put links.

mod look;
mod make;

use std::{
    fs::File,
    os::{fd::OwnedFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags},
    io::Errno,
};

use crate::{Error, Result, stamp};

pub use look::{Found, Kind, data};
pub use make::set_changed;

/// A directory.
#[derive(Debug)]
pub struct Tree {
    top: OwnedFd,
    path: PathBuf,
}

/// What lies at a path.
#[derive(Debug)]
pub enum Entry {
    /// A file, open for reading.
    File {
        /// The file.
        file: File,
        /// Its bytes when it was opened.
        size: u64,
        /// Its permissions, the bits of chmod(2).
        mode: u32,
        /// When it was changed, in seconds since the Unix epoch.
        mtime: u64,
    },
    /// A symbolic link and its target.
    Link(Vec<u8>),
    /// A directory, a device, a fifo or a socket.
    Other,
}

const RESOLVE: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS);

impl Tree {
    /// The directory `path`.
    ///
    /// # Errors
    /// Where it is none.
    pub fn open(path: &Path) -> Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let top =
            rustix::fs::openat(CWD, path, flags, Mode::empty()).map_err(|e| Error::path("open", path, e))?;
        Ok(Self { top, path: path.to_owned() })
    }

    /// What lies at `path` below it; `None` where nothing does, or it would be reached through a link.
    ///
    /// # Errors
    /// Where it cannot be looked at or opened.
    pub fn entry(&self, path: &Path) -> Result<Option<Entry>> {
        let error = |e: Errno| Error::path("read", &self.path.join(path), e);
        let Some(place) = self.at(path, OFlags::PATH).map_err(error)? else { return Ok(None) };
        let stat = rustix::fs::fstat(&place).map_err(error)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => {}
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(&place, "", Vec::new()).map_err(error)?;
                return Ok(Some(Entry::Link(target.into_bytes())));
            }
            _ => return Ok(Some(Entry::Other)),
        }
        let read = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let Some(file) = self.at(path, read).map_err(error)?.map(File::from) else { return Ok(None) };
        let meta = file.metadata().map_err(|e| Error::path("read", &self.path.join(path), e))?;
        if !meta.is_file() {
            return Ok(Some(Entry::Other));
        }
        let mtime = u64::try_from(meta.mtime()).unwrap_or_default();
        Ok(Some(Entry::File { file, size: meta.len(), mode: meta.mode() & 0o7777, mtime }))
    }

    /// What is another once anything of the file or link at `path` below it was changed; `None` where nothing is there, or it
    /// was changed a moment ago, so that its next change might leave the same.
    ///
    /// # Errors
    /// Where it cannot be looked at.
    pub fn stamp(&self, path: &Path) -> Result<Option<String>> {
        let error = |e: Errno| Error::path("look at", &self.path.join(path), e);
        let Some(place) = self.at(path, OFlags::PATH).map_err(error)? else { return Ok(None) };
        let stat = rustix::fs::fstat(&place).map_err(error)?;
        Ok((!stamp::is_fresh(&stat)).then(|| stamp::of(&stat)))
    }

    /// Opens `path` below it, itself no link; `None` where nothing is there, or it would be reached through a link.
    fn at(&self, path: &Path, how: OFlags) -> rustix::io::Result<Option<OwnedFd>> {
        let how = how | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat2(&self.top, path, how, Mode::empty(), RESOLVE) {
            Ok(opened) => Ok(Some(opened)),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// The user whom `path` below it belongs to; of a link, the link's.
    ///
    /// # Errors
    /// Where nothing is there.
    pub fn owner(&self, path: &Path) -> Result<u32> {
        let stat = rustix::fs::statat(&self.top, path, AtFlags::SYMLINK_NOFOLLOW | AtFlags::EMPTY_PATH);
        stat.map(|stat| stat.st_uid).map_err(|e| Error::path("look at", &self.path.join(path), e))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn nothing_is_reached_through_a_link() {
        let dir = std::env::temp_dir().join(format!("banger-host-tree-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        crate::fs::private_dir(&dir.join("top/a")).unwrap();
        crate::fs::write_atomic(&dir.join("secret"), b"secret").unwrap();
        crate::fs::write_atomic(&dir.join("top/a/file"), b"content").unwrap();
        crate::fs::symlink(Path::new(".."), &dir.join("top/link")).unwrap();
        crate::fs::symlink(Path::new("a"), &dir.join("top/inside")).unwrap();
        let tree = Tree::open(&dir.join("top")).unwrap();
        let entry = |path: &str| tree.entry(Path::new(path)).unwrap();
        let Some(Entry::File { mut file, size: 7, mode: 0o600, .. }) = entry("a/file") else { panic!() };
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "content");
        assert!(matches!(entry("link"), Some(Entry::Link(target)) if target == b".."));
        assert!(matches!(entry("a"), Some(Entry::Other)));
        for absent in ["link/secret", "inside/file", "../secret", "a/none", "a/file/x"] {
            assert!(entry(absent).is_none(), "{absent}");
        }
        let stamp = |path: &str| tree.stamp(Path::new(path)).unwrap();
        assert_eq!((stamp("a/file"), stamp("none")), (None, None), "it was changed a moment ago");
        assert!(Tree::open(Path::new("/proc/self")).unwrap().stamp(Path::new("nothing")).unwrap().is_none());
        assert_eq!(tree.owner(Path::new("a")).unwrap(), crate::proc::own_uid());
        crate::fs::remove_all(&dir).unwrap();
    }
}
