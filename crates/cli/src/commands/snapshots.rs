//! `vm snapshot` and `banger snapshot`.

use hyper::Method;
use model::size::human;
use wire::control::{Outcome, Snapshot, Snapshots, TakeSnapshot};

use super::{Context, several};
use crate::{
    args::{Output, SnapshotArgs, SnapshotCommand},
    client::{json, path},
    error::Error,
    progress::Progress,
    signals::Signals,
    talk::{print, print_json},
    text::{age, fields, table, timestamp, visible},
};

/// `vm snapshot`.
///
/// # Errors
/// Why there is no snapshot; the machine goes on all the same.
pub async fn take(context: &Context, args: SnapshotArgs) -> Result<(), Error> {
    let request = TakeSnapshot { name: args.name.to_string(), with_secrets: args.with_secrets };
    let target = path(&["vms", &args.reference, "snapshot"]);
    let work = async {
        let mut events = context.client.operate(Method::POST, &target, json(&request)).await?;
        match Progress::new(&context.talk).follow(&mut events).await? {
            Outcome::Snapshot(snapshot) => print(&format!("{}\n", visible(&snapshot.name))),
            Outcome::None
            | Outcome::Vm(_)
            | Outcome::Image(_)
            | Outcome::Kernel(_)
            | Outcome::Prepared(_)
            | Outcome::Exported(_) => Ok(()),
        }
    };
    Signals::ending()?.unless(work).await
}

/// `banger snapshot`.
///
/// # Errors
/// Why it could not be done.
pub async fn run(context: &Context, command: SnapshotCommand) -> Result<(), Error> {
    match command {
        SnapshotCommand::List(format) => list(context, format.output).await,
        SnapshotCommand::Show { name, format } => {
            let snapshot: Snapshot = context.client.get(&path(&["snapshots", name.as_str()])).await?;
            match format.output {
                Output::Json => print_json(&snapshot),
                Output::Text => print(&describe(&snapshot)),
            }
        }
        SnapshotCommand::Delete { names } => {
            several::each(context, &names, async |name| {
                context.client.send(Method::DELETE, &path(&["snapshots", name.as_str()])).await?;
                Ok(name.to_string())
            })
            .await
        }
    }
}

async fn list(context: &Context, output: Output) -> Result<(), Error> {
    let snapshots: Snapshots = context.client.get(&path(&["snapshots"])).await?;
    if output == Output::Json {
        return print_json(&snapshots);
    }
    let now = host::clock::now_ms();
    let row = |snapshot: &Snapshot| {
        [
            snapshot.name.clone(),
            snapshot.vm.clone(),
            snapshot.image.clone(),
            snapshot.vmm.clone(),
            snapshot.vcpu.to_string(),
            human(snapshot.memory),
            human(snapshot.size),
            age(now, snapshot.created_ms),
        ]
    };
    let rows: Vec<_> = snapshots.snapshots.iter().map(row).collect();
    print(&table(["NAME", "OF", "IMAGE", "VMM", "VCPU", "MEM", "SIZE", "TAKEN"], &rows))
}

fn describe(snapshot: &Snapshot) -> String {
    fields(&[
        ("name", snapshot.name.clone()),
        ("of", snapshot.vm.clone()),
        ("image", snapshot.image.clone()),
        ("kernel", snapshot.kernel.clone()),
        ("vmm", format!("{} {}", snapshot.vmm, snapshot.build)),
        ("vcpu", snapshot.vcpu.to_string()),
        ("memory", human(snapshot.memory)),
        ("disk", human(snapshot.disk)),
        ("overlay", human(snapshot.overlay)),
        ("network", snapshot.network.clone().unwrap_or_else(|| "none".to_owned())),
        ("secrets", if snapshot.has_secrets { "yes" } else { "none" }.to_owned()),
        ("size", human(snapshot.size)),
        ("taken", timestamp(snapshot.created_ms)),
    ])
}
