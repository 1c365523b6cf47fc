//! What the benches of images share: files of their own, clocks, memory, and trees like those of distributions.

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use rustix::time::{ClockId, clock_gettime};

/// The bytes that contents are cut from.
pub const NOISE: u64 = 64 << 20;

/// What `mke2fs -d` takes for an image of `tree` with the features of ours and room for `size` bytes.
pub fn mke2fs(tree: &Path, image: &Path, entries: u64, size: u64) -> Option<Taken> {
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
pub struct Taken {
    pub wall: Duration,
    pub cpu: Duration,
}

impl std::fmt::Display for Taken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "wall {:.3} s, cpu {:.3} s", self.wall.as_secs_f64(), self.cpu.as_secs_f64())
    }
}

pub fn measure(work: impl FnOnce()) -> Taken {
    let (before, started) = (own_cpu(), Instant::now());
    work();
    Taken { wall: started.elapsed(), cpu: own_cpu() - before }
}

pub fn median(mut taken: Vec<Taken>) -> Taken {
    let middle = taken.len() / 2;
    taken.sort_by_key(|taken| taken.wall);
    let wall = taken[middle].wall;
    taken.sort_by_key(|taken| taken.cpu);
    Taken { wall, cpu: taken[middle].cpu }
}

pub fn ratio(one: Duration, other: Duration) -> f64 {
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

pub fn reset_peak() {
    fs::write("/proc/self/clear_refs", "5").unwrap();
}

/// The most memory that was resident since the last reset, in bytes.
pub fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

/// An entry of a tree: its path, what it is, and its bytes.
#[derive(Debug, Clone)]
pub struct Planned {
    pub path: String,
    pub kind: tar::EntryType,
    pub size: u64,
}

/// A tree like that of a distribution: one entry in twelve is a directory, one in twenty a link, sizes are spread over many
/// orders of magnitude, and what is in a directory follows it.
pub fn plan(random: &mut Random, entries: u64, bytes: u64) -> Vec<Planned> {
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
            plan.push(Planned { path: format!("{path}/"), kind: tar::EntryType::Directory, size: 0 });
        } else if index % 20 == 1 {
            plan.push(Planned { path, kind: tar::EntryType::Symlink, size: 0 });
        } else {
            // As in real trees: most files are smaller than a block, and a few have most of the bytes. The sizes still to
            // come make up for one that is large.
            let doublings = random.below(16) * random.below(16) / 15;
            let small = (bytes_left / files_left.max(1) / 700).max(1) << doublings;
            let size = (small + random.below(small + 1)).min(bytes_left).min(NOISE / 2);
            bytes_left -= size;
            files_left = files_left.saturating_sub(1);
            plan.push(Planned { path, kind: tar::EntryType::Regular, size });
        }
    }
    plan.sort_by(|one, other| one.path.cmp(&other.path));
    plan
}

/// Contents of files are cut from these bytes.
pub fn noise(random: &mut Random) -> Vec<u8> {
    let mut noise = vec![0; NOISE as usize];
    noise.chunks_mut(8).for_each(|chunk| chunk.copy_from_slice(&random.next().to_le_bytes()));
    noise
}

/// Writes the tar of `plan`.
pub fn write_tar<W: Write>(out: W, random: &mut Random, noise: &[u8], plan: Vec<Planned>) -> W {
    let mut tar = tar::Builder::new(out);
    for (index, Planned { path, kind, size }) in (0..).zip(plan) {
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
    tar.into_inner().unwrap()
}

/// A new file that is written in large pieces.
pub fn create(path: &Path) -> std::io::BufWriter<File> {
    std::io::BufWriter::with_capacity(1 << 20, File::create_new(path).unwrap())
}

/// Xorshift: the same tar each time.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

/// A directory for the files of this run, removed at its end.
pub struct Scratch(pub PathBuf);

impl Scratch {
    pub fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("banger-bench-{name}-{}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
