//! The superblock and the group descriptors, as bytes.
//!
//! Only the fields that banger's file systems need are here; all others are zero, which is also what they mean.

use super::{BLOCK, checksum};

/// The size of a group descriptor with the `64bit` feature.
pub const DESCRIPTOR: usize = 64;
/// Group descriptors in one block.
pub const DESCRIPTORS_PER_BLOCK: u64 = BLOCK as u64 / DESCRIPTOR as u64;
/// Where the superblock starts on the disk.
pub const OFFSET: u64 = 1024;
/// The bytes of the superblock.
pub const LENGTH: usize = 1024;

const MAGIC: u16 = 0xef53;
/// Where its checksum is, which covers all before.
pub const CHECKSUM_AT: usize = 0x3fc;

bits! {
    /// Features that a kernel may not know and still write.
    Compatible: u32 {
        HAS_JOURNAL = 0x4, EXT_ATTR = 0x8, DIR_INDEX = 0x20, SPARSE_SUPER2 = 0x200,
    }
}
bits! {
    /// Features that a kernel must know to mount at all.
    Incompatible: u32 {
        FILETYPE = 0x2, META_BG = 0x10, EXTENTS = 0x40, BIT64 = 0x80, FLEX_BG = 0x200, CSUM_SEED = 0x2000,
    }
}
bits! {
    /// Features that a kernel must know to write.
    ReadOnly: u32 {
        SPARSE_SUPER = 0x1, LARGE_FILE = 0x2, HUGE_FILE = 0x8, DIR_NLINK = 0x20, EXTRA_ISIZE = 0x40,
        METADATA_CSUM = 0x400, READONLY = 0x1000,
    }
}
bits! {
    /// The state of a block group.
    GroupFlags: u16 { INODE_UNINIT = 0x1, BLOCK_UNINIT = 0x2, INODE_ZEROED = 0x4, }
}

/// The features of a file system, which a test pins for each kind that banger makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Features {
    /// May be unknown to who writes.
    pub compatible: Compatible,
    /// Must be known to who mounts.
    pub incompatible: Incompatible,
    /// Must be known to who writes.
    pub read_only: ReadOnly,
}

/// What kernels do when they find an error in the file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnError {
    /// Go on.
    Continue,
    /// Make the mount read-only.
    RemountReadOnly,
}

/// The superblock's content.
#[derive(Debug, Clone)]
pub struct Superblock {
    /// Features.
    pub features: Features,
    /// All blocks.
    pub blocks: u64,
    /// Free blocks.
    pub free_blocks: u64,
    /// All inodes.
    pub inodes: u32,
    /// Free inodes.
    pub free_inodes: u32,
    /// Blocks of each group but the last.
    pub blocks_per_group: u32,
    /// Inodes of each group.
    pub inodes_per_group: u32,
    /// Identity.
    pub uuid: [u8; 16],
    /// What all checksums start from.
    pub checksum_seed: u32,
    /// The name shown by `blkid`, up to 16 bytes.
    pub label: [u8; 16],
    /// What directory hashes start from.
    pub hash_seed: [u32; 4],
    /// What kernels do on errors.
    pub on_error: OnError,
    /// The journal's inode, and a copy of its block map and size.
    pub journal: Option<JournalBackup>,
    /// Blocks that metadata takes, so that mounting need not count them.
    pub overhead_blocks: u32,
    /// Base-2 logarithm of the groups whose metadata lies together.
    pub log_groups_per_flex: u8,
}

/// What the superblock remembers of the journal's inode, in case that is damaged.
#[derive(Debug, Clone)]
pub struct JournalBackup {
    /// The inode's number.
    pub inode: u32,
    /// Its block map.
    pub map: [u8; 60],
    /// Its size in bytes.
    pub size: u64,
}

impl Superblock {
    /// The bytes of the copy in block group `group`.
    #[must_use]
    pub fn encode(&self, group: u16) -> [u8; LENGTH] {
        let mut out = Fields([0; LENGTH]);
        let (blocks_lo, blocks_hi) = halves(self.blocks);
        let (free_lo, free_hi) = halves(self.free_blocks);
        out.u32(0x00, self.inodes);
        out.u32(0x04, blocks_lo);
        out.u32(0x0c, free_lo);
        out.u32(0x10, self.free_inodes);
        out.u32(0x18, BLOCK.ilog2() - 10);
        out.u32(0x1c, BLOCK.ilog2() - 10);
        out.u32(0x20, self.blocks_per_group);
        out.u32(0x24, self.blocks_per_group);
        out.u32(0x28, self.inodes_per_group);
        out.u16(0x36, u16::MAX); // never checked because of a mount count
        out.u16(0x38, MAGIC);
        out.u16(0x3a, 1); // cleanly unmounted
        out.u16(
            0x3c,
            match self.on_error {
                OnError::Continue => 1,
                OnError::RemountReadOnly => 2,
            },
        );
        out.u32(0x4c, 1); // dynamic inode sizes
        out.u32(0x54, super::FIRST_INODE);
        out.u16(0x58, super::inode::SIZE as u16);
        out.u16(0x5a, group);
        out.u32(0x5c, self.features.compatible.0);
        out.u32(0x60, self.features.incompatible.0);
        out.u32(0x64, self.features.read_only.0);
        out.bytes(0x68, &self.uuid);
        out.bytes(0x78, &self.label);
        if let Some(journal) = &self.journal {
            out.u32(0xe0, journal.inode);
            out.0[0xfd] = 1; // the backup below is of the inode's block map
            out.bytes(0x10c, &journal.map);
            let (size_lo, size_hi) = halves(journal.size);
            out.u32(0x10c + 60, size_hi);
            out.u32(0x10c + 64, size_lo);
        }
        for (index, word) in self.hash_seed.iter().enumerate() {
            out.u32(0xec + index * 4, *word);
        }
        out.0[0xfc] = super::hash::HALF_MD4;
        out.u16(0xfe, DESCRIPTOR as u16);
        out.u32(0x100, 0xc); // user_xattr, acl
        out.u32(0x150, blocks_hi);
        out.u32(0x158, free_hi);
        out.u16(0x15c, super::inode::EXTRA as u16);
        out.u16(0x15e, super::inode::EXTRA as u16);
        out.u32(0x160, 0x2); // directory hashes take bytes as unsigned
        out.0[0x174] = self.log_groups_per_flex;
        out.0[0x175] = 1; // CRC-32C
        out.u32(0x248, self.overhead_blocks);
        out.u32(0x270, self.checksum_seed);
        seal(&mut out.0);
        out.0
    }
}

