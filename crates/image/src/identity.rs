//! What tells one file system image from another: its digest and its UUID.

use std::{io::Read, os::unix::fs::FileExt, path::Path};

use sha2::{Digest, Sha256};

/// Where the UUID of an ext4 file system lies: its superblock at 1024, and `s_uuid` in it (kernel, `ext4/super.rst`).
const UUID_AT: u64 = 1024 + 0x68;
const READ: usize = 1 << 20;

/// The SHA-256 of file `path` in hexadecimal digits.
///
/// # Errors
/// Where it cannot be read.
pub fn sha256_of(path: &Path) -> host::Result<String> {
    let mut file = host::fs::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; READ];
    loop {
        match file.read(&mut buffer).map_err(|e| host::Error::path("read", path, e))? {
            0 => return Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()),
            count => hasher.update(&buffer[..count]),
        }
    }
}

/// The UUID of the ext4 file system in file `path`.
///
/// # Errors
/// Where it cannot be read.
pub fn uuid_of(path: &Path) -> host::Result<[u8; 16]> {
    let mut uuid = [0; 16];
    host::fs::open(path)?
        .read_exact_at(&mut uuid, UUID_AT)
        .map_err(|e| host::Error::path("read", path, e))?;
    Ok(uuid)
}
