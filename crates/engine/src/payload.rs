//! The boot payload of a VM: the cached part for its agent and kernel, and its own config.

use std::{
    io::Write,
    path::{Path, PathBuf},
};

use image::kernel::KernelManifest;
use model::{
    boot::{DiskRole, Machine},
    kernel::{self, Feature},
    undo::NewDisk,
};
use vmm::Nic;
use wire::{
    guest::{self, Config},
    session::Secret,
};

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// What a VM needs of its kernel's directory.
#[derive(Debug, Clone)]
pub struct KernelFiles {
    /// The file that boot loaders start.
    image: Option<PathBuf>,
    /// The bare ELF file.
    elf: Option<PathBuf>,
    /// What it cannot do.
    lacks: Vec<Feature>,
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
        let file = |name: &Option<String>| name.as_ref().map(|name| directory.join(name));
        let (image, elf) = (file(&manifest.boot.image), file(&manifest.boot.elf));
        let lacks = Feature::ALL.into_iter().filter(|feature| !manifest.has(*feature)).collect();
        let modules_disk = manifest.file(directory, image::kernel::MODULES_EXT4);
        let modules_uuid = modules_disk.as_deref().map(image::identity::uuid_of).transpose()?;
        let modules = manifest.file(directory, image::kernel::MODULES_CPIO);
        let digest =
            manifest.files.get(image::kernel::MODULES_CPIO).map_or("none", |file| &file.sha256).to_owned();
        Ok(Self { image, elf, lacks, modules, modules_disk, modules_uuid, digest })
    }
}

impl KernelFiles {
    /// What `machine` boots.
    ///
    /// # Errors
    /// Where the kernel has no such file, or lacks what that machine needs of it.
    pub fn boot(&self, machine: Machine) -> Result<&Path, Cause> {
        let missing: Vec<_> =
            kernel::needed_on(machine).into_iter().filter(|feature| self.lacks.contains(feature)).collect();
        if !missing.is_empty() {
            return Err(kernel::Missing(missing).into());
        }
        let (file, none) = match machine {
            Machine::Pc => (self.image.as_ref().or(self.elf.as_ref()), "its kernel has no bootable file"),
            Machine::Firecracker => {
                (self.elf.as_ref(), "its kernel has no ELF file, which is what Firecracker boots")
            }
        };
        Ok(file.ok_or(none)?)
    }
}

/// What a VM boots on this time.
#[derive(Debug)]
pub struct Hardware<'a> {
    /// The kind of machine.
    pub machine: Machine,
    /// Opens sessions on its agent's channel, where that needs one.
    pub secret: &'a Secret,
    /// Its network card, where it has one.
    pub nic: Option<Nic>,
}

/// The config of the VM of `record` for one boot on `hardware`.
pub fn config(
    record: &store::Vm,
    image: &store::Image,
    writable: &[[u8; 16]],
    kernel: &KernelFiles,
    ssh: guest::Ssh,
    hardware: Hardware<'_>,
) -> Config {
    let Hardware { machine, secret, nic } = hardware;
    let (channel, end) = match machine {
        Machine::Pc => (guest::Channel::VirtioSerial { secret: secret.to_hex() }, guest::End::Poweroff),
        Machine::Firecracker => (guest::Channel::Vsock, guest::End::Reboot),
    };
    let disk = |role, uuid| disk(role, uuid, machine);
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
        channel,
        hostname: record.name.to_string(),
        machine_id: record.machine_id.clone(),
        disks,
        init,
        end,
        // It was written by this program.
        env: serde_json::from_str(&record.env).unwrap_or_default(),
        ssh: Some(ssh),
        network: nic.map(network),
    }
}

/// What the guest is told of its card.
fn network(Nic { card, link, .. }: Nic) -> guest::Network {
    guest::Network {
        mac: card.mac.to_string(),
        address: card.address,
        prefix: card.prefix,
        gateway: card.gateway,
        mtu: card.mtu,
        resolvers: vec![card.resolver(link)],
    }
}

fn disk(role: DiskRole, uuid: String, machine: Machine) -> guest::Disk {
    let (role, serial) = match role {
        DiskRole::Image => (guest::DiskRole::Image, role.serial()),
        DiskRole::Overlay => (guest::DiskRole::Overlay, role.serial()),
        DiskRole::Work => (guest::DiskRole::Work, role.serial()),
        DiskRole::Modules => (guest::DiskRole::Modules, role.serial()),
    };
    let serial = match machine {
        Machine::Pc => Some(serial.to_owned()),
        Machine::Firecracker => None,
    };
    guest::Disk { role, serial, uuid }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel_files(image: Option<&str>, elf: Option<&str>, lacks: &[Feature]) -> KernelFiles {
        KernelFiles {
            image: image.map(PathBuf::from),
            elf: elf.map(PathBuf::from),
            lacks: lacks.to_vec(),
            modules: None,
            modules_disk: None,
            modules_uuid: None,
            digest: String::new(),
        }
    }

    #[test]
    fn a_machine_boots_what_it_takes_of_a_kernel_that_has_what_it_needs() {
        let both = kernel_files(Some("vmlinuz"), Some("vmlinux"), &[Feature::VirtioNet]);
        assert_eq!(both.boot(Machine::Pc).unwrap(), Path::new("vmlinuz"));
        assert_eq!(both.boot(Machine::Firecracker).unwrap(), Path::new("vmlinux"));
        let why = |files: &KernelFiles, machine| files.boot(machine).unwrap_err().to_string();
        let packed = kernel_files(Some("vmlinuz"), None, &[]);
        assert!(why(&packed, Machine::Firecracker).contains("no ELF file"));
        let small = kernel_files(None, Some("vmlinux"), &[Feature::VirtioPci, Feature::VirtioConsole]);
        assert_eq!(small.boot(Machine::Firecracker).unwrap(), Path::new("vmlinux"));
        assert!(why(&small, Machine::Pc).contains("virtio-pci (CONFIG_VIRTIO_PCI), virtio-console"));
    }

    #[test]
    fn a_disk_has_a_serial_where_the_machine_shows_it() {
        let serial = |machine| disk(DiskRole::Overlay, String::new(), machine).serial;
        assert_eq!(serial(Machine::Pc).as_deref(), Some("banger-overlay"));
        assert_eq!(serial(Machine::Firecracker), None);
    }
}
