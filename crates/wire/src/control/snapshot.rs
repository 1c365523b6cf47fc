//! Snapshots: what is asked of them, and how they are shown.

use serde::{Deserialize, Serialize};

/// A snapshot as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Snapshot {
    /// Its name.
    pub name: String,
    /// What the VM was called that it was taken of.
    pub vm: String,
    /// The name of its image.
    pub image: String,
    /// The name of its kernel.
    pub kernel: String,
    /// The VMM that goes on from it.
    pub vmm: String,
    /// The build of that VMM: its version, and how guests run.
    pub build: String,
    /// Virtual CPUs.
    pub vcpu: u32,
    /// Memory in bytes.
    pub memory: u64,
    /// The work disk in bytes.
    pub disk: u64,
    /// The system overlay in bytes.
    pub overlay: u64,
    /// How its network card is connected; without one it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// Whether the VM reached the world.
    pub nat: bool,
    /// Whether banger had put what may be secret into the VM: files of `file_sync`, or variables.
    pub has_secrets: bool,
    /// Bytes on disk.
    pub size: u64,
    /// When it was taken: milliseconds since the Unix epoch.
    pub created_ms: u64,
}

/// `GET /v1/snapshots`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Snapshots {
    /// By name.
    pub snapshots: Vec<Snapshot>,
}

/// `POST /v1/vms/{reference}/snapshot`: takes one of a running VM.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct TakeSnapshot {
    /// What it is to be called.
    pub name: String,
    /// Also where banger has put what may be secret into the VM.
    #[serde(default)]
    pub with_secrets: bool,
}
