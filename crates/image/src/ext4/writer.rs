//! Makes a tree and its content a file system.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use super::{
    BLOCK, Extent, FIRST_INODE, Features, GROUP, ROOT_INODE, attribute,
    attribute::{AttributeError, AttributeSet, Encoded},
    blocks_of, checksum,
    directory::{self, Entry, Place},
    extent::{self, Root},
    inode::{self, Flags, Record},
    stream::{FillError, Stream},
    superblock::{
        Compatible, DESCRIPTORS_PER_BLOCK, Group, GroupFlags, Incompatible, OFFSET, OnError, ReadOnly,
        Superblock,
    },
    tree::{Attributes, Content, EntryPath, Inode, InodeId, Meta, NodeId, Settled, Timestamp, Tree},
};

/// The features of an image. It has no journal and no copies of its superblock, because nobody writes to it.
pub const IMAGE_FEATURES: Features = Features {
    compatible: Compatible::EXT_ATTR.with(Compatible::DIR_INDEX).with(Compatible::SPARSE_SUPER2),
    incompatible: Incompatible::FILETYPE
        .with(Incompatible::EXTENTS)
        .with(Incompatible::BIT64)
        .with(Incompatible::FLEX_BG)
        .with(Incompatible::CSUM_SEED),
    read_only: ReadOnly::LARGE_FILE
        .with(ReadOnly::HUGE_FILE)
        .with(ReadOnly::DIR_NLINK)
        .with(ReadOnly::EXTRA_ISIZE)
        .with(ReadOnly::METADATA_CSUM)
        .with(ReadOnly::READONLY),
};

/// What all checksums of an image start from. It is not the UUID, which is known last.
const SEED: u32 = 0x6261_6e67;
/// What hashes in its directories start from.
const HASH_SEED: [u32; 4] = [0x6261_6e67, 0x6572_2069, 0x6d61_6765, 0x7320_7631];
const INODES_PER_BLOCK: u32 = (BLOCK / inode::SIZE) as u32;
/// The longest target of a link that lies in the inode.
const SHORT_LINK: usize = inode::MAP - 1;
/// The longest target of any link.
const LONG_LINK: usize = 4095;
/// The largest file: 2³² blocks less one.
const LARGEST_FILE: u64 = (u32::MAX as u64) * BLOCK as u64;

/// Why a file system cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be written.
    #[error(transparent)]
    Write(#[from] host::Error),
    /// It would be larger than allowed.
    #[error("the file system would be larger than {limit} bytes")]
    TooLarge {
        /// The allowed size.
        limit: u64,
    },
    /// It would have more entries than ext4 can number.
    #[error("the file system would have too many entries")]
    TooManyEntries,
    /// A file would have more names than ext4 can count.
    #[error("{path} is one hard link too many of its file")]
    TooManyLinks {
        /// One of its names.
        path: EntryPath,
    },
    /// A directory would have more entries than ext4 can index.
    #[error("directory {path} has too many entries")]
    DirectoryTooLarge {
        /// Its path.
        path: EntryPath,
    },
    /// A file would be larger than ext4 can address.
    #[error("the file is larger than 16 TiB")]
    FileTooLarge,
    /// A symbolic link's target is none that a link can have.
    #[error("the link's target is empty, longer than 4095 bytes, or has a zero byte in it")]
    BadTarget,
    /// A file's extended attributes cannot be kept.
    #[error(transparent)]
    Attributes(#[from] AttributeError),
}

/// A run of bytes of a sparse file that are in its content; all others are zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Where it starts in the file.
    pub offset: u64,
    /// Its length.
    pub length: u64,
}

/// A finished file system.
#[derive(Debug)]
pub struct Written {
    /// The file.
    pub file: File,
    /// Its size in bytes.
    pub size: u64,
    /// Its identity.
    pub uuid: [u8; 16],
}

