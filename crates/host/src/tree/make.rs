//! Making files below a directory, through no link, whatever lies there.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::Path,
};

use rustix::{
    fs::{self, AtFlags, FileType, Mode, OFlags, Timespec, Timestamps},
    io::Errno,
};

use super::{RESOLVE, Tree};
use crate::{Error, Result};

/// What the owner of a directory needs to fill it.
const OWNER: u32 = 0o700;

impl Tree {
    /// The names in the directory `path` below it, sorted; `None` where that is none.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub fn names(&self, path: &Path) -> Result<Option<Vec<OsString>>> {
        let error = |e: Errno| Error::path("list", &self.path.join(path), e);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let Some(dir) = self.at(here(path), flags).map_err(error)? else { return Ok(None) };
        let mut names = Vec::new();
        for entry in fs::Dir::read_from(&dir).map_err(error)? {
            let entry = entry.map_err(error)?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name != "." && name != ".." {
                names.push(name.to_owned());
            }
        }
        names.sort_unstable();
        Ok(Some(names))
    }

    /// The permissions of what lies at `path` below it.
    ///
    /// # Errors
    /// Where nothing does.
    pub fn mode(&self, path: &Path) -> Result<u32> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let stat = fs::openat2(&self.top, here(path), flags, Mode::empty(), RESOLVE).and_then(fs::fstat);
        stat.map(|stat| stat.st_mode & 0o7777).map_err(|e| Error::path("look at", &self.path.join(path), e))
    }

    /// Makes the directory `path` below it for its owner to fill, with the permissions `mode` less the umask's; one that is there stays.
    ///
    /// # Errors
    /// Where it cannot be made, or something else is there.
    pub fn make_directory(&self, path: &Path, mode: u32) -> Result<()> {
        let error = |e: Errno| Error::path("create", &self.path.join(path), e);
        let (dir, name) = self.holder(path).map_err(error)?;
        match fs::mkdirat(&dir, name, Mode::from_raw_mode(mode & 0o777 | OWNER)) {
            Err(Errno::EXIST) => {
                let stat = fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW).map_err(error)?;
                match FileType::from_raw_mode(stat.st_mode) {
                    FileType::Directory => Ok(()),
                    _ => Err(error(Errno::NOTDIR)),
                }
            }
            made => made.map_err(error),
        }
    }

    /// Takes from the owner of the directory `path`, which was made and filled, what `mode` does not give.
    ///
    /// # Errors
    /// Where it is not there.
    pub fn close_directory(&self, path: &Path, mode: u32) -> Result<()> {
        let missing = OWNER & !mode;
        if missing == 0 {
            return Ok(());
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let close = || {
            let dir = fs::openat2(&self.top, path, flags, Mode::empty(), RESOLVE)?;
            let now = fs::fstat(&dir)?.st_mode & 0o7777;
            fs::fchmod(&dir, Mode::from_raw_mode(now & !missing))
        };
        close().map_err(|e| Error::path("restrict", &self.path.join(path), e))
    }

    /// Makes the file `path` below it, with the permissions `mode` less the umask's, instead of a file or link that is there.
    ///
    /// # Errors
    /// Where it cannot be made.
    pub fn make_file(&self, path: &Path, mode: u32) -> Result<File> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let make = || {
            let (dir, name) = self.holder(path)?;
            clear(&dir, name)?;
            fs::openat(&dir, name, flags, Mode::from_raw_mode(mode & 0o777))
        };
        make().map(File::from).map_err(|e| Error::path("create", &self.path.join(path), e))
    }

    /// Makes the symbolic link `path` to `target` below it, instead of a file or link that is there.
    ///
    /// # Errors
    /// Where it cannot be made.
    pub fn make_link(&self, path: &Path, target: &[u8]) -> Result<()> {
        let make = || {
            let (dir, name) = self.holder(path)?;
            clear(&dir, name)?;
            fs::symlinkat(OsStr::from_bytes(target), &dir, name)
        };
        make().map_err(|e| Error::path("create", &self.path.join(path), e))
    }

    /// Gives the file `first` below it another name `path`, instead of a file or link that is there.
    ///
    /// # Errors
    /// Where that cannot be done, as where `first` is no file.
    pub fn make_name(&self, path: &Path, first: &Path) -> Result<()> {
        let make = || {
            let ((dir, name), (from, first)) = (self.holder(path)?, self.holder(first)?);
            let stat = fs::statat(&from, first, AtFlags::SYMLINK_NOFOLLOW)?;
            if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
                return Err(Errno::INVAL);
            }
            clear(&dir, name)?;
            fs::linkat(&from, first, &dir, name, AtFlags::empty())
        };
        make().map_err(|e| Error::path("create", &self.path.join(path), e))
    }

    /// Removes the file or link `path` below it; a missing one is fine.
    ///
    /// # Errors
    /// Where it cannot be removed.
    pub fn remove(&self, path: &Path) -> Result<()> {
        let remove = || self.holder(path).and_then(|(dir, name)| clear(&dir, name));
        remove().map_err(|e| Error::path("remove", &self.path.join(path), e))
    }

    /// The directory that holds `path`, and the name there.
    fn holder<'a>(&self, path: &'a Path) -> rustix::io::Result<(OwnedFd, &'a OsStr)> {
        let name = path.file_name().ok_or(Errno::INVAL)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let parent = here(path.parent().unwrap_or(Path::new("")));
        Ok((fs::openat2(&self.top, parent, flags, Mode::empty(), RESOLVE)?, name))
    }
}

