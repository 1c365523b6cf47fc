//! Reads ext4 file systems back, to compare them with what was asked for. It knows what our writer uses and no more, and panics
//! where something is not as it should be: that is what it is for.

use std::collections::BTreeMap;

const BLOCK: usize = 4096;
const ROOT: u32 = 2;

/// What is kept of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Names of one inode are one file.
    pub inode: u32,
    /// Type and permissions.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Seconds and nanoseconds.
    pub mtime: (i64, u32),
    /// Its names, as the inode counts them.
    pub links: u16,
    /// Extended attributes by their whole name.
    pub attributes: BTreeMap<Vec<u8>, Vec<u8>>,
    /// What it is.
    pub what: What,
}

/// What a file is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// A directory.
    Directory,
    /// A regular file: its size, and its blocks that are not all zero, by number.
    File(u64, BTreeMap<u32, Vec<u8>>),
    /// A symbolic link and its target.
    Link(Vec<u8>),
    /// A character device.
    CharacterDevice(u32, u32),
    /// A block device.
    BlockDevice(u32, u32),
    /// A named pipe.
    Pipe,
}

/// All that is in the file system `bytes`, by path; the root's is empty.
///
/// # Panics
/// Where it contradicts itself.
#[must_use]
pub fn read(bytes: &[u8]) -> BTreeMap<Vec<u8>, Node> {
    let disk = Disk::new(bytes);
    let mut found = BTreeMap::new();
    let mut rest = vec![(Vec::new(), ROOT, ROOT)];
    while let Some((path, inode, parent)) = rest.pop() {
        let node = disk.node(inode);
        if node.what == What::Directory {
            for (name, child) in disk.directory(inode, parent) {
                let path = if path.is_empty() { name } else { [&path[..], b"/", &name].concat() };
                rest.push((path, child, inode));
            }
        }
        assert!(found.insert(path, node).is_none(), "a name is there twice");
    }
    found
}

struct Disk<'a> {
    bytes: &'a [u8],
    inodes_per_group: u32,
}

