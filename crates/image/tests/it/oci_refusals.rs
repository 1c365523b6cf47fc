//! Images that are not what they say, or nothing that could be: the error names the blob, and nothing is left.

use std::{fs, io::Write, path::Path};

use image::{
    oci::{Choice, Digest, OciError, import_layout},
    rootfs::{ImportOptions, Limits},
};
use serde_json::{Value, json};

use crate::{
    kernel_support::Scratch,
    oci_import::{import, stream},
    oci_support::{INDEX, LAYER, Layout, MANIFEST, arch},
    rootfs_refusals::{chain, gzip},
    rootfs_support::Tar,
};

#[track_caller]
fn failed<T>(image: &Path, result: Result<T, OciError>) -> String {
    let text = chain(&result.err().expect("this should be refused"));
    assert!(!image.exists(), "{text}");
    text
}

/// The error for a layout that `make` made; `@` stands for what it gives.
#[track_caller]
fn check(name: &str, expected: &str, make: impl FnOnce(&Layout) -> Value) {
    let scratch = Scratch::new(&format!("oci-refused-{name}"));
    let layout = Layout::new(&scratch);
    let shown = make(&layout);
    let image = scratch.path().join("image");
    let text = failed(&image, import(&layout.0, &image));
    let shown = shown.get("digest").unwrap_or(&shown).as_str().unwrap_or_default();
    assert_eq!(text, expected.replace('@', shown));
}

fn tar() -> Vec<u8> {
    Tar::default().file("file", &[1; 3000]).end()
}

/// Makes the only image of one layer, which `spoil` changes on disk.
fn spoiled(layout: &Layout, spoil: impl FnOnce(&Path)) -> Value {
    let layer = layout.blob(LAYER, &tar());
    let manifest = layout.manifest(std::slice::from_ref(&layer));
    layout.index(&[manifest]);
    spoil(&layout.path(layer["digest"].as_str().unwrap()));
    layer
}

#[test]
fn layers_that_are_something_else() {
    let other = |change: fn(&mut Vec<u8>)| {
        let mut bytes = tar();
        change(&mut bytes);
        (format!("blob @ is refused: its digest is {}", Digest::of(&bytes)), bytes)
    };
    // In the content of a file; in a header, where the archive breaks first; in what follows the archive.
    for (name, change) in [
        ("content", (|bytes| bytes[600] = 2) as fn(&mut Vec<u8>)),
        ("header", |bytes| bytes[0] = 2),
        ("nothing", |bytes| bytes.fill(b'x')),
        ("end", |bytes| *bytes.last_mut().unwrap() = 1),
    ] {
        let (expected, bytes) = other(change);
        check(name, &expected, |layout| spoiled(layout, |path| fs::write(path, bytes).unwrap()));
    }
    let size = tar().len();
    check("shorter", &format!("blob @ is refused: it has 700 bytes instead of {size}"), |layout| {
        spoiled(layout, |path| fs::write(path, &tar()[..700]).unwrap())
    });
    check("longer", &format!("blob @ is refused: it has more than its {size} bytes"), |layout| {
        spoiled(layout, |path| {
            fs::OpenOptions::new().append(true).open(path).unwrap().write_all(b"x").unwrap();
        })
    });
    check("missing", "blob @ is missing", |layout| spoiled(layout, |path| fs::remove_file(path).unwrap()));
    check("directory", "blob @ is missing", |layout| {
        spoiled(layout, |path| {
            fs::remove_file(path).unwrap();
            fs::create_dir(path).unwrap();
        })
    });
}

#[test]
fn layers_that_are_broken_as_they_should_be() {
    let check = |name: &str, expected: &str, layers: Vec<Vec<u8>>| {
        check(name, expected, |layout| {
            let last = Digest::of(layers.last().unwrap()).to_string();
            layout.image(&layers);
            last.into()
        });
    };
    let wrong = |entry: &str| format!("cannot unpack layer 2 of 2, @: entry {entry} is refused: ");
    let empty = Tar::default().dir("d").end();
    for (name, path) in [("empty", "d/.wh."), ("dot", "d/.wh.."), ("dots", ".wh..."), ("slash", "d/.wh../")] {
        let layer = Tar::default().file(path, b"").end();
        check(name, &(wrong(path) + "it is a whiteout of nothing"), vec![empty.clone(), layer]);
    }
    let layer = Tar::default().file("../.wh.x", b"").end();
    check("escape", &(wrong("../.wh.x") + "its path leads out of the image"), vec![empty.clone(), layer]);
    let layer = Tar::default().symlink("out", "../..").file("out/.wh..wh..opq", b"").end();
    check(
        "through",
        &(wrong("out/.wh..wh..opq") + "its path leads out of the image through the symbolic link out"),
        vec![empty.clone(), layer],
    );
    let layer = Tar::default().file(".wh.gone", b"").hardlink("link", "gone").end();
    let lower = Tar::default().file("gone", b"").end();
    check("hidden", &(wrong("link") + "its target gone does not exist in the image"), vec![lower, layer]);
    let cut = tar()[..1500].to_vec();
    check(
        "cut",
        "cannot unpack layer 2 of 2, @: the archive is cut off after file",
        vec![empty.clone(), cut],
    );
    let packed = gzip(&tar());
    let cut = packed[..packed.len() - 5].to_vec();
    check(
        "cut-gzip",
        "cannot unpack layer 2 of 2, @: the archive is cut off after file",
        vec![empty.clone(), cut],
    );
    check("nothing", "there is nothing in it", vec![vec![0; 1024]]);
}

