//! `manifest.json` of a kernel: what was imported, from where, and what it can do.

use std::{collections::BTreeMap, path::Path};

use host::fs;
use model::kernel::{Feature, How};
use serde::{Deserialize, Serialize};

use super::KernelError;
use crate::{json, manifest::Registered};

/// The version of [`KernelManifest`] that is written; another one is refused.
pub const VERSION: u32 = 1;

/// A kernel of the store. Its files lie beside it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelManifest {
    /// [`VERSION`].
    pub version: u32,
    /// Its release: `uname -r`, and the name of its module tree.
    pub release: String,
    /// The processors that it runs on, as `uname -m` calls them.
    pub arch: String,
    /// What it was imported from, for people.
    pub source: String,
    /// The bootable files by their form.
    pub boot: BootFiles,
    /// How it has each feature, by [`Feature::name`].
    pub features: BTreeMap<String, HowRecord>,
    /// The modules that `/init` loads, in order.
    pub boot_modules: Vec<String>,
    /// How many modules its tree has.
    pub module_count: usize,
    /// The UUID of the file system in `modules.ext4`, where there are modules.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub modules_uuid: Option<String>,
    /// Where its bootable file stays where it is, what that was like; beside this file a link leads to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registered: Option<Registered>,
    /// Every file beside this one: its size and digest.
    pub files: BTreeMap<String, FileRecord>,
}

/// The bootable files of a kernel, by name. At least one is there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootFiles {
    /// The one that boot loaders start: a `bzImage`, or an arm64 `Image`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// The bare ELF file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub elf: Option<String>,
}

/// A file of a kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRecord {
    /// Its length in bytes.
    pub size: u64,
    /// Its SHA-256, in hexadecimal digits.
    pub sha256: String,
}

/// [`How`] as it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HowRecord {
    /// [`How::Builtin`].
    Builtin,
    /// [`How::Module`].
    Module,
    /// [`How::Missing`].
    Missing,
}

impl From<How> for HowRecord {
    fn from(how: How) -> Self {
        match how {
            How::Builtin => Self::Builtin,
            How::Module => Self::Module,
            How::Missing => Self::Missing,
        }
    }
}

impl KernelManifest {
    /// The name of the manifest in a kernel's directory.
    pub const FILE: &str = "manifest.json";

    /// Reads the manifest of the kernel in `dir`.
    ///
    /// # Errors
    /// Where it cannot be read, is no manifest, or is of another version.
    pub fn read(dir: &Path) -> Result<Self, KernelError> {
        const MAX: u64 = 1 << 20;
        let path = dir.join(Self::FILE);
        let bytes = fs::read_limited(&path, MAX)?;
        let broken = |cause| KernelError::Manifest { path: path.clone(), cause };
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let Versioned { version } = json::parse(&bytes).map_err(broken)?;
        if version != VERSION {
            return Err(KernelError::ManifestVersion { path, version });
        }
        json::parse(&bytes).map_err(broken)
    }

    /// Writes it into `dir`, the kernel's directory.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn write(&self, dir: &Path) -> host::Result<()> {
        let text = serde_json::to_vec_pretty(self).expect("a manifest has only names and numbers");
        fs::write_atomic(&dir.join(Self::FILE), &text)
    }

    /// The file that is booted, by name.
    #[must_use]
    pub fn bootable(&self) -> Option<&str> {
        self.boot.image.as_deref().or(self.boot.elf.as_deref())
    }

    /// Whether it has `feature`, built in or as a module.
    #[must_use]
    pub fn has(&self, feature: Feature) -> bool {
        self.features.get(feature.name()).is_some_and(|how| *how != HowRecord::Missing)
    }

    /// The file in `dir`, the kernel's directory, that is called `name`, where the kernel has it.
    #[must_use]
    pub fn file(&self, dir: &Path, name: &str) -> Option<std::path::PathBuf> {
        self.files.contains_key(name).then(|| dir.join(name))
    }
}
