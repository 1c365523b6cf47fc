//! What a VM boots with: the kernel's command line and the disks in their order.

use std::fmt;

/// What a disk of a VM is for. The discriminants are the attach order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DiskRole {
    /// The image, read-only and shared.
    Image,
    /// The VM's own layer over the image.
    Overlay,
    /// The VM's `/root`.
    Work,
    /// The kernel's module tree, read-only and shared; only where the kernel has modules.
    Modules,
}

impl DiskRole {
    /// In attach order. `/init` finds disks by this order where the VMM shows no serial, so what may be absent is last.
    pub const ALL: [Self; 4] = [Self::Image, Self::Overlay, Self::Work, Self::Modules];

    /// The name used in the VM's boot configuration and for its files.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Image => "image",
            Self::Overlay => "overlay",
            Self::Work => "work",
            Self::Modules => "modules",
        }
    }

    /// The serial number that the disk shows to the guest. Virtio has room for 20 bytes.
    #[must_use]
    pub fn serial(self) -> &'static str {
        match self {
            Self::Image => "banger-image",
            Self::Overlay => "banger-overlay",
            Self::Work => "banger-work",
            Self::Modules => "banger-modules",
        }
    }

    /// Whether the guest may write to it.
    #[must_use]
    pub fn access(self) -> DiskAccess {
        match self {
            Self::Image | Self::Modules => DiskAccess::ReadOnly,
            Self::Overlay | Self::Work => DiskAccess::ReadWrite,
        }
    }
}

impl fmt::Display for DiskRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How a disk is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskAccess {
    /// Shared with other VMs, never written.
    ReadOnly,
    /// This VM's alone.
    ReadWrite,
}

/// The machine that a kernel boots on, as far as its boot depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Machine {
    /// A PC with PCI: QEMU's q35. Its agent is behind a virtio-serial port, its disks show serials, and a power-off ends it.
    Pc,
    /// Firecracker's: virtio devices at fixed addresses. Its agent is behind vsock, its disks are known by their order, and only
    /// a reset ends it.
    Firecracker,
}

/// The guest kernel's command line.
#[must_use]
pub fn command_line(machine: Machine) -> String {
    let mut words: Vec<String> = [
        // The serial port that the VMM writes to the console log.
        "console=ttyS0",
        // Reboot by the keyboard controller: the one way out that every VMM sees as the machine's end.
        "reboot=k",
        // A panic reboots at once, so it ends the VMM instead of hanging it.
        "panic=-1",
        // A serial port is slow, above all an emulated one: only warnings and worse.
        "quiet",
        "loglevel=4",
        // The agent has set address, host name and keys; cloud-init would wait for a metadata server and undo them.
        "cloud-init=disabled",
        // The network card is eth0, as the agent configured it before systemd came up.
        "net.ifnames=0",
        // The image's fstab speaks of the disks of another machine, and systemd would wait for them.
        "fstab=no",
        // The labels are not in the image, and an enforcing policy without them refuses everything.
        "selinux=0",
        // Container engines load a profile where AppArmor is on, and fail in an image without its parser.
        "apparmor=0",
    ]
    .map(str::to_owned)
    .to_vec();
    match machine {
        Machine::Pc => {}
        // There is no PCI, and of the keyboard controller only what resets; looking for the rest takes time.
        Machine::Firecracker => words.extend(
            ["pci=off", "i8042.noaux", "i8042.nomux", "i8042.nopnp", "i8042.dumbkbd"].map(str::to_owned),
        ),
    }
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn serials_fit_and_differ() {
        let serials: BTreeSet<_> = DiskRole::ALL.map(DiskRole::serial).into();
        assert_eq!(serials.len(), DiskRole::ALL.len());
        assert!(serials.iter().all(|serial| serial.len() <= 20 && serial.is_ascii()));
    }

    #[test]
    fn the_roles_are_in_attach_order() {
        assert!(DiskRole::ALL.is_sorted());
        assert_eq!(DiskRole::ALL.map(DiskRole::name), ["image", "overlay", "work", "modules"]);
    }

    #[test]
    fn the_command_line_is_this() {
        const COMMON: &str = "console=ttyS0 reboot=k panic=-1 quiet loglevel=4 cloud-init=disabled net.ifnames=0 \
                              fstab=no selinux=0 apparmor=0";
        assert_eq!(command_line(Machine::Pc), COMMON);
        assert_eq!(
            command_line(Machine::Firecracker),
            format!("{COMMON} pci=off i8042.noaux i8042.nomux i8042.nopnp i8042.dumbkbd")
        );
    }
}
