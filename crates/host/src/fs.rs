//! Files and directories. What is written is either there whole or not there.

mod copy;

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

pub use self::copy::{clone_sparse, clone_watched, shares_blocks};
use crate::{Error, Result};

/// Opens `path` for reading.
///
/// # Errors
/// Where it cannot be opened.
pub fn open(path: &Path) -> Result<File> {
    File::open(path).map_err(|e| Error::path("open", path, e))
}

/// Opens the directory `path` for nothing but being that directory.
///
/// # Errors
/// Where there is none, or it is a link.
pub fn open_place(path: &Path) -> Result<std::os::fd::OwnedFd> {
    use rustix::fs::OFlags;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, rustix::fs::Mode::empty()).map_err(|e| Error::path("open", path, e))
}

/// Opens `path` for reading and writing; it must exist.
///
/// # Errors
/// Where it cannot be opened.
pub fn open_rw(path: &Path) -> Result<File> {
    OpenOptions::new().read(true).write(true).open(path).map_err(|e| Error::path("open", path, e))
}

/// Opens `path` for appending, making it with mode 0600 where it is missing.
///
/// # Errors
/// Where it cannot be opened.
pub fn append(path: &Path) -> Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
        .map_err(|e| Error::path("open", path, e))
}

/// Makes the new file `path`, mode 0600, open for reading and writing.
///
/// # Errors
/// Where it exists already or cannot be made.
pub fn create_new(path: &Path) -> Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(|e| Error::path("create", path, e))
}

/// Everything that is in `path`.
///
/// # Errors
/// Where it cannot be read.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(|e| Error::path("read", path, e))
}

/// The first `limit` bytes of `path`, refusing a longer file.
///
/// # Errors
/// Where it cannot be read or is longer than that.
pub fn read_limited(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(path)?.take(limit + 1).read_to_end(&mut bytes).map_err(|e| Error::path("read", path, e))?;
    if bytes.len() as u64 > limit {
        return Err(Error::path("read", path, io::Error::from(io::ErrorKind::FileTooLarge)));
    }
    Ok(bytes)
}

/// The same for a file that decides what a privileged program does: it must be a regular file with one name that belongs to root,
/// in a directory that does, and only root may write to either.
///
/// # Errors
/// Where that does not hold, or it cannot be read or is longer.
pub fn read_of_root(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let flags = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path);
    let file = file.map_err(|e| Error::path("open", path, e))?;
    // The file that is read is the one that is looked at.
    let meta = file.metadata().map_err(|e| Error::path("stat", path, e))?;
    let refuse = |why: &str| Error::path("trust", path, io::Error::new(io::ErrorKind::PermissionDenied, why));
    if !meta.is_file() || meta.nlink() != 1 {
        return Err(refuse("it is no regular file with one name"));
    }
    require_root(path, &meta)?;
    require_root_directory(path)?;
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes).map_err(|e| Error::path("read", path, e))?;
    if bytes.len() as u64 > limit {
        return Err(Error::path("read", path, io::ErrorKind::FileTooLarge));
    }
    Ok(bytes)
}

/// The program at `path`, its links followed, which only root can have written: it and its directory belong to root, and nobody
/// else may write to them.
///
/// # Errors
/// Where there is none, or it could be another's.
pub fn program_of_root(path: &Path) -> Result<PathBuf> {
    let real = real_path(path)?;
    let meta = fs::symlink_metadata(&real).map_err(|e| Error::path("stat", &real, e))?;
    if !meta.is_file() || meta.mode() & 0o111 == 0 {
        let cause = io::Error::new(io::ErrorKind::PermissionDenied, "it is no program");
        return Err(Error::path("trust", &real, cause));
    }
    require_root(&real, &meta)?;
    require_root_directory(&real)?;
    Ok(real)
}

fn require_root_directory(path: &Path) -> Result<()> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    let meta = fs::metadata(directory).map_err(|e| Error::path("stat", directory, e))?;
    require_root(directory, &meta)
}

fn require_root(path: &Path, meta: &fs::Metadata) -> Result<()> {
    let why = match (meta.uid(), meta.mode() & 0o022) {
        (0, 0) => return Ok(()),
        (0, _) => "others than root may write to it",
        _ => "it does not belong to root",
    };
    Err(Error::path("trust", path, io::Error::new(io::ErrorKind::PermissionDenied, why)))
}

