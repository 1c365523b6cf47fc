//! A body that comes in pieces as something that is written to or read from.
//!
//! How a piece gets on is its caller's: this crate knows no channel.

use std::io::{self, Read, Write};

use bytes::{Buf, Bytes, BytesMut};

/// The bytes of a whole piece.
pub const PIECE: usize = 64 << 10;

/// The writing end: full pieces are handed to a function, which says whether somebody still takes them.
#[derive(Debug)]
pub struct Sink<F> {
    send: F,
    buffer: BytesMut,
}

impl<F: FnMut(io::Result<Bytes>) -> bool> Sink<F> {
    /// Pieces go to `send`.
    #[must_use]
    pub fn new(send: F) -> Self {
        Self { send, buffer: BytesMut::with_capacity(PIECE) }
    }

    /// Cuts the stream, so that it is not taken for whole.
    pub fn fail(mut self, error: io::Error) {
        // Where nobody takes it, nobody is left to be told.
        let _ = (self.send)(Err(error));
    }
}

impl<F: FnMut(io::Result<Bytes>) -> bool> Write for Sink<F> {
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
        if (self.send)(Ok(piece)) { Ok(()) } else { Err(io::ErrorKind::BrokenPipe.into()) }
    }
}

/// The reading end: an iterator gives the pieces, an error among them cuts the stream.
#[derive(Debug)]
pub struct Source<I> {
    pieces: I,
    current: Bytes,
}

impl<I: Iterator<Item = io::Result<Bytes>>> Source<I> {
    /// Pieces come from `pieces`.
    #[must_use]
    pub fn new(pieces: I) -> Self {
        Self { pieces, current: Bytes::new() }
    }
}

impl<I: Iterator<Item = io::Result<Bytes>>> Read for Source<I> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.pieces.next() {
                Some(piece) => self.current = piece?,
                None => return Ok(0),
            }
        }
        let count = self.current.len().min(buffer.len());
        self.current.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_in_pieces_is_read_from_them() {
        let bytes: Vec<u8> = (0..PIECE * 2 + 7).map(|at| (at % 251) as u8).collect();
        let mut pieces = Vec::new();
        let mut sink = Sink::new(|piece| {
            pieces.push(piece);
            true
        });
        bytes.chunks(1000).for_each(|chunk| sink.write_all(chunk).unwrap());
        sink.flush().unwrap();
        sink.flush().unwrap();
        sink.fail(io::ErrorKind::Other.into());
        let sizes: Vec<_> = pieces.iter().map(|piece| piece.as_ref().map(Bytes::len).ok()).collect();
        assert_eq!(sizes, [Some(PIECE), Some(PIECE), Some(7), None]);

        pieces.insert(1, Ok(Bytes::new()));
        let mut source = Source::new(pieces.into_iter());
        let mut read = vec![0; bytes.len()];
        source.read_exact(&mut read).unwrap();
        assert_eq!(read, bytes, "an empty piece is no end");
        assert_eq!(source.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::Other);
        assert_eq!(source.read(&mut [0]).unwrap(), 0);
    }

    #[test]
    fn nothing_is_written_to_nobody() {
        let mut sink = Sink::new(|_| false);
        sink.write_all(b"x").unwrap();
        assert_eq!(sink.flush().unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
