//! Imported images against what tar unpacks, also those of the directory that it unpacked: e2fsck is content, and the kernel
//! shows the same tree.

use std::{
    fs,
    io::Read,
    ops::ControlFlow,
    os::unix::fs::{FileExt, MetadataExt, PermissionsExt},
    path::Path,
    process::Command,
};

use image::rootfs::{ImportOptions, import_directory, import_tar, write_dir};
use model::init::Init;
use testkit::{
    listing::{Mount, assert_same, listing},
    need,
};

use crate::{
    kernel_support::{Scratch, run},
    rootfs_refusals::{gzip, xz, zstd},
    rootfs_support::{Head, Tar, e2fsck, features, import, unpack},
};

/// Imports `tar`, compares what the kernel shows with what tar unpacks, and gives the disk space that the image takes.
#[track_caller]
pub fn check(name: &str, tar: Vec<u8>) -> u64 {
    check_against(name, &tar, &tar)
}

/// The same, where the image is made of `tar` but tar unpacks `expected`.
#[track_caller]
fn check_against(name: &str, tar: &[u8], expected: &[u8]) -> u64 {
    let scratch = Scratch::new(name);
    let image = scratch.path().join("image");
    import(tar, &image).unwrap();
    let compare = || {
        e2fsck(&image)?;
        let unpacked = unpack(&scratch, "unpacked", expected)?;
        let mount = Mount::new(&scratch.dir("mount"), &image, "ro,noload,loop")?;
        assert_same(&listing(&unpacked), &listing(mount.path()));
        drop(mount);
        // What tar unpacked is the same image as what it was unpacked from.
        let again = scratch.path().join("again");
        import_directory(&unpacked, &again, &ImportOptions::default(), &mut |_| ControlFlow::Continue(()))
            .unwrap();
        e2fsck(&again)?;
        let mount = Mount::new(&scratch.dir("mount"), &again, "ro,noload,loop")?;
        assert_same(&listing(&unpacked), &listing(mount.path()));
        Some(())
    };
    compare();
    host::fs::disk_usage(&image).unwrap()
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

#[test]
fn the_features_of_an_image() {
    let scratch = Scratch::new("features");
    let image = scratch.path().join("image");
    import(&root().end(), &image).unwrap();
    let Some(found) = features(&image) else { return };
    assert_eq!(
        found,
        "ext_attr dir_index sparse_super2 filetype extent 64bit flex_bg metadata_csum_seed large_file huge_file \
         dir_nlink extra_isize metadata_csum read-only"
    );
}

#[test]
fn paths_that_come_again() {
    let tar = root()
        .file("twice", b"first")
        .hardlink("first", "twice")
        .file("twice", b"second")
        .dir("d")
        .file("d/kept", b"")
        .entry(&Head { mode: 0o700, uid: 5, ..Head::new(b'5', "d") }, b"")
        .file("becomes-dir", &[1; 9000])
        .dir("becomes-dir")
        .file("becomes-dir/in", b"")
        .symlink("link", "d")
        .dir("link")
        .file("link/not-in-d", b"")
        .hardlink("twice", "twice")
        .end();
    check("again", tar);
}

/// What tar refuses to do, because it unpacks into a live tree, but layers of images may: a directory that has become
/// something else is gone with all that was in it, and stays gone when it is made again.
#[test]
fn a_directory_that_is_replaced_takes_all_with_it() {
    let scratch = Scratch::new("replaced-dir");
    let image = scratch.path().join("image");
    let tar = root()
        .dir("d")
        .file("d/sub/file", &[1; 100_000])
        .hardlink("outside", "d/sub/file")
        .file("d/other", &[2; 100_000])
        .file("d", b"")
        .dir("d")
        .file("d/new", b"")
        .end();
    import(&tar, &image).unwrap();
    let look = || {
        e2fsck(&image)?;
        let mount = Mount::new(&scratch.dir("mount"), &image, "ro,noload,loop")?;
        let found = listing(mount.path());
        let names: Vec<_> = found.keys().map(|name| name.escape_ascii().to_string()).collect();
        assert_eq!(names, ["", "d", "d/new", "outside"]);
        Some(())
    };
    look();
}

#[test]
fn entries_below_links_go_where_these_lead() {
    // tar itself would follow an absolute link out of the tree, so it is told where things are in the end.
    let linked = root()
        .dir("usr/lib")
        .symlink("lib", "usr/lib")
        .file("lib/a", b"a")
        .symlink("abs", "/usr/lib")
        .file("abs/b", b"b")
        .dir("deep/er")
        .symlink("deep/er/up", "../../lib")
        .file("deep/er/up/c", b"c")
        .symlink("later", "made/later")
        .file("later/d", b"d")
        .hardlink("hard", "abs/b")
        .end();
    // What is in a directory comes together, since tar gives a directory its time when it leaves it.
    let plain = root()
        .dir("usr/lib")
        .file("usr/lib/a", b"a")
        .file("usr/lib/b", b"b")
        .file("usr/lib/c", b"c")
        .symlink("lib", "usr/lib")
        .symlink("abs", "/usr/lib")
        .dir("deep/er")
        .symlink("deep/er/up", "../../lib")
        .symlink("later", "made/later")
        .file("made/later/d", b"d")
        .hardlink("hard", "usr/lib/b")
        .end();
    check_against("links", &linked, &plain);
}

#[test]
fn sparse_files_in_all_formats() {
    let scratch = Scratch::new("sparse");
    let tree = scratch.dir("tree");
    let make = |name: &str, size: u64, parts: &[(u64, usize)]| {
        let file = fs::File::create(tree.join(name)).unwrap();
        file.set_len(size).unwrap();
        for (offset, length) in parts {
            file.write_all_at(&vec![b'x'; *length], *offset).unwrap();
        }
    };
    make("hole-only", 1 << 20, &[]);
    make("hole-at-end", 1 << 20, &[(0, 5000)]);
    make("hole-at-start", (1 << 20) + 77, &[(900_000, 148_653)]);
    let many: Vec<_> = (0..3000).map(|index| (index * 65536, 4096)).collect();
    make("many", 3000 * 65536, &many);
    run(Command::new("touch")
        .args(["-d", "@1600000000.25"])
        .args(fs::read_dir(&tree).unwrap().map(|e| e.unwrap().path())));
    run(Command::new("touch").args(["-d", "@1600000000"]).arg(&tree));
    for (name, format) in [
        ("gnu", &["--format=gnu"][..]),
        ("pax-0.0", &["--format=posix", "--sparse-version=0.0"]),
        ("pax-0.1", &["--format=posix", "--sparse-version=0.1"]),
        ("pax-1.0", &["--format=posix", "--sparse-version=1.0"]),
    ] {
        let archive = scratch.path().join("sparse.tar");
        run(Command::new("tar")
            .args(format)
            .arg("--sparse")
            .arg("-cf")
            .arg(&archive)
            .arg("-C")
            .arg(&tree)
            .arg("."));
        let tar = fs::read(&archive).unwrap();
        assert!(tar.len() < 20 << 20, "{name}: tar found no holes");
        let inner = format!("sparse-{name}");
        let size = check(&inner, tar);
        assert!(size < 20 << 20, "{name}: {size} bytes");
    }
}

#[test]
fn a_sparse_file_beyond_four_gigabytes() {
    let scratch = Scratch::new("sparse-huge");
    let image = scratch.path().join("image");
    let size: u64 = 5 << 30;
    let map = format!("0,512,{},4096,{},1", 4_u64 << 30, size - 1);
    let records: [(&str, &[u8]); 2] =
        [("GNU.sparse.size", &size.to_string().into_bytes()), ("GNU.sparse.map", map.as_bytes())];
    import(&root().pax(&records).file("huge", &[b'x'; 4609]).end(), &image).unwrap();
    let look = || {
        e2fsck(&image)?;
        let mount = Mount::new(&scratch.dir("mount"), &image, "ro,noload,loop")?;
        let file = fs::File::open(mount.path().join("huge")).unwrap();
        assert_eq!(file.metadata().unwrap().len(), size);
        for (at, expected) in
            [(511, b"x\0"), ((4 << 30) - 1, b"\0x"), ((4 << 30) + 4095, b"x\0"), (size - 2, b"\0x")]
        {
            let mut bytes = [0; 2];
            file.read_exact_at(&mut bytes, at).unwrap();
            assert_eq!(&bytes, expected, "at {at}");
        }
        Some(())
    };
    look();
}

#[test]
fn large_directories_are_indexed() {
    let mut tar = root().dir("many").dir("few");
    for index in 0..70_000 {
        tar = tar.file(&format!("many/entry-with-a-rather-long-name-{index}"), b"");
    }
    for index in 0..170 {
        tar = tar.dir(&format!("few/{index}"));
    }
    let tar = tar.end();
    let scratch = Scratch::new("large-directories");
    let image = scratch.path().join("image");
    import(&tar, &image).unwrap();
    let look = || {
        e2fsck(&image)?;
        let debugfs = need::program("e2fsck", "debugfs")?;
        let said = run(Command::new(debugfs).args(["-R", "htree /many"]).arg(&image));
        assert!(said.contains("Indirect levels: 1"), "{}", &said[..500]);
        let mount = Mount::new(&scratch.dir("mount"), &image, "ro,noload,loop")?;
        assert_eq!(fs::read_dir(mount.path().join("many")).unwrap().count(), 70_000);
        for index in 0..70_000 {
            let name = format!("many/entry-with-a-rather-long-name-{index}");
            assert!(fs::symlink_metadata(mount.path().join(name)).is_ok(), "{index}");
        }
        assert_eq!(fs::metadata(mount.path().join("few")).unwrap().nlink(), 172);
        Some(())
    };
    look();
}

#[test]
fn a_large_file_needs_a_tree_of_extents() {
    // One run of blocks, but longer than the four extents that fit into an inode.
    let scratch = Scratch::new("large-file");
    let image = scratch.path().join("image");
    let size: u64 = 600 << 20;
    let content = std::io::repeat(b'z').take(size);
    let head = Head::new(b'0', "large").block(size);
    let source = head.chain(content).chain(&[0; 1024][..]);
    import_tar(source, &image, &ImportOptions::default(), &mut |_| ControlFlow::Continue(())).unwrap();
    let look = || {
        e2fsck(&image)?;
        let mount = Mount::new(&scratch.dir("mount"), &image, "ro,noload,loop")?;
        let mut file = fs::File::open(mount.path().join("large")).unwrap();
        let mut buffer = vec![0; 1 << 20];
        let mut seen = 0;
        loop {
            let count = file.read(&mut buffer).unwrap();
            assert!(buffer[..count].iter().all(|byte| *byte == b'z'));
            seen += count as u64;
            if count == 0 {
                break;
            }
        }
        assert_eq!(seen, size);
        Some(())
    };
    look();
}

#[test]
fn many_small_files_need_many_inodes() {
    // More inodes than the groups that the content needs could have.
    let tar =
        (0..140_000).fold(root(), |tar, index| tar.file(&format!("{}/{index}", index % 500), b"")).end();
    let scratch = Scratch::new("many-inodes");
    let image = scratch.path().join("image");
    import(&tar, &image).unwrap();
    let look = || {
        e2fsck(&image)?;
        let mount = Mount::new(&scratch.dir("mount"), &image, "ro,noload,loop")?;
        let count: usize =
            (0..500).map(|dir| fs::read_dir(mount.path().join(dir.to_string())).unwrap().count()).sum();
        assert_eq!(count, 140_000);
        Some(())
    };
    look();
}

/// Gives its bytes in pieces of many sizes.
struct Trickle<'a>(&'a [u8], usize);

