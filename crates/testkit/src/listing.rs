//! All there is to know of a tree of files, to be compared with another's, and file systems mounted to be looked at.
#![expect(clippy::disallowed_methods, reason = "a test looks at the world from outside")]

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    hash::{DefaultHasher, Hasher},
    os::unix::{
        ffi::OsStrExt,
        fs::{FileTypeExt, MetadataExt},
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::need;

/// What there is to know of each path.
pub type Listing = BTreeMap<Vec<u8>, String>;

/// How a listing shows the time of a directory that its archive does not list.
const NO_TIME: &str = "0.000000000";

/// A mounted file system, unmounted with the value.
#[derive(Debug)]
pub struct Mount(PathBuf);

impl Mount {
    /// Mounts the ext4 file system in `image` at the directory `at` with `options`, where this machine and user can.
    ///
    /// # Panics
    /// Where they can, and the kernel does not take `image`.
    #[must_use]
    pub fn new(at: &Path, image: &Path, options: &str) -> Option<Self> {
        let mut mount = Command::new("mount");
        let mounted = mount.args(["-t", "ext4", "-o", options]).arg(image).arg(at).stdin(Stdio::null());
        let mounted = mounted.output().expect("mount is there");
        if mounted.status.success() {
            return Some(Self(at.to_owned()));
        }
        // Where mounting works at all, a refusal is the image's fault.
        let said = String::from_utf8_lossy(&mounted.stderr).into_owned();
        assert!(!rustix::process::geteuid().is_root() || !Path::new("/dev/loop-control").exists(), "{said}");
        need::missing("loop", "no right to mount loop devices")
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Lazily: the child of another test may have a file of it for the moment between its fork and its exec.
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

/// All that there is to know of the tree below `root`, by path.
///
/// # Panics
/// Where something of it cannot be read.
#[must_use]
pub fn listing(root: &Path) -> Listing {
    let mut found = BTreeMap::new();
    let mut names_of_inode = HashMap::new();
    let mut rest = vec![root.to_owned()];
    while let Some(path) = rest.pop() {
        let meta = fs::symlink_metadata(&path).expect("it was just listed");
        if meta.is_dir() {
            let entries = fs::read_dir(&path).expect("a test may read all");
            rest.extend(entries.map(|entry| entry.expect("it can be read").path()));
        }
        let name = path.strip_prefix(root).expect("it is below").as_os_str().as_bytes().to_vec();
        names_of_inode.entry(meta.ino()).or_insert_with(Vec::new).push(name.clone());
        found.insert(name, (path, meta));
    }
    for names in names_of_inode.values_mut() {
        names.sort();
    }
    let line = |path: &Path, meta: &fs::Metadata| {
        let kind = meta.file_type();
        let what = if kind.is_file() {
            let mut hasher = DefaultHasher::new();
            hasher.write(&fs::read(path).expect("a test may read all"));
            format!("{} bytes {:016x}", meta.size(), hasher.finish())
        } else if kind.is_symlink() {
            let target = fs::read_link(path).expect("a test may read all");
            target.as_os_str().as_bytes().escape_ascii().to_string()
        } else if kind.is_char_device() || kind.is_block_device() {
            format!("{}:{}", rustix::fs::major(meta.rdev()), rustix::fs::minor(meta.rdev()))
        } else {
            String::new()
        };
        let links = if kind.is_dir() { &[][..] } else { &names_of_inode[&meta.ino()][..] };
        let links: Vec<_> = links.iter().map(|link| link.escape_ascii().to_string()).collect();
        let (mode, uid, gid) = (meta.mode(), meta.uid(), meta.gid());
        // Directories that the archive does not list get the time of unpacking from tar. No archive here is as new.
        let made = kind.is_dir() && meta.mtime() > 1_750_000_000;
        let time = format!("{}.{:09}", meta.mtime(), meta.mtime_nsec());
        let time = if made { NO_TIME } else { &time };
        let attributes = attributes(path);
        format!("{mode:o} {uid}:{gid} {time} {what} links {} {links:?} {attributes:?}", meta.nlink())
    };
    found.iter().map(|(name, (path, meta))| (name.clone(), line(path, meta))).collect()
}

fn attributes(path: &Path) -> Vec<(String, String)> {
    let mut names = vec![0; 65536];
    let length = rustix::fs::llistxattr(path, &mut names[..]).expect("the file system has attributes");
    let names = names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    let mut found: Vec<_> = names
        .map(|name| {
            let mut value = vec![0; 65536];
            let length = rustix::fs::lgetxattr(path, name, &mut value[..]).expect("it was just listed");
            (name.escape_ascii().to_string(), value[..length].escape_ascii().to_string())
        })
        .collect();
    found.sort();
    found
}

/// Compares two listings entry by entry.
///
/// # Panics
/// Where they differ.
#[track_caller]
pub fn assert_same(expected: &Listing, found: &Listing) {
    for (path, expected) in expected {
        assert_eq!(Some(expected), found.get(path), "{}", path.escape_ascii());
    }
    let extra = found.keys().filter(|path| !expected.contains_key(*path));
    let extra: Vec<_> = extra.map(|path| path.escape_ascii().to_string()).collect();
    assert!(extra.is_empty(), "{extra:?}");
}

/// Compares what is `found` with what umoci unpacked. umoci gives a directory the time of unpacking, which a listing shows as
/// none, where a whiteout further up removes something from it; an image keeps what its layer says.
///
/// # Panics
/// Where they differ.
#[track_caller]
pub fn assert_as_umoci(unpacked: &Path, mut found: Listing) {
    let expected = listing(unpacked);
    for (path, text) in &mut found {
        let made = expected.get(path).is_some_and(|text| text.split(' ').nth(2) == Some(NO_TIME));
        if made && text.starts_with('4') {
            let word = |(at, word)| if at == 2 { NO_TIME } else { word };
            *text = text.split(' ').enumerate().map(word).collect::<Vec<_>>().join(" ");
        }
    }
    assert_same(&expected, &found);
}
