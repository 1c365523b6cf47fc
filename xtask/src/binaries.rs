//! Builds the programs side by side and checks what only a look at the result can tell.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::{elf, shell};

/// The programs that belong together in one directory.
pub const PROGRAMS: [&str; 4] = ["banger", "bangerd", "banger-agent", "banger-helper"];

/// What the agent may weigh: it travels in every boot payload.
pub const AGENT_LIMIT: u64 = 4 << 20;

/// How to build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// Fast to build.
    Debug,
    /// What users get.
    Release,
}

/// Builds all programs and returns the directory they are in.
pub fn build(profile: Profile) -> Result<PathBuf> {
    let mut cargo = shell::cargo();
    cargo.args(["build", "--locked"]);
    let directory = match profile {
        Profile::Debug => {
            // So that tests can crash the daemon where they want; no other crate is built differently for it.
            cargo.args(["--features", "daemon/faults"]);
            "debug"
        }
        Profile::Release => {
            cargo.arg("--release");
            "release"
        }
    };
    shell::run(&mut cargo)?;
    let directory = shell::target()?.join(directory);
    for program in PROGRAMS {
        if !directory.join(program).is_file() {
            bail!("the build left no {program} in {}", directory.display());
        }
    }
    let size = agent_size(&directory, profile)?;
    println!("built {} in {} (agent: static, {} KiB)", PROGRAMS.join(", "), directory.display(), size / 1024);
    Ok(directory)
}

/// Builds the agent as users get it and checks it, without the other programs, which take minutes.
pub fn build_released_agent() -> Result<()> {
    shell::run(shell::cargo().args(["build", "--locked", "--release", "--package", "agent"]))?;
    let size = agent_size(&shell::target()?.join("release"), Profile::Release)?;
    println!("built banger-agent for users (static, {} KiB)", size / 1024);
    Ok(())
}

/// What the agent in `directory` weighs. It must be static, and what users get no more than it may be.
fn agent_size(directory: &Path, profile: Profile) -> Result<u64> {
    let agent = directory.join("banger-agent");
    let bytes = fs::read(&agent).with_context(|| format!("cannot read {}", agent.display()))?;
    elf::require_static(&bytes).with_context(|| format!("{} is not static", agent.display()))?;
    let size = bytes.len() as u64;
    if profile == Profile::Release && size > AGENT_LIMIT {
        bail!("{} is {size} bytes, more than the {AGENT_LIMIT} it may be", agent.display());
    }
    Ok(size)
}
