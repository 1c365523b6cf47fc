//! Small kernels, modules and packages that have the form of real ones, to take apart what is right and what is wrong.

use std::io::Write;

/// A configuration with all that a guest needs built in.
pub const CONFIG: &str = "CONFIG_BLK_DEV_INITRD=y\nCONFIG_DEVTMPFS=y\nCONFIG_VIRTIO_PCI=y\nCONFIG_VIRTIO_MMIO=y\n\
    CONFIG_VIRTIO_BLK=y\nCONFIG_VIRTIO_NET=y\nCONFIG_VIRTIO_CONSOLE=y\nCONFIG_VIRTIO_VSOCKETS=y\nCONFIG_EXT4_FS=y\n\
    CONFIG_OVERLAY_FS=y\n";

/// The release of the kernels made here.
pub const RELEASE: &str = "6.1.0-test";

fn put<const N: usize>(bytes: &mut [u8], at: usize, value: [u8; N]) {
    bytes[at..at + N].copy_from_slice(&value);
}

/// A bare kernel, with its configuration inside where one is given.
pub fn vmlinux(config: Option<&str>) -> Vec<u8> {
    let mut bytes = vec![0; 64 + 56];
    put(&mut bytes, 0, *b"\x7fELF\x02\x01\x01");
    put(&mut bytes, 16, 2u16.to_le_bytes());
    put(&mut bytes, 18, 62u16.to_le_bytes());
    put(&mut bytes, 32, 64u64.to_le_bytes());
    put(&mut bytes, 54, 56u16.to_le_bytes());
    put(&mut bytes, 56, 1u16.to_le_bytes());
    bytes.extend(format!("Linux version %s\0Linux version {RELEASE} (builder) #1\0").bytes());
    if let Some(config) = config {
        bytes.extend(b"IKCFG_ST");
        bytes.extend(gzip(config.as_bytes()));
        bytes.extend(b"IKCFG_ED");
    }
    let length = bytes.len() as u64;
    put(&mut bytes, 64 + 32, length.to_le_bytes());
    bytes
}

/// A `bzImage` that carries `payload`.
pub fn bzimage(payload: &[u8]) -> Vec<u8> {
    const BEGIN: usize = 1024;
    const OFFSET: u32 = 32;
    let mut bytes = vec![0; BEGIN + OFFSET as usize];
    bytes.extend(payload);
    bytes.resize(bytes.len().next_multiple_of(16), 0);
    let paragraphs = u32::try_from((bytes.len() - BEGIN) / 16).unwrap();
    put(&mut bytes, 0x1f1, [1]);
    put(&mut bytes, 0x1f4, paragraphs.to_le_bytes());
    put(&mut bytes, 0x1fe, *b"\x55\xaa");
    put(&mut bytes, 0x202, *b"HdrS");
    put(&mut bytes, 0x206, 0x020fu16.to_le_bytes());
    put(&mut bytes, 0x20e, 0x100u16.to_le_bytes());
    put(&mut bytes, 0x236, 1u16.to_le_bytes());
    put(&mut bytes, 0x248, OFFSET.to_le_bytes());
    put(&mut bytes, 0x24c, u32::try_from(payload.len()).unwrap().to_le_bytes());
    bytes[0x300..0x300 + RELEASE.len()].copy_from_slice(RELEASE.as_bytes());
    put(&mut bytes, 0x300 + RELEASE.len(), *b" (builder) #1\0");
    bytes
}

/// A module whose `.modinfo` has these lines.
pub fn module(info: &[&str]) -> Vec<u8> {
    let names = b"\0.modinfo\0.shstrtab\0";
    let content: Vec<u8> = info.iter().flat_map(|line| line.bytes().chain([0])).collect();
    let mut bytes = vec![0; 64];
    put(&mut bytes, 0, *b"\x7fELF\x02\x01");
    let places = [(0, 0, 0), (1, 64, content.len()), (10, 64 + content.len(), names.len())];
    bytes.extend(&content);
    bytes.extend(names);
    let table = bytes.len() as u64;
    put(&mut bytes, 40, table.to_le_bytes());
    put(&mut bytes, 58, [64, 0, 3, 0, 2, 0]);
    for (name, at, length) in places {
        let mut header = [0; 64];
        put(&mut header, 0, u32::to_le_bytes(name));
        put(&mut header, 24, (at as u64).to_le_bytes());
        put(&mut header, 32, (length as u64).to_le_bytes());
        bytes.extend(header);
    }
    bytes
}

pub fn gzip(content: &[u8]) -> Vec<u8> {
    let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    writer.write_all(content).unwrap();
    writer.finish().unwrap()
}

pub fn zstd(content: &[u8]) -> Vec<u8> {
    zstd::encode_all(content, 3).unwrap()
}

pub fn xz(content: &[u8]) -> Vec<u8> {
    let mut writer = lzma_rust2::XzWriter::new(Vec::new(), lzma_rust2::XzOptions::with_preset(0)).unwrap();
    writer.write_all(content).unwrap();
    writer.finish().unwrap()
}

pub fn bzip2(content: &[u8]) -> Vec<u8> {
    let mut writer = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::best());
    writer.write_all(content).unwrap();
    writer.finish().unwrap()
}

pub fn lzma(content: &[u8]) -> Vec<u8> {
    let options = lzma_rust2::LzmaOptions::with_preset(0);
    let mut writer = lzma_rust2::LzmaWriter::new_use_header(Vec::new(), &options, None).unwrap();
    writer.write_all(content).unwrap();
    writer.finish().unwrap()
}

/// The legacy frame of LZ4 with one block that has literals only.
pub fn lz4(content: &[u8]) -> Vec<u8> {
    let mut block = vec![0xf0];
    let mut rest = content.len().checked_sub(15).unwrap();
    while rest >= 255 {
        block.push(255);
        rest -= 255;
    }
    block.push(u8::try_from(rest).unwrap());
    block.extend(content);
    let mut bytes = b"\x02\x21\x4c\x18".to_vec();
    bytes.extend(u32::try_from(block.len()).unwrap().to_le_bytes());
    bytes.extend(block);
    bytes
}

/// A tar of these regular files.
pub fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, content) in files {
        add(&mut tar, path, tar::EntryType::Regular, content);
    }
    tar.into_inner().unwrap()
}

/// Adds an entry under whatever name, also one that the library would refuse to write.
pub fn add(tar: &mut tar::Builder<Vec<u8>>, path: &str, kind: tar::EntryType, content: &[u8]) {
    let mut header = tar::Header::new_gnu();
    header.as_gnu_mut().unwrap().name[..path.len()].copy_from_slice(path.as_bytes());
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_size(content.len() as u64);
    header.set_cksum();
    tar.append(&header, content).unwrap();
}

/// A package with these members after `debian-binary`.
pub fn deb(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut bytes = b"!<arch>\n".to_vec();
    for (name, content) in [("debian-binary", &b"2.0\n"[..])].iter().chain(members) {
        bytes.extend(
            format!("{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`\n", 0, 0, 0, "100644", content.len()).bytes(),
        );
        bytes.extend(*content);
        bytes.resize(bytes.len().next_multiple_of(2), b'\n');
    }
    bytes
}
