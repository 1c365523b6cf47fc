//! The seam: what every backend does, and the contract of each step.

use std::{path::PathBuf, pin::Pin, sync::Arc, time::Duration};

use host::proc::{Exit, ProcessId, Signal};
use model::{
    VmId, boot,
    boot::DiskRole,
    config::Limits,
    end::MachineEnd,
    network::{Card, Link},
};
use tokio::io::{AsyncRead, AsyncWrite};
use wire::session::Secret;

use crate::{Damage, Saved, Snapshots};

/// A boxed future, so that the traits can be used as objects.
pub type Future<'a, T> = Pin<Box<dyn std::future::Future<Output = T> + Send + 'a>>;

/// Where a machine's files are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// For as long as the machine runs: the VMM's working directory, its sockets and every file that it is given by name.
    pub run_dir: PathBuf,
    /// Kept longer than the machine: its console (`console.log`, `console.log.1`) and what the VMM says (`vmm.log`).
    pub log_dir: PathBuf,
}

/// All that a machine is started from. Files are named relative to the run directory and may be links.
#[derive(Debug, Clone)]
pub struct MachinePlan {
    /// Both directories exist, and are private.
    pub place: Place,
    /// What the process is called in lists of processes.
    pub name: String,
    /// The kernel's file.
    pub kernel: String,
    /// The initramfs' file.
    pub initrd: String,
    /// The kernel's command line, made for [`Backend::machine`].
    pub command_line: String,
    /// Virtual processors.
    pub vcpus: u32,
    /// Memory in bytes, a multiple of a MiB.
    pub memory: u64,
    /// In attach order.
    pub disks: Vec<Disk>,
    /// Its network card, where it has one.
    pub nic: Option<Nic>,
    /// How fast its disks and its card may be.
    pub limits: Limits,
    /// Opens sessions on the agent's channel; the guest's config carries the same.
    pub secret: Secret,
    /// What it goes on from instead of booting: another machine that was saved, of a plan that has the same processors, memory,
    /// disks and card, and of the same build of its VMM. The initramfs is not read then.
    pub saved: Option<Saved>,
}

/// One raw disk. Its role gives the serial and whether it is read-only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// The disk's file.
    pub file: String,
    /// What it is for.
    pub role: DiskRole,
}

/// One network card.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Nic {
    /// Whose it is.
    pub vm: VmId,
    /// What the guest is told of it.
    pub card: Card,
    /// What it is connected to. For [`Link::Namespace`] the machine's process is in namespaces of its own, in which its tap is up
    /// before it executes; whoever releases it has put the rules there. For [`Link::Bridge`] its tap is there already, with its
    /// rules.
    pub link: Link,
}

/// How a guest's instructions are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accelerator {
    /// By the processor.
    Kvm,
    /// By software.
    Tcg,
}

impl Accelerator {
    /// Its stable name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }
}

/// What a backend runs on, as its probe found it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The backend's stable name: `qemu`.
    pub backend: &'static str,
    /// The VMM's program.
    pub program: PathBuf,
    /// Its version.
    pub version: String,
    /// The newest version that banger's tests have run with, major and minor, where this one is newer.
    pub untested: Option<(u32, u32)>,
    /// How guests run.
    pub accelerator: Accelerator,
    /// Why it is not KVM, where it is not.
    pub why_not_kvm: Option<String>,
}

impl Report {
    /// Tells builds apart that do not read what each other saved: `7.2.22 tcg`.
    #[must_use]
    pub fn build(&self) -> String {
        format!("{} {}", self.version, self.accelerator.name())
    }
}

/// A kind of VMM that was found usable.
pub trait Backend: Send + Sync {
    /// What it runs on.
    fn report(&self) -> &Report;

    /// The kind of machine that it makes, for the kernel's command line.
    fn machine(&self) -> boot::Machine;

    /// Makes the machine's sockets in its run directory and its process, which waits and has executed nothing.
    ///
    /// Dropping what it gives, or the future half-way, ends the process; the sockets stay for whoever removes the directory.
    fn spawn(&self, plan: MachinePlan) -> Future<'_, Result<Box<dyn Spawned>, SpawnError>>;

    /// Takes hold of the machine that runs as process `id`, `None` where it is gone.
    ///
    /// For machines that this program does not hold: after a restart of this program, or after the last [`Machine`] was
    /// dropped. An end between is lost; the ledger knows that there was one.
    fn adopt(
        &self,
        id: ProcessId,
        place: Place,
        secret: Secret,
    ) -> Future<'_, Result<Option<Arc<dyn Machine>>, AdoptError>>;
}

/// A machine's process before its exec.
#[must_use = "release it, or it ends unexecuted"]
pub trait Spawned: Send {
    /// Its identity: commit this before the release.
    fn id(&self) -> &ProcessId;

    /// Lets it execute the VMM, and waits until that answers on its control socket; the guest is running then.
    ///
    /// On an error, and where the future is dropped half-way, the process is gone or about to be killed.
    fn release(self: Box<Self>) -> Future<'static, Result<Arc<dyn Machine>, LaunchError>>;
}

/// A machine that runs, or did. Dropping all handles lets it run on, without anybody who reads its console.
pub trait Machine: Send + Sync {
    /// Its process.
    fn id(&self) -> &ProcessId;

