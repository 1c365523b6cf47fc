//! Blocks written one after the other, in large pieces.

use std::{
    fs::File,
    io::{self, Read},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use super::{BLOCK, checksum, writer::Error};

/// The bytes that are written at once.
const PIECE: usize = 1 << 20;

/// Appends blocks to a file.
#[derive(Debug)]
pub(super) struct Stream {
    file: File,
    path: PathBuf,
    buffer: Box<[u8]>,
    filled: usize,
    /// Where the buffer's first byte belongs in the file.
    offset: u64,
    /// Blocks that the file may have.
    limit: u32,
    /// A checksum of all that was written.
    sum: u32,
}

/// Why content could not be taken over.
#[derive(Debug, thiserror::Error)]
pub enum FillError {
    /// Its source cannot be read.
    #[error("cannot read the content")]
    Read(#[source] io::Error),
    /// Its source ended early.
    #[error("the content ends early")]
    Ended,
    /// It cannot be written.
    #[error(transparent)]
    Write(#[from] Error),
}

impl Stream {
    /// A stream that starts at block `first` of `file`, which may get `limit` blocks.
    pub fn new(file: File, path: &Path, first: u32, limit: u32) -> Self {
        let buffer = vec![0; PIECE].into_boxed_slice();
        let offset = u64::from(first) * BLOCK as u64;
        Self { file, path: path.to_owned(), buffer, filled: 0, offset, limit, sum: checksum::START }
    }

    /// The block that comes next.
    pub fn position(&self) -> u32 {
        debug_assert_eq!(self.filled % BLOCK, 0, "a piece of content was not padded");
        u32::try_from(self.offset / BLOCK as u64 + (self.filled / BLOCK) as u64).unwrap_or(u32::MAX)
    }

    /// A checksum of all that was appended so far.
    pub fn sum(&mut self) -> Result<u32, Error> {
        self.flush()?;
        Ok(self.sum)
    }

    /// Appends `bytes`, padded to whole blocks, and says where the first went.
    pub fn append(&mut self, bytes: &[u8]) -> Result<u32, Error> {
        let at = self.position();
        let mut rest = bytes;
        while !rest.is_empty() {
            let room = self.room()?;
            let count = rest.len().min(room.len());
            room[..count].copy_from_slice(&rest[..count]);
            self.filled += count;
            rest = &rest[count..];
        }
        self.pad();
        Ok(at)
    }

    /// Appends the next `length` bytes of `source`, padded to whole blocks, and says where the first went.
    pub fn fill(&mut self, source: &mut dyn Read, length: u64) -> Result<u32, FillError> {
        let at = self.position();
        let mut rest = length;
        while rest > 0 {
            let room = self.room()?;
            let wanted = usize::try_from(rest).unwrap_or(usize::MAX).min(room.len());
            match source.read(&mut room[..wanted]) {
                Ok(0) => return Err(FillError::Ended),
                Ok(count) => {
                    self.filled += count;
                    rest -= count as u64;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(FillError::Read(e)),
            }
        }
        self.pad();
        Ok(at)
    }

    /// Writes `bytes` at block `block`, apart from the stream.
    pub fn put(&self, block: u32, bytes: &[u8]) -> Result<(), Error> {
        self.file
            .write_all_at(bytes, u64::from(block) * BLOCK as u64)
            .map_err(|e| Error::Write(host::Error::path("write", &self.path, e)))
    }

    /// Reads back what was written from block `block` on.
    pub fn read(&mut self, block: u32, out: &mut [u8]) -> Result<(), Error> {
        self.flush()?;
        self.file
            .read_exact_at(out, u64::from(block) * BLOCK as u64)
            .map_err(|e| Error::Write(host::Error::path("read", &self.path, e)))
    }

    /// Gives the disk space of `count` blocks from `first` on back, where the file system below can.
    pub fn discard(&mut self, first: u32, count: u32) -> Result<(), Error> {
        self.flush()?;
        host::fs::punch_hole(&self.file, u64::from(first) * BLOCK as u64, u64::from(count) * BLOCK as u64);
        Ok(())
    }

    /// Writes what is left and makes the file `blocks` long.
    pub fn finish(mut self, blocks: u32) -> Result<File, Error> {
        self.flush()?;
        self.file
            .set_len(u64::from(blocks) * BLOCK as u64)
            .map_err(|e| Error::Write(host::Error::path("write", &self.path, e)))?;
        Ok(self.file)
    }

    /// Free space in the buffer, never none.
    fn room(&mut self) -> Result<&mut [u8], Error> {
        if self.filled == self.buffer.len() {
            self.flush()?;
        }
        Ok(&mut self.buffer[self.filled..])
    }

    fn pad(&mut self) {
        let end = self.filled.next_multiple_of(BLOCK);
        self.buffer[self.filled..end].fill(0);
        self.filled = end;
    }

    fn flush(&mut self) -> Result<(), Error> {
        let end = self.offset + self.filled as u64;
        let limit = u64::from(self.limit) * BLOCK as u64;
        if end > limit {
            return Err(Error::TooLarge { limit });
        }
        self.file
            .write_all_at(&self.buffer[..self.filled], self.offset)
            .map_err(|e| Error::Write(host::Error::path("write", &self.path, e)))?;
        self.sum = checksum::update(self.sum, &self.buffer[..self.filled]);
        self.offset = end;
        self.filled = 0;
        Ok(())
    }
}