#[test]
fn documents_that_are_something_else() {
    let index = |layout: &Layout, manifest: Value| {
        layout.index(std::slice::from_ref(&manifest));
        manifest
    };
    let document = |kind: &'static str, document: Value| {
        move |layout: &Layout| index(layout, layout.document(kind, &document))
    };
    let refused = |why: &str| format!("manifest @ is refused: {why}");
    check(
        "json",
        &refused("it is not as the specification has it: expected ident at line 1 column 2"),
        |layout| index(layout, layout.blob(MANIFEST, b"not json")),
    );
    let one = "it is a Docker manifest of schema 1, which no longer can be trusted; push the image again with a newer tool";
    check("schema-1", &refused(one), document(MANIFEST, json!({ "schemaVersion": 1, "fsLayers": [] })));
    let signed = "application/vnd.docker.distribution.manifest.v1+prettyjws";
    check("signed", &refused(one), document(signed, json!({ "schemaVersion": 2 })));
    let both = json!({ "schemaVersion": 2, "manifests": [], "layers": [], "config": null });
    check("both", &refused("it has both manifests and layers"), document(MANIFEST, both));
    let chart = "application/vnd.cncf.helm.config.v1+json";
    check(
        "type",
        &refused("its type \"application/vnd.cncf.helm.config.v1+json\" is not that of an image"),
        document(chart, json!({ "schemaVersion": 2 })),
    );
    check("zero", &refused("the image has no layers"), |layout| index(layout, layout.manifest(&[])));
    check("many", &refused("the image has 513 layers, more than 512"), |layout| {
        let layer = layout.blob(LAYER, &tar());
        index(layout, layout.manifest(&vec![layer; 513]))
    });
    for (name, kind, why) in [
        (
            "bzip2",
            format!("{LAYER}+bzip2"),
            "layer 1 is compressed with \"bzip2\"; supported are gzip and zstd",
        ),
        (
            "encrypted",
            format!("{LAYER}+gzip+encrypted"),
            "layer 1 is compressed with \"gzip+encrypted\"; supported are gzip and zstd",
        ),
        (
            "squashfs",
            "a/squashfs".to_owned(),
            "layer 1 is of type \"a/squashfs\", which is no layer of a root file system",
        ),
    ] {
        check(name, &refused(why), |layout| {
            let layer = layout.blob(&kind, &tar());
            index(layout, layout.manifest(&[layer]))
        });
    }
    check(
        "digest",
        &refused(
            "it is not as the specification has it: digests by \"md5\" are not supported, only sha256 at line 1 column 114",
        ),
        |layout| {
            let text = format!(
                r#"{{"schemaVersion":2,"layers":[],"config":{{"mediaType":"x","size":1,"digest":"md5:{}"}}}}"#,
                "0".repeat(32)
            );
            index(layout, layout.blob(MANIFEST, text.as_bytes()))
        },
    );
    check(
        "huge",
        "blob @ is refused: it has 4194305 bytes, more than the 4194304 that are allowed",
        |layout| index(layout, layout.blob(MANIFEST, &vec![b' '; (4 << 20) + 1])),
    );
}

