//! The boot payload of a VM: the cached part for its agent and kernel, and its own config.

use std::{
    io::Write,
    path::{Path, PathBuf},
};

use image::kernel::KernelManifest;
use model::{boot::DiskRole, undo::NewDisk};
use wire::{
    guest::{self, Config},
    session::Secret,
};

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// What a VM needs of its kernel's directory.
#[derive(Debug, Clone)]
pub struct KernelFiles {
    /// What the VMM boots.
    pub boot: PathBuf,
    /// The boot closure of its modules.
    modules: Option<PathBuf>,
    /// The disk with its whole module tree.
    pub modules_disk: Option<PathBuf>,
    /// The UUID of that disk's file system.
    pub modules_uuid: Option<[u8; 16]>,
    /// Tells this kernel from another of the same name.
    digest: String,
}

impl KernelFiles {
    /// What the kernel in `directory` has.
    pub fn read(directory: &Path) -> Result<Self, Cause> {
        let manifest = KernelManifest::read(directory)?;
        let boot = manifest.bootable().ok_or("its kernel has no bootable file")?;
        let modules_disk = manifest.file(directory, image::kernel::MODULES_EXT4);
        let modules_uuid = modules_disk.as_deref().map(image::identity::uuid_of).transpose()?;
        let modules = manifest.file(directory, image::kernel::MODULES_CPIO);
        let digest =
            manifest.files.get(image::kernel::MODULES_CPIO).map_or("none", |file| &file.sha256).to_owned();
        Ok(Self { boot: directory.join(boot), modules, modules_disk, modules_uuid, digest })
    }
}

/// The config of the VM of `record` for one boot.
pub fn config(
    record: &store::Vm,
    image: &store::Image,
    writable: &[[u8; 16]],
    kernel: &KernelFiles,
    secret: &Secret,
    ssh: guest::Ssh,
) -> Config {
    let mut disks = vec![disk(DiskRole::Image, image.uuid.clone())];
    for (which, uuid) in NewDisk::ALL.into_iter().zip(writable) {
        let role = match which {
            NewDisk::Overlay => DiskRole::Overlay,
            NewDisk::Work => DiskRole::Work,
        };
        disks.push(disk(role, uuid_text(*uuid)));
    }
    disks.extend(kernel.modules_uuid.map(|uuid| disk(DiskRole::Modules, uuid_text(uuid))));
    let init = match image.init.as_str() {
        path if path.starts_with('/') => guest::Init::Path(path.to_owned()),
        _ => guest::Init::Auto,
    };
    Config {
        version: guest::VERSION,
        channel_secret: secret.to_hex(),
        hostname: record.name.to_string(),
        machine_id: record.machine_id.clone(),
        disks,
        init,
        end: guest::End::Poweroff,
        // It was written by this program.
        env: serde_json::from_str(&record.env).unwrap_or_default(),
        ssh: Some(ssh),
        network: None,
    }
}

fn disk(role: DiskRole, uuid: String) -> guest::Disk {
    let (role, serial) = match role {
        DiskRole::Image => (guest::DiskRole::Image, role.serial()),
        DiskRole::Overlay => (guest::DiskRole::Overlay, role.serial()),
        DiskRole::Work => (guest::DiskRole::Work, role.serial()),
        DiskRole::Modules => (guest::DiskRole::Modules, role.serial()),
    };
    guest::Disk { role, serial: Some(serial.to_owned()), uuid }
}

/// A UUID as it is written.
pub fn uuid_text(uuid: [u8; 16]) -> String {
    uuid::Uuid::from_bytes(uuid).to_string()
}

/// Writes the payload of `config` to `target`, making the part that VMs share in `cache` where it is missing.
pub fn write(
    cache: &Path,
    agent: &Path,
    kernel: &KernelFiles,
    config: &Config,
    target: &Path,
) -> Result<(), Cause> {
    let base = cache.join(base_name(agent, kernel)?);
    if !host::fs::exists(&base) {
        // Another start may be making the same: each writes its own file, and the last rename wins with equal bytes.
        let staged = cache.join(format!(".{:x}", u64::from_ne_bytes(host::rand::bytes())));
        let made = (|| -> Result<(), Cause> {
            let mut file = host::fs::create_new(&staged)?;
            image::initramfs::base(agent, kernel.modules.as_deref(), &mut file)?;
            file.flush()?;
            file.sync_all()?;
            Ok(host::fs::rename(&staged, &base)?)
        })();
        if let Err(error) = made {
            host::fs::remove(&staged)?;
            return Err(error);
        }
    }
    image::initramfs::assemble(&base, &serde_json::to_vec(config)?, target)?;
    Ok(())
}

/// The name tells the agent (size and modification time) and the kernel's modules (digest).
fn base_name(agent: &Path, kernel: &KernelFiles) -> Result<String, Cause> {
    let (size, modified) = host::fs::identity(agent)?;
    Ok(format!("{size:x}-{modified:x}-{}.cpio", kernel.digest.get(..16).unwrap_or(&kernel.digest)))
}
