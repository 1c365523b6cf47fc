//! Starts one machine and finds it again.
//!
//! The seam is three steps, so that no machine ever runs that the ledger does not know:
//!
//! ```text
//! Backend::spawn ──▶ Spawned (a process that waits before exec: commit its identity now)
//!                       │ release
//!                       ▼
//! Backend::adopt ──▶ Machine ──▶ agent channel · powerdown · quit · kill · snapshots · its one end
//! ```
//! A machine is a process of its own session and survives this program. Dropping a [`Machine`] lets go of it and nothing
//! else; [`Backend::adopt`] takes hold of it again. Nothing here decides what a machine's end means: `model::end` does.

#[cfg(feature = "fake")]
pub mod fake;
pub mod firecracker;
pub mod qemu;
pub mod ring;

mod card;
mod channel;
mod console;
mod end;
mod held;
mod launch;
mod machine;
mod probe;
mod qmp;
mod snapshot;
mod task;
mod watcher;

pub use machine::{
    Accelerator, AdoptError, AgentError, Backend, ByteStream, Channel, ControlError, Disk, End, Future,
    LaunchError, Machine, MachinePlan, MachineStatus, Nic, Place, Report, SpawnError, Spawned,
};
pub use probe::{ProbeError, Settings};
pub use snapshot::{Damage, MEMORY, STATE, SaveError, Saved, SavedFile, Snapshots};
