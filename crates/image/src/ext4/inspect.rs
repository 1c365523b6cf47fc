//! Looks at a file system that somebody else made: whether a guest can mount it read-only as it lies there.

use std::{fs::File, os::unix::fs::FileExt};

use super::{checksum, superblock};

/// What an ext4 file system says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// Its identity.
    pub uuid: [u8; 16],
    /// Its bytes.
    pub size: u64,
}

/// Why a guest could not use a file system.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// It is something else.
    #[error("it is no ext4 file system")]
    NotExt4,
    /// Its superblock is damaged.
    #[error("its superblock is damaged")]
    Damaged,
    /// Its journal has to be replayed, and nobody may write here.
    #[error("it was not unmounted: its journal has to be replayed first")]
    Dirty,
    /// It is known to be broken, or was in use.
    #[error("it is not clean")]
    Unclean,
    /// It has features that guests' kernels do not all have.
    #[error("it has features that not every kernel can mount: {0:#x}")]
    Features(u32),
    /// Its blocks are larger than pages of memory.
    #[error("it has blocks of 2^{0} bytes, and kernels mount up to 4096")]
    Blocks(u32),
    /// Its file ends before it does.
    #[error("it has {size} bytes, and its file {file}")]
    Shorter {
        /// The file system's.
        size: u64,
        /// The file's.
        file: u64,
    },
    /// All file systems have one identity, and this one has none.
    #[error("it has no UUID")]
    NoUuid,
    /// It cannot be read.
    #[error("it cannot be read")]
    Read(#[source] std::io::Error),
}

const MAGIC: u16 = 0xef53;
/// The journal has to be replayed.
const RECOVER: u32 = 0x4;
/// filetype, meta_bg, extents, 64bit, flex_bg, ea_inode, csum_seed, largedir, inline_data.
const MOUNTABLE: u32 = 0x2 | 0x10 | 0x40 | 0x80 | 0x200 | 0x400 | 0x2000 | 0x4000 | 0x8000;
/// Of those that must be known to write.
const METADATA_CSUM: u32 = 0x400;

/// Looks at the file system in `file`.
///
/// # Errors
/// Where it is none that a guest could mount.
pub fn inspect(file: &File) -> Result<Found, InspectError> {
    let length = file.metadata().map_err(InspectError::Read)?.len();
    let mut block = [0; superblock::LENGTH];
    if length < superblock::OFFSET + superblock::LENGTH as u64 {
        return Err(InspectError::NotExt4);
    }
    file.read_exact_at(&mut block, superblock::OFFSET).map_err(InspectError::Read)?;
    let u16_at = |at: usize| u16::from_le_bytes([block[at], block[at + 1]]);
    let u32_at = |at: usize| u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]]);
    if u16_at(0x38) != MAGIC {
        return Err(InspectError::NotExt4);
    }
    let (incompatible, read_only) = (u32_at(0x60), u32_at(0x64));
    if read_only & METADATA_CSUM != 0 {
        let (covered, stored) = (&block[..superblock::CHECKSUM_AT], u32_at(superblock::CHECKSUM_AT));
        if checksum::update(checksum::START, covered) != stored {
            return Err(InspectError::Damaged);
        }
    }
    if incompatible & RECOVER != 0 {
        return Err(InspectError::Dirty);
    }
    // Clean, and without errors.
    if u16_at(0x3a) & 3 != 1 {
        return Err(InspectError::Unclean);
    }
    match incompatible & !MOUNTABLE {
        0 => {}
        unknown => return Err(InspectError::Features(unknown)),
    }
    let bytes = match u32_at(0x18) {
        shift @ 0..=2 => 1024_u64 << shift,
        shift => return Err(InspectError::Blocks(shift.saturating_add(10))),
    };
    // The upper half counts only with the feature `64bit`.
    let upper = if incompatible & 0x80 != 0 { u64::from(u32_at(0x150)) << 32 } else { 0 };
    let size = (upper | u64::from(u32_at(0x04))).saturating_mul(bytes);
    if size > length {
        return Err(InspectError::Shorter { size, file: length });
    }
    let uuid: [u8; 16] = block[0x68..0x78].try_into().expect("it has 16 bytes");
    if uuid == [0; 16] { Err(InspectError::NoUuid) } else { Ok(Found { uuid, size }) }
}
