//! Unpacks several blocks of an xz file at the same time.
//!
//! ```text
//! stream header │ block │ block │ … │ index │ footer     the file
//! stream header │ block │ index of it │ footer           what a thread unpacks
//! ```
//! `xz` with threads, and so `dpkg-deb`, says in the header of each block how long that is. So a block becomes a file of its own,
//! which the same unpacker reads with all its checks. Files whose first block says nothing, or is very long, are unpacked in one
//! go.

use std::{
    collections::VecDeque,
    io::{self, Cursor, Read},
    thread::JoinHandle,
};

use lzma_rust2::XzReader;

use super::xz::{WindowLimit, lengths};

/// The longest block that is kept in memory, packed and unpacked. What `xz` makes with its usual settings has 24 MiB.
const MAX_BLOCK: u64 = 32 << 20;
/// Bytes that are read at once, so that who counts them hears of it.
const PIECE: u64 = 256 << 10;

/// The first bytes of a file, which say how long the checks of its blocks are.
type StreamHeader = [u8; 12];

/// The bytes of an xz file.
pub(crate) enum Blocks<'a> {
    /// In one go.
    Whole(Box<dyn Read + 'a>),
    /// Block by block.
    Apart(Apart<'a>),
}

/// What is unpacked block by block.
pub(crate) struct Apart<'a> {
    packed: Box<dyn Read + 'a>,
    header: StreamHeader,
    window: u64,
    /// How many blocks are unpacked at once.
    at_once: usize,
    /// Those that are being unpacked, in order.
    begun: VecDeque<JoinHandle<io::Result<Vec<u8>>>>,
    unpacked: Cursor<Vec<u8>>,
    /// Of the blocks so far.
    records: Vec<Record>,
    is_read: bool,
}

/// What the index says of a block.
#[derive(Debug, Clone, Copy)]
struct Record {
    /// Its bytes in the file without what fills them up.
    unpadded: u64,
    unpacked: u64,
}

impl Record {
    /// Of the block that begins with `header`, where that says so and the block is not too long.
    fn of(header: &[u8], stream: &StreamHeader) -> Option<Self> {
        let (packed, unpacked) = lengths(header)?;
        let unpadded = (header.len() as u64).checked_add(packed)?.checked_add(check_length(stream))?;
        (unpadded <= MAX_BLOCK && unpacked <= MAX_BLOCK).then_some(Self { unpadded, unpacked })
    }
}

impl<'a> Blocks<'a> {
    /// Of the xz file that `packed` gives. Unpacks no block that asks for more than `window` bytes of history, and `at_once` at
    /// the same time.
    ///
    /// # Errors
    /// Where it cannot be read, or has no block.
    pub(crate) fn new(packed: impl Read + 'a, window: u64, at_once: usize) -> io::Result<Self> {
        let mut packed: Box<dyn Read + 'a> = Box::new(packed);
        let mut header = StreamHeader::default();
        packed.read_exact(&mut header)?;
        let first = block_header(&mut packed)?;
        if Record::of(&first, &header).is_none() || at_once < 2 {
            let again = [&header, &*first].concat();
            return Ok(Self::Whole(Box::new(reader(Cursor::new(again).chain(packed), window))));
        }
        let (begun, records) = (VecDeque::new(), Vec::new());
        let mut apart = Apart {
            packed,
            header,
            window,
            at_once,
            begun,
            unpacked: Cursor::default(),
            records,
            is_read: false,
        };
        apart.begin(first)?;
        Ok(Self::Apart(apart))
    }
}

impl Read for Blocks<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Whole(whole) => whole.read(buffer),
            Self::Apart(apart) => apart.read(buffer),
        }
    }
}

