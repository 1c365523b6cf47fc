//! Bundles: a ready image or kernel as one `tar.zst`, which holds its manifest first and then exactly the files that it names.
//!
//! A bundle is trusted to be what its catalog's signer made, and is checked nevertheless: names, kinds, sizes and digests
//! of its entries, and that a guest could use what comes of it.

use std::{
    collections::BTreeMap,
    io::{self, Read, Write},
    ops::ControlFlow,
    path::Path,
};

use host::fs;
use model::{init::Init, kernel::Feature};
use sha2::{Digest as _, Sha256};

use crate::{
    ext4::inspect::{InspectError, inspect},
    json,
    kernel::{self, BootImage, BootImageError, FileRecord, KernelError, KernelManifest},
    manifest::{ImageManifest, ManifestError},
    rootfs::{ImportError, Limits, Progress, Stop, Unpacked},
};

/// The file of an image's root file system.
pub const ROOTFS: &str = "rootfs.ext4";
/// The manifest of both.
const MANIFEST: &str = "manifest.json";
/// The most bytes of a manifest.
const LONGEST_MANIFEST: u64 = 32 << 20;
/// The most bytes of padding behind the last entry.
const LONGEST_PADDING: u64 = 1 << 20;
/// Bytes that are written at once, and that become a hole where all of them are zero.
const PIECE: usize = 64 << 10;
/// The files that a kernel may have.
const KERNEL_FILES: [&str; 5] =
    [kernel::VMLINUZ, kernel::VMLINUX, kernel::CONFIG, kernel::MODULES_CPIO, kernel::MODULES_EXT4];

