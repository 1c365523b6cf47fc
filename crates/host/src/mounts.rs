//! Mounts that are nowhere: a file or directory as another user is to see it, without a change to the thing itself.
//!
//! ```text
//! descriptor ──▶ Mount::of, a copy of the mount of what it stands for ──▶ Mount::limit: users mapped, rights taken
//!     ──▶ Command::jailed puts it into the mounts of a child, or its descriptor is a directory to work in
//! ```
//! A mount that nobody put anywhere is gone with its last descriptor, so a crash leaves none.

use std::{
    ffi::c_long,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use rustix::mount::OpenTreeFlags;

use crate::{Error, Result, proc::UserMap};

/// What may be done through a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Reading.
    Read,
    /// Reading and writing.
    Write,
}

/// A mount that is nowhere yet.
#[derive(Debug)]
pub struct Mount(OwnedFd);

impl Mount {
    /// Of what `descriptor`, which this process itself opened by name, stands for; nothing below a directory is mounted in it.
    ///
    /// # Errors
    /// Where this process may not mount it.
    pub fn of(descriptor: impl AsFd) -> Result<Self> {
        let flags =
            OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
        let made = rustix::mount::open_tree(descriptor, c"", flags);
        made.map(Self).map_err(|e| Error::new("mount", "an open file", e))
    }

    /// Its users are those of `users`; no link is followed in it, no program or device of it used, and nothing done but `access`.
    ///
    /// # Errors
    /// Where the file system has no such mounts (before Linux 5.12, or overlayfs): [`io::ErrorKind::InvalidInput`].
    pub fn limit(&self, users: &UserMap, access: Access) -> Result<()> {
        let mut take = libc::MOUNT_ATTR_NOSUID
            | libc::MOUNT_ATTR_NODEV
            | libc::MOUNT_ATTR_NOEXEC
            | libc::MOUNT_ATTR_NOSYMFOLLOW
            | libc::MOUNT_ATTR_IDMAP;
        let mut give = 0;
        match access {
            Access::Read => take |= libc::MOUNT_ATTR_RDONLY,
            Access::Write => give |= libc::MOUNT_ATTR_RDONLY,
        }
        let attributes = libc::mount_attr {
            attr_set: take,
            attr_clr: give,
            propagation: 0,
            userns_fd: u64::try_from(users.as_fd().as_raw_fd()).expect("it is open"),
        };
        // SAFETY: the path ends with a zero, and the kernel reads one attribute of the size that it is told.
        let result: c_long = unsafe {
            libc::syscall(
                libc::SYS_mount_setattr,
                self.0.as_raw_fd(),
                c"".as_ptr(),
                libc::AT_EMPTY_PATH,
                &raw const attributes,
                size_of::<libc::mount_attr>(),
            )
        };
        match result {
            0 => Ok(()),
            _ => Err(Error::new("map the users of", "a mount", io::Error::last_os_error())),
        }
    }
}

impl AsFd for Mount {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<Mount> for OwnedFd {
    fn from(mount: Mount) -> Self {
        mount.0
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, File},
        os::unix::fs::{MetadataExt, PermissionsExt, symlink},
        path::PathBuf,
    };

    use super::*;
    use crate::proc::{Mapping, own_uid};

    /// What `mount`, a directory, is called while it is open.
    fn path(mount: &Mount) -> PathBuf {
        format!("/proc/self/fd/{}", mount.as_fd().as_raw_fd()).into()
    }

    #[test]
    fn another_user_sees_a_directory_as_its_own_and_it_stays_whose_it_was() {
        if own_uid() != 0 {
            return;
        }
        let dir = std::env::temp_dir().join(format!("banger-mounts-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir(&dir).unwrap();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).unwrap();
        fs::write(dir.join("file"), "text").unwrap();
        fs::write(dir.join("roots"), "text").unwrap();
        symlink("file", dir.join("link")).unwrap();
        for path in [&dir, &dir.join("file")] {
            std::os::unix::fs::chown(path, Some(70_001), Some(70_002)).unwrap();
        }
        let users =
            UserMap::new(Mapping { stored: 70_001, seen: 12_345 }, Mapping { stored: 70_002, seen: 12_346 })
                .unwrap();
        for access in [Access::Read, Access::Write] {
            let mount = Mount::of(File::open(&dir).unwrap()).unwrap();
            if let Err(error) = mount.limit(&users, access) {
                // The file system of this directory cannot.
                assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{error}");
                break;
            }
            let seen = fs::metadata(path(&mount).join("file")).unwrap();
            assert_eq!((seen.uid(), seen.gid()), (12_345, 12_346));
            let written = fs::write(path(&mount).join("file"), "changed");
            assert_eq!(written.is_ok(), access == Access::Write, "{written:?}");
            let followed = fs::read(path(&mount).join("link")).unwrap_err();
            assert_eq!(followed.raw_os_error(), Some(libc::ELOOP));
            // Who it is nobody to changes nothing of it, root neither.
            assert_ne!(fs::metadata(path(&mount).join("roots")).unwrap().uid(), 0);
        }
        let kept = fs::metadata(dir.join("file")).unwrap();
        assert_eq!((kept.uid(), kept.gid()), (70_001, 70_002));
        fs::remove_dir_all(&dir).unwrap();
    }
}
