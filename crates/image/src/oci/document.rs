//! The JSON documents of an image: index, manifest and config, in OCI's and Docker's words.
//!
//! A document says what it is by `mediaType`, else its descriptor does, else what it has. One that could be read as two kinds
//! is refused: what one program checks must be what another unpacks. Unknown fields are ignored, as the specification asks.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::digest::Digest;
use crate::{
    json::{self, JsonError, shown},
    manifest::RunConfig,
};

/// The most bytes of any document.
pub const LONGEST: u64 = 4 << 20;
/// How many indexes may lead to one another.
pub const DEEPEST: usize = 4;
/// The most layers of an image; Docker allows 127.
const MOST_LAYERS: usize = 512;

/// The media types of documents that this understands, for a registry to choose from.
pub const ACCEPTED: [&str; 4] = [INDEX, MANIFEST, DOCKER_LIST, DOCKER_MANIFEST];
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_SCHEMA_ONE: &str = "application/vnd.docker.distribution.manifest.v1+";
/// What precedes the compression in the type of a layer.
const LAYERS: [&str; 4] = [
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.foreign.diff.tar",
];
/// The annotation with the tag of an image in a layout.
const TAG: &str = "org.opencontainers.image.ref.name";

/// Why a document is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// It is no such JSON.
    #[error("it is not as the specification has it")]
    Json(#[from] JsonError),
    /// It is a manifest of Docker's first kind.
    #[error(
        "it is a Docker manifest of schema 1, which no longer can be trusted; push the image again with a newer tool"
    )]
    SchemaOne,
    /// It could be an index and a manifest.
    #[error("it has both manifests and layers")]
    Both,
    /// It is of a type that is neither index nor manifest.
    #[error("its type {0:?} is not that of an image")]
    Type(String),
    /// It has no layers.
    #[error("the image has no layers")]
    NoLayers,
    /// It has too many layers.
    #[error("the image has {0} layers, more than {MOST_LAYERS}")]
    TooManyLayers(usize),
    /// A layer is of a type that nobody can unpack.
    #[error("layer {number} is of type {found:?}, which is no layer of a root file system")]
    LayerType {
        /// Which, from 1 on.
        number: usize,
        /// Its type.
        found: String,
    },
    /// A layer is compressed in an unknown way.
    #[error("layer {number} is compressed with {found:?}; supported are gzip and zstd")]
    Compression {
        /// Which, from 1 on.
        number: usize,
        /// What its type says.
        found: String,
    },
    /// An index leads to indexes and these to further ones.
    #[error("it is an index within {0} others")]
    TooDeep(usize),
    /// An index has nothing for this host.
    #[error("it has nothing for linux/{wanted}, only for: {}", found.join(", "))]
    NoPlatform {
        /// This host's architecture.
        wanted: String,
        /// Those that are there.
        found: Vec<String>,
    },
    /// The image is for other processors or another system.
    #[error("the image is for {found}, and this host needs linux/{wanted}")]
    Platform {
        /// This host's architecture.
        wanted: String,
        /// That of the image.
        found: String,
    },
    /// The config does not belong to the manifest.
    #[error("the config describes {described} layers, the manifest {listed}")]
    LayerCount {
        /// By the config.
        described: usize,
        /// By the manifest.
        listed: usize,
    },
    /// There is no image in it.
    #[error("there is no image in it")]
    NoImage,
    /// There is more than one image, and none was chosen.
    #[error("there are {count} images in it, one of which must be chosen by its tag: {}", tags.join(", "))]
    Several {
        /// How many.
        count: usize,
        /// The tags.
        tags: Vec<String>,
    },
    /// There is no image of that tag.
    #[error("there is no image {wanted:?} in it, only: {}", tags.join(", "))]
    NoTag {
        /// The tag that was asked for.
        wanted: String,
        /// Those that are there.
        tags: Vec<String>,
    },
    /// A layout of another version.
    #[error("its layout has version {0:?}; 1.0.0 is supported")]
    LayoutVersion(String),
    /// A config of `docker save` is not named by its digest.
    #[error("the config's name {0:?} is not its digest")]
    ConfigName(String),
}

/// What is wanted of an image that there may be several of.
#[derive(Debug, Clone)]
pub struct Choice {
    /// The architecture, in Go's words, as `amd64`.
    pub arch: String,
    /// The tag, where a layout or archive has several.
    pub tag: Option<String>,
}

impl Choice {
    /// What this host needs, of the only image there is.
    #[must_use]
    pub fn host() -> Self {
        let arch = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        Self { arch: arch.to_owned(), tag: None }
    }
}

