//! Archives that are cut off, hostile or of the wrong kind: the error names the entry, and nothing is left.

use std::{
    error::Error,
    io::{Read, Write},
    ops::ControlFlow,
    path::Path,
};

use image::{
    ext4::{
        self, AttributeSet,
        tree::{Meta, ROOT, Timestamp},
    },
    rootfs::{ImportError, ImportOptions, Limits, RootfsReport, import_tar},
};

use crate::{
    kernel_support::Scratch,
    rootfs_support::{Head, Tar, e2fsck, import, seal},
};

const META: Meta = Meta { mode: 0o755, uid: 0, gid: 0, mtime: Timestamp { seconds: 0, nanoseconds: 0 } };

/// The error with its causes, each once.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += ": ";
        text += &error.to_string();
        cause = error.source();
    }
    text
}

#[track_caller]
fn refused(import: impl FnOnce(&Path) -> Result<RootfsReport, ImportError>, expected: &str) {
    let scratch = Scratch::new(&format!("refused-{}", expected.len()));
    let image = scratch.path().join("image");
    let error = import(&image).unwrap_err();
    assert_eq!(chain(&error), expected);
    assert!(!image.exists(), "{expected}");
}

#[track_caller]
fn check(tar: Tar, expected: &str) {
    let tar = tar.end();
    refused(|image| import(&tar, image), expected);
}

#[test]
fn paths_that_lead_out() {
    let tar = Tar::default;
    check(tar().file("../x", b""), "entry ../x is refused: its path leads out of the image");
    check(tar().file("a/../../x", b""), "entry a/../../x is refused: its path leads out of the image");
    check(
        tar().symlink("out", "../..").file("out/x", b""),
        "entry out/x is refused: its path leads out of the image through the symbolic link out",
    );
    check(
        tar().symlink("one", "two").symlink("two", "one").file("one/x", b""),
        "entry one/x is refused: its path goes through more than 40 symbolic links",
    );
    check(tar().file("a", b"").file("a/b", b""), "entry a/b is refused: a is not a directory");
    check(tar().file("./", b"x"), "entry ./ is refused: its path ends with a slash, but it has content");
    check(tar().symlink("/", "x"), "entry / is refused: the root can only be a directory");
}

#[test]
fn names_that_are_too_long() {
    let long = "n".repeat(256);
    check(
        Tar::default().pax(&[("path", long.as_bytes())]).file("x", b""),
        &format!("entry {long} is refused: its path has a name longer than 255 bytes"),
    );
    let path = "n/".repeat(3000);
    check(
        Tar::default().pax(&[("path", path.as_bytes())]).dir("x"),
        &format!("entry {}… is refused: its path is longer than 4096 bytes", &path[..512]),
    );
    check(
        Tar::default().pax(&[("path", b"a\0b")]).file("x", b""),
        "entry a\\x00b is refused: its path or target has a zero byte in it",
    );
}

#[test]
fn hard_links_to_nothing() {
    let tar = Tar::default;
    check(
        tar().hardlink("l", "missing"),
        "entry l is refused: its target missing does not exist in the image",
    );
    check(
        tar().hardlink("l", "../../etc/shadow"),
        "entry l is refused: its target ../../etc/shadow leads out of the image",
    );
    check(tar().dir("d").hardlink("l", "d"), "entry l is refused: its target d is a directory");
    check(
        tar().symlink("s", "../../etc").hardlink("l", "s/shadow"),
        "entry l is refused: its path leads out of the image through the symbolic link s",
    );
}

#[test]
fn attributes_that_cannot_be() {
    check(
        Tar::default().pax(&[("SCHILY.xattr.user.large", &[1; 5000])]).file("f", b""),
        "entry f is refused: the attributes do not fit into 4 KiB",
    );
    check(
        Tar::default().pax(&[("SCHILY.xattr.system.posix_acl_access", b"x")]).file("f", b""),
        "entry f is refused: its extended attribute system.posix_acl_access cannot be kept: the access control list is malformed",
    );
}

