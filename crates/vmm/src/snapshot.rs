//! The seam of memory snapshots: a machine that runs is held, saved and let go on; another one begins where it was saved.
//!
//! ```text
//! running ──pause──▶ held ──save──▶ held ──resume──▶ running
//!                                    │
//!                    Saved (files) ──┴─▶ Backend::spawn with MachinePlan::saved ──▶ running, from that moment on
//! ```
//! What is saved is memory and devices. Disks are files that whoever holds the machine copies while it is held.

use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use host::fs;
use sha2::{Digest, Sha256};

use crate::{ControlError, Future};

/// What a VMM reads whole when it restores, and what is therefore known by its digest.
pub const STATE: &str = "state";
/// Memory that a VMM maps and reads as it is needed, where it has that in a file of its own.
pub const MEMORY: &str = "memory";

/// Bytes that are handed on at once.
const PIECE: usize = 256 << 10;
/// A side that takes or gives nothing for so long has gone wrong.
const STALLED: Duration = Duration::from_secs(30);

/// What a machine that can be saved does for that.
pub trait Snapshots: Send + Sync {
    /// Holds the guest. When it resolves nothing of it runs, and all that it wrote is in its disks' files.
    fn pause(&self) -> Future<'_, Result<(), ControlError>>;

    /// Writes memory and devices of the held machine to new files of `directory`, of at most `limit` bytes together.
    ///
    /// The machine is held afterwards, whatever came of it. Dropping the future gives up; [`Snapshots::resume`] ends what is under
    /// way then. What is written is complete only where this resolves to it, and not synchronised to its disk.
    fn save(&self, directory: PathBuf, limit: u64) -> Future<'_, Result<Saved, SaveError>>;

    /// Lets the guest go on, also where a save was given up half-way. Fine where it runs.
    fn resume(&self) -> Future<'_, Result<(), ControlError>>;
}

/// A machine that was saved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Saved {
    /// Where its files are.
    pub directory: PathBuf,
    /// All of them.
    pub files: Vec<SavedFile>,
}

/// One file of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SavedFile {
    /// [`STATE`] or [`MEMORY`].
    pub name: String,
    /// Its length in bytes.
    pub size: u64,
    /// Its sha256 in hexadecimal, where it is read whole.
    pub sha256: Option<String>,
}

