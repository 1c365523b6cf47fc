//! Every check and every test, in the order in which they fail fastest.
//!
//! A failed step does not stop the others: one run tells all that is wrong. Nothing may be skipped for want of a tool
//! that [`REQUIRE`] names.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::{binaries, deny, generate, layers, links, setup, shell, tidy};

/// What tests must find here; where one is missing the test fails instead of being skipped.
pub const REQUIRE: &str = "qemu,kernel,mount,namespaces,nft,ip,dig,binutils,busybox,cpio,e2fsck,mmdebstrap,git,umoci,skopeo,docker-registry,nginx,minisign,openssl,zstd,xz,bzip2,lz4,jq";

/// What a test may miss all the same, because only some machines can have it.
const OPTIONAL: &[&str] = &["kvm", "firecracker", "root", "loop", "tun"];

type Step = (&'static str, fn() -> Result<()>);

const STEPS: &[Step] = &[
    ("format", format),
    ("repository", check_repository),
    ("build", build),
    ("reference", || generate::run(generate::Action::Compare)),
    ("clippy", clippy),
    ("test", test),
];

/// Runs all of it.
pub fn run(consent: setup::Consent) -> Result<()> {
    setup::run(&setup::CI, consent)?;
    let mut outcomes = Vec::new();
    for (name, step) in STEPS {
        println!("== {name}");
        let begin = Instant::now();
        let result = step();
        let took = begin.elapsed();
        if let Err(error) = &result {
            eprintln!("error: {error:#}");
        }
        println!("== {name}: {} in {}", if result.is_ok() { "ok" } else { "FAILED" }, seconds(took));
        outcomes.push((*name, took, result));
    }
    println!("\nsummary");
    for (name, took, result) in &outcomes {
        println!("  {name:<12} {:>8}  {}", seconds(*took), if result.is_ok() { "ok" } else { "FAILED" });
    }
    let total: Duration = outcomes.iter().map(|(_, took, _)| *took).sum();
    println!("  {:<12} {:>8}", "total", seconds(total));
    let failed: Vec<&str> =
        outcomes.iter().filter(|(_, _, result)| result.is_err()).map(|(name, _, _)| *name).collect();
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    println!("all checks passed");
    Ok(())
}

fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}

fn format() -> Result<()> {
    shell::run(shell::cargo().args(["fmt", "--all", "--check"]))
}

fn clippy() -> Result<()> {
    shell::run(shell::cargo().args([
        "clippy",
        "--locked",
        "--workspace",
        "--all-targets",
        "--all-features",
        "--",
        "--deny=warnings",
    ]))
}

/// The programs that the tests run, and the agent as users get it, whose size is promised.
fn build() -> Result<()> {
    binaries::build_released_agent()?;
    binaries::build(binaries::Profile::Debug).map(drop)
}

/// The checks that look at the repository as a whole; the same ones that xtask's tests make.
pub fn check_repository() -> Result<()> {
    let files = shell::files()?;
    let mut problems = layers::check(&shell::root())?;
    problems.extend(tidy::check(&shell::root(), &files)?);
    problems.extend(links::check(&shell::root(), &files)?);
    problems.extend(deny::check()?);
    for problem in &problems {
        eprintln!("{problem}");
    }
    if !problems.is_empty() {
        bail!("{} problems", problems.len());
    }
    Ok(())
}

/// All tests, with the closing line of each test program once more at the end.
fn test() -> Result<()> {
    // What a shell starts in the background begins with Ctrl-C ignored, and tests of signals would inherit that.
    let mut command = Command::new("env");
    command.arg("--default-signal=INT,QUIT").arg(shell::cargo().get_program());
    command.args(["test", "--locked", "--workspace", "--no-fail-fast"]).current_dir(shell::root());
    let skips = shell::target()?.join("skipped-tests");
    fs::write(&skips, "").with_context(|| format!("cannot write {}", skips.display()))?;
    command.env("BANGER_REQUIRE", REQUIRE).env("BANGER_SKIPS", &skips).stdout(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("cannot run {}", shell::words(&command)))?;
    let mut closing = Vec::new();
    for line in BufReader::new(child.stdout.take().expect("standard output is a pipe")).lines() {
        let line = line.context("cannot read what the tests say")?;
        println!("{line}");
        if line.starts_with("test result:") {
            closing.push(line);
        }
    }
    let status = child.wait().context("cannot wait for the tests")?;
    println!();
    let totals = totals(&closing);
    println!(
        "{} test programs: {} passed, {} failed, {} ignored",
        closing.len(),
        totals[0],
        totals[1],
        totals[2]
    );
    let skipped = fs::read_to_string(&skips).with_context(|| format!("cannot read {}", skips.display()))?;
    for line in skipped.lines() {
        println!("skipped for want of {line}");
    }
    if !status.success() {
        bail!("the tests failed: {status}");
    }
    let excused = |line: &str| OPTIONAL.iter().any(|word| line.split(':').next() == Some(*word));
    if let Some(line) = skipped.lines().find(|line| !excused(line)) {
        bail!("a test was skipped for want of {line}");
    }
    if totals[0] == 0 {
        bail!("no test ran");
    }
    Ok(())
}

/// Passed, failed and ignored, over all closing lines.
fn totals(closing: &[String]) -> [u64; 3] {
    let count = |word: &str| {
        let pieces = closing.iter().flat_map(|line| line.split([';', '.']));
        pieces.filter_map(|piece| piece.trim().strip_suffix(word)?.trim().parse::<u64>().ok()).sum()
    };
    [count("passed"), count("failed"), count("ignored")]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closing_lines_are_added_up() {
        let lines = [
            "test result: ok. 7 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.52s",
            "test result: FAILED. 30 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 10.02s",
        ];
        assert_eq!(totals(&lines.map(str::to_owned)), [37, 2, 1]);
    }
}
