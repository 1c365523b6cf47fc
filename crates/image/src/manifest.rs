//! `manifest.json` of an image: what it was made of, and how its maker wants it to be run.

use std::path::{Path, PathBuf};

use host::fs;
use serde::{Deserialize, Serialize};

use crate::{
    json::{self, JsonError},
    oci::Digest,
};

/// The version of [`ImageManifest`] that is written; another one is refused.
pub const VERSION: u32 = 1;

/// An image of the store. Its root file system lies beside it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageManifest {
    /// [`VERSION`].
    pub version: u32,
    /// Its name when it was made.
    pub name: String,
    /// Where it came from, for people.
    pub source: String,
    /// The digest of the manifest that it was made of, where it had one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Digest>,
    /// The digest that its reference had in the registry when it was pulled: that of an index, or `origin` too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolved: Option<Digest>,
    /// What its file was like when it was registered, where that may stay outside of the store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registered: Option<Registered>,
    /// The processors that it is for, as `uname -m` calls them.
    pub arch: String,
    /// The SHA-256 of its file system, in hexadecimal digits.
    pub sha256: String,
    /// Bytes of its file system.
    pub size: u64,
    /// When it was made: milliseconds since the Unix epoch.
    pub created_ms: u64,
    /// The name of the kernel it boots, where it is not the default one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<String>,
    /// What makes a VM of it ready: `agent` or `init`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready: Option<String>,
    /// What becomes PID 1, as the store says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init: Option<String>,
    /// How it is run.
    #[serde(flatten)]
    pub run: RunConfig,
}

/// What tells, at a glance, whether somebody changed a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registered {
    /// Its bytes.
    pub size: u64,
    /// When it was changed last: nanoseconds since the Unix epoch.
    pub modified_ns: i64,
}

/// How an image's maker wants it to be run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RunConfig {
    /// What is always run.
    pub entrypoint: Vec<String>,
    /// Its arguments, or what is run where there is no entrypoint.
    pub cmd: Vec<String>,
    /// Variables, as `NAME=value`.
    pub env: Vec<String>,
    /// User name or number, also `user:group`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The working directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workdir: Option<String>,
}

/// Why a manifest cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Its file cannot be read.
    #[error(transparent)]
    Host(#[from] host::Error),
    /// It is no manifest.
    #[error("{} is no manifest of an image", path.display())]
    Broken {
        /// Its file.
        path: PathBuf,
        /// Why.
        #[source]
        cause: JsonError,
    },
    /// It is of another version of banger.
    #[error("{} has version {version}, which this banger does not know", path.display())]
    Version {
        /// Its file.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
}

impl ImageManifest {
    /// The name of the manifest in an image's directory.
    pub const FILE: &str = "manifest.json";

    /// Reads the manifest of the image in `dir`; `None` where it has none.
    ///
    /// # Errors
    /// Where it cannot be read, is no manifest, or is of another version.
    pub fn read(dir: &Path) -> Result<Option<Self>, ManifestError> {
        // A config has up to 4 MiB, and JSON escapes some of it.
        const MAX: u64 = 32 << 20;
        let path = dir.join(Self::FILE);
        let bytes = match fs::read_limited(&path, MAX) {
            // Whoever deletes its image may just have.
            Err(error) if error.is_missing() => return Ok(None),
            read => read?,
        };
        let broken = |cause| ManifestError::Broken { path: path.clone(), cause };
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let Versioned { version } = json::parse(&bytes).map_err(broken)?;
        if version != VERSION {
            return Err(ManifestError::Version { path, version });
        }
        json::parse(&bytes).map(Some).map_err(broken)
    }

    /// Writes it into `dir`, the image's directory.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn write(&self, dir: &Path) -> Result<(), ManifestError> {
        let mut bytes = serde_json::to_vec_pretty(self).expect("it is made of texts and numbers");
        bytes.push(b'\n');
        Ok(fs::write_atomic(&dir.join(Self::FILE), &bytes)?)
    }
}

impl RunConfig {
    /// The command that is run where nothing else is asked for; empty where the image has none.
    #[must_use]
    pub fn command(&self) -> Vec<String> {
        [&self.entrypoint[..], &self.cmd[..]].concat()
    }
}
