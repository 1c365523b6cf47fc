//! Trees of files as tar streams, out of the guest and into it. Blocking; each runs on a thread of its own.
//!
//! Nothing here leaves the directory that was asked for: what is read follows no link at all, and what is written resolves
//! below it (`RESOLVE_BENEATH`).

mod list;
mod pack;
mod pick;
mod place;
mod remove;
mod stamp;
mod unpack;

use std::io::{self, Read, Write};

use bytes::{Buf, Bytes, BytesMut};
use tokio::sync::mpsc;

pub use list::list;
pub use pack::pack;
pub use pick::pick;
pub use place::{destination, make_directory};
pub use remove::remove;
pub use stamp::Stamps;
pub use unpack::{UnpackError, unpack};

/// The bytes of a piece.
const PIECE: usize = 64 << 10;

/// The writing end of a stream of pieces.
#[derive(Debug)]
pub struct Sink {
    out: mpsc::Sender<io::Result<Bytes>>,
    buffer: BytesMut,
}

impl Sink {
    /// Pieces go to `out`.
    #[must_use]
    pub fn new(out: mpsc::Sender<io::Result<Bytes>>) -> Self {
        Self { out, buffer: BytesMut::with_capacity(PIECE) }
    }

    /// Cuts the stream, so that it is not taken for whole.
    pub fn fail(self, error: io::Error) {
        // Nobody is left to be told.
        let _ = self.out.blocking_send(Err(error));
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
        let piece = std::mem::replace(&mut self.buffer, BytesMut::with_capacity(PIECE)).freeze();
        self.out.blocking_send(Ok(piece)).map_err(|_| io::ErrorKind::BrokenPipe.into())
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
