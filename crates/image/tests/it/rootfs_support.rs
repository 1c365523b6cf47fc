//! What the tests of images share: archives made by hand, and the oracles.

use std::{
    ops::ControlFlow,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use image::rootfs::{ImportError, ImportOptions, RootfsReport, import_tar};
use testkit::need;

use crate::kernel_support::{Scratch, run};

/// Imports `tar` into `out` with the usual limits.
pub fn import(tar: &[u8], out: &Path) -> Result<RootfsReport, ImportError> {
    import_tar(tar, out, &ImportOptions::default(), &mut |_| ControlFlow::Continue(()))
}

/// Lets e2fsck look at `image`, without which none of these tests can say anything.
#[track_caller]
pub fn e2fsck(image: &Path) -> Option<()> {
    let output = Command::new(need::program("e2fsck", "e2fsck")?)
        .arg("-fn")
        .arg(image)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "e2fsck of {}:\n{said}", image.display());
    Some(())
}

/// Unpacks `tar` with the system's tar as root, as the oracle of what it means.
pub fn unpack(scratch: &Scratch, name: &str, tar: &[u8]) -> Option<PathBuf> {
    need::root("unpack owners and devices")?;
    let archive = scratch.file(&format!("{name}.tar"), tar);
    let out = scratch.dir(name);
    run(Command::new("tar")
        .args(["--warning=no-timestamp", "--numeric-owner", "--xattrs", "--xattrs-include=*", "-xpf"])
        .env("LC_ALL", "C")
        .arg(archive)
        .arg("-C")
        .arg(&out));
    Some(out)
}

/// An archive made by hand, entry by entry.
#[derive(Debug, Clone, Default)]
pub struct Tar(pub Vec<u8>);

/// The fields of a header that tests change.
#[derive(Debug, Clone)]
pub struct Head<'a> {
    pub path: &'a [u8],
    pub kind: u8,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime: u64,
    pub target: &'a [u8],
    pub device: (u32, u32),
}

impl<'a> Head<'a> {
    pub fn new(kind: u8, path: &'a str) -> Self {
        let mode = if kind == b'5' { 0o755 } else { 0o644 };
        Self {
            path: path.as_bytes(),
            kind,
            mode,
            uid: 0,
            gid: 0,
            mtime: 1_700_000_000,
            target: b"",
            device: (0, 0),
        }
    }

    pub fn to(self, target: &'a str) -> Self {
        Self { target: target.as_bytes(), ..self }
    }

    /// The header's block, for content of `size` bytes.
    pub fn block(&self, size: u64) -> [u8; 512] {
        let mut block = [0; 512];
        let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, self.path);
        put(100, format!("{:07o}", self.mode).as_bytes());
        put(108, format!("{:07o}", self.uid).as_bytes());
        put(116, format!("{:07o}", self.gid).as_bytes());
        put(124, format!("{size:011o}").as_bytes());
        put(136, format!("{:011o}", self.mtime).as_bytes());
        put(156, &[self.kind]);
        put(157, self.target);
        put(257, b"ustar\x0000");
        put(329, format!("{:07o}", self.device.0).as_bytes());
        put(337, format!("{:07o}", self.device.1).as_bytes());
        seal(&mut block);
        block
    }
}

/// Gives a header its checksum.
pub fn seal(block: &mut [u8; 512]) {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
}

impl Tar {
    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub fn entry(self, head: &Head<'_>, content: &[u8]) -> Self {
        self.raw(&head.block(content.len() as u64)).raw(content)
    }

    pub fn file(self, path: &str, content: &[u8]) -> Self {
        self.entry(&Head::new(b'0', path), content)
    }

    pub fn dir(self, path: &str) -> Self {
        self.entry(&Head::new(b'5', path), b"")
    }

    pub fn symlink(self, path: &str, target: &str) -> Self {
        self.entry(&Head::new(b'2', path).to(target), b"")
    }

    pub fn hardlink(self, path: &str, target: &str) -> Self {
        self.entry(&Head::new(b'1', path).to(target), b"")
    }

    /// An extended header for the next entry.
    pub fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut bytes = Vec::new();
        for (key, value) in records {
            let rest = [b" ", key.as_bytes(), b"=", value, b"\n"].concat();
            let length = (1..).find(|length| length.to_string().len() + rest.len() == *length).unwrap();
            bytes.extend_from_slice(length.to_string().as_bytes());
            bytes.extend_from_slice(&rest);
        }
        self.entry(&Head::new(b'x', "pax"), &bytes)
    }

    /// The archive with its end.
    pub fn end(self) -> Vec<u8> {
        self.raw(&[0; 1024]).0
    }
}

/// The features of the file system in `image`, as e2fsprogs names them.
pub fn features(image: &Path) -> Option<String> {
    let said = run(Command::new(need::program("e2fsck", "dumpe2fs")?).arg("-h").arg(image));
    let line = said.lines().find_map(|line| line.strip_prefix("Filesystem features:")).unwrap();
    Some(line.trim().to_owned())
}
