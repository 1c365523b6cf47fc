//! The command line as types. What can be refused by looking at the words alone is refused here, with exit code 2.

mod host;
mod ssh;
mod store;
mod system;
mod vm;
mod workspace;

pub use host::{ConfigCommand, DaemonCommand, OperationCommand};
pub use ssh::{ProxyArgs, SshArgs, SshConfigArgs};
pub use store::{
    BuildArgs, CacheCommand, CatalogCommand, ImageCommand, ImportImageArgs, ImportKernelArgs, KernelCommand,
    PullArgs, PullKernelArgs, RegisterArgs, SnapshotCommand,
};
pub use system::{InstallArgs, SystemCommand, UninstallArgs};
pub use vm::{
    CopyArgs, CreateArgs, ExecArgs, Forward, ForwardArgs, HealthArgs, KillArgs, ListArgs, LogsArgs, Machine,
    PortsArgs, PruneArgs, PsArgs, Refs, ResetArgs, RunArgs, SetArgs, ShowArgs, Size, SnapshotArgs, StartArgs,
    StatsArgs, Terminal, VmCommand, VmmChoice, WaitFor,
};

use clap::{Args, Parser, Subcommand, ValueEnum};
pub use workspace::{ExportArgs, PrepareArgs, Shipping, WorkspaceCommand};

use crate::talk::Level;

const WORKFLOW: &str = "\
Examples:
  banger vm run                        a fresh machine and a shell in it
  banger vm run --rm -- uname -a       run one command, exit with its code, delete the machine
  banger vm run ./repo -- make test    ship a git repository into a machine and work there
  banger vm create --name dev          a machine to keep
  banger vm exec dev -- make test      run a command in it
  banger ps                            what is running
  banger vm stop dev                   /root and everything else is there after `vm start dev`
  banger vm delete dev

Every command that lists or shows takes `-o json`. stdout is data, stderr is talk.
";

const ENVIRONMENT: &str = "
With several REFs: the code that all of them have in common, else 1.

Environment:
  BANGER_HOME  keep everything below this directory instead of the XDG directories
  BANGER_*     a setting, like BANGER_DEFAULT_IMAGE; see `banger config show`
  NO_COLOR     no colours
";

fn epilogue() -> String {
    let mut text = "Exit codes:\n  A command in a guest gives its own code, or 128+N where signal N ended it. Otherwise:\n".to_owned();
    for (code, meaning) in model::exit::TABLE {
        text.push_str(&format!("  {code:>3}  {meaning}\n"));
    }
    text + ENVIRONMENT
}

/// A disposable Linux machine in one command
#[derive(Debug, Parser)]
#[command(
    name = "banger",
    version,
    before_help = WORKFLOW,
    after_help = epilogue(),
    help_template = "{about-with-newline}\n{before-help}{usage-heading} {usage}\n\n{all-args}{after-help}",
    subcommand_required = true,
    arg_required_else_help = true,
    disable_help_subcommand = true,
    max_term_width = 110
)]
pub struct Cli {
    #[command(flatten)]
    pub volume: Volume,
    #[command(subcommand)]
    pub command: Command,
}

/// How much is said on standard error.
#[derive(Debug, Args)]
pub struct Volume {
    /// Say nothing but errors
    #[arg(long, global = true, display_order = 900)]
    quiet: bool,
    /// Say more, with operation ids
    #[arg(long, short, global = true, conflicts_with = "quiet", display_order = 901)]
    verbose: bool,
}

impl Volume {
    /// What the flags mean.
    #[must_use]
    pub fn level(&self) -> Level {
        match (self.quiet, self.verbose) {
            (true, _) => Level::Quiet,
            (false, true) => Level::Verbose,
            (false, false) => Level::Normal,
        }
    }
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make, enter and manage machines
    #[command(subcommand)]
    Vm(VmCommand),
    /// List the machines that are not stopped
    Ps(PsArgs),
    /// Manage images: root file systems that machines start from
    #[command(subcommand)]
    Image(ImageCommand),
    /// Manage guest kernels
    #[command(subcommand)]
    Kernel(KernelCommand),
    /// Manage snapshots: running machines that were saved, which others go on from
    #[command(subcommand)]
    Snapshot(SnapshotCommand),
    /// Look after the lists of images and kernels that can be pulled by name
    #[command(subcommand)]
    Catalog(CatalogCommand),
    /// Start, stop and look at the background daemon
    #[command(subcommand)]
    Daemon(DaemonCommand),
    /// Look at what was asked for and is under way
    #[command(subcommand)]
    Operation(OperationCommand),
    /// Print what happens, as it happens
    Events(Format),
    /// Print the daemon's log
    Logs(DaemonLogsArgs),
    /// Look at the settings
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Let ssh, scp, rsync and git reach machines as NAME.banger
    ///
    /// Without a flag: print the file that is for ssh, and the line that includes it.
    SshConfig(SshConfigArgs),
    /// Look at what banger needs here: what works, what does not, and what to type
    ///
    /// It starts no daemon, and works also where none can start. Exits with 1 where something is to be mended.
    Doctor(DoctorArgs),
    /// Install the part that is root, look at it, remove it
    ///
    /// banger works without it, in user mode. It is for a bridge on which machines have addresses.
    #[command(subcommand)]
    System(SystemCommand),
    /// Print the script that completes banger's commands and names in a shell
    ///
    /// For bash: source <(banger completion bash)
    Completion {
        /// The shell
        shell: Shell,
    },
    /// Print the versions of banger's programs
    Version(Format),
}

/// `banger doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Mend what can be mended without losing anything
    #[arg(long)]
    pub fix: bool,
    #[command(flatten)]
    pub format: Format,
}

/// `banger logs`.
#[derive(Debug, Args)]
pub struct DaemonLogsArgs {
    /// Go on as more is written
    #[arg(long, short)]
    pub follow: bool,
}

/// A shell that can complete.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Shell {
    Bash,
    Elvish,
    Fish,
    Powershell,
    Zsh,
}

impl Shell {
    /// Its name as `clap_complete` knows it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Bash => "bash",
            Self::Elvish => "elvish",
            Self::Fish => "fish",
            Self::Powershell => "powershell",
            Self::Zsh => "zsh",
        }
    }
}

/// How data is written.
#[derive(Debug, Clone, Copy, Args)]
pub struct Format {
    /// How to write it
    #[arg(long, short, value_enum, value_name = "FORMAT", default_value_t = Output::Text, hide_default_value = true)]
    pub output: Output,
}

/// A form of output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people
    Text,
    /// For programs; stable
    Json,
}
