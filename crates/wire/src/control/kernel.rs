//! Kernels: what is asked of them, and how they are shown.

use serde::{Deserialize, Serialize};

/// A kernel as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Kernel {
    /// Its name.
    pub name: String,
    /// Its release (uname(2)).
    pub release: String,
    /// Where it came from.
    pub source: String,
    /// Bytes on disk.
    pub size: u64,
    /// When it was imported: milliseconds since the Unix epoch.
    pub created_ms: u64,
    /// The names of the VMs and images that use it.
    #[serde(default)]
    pub used_by: Vec<String>,
}

/// `GET /v1/kernels`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Kernels {
    /// By name.
    pub kernels: Vec<Kernel>,
}

/// `POST /v1/kernels/{name}/import`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum ImportKernel {
    /// A `.deb`, a directory, a `vmlinux` or `bzImage` at this absolute path.
    Path(String),
    /// A `vmlinux` or `bzImage` at this absolute path, which stays there and must not change from then on.
    InPlace(String),
    /// The running host's kernel.
    Host,
    /// The distribution's package, fetched with the host's own tools.
    Distribution,
}

/// `POST /v1/kernels/{name}/pull`: gets a kernel of the catalog.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct PullKernel {
    /// Put it in the place of one of that name.
    #[serde(default)]
    pub force: bool,
}
