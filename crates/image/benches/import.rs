//! What importing a root tar costs, as ratios measured in one run.
//!
//! A tar of 50,000 entries and 500 MB is made; then, five times in turn, its bytes are copied, it is imported, and
//! `mke2fs -d` makes an image with the same features of the same tree. Run as root, so that the tree can be unpacked:
//!
//! ```text
//! cargo bench -p image --bench import
//! cargo bench -p image --bench import -- 1000000 200     # entries and MB: memory for a million entries
//! ```
#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a bench measures real tools on real files and prints what it found"
)]

mod support;

use std::{
    fs::{self, File},
    io::{Read, Write},
    ops::ControlFlow,
    path::{Path, PathBuf},
    process::Command,
};

use image::rootfs::{ImportOptions, RootfsReport, import_tar};
use support::{Random, Scratch, measure, median, mke2fs, peak, ratio, reset_peak};

const RUNS: usize = 5;

fn main() {
    let numbers: Vec<u64> = std::env::args().filter_map(|argument| argument.parse().ok()).collect();
    let entries = numbers.first().copied().unwrap_or(50_000);
    let megabytes = numbers.get(1).copied().unwrap_or(500);
    let scratch = Scratch::new("import");
    let tar = scratch.0.join("root.tar");
    let mut random = Random(1);
    let plan = support::plan(&mut random, entries, megabytes * 1_000_000);
    let noise = support::noise(&mut random);
    support::write_tar(support::create(&tar), &mut random, &noise, plan).flush().unwrap();
    drop(noise);
    println!("tar: {entries} entries, {} bytes", fs::metadata(&tar).unwrap().len());

    let (copy, image) = (scratch.0.join("copy"), scratch.0.join("image"));
    // With a million entries, mke2fs takes many minutes.
    let unpacked = if entries <= 100_000 { unpack(&scratch.0, &tar) } else { None };
    let (mut copies, mut imports, mut others) = (Vec::new(), Vec::new(), Vec::new());
    let mut memory = 0;
    let mut size = 0;
    for _ in 0..if unpacked.is_some() { RUNS } else { 1 } {
        copies.push(measure(|| copy_bytes(&tar, &copy)));
        reset_peak();
        imports.push(measure(|| size = import(&tar, &image).size));
        memory = memory.max(peak());
        others
            .extend(unpacked.as_ref().and_then(|tree| mke2fs(tree, &scratch.0.join("other"), entries, size)));
        let _ = (fs::remove_file(&copy), fs::remove_file(&image));
    }
    let (copy, import) = (median(copies), median(imports));
    println!("copy of its bytes: {copy}");
    println!("import:            {import}");
    println!("wall, import to copy: {:.2} (at most 1.5)", ratio(import.wall, copy.wall));
    if !others.is_empty() {
        let other = median(others);
        println!("mke2fs -d:         {other}");
        // Both move the bytes, which costs the kernel the same; what each adds to that is its own.
        let beyond = ratio(other.cpu.saturating_sub(copy.cpu), import.cpu.saturating_sub(copy.cpu));
        println!("cpu, mke2fs -d to import: {:.1}", ratio(other.cpu, import.cpu));
        println!("cpu beyond that copy, mke2fs -d to import: {beyond:.1} (at least 10)");
    }
    let allowed = (64 << 20) + 256 * entries;
    println!("peak memory: {} KiB (at most {} KiB)", memory >> 10, allowed >> 10);
    println!("image: {size} bytes");
}

fn import(tar: &Path, image: &Path) -> RootfsReport {
    let options = ImportOptions::default();
    import_tar(File::open(tar).unwrap(), image, &options, &mut |_| ControlFlow::Continue(())).unwrap()
}

fn copy_bytes(from: &Path, to: &Path) {
    let (mut from, mut to) = (File::open(from).unwrap(), File::create_new(to).unwrap());
    // From a page's start on, which makes the copy as fast as it can be.
    let mut buffer = vec![0; (1 << 20) + 4096];
    let start = buffer.as_ptr().align_offset(4096);
    let buffer = &mut buffer[start..start + (1 << 20)];
    loop {
        let count = from.read(buffer).unwrap();
        if count == 0 {
            return;
        }
        to.write_all(&buffer[..count]).unwrap();
    }
}

/// Unpacks the tar for `mke2fs`, where this user can and e2fsprogs is there.
fn unpack(scratch: &Path, tar: &Path) -> Option<PathBuf> {
    let tree = scratch.join("tree");
    fs::create_dir(&tree).unwrap();
    if !rustix::process::geteuid().is_root() || Command::new("mke2fs").arg("-V").output().is_err() {
        println!("skipped: comparison with mke2fs -d, for which this needs root and e2fsprogs");
        return None;
    }
    let done =
        Command::new("tar").args(["--numeric-owner", "-xpf"]).arg(tar).arg("-C").arg(&tree).status().unwrap();
    assert!(done.success());
    Some(tree)
}