/// The file that `descriptor` stands for, found by its name in the mounts of this process and not opened for anything; whoever
/// opened it may have had others. It has more than its name in common: it is the same file.
///
/// # Errors
/// Where it has no name here, or a link leads there.
pub fn find_again(descriptor: impl std::os::fd::AsFd) -> Result<std::os::fd::OwnedFd> {
    use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
    let number = std::os::fd::AsRawFd::as_raw_fd(&descriptor.as_fd());
    let link = PathBuf::from(format!("/proc/self/fd/{number}"));
    let path = fs::read_link(&link).map_err(|e| Error::path("read", &link, e))?;
    let error = |e: rustix::io::Errno| Error::path("find", &path, e);
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let found = rustix::fs::openat2(CWD, &path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS);
    let found = found.map_err(error)?;
    let (theirs, ours) = (rustix::fs::fstat(descriptor), rustix::fs::fstat(&found));
    let (theirs, ours) = (theirs.map_err(error)?, ours.map_err(error)?);
    if (theirs.st_dev, theirs.st_ino) != (ours.st_dev, ours.st_ino) {
        return Err(Error::path("find", &path, io::Error::other("another file is there")));
    }
    Ok(found)
}

/// A file that is nowhere, called `name` only in lists of open files, and holds `bytes`.
///
/// # Errors
/// Where there is no memory for it.
pub fn memory_file(name: &str, bytes: &[u8]) -> Result<File> {
    let make = || -> io::Result<File> {
        let mut file = File::from(rustix::fs::memfd_create(name, rustix::fs::MemfdFlags::CLOEXEC)?);
        file.write_all(bytes)?;
        io::Seek::rewind(&mut file)?;
        Ok(file)
    };
    make().map_err(|e| Error::new("make", "a file in memory", e))
}

/// Writes `value` to the setting of the kernel at `path`, as below `/proc/sys`.
///
/// # Errors
/// Where there is none, or it does not take that.
pub fn set_value(path: &Path, value: &str) -> Result<()> {
    let file = OpenOptions::new().write(true).open(path);
    file.and_then(|mut file| file.write_all(value.as_bytes())).map_err(|e| Error::path("set", path, e))
}

/// Gives what is at `path` to `uid`; its group stays.
///
/// # Errors
/// Where it is not there, or this is not root.
pub fn give(path: &Path, uid: u32) -> Result<()> {
    std::os::unix::fs::lchown(path, Some(uid), None).map_err(|e| Error::path("give away", path, e))
}

/// The text in `path`.
///
/// # Errors
/// Where it cannot be read or is not UTF-8.
pub fn read_text(path: &Path) -> Result<String> {
    fs::read_to_string(path).map_err(|e| Error::path("read", path, e))
}

/// Puts `bytes` at `path`, mode 0600: a crash leaves the old content or the new, synced, never a part.
///
/// # Errors
/// Where it cannot be written; nothing is left then.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    let staged = staged(path);
    match fs::remove_file(&staged) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(Error::path("remove", &staged, e)),
        _ => {}
    }
    let put = || -> Result<()> {
        let mut file = create_new(&staged)?;
        file.write_all(bytes).and_then(|()| file.sync_all()).map_err(|e| Error::path("write", &staged, e))?;
        rename(&staged, path)
    };
    put().inspect_err(|_| {
        let _ = fs::remove_file(&staged);
    })
}

/// What the file or directory `path` is called until it is as it is to be.
fn staged(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    path.with_file_name(name)
}

/// Renames `from` to `to`, replacing a file that is there, and makes it durable.
///
/// # Errors
/// Where the rename fails.
pub fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to)
        .map_err(|e| Error::new("rename", format_args!("{} to {}", from.display(), to.display()), e))?;
    to.parent().map_or(Ok(()), sync_dir)
}

/// Moves file `from` to `to`, where nothing is, also onto another file system: it is there whole or not at all, and durable.
///
/// # Errors
/// Where that fails; `from` is still there then.
pub fn move_file(from: &Path, to: &Path) -> Result<()> {
    if fs::rename(from, to).is_ok() {
        return to.parent().map_or(Ok(()), sync_dir);
    }
    let mut name = std::ffi::OsString::from("tmp_");
    name.push(to.file_name().unwrap_or_default());
    let staged = to.with_file_name(name);
    let put = || -> Result<()> {
        fs::copy(from, &staged).map_err(|e| Error::path("copy", from, e))?;
        open(&staged)?.sync_all().map_err(|e| Error::path("sync", &staged, e))?;
        rename(&staged, to)
    };
    put().inspect_err(|_| {
        let _ = fs::remove_file(&staged);
    })?;
    remove(from)
}

/// Makes the entries of directory `path` durable.
///
/// # Errors
/// Where it cannot be opened or synced.
pub fn sync_dir(path: &Path) -> Result<()> {
    open(path)?.sync_all().map_err(|e| Error::path("sync", path, e))
}

