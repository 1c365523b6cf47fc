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
mod files;
mod index;
mod lz4;
mod manifest;
mod modinfo;
mod tree;
mod trie;
pub(crate) mod xz;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    ops::ControlFlow,
    path::{Path, PathBuf},
};

pub use boot_image::{BootImage, BootImageError, Form, embedded_config, extract_vmlinux};
pub use deb::DebError;
use host::fs;
pub use manifest::{BootFiles, FileRecord, HowRecord, KernelManifest};
use model::kernel::{Config, Evidence, Missing};
pub use modinfo::ModuleError;
pub use tree::ModuleFileError;
use tree::{ModuleTree, Modules};

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

/// Why a kernel could not be imported.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The caller stopped it.
    #[error("the import was cancelled")]
    Cancelled,
    /// A file could not be read or made.
    #[error(transparent)]
    File(#[from] host::Error),
    /// A file of the kernel could not be written.
    #[error("cannot write {file}")]
    Write {
        /// Its name.
        file: &'static str,
        /// Why.
        #[source]
        cause: io::Error,
    },
    /// The package cannot be read.
    #[error("cannot import the package {}", path.display())]
    Deb {
        /// The package.
        path: PathBuf,
        /// Why.
        #[source]
        cause: DebError,
    },
    /// A file that should be a kernel is none.
    #[error("{file} is not a kernel that banger can boot")]
    BootImage {
        /// The file.
        file: String,
        /// Why.
        #[source]
        cause: BootImageError,
    },
    /// A file that should be a module is none.
    #[error("cannot use the module {module}")]
    Module {
        /// Its path.
        module: String,
        /// Why.
        #[source]
        cause: ModuleFileError,
    },
    /// An entry of the source is not one that a kernel has.
    #[error("refused {entry:?}: {why}")]
    Entry {
        /// Its path.
        entry: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The source holds no kernel.
    #[error("{place} holds no kernel: neither vmlinuz nor boot/vmlinuz-*")]
    NoKernel {
        /// The source.
        place: String,
    },
    /// The source holds more than one kernel.
    #[error("{place} holds several kernels: {}", found.join(", "))]
    SeveralKernels {
        /// The source.
        place: String,
        /// Their files.
        found: Vec<String>,
    },
    /// The modules belong to another kernel.
    #[error("the kernel is {kernel}, but its modules are for {}", modules.join(", "))]
    OtherModules {
        /// The kernel's release.
        kernel: String,
        /// The releases that there are modules for.
        modules: Vec<String>,
    },
    /// The host's kernel is there, but only root may read it.
    #[error("only root can read the host's kernel {}", path.display())]
    Unreadable {
        /// Its file.
        path: PathBuf,
    },
    /// Nothing tells what the kernel can do.
    #[error("nothing tells what this kernel can do: it carries no configuration and came without modules")]
    Unknown,
    /// A guest could not run on it.
    #[error(transparent)]
    Missing(Missing),
    /// It is for other processors than this machine's.
    #[error("the kernel is for {kernel}, but this machine is {host}")]
    OtherArch {
        /// The kernel's processors.
        kernel: &'static str,
        /// This machine's.
        host: &'static str,
    },
    /// The manifest of a kernel cannot be understood.
    #[error("{} is no manifest of a kernel", path.display())]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// Why.
        #[source]
        cause: serde_json::Error,
    },
    /// The manifest of a kernel was written by another banger.
    #[error("{} has version {version}, which this banger does not know", path.display())]
    ManifestVersion {
        /// The manifest.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
}

impl KernelError {
    /// What to try, where there is something.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Unreadable { path } => Some(format!(
                "`sudo chmod a+r {}`, or `apt-get download` the packages linux-image-… and linux-modules-… of this release \
                 and import them",
                path.display()
            )),
            Self::Unknown => {
                Some("import the kernel's package, or a directory with vmlinuz, config and lib/modules".to_owned())
            }
            Self::Missing(_) => Some(
                "Ubuntu keeps the modules in a second package, linux-modules-…: give both; a kernel of your own needs \
                 these options as y, or as m with its lib/modules"
                    .to_owned(),
            ),
            Self::SeveralKernels { .. } => {
                Some("give the file, or a directory with one kernel and its modules".to_owned())
            }
            Self::Cancelled
            | Self::File(_)
            | Self::Write { .. }
            | Self::Deb { .. }
            | Self::BootImage { .. }
            | Self::Module { .. }
            | Self::Entry { .. }
            | Self::NoKernel { .. }
            | Self::OtherModules { .. }
            | Self::OtherArch { .. }
            | Self::Manifest { .. }
            | Self::ManifestVersion { .. } => None,
        }
    }
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
/// and may stop it.
///
/// # Errors
/// [`KernelError`]; what is in `staging` then is of no use.
pub fn import(
    source: &Source,
    staging: &Path,
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<KernelManifest, KernelError> {
    let tree_dir = staging.join(".tree");
    let modules = ModuleTree::new(tree_dir.clone())?;
    let found = match source {
        Source::Deb(paths) => files::from_debs(paths, modules, progress)?,
        Source::Directory(path) => files::from_directory(path, modules, progress)?,
        Source::Image(path) => files::from_image(path, modules)?,
        Source::Host => files::from_host(Path::new("/"), modules, progress)?,
    };
    if progress(Progress::Packing).is_break() {
        return Err(KernelError::Cancelled);
    }
    let manifest = publish(found, staging)?;
    fs::remove_all(&tree_dir)?;
    Ok(manifest)
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
    let modules = modules.finish()?;
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
    let boot_modules: Vec<String> = modules.boot().into_iter().map(str::to_owned).collect();
    if !boot_modules.is_empty() {
        let mut packed = Vec::new();
        modules.pack_boot(&boot.release, &mut packed)?;
        out.write(MODULES_CPIO, &packed)?;
    }
    let manifest = KernelManifest {
        version: manifest::VERSION,
        release: boot.release,
        arch: boot.arch.to_owned(),
        source,
        boot: names,
        features,
        boot_modules,
        module_count: modules.files.len(),
        files: out.files,
    };
    let json = serde_json::to_vec_pretty(&manifest).expect("a manifest has only names and numbers");
    fs::write_atomic(&staging.join(KernelManifest::FILE), &json)?;
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
        let mut file = fs::create_new(&self.staging.join(name))?;
        file.write_all(content).map_err(|cause| KernelError::Write { file: name, cause })?;
        self.files.insert(name.to_owned(), record(content));
        Ok(())
    }
}

fn record(content: &[u8]) -> FileRecord {
    use sha2::Digest;
    let digest = sha2::Sha256::digest(content);
    let sha256 = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    FileRecord { size: content.len() as u64, sha256 }
}
