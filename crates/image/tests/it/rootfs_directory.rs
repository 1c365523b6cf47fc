//! Directories as images where somebody made them to do harm, or changes them meanwhile. That everything is kept is compared
//! with tar in `rootfs_import`.

use std::{
    fs,
    ops::ControlFlow,
    os::unix::{fs::symlink, net::UnixListener},
    path::Path,
    process::Command,
};

use image::rootfs::{ImportError, ImportOptions, Limits, Progress, RootfsReport, import_directory};
use testkit::need;

use crate::{
    kernel_support::{Scratch, run},
    rootfs_support::e2fsck,
};

fn import(dir: &Path, out: &Path) -> Result<RootfsReport, ImportError> {
    import_directory(dir, out, &ImportOptions::default(), &mut |_| ControlFlow::Continue(()))
}

/// What lies at `path` of `image`, as debugfs tells it.
fn seen(image: &Path, path: &str) -> Option<String> {
    let mut debugfs = Command::new(need::program("e2fsck", "debugfs")?);
    Some(run(debugfs.args(["-R", &format!("stat {path}")]).arg(image)))
}

/// Refuses `dir` with `expected`, and leaves nothing.
#[track_caller]
fn refused(scratch: &Scratch, dir: &Path, limits: Limits, expected: &str) {
    let out = scratch.path().join("refused");
    let options = ImportOptions { limits, ..ImportOptions::default() };
    let error = import_directory(dir, &out, &options, &mut |_| ControlFlow::Continue(())).unwrap_err();
    let said = error.to_string().replace(&dir.display().to_string(), "DIR");
    assert_eq!(said, expected);
    assert!(!out.exists());
}

#[test]
fn nothing_is_opened_but_files_and_nothing_is_reached_through_a_link() {
    let scratch = Scratch::new("directory-hostile");
    let secret = scratch.file("outside/secret", b"the owner's");
    let dir = scratch.dir("tree");
    fs::write(dir.join("file"), b"content").unwrap();
    fs::hard_link(dir.join("file"), dir.join("name")).unwrap();
    symlink(secret.parent().unwrap(), dir.join("out")).unwrap();
    symlink("..", dir.join("up")).unwrap();
    symlink(".", dir.join("loop")).unwrap();
    // Who opened it would wait for its writer.
    run(Command::new("mkfifo").arg(dir.join("pipe")));
    let _socket = UnixListener::bind(dir.join("socket")).unwrap();
    // In a layer these would hide something.
    fs::write(dir.join(".wh.file"), b"").unwrap();
    fs::write(dir.join(".wh..wh..opq"), b"").unwrap();
    let image = scratch.path().join("image");
    // A link to the directory is as good as the directory.
    let link = scratch.path().join("link");
    symlink(&dir, &link).unwrap();
    let report = import(&link, &image).unwrap();
    assert_eq!((report.entries, report.unpacked), (9, 7), "files are read once, whatever their names");
    let look = || {
        e2fsck(&image)?;
        for (path, kind) in [
            ("/out", "symlink"),
            ("/up", "symlink"),
            ("/loop", "symlink"),
            ("/pipe", "FIFO"),
            ("/file", "regular"),
            ("/.wh.file", "regular"),
            ("/.wh..wh..opq", "regular"),
        ] {
            let said = seen(&image, path)?;
            assert!(said.contains(&format!("Type: {kind}")), "{path}: {said}");
        }
        assert!(seen(&image, "/name")?.contains("Links: 2"));
        assert!(!seen(&image, "/socket")?.contains("Inode"), "a socket is nobody's");
        assert!(!seen(&image, "/out/secret")?.contains("Inode"));
        Some(())
    };
    let _ = look();
}

#[test]
fn the_same_directory_gives_the_same_bytes() {
    let scratch = Scratch::new("directory-same");
    for number in 0..50 {
        scratch.file(&format!("tree/{}/{number}", number % 7), format!("{number}").as_bytes());
    }
    let (one, two) = (scratch.path().join("one"), scratch.path().join("two"));
    for image in [&one, &two] {
        import(&scratch.path().join("tree"), image).unwrap();
    }
    assert_eq!(fs::read(one).unwrap(), fs::read(two).unwrap());
}