/// An ext4 file system under way. Dropped before [`Writer::finish`], it removes its file.
#[derive(Debug)]
pub struct Writer {
    // The stream's file is closed before the unfinished file is removed.
    stream: Stream,
    tree: Tree,
    reserve_end: u32,
    unfinished: Unfinished,
}

impl Writer {
    /// Starts a file system in the new file `path`, whose root directory is `root`, and which may become `limit` bytes
    /// large.
    ///
    /// # Errors
    /// Where the file exists or cannot be made.
    pub fn create(path: &Path, root: Meta, limit: u64) -> Result<Self, Error> {
        let limit = u32::try_from(limit / BLOCK as u64).unwrap_or(u32::MAX);
        let descriptors = u64::from(limit.div_ceil(GROUP)).div_ceil(DESCRIPTORS_PER_BLOCK) as u32;
        let reserve_end = 1 + descriptors;
        let file = host::fs::create_new(path)?;
        let unfinished = Unfinished(Some(path.to_owned()));
        let stream = Stream::new(file, path, reserve_end, limit)?;
        Ok(Self { stream, tree: Tree::new(root), reserve_end, unfinished })
    }

    /// What it contains so far.
    #[must_use]
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// The same, to change names in it.
    pub fn tree_mut(&mut self) -> &mut Tree {
        &mut self.tree
    }

    /// The bytes that it takes so far.
    #[must_use]
    pub fn size(&self) -> u64 {
        u64::from(self.stream.position()) * BLOCK as u64
    }

    /// Changes what is kept of directory `id`.
    ///
    /// # Errors
    /// Where the attributes cannot be kept.
    pub fn change(&mut self, id: InodeId, meta: Meta, attributes: &AttributeSet) -> Result<(), Error> {
        let attributes = self.attributes(attributes)?;
        let content = self.tree.inode(id).content();
        self.tree.replace(id, Inode::new(meta, content, 0, attributes));
        Ok(())
    }

    /// Adds a directory.
    ///
    /// # Errors
    /// Where its attributes cannot be kept.
    pub fn directory(&mut self, meta: Meta, attributes: &AttributeSet) -> Result<InodeId, Error> {
        self.add(meta, Content::Directory(0), 0, attributes)
    }

    /// Adds a regular file of the next `size` bytes of `source`.
    ///
    /// # Errors
    /// Where these cannot be read or written.
    pub fn file(
        &mut self,
        meta: Meta,
        attributes: &AttributeSet,
        size: u64,
        source: &mut dyn Read,
    ) -> Result<InodeId, FillError> {
        if size > LARGEST_FILE {
            return Err(Error::FileTooLarge.into());
        }
        let first = self.stream.fill(source, size)?;
        Ok(self.add(meta, Content::File(first), size, attributes)?)
    }

    /// Adds a regular file of `size` bytes, of which those of `segments`, which do not overlap and are in order, come from `source`.
    ///
    /// # Errors
    /// Where these cannot be read or written.
    pub fn sparse_file(
        &mut self,
        meta: Meta,
        attributes: &AttributeSet,
        size: u64,
        segments: &[Segment],
        source: &mut dyn Read,
    ) -> Result<InodeId, FillError> {
        if size > LARGEST_FILE {
            return Err(Error::FileTooLarge.into());
        }
        let first = self.tree.extents.len() as u32;
        let mut rest = segments;
        while let Some(run) = BlockRun::next(&mut rest) {
            let mut padded = Padded { source: &mut *source, segments: run.segments, at: run.start };
            let physical = self.stream.fill(&mut padded, run.end - run.start)?;
            let logical = (run.start / BLOCK as u64) as u32;
            let count = blocks_of(run.end - run.start) as u32;
            self.tree.extents.push(Extent { logical, physical, count });
        }
        let count = self.tree.extents.len() as u32 - first;
        Ok(self.add(meta, Content::Sparse(first, count), size, attributes)?)
    }

