//! The smallest kernel that can be imported: it has the form of one, and nothing boots it.

/// A configuration with all that a guest needs built in.
pub const CONFIG: &str = "CONFIG_BLK_DEV_INITRD=y\nCONFIG_DEVTMPFS=y\nCONFIG_VIRTIO_PCI=y\nCONFIG_VIRTIO_MMIO=y\n\
    CONFIG_VIRTIO_BLK=y\nCONFIG_VIRTIO_NET=y\nCONFIG_VIRTIO_CONSOLE=y\nCONFIG_VIRTIO_VSOCKETS=y\nCONFIG_EXT4_FS=y\n\
    CONFIG_OVERLAY_FS=y\n";

/// A bare ELF kernel without its configuration.
#[must_use]
pub fn vmlinux() -> Vec<u8> {
    let mut bytes = vec![0; 64 + 56];
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    put(0, b"\x7fELF\x02\x01\x01");
    put(16, &2u16.to_le_bytes());
    // x86-64, and one program header.
    put(18, &62u16.to_le_bytes());
    put(32, &64u64.to_le_bytes());
    put(54, &56u16.to_le_bytes());
    put(56, &1u16.to_le_bytes());
    bytes.extend(b"Linux version %s\0Linux version 6.1.0-test (builder) #1\0");
    let length = bytes.len() as u64;
    bytes[96..104].copy_from_slice(&length.to_le_bytes());
    bytes
}
