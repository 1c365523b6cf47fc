//! Reads the legacy frames of LZ4: blocks of 8 MiB, each after its packed length, without checksums. Kernel images and
//! nothing else still use them.

use std::io::{self, Read};

const MAGIC: u32 = 0x184c_2102;
/// What a block unpacks to at most, by the definition of the form.
const BLOCK: usize = 8 << 20;
/// What a block can take packed: a byte more per 255, and a little.
const PACKED_BLOCK: usize = BLOCK + BLOCK / 255 + 16;

/// Unpacks frames as they are read.
#[derive(Debug)]
pub(crate) struct LegacyReader<R> {
    packed: R,
    block: Vec<u8>,
    at: usize,
    state: State,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    /// The magic number comes next.
    Begin,
    /// A block comes next.
    Blocks,
    /// All was read.
    End,
}

impl<R: Read> LegacyReader<R> {
    /// Reads from `packed`, which stands at the magic number.
    pub(crate) fn new(packed: R) -> Self {
        Self { packed, block: Vec::new(), at: 0, state: State::Begin }
    }

    /// Unpacks the next block. A frame has no end mark: it ends with its file, and the kernel's build puts the length of
    /// the kernel there, so that the last block, which alone may be short, is followed by four bytes or none.
    fn next_block(&mut self) -> io::Result<()> {
        let last_was_short =
            self.state == State::Blocks && !self.block.is_empty() && self.block.len() < BLOCK;
        self.at = 0;
        self.block.clear();
        let length = self.number()?;
        if self.state == State::Begin {
            return match length {
                Some(MAGIC) => {
                    self.state = State::Blocks;
                    Ok(())
                }
                _ => Err(invalid("no legacy LZ4 frame")),
            };
        }
        let Some(length) = length.filter(|_| !last_was_short) else {
            self.state = State::End;
            return Ok(());
        };
        if length == MAGIC {
            return Ok(()); // frames may follow each other
        }
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length > PACKED_BLOCK {
            // A kernel of a whole number of blocks: this is its length, and nothing follows.
            self.state = State::End;
            return if self.number()?.is_none() { Ok(()) } else { Err(invalid("an LZ4 block is too long")) };
        }
        let mut packed = vec![0; length];
        self.packed.read_exact(&mut packed)?;
        unpack_block(&packed, &mut self.block)
    }

    /// The next four bytes, or none at the end.
    fn number(&mut self) -> io::Result<Option<u32>> {
        let mut bytes = [0; 4];
        if self.packed.read(&mut bytes[..1])? == 0 {
            return Ok(None);
        }
        self.packed.read_exact(&mut bytes[1..])?;
        Ok(Some(u32::from_le_bytes(bytes)))
    }
}

impl<R: Read> Read for LegacyReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.block.len() && self.state != State::End {
            self.next_block()?;
        }
        let count = buffer.len().min(self.block.len() - self.at);
        buffer[..count].copy_from_slice(&self.block[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}

/// Unpacks one block: literals and copies of what is already there, in turn.
fn unpack_block(mut packed: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
    const CUT: &str = "an LZ4 block is cut short";
    loop {
        let token = take(&mut packed, 1).ok_or_else(|| invalid(CUT))?[0];
        let literals = length(usize::from(token >> 4), &mut packed).ok_or_else(|| invalid(CUT))?;
        let literals = take(&mut packed, literals).ok_or_else(|| invalid(CUT))?;
        if out.len() + literals.len() > BLOCK {
            return Err(invalid("an LZ4 block unpacks to more than 8 MiB"));
        }
        out.extend_from_slice(literals);
        if packed.is_empty() {
            return Ok(()); // the last sequence is literals alone
        }
        let distance = take(&mut packed, 2).ok_or_else(|| invalid(CUT))?;
        let distance = usize::from(u16::from_le_bytes([distance[0], distance[1]]));
        let count =
            length(usize::from(token & 15), &mut packed).ok_or_else(|| invalid(CUT))?.saturating_add(4);
        if distance == 0 || distance > out.len() {
            return Err(invalid("an LZ4 block copies from before its beginning"));
        }
        if count > BLOCK - out.len() {
            return Err(invalid("an LZ4 block unpacks to more than 8 MiB"));
        }
        let from = out.len() - distance;
        if distance >= count {
            out.extend_from_within(from..from + count);
        } else {
            // The copy overlaps what it makes: that is how runs are packed.
            out.reserve(count);
            for at in from..from + count {
                out.push(out[at]);
            }
        }
    }
}

/// A length whose first four bits are `nibble`: 15 means that bytes follow, as long as they are 255.
fn length(nibble: usize, packed: &mut &[u8]) -> Option<usize> {
    let mut length = nibble;
    if nibble == 15 {
        loop {
            let more = take(packed, 1)?[0];
            length = length.checked_add(usize::from(more))?;
            if more != 255 {
                break;
            }
        }
    }
    Some(length)
}

fn take<'a>(bytes: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (head, tail) = bytes.split_at_checked(count)?;
    *bytes = tail;
    Some(head)
}

fn invalid(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(blocks: &[&[u8]]) -> Vec<u8> {
        let mut bytes = MAGIC.to_le_bytes().to_vec();
        for block in blocks {
            bytes.extend(u32::try_from(block.len()).unwrap().to_le_bytes());
            bytes.extend_from_slice(block);
        }
        bytes
    }

    #[track_caller]
    fn check(packed: &[u8], expect: Result<&[u8], &str>) {
        let mut out = Vec::new();
        let result = LegacyReader::new(packed).read_to_end(&mut out).map(|_| out.as_slice());
        assert_eq!(result.map_err(|e| e.to_string()), expect.map_err(str::to_owned));
    }

    #[test]
    fn literals_copies_and_runs() {
        // "abc", then a copy of 4 from 3 back, then the literal "x".
        let copy: &[u8] = b"\x30abc\x03\0\x10x";
        check(&frame(&[copy]), Ok(b"abcabcax"));
        // "a", then a run of 19 + 5 from 1 back, then nothing more.
        check(&frame(&[b"\x1fa\x01\0\x05\0"]), Ok(&[b'a'; 25]));
        // The kernel's length follows the last block.
        let mut bytes = frame(&[copy]);
        bytes.extend(8u32.to_le_bytes());
        check(&bytes, Ok(b"abcabcax"));
        check(&frame(&[]), Ok(b""));
    }

    #[test]
    fn what_is_broken_is_an_error() {
        check(b"\x02\x21", Err("failed to fill whole buffer"));
        check(b"none", Err("no legacy LZ4 frame"));
        check(&frame(&[b"\x30ab"]), Err("an LZ4 block is cut short"));
        check(&frame(&[b"\x10a\x02\0\0"]), Err("an LZ4 block copies from before its beginning"));
        check(&frame(&[b"\x10a\0\0\0"]), Err("an LZ4 block copies from before its beginning"));
        check(&frame(&[b"\xf0\xff"]), Err("an LZ4 block is cut short"));
        let mut run = b"\x1fa\x01\0".to_vec();
        run.extend([255; 40_000]);
        run.extend(b"\0\0");
        check(&frame(&[&run]), Err("an LZ4 block unpacks to more than 8 MiB"));
        let mut cut = frame(&[b"\x30abc\x03\0\x10x"]);
        cut.truncate(cut.len() - 1);
        check(&cut, Err("failed to fill whole buffer"));
    }
}
