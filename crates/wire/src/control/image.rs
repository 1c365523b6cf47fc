//! Images: what is asked of them, and how they are shown.

use serde::{Deserialize, Serialize};

use super::Wait;

/// An image as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Image {
    /// Its name.
    pub name: String,
    /// Where it came from.
    pub source: String,
    /// The sha256 of its file system, in hexadecimal.
    pub digest: String,
    /// Bytes of its file system.
    pub size: u64,
    /// How its maker wants it to be run.
    #[serde(default)]
    pub run: ImageRun,
    /// The kernel it boots; without one the default kernel.
    #[serde(default)]
    pub kernel: Option<String>,
    /// What makes a VM of it ready.
    pub ready: Wait,
    /// What becomes PID 1, as far as the image tells.
    pub init: String,
    /// When it was made: milliseconds since the Unix epoch.
    pub created_ms: u64,
    /// The root file system on disk.
    pub rootfs: String,
    /// Whether a newer one has taken its name, as where a tag moved; `image prune` removes such ones that no VM uses.
    #[serde(default)]
    pub superseded: bool,
    /// The names of the VMs that use it.
    #[serde(default)]
    pub used_by: Vec<String>,
}

/// How an image's maker wants it to be run.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ImageRun {
    /// What is always run.
    #[serde(default)]
    pub entrypoint: Vec<String>,
    /// Its arguments, or what is run where there is no entrypoint.
    #[serde(default)]
    pub cmd: Vec<String>,
    /// Variables, as `NAME=value`.
    #[serde(default)]
    pub env: Vec<String>,
    /// User name or number, also `user:group`.
    #[serde(default)]
    pub user: Option<String>,
    /// The working directory.
    #[serde(default)]
    pub workdir: Option<String>,
}

impl ImageRun {
    /// The command that is run where nothing else is asked for; empty where the image has none.
    #[must_use]
    pub fn command(&self) -> Vec<String> {
        [&self.entrypoint[..], &self.cmd[..]].concat()
    }
}

/// `GET /v1/images`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Images {
    /// By name.
    pub images: Vec<Image>,
}

/// The query of `POST /v1/images/{name}/import`, whose body is a root tar, an OCI archive or what `docker save` writes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ImportImage {
    /// The kernel to boot it with.
    #[serde(default)]
    pub kernel: Option<String>,
    /// Where the tar came from, to be shown.
    #[serde(default)]
    pub source: Option<String>,
    /// The program to run as init instead of what is found.
    #[serde(default)]
    pub init: Option<String>,
    /// The tag of the image, where there are several.
    #[serde(default)]
    pub tag: Option<String>,
    /// The absolute path of a directory to import instead of the body: an OCI layout, or without a tag a root file system.
    #[serde(default)]
    pub directory: Option<String>,
}

/// `POST /v1/images/{name}/register`: records a file system that stays where it is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct RegisterImage {
    /// The absolute path of a file with an ext4 file system.
    pub rootfs: String,
    /// The kernel to boot it with.
    #[serde(default)]
    pub kernel: Option<String>,
    /// The program to run as init instead of what is found.
    #[serde(default)]
    pub init: Option<String>,
}

/// `POST /v1/image-pulls`: gets an image of the catalog, or of a registry.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct PullImage {
    /// The name of an image of the catalog, else `[host[:port]/]path[:tag][@digest]`.
    pub reference: String,
    /// The image's name; without it that of the catalog, or the last part of the path and the tag.
    #[serde(default)]
    pub name: Option<String>,
    /// The kernel to boot it with.
    #[serde(default)]
    pub kernel: Option<String>,
    /// Speak plain HTTP with the registry, which otherwise only one on this host gets.
    #[serde(default)]
    pub insecure: bool,
}

/// What is in a cache: `GET /v1/image-cache`, and what `POST /v1/image-cache/prune` removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CacheContent {
    /// Blobs of images.
    pub blobs: u64,
    /// The bytes that these take on disk.
    pub bytes: u64,
}

/// `POST /v1/image-builds`: builds a named recipe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct BuildImage {
    /// `debian-bookworm`.
    pub recipe: String,
    /// The image's name; without it the recipe's.
    #[serde(default)]
    pub name: Option<String>,
    /// `minimal` leaves out docker and what it needs.
    #[serde(default)]
    pub variant: Option<String>,
    /// Further packages.
    #[serde(default)]
    pub include: Vec<String>,
}
