//! The boot payload: what the kernel unpacks as its first root.
//!
//! A payload is cpio archives (`newc`, uncompressed) one after the other, which the kernel unpacks over each other:
//!
//! ```text
//! base     /init (the agent), /dev/console, mount points      one file per (agent, kernel), cached by the caller
//!          /banger/modules.load, /lib/modules/<release>/…     the kernel's modules.cpio, where it has modules
//! config   /banger/config.json, 0600                          one VM's own
//! ```
//!
//! Each archive begins at a multiple of four, which is what the kernel asks for. The bytes depend on the content alone.

mod cpio;

use std::{
    io::{self, BufWriter, Write},
    path::Path,
};

pub use cpio::{Archive, Entry};
use host::fs;

/// Where the VM's boot configuration lies in the payload.
pub const CONFIG_PATH: &str = "banger/config.json";

/// The file that lists the boot modules, one path from the root per line, in the order in which they are loaded. One
/// that fails to load is passed over: some drive a device or an instruction that the machine may not have.
pub const MODULES_LIST_PATH: &str = "banger/modules.load";

/// The file that says which of these are of no use without a device: a line is the path, and, each after a space, the
/// devices. Such a module may be left out where no `modalias` of the machine (`/sys/bus/{virtio,pci}/devices/*/modalias`,
/// looked at when the module's turn comes) begins with one of them.
pub const MODULES_DEVICES_PATH: &str = "banger/modules.devices";

/// Why a boot payload could not be made.
#[derive(Debug, thiserror::Error)]
pub enum InitramfsError {
    /// One of the parts could not be read, or the payload not be put in its place.
    #[error(transparent)]
    File(#[from] host::Error),
    /// The payload could not be written.
    #[error("cannot write the boot payload")]
    Write(#[source] io::Error),
}

/// Writes the part of the payload that all VMs with this agent and kernel share.
///
/// # Errors
/// Where a part cannot be read or the payload not be written.
pub fn base(agent: &Path, modules_cpio: Option<&Path>, out: &mut impl Write) -> Result<(), InitramfsError> {
    let init = fs::read(agent)?;
    let mut archive = Archive::new(BufWriter::with_capacity(1 << 20, out));
    let mut fill = || -> io::Result<()> {
        // The kernel opens /dev/console for init's standard streams before init can mount anything.
        archive.add("dev", &Entry::Directory)?;
        archive.add("dev/console", &Entry::CharDevice { mode: 0o600, major: 5, minor: 1 })?;
        for mount_point in ["proc", "sys", "run", "banger"] {
            archive.add(mount_point, &Entry::Directory)?;
        }
        archive.add("init", &Entry::File { mode: 0o755, content: &init })
    };
    fill().map_err(InitramfsError::Write)?;
    let mut out = archive.finish().map_err(InitramfsError::Write)?;
    if let Some(path) = modules_cpio {
        let mut modules = fs::open(path)?;
        let length = io::copy(&mut modules, &mut out).map_err(InitramfsError::Write)?;
        pad(&mut out, length).map_err(InitramfsError::Write)?;
    }
    out.flush().map_err(InitramfsError::Write)
}

/// A VM's own part: an archive with `json` as [`CONFIG_PATH`], readable by root alone.
#[must_use]
pub fn config_segment(json: &[u8]) -> Vec<u8> {
    let mut archive = Archive::new(Vec::with_capacity(json.len() + 1024));
    archive
        .add("banger", &Entry::Directory)
        .and_then(|()| archive.add(CONFIG_PATH, &Entry::File { mode: 0o600, content: json }))
        .and_then(|()| archive.finish())
        .expect("memory takes every write, and the path and a configuration fit a cpio header")
}

/// Writes a VM's payload to the new file `out`, mode 0600: the cached `base` and the VM's configuration.
///
/// # Errors
/// Where `base` cannot be read or `out` not be made; nothing is left then.
pub fn assemble(base: &Path, config: &[u8], out: &Path) -> Result<(), InitramfsError> {
    fs::clone_sparse(base, out)?;
    let append = || -> Result<(), InitramfsError> {
        let length = fs::size(out)?;
        let mut file = fs::append(out)?;
        pad(&mut file, length)
            .and_then(|()| file.write_all(&config_segment(config)))
            .map_err(InitramfsError::Write)
    };
    append().inspect_err(|_| {
        let _ = fs::remove(out);
    })
}

/// Writes zeros up to the next multiple of four after `length`. The kernel skips them between archives.
fn pad(out: &mut impl Write, length: u64) -> io::Result<()> {
    let missing = length.wrapping_neg() % 4;
    out.write_all(&[0; 3][..usize::try_from(missing).expect("less than four")])
}
