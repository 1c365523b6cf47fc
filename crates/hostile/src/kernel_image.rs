//! Kernels: the bootable file, what it carries packed, packages, and modules.

use std::ops::ControlFlow;

use image::kernel::{
    self, BootImage, Form, KernelManifest, MODULES_EXT4, Source, embedded_config, extract_vmlinux,
};

use crate::{e2fsck::Asked, scratch::Scratch, tar};

/// A configuration with all that a guest needs built in.
const CONFIG: &[u8] = b"CONFIG_BLK_DEV_INITRD=y\nCONFIG_DEVTMPFS=y\nCONFIG_VIRTIO_PCI=y\nCONFIG_VIRTIO_MMIO=y\n\
    CONFIG_VIRTIO_BLK=y\nCONFIG_VIRTIO_NET=y\nCONFIG_VIRTIO_CONSOLE=y\nCONFIG_VIRTIO_VSOCKETS=y\nCONFIG_EXT4_FS=y\n\
    CONFIG_OVERLAY_FS=y\n";
const RELEASE: &str = "6.1.0-test";
/// What a packed kernel may become whatever its length, and how many times its length.
const FREE: usize = 16 << 20;
const RATIO: usize = 64;

/// What is taken for a kernel is one, and unpacks to no more than a kernel would; what is imported of a package is whole and
/// has only files that it should have.
///
/// The first byte says what the others are: a bootable file, what it carries, a package, the files in one, a module.
///
/// # Panics
/// Where that does not hold.
pub fn check(data: &[u8], asked: Asked) {
    let Some((what, rest)) = data.split_first() else { return };
    match what % 6 {
        0 => check_file(rest),
        1 => check_file(&bzimage(rest)),
        2 => check_package(data, rest, asked),
        3 => {
            let mut files = rest.to_vec();
            tar::repair(&mut files);
            check_package(data, &package(&files), asked);
        }
        4 => {
            let module = format!("lib/modules/{RELEASE}/kernel/a.ko");
            check_package(data, &package_of(&[(&module, rest)]), asked);
        }
        _ => {
            let at = |name| format!("lib/modules/{RELEASE}/{name}");
            let (order, builtin, info) =
                (at("modules.order"), at("modules.builtin"), at("modules.builtin.modinfo"));
            check_package(data, &package_of(&[(&order, rest), (&builtin, rest), (&info, rest)]), asked);
        }
    }
}

fn check_file(bytes: &[u8]) {
    let found = BootImage::identify(bytes);
    if let Ok(BootImage { form, arch, release }) = &found {
        let harmless = |b: u8| b.is_ascii_alphanumeric() || b"._+~-".contains(&b);
        assert!(release.bytes().all(harmless) && release.len() <= 64, "{release:?}");
        assert!(release.starts_with(|c: char| c.is_ascii_digit()), "{release:?} could be a path");
        assert_eq!(*form == Form::BzImage, bytes.get(0x202..0x206) == Some(b"HdrS"));
        assert!(["x86_64", "aarch64"].contains(arch));
    }
    let limit = FREE.max(bytes.len().saturating_mul(RATIO));
    if let Ok(elf) = extract_vmlinux(bytes) {
        assert!(elf.starts_with(b"\x7fELF"));
        assert!(elf.len() <= limit, "{} bytes unpack to {}", bytes.len(), elf.len());
    }
    if let Some(config) = embedded_config(bytes) {
        assert!(config.len() <= 4 << 20);
    }
}

fn check_package(data: &[u8], bytes: &[u8], asked: Asked) {
    let scratch = Scratch::new();
    let package = scratch.file("package.deb", bytes);
    let staging = scratch.dir("kernel");
    let import = kernel::import(&Source::Deb(vec![package]), &staging, &mut |_| ControlFlow::Continue(()));
    let Ok(manifest) = import else { return };
    assert_eq!(KernelManifest::read(&staging).expect("it was written"), manifest);
    let mut names: Vec<String> = manifest.files.keys().cloned().collect();
    names.push(KernelManifest::FILE.to_owned());
    names.sort();
    assert_eq!(scratch.names("kernel"), names);
    for (name, record) in &manifest.files {
        assert_eq!(scratch.read(&format!("kernel/{name}")).len() as u64, record.size, "{name}");
    }
    if manifest.files.contains_key(MODULES_EXT4) {
        asked.check(data, &staging.join(MODULES_EXT4));
    }
}

/// A package of a kernel that can be imported, and `files` beside it.
fn package_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = Vec::new();
    tar::add(&mut archive, b'0', format!("./boot/vmlinuz-{RELEASE}").as_bytes(), b"", &bzimage(&vmlinux()));
    tar::add(&mut archive, b'0', format!("./boot/config-{RELEASE}").as_bytes(), b"", CONFIG);
    for (path, content) in files {
        tar::add(&mut archive, b'0', path.as_bytes(), b"", content);
    }
    archive.resize(archive.len() + 2 * tar::BLOCK, 0);
    package(&archive)
}

/// A package with `files` as its `data.tar`.
fn package(files: &[u8]) -> Vec<u8> {
    let mut bytes = b"!<arch>\n".to_vec();
    for (name, content) in [("debian-binary", &b"2.0\n"[..]), ("data.tar", files)] {
        bytes.extend(
            format!("{name:<16}{0:<12}{0:<6}{0:<6}{1:<8}{2:<10}`\n", 0, 100_644, content.len()).bytes(),
        );
        bytes.extend(content);
        bytes.resize(bytes.len().next_multiple_of(2), b'\n');
    }
    bytes
}

/// A bare kernel.
fn vmlinux() -> Vec<u8> {
    let mut bytes = vec![0; 64 + 56];
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    put(0, b"\x7fELF\x02\x01\x01");
    put(18, &62u16.to_le_bytes());
    put(32, &64u64.to_le_bytes());
    put(54, &56u16.to_le_bytes());
    put(56, &1u16.to_le_bytes());
    bytes.extend(format!("Linux version {RELEASE} (builder) #1\0").bytes());
    bytes
}

/// A `bzImage` that carries `payload`.
fn bzimage(payload: &[u8]) -> Vec<u8> {
    const BEGIN: usize = 1024;
    let mut bytes = vec![0; BEGIN];
    bytes.extend(payload);
    bytes.resize(bytes.len().next_multiple_of(16), 0);
    let paragraphs = u32::try_from((bytes.len() - BEGIN) / 16).unwrap_or(u32::MAX);
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    put(0x1f1, &[1]);
    put(0x1f4, &paragraphs.to_le_bytes());
    put(0x1fe, b"\x55\xaa");
    put(0x202, b"HdrS");
    put(0x206, &0x020fu16.to_le_bytes());
    put(0x20e, &0x100u16.to_le_bytes());
    put(0x236, &1u16.to_le_bytes());
    put(0x24c, &length.to_le_bytes());
    put(0x300, format!("{RELEASE} (builder) #1\0").as_bytes());
    bytes
}
