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

/// The same with [`CONFIG`] inside, as `IKCONFIG` has it.
#[must_use]
pub fn vmlinux_with_config() -> Vec<u8> {
    let mut bytes = vmlinux();
    bytes.extend(b"IKCFG_ST");
    bytes.extend(stored_gzip(CONFIG.as_bytes()));
    bytes.extend(b"IKCFG_ED");
    let length = bytes.len() as u64;
    bytes[96..104].copy_from_slice(&length.to_le_bytes());
    bytes
}

/// A gzip file of one block that is not compressed (RFC 1951 and 1952).
fn stored_gzip(content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).expect("it fits into one block");
    let crc = content.iter().fold(!0_u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 * (crc & 1)))
    });
    let mut bytes = b"\x1f\x8b\x08\0\0\0\0\0\0\xff\x01".to_vec();
    bytes.extend(length.to_le_bytes());
    bytes.extend((!length).to_le_bytes());
    bytes.extend(content);
    bytes.extend((!crc).to_le_bytes());
    bytes.extend(u32::from(length).to_le_bytes());
    bytes
}