/// Why a machine could not be saved.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    /// The VMM did not do it.
    #[error("the VMM did not save the machine")]
    Control(#[from] ControlError),
    /// Its files cannot be written.
    #[error("cannot write the machine's memory")]
    Write(#[source] host::Error),
    /// It wrote more than there is.
    #[error("the VMM wrote more than the {0} bytes that the machine can have")]
    TooLarge(u64),
}

/// Why what was saved is not what is there.
#[derive(Debug, thiserror::Error)]
pub enum Damage {
    /// It cannot be read.
    #[error(transparent)]
    Read(#[from] host::Error),
    /// Its size is another one.
    #[error("{file} has {found} bytes instead of {size}")]
    Size {
        /// The file.
        file: PathBuf,
        /// How many there are.
        found: u64,
        /// How many there were.
        size: u64,
    },
    /// Its digest is another one.
    #[error("{0} is not what was saved: its sha256 is another one")]
    Digest(PathBuf),
    /// One that is needed was never saved.
    #[error("there is no file {0:?} in it")]
    Missing(&'static str),
}

impl Saved {
    /// The path and what is known of the file `name`, after a look at its size.
    pub(crate) fn file(&self, name: &'static str) -> Result<(PathBuf, &SavedFile), Damage> {
        let known = self.files.iter().find(|file| file.name == name).ok_or(Damage::Missing(name))?;
        let path = self.directory.join(name);
        let found = fs::size(&path)?;
        if found != known.size {
            return Err(Damage::Size { file: path, found, size: known.size });
        }
        Ok((path, known))
    }

    /// Reads the file `name` to its end, gives each piece to `take` for as long as that wants more, and compares its digest.
    pub(crate) fn read(
        &self,
        name: &'static str,
        mut take: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<(), Damage> {
        let (path, known) = self.file(name)?;
        let mut file = fs::open(&path)?;
        let mut buffer = vec![0; PIECE];
        let mut taking = true;
        let mut hash = Sha256::new();
        loop {
            let count = file.read(&mut buffer).map_err(|e| host::Error::path("read", &path, e))?;
            if count == 0 {
                break;
            }
            hash.update(&buffer[..count]);
            // What is wrong with the file says more than that nobody wants the rest.
            taking = taking && take(&buffer[..count]).is_ok();
        }
        let found = model::hex::encode(&hash.finalize());
        match &known.sha256 {
            Some(sha256) if *sha256 != found => Err(Damage::Digest(path)),
            Some(_) | None => Ok(()),
        }
    }
}

/// Sends what was saved as `name` into `stream`, and ends that.
pub(crate) fn feed(saved: &Saved, name: &'static str, stream: &UnixStream) -> Result<(), Damage> {
    let _ = stream.set_write_timeout(Some(STALLED));
    let mut writer = stream;
    let sent = saved.read(name, |piece| writer.write_all(piece));
    let _ = stream.shutdown(std::net::Shutdown::Both);
    sent
}

/// Writes what comes from `stream` to the new file `name` of `directory`, until its end.
pub(crate) fn collect(
    mut stream: impl Read,
    directory: &Path,
    name: &'static str,
    limit: u64,
) -> Result<SavedFile, SaveError> {
    let path = directory.join(name);
    let fail = |action, e| SaveError::Write(host::Error::path(action, &path, e));
    let mut file = fs::create_new(&path).map_err(SaveError::Write)?;
    let mut buffer = vec![0; PIECE];
    let mut hash = Sha256::new();
    let mut size = 0;
    loop {
        let count = stream.read(&mut buffer).map_err(|e| fail("receive", e))?;
        if count == 0 {
            return Ok(SavedFile {
                name: name.to_owned(),
                size,
                sha256: Some(model::hex::encode(&hash.finalize())),
            });
        }
        size += count as u64;
        if size > limit {
            return Err(SaveError::TooLarge(limit));
        }
        hash.update(&buffer[..count]);
        file.write_all(&buffer[..count]).map_err(|e| fail("write", e))?;
    }
}

/// Has a socket's reader give up one that stalls.
pub(crate) fn impatient(stream: UnixStream) -> io::Result<UnixStream> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(STALLED))?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("banger-saved-{name}-{}", std::process::id()));
        fs::remove_all(&dir).unwrap();
        fs::create_dir(&dir).unwrap();
        dir
    }

    fn saved(directory: &Path, bytes: &[u8], limit: u64) -> Result<Saved, SaveError> {
        let file = collect(bytes, directory, STATE, limit)?;
        Ok(Saved { directory: directory.to_owned(), files: vec![file] })
    }

    #[test]
    fn what_is_saved_is_read_back_and_what_was_changed_is_refused() {
        let dir = scratch("changed");
        let bytes: Vec<u8> = (0..600_000_u32).map(|n| (n % 251) as u8).collect();
        let saved = saved(&dir, &bytes, bytes.len() as u64).unwrap();
        let mut back = Vec::new();
        let taken = |piece: &[u8]| {
            back.extend_from_slice(piece);
            Ok(())
        };
        saved.read(STATE, taken).unwrap();
        assert!(back == bytes);
        // Also where nobody wants all of it.
        saved.read(STATE, |_| Err(io::ErrorKind::BrokenPipe.into())).unwrap();

        let path = dir.join(STATE);
        let mut changed = bytes.clone();
        changed[300_000] ^= 1;
        fs::write_atomic(&path, &changed).unwrap();
        let error = saved.read(STATE, |_| Ok(())).unwrap_err().to_string();
        assert_eq!(error, format!("{} is not what was saved: its sha256 is another one", path.display()));
        fs::write_atomic(&path, &bytes[1..]).unwrap();
        let error = saved.read(STATE, |_| Ok(())).unwrap_err().to_string();
        assert_eq!(error, format!("{} has 599999 bytes instead of 600000", path.display()));
        fs::remove(&path).unwrap();
        assert!(matches!(saved.read(STATE, |_| Ok(())), Err(Damage::Read(_))));
        assert!(matches!(saved.file(MEMORY), Err(Damage::Missing(MEMORY))));
        fs::remove_all(&dir).unwrap();
    }

    #[test]
    fn a_vmm_that_writes_without_end_is_cut_off() {
        let dir = scratch("endless");
        let error = collect(io::repeat(7), &dir, STATE, 1 << 20).unwrap_err();
        assert!(matches!(error, SaveError::TooLarge(_)), "{error}");
        assert!(fs::size(&dir.join(STATE)).unwrap() <= 1 << 20);
        fs::remove_all(&dir).unwrap();
    }
}
