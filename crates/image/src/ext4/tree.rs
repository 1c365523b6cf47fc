//! What a file system will contain, in about a hundred bytes per entry.
//!
//! A *node* is a name in a directory; an *inode* is what it names, and hard links are nodes of one inode. A node that is
//! replaced or removed is only marked: who stands below it is gone with it, which [`Tree::settle`] finds in one pass,
//! because parents come before their children.

use std::{
    collections::HashMap,
    fmt,
    hash::{BuildHasher, Hasher, RandomState},
};

use super::{Error, Extent, FIRST_INODE, ROOT_INODE, children::Children};

/// A name in a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeId(pub(crate) u32);

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InodeId(u32);

/// The root directory.
pub const ROOT: NodeId = NodeId(0);

pub(super) const NONE: u32 = u32::MAX;
/// The most names of one file.
const MOST_LINKS: u32 = 65_000;

/// A moment, as a file's times have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Timestamp {
    /// Seconds since 1970, negative before.
    pub seconds: i64,
    /// Nanoseconds after that, below 10⁹.
    pub nanoseconds: u32,
}

impl Timestamp {
    /// The inode's two words: seconds, and nanoseconds with two more bits of the seconds. ext4 knows 1901 to 2446; what
    /// is outside becomes the nearest moment inside.
    pub(super) fn encode(self) -> (u32, u32) {
        const FIRST: i64 = i32::MIN as i64;
        const LAST: i64 = i32::MAX as i64 + (3 << 32);
        let seconds = self.seconds.clamp(FIRST, LAST);
        let epoch = ((seconds - i64::from(seconds as i32)) >> 32) as u32;
        (seconds as u32, self.nanoseconds << 2 | epoch)
    }
}

/// What a file is, and where its content lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// A directory, from the block on that it is written to.
    Directory(u32),
    /// A regular file in one run of blocks from this one on.
    File(u32),
    /// A regular file in several runs: the first of [`Tree::extents`], and their number.
    Sparse(u32, u32),
    /// A symbolic link whose target is short: where it lies among the names.
    ShortLink(u32),
    /// A symbolic link whose target lies in this block.
    LongLink(u32),
    /// A character device.
    CharacterDevice(u32, u32),
    /// A block device.
    BlockDevice(u32, u32),
    /// A named pipe.
    Pipe,
}

impl Content {
    /// The file type bits of the mode.
    pub(super) fn mode(self) -> u16 {
        match self {
            Self::Directory(_) => 0o040_000,
            Self::File(_) | Self::Sparse(..) => 0o100_000,
            Self::ShortLink(_) | Self::LongLink(_) => 0o120_000,
            Self::CharacterDevice(..) => 0o020_000,
            Self::BlockDevice(..) => 0o060_000,
            Self::Pipe => 0o010_000,
        }
    }

    /// The file type of a directory entry.
    pub(super) fn entry_type(self) -> u8 {
        match self {
            Self::File(_) | Self::Sparse(..) => 1,
            Self::Directory(_) => 2,
            Self::CharacterDevice(..) => 3,
            Self::BlockDevice(..) => 4,
            Self::Pipe => 5,
            Self::ShortLink(_) | Self::LongLink(_) => 7,
        }
    }
}

/// Where a file's extended attributes lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attributes {
    /// It has none.
    None,
    /// In its inode: where they lie in the tree's store of attributes.
    Inline(u32),
    /// In this block.
    Block(u32),
}

/// What is kept of a file besides its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meta {
    /// Permissions, set-id and sticky bits.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// When it was changed.
    pub mtime: Timestamp,
}

/// A file of any type.
#[derive(Debug, Clone, Copy)]
pub struct Inode {
    pub(super) seconds: i64,
    pub(super) size: u64,
    pub(super) nanoseconds: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) content: Content,
    pub(super) attributes: Attributes,
    /// Its number in the file system, from [`Tree::settle`] on; 0 where nothing names it.
    pub(super) number: u32,
    pub(super) mode: u16,
    pub(super) links: u16,
}

impl Inode {
    pub(super) fn new(meta: Meta, content: Content, size: u64, attributes: Attributes) -> Self {
        Self {
            seconds: meta.mtime.seconds,
            nanoseconds: meta.mtime.nanoseconds,
            uid: meta.uid,
            gid: meta.gid,
            mode: meta.mode & 0o7777,
            size,
            content,
            attributes,
            number: 0,
            links: 0,
        }
    }

    /// Whether it is a directory.
    #[must_use]
    pub fn is_directory(&self) -> bool {
        matches!(self.content, Content::Directory(_))
    }

