//! Tells what lies in a tree.

use std::{
    ffi::OsStr,
    io::{self, BufWriter, Write},
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
};

use host::stamp;
use rustix::{
    fs::{self, AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat},
    io::Errno,
};
use wire::{
    pieces::PIECE,
    tree::{Entry, Kind, Line},
};

use super::place::Top;

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// The bits by which a program runs as its owner or group.
const SET_ID: u32 = 0o6000;

/// Writes the lines of a listing of `path` to `out`. No link is followed; nothing called `.git` is listed or entered.
///
/// # Errors
/// Where something cannot be looked at or written. What goes meanwhile is left out.
pub fn list(path: &Path, out: impl Write) -> io::Result<()> {
    let top = Top::open(path)?;
    let mut out = BufWriter::with_capacity(PIECE, out);
    let mut todo = vec![PathBuf::new()];
    let mut count = 0;
    while let Some(path) = todo.pop() {
        let place = if path.as_os_str().is_empty() { Path::new(".") } else { &path };
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let dir = match fs::openat2(&top, place, DIRECTORY, Mode::empty(), resolve) {
            Ok(dir) => dir,
            // It was replaced or removed since it was listed.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) if !path.as_os_str().is_empty() => continue,
            Err(error) => return Err(error.into()),
        };
        for entry in fs::Dir::read_from(&dir)? {
            let entry = entry?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name == "." || name == ".." || name == ".git" {
                continue;
            }
            let stat = match fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                Err(Errno::NOENT) => continue,
                Err(error) => return Err(error.into()),
            };
            let path = path.join(name);
            let Some(kind) = kind(&stat) else {
                todo.push(path);
                continue;
            };
            let size = u64::try_from(stat.st_size).unwrap_or_default();
            let path = path.into_os_string().into_vec().into();
            let (stamp, fresh) = match kind {
                Kind::File | Kind::Executable => (Some(stamp::of(&stat)), stamp::is_fresh(&stat)),
                Kind::Link | Kind::Other => (None, false),
            };
            let set_id = stamp.is_some() && stat.st_mode & SET_ID != 0;
            line(&mut out, &Line::Entry(Entry { path, kind, size, stamp, fresh, set_id }))?;
            count += 1;
        }
    }
    line(&mut out, &Line::End(count))?;
    out.into_inner().map_err(io::IntoInnerError::into_error)?.flush()
}

/// What it is to git; `None` for a directory.
pub fn kind(stat: &Stat) -> Option<Kind> {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => None,
        FileType::RegularFile if stat.st_mode & 0o100 != 0 => Some(Kind::Executable),
        FileType::RegularFile => Some(Kind::File),
        FileType::Symlink => Some(Kind::Link),
        FileType::Fifo
        | FileType::Socket
        | FileType::CharacterDevice
        | FileType::BlockDevice
        | FileType::Unknown => Some(Kind::Other),
    }
}

fn line(out: &mut impl Write, line: &Line) -> io::Result<()> {
    serde_json::to_writer(&mut *out, line)?;
    out.write_all(b"\n")
}
