//! The words of `banger vm`.

use std::{ffi::OsString, num::NonZeroU16, os::unix::ffi::OsStringExt, path::PathBuf};

use clap::{ArgAction, Args, Subcommand, ValueEnum};
use clap_complete::{ArgValueCandidates, ArgValueCompleter};
use model::{GroupName, ImageChoice, ImageName, SnapshotName, VmName, moment, signal::Signal, size};
use wire::{Word, control};

use super::{Format, ProxyArgs, Shipping, SshArgs, WorkspaceCommand};
use crate::{complete, exec::Streams};

/// What to do with machines.
#[derive(Debug, Subcommand)]
pub enum VmCommand {
    /// Make a machine, start it, and enter it or run a command in it
    Run(Box<RunArgs>),
    /// Make a machine and wait until it is ready; print its name
    Create(Box<CreateArgs>),
    /// Start machines
    Start(StartArgs),
    /// Stop machines; nothing that was written is lost
    Stop(Refs),
    /// Stop machines and start them again
    Restart(Refs),
    /// End machines now, without asking their systems
    Kill(KillArgs),
    /// Delete machines with their disks
    #[command(visible_alias = "rm")]
    Delete(Refs),
    /// Delete all machines that are not running
    Prune(PruneArgs),
    /// Change how large machines are, and whether they reach the world; disks only grow, and do so while a machine runs
    Set(SetArgs),
    /// Make machines' systems new; /root stays as it is
    Reset(ResetArgs),
    /// Save a running machine with its disks, so that others can go on from there; it goes on itself
    Snapshot(SnapshotArgs),
    /// List all machines
    #[command(visible_alias = "ls")]
    List(ListArgs),
    /// Show everything about one machine
    Show(ShowArgs),
    /// Run a command in a running machine
    Exec(ExecArgs),
    /// Log in to a running machine, or run a command in it, with ssh
    Ssh(SshArgs),
    /// Connect standard input and output to a machine's sshd; for ssh's ProxyCommand
    #[command(hide = true)]
    Proxy(ProxyArgs),
    /// Copy files into a machine or out of it
    Cp(CopyArgs),
    /// Ship a git repository into a machine, and get the work there back
    #[command(subcommand)]
    Workspace(WorkspaceCommand),
    /// Show what running machines use
    Stats(StatsArgs),
    /// Show what listens in running machines
    Ports(PortsArgs),
    /// Forward ports of this host's loopback to ports in a machine, until Ctrl-C
    Forward(ForwardArgs),
    /// Show how a running machine's agent is
    #[command(visible_alias = "ping")]
    Health(HealthArgs),
    /// Print a machine's logs; they outlive the machine's run
    Logs(LogsArgs),
}

/// How large a machine is.
#[derive(Debug, Args)]
pub struct Size {
    /// Virtual CPUs
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64), allow_negative_numbers = true)]
    pub vcpu: Option<u32>,
    /// Memory, like 512M or 2G; a plain number is MiB
    #[arg(long, value_name = "SIZE", value_parser = size::parse, allow_hyphen_values = true)]
    pub memory: Option<u64>,
    /// The work disk, mounted at /root
    #[arg(long, value_name = "SIZE", value_parser = size::parse, allow_hyphen_values = true)]
    pub disk_size: Option<u64>,
    /// The writable layer above the image
    #[arg(long, value_name = "SIZE", value_parser = size::parse, allow_hyphen_values = true)]
    pub overlay_size: Option<u64>,
}

/// What a new machine reaches.
#[derive(Debug, Clone, Copy, Args)]
pub struct Reach {
    /// Let it reach the world; without this it has no network
    #[arg(long, overrides_with = "no_nat")]
    nat: bool,
    /// Do not, whatever the config says
    #[arg(long)]
    no_nat: bool,
    /// Where nothing can keep it from there: let it reach what listens on this host's loopback too
    #[arg(long)]
    pub allow_host_loopback: bool,
}

impl Reach {
    /// What was said of NAT, if anything was.
    #[must_use]
    pub fn nat(self) -> Option<bool> {
        said(self.nat, self.no_nat)
    }
}