/// Where a blob is, and what.
#[derive(Debug, Clone, Deserialize)]
pub struct Descriptor {
    /// What it is.
    #[serde(rename = "mediaType", default)]
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// Its bytes.
    pub size: u64,
    #[serde(default)]
    platform: Option<Platform>,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Clone, Deserialize)]
struct Platform {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
}

/// A manifest: what one image for one platform is made of.
#[derive(Debug, Clone)]
pub struct Manifest {
    /// Its config.
    pub config: Descriptor,
    /// Its layers, the lowest first.
    pub layers: Vec<Descriptor>,
}

/// An index or a manifest.
#[derive(Debug, Clone)]
pub enum Document {
    /// Images for several platforms, or several images.
    Index(Index),
    /// One image.
    Manifest(Manifest),
}

/// A list of images.
#[derive(Debug, Clone)]
pub struct Index(Vec<Descriptor>);

impl Descriptor {
    /// A blob of that digest and size, of no particular type.
    #[must_use]
    pub fn plain(digest: Digest, size: u64) -> Self {
        Self { media_type: String::new(), digest, size, platform: None, annotations: None }
    }

    fn tag(&self) -> Option<&str> {
        self.annotations.as_ref()?.get(TAG).map(String::as_str)
    }

    fn shown_platform(&self) -> String {
        self.platform.as_ref().map_or("unknown".to_owned(), |p| format!("{}/{}", p.os, p.architecture))
    }
}

impl Document {
    /// The document in `bytes`, which a descriptor or a header says is of type `described`.
    ///
    /// # Errors
    /// Where it is neither index nor manifest, or not one that can become a root file system.
    pub fn parse(bytes: &[u8], described: &str) -> Result<Self, DocumentError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Any {
            #[serde(default)]
            schema_version: u64,
            #[serde(default)]
            media_type: Option<String>,
            manifests: Option<Vec<Descriptor>>,
            layers: Option<Vec<Descriptor>>,
            config: Option<Descriptor>,
            fs_layers: Option<serde::de::IgnoredAny>,
        }
        let any: Any = json::parse(bytes)?;
        let kind = any.media_type.as_deref().unwrap_or(described);
        if any.schema_version == 1 || any.fs_layers.is_some() || kind.starts_with(DOCKER_SCHEMA_ONE) {
            return Err(DocumentError::SchemaOne);
        }
        let missing = || DocumentError::Type(shown(kind));
        match (kind, any.manifests, any.layers, any.config) {
            (_, Some(_), Some(_), _) | (_, Some(_), _, Some(_)) => Err(DocumentError::Both),
            (MANIFEST | DOCKER_MANIFEST, Some(_), None, None) | (INDEX | DOCKER_LIST, None, _, _) => {
                Err(missing())
            }
            (INDEX | DOCKER_LIST, Some(manifests), None, None) => Ok(Self::Index(Index(manifests))),
            // A type that says nothing, as a registry's `application/json`.
            ("" | "application/json" | "text/plain", Some(manifests), None, None) => {
                Ok(Self::Index(Index(manifests)))
            }
            (
                MANIFEST | DOCKER_MANIFEST | "" | "application/json" | "text/plain",
                None,
                layers,
                Some(config),
            ) => {
                let manifest = Manifest { config, layers: layers.unwrap_or_default() };
                manifest.check()?;
                Ok(Self::Manifest(manifest))
            }
            _ => Err(missing()),
        }
    }
}

impl Manifest {
    fn check(&self) -> Result<(), DocumentError> {
        check_count(self.layers.len())?;
        for (number, layer) in (1..).zip(&self.layers) {
            let kind = &*layer.media_type;
            let Some(rest) = LAYERS.iter().find_map(|prefix| kind.strip_prefix(prefix)) else {
                return Err(DocumentError::LayerType { number, found: shown(kind) });
            };
            match rest {
                "" | "+gzip" | ".gzip" | "+zstd" | ".zstd" => {}
                other => {
                    let found = shown(other.trim_start_matches(['+', '.']));
                    return Err(DocumentError::Compression { number, found });
                }
            }
        }
        Ok(())
    }
}

/// Whether an image can have `count` layers.
pub(super) fn check_count(count: usize) -> Result<(), DocumentError> {
    match count {
        0 => Err(DocumentError::NoLayers),
        1..=MOST_LAYERS => Ok(()),
        _ => Err(DocumentError::TooManyLayers(count)),
    }
}

impl Index {
    /// The index at the top of a layout.
    ///
    /// # Errors
    /// Where it is none.
    pub fn of_layout(bytes: &[u8]) -> Result<Self, DocumentError> {
        match Document::parse(bytes, INDEX)? {
            Document::Index(index) => Ok(index),
            Document::Manifest(_) => Err(DocumentError::Type(MANIFEST.to_owned())),
        }
    }

