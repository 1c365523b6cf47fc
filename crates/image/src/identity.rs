//! What tells one file system image from another: its digest and its UUID.

use std::{io::Read, os::unix::fs::FileExt, path::Path};

use sha2::{Digest, Sha256};

/// Where the UUID of an ext4 file system lies: its superblock at 1024, and `s_uuid` in it (kernel, `ext4/super.rst`).
const UUID_AT: u64 = 1024 + 0x68;
const READ: usize = 64 << 10;

/// The SHA-256 of file `path` in hexadecimal digits.
///
/// # Errors
/// Where it cannot be read.
pub fn sha256_of(path: &Path) -> host::Result<String> {
    sha256(&mut host::fs::open(path)?).map_err(|e| host::Error::path("read", path, e))
}

/// The SHA-256 of `content` in hexadecimal digits.
///
/// # Errors
/// Where it cannot be read.
pub fn sha256(content: &mut dyn Read) -> std::io::Result<String> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; READ];
    loop {
        match content.read(&mut buffer)? {
            0 => return Ok(model::hex::encode(&hasher.finalize())),
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
