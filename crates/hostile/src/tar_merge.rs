//! Layers: any bytes as archives, and any entries in them, merged to one tree.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io::Read,
    ops::ControlFlow,
    path::Path,
};

use image::{
    oci::{self, Blobs, Choice, Descriptor, Digest, Manifest},
    rootfs::{ImportOptions, Limits},
};

use crate::{
    choices::Choices,
    e2fsck::Asked,
    ext4_image::{self, Node, What},
    layers::{Kind, Merged},
    message,
    scratch::Scratch,
    tar,
};

/// Layers become the tree that their entries say, or nothing; e2fsck has nothing to say of it.
///
/// The first byte says what the others are: archives, archives whose headers get the right checksums, or decisions of which
/// entries there are, whose tree is known here too.
///
/// # Panics
/// Where that does not hold.
pub fn check(data: &[u8], asked: Asked) {
    let mut choices = Choices::new(data);
    match choices.byte() % 4 {
        0 => {
            let archives = archives(&mut choices);
            merge(data, archives, asked);
        }
        1 => {
            let mut archives = archives(&mut choices);
            archives.iter_mut().for_each(|archive| tar::repair(archive));
            merge(data, archives, asked);
        }
        _ => check_entries(data, &mut choices, asked),
    }
}

/// Up to four archives, the last of which takes all that is left.
fn archives(choices: &mut Choices<'_>) -> Vec<Vec<u8>> {
    let count = choices.byte() % 4;
    let mut archives: Vec<Vec<u8>> = (0..count)
        .map(|_| {
            let blocks = usize::from(choices.byte());
            choices.take(blocks * tar::BLOCK).to_vec()
        })
        .collect();
    archives.push(choices.rest().to_vec());
    archives
}

/// Merges archives, and gives what came of it.
fn merge(data: &[u8], archives: Vec<Vec<u8>>, asked: Asked) -> Option<BTreeMap<Vec<u8>, Node>> {
    let scratch = Scratch::new();
    let out = scratch.path("image");
    match import(archives, &out) {
        Ok(()) => {
            let tree = ext4_image::read(&scratch.read("image"));
            asked.check(data, &out);
            Some(tree)
        }
        Err(error) => {
            assert!(!out.exists(), "a file is left of what was refused");
            message::check(&error);
            None
        }
    }
}

fn import(archives: Vec<Vec<u8>>, out: &Path) -> Result<(), oci::OciError> {
    let mut blobs = Memory::default();
    let digests: Vec<String> = archives.iter().map(|archive| Digest::of(archive).to_string()).collect();
    let config =
        serde_json::json!({ "os": "linux", "architecture": "amd64", "rootfs": { "diff_ids": digests } });
    let config = blobs.add(config.to_string().into_bytes());
    let layers = archives.into_iter().map(|archive| blobs.add(archive)).collect();
    let choice = Choice { arch: "amd64".to_owned(), tag: None };
    let limits = Limits { bytes: 32 << 20, entries: 20_000, ratio_from: 4 << 20, ..Limits::default() };
    let options = ImportOptions { limits, ..ImportOptions::default() };
    let manifest = (Digest::of(b""), Manifest { config, layers });
    oci::import(&blobs, manifest, &choice, out, &options, &mut |_| ControlFlow::Continue(())).map(drop)
}

/// Blobs in memory.
#[derive(Default)]
struct Memory(HashMap<Digest, Vec<u8>>);

impl Memory {
    fn add(&mut self, bytes: Vec<u8>) -> Descriptor {
        let descriptor = Descriptor::plain(Digest::of(&bytes), bytes.len() as u64);
        self.0.insert(descriptor.digest, bytes);
        descriptor
    }
}

impl Blobs for Memory {
    fn open(&self, digest: &Digest) -> host::Result<Option<Box<dyn Read + '_>>> {
        Ok(self.0.get(digest).map(|bytes| -> Box<dyn Read> { Box::new(&bytes[..]) }))
    }
}

