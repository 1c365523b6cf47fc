//! Refuses xz files that want more memory than they should.
//!
//! An xz file says in the header of each block how much history its unpacker must keep, up to 4 GiB, and the unpacker
//! takes it at once. [`WindowLimit`] lies below the unpacker, follows the blocks as they pass, and fails before the
//! unpacker sees a header that asks for too much. Whether the file is sound is the unpacker's business: what is not
//! understood here passes.

use std::io::{self, Read};

/// The filter that has a history.
const LZMA2: u64 = 0x21;
/// What a block's header has: how long the block is.
const PACKED: u8 = 0x40;
const UNPACKED: u8 = 0x80;

/// A reader of an xz file that fails where a block asks for too much memory.
#[derive(Debug)]
pub(crate) struct WindowLimit<R> {
    reader: R,
    state: State,
    /// The bytes of the part at hand, where its content matters.
    part: Vec<u8>,
    /// How many bytes of the part at hand are still to come.
    left: usize,
    /// How long the block at hand is up to here, for its padding.
    block: usize,
    /// How long the checksum of a block is.
    check: usize,
    /// The most history that a block may ask for, in bytes.
    limit: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    StreamHeader,
    /// The byte that says how long the block's header is.
    BlockStart,
    BlockHeader,
    /// The byte that says what the chunk is.
    ChunkStart,
    ChunkHeader,
    ChunkContent,
    /// What fills the block up to a multiple of four, and its checksum.
    BlockEnd,
    /// The index, or what is not understood.
    Passing,
}

impl<R: Read> WindowLimit<R> {
    /// Reads `reader`, which stands at the beginning of an xz file. A block that asks for more than `limit` bytes is an
    /// error of the kind `FileTooLarge`.
    pub(crate) fn new(reader: R, limit: u64) -> Self {
        Self { reader, state: State::StreamHeader, part: Vec::new(), left: 12, block: 0, check: 0, limit }
    }

    /// Looks at what passes.
    fn follow(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while self.state != State::Passing {
            let count = self.left.min(bytes.len());
            let (now, later) = bytes.split_at(count);
            if self.state != State::ChunkContent {
                self.part.extend_from_slice(now);
            }
            self.left -= count;
            self.block += count;
            if self.left > 0 {
                return Ok(());
            }
            bytes = later;
            (self.state, self.left) = self.next()?;
            if !matches!(self.state, State::BlockHeader | State::ChunkHeader) {
                self.part.clear(); // these begin with the byte that announced them
            }
        }
        Ok(())
    }

    /// What follows the part that is complete, and how long that is.
    fn next(&mut self) -> io::Result<(State, usize)> {
        let part = &self.part;
        Ok(match self.state {
            State::StreamHeader => {
                self.check = match part[7] & 15 {
                    0 => 0,
                    kind => 4 << ((kind - 1) / 3),
                };
                (State::BlockStart, 1)
            }
            State::BlockStart => {
                self.block = 1;
                match part[0] {
                    0 => (State::Passing, 0),
                    size => (State::BlockHeader, usize::from(size) * 4 + 3),
                }
            }
            State::BlockHeader => {
                if dictionary(part).is_some_and(|size| size > self.limit) {
                    return Err(io::Error::new(
                        io::ErrorKind::FileTooLarge,
                        "it wants too much memory to unpack",
                    ));
                }
                self.block = 0; // a header is a multiple of four
                (State::ChunkStart, 1)
            }
            State::ChunkStart => match part[0] {
                0 => (State::BlockEnd, self.block.wrapping_neg() % 4 + self.check),
                1 | 2 => (State::ChunkHeader, 2),
                // The properties come where they change.
                0x80..=0xbf => (State::ChunkHeader, 4),
                0xc0.. => (State::ChunkHeader, 5),
                3..0x80 => (State::Passing, 0),
            },
            State::ChunkHeader => {
                let at = if part[0] < 0x80 { 1 } else { 3 };
                (State::ChunkContent, usize::from(u16::from_be_bytes([part[at], part[at + 1]])) + 1)
            }
            State::ChunkContent => (State::ChunkStart, 1),
            State::BlockEnd => (State::BlockStart, 1),
            State::Passing => (State::Passing, 0),
        })
    }
}