/// Says when `file` was changed last, in seconds since the Unix epoch.
///
/// # Errors
/// Where that cannot be said.
pub fn set_changed(file: &File, seconds: u64) -> std::io::Result<()> {
    let time = Timespec { tv_sec: i64::try_from(seconds).unwrap_or(i64::MAX), tv_nsec: 0 };
    Ok(fs::futimens(file, &Timestamps { last_access: time, last_modification: time })?)
}

/// The directory itself has no empty path.
pub(super) fn here(path: &Path) -> &Path {
    if path.as_os_str().is_empty() { Path::new(".") } else { path }
}

/// Makes room for a file; a directory stays, and then there is none.
fn clear(dir: &OwnedFd, name: &OsStr) -> rustix::io::Result<()> {
    match fs::unlinkat(dir, name, AtFlags::empty()) {
        Err(Errno::NOENT) => Ok(()),
        done => done,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn nothing_is_made_through_a_link() {
        let home = std::env::temp_dir().join(format!("banger-host-make-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&home);
        crate::fs::private_dir(&home.join("top/a")).unwrap();
        crate::fs::private_dir(&home.join("outside")).unwrap();
        crate::fs::symlink(Path::new("../outside"), &home.join("top/out")).unwrap();
        crate::fs::symlink(Path::new("../outside/file"), &home.join("top/file")).unwrap();
        let tree = Tree::open(&home.join("top")).unwrap();
        for path in ["out/x", "../x", "a/../../x", "/tmp/x", "none/x", "a", "..", "."].map(Path::new) {
            assert!(tree.make_file(path, 0o600).is_err(), "{}", path.display());
            assert!(tree.make_link(path, b"x").is_err(), "{}", path.display());
            assert!(tree.make_name(path, Path::new("b")).is_err(), "{}", path.display());
        }
        for path in ["out", "out/x", "../x"].map(Path::new) {
            assert!(tree.make_directory(path, 0o755).is_err(), "{}", path.display());
            assert!(tree.names(path).unwrap().is_none(), "{}", path.display());
        }
        drop(tree.make_file(Path::new("file"), 0o4640).unwrap());
        let meta = std::fs::symlink_metadata(home.join("top/file")).unwrap();
        assert!(
            meta.is_file() && meta.mode() & 0o7000 == 0,
            "it replaces the link, and is nobody else's program"
        );
        assert!(tree.make_name(Path::new("b"), Path::new("out")).is_err(), "a link has one name");
        tree.make_name(Path::new("b"), Path::new("file")).unwrap();
        tree.make_directory(Path::new("c"), 0o500).unwrap();
        tree.make_link(Path::new("c/link"), b"/etc").unwrap();
        tree.close_directory(Path::new("c"), 0o500).unwrap();
        assert_eq!(tree.mode(Path::new("c")).unwrap() & 0o700, 0o500);
        assert_eq!(tree.names(Path::new("")).unwrap().unwrap(), ["a", "b", "c", "file", "out"]);
        assert!(crate::fs::list(&home.join("outside")).unwrap().is_empty());
        fs::chmod(home.join("top/c"), Mode::RWXU).unwrap();
        crate::fs::remove_all(&home).unwrap();
    }
}
