//! Reads tar archives: ustar, PAX, GNU long names, and all four ways of writing sparse files.
//!
//! Where the formats leave room for two readings, as for an entry with two names, the archive is refused: what one program
//! checks must be what another unpacks. Like Go's reader, and unlike some, this takes links, directories and devices to have no
//! content whatever their size field says.

mod header;
mod pax;
mod sparse;

use std::{
    io::{self, Read},
    ops::Range,
};

use self::{header::Header, pax::Extended};
use super::merge::Refusal;
use crate::{
    aligned::Aligned,
    ext4::{Segment, tree::Meta},
};

const BLOCK: usize = 512;
/// The bytes that are read at once.
const PIECE: usize = 64 << 10;
/// The longest extended header or long name.
const LONGEST_EXTRA: u64 = 1 << 20;

/// One entry of an archive.
#[derive(Debug)]
pub struct Entry {
    /// Its path, as the archive has it.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Mode, owner and time.
    pub meta: Meta,
    /// Extended attributes: names and values.
    pub attributes: Vec<(Vec<u8>, Vec<u8>)>,
}

/// What an entry is.
#[derive(Debug)]
pub enum Kind {
    /// A regular file of this size, whose content is read from the archive.
    File(u64),
    /// A regular file of this size, of which these parts are read from the archive.
    Sparse(u64, Vec<Segment>),
    /// One more name of the file at this path.
    HardLink(Vec<u8>),
    /// A symbolic link to this target.
    SymbolicLink(Vec<u8>),
    /// A character device.
    CharacterDevice(u32, u32),
    /// A block device.
    BlockDevice(u32, u32),
    /// A directory.
    Directory,
    /// A named pipe.
    Pipe,
    /// Something that no image can have.
    Unusable(Refusal),
}

/// What is wrong with an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The checksum of a header is wrong.
    #[error("a header's checksum is wrong")]
    Checksum,
    /// A field that should be a number is not, or is out of range.
    #[error("the field {0} is no valid number")]
    Number(&'static str),
    /// A single block of zeros is followed by more entries.
    #[error("one block of zeros is followed by something else")]
    LoneZeroBlock,
    /// An extended header is not as POSIX has it.
    #[error("an extended header is malformed")]
    ExtendedHeader,
    /// An extended header or a long name is too long.
    #[error("an extended header or a long name is longer than 1 MiB")]
    TooLong,
    /// An entry has more extended attributes than Linux could show.
    #[error("an entry has more than 1024 extended attributes, or 64 KiB of them")]
    Attributes,
    /// The map of a sparse file contradicts itself, or is that of all files.
    #[error("the map of a sparse file is malformed")]
    SparseMap,
    /// Two names for one entry.
    #[error("an entry has two different names")]
    TwoNames,
}

/// Why an archive cannot be read further.
#[derive(Debug)]
pub enum Error {
    /// It is none.
    NotATar,
    /// It ends too early.
    Truncated,
    /// Something is not as it should be.
    Malformed(Malformed),
    /// The entry is intact but not acceptable.
    Refused(Refusal),
    /// Its source cannot be read.
    Read(io::Error),
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::UnexpectedEof { Self::Truncated } else { Self::Read(error) }
    }
}

impl From<Malformed> for Error {
    fn from(cause: Malformed) -> Self {
        Self::Malformed(cause)
    }
}

impl From<Refusal> for Error {
    fn from(cause: Refusal) -> Self {
        Self::Refused(cause)
    }
}

/// How an archive ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// With two blocks of zeros: without them it is cut off.
    Marked,
    /// Also after any entry's content, as some tools leave it; for sources whose length something else vouches for.
    Anywhere,
}

/// An archive that is read from its beginning to its end. As a reader it gives the content of the current entry.
#[derive(Debug)]
pub struct Archive<R> {
    source: R,
    buffer: Aligned,
    /// The part of the buffer that was read and not yet used.
    left: Range<usize>,
    /// Bytes of the current entry's content, and of the padding behind it.
    content: u64,
    padding: u64,
    /// Defaults for all entries to come.
    global: Extended,
    begun: bool,
    end: End,
}

/// What precedes an entry and belongs to it.
#[derive(Default)]
struct Before {
    extended: Option<Extended>,
    long_name: Option<Vec<u8>>,
    long_target: Option<Vec<u8>>,
}

