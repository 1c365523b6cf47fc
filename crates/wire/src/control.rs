//! The control API: what `banger`, or any other client, says to `bangerd`.
//!
//! HTTP/1.1 with JSON on a unix socket. A request that changes something answers with a stream of [`Event`]s, one JSON
//! object a line (`application/x-ndjson`), the last of which is `done` or `failed`; going away before that cancels it,
//! unless it was begun with `?detach=true`, which answers with the [`Operation`] at once.

mod catalog;
mod happening;
mod image;
mod kernel;
mod snapshot;
mod vm;
mod workspace;

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use catalog::{Catalog, CatalogEntry, Catalogs};
pub use happening::{Happened, Happening};
pub use image::{BuildImage, CacheContent, Image, ImageRun, Images, ImportImage, PullImage, RegisterImage};
pub use kernel::{ImportKernel, Kernel, Kernels, PullKernel};
pub use snapshot::{Snapshot, Snapshots, TakeSnapshot};
pub use vm::{
    AllStats, CreateVm, Origin, Phase, SetVm, Sized, State, StatsOfVm, Vm, VmNetwork, VmStats, Vms, Wait,
};
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
    /// A snapshot of the store.
    Snapshot(Box<Snapshot>),
    /// A workspace that was shipped.
    Prepared(Prepared),
    /// A patch that can be fetched.
    Exported(Exported),
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
