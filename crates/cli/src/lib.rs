//! The program `banger`: turns words into requests and answers into words.
//!
//! ```text
//! args ──▶ commands ──▶ client ──▶ bangerd
//!             │  └────▶ exec: a guest's command on this process's streams
//!             └──▶ talk, progress, text
//! ```
//! It decides nothing about machines: that is the daemon's. Failures become words and an exit code here, in [`main`].

mod args;
mod client;
mod commands;
mod complete;
mod error;
mod exec;
mod files;
mod launch;
mod plain;
mod progress;
mod signals;
mod talk;
mod text;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use model::config::{self, PREFIX};

use crate::{
    args::{Cli, Command, ConfigCommand, VmCommand},
    client::{Client, Start},
    commands::{
        Context, catalogs, copy, create, daemon, doctor, events, images, kernels, lifecycle, operations,
        ports, settings, show, snapshots, ssh, ssh_config, stats, system, version, workspace,
    },
    error::Error,
    talk::Talk,
};

/// The command line, for whoever writes about it.
#[must_use]
pub fn command() -> clap::Command {
    Cli::command()
}

/// Runs the program with the arguments of this process.
#[must_use]
pub fn main() -> ExitCode {
    clap_complete::CompleteEnv::with_factory(Cli::command).var(complete::VARIABLE).complete();
    let cli = Cli::parse();
    let mut talk = Talk::new(cli.volume.level());
    let mode = Mode::of(&cli.command);
    if mode == Mode::Command {
        talk = talk.for_command();
    }
    for stray in host::env::names(PREFIX).iter().filter_map(|name| config::stray(name)) {
        talk.say(&format!("warning: {}", text::visible(&stray.to_string())));
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            talk.error(&host::Error::new("set up", "this process", e).into());
            return ExitCode::from(model::exit::FAILED);
        }
    };
    let result = runtime.block_on(run(talk.clone(), cli.command));
    ExitCode::from(result.unwrap_or_else(|error| {
        talk.error(&error);
        match mode {
            Mode::Command => error.command_code(),
            Mode::Request => error.code(),
        }
    }))
}

/// Whose exit code the user waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// That of a command in a guest.
    Command,
    /// That of banger.
    Request,
}

impl Mode {
    fn of(command: &Command) -> Self {
        match command {
            Command::Vm(VmCommand::Run(args)) if !args.command.is_empty() => Self::Command,
            Command::Vm(VmCommand::Exec(_) | VmCommand::Ssh(_)) => Self::Command,
            _ => Self::Request,
        }
    }
}

async fn run(talk: Talk, command: Command) -> Result<u8, Error> {
    let context = |talk| Client::of_user(Start::IfNeeded).map(|client| Context { client, talk });
    match command {
        Command::Vm(command) => return vm(&context(talk)?, command).await,
        Command::Ps(args) => show::ps(&context(talk)?, args).await,
        Command::Image(command) => images::run(&context(talk)?, command).await,
        Command::Kernel(command) => kernels::run(&context(talk)?, command).await,
        Command::Snapshot(command) => snapshots::run(&context(talk)?, command).await,
        Command::Catalog(command) => catalogs::run(&context(talk)?, command).await,
        Command::Daemon(command) => daemon::run(talk, command).await,
        Command::Operation(command) => operations::run(&context(talk)?, command).await,
        Command::Events(format) => events::run(&context(talk)?, format.output).await,
        Command::Logs(args) => daemon::logs(talk, args).await,
        Command::Config(ConfigCommand::Show(format)) => settings::show(format.output),
        Command::SshConfig(args) => ssh_config::run(&talk, args),
        Command::System(command) => system::run(&talk, command),
        Command::Doctor(args) => doctor::run(args).await,
        Command::Completion { shell } => complete::script(shell),
        Command::Version(format) => version::run(format.output).await,
    }
    .map(|()| model::exit::OK)
}

async fn vm(context: &Context, command: VmCommand) -> Result<u8, Error> {
    match command {
        VmCommand::Run(args) => return create::run(context, *args).await,
        VmCommand::Exec(args) => return create::exec(context, args).await,
        VmCommand::Ssh(args) => return ssh::ssh(context, args).await,
        VmCommand::Proxy(args) => ssh::proxy(context, args).await,
        VmCommand::Create(args) => create::create(context, *args).await,
        VmCommand::Start(args) => lifecycle::start(context, args).await,
        VmCommand::Stop(refs) => lifecycle::plain(context, &refs, "stop").await,
        VmCommand::Restart(refs) => lifecycle::plain(context, &refs, "restart").await,
        VmCommand::Kill(args) => lifecycle::kill(context, args).await,
        VmCommand::Delete(refs) => lifecycle::plain(context, &refs, "delete").await,
        VmCommand::Set(args) => lifecycle::set(context, args).await,
        VmCommand::Reset(args) => lifecycle::reset(context, args).await,
        VmCommand::Snapshot(args) => snapshots::take(context, args).await,
        VmCommand::Prune(args) => lifecycle::prune(context, args).await,
        VmCommand::List(args) => show::list(context, args).await,
        VmCommand::Show(args) => show::show(context, args).await,
        VmCommand::Cp(args) => copy::run(context, args).await,
        VmCommand::Workspace(command) => workspace::run(context, command).await,
        VmCommand::Stats(args) => stats::show(context, args).await,
        VmCommand::Ports(args) => ports::list(context, args).await,
        VmCommand::Forward(args) => ports::forward(context, args).await,
        VmCommand::Health(args) => show::health(context, args).await,
        VmCommand::Logs(args) => show::logs(context, args).await,
    }
    .map(|()| model::exit::OK)
}
