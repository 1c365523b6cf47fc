//! Images of layers against what umoci unpacks, whichever way they come.

use std::{fs, io::Read, ops::ControlFlow, path::Path};

use image::{
    manifest::RunConfig,
    oci::{Choice, Imported, OciError, import_layout, import_stream},
    rootfs::{ImportOptions, Progress},
};

use testkit::{
    listing::{Listing, Mount, assert_as_umoci, listing},
    umoci::Umoci,
};

use crate::{
    kernel_support::Scratch,
    oci_support::{Layout, skopeo},
    rootfs_refusals::{gzip, zstd},
    rootfs_support::{Head, Tar, e2fsck},
};

pub fn import(layout: &Path, out: &Path) -> Result<Imported, OciError> {
    let go_on = &mut |_| ControlFlow::Continue(());
    import_layout(layout, &Choice::host(), out, &ImportOptions::default(), go_on)
}

pub fn stream(reader: impl Read, tag: Option<&str>, out: &Path) -> Result<Imported, OciError> {
    let choice = Choice { tag: tag.map(str::to_owned), ..Choice::host() };
    import_stream(reader, &choice, out, &ImportOptions::default(), &mut |_| ControlFlow::Continue(()))
}

/// What the kernel shows of `image`.
fn shown(scratch: &Scratch, image: &Path) -> Option<Listing> {
    e2fsck(image)?;
    let mount = Mount::new(&scratch.dir("mount"), image, "ro,noload,loop")?;
    Some(listing(mount.path()))
}

/// Makes an image of `layers` with umoci, and compares what the kernel shows of ours with what umoci unpacks.
#[track_caller]
fn check(name: &str, layers: &[Tar]) {
    let scratch = Scratch::new(name);
    let layout = scratch.path().join("layout");
    let Some(umoci) = Umoci::begin(&layout, "latest") else { return };
    for layer in layers {
        umoci.add(&layer.clone().end());
    }
    let image = scratch.path().join("image");
    import(&layout, &image).unwrap();
    let compare = || {
        let unpacked = scratch.path().join("umoci");
        umoci.unpack(&unpacked)?;
        assert_as_umoci(&unpacked, shown(&scratch, &image)?);
        Some(())
    };
    compare();
}

fn root() -> Tar {
    Tar::default().dir("./")
}

/// A layer on top of others; each of its own lists the root, or umoci would make up its time.
fn lower() -> Tar {
    root()
        .dir("d")
        .file("d/a", b"lower a")
        .file("d/b", b"lower b")
        .dir("d/sub")
        .file("d/sub/c", b"lower c")
        .dir("d/sub/deep")
        .file("d/sub/deep/e", b"lower e")
        .file("f", b"lower f")
        .symlink("s", "d")
}

#[test]
fn a_whiteout_hides_what_is_below() {
    check("whiteout", &[lower(), root().file("d/.wh.a", b"").file(".wh.f", b"").file("d/.wh.sub", b"")]);
    // Of nothing, of a link, of what is below a link.
    check(
        "whiteout-links",
        &[lower(), root().file(".wh.none", b"").file("none/.wh.x", b"").file(".wh.s", b"")],
    );
    check("whiteout-through", &[lower(), root().file("s/.wh.a", b"")]);
    // What was hidden can come back, in the same layer and in the next.
    check(
        "whiteout-again",
        &[lower(), root().file(".wh.d", b"").file("d/new", b"new"), root().file("d/a", b"third")],
    );
}

#[test]
fn a_whiteout_hides_nothing_of_its_own_layer() {
    check("own-before", &[lower(), root().file("f", b"upper").file(".wh.f", b"")]);
    check("own-after", &[lower(), root().file(".wh.f", b"").file("f", b"upper")]);
    check("own-below", &[lower(), root().file("d/sub/new", b"upper").file(".wh.d", b"")]);
    check("own-directory", &[lower(), root().dir("d/sub").file(".wh.d", b"")]);
    check("own-link", &[lower(), root().hardlink("l", "d/b").file(".wh.d", b"")]);
}

