//! `vm list`, `ps`, `vm show` and `vm logs`.

use model::size::human;
use wire::{
    control::{Origin, Sized, State, Vm, Vms},
    guest::{Health, InitKind},
};

use super::Context;
use crate::{
    args::{HealthArgs, ListArgs, LogsArgs, Output, PsArgs, ShowArgs},
    client::{path, with},
    error::Error,
    talk::{Printer, print, print_json},
    text::{age, fields, table, timestamp},
};

/// `vm list`.
///
/// # Errors
/// Where the daemon cannot be asked.
pub async fn list(context: &Context, args: ListArgs) -> Result<(), Error> {
    show_all(&context.client.get(&path(&["vms"])).await?, &args)
}

/// `ps`.
///
/// # Errors
/// Where the daemon cannot be asked.
pub async fn ps(context: &Context, args: PsArgs) -> Result<(), Error> {
    let mut vms: Vms = context.client.get(&path(&["vms"])).await?;
    vms.vms.retain(|vm| args.all || is_up(vm.state));
    show_all(&vms, &args.list)
}

/// Whether `ps` shows a machine without being asked for all.
fn is_up(state: State) -> bool {
    match state {
        State::Starting | State::Running | State::Stopping | State::Error | State::Deleting => true,
        State::Created | State::Stopped => false,
    }
}

fn show_all(vms: &Vms, args: &ListArgs) -> Result<(), Error> {
    if args.ids {
        let ids: String = vms.vms.iter().map(|vm| format!("{}\n", vm.id)).collect();
        return print(&ids);
    }
    match args.format.output {
        Output::Json => print_json(vms),
        Output::Text => {
            let now = host::clock::now_ms();
            let rows: Vec<_> = vms.vms.iter().map(|vm| row(vm, now)).collect();
            print(&table(COLUMNS, &rows))
        }
    }
}

const COLUMNS: [&str; 10] =
    ["ID", "NAME", "STATE", "IMAGE", "IP", "VCPU", "MEM", "DISK", "WORKSPACE", "CREATED"];

fn row(vm: &Vm, now: u64) -> [String; 10] {
    let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    [
        vm.id.clone(),
        vm.name.clone(),
        state(vm.state).to_owned(),
        vm.image.clone(),
        or_dash(&vm.ip),
        vm.vcpu.value.to_string(),
        human(vm.memory.value),
        human(vm.disk.value),
        or_dash(&vm.workspace),
        age(now, vm.created_ms),
    ]
}

/// The word for a state.
pub(super) fn state(state: State) -> &'static str {
    match state {
        State::Created => "created",
        State::Starting => "starting",
        State::Running => "running",
        State::Stopping => "stopping",
        State::Stopped => "stopped",
        State::Error => "error",
        State::Deleting => "deleting",
    }
}

/// `vm show`.
///
/// # Errors
/// Where the daemon cannot be asked or there is no such machine.
pub async fn show(context: &Context, args: ShowArgs) -> Result<(), Error> {
    let vm: Vm = context.client.get(&path(&["vms", &args.reference])).await?;
    match args.format.output {
        Output::Json => print_json(&vm),
        Output::Text if args.timeline => print(&timeline(&vm)),
        Output::Text => print(&describe(&vm, host::clock::now_ms())),
    }
}

