//! Files of this host as a tar for a guest, and a guest's tar as files of this host.
//!
//! A guest is hostile, and its tar may be anything: nothing is made outside of what was asked for or through a link, links that lead
//! out are left out, and all lengths are bounded.

mod pack;
mod unpack;

use std::{
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use bytes::{Buf, Bytes};
use tokio::sync::mpsc;

pub use pack::pack;
pub use unpack::unpack;

use crate::text::visible;

/// The bytes of a piece.
const PIECE: usize = 64 << 10;
/// Of how many that were left out the names are kept.
const NAMED: usize = 5;

/// Why files were not copied. What was copied before stays.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// A file of this host cannot be read or made.
    #[error("cannot copy {}", shown(.0))]
    Host(PathBuf, #[source] Box<dyn std::error::Error + Send + Sync>),
    /// What came is no tar that the agent makes, or breaks off.
    #[error("what the guest sent is malformed")]
    Malformed(#[source] io::Error),
    /// What came names something that is not made.
    #[error("the guest sent {}, which is refused", shown(.0))]
    Refused(PathBuf),
    /// More came than is taken.
    #[error("the guest sent {0}, and no more is taken")]
    TooMuch(&'static str),
    /// Whoever takes the tar takes no more.
    #[error("the copy broke off")]
    Gone,
}

/// What was not copied.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Left {
    count: usize,
    first: Vec<PathBuf>,
}

impl Left {
    fn out(&mut self, path: &Path) {
        self.count += 1;
        if self.first.len() < NAMED {
            self.first.push(path.to_owned());
        }
    }

    /// A sentence about it, where there is anything.
    #[must_use]
    pub fn sentence(&self, what: &str) -> Option<String> {
        let names: Vec<_> = self.first.iter().map(|path| shown(path)).collect();
        let rest = if self.count > names.len() { ", …" } else { "" };
        (self.count > 0).then(|| format!("left out {} {what}: {}{rest}", self.count, names.join(", ")))
    }
}

/// A path for people.
fn shown(path: &Path) -> String {
    visible(&path.to_string_lossy()).into_owned()
}

/// The writing end of a stream of pieces.
#[derive(Debug)]
pub struct Sink {
    pieces: mpsc::Sender<io::Result<Bytes>>,
    buffer: Vec<u8>,
}

impl Sink {
    /// Pieces go to `pieces`.
    #[must_use]
    pub fn new(pieces: mpsc::Sender<io::Result<Bytes>>) -> Self {
        Self { pieces, buffer: Vec::with_capacity(PIECE) }
    }

    /// Cuts the stream, so that it is not taken for whole.
    pub fn fail(self) {
        // Nobody is left to be told.
        let _ = self.pieces.blocking_send(Err(io::Error::other("it was given up")));
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(PIECE - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..count]);
        if self.buffer.len() == PIECE {
            self.flush()?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let piece = std::mem::replace(&mut self.buffer, Vec::with_capacity(PIECE));
        self.pieces.blocking_send(Ok(piece.into())).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

/// The reading end of a stream of pieces.
#[derive(Debug)]
pub struct Source {
    pieces: mpsc::Receiver<io::Result<Bytes>>,
    current: Bytes,
}

impl Source {
    /// Pieces come from `pieces`.
    #[must_use]
    pub fn new(pieces: mpsc::Receiver<io::Result<Bytes>>) -> Self {
        Self { pieces, current: Bytes::new() }
    }
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.pieces.blocking_recv() {
                Some(piece) => self.current = piece?,
                None => return Ok(0),
            }
        }
        let count = self.current.len().min(buffer.len());
        self.current.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}