/// Gives the superblock `bytes` the identity `uuid`. False where that would invalidate the file system's checksums, or
/// where the bytes are no intact superblock.
#[must_use]
pub fn replace_uuid(bytes: &mut [u8; LENGTH], uuid: [u8; 16]) -> bool {
    let mut resealed = *bytes;
    seal(&mut resealed);
    let incompatible = u32::from_le_bytes([bytes[0x60], bytes[0x61], bytes[0x62], bytes[0x63]]);
    let intact = bytes[0x38..0x3a] == MAGIC.to_le_bytes() && resealed == *bytes;
    if !intact || incompatible & Incompatible::CSUM_SEED.0 == 0 {
        return false;
    }
    bytes[0x68..0x78].copy_from_slice(&uuid);
    seal(bytes);
    true
}

fn seal(bytes: &mut [u8; LENGTH]) {
    let sum = checksum::update(checksum::START, &bytes[..CHECKSUM_AT]);
    bytes[CHECKSUM_AT..].copy_from_slice(&sum.to_le_bytes());
}

/// One block group.
#[derive(Debug, Clone, Copy, Default)]
pub struct Group {
    /// Where its block bitmap is.
    pub block_bitmap: u64,
    /// Where its inode bitmap is.
    pub inode_bitmap: u64,
    /// Where its inode table starts.
    pub inode_table: u64,
    /// Its free blocks.
    pub free_blocks: u32,
    /// Its free inodes.
    pub free_inodes: u32,
    /// Its inodes that are directories.
    pub directories: u32,
    /// Inodes at the end of its table that were never used.
    pub unused_inodes: u32,
    /// Its state.
    pub flags: GroupFlags,
    /// The checksum of its block bitmap, 0 where that is not written.
    pub block_bitmap_checksum: u32,
    /// The checksum of its inode bitmap, 0 where that is not written.
    pub inode_bitmap_checksum: u32,
}

impl Group {
    /// The descriptor of block group `number` in a file system whose checksums start from `seed`.
    #[must_use]
    pub fn encode(&self, seed: u32, number: u32) -> [u8; DESCRIPTOR] {
        let mut out = Fields([0; DESCRIPTOR]);
        for (at, block) in [(0, self.block_bitmap), (4, self.inode_bitmap), (8, self.inode_table)] {
            let (lo, hi) = halves(block);
            out.u32(at, lo);
            out.u32(0x20 + at, hi);
        }
        let counts = [
            (0x0c, 0x2c, self.free_blocks),
            (0x0e, 0x2e, self.free_inodes),
            (0x10, 0x30, self.directories),
            (0x1c, 0x32, self.unused_inodes),
            (0x18, 0x38, self.block_bitmap_checksum),
            (0x1a, 0x3a, self.inode_bitmap_checksum),
        ];
        for (lo, hi, value) in counts {
            out.u16(lo, value as u16);
            out.u16(hi, (value >> 16) as u16);
        }
        out.u16(0x12, self.flags.0);
        let sum = checksum::update(checksum::update(seed, &number.to_le_bytes()), &out.0);
        out.u16(0x1e, sum as u16);
        out.0
    }
}

/// The low and the high half of `value`.
pub(super) fn halves(value: u64) -> (u32, u32) {
    (value as u32, (value >> 32) as u32)
}

/// Little-endian fields at fixed places of a structure.
pub(super) struct Fields<const N: usize>(pub [u8; N]);

impl<const N: usize> Fields<N> {
    pub fn u16(&mut self, at: usize, value: u16) {
        self.bytes(at, &value.to_le_bytes());
    }

    pub fn u32(&mut self, at: usize, value: u32) {
        self.bytes(at, &value.to_le_bytes());
    }

    pub fn bytes(&mut self, at: usize, bytes: &[u8]) {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }
}