/// Removes file `path`; a missing one is fine.
///
/// # Errors
/// Where it is there and cannot be removed.
pub fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::path("remove", path, e)),
        _ => Ok(()),
    }
}

/// Removes directory `path` and all below, following no link, or whatever lies there instead; a missing one is fine.
///
/// # Errors
/// Where it is there and cannot be removed.
pub fn remove_all(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() == io::ErrorKind::NotADirectory => remove(path),
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::path("remove", path, e)),
        _ => Ok(()),
    }
}

/// Makes directory `path`, mode 0700; its parent must exist and it must not.
///
/// # Errors
/// Where it cannot be made.
pub fn create_dir(path: &Path) -> Result<()> {
    fs::DirBuilder::new().mode(0o700).create(path).map_err(|e| Error::path("create", path, e))
}

/// Makes sure that `path` is a directory of this user with mode 0700, making it and its parents where they are missing.
///
/// # Errors
/// Where it is a symbolic link, somebody else's, no directory, or cannot be made.
pub fn private_dir(path: &Path) -> Result<()> {
    fs::DirBuilder::new()
        .mode(0o700)
        .recursive(true)
        .create(path)
        .map_err(|e| Error::path("create", path, e))?;
    match openness(path, 0o700)? {
        Openness::Private => Ok(()),
        Openness::Shared(_) => restrict(path, 0o700),
        Openness::Foreign => Err(Error::path("use", path, io::Error::other("it belongs to another user"))),
        Openness::Link => Err(Error::path("use", path, io::Error::other("it is a symbolic link"))),
    }
}

/// Makes sure that `path` is a directory that all may enter, making it and its parents where they are missing; one that is there
/// stays as it is. A crash leaves none that nobody may enter.
///
/// # Errors
/// Where it is no directory, or cannot be made.
pub fn public_dir(path: &Path) -> Result<()> {
    if is_dir(path) {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        public_dir(parent)?;
    }
    let staged = staged(path);
    if !is_dir(&staged) {
        create_dir(&staged)?;
    }
    restrict(&staged, 0o755)?;
    rename(&staged, path)
}

/// Removes the empty directory `path`, which is there.
///
/// # Errors
/// Where it is missing, not empty, or in use.
pub fn remove_dir(path: &Path) -> Result<()> {
    fs::remove_dir(path).map_err(|e| Error::path("remove", path, e))
}

/// Removes directory `path` where it is empty; a missing one, and one with something in it, is fine.
///
/// # Errors
/// Where it is empty and cannot be removed.
pub fn remove_empty_dir(path: &Path) -> Result<()> {
    use io::ErrorKind::{DirectoryNotEmpty, NotFound};
    match fs::remove_dir(path) {
        Err(e) if ![NotFound, DirectoryNotEmpty].contains(&e.kind()) => Err(Error::path("remove", path, e)),
        _ => Ok(()),
    }
}

/// Who may use what is at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Openness {
    /// This user only.
    Private,
    /// Others too: it has these permission bits.
    Shared(u32),
    /// It belongs to another user.
    Foreign,
    /// It is a symbolic link.
    Link,
}

/// Who may use what is at `path`, whose permission bits should be `mode`.
///
/// # Errors
/// Where it cannot be looked at.
pub fn openness(path: &Path, mode: u32) -> Result<Openness> {
    let meta = fs::symlink_metadata(path).map_err(|e| Error::path("stat", path, e))?;
    Ok(if meta.is_symlink() {
        Openness::Link
    } else if meta.uid() != rustix::process::geteuid().as_raw() {
        Openness::Foreign
    } else if meta.mode() & 0o777 != mode {
        Openness::Shared(meta.mode() & 0o777)
    } else {
        Openness::Private
    })
}

/// Gives what is at `path` the permission bits `mode`.
///
/// # Errors
/// Where it is not there or not this user's.
pub fn restrict(path: &Path, mode: u32) -> Result<()> {
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode))
        .map_err(|e| Error::path("restrict", path, e))
}

/// The names in directory `path`, sorted; none where it is missing.
///
/// # Errors
/// Where it is there and cannot be read.
pub fn list(path: &Path) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(Error::path("list", path, e)),
    };
    let mut found = entries
        .map(|entry| entry.map(|e| e.path()))
        .collect::<io::Result<Vec<_>>>()
        .map_err(|e| Error::path("list", path, e))?;
    found.sort();
    Ok(found)
}