#[test]
fn messages_repeat_little_of_a_document() {
    let (long, shown) = (format!("a/{}", "y".repeat(100_000)), format!("a/{}", "y".repeat(98)));
    check(
        "long-type",
        &format!("manifest @ is refused: its type {shown:?} is not that of an image"),
        |layout| {
            let manifest = layout.document(MANIFEST, &json!({ "schemaVersion": 2, "mediaType": long }));
            layout.index(std::slice::from_ref(&manifest));
            manifest
        },
    );
    let of_layer = |name: &str, kind: String, why: String| {
        check(name, &format!("manifest @ is refused: layer 1 is {why}"), |layout| {
            let layer = layout.blob(&kind, &tar());
            let manifest = layout.manifest(&[layer]);
            layout.index(std::slice::from_ref(&manifest));
            manifest
        });
    };
    of_layer(
        "long-layer",
        long.clone(),
        format!("of type {shown:?}, which is no layer of a root file system"),
    );
    let why = format!("compressed with {shown:?}; supported are gzip and zstd");
    of_layer("long-compression", format!("{LAYER}+{long}"), why);
    let config = json!({ "os": long, "architecture": "x", "rootfs": { "diff_ids": [] } });
    let why = format!("the image is for {shown}, and this host needs linux/{}", arch());
    check("long-platform", &format!("config @ is refused: {why}"), |layout| {
        let layer = layout.blob(LAYER, &tar());
        let config = layout.document("config", &config);
        let manifest = json!({ "schemaVersion": 2, "config": config, "layers": [layer] });
        layout.index(&[layout.document(MANIFEST, &manifest)]);
        config
    });
    let json = json!({ "schemaVersion": long }).to_string();
    let why = format!("invalid type: string \"a/{} ... at line 1 column {}", "y".repeat(76), json.len() - 1);
    check(
        "long-json",
        &format!("manifest @ is refused: it is not as the specification has it: {why}"),
        |layout| {
            let manifest = layout.blob(MANIFEST, json.as_bytes());
            layout.index(std::slice::from_ref(&manifest));
            manifest
        },
    );
}

#[test]
fn indexes_that_lead_nowhere() {
    let other = json!({ "os": "linux", "architecture": "s390x" });
    check(
        "platform",
        "index @ is refused: it has nothing for linux/ARCH, only for: linux/s390x, windows/ARCH"
            .replace("ARCH", &arch())
            .as_str(),
        |layout| {
            let layer = layout.blob(LAYER, &tar());
            let (mut one, mut two) =
                (layout.manifest(std::slice::from_ref(&layer)), layout.manifest(&[layer]));
            one["platform"] = other;
            two["platform"] = json!({ "os": "windows", "architecture": arch() });
            let index = layout.document(INDEX, &json!({ "schemaVersion": 2, "manifests": [one, two] }));
            layout.index(std::slice::from_ref(&index));
            index
        },
    );
    check("deep", "index @ is refused: it is an index within 4 others", |layout| {
        let layer = layout.blob(LAYER, &tar());
        let manifest = layout.manifest(&[layer]);
        let around =
            |inner: &Value| layout.document(INDEX, &json!({ "schemaVersion": 2, "manifests": [inner] }));
        let innermost = around(&manifest);
        let mut descriptor = innermost.clone();
        for _ in 0..4 {
            descriptor = around(&descriptor);
        }
        layout.index(&[descriptor]);
        innermost
    });
    // An index cannot have its own digest in it, so a loop is a lie about a digest.
    let digest = Digest::of(b"loop").to_string();
    let descriptor = json!({ "mediaType": INDEX, "digest": digest, "size": 1000 });
    let mut bytes = json!({ "schemaVersion": 2, "manifests": [descriptor] }).to_string().into_bytes();
    bytes.resize(1000, b' ');
    check("loop", &format!("blob @ is refused: its digest is {}", Digest::of(&bytes)), |layout| {
        fs::write(layout.path(&digest), &bytes).unwrap();
        layout.index(std::slice::from_ref(&descriptor));
        descriptor.clone()
    });
}

#[test]
fn images_that_are_not_for_this_host_or_not_described() {
    let config = |layout: &Layout, config: Value| {
        let layer = layout.blob(LAYER, &tar());
        let config = layout.document("config", &config);
        let manifest = json!({ "schemaVersion": 2, "config": config, "layers": [layer] });
        let manifest = layout.document(MANIFEST, &manifest);
        layout.index(&[manifest]);
        config
    };
    let other = json!({ "os": "linux", "architecture": "s390x", "rootfs": { "diff_ids": [] } });
    let wanted = arch();
    check(
        "arch",
        &format!("config @ is refused: the image is for linux/s390x, and this host needs linux/{wanted}"),
        |layout| config(layout, other),
    );
    let fewer = json!({ "os": "linux", "architecture": wanted, "rootfs": { "diff_ids": [] } });
    check("fewer", "config @ is refused: the config describes 0 layers, the manifest 1", |layout| {
        config(layout, fewer)
    });
}