impl Read for Trickle<'_> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        self.1 = (self.1 * 7 + 3) % 5000;
        let count = self.0.len().min(out.len()).min(self.1 + 1);
        out[..count].copy_from_slice(&self.0[..count]);
        self.0 = &self.0[count..];
        Ok(count)
    }
}

#[test]
fn the_pieces_in_which_an_archive_comes_do_not_matter() {
    let content = |size: usize| (0..size).map(|at| (at / 100) as u8).collect::<Vec<_>>();
    let tar = (0..200).fold(root(), |tar, index| tar.file(&index.to_string(), &content(index * 400))).end();
    let scratch = Scratch::new("pieces");
    let (one, two) = (scratch.path().join("one"), scratch.path().join("two"));
    import(&tar, &one).unwrap();
    let options = ImportOptions::default();
    import_tar(Trickle(&tar, 0), &two, &options, &mut |_| ControlFlow::Continue(())).unwrap();
    assert!(fs::read(&one).unwrap() == fs::read(&two).unwrap());
}

#[test]
fn compressed_archives() {
    let tar = root().file("a", &[1; 100_000]).file("b", b"").end();
    let scratch = Scratch::new("compressed");
    let plain = import(&tar, &scratch.path().join("plain")).unwrap();
    let (front, back) = tar.split_at(60_000);
    let members = [gzip(front), gzip(back)].concat();
    let frames = [zstd(front), zstd(back)].concat();
    for (name, packed) in [
        ("gzip", gzip(&tar)),
        ("members", members),
        ("zstd", zstd(&tar)),
        ("frames", frames),
        ("xz", xz(&tar)),
    ] {
        let report = import(&packed, &scratch.path().join(name)).unwrap();
        assert_eq!(report.uuid, plain.uuid, "{name}");
        assert_eq!(report.unpacked, tar.len() as u64, "{name}");
    }
}

