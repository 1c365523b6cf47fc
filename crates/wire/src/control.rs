//! The control API: what `banger`, or any other client, says to `bangerd`.
//!
//! HTTP/1.1 with JSON on a unix socket. A request that changes something answers with a stream of [`Event`]s, one JSON
//! object a line (`application/x-ndjson`), the last of which is `done` or `failed`; going away before that cancels it,
//! unless it was begun with `?detach=true`, which answers with the [`Operation`] at once.

mod workspace;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{Word, guest::Step};

pub use workspace::{
    Change, ChangeKind, Changes, ExportWorkspace, Exported, Landed, PrepareWorkspace, Prepared, Workspace,
    WorkspaceMode, WorkspacePlan,
};

/// The version of the API; the `v1` in its paths.
pub const VERSION: u32 = 1;
/// The protocol that a connection into a guest is upgraded to: its bytes.
pub const CONNECT: &str = "banger-connect";
/// The media type of an event stream.
pub const EVENTS: &str = "application/x-ndjson";
/// How long a daemon that ends takes at most. For so long its installation is not free: a new daemon waits for it, and a command
/// waits for both.
pub const ENDING: Duration = Duration::from_secs(25);

/// Why a request failed; stable, for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// The request is wrong in itself; nothing was done.
    Invalid,
    /// Nothing has that name or id.
    NotFound,
    /// A REF fits more than one VM.
    Ambiguous,
    /// The name is taken.
    Taken,
    /// The VM is not running.
    NotRunning,
    /// The VM's state does not allow it.
    Conflict,
    /// The thing is in use.
    InUse,
    /// What was handed over, an image or a kernel, is broken or not allowed.
    Refused,
    /// It was cancelled.
    Cancelled,
    /// The host lacks something: a program, a right, space.
    Host,
    /// The guest did not do what it should.
    Guest,
    /// The VM ended while it was being used.
    VmEnded,
    /// It was there once.
    Gone,
    /// A fault of banger's own.
    Internal,
    /// A code that this version does not know.
    #[serde(other)]
    Unknown,
}

/// A failure, as every part of banger tells it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ErrorBody {
    /// For programs.
    pub code: Code,
    /// What happened, to what.
    pub message: String,
    /// What to type, where there is something.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The causes, outermost first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<String>,
    /// The operation that failed, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub op_id: Option<String>,
}

impl ErrorBody {
    /// A failure without causes or hint.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: None, causes: Vec::new(), op_id: None }
    }

    /// The same with a hint.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// One line of an event stream.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The operation began.
    Begun {
        /// Its id.
        op_id: String,
    },
    /// What will be made, in one line for people.
    Plan {
        /// E.g. `2 vCPU · 1 GiB · 8 GiB disk · debian-bookworm · qemu (no KVM)`.
        summary: String,
    },
    /// A stage began.
    Stage {
        /// E.g. `booting`.
        name: String,
    },
    /// A stage goes on.
    Progress {
        /// The stage.
        name: String,
        /// How much is done.
        done: u64,
        /// Of how much, where that is known.
        #[serde(default)]
        total: Option<u64>,
        /// What is counted: `bytes`, `files`, `blobs`, `entries`, `packages`.
        unit: String,
    },
    /// Something that the user may want to act on; the operation goes on.
    Warning {
        /// In one line.
        message: String,
    },
    /// The operation succeeded; the last line, except where the stream owns a VM (`own=true`).
    Done {
        /// What came of it.
        result: Outcome,
    },
    /// The operation failed; the last line.
    Failed {
        /// Why.
        error: ErrorBody,
    },
    /// A line that this version does not know.
    #[serde(other)]
    Unknown,
}

/// What came of an operation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(tag = "kind", content = "value", rename_all = "snake_case")]
pub enum Outcome {
    /// Nothing but that it is so now.
    None,
    /// A VM as it is now.
    Vm(Box<Vm>),
    /// An image of the store.
    Image(Box<Image>),
    /// A kernel of the store.
    Kernel(Box<Kernel>),
    /// A workspace that was shipped.
    Prepared(Prepared),
    /// A patch that can be fetched.
    Exported(Exported),
}

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

/// One line of `GET /v1/events`: what happened, as it happens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Happening {
    /// When: milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// What.
    #[serde(flatten)]
    pub what: Happened,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum Happened {
    /// A VM was made or changed, and is in this state now.
    Vm {
        /// Its id.
        id: String,
        /// Its name.
        name: String,
        /// Its state.
        state: State,
        /// Why it is so.
        #[serde(default)]
        reason: Option<String>,
    },
    /// A VM is gone.
    VmRemoved {
        /// Its id.
        id: String,
        /// Its name.
        name: String,
    },
    /// An operation began.
    Begun {
        /// Its id.
        op_id: String,
        /// What it does, like `vm.start dev`.
        operation: String,
    },
    /// An operation ended.
    Ended {
        /// Its id.
        op_id: String,
        /// What it did.
        operation: String,
        /// How.
        state: OperationState,
        /// Why it failed.
        #[serde(default)]
        error: Option<String>,
    },
    /// The listener was too slow.
    Missed {
        /// For so many events.
        count: u64,
    },
    /// Something that this version does not know.
    #[serde(other)]
    Unknown,
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
    /// What its card is connected to: `user`, namespaces of its own with banger's rules; `qemu`, QEMU's built-in network.
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

/// `GET /v1/catalogs/{kind}`: what can be had by name alone, for this host.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Catalog {
    /// `images` or `kernels`.
    pub kind: String,
    /// Where it came from; none for the one that banger was built with.
    #[serde(default)]
    pub source: Option<String>,
    /// Its serial, which grows with each one that is published.
    pub serial: u64,
    /// In its own order.
    pub entries: Vec<CatalogEntry>,
}

/// An image or kernel that can be had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CatalogEntry {
    /// Its name.
    pub name: String,
    /// The distribution it is of.
    pub distro: String,
    /// The processors that it is for.
    pub arch: String,
    /// The kernel that an image boots, where it is not the default one.
    #[serde(default)]
    pub kernel: Option<String>,
    /// Bytes to be fetched.
    pub size: u64,
    /// What it is, for people.
    pub description: String,
    /// Whether there is one of its name here.
    pub here: bool,
}

/// `POST /v1/catalogs/refresh`: those that have an address, as they are now.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Catalogs {
    /// The catalogs.
    pub catalogs: Vec<Catalog>,
}

/// One thing that a user asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Operation {
    /// A UUID version 7.
    pub id: String,
    /// What was asked for, e.g. `vm.start dev`.
    pub what: String,
    /// How it stands.
    pub state: OperationState,
    /// When it began: milliseconds since the Unix epoch.
    pub begun_ms: u64,
    /// When it ended.
    #[serde(default)]
    pub ended_ms: Option<u64>,
    /// Why it failed.
    #[serde(default)]
    pub error: Option<ErrorBody>,
}

/// How an operation stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum OperationState {
    /// Under way.
    Running,
    /// It succeeded.
    Done,
    /// It failed.
    Failed,
    /// It was cancelled and undone.
    Cancelled,
}

/// `GET /v1/operations`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Operations {
    /// The newest last.
    pub operations: Vec<Operation>,
}

/// `GET /v1/daemon`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Daemon {
    /// banger's version.
    pub version: String,
    /// The commit it was built from.
    pub commit: String,
    /// [`VERSION`].
    pub api: u32,
    /// Its process.
    pub pid: u32,
    /// Its control socket.
    pub socket: String,
}
