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

use std::{
    fs::{self, File},
    io::{Read, Write},
    ops::ControlFlow,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use image::rootfs::{ImportOptions, RootfsReport, import_tar};
use rustix::time::{ClockId, clock_gettime};

const RUNS: usize = 5;
/// The bytes that contents are cut from.
const NOISE: u64 = 64 << 20;

fn main() {
    let numbers: Vec<u64> = std::env::args().filter_map(|argument| argument.parse().ok()).collect();
    let entries = numbers.first().copied().unwrap_or(50_000);
    let megabytes = numbers.get(1).copied().unwrap_or(500);
    let scratch = Scratch::new();
    let tar = scratch.0.join("root.tar");
    make_tar(&tar, entries, megabytes * 1_000_000);
    println!("tar: {entries} entries, {} bytes", fs::metadata(&tar).unwrap().len());

    let (copy, image) = (scratch.0.join("copy"), scratch.0.join("image"));
    // With a million entries, mke2fs takes many minutes.
    let unpacked = if entries <= 100_000 { unpack(&scratch.0, &tar) } else { None };
    let (mut copies, mut imports, mut others) = (Vec::new(), Vec::new(), Vec::new());
    let mut memory = 0;
    let mut size = 0;
    for _ in 0..RUNS {
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

/// What `mke2fs -d` takes for an image of `tree` with the features of ours and room for `size` bytes.
fn mke2fs(tree: &Path, image: &Path, entries: u64, size: u64) -> Option<Taken> {
    const FEATURES: &str = "none,ext_attr,dir_index,sparse_super2,filetype,extent,64bit,flex_bg,metadata_csum,\
                            metadata_csum_seed,large_file,huge_file,dir_nlink,extra_isize";
    let before = children_cpu();
    let started = Instant::now();
    let done = Command::new("mke2fs")
        .args([
            "-q",
            "-F",
            "-I",
            "256",
            "-b",
            "4096",
            "-m",
            "0",
            "-O",
            FEATURES,
            "-E",
            "num_backup_sb=0",
            "-N",
        ])
        .arg((entries + 1000).to_string())
        .arg("-d")
        .args([tree, image])
        .arg(format!("{}k", size / 1024 * 11 / 10))
        .stdout(Stdio::null())
        .status()
        .unwrap();
    let taken = Taken { wall: started.elapsed(), cpu: children_cpu() - before };
    fs::remove_file(image).unwrap();
    done.success().then_some(taken)
}

#[derive(Debug, Clone, Copy)]
struct Taken {
    wall: Duration,
    cpu: Duration,
}

impl std::fmt::Display for Taken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "wall {:.3} s, cpu {:.3} s", self.wall.as_secs_f64(), self.cpu.as_secs_f64())
    }
}

fn measure(work: impl FnOnce()) -> Taken {
    let (before, started) = (own_cpu(), Instant::now());
    work();
    Taken { wall: started.elapsed(), cpu: own_cpu() - before }
}

fn median(mut taken: Vec<Taken>) -> Taken {
    let middle = taken.len() / 2;
    taken.sort_by_key(|taken| taken.wall);
    let wall = taken[middle].wall;
    taken.sort_by_key(|taken| taken.cpu);
    Taken { wall, cpu: taken[middle].cpu }
}

fn ratio(one: Duration, other: Duration) -> f64 {
    one.as_secs_f64() / other.as_secs_f64()
}

fn own_cpu() -> Duration {
    clock_gettime(ClockId::ProcessCPUTime).try_into().unwrap()
}

/// The processor time of the children that have ended, in ticks of 10 ms.
fn children_cpu() -> Duration {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: u64 = fields[13..15].iter().map(|field| field.parse::<u64>().unwrap()).sum();
    Duration::from_millis(ticks * 10)
}

fn reset_peak() {
    fs::write("/proc/self/clear_refs", "5").unwrap();
}

/// The most memory that was resident since the last reset, in bytes.
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

/// A tar like that of a distribution: one entry in twelve is a directory, one in twenty a link, sizes are spread over
/// many orders of magnitude, and what is in a directory follows it.
fn make_tar(path: &Path, entries: u64, bytes: u64) {
    let mut random = Random(1);
    let mut dirs = vec![String::new()];
    let mut plan = Vec::new();
    let files = entries - entries.div_ceil(12) - entries / 20;
    let (mut bytes_left, mut files_left) = (bytes, files);
    for index in 0..entries {
        let parent = &dirs[random.below(dirs.len() as u64) as usize];
        let path = format!("{parent}entry-{index}");
        if index % 12 == 0 {
            // No deeper than real trees are.
            if parent.matches('/').count() < 8 {
                dirs.push(format!("{path}/"));
            }
            plan.push((format!("{path}/"), tar::EntryType::Directory, 0));
        } else if index % 20 == 1 {
            plan.push((path, tar::EntryType::Symlink, 0));
        } else {
            // As in real trees: most files are smaller than a block, and a few have most of the bytes. The sizes still to
            // come make up for one that is large.
            let doublings = random.below(16) * random.below(16) / 15;
            let small = (bytes_left / files_left.max(1) / 700).max(1) << doublings;
            let size = (small + random.below(small + 1)).min(bytes_left).min(NOISE / 2);
            bytes_left -= size;
            files_left = files_left.saturating_sub(1);
            plan.push((path, tar::EntryType::Regular, size));
        }
    }
    plan.sort_by(|one: &(String, tar::EntryType, u64), other| one.0.cmp(&other.0));
    let mut noise = vec![0; NOISE as usize];
    noise.chunks_mut(8).for_each(|chunk| chunk.copy_from_slice(&random.next().to_le_bytes()));
    let mut tar =
        tar::Builder::new(std::io::BufWriter::with_capacity(1 << 20, File::create_new(path).unwrap()));
    for (index, (path, kind, size)) in (0..).zip(plan) {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_size(size);
        header.set_mtime(1_600_000_000 + index);
        header.set_mode(0o755);
        header.set_uid(index % 7);
        header.set_gid(index % 5);
        if kind == tar::EntryType::Symlink {
            tar.append_link(&mut header, path, "../target/of/the/link").unwrap();
        } else {
            let from = random.below(NOISE / 2) as usize;
            tar.append_data(&mut header, path, &noise[from..from + size as usize]).unwrap();
        }
    }
    tar.into_inner().unwrap().flush().unwrap();
}

/// Xorshift: the same tar each time.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

/// A directory for the files of this run, removed at its end.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("banger-bench-import-{}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
