//! Makes the files of a tar below a directory.

use std::{
    ffi::{OsStr, OsString},
    io::{self, Read},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::{OsStrExt, OsStringExt},
    },
    path::{Path, PathBuf},
    rc::Rc,
};

use host::sparse::{self, Buffer};
use rustix::{
    fs::{self, AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, Uid},
    io::Errno,
};
use tar::{Archive, Entry, EntryType};

use super::{place::beneath, stamp::Stamps};

/// Why a tar was not unpacked to its end. What was unpacked before stays.
#[derive(Debug)]
pub enum UnpackError {
    /// The directory is not there.
    Top(io::Error),
    /// It is no tar, or was cut.
    Tar(io::Error),
    /// An entry would lead out of the directory, or is of a kind that is not made.
    Refused(PathBuf),
    /// An entry cannot be made.
    Write(PathBuf, io::Error),
}

/// Whom files belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// The user's number.
    pub uid: u32,
    /// The group's number.
    pub gid: u32,
}

impl Owner {
    fn ids(self) -> (Option<Uid>, Option<Gid>) {
        (Some(Uid::from_raw(self.uid)), Some(Gid::from_raw(self.gid)))
    }
}

/// Unpacks the tar `from` below the directory `top`, with owners, modes and times; gives the stamps of its files. What it calls by
/// its first name gets the name `called`, where there is one. With an `owner` all of it belongs to that one, `top` too, whatever the
/// tar says.
///
/// # Errors
/// [`UnpackError`]; the rest is not read then.
pub fn unpack(
    top: &Path,
    called: Option<OsString>,
    owner: Option<Owner>,
    from: impl Read,
) -> Result<Stamps, UnpackError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let top = fs::open(top, flags, Mode::empty()).map_err(|e| UnpackError::Top(e.into()))?;
    if let Some((uid, gid)) = owner.map(Owner::ids) {
        fs::chownat(&top, "", uid, gid, AtFlags::EMPTY_PATH).map_err(|e| UnpackError::Top(e.into()))?;
    }
    let mut archive = Archive::new(from);
    let mut unpack = Unpack {
        top,
        called,
        owner,
        last: None,
        dirs: Vec::new(),
        stamps: Stamps::default(),
        buffer: Buffer::default(),
    };
    for entry in archive.entries().map_err(UnpackError::Tar)? {
        let mut entry = entry.map_err(UnpackError::Tar)?;
        let path = PathBuf::from(OsString::from_vec(entry.path_bytes().into_owned()));
        unpack.entry(&mut entry, &path)?;
    }
    unpack.finish()
}

struct Unpack {
    top: OwnedFd,
    called: Option<OsString>,
    owner: Option<Owner>,
    /// The directory of the last entry that was made, and its path: mostly the next one's too.
    last: Option<(PathBuf, Rc<OwnedFd>)>,
    /// Directories get their modes and times when all in them is there.
    dirs: Vec<(PathBuf, Attributes)>,
    stamps: Stamps,
    buffer: Buffer,
}

/// What an entry says of its file.
struct Attributes {
    owner: Owner,
    mode: u32,
    mtime: i64,
}

impl Attributes {
    fn new(header: &tar::Header, owner: Option<Owner>) -> io::Result<Self> {
        let number = |n: u64| u32::try_from(n).map_err(|_| io::Error::from(io::ErrorKind::InvalidData));
        Ok(Self {
            owner: match owner {
                Some(owner) => owner,
                None => Owner { uid: number(header.uid()?)?, gid: number(header.gid()?)? },
            },
            mode: header.mode()? & 0o7777,
            mtime: i64::try_from(header.mtime()?).unwrap_or(i64::MAX),
        })
    }

    /// Gives a file that was just made what it does not have yet. Most have the owner and the mode with which they were made, and each
    /// change of them is one of the disk's journal.
    fn settle(&self, file: &std::fs::File) -> rustix::io::Result<Stat> {
        fs::futimens(file, &self.times())?;
        let made = fs::fstat(file)?;
        let is_theirs = (made.st_uid, made.st_gid) == (self.owner.uid, self.owner.gid);
        if is_theirs && made.st_mode & 0o7777 == self.mode {
            return Ok(made);
        }
        if !is_theirs {
            let (uid, gid) = self.owner.ids();
            fs::fchown(file, uid, gid)?;
        }
        // After the owner, whose change takes the set-user bit away.
        fs::fchmod(file, Mode::from_raw_mode(self.mode))?;
        fs::fstat(file)
    }

