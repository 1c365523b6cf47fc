//! Gives the contents of files of a tree, of those that are not what is known already.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, Read, Seek, Write},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::ffi::OsStringExt,
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{self, AtFlags, Mode, OFlags},
    io::Errno,
};
use sha2::{Digest, Sha256};
use wire::{
    pieces::PIECE,
    tree::{Kind, Known, Picked, Wanted},
};

use super::{
    list::kind,
    place::{Top, beneath},
};

/// Writes what `wanted` asks for of the tree `path` to `out`, in that order.
///
/// # Errors
/// Where something cannot be read or written.
pub fn pick(path: &Path, wanted: &[Wanted], mut out: impl Write) -> io::Result<()> {
    let top = Top::open(path)?;
    for wanted in wanted {
        let path = PathBuf::from(OsString::from_vec(wanted.path.as_bytes().to_vec()));
        // One that climbs leads to nothing in the tree.
        let found = match beneath(&path) {
            Some(path) => pick_one(&top, &path, wanted.known.as_ref(), &mut out)?,
            None => false,
        };
        if !found {
            out.write_all(&Picked::Gone.header())?;
        }
    }
    out.flush()
}

/// False where it is not there.
fn pick_one(top: &Top, path: &Path, known: Option<&Known>, out: &mut impl Write) -> io::Result<bool> {
    let Some((dir, name)) = top.holder(path)? else { return Ok(false) };
    let stat = match fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(Errno::NOENT) => return Ok(false),
        Err(error) => return Err(error.into()),
    };
    match kind(&stat) {
        Some(Kind::File | Kind::Executable) => file(dir.as_fd(), name, known, out),
        Some(Kind::Link) => {
            let target = match fs::readlinkat(&dir, name, Vec::new()) {
                Ok(target) => target.into_bytes(),
                // It is none any more.
                Err(Errno::NOENT | Errno::INVAL) => return Ok(false),
                Err(error) => return Err(error.into()),
            };
            let size = target.len() as u64;
            if is_known(known, Kind::Link, size, || Ok(Sha256::digest(&target).into()))? {
                out.write_all(&Picked::Same.header())?;
            } else {
                out.write_all(&Picked::Content(Kind::Link, size).header())?;
                out.write_all(&target)?;
            }
            Ok(true)
        }
        Some(Kind::Other) | None => Ok(false),
    }
}

fn file(dir: BorrowedFd<'_>, name: &OsStr, known: Option<&Known>, out: &mut impl Write) -> io::Result<bool> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let mut file = match fs::openat(dir, name, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        // The last is of a socket, or of a device that nobody drives.
        Err(Errno::NOENT | Errno::LOOP | Errno::NXIO) => return Ok(false),
        Err(error) => return Err(error.into()),
    };
    // What is open counts, which need not be what was looked at: a device would be read without an end.
    let stat = fs::fstat(&file)?;
    let Some(kind @ (Kind::File | Kind::Executable)) = kind(&stat) else { return Ok(false) };
    let size = u64::try_from(stat.st_size).unwrap_or_default();
    if is_known(known, kind, size, || hash(&mut file, size))? {
        out.write_all(&Picked::Same.header())?;
        return Ok(true);
    }
    file.rewind()?;
    out.write_all(&Picked::Content(kind, size).header())?;
    // Its length is promised; one that shrinks meanwhile ends in zeros, one that grows is cut.
    io::copy(&mut file.chain(io::repeat(0)).take(size), out)?;
    Ok(true)
}

fn is_known(
    known: Option<&Known>,
    kind: Kind,
    size: u64,
    digest: impl FnOnce() -> io::Result<[u8; 32]>,
) -> io::Result<bool> {
    let Some(known) = known.filter(|known| known.may_be(kind, size)) else { return Ok(false) };
    Ok(model::hex::encode(&digest()?) == known.sha256)
}

/// The digest of the first `size` bytes: one that grows meanwhile is read no further.
fn hash(file: &mut File, size: u64) -> io::Result<[u8; 32]> {
    let mut content = file.take(size);
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; PIECE];
    loop {
        match content.read(&mut buffer)? {
            0 => return Ok(hasher.finalize().into()),
            count => hasher.update(&buffer[..count]),
        }
    }
}