/// Merges layers of entries that `choices` decide, and compares the tree with the one of [`Merged`].
fn check_entries(data: &[u8], choices: &mut Choices<'_>, asked: Asked) {
    let mut expected = Merged::default();
    let mut refused = false;
    let mut archives = Vec::new();
    let layers = 1 + choices.byte() % 4;
    let mut entries = 0;
    for layer in (1..=layers).rev() {
        expected.begin_layer();
        let mut archive = Vec::new();
        // The last layer has all that is left.
        let count = if layer == 1 { 255 } else { choices.byte() % 16 };
        for _ in 0..count {
            if choices.is_empty() {
                break;
            }
            let path = path(choices, true);
            let kind = kind(choices);
            let (letter, target, content) = match &kind {
                Kind::Directory => (b'5', "", ""),
                Kind::File(content) => (b'0', "", &content[..]),
                Kind::Link(target) => (b'2', &target[..], ""),
                Kind::HardLink(target) => (b'1', &target[..], ""),
                Kind::Device => (b'3', "", ""),
            };
            tar::add(&mut archive, letter, path.as_bytes(), target.as_bytes(), content.as_bytes());
            entries += 1;
            refused = refused || expected.apply(&path, kind).is_err();
        }
        archive.resize(archive.len() + 2 * tar::BLOCK, 0);
        archives.push(archive);
    }
    if entries == 0 {
        return;
    }
    let found = merge(data, archives, asked);
    assert_eq!(found.is_none(), refused, "refused by one of two: {expected:#?}");
    let Some(mut found) = found else { return };
    assert_eq!(found.remove(&b""[..]).map(|root| root.what), Some(What::Directory));
    let shown: BTreeMap<Vec<u8>, What> = expected
        .names
        .iter()
        .map(|(path, name)| {
            let what = match &name.kind {
                Kind::Directory => What::Directory,
                Kind::File(content) if content.is_empty() => What::File(0, BTreeMap::new()),
                Kind::File(content) => {
                    let mut block = content.clone().into_bytes();
                    block.resize(4096, 0);
                    What::File(content.len() as u64, BTreeMap::from([(0, block)]))
                }
                Kind::Link(target) => What::Link(target.clone().into_bytes()),
                Kind::Device => What::CharacterDevice(1, 3),
                Kind::HardLink(_) => unreachable!("a name is of what it links to"),
            };
            (path.join("/").into_bytes(), what)
        })
        .collect();
    let mut files: BTreeMap<u32, Vec<Vec<u8>>> = BTreeMap::new();
    for (path, node) in &found {
        files.entry(node.inode).or_default().push(path.clone());
    }
    let found: BTreeMap<Vec<u8>, What> = found.into_iter().map(|(path, node)| (path, node.what)).collect();
    assert_eq!(found, shown);
    let mut joined: BTreeSet<Vec<Vec<u8>>> = BTreeSet::new();
    for names in expected.files() {
        let mut names: Vec<_> = names.iter().map(|path| path.join("/").into_bytes()).collect();
        names.sort();
        joined.insert(names);
    }
    assert_eq!(files.into_values().collect::<BTreeSet<_>>(), joined, "other names are one file");
}

/// A path of few names, so that entries meet.
fn path(choices: &mut Choices<'_>, whiteouts: bool) -> String {
    let shape = choices.byte();
    let mut parts = Vec::new();
    for _ in 0..1 + shape % 4 {
        let name = choices.byte();
        parts.push(match name % 16 {
            0..4 => "a",
            4..7 => "b",
            7..9 => "c",
            9..11 => "d",
            11 if whiteouts => ".wh.a",
            12 if whiteouts => ".wh.b",
            13 if whiteouts => ".wh..wh..opq",
            14 => "..",
            15 if name == 15 => ".",
            15 if name == 31 && whiteouts => ".wh.",
            _ => "e",
        });
    }
    let before = match shape >> 6 {
        1 => "./",
        2 => "/",
        _ => "",
    };
    format!("{before}{}", parts.join("/"))
}

fn kind(choices: &mut Choices<'_>) -> Kind {
    match choices.byte() % 8 {
        0..3 => Kind::Directory,
        3 => Kind::File(String::new()),
        4 => Kind::File(format!("content {}", choices.byte())),
        5 => Kind::Link(path(choices, false)),
        6 => Kind::HardLink(path(choices, false)),
        _ => Kind::Device,
    }
}