/// What an old machine reaches from now on.
#[derive(Debug, Clone, Copy, Args)]
pub struct NewReach {
    /// Let them reach the world; at once where they run with a network card
    #[arg(long, overrides_with = "no_nat")]
    nat: bool,
    /// Do not; at once
    #[arg(long)]
    no_nat: bool,
    /// Where nothing can keep them from there: let them reach what listens on this host's loopback too
    #[arg(long)]
    pub allow_host_loopback: bool,
}

impl NewReach {
    /// What was said of NAT, if anything was.
    #[must_use]
    pub fn nat(self) -> Option<bool> {
        said(self.nat, self.no_nat)
    }
}

/// What a flag and its opposite say together.
fn said(on: bool, off: bool) -> Option<bool> {
    match (on, off) {
        (true, _) => Some(true),
        (false, true) => Some(false),
        (false, false) => None,
    }
}

/// What a machine is made of.
#[derive(Debug, Args)]
pub struct Machine {
    /// Its name; a DNS label. Without it a free one is made
    #[arg(long, value_parser = |text: &str| VmName::try_from(text))]
    pub name: Option<VmName>,
    /// The image to start from: a name, or a reference as `alpine:3.20` to one in a registry
    #[arg(long, value_parser = |text: &str| ImageChoice::try_from(text), add = ArgValueCandidates::new(complete::images))]
    pub image: Option<ImageChoice>,
    /// Go on from this snapshot instead of booting: with its image and size, and an identity of its own
    #[arg(long, value_name = "NAME", value_parser = |text: &str| SnapshotName::try_from(text), add = ArgValueCandidates::new(complete::snapshots))]
    pub snapshot: Option<SnapshotName>,
    #[command(flatten)]
    pub size: Size,
    #[command(flatten)]
    pub reach: Reach,
    /// Let it and the other machines of this group reach each other; on the bridge
    #[arg(long, value_parser = |text: &str| GroupName::try_from(text))]
    pub group: Option<GroupName>,
    /// The virtual machine monitor; without it what the configuration says
    #[arg(long, value_enum, value_name = "VMM")]
    pub vmm: Option<VmmChoice>,
    /// What makes it ready; without it what the image says
    #[arg(long, value_enum, value_name = "WHAT")]
    pub wait: Option<WaitFor>,
    /// The user who runs commands in it where no other is said, and whom a shipped repository belongs to; without it root
    #[arg(long, short)]
    pub user: Option<String>,
    /// A variable for every command in it
    #[arg(long, short = 'e', value_name = "KEY=VALUE", value_parser = variable(), action = ArgAction::Append)]
    pub env: Vec<(Word, Word)>,
    /// Build the default image without asking where it is missing
    #[arg(long, short = 'y')]
    pub yes: bool,
}

/// A virtual machine monitor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum VmmChoice {
    /// Firecracker where KVM works, else QEMU
    Auto,
    /// Firecracker; needs KVM
    Firecracker,
    /// QEMU; emulates in software where there is no KVM
    Qemu,
}

/// What makes a machine ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum WaitFor {
    /// Commands can be run
    Agent,
    /// Init has started everything
    Init,
}

impl From<WaitFor> for control::Wait {
    fn from(wait: WaitFor) -> Self {
        match wait {
            WaitFor::Agent => Self::Agent,
            WaitFor::Init => Self::Init,
        }
    }
}

/// `vm run`.
#[derive(Debug, Args)]
#[command(
    before_help = "\
Examples:
  banger vm run                               a fresh machine and a shell in it
  banger vm run --rm -- uname -a              run a command, exit with its code, delete the machine
  echo hello | banger vm run --rm -- cat      standard input is the command's
  banger vm run ./repo -- make test           ship a git repository, run a command in it
  banger vm run --memory 2G --vcpu 4 --name dev
