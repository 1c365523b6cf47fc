//! From a root tar, layers, or a directory, to an immutable ext4 image.
//!
//! ```text
//! layer ─ decompress ─ tar ─▶ merge ─▶ ext4::Writer
//!         (bounded)   entries  (names, links, types, whiteouts)
//! directory ── from_directory ─┘
//! ```
//! `decompress` finds the format and enforces the limits; `tar` knows the formats of archives and nothing of trees; `merge`
//! applies one entry after the other to the tree with the rules of images, the lowest layer first; where layers come from is
//! the business of `oci`, the file system that of `ext4`. A failed import leaves no file.

pub(crate) mod decompress;
mod directory;
mod from_directory;
mod init;
mod merge;
pub(crate) mod tar;
mod whiteout;

use std::{
    fs::File,
    io::Read,
    ops::ControlFlow,
    path::{Path, PathBuf},
};

pub use decompress::{Limits, Progress};
pub use directory::{WriteDirError, write_dir};
pub use from_directory::import_directory;
pub use merge::Refusal;
pub use tar::Malformed;

use crate::ext4::{self, tree::EntryPath};
pub(crate) use decompress::{Stop, Unpacked};
use merge::Merge;

/// How an image is made.
#[derive(Debug, Clone, Default)]
pub struct ImportOptions {
    /// What a source may ask for.
    pub limits: Limits,
    /// The file system's identity; it follows from the content where this is `None`.
    pub uuid: Option<[u8; 16]>,
    /// The file system's label, of which 16 bytes are kept.
    pub label: String,
}

/// A finished image.
#[derive(Debug)]
pub struct RootfsReport {
    /// The image's file, not yet synced to the disk.
    pub file: File,
    /// Its size in bytes.
    pub size: u64,
    /// The file system's identity.
    pub uuid: [u8; 16],
    /// Entries that the source had.
    pub entries: u64,
    /// Bytes that the source had, unpacked.
    pub unpacked: u64,
    /// Extended attributes that were left out: of kinds that ext4 has not, or that would confuse overlayfs.
    pub ignored_attributes: u64,
    /// What its `/sbin/init` is; `None` where the agent has to be it.
    pub init: Option<model::init::Init>,
}

