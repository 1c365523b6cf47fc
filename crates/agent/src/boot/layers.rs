//! The new root: the image below, the VM's own layer above, and what must not lie on overlayfs beside them.
//!
//! ```text
//! /banger/image    image disk, read-only            ┐
//! /banger/overlay  overlay disk  upper/ work/       ┴▶ /banger/root (overlayfs)
//!                                plain/docker …    ───▶   var/lib/docker …
//! /banger/work     work disk     root/             ───▶   root
//!                  modules disk, read-only         ───▶   lib/modules/<release>
//! ```

use std::{
    ffi::CStr,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use host::{Error, Result};
use rustix::{
    fs::{self, Mode, OFlags},
    io::Errno,
    mount::{MountFlags, mount, mount_bind},
};
use wire::guest::DiskRole;

use super::{disks::Disks, note, seed};
use crate::root::{Root, fd_path};

const IMAGE: &str = "/banger/image";
const OVERLAY: &str = "/banger/overlay";
const WORK: &str = "/banger/work";
/// Where the new root lies until it is entered.
pub const ROOT: &str = "/banger/root";

/// What must not lie on overlayfs: container engines stack overlayfs themselves, and it does not go on itself.
const PLAIN: [&str; 6] = [
    "var/lib/docker",
    "var/lib/containerd",
    "var/lib/containers",
    "var/lib/buildkit",
    "var/lib/rancher",
    "var/lib/kubelet",
];

/// Mounts image and overlay disk, and overlayfs of both.
///
/// # Errors
/// Where one cannot be mounted.
pub fn root(disks: &Disks) -> Result<Root> {
    read_only(disks.device(DiskRole::Image)?, Path::new(IMAGE))?;
    writable(disks.device(DiskRole::Overlay)?, Path::new(OVERLAY))?;
    let stat = fs::stat(IMAGE).map_err(|e| Error::path("stat", Path::new(IMAGE), e))?;
    // The new root's mode is that of the upper directory.
    seed::fill(&Path::new(OVERLAY).join("upper"), None, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    make_dir(&Path::new(OVERLAY).join("work"))?;
    make_dir(&Path::new(OVERLAY).join("plain"))?;
    make_dir(Path::new(ROOT))?;
    let options = c"lowerdir=/banger/image,upperdir=/banger/overlay/upper,workdir=/banger/overlay/work,\
                    redirect_dir=on,index=on,xino=on";
    mount("overlay", ROOT, "overlay", MountFlags::empty(), options)
        .map_err(|e| Error::path("mount", Path::new(ROOT), e))?;
    Root::open(Path::new(ROOT))
}

/// Binds the plain side's directories, each filled from the root the first time, and opens the overlay disk's file
/// system for later.
///
/// # Errors
/// Where the file system cannot be opened. A directory that cannot be bound is noted, for the guest runs without.
pub fn plain(root: &Root) -> Result<OwnedFd> {
    for path in PLAIN.map(Path::new) {
        // An image without /var/lib runs no container engine.
        if path.parent().is_some_and(|parent| root.dir(parent).is_none()) {
            continue;
        }
        if let Err(error) = bind_plain(root, path) {
            note(&error);
        }
    }
    open_volume(Path::new(OVERLAY))
}

fn bind_plain(root: &Root, path: &Path) -> Result<()> {
    let source = root.own_dir(path);
    // One that leads elsewhere is the image's own arrangement, and could lead to what must not be covered.
    let Some(place) = root.claim_dir(path)? else { return Ok(()) };
    let plain = Path::new(OVERLAY).join("plain").join(path.file_name().expect("the list has names"));
    // Of the root, not of the image: where the image had no place for it, the guest may have made it since.
    seed::fill(&plain, source, Mode::from_raw_mode(0o711))?;
    bind(&plain, place.as_fd(), path)
}

/// Mounts the work disk on `/root`, filled from the image the first time, and opens its file system for later.
///
/// # Errors
/// Where it cannot be mounted or filled.
pub fn work(root: &Root, disks: &Disks) -> Result<OwnedFd> {
    writable(disks.device(DiskRole::Work)?, Path::new(WORK))?;
    let image = Root::open(Path::new(IMAGE))?;
    let home = Path::new(WORK).join("root");
    seed::fill(&home, image.own_dir(Path::new("root")), Mode::from_raw_mode(0o700))?;
    let place = Path::new("root");
    bind(&home, root.make_own_dir(place)?.as_fd(), place)?;
    open_volume(Path::new(WORK))
}

/// Mounts the kernel's module tree where modprobe looks for it.
///
/// # Errors
/// Where it cannot be mounted.
pub fn kernel_modules(root: &Root, disks: &Disks) -> Result<()> {
    let Some(device) = disks.optional(DiskRole::Modules) else { return Ok(()) };
    // An image without /lib has nothing that would load a module.
    if root.dir(Path::new("lib")).is_none() {
        return Ok(());
    }
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy();
    let place = root.make_own_dir(&Path::new("lib/modules").join(release.as_ref()))?;
    ext4(device, &fd_path(place.as_fd()), MountFlags::RDONLY, c"noload")
}

fn bind(from: &Path, to: BorrowedFd<'_>, name: &Path) -> Result<()> {
    mount_bind(from, fd_path(to)).map_err(|e| Error::path("bind", name, e))
}

fn open_volume(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    fs::open(path, flags, Mode::empty()).map_err(|e| Error::path("open", path, e))
}

fn read_only(device: &Path, target: &Path) -> Result<()> {
    make_dir(target)?;
    // Others mount the same disk: its journal, clean as it is, must not be touched.
    ext4(device, target, MountFlags::RDONLY, c"noload")
}

fn writable(device: &Path, target: &Path) -> Result<()> {
    make_dir(target)?;
    // What is deleted here gets free on the host.
    ext4(device, target, MountFlags::empty(), c"discard")
}

fn ext4(device: &Path, target: &Path, flags: MountFlags, options: &CStr) -> Result<()> {
    mount(device, target, "ext4", flags, options)
        .map_err(|e| Error::new("mount", format_args!("{} on {}", device.display(), target.display()), e))
}

fn make_dir(path: &Path) -> Result<()> {
    match fs::mkdir(path, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(e) => Err(Error::path("make directory", path, e)),
    }
}