",
    help_template = "{about-with-newline}\n{before-help}{usage-heading} {usage}\n\n{all-args}{after-help}"
)]
pub struct RunArgs {
    /// A git repository to ship into the machine, or anything in it; the command runs there
    pub path: Option<PathBuf>,
    /// The command and its arguments; they reach the guest as they are, through no shell. Without: what the image
    /// runs where it has no init, else a shell
    #[arg(last = true, value_name = "CMD")]
    pub command: Vec<OsString>,
    /// Delete the machine at the end, however it ends
    #[arg(long)]
    pub rm: bool,
    /// Do not enter the machine; print its name
    #[arg(long, short, conflicts_with_all = ["rm", "command"])]
    pub detach: bool,
    #[command(flatten)]
    pub shipping: Shipping,
    /// Do not install the tools that the repository pins
    #[arg(long)]
    pub no_bootstrap: bool,
    #[command(flatten)]
    pub terminal: Terminal,
    #[command(flatten)]
    pub machine: Machine,
}

/// Whether the command gets a terminal.
#[derive(Debug, Clone, Copy, Default, Args)]
pub struct Terminal {
    /// Give the command a terminal
    #[arg(long, short = 't', overrides_with = "no_tty")]
    tty: bool,
    /// Give it pipes
    #[arg(long, short = 'T')]
    no_tty: bool,
}

impl Terminal {
    /// What was asked for, if anything was.
    #[must_use]
    pub fn wish(self) -> Option<Streams> {
        match (self.tty, self.no_tty) {
            (true, _) => Some(Streams::Terminal),
            (false, true) => Some(Streams::Pipes),
            (false, false) => None,
        }
    }
}

/// `vm create`.
#[derive(Debug, Args)]
pub struct CreateArgs {
    /// Only make it
    #[arg(long, conflicts_with_all = ["wait", "snapshot"])]
    pub no_start: bool,
    #[command(flatten)]
    pub machine: Machine,
}

/// One or several machines.
#[derive(Debug, Args)]
pub struct Refs {
    /// Machines: id, name, or the beginning of one
    #[arg(required = true, value_name = "REF", value_parser = reference, add = ArgValueCandidates::new(complete::vms))]
    pub refs: Vec<String>,
}

/// `vm start`.
#[derive(Debug, Args)]
pub struct StartArgs {
    #[command(flatten)]
    pub refs: Refs,
    /// What makes them ready; without it what their images say
    #[arg(long, value_enum, value_name = "WHAT")]
    pub wait: Option<WaitFor>,
}

/// `vm kill`.
#[derive(Debug, Args)]
pub struct KillArgs {
    #[command(flatten)]
    pub refs: Refs,
    /// The signal for the monitor's process; one that does not end of it is killed soon after
    #[arg(long, short, value_parser = signal(), value_name = "NAME", ignore_case = true, default_value = "KILL")]
    pub signal: Signal,
}

/// `vm set`.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("what").args(["vcpu", "memory", "disk_size", "overlay_size", "nat", "no_nat", "allow_host_loopback"]).multiple(true).required(true))]
pub struct SetArgs {
    #[command(flatten)]
    pub refs: Refs,
    #[command(flatten)]
    pub size: Size,
    #[command(flatten)]
    pub reach: NewReach,
}

/// `vm reset`.
#[derive(Debug, Args)]
pub struct ResetArgs {
    #[command(flatten)]
    pub refs: Refs,
    /// The image to go on with, instead of their own
    #[arg(long, value_parser = |text: &str| ImageName::try_from(text), add = ArgValueCandidates::new(complete::images))]
    pub image: Option<ImageName>,
}

/// `vm snapshot`.
#[derive(Debug, Args)]
pub struct SnapshotArgs {
    /// The machine: id, name, or the beginning of one
    #[arg(value_name = "REF", value_parser = reference, add = ArgValueCandidates::new(complete::vms))]
    pub reference: String,
    /// What the snapshot is to be called
    #[arg(value_parser = |text: &str| SnapshotName::try_from(text))]
    pub name: SnapshotName,
    /// Also where banger put files of file_sync or variables into the machine, which every machine made of the snapshot then has
    #[arg(long)]
    pub with_secrets: bool,
}

