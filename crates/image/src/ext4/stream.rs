//! Blocks written one after the other, in large pieces, by a thread of their own: what comes next is read or unpacked
//! meanwhile.

use std::{
    fs::File,
    io::{self, Read},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        mpsc::{Receiver, Sender, channel},
    },
    thread::JoinHandle,
};

use super::{BLOCK, checksum, writer::Error};
use crate::aligned::Aligned;

/// The bytes that are written at once, and the buffers for them.
const PIECE: usize = 512 << 10;
const PIECES: usize = 4;
/// How much disk space is reserved at once, which makes writing a third cheaper.
const RESERVE: u64 = 64 << 20;
/// How much of each content goes into the checksum.
const SAMPLE: usize = 1024;

/// Appends blocks to a file.
#[derive(Debug)]
pub(super) struct Stream {
    file: Arc<File>,
    path: PathBuf,
    /// The piece that is being filled.
    buffer: Aligned,
    filled: usize,
    /// Where the buffer's first byte belongs in the file.
    offset: u64,
    /// Blocks that the file may have.
    limit: u32,
    /// Up to where disk space was reserved, or all there is where that cannot be.
    reserved: u64,
    sum: u32,
    thread: Thread,
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
    pub fn new(file: File, path: &Path, first: u32, limit: u32) -> Result<Self, Error> {
        let file = Arc::new(file);
        let thread = Thread::start(Arc::clone(&file))
            .map_err(|e| Error::Write(host::Error::new("start", "a thread that writes", e)))?;
        Ok(Self {
            file,
            path: path.to_owned(),
            buffer: Aligned::zeroed(PIECE),
            filled: 0,
            offset: u64::from(first) * BLOCK as u64,
            limit,
            reserved: 0,
            sum: checksum::START,
            thread,
        })
    }

    /// The block that comes next.
    pub fn position(&self) -> u32 {
        debug_assert_eq!(self.filled % BLOCK, 0, "a content was not padded");
        u32::try_from(self.offset / BLOCK as u64 + (self.filled / BLOCK) as u64).unwrap_or(u32::MAX)
    }

    /// A checksum of what was appended so far: of the beginning of each content, and of all else. It tells streams apart
    /// that nobody made alike on purpose.
    pub fn sum(&self) -> u32 {
        self.sum
    }

