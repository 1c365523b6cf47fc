//! Where everything lies below the state and cache directories. No other module joins paths.
//!
//! ```text
//! state/  banger.db  lock  daemon.log  staging/<name>/
//!         images/<id>/ rootfs.ext4 manifest.json  kernels/<id>/…
//!         snapshots/<id>/ state memory overlay.ext4 work.ext4
//!         vms/<id>/  overlay.ext4 work.ext4  console.log console.times vmm.log  run/ (sockets, links, payload)
//!                    workspace/ (what was shipped, exports)
//!         catalogs/ images.json kernels.json (each with its signature)
//! cache/  templates/  payload/  probe/  blobs/sha256/<hex>  partial/  aside/
//! ```

use std::path::{Path, PathBuf};

use host::dirs::Dirs;
use image::catalog::Kind;
use model::{VmId, undo::NewDisk};

/// The layout of one installation.
#[derive(Debug, Clone)]
pub struct Paths {
    dirs: Dirs,
}

impl Paths {
    /// The layout below `dirs`, of which nothing may be there.
    #[must_use]
    pub fn of(dirs: Dirs) -> Self {
        Self { dirs }
    }

    /// The layout below `dirs`, whose directories are made where they are missing.
    ///
    /// # Errors
    /// Where one of them cannot be made, or is a link or somebody else's.
    pub fn prepare(dirs: Dirs) -> host::Result<Self> {
        let paths = Self::of(dirs);
        let cache = [
            paths.templates(),
            paths.payloads(),
            paths.probes(),
            paths.blobs().join("sha256"),
            paths.partial(),
            paths.blobs_aside(),
        ];
        let state = [
            paths.staging(),
            paths.images(),
            paths.kernels(),
            paths.snapshots(),
            paths.vms(),
            paths.catalogs(),
        ];
        let tops = [paths.dirs.state.clone(), paths.dirs.cache.clone(), paths.dirs.runtime.clone()];
        for directory in tops.iter().chain(&state).chain(&cache) {
            host::fs::private_dir(directory)?;
        }
        Ok(paths)
    }

    /// Whether `file`, on whose way there is no link, is one of those below these directories.
    ///
    /// # Errors
    /// Where the directories are not found.
    pub fn hold(&self, file: &Path) -> host::Result<bool> {
        for top in [&self.dirs.state, &self.dirs.cache, &self.dirs.runtime] {
            if file.starts_with(host::fs::real_path(top)?) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The database.
    #[must_use]
    pub fn database(&self) -> PathBuf {
        self.dirs.state.join("banger.db")
    }

    /// The file whose lock says that a daemon has this installation.
    #[must_use]
    pub fn lock(&self) -> PathBuf {
        self.dirs.state.join("lock")
    }

    /// Staging directories of images, kernels and snapshots that are not published.
    #[must_use]
    pub fn staging(&self) -> PathBuf {
        self.dirs.state.join("staging")
    }

    /// The directories of images, by id.
    #[must_use]
    pub fn images(&self) -> PathBuf {
        self.dirs.state.join("images")
    }

    /// The root file system of image `id`.
    #[must_use]
    pub fn rootfs(&self, id: &str) -> PathBuf {
        self.images().join(id).join(ROOTFS)
    }

    /// The directories of kernels, by id.
    #[must_use]
    pub fn kernels(&self) -> PathBuf {
        self.dirs.state.join("kernels")
    }

    /// The directories of snapshots, by id.
    #[must_use]
    pub fn snapshots(&self) -> PathBuf {
        self.dirs.state.join("snapshots")
    }

    /// The directory of snapshot `id`.
    #[must_use]
    pub fn snapshot(&self, id: &str) -> PathBuf {
        self.snapshots().join(id)
    }

    /// The newest catalog of that kind that was taken.
    #[must_use]
    pub fn catalog(&self, kind: Kind) -> PathBuf {
        self.catalogs().join(format!("{}.json", kind.name()))
    }

    /// The catalogs that were taken.
    #[must_use]
    pub fn catalogs(&self) -> PathBuf {
        self.dirs.state.join("catalogs")
    }

    /// The directories of VMs, by id.
    #[must_use]
    pub fn vms(&self) -> PathBuf {
        self.dirs.state.join("vms")
    }

    /// The directory of VM `id`.
    #[must_use]
    pub fn vm(&self, id: VmId) -> PathBuf {
        self.vms().join(id.to_string())
    }

    /// What was shipped into VM `id`, and what was made of its changes.
    #[must_use]
    pub fn workspace(&self, id: VmId) -> PathBuf {
        self.vm(id).join("workspace")
    }

    /// The run directory of VM `id`, which is there while it runs.
    #[must_use]
    pub fn run(&self, id: VmId) -> PathBuf {
        self.vm(id).join("run")
    }

    /// A writable disk of VM `id`.
    #[must_use]
    pub fn disk(&self, id: VmId, disk: NewDisk) -> PathBuf {
        self.vm(id).join(disk.file())
    }

    /// A writable disk of VM `id` that is being made.
    #[must_use]
    pub fn unfinished_disk(&self, id: VmId, disk: NewDisk) -> PathBuf {
        self.vm(id).join(format!("{}.new", disk.file()))
    }

    /// Templates of writable disks.
    #[must_use]
    pub fn templates(&self) -> PathBuf {
        self.dirs.cache.join("templates")
    }

    /// Boot payloads without a VM's config, by agent and kernel.
    #[must_use]
    pub fn payloads(&self) -> PathBuf {
        self.dirs.cache.join("payload")
    }

    /// Blobs of images, as a layout has them.
    #[must_use]
    pub fn blobs(&self) -> PathBuf {
        self.dirs.cache.join("blobs")
    }

    /// Blobs that are being fetched, and nothing else: what a crash leaves here goes.
    #[must_use]
    pub fn partial(&self) -> PathBuf {
        self.dirs.cache.join("partial")
    }

    /// Caches of blobs that are being removed; what a crash leaves here goes.
    #[must_use]
    pub fn blobs_aside(&self) -> PathBuf {
        self.dirs.cache.join("aside")
    }

    /// Remembered answers of probes.
    #[must_use]
    pub fn probes(&self) -> PathBuf {
        self.dirs.cache.join("probe")
    }
}

/// The file of an image's root file system in its directory.
pub const ROOTFS: &str = "rootfs.ext4";

/// The name of directory entry `path`.
#[must_use]
pub fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