#[test]
fn attributes_that_mean_nothing_here_are_left_out() {
    let scratch = Scratch::new("left-out");
    let tar = root()
        .pax(&[("SCHILY.xattr.com.apple.quarantine", b"x"), ("SCHILY.xattr.trusted.overlay.opaque", b"y")])
        .dir("d")
        .pax(&[("SCHILY.xattr.user.of-a-link", b"x")])
        .symlink("l", "d")
        .end();
    let report = import(&tar, &scratch.path().join("image")).unwrap();
    assert_eq!(report.ignored_attributes, 3);
    e2fsck(&scratch.path().join("image"));
}

#[test]
fn the_init_of_an_image() {
    let program = |path| Head { mode: 0o755, ..Head::new(b'0', path) };
    let check = |tar: Tar, expected: Option<Init>| {
        let scratch = Scratch::new("init");
        assert_eq!(import(&tar.end(), &scratch.path().join("image")).unwrap().init, expected);
    };
    let merged = || root().dir("usr/sbin").symlink("sbin", "usr/sbin");
    check(merged(), None);
    check(merged().symlink("usr/sbin/init", "../lib/systemd/systemd"), None);
    let systemd = merged().symlink("sbin/init", "/lib/systemd/systemd").symlink("lib", "usr/lib");
    check(systemd.entry(&program("usr/lib/systemd/systemd"), b"elf"), Some(Init::Systemd));
    // An image for containers: busybox' init would look for an openrc that is not there.
    let table = b"# /etc/inittab\n::sysinit:/sbin/openrc sysinit\ntty1::respawn:/sbin/getty 38400 tty1\n";
    let alpine = || root().entry(&program("bin/busybox"), b"elf").symlink("sbin/init", "/bin/busybox");
    check(alpine().file("etc/inittab", table), None);
    check(alpine().file("etc/inittab", table).entry(&program("sbin/openrc"), b""), Some(Init::Openrc));
    let sysv =
        || root().entry(&program("sbin/init"), b"elf").file("etc/inittab", b"si::sysinit:/etc/init.d/rcS\n");
    check(sysv(), None);
    check(sysv().entry(&program("etc/init.d/rcS"), b""), Some(Init::Sysvinit));
}