/// Whether something is at `path`, also a dangling link.
#[must_use]
pub fn exists(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

/// Whether `path`, its links followed, is a directory.
#[must_use]
pub fn is_dir(path: &Path) -> bool {
    path.is_dir()
}

/// Whether `path`, its links followed, is a regular file.
#[must_use]
pub fn is_file(path: &Path) -> bool {
    path.is_file()
}

/// Where `path` leads through all links.
///
/// # Errors
/// Where it leads nowhere.
pub fn real_path(path: &Path) -> Result<PathBuf> {
    fs::canonicalize(path).map_err(|e| Error::path("find", path, e))
}

/// Where the symbolic link `path` points; `None` where it is none.
///
/// # Errors
/// Where nothing is there.
pub fn read_link(path: &Path) -> Result<Option<PathBuf>> {
    let meta = fs::symlink_metadata(path).map_err(|e| Error::path("stat", path, e))?;
    if !meta.is_symlink() {
        return Ok(None);
    }
    fs::read_link(path).map(Some).map_err(|e| Error::path("read", path, e))
}

/// The apparent size of `path` in bytes.
///
/// # Errors
/// Where it cannot be looked at.
pub fn size(path: &Path) -> Result<u64> {
    fs::metadata(path).map(|m| m.len()).map_err(|e| Error::path("stat", path, e))
}

/// What tells a file from a later one at the same path: its size in bytes and its modification time in nanoseconds.
///
/// # Errors
/// Where it cannot be looked at.
pub fn identity(path: &Path) -> Result<(u64, i128)> {
    let meta = fs::metadata(path).map_err(|e| Error::path("stat", path, e))?;
    Ok((meta.len(), i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec())))
}

/// The bytes that the blocks of `path` take on disk.
///
/// # Errors
/// Where it cannot be looked at.
pub fn disk_usage(path: &Path) -> Result<u64> {
    fs::metadata(path).map(|m| m.blocks() * 512).map_err(|e| Error::path("stat", path, e))
}

/// The bytes that this user can still write to the file system of `path`.
///
/// # Errors
/// Where it cannot be asked.
pub fn free_space(path: &Path) -> Result<u64> {
    let stat = rustix::fs::statvfs(path).map_err(|e| Error::path("ask for the free space of", path, e))?;
    Ok(stat.f_bavail * stat.f_frsize)
}

/// Makes the symbolic link `link` to `target`.
///
/// # Errors
/// Where it cannot be made.
pub fn symlink(target: &Path, link: &Path) -> Result<()> {
    std::os::unix::fs::symlink(target, link).map_err(|e| Error::path("link", link, e))
}

/// Gives file `from` the further name `to`.
///
/// # Errors
/// Where it cannot have it.
pub fn hard_link(from: &Path, to: &Path) -> Result<()> {
    fs::hard_link(from, to).map_err(|e| Error::path("link", to, e))
}

/// Makes the file at `path` `length` bytes long, with a hole at its end, where it is shorter.
///
/// # Errors
/// Where it is not there or cannot be written.
pub fn grow(path: &Path, length: u64) -> Result<()> {
    if size(path)? < length {
        open_rw(path)?.set_len(length).map_err(|e| Error::path("enlarge", path, e))?;
    }
    Ok(())
}

/// The inode of `file`, which `path` named when it was opened: two that are open at once have different ones.
///
/// # Errors
/// Where it cannot be asked.
pub fn inode(file: &File, path: &Path) -> Result<u64> {
    Ok(file.metadata().map_err(|e| Error::path("look at", path, e))?.ino())
}

/// Reserves disk space for `length` bytes of `file` from `offset` on, which becomes at least as long as that. Writing there
/// then takes less time. False where the file system cannot or has no such space, which matters only to who then writes.
pub fn reserve(file: &File, offset: u64, length: u64) -> bool {
    rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), offset, length).is_ok()
}