#[test]
fn archives_that_end_early() {
    let whole = Tar::default().dir("d").file("f", &[1; 3000]).end();
    // Within the first header, within the second, within the content, before the end.
    for (length, expected) in [
        (100, "this is not a tar archive"),
        (600, "the archive is cut off after d"),
        (2000, "the archive is cut off after f"),
        (512 * 8, "the archive is cut off after f"),
    ] {
        refused(|image| import(&whole[..length], image), expected);
    }
    let extended = Tar::default().dir("d").pax(&[("path", b"x")]).0;
    refused(|image| import(&extended, image), "the archive is cut off after d");
    for packed in [gzip(&whole), zstd(&whole), xz(&whole)] {
        let mut cut = packed.clone();
        cut.truncate(packed.len() - 5);
        let scratch = Scratch::new("cut-compressed");
        let image = scratch.path().join("image");
        let error = import(&cut, &image).unwrap_err();
        assert!(matches!(error, ImportError::Truncated { .. }), "{}", chain(&error));
        assert!(!image.exists());
        import(&packed, &image).unwrap();
    }
}

#[test]
fn what_is_no_archive() {
    refused(|image| import(b"", image), "this is not a tar archive");
    refused(|image| import(&[b'x'; 10_000], image), "this is not a tar archive");
    refused(|image| import(&gzip(&[b'x'; 10_000]), image), "this is not a tar archive");
    refused(|image| import(&[0; 10_240], image), "there is nothing in it");
    refused(
        |image| import(b"BZh91AY&SY", image),
        "archives compressed with bzip2 are not supported, only gzip, zstd and xz",
    );
    let mut lone = Tar::default().dir("d").raw(&[0; 512]);
    lone = lone.dir("hidden");
    check(lone, "the archive is malformed after d: one block of zeros is followed by something else");
    check(
        Tar::default().dir("d").raw(&[b'x'; 512]),
        "the archive is malformed after d: a header's checksum is wrong",
    );
    check(Tar::default().entry(&Head::new(b'Q', "q"), b""), "entry q is refused: its type 0x51 is unknown");
}

#[test]
fn headers_that_contradict_themselves() {
    let mut block = Head::new(b'0', "f").block(0);
    block[124..136].copy_from_slice(b"00000000x00\0");
    seal(&mut block);
    check(
        Tar::default().dir("d").raw(&block),
        "the archive is malformed after d: the field size is no valid number",
    );
    check(
        Tar::default()
            .dir("d")
            .entry(&Head::new(b'L', "l"), b"one\0")
            .pax(&[("path", b"two")])
            .file("f", b""),
        "the archive is malformed after d: an entry has two different names",
    );
    check(
        Tar::default().dir("d").entry(&Head::new(b'x', "pax"), b"99 path=x\n").file("f", b""),
        "the archive is malformed after d: an extended header is malformed",
    );
    let sparse = |map: &'static str| {
        let records: [(&str, &[u8]); 2] = [("GNU.sparse.size", b"10000"), ("GNU.sparse.map", map.as_bytes())];
        Tar::default().dir("d").pax(&records).file("f", b"0123456789")
    };
    for map in ["0,5,9000,5", "0,11", "5,5,0,5", "9995,10", "0,5,5", "18446744073709551615,10"] {
        check(sparse(map), "the archive is malformed after d: the map of a sparse file is malformed");
    }
    let global =
        Tar::default().dir("d").entry(&Head::new(b'g', "pax"), b"22 GNU.sparse.map=0,1\n").file("f", b"");
    check(global, "the archive is malformed after d: the map of a sparse file is malformed");
}

#[test]
fn sizes_that_cannot_be_counted() {
    for size in ["9223372036854775808", "18446744073709551105", "18446744073709551615"] {
        // A directory of an incremental archive has content of any length, which is skipped.
        for kind in [b'0', b'D', b'2'] {
            check(
                Tar::default()
                    .dir("d")
                    .pax(&[("size", size.as_bytes())])
                    .entry(&Head::new(kind, "x"), b"content"),
                "the archive is malformed after d: the field size is no valid number",
            );
        }
    }
    let largest =
        Tar::default().pax(&[("size", b"9223372036854775807")]).entry(&Head::new(b'D', "x"), b"content");
    check(largest, "the archive is cut off after x");
}

#[test]
fn more_attributes_than_a_file_can_have() {
    let refused = "the archive is malformed after d: an entry has more than 1024 extended attributes, or 64 KiB of them";
    let names: Vec<String> = (0..1025).map(|number| format!("SCHILY.xattr.other.{number}")).collect();
    let many: Vec<(&str, &[u8])> = names.iter().map(|name| (&**name, &b""[..])).collect();
    check(Tar::default().dir("d").pax(&many).file("f", b""), refused);
    // Those of several headers come together.
    let (half, rest) = many.split_at(512);
    check(Tar::default().dir("d").pax(half).pax(rest).file("f", b""), refused);
    check(Tar::default().dir("d").pax(&[("SCHILY.xattr.user.a", &[1; 65_536])]).file("f", b""), refused);
}

