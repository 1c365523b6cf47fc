//! Whether a tree can be written in the guest: a mount of the tree on itself says so for everybody, root too until it is remounted.

use std::{io, path::Path};

use rustix::{
    fs::{self, AtFlags, CWD, StatVfsMountFlags, StatxAttributes, StatxFlags},
    mount::{MountFlags, mount_bind, mount_remount},
};
use wire::tree::Access;

/// Makes the tree at `path` as `access` says, and looks whether it is so.
///
/// # Errors
/// Where the kernel does not do it: not root, a path that is none, files that are just being written.
pub fn set_access(path: &Path, access: Access) -> io::Result<()> {
    let stat = fs::statx(CWD, path, AtFlags::empty(), StatxFlags::BASIC_STATS)?;
    let is_mount = stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT);
    let flags = match access {
        // It is no mount of its own, and as writable as what it lies in.
        Access::Writable if !is_mount => return Ok(()),
        Access::Writable => MountFlags::BIND,
        Access::ReadOnly => {
            if !is_mount {
                mount_bind(path, path)?;
            }
            MountFlags::BIND | MountFlags::RDONLY
        }
    };
    mount_remount(path, flags, c"")?;
    let is_read_only = fs::statvfs(path)?.f_flag.contains(StatVfsMountFlags::RDONLY);
    if is_read_only == (access == Access::ReadOnly) {
        Ok(())
    } else {
        Err(io::Error::other("the mount is not what it was made"))
    }
}
