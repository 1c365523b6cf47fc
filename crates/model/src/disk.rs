//! The writable disks of a VM: their files and templates.

use crate::undo::NewDisk;

impl NewDisk {
    /// Both, in the order in which they are made.
    pub const ALL: [Self; 2] = [Self::Overlay, Self::Work];

    /// The disk's file in the VM's directory.
    #[must_use]
    pub fn file(self) -> &'static str {
        match self {
            Self::Overlay => "overlay.ext4",
            Self::Work => "work.ext4",
        }
    }
}