#[test]
fn a_directory_of_this_host() {
    let scratch = Scratch::new("write-dir");
    scratch.file("tree/lib/modules/6.1/kernel/a.ko", &[7; 50_000]);
    scratch.file("tree/lib/modules/6.1/empty", b"");
    let tree = scratch.path().join("tree");
    host::fs::symlink(Path::new("../6.1"), &tree.join("lib/modules/build")).unwrap();
    fs::hard_link(tree.join("lib/modules/6.1/empty"), tree.join("same")).unwrap();
    fs::set_permissions(tree.join("same"), fs::Permissions::from_mode(0o640)).unwrap();
    run(Command::new("find").arg(&tree).args(["-exec", "touch", "-h", "-d", "@1600000000.125", "{}", "+"]));
    let options = ImportOptions { label: "modules".to_owned(), ..ImportOptions::default() };
    let (one, two) = (scratch.path().join("one"), scratch.path().join("two"));
    write_dir(&tree, &one, &options).unwrap();
    write_dir(&tree, &two, &options).unwrap();
    assert!(fs::read(&one).unwrap() == fs::read(&two).unwrap());
    let look = || {
        e2fsck(&one)?;
        let mount = Mount::new(&scratch.dir("mount"), &one, "ro,noload,loop")?;
        assert_same(&listing(&tree), &listing(mount.path()));
        Some(())
    };
    look();
    let pipe = scratch.dir("special").join("pipe");
    run(Command::new("mkfifo").arg(&pipe));
    let error = write_dir(pipe.parent().unwrap(), &scratch.path().join("three"), &options).unwrap_err();
    assert!(error.to_string().ends_with("pipe is a special file, which cannot be packed"), "{error}");
    assert!(!scratch.path().join("three").exists());
}
