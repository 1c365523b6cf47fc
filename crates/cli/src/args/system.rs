//! The words of `banger system`.

use clap::{Args, Subcommand};

use super::Format;

/// What to do with the part of banger that is root.
#[derive(Debug, Subcommand)]
pub enum SystemCommand {
    /// Install the daemon as a service, and the privileged helper: what it writes is told before
    ///
    /// Needs root, systemd and nft. Doing it again changes nothing, and finishes what was interrupted.
    Install(InstallArgs),
    /// Show whether daemon and helper work
    Status(Format),
    /// Start daemon and helper anew; machines go on running
    Restart,
    /// Remove daemon, helper, the bridge and all that was installed
    ///
    /// Machines, images and kernels stay in /var/lib/banger and are there after the next installation.
    Uninstall(UninstallArgs),
}

/// `banger system install`.
#[derive(Debug, Args)]
pub struct InstallArgs {
    /// The user who runs banger, by name or number; without it, the one who called sudo
    #[arg(long, value_name = "USER")]
    pub owner: Option<String>,
    /// The addresses of host and guests [default: 172.30.0.0/24]
    #[arg(long, value_name = "NETWORK")]
    pub subnet: Option<String>,
    /// Print what would be written, and write nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// `banger system uninstall`.
#[derive(Debug, Args)]
pub struct UninstallArgs {
    /// Also remove machines, images and kernels, and the log of what the helper was asked for
    #[arg(long)]
    pub purge: bool,
}