    /// What it is.
    #[must_use]
    pub fn content(&self) -> Content {
        self.content
    }

    /// Its size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Its permissions, set-id and sticky bits.
    #[must_use]
    pub fn mode(&self) -> u16 {
        self.mode
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Node {
    pub parent: u32,
    /// `NONE` once it was replaced or removed.
    pub inode: u32,
    name_at: u32,
    name_length: u8,
}

/// The path of an entry, shown with all but printable ASCII escaped.
#[derive(Clone, PartialEq, Eq)]
pub struct EntryPath(pub Vec<u8>);

impl fmt::Display for EntryPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // An entry's path can be as long as a tar wants it.
        const SHOWN: usize = 512;
        write!(f, "{}", self.0[..self.0.len().min(SHOWN)].escape_ascii())?;
        if self.0.len() > SHOWN { f.write_str("…") } else { Ok(()) }
    }
}

impl fmt::Debug for EntryPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// A place of the table that finds nodes.
#[derive(Debug, Clone, Copy)]
struct Slot {
    /// `NONE` where it is free.
    node: u32,
    /// The hash, so that few nodes are looked at in vain.
    hash: u32,
}

const FREE: Slot = Slot { node: NONE, hash: 0 };

/// What [`Tree::insert`] did.
#[derive(Debug, Clone, Copy)]
pub struct Inserted {
    /// The new node.
    pub node: NodeId,
    /// The node that had the name before.
    pub replaced: Option<NodeId>,
}

/// What a file system will contain.
#[derive(Debug)]
pub struct Tree {
    pub(super) nodes: Vec<Node>,
    pub(super) inodes: Vec<Inode>,
    pub(super) extents: Vec<Extent>,
    /// Names and short link targets, one after the other.
    names: Vec<u8>,
    /// Attributes that lie in inodes, all of one length.
    inline: Vec<u8>,
    inline_known: HashMap<u64, u32>,
    /// Open addressing: the nodes, by the hash of their parent and name.
    table: Vec<Slot>,
    hasher: RandomState,
}

impl Tree {
    /// An empty root directory.
    #[must_use]
    pub fn new(root: Meta) -> Self {
        Self {
            nodes: vec![Node { parent: 0, inode: 0, name_at: 0, name_length: 0 }],
            inodes: vec![Inode::new(root, Content::Directory(0), 0, Attributes::None)],
            extents: Vec::new(),
            names: Vec::new(),
            inline: Vec::new(),
            inline_known: HashMap::new(),
            table: vec![FREE; 1024],
            hasher: RandomState::new(),
        }
    }

    /// What `name` in directory `directory` is.
    #[must_use]
    pub fn find(&self, directory: NodeId, name: &[u8]) -> Option<NodeId> {
        let found = self.table[self.slot(self.hash(directory, name), directory, name)].node;
        (found != NONE && self.nodes[found as usize].inode != NONE).then_some(NodeId(found))
    }

    /// Makes `name` in directory `directory` name `inode`, and nothing else that it may have named before.
    ///
    /// # Errors
    /// Where there are more entries than can be counted.
    pub fn insert(&mut self, directory: NodeId, name: &[u8], inode: InodeId) -> Result<Inserted, Error> {
        let name_length = u8::try_from(name.len()).map_err(|_| Error::TooManyEntries)?;
        if self.nodes.len() >= NONE as usize / 2 {
            return Err(Error::TooManyEntries);
        }
        if self.nodes.len() * 3 > self.table.len() * 2 {
            self.grow_table();
        }
        let hash = self.hash(directory, name);
        let slot = self.slot(hash, directory, name);
        let node = self.nodes.len() as u32;
        // A name that comes again keeps its bytes, and gets a new node: the old one's children must not become its own.
        let (name_at, replaced) = match self.table[slot].node {
            NONE => (self.keep_name(name)?, None),
            old => {
                let record = &mut self.nodes[old as usize];
                let was = std::mem::replace(&mut record.inode, NONE);
                (record.name_at, (was != NONE).then_some(NodeId(old)))
            }
        };
        self.nodes.push(Node { parent: directory.0, inode: inode.0, name_at, name_length });
        self.table[slot] = Slot { node, hash };
        Ok(Inserted { node: NodeId(node), replaced })
    }

    /// Takes `node` and all below it out.
    pub fn remove(&mut self, node: NodeId) {
        self.nodes[node.0 as usize].inode = NONE;
    }

