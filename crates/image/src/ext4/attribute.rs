//! Extended attributes: the sets that a file can have, and how they are written.
//!
//! A set that fits lies in the inode; a larger one takes a block of its own.

use super::{BLOCK, checksum, inode, superblock::Fields};

/// Bytes for attributes in an inode, and behind the header of a block.
const IN_INODE: usize = inode::SIZE - inode::ATTRIBUTES_AT;
const BLOCK_HEADER: usize = 32;
const MAGIC: u32 = 0xea02_0000;

/// Prefixes of names, and the numbers that stand for them.
const PREFIXES: [(&[u8], u8); 5] = [
    (b"user.", 1),
    (b"system.posix_acl_access", 2),
    (b"system.posix_acl_default", 3),
    (b"trusted.", 4),
    (b"security.", 6),
];
const ACCESS_LIST: u8 = 2;
const DEFAULT_LIST: u8 = 3;

/// Why an attribute cannot be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AttributeError {
    /// ext4 has no such kind of attribute.
    #[error("ext4 has no attributes of this kind")]
    Unsupported,
    /// Its name is empty or longer than 255 bytes.
    #[error("the attribute's name is empty or too long")]
    BadName,
    /// It is no access control list, though its name says so.
    #[error("the access control list is malformed")]
    BadAccessList,
    /// All of a file's attributes together do not fit into one block.
    #[error("the attributes do not fit into 4 KiB")]
    TooLarge,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Attribute {
    prefix: u8,
    name: Vec<u8>,
    value: Vec<u8>,
}

/// The extended attributes of one file.
#[derive(Debug, Clone, Default)]
pub struct AttributeSet(Vec<Attribute>);

/// How a set is written.
pub(super) enum Encoded {
    /// Into the inode.
    Inline(Vec<u8>),
    /// Into a block, which [`seal`] completes once its place is known.
    Block(Box<[u8; BLOCK]>),
}

impl AttributeSet {
    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Gives attribute `name`, as programs see it, the value `value`, as programs set it.
    ///
    /// # Errors
    /// Where ext4 cannot have it.
    pub fn set(&mut self, name: &[u8], value: &[u8]) -> Result<(), AttributeError> {
        let (prefix, suffix) = PREFIXES
            .iter()
            .find_map(|(prefix, number)| Some((*number, name.strip_prefix(*prefix)?)))
            .ok_or(AttributeError::Unsupported)?;
        let is_list = matches!(prefix, ACCESS_LIST | DEFAULT_LIST);
        if is_list && !suffix.is_empty() {
            return Err(AttributeError::Unsupported);
        }
        if !is_list && suffix.is_empty() || suffix.len() > 255 {
            return Err(AttributeError::BadName);
        }
        let value = if is_list { access_list(value)? } else { value.to_vec() };
        self.0.retain(|known| (known.prefix, &known.name[..]) != (prefix, suffix));
        self.0.push(Attribute { prefix, name: suffix.to_vec(), value });
        Ok(())
    }

    /// The set as ext4 writes it; `None` where it is empty.
    pub(super) fn encode(&self) -> Result<Option<Encoded>, AttributeError> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let mut sorted: Vec<&Attribute> = self.0.iter().collect();
        sorted.sort_by_key(|a| (a.prefix, a.name.len(), &a.name));
        let mut inline = [0; IN_INODE];
        inline[..4].copy_from_slice(&MAGIC.to_le_bytes());
        if place(&sorted, &mut inline, 4, 4).is_some() {
            return Ok(Some(Encoded::Inline(inline.to_vec())));
        }
        let mut block = Box::new([0; BLOCK]);
        let hashes = place(&sorted, &mut block[..], BLOCK_HEADER, 0).ok_or(AttributeError::TooLarge)?;
        let hash = hashes.iter().fold(0_u32, |sum, hash| sum.rotate_left(16) ^ hash);
        let mut header = Fields([0; BLOCK_HEADER]);
        header.u32(0, MAGIC);
        header.u32(4, 1); // references
        header.u32(8, 1); // blocks
        header.u32(12, hash);
        block[..BLOCK_HEADER].copy_from_slice(&header.0);
        Ok(Some(Encoded::Block(block)))
    }
}

/// Completes an attribute block that will lie at block `at`.
pub(super) fn seal(block: &mut [u8; BLOCK], seed: u32, at: u32) {
    block[16..20].fill(0);
    let sum = checksum::update(checksum::update(seed, &u64::from(at).to_le_bytes()), &block[..]);
    block[16..20].copy_from_slice(&sum.to_le_bytes());
}

/// Writes entries from `start` on and values from the end down, whose places count from `origin`. Gives the hashes of
/// the entries, or `None` where there is no room.
fn place(attributes: &[&Attribute], out: &mut [u8], start: usize, origin: usize) -> Option<Vec<u32>> {
    let padded = |length: usize| length.next_multiple_of(4);
    let needed: usize =
        attributes.iter().map(|a| 16 + padded(a.name.len()) + padded(a.value.len())).sum::<usize>() + 4;
    if needed > out.len() - start {
        return None;
    }
    let (mut at, mut end) = (start, out.len());
    let mut hashes = Vec::with_capacity(attributes.len());
    for attribute in attributes {
        end -= padded(attribute.value.len());
        out[end..end + attribute.value.len()].copy_from_slice(&attribute.value);
        let hash = hash(attribute);
        let mut entry = Fields([0; 16]);
        entry.0[0] = attribute.name.len() as u8;
        entry.0[1] = attribute.prefix;
        if !attribute.value.is_empty() {
            entry.u16(2, (end - origin) as u16);
        }
        entry.u32(8, attribute.value.len() as u32);
        entry.u32(12, hash);
        out[at..at + 16].copy_from_slice(&entry.0);
        out[at + 16..at + 16 + attribute.name.len()].copy_from_slice(&attribute.name);
        at += 16 + padded(attribute.name.len());
        hashes.push(hash);
    }
    Some(hashes)
}

fn hash(attribute: &Attribute) -> u32 {
    let name = attribute.name.iter().fold(0_u32, |hash, byte| hash.rotate_left(5) ^ u32::from(*byte));
    attribute.value.chunks(4).fold(name, |hash, chunk| {
        let mut word = [0; 4];
        word[..chunk.len()].copy_from_slice(chunk);
        hash.rotate_left(16) ^ u32::from_le_bytes(word)
    })
}

/// An access control list as ext4 keeps it, from `value` as programs set it.
fn access_list(value: &[u8]) -> Result<Vec<u8>, AttributeError> {
    let (version, entries) = value.split_first_chunk::<4>().ok_or(AttributeError::BadAccessList)?;
    if u32::from_le_bytes(*version) != 2 || entries.is_empty() || entries.len() % 8 != 0 {
        return Err(AttributeError::BadAccessList);
    }
    let mut out = 1_u32.to_le_bytes().to_vec();
    for entry in entries.chunks_exact(8) {
        let tag = u16::from_le_bytes([entry[0], entry[1]]);
        match tag {
            // Owner, owning group, mask and others have no id.
            0x01 | 0x04 | 0x10 | 0x20 => out.extend_from_slice(&entry[..4]),
            0x02 | 0x08 => out.extend_from_slice(entry),
            _ => return Err(AttributeError::BadAccessList),
        }
    }
    Ok(out)
}
