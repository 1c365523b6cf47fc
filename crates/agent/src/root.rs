//! A root file system that somebody else made, and what may be read and written in it.
//!
//! Every path is resolved inside the root (`openat2(2)`, `RESOLVE_IN_ROOT`), as if it were chrooted there: neither `..`
//! nor an absolute link nor a magic one of `/proc` leads out. Links on the way are followed, because `/lib` is one in most images.
//! What is written replaces what was at the path's end, also a link, and never goes through it.

use std::{
    ffi::OsStr,
    io::{self, Read, Write},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::ffi::{OsStrExt, OsStringExt},
    },
    path::{Component, Path, PathBuf},
};

use host::{Error, Result};
use rustix::{
    fs::{self, AtFlags, FileType, Mode, OFlags, ResolveFlags},
    io::Errno,
};

/// A directory that is taken as `/`.
#[derive(Debug)]
pub struct Root {
    fd: OwnedFd,
}

impl Root {
    /// The root at `path`.
    ///
    /// # Errors
    /// Where it is no directory that can be opened.
    pub fn open(path: &Path) -> Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = fs::open(path, flags, Mode::empty()).map_err(|e| Error::path("open", path, e))?;
        Ok(Self { fd })
    }

    fn resolve(&self, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        fs::openat2(&self.fd, path, flags | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::IN_ROOT)
    }

    /// The directory at `path`, to be used as a place; `None` where there is none.
    #[must_use]
    pub fn dir(&self, path: &Path) -> Option<OwnedFd> {
        self.resolve(path, OFlags::PATH | OFlags::DIRECTORY).ok()
    }

    /// The directory at `path` itself, which must be no link; `None` where there is none.
    #[must_use]
    pub fn own_dir(&self, path: &Path) -> Option<OwnedFd> {
        self.resolve(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW).ok()
    }

    /// What the regular file at `path` holds, up to `limit` bytes; `None` where there is none.
    #[must_use]
    pub fn read(&self, path: &Path, limit: u64) -> Option<Vec<u8>> {
        // A FIFO would block without NONBLOCK, and a device would do whatever it does.
        let fd = self.resolve(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY).ok()?;
        if FileType::from_raw_mode(fs::fstat(&fd).ok()?.st_mode) != FileType::RegularFile {
            return None;
        }
        let mut bytes = Vec::new();
        std::fs::File::from(fd).take(limit).read_to_end(&mut bytes).ok()?;
        Some(bytes)
    }

    /// Where `path` leads, as a path from the root, all links resolved; `None` where it leads nowhere.
    #[must_use]
    pub fn real_path(&self, path: &Path) -> Option<PathBuf> {
        let there = fd_target(self.resolve(path, OFlags::PATH).ok()?.as_fd())?;
        let here = fd_target(self.fd.as_fd())?;
        Some(Path::new("/").join(there.strip_prefix(here).ok()?))
    }

    /// Whether `path` leads to a regular file that root may execute.
    #[must_use]
    pub fn is_program(&self, path: &Path) -> bool {
        let stat = self.resolve(path, OFlags::PATH).and_then(fs::fstat);
        stat.is_ok_and(|s| {
            FileType::from_raw_mode(s.st_mode) == FileType::RegularFile && s.st_mode & 0o111 != 0
        })
    }

    /// The directory at `path`, made with its parents where they are missing. A link that leads nowhere, or a file, in
    /// the place of one is replaced.
    ///
    /// # Errors
    /// Where it cannot be made.
    pub fn make_dir(&self, path: &Path) -> Result<OwnedFd> {
        let fail = |e: Errno| Error::path("make directory", path, e);
        let mut sofar = PathBuf::new();
        let mut dir = self.resolve(&sofar, OFlags::PATH | OFlags::DIRECTORY).map_err(fail)?;
        for component in path.components() {
            let Component::Normal(name) = component else { continue };
            sofar.push(name);
            dir = match self.resolve(&sofar, OFlags::PATH | OFlags::DIRECTORY) {
                Ok(next) => next,
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {
                    remove_at(dir.as_fd(), name).map_err(fail)?;
                    fs::mkdirat(&dir, name, Mode::from_raw_mode(0o755)).map_err(fail)?;
                    open_dir_at(dir.as_fd(), name).map_err(fail)?
                }
                Err(e) => return Err(fail(e)),
            };
        }
        Ok(dir)
    }

    /// The directory at `path`, which is no link afterwards: one that is there is replaced.
    ///
    /// # Errors
    /// Where it cannot be made.
    pub fn make_own_dir(&self, path: &Path) -> Result<OwnedFd> {
        if let Some(dir) = self.own_dir(path) {
            return Ok(dir);
        }
        let (parent, name) = self.parent(path)?;
        let make = || {
            remove_at(parent.as_fd(), name)?;
            fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755))?;
            open_dir_at(parent.as_fd(), name)
        };
        make().map_err(|e| Error::path("make directory", path, e))
    }

    /// The directory at `path`, made where there is nothing; `None` where there is something else, also a link.
    ///
    /// # Errors
    /// Where it cannot be made.
    pub fn claim_dir(&self, path: &Path) -> Result<Option<OwnedFd>> {
        match self.resolve(path, OFlags::PATH | OFlags::NOFOLLOW) {
            Ok(_) => Ok(self.own_dir(path)),
            Err(_) => self.make_own_dir(path).map(Some),
        }
    }

    /// Puts `bytes` at `path` with `mode`, owned by root, unless exactly that is there: an unneeded write would only
    /// fill the overlay.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn write(&self, path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
        let (parent, name) = self.parent(path)?;
        if is_exactly(parent.as_fd(), name, bytes, mode) {
            return Ok(());
        }
        let staged = [b".banger.", name.as_bytes()].concat();
        let staged = OsStr::from_bytes(&staged);
        let put = || -> io::Result<()> {
            remove_at(parent.as_fd(), staged)?;
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let file = fs::openat(&parent, staged, flags, Mode::from_raw_mode(mode))?;
            // The mode at creation went through the umask.
            fs::fchmod(&file, Mode::from_raw_mode(mode))?;
            std::fs::File::from(file).write_all(bytes)?;
            Ok(fs::renameat(&parent, staged, &parent, name)?)
        };
        put().map_err(|e| Error::path("write", path, e))
    }

    /// Makes `path` a symbolic link to `target`, replacing what is there.
    ///
    /// # Errors
    /// Where it cannot be made.
    pub fn link(&self, target: &str, path: &Path) -> Result<()> {
        let (parent, name) = self.parent(path)?;
        remove_at(parent.as_fd(), name)
            .and_then(|()| fs::symlinkat(target, &parent, name))
            .map_err(|e| Error::path("link", path, e))
    }

    fn parent<'a>(&self, path: &'a Path) -> Result<(OwnedFd, &'a OsStr)> {
        let name = path.file_name().ok_or_else(|| Error::path("use", path, Errno::INVAL))?;
        Ok((self.make_dir(path.parent().unwrap_or(Path::new("")))?, name))
    }
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The path under `/proc` that leads to what `fd` is, for calls that take only paths.
#[must_use]
pub fn fd_path(fd: BorrowedFd<'_>) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

fn fd_target(fd: BorrowedFd<'_>) -> Option<PathBuf> {
    let target = fs::readlink(fd_path(fd), Vec::new()).ok()?;
    Some(PathBuf::from(std::ffi::OsString::from_vec(target.into_bytes())))
}

fn open_dir_at(dir: BorrowedFd<'_>, name: &OsStr) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    fs::openat(dir, name, flags, Mode::empty())
}

/// Removes `name`, following nothing; a missing one is fine, a directory that holds something is not.
fn remove_at(dir: BorrowedFd<'_>, name: &OsStr) -> rustix::io::Result<()> {
    match fs::unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(Errno::ISDIR) => fs::unlinkat(dir, name, AtFlags::REMOVEDIR),
        Err(e) => Err(e),
    }
}

