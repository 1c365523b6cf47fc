//! Why a kernel could not be imported, and what to try then.

use std::{io, path::PathBuf};

use model::kernel::Missing;

use super::{BootImageError, DebError, MODULES_EXT4, ModuleFileError};
use crate::{ext4, json::JsonError};

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
    /// The module tree cannot be made a file system.
    #[error("cannot write {MODULES_EXT4}")]
    Tree(#[source] ext4::Error),
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
        cause: JsonError,
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
            | Self::Tree(_)
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
