//! The words of `banger daemon` and `banger operation`.

use clap::Subcommand;

use super::Format;

/// What to do with the daemon.
#[derive(Debug, Subcommand)]
pub enum DaemonCommand {
    /// Start it where it is not running; other commands do that by themselves
    Start,
    /// Stop it; machines go on running
    Stop,
    /// Show whether it runs
    Status(Format),
}

/// What to do with operations.
#[derive(Debug, Subcommand)]
pub enum OperationCommand {
    /// List those that are under way or ended lately
    #[command(visible_alias = "ls")]
    List(Format),
    /// Show one
    Show {
        /// Its id
        id: String,
        #[command(flatten)]
        format: Format,
    },
    /// Cancel one that is under way; what it did is undone
    Cancel {
        /// Its id
        id: String,
    },
}