    fn times(&self) -> Timestamps {
        let time = Timespec { tv_sec: self.mtime, tv_nsec: 0 };
        Timestamps { last_access: time, last_modification: time }
    }

    fn apply(&self, dir: BorrowedFd<'_>, name: &OsStr, kind: FileType) -> rustix::io::Result<()> {
        let (uid, gid) = self.owner.ids();
        fs::chownat(dir, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
        if kind != FileType::Symlink {
            // After the owner, whose change takes the set-user bit away.
            fs::chmodat(dir, name, Mode::from_raw_mode(self.mode), AtFlags::empty())?;
        }
        fs::utimensat(dir, name, &self.times(), AtFlags::SYMLINK_NOFOLLOW)
    }
}

impl Unpack {
    fn entry(&mut self, entry: &mut Entry<'_, impl Read>, path: &Path) -> Result<(), UnpackError> {
        let refused = || UnpackError::Refused(path.to_owned());
        let clean = self.place_of(path).ok_or_else(refused)?;
        let attributes = Attributes::new(entry.header(), self.owner).map_err(UnpackError::Tar)?;
        let kind = entry.header().entry_type();
        if clean.as_os_str().is_empty() {
            // The directory itself: it was there before, so it keeps its owner and mode.
            return if kind == EntryType::Directory { Ok(()) } else { Err(refused()) };
        }
        let made = match kind {
            EntryType::Directory => {
                self.directory(&clean).map(|()| self.dirs.push((clean.clone(), attributes)))
            }
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                self.file(entry, &clean, &attributes)
            }
            EntryType::Symlink => self.special(&clean, FileType::Symlink, &attributes, |dir, name| {
                fs::symlinkat(OsStr::from_bytes(&entry.link_name_bytes().unwrap_or_default()), dir, name)
            }),
            EntryType::Link => {
                let target = PathBuf::from(OsString::from_vec(
                    entry.link_name_bytes().unwrap_or_default().into_owned(),
                ));
                let target = self.place_of(&target).ok_or_else(refused)?;
                self.hard_link(&target, &clean)
            }
            EntryType::Fifo => self.node(&clean, FileType::Fifo, 0, &attributes),
            EntryType::Char | EntryType::Block => {
                let header = entry.header();
                let number = |n: io::Result<Option<u32>>| n.ok().flatten().unwrap_or_default();
                let device = fs::makedev(number(header.device_major()), number(header.device_minor()));
                let kind =
                    if kind == EntryType::Char { FileType::CharacterDevice } else { FileType::BlockDevice };
                self.node(&clean, kind, device, &attributes)
            }
            EntryType::XGlobalHeader => Ok(()),
            _ => return Err(refused()),
        };
        made.map_err(|error| match error {
            Failure::Read(error) => UnpackError::Tar(error),
            // That is how the kernel refuses to resolve a path that leads out.
            Failure::Write(Errno::XDEV | Errno::LOOP) => refused(),
            Failure::Write(error) => UnpackError::Write(path.to_owned(), error.into()),
        })
    }

    /// Where an entry goes; `None` where it would climb.
    fn place_of(&self, path: &Path) -> Option<PathBuf> {
        let clean = beneath(path)?;
        let mut names = clean.components();
        match (&self.called, names.next()) {
            (Some(called), Some(_)) => {
                Some(std::iter::once(called.as_ref()).chain(names.map(|c| c.as_os_str())).collect())
            }
            (Some(_) | None, _) => Some(clean),
        }
    }

