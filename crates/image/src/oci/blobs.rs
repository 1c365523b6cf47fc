//! Where blobs are read from.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read},
    os::unix::fs::FileExt,
    path::PathBuf,
    sync::Arc,
};

use super::digest::Digest;

/// A place with blobs. What it gives is not checked yet.
pub trait Blobs {
    /// The blob `digest`; `None` where it is not there.
    ///
    /// # Errors
    /// Where it is there and cannot be opened.
    fn open(&self, digest: &Digest) -> host::Result<Option<Box<dyn Read + '_>>>;
}

/// A directory of blobs as a layout has it: `sha256/<hex>`.
#[derive(Debug)]
pub struct Directory(PathBuf);

impl Directory {
    /// The blobs below `base`.
    #[must_use]
    pub fn new(base: PathBuf) -> Self {
        Self(base)
    }

    /// Where blob `digest` is, or would be.
    #[must_use]
    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.0.join("sha256").join(digest.hex())
    }
}

impl Blobs for Directory {
    fn open(&self, digest: &Digest) -> host::Result<Option<Box<dyn Read + '_>>> {
        let path = self.path(digest);
        // Nothing but a file: a pipe would let this wait for ever.
        if path.is_file() { Ok(Some(Box::new(host::fs::open(&path)?))) } else { Ok(None) }
    }
}

/// Blobs in files that are open already, so that nobody can take them away.
#[derive(Debug, Default)]
pub struct Opened(HashMap<Digest, Arc<File>>);

impl Opened {
    /// Adds the blob `digest`, which is all of `file`.
    pub fn insert(&mut self, digest: Digest, file: Arc<File>) {
        self.0.insert(digest, file);
    }
}

impl Blobs for Opened {
    fn open(&self, digest: &Digest) -> host::Result<Option<Box<dyn Read + '_>>> {
        let whole = Part { offset: 0, length: u64::MAX };
        Ok(self
            .0
            .get(digest)
            .map(|file| -> Box<dyn Read> { Box::new(PartReader { file: Arc::clone(file), left: whole }) }))
    }
}

/// A part of a file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part {
    pub offset: u64,
    pub length: u64,
}

/// Blobs in one file, beside one another.
#[derive(Debug)]
pub(super) struct Packed {
    pub file: Arc<File>,
    pub parts: HashMap<Digest, Part>,
}

impl Blobs for Packed {
    fn open(&self, digest: &Digest) -> host::Result<Option<Box<dyn Read + '_>>> {
        Ok(self.parts.get(digest).map(|part| -> Box<dyn Read> {
            Box::new(PartReader { file: Arc::clone(&self.file), left: *part })
        }))
    }
}

/// Reads a part of a file.
#[derive(Debug)]
pub(super) struct PartReader {
    pub file: Arc<File>,
    pub left: Part,
}

impl Read for PartReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let wanted = usize::try_from(self.left.length).unwrap_or(usize::MAX).min(out.len());
        let count = self.file.read_at(&mut out[..wanted], self.left.offset)?;
        self.left.offset += count as u64;
        self.left.length -= count as u64;
        Ok(count)
    }
}