    /// Resolves once it has ended, to the same end for everybody who asks, however late.
    ///
    /// By then the process is reaped and all that its console said is in the log.
    fn ended(&self) -> Future<'static, End>;

    /// Opens a fresh session with the agent: waits for the guest to boot, for as long as it takes, until the machine ends.
    ///
    /// One session at a time: a second call waits until the [`Channel`] of the first is dropped. Dropping the future gives up.
    /// The bytes are the session's alone, whatever was cut off before it.
    fn connect_agent(&self) -> Future<'static, Result<Channel, AgentError>>;

    /// Presses the machine's power button. What the guest makes of it is its own affair.
    fn powerdown(&self) -> Future<'_, Result<(), ControlError>>;

    /// Ends the machine: asks the VMM to quit, so that it closes its disks in order, and kills it if it has not within `grace`.
    /// Resolves when the process is gone. An end that came first is fine.
    fn quit(&self, grace: Duration) -> Future<'_, Result<(), ControlError>>;

    /// Sends `signal` to the VMM's process, which may end of it or not. An end that came first is fine.
    ///
    /// # Errors
    /// Where the process belongs to somebody else.
    fn signal(&self, signal: Signal) -> Result<(), ControlError>;

    /// Kills the VMM's process. Resolves when it is gone.
    fn kill(&self) -> Future<'_, Result<(), ControlError>>;

    /// Enlarges the writable disk `disk` of its plan to `bytes`: its file, and what the guest sees of it.
    fn grow_disk(&self, disk: Disk, bytes: u64) -> Future<'_, Result<(), ControlError>>;

    /// What saves it, where its VMM can.
    fn snapshots(&self) -> Option<&dyn Snapshots>;

    /// What the VMM says of the machine.
    fn status(&self) -> Future<'_, Result<MachineStatus, ControlError>>;
}

/// What a VMM says of its machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MachineStatus {
    /// The guest runs.
    Running,
    /// The guest is held.
    Paused,
    /// The machine has ended, or is about to.
    Ended,
}

/// How a machine ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// What happened.
    pub what: MachineEnd,
    /// How the VMM's process ended, where it was our child.
    pub exit: Option<Exit>,
    /// The last lines of the VMM itself, of a VMM that died.
    pub vmm_lines: Vec<String>,
}

/// A clean byte stream to the agent, for one HTTP/2 connection.
pub type Channel = Box<dyn ByteStream>;

/// What a [`Channel`] can do.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for T {}

/// Why there is no process.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// A file, socket or the process could not be made.
    #[error("cannot prepare the machine's process")]
    Prepare(#[from] host::Error),
    /// The plan cannot be said to this VMM.
    #[error("{field} of the machine cannot be {value:?}")]
    Plan {
        /// Which part of the plan.
        field: &'static str,
        /// What it was.
        value: String,
    },
}

/// Why a VMM did not come up.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// It could not be executed.
    #[error("cannot start the VMM")]
    Execute(#[source] host::Error),
    /// It ended at once.
    #[error("the VMM ended at once with {}{}", exit_text(*.exit), lines_text(.lines))]
    Ended {
        /// How.
        exit: Option<Exit>,
        /// Its own last lines.
        lines: Vec<String>,
        /// What to try, where that is known.
        hint: Option<&'static str>,
    },
    /// What it was to go on from is not what was saved.
    #[error("the saved machine is damaged")]
    Damaged(#[source] Damage),
    /// It does not answer.
    #[error("the VMM does not answer on its control socket{}", lines_text(.lines))]
    Control {
        /// Its own last lines.
        lines: Vec<String>,
        /// What happened instead.
        #[source]
        cause: ControlError,
    },
}

impl LaunchError {
    /// What to try, where that is known.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Ended { hint, .. } => *hint,
            Self::Execute(_) | Self::Damaged(_) | Self::Control { .. } => None,
        }
    }
}

fn exit_text(exit: Option<Exit>) -> String {
    exit.map_or_else(|| "an unknown status".to_owned(), |exit| exit.to_string())
}

fn lines_text(lines: &[String]) -> String {
    lines.iter().fold(String::new(), |text, line| text + "\n  " + line)
}

/// Why a machine that was there could not be taken hold of.
#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    /// Its process cannot be looked at.
    #[error("cannot look for the machine's process")]
    Process(#[source] host::Error),
    /// It runs and does not answer.
    #[error("cannot take hold of the machine in {id}")]
    Control {
        /// The process.
        id: ProcessId,
        /// What happened instead.
        #[source]
        cause: ControlError,
    },
}

/// Why there is no channel to the agent.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The machine has ended.
    #[error("the machine has ended")]
    Ended,
    /// The channel's socket cannot be used.
    #[error("cannot connect to the agent")]
    Connect(#[from] host::Error),
}

/// Why a machine could not be told something.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The machine has ended.
    #[error("the machine has ended")]
    Ended,
    /// The control socket or the process cannot be used.
    #[error("cannot control the machine")]
    Host(#[from] host::Error),
    /// No answer in time.
    #[error("no answer from the VMM within {0:?}")]
    Timeout(Duration),
    /// It refused.
    #[error("the VMM refused {command}: {reason}")]
    Refused {
        /// What it was told.
        command: &'static str,
        /// Its own words.
        reason: String,
    },
    /// What it said is not its protocol.
    #[error("the VMM does not speak its protocol")]
    Protocol,
}