/// Gives the disk space of `length` bytes of `file` from `offset` on back, which then read as zeros, where the file system
/// can; where it cannot they stay as they are.
pub fn punch_hole(file: &File, offset: u64, length: u64) {
    use rustix::fs::FallocateFlags;
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    let _ = rustix::fs::fallocate(file, flags, offset, length);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("banger-host-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        create_dir(&dir).unwrap();
        dir
    }

    #[test]
    fn a_public_directory_is_entered_by_all_also_after_a_crash() {
        let dir = scratch("public");
        // Where a crash left the one that was being made.
        create_dir(&dir.join("a.new")).unwrap();
        public_dir(&dir.join("a/b")).unwrap();
        for made in ["a", "a/b"] {
            assert_eq!(openness(&dir.join(made), 0o755).unwrap(), Openness::Private, "{made}");
        }
        assert_eq!(list(&dir).unwrap(), [dir.join("a")]);
        restrict(&dir.join("a"), 0o711).unwrap();
        public_dir(&dir.join("a/b")).unwrap();
        assert_eq!(openness(&dir.join("a"), 0o711).unwrap(), Openness::Private, "it stays as it is");
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn what_lies_in_the_place_of_a_directory_is_removed_too() {
        let dir = std::env::temp_dir().join(format!("banger-remove-{}", std::process::id()));
        create_dir(&dir).unwrap();
        write_atomic(&dir.join("kept"), b"x").unwrap();
        write_atomic(&dir.join("file"), b"x").unwrap();
        symlink(&dir, &dir.join("link")).unwrap();
        for name in ["file", "link", "missing"] {
            remove_all(&dir.join(name)).unwrap();
        }
        assert_eq!(list(&dir).unwrap(), [dir.join("kept")]);
        remove_all(&dir).unwrap();
    }

    #[test]
    fn only_what_is_roots_alone_is_believed() {
        if crate::proc::own_uid() != 0 {
            // Nothing here is root's then, so all of it is refused.
            assert!(read_of_root(Path::new("/proc/self/status"), 1 << 20).is_err());
            return;
        }
        let dir = scratch("root");
        let file = dir.join("file");
        write_atomic(&file, b"text").unwrap();
        let why = |path: &Path| {
            let error = read_of_root(path, 100).unwrap_err();
            std::error::Error::source(&error).unwrap().to_string()
        };
        assert_eq!(read_of_root(&file, 100).unwrap(), b"text");
        assert_eq!(read_of_root(&file, 3).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        assert_eq!(why(&dir), "it is no regular file with one name");
        symlink(&file, &dir.join("link")).unwrap();
        assert!(read_of_root(&dir.join("link"), 100).is_err());
        assert!(program_of_root(&file).is_err(), "not executable");
        restrict(&file, 0o755).unwrap();
        assert_eq!(program_of_root(&dir.join("link")).unwrap(), real_path(&file).unwrap());
        restrict(&file, 0o775).unwrap();
        assert_eq!(why(&file), "others than root may write to it");
        assert!(program_of_root(&file).is_err());
        restrict(&file, 0o755).unwrap();
        restrict(&dir, 0o777).unwrap();
        assert_eq!(why(&file), "others than root may write to it");
        assert!(program_of_root(&file).is_err());
        restrict(&dir, 0o755).unwrap();
        give(&file, 65534).unwrap();
        assert_eq!(why(&file), "it does not belong to root");
        assert!(program_of_root(&file).is_err());
        give(&file, 0).unwrap();
        hard_link(&file, &dir.join("other")).unwrap();
        assert_eq!(why(&file), "it is no regular file with one name");
        remove_all(&dir).unwrap();
    }

    #[test]
    fn a_clone_keeps_content_and_holes() {
        let dir = scratch("clone");
        let (from, to) = (dir.join("from"), dir.join("to"));
        let mut file = create_new(&from).unwrap();
        file.write_all(b"head").unwrap();
        file.set_len(64 << 20).unwrap();
        rustix::io::pwrite(&file, b"tail", 32 << 20).unwrap();
        clone_sparse(&from, &to).unwrap();
        assert_eq!(read(&from).unwrap(), read(&to).unwrap());
        assert!(disk_usage(&to).unwrap() < 1 << 20, "holes were filled");
        assert!(clone_sparse(&from, &to).is_err(), "an existing file is not overwritten");
        remove_all(&dir).unwrap();
    }

    #[test]
    fn an_atomic_write_replaces_whole() {
        let dir = scratch("atomic");
        let path = dir.join("file");
        write_atomic(&path, b"one").unwrap();
        write_atomic(&path, b"two").unwrap();
        assert_eq!(read(&path).unwrap(), b"two");
        assert_eq!(list(&dir).unwrap(), [path]);
        remove_all(&dir).unwrap();
    }

    #[test]
    fn a_private_directory_is_no_link() {
        let dir = scratch("private");
        private_dir(&dir.join("a/b")).unwrap();
        symlink(&dir.join("a"), &dir.join("link")).unwrap();
        let error = private_dir(&dir.join("link")).unwrap_err();
        assert!(error.to_string().contains("link"), "{error}");
        remove_all(&dir).unwrap();
    }

    #[test]
    fn errors_name_the_path() {
        let error = open(Path::new("/nonexistent/file")).unwrap_err();
        assert_eq!(error.to_string(), "cannot open /nonexistent/file");
        assert!(error.is_missing());
    }
}
