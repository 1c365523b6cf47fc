//! Writes a tree as a tar.

use std::{
    collections::HashMap,
    ffi::{OsStr, OsString},
    io::{self, Read, Write},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::{OsStrExt, OsStringExt},
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{self, AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, Stat},
    io::Errno,
};
use tar::{Builder, EntryType, Header};

/// Writes what is at `path` to `out`: a directory as `./` and all below it, anything else as one entry of its name.
/// A link is written as one and never followed.
///
/// # Errors
/// Where something cannot be read or written. A file that goes while it is read is left out.
pub fn pack(path: &Path, out: impl Write) -> io::Result<()> {
    let stat = fs::statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW)?;
    let mut pack = Pack { out: Builder::new(out), linked: HashMap::new() };
    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        let top = fs::open(path, DIRECTORY, Mode::empty())?;
        pack.tree(&top)?;
    } else {
        let (parent, name) = (path.parent(), path.file_name());
        let (Some(parent), Some(name)) = (parent, name) else { return Err(Errno::INVAL.into()) };
        let parent = fs::open(parent, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        pack.entry(parent.as_fd(), name, Path::new(name), &stat)?;
    }
    pack.out.into_inner()?.flush()
}

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

struct Pack<W: Write> {
    out: Builder<W>,
    /// Where the first of several names of a file is in the tar.
    linked: HashMap<(u64, u64), PathBuf>,
}

impl<W: Write> Pack<W> {
    fn tree(&mut self, top: &OwnedFd) -> io::Result<()> {
        let mut todo = vec![PathBuf::from(".")];
        while let Some(path) = todo.pop() {
            let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
            let dir = match fs::openat2(top, &path, DIRECTORY, Mode::empty(), resolve) {
                Ok(dir) => dir,
                // It was replaced or removed since it was listed.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
                Err(e) => return Err(e.into()),
            };
            let mut header = header(&fs::fstat(&dir)?, EntryType::Directory);
            // The slash at its end tells a directory also to those who do not look at the type.
            self.out.append_data(&mut header, path.join(""), io::empty())?;
            let first = todo.len();
            for entry in fs::Dir::read_from(&dir)? {
                let entry = entry?;
                let name = OsStr::from_bytes(entry.file_name().to_bytes());
                if name == "." || name == ".." {
                    continue;
                }
                let stat = match fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(stat) => stat,
                    Err(Errno::NOENT) => continue,
                    Err(e) => return Err(e.into()),
                };
                if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                    todo.push(path.join(name));
                } else {
                    self.entry(dir.as_fd(), name, &path.join(name), &stat)?;
                }
            }
            todo[first..].sort_unstable_by(|a, b| b.cmp(a));
        }
        Ok(())
    }

    /// Writes what is no directory.
    fn entry(&mut self, dir: BorrowedFd<'_>, name: &OsStr, path: &Path, stat: &Stat) -> io::Result<()> {
        if stat.st_nlink > 1 {
            if let Some(first) = self.linked.get(&(stat.st_dev, stat.st_ino)) {
                return self.out.append_link(&mut header(stat, EntryType::Link), path, first);
            }
            self.linked.insert((stat.st_dev, stat.st_ino), path.to_owned());
        }
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => self.file(dir, name, path),
            FileType::Symlink => {
                let target = match fs::readlinkat(dir, name, Vec::new()) {
                    Ok(target) => target,
                    // It is none any more.
                    Err(Errno::NOENT | Errno::INVAL) => return Ok(()),
                    Err(error) => return Err(error.into()),
                };
                let target = PathBuf::from(OsString::from_vec(target.into_bytes()));
                self.out.append_link(&mut header(stat, EntryType::Symlink), path, target)
            }
            FileType::CharacterDevice => self.special(path, stat, EntryType::Char),
            FileType::BlockDevice => self.special(path, stat, EntryType::Block),
            FileType::Fifo => self.special(path, stat, EntryType::Fifo),
            // A socket is nothing without the process that listens on it.
            FileType::Socket | FileType::Directory | FileType::Unknown => Ok(()),
        }
    }

    fn file(&mut self, dir: BorrowedFd<'_>, name: &OsStr, path: &Path) -> io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = match fs::openat(dir, name, flags, Mode::empty()) {
            Ok(file) => file,
            Err(Errno::NOENT | Errno::LOOP | Errno::NXIO) => return Ok(()),
            Err(e) => return Err(e.into()),
        };
        let stat = fs::fstat(&file)?;
        let mut header = header(&stat, EntryType::Regular);
        let size = u64::try_from(stat.st_size).unwrap_or_default();
        header.set_size(size);
        // Its length is promised; one that shrinks meanwhile ends in zeros, one that grows is cut.
        let content = std::fs::File::from(file).chain(io::repeat(0)).take(size);
        self.out.append_data(&mut header, path, content)
    }

    fn special(&mut self, path: &Path, stat: &Stat, kind: EntryType) -> io::Result<()> {
        let mut header = header(stat, kind);
        header.set_device_major(fs::major(stat.st_rdev))?;
        header.set_device_minor(fs::minor(stat.st_rdev))?;
        self.out.append_data(&mut header, path, io::empty())
    }
}

fn header(stat: &Stat, kind: EntryType) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(0);
    header.set_mode(stat.st_mode & 0o7777);
    header.set_uid(stat.st_uid.into());
    header.set_gid(stat.st_gid.into());
    header.set_mtime(u64::try_from(stat.st_mtime).unwrap_or_default());
    header
}