fn describe(vm: &Vm, now: u64) -> String {
    fn from<T: Copy>(sized: &Sized<T>, text: String) -> String {
        match sized.origin {
            Origin::Request => text,
            Origin::Config => format!("{text} (config)"),
            Origin::Host => format!("{text} (from this host's size)"),
            Origin::Default => format!("{text} (default)"),
        }
    }
    let moment = |ms| format!("{} ({})", timestamp(ms), age(now, ms));
    let mut rows =
        vec![("id", vm.id.clone()), ("name", vm.name.clone()), ("state", state(vm.state).to_owned())];
    let maybe = |rows: &mut Vec<_>, key, value: Option<String>| rows.extend(value.map(|value| (key, value)));
    maybe(&mut rows, "reason", vm.reason.clone());
    rows.extend([
        ("image", vm.image.clone()),
        ("kernel", vm.kernel.clone()),
        ("vmm", vm.vmm.clone()),
        ("vcpu", from(&vm.vcpu, vm.vcpu.value.to_string())),
        ("memory", from(&vm.memory, human(vm.memory.value))),
        ("disk", from(&vm.disk, human(vm.disk.value))),
        ("overlay", from(&vm.overlay, human(vm.overlay.value))),
    ]);
    maybe(&mut rows, "ip", vm.ip.clone());
    rows.push(("nat", if vm.nat { "on" } else { "off" }.to_owned()));
    maybe(&mut rows, "group", vm.group.clone());
    maybe(&mut rows, "user", vm.user.clone());
    let network = vm.network.as_ref();
    maybe(
        &mut rows,
        "network",
        network.map(|network| {
            let place = match network.mode.as_str() {
                "user" => "in namespaces of its own",
                "bridge" => "on the bridge",
                "qemu" => "QEMU's own, with this host's loopback in reach",
                other => other,
            };
            format!("{}, {place}", network.address)
        }),
    );
    maybe(&mut rows, "trouble", network.and_then(|network| network.trouble.clone()));
    maybe(&mut rows, "workspace", vm.workspace.clone());
    rows.push(("created", moment(vm.created_ms)));
    maybe(&mut rows, "started", vm.started_ms.map(moment));
    maybe(&mut rows, "pid", vm.pid.map(|pid| pid.to_string()));
    maybe(&mut rows, "boot id", vm.boot_id.clone());
    if vm.rm {
        rows.push(("rm", "deleted when the command that made it ends".to_owned()));
    }
    fields(&rows)
}

fn timeline(vm: &Vm) -> String {
    let rows: Vec<_> = vm
        .timeline
        .iter()
        .map(|phase| {
            let ms = |us: u64| format!("{}.{} ms", us / 1000, us / 100 % 10);
            [phase.place.clone(), ms(phase.step.took_us), ms(phase.step.at_us), phase.step.name.clone()]
        })
        .collect();
    table(["PLACE", "TOOK", "DONE AT", "PHASE"], &rows)
}

/// `vm health`.
///
/// # Errors
/// Where the daemon cannot be asked, there is no such machine, it does not run, or its agent does not answer.
pub async fn health(context: &Context, args: HealthArgs) -> Result<(), Error> {
    let health: Health = context.client.get(&path(&["vms", &args.reference, "health"])).await?;
    match args.format.output {
        Output::Json => print_json(&health),
        Output::Text => print(&fields(&[
            ("agent", health.agent),
            ("kernel", health.kernel),
            ("up", format!("{} s", health.uptime_ms / 1000)),
            ("init", init(health.init, health.init_ready)),
        ])),
    }
}

fn init(kind: InitKind, ready: Option<bool>) -> String {
    let name = match kind {
        InitKind::Agent => "the agent",
        InitKind::Systemd => "systemd",
        InitKind::Sysvinit => "sysvinit",
        InitKind::Openrc => "openrc",
        InitKind::Other => "a program of the image",
    };
    match ready {
        Some(true) => format!("{name}, ready"),
        Some(false) => format!("{name}, still starting"),
        None => name.to_owned(),
    }
}

/// `vm logs`: the bytes as they are, unless they go to a terminal that they could steer.
///
/// # Errors
/// Where the daemon cannot be asked or there is no such machine.
pub async fn logs(context: &Context, args: LogsArgs) -> Result<(), Error> {
    let mut target = with(path(&["vms", &args.reference, "logs"]), "source", args.source.name());
    if let Some(since) = args.since {
        target = with(target, "since", &since.to_string());
    }
    if args.follow {
        target = with(target, "follow", "true");
    }
    Printer::new().print_all(context.client.stream(&target).await?).await
}
