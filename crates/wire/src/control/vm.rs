//! VMs: what is asked of them, and how they are shown.

use serde::{Deserialize, Serialize};

use super::ImageRun;
use crate::{Word, guest::Step};

/// `POST /v1/vms`: make a VM and, unless said otherwise, start it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct CreateVm {
    /// Its name; without it a free one is made.
    #[serde(default)]
    pub name: Option<String>,
    /// The image; without it the default one.
    #[serde(default)]
    pub image: Option<String>,
    /// The snapshot to go on from instead of booting; image, kernel, VMM and size are those of it.
    #[serde(default)]
    pub snapshot: Option<String>,
    /// Virtual CPUs.
    #[serde(default)]
    pub vcpu: Option<u32>,
    /// Memory in bytes.
    #[serde(default)]
    pub memory: Option<u64>,
    /// The work disk in bytes.
    #[serde(default)]
    pub disk_size: Option<u64>,
    /// The system overlay in bytes.
    #[serde(default)]
    pub overlay_size: Option<u64>,
    /// `auto`, `firecracker` or `qemu`.
    #[serde(default)]
    pub vmm: Option<String>,
    /// Whether it reaches the world; without it what the config says.
    #[serde(default)]
    pub nat: Option<bool>,
    /// It may reach this host's loopback too, where nothing can keep it from there.
    #[serde(default)]
    pub allow_host_loopback: bool,
    /// The group whose VMs see each other, on the bridge.
    #[serde(default)]
    pub group: Option<String>,
    /// Who runs commands where no user is said, and whom a repository belongs to: a name or number, also `user:group`; without
    /// it root.
    #[serde(default)]
    pub user: Option<String>,
    /// Variables for every command in the VM.
    #[serde(default)]
    pub env: Vec<(Word, Word)>,
    /// Only the record, not started.
    #[serde(default)]
    pub no_start: bool,
    /// What to wait for; without it what the image says.
    #[serde(default)]
    pub wait: Option<Wait>,
    /// Delete the VM when the stream of this request closes, for whatever reason.
    #[serde(default)]
    pub rm: bool,
    /// Make the default image where it is missing; otherwise that is `not_found` with the image's name.
    #[serde(default)]
    pub build_default_image: bool,
}

/// `POST /v1/vms/{reference}/set`: what is to be changed of a VM.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct SetVm {
    /// Virtual CPUs; of a VM that does not run.
    #[serde(default)]
    pub vcpu: Option<u32>,
    /// Memory in bytes; of a VM that does not run.
    #[serde(default)]
    pub memory: Option<u64>,
    /// The work disk in bytes, at least as large as it is.
    #[serde(default)]
    pub disk_size: Option<u64>,
    /// The system overlay in bytes, at least as large as it is.
    #[serde(default)]
    pub overlay_size: Option<u64>,
    /// Whether it reaches the world; at once where it runs with a network card.
    #[serde(default)]
    pub nat: Option<bool>,
    /// It may reach this host's loopback too, where nothing can keep it from there.
    #[serde(default)]
    pub allow_host_loopback: bool,
}

/// `GET /v1/stats`: what running VMs use.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AllStats {
    /// In order of creation.
    pub vms: Vec<StatsOfVm>,
}

/// What a running VM uses.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct StatsOfVm {
    /// The VM's id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// What it uses.
    #[serde(flatten)]
    pub stats: VmStats,
}

/// What a VM used at a moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct VmStats {
    /// When the guest said it: milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// The CPU time per time since the guest was asked before, in percent of one CPU.
    #[serde(default)]
    pub cpu_percent: Option<f64>,
    /// Resident memory of the VMM, in bytes: what the VM costs the host.
    pub host_memory: u64,
    /// What the guest says.
    pub guest: crate::guest::Stats,
}

/// What makes a VM ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Wait {
    /// The agent answers.
    Agent,
    /// Init reports that it has started everything.
    Init,
}

/// A VM's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "`model::vm::State` has the picture")]
pub enum State {
    Created,
    Starting,
    Running,
    Stopping,
    Stopped,
    Error,
    Deleting,
}

/// A VM as it is shown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Vm {
    /// 12 hexadecimal digits.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its state.
    pub state: State,
    /// Why it is so, for `stopped` and `error`.
    #[serde(default)]
    pub reason: Option<String>,
    /// The image's name.
    pub image: String,
    /// How it is run where no command is given: as its image says, where that says something and has no init. Told when it
    /// is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<ImageRun>,
    /// The kernel's name.
    pub kernel: String,
    /// The VMM: `qemu` or `firecracker`.
    pub vmm: String,
    /// Its address, where this host reaches it there.
    #[serde(default)]
    pub ip: Option<String>,
    /// Whether it is to reach the world.
    #[serde(default)]
    pub nat: bool,
    /// The group whose VMs see each other, if it is in one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Who runs commands where no user is said, if it is not root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Its network, while it runs and has a card.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<VmNetwork>,
    /// Virtual CPUs, with origin.
    pub vcpu: Sized<u32>,
    /// Memory in bytes, with origin.
    pub memory: Sized<u64>,
    /// The work disk in bytes, with origin.
    pub disk: Sized<u64>,
    /// The system overlay in bytes, with origin.
    pub overlay: Sized<u64>,
    /// Deleted when its owner goes.
    #[serde(default)]
    pub rm: bool,
    /// Where the guest's checkout is, when a workspace was shipped.
    #[serde(default)]
    pub workspace: Option<String>,
    /// When it was created: milliseconds since the Unix epoch.
    pub created_ms: u64,
    /// When it was last started.
    #[serde(default)]
    pub started_ms: Option<u64>,
    /// The VMM's process, while there is one.
    #[serde(default)]
    pub pid: Option<u32>,
    /// The guest's boot id, while it runs.
    #[serde(default)]
    pub boot_id: Option<String>,
    /// What the last start spent its time on.
    #[serde(default)]
    pub timeline: Vec<Phase>,
}

/// The network of a VM that runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct VmNetwork {
    /// What its card is connected to: `bridge`, that of root's helper; `user`, namespaces of its own with banger's rules; `qemu`, QEMU's built-in network.
    pub mode: String,
    /// The guest's own address there.
    pub address: String,
    /// Why it is not as it is to be.
    #[serde(default)]
    pub trouble: Option<String>,
}

/// A value with where it came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Sized<T> {
    /// The value.
    pub value: T,
    /// Where it came from.
    pub origin: Origin,
}

/// Where a value came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "`model::sizing::Origin` tells them")]
pub enum Origin {
    Request,
    Config,
    Host,
    Default,
}

/// One phase of a start, on the host or in the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Phase {
    /// Where it was spent: `host` or `guest`.
    pub place: String,
    /// On what.
    #[serde(flatten)]
    pub step: Step,
}

/// `GET /v1/vms`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Vms {
    /// In order of creation.
    pub vms: Vec<Vm>,
}
