//! What the engine is told about its installation, and what it finds on the host where nobody said it. Reading the file
//! is the daemon's business.

use std::{path::PathBuf, sync::OnceLock};

use model::{config::Resolvers, sizing};

pub use model::config::Config;

use crate::Result;

/// Where this host says whom it asks for names.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// The size of this host, from which the sizes of VMs follow. It is looked at once: what is asked of the kernel for it
/// takes as long as all else of a small request.
///
/// # Errors
/// Where the host does not tell.
pub fn host_size() -> Result<sizing::Host> {
    static SIZE: OnceLock<sizing::Host> = OnceLock::new();
    match SIZE.get() {
        Some(size) => Ok(*size),
        None => look_at_host().map(|size| *SIZE.get_or_init(|| size)),
    }
}

fn look_at_host() -> Result<sizing::Host> {
    let cpus = std::thread::available_parallelism().map_or(0, |n| u32::try_from(n.get()).unwrap_or(u32::MAX));
    let meminfo = host::fs::read_text("/proc/meminfo".as_ref())?;
    let kib = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse().ok());
    Ok(sizing::Host { cpus, memory: kib.unwrap_or(0u64) * 1024 })
}

/// The QEMU that is used where none is configured, if one is installed.
#[must_use]
pub fn qemu_program() -> Option<PathBuf> {
    vmm::qemu::installed()
}

/// The Firecracker that is used where none is configured, if one is installed.
#[must_use]
pub fn firecracker_program() -> Option<PathBuf> {
    vmm::firecracker::installed()
}

/// Whom this host asks for names, if anybody.
#[must_use]
pub fn host_resolvers() -> Option<Resolvers> {
    Resolvers::of_host(&host::fs::read_text(RESOLV_CONF.as_ref()).ok()?)
}