    /// The directory at `path`, which is made where it is missing.
    fn dir(&self, path: &Path) -> rustix::io::Result<OwnedFd> {
        let open = |path: &Path| {
            let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
            fs::openat2(&self.top, path, flags, Mode::empty(), resolve)
        };
        match open(path) {
            Err(Errno::NOENT) => {}
            result => return result,
        }
        let mut sofar = PathBuf::new();
        for component in path.components() {
            let parent = open(&sofar)?;
            sofar.push(component);
            match open(&sofar) {
                Err(Errno::NOENT) => {
                    let name = component.as_os_str();
                    fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755))?;
                    if let Some((uid, gid)) = self.owner.map(Owner::ids) {
                        fs::chownat(&parent, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
                    }
                }
                result => _ = result?,
            }
        }
        open(path)
    }

    fn place<'a>(&mut self, path: &'a Path) -> rustix::io::Result<(Rc<OwnedFd>, &'a OsStr)> {
        let name = path.file_name().ok_or(Errno::INVAL)?;
        let parent = path.parent().unwrap_or(Path::new(""));
        let dir = match &self.last {
            Some((last, dir)) if last == parent => dir.clone(),
            Some(_) | None => {
                let dir = Rc::new(self.dir(parent)?);
                self.last = Some((parent.to_owned(), dir.clone()));
                dir
            }
        };
        Ok((dir, name))
    }

    fn directory(&mut self, path: &Path) -> Result<(), Failure> {
        let (dir, name) = self.place(path)?;
        match fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => return Ok(()),
            Ok(_) => fs::unlinkat(&dir, name, AtFlags::empty())?,
            Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(fs::mkdirat(&dir, name, Mode::RWXU)?)
    }

    fn file(&mut self, content: &mut impl Read, path: &Path, attributes: &Attributes) -> Result<(), Failure> {
        let (dir, name) = self.place(path)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let make = || fs::openat(&dir, name, flags, Mode::from_raw_mode(attributes.mode & 0o777));
        let file = match make() {
            Err(Errno::EXIST) => {
                remove(dir.as_fd(), name)?;
                make()?
            }
            made => made?,
        };
        let mut file = std::fs::File::from(file);
        sparse::copy(content, &mut file, &mut self.buffer)?;
        self.stamps.note(path, &attributes.settle(&file)?);
        Ok(())
    }

    fn special(
        &mut self,
        path: &Path,
        kind: FileType,
        attributes: &Attributes,
        make: impl FnOnce(BorrowedFd<'_>, &OsStr) -> rustix::io::Result<()>,
    ) -> Result<(), Failure> {
        let (dir, name) = self.place(path)?;
        remove(dir.as_fd(), name)?;
        make(dir.as_fd(), name)?;
        Ok(attributes.apply(dir.as_fd(), name, kind)?)
    }

    fn node(
        &mut self,
        path: &Path,
        kind: FileType,
        device: u64,
        attributes: &Attributes,
    ) -> Result<(), Failure> {
        self.special(path, kind, attributes, |dir, name| {
            fs::mknodat(dir, name, kind, Mode::from_raw_mode(0o600), device)
        })
    }

    fn hard_link(&mut self, target: &Path, path: &Path) -> Result<(), Failure> {
        let ((from, from_name), (to, to_name)) = (self.place(target)?, self.place(path)?);
        remove(to.as_fd(), to_name)?;
        Ok(fs::linkat(&from, from_name, &to, to_name, AtFlags::empty())?)
    }

    fn finish(mut self) -> Result<Stamps, UnpackError> {
        for (path, attributes) in std::mem::take(&mut self.dirs).iter().rev() {
            let mut apply = || {
                let (dir, name) = self.place(path)?;
                // A later entry may have put something else in its place.
                let stat = fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
                match FileType::from_raw_mode(stat.st_mode) {
                    FileType::Directory => attributes.apply(dir.as_fd(), name, FileType::Directory),
                    _ => Ok(()),
                }
            };
            apply().map_err(|error: Errno| UnpackError::Write(path.clone(), error.into()))?;
        }
        Ok(self.stamps)
    }
}

/// Why an entry was not made.
enum Failure {
    Read(io::Error),
    Write(Errno),
}

impl From<Errno> for Failure {
    fn from(error: Errno) -> Self {
        Self::Write(error)
    }
}

impl From<sparse::CopyError> for Failure {
    fn from(error: sparse::CopyError) -> Self {
        match error {
            sparse::CopyError::From(cause) => Self::Read(cause),
            sparse::CopyError::To(cause) => Self::Write(Errno::from_io_error(&cause).unwrap_or(Errno::IO)),
        }
    }
}

/// Removes what is in an entry's place, as tar does; a directory that holds something stays, and is an error.
fn remove(dir: BorrowedFd<'_>, name: &OsStr) -> rustix::io::Result<()> {
    match fs::unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(Errno::ISDIR) => fs::unlinkat(dir, name, AtFlags::REMOVEDIR),
        Err(e) => Err(e),
    }
}