    /// What `node` names.
    #[must_use]
    pub fn inode_of(&self, node: NodeId) -> InodeId {
        InodeId(self.nodes[node.0 as usize].inode)
    }

    /// The inode `id`.
    #[must_use]
    pub fn inode(&self, id: InodeId) -> &Inode {
        &self.inodes[id.0 as usize]
    }

    /// Whether `node` is a directory.
    #[must_use]
    pub fn is_directory(&self, node: NodeId) -> bool {
        self.inode(self.inode_of(node)).is_directory()
    }

    /// The directory of `node`; the root's is the root.
    #[must_use]
    pub fn parent(&self, node: NodeId) -> NodeId {
        NodeId(self.nodes[node.0 as usize].parent)
    }

    /// The path of `node`, without a leading slash.
    #[must_use]
    pub fn path(&self, node: NodeId) -> Vec<u8> {
        let mut names = Vec::new();
        let mut at = node;
        while at != ROOT {
            names.push(self.name(at));
            at = self.parent(at);
        }
        names.reverse();
        names.join(&b'/')
    }

    /// The name of `node` in its directory.
    #[must_use]
    pub fn name(&self, node: NodeId) -> &[u8] {
        self.name_of(self.nodes[node.0 as usize])
    }

    pub(super) fn name_of(&self, node: Node) -> &[u8] {
        &self.names[node.name_at as usize..][..usize::from(node.name_length)]
    }

    /// All that exists after [`Tree::settle`], directories before what is in them.
    pub(super) fn existing(&self) -> impl Iterator<Item = NodeId> {
        (0..self.nodes.len())
            .filter(|index| self.nodes[*index].inode != NONE)
            .map(|index| NodeId(index as u32))
    }

    /// How many names there have been, those that were replaced or removed among them: what comes next gets this number.
    pub(crate) fn count(&self) -> u32 {
        self.nodes.len() as u32
    }

    /// Whether `node` is neither replaced nor removed itself; a directory above it may be.
    pub(crate) fn is_named(&self, node: NodeId) -> bool {
        self.nodes[node.0 as usize].inode != NONE
    }

    /// All that there is so far, by directory.
    pub(crate) fn children(&self) -> Children {
        Children::group(&self.nodes)
    }

    /// The target of a link that is `ShortLink(at)` and `size` long.
    pub(super) fn short_target(&self, at: u32, size: u64) -> &[u8] {
        &self.names[at as usize..][..size as usize]
    }

    pub(super) fn add(&mut self, inode: Inode) -> Result<InodeId, Error> {
        let id = u32::try_from(self.inodes.len()).map_err(|_| Error::TooManyEntries)?;
        self.inodes.push(inode);
        Ok(InodeId(id))
    }

    pub(super) fn replace(&mut self, id: InodeId, inode: Inode) {
        self.inodes[id.0 as usize] = inode;
    }

    /// Says that directory `id` was written to the `size` bytes from block `first` on.
    pub(super) fn place_directory(&mut self, id: InodeId, first: u32, size: u64) {
        let inode = &mut self.inodes[id.0 as usize];
        (inode.content, inode.size) = (Content::Directory(first), size);
    }

    /// Keeps the bytes of a name or a short link's target.
    pub(super) fn keep_name(&mut self, name: &[u8]) -> Result<u32, Error> {
        let at = u32::try_from(self.names.len()).map_err(|_| Error::TooManyEntries)?;
        self.names.extend_from_slice(name);
        Ok(at)
    }

    /// Keeps attributes that lie in an inode, those of many files once.
    pub(super) fn keep_attributes(&mut self, encoded: &[u8]) -> Result<u32, Error> {
        let hash = self.hasher.hash_one(encoded);
        if let Some(&at) = self.inline_known.get(&hash)
            && self.inline(at) == encoded
        {
            return Ok(at);
        }
        let at = u32::try_from(self.inline.len()).map_err(|_| Error::TooManyEntries)?;
        self.inline.extend_from_slice(encoded);
        self.inline_known.insert(hash, at);
        Ok(at)
    }

    pub(super) fn inline(&self, at: u32) -> &[u8] {
        let length = super::inode::SIZE - super::inode::ATTRIBUTES_AT;
        &self.inline[at as usize..][..length]
    }