    /// Adds a symbolic link to `target`.
    ///
    /// # Errors
    /// Where the target is empty, too long or has a zero byte, or cannot be written.
    pub fn link(&mut self, meta: Meta, attributes: &AttributeSet, target: &[u8]) -> Result<InodeId, Error> {
        const LONGER: usize = SHORT_LINK + 1;
        if target.contains(&0) {
            return Err(Error::BadTarget);
        }
        let content = match target.len() {
            1..=SHORT_LINK => Content::ShortLink(self.tree.keep_name(target)?),
            LONGER..=LONG_LINK => Content::LongLink(self.stream.append(target)?),
            _ => return Err(Error::BadTarget),
        };
        self.add(meta, content, target.len() as u64, attributes)
    }

    /// The target of symbolic link `node`; `None` where it is something else.
    ///
    /// # Errors
    /// Where it cannot be read back.
    pub fn target(&mut self, node: NodeId) -> Result<Option<Vec<u8>>, Error> {
        let inode = *self.tree.inode(self.tree.inode_of(node));
        Ok(match inode.content {
            Content::ShortLink(at) => Some(self.tree.short_target(at, inode.size).to_vec()),
            Content::LongLink(block) => {
                let mut target = vec![0; inode.size as usize];
                self.stream.read(block, &mut target)?;
                Some(target)
            }
            Content::Directory(_)
            | Content::File(_)
            | Content::Sparse(..)
            | Content::CharacterDevice(..)
            | Content::BlockDevice(..)
            | Content::Pipe => None,
        })
    }

    /// The content of regular file `node`, where it is one without holes and of up to `limit` bytes.
    ///
    /// # Errors
    /// Where it cannot be read back.
    pub fn content(&mut self, node: NodeId, limit: u64) -> Result<Option<Vec<u8>>, Error> {
        let inode = *self.tree.inode(self.tree.inode_of(node));
        match inode.content {
            Content::File(first) if inode.size <= limit => {
                let mut content = vec![0; inode.size as usize];
                self.stream.read(first, &mut content)?;
                Ok(Some(content))
            }
            _ => Ok(None),
        }
    }

    /// Adds a device or a named pipe.
    ///
    /// # Errors
    /// Where its attributes cannot be kept.
    pub fn special(
        &mut self,
        meta: Meta,
        attributes: &AttributeSet,
        content: Content,
    ) -> Result<InodeId, Error> {
        self.add(meta, content, 0, attributes)
    }

    fn add(
        &mut self,
        meta: Meta,
        content: Content,
        size: u64,
        attributes: &AttributeSet,
    ) -> Result<InodeId, Error> {
        let attributes = self.attributes(attributes)?;
        self.tree.add(Inode::new(meta, content, size, attributes))
    }

    fn attributes(&mut self, set: &AttributeSet) -> Result<Attributes, Error> {
        Ok(match set.encode()? {
            None => Attributes::None,
            Some(Encoded::Inline(bytes)) => Attributes::Inline(self.tree.keep_attributes(&bytes)?),
            Some(Encoded::Block(mut block)) => {
                attribute::seal(&mut block, SEED, self.stream.position());
                Attributes::Block(self.stream.append(&block[..])?)
            }
        })
    }

