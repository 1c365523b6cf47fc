//! From a fresh clone to a command run in a VM, and what to type next.

use anyhow::{Context, Result};
use std::process::Command;

use crate::{binaries, setup, shell};

/// Installs what is missing, builds, and runs one command in a VM of the user's own banger.
pub fn run(consent: setup::Consent) -> Result<()> {
    setup::run(&setup::DEMO, consent)?;
    let programs = binaries::build(binaries::Profile::Release)?;
    let banger = programs.join("banger");
    println!("\n$ banger vm run --rm -- uname -a");
    println!("(the first time this gets a kernel from Debian and builds the default image, a few minutes)");
    shell::run(Command::new(&banger).args(["--verbose", "vm", "run", "--rm", "--yes", "--", "uname", "-a"]))
        .context("the demo's VM did not run its command")?;
    println!(
        "\nIt works. Next:\n\
         \n    export PATH={}:$PATH\n\
         \n    banger vm run                          # a fresh machine, and a shell in it\n\
         \x20   banger vm run --rm -- sh -c 'exit 42'  # a command, and its exit code\n\
         \x20   banger vm create --name dev            # a machine that stays\n\
         \x20   banger vm exec dev -- hostname\n\
         \x20   banger ps\n\
         \x20   banger vm stop dev; banger vm delete dev\n\
         \x20   banger --help",
        programs.display()
    );
    Ok(())
}
