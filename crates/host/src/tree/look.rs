//! Everything that an archive could say of a file below a directory, looked at through no link and without side effects.
//!
//! What lies there is opened once, by its place alone; all that is read afterwards is of that inode, whatever its name leads to by
//! then. Neither a fifo, which would wait for its writer, nor a device, which may do something, is opened for reading.

use std::{
    fs::File,
    ops::Range,
    os::fd::{AsRawFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{self, FileType, Mode, OFlags, SeekFrom, Stat},
    io::Errno,
};

use super::{Tree, make::here};
use crate::{Error, Result};

/// The most bytes of an extended attribute, and of all their names (Linux, `limits.h`).
const LONGEST_ATTRIBUTE: usize = 64 << 10;

/// Something below a directory.
#[derive(Debug)]
pub struct Found {
    place: OwnedFd,
    stat: Stat,
    path: PathBuf,
}

/// What something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A regular file of so many bytes.
    File(u64),
    /// A symbolic link.
    Link,
    /// A character device.
    CharacterDevice(u32, u32),
    /// A block device.
    BlockDevice(u32, u32),
    /// A named pipe.
    Pipe,
    /// A socket, which nobody but its process can use.
    Socket,
}

impl Tree {
    /// What lies at `path` below it; `None` where nothing does, or it would be reached through a link.
    ///
    /// # Errors
    /// Where it cannot be looked at.
    pub fn find(&self, path: &Path) -> Result<Option<Found>> {
        let whole = self.path.join(path);
        let error = |e: Errno| Error::path("look at", &whole, e);
        let Some(place) = self.at(here(path), OFlags::PATH).map_err(error)? else { return Ok(None) };
        let stat = fs::fstat(&place).map_err(error)?;
        Ok(Some(Found { place, stat, path: whole }))
    }
}

impl Found {
    /// What it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        let device = || (fs::major(self.stat.st_rdev), fs::minor(self.stat.st_rdev));
        match FileType::from_raw_mode(self.stat.st_mode) {
            FileType::Directory => Kind::Directory,
            FileType::RegularFile => Kind::File(u64::try_from(self.stat.st_size).unwrap_or_default()),
            FileType::Symlink => Kind::Link,
            FileType::CharacterDevice => Kind::CharacterDevice(device().0, device().1),
            FileType::BlockDevice => Kind::BlockDevice(device().0, device().1),
            FileType::Fifo => Kind::Pipe,
            FileType::Socket | FileType::Unknown => Kind::Socket,
        }
    }

    /// Where it was found.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its permissions, the bits of chmod(2).
    #[must_use]
    pub fn mode(&self) -> u16 {
        (self.stat.st_mode & 0o7777) as u16
    }

    /// Whom it belongs to: user and group.
    #[must_use]
    pub fn owner(&self) -> (u32, u32) {
        (self.stat.st_uid, self.stat.st_gid)
    }

    /// When its content was changed: seconds since the Unix epoch, and nanoseconds.
    #[must_use]
    pub fn modified(&self) -> (i64, u32) {
        (self.stat.st_mtime, u32::try_from(self.stat.st_mtime_nsec).unwrap_or_default())
    }

    /// What no other file of this host has: its file system and its number there.
    #[must_use]
    pub fn identity(&self) -> (u64, u64) {
        (self.stat.st_dev, self.stat.st_ino)
    }

    /// How many names it has.
    #[must_use]
    pub fn names(&self) -> u64 {
        #[expect(clippy::useless_conversion, reason = "it has 32 bits on some architectures")]
        u64::from(self.stat.st_nlink)
    }

    /// The target of a link.
    ///
    /// # Errors
    /// Where it is none.
    pub fn target(&self) -> Result<Vec<u8>> {
        let target = fs::readlinkat(&self.place, "", Vec::new());
        Ok(target.map_err(|e| Error::path("read", &self.path, e))?.into_bytes())
    }

    /// A regular file, opened for reading.
    ///
    /// # Errors
    /// Where it cannot be opened.
    pub fn open(&self) -> Result<File> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY;
        let opened = fs::open(self.inode(), flags, Mode::empty());
        opened.map(File::from).map_err(|e| Error::path("open", &self.path, e))
    }

    /// Its extended attributes that this process may read, sorted by name.
    ///
    /// # Errors
    /// Where they cannot be read.
    pub fn attributes(&self) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let error = |e: Errno| Error::path("read the attributes of", &self.path, e);
        let inode = self.inode();
        // Most files have none, and some file systems know none.
        let mut few = [0; 1024];
        let names = match fs::listxattr(&inode, &mut few[..]) {
            Ok(0) | Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
            Ok(length) => few[..length].to_vec(),
            Err(Errno::RANGE) => {
                let mut names = vec![0; LONGEST_ATTRIBUTE];
                let length = fs::listxattr(&inode, &mut names[..]).map_err(error)?;
                names.truncate(length);
                names
            }
            Err(e) => return Err(error(e)),
        };
        let mut found = Vec::new();
        let mut value = vec![0; LONGEST_ATTRIBUTE];
        for name in names.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
            match fs::getxattr(&inode, name, &mut value[..]) {
                Ok(length) => found.push((name.to_vec(), value[..length].to_vec())),
                // It went meanwhile, or is the business of somebody else.
                Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::PERM | Errno::ACCESS) => {}
                Err(e) => return Err(error(e)),
            }
        }
        found.sort_unstable();
        Ok(found)
    }

    /// A name of the inode itself, which no rename changes; a link is not followed by it.
    fn inode(&self) -> String {
        format!("/proc/self/fd/{}", self.place.as_raw_fd())
    }
}

