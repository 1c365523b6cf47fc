//! The maps of sparse files, in the formats of GNU tar: in the header (the oldest), in the extended header (0.0 and
//! 0.1), and at the beginning of the content (1.0).

use std::io::Read;

use super::{
    Archive, BLOCK, Error, Malformed,
    header::{Header, number},
    pax::{SparseFields, decimal},
};
use crate::ext4::Segment;

/// The most segments of one file, and the most digits of a number.
pub const MOST_SEGMENTS: usize = 1 << 20;
const MOST_DIGITS: usize = 20;

type Map = (u64, Vec<Segment>);

/// The map that extended headers announce, if they do. The content begins with it in format 1.0.
pub fn from_extended<R: Read>(archive: &mut Archive<R>, fields: &SparseFields) -> Result<Option<Map>, Error> {
    let numbers = match (fields.major, fields.minor) {
        (None, None) if fields.map.is_empty() => return Ok(None),
        (None | Some(0), _) => fields.map.clone(),
        (Some(1), Some(0) | None) => from_content(archive)?,
        _ => return Err(Malformed::SparseMap.into()),
    };
    let size = fields.real_size.ok_or(Malformed::SparseMap)?;
    if numbers.len() % 2 != 0 {
        return Err(Malformed::SparseMap.into());
    }
    let segments = numbers.chunks_exact(2).map(|pair| Segment { offset: pair[0], length: pair[1] }).collect();
    checked(size, segments, archive.content).map(Some)
}

/// The map in a header and the blocks that continue it; the content, `stored` bytes, begins after these.
pub fn from_header<R: Read>(archive: &mut Archive<R>, header: &Header, stored: u64) -> Result<Map, Error> {
    let block = header.bytes();
    let size = number(&block[483..495]).and_then(|size| u64::try_from(size).ok());
    let mut segments = Vec::new();
    let mut more = entries(&block[386..482], &mut segments)? && block[482] != 0;
    while more {
        let block = archive.block()?.ok_or(Error::Truncated)?;
        more = entries(&block[..504], &mut segments)? && block[504] != 0;
        if segments.len() > MOST_SEGMENTS {
            return Err(Malformed::SparseMap.into());
        }
    }
    archive.begin(stored);
    checked(size.ok_or(Malformed::SparseMap)?, segments, stored)
}

/// Takes over the entries in `fields` up to the first empty one. False where there was one.
fn entries(fields: &[u8], segments: &mut Vec<Segment>) -> Result<bool, Malformed> {
    let value =
        |field: &[u8]| number(field).and_then(|value| u64::try_from(value).ok()).ok_or(Malformed::SparseMap);
    for entry in fields.chunks_exact(24) {
        if entry[0] == 0 || entry[12] == 0 {
            return Ok(false);
        }
        segments.push(Segment { offset: value(&entry[..12])?, length: value(&entry[12..])? });
    }
    Ok(true)
}

/// The numbers at the beginning of the content: how many pairs, then the pairs, one number per line, padded.
fn from_content<R: Read>(archive: &mut Archive<R>) -> Result<Vec<u64>, Error> {
    let mut lines = Lines { archive, block: Vec::new(), at: 0 };
    let pairs = usize::try_from(lines.number()?).unwrap_or(usize::MAX);
    if pairs > MOST_SEGMENTS {
        return Err(Malformed::SparseMap.into());
    }
    (0..pairs * 2).map(|_| lines.number()).collect()
}

struct Lines<'a, R> {
    archive: &'a mut Archive<R>,
    block: Vec<u8>,
    at: usize,
}

impl<R: Read> Lines<'_, R> {
    fn number(&mut self) -> Result<u64, Error> {
        let mut digits = Vec::with_capacity(MOST_DIGITS);
        loop {
            if self.at == self.block.len() {
                if self.archive.content < BLOCK as u64 {
                    return Err(Malformed::SparseMap.into());
                }
                self.block = self.archive.take(BLOCK)?;
                self.at = 0;
            }
            let byte = self.block[self.at];
            self.at += 1;
            if byte == b'\n' {
                return decimal(&digits).ok_or_else(|| Malformed::SparseMap.into());
            }
            digits.push(byte);
            if digits.len() > MOST_DIGITS {
                return Err(Malformed::SparseMap.into());
            }
        }
    }
}

/// The map, where its segments are in order, in the file, and as long as the content. Only the last may end within a
/// block: programs differ on where the next one would begin.
fn checked(size: u64, segments: Vec<Segment>, stored: u64) -> Result<Map, Error> {
    let mut end = 0;
    let mut total = 0_u64;
    for segment in &segments {
        let after = segment.offset.checked_add(segment.length).filter(|after| *after <= size);
        let in_block = total.is_multiple_of(BLOCK as u64) || segment.length == 0;
        if segment.offset < end || !in_block {
            return Err(Malformed::SparseMap.into());
        }
        end = after.ok_or(Malformed::SparseMap)?;
        total += segment.length;
    }
    if total == stored { Ok((size, segments)) } else { Err(Malformed::SparseMap.into()) }
}
