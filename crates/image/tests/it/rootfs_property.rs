//! Random trees: what the kernel shows of the image is what tar unpacks, and e2fsck finds nothing.

use std::collections::BTreeSet;

use proptest::{
    collection::vec,
    prelude::{Just, ProptestConfig, Strategy, any, prop_oneof, proptest},
};

use crate::{
    rootfs_import::check,
    rootfs_support::{Head, Tar},
};

#[derive(Debug, Clone)]
enum What {
    Directory,
    File(Vec<u8>),
    /// Holes, in bytes, and data, in blocks of tar, in turn.
    Sparse(Vec<(u16, u16)>),
    SymbolicLink(usize),
    /// To one of the earlier files.
    HardLink(usize),
    Device(u8, (u32, u32)),
    Pipe,
}

#[derive(Debug, Clone)]
struct Random {
    /// Which of the earlier directories it is in.
    parent: usize,
    name: Vec<u8>,
    what: What,
    mode: u32,
    uid: u32,
    gid: u32,
    mtime: (i32, u32),
    attributes: Vec<(String, Vec<u8>)>,
}

fn what() -> impl Strategy<Value = What> {
    let content =
        prop_oneof![vec(any::<u8>(), 0..300), (any::<u8>(), 0..30_000_usize).prop_map(|(b, n)| vec![b; n])];
    let device = (any::<bool>(), (0..4000_u32, 0..100_000_u32));
    prop_oneof![
        3 => Just(What::Directory),
        4 => content.prop_map(What::File),
        1 => vec((1..20_000_u16, 1..20_u16), 1..12).prop_map(What::Sparse),
        1 => (1..200_usize).prop_map(What::SymbolicLink),
        1 => any::<usize>().prop_map(What::HardLink),
        1 => device.prop_map(|(block, numbers)| What::Device(if block { b'4' } else { b'3' }, numbers)),
        1 => Just(What::Pipe),
    ]
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    let byte = any::<u8>().prop_map(|byte| if matches!(byte, 0 | b'/') { b'_' } else { byte });
    prop_oneof![4 => vec(byte.clone(), 1..20), 1 => vec(byte, 1..=255)]
        .prop_map(|name| if name == b"." || name == b".." { b"dots".to_vec() } else { name })
}

fn entry() -> impl Strategy<Value = Random> {
    let attribute = ("(user|trusted)\\.[a-z]{1,30}", vec(any::<u8>(), 0..200));
    let ids = (0..2_000_000_u32, 0..2_000_000_u32);
    // Times that are not so new that they could be tar's own.
    let mtime = (-2_000_000_000..1_700_000_000_i32, 0..1_000_000_000_u32);
    (any::<usize>(), name(), what(), 0..0o10000_u32, ids, mtime, vec(attribute, 0..3)).prop_map(
        |(parent, name, what, mode, (uid, gid), mtime, attributes)| Random {
            parent,
            name,
            what,
            mode,
            uid,
            gid,
            mtime,
            attributes,
        },
    )
}

/// The archive of a tree of `entries`, each directory followed by what is in it, as tar wants it.
fn archive(entries: &[Random]) -> Vec<u8> {
    let mut directories = vec![Vec::new()];
    let mut known = BTreeSet::new();
    let mut tree = Vec::new();
    for entry in entries {
        // With holes, tar takes no other name than that of the header.
        let path = match entry.what {
            What::Sparse(_) => format!("sparse-{}", known.len()).into_bytes(),
            _ => [&directories[entry.parent % directories.len()][..], &entry.name].concat(),
        };
        if path.len() < 1500 && known.insert(path.clone()) {
            if matches!(entry.what, What::Directory) {
                directories.push([&path[..], b"/"].concat());
            }
            tree.push((path, entry));
        }
    }
    // Before what is in it, and without others between: a separator that is smaller than any byte.
    tree.sort_by_key(|(path, _)| path.iter().map(|b| if *b == b'/' { 0 } else { *b }).collect::<Vec<_>>());
    let mut tar = Tar::default().dir("./");
    let mut files: Vec<Vec<u8>> = Vec::new();
    for (path, entry) in tree {
        let target = match &entry.what {
            What::HardLink(which) if !files.is_empty() => Some(files[which % files.len()].clone()),
            What::SymbolicLink(length) => Some(vec![b't'; *length]),
            _ => None,
        };
        let is_link = matches!(entry.what, What::SymbolicLink(_));
        let is_file = matches!(entry.what, What::File(_) | What::Sparse(_));
        let (seconds, nanoseconds) = entry.mtime;
        let mtime = if seconds < 0 {
            format!("-{}", seconds.unsigned_abs())
        } else {
            format!("{seconds}.{nanoseconds:09}")
        };
        let (uid, gid) = (entry.uid.to_string(), entry.gid.to_string());
        let mut records: Vec<(String, Vec<u8>)> =
            vec![("mtime".into(), mtime.into()), ("uid".into(), uid.into()), ("gid".into(), gid.into())];
        if is_file || matches!(entry.what, What::Directory) {
            let attributes = entry.attributes.iter();
            records.extend(attributes.map(|(name, value)| (format!("SCHILY.xattr.{name}"), value.clone())));
        }
        let (mut kind, mut content) = (b'0', Vec::new());
        match &entry.what {
            What::Directory => kind = b'5',
            What::File(bytes) => content.clone_from(bytes),
            What::Sparse(parts) => {
                let mut offset = 0;
                let mut map = Vec::new();
                for (hole, data) in parts {
                    let data = data * 512;
                    offset += u64::from(*hole);
                    map.push(format!("{offset},{data}"));
                    content.resize(content.len() + usize::from(data), b'x');
                    offset += u64::from(data);
                }
                // The hole at the end, as tar writes it.
                map.push(format!("{},0", offset + 100));
                records.push(("GNU.sparse.numblocks".into(), map.len().to_string().into()));
                records.push(("GNU.sparse.size".into(), (offset + 100).to_string().into()));
                records.push(("GNU.sparse.map".into(), map.join(",").into()));
            }
            What::SymbolicLink(_) => kind = b'2',
            What::HardLink(_) if target.is_some() => kind = b'1',
            What::HardLink(_) => {}
            What::Device(letter, _) => kind = *letter,
            What::Pipe => kind = b'6',
        }
        if kind == b'0' {
            files.push(path.clone());
        }
        // GNU's long names take any byte.
        let is_sparse = matches!(entry.what, What::Sparse(_));
        if !is_sparse {
            tar = tar.entry(&Head::new(b'L', "././@LongLink"), &[&path[..], b"\0"].concat());
        }
        if let Some(target) = &target {
            tar = tar.entry(&Head::new(b'K', "././@LongLink"), &[&target[..], b"\0"].concat());
        }
        let records: Vec<(&str, &[u8])> = records.iter().map(|(key, value)| (&key[..], &value[..])).collect();
        tar = tar.pax(&records);
        let device = if let What::Device(_, device) = entry.what { device } else { (0, 0) };
        let mode = if is_link { 0o777 } else { entry.mode };
        let path = if is_sparse { &path[..] } else { b"short" };
        tar = tar.entry(&Head { path, mode, device, ..Head::new(kind, "") }, &content);
    }
    tar.end()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_trees_are_kept(entries in vec(entry(), 1..120)) {
        check("random", archive(&entries));
    }
}
