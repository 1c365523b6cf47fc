//! `vm cp` into a machine and out of it.

use std::{
    fs,
    io::{Seek, SeekFrom, Write},
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::Path,
};

use super::{create, home};

#[test]
fn files_are_copied_both_ways() {
    let Some(home) = home() else { return };
    let _ = home.ok(&create("dev"));
    let here = home.path().join("here");
    fs::create_dir_all(here.join("data/sub")).unwrap();
    let noise: Vec<u8> = (0..3_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    fs::write(here.join("data/noise"), &noise).unwrap();
    fs::write(here.join("data/sub/run"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(here.join("data/sub/run"), fs::Permissions::from_mode(0o750)).unwrap();
    symlink("sub/run", here.join("data/link")).unwrap();
    symlink("/etc/hostname", here.join("data/absolute")).unwrap();
    symlink("data/sub/run", here.join("given")).unwrap();
    let path = |name: &str| here.join(name).to_str().unwrap().to_owned();
    let cp = |from: &str, to: &str| home.run(&["vm", "cp", from, to]);
    let copied = |from: &str, to: &str| {
        let copied = cp(from, to);
        assert!(copied.status.success(), "{from} {to}: {}", copied.stderr);
        copied.stderr
    };

    // In: a directory as what is called so and into one that is there, a file likewise; a link that is given is followed.
    copied(&path("data"), "dev:/tmp");
    copied(&path("data"), "dev:new/");
    copied(&path("data/sub/run"), "dev:/tmp/renamed");
    copied(&path("given"), "dev:");
    let look = "cd /tmp && stat -c '%n %a %u %F' data/* data/sub/run /root/new/link /tmp/renamed /root/given";
    assert_eq!(
        home.ok(&["vm", "exec", "dev", "--", "sh", "-c", look]),
        "data/absolute 777 0 symbolic link\ndata/link 777 0 symbolic link\ndata/noise 644 0 regular file\n\
         data/sub 755 0 directory\ndata/sub/run 750 0 regular file\n/root/new/link 777 0 symbolic link\n\
         /tmp/renamed 750 0 regular file\n/root/given 750 0 regular file"
    );

    // Out again; what leads out of it stays behind, and is told.
    let told = copied("dev:/tmp/data", &path("back"));
    assert!(told.contains("left out 1 links that lead out of what was copied: absolute"), "{told}");
    assert!(fs::read(here.join("back/noise")).unwrap() == noise);
    assert_eq!(fs::read_link(here.join("back/link")).unwrap(), Path::new("sub/run"));
    let meta = fs::metadata(here.join("back/sub/run")).unwrap();
    assert_eq!((meta.mode() & 0o7777, meta.uid()), (0o750, fs::metadata(&here).unwrap().uid()));
    copied("dev:/tmp/data/link", &path("back"));
    assert_eq!(fs::read(here.join("back/link")).unwrap(), b"#!/bin/sh\n");

    for (from, to, code, why) in [
        ("dev:/nowhere", &*path("x"), 1, "No such file"),
        (&*path("none"), "dev:", 1, "No such file"),
        (&*path("given"), "dev:/none/x", 1, "No such file"),
        (&*path("given"), "dev:/tmp/none/", 1, "Not a directory"),
        ("dev:/etc/passwd", &*path("none/"), 2, "there is no directory"),
        ("other:/etc/passwd", &*path("x"), 4, "other"),
        ("./a", "./b", 2, "one of the two paths"),
        ("dev:a", "dev:b", 2, "one of the two paths"),
    ] {
        let failed = cp(from, to);
        assert_eq!(failed.code(), code, "{from} {to}: {}", failed.stderr);
        assert!(failed.stderr.contains(why), "{from} {to}: {}", failed.stderr);
    }
    assert!(!here.join("x").exists());

    // A guest's names do not steer the terminal.
    let fifo = "mkdir /tmp/odd && busybox mkfifo \"/tmp/odd/$(printf 'a\\033[2Jb')\"";
    let _ = home.ok(&["vm", "exec", "dev", "--", "sh", "-c", fifo]);
    let told = copied("dev:/tmp/odd", &path("odd"));
    assert!(
        told.contains("left out 1 devices and fifos: a\\u{1b}[2Jb") && !told.contains('\u{1b}'),
        "{told}"
    );
}

/// A file of holes is one on the other side too, whatever its length.
#[test]
fn holes_stay_holes() {
    let Some(home) = home() else { return };
    let _ = home.ok(&create("dev"));
    let (here, back) = (home.path().join("sparse"), home.path().join("back"));
    let length = 48 << 20;
    let mut file = fs::File::create(&here).unwrap();
    file.write_all(b"begin").unwrap();
    file.set_len(length).unwrap();
    file.seek(SeekFrom::End(0)).unwrap();
    file.write_all(b"end").unwrap();
    drop(file);
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    let _ = home.ok(&["vm", "cp", &path(&here), "dev:/root/sparse"]);
    let there = home.ok(&["vm", "exec", "dev", "--", "stat", "-c", "%s %b", "/root/sparse"]);
    let (size, blocks) = there.split_once(' ').unwrap();
    assert_eq!(size.parse(), Ok(length + 3));
    assert!(blocks.parse::<u64>().unwrap() * 512 < length / 10, "{there}");
    let _ = home.ok(&["vm", "cp", "dev:/root/sparse", &path(&back)]);
    assert!(fs::read(&back).unwrap() == fs::read(&here).unwrap());
    assert!(fs::metadata(&back).unwrap().blocks() * 512 < length / 10, "{:?}", fs::metadata(&back));
}
