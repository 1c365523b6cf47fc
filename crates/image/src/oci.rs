//! OCI images: from a layout, an archive or the blobs of a registry to a root file system.
//!
//! ```text
//! layout directory ──┐
//! OCI archive ───────┼─ blobs, by digest ─ index ─▶ manifest ─▶ config, layers ─▶ rootfs
//! docker save ───────┤
//! a registry's cache ┘
//! ```
//! Every blob is compared with its descriptor while it is read, to the last byte. A layer is read and unpacked once, so its
//! digest is known when its entries were applied already: the image is thrown away then, and nobody ever saw it. Fetching is
//! the engine's business, and what comes of it goes into a `Sink`.

mod archive;
mod blobs;
mod digest;
mod document;
mod sink;

use std::{io::Read, ops::ControlFlow, path::Path};

pub use archive::import_stream;
pub use blobs::{Blobs, Directory, Opened};
pub use digest::{BlobError, Digest, DigestError, Verified};
pub use document::{
    ACCEPTED, Choice, Config, DEEPEST, Descriptor, Document, DocumentError, Index, LONGEST, Manifest,
};
pub use sink::{Sink, SinkError};

use crate::{
    json,
    manifest::RunConfig,
    rootfs::{self, Image, ImportError, ImportOptions, Report, RootfsReport},
};

/// The files at the top of every layout.
const LAYOUT: [&str; 2] = ["oci-layout", "index.json"];

/// A finished image.
#[derive(Debug)]
pub struct Imported {
    /// Its root file system.
    pub rootfs: RootfsReport,
    /// How its maker wants it to be run.
    pub run: RunConfig,
    /// The digest of its manifest; an archive of `docker save` has only that of its config, and a root tar none.
    pub origin: Option<Digest>,
}

/// Why an image could not be made.
#[derive(Debug, thiserror::Error)]
pub enum OciError {
    /// A root tar was refused, or the image cannot be written.
    #[error(transparent)]
    Import(#[from] ImportError),
    /// Something of this host cannot be read.
    #[error(transparent)]
    Host(#[from] host::Error),
    /// A blob is not there.
    #[error("blob {0} is missing")]
    Missing(Digest),
    /// A file of an archive is not there.
    #[error("the archive has no {0:?}")]
    NoFile(String),
    /// A file of an archive is not what it should be.
    #[error("{name} is refused")]
    File {
        /// Its name.
        name: String,
        /// What is wrong.
        #[source]
        cause: BlobError,
    },
    /// A blob is not what its descriptor says.
    #[error("blob {digest} is refused")]
    Blob {
        /// The digest that it should have.
        digest: Digest,
        /// What is wrong.
        #[source]
        cause: BlobError,
    },
    /// A document is not accepted.
    #[error("{name} is refused")]
    Document {
        /// Which.
        name: String,
        /// Why.
        #[source]
        cause: DocumentError,
    },
    /// A layer cannot be unpacked.
    #[error("cannot unpack layer {number} of {count}, {digest}")]
    Layer {
        /// Which, from 1 on.
        number: usize,
        /// Of how many.
        count: usize,
        /// Its digest.
        digest: Digest,
        /// Why.
        #[source]
        cause: ImportError,
    },
    /// The directory is no layout.
    #[error("{} is not an OCI layout: it has no {missing}", dir.display())]
    NoLayout {
        /// The directory.
        dir: std::path::PathBuf,
        /// What a layout would have.
        missing: &'static str,
    },
}

impl OciError {
    /// Whether somebody wanted it to end.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        matches!(self, Self::Import(ImportError::Cancelled))
    }
}

/// Whether directory `dir` is an OCI layout.
#[must_use]
pub fn is_layout(dir: &Path) -> bool {
    LAYOUT.iter().all(|name| dir.join(name).is_file())
}

/// Makes what is in directory `dir` the new image file `out`; it says nothing of how it is run.
///
/// # Errors
/// As [`rootfs::import_directory`].
pub fn import_directory(
    dir: &Path,
    out: &Path,
    options: &ImportOptions,
    progress: Report<'_>,
) -> Result<Imported, OciError> {
    let rootfs = rootfs::import_directory(dir, out, options, progress)?;
    Ok(Imported { rootfs, run: RunConfig::default(), origin: None })
}

/// Makes the image in the OCI layout `dir` that `choice` wants the new image file `out`.
///
/// # Errors
/// Where it is no layout, something in it is refused, or the image cannot be written; `out` does not exist then, unless it did
/// before.
pub fn import_layout(
    dir: &Path,
    choice: &Choice,
    out: &Path,
    options: &ImportOptions,
    progress: Report<'_>,
) -> Result<Imported, OciError> {
    for missing in LAYOUT {
        if !dir.join(missing).is_file() {
            return Err(OciError::NoLayout { dir: dir.to_owned(), missing });
        }
    }
    let file = |name| host::fs::read_limited(&dir.join(name), LONGEST);
    let blobs = Directory::new(dir.join("blobs"));
    let manifest = top(&blobs, &file("oci-layout")?, &file("index.json")?, choice)?;
    import(&blobs, manifest, choice, out, options, progress)
}

/// What the two files at the top of a layout lead to.
fn top(
    blobs: &dyn Blobs,
    version: &[u8],
    index: &[u8],
    choice: &Choice,
) -> Result<(Digest, Manifest), OciError> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Layout {
        image_layout_version: String,
    }
    let refused = |name: &str| {
        let name = name.to_owned();
        |cause| OciError::Document { name, cause }
    };
    let Layout { image_layout_version: version } =
        json::parse(version).map_err(|e| refused("oci-layout")(e.into()))?;
    if !version.starts_with("1.") {
        return Err(refused("oci-layout")(DocumentError::LayoutVersion(json::shown(&version))));
    }
    let index = Index::of_layout(index).map_err(refused("index.json"))?;
    let descriptor = index.tagged(choice).map_err(refused("index.json"))?;
    manifest(blobs, descriptor.clone(), choice)
}

