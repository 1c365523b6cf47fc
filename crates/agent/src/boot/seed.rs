//! Fills a directory of a writable disk from the image, once.

use std::{
    collections::HashMap,
    ffi::{CStr, OsStr},
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
};

use host::{Error, Result};
use rustix::{
    fs::{
        self, AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, SeekFrom, Stat, Timespec, Timestamps, Uid,
        XattrFlags,
    },
    io::Errno,
};

use crate::root::fd_path;

/// Makes directory `target` with what is in `source`, or empty with `mode` where the image has none. One that is there
/// already is left as it is: it appears under its name only when it is whole and on the disk, so a crash redoes it.
///
/// # Errors
/// Where it cannot be made.
pub fn fill(target: &Path, source: Option<OwnedFd>, mode: Mode) -> Result<()> {
    if host::fs::exists(target) {
        return Ok(());
    }
    let fail = |e: io::Error| Error::path("fill", target, e);
    let Some(source) = source else {
        return fs::mkdir(target, mode).and_then(|()| fs::chmod(target, mode)).map_err(|e| fail(e.into()));
    };
    let mut name = target.file_name().unwrap_or_default().to_owned();
    name.push(".filling");
    let staged = target.with_file_name(name);
    host::fs::remove_all(&staged)?;
    let fill = || -> io::Result<()> {
        fs::mkdir(&staged, Mode::RWXU)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let to = fs::open(&staged, flags, Mode::empty())?;
        if Copy::new(&source, &to).run()? > 0 {
            fs::syncfs(&to)?;
        }
        Ok(fs::rename(&staged, target)?)
    };
    fill().map_err(fail)
}

/// A tree being copied: owners, modes, times, extended attributes, hard links, holes and devices as they are.
struct Copy<'a> {
    from: &'a OwnedFd,
    to: &'a OwnedFd,
    /// Where the first of several names of a file was copied to.
    linked: HashMap<(u64, u64), PathBuf>,
    copied: usize,
}

impl<'a> Copy<'a> {
    fn new(from: &'a OwnedFd, to: &'a OwnedFd) -> Self {
        Self { from, to, linked: HashMap::new(), copied: 0 }
    }

    /// Copies all. How many entries there were.
    fn run(mut self) -> io::Result<usize> {
        // Directories get their times when all below them is there.
        let mut dirs = vec![PathBuf::from(".")];
        let mut at = 0;
        while let Some(dir) = dirs.get(at).cloned() {
            self.directory(&dir, &mut dirs)?;
            at += 1;
        }
        for dir in dirs.iter().rev() {
            let (from, to) = (open_dir(self.from, dir)?, open_dir(self.to, dir)?);
            let stat = fs::fstat(&from)?;
            copy_xattrs(&fd_path(from.as_fd()), &fd_path(to.as_fd()))?;
            fs::fchown(&to, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
            fs::fchmod(&to, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
            fs::futimens(&to, &times(&stat))?;
        }
        Ok(self.copied)
    }

    fn directory(&mut self, path: &Path, dirs: &mut Vec<PathBuf>) -> io::Result<()> {
        let (from, to) = (open_dir(self.from, path)?, open_dir(self.to, path)?);
        for entry in fs::Dir::read_from(&from)? {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b".." | b"lost+found") {
                continue;
            }
            self.copied += 1;
            let path = path.join(OsStr::from_bytes(name.to_bytes()));
            let stat = fs::statat(&from, name, AtFlags::SYMLINK_NOFOLLOW)?;
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                fs::mkdirat(&to, name, Mode::RWXU)?;
                dirs.push(path);
            } else {
                self.entry(from.as_fd(), to.as_fd(), name, &stat, path)?;
            }
        }
        Ok(())
    }

    fn entry(
        &mut self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        name: &CStr,
        stat: &Stat,
        path: PathBuf,
    ) -> io::Result<()> {
        if stat.st_nlink > 1 {
            if let Some(first) = self.linked.get(&(stat.st_dev, stat.st_ino)) {
                return Ok(fs::linkat(self.to, first, to, name, AtFlags::empty())?);
            }
            self.linked.insert((stat.st_dev, stat.st_ino), path);
        }
        let kind = FileType::from_raw_mode(stat.st_mode);
        match kind {
            FileType::RegularFile => {
                let source = fs::openat(
                    from,
                    name,
                    OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                    Mode::empty(),
                )?;
                let flags =
                    OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let target = fs::openat(to, name, flags, Mode::from_raw_mode(0o600))?;
                copy_data(source.into(), target.into(), u64::try_from(stat.st_size).unwrap_or_default())?;
            }
            FileType::Symlink => fs::symlinkat(fs::readlinkat(from, name, Vec::new())?, to, name)?,
            _ => fs::mknodat(to, name, kind, Mode::from_raw_mode(0o600), stat.st_rdev)?,
        }
        let own = |dir: BorrowedFd<'_>| fd_path(dir).join(OsStr::from_bytes(name.to_bytes()));
        copy_xattrs(&own(from), &own(to))?;
        let owner = (Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)));
        fs::chownat(to, name, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW)?;
        if kind != FileType::Symlink {
            // After the owner, whose change takes the set-user bit away.
            fs::chmodat(to, name, Mode::from_raw_mode(stat.st_mode & 0o7777), AtFlags::empty())?;
        }
        Ok(fs::utimensat(to, name, &times(stat), AtFlags::SYMLINK_NOFOLLOW)?)
    }
}

fn open_dir(top: &OwnedFd, path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    Ok(fs::openat2(top, path, flags, Mode::empty(), resolve)?)
}

fn times(stat: &Stat) -> Timestamps {
    let time = |tv_sec: i64, nsec: u64| Timespec { tv_sec, tv_nsec: i64::try_from(nsec).unwrap_or_default() };
    Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    }
}

/// Copies what is no hole.
fn copy_data(mut from: std::fs::File, mut to: std::fs::File, length: u64) -> io::Result<()> {
    use std::io::{Read, Seek};
    let mut at = 0;
    while at < length {
        let begin = match fs::seek(&from, SeekFrom::Data(at)) {
            Ok(begin) => begin,
            Err(Errno::NXIO) => break, // only a hole is left
            Err(e) => return Err(e.into()),
        };
        let end = fs::seek(&from, SeekFrom::Hole(begin))?;
        from.seek(io::SeekFrom::Start(begin))?;
        to.seek(io::SeekFrom::Start(begin))?;
        io::copy(&mut (&mut from).take(end - begin), &mut to)?;
        at = end;
    }
    to.set_len(length)
}

fn copy_xattrs(from: &Path, to: &Path) -> io::Result<()> {
    let mut names = Vec::new();
    match fs::llistxattr_query(from) {
        Ok(0) | Err(Errno::OPNOTSUPP) => return Ok(()),
        Ok(size) => names.resize(size, 0_u8),
        Err(e) => return Err(e.into()),
    }
    let size = fs::llistxattr(from, &mut names[..])?;
    for name in names[..size].split(|b| *b == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0_u8; fs::lgetxattr_query(from, name)?];
        let size = fs::lgetxattr(from, name, &mut value[..])?;
        match fs::lsetxattr(to, name, &value[..size], XattrFlags::empty()) {
            // Labels of a security module that this kernel does not run.
            Ok(()) | Err(Errno::OPNOTSUPP) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}