fn limited(limits: Limits, tar: &[u8], expected: &str) {
    let options = ImportOptions { limits, ..ImportOptions::default() };
    refused(|image| import_tar(tar, image, &options, &mut |_| ControlFlow::Continue(())), expected);
}

#[test]
fn limits_hold() {
    let many = (0..20).fold(Tar::default(), |tar, index| tar.dir(&format!("d{index}"))).end();
    let limits = Limits { entries: 10, ..Limits::default() };
    limited(limits, &many, "the archive has more than 10 entries");

    let zeros = zstd(&Tar::default().file("zeros", &vec![0; 20 << 20]).end());
    let limits = Limits { bytes: 10 << 20, ..Limits::default() };
    limited(limits, &zeros, "the archive unpacks to more than 10485760 bytes");
    let limits = Limits { ratio_from: 1 << 20, ..Limits::default() };
    limited(limits, &zeros, "the archive unpacks to more than 200 times its size");
}

#[test]
fn targets_that_no_link_has() {
    let scratch = Scratch::new("targets");
    let image = scratch.path().join("image");
    let mut writer = ext4::Writer::create(&image, META, 1 << 20).unwrap();
    let mut link = |target: &[u8]| writer.link(META, &AttributeSet::default(), target).map(drop);
    let long = [b'x'; 4096];
    for target in [&b""[..], b"a\0b", &long] {
        assert!(matches!(link(target), Err(ext4::Error::BadTarget)), "{}", target.escape_ascii());
    }
    link(&long[1..]).unwrap();
}

#[test]
fn the_limit_is_that_of_the_whole_image() {
    let scratch = Scratch::new("small-limits");
    let image = scratch.path().join("image");
    let write = |blocks: u64| {
        let mut writer = ext4::Writer::create(&image, META, blocks * 4096)?;
        let file = writer.directory(META, &AttributeSet::default())?;
        writer.tree_mut().insert(ROOT, b"d", file)?;
        writer.finish(None, "")
    };
    // Superblock, descriptors, two directories, inodes, two bitmaps, and one to be a multiple of eight.
    let least = (0..20).find(|blocks| match write(*blocks) {
        Ok(written) => {
            assert_eq!(written.size, blocks * 4096);
            true
        }
        Err(error) => {
            assert_eq!(
                error.to_string(),
                format!("the file system would be larger than {} bytes", blocks * 4096)
            );
            assert!(!image.exists());
            false
        }
    });
    assert_eq!(least, Some(8));
    e2fsck(&image);
}

#[test]
fn windows_that_are_too_large() {
    let tar = Tar::default().file("f", &[1; 1000]).end();
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(27).unwrap();
    encoder.include_contentsize(false).unwrap();
    encoder.write_all(&tar).unwrap();
    let packed = encoder.finish().unwrap();
    refused(
        |image| import(&packed, image),
        "unpacking needs a larger window than is allowed: 32 MiB for zstd, 64 MiB for xz",
    );
}

#[test]
fn cancelling_leaves_nothing() {
    let tar = Tar::default().file("f", &vec![1; 20 << 20]).end();
    let scratch = Scratch::new("cancelled");
    let image = scratch.path().join("image");
    let mut seen = Vec::new();
    let error = import_tar(&tar[..], &image, &ImportOptions::default(), &mut |progress| {
        seen.push(progress);
        if progress.unpacked > 8 << 20 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert!(matches!(error, Err(ImportError::Cancelled)));
    assert!(!image.exists());
    assert!(seen.windows(2).all(|pair| pair[0].unpacked < pair[1].unpacked), "{seen:?}");
    assert!(seen.last().unwrap().unpacked < 16 << 20, "{seen:?}");
}

#[test]
fn a_source_that_fails_is_named_as_the_cause() {
    struct Failing;
    impl Read for Failing {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            Err(std::io::Error::from_raw_os_error(5))
        }
    }
    let tar = Tar::default().dir("d").0;
    let source = tar.chain(Failing);
    refused(
        |image| import_tar(source, image, &ImportOptions::default(), &mut |_| ControlFlow::Continue(())),
        "cannot read the archive: Input/output error (os error 5)",
    );
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).unwrap()
}

pub fn xz(bytes: &[u8]) -> Vec<u8> {
    let options = lzma_rust2::XzOptions::with_preset(1);
    let mut encoder = lzma_rust2::XzWriter::new(Vec::new(), options).unwrap();
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}
