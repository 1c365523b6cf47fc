//! The boot payload as `cpio` reads it. That a kernel does is seen where one is booted.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use image::initramfs::{self, Archive, CONFIG_PATH, Entry};

use crate::kernel_support::Scratch;

/// What `cpio -tv` says of an archive: mode, owner, size or device, and name of each entry.
fn listing(archive: &[u8]) -> Vec<String> {
    use std::io::Write;
    let mut child = Command::new("cpio")
        .args(["-tvn", "--quiet"])
        .env("TZ", "UTC")
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(archive).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let line = |line: &str| {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let date = words.iter().position(|word| *word == "Jan").unwrap();
        assert_eq!(words[date..date + 3], ["Jan", "1", "1970"]);
        format!("{} {} {}", words[0], words[2..date].join(" "), words[date + 3..].join(" "))
    };
    String::from_utf8(output.stdout).unwrap().lines().map(line).collect()
}

#[test]
fn every_kind_of_entry_is_read_back() {
    if testkit::need::program("cpio", "cpio").is_none() {
        return;
    }
    let mut archive = Archive::new(Vec::new());
    archive.add("a", &Entry::Directory).unwrap();
    for (name, content) in [("a/1", &b"x"[..]), ("a/22", b""), ("a/333", b"1234"), ("a/4444", &[7; 4097])] {
        archive.add(name, &Entry::File { mode: 0o640, content }).unwrap();
    }
    archive.add("a/null", &Entry::CharDevice { mode: 0o666, major: 1, minor: 3 }).unwrap();
    archive.add("a/link", &Entry::Symlink { target: "../elsewhere" }).unwrap();
    let bytes = archive.finish().unwrap();
    assert_eq!(bytes.len() % 4, 0);
    assert_eq!(
        listing(&bytes),
        [
            "drwxr-xr-x 0 0 0 a",
            "-rw-r----- 0 0 1 a/1",
            "-rw-r----- 0 0 0 a/22",
            "-rw-r----- 0 0 4 a/333",
            "-rw-r----- 0 0 4097 a/4444",
            "crw-rw-rw- 0 0 1, 3 a/null",
            "lrwxrwxrwx 0 0 12 a/link -> ../elsewhere",
        ]
    );
}

/// A base of `agent` and `modules`.
fn base(scratch: &Scratch, agent: &Path, modules: Option<&Path>) -> PathBuf {
    let path = scratch.path().join("base");
    initramfs::base(agent, modules, &mut fs::File::create(&path).unwrap()).unwrap();
    path
}

#[test]
fn a_payload_is_the_base_the_modules_and_the_configuration() {
    if testkit::need::program("cpio", "cpio").is_none() {
        return;
    }
    let scratch = Scratch::new("payload");
    // A length that is no multiple of four, so that what is filled up shows.
    let agent = scratch.file("agent", b"the agent");
    let without = fs::read(base(&scratch, &agent, None)).unwrap();
    assert_eq!(
        listing(&without),
        [
            "drwxr-xr-x 0 0 0 dev",
            "crw------- 0 0 5, 1 dev/console",
            "drwxr-xr-x 0 0 0 proc",
            "drwxr-xr-x 0 0 0 sys",
            "drwxr-xr-x 0 0 0 run",
            "drwxr-xr-x 0 0 0 banger",
            "-rwxr-xr-x 0 0 9 init",
        ]
    );
    let modules = scratch.file("modules.cpio", b"070701 odd length");
    let base = base(&scratch, &agent, Some(&modules));
    let bytes = fs::read(&base).unwrap();
    assert_eq!(bytes.len() % 4, 0);
    assert!(bytes.starts_with(&without));
    assert!(bytes[without.len()..].starts_with(b"070701 odd length\0"));

    let payload = scratch.path().join("payload");
    initramfs::assemble(&base, b"{}", &payload).unwrap();
    let meta = fs::metadata(&payload).unwrap();
    assert_eq!((meta.permissions().mode() & 0o7777, meta.nlink()), (0o600, 1));
    let whole = fs::read(&payload).unwrap();
    assert_eq!(whole.strip_prefix(bytes.as_slice()).unwrap(), initramfs::config_segment(b"{}"));
    assert_eq!(
        listing(&initramfs::config_segment(b"{}")),
        ["drwxr-xr-x 0 0 0 banger".to_owned(), format!("-rw------- 0 0 2 {CONFIG_PATH}"),]
    );
    assert_eq!(fs::read(&base).unwrap(), bytes, "the base is as it was");

    // A base of any length is filled up before the configuration.
    let odd = scratch.file("odd", b"12345");
    initramfs::assemble(&odd, b"{}", &scratch.path().join("odd-payload")).unwrap();
    let whole = fs::read(scratch.path().join("odd-payload")).unwrap();
    assert!(whole.starts_with(b"12345\0\0\x00070701"));
}

#[test]
fn a_payload_that_cannot_be_made_leaves_nothing() {
    let scratch = Scratch::new("payload-refused");
    let out = scratch.path().join("payload");
    let error = initramfs::assemble(&scratch.path().join("none"), b"{}", &out).unwrap_err();
    assert!(error.to_string().ends_with("none"), "{error}");
    assert!(!out.exists());
    scratch.file("payload", b"another VM's");
    let base = scratch.file("base", b"1234");
    initramfs::assemble(&base, b"{}", &out).expect_err("it would overwrite");
    assert_eq!(fs::read(&out).unwrap(), b"another VM's");
    let error = initramfs::base(&scratch.path().join("agent"), None, &mut Vec::new()).unwrap_err();
    assert!(error.to_string().ends_with("agent"), "{error}");
}
