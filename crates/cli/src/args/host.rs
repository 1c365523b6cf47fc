//! The words of `banger daemon`, `banger operation` and `banger config`.

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

/// What to do with the settings.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Show each setting and where it came from
    ///
    /// Settings are read by the daemon when it starts: from config.toml in banger's configuration directory, and from
    /// BANGER_* variables, which win.
    Show(Format),
}
