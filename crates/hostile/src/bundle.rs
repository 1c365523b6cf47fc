//! Bundles of catalogs: archives of a manifest and of what it names.

use std::ops::ControlFlow;

use image::{
    catalog::bundle::{ROOTFS, unpack_image, unpack_kernel},
    kernel::KernelManifest,
    manifest::ImageManifest,
    oci::Digest,
};
use serde_json::Value;

use crate::{choices::Choices, message, scratch::Scratch, tar};

/// The bytes of the file systems whose superblock is varied, and where that lies.
const SIZE: usize = 64 << 10;
const SUPERBLOCK: usize = 1024;

/// Of an archive, with headers of the right checksums, comes exactly what its manifest says, or nothing is taken.
///
/// # Panics
/// Where that does not hold.
pub fn check_archive(bytes: &[u8]) {
    let mut archive = bytes.to_vec();
    tar::repair(&mut archive);
    check_image(&archive);
    let scratch = Scratch::new();
    let dir = scratch.dir("kernel");
    match unpack_kernel(&*archive, &dir, &mut |_| ControlFlow::Continue(())) {
        Ok(manifest) => {
            let mut names: Vec<String> = manifest.files.keys().cloned().collect();
            names.push(KernelManifest::FILE.to_owned());
            names.sort();
            assert_eq!(scratch.names("kernel"), names);
        }
        Err(error) => message::check(&error),
    }
}

/// The same of an image whose file is the one that its manifest says, with a manifest and a superblock of `data`.
///
/// # Panics
/// Where that does not hold.
pub fn check_parts(data: &[u8]) {
    let mut choices = Choices::new(data);
    let Ok(mut manifest) = serde_json::from_slice::<Value>(choices.bytes()) else { return };
    let mut rootfs = vec![0; SIZE];
    let superblock = choices.take(SIZE - SUPERBLOCK);
    rootfs[SUPERBLOCK..][..superblock.len()].copy_from_slice(superblock);
    if let Some(fields) = manifest.as_object_mut() {
        fields.insert("sha256".to_owned(), Digest::of(&rootfs).hex().into());
        fields.insert("size".to_owned(), SIZE.into());
    }
    let mut archive = Vec::new();
    tar::add(&mut archive, b'0', ImageManifest::FILE.as_bytes(), b"", manifest.to_string().as_bytes());
    tar::add(&mut archive, b'0', ROOTFS.as_bytes(), b"", &rootfs);
    archive.resize(archive.len() + 2 * tar::BLOCK, 0);
    if check_image(&archive) {
        let log_block_size = &rootfs[SUPERBLOCK + 0x18..][..4];
        assert!(matches!(log_block_size, [0..=2, 0, 0, 0]), "no kernel mounts {log_block_size:?}");
    }
}

/// Whether there is an image in `archive`.
fn check_image(archive: &[u8]) -> bool {
    let scratch = Scratch::new();
    let dir = scratch.dir("image");
    match unpack_image(archive, &dir, &mut |_| ControlFlow::Continue(())) {
        Ok(image) => {
            assert_eq!(scratch.names("image"), [ImageManifest::FILE, ROOTFS]);
            let rootfs = scratch.read(&format!("image/{ROOTFS}"));
            assert_eq!(rootfs.len() as u64, image.manifest.size);
            assert_eq!(Digest::of(&rootfs).hex(), image.manifest.sha256);
            assert_ne!(image.uuid, [0; 16]);
            true
        }
        Err(error) => {
            message::check(&error);
            false
        }
    }
}