    /// Writes all that depends on the whole. The identity is `uuid`, or follows from the content where that is `None`.
    ///
    /// # Errors
    /// Where the tree cannot be an ext4 file system, or the file cannot be written.
    pub fn finish(mut self, uuid: Option<[u8; 16]>, label: &str) -> Result<Written, Error> {
        let settled = self.tree.settle()?;
        let uuid = match uuid {
            Some(uuid) => uuid,
            None => derived_uuid(self.tree.digest(self.stream.sum())),
        };
        self.write_directories(&settled)?;
        let roots = self.write_extents()?;
        let mut free = self.free_runs();
        free.iter().try_for_each(|run| self.stream.discard(run.first, run.count))?;

        let layout = Layout::of(self.stream.position(), settled.inodes)?;
        // What comes behind the content counts too. Many inodes take more groups, and these more descriptors, than content does.
        self.stream.check(layout.blocks)?;
        if layout.descriptor_blocks() > self.reserve_end - 1 {
            return Err(self.stream.too_large());
        }
        free.push(Run {
            first: 1 + layout.descriptor_blocks(),
            count: self.reserve_end - 1 - layout.descriptor_blocks(),
        });
        let directories = self.write_inodes(&layout, &roots, settled.inodes)?;
        debug_assert_eq!(self.stream.position(), layout.bitmaps);
        free.push(Run { first: layout.bitmaps + 2 * layout.groups, count: layout.padding() });
        free.sort_unstable_by_key(|run| run.first);

        let groups = self.write_bitmaps(&layout, &free, &directories, settled.inodes)?;
        let mut padded = [0; 16];
        let shown = label.len().min(padded.len());
        padded[..shown].copy_from_slice(&label.as_bytes()[..shown]);
        let superblock = Superblock {
            features: IMAGE_FEATURES,
            blocks: u64::from(layout.blocks),
            free_blocks: free.iter().map(|run| u64::from(run.count)).sum(),
            inodes: layout.groups * layout.inodes_per_group,
            free_inodes: layout.groups * layout.inodes_per_group - settled.inodes,
            blocks_per_group: layout.blocks_per_group,
            inodes_per_group: layout.inodes_per_group,
            uuid,
            checksum_seed: SEED,
            label: padded,
            hash_seed: HASH_SEED,
            on_error: OnError::Continue,
            journal: None,
            overhead_blocks: 0,
            log_groups_per_flex: 4,
        };
        let mut head = vec![0; BLOCK];
        head[OFFSET as usize..][..1024].copy_from_slice(&superblock.encode(0));
        for (number, group) in groups.iter().enumerate() {
            head.extend_from_slice(&group.encode(SEED, number as u32));
        }
        self.stream.put(0, &head)?;
        let file = self.stream.finish(layout.blocks)?;
        self.unfinished.0 = None;
        Ok(Written { file, size: u64::from(layout.blocks) * BLOCK as u64, uuid })
    }

    fn write_directories(&mut self, settled: &Settled) -> Result<(), Error> {
        let tree = &self.tree;
        let mut runs = Vec::with_capacity(settled.directories as usize);
        for node in tree.existing().filter(|node| tree.is_directory(*node)) {
            let number = |node| tree.inode(tree.inode_of(node)).number;
            let place = Place {
                seed: checksum::inode_seed(SEED, number(node)),
                inode: number(node),
                parent: number(tree.parent(node)),
                hash_seed: HASH_SEED,
            };
            let children = settled.children(node);
            let run = directory::write(&mut self.stream, place, children.len(), |child| {
                let child = tree.nodes[children[child] as usize];
                let inode = &tree.inodes[child.inode as usize];
                Entry {
                    inode: inode.number,
                    name: tree.name_of(child),
                    entry_type: inode.content.entry_type(),
                }
            })?;
            let run = run.ok_or_else(|| Error::DirectoryTooLarge { path: EntryPath(tree.path(node)) })?;
            runs.push((tree.inode_of(node), run));
        }
        for (id, run) in runs {
            self.tree.place_directory(id, run.first, u64::from(run.blocks) * BLOCK as u64);
        }
        Ok(())
    }

    /// Writes the extent trees that do not fit into their inode, and gives their roots by inode.
    fn write_extents(&mut self) -> Result<HashMap<u32, Root>, Error> {
        let mut roots = HashMap::new();
        for (index, inode) in self.tree.inodes.iter().enumerate().filter(|(_, inode)| inode.links > 0) {
            let run;
            let extents = match inode.content {
                Content::Sparse(first, count) => &self.tree.extents[first as usize..][..count as usize],
                Content::File(physical) | Content::Directory(physical) => {
                    let count = blocks_of(inode.size) as u32;
                    if extent::single(physical, count).is_some() {
                        continue;
                    }
                    run = [Extent { logical: 0, physical, count }];
                    &run[..]
                }
                Content::ShortLink(_)
                | Content::LongLink(_)
                | Content::CharacterDevice(..)
                | Content::BlockDevice(..)
                | Content::Pipe => continue,
            };
            let seed = checksum::inode_seed(SEED, inode.number);
            roots.insert(index as u32, extent::write(&mut self.stream, seed, extents)?);
        }
        Ok(roots)
    }

