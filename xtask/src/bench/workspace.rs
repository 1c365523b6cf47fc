//! A repository of 5,000 files, 50 MB and 10 commits into a VM, and again after a change; over a plain tar of the same files
//! through the same channel.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::world::World;
use super::{Figure, Limit, figure, median, quietly};

const FILES: usize = 5_000;
const SIZE: usize = 10_000;
const COMMITS: usize = 10;
const NAME: &str = "bench-workspace";

/// Measures it `runs` times, each thing in turn.
pub fn measure(runs: usize) -> Result<Vec<Figure>> {
    let world = World::new()?;
    let image = world.minimal_image()?;
    let repository = Repository::new()?;
    world.banger(&["vm", "create", "--image", &image, "--memory", "1G", "--name", NAME])?;
    let place = repository.0.to_str().context("the repository's path is not UTF-8")?;
    let timed = |words: &[&str]| -> Result<Duration> {
        let begin = Instant::now();
        world.banger(words)?;
        Ok(begin.elapsed())
    };
    let (mut tar, mut first, mut second, mut unchanged) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for run in 0..runs {
        world.banger(&["vm", "exec", NAME, "--cwd", "/root", "--", "rm", "-rf", "plain", "repo"])?;
        world.banger(&["vm", "exec", NAME, "--cwd", "/root", "--", "mkdir", "plain"])?;
        tar.push(plain_tar(&world, &repository.0)?);
        let prepare = ["vm", "workspace", "prepare", NAME, place];
        first.push(timed(&[&prepare[..], &["--force"]].concat())?);
        repository.change(run)?;
        second.push(timed(&prepare)?);
        unchanged.push(timed(&prepare)?);
    }
    let seconds = |all: Vec<Duration>| median(all.iter().map(Duration::as_secs_f64));
    let (tar, first, second, unchanged) = (seconds(tar), seconds(first), seconds(second), seconds(unchanged));
    Ok(vec![
        figure("a plain tar of the files, through the agent", tar, "s", Limit::None),
        figure("first prepare", first, "s", Limit::None),
        figure("second prepare, one file changed", second, "s", Limit::None),
        figure("third prepare, nothing changed", unchanged, "s", Limit::None),
        figure("first prepare, over the plain tar", first / tar, "x", Limit::AtMost(1.3)),
        figure("first prepare over the second", first / second, "x", Limit::AtLeast(5.0)),
    ])
}

/// The files of `repository` without its git directory, packed here and unpacked by the guest's tar.
fn plain_tar(world: &World, repository: &Path) -> Result<Duration> {
    let begin = Instant::now();
    let mut pack = Command::new("tar")
        .args(["--exclude=./.git", "-C"])
        .arg(repository)
        .args(["-c", "."])
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run tar")?;
    let stream = pack.stdout.take().context("tar has no standard output")?;
    let words = ["vm", "exec", NAME, "--cwd", "/root", "--", "tar", "-x", "-C", "plain"];
    quietly(world.command(&words).stdin(stream))?;
    let status = pack.wait().context("cannot wait for tar")?;
    if !status.success() {
        bail!("tar failed: {status}");
    }
    Ok(begin.elapsed())
}

/// A repository that goes with its value.
struct Repository(PathBuf);

impl Repository {
    fn new() -> Result<Self> {
        let repository =
            Self(std::env::temp_dir().join(format!("banger-bench-repository-{}", std::process::id())));
        fs::create_dir_all(&repository.0).context("cannot make a directory")?;
        repository.git(&["init", "-q", "-b", "main"])?;
        for number in 0..FILES {
            let path = repository.path(number);
            fs::create_dir_all(path.parent().context("a file has no directory")?)
                .context("cannot make a directory")?;
            fs::write(&path, text(number as u64)).context("cannot write a file")?;
        }
        for commit in 0..COMMITS {
            repository.change(commit)?;
            repository.git(&["add", "-A"])?;
            repository.git(&["commit", "-q", "-m", "a commit"])?;
        }
        // As a clone has them, in one pack.
        repository.git(&["gc", "-q"])?;
        Ok(repository)
    }

    fn path(&self, number: usize) -> PathBuf {
        self.0.join(format!("dir{}/sub{}/file{number}.txt", number % 50, number % 7))
    }

    /// Writes one file anew.
    fn change(&self, number: usize) -> Result<()> {
        let path = self.path(number);
        let before = fs::read(&path).context("cannot read a file")?;
        let seed = FILES as u64 + before.iter().map(|byte| u64::from(*byte)).sum::<u64>();
        fs::write(&path, text(seed)).context("cannot write a file")
    }

    fn git(&self, words: &[&str]) -> Result<()> {
        let mut git = Command::new("git");
        git.args(["-c", "user.name=bench", "-c", "user.email=bench@localhost"]).args(words);
        quietly(git.current_dir(&self.0).stdin(File::open("/dev/null")?)).map(drop)
    }
}

impl Drop for Repository {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("warning: cannot remove {}: {error}", self.0.display());
        }
    }
}

/// Words as source code has them: about as compressible, and no two files the same.
fn text(seed: u64) -> String {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut text = String::with_capacity(SIZE + 16);
    while text.len() < SIZE {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        text.push_str(["let ", "fn ", "return ", "value", "self.", "(", ")", " = "][(state % 8) as usize]);
        text.push_str(&format!("{:x}", (state >> 8) % 4096));
        if state.is_multiple_of(11) {
            text.push_str(";\n");
        }
    }
    text.truncate(SIZE);
    text
}
