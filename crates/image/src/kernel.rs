//! Imports a kernel: from a package, a directory, a file or the host into the directory of a kernel of the store.
//!
//! ```text
//! vmlinuz          the file that boot loaders start (bzImage, arm64 Image)
//! vmlinux          the bare ELF file, which Firecracker wants; unpacked from a bzImage
//! config           the configuration, where it was found
//! modules.cpio     the modules that a guest needs before it has disks, for the boot payload
//! modules.ext4     the whole module tree, for all VMs
//! manifest.json    what it is and what it can do; written last
//! ```
//!
//! A kernel that no guest could run on is refused here, with all that it lacks, and not at a boot that hangs.

mod boot_image;
mod compression;
mod deb;
mod error;
mod files;
mod index;
mod lz4;
mod manifest;
mod modinfo;
mod tree;
mod trie;
pub(crate) mod xz;
mod xz_blocks;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    ops::ControlFlow,
    path::{Path, PathBuf},
};

pub use boot_image::{BootImage, BootImageError, Form, embedded_config, extract_vmlinux};
pub use deb::DebError;
pub use error::KernelError;
use host::fs;
pub use manifest::{BootFiles, FileRecord, HowRecord, KernelManifest};
use model::kernel::{Config, Evidence};
pub use modinfo::ModuleError;
pub use tree::ModuleFileError;
use tree::{ModuleTree, Modules};

use crate::ext4;

/// The file that boot loaders start.
pub const VMLINUZ: &str = "vmlinuz";
/// The bare ELF file.
pub const VMLINUX: &str = "vmlinux";
/// The configuration.
pub const CONFIG: &str = "config";
/// The modules for the boot payload.
pub const MODULES_CPIO: &str = "modules.cpio";
/// The whole module tree.
pub const MODULES_EXT4: &str = "modules.ext4";

/// Where a kernel comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Debian packages that together hold one kernel: Debian's `linux-image-…`, or Ubuntu's `linux-image-…` and
    /// `linux-modules-…`.
    Deb(Vec<PathBuf>),
    /// A directory with `vmlinuz` or `boot/vmlinuz-…`, and `lib/modules/<release>`.
    Directory(PathBuf),
    /// A bare `bzImage` or `vmlinux` with everything built in.
    Image(PathBuf),
    /// The kernel that this machine runs.
    Host,
}

/// How far an import is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// The source is read: bytes read, and bytes in all.
    Reading {
        /// So many were read.
        done: u64,
        /// So many there are.
        total: u64,
    },
    /// The kernel's files are written.
    Packing,
}

/// A kernel as it was found, before anything is made of it.
struct Found {
    /// What it was found in, for people.
    source: String,
    /// The name of the bootable file, for messages.
    file: String,
    image: Vec<u8>,
    config: Option<Vec<u8>>,
    modules: ModuleTree,
    /// The releases that the modules are for.
    releases: BTreeSet<String>,
}