    /// The content of what nothing names any more.
    fn free_runs(&self) -> Vec<Run> {
        let mut free = Vec::new();
        let mut add = |first: u32, count: u32| {
            if count > 0 {
                free.push(Run { first, count });
            }
        };
        for inode in self.tree.inodes.iter().filter(|inode| inode.links == 0) {
            match inode.content {
                Content::File(first) => add(first, blocks_of(inode.size) as u32),
                Content::Sparse(first, count) => {
                    for extent in &self.tree.extents[first as usize..][..count as usize] {
                        add(extent.physical, extent.count);
                    }
                }
                Content::LongLink(first) => add(first, 1),
                Content::Directory(_)
                | Content::ShortLink(_)
                | Content::CharacterDevice(..)
                | Content::BlockDevice(..)
                | Content::Pipe => {}
            }
            if let Attributes::Block(block) = inode.attributes {
                add(block, 1);
            }
        }
        free
    }

    /// Writes the inode tables of all groups and counts the directories of each.
    fn write_inodes(
        &mut self,
        layout: &Layout,
        roots: &HashMap<u32, Root>,
        last: u32,
    ) -> Result<Vec<u32>, Error> {
        let mut directories = vec![0; layout.groups as usize];
        let mut named = self.tree.inodes.iter().enumerate().skip(1).filter(|(_, inode)| inode.links > 0);
        let mut block = [0; BLOCK];
        for number in 1..=layout.groups * layout.inodes_per_group {
            let inode = match number {
                ROOT_INODE => Some((0, &self.tree.inodes[0])),
                FIRST_INODE.. if number <= last => named.next(),
                _ => None,
            };
            let slot = (number - 1) % INODES_PER_BLOCK;
            let out = &mut block[slot as usize * inode::SIZE..][..inode::SIZE];
            match inode {
                None => out.fill(0),
                Some((index, inode)) => {
                    let record = record(&self.tree, inode, roots.get(&(index as u32)));
                    out.copy_from_slice(&record.encode(SEED, number));
                    directories[((number - 1) / layout.inodes_per_group) as usize] +=
                        u32::from(inode.is_directory());
                }
            }
            if slot == INODES_PER_BLOCK - 1 {
                self.stream.append(&block)?;
            }
        }
        Ok(directories)
    }

    fn write_bitmaps(
        &mut self,
        layout: &Layout,
        free: &[Run],
        directories: &[u32],
        used_inodes: u32,
    ) -> Result<Vec<Group>, Error> {
        let mut groups = Vec::with_capacity(layout.groups as usize);
        let mut free = free.iter().copied().filter(|run| run.count > 0).peekable();
        for number in 0..layout.groups {
            let start = number * layout.blocks_per_group;
            let end = layout.blocks.min(start.saturating_add(layout.blocks_per_group));
            let mut bitmap = [0xff; BLOCK];
            let mut free_blocks = 0;
            while let Some(run) = free.peek_mut().filter(|run| run.first < end) {
                let stop = end.min(run.first + run.count);
                (run.first..stop).for_each(|block| clear(&mut bitmap, block - start));
                free_blocks += stop - run.first;
                run.count -= stop - run.first;
                run.first = stop;
                if run.count > 0 {
                    break;
                }
                free.next();
            }
            let block_bitmap_checksum =
                checksum::update(SEED, &bitmap[..layout.blocks_per_group as usize / 8]);
            let block_bitmap = self.stream.append(&bitmap)?;

            let first_inode = number * layout.inodes_per_group;
            let used = used_inodes.saturating_sub(first_inode).min(layout.inodes_per_group);
            let mut bitmap = [0xff; BLOCK];
            (used..layout.inodes_per_group).for_each(|inode| clear(&mut bitmap, inode));
            let inode_bitmap_checksum =
                checksum::update(SEED, &bitmap[..layout.inodes_per_group as usize / 8]);
            let inode_bitmap = self.stream.append(&bitmap)?;
            groups.push(Group {
                block_bitmap: u64::from(block_bitmap),
                inode_bitmap: u64::from(inode_bitmap),
                inode_table: u64::from(layout.inode_tables + number * layout.table_blocks()),
                free_blocks,
                free_inodes: layout.inodes_per_group - used,
                directories: directories[number as usize],
                unused_inodes: layout.inodes_per_group - used,
                flags: GroupFlags::INODE_ZEROED,
                block_bitmap_checksum,
                inode_bitmap_checksum,
            });
        }
        Ok(groups)
    }
}