#[test]
fn layouts_that_are_none() {
    let scratch = Scratch::new("no-layout");
    let image = scratch.path().join("image");
    let layout = Layout::new(&scratch);
    let dir = layout.0.display();
    let text = failed(&image, import(&layout.0, &image));
    assert_eq!(text, format!("{dir} is not an OCI layout: it has no index.json"));
    layout.index(&[]);
    assert_eq!(failed(&image, import(&layout.0, &image)), "index.json is refused: there is no image in it");
    fs::write(layout.0.join("oci-layout"), r#"{"imageLayoutVersion":"2.0.0"}"#).unwrap();
    let text = failed(&image, import(&layout.0, &image));
    assert_eq!(text, "oci-layout is refused: its layout has version \"2.0.0\"; 1.0.0 is supported");
}

#[test]
fn limits_hold_over_all_layers() {
    let scratch = Scratch::new("layer-limits");
    let layout = Layout::new(&scratch);
    let layer = |name: &str| Tar::default().dir("d").file(name, &[0; 100_000]).end();
    layout.image(&[gzip(&layer("one")), gzip(&layer("two")), gzip(&layer("three"))]);
    let image = scratch.path().join("image");
    let with = |limits: Limits| {
        let options = ImportOptions { limits, ..ImportOptions::default() };
        let result = import_layout(&layout.0, &Choice::host(), &image, &options, &mut |_| {
            std::ops::ControlFlow::Continue(())
        });
        failed(&image, result)
    };
    let check = |limits, expected: &str| {
        let text = with(limits);
        assert!(
            text.starts_with("cannot unpack layer 3 of 3, sha256:") && text.ends_with(expected),
            "{text}"
        );
    };
    let limits = Limits::default();
    check(Limits { entries: 5, ..limits }, ": the archive has more than 5 entries");
    check(Limits { bytes: 300_000, ..limits }, ": the archive unpacks to more than 300000 bytes");
    check(
        Limits { ratio: 1, ratio_from: 250_000, ..limits },
        ": the archive unpacks to more than 1 times its size",
    );
}

/// What `docker save` writes, with the config's name and layers that are given.
fn saved(config: &str, layers: &[(&str, &[u8])], described: &[Digest]) -> Tar {
    let names: Vec<_> = layers.iter().map(|(name, _)| *name).collect();
    let manifest = json!([{ "Config": config, "RepoTags": ["x:y"], "Layers": names }]).to_string();
    let document = config_of(described);
    layers
        .iter()
        .fold(Tar::default(), |tar, (name, bytes)| tar.file(name, bytes))
        .file(config, &document)
        .file("manifest.json", manifest.as_bytes())
}

fn config_of(described: &[Digest]) -> Vec<u8> {
    let described: Vec<_> = described.iter().map(Digest::to_string).collect();
    let config = json!({ "os": "linux", "architecture": arch(), "rootfs": { "diff_ids": described } });
    serde_json::to_vec(&config).unwrap()
}

#[test]
fn archives_of_docker_are_checked_by_their_config() {
    let scratch = Scratch::new("docker-archives");
    let image = scratch.path().join("image");
    let layer = tar();
    let digest = Digest::of(&layer);
    let layer_name = format!("{}/layer.tar", "a".repeat(64));
    let config = Digest::of(&config_of(&[digest])).hex() + ".json";
    let good = saved(&config, &[(&layer_name, &layer)], &[digest]);
    stream(&good.clone().end()[..], None, &image).unwrap();
    fs::remove_file(&image).unwrap();

    let check = |archive: Tar, tag: Option<&str>, expected: &str| {
        assert_eq!(failed(&image, stream(&archive.end()[..], tag, &image)), expected);
    };
    check(good, Some("z"), "manifest.json is refused: there is no image \"z\" in it, only: x:y");
    let mut other = layer.clone();
    other[600] = 2;
    let found = Digest::of(&other);
    check(
        saved(&config, &[(&layer_name, &other)], &[digest]),
        None,
        &format!("blob {digest} is refused: its digest is {found}"),
    );
    let wrong = format!("{}.json", "b".repeat(64));
    check(
        saved(&wrong, &[(&layer_name, &layer)], &[digest]),
        None,
        &format!(
            "blob sha256:{} is refused: its digest is sha256:{}",
            "b".repeat(64),
            config.trim_end_matches(".json")
        ),
    );
    check(
        saved(&config, &[(&layer_name, &layer), (&layer_name, &layer)], &[digest]),
        None,
        &format!(
            "config sha256:{} is refused: the config describes 1 layers, the manifest 2",
            config.trim_end_matches(".json")
        ),
    );
    let none = Digest::of(&config_of(&[])).hex() + ".json";
    let tar = saved(&none, &[], &[]);
    check(
        tar,
        None,
        &format!("config sha256:{} is refused: the image has no layers", none.trim_end_matches(".json")),
    );
    check(Tar::default().dir("blobs"), None, "the archive has no \"manifest.json\"");
}
