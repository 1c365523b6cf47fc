//! The writer of file systems, given any tree.

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
};

use image::ext4::{
    AttributeSet, FillError, Segment, Writer,
    tree::{Content, InodeId, Meta, NodeId, ROOT, Timestamp},
};

use crate::{
    choices::Choices,
    e2fsck::Asked,
    ext4_image::{self, What},
    scratch::Scratch,
};

const BLOCK: u64 = 4096;
/// The most content of one execution.
const MOST: usize = 1 << 20;
/// The names, content and attributes of one file.
type Attributes = BTreeMap<Vec<u8>, Vec<u8>>;

/// What is read back of a written tree is the tree, e2fsck has nothing to say, the same tree gives the same bytes, and what
/// cannot be written leaves no file.
///
/// # Panics
/// Where that does not hold.
pub fn check(data: &[u8], asked: Asked) {
    let scratch = Scratch::new();
    let first = scratch.path("first");
    let Some(wanted) = write(data, &first) else {
        assert!(!first.exists(), "a file is left of what could not be written");
        return;
    };
    let bytes = scratch.read("first");
    compare(&wanted, &bytes);
    asked.check(data, &first);
    write(data, &scratch.path("second"));
    assert!(bytes == scratch.read("second"), "the same tree gave other bytes");
}

/// A file as it was asked for.
#[derive(Clone)]
struct Inode {
    id: InodeId,
    meta: Meta,
    attributes: Attributes,
    what: What,
}

struct Node {
    id: NodeId,
    parent: usize,
    name: Vec<u8>,
    inode: usize,
    removed: bool,
}

struct Tree {
    inodes: Vec<Inode>,
    nodes: Vec<Node>,
}

impl Tree {
    fn is_there(&self, node: usize) -> bool {
        !self.nodes[node].removed && (node == 0 || self.is_there(self.nodes[node].parent))
    }

    fn path(&self, node: usize) -> Vec<u8> {
        match (node, &self.nodes[node]) {
            (0, _) => Vec::new(),
            (_, Node { parent: 0, name, .. }) => name.clone(),
            (_, Node { parent, name, .. }) => [&self.path(*parent)[..], b"/", name].concat(),
        }
    }

    /// One of the nodes that are there and that `fits`.
    fn pick(&self, choice: u16, fits: impl Fn(&Inode) -> bool) -> Option<usize> {
        let fits = |node: &usize| self.is_there(*node) && fits(&self.inodes[self.nodes[*node].inode]);
        let fitting: Vec<usize> = (0..self.nodes.len()).filter(fits).collect();
        (!fitting.is_empty()).then(|| fitting[usize::from(choice) % fitting.len()])
    }
}

/// Makes the tree that `data` describes the file system `path`, and gives what it has by path; `None` where it is refused.
fn write(data: &[u8], path: &Path) -> Option<Tree> {
    let mut choices = Choices::new(data);
    // Now and then there is not room for much.
    let limit = match choices.byte() {
        0 => u64::from(choices.byte()) * BLOCK,
        _ => 64 << 20,
    };
    let meta = meta(&mut choices);
    let mut writer = Writer::create(path, meta, limit).ok()?;
    let root = writer.tree().inode_of(ROOT);
    let root = Inode { id: root, meta, attributes: Attributes::new(), what: What::Directory };
    let root_node = Node { id: ROOT, parent: 0, name: Vec::new(), inode: 0, removed: false };
    let mut tree = Tree { inodes: vec![root], nodes: vec![root_node] };
    let mut left = MOST;
    while !choices.is_empty() && tree.nodes.len() < 3000 {
        let done = act(&mut writer, &mut tree, &mut choices, &mut left);
        if done.is_none() {
            // As every caller does: nothing more is written.
            drop(writer);
            return None;
        }
    }
    writer.finish(None, "fuzz").ok()?;
    Some(tree)
}