impl<R: Read> Archive<R> {
    /// The archive that `source` gives.
    pub fn new(source: R, end: End) -> Self {
        Self {
            source,
            buffer: Aligned::zeroed(PIECE),
            left: 0..0,
            content: 0,
            padding: 0,
            global: Extended::default(),
            begun: false,
            end,
        }
    }

    /// Where the archive comes from.
    pub fn source(&self) -> &R {
        &self.source
    }

    /// The same, to change.
    pub fn source_mut(&mut self) -> &mut R {
        &mut self.source
    }

    /// The next entry; `None` after the last, when the source was read to its end.
    ///
    /// # Errors
    /// Where the archive is cut off or malformed.
    pub fn next(&mut self) -> Result<Option<Entry>, Error> {
        let mut before = Before::default();
        loop {
            self.skip()?;
            let Some(header) = self.header()? else {
                return if before.is_empty() { Ok(None) } else { Err(Error::Truncated) };
            };
            let size = header.size()?;
            match header.kind() {
                b'x' => {
                    let bytes = self.extra(size)?;
                    before.extended.get_or_insert_with(|| self.global.clone()).parse(&bytes)?;
                }
                b'g' => {
                    let bytes = self.extra(size)?;
                    self.global.parse(&bytes)?;
                    if !self.global.sparse.map.is_empty() {
                        return Err(Malformed::SparseMap.into());
                    }
                }
                b'L' => before.long_name = Some(self.long(size)?),
                b'K' => before.long_target = Some(self.long(size)?),
                b'V' => self.begin(size), // a volume's label: skipped
                _ => return self.entry(&header, before, size).map(Some),
            }
        }
    }

    fn entry(&mut self, header: &Header, before: Before, size: u64) -> Result<Entry, Error> {
        let extended = before.extended.unwrap_or_else(|| self.global.clone());
        let path = one_of(before.long_name, extended.path)?;
        let path = extended.sparse.name.clone().or(path).unwrap_or_else(|| header.path());
        let target = one_of(before.long_target, extended.link_path)?;
        let target = || target.unwrap_or_else(|| header.target());
        let size = extended.size.unwrap_or(size);
        let meta = Meta {
            mode: header.mode()?,
            uid: extended.uid.map_or_else(|| header.uid(), Ok)?,
            gid: extended.gid.map_or_else(|| header.gid(), Ok)?,
            mtime: extended.mtime.map_or_else(|| header.mtime(), Ok)?,
        };
        let kind = match header.kind() {
            // Before there was a type for directories, their names ended with a slash.
            b'0' | 0 | b'7' if path.ends_with(b"/") && size == 0 => Kind::Directory,
            b'0' | 0 | b'7' if path.ends_with(b"/") => Kind::Unusable(Refusal::SlashAfterFile),
            b'0' | 0 | b'7' => {
                self.begin(size);
                match sparse::from_extended(self, &extended.sparse)? {
                    Some((size, segments)) => Kind::Sparse(size, segments),
                    None => Kind::File(size),
                }
            }
            b'S' => {
                let (real_size, segments) = sparse::from_header(self, header, size)?;
                Kind::Sparse(real_size, segments)
            }
            b'1' => Kind::HardLink(target()),
            b'2' => Kind::SymbolicLink(target()),
            b'3' => Kind::CharacterDevice(header.major()?, header.minor()?),
            b'4' => Kind::BlockDevice(header.major()?, header.minor()?),
            b'5' => Kind::Directory,
            b'6' => Kind::Pipe,
            b'D' => {
                self.begin(size); // what an incremental backup says of the directory: skipped
                Kind::Directory
            }
            other => Kind::Unusable(Refusal::UnknownType(other)),
        };
        Ok(Entry { path, kind, meta, attributes: extended.attributes })
    }