/// Imports the kernel of `source` into `staging`, an empty directory, and says what it is. `progress` hears how far it is,
/// and may stop it. The files are synced; making the directory's name durable is left to who publishes it.
///
/// # Errors
/// [`KernelError`]; what is in `staging` then is of no use.
pub fn import(
    source: &Source,
    staging: &Path,
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<KernelManifest, KernelError> {
    let modules = ModuleTree::new(&staging.join(MODULES_EXT4))?;
    let found = match source {
        Source::Deb(paths) => files::from_debs(paths, modules, progress)?,
        Source::Directory(path) => files::from_directory(path, modules, progress)?,
        Source::Image(path) => files::from_image(path, modules)?,
        Source::Host => files::from_host(Path::new("/"), modules, progress)?,
    };
    if progress(Progress::Packing).is_break() {
        return Err(KernelError::Cancelled);
    }
    publish(found, staging)
}

/// Checks what was found, and writes the kernel's files.
fn publish(found: Found, staging: &Path) -> Result<KernelManifest, KernelError> {
    let Found { source, file, image, config, modules, releases } = found;
    let refuse = |cause| KernelError::BootImage { file: file.clone(), cause };
    let boot = BootImage::identify(&image).map_err(refuse)?;
    if boot.arch != std::env::consts::ARCH {
        return Err(KernelError::OtherArch { kernel: boot.arch, host: std::env::consts::ARCH });
    }
    if !releases.is_empty() && (releases.len() > 1 || !releases.contains(&boot.release)) {
        return Err(KernelError::OtherModules {
            kernel: boot.release,
            modules: releases.into_iter().collect(),
        });
    }
    let elf = match boot.form {
        Form::BzImage => unpacked(&image).map_err(refuse)?,
        Form::Elf | Form::Arm64Image => None,
    };
    let config = config.or_else(|| embedded_config(elf.as_deref().unwrap_or(&image)));
    let mut modules = modules.index()?;
    let features = assess(config.as_deref(), &modules)?;

    let mut out = Output { staging, files: BTreeMap::new() };
    let mut names = BootFiles::default();
    match boot.form {
        Form::Elf => {
            out.write(VMLINUX, &image)?;
            names.elf = Some(VMLINUX.to_owned());
        }
        Form::BzImage | Form::Arm64Image => {
            out.write(VMLINUZ, &image)?;
            names.image = Some(VMLINUZ.to_owned());
        }
    }
    if let Some(elf) = elf {
        out.write(VMLINUX, &elf)?;
        names.elf = Some(VMLINUX.to_owned());
    }
    if let Some(config) = config {
        out.write(CONFIG, &config)?;
    }
    let boot_modules: Vec<String> =
        modules.graph.boot_plan().iter().map(|module| module.name.to_owned()).collect();
    if !boot_modules.is_empty() {
        out.write(MODULES_CPIO, &modules.pack_boot(&boot.release)?)?;
    }
    let module_count = modules.files.len();
    let modules_uuid = if module_count > 0 { Some(out.take_over(modules.finish()?)?) } else { None };
    let manifest = KernelManifest {
        version: manifest::VERSION,
        release: boot.release,
        arch: boot.arch.to_owned(),
        source,
        boot: names,
        features,
        boot_modules,
        module_count,
        modules_uuid,
        registered: None,
        files: out.files,
    };
    manifest.write(staging)?;
    Ok(manifest)
}

/// The ELF file in a `bzImage`. A packing that is not supported costs Firecracker only: QEMU boots the `bzImage`.
fn unpacked(image: &[u8]) -> Result<Option<Vec<u8>>, BootImageError> {
    match extract_vmlinux(image) {
        Ok(elf) => Ok(Some(elf)),
        Err(BootImageError::Unpack(cause)) if cause.kind() == io::ErrorKind::Unsupported => Ok(None),
        Err(other) => Err(other),
    }
}

fn assess(config: Option<&[u8]>, modules: &Modules) -> Result<BTreeMap<String, HowRecord>, KernelError> {
    let config = config.map(|bytes| Config::parse(&String::from_utf8_lossy(bytes))).filter(|c| !c.is_empty());
    let evidence = Evidence { config: config.as_ref(), builtin: &modules.builtin, modules: &modules.graph };
    if evidence.is_empty() {
        return Err(KernelError::Unknown);
    }
    let features = evidence.assess().map_err(KernelError::Missing)?;
    Ok(features.into_iter().map(|(feature, how)| (feature.name().to_owned(), how.into())).collect())
}

/// The files being written, with what the manifest says of each.
struct Output<'a> {
    staging: &'a Path,
    files: BTreeMap<String, FileRecord>,
}

impl Output<'_> {
    fn write(&mut self, name: &'static str, content: &[u8]) -> Result<(), KernelError> {
        use io::Write;
        let write = |cause| KernelError::Write { file: name, cause };
        let mut file = fs::create_new(&self.staging.join(name))?;
        // Synced, so that a published kernel is whole after a crash.
        file.write_all(content).and_then(|()| file.sync_all()).map_err(write)?;
        self.files.insert(name.to_owned(), record(&mut &*content).map_err(write)?);
        Ok(())
    }

    /// Records the module tree, which lies in its place, and says which file system it is.
    fn take_over(&mut self, mut tree: ext4::Written) -> Result<String, KernelError> {
        use io::Seek;
        let write = |cause| KernelError::Write { file: MODULES_EXT4, cause };
        tree.file.sync_all().and_then(|()| tree.file.rewind()).map_err(write)?;
        self.files.insert(MODULES_EXT4.to_owned(), record(&mut tree.file).map_err(write)?);
        let digits = model::hex::encode(&tree.uuid);
        Ok([&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]].join("-"))
    }
}

fn record(content: &mut dyn io::Read) -> io::Result<FileRecord> {
    use sha2::Digest;
    let mut digest = sha2::Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    let mut size = 0;
    loop {
        let count = content.read(&mut buffer)?;
        if count == 0 {
            break;
        }
        digest.update(&buffer[..count]);
        size += count as u64;
    }
    let sha256 = model::hex::encode(&digest.finalize());
    Ok(FileRecord { size, sha256 })
}