impl<R: Read> Read for WindowLimit<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(buffer)?;
        self.follow(&buffer[..count])?;
        Ok(count)
    }
}

/// How long a block is, packed and unpacked, where its header says so.
pub(crate) fn lengths(header: &[u8]) -> Option<(u64, u64)> {
    let (flags, mut rest) = (*header.get(1)?, header.get(2..)?);
    if flags & (PACKED | UNPACKED) != PACKED | UNPACKED {
        return None;
    }
    Some((number(&mut rest)?, number(&mut rest)?))
}

/// The size of the history that a block's header asks for.
fn dictionary(header: &[u8]) -> Option<u64> {
    let flags = *header.get(1)?;
    let mut rest = header.get(2..)?;
    for size in [flags & PACKED, flags & UNPACKED] {
        if size != 0 {
            number(&mut rest)?;
        }
    }
    for _ in 0..=(flags & 3) {
        let (filter, length) = (number(&mut rest)?, number(&mut rest)?);
        let (properties, after) = rest.split_at_checked(usize::try_from(length).ok()?)?;
        if filter == LZMA2 {
            let size = properties.first()? & 0x3f;
            return Some((2 | u64::from(size & 1)) << (size / 2 + 11));
        }
        rest = after;
    }
    None
}

/// A number of seven bits per byte.
fn number(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for at in 0..9 {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use lzma_rust2::{CheckType, XzOptions, XzReader, XzWriter};

    use super::*;

    fn packed(content: &[u8], check: CheckType, dictionary: u32, block: Option<u64>) -> Vec<u8> {
        let mut options = XzOptions::with_preset(0);
        options.set_check_sum_type(check);
        options.lzma_options.dict_size = dictionary;
        options.set_block_size(block.and_then(std::num::NonZeroU64::new));
        let mut writer = XzWriter::new(Vec::new(), options).unwrap();
        writer.write_all(content).unwrap();
        writer.finish().unwrap()
    }

    const LIMIT: u64 = 128 << 20;

    /// Bytes that pack badly, so that there are chunks of both kinds.
    fn content() -> Vec<u8> {
        let mut state = 1u32;
        let mut noise = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        (0..400_000).map(|at| if at < 200_000 { noise() } else { 7 }).collect()
    }

    #[test]
    fn a_sound_file_is_followed_to_its_index() {
        for check in [CheckType::None, CheckType::Crc32, CheckType::Crc64, CheckType::Sha256] {
            for block in [None, Some(100_000)] {
                let file = packed(&content(), check, 1 << 16, block);
                let mut limit = WindowLimit::new(file.as_slice(), LIMIT);
                let mut out = Vec::new();
                XzReader::new(&mut limit, false).read_to_end(&mut out).unwrap();
                assert_eq!(out, content());
                assert_eq!(limit.state, State::Passing);
                // It lost its way if it passed before the index, which begins with a zero.
                let mut steps = WindowLimit::new(file.as_slice(), LIMIT);
                let at = file.iter().position(|byte| {
                    steps.follow(&[*byte]).unwrap();
                    steps.state == State::Passing
                });
                let blocks = if block.is_some() { 4 } else { 1 };
                assert_eq!(file[at.unwrap()..][..2], [0, blocks], "{check:?} {block:?}");
            }
        }
    }

    #[test]
    fn a_block_that_wants_too_much_is_refused_also_when_it_is_not_the_first() {
        let mut file = packed(&content(), CheckType::Crc64, 1 << 16, Some(100_000));
        let headers: Vec<usize> = memchr::memmem::find_iter(&file, b"\x21\x01\x08").collect();
        assert_eq!(headers.len(), 4, "64 KiB is 8");
        for at in headers {
            file[at + 2] = 31;
            let error = io::copy(&mut WindowLimit::new(file.as_slice(), LIMIT), &mut io::sink()).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
            file[at + 2] = 30;
            io::copy(&mut WindowLimit::new(file.as_slice(), LIMIT), &mut io::sink()).unwrap();
        }
    }
}