impl Apart<'_> {
    /// Begins to unpack the block with `header`, the rest of which comes next.
    fn begin(&mut self, header: Vec<u8>) -> io::Result<()> {
        let record = Record::of(&header, &self.header);
        let record = record.ok_or_else(|| broken("one of its blocks is unlike the first"))?;
        let left = record.unpadded.next_multiple_of(4) - header.len() as u64;
        let mut file = self.header.to_vec();
        file.extend(header);
        read_more(&mut self.packed, &mut file, left)?;
        file.extend(end_of(&self.header, &[record]));
        self.records.push(record);
        let window = self.window;
        let unpack = move || {
            let mut out = Vec::new();
            reader(file.as_slice(), window).take(record.unpacked + 1).read_to_end(&mut out)?;
            if out.len() as u64 == record.unpacked {
                Ok(out)
            } else {
                Err(broken("a block is not as long as it says"))
            }
        };
        self.begun.push_back(std::thread::Builder::new().name("xz".to_owned()).spawn(unpack)?);
        Ok(())
    }

    /// Begins what comes next, or reads to the end of the file.
    fn go_on(&mut self) -> io::Result<()> {
        let header = block_header(&mut self.packed)?;
        if header.len() > 1 {
            return self.begin(header);
        }
        self.is_read = true;
        let expected = end_of(&self.header, &self.records);
        let mut end = header;
        read_more(&mut self.packed, &mut end, expected.len() as u64 - 1)?;
        if end == expected { Ok(()) } else { Err(broken("its index does not fit to its blocks")) }
    }
}

impl Read for Apart<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let count = self.unpacked.read(buffer)?;
            if count > 0 || buffer.is_empty() {
                return Ok(count);
            }
            while !self.is_read && self.begun.len() < self.at_once {
                self.go_on()?;
            }
            let Some(next) = self.begun.pop_front() else { return Ok(0) };
            let unpacked = next.join().map_err(|_| broken("a block makes its unpacker fail"))?;
            self.unpacked = Cursor::new(unpacked?);
        }
    }
}

fn reader<'a>(packed: impl Read + 'a, window: u64) -> impl Read + 'a {
    XzReader::new(WindowLimit::new(packed, window), false)
}

