//! Directories as blocks: entries one after the other, and from two blocks on an index by hash in front of them.
//!
//! ```text
//! one block:   . .. entries
//! an index:    root → leaves            or, from about 60,000 entries on,  root → nodes → leaves
//! ```
//! Leaves are in the order of their entries' hashes. An entry of the index has the first hash of a leaf, with the lowest
//! bit set where the previous leaf ends with the same one.

use super::{BLOCK, checksum, hash, stream::Stream, writer::Error};

/// The checksum at the end of each block, dressed as an entry.
const TAIL: usize = 12;
/// Where the entries of the index start in its root and in its other nodes, and how many there is room for.
const ROOT_AT: usize = 32;
const NODE_AT: usize = 8;
const IN_ROOT: usize = (BLOCK - ROOT_AT - 8) / 8;
const IN_NODE: usize = (BLOCK - NODE_AT - 8) / 8;
const DIRECTORY_TYPE: u8 = 2;

/// One entry.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry<'a> {
    pub inode: u32,
    pub name: &'a [u8],
    pub entry_type: u8,
}

/// What the blocks of a directory need to know besides its entries.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    /// What the directory's checksums start from.
    pub seed: u32,
    /// Its inode.
    pub inode: u32,
    /// Its parent's.
    pub parent: u32,
    /// What hashes of names start from.
    pub hash_seed: [u32; 4],
}

/// Where a directory was written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Run {
    pub first: u32,
    pub blocks: u32,
}

fn length(name: &[u8]) -> usize {
    8 + name.len().next_multiple_of(4)
}

/// The one block of an empty directory that is its own parent.
pub(crate) fn empty(seed: u32, inode: u32) -> [u8; BLOCK] {
    let mut block = Block::new();
    block.push(Entry { inode, name: b".", entry_type: DIRECTORY_TYPE });
    block.push(Entry { inode, name: b"..", entry_type: DIRECTORY_TYPE });
    *block.finish(checksum::inode_seed(seed, inode))
}

/// Writes the directory at `place` whose entries are `entry(0)` to `entry(count - 1)`. `None` where it has more entries than an
/// index can have.
pub(super) fn write<'a>(
    stream: &mut Stream,
    place: Place,
    count: usize,
    entry: impl Fn(usize) -> Entry<'a>,
) -> Result<Option<Run>, Error> {
    let dots = 24;
    let total: usize = (0..count).map(|index| length(entry(index).name)).sum();
    if dots + total + TAIL <= BLOCK {
        let mut block = Block::new();
        block.push(Entry { inode: place.inode, name: b".", entry_type: DIRECTORY_TYPE });
        block.push(Entry { inode: place.parent, name: b"..", entry_type: DIRECTORY_TYPE });
        (0..count).for_each(|index| block.push(entry(index)));
        let first = stream.append(block.finish(place.seed))?;
        return Ok(Some(Run { first, blocks: 1 }));
    }

    let mut order: Vec<(u32, u32)> =
        (0..count).map(|index| (hash::half_md4(entry(index).name, place.hash_seed), index as u32)).collect();
    order.sort_unstable();
    let leaves = leaves(&order, |index| length(entry(index as usize).name));
    let nodes = if leaves.len() <= IN_ROOT { 0 } else { leaves.len().div_ceil(IN_NODE) };
    if nodes > IN_ROOT {
        return Ok(None);
    }
    let first = write_index(stream, place, &leaves, nodes)?;
    for (leaf, end) in leaves.iter().zip(leaves.iter().skip(1).map(|next| next.start).chain([order.len()])) {
        let mut block = Block::new();
        order[leaf.start..end].iter().for_each(|(_, index)| block.push(entry(*index as usize)));
        stream.append(block.finish(place.seed))?;
    }
    Ok(Some(Run { first, blocks: (1 + nodes + leaves.len()) as u32 }))
}

/// A leaf of the index: what the index says of it, and its first entry's place in the order.
struct Leaf {
    hash: u32,
    start: usize,
}

fn leaves(order: &[(u32, u32)], length: impl Fn(u32) -> usize) -> Vec<Leaf> {
    let mut leaves = vec![Leaf { hash: 0, start: 0 }];
    let mut used = TAIL;
    for (at, (hash, index)) in order.iter().enumerate() {
        let length = length(*index);
        if used + length > BLOCK {
            let continued = u32::from(order[at - 1].0 == *hash);
            leaves.push(Leaf { hash: hash | continued, start: at });
            used = TAIL;
        }
        used += length;
    }
    leaves
}