    /// The next header; `None` at the end of the archive, when the source was read to its own end too.
    fn header(&mut self) -> Result<Option<Header>, Error> {
        let Some(block) = self.block()? else {
            return match self.end {
                End::Anywhere => Ok(None),
                End::Marked if self.begun => Err(Error::Truncated),
                End::Marked => Err(Error::NotATar),
            };
        };
        if block != [0; BLOCK] {
            let header = Header::new(block);
            self.begun |= header.is_some();
            let reason = if self.begun { Malformed::Checksum.into() } else { Error::NotATar };
            return header.ok_or(reason).map(Some);
        }
        match self.block()? {
            None => Ok(None),
            Some(block) if block == [0; BLOCK] => {
                // What follows is padding. Reading it checks the checksum behind compressed data.
                while self.refill()? > 0 {}
                Ok(None)
            }
            Some(_) => Err(Malformed::LoneZeroBlock.into()),
        }
    }

    /// The next block; `None` at the end of the source.
    fn block(&mut self) -> Result<Option<[u8; BLOCK]>, Error> {
        let mut block = [0; BLOCK];
        let mut have = 0;
        while have < BLOCK {
            if self.left.is_empty() && self.refill()? == 0 {
                return match have {
                    0 => Ok(None),
                    _ if self.begun => Err(Error::Truncated),
                    _ => Err(Error::NotATar),
                };
            }
            let left = &self.buffer[self.left.clone()];
            let count = left.len().min(BLOCK - have);
            block[have..have + count].copy_from_slice(&left[..count]);
            self.left.start += count;
            have += count;
        }
        Ok(Some(block))
    }

    /// Fills the buffer, whatever is left in it, and says with how much.
    fn refill(&mut self) -> io::Result<usize> {
        loop {
            match self.source.read(&mut self.buffer) {
                Ok(count) => {
                    self.left = 0..count;
                    return Ok(count);
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Says that `size` bytes of content come next.
    fn begin(&mut self, size: u64) {
        self.content = size;
        self.padding = size.next_multiple_of(BLOCK as u64) - size;
    }

    /// Goes past what is left of the current entry.
    fn skip(&mut self) -> Result<(), Error> {
        let padding = std::mem::take(&mut self.padding);
        let mut rest = std::mem::take(&mut self.content) + padding;
        while rest > 0 {
            if self.left.is_empty() && self.refill()? == 0 {
                let is_padding = rest <= padding && self.end == End::Anywhere;
                return if is_padding { Ok(()) } else { Err(Error::Truncated) };
            }
            let count = usize::try_from(rest).unwrap_or(usize::MAX).min(self.left.len());
            self.left.start += count;
            rest -= count as u64;
        }
        Ok(())
    }

    /// The content of an extended header or a long name.
    fn extra(&mut self, size: u64) -> Result<Vec<u8>, Error> {
        if size > LONGEST_EXTRA {
            return Err(Malformed::TooLong.into());
        }
        self.begin(size);
        self.take(size as usize)
    }

    /// The next `count` bytes of the content.
    fn take(&mut self, count: usize) -> Result<Vec<u8>, Error> {
        let mut bytes = vec![0; count];
        self.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// A long name, which a zero byte ends.
    fn long(&mut self, size: u64) -> Result<Vec<u8>, Error> {
        let mut name = self.extra(size)?;
        name.truncate(name.iter().position(|byte| *byte == 0).unwrap_or(name.len()));
        Ok(name)
    }
}

impl<R: Read> Read for Archive<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let wanted = usize::try_from(self.content).unwrap_or(usize::MAX).min(out.len());
        if wanted == 0 {
            return Ok(0);
        }
        // Large pieces go to their place without a detour.
        let count = if self.left.is_empty() && wanted >= self.buffer.len() {
            self.source.read(&mut out[..wanted])?
        } else {
            if self.left.is_empty() {
                self.refill()?;
            }
            let count = wanted.min(self.left.len());
            out[..count].copy_from_slice(&self.buffer[self.left.start..][..count]);
            self.left.start += count;
            count
        };
        self.content -= count as u64;
        Ok(count)
    }
}

impl Before {
    fn is_empty(&self) -> bool {
        self.extended.is_none() && self.long_name.is_none() && self.long_target.is_none()
    }
}

/// The one name of a GNU and a PAX name.
fn one_of(gnu: Option<Vec<u8>>, pax: Option<Vec<u8>>) -> Result<Option<Vec<u8>>, Malformed> {
    match (gnu, pax) {
        (Some(gnu), Some(pax)) if gnu != pax => Err(Malformed::TwoNames),
        (gnu, pax) => Ok(pax.or(gnu)),
    }
}