fn is_exactly(dir: BorrowedFd<'_>, name: &OsStr, bytes: &[u8], mode: u32) -> bool {
    let same = || -> io::Result<bool> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = fs::openat(dir, name, flags, Mode::empty())?;
        let stat = fs::fstat(&file)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile
            || (stat.st_mode & 0o7777, stat.st_uid, stat.st_nlink)
                != (mode, rustix::process::geteuid().as_raw(), 1)
            || u64::try_from(stat.st_size) != Ok(bytes.len() as u64)
        {
            return Ok(false);
        }
        let mut found = Vec::with_capacity(bytes.len());
        std::fs::File::from(file).read_to_end(&mut found)?;
        Ok(found == bytes)
    };
    same().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let dir = std::env::temp_dir().join(format!("banger-agent-root-{name}-{}", std::process::id()));
            host::fs::remove_all(&dir).unwrap();
            host::fs::private_dir(&dir.join("root")).unwrap();
            host::fs::write_atomic(&dir.join("outside"), b"untouched").unwrap();
            Self(dir)
        }

        fn root(&self) -> Root {
            Root::open(&self.0.join("root")).unwrap()
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            assert_eq!(host::fs::read(&self.0.join("outside")).unwrap(), b"untouched");
            host::fs::remove_all(&self.0).unwrap();
        }
    }

    #[test]
    fn a_write_replaces_a_link_instead_of_following_it() {
        for target in ["../../outside", "/proc/sys/kernel/hostname", "nowhere", "hostname"] {
            let scratch = Scratch::new("replace");
            let root = scratch.root();
            root.make_dir(Path::new("etc")).unwrap();
            symlink(target, scratch.0.join("root/etc/hostname")).unwrap();
            root.write(Path::new("/etc/hostname"), b"dev\n", 0o644).unwrap();
            let path = scratch.0.join("root/etc/hostname");
            assert!(std::fs::symlink_metadata(&path).unwrap().is_file(), "{target}");
            assert_eq!(host::fs::read(&path).unwrap(), b"dev\n");
        }
    }

    #[test]
    fn a_directory_that_is_a_link_out_is_one_inside() {
        let scratch = Scratch::new("inside");
        let root = scratch.root();
        host::fs::create_dir(&scratch.0.join("root/real")).unwrap();
        symlink("../../../real", scratch.0.join("root/etc")).unwrap();
        root.write(Path::new("etc/x"), b"1", 0o600).unwrap();
        assert_eq!(host::fs::read(&scratch.0.join("root/real/x")).unwrap(), b"1");
        assert_eq!(root.real_path(Path::new("etc/x")), Some("/real/x".into()));
        assert_eq!(root.read(Path::new("/etc/x"), 10), Some(b"1".to_vec()));
    }

    #[test]
    fn what_stands_in_a_directorys_place_gives_way() {
        let scratch = Scratch::new("gives-way");
        let root = scratch.root();
        symlink("nowhere", scratch.0.join("root/etc")).unwrap();
        host::fs::write_atomic(&scratch.0.join("root/lib"), b"a file").unwrap();
        symlink("loop", scratch.0.join("root/loop")).unwrap();
        for path in ["etc/a/b", "lib/modules/6", "loop/x"] {
            root.make_dir(Path::new(path)).unwrap();
            assert!(root.own_dir(Path::new(path)).is_some(), "{path}");
        }
        symlink("/", scratch.0.join("root/lib/docker")).unwrap();
        assert!(root.claim_dir(Path::new("lib/docker")).unwrap().is_none(), "a link stays");
        assert!(root.claim_dir(Path::new("lib/containerd")).unwrap().is_some());
        symlink("lib", scratch.0.join("root/home")).unwrap();
        root.make_own_dir(Path::new("home")).unwrap();
        assert!(root.own_dir(Path::new("home")).is_some());
        assert!(root.dir(Path::new("lib/modules")).is_some(), "what the link led to is as it was");
    }

    #[test]
    fn the_same_content_is_not_written_again() {
        use std::os::unix::fs::MetadataExt;
        let scratch = Scratch::new("same");
        let root = scratch.root();
        let inode = || std::fs::metadata(scratch.0.join("root/f")).unwrap().ino();
        root.write(Path::new("f"), b"1", 0o644).unwrap();
        let first = inode();
        root.write(Path::new("f"), b"1", 0o644).unwrap();
        assert_eq!(inode(), first);
        root.write(Path::new("f"), b"1", 0o600).unwrap();
        assert_ne!(inode(), first);
    }

    #[test]
    fn a_fifo_is_no_file_to_read() {
        let scratch = Scratch::new("fifo");
        let path = scratch.0.join("root/fifo");
        fs::mknodat(fs::CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        assert_eq!(scratch.root().read(Path::new("fifo"), 10), None);
    }
}