/// `vm prune`.
#[derive(Debug, Args)]
pub struct PruneArgs {
    /// Do not ask
    #[arg(long, short)]
    pub force: bool,
}

/// `vm list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Only ids
    #[arg(long, short = 'q', conflicts_with = "output")]
    pub ids: bool,
    #[command(flatten)]
    pub format: Format,
}

/// `ps`.
#[derive(Debug, Args)]
pub struct PsArgs {
    /// Also those that are stopped
    #[arg(long, short)]
    pub all: bool,
    #[command(flatten)]
    pub list: ListArgs,
}

/// `vm show`.
#[derive(Debug, Args)]
pub struct ShowArgs {
    /// The machine
    #[arg(value_name = "REF", value_parser = reference, add = ArgValueCandidates::new(complete::vms))]
    pub reference: String,
    /// What its last start spent its time on
    #[arg(long, conflicts_with = "output")]
    pub timeline: bool,
    #[command(flatten)]
    pub format: Format,
}

/// `vm exec`.
#[derive(Debug, Args)]
#[command(
    before_help = "\
Examples:
  banger vm exec dev -- make test             run a command, exit with its code
  banger vm exec dev                          a shell
  tar c . | banger vm exec dev -- tar x -C /tmp
",
    help_template = "{about-with-newline}\n{before-help}{usage-heading} {usage}\n\n{all-args}{after-help}"
)]
pub struct ExecArgs {
    /// The machine
    #[arg(value_name = "REF", value_parser = reference, add = ArgValueCandidates::new(complete::vms))]
    pub reference: String,
    /// The command and its arguments; they reach the guest as they are, through no shell. Without: a shell
    #[arg(last = true, value_name = "CMD")]
    pub command: Vec<OsString>,
    /// The working directory; without it the workspace that was shipped, else the user's home
    #[arg(long, value_name = "PATH")]
    pub cwd: Option<OsString>,
    /// A variable for the command
    #[arg(long, short = 'e', value_name = "KEY=VALUE", value_parser = variable(), action = ArgAction::Append)]
    pub env: Vec<(Word, Word)>,
    /// The user who runs it; without it the machine's, who is root where none was said
    #[arg(long, short)]
    pub user: Option<String>,
    /// Ship the workspace's repository again first, where that was changed since
    #[arg(long)]
    pub auto_prepare: bool,
    /// Run it without the tools that the workspace pins and the machine's mise has
    #[arg(long)]
    pub no_tools: bool,
    #[command(flatten)]
    pub terminal: Terminal,
}

/// `vm cp`.
#[derive(Debug, Args)]
#[command(
    before_help = "\
Examples:
  banger vm cp notes.txt dev:                 to /root/notes.txt
  banger vm cp ./data dev:/srv                a directory, to /srv/data
  banger vm cp dev:/var/log/syslog .          out of it
",
    help_template = "{about-with-newline}\n{before-help}{usage-heading} {usage}\n\n{all-args}{after-help}"
)]
pub struct CopyArgs {
    /// A file or directory: a path of this host, or REF:PATH in a machine, from /root where it does not begin with /
    #[arg(value_name = "SRC", add = ArgValueCompleter::new(complete::sides))]
    pub source: OsString,
    /// Where it goes: into the directory that is there, or as what is called so
    #[arg(value_name = "DST", add = ArgValueCompleter::new(complete::sides))]
    pub target: OsString,
}

/// `vm stats`.
#[derive(Debug, Args)]
pub struct StatsArgs {
    /// Machines: id, name, or the beginning of one; without them all that run
    #[arg(value_name = "REF", value_parser = reference, add = ArgValueCandidates::new(complete::vms))]
    pub refs: Vec<String>,
    /// Show them again and again, until Ctrl-C
    #[arg(long)]
    pub watch: bool,
    #[command(flatten)]
    pub format: Format,
}

