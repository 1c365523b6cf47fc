//! Pre-formatted disks: empty ext4 file systems in sparse files, which are cloned for each VM.
//!
//! A template has a journal, is mounted read-write by guests, and grows online. Little of it is written: block groups that
//! nobody used are described as uninitialised, and since a new file reads as zeros, inode tables and journal need no
//! writing either. Group descriptors are spread (`meta_bg`) rather than in one piece with room to grow: a disk of any size
//! can grow to any size, and there is no room to keep.
//!
//! ```text
//! group 0      | superblock | descriptors | bitmaps of 16 groups | inode tables of 16 groups | journal | root | free …
//! group 1      | copy       | copy        | free …
//! groups 2, 4… | free …
//! group 16     | bitmaps of 16 groups | inode tables of 16 groups | free …
//! ```

use std::{
    fs::File,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use crate::ext4::{
    BLOCK, FIRST_INODE, Features, GROUP, ROOT_INODE, checksum, directory, extent,
    inode::{self, Flags, Record},
    superblock::{
        self, Compatible, DESCRIPTORS_PER_BLOCK, Group, GroupFlags, Incompatible, JournalBackup, OFFSET,
        OnError, ReadOnly, Superblock,
    },
    tree::Timestamp,
};

/// The features of a template.
pub const TEMPLATE_FEATURES: Features = Features {
    compatible: Compatible::HAS_JOURNAL.with(Compatible::EXT_ATTR).with(Compatible::DIR_INDEX),
    incompatible: Incompatible::FILETYPE
        .with(Incompatible::META_BG)
        .with(Incompatible::EXTENTS)
        .with(Incompatible::BIT64)
        .with(Incompatible::FLEX_BG)
        .with(Incompatible::CSUM_SEED),
    read_only: ReadOnly::SPARSE_SUPER
        .with(ReadOnly::LARGE_FILE)
        .with(ReadOnly::HUGE_FILE)
        .with(ReadOnly::DIR_NLINK)
        .with(ReadOnly::EXTRA_ISIZE)
        .with(ReadOnly::METADATA_CSUM),
};

/// Part of a template's file name: a change of what is written changes it, so that no old one is used.
const VERSION: u32 = 1;
const SMALLEST: u64 = 16 << 20;
/// With 2³² blocks, numbers no longer fit.
const LARGEST: u64 = 8 << 40;
const SEED: u32 = 0x7465_6d70;
const HASH_SEED: [u32; 4] = [0x6261_6e67, 0x6572_2074, 0x656d_706c, 0x6174_6521];
/// Groups whose bitmaps and inode tables lie together.
const FLEX: u32 = 16;
/// Bytes of disk for each inode, as `mke2fs` has it.
const BYTES_PER_INODE: u64 = 16384;
const JOURNAL_INODE: u32 = 8;
const INODES_PER_BLOCK: u32 = (BLOCK / inode::SIZE) as u32;

/// What a disk is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The writable layer above an image.
    Overlay,
    /// The disk that is mounted on `/root`.
    Work,
}

impl Role {
    fn label(self) -> &'static str {
        match self {
            Self::Overlay => "overlay",
            Self::Work => "work",
        }
    }

    /// The permissions of its root directory.
    fn mode(self) -> u16 {
        match self {
            Self::Overlay => 0o755,
            Self::Work => 0o700,
        }
    }
}

/// Why there is no template, or why a disk cannot be given an identity.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be written.
    #[error(transparent)]
    Write(#[from] host::Error),
    /// The size is one that no template can have.
    #[error("a disk of {size} bytes is not possible, only 16 MiB to 8 TiB")]
    Size {
        /// The size that was asked for.
        size: u64,
    },
    /// The disk has no superblock of a template.
    #[error("{} is not a disk made from a template", path.display())]
    NotATemplate {
        /// The disk.
        path: PathBuf,
    },
}