fn clear(bitmap: &mut [u8; BLOCK], bit: u32) {
    bitmap[bit as usize / 8] &= !(1 << (bit % 8));
}

/// A UUID (version 8, RFC 9562) from a digest.
fn derived_uuid(digest: [u8; 32]) -> [u8; 16] {
    let mut uuid = [0; 16];
    uuid.copy_from_slice(&digest[..16]);
    uuid[6] = uuid[6] & 0x0f | 0x80;
    uuid[8] = uuid[8] & 0x3f | 0x80;
    uuid
}

fn record<'a>(tree: &'a Tree, inode: &Inode, root: Option<&Root>) -> Record<'a> {
    let mapped = |physical, count: u32| {
        let map = extent::single(physical, count).or(root.map(|root| root.map));
        (Flags::EXTENTS, map.expect("a long run has a written tree"), u64::from(count))
    };
    let (mut flags, map, content_blocks) = match inode.content {
        Content::Directory(first) | Content::File(first) => mapped(first, blocks_of(inode.size) as u32),
        Content::LongLink(block) => mapped(block, 1),
        Content::Sparse(first, count) => {
            let extents = &tree.extents[first as usize..][..count as usize];
            let map = root.map_or([0; inode::MAP], |root| root.map);
            (Flags::EXTENTS, map, extents.iter().map(|extent| u64::from(extent.count)).sum())
        }
        Content::ShortLink(at) => {
            let target = tree.short_target(at, inode.size);
            let mut map = [0; inode::MAP];
            map[..target.len()].copy_from_slice(target);
            (Flags::default(), map, 0)
        }
        Content::CharacterDevice(major, minor) | Content::BlockDevice(major, minor) => {
            (Flags::default(), inode::device_map(major, minor), 0)
        }
        Content::Pipe => (Flags::default(), [0; inode::MAP], 0),
    };
    if inode.is_directory() && inode.size > BLOCK as u64 {
        flags = flags.with(Flags::INDEX);
    }
    let (attribute_block, attributes): (_, &[u8]) = match inode.attributes {
        Attributes::None => (0, &[]),
        Attributes::Inline(at) => (0, tree.inline(at)),
        Attributes::Block(block) => (u64::from(block), &[]),
    };
    Record {
        mode: inode.content.mode() | inode.mode,
        uid: inode.uid,
        gid: inode.gid,
        size: inode.size,
        time: Timestamp { seconds: inode.seconds, nanoseconds: inode.nanoseconds },
        links: inode.links,
        blocks: content_blocks + root.map_or(0, |root| root.blocks) + u64::from(attribute_block != 0),
        flags,
        map,
        attribute_block,
        attributes,
    }
}

/// A run of blocks.
#[derive(Debug, Clone, Copy)]
struct Run {
    first: u32,
    count: u32,
}

/// Where the inode tables and bitmaps go, behind the content.
struct Layout {
    groups: u32,
    blocks_per_group: u32,
    inodes_per_group: u32,
    inode_tables: u32,
    bitmaps: u32,
    /// All blocks of the file system.
    blocks: u32,
}

