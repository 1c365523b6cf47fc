//! An image with all that images of layers can have, made by umoci: the same as umoci itself unpacks, and it runs.
#![expect(clippy::disallowed_methods, reason = "tests use the machine's own tools")]

use std::{
    fs,
    os::unix::fs::{PermissionsExt, chown, symlink},
    path::Path,
    process::Command,
};

use rustix::fs::{CWD, FileType, Mode, XattrFlags, lsetxattr, makedev, mknodat};
use testkit::{
    home::Home,
    images::Tar,
    listing::{Mount, assert_as_umoci, listing},
    need,
    umoci::Umoci,
};

use super::home;

/// `cap_chown+ep`, as setcap writes it.
const MAY_CHOWN: [u8; 20] = [1, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
/// An access list that lets group 1234 read, as setfacl writes it.
const LIST: &[u8] = b"\x02\0\0\0\x01\0\x06\0\xff\xff\xff\xff\x04\0\x04\0\xff\xff\xff\xff\x08\0\x04\0\xd2\x04\0\0\x10\0\x04\0\xff\xff\xff\xff\x20\0\0\0\xff\xff\xff\xff";
/// The image's entrypoint, which tells what it sees.
const ENTRY: &str = r#"#!/bin/sh
echo "runs $*"
echo "as $(id -u):$(id -g) in $(pwd) with $FROM_IMAGE"
echo "linked $(cat /data/across) $(stat -c %h /data/across) $(stat -c %i /data/across /data/also | uniq | wc -l)"
echo "hidden $(ls /data/opaque) $(ls /data | grep -c -e gone -e linked)"
echo "turned $(ls /data/turns) $(stat -c %a:%u:%g /srv/app/tool)"
echo "setuid $(stat -c %a:%u /bin/setuid) $(stat -c %i /bin/setuid /bin/setuid-too | uniq | wc -l)"
echo dropped > /data/null && echo "device $(stat -c %t:%T /data/null) $(stat -c %t:%T /data/disk) $(stat -c %F /data/pipe)"
/bin/busybox chown 0:0 /srv/app/mine 2>/dev/null || echo "not without the capability"
/bin/busybox-capable chown 77:78 /srv/app/mine && echo "capable $(stat -c %u:%g /srv/app/mine)"
cat /srv/app/secret 2>/dev/null || echo "not root's"
exit 7
"#;

/// What it says in a machine.
const SAID: &str = "runs an argument and more
as 1234:70000 in /srv/app with the image
linked content 2 1
hidden new 0
turned inside 750:1234:70000
setuid 4755:0 1
device 1:3 103:11170 fifo
not without the capability
capable 77:78
not root's";

/// The first layer, in the directory that umoci unpacked.
fn fill(root: &Path, busybox: &Path) {
    let file = |path: &str, content: &str| fs::write(root.join(path), content).unwrap();
    let mode = |path: &str, mode| chmod(&root.join(path), mode);
    let attribute = |path: &str, name: &str, value: &[u8]| {
        lsetxattr(root.join(path), name, value, XattrFlags::empty()).unwrap();
    };
    let node = |path: &str, kind, mode, device| {
        mknodat(CWD, root.join(path), kind, Mode::from_raw_mode(mode), device).unwrap();
        chmod(&root.join(path), mode);
    };
    for path in
        ["usr/bin", "usr/lib", "etc", "srv/app", "data/opaque/deep", "data/dir-gone/deep", "data/full"]
    {
        fs::create_dir_all(root.join(path)).unwrap();
    }
    for (link, target) in [("bin", "usr/bin"), ("lib", "/usr/lib"), ("data/dangling", "/none")] {
        symlink(target, root.join(link)).unwrap();
    }
    for name in ["busybox", "setuid", "busybox-capable"] {
        fs::copy(busybox, root.join("usr/bin").join(name)).unwrap();
        mode(&format!("usr/bin/{name}"), 0o755);
    }
    for applet in ["sh", "cat", "chown", "grep", "id", "ls", "pwd", "stat", "uniq", "wc"] {
        symlink("busybox", root.join("usr/bin").join(applet)).unwrap();
    }
    mode("usr/bin/setuid", 0o4755);
    attribute("usr/bin/busybox-capable", "security.capability", &MAY_CHOWN);
    file("etc/passwd", "root:x:0:0::/root:/bin/sh\napp:x:1234:70000::/srv/app:/bin/sh\n");
    file("etc/group", "root:x:0:\napp:x:70000:\n");
    for (path, content) in
        [("entry", ENTRY), ("tool", "tool"), ("mine", ""), ("secret", "no"), ("listed", "")]
    {
        file(&format!("srv/app/{path}"), content);
    }
    mode("srv/app/entry", 0o755);
    mode("srv/app/secret", 0o600);
    for path in ["srv/app", "srv/app/tool", "srv/app/mine"] {
        chown(root.join(path), Some(1234), Some(70_000)).unwrap();
    }
    attribute("srv/app/listed", "system.posix_acl_access", LIST);
    attribute("srv/app/listed", "user.kept", b"a\0value");
    for path in
        ["gone", "linked", "turns", "opaque/old", "opaque/deep/older", "dir-gone/deep/x", "odd \u{e4}\n"]
    {
        file(&format!("data/{path}"), "content");
    }
    file(&format!("data/{}", "n".repeat(255)), "");
    for number in 0..300 {
        file(&format!("data/full/a-name-that-fills-its-directory-{number}"), "");
    }
    fs::hard_link(root.join("data/linked"), root.join("data/also")).unwrap();
    node("data/null", FileType::CharacterDevice, 0o666, makedev(1, 3));
    node("data/disk", FileType::BlockDevice, 0o660, makedev(259, 70_000));
    node("data/pipe", FileType::Fifo, 0o622, 0);
    let holes = fs::File::create(root.join("data/holes")).unwrap();
    holes.set_len(8 << 20).unwrap();
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
}

/// What the second layer changes, which umoci finds out itself.
fn change(root: &Path) {
    fs::remove_file(root.join("data/gone")).unwrap();
    fs::remove_dir_all(root.join("data/dir-gone")).unwrap();
    fs::remove_file(root.join("data/turns")).unwrap();
    fs::create_dir(root.join("data/turns")).unwrap();
    fs::write(root.join("data/turns/inside"), "").unwrap();
    chmod(&root.join("srv/app/tool"), 0o750);
}

/// All files and directories as old as tars of tests are.
fn age(root: &Path) {
    let aged = Command::new("find")
        .arg(root)
        .args(["-exec", "touch", "-h", "-d", "@1600000000.5", "{}", "+"])
        .status();
    assert!(aged.unwrap().success());
}

/// Makes the image `one` in `layout`: two layers that umoci finds out, one with links into them, one opaque directory and one
/// whiteout, and what is to be run.
fn make(home: &Home, layout: &Path, busybox: &Path) -> Option<Umoci> {
    need::root("make devices and owners")?;
    let umoci = Umoci::begin(layout, "one")?;
    let bundle = home.path().join("bundle");
    let (words, root) = ([bundle.to_str().unwrap()], bundle.join("rootfs"));
    umoci.run(&["unpack"], &words);
    fill(&root, busybox);
    age(&root);
    umoci.run(&["repack"], &words);
    change(&root);
    umoci.run(&["repack", "--refresh-bundle"], &words);
    let links =
        Tar::default().hard_link("data/across", "data/linked").hard_link("usr/bin/setuid-too", "bin/setuid");
    umoci.add(&links.finish());
    let new = home.path().join("new");
    fs::create_dir(&new).unwrap();
    fs::write(new.join("new"), "new").unwrap();
    age(&new);
    umoci.run(&["insert"], &["--opaque", new.to_str().unwrap(), "/data/opaque"]);
    umoci.run(&["insert"], &["--whiteout", "/data/linked"]);
    umoci.run(
        &["config"],
        &[
            "--config.entrypoint=/srv/app/entry",
            "--config.entrypoint=an argument",
            "--config.cmd=and more",
            "--config.user=app",
            "--config.workingdir=/srv/app",
            "--config.env=PATH=/bin",
            "--config.env=FROM_IMAGE=the image",
        ],
    );
    Some(umoci)
}

#[test]
fn an_image_with_everything_is_what_umoci_unpacks_and_runs_its_entrypoint() {
    let Some(home) = home() else { return };
    let Some(busybox) = need::program("busybox", "busybox") else { return };
    let layout = home.path().join("layout");
    let Some(umoci) = make(&home, &layout, &busybox) else { return };
    let _ = home.ok(&["image", "import", layout.to_str().unwrap(), "--name", "all", "--tag", "one"]);
    let run = home.run(&["vm", "run", "--rm", "--image", "all", "--memory", "256M"]);
    assert_eq!(run.text(), SAID, "{}", run.stderr);
    assert_eq!(run.code(), 7, "{}", run.stderr);

    let (unpacked, at) = (home.path().join("unpacked"), home.path().join("mount"));
    fs::create_dir(&at).unwrap();
    let rootfs = home.run(&["image", "show", "all", "-o", "json"]).json()["rootfs"].clone();
    let compare = || {
        umoci.unpack(&unpacked)?;
        let mount = Mount::new(&at, Path::new(rootfs.as_str().unwrap()), "ro,noload,loop")?;
        let found = listing(mount.path());
        for (path, part) in [
            ("usr/bin/setuid", "104755 0:0"),
            ("usr/bin/busybox-capable", "security.capability"),
            ("srv/app/listed", "user.kept"),
            ("data/holes", "8388608 bytes"),
            ("data/across", r#"["data/across", "data/also"]"#),
        ] {
            assert!(found[path.as_bytes()].contains(part), "{path}: {}", found[path.as_bytes()]);
        }
        assert_as_umoci(&unpacked, found);
        Some(())
    };
    compare();
}