    /// Appends `bytes`, padded to whole blocks, and says where the first went.
    pub fn append(&mut self, bytes: &[u8]) -> Result<u32, Error> {
        let at = self.position();
        self.sum = checksum::update(self.sum, bytes);
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
            let sum = self.sum;
            let room = self.room()?;
            let wanted = usize::try_from(rest).unwrap_or(usize::MAX).min(room.len());
            match source.read(&mut room[..wanted]) {
                Ok(0) => return Err(FillError::Ended),
                Ok(count) => {
                    // However small the pieces are in which it comes.
                    let sampled = SAMPLE.saturating_sub(usize::try_from(length - rest).unwrap_or(usize::MAX));
                    self.sum = checksum::update(sum, &room[..count.min(sampled)]);
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
        let written = self.file.write_all_at(bytes, u64::from(block) * BLOCK as u64);
        written.map_err(|e| self.write_error(e))
    }

    /// Reads back what was written from block `block` on.
    pub fn read(&mut self, block: u32, out: &mut [u8]) -> Result<(), Error> {
        self.settle()?;
        self.file
            .read_exact_at(out, u64::from(block) * BLOCK as u64)
            .map_err(|e| Error::Write(host::Error::path("read", &self.path, e)))
    }

    /// Gives the disk space of `count` blocks from `first` on back, where the file system below can.
    pub fn discard(&mut self, first: u32, count: u32) -> Result<(), Error> {
        self.settle()?;
        host::fs::punch_hole(&self.file, u64::from(first) * BLOCK as u64, u64::from(count) * BLOCK as u64);
        Ok(())
    }

    /// Refuses a file of more than the allowed blocks.
    pub fn check(&self, blocks: u32) -> Result<(), Error> {
        if blocks > self.limit { Err(self.too_large()) } else { Ok(()) }
    }

    /// The error for a file that would get more blocks than it may.
    pub fn too_large(&self) -> Error {
        Error::TooLarge { limit: u64::from(self.limit) * BLOCK as u64 }
    }

    /// Writes what is left and makes the file `blocks` long.
    pub fn finish(mut self, blocks: u32) -> Result<File, Error> {
        self.settle()?;
        let resized = self.file.set_len(u64::from(blocks) * BLOCK as u64);
        resized.map_err(|e| self.write_error(e))?;
        drop(self.thread);
        Ok(Arc::into_inner(self.file).expect("the writing thread, which had the other one, has ended"))
    }

    /// Free space in the buffer, never none. Pieces end at multiples of their size in the file: kernels like that.
    fn room(&mut self) -> Result<&mut [u8], Error> {
        let end = |offset: u64| PIECE - (offset % PIECE as u64) as usize;
        if self.filled == end(self.offset) {
            self.flush()?;
        }
        Ok(&mut self.buffer[self.filled..end(self.offset)])
    }

    fn pad(&mut self) {
        let end = self.filled.next_multiple_of(BLOCK);
        self.buffer[self.filled..end].fill(0);
        self.filled = end;
    }

    /// Hands what is in the buffer to the writing thread.
    fn flush(&mut self) -> Result<(), Error> {
        let end = self.offset + self.filled as u64;
        if end > u64::from(self.limit) * BLOCK as u64 {
            return Err(self.too_large());
        }
        if end > self.reserved && end.is_multiple_of(PIECE as u64) {
            let length = end.min(RESERVE);
            let is_reserved = host::fs::reserve(&self.file, end, length);
            self.reserved = if is_reserved { end + length } else { u64::MAX };
        }
        let next = self.thread.empty_buffer().map_err(|e| self.write_error(e))?;
        let bytes = std::mem::replace(&mut self.buffer, next);
        self.thread.write(Piece { bytes, filled: self.filled, offset: self.offset });
        self.offset = end;
        self.filled = 0;
        Ok(())
    }

    /// Waits until all is written.
    fn settle(&mut self) -> Result<(), Error> {
        if self.filled > 0 {
            self.flush()?;
        }
        self.thread.settle().map_err(|e| self.write_error(e))
    }

    fn write_error(&self, error: io::Error) -> Error {
        Error::Write(host::Error::path("write", &self.path, error))
    }
}

/// Bytes on their way to the file.
#[derive(Debug)]
struct Piece {
    bytes: Aligned,
    filled: usize,
    offset: u64,
}

/// The thread that writes, and the buffers that go to and fro.
#[derive(Debug)]
struct Thread {
    /// `None` once the thread was told to end.
    pieces: Option<Sender<Piece>>,
    written: Receiver<(Aligned, io::Result<()>)>,
    handle: Option<JoinHandle<()>>,
    /// Buffers that are at hand, and the number of those that the thread has.
    idle: Vec<Aligned>,
    away: usize,
}

impl Thread {
    fn start(file: Arc<File>) -> io::Result<Self> {
        let (sender, pieces) = channel::<Piece>();
        let (done, written) = channel();
        let work = move || {
            for piece in pieces {
                let result = file.write_all_at(&piece.bytes[..piece.filled], piece.offset);
                if done.send((piece.bytes, result)).is_err() {
                    return;
                }
            }
        };
        let handle = std::thread::Builder::new().name("ext4-writer".to_owned()).spawn(work)?;
        let idle = (1..PIECES).map(|_| Aligned::zeroed(PIECE)).collect();
        Ok(Self { pieces: Some(sender), written, handle: Some(handle), idle, away: 0 })
    }

    fn write(&mut self, piece: Piece) {
        let sender = self.pieces.as_ref().expect("it is told to end only when this is dropped");
        sender.send(piece).expect("the thread lives as long as this does");
        self.away += 1;
    }

    /// A buffer to fill.
    fn empty_buffer(&mut self) -> io::Result<Aligned> {
        loop {
            match self.idle.pop() {
                Some(buffer) => return Ok(buffer),
                None => self.receive()?,
            }
        }
    }

    /// Waits until the thread has nothing left to write.
    fn settle(&mut self) -> io::Result<()> {
        while self.away > 0 {
            self.receive()?;
        }
        Ok(())
    }

    fn receive(&mut self) -> io::Result<()> {
        let (buffer, result) = self.written.recv().expect("the thread lives as long as this does");
        self.away -= 1;
        self.idle.push(buffer);
        result
    }
}

impl Drop for Thread {
    /// Ends the thread, so that nothing is written any more.
    fn drop(&mut self) {
        self.pieces = None;
        if let Some(handle) = self.handle.take() {
            let _ = handle.join();
        }
    }
}
