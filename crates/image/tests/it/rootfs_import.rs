//! Imported images against what tar unpacks: e2fsck is content, and the kernel shows the same tree.

use std::{fs, path::Path};

use crate::{
    kernel_support::Scratch,
    rootfs_support::{Head, Mount, Tar, assert_same, e2fsck, import, listing, unpack},
};

/// Imports `tar` and compares what the kernel shows with what tar unpacks.
#[track_caller]
fn check(name: &str, tar: Vec<u8>) {
    let scratch = Scratch::new(name);
    let image = scratch.path().join("image");
    import(&tar, &image).unwrap();
    let compare = || {
        e2fsck(&image)?;
        let unpacked = unpack(&scratch, "unpacked", &tar)?;
        let mount = Mount::new(&scratch, &image, "ro,noload,loop")?;
        assert_same(&listing(&unpacked), &listing(mount.path()));
        Some(())
    };
    compare();
}

/// A root with its own entry, whose time tar would otherwise make up.
fn root() -> Tar {
    Tar::default().dir("./")
}

#[test]
fn every_type_of_entry() {
    let device = |kind, path, device| Head { device, ..Head::new(kind, path) };
    let tar = root()
        .entry(&Head { mode: 0o1777, ..Head::new(b'5', "./tmp/") }, b"")
        .dir("usr")
        .entry(&Head { mode: 0o4755, uid: 1000, gid: 70_000, ..Head::new(b'0', "usr/su") }, b"program")
        .file("usr/empty", b"")
        .file("usr/block", &[7; 4096])
        .file("usr/more", &[8; 4097])
        .symlink("short", "usr/su")
        .symlink("fifty-nine", &"x".repeat(59))
        .symlink("sixty", &"x".repeat(60))
        .hardlink("su", "usr/su")
        .hardlink("link-to-link", "short")
        .entry(&device(b'3', "null", (1, 3)), b"")
        .entry(&device(b'4', "disk", (259, 70_000)), b"")
        .entry(&Head::new(b'6', "pipe"), b"")
        .end();
    check("every-type", tar);
}

#[test]
fn extended_headers() {
    let acl = [
        &2_u32.to_le_bytes()[..],
        &acl_entries(&[(1, 6, !0), (2, 4, 1000), (4, 4, !0), (16, 4, !0), (32, 0, !0)]),
    ];
    let acl = acl.concat();
    let capability = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let long = "long/".repeat(60) + &"n".repeat(255);
    let tar = root()
        .pax(&[
            ("mtime", b"1234567890.123456789"),
            ("uid", b"4000000000"),
            ("path", "bl\u{e4}tter\n".as_bytes()),
        ])
        .file("overridden", b"content")
        .pax(&[("mtime", b"-1.5"), ("path", long.as_bytes())])
        .file("short", b"content")
        .pax(&[("linkpath", long.as_bytes())])
        .hardlink("link", "short")
        .pax(&[("SCHILY.xattr.security.capability", capability)])
        .file("ping", b"program")
        .pax(&[("SCHILY.xattr.system.posix_acl_access", &acl)])
        .entry(&Head { mode: 0o640, ..Head::new(b'0', "listed") }, b"")
        .pax(&[("SCHILY.xattr.system.posix_acl_default", &acl)])
        .dir("journal")
        .pax(&[
            ("SCHILY.xattr.user.large", &[7; 3000]),
            ("SCHILY.xattr.user.a", b""),
            ("SCHILY.xattr.trusted.b", b"\0\n"),
        ])
        .file("large", b"")
        .end();
    check("extended-headers", tar);
}

fn acl_entries(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let bytes = |(tag, permissions, id): &(u16, u16, u32)| {
        [&tag.to_le_bytes()[..], &permissions.to_le_bytes(), &id.to_le_bytes()].concat()
    };
    entries.iter().flat_map(bytes).collect()
}

#[test]
fn a_failed_import_leaves_nothing() {
    let scratch = Scratch::new("failed-import");
    let image = scratch.path().join("image");
    let mut tar = root().file("file", &[1; 10_000]).end();
    tar.truncate(5000);
    let error = import(&tar, &image).unwrap_err();
    assert_eq!(error.to_string(), "the archive is cut off after file");
    assert!(!image.exists());
}

#[test]
fn an_existing_file_is_kept() {
    let scratch = Scratch::new("existing-file");
    let image = scratch.file("image", b"precious");
    assert!(import(&root().end(), &image).is_err());
    assert_eq!(fs::read(&image).unwrap(), b"precious");
}

#[test]
fn the_same_archive_gives_the_same_bytes() {
    let scratch = Scratch::new("deterministic");
    let tar = (0..2000).fold(root(), |tar, i| tar.file(&format!("file-{i}"), &[i as u8; 100])).end();
    let make = |path: &Path| import(&tar, path).unwrap().uuid;
    let (one, two) = (scratch.path().join("one"), scratch.path().join("two"));
    assert_eq!(make(&one), make(&two));
    assert!(fs::read(&one).unwrap() == fs::read(&two).unwrap());
    let other = import(&root().file("file", b"x").end(), &scratch.path().join("three")).unwrap();
    assert_ne!(make(&scratch.path().join("four")), other.uuid);
}