impl Layout {
    /// The layout behind `used` blocks, for `inodes` inodes. Many small files need more groups than their content does;
    /// then groups are smaller.
    fn of(used: u32, inodes: u32) -> Result<Self, Error> {
        let mut groups = inodes.div_ceil(GROUP).max(1);
        loop {
            let inodes_per_group = inodes.div_ceil(groups).next_multiple_of(INODES_PER_BLOCK);
            let tables = u64::from(groups) * u64::from(inodes_per_group / INODES_PER_BLOCK);
            let bitmaps = u64::from(used) + tables;
            let needed = bitmaps + 2 * u64::from(groups);
            let enough =
                u32::try_from(needed.div_ceil(u64::from(GROUP))).map_err(|_| Error::TooManyEntries)?;
            if enough > groups {
                groups = enough;
                continue;
            }
            let blocks_per_group = if enough == groups {
                GROUP
            } else {
                needed.div_ceil(u64::from(groups)).next_multiple_of(8) as u32
            };
            // Rounding up must not make the last group disappear.
            let blocks = needed.max(u64::from(blocks_per_group) * u64::from(groups - 1) + 8);
            let blocks = u32::try_from(blocks)
                .map_err(|_| Error::TooLarge { limit: u64::from(u32::MAX) * BLOCK as u64 })?;
            let bitmaps = bitmaps as u32;
            return Ok(Self {
                groups,
                blocks_per_group,
                inodes_per_group,
                inode_tables: used,
                bitmaps,
                blocks,
            });
        }
    }

    fn table_blocks(&self) -> u32 {
        self.inodes_per_group / INODES_PER_BLOCK
    }

    fn descriptor_blocks(&self) -> u32 {
        u64::from(self.groups).div_ceil(DESCRIPTORS_PER_BLOCK) as u32
    }

    /// Blocks behind the bitmaps.
    fn padding(&self) -> u32 {
        self.blocks - self.bitmaps - 2 * self.groups
    }
}

/// Segments of a sparse file that share or touch blocks, with the zeros between them.
struct BlockRun<'a> {
    segments: &'a [Segment],
    /// The first byte, at the start of a block.
    start: u64,
    /// The end of the last segment.
    end: u64,
}

impl<'a> BlockRun<'a> {
    /// Takes the next run off `segments`.
    fn next(segments: &mut &'a [Segment]) -> Option<Self> {
        while let Some((_, rest)) = segments.split_first().filter(|(first, _)| first.length == 0) {
            *segments = rest;
        }
        let first = segments.first()?;
        let mut end = first.offset + first.length;
        let more = segments[1..].iter().take_while(|next| {
            let touches = next.offset / BLOCK as u64 <= blocks_of(end) || next.length == 0;
            if touches && next.length > 0 {
                end = next.offset + next.length;
            }
            touches
        });
        let count = 1 + more.count();
        let (taken, rest) = segments.split_at(count);
        *segments = rest;
        Some(Self { segments: taken, start: first.offset / BLOCK as u64 * BLOCK as u64, end })
    }
}

/// The bytes of segments, and zeros before and between them.
struct Padded<'a> {
    source: &'a mut dyn Read,
    segments: &'a [Segment],
    at: u64,
}

impl Read for Padded<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while let Some((_, rest)) =
            self.segments.split_first().filter(|(first, _)| first.offset + first.length <= self.at)
        {
            self.segments = rest;
        }
        let Some(segment) = self.segments.first() else { return Ok(0) };
        let within = |length: u64| usize::try_from(length).unwrap_or(usize::MAX).min(out.len());
        let count = if self.at < segment.offset {
            let count = within(segment.offset - self.at);
            out[..count].fill(0);
            count
        } else {
            let count = within(segment.offset + segment.length - self.at);
            self.source.read(&mut out[..count])?
        };
        self.at += count as u64;
        Ok(count)
    }
}

/// Removes the file while it is not finished.
#[derive(Debug)]
struct Unfinished(Option<PathBuf>);

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            let _ = host::fs::remove(path);
        }
    }
}
