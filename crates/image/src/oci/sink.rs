//! A blob on its way from a registry into a file, compared with its descriptor as it comes.

use std::{
    fs::File,
    io::{Seek, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use sha2::{Digest as _, Sha256};

use super::digest::{BlobError, Digest};

/// A blob under way. Dropped before it is finished, it removes its file.
#[derive(Debug)]
pub struct Sink {
    file: File,
    path: PathBuf,
    digest: Digest,
    size: u64,
    written: u64,
    hash: Sha256,
    is_unfinished: bool,
}

/// Why a blob was not taken.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// It is not what its descriptor says.
    #[error("blob {digest} is refused")]
    Refused {
        /// The digest that it should have.
        digest: Digest,
        /// What is wrong.
        #[source]
        cause: BlobError,
    },
    /// It cannot be written.
    #[error(transparent)]
    Host(#[from] host::Error),
}

impl Sink {
    /// Begins the blob of that digest and size in the new file `path`.
    ///
    /// # Errors
    /// Where the file exists or cannot be made.
    pub fn create(path: &Path, digest: Digest, size: u64) -> host::Result<Self> {
        let file = host::fs::create_new(path)?;
        let path = path.to_owned();
        Ok(Self { file, path, digest, size, written: 0, hash: Sha256::new(), is_unfinished: true })
    }

    /// The digest that it should have.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The bytes that it should have.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Bytes that it has, from which on a broken download goes on.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Whether it has all its bytes.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.written == self.size
    }

    /// Begins again, for a registry that gives only whole blobs.
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub fn restart(&mut self) -> host::Result<()> {
        let restarted = self.file.set_len(0).and_then(|()| self.file.rewind());
        restarted.map_err(|e| host::Error::path("write", &self.path, e))?;
        (self.written, self.hash) = (0, Sha256::new());
        Ok(())
    }

    /// Adds the next bytes.
    ///
    /// # Errors
    /// Where these are more than it should have, or the file cannot be written.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), SinkError> {
        if bytes.len() as u64 > self.size - self.written {
            return Err(self.refused(BlobError::Longer { expected: self.size }));
        }
        self.file.write_all(bytes).map_err(|e| host::Error::path("write", &self.path, e))?;
        self.hash.update(bytes);
        self.written += bytes.len() as u64;
        Ok(())
    }

    /// The blob's file, after comparing size and digest; it goes to `to` if it can, and the file is good without that.
    ///
    /// # Errors
    /// Where the blob is not what it should be.
    pub fn finish(mut self, to: &Path) -> Result<Arc<File>, SinkError> {
        if !self.is_complete() {
            return Err(self.refused(BlobError::Shorter { expected: self.size, found: self.written }));
        }
        let found = Digest::from_hash(self.hash.clone());
        if found != self.digest {
            return Err(self.refused(BlobError::Digest { found }));
        }
        let file = self.file.try_clone().map_err(|e| host::Error::path("open", &self.path, e))?;
        // A cache that was emptied meanwhile harms nobody.
        self.is_unfinished = host::fs::rename(&self.path, to).is_err();
        Ok(Arc::new(file))
    }

    fn refused(&self, cause: BlobError) -> SinkError {
        SinkError::Refused { digest: self.digest, cause }
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        if self.is_unfinished {
            let _ = host::fs::remove(&self.path);
        }
    }
}
