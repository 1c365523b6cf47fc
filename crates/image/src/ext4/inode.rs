//! Inodes as bytes.

use super::{
    checksum,
    superblock::{Fields, halves},
    tree::Timestamp,
};

/// The size of an inode.
pub const SIZE: usize = 256;
/// The bytes of the inode's fields after its first 128.
pub const EXTRA: usize = 32;
/// Where extended attributes start in an inode.
pub const ATTRIBUTES_AT: usize = 128 + EXTRA;
/// The bytes of an inode that hold its block map, its device number or a short link's target.
pub const MAP: usize = 60;

bits! {
    /// Flags of an inode.
    Flags: u32 { INDEX = 0x1000, EXTENTS = 0x8_0000, }
}

/// One inode.
#[derive(Debug, Clone)]
pub struct Record<'a> {
    /// File type and permissions.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Size in bytes.
    pub size: u64,
    /// Used for all four times, since a tar has no others.
    pub time: Timestamp,
    /// Directory entries that name it.
    pub links: u16,
    /// Blocks that it takes, those of its block map and attributes included.
    pub blocks: u64,
    /// Flags.
    pub flags: Flags,
    /// Block map, device number or short link target.
    pub map: [u8; MAP],
    /// The block of its extended attributes, or 0.
    pub attribute_block: u64,
    /// Its extended attributes, where they fit in.
    pub attributes: &'a [u8],
}

impl Record<'_> {
    /// The bytes of inode `number` in a file system whose checksums start from `seed`.
    #[must_use]
    pub fn encode(&self, seed: u32, number: u32) -> [u8; SIZE] {
        let mut out = Fields([0; SIZE]);
        let (size_lo, size_hi) = halves(self.size);
        let sectors = self.blocks * (super::BLOCK as u64 / 512);
        let (sectors_lo, sectors_hi) = halves(sectors);
        let (acl_lo, acl_hi) = halves(self.attribute_block);
        let (seconds, extra) = self.time.encode();
        out.u16(0x00, self.mode);
        out.u16(0x02, self.uid as u16);
        out.u32(0x04, size_lo);
        out.u32(0x08, seconds);
        out.u32(0x0c, seconds);
        out.u32(0x10, seconds);
        out.u16(0x18, self.gid as u16);
        out.u16(0x1a, self.links);
        out.u32(0x1c, sectors_lo);
        out.u32(0x20, self.flags.0);
        out.bytes(0x28, &self.map);
        out.u32(0x68, acl_lo);
        out.u32(0x6c, size_hi);
        out.u16(0x74, sectors_hi as u16);
        out.u16(0x76, acl_hi as u16);
        out.u16(0x78, (self.uid >> 16) as u16);
        out.u16(0x7a, (self.gid >> 16) as u16);
        out.u16(0x80, EXTRA as u16);
        out.u32(0x84, extra);
        out.u32(0x88, extra);
        out.u32(0x8c, extra);
        out.u32(0x90, seconds);
        out.u32(0x94, extra);
        out.bytes(ATTRIBUTES_AT, self.attributes);
        let sum = checksum::update(checksum::inode_seed(seed, number), &out.0);
        out.u16(0x7c, sum as u16);
        out.u16(0x82, (sum >> 16) as u16);
        out.0
    }
}

/// The block map of a device: the old encoding where the numbers fit, the new one where not.
#[must_use]
pub fn device_map(major: u32, minor: u32) -> [u8; MAP] {
    let mut out = Fields([0; MAP]);
    if major < 256 && minor < 256 {
        out.u32(0, major << 8 | minor);
    } else {
        out.u32(4, minor & 0xff | major << 8 | (minor & !0xff) << 12);
    }
    out.0
}