/// The template for disks of `size` bytes in `dir`, which is made where it is missing. The file is sparse and complete from the
/// moment it has its name, also when several do this at once.
///
/// # Errors
/// Where the size is not possible or the file cannot be written.
pub fn ensure(dir: &Path, role: Role, size: u64) -> Result<PathBuf, Error> {
    let path = dir.join(format!("{}-{size}.v{VERSION}.ext4", role.label()));
    if host::fs::exists(&path) {
        return Ok(path);
    }
    let geometry = Geometry::of(size).ok_or(Error::Size { size })?;
    let unique = u64::from_le_bytes(host::rand::bytes());
    let staged = dir.join(format!("{}-{size}.{unique:016x}.new", role.label()));
    let make = || -> Result<(), host::Error> {
        let file = host::fs::create_new(&staged)?;
        Disk { file: &file, path: &staged }.write(&geometry, role, size)?;
        // Whoever was faster made the same bytes.
        host::fs::rename(&staged, &path)
    };
    make().inspect_err(|_| {
        let _ = host::fs::remove(&staged);
    })?;
    Ok(path)
}

/// Gives the file system in the file `path`, a clone of a template that was not mounted since, the identity `uuid`.
///
/// # Errors
/// Where it is no template's clone or cannot be written.
pub fn set_uuid(path: &Path, uuid: [u8; 16]) -> Result<(), Error> {
    let file = host::fs::open_rw(path)?;
    let mut bytes = [0; superblock::LENGTH];
    file.read_exact_at(&mut bytes, OFFSET).map_err(|e| host::Error::path("read", path, e))?;
    if !superblock::replace_uuid(&mut bytes, uuid) {
        return Err(Error::NotATemplate { path: path.to_owned() });
    }
    file.write_all_at(&bytes, OFFSET).map_err(|e| host::Error::path("write", path, e))?;
    Ok(())
}

/// Where everything lies on a disk of some size.
#[derive(Debug, Clone, Copy)]
struct Geometry {
    blocks: u32,
    groups: u32,
    inodes_per_group: u32,
    journal: u32,
}

/// The blocks of one group that metadata takes.
#[derive(Debug, Clone, Copy)]
struct Head {
    superblock: Option<u32>,
    descriptors: Option<u32>,
    /// The first block behind these.
    end: u32,
}

impl Geometry {
    fn of(size: u64) -> Option<Self> {
        if !(SMALLEST..=LARGEST).contains(&size) {
            return None;
        }
        let blocks = u32::try_from(size / BLOCK as u64).ok()?;
        let groups = blocks.div_ceil(GROUP);
        let inodes = u64::from(blocks) * BLOCK as u64 / BYTES_PER_INODE;
        let inodes_per_group = u32::try_from(inodes.div_ceil(u64::from(groups)))
            .ok()?
            .next_multiple_of(INODES_PER_BLOCK)
            .min(GROUP);
        let journal = match blocks {
            0..8192 => 1024,
            8192..32768 => 1024,
            32768..262_144 => 4096,
            262_144..524_288 => 8192,
            _ => 16384,
        };
        let mut geometry = Self { blocks, groups, inodes_per_group, journal };
        // A last group that cannot hold its own metadata is left out.
        let last = geometry.groups - 1;
        if last > 0 && geometry.group_end(last) < geometry.metadata_end(last) + 64 {
            geometry.blocks = last * GROUP;
            geometry.groups = last;
        }
        Some(geometry)
    }

    fn table_blocks(&self) -> u32 {
        self.inodes_per_group / INODES_PER_BLOCK
    }

    fn group_end(&self, group: u32) -> u32 {
        self.blocks.min((group + 1).saturating_mul(GROUP))
    }

    fn head(&self, group: u32) -> Head {
        let mut end = group * GROUP;
        let mut take = |wanted: bool| {
            wanted.then(|| {
                end += 1;
                end - 1
            })
        };
        let superblock = take(has_superblock(group));
        // The first, second and last group of each that share a block of descriptors have it.
        let descriptors = take(matches!(group % DESCRIPTORS_PER_BLOCK as u32, 0 | 1 | 63));
        Head { superblock, descriptors, end }
    }

    /// The groups whose bitmaps and inode tables lie in `group`.
    fn hosted(&self, group: u32) -> std::ops::Range<u32> {
        if group.is_multiple_of(FLEX) { group..(group + FLEX).min(self.groups) } else { group..group }
    }

    /// The first block behind the metadata at the beginning of `group`.
    fn metadata_end(&self, group: u32) -> u32 {
        self.head(group).end + self.hosted(group).len() as u32 * (2 + self.table_blocks())
    }

    /// Block bitmap, inode bitmap and inode table of `group`.
    fn places(&self, group: u32) -> (u32, u32, u32) {
        let host = group / FLEX * FLEX;
        let (start, count, index) = (self.head(host).end, self.hosted(host).len() as u32, group - host);
        (start + index, start + count + index, start + 2 * count + index * self.table_blocks())
    }