/// The manifest that `descriptor` leads to, through indexes where it must.
fn manifest(
    blobs: &dyn Blobs,
    descriptor: Descriptor,
    choice: &Choice,
) -> Result<(Digest, Manifest), OciError> {
    let mut descriptor = descriptor;
    for _ in 0..DEEPEST {
        let digest = descriptor.digest;
        let refused = |what: &str| {
            let name = format!("{what} {digest}");
            |cause| OciError::Document { name, cause }
        };
        let bytes = read(blobs, &descriptor)?;
        match Document::parse(&bytes, &descriptor.media_type).map_err(refused("manifest"))? {
            Document::Manifest(manifest) => return Ok((digest, manifest)),
            Document::Index(index) => {
                descriptor = index.for_platform(choice).map_err(refused("index"))?.clone();
            }
        }
    }
    let name = format!("index {}", descriptor.digest);
    Err(OciError::Document { name, cause: DocumentError::TooDeep(DEEPEST) })
}

/// The small blob that `descriptor` names.
fn read(blobs: &dyn Blobs, descriptor: &Descriptor) -> Result<Vec<u8>, OciError> {
    let Descriptor { digest, size, .. } = *descriptor;
    let refused = |cause| OciError::Blob { digest, cause };
    if size > LONGEST {
        return Err(refused(BlobError::TooLarge { size, limit: LONGEST }));
    }
    let source = blobs.open(&digest)?.ok_or(OciError::Missing(digest))?;
    let mut bytes = Vec::new();
    let mut blob = Verified::new(source, digest, size);
    // An error of reading is told by the check, which begins where it happened.
    let _ = blob.read_to_end(&mut bytes);
    blob.check().map_err(refused)?;
    Ok(bytes)
}

/// Makes the image of `manifest`, whose digest is given and whose blobs are in `blobs`, the new image file `out`.
///
/// # Errors
/// Where something in it is refused, or the image cannot be written; `out` does not exist then, unless it did before.
pub fn import(
    blobs: &dyn Blobs,
    (origin, manifest): (Digest, Manifest),
    choice: &Choice,
    out: &Path,
    options: &ImportOptions,
    progress: Report<'_>,
) -> Result<Imported, OciError> {
    let bytes = read(blobs, &manifest.config)?;
    let refused = |cause| OciError::Document { name: format!("config {}", manifest.config.digest), cause };
    let config = Config::parse(&bytes, choice).map_err(refused)?;
    let (described, listed) = (config.layers.len(), manifest.layers.len());
    if described != listed {
        return Err(refused(DocumentError::LayerCount { described, listed }));
    }
    let rootfs = assemble(blobs, &manifest.layers, out, options, progress)?;
    Ok(Imported { rootfs, run: config.run, origin: Some(origin) })
}

/// Makes a root file system of `layers`, the lowest first.
fn assemble(
    blobs: &dyn Blobs,
    layers: &[Descriptor],
    out: &Path,
    options: &ImportOptions,
    progress: Report<'_>,
) -> Result<RootfsReport, OciError> {
    let mut image = Image::create(out, options)?;
    for (number, layer) in (1..).zip(layers) {
        let Descriptor { digest, size, .. } = *layer;
        let source = blobs.open(&digest)?.ok_or(OciError::Missing(digest))?;
        let mut blob = Verified::new(source, digest, size);
        let added = image.add_layer(&mut blob, &mut *progress);
        match added {
            Err(error @ (ImportError::Cancelled | ImportError::Write(_))) => return Err(error.into()),
            // Reading on would be what the limits are there to prevent.
            Err(
                cause @ (ImportError::TooLarge { .. }
                | ImportError::Bomb { .. }
                | ImportError::TooManyEntries { .. }
                | ImportError::WindowTooLarge { .. }),
            ) => return Err(OciError::Layer { number, count: layers.len(), digest, cause }),
            Ok(()) | Err(_) => {}
        }
        // A blob that is not what it should be explains whatever else is wrong with it.
        blob.check().map_err(|cause| OciError::Blob { digest, cause })?;
        added.map_err(|cause| OciError::Layer { number, count: layers.len(), digest, cause })?;
        // Short layers are told of too.
        if progress(image.so_far()) == ControlFlow::Break(()) {
            return Err(ImportError::Cancelled.into());
        }
    }
    Ok(image.finish()?)
}
