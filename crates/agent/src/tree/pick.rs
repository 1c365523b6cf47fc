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
        Some(kind @ (Kind::File | Kind::Executable)) => file(dir.as_fd(), name, kind, known, out),
        Some(Kind::Link) => {
            let target = fs::readlinkat(&dir, name, Vec::new())?.into_bytes();
            if is_known(known, Kind::Link, || Ok(Sha256::digest(&target).into()))? {
                out.write_all(&Picked::Same.header())?;
            } else {
                out.write_all(&Picked::Content(Kind::Link, target.len() as u64).header())?;
                out.write_all(&target)?;
            }
            Ok(true)
        }
        Some(Kind::Other) | None => Ok(false),
    }
}

fn file(
    dir: BorrowedFd<'_>,
    name: &OsStr,
    kind: Kind,
    known: Option<&Known>,
    out: &mut impl Write,
) -> io::Result<bool> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let mut file = match fs::openat(dir, name, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(Errno::NOENT | Errno::LOOP) => return Ok(false),
        Err(error) => return Err(error.into()),
    };
    if is_known(known, kind, || hash(&mut file))? {
        out.write_all(&Picked::Same.header())?;
        return Ok(true);
    }
    file.rewind()?;
    let size = file.metadata()?.len();
    out.write_all(&Picked::Content(kind, size).header())?;
    // Its length is promised; one that shrinks meanwhile ends in zeros, one that grows is cut.
    io::copy(&mut file.chain(io::repeat(0)).take(size), out)?;
    Ok(true)
}

fn is_known(
    known: Option<&Known>,
    kind: Kind,
    digest: impl FnOnce() -> io::Result<[u8; 32]>,
) -> io::Result<bool> {
    let Some(known) = known.filter(|known| known.kind == kind) else { return Ok(false) };
    Ok(model::hex::encode(&digest()?) == known.sha256)
}

fn hash(file: &mut File) -> io::Result<[u8; 32]> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; PIECE];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finalize().into()),
            count => hasher.update(&buffer[..count]),
        }
    }
}
