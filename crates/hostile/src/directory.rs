//! Directories of this host as images: what was put there is what there is.
#![expect(clippy::disallowed_methods, reason = "a test's files are its own")]

use std::{
    collections::{BTreeMap, HashMap},
    ffi::OsString,
    fs,
    ops::ControlFlow,
    os::unix::{
        ffi::{OsStrExt, OsStringExt},
        fs::{FileExt, MetadataExt, PermissionsExt},
    },
    path::{Path, PathBuf},
};

use image::rootfs::{ImportOptions, Limits, import_directory};
use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags};

use crate::{
    choices::Choices,
    e2fsck::Asked,
    ext4_image::{self, Node, What},
    message,
    scratch::Scratch,
};

/// The most that is put into a directory.
const MOST: usize = 64;
/// The longest file.
const LONGEST: u64 = 1 << 20;
/// The longest attribute for which there is always room.
const SURE: usize = 2048;
const BLOCK: usize = 4096;

/// A directory becomes the tree that it is, or nothing; e2fsck has nothing to say of it.
///
/// # Panics
/// Where that does not hold.
pub fn check(data: &[u8], asked: Asked) {
    let scratch = Scratch::new();
    let (dir, out) = (scratch.dir("tree"), scratch.path("image"));
    let mut choices = Choices::new(data);
    let limits = match choices.byte() {
        0 => Limits { bytes: 8 << 10, ..Limits::default() },
        1 => Limits { entries: 3, ..Limits::default() },
        _ => Limits::default(),
    };
    fill(&dir, &mut choices);
    let expected = look(&dir);
    let options = ImportOptions { limits, ..ImportOptions::default() };
    match import_directory(&dir, &out, &options, &mut |_| ControlFlow::Continue(())) {
        Ok(_) => {
            let mut found = ext4_image::read(&scratch.read("image"));
            number_anew(&mut found);
            assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
            for (path, node) in &expected {
                assert_eq!(found[path], *node, "{}", String::from_utf8_lossy(path));
            }
            asked.check(data, &out);
        }
        Err(error) => {
            assert!(!out.exists(), "a file is left of what was refused");
            message::check(&error);
            // A file system in memory takes attributes that none on a disk has room for.
            let has_long = |node: &Node| node.attributes.values().any(|value| value.len() > SURE);
            let is_limited = limits.bytes < LONGEST || limits.entries < MOST as u64;
            assert!(is_limited || expected.len() == 1 || expected.values().any(has_long), "{error:?}");
        }
    }
}

/// Puts into `dir` what `choices` say.
fn fill(dir: &Path, choices: &mut Choices<'_>) {
    let (mut directories, mut files) = (vec![dir.to_owned()], Vec::new());
    for _ in 0..MOST {
        if choices.is_empty() {
            break;
        }
        let parent = &directories[usize::from(choices.byte()) % directories.len()];
        let path = parent.join(name(choices));
        // What is there already, or cannot be called so, is nothing new.
        let is_made = match choices.byte() % 8 {
            0 | 1 => fs::create_dir(&path).is_ok(),
            2 => {
                let target = choices.bytes().iter().map(|byte| (*byte).max(1)).collect();
                std::os::unix::fs::symlink(OsString::from_vec(target), &path).is_ok()
            }
            3 if !files.is_empty() => {
                let other: &PathBuf = &files[usize::from(choices.byte()) % files.len()];
                fs::hard_link(other, &path).is_ok()
            }
            4 => rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::RUSR, 0).is_ok(),
            _ => write(&path, choices),
        };
        if is_made {
            dress(&path, choices);
            match fs::symlink_metadata(&path) {
                Ok(meta) if meta.is_dir() => directories.push(path),
                _ => files.push(path),
            }
        }
    }
}

/// A name, which may be one that layers or file systems give a meaning to.
fn name(choices: &mut Choices<'_>) -> OsString {
    let bytes = match choices.byte() {
        0 => b"lost+found".to_vec(),
        1 => b".wh..wh..opq".to_vec(),
        2 => [b".wh.", choices.take(1)].concat(),
        length => choices.take(usize::from(length % 32).max(1)).to_vec(),
    };
    let plain = |byte: u8| if byte == 0 || byte == b'/' { b'x' } else { byte };
    OsString::from_vec(bytes.into_iter().map(plain).collect())
}