#[test]
fn what_cannot_be_an_image_is_refused_with_its_name() {
    let scratch = Scratch::new("directory-refused");
    let limits = Limits::default();
    refused(&scratch, &scratch.dir("empty"), limits, "there is nothing in it");
    let file = scratch.file("file", b"");
    refused(&scratch, &file, limits, "cannot open DIR");
    refused(&scratch, &scratch.path().join("none"), limits, "cannot open DIR");
    let dir = scratch.dir("tree");
    fs::write(dir.join("a"), vec![1; 10_000]).unwrap();
    fs::write(dir.join("b"), b"").unwrap();
    refused(&scratch, &dir, Limits { entries: 1, ..limits }, "the archive has more than 1 entries");
    let small = Limits { bytes: 5000, ..limits };
    refused(&scratch, &dir, small, "the archive unpacks to more than 5000 bytes");
    // A hole costs nothing to make: no limit is needed but that of the file system.
    fs::File::create(dir.join("hole")).unwrap().set_len(1 << 40).unwrap();
    let image = scratch.path().join("image");
    assert!(import(&dir, &image).unwrap().size < 4 << 20);
    // Deeper than a path can be.
    let mut deep = dir.clone();
    for _ in 0..15 {
        deep.push("d".repeat(250));
    }
    fs::create_dir_all(&deep).unwrap();
    let make = |at: &fs::File, name: &str| {
        rustix::fs::mkdirat(at, name, rustix::fs::Mode::RWXU).unwrap();
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY;
        fs::File::from(rustix::fs::openat(at, name, flags, rustix::fs::Mode::empty()).unwrap())
    };
    let bottom = make(&fs::File::open(&deep).unwrap(), &"e".repeat(250));
    make(&bottom, &"f".repeat(250));
    let error = import(&dir, &scratch.path().join("deep")).unwrap_err();
    assert!(error.to_string().starts_with("cannot "), "{error}");
}

#[test]
fn a_file_that_shrinks_meanwhile_is_told() {
    let scratch = Scratch::new("directory-shrinks");
    let dir = scratch.dir("tree");
    // The meter reports every few MiB, so also within the file.
    fs::write(dir.join("file"), vec![7; 20 << 20]).unwrap();
    let file = fs::OpenOptions::new().write(true).open(dir.join("file")).unwrap();
    let mut shrink = |_: Progress| {
        file.set_len(9 << 20).unwrap();
        ControlFlow::Continue(())
    };
    let image = scratch.path().join("image");
    let error = import_directory(&dir, &image, &ImportOptions::default(), &mut shrink).unwrap_err();
    assert!(matches!(&error, ImportError::Changed { path } if path.ends_with("tree/file")), "{error}");
    assert!(!image.exists());
    let cancel = &mut |_: Progress| ControlFlow::Break(());
    let error = import_directory(&dir, &image, &ImportOptions::default(), cancel).unwrap_err();
    assert!(matches!(error, ImportError::Cancelled), "{error}");
}

#[test]
fn what_is_mounted_in_it_is_left_out() {
    if !rustix::process::geteuid().is_root() {
        let _ = need::missing::<()>("root", "no right to mount");
        return;
    }
    let scratch = Scratch::new("directory-mount");
    let dir = scratch.dir("tree");
    fs::create_dir(dir.join("proc")).unwrap();
    fs::create_dir(dir.join("etc")).unwrap();
    let image = scratch.path().join("image");
    let mounted = scratch.path().join("tree/proc");
    run(Command::new("mount").args(["-t", "tmpfs", "none"]).arg(&mounted));
    fs::write(mounted.join("inside"), b"").unwrap();
    let report = import(&dir, &image);
    run(Command::new("umount").arg("--lazy").arg(&mounted));
    assert_eq!(report.unwrap().entries, 2);
}
