//! What making an image of layers costs, as ratios measured in one run.
//!
//! An OCI layout of 50,000 entries and 500 MB in four gzipped layers is made, the uppermost of which replaces and hides much of
//! those below. Then, five times in turn, its layers are unpacked by `tar -x` on top of each other, and an image is made of it, its
//! digest included, as the store wants it. Once, umoci unpacks it and `mke2fs -d` makes an image of that. As root:
//!
//! ```text
//! cargo bench -p image --bench layers
//! cargo bench -p image --bench layers -- 1000000 200     # entries and MB: memory for a million entries
//! ```
#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a bench measures real tools on real files and prints what it found"
)]

mod support;

use std::{
    fs,
    io::Write,
    ops::ControlFlow,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use flate2::{Compression, write::GzEncoder};
use image::{
    identity,
    oci::{self, Choice},
    rootfs::ImportOptions,
};
use serde_json::{Value, json};
use support::{Planned, Random, Scratch, measure, median, mke2fs, peak, ratio, reset_peak};

const RUNS: usize = 5;
const TAG: &str = "bench";

fn main() {
    let numbers: Vec<u64> = std::env::args().filter_map(|argument| argument.parse().ok()).collect();
    let entries = numbers.first().copied().unwrap_or(50_000);
    let megabytes = numbers.get(1).copied().unwrap_or(500);
    let scratch = Scratch::new("layers");
    let layout = scratch.0.join("layout");
    let layers = make_layout(&layout, entries, megabytes * 1_000_000);
    let bytes: u64 = layers.iter().map(|layer| fs::metadata(layer).unwrap().len()).sum();
    println!("{} layers: {entries} entries and more, {bytes} bytes", layers.len());

    // With a million entries, unpacking takes minutes; that is run for the memory.
    let compares = entries <= 100_000 && rustix::process::geteuid().is_root();
    let image = scratch.0.join("image");
    let (mut unpacks, mut imports, mut memory, mut size) = (Vec::new(), Vec::new(), 0, 0);
    for _ in 0..if compares { RUNS } else { 1 } {
        if compares {
            let tree = scratch.0.join("tree");
            fs::create_dir(&tree).unwrap();
            let started = Instant::now();
            layers.iter().for_each(|layer| untar(layer, &tree));
            unpacks.push(started.elapsed());
            fs::remove_dir_all(tree).unwrap();
        }
        reset_peak();
        imports.push(measure(|| size = import(&layout, &image)));
        memory = memory.max(peak());
        fs::remove_file(&image).unwrap();
    }
    let import = median(imports);
    println!("import:  {import}");
    if compares {
        unpacks.sort();
        let unpack = unpacks[unpacks.len() / 2];
        println!("tar -x:  wall {:.3} s", unpack.as_secs_f64());
        println!("wall, layers to image over tar -x: {:.2} (at most 2)", ratio(import.wall, unpack));
        others(&scratch.0, &layout, entries, size, import.wall);
    } else {
        println!("skipped: comparisons, which need root and few entries");
    }
    let allowed = (64 << 20) + 256 * entries;
    println!("peak memory: {} KiB (at most {} KiB)", memory >> 10, allowed >> 10);
    println!("image: {size} bytes");
}

/// What the store does: the image, and its digest.
fn import(layout: &Path, image: &Path) -> u64 {
    let options = ImportOptions::default();
    let imported =
        oci::import_layout(layout, &Choice::host(), image, &options, &mut |_| ControlFlow::Continue(()));
    let size = imported.unwrap().rootfs.size;
    identity::sha256_of(image).unwrap();
    size
}

fn untar(layer: &Path, tree: &Path) {
    let done = Command::new("tar").args(["--numeric-owner", "-xzpf"]).arg(layer).arg("-C").arg(tree).status();
    assert!(done.unwrap().success());
}

/// What others need for the same.
fn others(scratch: &Path, layout: &Path, entries: u64, size: u64, ours: std::time::Duration) {
    let bundle = scratch.join("bundle");
    let mut umoci = Command::new("umoci");
    umoci.arg("unpack").arg("--image").arg(format!("{}:{TAG}", layout.display())).arg(&bundle);
    let started = Instant::now();
    match umoci.output() {
        Ok(output) if output.status.success() => {}
        Ok(output) => return println!("umoci: {}", String::from_utf8_lossy(&output.stderr)),
        Err(_) => return println!("skipped: comparison with umoci, which is not here"),
    }
    let unpacked = started.elapsed();
    let other = mke2fs(&bundle.join("rootfs"), &scratch.join("other"), entries, size);
    let whole = unpacked + other.map(|taken| taken.wall).unwrap_or_default();
    println!(
        "umoci unpack: wall {:.3} s, with mke2fs -d {:.3} s",
        unpacked.as_secs_f64(),
        whole.as_secs_f64()
    );
    println!("wall, umoci unpack and mke2fs -d over ours: {:.1} (at least 1)", ratio(whole, ours));
}

/// Makes a layout of four layers, and gives their files, the lowest first.
fn make_layout(layout: &Path, entries: u64, bytes: u64) -> Vec<PathBuf> {
    let blobs = layout.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let mut random = Random(1);
    let plan = support::plan(&mut random, entries, bytes);
    let noise = support::noise(&mut random);
    let mut parts: [Vec<Planned>; 4] = Default::default();
    for entry in plan {
        // What is in the lower layers comes again above, or is hidden there.
        let fate = random.below(100);
        if fate < 5 && entry.kind == tar::EntryType::Regular {
            parts[3].push(entry.clone());
        } else if fate == 5 {
            let at = entry.path.trim_end_matches('/').rfind('/').map_or(0, |slash| slash + 1);
            let path = format!("{}.wh.{}", &entry.path[..at], entry.path[at..].trim_end_matches('/'));
            parts[3].push(Planned { path, kind: tar::EntryType::Regular, size: 0 });
        } else if fate == 6 && entry.kind == tar::EntryType::Directory {
            let path = format!("{}.wh..wh..opq", entry.path);
            parts[3].push(Planned { path, kind: tar::EntryType::Regular, size: 0 });
        }
        parts[[0, 0, 0, 0, 0, 0, 0, 1, 1, 2][random.below(10) as usize]].push(entry);
    }
    let (mut layers, mut diffs, mut files) = (Vec::new(), Vec::new(), Vec::new());
    for part in parts {
        let tar = layout.join("layer.tar");
        support::write_tar(support::create(&tar), &mut random, &noise, part).flush().unwrap();
        diffs.push(format!("sha256:{}", identity::sha256_of(&tar).unwrap()));
        let packed = layout.join("layer.tar.gz");
        let mut encoder = GzEncoder::new(support::create(&packed), Compression::default());
        std::io::copy(&mut fs::File::open(&tar).unwrap(), &mut encoder).unwrap();
        encoder.finish().unwrap().flush().unwrap();
        fs::remove_file(&tar).unwrap();
        let (descriptor, file) = blob(&blobs, &packed, "application/vnd.oci.image.layer.v1.tar+gzip");
        layers.push(descriptor);
        files.push(file);
    }
    let document = |document: &Value, kind: &str| {
        let path = layout.join("document");
        fs::write(&path, document.to_string()).unwrap();
        blob(&blobs, &path, kind).0
    };
    let config = json!({
        "os": "linux", "architecture": Choice::host().arch, "rootfs": { "type": "layers", "diff_ids": diffs },
    });
    let config = document(&config, "application/vnd.oci.image.config.v1+json");
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({ "schemaVersion": 2, "mediaType": kind, "config": config, "layers": layers });
    let mut manifest = document(&manifest, kind);
    manifest["annotations"] = json!({ "org.opencontainers.image.ref.name": TAG });
    let index = json!({ "schemaVersion": 2, "manifests": [manifest] });
    fs::write(layout.join("index.json"), index.to_string()).unwrap();
    fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    files
}

/// Moves `file` to its place among `blobs`, and gives its descriptor.
fn blob(blobs: &Path, file: &Path, kind: &str) -> (Value, PathBuf) {
    let digest = identity::sha256_of(file).unwrap();
    let size = fs::metadata(file).unwrap().len();
    let place = blobs.join(&digest);
    fs::rename(file, &place).unwrap();
    (json!({ "mediaType": kind, "digest": format!("sha256:{digest}"), "size": size }), place)
}