#[test]
fn an_opaque_directory_shows_its_own_layer_only() {
    check("opaque-first", &[lower(), root().dir("d").file("d/.wh..wh..opq", b"").file("d/new", b"upper")]);
    check(
        "opaque-last",
        &[lower(), root().file("d/new", b"upper").file("d/sub/new", b"").file("d/.wh..wh..opq", b"")],
    );
    check(
        "opaque-between",
        &[
            lower(),
            root().file("d/sub/x", b"before").file("d/.wh..wh..opq", b"").file("d/sub/deep/y", b"after"),
        ],
    );
    check("opaque-root", &[lower(), root().file(".wh..wh..opq", b"").file("only", b"")]);
    check("opaque-through", &[lower(), root().file("s/.wh..wh..opq", b"").file("s/sub/c", b"upper c")]);
    check(
        "opaque-twice",
        &[
            lower(),
            root()
                .file("d/sub/.wh..wh..opq", b"")
                .file("d/sub/x", b"")
                .file("d/.wh..wh..opq", b"")
                .file("d/y", b""),
            root().file("d/.wh..wh..opq", b"").file("d/z", b""),
        ],
    );
    check(
        "opaque-nowhere",
        &[lower(), root().file("nowhere/.wh..wh..opq", b"").dir("new").file("new/.wh..wh..opq", b"")],
    );
}

#[test]
fn layers_change_what_others_made() {
    let capability = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let device = |kind, path, device| Head { device, ..Head::new(kind, path) };
    let lower = lower()
        .pax(&[("SCHILY.xattr.security.capability", capability)])
        .entry(&Head { mode: 0o4755, uid: 1000, gid: 70_000, ..Head::new(b'0', "ping") }, b"program")
        .pax(&[("SCHILY.xattr.user.kept", b"value")])
        .dir("attributes")
        .entry(&device(b'3', "null", (1, 3)), b"")
        .entry(&device(b'4', "disk", (259, 70_000)), b"")
        .entry(&Head::new(b'6', "pipe"), b"")
        .file("linked", b"content");
    check(
        "types",
        &[
            lower.clone(),
            root()
                .hardlink("d/linked", "linked")
                .hardlink("also-ping", "ping")
                .entry(&Head { mode: 0o700, uid: 7, ..Head::new(b'5', "attributes") }, b"")
                .file("d/sub", b"a file now")
                .dir("null")
                .file("null/x", b"")
                .symlink("pipe", "null"),
            root().file(".wh.linked", b"").file(".wh.ping", b"").file("d/a", &[7; 10_000]),
        ],
    );
    // A file that takes the place of one with other names leaves these alone; a link across layers is one file.
    check(
        "links",
        &[
            lower,
            root().hardlink("d/linked", "linked").hardlink("third", "linked"),
            root().file("linked", b"changed"),
            root().file(".wh.third", b"").hardlink("fourth", "d/linked"),
        ],
    );
}

#[test]
fn layers_at_random() {
    let scratch = Scratch::new("random-layers");
    let mut state = 7_u64;
    let mut random = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let mut compared = 0;
    for round in 0..60 {
        let layout = scratch.path().join("layout");
        let Some(umoci) = Umoci::begin(&layout, "latest") else { return };
        for _ in 0..3 {
            let mut layer = root();
            for entry in 0..random(10) {
                let mut parents = String::new();
                for _ in 0..random(3) {
                    parents += ["a/", "b/", "c/"][random(3) as usize];
                }
                let path = parents.clone() + ["a", "b", "c"][random(3) as usize];
                layer = match random(6) {
                    0 | 1 => layer.file(&path, format!("{round} {entry}").as_bytes()),
                    2 | 3 => layer.dir(&path),
                    4 => layer.file(&(parents + ".wh." + ["a", "b", "c"][random(3) as usize]), b""),
                    _ => layer.file(&(parents + ".wh..wh..opq"), b""),
                };
            }
            umoci.add(&layer.end());
        }
        let image = scratch.path().join("image");
        let imported = import(&layout, &image);
        let mut compare = || {
            let unpacked = scratch.path().join("umoci");
            let is_unpacked = umoci.try_unpack(&unpacked)?;
            // What goes through a file is refused by both.
            assert_eq!(is_unpacked, imported.is_ok(), "round {round}: {imported:?}");
            if is_unpacked {
                assert_as_umoci(&unpacked, shown(&scratch, &image)?);
                compared += 1;
            }
            Some(())
        };
        if compare().is_none() {
            return;
        }
        for path in ["layout", "umoci"] {
            let _ = fs::remove_dir_all(scratch.path().join(path));
        }
        let _ = fs::remove_file(&image);
    }
    assert!(compared >= 20, "{compared}");
}