    /// Finds what is left of all that was inserted, counts links and gives the inodes their numbers.
    ///
    /// # Errors
    /// Where a file has too many names.
    pub(super) fn settle(&mut self) -> Result<Settled, Error> {
        let (mut inodes, mut directories) = (FIRST_INODE - 1, 1);
        let mut links = vec![0_u32; self.inodes.len()];
        links[0] = 2;
        for index in 1..self.nodes.len() {
            let node = self.nodes[index];
            if node.inode == NONE || self.nodes[node.parent as usize].inode == NONE {
                self.nodes[index].inode = NONE;
                continue;
            }
            links[node.inode as usize] += 1;
            if self.inodes[node.inode as usize].is_directory() {
                directories += 1;
                links[node.inode as usize] += 1;
                links[self.nodes[node.parent as usize].inode as usize] += 1;
            } else if links[node.inode as usize] > MOST_LINKS {
                return Err(Error::TooManyLinks { path: EntryPath(self.path(NodeId(index as u32))) });
            }
        }
        for (inode, links) in self.inodes.iter_mut().zip(links) {
            // A directory of more subdirectories than can be counted says 1.
            inode.links = if links > MOST_LINKS { 1 } else { links as u16 };
        }
        self.inodes[0].number = ROOT_INODE;
        for inode in self.inodes[1..].iter_mut().filter(|inode| inode.links > 0) {
            inodes += 1;
            inode.number = inodes;
        }
        Ok(Settled { children: Children::group(&self.nodes), inodes, directories })
    }

    /// What tells one tree from another, for an identity that depends on the content only.
    pub(super) fn digest(&self, content: u32) -> [u8; 32] {
        use sha2::Digest;
        let mut hash = sha2::Sha256::new();
        hash.update(content.to_le_bytes());
        for node in &self.nodes {
            hash.update(node.parent.to_le_bytes());
            hash.update(node.inode.to_le_bytes());
            hash.update([node.name_length]);
        }
        for inode in &self.inodes {
            let (kind, a, b) = match inode.content {
                Content::Directory(_) => (0, 0, 0),
                Content::File(at) => (1, at, 0),
                Content::Sparse(at, count) => (2, at, count),
                Content::ShortLink(at) => (3, at, 0),
                Content::LongLink(at) => (4, at, 0),
                Content::CharacterDevice(major, minor) => (5, major, minor),
                Content::BlockDevice(major, minor) => (6, major, minor),
                Content::Pipe => (7, 0, 0),
            };
            let attributes = match inode.attributes {
                Attributes::None => 0,
                Attributes::Inline(at) | Attributes::Block(at) => at + 1,
            };
            let words =
                [kind, a, b, attributes, inode.uid, inode.gid, u32::from(inode.mode), inode.nanoseconds];
            for word in words {
                hash.update(word.to_le_bytes());
            }
            hash.update(inode.size.to_le_bytes());
            hash.update(inode.seconds.to_le_bytes());
        }
        for extent in &self.extents {
            for word in [extent.logical, extent.physical, extent.count] {
                hash.update(word.to_le_bytes());
            }
        }
        hash.update(&self.names);
        hash.update(&self.inline);
        hash.finalize().into()
    }

    fn hash(&self, directory: NodeId, name: &[u8]) -> u32 {
        let mut hasher = self.hasher.build_hasher();
        hasher.write_u32(directory.0);
        hasher.write(name);
        hasher.finish() as u32
    }

    /// Where the node of `name` in `directory` is in the table, or where it would be.
    fn slot(&self, hash: u32, directory: NodeId, name: &[u8]) -> usize {
        self.probe(hash, |slot| {
            slot.hash == hash
                && self.nodes[slot.node as usize].parent == directory.0
                && self.name(NodeId(slot.node)) == name
        })
    }

    /// The first place for `hash` that is free or that is `wanted`.
    fn probe(&self, hash: u32, wanted: impl Fn(Slot) -> bool) -> usize {
        let mask = self.table.len() - 1;
        let mut at = hash as usize & mask;
        while self.table[at].node != NONE && !wanted(self.table[at]) {
            at = (at + 1) & mask;
        }
        at
    }

    fn grow_table(&mut self) {
        let free = vec![FREE; self.table.len() * 2];
        for slot in std::mem::replace(&mut self.table, free).into_iter().filter(|slot| slot.node != NONE) {
            let at = self.probe(slot.hash, |_| false);
            self.table[at] = slot;
        }
    }
}

/// What [`Tree::settle`] found.
#[derive(Debug)]
pub(super) struct Settled {
    children: Children,
    /// The highest inode number.
    pub inodes: u32,
    /// Number of directories.
    pub directories: u32,
}

impl Settled {
    /// The children of directory `node`, in the order in which they came.
    pub fn children(&self, node: NodeId) -> &[u32] {
        self.children.of(node.0)
    }
}