    fn journal_start(&self) -> u32 {
        self.metadata_end(0)
    }

    fn root_block(&self) -> u32 {
        self.journal_start() + self.journal
    }

    /// The blocks at the beginning of `group` that are in use.
    fn used(&self, group: u32) -> u32 {
        if group == 0 { self.root_block() + 1 } else { self.metadata_end(group) - group * GROUP }
    }
}

/// Whether `group` has a copy of the superblock: 0, 1, and the powers of 3, 5 and 7.
fn has_superblock(group: u32) -> bool {
    let is_power = |base: u32| {
        let mut power = base;
        while power < group {
            power = power.saturating_mul(base);
        }
        power == group
    };
    group <= 1 || is_power(3) || is_power(5) || is_power(7)
}

/// The file that a template is written to.
struct Disk<'a> {
    file: &'a File,
    path: &'a Path,
}

impl Disk<'_> {
    fn put(&self, offset: u64, bytes: &[u8]) -> Result<(), host::Error> {
        self.file.write_all_at(bytes, offset).map_err(|e| host::Error::path("write", self.path, e))
    }

    fn put_block(&self, block: u32, bytes: &[u8]) -> Result<(), host::Error> {
        self.put(u64::from(block) * BLOCK as u64, bytes)
    }

    fn write(&self, geometry: &Geometry, role: Role, size: u64) -> Result<(), host::Error> {
        self.file.set_len(size).map_err(|e| host::Error::path("write", self.path, e))?;
        let journal = self.write_inodes(geometry, role)?;
        let groups = (0..geometry.groups)
            .map(|group| self.write_group(geometry, group))
            .collect::<Result<Vec<_>, _>>()?;
        let free_blocks = groups.iter().map(|group| u64::from(group.free_blocks)).sum();
        self.write_superblocks(geometry, &superblock(geometry, role, free_blocks, journal))?;
        self.write_descriptors(geometry, &groups)?;
        self.file.sync_all().map_err(|e| host::Error::path("sync", self.path, e))
    }

    /// Writes journal, root directory and the inodes in use, and gives the journal's.
    fn write_inodes(&self, geometry: &Geometry, role: Role) -> Result<JournalBackup, host::Error> {
        let (.., table) = geometry.places(0);
        let journal_map =
            extent::single(geometry.journal_start(), geometry.journal).expect("a journal is one extent");
        let journal_size = u64::from(geometry.journal) * BLOCK as u64;
        let file = |mode, links, size: u64, map| Record {
            mode,
            uid: 0,
            gid: 0,
            size,
            time: Timestamp::default(),
            links,
            blocks: size / BLOCK as u64,
            flags: Flags::EXTENTS,
            map,
            attribute_block: 0,
            attributes: &[],
        };
        let journal = file(0o100_600, 1, journal_size, journal_map);
        let root_map = extent::single(geometry.root_block(), 1).expect("one block is one extent");
        let root = file(0o040_000 | role.mode(), 2, BLOCK as u64, root_map);
        let mut inodes = vec![0; BLOCK];
        for (number, record) in [(ROOT_INODE, root), (JOURNAL_INODE, journal)] {
            let at = (number as usize - 1) * inode::SIZE;
            inodes[at..at + inode::SIZE].copy_from_slice(&record.encode(SEED, number));
        }
        self.put_block(table, &inodes)?;
        self.put_block(geometry.journal_start(), &journal_superblock(geometry.journal))?;
        self.put_block(geometry.root_block(), &directory::empty(SEED, ROOT_INODE))?;
        Ok(JournalBackup { inode: JOURNAL_INODE, map: journal_map, size: journal_size })
    }

    /// Writes the bitmaps of `group`, where it needs any.
    fn write_group(&self, geometry: &Geometry, group: u32) -> Result<Group, host::Error> {
        let (block_bitmap, inode_bitmap, inode_table) = geometry.places(group);
        let (used, total) = (geometry.used(group), geometry.group_end(group) - group * GROUP);
        let used_inodes = if group == 0 { FIRST_INODE - 1 } else { 0 };
        let mut record = Group {
            block_bitmap: u64::from(block_bitmap),
            inode_bitmap: u64::from(inode_bitmap),
            inode_table: u64::from(inode_table),
            free_blocks: total - used,
            free_inodes: geometry.inodes_per_group - used_inodes,
            directories: u32::from(group == 0),
            unused_inodes: geometry.inodes_per_group - used_inodes,
            flags: GroupFlags::INODE_ZEROED,
            block_bitmap_checksum: 0,
            inode_bitmap_checksum: 0,
        };
        // A kernel can work out the bitmap of a group that only has what each group has, but for the last one.
        if geometry.hosted(group).is_empty() && group + 1 < geometry.groups {
            record.flags = record.flags.with(GroupFlags::BLOCK_UNINIT);
        } else {
            let bitmap = bitmap(used, total);
            record.block_bitmap_checksum = checksum::update(SEED, &bitmap);
            self.put_block(block_bitmap, &bitmap)?;
        }
        if group == 0 {
            let bitmap = bitmap(used_inodes, geometry.inodes_per_group);
            record.inode_bitmap_checksum =
                checksum::update(SEED, &bitmap[..geometry.inodes_per_group as usize / 8]);
            self.put_block(inode_bitmap, &bitmap)?;
        } else {
            record.flags = record.flags.with(GroupFlags::INODE_UNINIT);
        }
        Ok(record)
    }

    fn write_superblocks(&self, geometry: &Geometry, superblock: &Superblock) -> Result<(), host::Error> {
        for group in 0..geometry.groups {
            if let Some(block) = geometry.head(group).superblock {
                let within = if group == 0 { OFFSET } else { 0 };
                // The number has 16 bits, and so wraps.
                self.put(u64::from(block) * BLOCK as u64 + within, &superblock.encode(group as u16))?;
            }
        }
        Ok(())
    }

    fn write_descriptors(&self, geometry: &Geometry, groups: &[Group]) -> Result<(), host::Error> {
        for (index, chunk) in groups.chunks(DESCRIPTORS_PER_BLOCK as usize).enumerate() {
            let first = index as u32 * DESCRIPTORS_PER_BLOCK as u32;
            let mut block = Vec::with_capacity(BLOCK);
            for (number, group) in (first..).zip(chunk) {
                block.extend_from_slice(&group.encode(SEED, number));
            }
            for group in first..first + chunk.len() as u32 {
                if let Some(at) = geometry.head(group).descriptors {
                    self.put_block(at, &block)?;
                }
            }
        }
        Ok(())
    }
}

