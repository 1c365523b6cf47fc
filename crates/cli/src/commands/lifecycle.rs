//! `vm start`, `stop`, `restart`, `kill`, `delete`, `set`, `reset` and `prune`: several machines at once, each on its own.

use std::io::IsTerminal;

use futures_util::future::join_all;
use hyper::Method;
use wire::control::{Outcome, SetVm, State, Vm, Vms};

use super::{Context, several};
use crate::{
    args::{KillArgs, PruneArgs, Refs, ResetArgs, SetArgs, Size, StartArgs, WaitFor},
    client::{empty, json, path, with},
    error::Error,
    progress::Progress,
    signals::Signals,
    talk::{Answer, confirm},
    text::visible,
};

/// `vm start`.
///
/// # Errors
/// As [`several::each`].
pub async fn start(context: &Context, args: StartArgs) -> Result<(), Error> {
    let wait = args.wait.map(|wait| match wait {
        WaitFor::Agent => "agent",
        WaitFor::Init => "init",
    });
    change(context, &args.refs, &Ask { query: wait.map(|wait| ("wait", wait)), ..Ask::plain("start") }).await
}

/// `vm stop`, `vm restart` and `vm delete`, by the name of the request.
///
/// # Errors
/// As [`several::each`].
pub async fn plain(context: &Context, refs: &Refs, request: &str) -> Result<(), Error> {
    change(context, refs, &Ask::plain(request)).await
}

/// `vm kill`.
///
/// # Errors
/// As [`several::each`].
pub async fn kill(context: &Context, args: KillArgs) -> Result<(), Error> {
    let query = Some(("signal", args.signal.name()));
    change(context, &args.refs, &Ask { query, ..Ask::plain("kill") }).await
}

/// `vm set`.
///
/// # Errors
/// As [`several::each`]; where a word for NAT would be taken for a machine.
pub async fn set(context: &Context, args: SetArgs) -> Result<(), Error> {
    let Size { vcpu, memory, disk_size, overlay_size } = args.size;
    let (nat, allow_host_loopback) = (args.reach.nat(), args.reach.allow_host_loopback);
    // Else `vm set dev --nat off` would let dev reach the world, and miss a machine called so.
    if let (Some(_), Some(word)) = (nat, args.refs.refs.iter().find(|word| matches!(&word[..], "on" | "off")))
    {
        return Err(Error::Usage {
            message: format!("--nat takes no value, and {word:?} would be a machine"),
            hint: Some("--nat, or --no-nat; a machine that is called so goes by its id"),
        });
    }
    let body = Some(SetVm { vcpu, memory, disk_size, overlay_size, nat, allow_host_loopback });
    change(context, &args.refs, &Ask { body, ..Ask::plain("set") }).await
}

/// `vm reset`.
///
/// # Errors
/// As [`several::each`].
pub async fn reset(context: &Context, args: ResetArgs) -> Result<(), Error> {
    let query = args.image.as_ref().map(|image| ("image", image.as_str()));
    change(context, &args.refs, &Ask { query, ..Ask::plain("reset") }).await
}

/// `vm prune`.
///
/// # Errors
/// As [`several::each`]; without a terminal it has to be forced.
pub async fn prune(context: &Context, args: PruneArgs) -> Result<(), Error> {
    if !args.force && !std::io::stdin().is_terminal() {
        return Err(Error::Usage {
            message: "prune deletes machines and cannot ask without a terminal".to_owned(),
            hint: Some("banger vm prune -f"),
        });
    }
    let vms: Vms = context.client.get(&path(&["vms"])).await?;
    let idle: Vec<Vm> = vms.vms.into_iter().filter(|vm| is_idle(vm.state)).collect();
    if idle.is_empty() {
        context.talk.say("nothing to delete: every machine is running");
        return Ok(());
    }
    if !args.force {
        let names: Vec<_> = idle.iter().map(|vm| visible(&vm.name)).collect();
        let question = format!("Delete {} with their disks?", names.join(", "));
        if confirm(&context.talk, &question, Answer::No).await? == Answer::No {
            return Err(Error::Cancelled);
        }
    }
    operate_all(context, idle.into_iter().map(Ok).collect(), &Ask::plain("delete")).await
}

/// Whether a machine is one that `prune` takes.
fn is_idle(state: State) -> bool {
    match state {
        State::Created | State::Stopped | State::Error => true,
        State::Starting | State::Running | State::Stopping | State::Deleting => false,
    }
}

/// What is asked of each machine.
struct Ask<'a> {
    /// The last word of the request's path.
    request: &'a str,
    query: Option<(&'a str, &'a str)>,
    body: Option<SetVm>,
}

impl<'a> Ask<'a> {
    fn plain(request: &'a str) -> Self {
        Self { request, query: None, body: None }
    }
}

/// Finds each machine, then asks the same of each. Two words for one machine are one request.
async fn change(context: &Context, refs: &Refs, ask: &Ask<'_>) -> Result<(), Error> {
    let mut words: Vec<&str> = Vec::new();
    for word in &refs.refs {
        if !words.contains(&word.as_str()) {
            words.push(word);
        }
    }
    let found =
        join_all(words.iter().map(|word| async { context.client.get::<Vm>(&path(&["vms", word])).await }));
    let mut once: Vec<Result<Vm, Error>> = Vec::new();
    for result in found.await {
        let twice = |vm: &Vm| once.iter().flatten().any(|other| other.id == vm.id);
        if !result.as_ref().is_ok_and(twice) {
            once.push(result);
        }
    }
    operate_all(context, once, ask).await
}

async fn operate_all(
    context: &Context,
    machines: Vec<Result<Vm, Error>>,
    ask: &Ask<'_>,
) -> Result<(), Error> {
    let all = machines.len();
    let work = join_all(machines.into_iter().map(|machine| async {
        let vm = machine?;
        let mut target = path(&["vms", &vm.id, ask.request]);
        if let Some((key, value)) = ask.query {
            target = with(target, key, value);
        }
        let body = ask.body.as_ref().map_or_else(empty, json);
        let mut events = context.client.operate(Method::POST, &target, body).await?;
        let progress = match all {
            1 => Progress::new(&context.talk),
            _ => Progress::about(&context.talk, &vm.name),
        };
        let name = match progress.follow(&mut events).await? {
            Outcome::Vm(now) => now.name,
            Outcome::None
            | Outcome::Image(_)
            | Outcome::Kernel(_)
            | Outcome::Snapshot(_)
            | Outcome::Prepared(_)
            | Outcome::Exported(_) => vm.name,
        };
        Ok(visible(&name).into_owned())
    }));
    let results = Signals::ending()?.unless(async { Ok(work.await) }).await?;
    several::report(context, all, results)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prune_takes_what_does_not_run() {
        let taken = [
            State::Created,
            State::Starting,
            State::Running,
            State::Stopping,
            State::Stopped,
            State::Error,
            State::Deleting,
        ]
        .map(is_idle);
        assert_eq!(taken, [true, false, false, false, true, true, false]);
    }
}