fn broken(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// The header of the block that comes next; where none does, the one byte with which the index begins.
fn block_header(packed: &mut dyn Read) -> io::Result<Vec<u8>> {
    let mut size = [0];
    packed.read_exact(&mut size)?;
    let mut header = size.to_vec();
    if size[0] > 0 {
        read_more(packed, &mut header, u64::from(size[0]) * 4 + 3)?;
    }
    Ok(header)
}

/// Reads `count` further bytes, which must come.
fn read_more(packed: &mut dyn Read, out: &mut Vec<u8>, count: u64) -> io::Result<()> {
    let mut left = count;
    while left > 0 {
        let read = packed.take(left.min(PIECE)).read_to_end(out)? as u64;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        left -= read;
    }
    Ok(())
}

fn check_length(header: &StreamHeader) -> u64 {
    match header[7] & 15 {
        0 => 0,
        kind => 4 << ((kind - 1) / 3),
    }
}

/// The index and the footer of a file with such blocks.
fn end_of(header: &StreamHeader, records: &[Record]) -> Vec<u8> {
    let mut index = vec![0];
    push_number(&mut index, records.len() as u64);
    for record in records {
        push_number(&mut index, record.unpadded);
        push_number(&mut index, record.unpacked);
    }
    index.resize(index.len().next_multiple_of(4), 0);
    index.extend(crc32(&index));
    let words = u32::try_from(index.len() / 4 - 1).expect("each block had a header that was read");
    let flags = [&words.to_le_bytes()[..], &header[6..8]].concat();
    [&*index, &crc32(&flags), &flags, b"YZ"].concat()
}

fn crc32(bytes: &[u8]) -> [u8; 4] {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum().to_le_bytes()
}

/// Appends a number of seven bits per byte.
fn push_number(out: &mut Vec<u8>, number: u64) {
    let mut left = number;
    while left >= 0x80 {
        out.push(u8::try_from(left & 0x7f).expect("seven bits") | 0x80);
        left >>= 7;
    }
    out.push(u8::try_from(left).expect("seven bits"));
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    const WINDOW: u64 = 128 << 20;

    /// What `xz` makes of `content` with `words`.
    fn xz(content: &[u8], words: &[&str]) -> Option<Vec<u8>> {
        let program = testkit::need::program("xz", "xz")?;
        #[expect(clippy::disallowed_methods, reason = "the oracle is a program")]
        let mut command = Command::new(program);
        let mut child =
            command.arg("-c").args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (mut input, content) = (child.stdin.take().unwrap(), content.to_vec());
        let feeder = std::thread::spawn(move || io::Write::write_all(&mut input, &content));
        let packed = child.wait_with_output().unwrap().stdout;
        feeder.join().unwrap().unwrap();
        Some(packed)
    }

    fn content() -> Vec<u8> {
        (0..1_000_003_u32)
            .map(|at| (at.wrapping_mul(2_654_435_761) >> (at / 90_000)).to_le_bytes()[0])
            .collect()
    }

    /// How many blocks are unpacked apart, and what comes out.
    fn unpacked(packed: &[u8]) -> io::Result<(usize, Vec<u8>)> {
        let mut blocks = Blocks::new(packed, WINDOW, 3)?;
        let mut out = Vec::new();
        blocks.read_to_end(&mut out)?;
        let count = match blocks {
            Blocks::Whole(_) => 0,
            Blocks::Apart(apart) => apart.records.len(),
        };
        Ok((count, out))
    }

    #[test]
    fn what_xz_makes_is_unpacked_block_by_block() {
        let content = content();
        let check = |words: &[&str], content: &[u8], blocks: usize| {
            let Some(packed) = xz(content, words) else { return };
            let (found, out) = unpacked(&packed).unwrap();
            assert!(out == content, "{words:?}");
            assert_eq!(found, blocks, "{words:?}");
        };
        for kind in ["none", "crc32", "crc64", "sha256"] {
            check(&["-T2", "--block-size=100KiB", "-C", kind], &content, 10);
        }
        check(&["-T2", "--block-size=16MiB"], &content, 1);
        check(&["-T2", "--block-size=100KiB", "--x86", "--lzma2"], &content, 10);
        // Nothing says how long these are, or there is nothing.
        check(&["-T1", "--block-size=100KiB"], &content, 0);
        check(&["-T1"], &content, 0);
        check(&["-T2"], b"", 0);
    }

    #[test]
    fn what_is_damaged_or_cut_is_refused() {
        let content = content();
        let Some(packed) = xz(&content, &["-T2", "--block-size=100KiB"]) else { return };
        for at in (0..packed.len()).step_by(997).chain(packed.len() - 200..packed.len()) {
            assert!(unpacked(&packed[..at]).is_err(), "cut at {at}");
            let mut damaged = packed.clone();
            damaged[at] ^= 0x10;
            match unpacked(&damaged) {
                Err(_) => {}
                Ok((_, out)) => assert!(out == content, "damaged at {at}"),
            }
        }
        // Blocks that stand in another order than the index has them.
        let Some(other) = xz(&content[..150_000], &["-T2", "--block-size=100KiB"]) else { return };
        let spliced = [&packed[..packed.len() / 2], &other[other.len() / 2..]].concat();
        assert!(unpacked(&spliced).is_err());
    }

    #[test]
    fn a_block_that_says_too_much_is_refused_or_unpacked_as_it_comes() {
        let Some(packed) = xz(&[7; 200_000], &["-T2", "--block-size=100KiB"]) else { return };
        let header = StreamHeader::default();
        let mut long = vec![0, PACKED_AND_UNPACKED];
        push_number(&mut long, 100);
        push_number(&mut long, MAX_BLOCK + 1);
        assert!(Record::of(&long, &header).is_none());
        let mut endless = vec![0, PACKED_AND_UNPACKED];
        push_number(&mut endless, u64::MAX >> 1);
        push_number(&mut endless, 1);
        assert!(Record::of(&endless, &header).is_none());
        // As little history as a kernel's package may ask for, and less.
        assert!(io::copy(&mut Blocks::new(&*packed, 100, 2).unwrap(), &mut io::sink()).is_err());
    }

    const PACKED_AND_UNPACKED: u8 = 0xc0;
}