/// Why a source was not made an image.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The caller stopped it.
    #[error("the import was cancelled")]
    Cancelled,
    /// The source is no archive.
    #[error("this is not a tar archive")]
    NotATar,
    /// The source is compressed with something else than gzip, zstd or xz.
    #[error("archives compressed with {0} are not supported, only gzip, zstd and xz")]
    UnsupportedCompression(&'static str),
    /// The source has nothing in it.
    #[error("there is nothing in it")]
    Empty,
    /// The source ends within its content.
    #[error("the archive is cut off after {}", last.as_ref().map_or("its beginning".to_owned(), ToString::to_string))]
    Truncated {
        /// The last entry that was begun.
        last: Option<EntryPath>,
    },
    /// The source cannot be read or unpacked.
    #[error("cannot read the archive")]
    Read(#[source] std::io::Error),
    /// Unpacking needs more memory than allowed.
    #[error("unpacking needs a larger window than is allowed: {} MiB for zstd, {} MiB for xz", zstd >> 20, xz >> 20)]
    WindowTooLarge {
        /// The allowed window of a zstd stream in bytes.
        zstd: u64,
        /// The allowed dictionary of an xz stream in bytes.
        xz: u64,
    },
    /// The source unpacks to more than allowed.
    #[error("the archive unpacks to more than {limit} bytes")]
    TooLarge {
        /// The allowed size.
        limit: u64,
    },
    /// The source unpacks to so many times its size that it can only be an attack.
    #[error("the archive unpacks to more than {limit} times its size")]
    Bomb {
        /// The allowed ratio.
        limit: u64,
    },
    /// The source has more entries than allowed.
    #[error("the archive has more than {limit} entries")]
    TooManyEntries {
        /// The allowed number.
        limit: u64,
    },
    /// Something at the beginning of an entry is not as tars have it.
    #[error("the archive is malformed after {}", last.as_ref().map_or("its beginning".to_owned(), ToString::to_string))]
    Malformed {
        /// The last entry that was intact.
        last: Option<EntryPath>,
        /// What is wrong.
        #[source]
        cause: Malformed,
    },
    /// An entry cannot be in an image.
    #[error("entry {path} is refused")]
    Refused {
        /// The entry.
        path: EntryPath,
        /// Why.
        #[source]
        cause: Refusal,
    },
    /// Something of a directory cannot be read.
    #[error(transparent)]
    Host(#[from] host::Error),
    /// Something of a directory changed while it was read.
    #[error("{} was changed while it was read", path.display())]
    Changed {
        /// That.
        path: PathBuf,
    },
    /// The image cannot be written.
    #[error("cannot write the image")]
    Write(#[source] ext4::Error),
}

/// What is told of an import every few MiB; it can stop it.
pub type Report<'a> = &'a mut dyn FnMut(Progress) -> ControlFlow<()>;

/// Makes the root tar that `reader` gives, plain or compressed, the new image file `out`. `progress` is told every few MiB and can
/// stop the import.
///
/// # Errors
/// Where the source is refused or the image cannot be written; `out` does not exist then, unless it did before.
pub fn import_tar(
    reader: impl Read,
    out: &Path,
    options: &ImportOptions,
    progress: Report<'_>,
) -> Result<RootfsReport, ImportError> {
    let mut image = Image::create(out, options)?;
    let source = Unpacked::new(reader, options.limits, Progress::default(), progress)?;
    image.apply(None, &mut tar::Archive::new(source, tar::End::Marked))?;
    image.finish()
}

/// An image under way. Dropped before [`Image::finish`], it removes its file.
pub(crate) struct Image<'a> {
    merge: Merge,
    options: &'a ImportOptions,
    so_far: Progress,
}

impl<'a> Image<'a> {
    /// An empty image in the new file `out`.
    pub fn create(out: &Path, options: &'a ImportOptions) -> Result<Self, ImportError> {
        let merge = Merge::create(out, options.limits.bytes).map_err(ImportError::Write)?;
        Ok(Self { merge, options, so_far: Progress::default() })
    }

    /// Puts the layer that `reader` gives, plain or compressed, on top of those before. That it is whole, something else tells.
    pub fn add_layer(&mut self, reader: impl Read, progress: Report<'_>) -> Result<(), ImportError> {
        self.merge.begin_layer();
        let source = Unpacked::new(reader, self.options.limits, self.so_far, progress)?;
        self.apply(None, &mut tar::Archive::new(source, tar::End::Anywhere))
    }

    /// Applies `first`, which was read from `archive` already, and all other entries of it.
    pub fn apply(
        &mut self,
        first: Option<tar::Entry>,
        archive: &mut tar::Archive<Unpacked<'_>>,
    ) -> Result<(), ImportError> {
        let mut last = None;
        let mut first = first;
        let mut read_all = || -> Result<(), tar::Error> {
            loop {
                let next = match first.take() {
                    Some(entry) => Some(entry),
                    None => archive.next()?,
                };
                let Some(entry) = next else { return Ok(()) };
                archive.source_mut().count_entry()?;
                last = Some(entry.path.clone());
                self.merge.apply(entry, archive)?;
            }
        };
        let result = read_all();
        self.so_far = archive.source().so_far();
        result.map_err(|error| import_error(error, last, self.options.limits))
    }

    /// How far it is.
    pub fn so_far(&self) -> Progress {
        self.so_far
    }

    /// Writes what depends on the whole.
    pub fn finish(mut self) -> Result<RootfsReport, ImportError> {
        let Progress { entries, unpacked, .. } = self.so_far;
        if entries == 0 {
            return Err(ImportError::Empty);
        }
        let ignored_attributes = self.merge.ignored_attributes();
        let init = init::detect(&mut self.merge).map_err(ImportError::Write)?;
        let written = self.merge.into_writer().finish(self.options.uuid, &self.options.label);
        let ext4::Written { file, size, uuid } = written.map_err(ImportError::Write)?;
        Ok(RootfsReport { file, size, uuid, entries, unpacked, ignored_attributes, init })
    }
}

pub(crate) fn import_error(error: tar::Error, last: Option<Vec<u8>>, limits: Limits) -> ImportError {
    let path = || EntryPath(last.clone().unwrap_or_default());
    let last = || last.clone().map(EntryPath);
    match error {
        tar::Error::NotATar => ImportError::NotATar,
        tar::Error::Truncated => ImportError::Truncated { last: last() },
        tar::Error::Malformed(cause) => ImportError::Malformed { last: last(), cause },
        tar::Error::Refused(Refusal::FileSystem(
            cause @ (ext4::Error::Write(_) | ext4::Error::TooLarge { .. }),
        )) => ImportError::Write(cause),
        tar::Error::Refused(cause) => ImportError::Refused { path: path(), cause },
        tar::Error::Read(cause) => match Stop::of(&cause) {
            Some(Stop::Cancelled) => ImportError::Cancelled,
            Some(Stop::TooLarge) => ImportError::TooLarge { limit: limits.bytes },
            Some(Stop::Bomb) => ImportError::Bomb { limit: limits.ratio },
            Some(Stop::TooManyEntries) => ImportError::TooManyEntries { limit: limits.entries },
            Some(Stop::WindowTooLarge) => {
                ImportError::WindowTooLarge { zstd: limits.window, xz: decompress::XZ_WINDOW }
            }
            None if cause.kind() == std::io::ErrorKind::UnexpectedEof => {
                ImportError::Truncated { last: last() }
            }
            None => ImportError::Read(cause),
        },
    }
}