/// A file with some contents and some holes.
fn write(path: &Path, choices: &mut Choices<'_>) -> bool {
    let Ok(file) = fs::File::create_new(path) else { return false };
    for _ in 0..choices.byte() % 4 {
        let at = u64::from(choices.word()) % LONGEST;
        file.write_all_at(choices.bytes(), at).expect("memory takes it");
    }
    let length = file.metadata().expect("it is open").len();
    if choices.byte().is_multiple_of(4) {
        file.set_len(length.max(u64::from(choices.word()) % LONGEST)).expect("memory takes it");
    }
    true
}

/// Gives what is at `path` an owner, a mode, an attribute and a time.
fn dress(path: &Path, choices: &mut Choices<'_>) {
    // Only root can.
    let _ = std::os::unix::fs::lchown(path, Some(choices.word()), Some(choices.half().into()));
    let is_link = path.is_symlink();
    if !is_link {
        // The reader may not be root.
        let mode = u32::from(choices.half()) & 0o7777 | 0o600 | if path.is_dir() { 0o100 } else { 0 };
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("it was just made");
        let value = choices.bytes();
        // Not everywhere.
        let _ = rustix::fs::lsetxattr(path, "user.of-the-fuzzer", value, XattrFlags::empty());
    }
    let time = Timespec { tv_sec: choices.word().cast_signed().into(), tv_nsec: i64::from(choices.half()) };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).expect("it was just made");
}

/// What is in `dir`, itself included.
fn look(dir: &Path) -> BTreeMap<Vec<u8>, Node> {
    let mut found = BTreeMap::new();
    let mut rest = vec![dir.to_owned()];
    while let Some(path) = rest.pop() {
        let node = node(&path);
        if node.what == What::Directory {
            let entries = fs::read_dir(&path).expect("it is there");
            rest.extend(entries.map(|entry| entry.expect("it can be read").path()));
        }
        let name = path.strip_prefix(dir).expect("it lies below").as_os_str().as_bytes().to_vec();
        found.insert(name, node);
    }
    number_anew(&mut found);
    found
}

fn node(path: &Path) -> Node {
    let meta = fs::symlink_metadata(path).expect("it is there");
    let kind = FileType::from_raw_mode(meta.mode());
    let what = match kind {
        FileType::Directory => What::Directory,
        FileType::Symlink => {
            What::Link(fs::read_link(path).expect("it is one").into_os_string().into_encoded_bytes())
        }
        FileType::Fifo => What::Pipe,
        _ => {
            let content = fs::read(path).expect("it can be read");
            let blocks =
                (0..).zip(content.chunks(BLOCK)).filter(|(_, block)| block.iter().any(|byte| *byte != 0));
            let whole = |block: &[u8]| [block, &vec![0; BLOCK - block.len()]].concat();
            What::File(content.len() as u64, blocks.map(|(number, block)| (number, whole(block))).collect())
        }
    };
    Node {
        inode: u32::try_from(meta.ino() & u64::from(u32::MAX)).expect("it was cut"),
        mode: u16::try_from(meta.mode()).expect("a mode has sixteen bits"),
        uid: meta.uid(),
        gid: meta.gid(),
        mtime: (meta.mtime(), u32::try_from(meta.mtime_nsec()).expect("less than a second")),
        links: u16::try_from(meta.nlink()).expect("there are few"),
        attributes: attributes(path),
        what,
    }
}

fn attributes(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let name = "user.of-the-fuzzer";
    let mut value = vec![0; 1 << 16];
    match rustix::fs::lgetxattr(path, name, &mut value) {
        Ok(length) => BTreeMap::from([(name.as_bytes().to_vec(), value[..length].to_vec())]),
        Err(_) => BTreeMap::new(),
    }
}

/// Gives inodes the numbers of their first names, and directories no number of links: how these are counted is the file
/// system's.
fn number_anew(nodes: &mut BTreeMap<Vec<u8>, Node>) {
    let mut numbers = HashMap::new();
    for (number, node) in (0..).zip(nodes.values_mut()) {
        node.inode = *numbers.entry(node.inode).or_insert(number);
        if node.what == What::Directory {
            node.links = 0;
        }
    }
}
