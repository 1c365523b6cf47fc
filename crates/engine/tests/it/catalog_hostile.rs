//! Bundles that are not what their catalog says, or not what bundles are.

use std::path::Path;

use image::oci::Digest;
use serde_json::{Value, json};
use testkit::{catalog::Publisher, images::Tar};
use wire::control::Code;

use crate::{
    catalog::{configure, of, only, published},
    pull::nothing_is_left,
    server::{Server, answer, head, serve},
    verb::Verb::{PullImage, PullKernel, RefreshCatalogs},
    world::World,
};

/// What is refused, beside what was there before.
#[track_caller]
fn refused(world: &World, what: &crate::verb::Verb) -> (Code, String) {
    let before = world.look().seen;
    let error = world.run(what).unwrap_err();
    nothing_is_left(world);
    assert_eq!(world.look().seen, before);
    (error.code, format!("{}: {}", error.message, error.causes.join(": ")))
}

/// Publishes `bundle` as image and kernel `x`, whose catalogs tell the truth of it.
fn publish(world: &World, publisher: &Publisher, serial: u64, bundle: &[u8]) {
    host::fs::write_atomic(&publisher.directory().join("x.tar.zst"), bundle).unwrap();
    for kind in ["images", "kernels"] {
        publisher.publish(kind, serial, &[of("x", bundle)]);
    }
    world.run(&RefreshCatalogs).unwrap();
}

fn manifest(of: &Path) -> Value {
    serde_json::from_slice(&host::fs::read(&of.join("manifest.json")).unwrap()).unwrap()
}

/// The files in `of`, with the manifest first.
fn files(of: &Path) -> Vec<(String, Vec<u8>)> {
    let list = host::fs::list(of).unwrap();
    let mut files: Vec<_> = list
        .iter()
        .map(|path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            (name, host::fs::read(path).unwrap())
        })
        .collect();
    files.sort_by_key(|(name, _)| name != "manifest.json");
    files
}

fn tar(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    files.iter().fold(Tar::default(), |tar, (name, content)| tar.file(name, 0o644, content)).finish()
}

fn with_manifest(of: &Path, change: impl FnOnce(&mut Value)) -> Vec<u8> {
    let mut files = files(of);
    let mut manifest = manifest(of);
    change(&mut manifest);
    files[0].1 = manifest.to_string().into_bytes();
    tar(&files)
}

