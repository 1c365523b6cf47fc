//! The project's automation: what a contributor or a CI server types after `cargo xtask`.
//!
//! It drives cargo, apt and the built programs, and holds the checks that look at the repository as a whole. It knows
//! nothing that the programs themselves must know: deleting this crate would not change banger.
#![expect(
    clippy::disallowed_methods,
    reason = "automation runs tools and reads the repository; `host` is for banger"
)]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command line tool")]

mod bench;
mod binaries;
mod bundle;
mod ci;
mod demo;
mod deny;
mod elf;
mod fuzz;
mod generate;
mod layers;
mod links;
mod setup;
mod shell;
mod tidy;

use std::process::ExitCode;

use anyhow::{Result, bail};

const HELP: &str = "\
Automation for banger.

Usage: cargo xtask COMMAND

Commands:
  demo [--yes]         From a fresh clone to a command run in a VM (README, command 1)
  ci [--yes]           Every check and every test, real VMs included (README, command 2)
  setup [demo|ci] [--yes]
                       Install the Debian packages that a task needs; says which, and asks on a terminal
  build [--release]    Build banger, bangerd and the static banger-agent side by side, and check the agent
  gen [--check]        Make the reference pages from the programs, or tell whether they are stale
  bench [--runs N] [NAME...]
                       Measure the figures of SPECIFICATION.md on a release build
  fuzz [--minutes N] [TARGET...]
                       Throw random bytes at what meets them, ten minutes each; needs cargo-fuzz
  bundle images|kernels NAME DIR --into DIRECTORY --key SECRET_KEY [--distro D] [--kernel K] [--description TEXT]
                       Make a bundle of an image or kernel, and enter it into a signed catalog
  check                The checks on the repository itself: layers, tidiness, licences and banned packages

--yes does not ask before packages are installed; without a terminal nothing asks.";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match run(&words.iter().map(String::as_str).collect::<Vec<_>>()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(words: &[&str]) -> Result<()> {
    match words {
        [] | ["help" | "--help" | "-h"] => {
            println!("{HELP}");
            Ok(())
        }
        ["demo", rest @ ..] => demo::run(consent(rest)?),
        ["ci", rest @ ..] => ci::run(consent(rest)?),
        ["setup", "demo", rest @ ..] => setup::run(&setup::DEMO, consent(rest)?),
        ["setup", "ci", rest @ ..] | ["setup", rest @ ..] => setup::run(&setup::CI, consent(rest)?),
        ["build"] => binaries::build(binaries::Profile::Debug).map(drop),
        ["build", "--release"] => binaries::build(binaries::Profile::Release).map(drop),
        ["gen"] => generate::run(generate::Action::Write),
        ["gen", "--check"] => generate::run(generate::Action::Compare),
        ["bench", rest @ ..] => bench::run(rest),
        ["fuzz", rest @ ..] => fuzz::run(rest),
        ["bundle", rest @ ..] => bundle::run(rest),
        ["check"] => ci::check_repository(),
        other => bail!("unknown command: {}\n\n{HELP}", other.join(" ")),
    }
}

fn consent(words: &[&str]) -> Result<setup::Consent> {
    match words {
        [] => Ok(setup::Consent::Ask),
        ["--yes" | "-y"] => Ok(setup::Consent::Given),
        other => bail!("unexpected: {}\n\n{HELP}", other.join(" ")),
    }
}
