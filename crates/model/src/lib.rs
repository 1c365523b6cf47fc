//! What the words mean and what follows from what.
//!
//! Pure rules: names, sizes, states, transitions and plans. No I/O, no clock, no randomness, no environment, no
//! threads and no serde, so every rule here is tested as a plain function.

pub mod base64;
pub mod boot;
pub mod config;
pub mod copy;
pub mod disk;
pub mod end;
pub mod exit;
pub mod hex;
pub mod id;
pub mod init;
pub mod kernel;
pub mod location;
pub mod moment;
pub mod name;
pub mod network;
pub mod reference;
pub mod refs;
pub mod signal;
pub mod size;
pub mod sizing;
pub mod ssh;
pub mod sync;
pub mod system;
pub mod undo;
pub mod vm;
pub mod workspace;

pub use id::{OperationId, VmId};
pub use name::{GroupName, ImageName, KernelName, SnapshotName, VmName};
pub use reference::{ImageChoice, ImageReference};
