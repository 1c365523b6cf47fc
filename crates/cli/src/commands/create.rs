//! `vm run`, `vm create` and `vm exec`.

use std::{ffi::OsString, io::IsTerminal, os::unix::ffi::OsStringExt, path::Path};

use hyper::Method;
use wire::{
    Word,
    control::{CreateVm, ImageRun, Outcome, PrepareWorkspace, Vm},
    exec::Spec,
};

use super::{
    Context,
    bootstrap::{self, When},
    workspace,
};
use crate::{
    args::{CreateArgs, ExecArgs, Machine, RunArgs, Shipping, Terminal, VmmChoice},
    client::{Events, is_not_found, json, path},
    error::Error,
    exec::{self, Streams, Tools},
    progress::Progress,
    signals::Signals,
    talk::{Answer, confirm, print},
    text::visible,
};

/// `vm create`.
///
/// # Errors
/// Why there is no machine.
pub async fn create(context: &Context, args: CreateArgs) -> Result<(), Error> {
    let mut signals = Signals::ending()?;
    let consent = Consent::of(&args.machine);
    let request = CreateVm { no_start: args.no_start, ..request(args.machine) };
    let (vm, _) = make(context, &mut signals, request, consent).await?;
    print(&format!("{}\n", visible(&vm.name)))
}

/// `vm run`; the exit code is the command's.
///
/// # Errors
/// Why banger failed.
pub async fn run(context: &Context, args: RunArgs) -> Result<u8, Error> {
    let shipment = shipment(args.path.as_deref(), args.shipping.clone(), args.machine.user.clone())?;
    let mut pinned = None;
    if let Some(request) = &shipment {
        if args.shipping.dry_run {
            return workspace::show(context, request).await.map(|()| model::exit::OK);
        }
        // What cannot be shipped is refused before anything is made.
        let plan = workspace::plan(context, request).await?;
        // A command is run as soon as it can be; somebody who works there wants the tools.
        let wanted = args.command.is_empty() && !args.no_bootstrap;
        pinned = bootstrap::pinned(&plan).filter(|_| wanted);
        if let Some(file) = pinned
            && !args.machine.reach.nat().map_or_else(bootstrap::nat_by_default, Ok)?
        {
            pinned = None;
            bootstrap::without_network(context, file)?;
        }
    }
    let mut spec = spec(args.command, args.machine.user.clone());
    let streams = streams(args.terminal, &spec);
    // Listened to from here to the end, so that none falls between two phases.
    let mut signals = Signals::all()?;
    let consent = Consent::of(&args.machine);
    let (vm, owner) =
        make(context, &mut signals, CreateVm { rm: args.rm, ..request(args.machine) }, consent).await?;
    if let Some(request) = &shipment {
        match workspace::ship(context, &mut signals, &vm.id, request).await {
            Ok(shipped) => {
                spec.cwd = Some(shipped.guest_path.as_str().into());
                if let Some(file) = pinned {
                    let when = if args.detach { When::Now } else { When::Later };
                    let user = request.user.as_deref();
                    bootstrap::install(context, &mut signals, &vm, (&shipped.guest_path, user), file, when)
                        .await;
                }
            }
            Err(error) if args.rm => {
                delete(context, &mut signals, &vm, owner).await;
                return Err(error);
            }
            Err(error) => {
                let name = visible(&vm.name);
                context.talk.say(&format!("{name} is kept: banger vm exec {name}, banger vm delete {name}"));
                return Err(error);
            }
        }
    }
    if args.detach {
        return print(&format!("{}\n", visible(&vm.name))).map(|()| model::exit::OK);
    }
    let interactive = spec.argv.is_empty();
    // What is shipped is worked on, whatever its image is for.
    let spec =
        if interactive && shipment.is_none() { as_its_image_says(spec, vm.run.as_ref()) } else { spec };
    let result = exec::run(context, &mut signals, &vm.id, with_terminal_type(spec, streams), streams).await;
    if args.rm {
        delete(context, &mut signals, &vm, owner).await;
    } else if interactive && result.is_ok() {
        let name = visible(&vm.name);
        context.talk.say(&format!("{name} is still running: banger vm exec {name}, banger vm delete {name}"));
    }
    result
}

/// What is to be shipped, where anything is.
fn shipment(
    place: Option<&Path>,
    shipping: Shipping,
    user: Option<String>,
) -> Result<Option<PrepareWorkspace>, Error> {
    match (place, shipping.first()) {
        (None, Some(word)) => Err(Error::usage(format!("{word} needs the PATH of a repository"))),
        (None, None) => Ok(None),
        (Some(place), _) => workspace::request(place, shipping, user).map(Some),
    }
}

/// `vm exec`; the exit code is the command's.
///
/// # Errors
/// Why banger failed.
pub async fn exec(context: &Context, args: ExecArgs) -> Result<u8, Error> {
    let mut spec = spec(args.command, args.user);
    spec.env = args.env;
    spec.cwd = args.cwd.map(|path| Word::from(path.into_vec()));
    let streams = streams(args.terminal, &spec);
    let mut signals = Signals::all()?;
    if args.auto_prepare {
        workspace::refresh(context, &mut signals, &args.reference).await?;
    }
    let tools = if args.no_tools { Tools::Any } else { Tools::Pinned };
    let spec = with_terminal_type(spec, streams);
    exec::run_with(context, &mut signals, &args.reference, spec, streams, tools).await
}