/// Writes the root of the index and its `nodes` other nodes, and says where the root went.
fn write_index(stream: &mut Stream, place: Place, leaves: &[Leaf], nodes: usize) -> Result<u32, Error> {
    let first_leaf = 1 + nodes as u32;
    let to_leaves: Vec<(u32, u32)> =
        leaves.iter().enumerate().map(|(index, leaf)| (leaf.hash, first_leaf + index as u32)).collect();
    let to_nodes: Vec<(u32, u32)> =
        to_leaves.chunks(IN_NODE).enumerate().map(|(index, chunk)| (chunk[0].0, 1 + index as u32)).collect();

    let mut root = [0; BLOCK];
    put_entry(&mut root, 0, Entry { inode: place.inode, name: b".", entry_type: DIRECTORY_TYPE }, 12);
    put_entry(
        &mut root,
        12,
        Entry { inode: place.parent, name: b"..", entry_type: DIRECTORY_TYPE },
        BLOCK - 12,
    );
    root[28] = hash::HALF_MD4_IN_DIRECTORY;
    root[29] = 8; // the length of these fields
    root[30] = u8::from(nodes > 0); // levels below the root
    put_index(&mut root, ROOT_AT, IN_ROOT, if nodes > 0 { &to_nodes } else { &to_leaves }, place.seed);
    let first = stream.append(&root)?;
    for chunk in to_leaves.chunks(IN_NODE).take(nodes) {
        let mut node = [0; BLOCK];
        // To those who know no index, the block is one unused entry.
        node[4..6].copy_from_slice(&(BLOCK as u16).to_le_bytes());
        put_index(&mut node, NODE_AT, IN_NODE, chunk, place.seed);
        stream.append(&node)?;
    }
    Ok(first)
}

/// Writes the entries of the index from `at` on, where there is room for `limit`, and the block's checksum. The first
/// entry's hash is implied, and in its place is the number of entries.
fn put_index(block: &mut [u8; BLOCK], at: usize, limit: usize, entries: &[(u32, u32)], seed: u32) {
    let used = at + entries.len() * 8;
    for (slot, (hash, child)) in block[at..used].chunks_exact_mut(8).zip(entries) {
        slot[..4].copy_from_slice(&hash.to_le_bytes());
        slot[4..].copy_from_slice(&child.to_le_bytes());
    }
    block[at..at + 2].copy_from_slice(&(limit as u16).to_le_bytes());
    block[at + 2..at + 4].copy_from_slice(&(entries.len() as u16).to_le_bytes());
    // The checksum covers the used part and the eight bytes it lies in, while those are zero.
    let sum = checksum::update(checksum::update(seed, &block[..used]), &[0; 8]);
    let tail = at + limit * 8;
    block[tail + 4..tail + 8].copy_from_slice(&sum.to_le_bytes());
}

fn put_entry(block: &mut [u8], at: usize, entry: Entry<'_>, length: usize) {
    let out = &mut block[at..];
    out[..4].copy_from_slice(&entry.inode.to_le_bytes());
    out[4..6].copy_from_slice(&(length as u16).to_le_bytes());
    out[6] = entry.name.len() as u8;
    out[7] = entry.entry_type;
    out[8..8 + entry.name.len()].copy_from_slice(entry.name);
}

/// A block of entries. Its last entry reaches to the checksum.
struct Block {
    bytes: [u8; BLOCK],
    used: usize,
    last: usize,
}

impl Block {
    fn new() -> Self {
        Self { bytes: [0; BLOCK], used: 0, last: 0 }
    }

    fn push(&mut self, entry: Entry<'_>) {
        put_entry(&mut self.bytes, self.used, entry, length(entry.name));
        self.last = self.used;
        self.used += length(entry.name);
    }

    fn finish(&mut self, seed: u32) -> &[u8; BLOCK] {
        let end = BLOCK - TAIL;
        self.bytes[self.last + 4..self.last + 6].copy_from_slice(&((end - self.last) as u16).to_le_bytes());
        let sum = checksum::update(seed, &self.bytes[..end]);
        let tail = &mut self.bytes[end..];
        tail[4] = TAIL as u8;
        tail[7] = 0xde;
        tail[8..].copy_from_slice(&sum.to_le_bytes());
        &self.bytes
    }
}
