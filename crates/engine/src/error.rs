//! Why an operation failed, and how that is told.
//!
//! Every failure keeps its cause as a source; it becomes text once, where it leaves the engine ([`Error::to_body`]).

use std::{error::Error as _, sync::Arc};

use image::oci::SinkError;
use model::{KernelName, SnapshotName, VmName};
use wire::control::{Code, ErrorBody};

use crate::{catalogs::RefreshError, network::NetworkError, registry::RegistryError};

/// The result of a call to the engine.
pub type Result<T, E = Error> = std::result::Result<T, E>;

pub(crate) type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Why an operation failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A value is wrong in itself.
    #[error("{what} {value:?} cannot be used")]
    Invalid {
        /// What kind of value.
        what: &'static str,
        /// The value.
        value: String,
        /// Why.
        #[source]
        cause: Cause,
    },
    /// The size that was asked for is out of range.
    #[error(transparent)]
    Size(#[from] model::sizing::SizingError),
    /// Something with that name or id is not there.
    #[error("there is no {kind} {name:?}")]
    NotFound {
        /// `VM`, `image`, `kernel`, `operation`, `recipe`.
        kind: &'static str,
        /// What was asked for.
        name: String,
        /// What to type.
        hint: Option<String>,
    },
    /// A REF fits several VMs.
    #[error("{text:?} is the beginning of more than one VM: {}", .candidates.join(", "))]
    Ambiguous {
        /// What was typed.
        text: String,
        /// The VMs that it fits.
        candidates: Vec<String>,
    },
    /// The VM is not running.
    #[error("VM {0} is not running")]
    NotRunning(VmName),
    /// The VM runs, and it may not for this.
    #[error("VM {name} is running, and {what} can be changed only while it is stopped; nothing was changed")]
    Running {
        /// The VM.
        name: VmName,
        /// What was to be changed.
        what: &'static str,
    },
    /// The VM is being deleted.
    #[error("VM {0} is being deleted")]
    BeingDeleted(VmName),
    /// The operation was cancelled.
    #[error("cancelled")]
    Cancelled,
    /// It ended by a fault of banger's own.
    #[error("the operation broke off; the daemon's log tells where")]
    Broken,
    /// An operation ended long ago and is forgotten.
    #[error("operation {0} is forgotten")]
    Forgotten(String),
    /// The daemon is going down.
    #[error("the daemon is stopping")]
    ShuttingDown,
    /// The guest never became ready; it is kept for its logs.
    #[error("VM {name} did not become ready: {why}")]
    NotReady {
        /// The VM, now in `error`.
        name: VmName,
        /// What was seen.
        why: String,
        /// The last lines of its console.
        console: Vec<String>,
    },
    /// The VM ended while it was being used.
    #[error("VM {name} ended: {reason}")]
    VmEnded {
        /// The VM.
        name: VmName,
        /// Why.
        reason: String,
    },
    /// The guest's agent did not do it.
    #[error("the guest of VM {name} did not {action}")]
    Guest {
        /// The VM.
        name: VmName,
        /// What it was asked for.
        action: &'static str,
        /// What it said.
        #[source]
        cause: Cause,
    },
    /// There is no process for the VM.
    #[error("cannot make the machine of VM {name}")]
    Spawn {
        /// The VM.
        name: VmName,
        /// Why.
        #[source]
        cause: vmm::SpawnError,
    },
    /// The VMM did not come up.
    #[error("cannot start the machine of VM {name}")]
    Launch {
        /// The VM.
        name: VmName,
        /// Why, with the VMM's own last lines.
        #[source]
        cause: vmm::LaunchError,
    },
    /// A running machine could not be told something.
    #[error("cannot change the machine of VM {name}")]
    Control {
        /// The VM.
        name: VmName,
        /// Why.
        #[source]
        cause: vmm::ControlError,
    },
    /// A machine that survived the daemon could not be taken hold of.
    #[error("cannot find VM {name} again")]
    Adopt {
        /// The VM.
        name: VmName,
        /// Why.
        #[source]
        cause: vmm::AdoptError,
    },
    /// A VM's network could not be made what it is to be.
    #[error("cannot connect the network of VM {name}")]
    Network {
        /// The VM.
        name: VmName,
        /// Why.
        #[source]
        cause: NetworkError,
    },
    /// Nothing can keep a VM with NAT away from this host's own services, and nobody allowed it there.
    #[error("this host does not give a VM with NAT a network of its own")]
    NoNetwork(#[source] crate::network::Missing),
    /// The bridge that VMs are to be on cannot be used.
    #[error(transparent)]
    Bridge(#[from] crate::bridge::BridgeError),
    /// Root's helper did not take back what it had made.
    #[error(transparent)]
    Helper(#[from] crate::bridge::HelperError),
    /// There is no usable VMM on this host.
    #[error("no virtual machine monitor can be used")]
    NoVmm(#[source] vmm::ProbeError),
    /// A writable disk could not be made.
    #[error("cannot make a disk")]
    Template(#[source] Cause),
    /// An image could not be made.
    #[error("cannot import image {name}")]
    ImportImage {
        /// Its name.
        name: String,
        /// Why.
        #[source]
        cause: Cause,
    },
    /// A file could not be registered.
    #[error("cannot register {}", path.display())]
    RegisterImage {
        /// The file.
        path: std::path::PathBuf,
        /// Why.
        #[source]
        cause: Cause,
    },
    /// The file of a registered image or kernel is gone, or another one.
    #[error("the file of {kind} {name} is not the one that was registered: {}", path.display())]
    OtherFile {
        /// `image` or `kernel`.
        kind: &'static str,
        /// The image.
        name: String,
        /// The file.
        path: std::path::PathBuf,
    },
    /// An image could not be pulled.
    #[error("cannot pull {reference}")]
    Pull {
        /// Its reference.
        reference: String,
        /// Why.
        #[source]
        cause: Box<RegistryError>,
    },
    /// A name is none of the catalog's, and nothing of that name could be pulled from Docker Hub.
    #[error("no catalog has the image {name}, and Docker Hub does not give it")]
    NotInCatalog {
        /// The name.
        name: String,
        /// Whether there is a catalog at all.
        configured: bool,
        /// Why it could not be pulled.
        #[source]
        cause: Box<Error>,
    },
    /// A catalog cannot be used.
    #[error("cannot {action} the catalog of {kind} {place}")]
    Catalog {
        /// `read` or `refresh`.
        action: &'static str,
        /// `images` or `kernels`.
        kind: &'static str,
        /// Where it is.
        place: String,
        /// Why.
        #[source]
        cause: Box<RefreshError>,
    },
    /// Nobody said where there are catalogs.
    #[error("no catalog is configured")]
    NoCatalog,
    /// The catalog has it, but not for this host.
    #[error("the catalog of {kind} has {name} for {others}, and this host is {host}")]
    OtherArch {
        /// `images` or `kernels`.
        kind: &'static str,
        /// Its name.
        name: String,
        /// The processors that it is for.
        others: String,
        /// This host's.
        host: &'static str,
    },
    /// Another kernel has the name of one of the catalog.
    #[error("there is another kernel {0}")]
    OtherKernel(KernelName),
    /// What an image says of itself cannot be read.
    #[error("cannot read image {name}")]
    ReadImage {
        /// Its name.
        name: String,
        /// Why.
        #[source]
        cause: Cause,
    },
    /// A kernel could not be imported.
    #[error("cannot import kernel {name}")]
    ImportKernel {
        /// Its name.
        name: String,
        /// What to type.
        hint: Option<String>,
        /// Why.
        #[source]
        cause: Cause,
    },
    /// A program of the host that is needed failed or is missing.
    #[error("{program} failed: {why}")]
    Program {
        /// Its name.
        program: &'static str,
        /// Its last words.
        why: String,
        /// What to type.
        hint: Option<String>,
    },
    /// The boot payload could not be made.
    #[error("cannot prepare the boot of VM {name}")]
    Payload {
        /// The VM.
        name: VmName,
        /// Why.
        #[source]
        cause: Cause,
    },
    /// One of the owner's files cannot be put into guests.
    #[error("cannot copy {file}, file_sync entry {number}")]
    FileSync {
        /// The entry's number, from one.
        number: usize,
        /// The file.
        file: String,
        /// Why.
        #[source]
        cause: crate::vm::SyncError,
    },
    /// A machine could not be saved.
    #[error("cannot save the machine of VM {name}")]
    Save {
        /// The VM.
        name: VmName,
        /// Why.
        #[source]
        cause: vmm::SaveError,
    },
    /// A snapshot would keep what may be secret, and nobody asked for that.
    #[error(
        "VM {vm} was given files of file_sync or variables of --env, and its snapshot would keep them; nothing was saved"
    )]
    Secrets {
        /// The VM.
        vm: VmName,
        /// What was to be taken of it.
        snapshot: SnapshotName,
    },
    /// What a snapshot was taken with is not what there is here.
    #[error("snapshot {snapshot} cannot be gone on from: the {what} was {saved:?}, and is {here:?} now")]
    Mismatch {
        /// The snapshot.
        snapshot: SnapshotName,
        /// What differs.
        what: &'static str,
        /// What it was.
        saved: String,
        /// What it is.
        here: String,
    },
    /// The guest is held for its snapshot.
    #[error("VM {0} is being saved, and serves nothing until that is done")]
    Held(VmName),
    /// Nobody knows with which build of its VMM a VM was started.
    #[error(
        "VM {0} was started by a banger that did not note the build of its VMM, so nothing could go on from a snapshot"
    )]
    UnknownBuild(VmName),
    /// The host refused something.
    #[error(transparent)]
    Host(#[from] host::Error),
    /// The database refused something.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// An image or kernel is gone, and something of its files is not.
    #[error("{kind} {name} is deleted, but not all of its files: they go when the daemon starts next")]
    Files {
        /// `image` or `kernel`.
        kind: &'static str,
        /// Its name.
        name: String,
        /// Why.
        #[source]
        cause: Cause,
    },
    /// A workspace was not shipped, or its changes not taken.
    #[error(transparent)]
    Workspace(#[from] crate::workspace::WorkspaceError),
    /// Something of a VM could not be released or removed.
    #[error("cannot {action} all of VM {name}: {}", .left.join("; "))]
    Left {
        /// `release` or `remove`.
        action: &'static str,
        /// The VM.
        name: VmName,
        /// What is left and why.
        left: Vec<String>,
    },
    /// Work that several wanted failed.
    #[error(transparent)]
    Shared(Arc<Error>),
    /// Something failed, and so did undoing it.
    #[error("{cause}; also, undoing it left: {}", .left.join("; "))]
    Residue {
        /// What failed first.
        cause: Box<Error>,
        /// What could not be undone.
        left: Vec<String>,
    },
}

impl Error {
    /// A value of kind `what` that is wrong in itself.
    pub fn invalid(what: &'static str, value: &str, cause: impl Into<Cause>) -> Self {
        Self::Invalid { what, value: value.to_owned(), cause: cause.into() }
    }

    fn code(&self) -> Code {
        match self {
            Self::Invalid { .. } | Self::Size(_) => Code::Invalid,
            Self::NotFound { .. } => Code::NotFound,
            Self::Ambiguous { .. } => Code::Ambiguous,
            Self::NotRunning(_) => Code::NotRunning,
            Self::BeingDeleted(_)
            | Self::Running { .. }
            | Self::Secrets { .. }
            | Self::UnknownBuild(_)
            | Self::Held(_)
            | Self::Mismatch { .. } => Code::Conflict,
            Self::Cancelled | Self::ShuttingDown => Code::Cancelled,
            Self::NotReady { .. } | Self::Guest { .. } => Code::Guest,
            Self::VmEnded { .. } => Code::VmEnded,
            Self::Broken => Code::Internal,
            Self::Forgotten(_) => Code::Gone,
            Self::Pull { cause, .. } => pull_code(cause),
            Self::Catalog { cause, .. } => catalog_code(cause),
            Self::NoCatalog => Code::Invalid,
            Self::OtherKernel(_) => Code::Taken,
            Self::OtherArch { .. } | Self::RegisterImage { .. } | Self::OtherFile { .. } => Code::Refused,
            Self::ImportImage { .. } | Self::ImportKernel { .. } if self.is_full() => Code::Host,
            Self::ImportImage { .. } | Self::ImportKernel { .. } => Code::Refused,
            Self::Spawn { .. }
            | Self::Launch { .. }
            | Self::Control { .. }
            | Self::Save { .. }
            | Self::Adopt { .. }
            | Self::NoVmm(_)
            | Self::Network { .. }
            | Self::NoNetwork(_)
            | Self::Bridge(_)
            | Self::Helper(_)
            | Self::Template(_)
            | Self::ReadImage { .. }
            | Self::Program { .. }
            | Self::Payload { .. }
            | Self::Left { .. }
            | Self::Files { .. }
            | Self::FileSync { .. }
            | Self::Host(_) => Code::Host,
            Self::Store(store::Error::Taken(_)) => Code::Taken,
            Self::Store(store::Error::InUse(_)) => Code::InUse,
            Self::Store(store::Error::Missing) => Code::NotFound,
            Self::Store(store::Error::Full | store::Error::Disk(_) | store::Error::NoAddress(_)) => {
                Code::Host
            }
            Self::Store(
                store::Error::Newer { .. }
                | store::Error::Damaged { .. }
                | store::Error::Value { .. }
                | store::Error::Sql(_)
                | store::Error::Host(_),
            ) => Code::Internal,
            Self::Workspace(cause) => cause.code(),
            Self::Shared(cause) => cause.code(),
            Self::NotInCatalog { cause, .. } => cause.code(),
            Self::Residue { cause, .. } => cause.code(),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::NotFound { hint, .. } | Self::Program { hint, .. } | Self::ImportKernel { hint, .. } => {
                hint.clone()
            }
            Self::Ambiguous { .. } => Some("type more of the name, or the id".to_owned()),
            Self::NotRunning(name) => Some(format!("banger vm start {name}")),
            Self::Running { name, .. } => Some(format!("banger vm stop {name}")),
            Self::Secrets { vm, snapshot } => Some(format!("banger vm snapshot {vm} {snapshot} --with-secrets")),
            Self::Mismatch { what: "network", .. } => Some(
                "banger vm create with the same of --nat, on a host with the same of a bridge; or take it again"
                    .to_owned(),
            ),
            Self::Mismatch { .. } => Some(
                "start a machine without --snapshot, which boots, and take the snapshot again of that one".to_owned(),
            ),
            Self::Held(_) => Some("try it again in a moment".to_owned()),
            Self::UnknownBuild(name) => Some(format!("banger vm restart {name}")),
            Self::NotReady { name, .. } => Some(format!("banger vm logs {name}")),
            Self::Workspace(cause) => cause.hint(),
            Self::Shared(cause) => cause.hint(),
            Self::NotInCatalog { name, configured, .. } => {
                let mut hint = match configured {
                    true => "banger catalog refresh, then banger image list --available".to_owned(),
                    false => "set image_catalog and catalog_key in config.toml to pull by name".to_owned(),
                };
                if name == crate::images::RECIPE {
                    hint += &format!("; banger image build {name} makes it here");
                }
                Some(hint)
            }
            Self::Launch { cause, .. } => cause.hint().map(str::to_owned),
            Self::Pull { cause, .. } => pull_hint(cause),
            Self::OtherFile { kind: "kernel", .. } => {
                Some(
                    "put the file back, or import it under another name for other machines; banger kernel promote keeps a \
                     copy of one that is still the same"
                        .to_owned(),
                )
            }
            Self::OtherFile { name, .. } => Some(format!(
                "put the file back, or banger image delete {name} and register it anew; \
                 banger image promote keeps a copy of one that is still the same"
            )),
            Self::NoCatalog => {
                Some("set image_catalog, kernel_catalog and catalog_key in config.toml".to_owned())
            }
            Self::Catalog { cause, .. } if matches!(**cause, RefreshError::NoKey) => {
                Some("set catalog_key in config.toml to the public key of who signs it".to_owned())
            }
            Self::OtherKernel(name) => {
                Some(format!("banger kernel pull {name} --force puts the catalog's in its place"))
            }
            Self::Catalog { action: "read", .. } => Some("banger catalog refresh".to_owned()),
            Self::NoNetwork(missing) => Some(format!(
                "{}; or --allow-host-loopback: with QEMU's own network, from which the guest reaches what listens on this \
                 host's loopback",
                missing.hint
            )),
            Self::Network { cause: NetworkError::Helper(_), .. } | Self::Helper(_) => Some(
                "sudo banger system status; or mode = \"user\" below [network] in config.toml, for a network without it"
                    .to_owned(),
            ),
            Self::NoVmm(cause) => Some(cause.hint().to_owned()),
            Self::Store(store::Error::Taken(name)) => {
                Some(format!("choose another --name, or delete the one there is: {name}"))
            }
            Self::Store(store::Error::InUse(_)) => Some("delete what uses it first".to_owned()),
            Self::Store(store::Error::NoAddress(_)) => Some(
                "banger vm delete one that is not needed, or choose a larger `subnet`: sudo banger system install --subnet \
                 10.9.0.0/20"
                    .to_owned(),
            ),
            Self::Store(store::Error::Disk(_)) => {
                Some("look whether the disk of banger's state directory can be written".to_owned())
            }
            _ if self.is_full() => Some("free some space on the disk that the cause names".to_owned()),
            Self::Residue { cause, .. } => cause.hint(),
            _ => None,
        }
    }

    /// Whether it is that something could not be pulled.
    pub(crate) fn is_pull(&self) -> bool {
        match self {
            Self::Pull { .. } => true,
            Self::Shared(cause) => cause.is_pull(),
            _ => false,
        }
    }

    /// Whether the cause of it is that a disk is full.
    #[must_use]
    pub fn is_full(&self) -> bool {
        // A transparent variant is not among its own sources.
        match self {
            Self::Store(store::Error::Full) => return true,
            Self::Shared(cause) => return cause.is_full(),
            _ => {}
        }
        let mut next: Option<&(dyn std::error::Error + 'static)> = Some(self);
        while let Some(error) = next {
            let full = error.downcast_ref::<std::io::Error>().is_some_and(|e| {
                matches!(e.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded)
            });
            if full || matches!(error.downcast_ref(), Some(store::Error::Full)) {
                return true;
            }
            next = error.source();
        }
        false
    }

    /// The failure as it is told to a client.
    #[must_use]
    pub fn to_body(&self) -> ErrorBody {
        if let Self::Shared(cause) = self {
            return cause.to_body();
        }
        let mut causes = Vec::new();
        // A transparent variant shows its inner error itself.
        let mut next = self.source();
        while let Some(error) = next {
            causes.push(error.to_string());
            next = error.source();
        }
        if let Self::NotReady { console, .. } = self
            && !console.is_empty()
        {
            causes.push(format!("the last lines of its console:\n    {}", console.join("\n    ")));
        }
        ErrorBody { code: self.code(), message: self.to_string(), hint: self.hint(), causes, op_id: None }
    }
}

fn catalog_code(cause: &RefreshError) -> Code {
    match cause {
        RefreshError::Get { cause, .. } => pull_code(cause),
        RefreshError::NoKey | RefreshError::Key(_) => Code::Invalid,
        RefreshError::Host(_) => Code::Host,
        RefreshError::Signature(_)
        | RefreshError::Catalog(_)
        | RefreshError::OtherKind(_)
        | RefreshError::Older { .. }
        | RefreshError::Reused(_)
        | RefreshError::Damaged(_) => Code::Refused,
    }
}

fn pull_code(cause: &RegistryError) -> Code {
    match cause {
        RegistryError::NotFound { .. } | RegistryError::Nothing { .. } => Code::NotFound,
        RegistryError::Document { .. }
        | RegistryError::Blob(SinkError::Refused { .. })
        | RegistryError::NoBlob { .. }
        | RegistryError::WrongPart { .. }
        | RegistryError::TooLong { .. }
        | RegistryError::Lead { .. }
        | RegistryError::Token { .. }
        | RegistryError::TokenRefused { .. }
        | RegistryError::Challenge { .. } => Code::Refused,
        RegistryError::Unreachable { .. }
        | RegistryError::Certificates(_)
        | RegistryError::Proxy(_)
        | RegistryError::Stalled { .. }
        | RegistryError::BrokenOff(_)
        | RegistryError::Broken { .. }
        | RegistryError::Status { .. }
        | RegistryError::Denied { .. }
        | RegistryError::Blob(SinkError::Host(_))
        | RegistryError::Credentials(_)
        | RegistryError::NoSpace { .. } => Code::Host,
        RegistryError::Stopped => Code::Cancelled,
    }
}

fn pull_hint(cause: &RegistryError) -> Option<String> {
    match cause {
        RegistryError::Denied { reference } => {
            let host = reference.host();
            Some(format!(
                "check the name, since this is also said of what is not there; else docker login {host} or podman login {host}, \
                 whose credentials banger reads"
            ))
        }
        RegistryError::NoSpace { .. } => Some("banger image cache prune, or free some space".to_owned()),
        RegistryError::Proxy(_) => Some(
            "set HTTPS_PROXY for the daemon anew, or NO_PROXY: banger daemon stop, and it starts with them"
                .to_owned(),
        ),
        RegistryError::Certificates(_) => Some("apt-get install ca-certificates".to_owned()),
        _ => None,
    }
}
