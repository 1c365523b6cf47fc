//! The one door to the operating system: files, locks, processes, sockets, clock, randomness, directories.
//!
//! Everything here is synchronous and without policy: no retries, no knowledge of VMs. Every error names what was being
//! done to which path or process.
#![expect(clippy::disallowed_methods, reason = "this crate is the door that the lint points to")]

pub mod archive;
pub mod clock;
pub mod dirs;
pub mod env;
mod error;
pub mod fs;
pub mod links;
pub mod lock;
pub mod mounts;
pub mod net;
mod netlink;
pub mod nftables;
pub mod packet;
pub mod pipe;
pub mod proc;
pub mod rand;
pub mod signals;
pub mod sock;
pub mod sparse;
pub mod stamp;
pub mod stdio;
pub mod tree;
pub mod vsock;

pub use error::{Error, Result, chain};