#[test]
fn the_disk_space_of_what_is_hidden_is_given_back() {
    let scratch = Scratch::new("hidden-space");
    let layout = Layout::new(&scratch);
    let large: Vec<u8> = (0..8_u32 << 20).map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
    let lower = root().file("large", &large).file("small", b"small").end();
    layout.image(&[lower, root().file(".wh.large", b"").end()]);
    let image = scratch.path().join("image");
    let report = import(&layout.0, &image).unwrap().rootfs;
    assert!(report.unpacked > 8 << 20);
    let taken = host::fs::disk_usage(&image).unwrap();
    assert!(taken < 1 << 20, "{taken}");
    e2fsck(&image);
}

#[test]
fn layers_come_in_every_compression_and_may_be_empty() {
    let scratch = Scratch::new("layer-compression");
    let layout = Layout::new(&scratch);
    let tar = |name| root().file(name, name.as_bytes()).end();
    let gzipped = [gzip(&tar("gzip")), gzip(&[])].concat(); // two members, as pigz and others write them
    layout.image(&[tar("plain"), gzipped, zstd(&tar("zstd")), vec![0; 1024], gzip(&[0; 1024]), Vec::new()]);
    let image = scratch.path().join("image");
    import(&layout.0, &image).unwrap();
    if let Some(shown) = shown(&scratch, &image) {
        for name in ["plain", "gzip", "zstd"] {
            assert!(shown.contains_key(name.as_bytes()), "{name}");
        }
    }
}

#[test]
fn the_same_layers_give_the_same_bytes() {
    let scratch = Scratch::new("layers-deterministic");
    let layout = Layout::new(&scratch);
    layout.image(&[lower().end(), root().file("d/.wh..wh..opq", b"").file("d/x", b"x").end()]);
    let images = ["one", "two"].map(|name| scratch.path().join(name));
    for image in &images {
        import(&layout.0, image).unwrap();
    }
    let [one, two] = images.map(|path| fs::read(path).unwrap());
    assert!(one == two);
}

/// An image as people make them with umoci, in `layout`.
fn made_with_umoci(scratch: &Scratch, layout: &Path) -> Option<Umoci> {
    let umoci = Umoci::begin(layout, "one")?;
    let tree = scratch.dir("tree");
    fs::create_dir_all(tree.join("etc/app")).unwrap();
    fs::write(tree.join("etc/app/config"), "config").unwrap();
    fs::write(tree.join("etc/app/other"), "other").unwrap();
    fs::hard_link(tree.join("etc/app/config"), tree.join("etc/same")).unwrap();
    let path = |name: &str| tree.join(name).display().to_string();
    umoci.run(&["insert"], &["--rootless", &path("etc"), "/etc"]);
    fs::remove_file(tree.join("etc/app/other")).unwrap();
    umoci.run(&["insert"], &["--rootless", "--opaque", &path("etc/app"), "/etc/app"]);
    umoci.run(&["insert"], &["--rootless", "--whiteout", "/etc/same"]);
    umoci.run(
        &["config"],
        &[
            "--config.entrypoint=/bin/app",
            "--config.entrypoint=--serve",
            "--config.cmd=all",
            "--config.user=7:8",
            "--config.env=PATH=/bin",
            "--config.env=EMPTY=",
            "--config.workingdir=/etc/app",
        ],
    );
    Some(umoci)
}