    /// The entry for `choice`'s architecture: the first that fits, or the only one where it does not say for which it is.
    ///
    /// # Errors
    /// Where there is none.
    pub fn for_platform(&self, choice: &Choice) -> Result<&Descriptor, DocumentError> {
        let fits = |entry: &&Descriptor| {
            entry.platform.as_ref().is_some_and(|p| p.os == "linux" && p.architecture == choice.arch)
        };
        match &self.0[..] {
            [] => Err(DocumentError::NoImage),
            [only] if only.platform.is_none() => Ok(only),
            entries => entries.iter().find(fits).ok_or_else(|| DocumentError::NoPlatform {
                wanted: choice.arch.clone(),
                found: some(entries.iter().map(Descriptor::shown_platform)),
            }),
        }
    }

    /// The entry of a layout that `choice` wants.
    ///
    /// # Errors
    /// Where there is none, or none was chosen of several.
    pub fn tagged(&self, choice: &Choice) -> Result<&Descriptor, DocumentError> {
        let entries = &self.0;
        let tags = || some(entries.iter().filter_map(Descriptor::tag).map(str::to_owned));
        match &choice.tag {
            Some(wanted) => {
                let fits = |entry: &&Descriptor| entry.tag().is_some_and(|tag| is_tag(tag, wanted));
                let missing = || DocumentError::NoTag { wanted: wanted.clone(), tags: tags() };
                entries.iter().find(fits).ok_or_else(missing)
            }
            None if entries.is_empty() => Err(DocumentError::NoImage),
            None if entries.len() == 1 => Ok(&entries[0]),
            // One image for several platforms.
            None if entries.iter().all(|entry| entry.platform.is_some() && entry.tag().is_none()) => {
                self.for_platform(choice)
            }
            None => Err(DocumentError::Several { count: entries.len(), tags: tags() }),
        }
    }
}

/// Whether `tag`, which may be a whole reference, is what `wanted` names.
pub(super) fn is_tag(tag: &str, wanted: &str) -> bool {
    tag.strip_suffix(wanted).is_some_and(|rest| rest.is_empty() || rest.ends_with([':', '/']))
}

/// A few of `texts`, which come from outside, to be shown.
pub(super) fn some(texts: impl Iterator<Item = String>) -> Vec<String> {
    const SHOWN: usize = 20;
    texts.take(SHOWN).map(|text| shown(&text)).collect()
}

/// A config: what an image says of itself.
#[derive(Debug, Clone)]
pub struct Config {
    /// How it is run.
    pub run: RunConfig,
    /// The digests of its layers, unpacked.
    pub layers: Vec<Digest>,
}

impl Config {
    /// The config in `bytes`, which must be of an image that `choice` can have.
    ///
    /// # Errors
    /// Where it is no config, or for another platform.
    pub fn parse(bytes: &[u8], choice: &Choice) -> Result<Self, DocumentError> {
        #[derive(Deserialize)]
        struct Raw {
            #[serde(default)]
            os: String,
            #[serde(default)]
            architecture: String,
            #[serde(default)]
            config: Option<Run>,
            rootfs: Rootfs,
        }
        #[derive(Deserialize)]
        struct Rootfs {
            #[serde(default)]
            diff_ids: Option<Vec<Digest>>,
        }
        #[derive(Default, Deserialize)]
        #[serde(rename_all = "PascalCase", default)]
        struct Run {
            entrypoint: Option<Vec<String>>,
            cmd: Option<Vec<String>>,
            env: Option<Vec<String>>,
            user: Option<String>,
            working_dir: Option<String>,
        }
        let raw: Raw = json::parse(bytes)?;
        if raw.os != "linux" || raw.architecture != choice.arch {
            return Err(DocumentError::Platform {
                wanted: choice.arch.clone(),
                found: shown(&format!("{}/{}", raw.os, raw.architecture)),
            });
        }
        let run = raw.config.unwrap_or_default();
        let given = |text: Option<String>| text.filter(|text| !text.is_empty());
        let run = RunConfig {
            entrypoint: run.entrypoint.unwrap_or_default(),
            cmd: run.cmd.unwrap_or_default(),
            env: run.env.unwrap_or_default(),
            user: given(run.user),
            workdir: given(run.working_dir),
        };
        Ok(Self { run, layers: raw.rootfs.diff_ids.unwrap_or_default() })
    }
}

/// An image in `manifest.json` of a `docker save` archive: names in the archive.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Saved {
    pub config: String,
    #[serde(default)]
    pub repo_tags: Option<Vec<String>>,
    pub layers: Vec<String>,
}