fn superblock(geometry: &Geometry, role: Role, free_blocks: u64, journal: JournalBackup) -> Superblock {
    let inodes = geometry.groups * geometry.inodes_per_group;
    let mut label = [0; 16];
    label[..role.label().len()].copy_from_slice(role.label().as_bytes());
    Superblock {
        features: TEMPLATE_FEATURES,
        blocks: u64::from(geometry.blocks),
        free_blocks,
        inodes,
        free_inodes: inodes - (FIRST_INODE - 1),
        blocks_per_group: GROUP,
        inodes_per_group: geometry.inodes_per_group,
        uuid: *b"banger template\0",
        checksum_seed: SEED,
        label,
        hash_seed: HASH_SEED,
        on_error: OnError::RemountReadOnly,
        journal: Some(journal),
        overhead_blocks: 0,
        log_groups_per_flex: FLEX.ilog2() as u8,
    }
}

/// A bitmap of `total` bits, of which the first `used` are set, and so are all that do not count.
fn bitmap(used: u32, total: u32) -> [u8; BLOCK] {
    let mut bitmap = [0xff; BLOCK];
    for bit in used..total {
        bitmap[bit as usize / 8] &= !(1 << (bit % 8));
    }
    bitmap
}

/// The first block of an empty journal of `blocks` blocks. Its numbers are big-endian.
fn journal_superblock(blocks: u32) -> [u8; BLOCK] {
    let mut out = [0; BLOCK];
    let words = [
        (0x00, 0xc03b_3998), // magic
        (0x04, 4),           // superblock, version 2
        (0x0c, BLOCK as u32),
        (0x10, blocks),
        (0x14, 1), // the first block of the log
        (0x18, 1), // the first transaction expected
        (0x40, 1), // users
    ];
    for (at, word) in words {
        out[at..at + 4].copy_from_slice(&u32::to_be_bytes(word));
    }
    out[0x30..0x40].copy_from_slice(b"banger template\0");
    out
}