#[test]
fn layouts_and_archives_of_real_tools_give_the_same_image() {
    let scratch = Scratch::new("real-tools");
    let layout = scratch.path().join("layout");
    let Some(umoci) = made_with_umoci(&scratch, &layout) else { return };
    let image = scratch.path().join("image");
    let imported = import(&layout, &image).unwrap();
    let expected = RunConfig {
        entrypoint: vec!["/bin/app".to_owned(), "--serve".to_owned()],
        cmd: vec!["all".to_owned()],
        env: vec!["PATH=/bin".to_owned(), "EMPTY=".to_owned()],
        user: Some("7:8".to_owned()),
        workdir: Some("/etc/app".to_owned()),
    };
    assert_eq!(imported.run, expected);
    let compare = || {
        let unpacked = scratch.path().join("umoci");
        umoci.unpack(&unpacked)?;
        assert_as_umoci(&unpacked, shown(&scratch, &image)?);
        Some(())
    };
    compare();

    let from = format!("oci:{}:one", layout.display());
    let wanted = fs::read(&image).unwrap();
    for (kind, compress) in [("oci-archive", false), ("docker-archive", false), ("docker-archive", true)] {
        let archive = scratch.path().join("archive");
        let _ = fs::remove_file(&archive);
        let Some(_) =
            skopeo(&["copy", "--quiet", &from, &format!("{kind}:{}:name/x:one", archive.display())])
        else {
            return;
        };
        let mut bytes = fs::read(&archive).unwrap();
        if compress {
            bytes = gzip(&bytes);
        }
        for tag in [None, Some("one"), Some("name/x:one")] {
            let out = scratch.path().join("from-archive");
            let imported = stream(&bytes[..], tag, &out).unwrap();
            assert_eq!(imported.run, expected, "{kind}");
            assert!(fs::read(&out).unwrap() == wanted, "{kind}");
            fs::remove_file(&out).unwrap();
        }
    }
    let left: Vec<_> =
        fs::read_dir(scratch.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().contains("from-archive")), "{left:?}");
}

#[test]
fn a_tag_chooses_among_several_images() {
    let scratch = Scratch::new("several-tags");
    let layout = Layout::new(&scratch);
    let manifests = ["one", "two"].map(|name| {
        let layer = layout.blob(crate::oci_support::LAYER, &root().file(name, b"").end());
        let mut manifest = layout.manifest(&[layer]);
        manifest["annotations"]["org.opencontainers.image.ref.name"] = name.into();
        manifest
    });
    layout.index(&manifests);
    let image = scratch.path().join("image");
    let choose = |tag: Option<&str>| {
        let choice = Choice { tag: tag.map(str::to_owned), ..Choice::host() };
        import_layout(&layout.0, &choice, &image, &ImportOptions::default(), &mut |_| {
            ControlFlow::Continue(())
        })
    };
    let two = choose(Some("two")).unwrap();
    assert_eq!(two.origin.unwrap().to_string(), manifests[1]["digest"]);
    let refused = |tag| crate::rootfs_refusals::chain(&choose(tag).unwrap_err());
    assert_eq!(
        refused(None),
        "index.json is refused: there are 2 images in it, one of which must be chosen by its tag: one, two"
    );
    assert_eq!(
        refused(Some("three")),
        "index.json is refused: there is no image \"three\" in it, only: one, two"
    );
}

#[test]
fn progress_counts_over_all_layers_and_can_stop() {
    let scratch = Scratch::new("layers-progress");
    let layout = Layout::new(&scratch);
    layout.image(&["one", "two", "three"].map(|name| root().file(name, b"").end()));
    let image = scratch.path().join("image");
    let mut seen = Vec::new();
    let mut watch = |progress: Progress| {
        seen.push(progress);
        if progress.entries >= 4 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let error =
        import_layout(&layout.0, &Choice::host(), &image, &ImportOptions::default(), &mut watch).unwrap_err();
    assert!(error.is_cancelled(), "{error}");
    assert!(
        seen.iter().any(|progress| progress.entries == 2) && seen.last().unwrap().entries == 4,
        "{seen:?}"
    );
    assert!(
        seen.windows(2).all(|pair| pair[0].unpacked <= pair[1].unpacked && pair[0].read <= pair[1].read),
        "{seen:?}"
    );
    assert!(!image.exists());
}