/// `vm ports`.
#[derive(Debug, Args)]
pub struct PortsArgs {
    /// Machines: id, name, or the beginning of one; without them all that run
    #[arg(value_name = "REF", value_parser = reference, add = ArgValueCandidates::new(complete::vms))]
    pub refs: Vec<String>,
    #[command(flatten)]
    pub format: Format,
}

/// `vm forward`.
#[derive(Debug, Args)]
pub struct ForwardArgs {
    /// The machine
    #[arg(value_name = "REF", value_parser = reference, add = ArgValueCandidates::new(complete::vms))]
    pub reference: String,
    /// A port of this host's 127.0.0.1, 0 for a free one, and one in the machine, also one bound to its own 127.0.0.1
    #[arg(required = true, value_name = "HOST:GUEST", value_parser = Forward::parse)]
    pub ports: Vec<Forward>,
}

/// A port of this host and the port in a guest that it leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forward {
    /// Of this host's loopback; 0 for any that is free.
    pub host: u16,
    /// Of the guest.
    pub guest: NonZeroU16,
}

impl Forward {
    /// `HOST:GUEST`, or one number for both.
    fn parse(text: &str) -> Result<Self, String> {
        let (host, guest) = text.split_once(':').unwrap_or((text, text));
        let wrong = |port: &str| format!("{port:?} is no port; write HOST:GUEST, like 8080:80");
        Ok(Self {
            host: host.parse().map_err(|_| wrong(host))?,
            guest: guest.parse().map_err(|_| wrong(guest))?,
        })
    }
}

/// `vm health`.
#[derive(Debug, Args)]
pub struct HealthArgs {
    /// The machine
    #[arg(value_name = "REF", value_parser = reference, add = ArgValueCandidates::new(complete::vms))]
    pub reference: String,
    #[command(flatten)]
    pub format: Format,
}

/// `vm logs`.
#[derive(Debug, Args)]
pub struct LogsArgs {
    /// The machine
    #[arg(value_name = "REF", value_parser = reference, add = ArgValueCandidates::new(complete::vms))]
    pub reference: String,
    /// Go on as more is written
    #[arg(long, short)]
    pub follow: bool,
    /// Only what came since then: how long ago, like 5m or 2h, or a time in UTC, like 2026-01-31T18:00:00Z
    #[arg(long, value_name = "TIME", value_parser = |text: &str| moment::parse(text, host::clock::now_ms()))]
    pub since: Option<u64>,
    /// Whose log
    #[arg(long, value_enum, default_value = "console", value_name = "SOURCE")]
    pub source: LogSource,
}

/// Whose log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogSource {
    /// The guest's console
    Console,
    /// The virtual machine monitor
    Vmm,
    /// banger's agent in the guest
    Agent,
}

impl LogSource {
    /// Its name in a request.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Console => "console",
            Self::Vmm => "vmm",
            Self::Agent => "agent",
        }
    }
}

/// Something that may be an id, a name or a prefix.
pub fn reference(text: &str) -> Result<String, &'static str> {
    match text {
        "" => Err("it is empty"),
        _ => Ok(text.to_owned()),
    }
}

/// A parser of a signal's name, which may begin with `SIG`.
fn signal() -> impl clap::builder::TypedValueParser<Value = Signal> {
    use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
    let names = Signal::ALL.map(|signal| PossibleValue::new(signal.name()).alias(signal.full_name()));
    PossibleValuesParser::new(names).map(|name| Signal::from_name(&name).expect("it is one of these"))
}

/// A parser of `KEY=VALUE` in any bytes.
fn variable() -> impl clap::builder::TypedValueParser<Value = (Word, Word)> {
    use clap::builder::{OsStringValueParser, TypedValueParser};
    OsStringValueParser::new().try_map(|text: OsString| {
        let bytes = text.into_vec();
        match bytes.iter().position(|&b| b == b'=') {
            None => Err("a variable is KEY=VALUE"),
            Some(0) => Err("a variable needs a name before the ="),
            Some(at) => Ok((Word::from(bytes[..at].to_vec()), Word::from(bytes[at + 1..].to_vec()))),
        }
    })
}