#[test]
fn images_that_are_not_what_bundles_are() {
    let Some((world, publisher)) = published() else { return };
    let directory = only(&world, "images");
    let good = files(&directory);
    let rootfs = good[1].1.clone();
    let (size, digest) = (rootfs.len(), Digest::of(&rootfs).hex());
    let mut serial = 0;
    let mut check = |bundle: &[u8], why: &str| {
        serial += 1;
        publish(&world, &publisher, serial, bundle);
        let expected = (Code::Refused, format!("cannot import image x: {why}"));
        assert_eq!(refused(&world, &PullImage("x")), expected);
    };
    let renamed = |name: &str| {
        let mut files = good.clone();
        files[1].0 = name.to_owned();
        tar(&files)
    };
    check(&[0; 1024], "the bundle ends without manifest.json");
    check(&renamed("etc/passwd"), r#"entry "etc/passwd" does not belong in the bundle"#);
    check(&renamed(".download"), r#"entry ".download" does not belong in the bundle"#);
    let one = |tar: Tar| tar.file("manifest.json", 0o644, &good[0].1).file("rootfs.ext4", 0o644, &rootfs);
    check(
        &one(Tar::default().directory("d")).finish(),
        r#"the bundle does not begin with manifest.json but with "d""#,
    );
    let link = Tar::default().file("manifest.json", 0o644, &good[0].1).symlink("rootfs.ext4", "/etc/passwd");
    check(&link.finish(), r#"entry "rootfs.ext4" does not belong in the bundle"#);
    let twice = one(Tar::default()).file("rootfs.ext4", 0o644, &rootfs).finish();
    check(&twice, r#"entry "rootfs.ext4" does not belong in the bundle"#);
    check(&tar(&good[..1]), "the bundle ends without rootfs.ext4");
    let after = [&tar(&good)[..], &[0; 512], b"more"].concat();
    check(&after, r#"entry "something behind the last one" does not belong in the bundle"#);
    check(&tar(&good)[..size / 2], "the bundle cannot be unpacked: failed to fill whole buffer");

    let changed = |at: usize| {
        let mut files = good.clone();
        files[1].1[at] ^= 1;
        (Digest::of(&files[1].1).hex(), tar(&files))
    };
    let (found, bundle) = changed(5000);
    check(&bundle, &format!("rootfs.ext4 has the digest {found} instead of {digest}"));
    let shorter = with_manifest(&directory, |manifest| manifest["size"] = json!(size + 4096));
    check(&shorter, &format!("rootfs.ext4 has {size} bytes instead of {}", size + 4096));
    let (found, _) = changed(1024 + 0x10);
    let mut damaged = good.clone();
    damaged[1].1[1024 + 0x10] ^= 1;
    let mut fitting = manifest(&directory);
    fitting["sha256"] = json!(found);
    damaged[0].1 = fitting.to_string().into_bytes();
    check(&tar(&damaged), "rootfs.ext4 is refused: its superblock is damaged");
    let other = with_manifest(&directory, |manifest| manifest["arch"] = json!("riscv64"));
    check(&other, &format!("it is for riscv64, and this host is {}", std::env::consts::ARCH));
    let odd = with_manifest(&directory, |manifest| manifest["init"] = json!("../x"));
    check(&odd, r#"its manifest says "../x" of its init, which this banger does not know"#);
    let newer = with_manifest(&directory, |manifest| manifest["version"] = json!(2));
    serial += 1;
    publish(&world, &publisher, serial, &newer);
    assert!(refused(&world, &PullImage("x")).1.ends_with("has version 2, which this banger does not know"));

    // The good one is good.
    serial += 1;
    publish(&world, &publisher, serial, &tar(&good));
    world.run(&PullImage("x")).unwrap();
}

#[test]
fn a_bundle_that_unpacks_to_far_more_than_it_is() {
    let Some((world, publisher)) = published() else { return };
    let directory = only(&world, "images");
    let tar_path = publisher.directory().join("bomb.tar");
    // Two GiB of nothing in one file that its manifest knows.
    let mut manifest = manifest(&directory);
    (manifest["size"], manifest["sha256"]) = (json!(2_u64 << 30), json!("0".repeat(64)));
    let small = Tar::default().file("manifest.json", 0o644, manifest.to_string().as_bytes()).finish();
    let mut header = tar::Header::new_ustar();
    header.set_path("rootfs.ext4").unwrap();
    header.set_size(2 << 30);
    header.set_mode(0o644);
    header.set_cksum();
    let begin = [&small[..small.len() - 1024], header.as_bytes()].concat();
    host::fs::write_atomic(&tar_path, &begin).unwrap();
    host::fs::grow(&tar_path, begin.len() as u64 + (2 << 30) + 1024).unwrap();
    let bundle = zstd(&tar_path);
    assert!(bundle.len() < 1 << 20);
    publish(&world, &publisher, 1, &bundle);
    let expected = "cannot import image x: the bundle cannot be unpacked: unpacks to too many times its size";
    assert_eq!(refused(&world, &PullImage("x")), (Code::Refused, expected.to_owned()));
}

#[expect(clippy::disallowed_methods, reason = "tests use the machine's own tools")]
fn zstd(path: &Path) -> Vec<u8> {
    let output = std::process::Command::new("zstd").arg("-qc").arg(path).output().unwrap();
    assert!(output.status.success());
    output.stdout
}

#[test]
fn kernels_that_are_not_what_bundles_are() {
    let Some((world, publisher)) = published() else { return };
    let directory = only(&world, "kernels");
    let good = files(&directory);
    let mut serial = 0;
    let mut check = |bundle: &[u8], why: &str| {
        serial += 1;
        publish(&world, &publisher, serial, bundle);
        let expected = (Code::Refused, format!("cannot import kernel x: {why}"));
        assert_eq!(refused(&world, &PullKernel("x")), expected);
    };
    check(&tar(&good[..1]), &format!("the bundle ends without {}", good[1].0));
    let named = |name: &str| {
        with_manifest(&directory, |manifest| {
            let record = json!({ "size": 1, "sha256": "0".repeat(64) });
            manifest["files"].as_object_mut().unwrap().insert(name.to_owned(), record);
        })
    };
    for name in ["../x", "/etc/passwd", "manifest.json", "vmlinux2"] {
        check(&named(name), &format!("its manifest names {name:?}, which is no file of a kernel"));
    }
    let nothing = with_manifest(&directory, |manifest| manifest["boot"] = json!({}));
    check(&nothing, "its manifest says that it has a file to boot, and it does not");
    let lacks = with_manifest(&directory, |manifest| manifest["features"] = json!({}));
    check(&lacks, "its manifest says that it has all that a guest needs, and it does not");
    let other = with_manifest(&directory, |manifest| manifest["release"] = json!("9.9"));
    let release = manifest(&directory)["release"].as_str().unwrap().to_owned();
    let boot = manifest(&directory)["boot"].clone();
    let file = boot["image"].as_str().or(boot["elf"].as_str()).unwrap().to_owned();
    check(&other, &format!("{file} is kernel {release}, and the manifest says 9.9"));
    serial += 1;
    publish(&world, &publisher, serial, &tar(&good));
    world.run(&PullKernel("x")).unwrap();
}

#[test]
fn servers_that_do_not_give_what_the_catalog_says() {
    let Some((mut world, publisher)) = published() else { return };
    let bundle = publisher.bundle("x.tar.zst", &only(&world, "images"));
    let size = bundle.len();
    let mut entries = Vec::new();
    for name in ["other", "short", "long", "endless", "error", "stalls"] {
        entries.push(testkit::catalog::entry(
            name,
            &format!("{name}.tar.zst"),
            &Digest::of(&bundle).hex(),
            size,
        ));
    }
    entries.push(
        json!({ "name": "foreign", "arch": "riscv64", "url": "f", "sha256": "0".repeat(64), "size": 1 }),
    );
    publisher.publish("images", 1, &entries);
    publisher.publish("kernels", 1, &[]);
    let mut changed = bundle.clone();
    changed[100] ^= 1;
    let found = Digest::of(&changed);
    let directory = publisher.directory().to_owned();
    let server = Server::start(move |asked, stream| {
        use std::io::Write;
        match &*asked.path {
            "/other.tar.zst" => serve(asked, stream, &changed),
            "/short.tar.zst" => answer(stream, "200 OK", "", &bundle[1..]),
            "/long.tar.zst" => answer(stream, "200 OK", "", &[&bundle[..], b"x"].concat()),
            "/endless.tar.zst" => {
                head(stream, "200 OK", "Connection: close\r\n");
                while stream.write_all(&[0; 4096]).is_ok() {}
                false
            }
            "/stalls.tar.zst" => {
                head(stream, "200 OK", &format!("Content-Length: {}\r\n", bundle.len()));
                std::io::Read::read(stream, &mut [0]).unwrap_or(0) > 0
            }
            "/error.tar.zst" => answer(stream, "418 I'm a teapot", "", b"\x1b[2J"),
            path => serve(asked, stream, &host::fs::read(&directory.join(&path[1..])).unwrap()),
        }
    });
    let address = server.address.clone();
    configure(&mut world, publisher.key(), |name| format!("http://{address}/{name}"));
    world.run(&RefreshCatalogs).unwrap();
    let digest = Digest::of(&host::fs::read(&publisher.directory().join("x.tar.zst")).unwrap());
    let check = |name: &'static str, code: Code, why: &str| {
        let expected = format!("cannot pull {name} from http://{address}/{name}.tar.zst: {why}");
        assert_eq!(refused(&world, &PullImage(name)), (code, expected));
    };
    let blob = |why: &str| format!("blob {digest} is refused: {why}");
    check("other", Code::Refused, &blob(&format!("its digest is {found}")));
    check("short", Code::Refused, &blob(&format!("it has {} bytes instead of {size}", size - 1)));
    check("long", Code::Refused, &blob(&format!("it has more than its {size} bytes")));
    check("endless", Code::Refused, &blob(&format!("it has more than its {size} bytes")));
    check("error", Code::Host, "127.0.0.1 answers 418 I'm a teapot");
    check(
        "stalls",
        Code::Host,
        &format!("the download of blob {digest} broke off 3 times: the server stopped answering"),
    );
    let host = std::env::consts::ARCH;
    assert_eq!(
        refused(&world, &PullImage("foreign")),
        (Code::Refused, format!("the catalog of images has foreign for riscv64, and this host is {host}: "))
    );
}
