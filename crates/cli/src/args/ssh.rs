//! The words of `banger vm ssh`, `banger vm proxy` and `banger ssh-config`.

use std::ffi::OsString;

use clap::Args;
use clap_complete::ArgValueCandidates;

use super::vm::reference;
use crate::complete;

/// `vm ssh`.
#[derive(Debug, Args)]
#[command(
    before_help = "\
Examples:
  banger vm ssh dev                a login in it
  banger vm ssh dev -- make test   run a command, exit with its code
  banger ssh-config --install      let ssh, scp, rsync and git find dev.banger by themselves
",
    help_template = "{about-with-newline}\n{before-help}{usage-heading} {usage}\n\n{all-args}{after-help}"
)]
pub struct SshArgs {
    /// The machine
    #[arg(value_name = "REF", value_parser = reference, add = ArgValueCandidates::new(complete::vms))]
    pub reference: String,
    /// The command and its arguments; they reach the guest as they are. Without: a login
    #[arg(last = true, value_name = "CMD")]
    pub command: Vec<OsString>,
}

/// `vm proxy`.
#[derive(Debug, Args)]
pub struct ProxyArgs {
    /// The machine, with or without `.banger` behind its name
    #[arg(value_name = "REF", value_parser = reference)]
    pub reference: String,
}

/// `ssh-config`.
#[derive(Debug, Args)]
pub struct SshConfigArgs {
    /// Put the line into ~/.ssh/config
    #[arg(long, conflicts_with = "uninstall")]
    pub install: bool,
    /// Take it out again
    #[arg(long)]
    pub uninstall: bool,
}