/// Why a bundle was not taken.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// The caller stopped it.
    #[error("cancelled")]
    Cancelled,
    /// It is damaged, or goes beyond limits.
    #[error("the bundle cannot be unpacked")]
    Unpack(#[source] io::Error),
    /// Its compression is not known.
    #[error("the bundle cannot be read")]
    Open(#[source] ImportError),
    /// Its manifest is not its first entry.
    #[error("the bundle does not begin with {MANIFEST} but with {0:?}")]
    NoManifest(String),
    /// The manifest of an image is not accepted.
    #[error(transparent)]
    ImageManifest(#[from] ManifestError),
    /// The manifest of a kernel is not accepted.
    #[error(transparent)]
    KernelManifest(#[from] KernelError),
    /// The manifest names what cannot be.
    #[error("its manifest names {0:?}, which is no file of a kernel")]
    Name(String),
    /// The manifest and what it describes do not fit.
    #[error("its manifest says that it has {0}, and it does not")]
    Lacks(&'static str),
    /// The manifest says something that is not known.
    #[error("its manifest says {value:?} of its {what}, which this banger does not know")]
    Unknown {
        /// Of what.
        what: &'static str,
        /// What it says, shortened.
        value: String,
    },
    /// It is for other processors.
    #[error("it is for {found}, and this host is {host}")]
    OtherArch {
        /// Those that it is for.
        found: String,
        /// This host's.
        host: &'static str,
    },
    /// There is something in it that does not belong there.
    #[error("entry {0:?} does not belong in the bundle")]
    Unexpected(String),
    /// Something is missing.
    #[error("the bundle ends without {0}")]
    Missing(String),
    /// A file has another size than the manifest says.
    #[error("{name} has {found} bytes instead of {expected}")]
    Size {
        /// The file.
        name: String,
        /// Its bytes.
        found: u64,
        /// Those it should have.
        expected: u64,
    },
    /// A file is another one than the manifest says.
    #[error("{name} has the digest {found} instead of {expected}")]
    Digest {
        /// The file.
        name: String,
        /// Its digest.
        found: String,
        /// The one it should have.
        expected: String,
    },
    /// No guest could mount a file system in it.
    #[error("{name} is refused")]
    FileSystem {
        /// The file.
        name: &'static str,
        /// Why.
        #[source]
        cause: InspectError,
    },
    /// No VMM could boot it.
    #[error("{name} is refused")]
    Boot {
        /// The file.
        name: &'static str,
        /// Why.
        #[source]
        cause: BootImageError,
    },
    /// It is not the kernel that the manifest tells of.
    #[error("{name} is kernel {found}, and the manifest says {expected}")]
    OtherKernel {
        /// The file.
        name: &'static str,
        /// What it is.
        found: String,
        /// What it should be.
        expected: String,
    },
    /// A file cannot be written.
    #[error(transparent)]
    Host(#[from] host::Error),
}

impl From<io::Error> for BundleError {
    fn from(error: io::Error) -> Self {
        match Stop::of(&error) {
            Some(Stop::Cancelled) => Self::Cancelled,
            _ => Self::Unpack(error),
        }
    }
}

/// An image of a bundle, whose files are in place.
#[derive(Debug)]
pub struct UnpackedImage {
    /// What it says of itself.
    pub manifest: ImageManifest,
    /// The UUID of its file system.
    pub uuid: [u8; 16],
}

/// Unpacks the bundle of an image that `source` gives into `dir`, which has nothing of these names. `report` is told how
/// far it is and can stop it.
///
/// # Errors
/// Where the bundle is not exactly that; what is in `dir` then is of no use.
pub fn unpack_image(
    source: impl Read,
    dir: &Path,
    report: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<UnpackedImage, BundleError> {
    let manifest = unpack(source, dir, report, || {
        let manifest = ImageManifest::read(dir)?.expect("it was just written");
        let rootfs = FileRecord { size: manifest.size, sha256: manifest.sha256.clone() };
        let files = BTreeMap::from([(ROOTFS.to_owned(), rootfs)]);
        check_arch(&manifest.arch)?;
        check_image(&manifest)?;
        Ok((manifest, files))
    })?;
    let refused = |cause| BundleError::FileSystem { name: ROOTFS, cause };
    let found = inspect(&fs::open(&dir.join(ROOTFS))?).map_err(refused)?;
    Ok(UnpackedImage { manifest, uuid: found.uuid })
}

/// Unpacks the bundle of a kernel that `source` gives into `dir`, as [`unpack_image`].
///
/// # Errors
/// As there.
pub fn unpack_kernel(
    source: impl Read,
    dir: &Path,
    report: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<KernelManifest, BundleError> {
    let manifest = unpack(source, dir, report, || {
        let manifest = KernelManifest::read(dir)?;
        check_arch(&manifest.arch)?;
        check_kernel(&manifest)?;
        let files = manifest.files.clone();
        Ok((manifest, files))
    })?;
    let boot = [(kernel::VMLINUZ, &manifest.boot.image), (kernel::VMLINUX, &manifest.boot.elf)];
    for (name, _) in boot.into_iter().filter(|(_, file)| file.is_some()) {
        let refused = |cause| BundleError::Boot { name, cause };
        let found = BootImage::identify(&fs::read(&dir.join(name))?).map_err(refused)?;
        check_arch(found.arch)?;
        if found.release != manifest.release {
            let expected = json::shown(&manifest.release);
            return Err(BundleError::OtherKernel { name, found: found.release, expected });
        }
    }
    if manifest.files.contains_key(kernel::MODULES_EXT4) {
        let refused = |cause| BundleError::FileSystem { name: kernel::MODULES_EXT4, cause };
        inspect(&fs::open(&dir.join(kernel::MODULES_EXT4))?).map_err(refused)?;
    }
    Ok(manifest)
}

fn check_arch(found: &str) -> Result<(), BundleError> {
    let host = std::env::consts::ARCH;
    if found == host { Ok(()) } else { Err(BundleError::OtherArch { found: json::shown(found), host }) }
}

/// Whether what `manifest` says of how it is booted is known.
fn check_image(manifest: &ImageManifest) -> Result<(), BundleError> {
    let is_init = |init: &str| {
        let is_path = init.starts_with('/') && init.len() < 4096 && !init.contains('\0');
        is_path || init == "agent" || Init::ALL.iter().any(|known| known.name() == init)
    };
    let unknown = |what, value: &str| {
        let value = json::shown(value);
        Err(BundleError::Unknown { what, value })
    };
    match (manifest.ready.as_deref(), manifest.init.as_deref()) {
        (Some(ready), _) if !["agent", "init"].contains(&ready) => unknown("readiness", ready),
        (_, Some(init)) if !is_init(init) => unknown("init", init),
        _ => Ok(()),
    }
}

/// Whether what `manifest` says can be: its names become paths later.
fn check_kernel(manifest: &KernelManifest) -> Result<(), BundleError> {
    let boot = &manifest.boot;
    let named = manifest.files.keys().chain(&boot.image).chain(&boot.elf);
    if let Some(name) = named.into_iter().find(|name| !KERNEL_FILES.contains(&name.as_str())) {
        return Err(BundleError::Name(json::shown(name)));
    }
    let is_there = |file: &Option<String>, name: &str| match file {
        Some(file) => file == name && manifest.files.contains_key(name),
        None => true,
    };
    if boot.image.is_none() && boot.elf.is_none()
        || !is_there(&boot.image, kernel::VMLINUZ)
        || !is_there(&boot.elf, kernel::VMLINUX)
    {
        return Err(BundleError::Lacks("a file to boot"));
    }
    if !manifest.boot_modules.is_empty() && !manifest.files.contains_key(kernel::MODULES_CPIO) {
        return Err(BundleError::Lacks("modules to boot with"));
    }
    if manifest.modules_uuid.is_some() != manifest.files.contains_key(kernel::MODULES_EXT4) {
        return Err(BundleError::Lacks("a module tree"));
    }
    let needed = [Feature::VirtioBlk, Feature::VirtioConsole, Feature::Ext4, Feature::Overlay];
    if !needed.into_iter().all(|feature| manifest.has(feature)) {
        return Err(BundleError::Lacks("all that a guest needs"));
    }
    Ok(())
}

/// Unpacks the manifest, asks `expect` what else there should be, and unpacks that.
fn unpack<T>(
    source: impl Read,
    dir: &Path,
    report: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    expect: impl FnOnce() -> Result<(T, BTreeMap<String, FileRecord>), BundleError>,
) -> Result<T, BundleError> {
    let unpacked = Unpacked::new(source, Limits::default(), Progress::default(), report);
    let mut archive = tar::Archive::new(unpacked.map_err(BundleError::Open)?);
    // Without extended headers: an entry is what its own header says, or it does not belong here.
    let mut entries = archive.entries()?.raw(true);
    let mut first = match entries.next() {
        Some(entry) => entry?,
        None => return Err(BundleError::Missing(MANIFEST.to_owned())),
    };
    let name = name_of(&first);
    if name.as_deref() != Some(MANIFEST) {
        return Err(BundleError::NoManifest(shown(&first)));
    }
    if first.size() > LONGEST_MANIFEST {
        let (found, expected) = (first.size(), LONGEST_MANIFEST);
        return Err(BundleError::Size { name: MANIFEST.to_owned(), found, expected });
    }
    let mut bytes = Vec::new();
    first.read_to_end(&mut bytes)?;
    fs::write_atomic(&dir.join(MANIFEST), &bytes)?;
    let (manifest, mut missing) = expect()?;
    for entry in entries {
        let mut entry = entry?;
        let record = name_of(&entry).and_then(|name| missing.remove_entry(&name));
        let Some((name, record)) = record else { return Err(BundleError::Unexpected(shown(&entry))) };
        if entry.size() != record.size {
            return Err(BundleError::Size { name, found: entry.size(), expected: record.size });
        }
        let found = write(&mut entry, &dir.join(&name), record.size)?;
        if found != record.sha256 {
            return Err(BundleError::Digest { name, found, expected: json::shown(&record.sha256) });
        }
    }
    if let Some((name, _)) = missing.pop_first() {
        return Err(BundleError::Missing(name));
    }
    // Tar pads its end with zeros; anything else would be something that nobody looked at.
    let mut rest = archive.into_inner();
    let (mut piece, mut padding) = ([0; 4096], 0);
    loop {
        let count = rest.read(&mut piece)?;
        padding += count as u64;
        if count == 0 {
            return Ok(manifest);
        }
        if padding > LONGEST_PADDING || piece[..count].iter().any(|byte| *byte != 0) {
            return Err(BundleError::Unexpected("something behind the last one".to_owned()));
        }
    }
}

/// The name of an entry that is a plain file in the bundle's top directory.
fn name_of<R: Read>(entry: &tar::Entry<'_, R>) -> Option<String> {
    let header = entry.header();
    let is_plain = header.entry_type() == tar::EntryType::Regular;
    let name = String::from_utf8(header.path_bytes().into_owned()).ok()?;
    (is_plain && !name.contains('/')).then_some(name)
}

fn shown<R: Read>(entry: &tar::Entry<'_, R>) -> String {
    String::from_utf8_lossy(&entry.header().path_bytes()).chars().take(200).collect()
}

/// Writes `size` bytes of `content` to the new file `path`, and says what their digest is. Zeros become holes.
fn write(content: &mut impl Read, path: &Path, size: u64) -> Result<String, BundleError> {
    use std::os::unix::fs::FileExt;
    let failed = |cause| BundleError::Host(host::Error::path("write", path, cause));
    let file = fs::create_new(path)?;
    file.set_len(size).map_err(failed)?;
    let mut hash = Sha256::new();
    let mut piece = vec![0; PIECE];
    let mut at = 0;
    while at < size {
        let wanted = usize::try_from(size - at).map_or(PIECE, |left| left.min(PIECE));
        content.read_exact(&mut piece[..wanted])?;
        hash.update(&piece[..wanted]);
        if piece[..wanted].iter().any(|byte| *byte != 0) {
            file.write_all_at(&piece[..wanted], at).map_err(failed)?;
        }
        at += wanted as u64;
    }
    (&file).flush().and_then(|()| file.sync_all()).map_err(failed)?;
    Ok(model::hex::encode(&hash.finalize()))
}