fn act(writer: &mut Writer, tree: &mut Tree, choices: &mut Choices<'_>, left: &mut usize) -> Option<()> {
    let is_directory = |inode: &Inode| inode.what == What::Directory;
    let kind = choices.byte() % 12;
    let parent = tree.pick(choices.half(), is_directory).expect("the root is always there");
    match kind {
        10 => {
            let Some(node) = tree.pick(choices.half(), |_| true).filter(|node| *node != 0) else {
                return Some(());
            };
            writer.tree_mut().remove(tree.nodes[node].id);
            tree.nodes[node].removed = true;
            return Some(());
        }
        11 => {
            let inode = tree.nodes[parent].inode;
            let (meta, (set, attributes)) = (meta(choices), attributes(choices));
            writer.change(tree.inodes[inode].id, meta, &set).ok()?;
            tree.inodes[inode] = Inode { meta, attributes, ..tree.inodes[inode].clone() };
            return Some(());
        }
        _ => {}
    }
    let name = name(choices);
    if kind == 9 {
        let Some(target) = tree.pick(choices.half(), |inode| !is_directory(inode)) else { return Some(()) };
        let inode = tree.nodes[target].inode;
        return insert(writer, tree, parent, &name, inode);
    }
    if kind == 8 {
        // A directory of many, which needs an index.
        let count = choices.half() % 700;
        let inode = add(writer, tree, choices, kind, left)?;
        for number in 0..count {
            let name = [&name[..name.len().min(240)], format!("-{number}").as_bytes()].concat();
            insert(writer, tree, parent, &name, inode)?;
        }
        return Some(());
    }
    let inode = add(writer, tree, choices, kind, left)?;
    insert(writer, tree, parent, &name, inode)
}

fn insert(writer: &mut Writer, tree: &mut Tree, parent: usize, name: &[u8], inode: usize) -> Option<()> {
    let known = (0..tree.nodes.len()).find(|node| {
        let node = &tree.nodes[*node];
        node.parent == parent && node.name == name && !node.removed && !name.is_empty()
    });
    let (directory, id) = (tree.nodes[parent].id, tree.inodes[inode].id);
    assert_eq!(writer.tree().find(directory, name), known.map(|node| tree.nodes[node].id));
    let inserted = writer.tree_mut().insert(directory, name, id).ok()?;
    assert_eq!(inserted.replaced, known.map(|node| tree.nodes[node].id));
    if let Some(known) = known {
        tree.nodes[known].removed = true;
    }
    tree.nodes.push(Node { id: inserted.node, parent, name: name.to_vec(), inode, removed: false });
    Some(())
}

/// Adds a file that nothing names yet.
fn add(
    writer: &mut Writer,
    tree: &mut Tree,
    choices: &mut Choices<'_>,
    kind: u8,
    left: &mut usize,
) -> Option<usize> {
    let (mut meta, (set, attributes)) = (meta(choices), attributes(choices));
    let mut content = |choices: &mut Choices<'_>| {
        // A few bytes over and over, or as many as there are.
        let length = usize::from(choices.half()).min(*left);
        *left -= length;
        let pattern = choices.bytes();
        let pattern = if pattern.is_empty() { b"x" } else { pattern };
        pattern.iter().copied().cycle().take(length).collect::<Vec<u8>>()
    };
    let filled = |result: Result<InodeId, FillError>| result.ok();
    let (id, what) = match kind {
        0 | 1 => (writer.directory(meta, &set).ok()?, What::Directory),
        2 | 3 | 8 => {
            let content = content(choices);
            let size = content.len() as u64;
            let id = filled(writer.file(meta, &set, size, &mut &content[..]))?;
            (id, What::File(size, blocks(&[Segment { offset: 0, length: size }], &content)))
        }
        4 | 5 => {
            let (mut segments, mut all, mut at) = (Vec::new(), Vec::new(), 0_u64);
            for _ in 0..choices.byte() % 12 {
                // Holes of bytes, of blocks, and of what takes more than four bytes to count.
                at += u64::from(choices.half()) << [0, 3, 12, 26][usize::from(choices.byte() % 4)];
                let piece = content(choices);
                segments.push(Segment { offset: at, length: piece.len() as u64 });
                at += piece.len() as u64;
                all.extend(piece);
            }
            let size = at + u64::from(choices.half());
            let id = filled(writer.sparse_file(meta, &set, size, &segments, &mut &all[..]))?;
            (id, What::File(size, blocks(&segments, &all)))
        }
        6 => {
            let target = choices.text().into_bytes();
            meta.mode = 0o777;
            (writer.link(meta, &set, &target).ok()?, What::Link(target))
        }
        _ => {
            let (major, minor) = (choices.word() & 0xfff, choices.word() & 0xf_ffff);
            let (content, what) = match choices.byte() % 3 {
                0 => (Content::CharacterDevice(major, minor), What::CharacterDevice(major, minor)),
                1 => (Content::BlockDevice(major, minor), What::BlockDevice(major, minor)),
                _ => (Content::Pipe, What::Pipe),
            };
            (writer.special(meta, &set, content).ok()?, what)
        }
    };
    tree.inodes.push(Inode { id, meta, attributes, what });
    Some(tree.inodes.len() - 1)
}

