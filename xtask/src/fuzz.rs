//! Runs the programs of `fuzz/`, one after the other, each for some minutes.
//!
//! It needs cargo-fuzz and a C++ compiler, which nothing else here does, so it says what is missing and installs nothing. What
//! libFuzzer found worth keeping stays in `fuzz/corpus`, what broke something in `fuzz/artifacts`; both are the machine's own.
//! An input worth keeping for all goes into `fuzz/seeds`, which the tests of `hostile` replay.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use toml::{Table, Value};

use crate::shell;

/// How long each target is run.
const MINUTES: u64 = 10;
/// The longest input; what is found with more is found with less.
const LONGEST: usize = 16 << 10;
/// The most memory of a target, in MiB, and the most seconds of one input.
const MEMORY: u32 = 1024;
const SECONDS: u32 = 10;

/// What `cargo xtask fuzz` was asked for.
#[derive(Debug, PartialEq, Eq)]
struct Wanted<'a> {
    minutes: u64,
    targets: Vec<&'a str>,
}

/// Runs the targets that `words` list, or all.
pub fn run(words: &[&str]) -> Result<()> {
    let manifest = fs::read_to_string(shell::root().join("fuzz/Cargo.toml")).context("fuzz/Cargo.toml")?;
    let known = targets(&manifest.parse().context("fuzz/Cargo.toml")?);
    let Wanted { minutes, targets } = wanted(words, &known)?;
    if !has_cargo_fuzz() {
        bail!(
            "cargo-fuzz is needed: cargo install --locked cargo-fuzz; and for it a C++ compiler, as the package g++"
        );
    }
    shell::run(cargo_fuzz("build").args(["--sanitizer=none"]))?;
    let mut failed = Vec::new();
    let mut figures = Vec::new();
    for target in targets {
        println!("== {target}, {minutes} minutes");
        let (is_fine, figure) = fuzz(target, minutes)?;
        figures.push(format!("  {target:<16} {figure}"));
        if !is_fine {
            failed.push(target);
        }
    }
    println!("\n{}", figures.join("\n"));
    match &failed[..] {
        [] => Ok(()),
        failed => bail!("something was found in {}; the input is in fuzz/artifacts", failed.join(", ")),
    }
}

/// The programs of `manifest`.
fn targets(manifest: &Table) -> Vec<String> {
    let programs = manifest.get("bin").and_then(Value::as_array).into_iter().flatten();
    programs.filter_map(|program| program.get("name")?.as_str().map(str::to_owned)).collect()
}

fn wanted<'a>(mut words: &[&'a str], known: &'a [String]) -> Result<Wanted<'a>> {
    let mut wanted = Wanted { minutes: MINUTES, targets: Vec::new() };
    loop {
        words = match words {
            [] => break,
            ["--minutes", number, rest @ ..] => {
                let minutes = number.parse().ok().filter(|minutes| *minutes > 0);
                wanted.minutes = minutes.with_context(|| format!("not a number of minutes: {number}"))?;
                rest
            }
            [target, rest @ ..] if known.iter().any(|name| name == target) => {
                wanted.targets.push(target);
                rest
            }
            [other, ..] => bail!("no target is called {other}; there are: {}", known.join(", ")),
        }
    }
    if wanted.targets.is_empty() {
        wanted.targets = known.iter().map(String::as_str).collect();
    }
    Ok(wanted)
}

fn has_cargo_fuzz() -> bool {
    let mut command = shell::cargo();
    command.args(["fuzz", "--version"]).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// The compiler's own marks of coverage are not stable, and are the only thing here that is not.
fn cargo_fuzz(what: &str) -> Command {
    let mut command = shell::cargo();
    command.args(["fuzz", what, "--fuzz-dir=fuzz"]).env("RUSTC_BOOTSTRAP", "1");
    command
}

/// Runs `target`, and says whether nothing was found and how much was tried.
fn fuzz(target: &str, minutes: u64) -> Result<(bool, String)> {
    let corpus = format!("fuzz/corpus/{target}");
    fs::create_dir_all(shell::root().join(&corpus)).with_context(|| format!("cannot make {corpus}"))?;
    let mut command = cargo_fuzz("run");
    command.args(["--sanitizer=none", target, &corpus, &format!("fuzz/seeds/{target}"), "--"]);
    command.arg(format!("-max_total_time={}", minutes * 60)).arg(format!("-max_len={LONGEST}"));
    command.arg(format!("-rss_limit_mb={MEMORY}")).arg(format!("-timeout={SECONDS}"));
    command.arg("-print_final_stats=1").stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("cannot run {}", shell::words(&command)))?;
    let mut figure = Figure::default();
    for line in BufReader::new(child.stderr.take().expect("standard error is a pipe")).lines() {
        let line = line.context("cannot read what libFuzzer says")?;
        eprintln!("{line}");
        figure.read(&line);
    }
    let status = child.wait().with_context(|| format!("cannot wait for {target}"))?;
    Ok((status.success(), figure.to_string()))
}

/// What libFuzzer says of a run.
#[derive(Debug, Default)]
struct Figure {
    executions: Option<u64>,
    coverage: Option<u64>,
}

impl Figure {
    fn read(&mut self, line: &str) {
        let number = |text: &str| text.split_whitespace().next()?.parse().ok();
        if let Some(rest) = line.strip_prefix("stat::number_of_executed_units:") {
            self.executions = number(rest);
        }
        if let Some((_, rest)) = line.split_once(" cov: ") {
            self.coverage = number(rest).or(self.coverage);
        }
    }
}

impl std::fmt::Display for Figure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shown = |number: Option<u64>| number.map_or("unknown".to_owned(), |number| number.to_string());
        write!(f, "{:>12} executions, coverage {}", shown(self.executions), shown(self.coverage))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words() {
        let known = ["cpio".to_owned(), "ext4".to_owned()];
        let check = |words: &[&str], minutes, expected: &[&str]| {
            let found = wanted(words, &known).unwrap();
            assert_eq!(found, Wanted { minutes, targets: expected.to_vec() });
        };
        check(&[], MINUTES, &["cpio", "ext4"]);
        check(&["ext4", "--minutes", "3"], 3, &["ext4"]);
        let error = |words: &[&str]| wanted(words, &known).unwrap_err().to_string();
        assert_eq!(error(&["tar"]), "no target is called tar; there are: cpio, ext4");
        assert_eq!(error(&["--minutes", "0"]), "not a number of minutes: 0");
        assert_eq!(error(&["--minutes"]), "no target is called --minutes; there are: cpio, ext4");
    }

    #[test]
    fn what_libfuzzer_says_becomes_a_figure() {
        let mut figure = Figure::default();
        for line in [
            "#2\tINITED cov: 12 ft: 13 corp: 1/1b exec/s: 0 rss: 26Mb",
            "#487706\tREDUCE cov: 3147 ft: 12553 corp: 1831/188Kb lim: 778 exec/s: 878 rss: 37Mb",
            "Done 535192 runs in 631 second(s)",
            "stat::number_of_executed_units: 535192",
            "stat::average_exec_per_sec:     848",
        ] {
            figure.read(line);
        }
        assert_eq!(figure.to_string(), "      535192 executions, coverage 3147");
    }
}