/// Runs `command`, or a shell, in a machine by its agent; the exit code is the command's.
///
/// # Errors
/// Why banger failed.
pub async fn in_guest(
    context: &Context,
    signals: &mut Signals,
    vm: &str,
    command: Vec<OsString>,
) -> Result<u8, Error> {
    let spec = spec(command, None);
    let streams = streams(Terminal::default(), &spec);
    exec::run(context, signals, vm, with_terminal_type(spec, streams), streams).await
}

/// Whether the default image may be built where it is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Consent {
    Given,
    Asked,
}

impl Consent {
    fn of(machine: &Machine) -> Self {
        if machine.yes || !std::io::stdin().is_terminal() { Self::Given } else { Self::Asked }
    }
}

fn request(machine: Machine) -> CreateVm {
    CreateVm {
        name: machine.name.map(|name| name.to_string()),
        image: machine.image.map(|name| name.to_string()),
        snapshot: machine.snapshot.map(|name| name.to_string()),
        vcpu: machine.size.vcpu,
        memory: machine.size.memory,
        disk_size: machine.size.disk_size,
        overlay_size: machine.size.overlay_size,
        nat: machine.reach.nat(),
        allow_host_loopback: machine.reach.allow_host_loopback,
        group: machine.group.map(|group| group.to_string()),
        user: machine.user,
        vmm: machine.vmm.map(|vmm| {
            match vmm {
                VmmChoice::Auto => "auto",
                VmmChoice::Firecracker => "firecracker",
                VmmChoice::Qemu => "qemu",
            }
            .to_owned()
        }),
        env: machine.env,
        wait: machine.wait.map(Into::into),
        ..CreateVm::default()
    }
}

fn spec(command: Vec<OsString>, user: Option<String>) -> Spec {
    let argv = command.into_iter().map(|word| Word::from(word.into_vec())).collect();
    Spec { argv, env: Vec::new(), cwd: None, user, terminal: None, through: Vec::new() }
}

/// What is run where no command is given.
fn as_its_image_says(spec: Spec, run: Option<&ImageRun>) -> Spec {
    let Some(run) = run else { return spec };
    Spec {
        argv: run.command().iter().map(|word| word.as_str().into()).collect(),
        cwd: run.workdir.as_deref().map(Into::into),
        user: spec.user.or_else(|| run.user.clone()),
        ..spec
    }
}

/// A shell gets a terminal where there is one; a command only where that was asked for, as its output is data.
fn streams(wish: Terminal, spec: &Spec) -> Streams {
    let at_terminal = || std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    match wish.wish() {
        Some(streams) => streams,
        None if spec.argv.is_empty() && at_terminal() => Streams::Terminal,
        None => Streams::Pipes,
    }
}

/// The command has to know what kind of terminal it writes to.
fn with_terminal_type(mut spec: Spec, streams: Streams) -> Spec {
    if streams == Streams::Terminal && !spec.env.iter().any(|(key, _)| key.as_bytes() == b"TERM") {
        let kind = host::env::text("TERM").unwrap_or_else(|| "xterm".to_owned());
        spec.env.push(("TERM".into(), kind.as_str().into()));
    }
    spec
}

/// Makes the machine. Where the default image is missing it is built too; on a terminal the user is asked first.
async fn make(
    context: &Context,
    signals: &mut Signals,
    mut request: CreateVm,
    consent: Consent,
) -> Result<(Vm, Events), Error> {
    let asks = consent == Consent::Asked && request.image.is_none() && request.snapshot.is_none();
    request.build_default_image = !asks;
    match attempt(context, signals, &request).await {
        Err(error) if asks && is_not_found(&error) => {
            let question = format!("{error}. Build the default image now? (~2 minutes, 300 MB)");
            match signals.unless(confirm(&context.talk, &question, Answer::Yes)).await? {
                Answer::Yes => request.build_default_image = true,
                Answer::No => return Err(error),
            }
            attempt(context, signals, &request).await
        }
        other => other,
    }
}

async fn attempt(
    context: &Context,
    signals: &mut Signals,
    request: &CreateVm,
) -> Result<(Vm, Events), Error> {
    let create = async {
        let mut events = context.client.operate(Method::POST, &path(&["vms"]), json(request)).await?;
        match Progress::new(&context.talk).follow(&mut events).await? {
            Outcome::Vm(vm) => Ok((*vm, events)),
            Outcome::None
            | Outcome::Image(_)
            | Outcome::Kernel(_)
            | Outcome::Snapshot(_)
            | Outcome::Prepared(_)
            | Outcome::Exported(_) => {
                Err(Error::Protocol("a machine was made, but which is not said".to_owned()))
            }
        }
    };
    signals.unless(create).await
}

/// Deletes the machine of `--rm`. `owner` is let go last, and then the daemon does it where this did not.
async fn delete(context: &Context, signals: &mut Signals, vm: &Vm, owner: Events) {
    let delete = async {
        let path = path(&["vms", &vm.id, "delete"]);
        let mut events = context.client.operate(Method::POST, &path, crate::client::empty()).await?;
        Progress::new(&context.talk).follow(&mut events).await
    };
    match signals.unless(delete).await {
        Ok(_) | Err(Error::Cancelled) => {}
        Err(error) if is_not_found(&error) => {}
        Err(error) => context.talk.error(&error),
    }
    drop(owner);
}