impl<'a> Disk<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        assert_eq!(half(bytes, 1024 + 0x38), 0xef53, "it has a superblock");
        assert_eq!(
            bytes.len() as u64,
            u64::from(word(bytes, 1024 + 4)) * BLOCK as u64,
            "it has all its blocks"
        );
        Self { bytes, inodes_per_group: word(bytes, 1024 + 0x28) }
    }

    fn block(&self, number: u64) -> &'a [u8] {
        let at = usize::try_from(number).expect("it is in memory") * BLOCK;
        &self.bytes[at..at + BLOCK]
    }

    fn inode(&self, number: u32) -> &'a [u8] {
        let (group, index) = ((number - 1) / self.inodes_per_group, (number - 1) % self.inodes_per_group);
        let descriptor = &self.bytes[BLOCK + group as usize * 64..][..64];
        let table = u64::from(word(descriptor, 8)) | u64::from(word(descriptor, 0x28)) << 32;
        let at = usize::try_from(table).expect("it is in memory") * BLOCK + index as usize * 256;
        &self.bytes[at..at + 256]
    }

    fn node(&self, number: u32) -> Node {
        let inode = self.inode(number);
        let mode = half(inode, 0);
        let size = u64::from(word(inode, 4)) | u64::from(word(inode, 0x6c)) << 32;
        let device = || match word(inode, 0x28) {
            0 => {
                let new = word(inode, 0x2c);
                (new >> 8 & 0xfff, new & 0xff | new >> 12 & 0xfff00)
            }
            old => (old >> 8, old & 0xff),
        };
        let what = match mode >> 12 {
            4 => What::Directory,
            8 => What::File(size, self.blocks(inode, size)),
            10 if size < 60 => {
                What::Link(inode[0x28..][..usize::try_from(size).expect("it is short")].to_vec())
            }
            10 => {
                let blocks = self.extents(inode);
                let [(0, physical)] = blocks[..] else { panic!("a target is in one block") };
                What::Link(self.block(physical)[..usize::try_from(size).expect("it is short")].to_vec())
            }
            2 => What::CharacterDevice(device().0, device().1),
            6 => What::BlockDevice(device().0, device().1),
            1 => What::Pipe,
            other => panic!("inode {number} has type {other}"),
        };
        let extra = word(inode, 0x88);
        // The two lowest bits of the second word continue the seconds, which are signed in the first.
        let seconds = i64::from(word(inode, 0x10).cast_signed()) + (i64::from(extra & 3) << 32);
        Node {
            inode: number,
            mode,
            uid: u32::from(half(inode, 2)) | u32::from(half(inode, 0x78)) << 16,
            gid: u32::from(half(inode, 0x18)) | u32::from(half(inode, 0x7a)) << 16,
            mtime: (seconds, extra >> 2),
            links: half(inode, 0x1a),
            attributes: self.attributes(inode),
            what,
        }
    }

    /// The blocks of a file that are not all zero.
    fn blocks(&self, inode: &[u8], size: u64) -> BTreeMap<u32, Vec<u8>> {
        let count = size.div_ceil(BLOCK as u64);
        let mut found = BTreeMap::new();
        for (logical, physical) in self.extents(inode) {
            assert!(u64::from(logical) < count, "a block behind the end");
            let block = self.block(physical);
            if block.iter().any(|byte| *byte != 0) {
                found.insert(logical, block.to_vec());
            }
        }
        found
    }

    /// The blocks of a file: their numbers in it, in order, and on the disk.
    fn extents(&self, inode: &[u8]) -> Vec<(u32, u64)> {
        let mut found = Vec::new();
        // The rest of the tree, the next node last.
        let mut rest = vec![&inode[0x28..0x28 + 60]];
        while let Some(node) = rest.pop() {
            assert_eq!(half(node, 0), 0xf30a, "a node of extents");
            let entries = node[12..].chunks_exact(12).take(usize::from(half(node, 2)));
            if half(node, 6) > 0 {
                let child = |e: &[u8]| self.block(u64::from(word(e, 4)) | u64::from(half(e, 8)) << 32);
                rest.extend(entries.rev().map(child));
                continue;
            }
            for entry in entries {
                let physical = u64::from(word(entry, 8)) | u64::from(half(entry, 6)) << 32;
                for index in 0..u32::from(half(entry, 4)) {
                    let logical = word(entry, 0) + index;
                    assert!(found.last().is_none_or(|(last, _)| *last < logical), "extents are in order");
                    found.push((logical, physical + u64::from(index)));
                }
            }
        }
        found
    }

    /// The entries of a directory. Nodes of its index are unused entries to who reads it from one end to the other.
    fn directory(&self, inode: u32, parent: u32) -> Vec<(Vec<u8>, u32)> {
        let mut entries = Vec::new();
        for (_, physical) in self.extents(self.inode(inode)) {
            let block = self.block(physical);
            let mut at = 0;
            while at < BLOCK {
                let (number, length) = (word(block, at), usize::from(half(block, at + 4)));
                assert!(length >= 8 && length % 4 == 0 && at + length <= BLOCK, "an entry's length");
                if number != 0 {
                    entries.push((block[at + 8..][..usize::from(block[at + 6])].to_vec(), number));
                }
                at += length;
            }
        }
        let mut rest = entries.into_iter();
        assert_eq!(rest.next(), Some((b".".to_vec(), inode)));
        assert_eq!(rest.next(), Some((b"..".to_vec(), parent)));
        let rest: Vec<_> = rest.collect();
        for (name, _) in &rest {
            assert!(!matches!(&name[..], b"" | b"." | b"..") && !name.iter().any(|b| matches!(b, 0 | b'/')));
        }
        rest
    }

    fn attributes(&self, inode: &[u8]) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let mut found = BTreeMap::new();
        let inline = &inode[128 + 32..];
        if word(inline, 0) == 0xea02_0000 {
            attributes(&inline[4..], &mut found);
        }
        let block = u64::from(word(inode, 0x68)) | u64::from(half(inode, 0x76)) << 32;
        if block != 0 {
            let block = self.block(block);
            assert_eq!(word(block, 0), 0xea02_0000, "a block of attributes");
            let mut outside = BTreeMap::new();
            // Places count from the beginning of the block.
            entries(&block[32..], block, &mut outside);
            found.extend(outside);
        }
        found
    }
}

/// The attributes in an inode, whose places count from the first entry.
fn attributes(area: &[u8], found: &mut BTreeMap<Vec<u8>, Vec<u8>>) {
    entries(area, area, found);
}

fn entries(list: &[u8], area: &[u8], found: &mut BTreeMap<Vec<u8>, Vec<u8>>) {
    let mut at = 0;
    while word(list, at) != 0 {
        let prefix: &[u8] = match list[at + 1] {
            1 => b"user.",
            2 => b"system.posix_acl_access",
            3 => b"system.posix_acl_default",
            4 => b"trusted.",
            6 => b"security.",
            other => panic!("an attribute of kind {other}"),
        };
        let name = [prefix, &list[at + 16..][..usize::from(list[at])]].concat();
        let (place, length) = (usize::from(half(list, at + 2)), word(list, at + 8) as usize);
        let value = area[place..][..length].to_vec();
        assert!(found.insert(name, value).is_none(), "an attribute is there twice");
        at += (16 + usize::from(list[at])).next_multiple_of(4);
    }
}

fn half(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}
