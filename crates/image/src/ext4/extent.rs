//! Extent trees: which blocks of the disk hold which blocks of a file.

use super::{BLOCK, checksum, inode::MAP, stream::Stream, superblock::Fields, writer::Error};

/// The most blocks of one extent.
const LONGEST: u32 = 32768;
/// Entries in the inode, and in a block of the tree.
const IN_INODE: usize = 4;
const IN_BLOCK: usize = (BLOCK - 12) / 12;

/// A run of a file's blocks that lie together on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// The first block in the file.
    pub logical: u32,
    /// The first block on the disk.
    pub physical: u32,
    /// Number of blocks.
    pub count: u32,
}

/// The root of a written tree.
#[derive(Debug, Clone, Copy)]
pub struct Root {
    /// What goes into the inode.
    pub map: [u8; MAP],
    /// Blocks that the tree takes outside the inode.
    pub blocks: u64,
}

/// Writes the tree of `extents`, in file order, of the inode whose checksums start from `inode_seed`: all but its root
/// to `stream`.
pub(super) fn write(stream: &mut Stream, inode_seed: u32, extents: &[Extent]) -> Result<Root, Error> {
    let mut entries: Vec<[u8; 12]> = Vec::new();
    let mut starts: Vec<u32> = Vec::new();
    for extent in extents {
        let mut done = 0;
        while done < extent.count {
            let count = (extent.count - done).min(LONGEST);
            entries.push(leaf(extent.logical + done, extent.physical + done, count));
            starts.push(extent.logical + done);
            done += count;
        }
    }
    let mut depth = 0;
    let mut blocks = 0;
    while entries.len() > IN_INODE {
        let mut parents = Vec::new();
        let mut parent_starts = Vec::new();
        for (chunk, start) in entries.chunks(IN_BLOCK).zip(starts.iter().step_by(IN_BLOCK)) {
            let mut block = [0; BLOCK];
            node(&mut block, chunk, IN_BLOCK, depth);
            let tail = 12 + IN_BLOCK * 12;
            let sum = checksum::update(inode_seed, &block[..tail]);
            block[tail..].copy_from_slice(&sum.to_le_bytes());
            let at = stream.append(&block)?;
            parents.push(index(*start, at));
            parent_starts.push(*start);
            blocks += 1;
        }
        (entries, starts) = (parents, parent_starts);
        depth += 1;
    }
    let mut map = [0; MAP];
    node(&mut map, &entries, IN_INODE, depth);
    Ok(Root { map, blocks })
}

/// The root of the tree of one run of `count` blocks from `physical` on, where that needs no further block.
pub(crate) fn single(physical: u32, count: u32) -> Option<[u8; MAP]> {
    let mut map = [0; MAP];
    match count {
        0 => node(&mut map, &[], IN_INODE, 0),
        1..=LONGEST => node(&mut map, &[leaf(0, physical, count)], IN_INODE, 0),
        _ => return None,
    }
    Some(map)
}

fn node(out: &mut [u8], entries: &[[u8; 12]], capacity: usize, depth: u16) {
    out[0..2].copy_from_slice(&0xf30a_u16.to_le_bytes());
    out[2..4].copy_from_slice(&(entries.len() as u16).to_le_bytes());
    out[4..6].copy_from_slice(&(capacity as u16).to_le_bytes());
    out[6..8].copy_from_slice(&depth.to_le_bytes());
    for (slot, entry) in out[12..].chunks_exact_mut(12).zip(entries) {
        slot.copy_from_slice(entry);
    }
}

fn leaf(logical: u32, physical: u32, count: u32) -> [u8; 12] {
    let mut out = Fields([0; 12]);
    out.u32(0, logical);
    out.u16(4, count as u16);
    out.u32(8, physical);
    out.0
}

fn index(logical: u32, child: u32) -> [u8; 12] {
    let mut out = Fields([0; 12]);
    out.u32(0, logical);
    out.u32(4, child);
    out.0
}