/// The blocks of a file of `segments`, whose content is `content`, that are not all zero.
fn blocks(segments: &[Segment], content: &[u8]) -> BTreeMap<u32, Vec<u8>> {
    let mut blocks = BTreeMap::new();
    let mut rest = content.iter();
    for Segment { offset, length } in segments {
        for (at, byte) in (*offset..offset + length).zip(&mut rest) {
            let number = u32::try_from(at / BLOCK).unwrap_or(u32::MAX);
            let block = blocks.entry(number).or_insert_with(|| vec![0; 4096]);
            block[usize::try_from(at % BLOCK).expect("it is in a block")] = *byte;
        }
    }
    blocks.retain(|_, block| block.iter().any(|byte| *byte != 0));
    blocks
}

fn meta(choices: &mut Choices<'_>) -> Meta {
    let mode = choices.half() & 0o7777;
    let (uid, gid) = (choices.word(), choices.word());
    // From long before 1901 to long after 2446.
    let seconds = i64::from(choices.word().cast_signed()) << (choices.byte() % 8);
    Meta { mode, uid, gid, mtime: Timestamp { seconds, nanoseconds: choices.word() % 1_000_000_000 } }
}

fn name(choices: &mut Choices<'_>) -> Vec<u8> {
    let length = usize::from(choices.byte()).max(1);
    let mut name = choices.take(length).to_vec();
    name.iter_mut().filter(|b| matches!(b, 0 | b'/')).for_each(|b| *b = b'_');
    if matches!(&name[..], b"" | b"." | b"..") { b"dots".to_vec() } else { name }
}

/// Extended attributes, as many as have room.
fn attributes(choices: &mut Choices<'_>) -> (AttributeSet, Attributes) {
    let (mut set, mut wanted, mut room) = (AttributeSet::default(), Attributes::new(), 3800_usize);
    for _ in 0..choices.byte().saturating_sub(240) {
        let prefix: &[u8] = [&b"user."[..], b"trusted.", b"security."][usize::from(choices.byte() % 3)];
        let length = usize::from(choices.byte());
        let name = [prefix, choices.take(length)].concat();
        let length = usize::from(choices.half()) % 2048;
        let value = choices.take(length);
        let Some(after) = room.checked_sub(24 + name.len() + value.len()) else { break };
        if !name.contains(&0) && set.set(&name, value).is_ok() {
            wanted.insert(name, value.to_vec());
            room = after;
        }
    }
    (set, wanted)
}

/// Compares what was asked for with the file system in `bytes`.
fn compare(wanted: &Tree, bytes: &[u8]) {
    let found = ext4_image::read(bytes);
    let there: Vec<usize> = (0..wanted.nodes.len()).filter(|node| wanted.is_there(*node)).collect();
    let mut names: HashMap<usize, u16> = HashMap::new();
    let mut subdirectories: HashMap<usize, u16> = HashMap::new();
    for node in &there {
        let Node { inode, parent, .. } = wanted.nodes[*node];
        *names.entry(inode).or_default() += 1;
        if *node != 0 && wanted.inodes[inode].what == What::Directory {
            *subdirectories.entry(wanted.nodes[parent].inode).or_default() += 1;
        }
    }
    assert_eq!(found.len(), there.len(), "as many names as were asked for");
    let mut numbers: HashMap<usize, u32> = HashMap::new();
    for node in there {
        let path = wanted.path(node);
        let shown = path.escape_ascii();
        let found = found.get(&path).unwrap_or_else(|| panic!("{shown} is missing"));
        let inode = wanted.nodes[node].inode;
        let Inode { meta, attributes, what, .. } = &wanted.inodes[inode];
        assert_eq!(found.mode & 0o7777, meta.mode, "{shown}");
        assert_eq!((found.uid, found.gid), (meta.uid, meta.gid), "{shown}");
        let seconds = meta.mtime.seconds.clamp(i64::from(i32::MIN), i64::from(i32::MAX) + (3 << 32));
        assert_eq!(found.mtime, (seconds, meta.mtime.nanoseconds), "{shown}");
        assert_eq!(&found.attributes, attributes, "{shown}");
        assert!(found.what == *what, "{shown} has other content");
        let links = match what {
            What::Directory => 2 + subdirectories.get(&inode).copied().unwrap_or(0),
            _ => names[&inode],
        };
        assert_eq!(found.links, links, "{shown}");
        assert_eq!(*numbers.entry(inode).or_insert(found.inode), found.inode, "{shown} is another file");
    }
    let mut distinct: Vec<u32> = numbers.values().copied().collect();
    distinct.sort_unstable();
    distinct.dedup();
    assert_eq!(distinct.len(), numbers.len(), "two files became one");
}