/// The parts of the first `size` bytes of `file` that are more than holes; after `most` of them all that is left is one.
///
/// # Errors
/// Where it cannot be read.
pub fn data(file: &File, size: u64, most: usize) -> std::io::Result<Vec<Range<u64>>> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < size {
        if found.len() == most {
            found.push(at..size);
            break;
        }
        let begin = match fs::seek(file, SeekFrom::Data(at)) {
            Ok(begin) if begin < size => begin,
            Ok(_) | Err(Errno::NXIO) => break, // only a hole is left
            Err(e) => return Err(e.into()),
        };
        let end = fs::seek(file, SeekFrom::Hole(begin))?.min(size);
        found.push(begin..end);
        at = end;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn a_thing_is_what_it_was_when_it_was_found() {
        let dir = std::env::temp_dir().join(format!("banger-host-look-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        crate::fs::private_dir(&dir.join("top")).unwrap();
        crate::fs::write_atomic(&dir.join("secret"), b"secret").unwrap();
        crate::fs::write_atomic(&dir.join("top/file"), b"content").unwrap();
        crate::fs::symlink(Path::new("../secret"), &dir.join("top/link")).unwrap();
        fs::mknodat(fs::CWD, dir.join("top/pipe"), FileType::Fifo, Mode::RUSR, 0).unwrap();
        let tree = Tree::open(&dir.join("top")).unwrap();
        let find = |path: &str| tree.find(Path::new(path)).unwrap();
        let kind = |path: &str| find(path).map(|found| found.kind());
        assert_eq!(kind(""), Some(Kind::Directory));
        assert_eq!((kind("link"), kind("pipe")), (Some(Kind::Link), Some(Kind::Pipe)));
        assert_eq!((kind("../secret"), kind("link/x"), kind("none")), (None, None, None));
        assert_eq!(find("link").unwrap().target().unwrap(), b"../secret");
        // Attributes of a link are its own, of which an ordinary user can give it none.
        assert_eq!(find("link").unwrap().attributes().unwrap(), []);
        let file = find("file").unwrap();
        assert_eq!((file.kind(), file.mode(), file.names()), (Kind::File(7), 0o600, 1));
        // Somebody puts a link in its place.
        crate::fs::remove(&dir.join("top/file")).unwrap();
        crate::fs::symlink(Path::new("../secret"), &dir.join("top/file")).unwrap();
        assert_eq!(std::io::read_to_string(file.open().unwrap()).unwrap(), "content");
        crate::fs::remove_all(&dir).unwrap();
    }

    #[test]
    fn holes_are_seen() {
        let path = std::env::temp_dir().join(format!("banger-host-holes-{}", std::process::id()));
        let file = crate::fs::create_new(&path).unwrap();
        file.set_len(4 << 20).unwrap();
        for at in [0, 1 << 20, 3 << 20] {
            file.write_all_at(&[1; 4096], at).unwrap();
        }
        let parts = [0..4096, 1 << 20..(1 << 20) + 4096, 3 << 20..(3 << 20) + 4096];
        let read = |most| data(&file, 4 << 20, most).unwrap();
        // A file system without holes has one part.
        if read(9).len() > 1 {
            assert_eq!(read(9), parts);
            assert_eq!(read(1), [0..4096, 4096..4 << 20]);
        }
        assert_eq!(data(&file, 0, 9).unwrap(), []);
        crate::fs::remove(&path).unwrap();
    }
}
