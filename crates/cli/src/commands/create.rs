//! `vm run`, `vm create` and `vm exec`.

use std::{ffi::OsString, io::IsTerminal, os::unix::ffi::OsStringExt};

use hyper::Method;
use wire::{
    Word,
    control::{CreateVm, ImageRun, Outcome, Vm},
    exec::Spec,
};

use super::Context;
use crate::{
    args::{CreateArgs, ExecArgs, Machine, RunArgs, Terminal, VmmChoice},
    client::{Events, is_not_found, json, path},
    error::Error,
    exec::{self, Streams},
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
    if args.path.is_some() || args.branch.is_some() {
        return Err(Error::Usage {
            message: "workspaces are not supported by this version".to_owned(),
            hint: Some("banger vm run [-- CMD…] makes a machine without one"),
        });
    }
    let spec = spec(args.command, args.user);
    let streams = streams(args.terminal, &spec);
    // Listened to from here to the end, so that none falls between two phases.
    let mut signals = Signals::all()?;
    let consent = Consent::of(&args.machine);
    let (vm, owner) =
        make(context, &mut signals, CreateVm { rm: args.rm, ..request(args.machine) }, consent).await?;
    if args.detach {
        return print(&format!("{}\n", visible(&vm.name))).map(|()| model::exit::OK);
    }
    let interactive = spec.argv.is_empty();
    let spec = if interactive { as_its_image_says(spec, vm.run.as_ref()) } else { spec };
    let result =
        exec::run(&context.client, &mut signals, &vm.id, with_terminal_type(spec, streams), streams).await;
    if args.rm {
        delete(context, &mut signals, &vm, owner).await;
    } else if interactive && result.is_ok() {
        let name = visible(&vm.name);
        context.talk.say(&format!("{name} is still running: banger vm exec {name}, banger vm delete {name}"));
    }
    result
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
    exec::run(&context.client, &mut signals, &args.reference, with_terminal_type(spec, streams), streams)
        .await
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
        vcpu: machine.size.vcpu,
        memory: machine.size.memory,
        disk_size: machine.size.disk_size,
        overlay_size: machine.size.overlay_size,
        vmm: match machine.vmm {
            VmmChoice::Auto => None,
            VmmChoice::Firecracker => Some("firecracker".to_owned()),
            VmmChoice::Qemu => Some("qemu".to_owned()),
        },
        env: machine.env,
        wait: machine.wait.map(Into::into),
        ..CreateVm::default()
    }
}

fn spec(command: Vec<OsString>, user: Option<String>) -> Spec {
    let argv = command.into_iter().map(|word| Word::from(word.into_vec())).collect();
    Spec { argv, env: Vec::new(), cwd: None, user, terminal: None }
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
    let asks = consent == Consent::Asked && request.image.is_none();
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
            Outcome::None | Outcome::Image(_) | Outcome::Kernel(_) => {
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
