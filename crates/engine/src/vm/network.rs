//! A VM's network as its record says: made at its start, changed while it runs, mended when its companion dies.
//!
//! On the bridge its rules and its tap are the helper's, which keeps them whatever becomes of this daemon; in a namespace of its
//! own, rules and companion go with its machine.
//!
//! The record says what is wanted, the ledger which companion there is, and the rules in the namespace follow the record. So who
//! has the VM's turn can make them agree whatever happened before ([`Engine::settle_network`]): a flip, a companion that died, a daemon
//! that was gone.

use std::{sync::Arc, time::Duration};

use host::{
    net::AddressWatch,
    proc::{Process, ProcessId},
};
use model::{
    OperationId, VmId,
    network::{
        Card, Flip, HostLoopback, Link, Mac, Namespaces, Nat, NeedsConsent, Network, Running, flip, link,
    },
    undo::Undo,
    vm::State,
};
use store::Entry;
use tokio::{
    io::{Interest, unix::AsyncFd},
    time::{Instant, sleep},
};
use wire::{
    control::Outcome,
    helper::{Ask, Guest},
};

use super::Live;
use crate::{
    Engine, Error, Kind, Operation, Result, blocking,
    bridge::{Helper, HelperError},
    chain,
    network::{Missing, NetworkError, Probe, Waiting, apply},
    saga::{Saga, process_entry, process_id, unwind},
};

/// Before the second try to connect a VM again, and how long a companion must have lived to be replaced at once.
const AGAIN: Duration = Duration::from_secs(1);
/// Between two tries in the long run.
const AT_MOST: Duration = Duration::from_secs(30);

impl Engine {
    /// The card of VM `id`, where it has one.
    pub(crate) fn card(&self, id: VmId, network: Network) -> Option<Card> {
        let mac = Mac::of(id);
        match network.link? {
            Link::Namespace => Some(Card::in_namespace(mac)),
            Link::BuiltIn => Some(Card::built_in(mac)),
            Link::Bridge => Card::on_bridge(mac, self.0.bridge.as_ref()?.subnet, network.number?),
        }
    }

    /// What a VM of `network` that starts now is connected to.
    ///
    /// # Errors
    /// Where it cannot have the network that it is to have.
    pub(crate) async fn link_for(&self, network: Network) -> Result<Option<Link>> {
        if self.0.bridge.is_some() {
            return Ok(Some(Link::Bridge));
        }
        let missing = match network.nat {
            Nat::Off => None,
            Nat::On => self.without_namespaces().await,
        };
        let namespaces = if missing.is_none() { Namespaces::Usable } else { Namespaces::Refused };
        link(network, namespaces).map_err(|NeedsConsent| {
            let unknown = || Missing { what: "namespaces are refused".to_owned(), hint: String::new() };
            Error::NoNetwork(missing.unwrap_or_else(unknown))
        })
    }

    /// What is missing for namespaces, if something is.
    async fn without_namespaces(&self) -> Option<Missing> {
        Probe::Remembered.ask(&self.paths().probes()).await.err()
    }

    /// Makes the network of a machine that waits at its gate: first its rules, then its companion.
    pub(crate) async fn connect(
        &self,
        record: &store::Vm,
        saga: &mut Saga<'_>,
        machine: &ProcessId,
    ) -> Result<()> {
        self.apply_rules(record, machine, record.network.nat).await?;
        match record.network.nat {
            Nat::On => self.accompany(record, saga, machine).await,
            Nat::Off => Ok(()),
        }
    }

    /// Makes the VM of `record`, which starts, a guest of the bridge: first its rules, then its tap, which opens for them.
    pub(crate) async fn plug_in(
        &self,
        operation: &Operation,
        record: &store::Vm,
        saga: &mut Saga<'_>,
    ) -> Result<()> {
        let Some(guest) = guest(record) else { return Ok(()) };
        for (undo, ask) in [(Undo::Rules, Ask::ApplyRules(guest)), (Undo::Tap, Ask::CreateTap(record.id))] {
            saga.step(undo, self.asking(operation, record, move |helper, id| helper.done(id, ask))).await?;
        }
        Ok(())
    }

    /// The bridge is there that a VM of `record` is to be on, and nothing on it of VMs that are gone.
    pub(crate) async fn ensure_bridge(&self, operation: &Operation, record: &store::Vm) -> Result<()> {
        let Some(subnet) = self.0.bridge.as_ref().map(|bridge| bridge.subnet) else { return Ok(()) };
        self.unplug_strays().await?;
        let ensure = self.asking(operation, record, move |helper, id| helper.ensure_bridge(id, subnet));
        self.points().around("bridge", blocking(ensure)).await
    }

    /// Has the helper give back what it could not while VMs went: their addresses may be others' by now.
    async fn unplug_strays(&self) -> Result<()> {
        let mut entries = self.store().ledger_strays()?;
        entries.retain(|entry| matches!(entry.undo, Undo::Rules | Undo::Tap));
        for left in unwind(&self.0.world, entries).await {
            tracing::warn!(left, "something on the bridge is nobody's and stays");
        }
        Ok(())
    }

    /// Makes the rules of a running VM on the bridge be what its record says.
    async fn settle_on_bridge(&self, operation: &Operation, record: &store::Vm) -> Result<()> {
        self.ensure_bridge(operation, record).await?;
        let Some(guest) = guest(record) else { return Ok(()) };
        let ask = Ask::ApplyRules(guest);
        let rules = self.asking(operation, record, move |helper, id| helper.done(id, ask));
        self.points().around("rules", blocking(rules)).await
    }

    /// What asks the helper for the VM of `record`, for the sake of `operation`. Blocks.
    fn asking<A>(
        &self,
        operation: &Operation,
        record: &store::Vm,
        ask: A,
    ) -> impl FnOnce() -> Result<()> + Send + use<A>
    where
        A: FnOnce(&Helper, &OperationId) -> Result<(), HelperError> + Send + 'static,
    {
        let (helper, id, failed) = (self.0.world.helper.clone(), operation.id().clone(), failed(record));
        move || ask(&helper, &id).map_err(|cause| failed(cause.into()))
    }

    async fn apply_rules(&self, record: &store::Vm, machine: &ProcessId, nat: Nat) -> Result<()> {
        let card = Card::in_namespace(Mac::of(record.id));
        let (machine, failed) = (machine.clone(), failed(record));
        let rules = blocking(move || apply(&machine, &card, nat).map_err(failed));
        self.points().around("rules", rules).await
    }

    async fn accompany(&self, record: &store::Vm, saga: &mut Saga<'_>, machine: &ProcessId) -> Result<()> {
        let (machine, directory) = (machine.clone(), self.paths().vm(record.id));
        let failed = failed(record);
        let not_made = failed.clone();
        let made = blocking(move || Waiting::new(&machine, &directory).map_err(not_made));
        let waiting = made.await?;
        let step = saga.open(Undo::Companion(process_entry(waiting.id())))?;
        let release = async { waiting.release().await.map_err(failed) };
        self.points().around("companion", release).await?;
        saga.taken(step)
    }

    /// Sets NAT of the VM of `record`, whose turn is held, to `wanted`.
    pub(crate) async fn set_nat(
        &self,
        operation: &Operation,
        record: &store::Vm,
        wanted: Nat,
        loopback: HostLoopback,
    ) -> Result<()> {
        let before = record.network;
        let live = self.live(record.id);
        let running = if live.is_some() { Running::Yes } else { Running::No };
        let what = flip(before, wanted, running);
        if what == Flip::NeedsStop {
            return Err(Error::Running { name: record.name.clone(), what: "NAT of QEMU's built-in network" });
        }
        let network = Network { nat: wanted, loopback, ..before };
        // What would be refused at the next start is refused now.
        self.0.vmms.connects(&record.vmm, self.link_for(network).await?)?;
        if network != before {
            self.store().vm_nat(record.id, wanted, loopback)?;
        }
        match (what, live) {
            (Flip::AtNextStart, Some(_)) => {
                let message = format!(
                    "VM {} was started without a network card: it gets one at its next start",
                    record.name
                );
                operation.emit(wire::control::Event::Warning { message });
                Ok(())
            }
            // Also where it should be so: something of an earlier change may be left.
            (Flip::Live | Flip::Already, Some(live)) if is_changed_live(before.link) => {
                operation.stage("changing the network");
                let changed = store::Vm { network, ..record.clone() };
                let Err(error) = self.settle_network(operation, &changed, &live).await else {
                    self.guard(record.id, live);
                    return Ok(());
                };
                // As it was.
                let mut left = Vec::new();
                left.extend(
                    self.store().vm_nat(record.id, before.nat, before.loopback).err().map(|e| chain(&e)),
                );
                left.extend(self.settle_network(operation, record, &live).await.err().map(|e| chain(&e)));
                self.guard(record.id, live);
                Err(if left.is_empty() { error } else { Error::Residue { cause: Box::new(error), left } })
            }
            (Flip::Already | Flip::AtNextStart | Flip::Live | Flip::NeedsStop, _) => Ok(()),
        }
    }

    /// Makes rules and companion of a running VM be what its record says, its turn being held.
    async fn settle_network(&self, operation: &Operation, record: &store::Vm, live: &Live) -> Result<()> {
        if record.network.link == Some(Link::Bridge) {
            self.settle_on_bridge(operation, record).await?;
            live.set_trouble(None);
            return Ok(());
        }
        let machine = live.machine.id();
        self.apply_rules(record, machine, record.network.nat).await?;
        let (alive, dead): (Vec<_>, Vec<_>) = self.companions(record.id)?.into_iter().partition(|entry| {
            entry.taken && companion(entry).is_some_and(|id| matches!(id.open(), Ok(Some(_))))
        });
        let stays = record.network.nat.is_on() && !alive.is_empty();
        let gone = if stays { dead } else { [dead, alive].concat() };
        let left = unwind(&self.0.world, gone).await;
        if !left.is_empty() {
            return Err(Error::Left { action: "release", name: record.name.clone(), left });
        }
        if record.network.nat.is_on() && !stays {
            let mut saga = Saga::new(&self.0.world, record.id, operation.id());
            if let Err(error) = self.accompany(record, &mut saga, machine).await {
                return Err(saga.unwind(error).await);
            }
        }
        live.set_trouble(None);
        Ok(())
    }

    /// The companions of VM `id` that the ledger knows.
    fn companions(&self, id: VmId) -> Result<Vec<Entry>> {
        let entries = self.store().ledger_list(Some(id))?;
        Ok(entries.into_iter().filter(|entry| companion(entry).is_some()).collect())
    }

    /// Makes the network of a VM that was found again be what its record says. The VM runs on where that fails: it is told, and
    /// tried again.
    pub(crate) async fn find_network(&self, record: &store::Vm, live: &Arc<Live>) {
        if !is_changed_live(record.network.link) {
            return;
        }
        if let Err(error) = self.reconnect(record, live).await {
            let (engine, id, live) = (self.clone(), record.id, live.clone());
            tracing::error!(vm = %record.name, error = chain(&error), "a VM's network could not be made right");
            tokio::spawn(async move { engine.mend(id, live, AGAIN).await });
            return;
        }
        self.guard(record.id, live.clone());
    }

    /// One try, as an operation that everybody sees.
    async fn reconnect(&self, record: &store::Vm, live: &Live) -> Result<()> {
        let operation = self.operations().begin(Kind::VmReconnect, record.name.as_str());
        let settled = self.settle_network(&operation, record, live).await;
        if let Err(error) = &settled {
            live.set_trouble(Some(chain(error)));
        }
        let result = settled.map(|()| Outcome::None);
        operation.finish(&result);
        result.map(drop)
    }

    /// Watches the companion of a VM that runs, if it has one, and replaces it when it dies.
    pub(crate) fn guard(&self, id: VmId, live: Arc<Live>) {
        let engine = self.clone();
        let watched = self.companions(id).unwrap_or_default().iter().find_map(companion);
        let Some(watched) = watched else { return };
        tokio::spawn(async move {
            let began = Instant::now();
            tokio::select! {
                () = ended(&watched) => {}
                _ = live.ended() => return,
            }
            let pause = if began.elapsed() > AGAIN { Duration::ZERO } else { AGAIN };
            let cell = engine.cell(id);
            let turn = cell.turns.take().await;
            // A flip, stop or delete ended it, and took it out of the ledger.
            let is_ours = engine
                .companions(id)
                .unwrap_or_default()
                .iter()
                .any(|entry| companion(entry).as_ref() == Some(&watched));
            drop(turn);
            if is_ours && live.is_in(&cell) {
                tracing::warn!(vm = %id, "the companion of a VM's network died");
                live.set_trouble(Some("pasta, which connects it, ended".to_owned()));
                engine.mend(id, live, pause).await;
            }
        });
    }

    /// Connects a running VM again, until it is connected, ends, or is not to be any more.
    async fn mend(&self, id: VmId, live: Arc<Live>, mut pause: Duration) {
        let cell = self.cell(id);
        loop {
            tokio::select! {
                () = sleep(pause) => {}
                _ = live.ended() => return,
            }
            pause = (2 * pause).clamp(AGAIN, AT_MOST);
            let turn = cell.turns.take().await;
            let record = match self.reread(id) {
                Ok(record) if record.state == State::Running && live.is_in(&cell) => record,
                _ => return,
            };
            let tried = self.reconnect(&record, &live).await;
            drop(turn);
            match tried {
                Ok(()) => return self.guard(id, live),
                Err(error) => {
                    tracing::error!(vm = %record.name, error = chain(&error), "a VM's network could not be mended");
                }
            }
        }
    }

    /// Keeps what is closed to guests what this host is: its addresses come and go.
    pub(crate) fn watch_addresses(&self) -> Result<()> {
        let watch = AddressWatch::new()?;
        #[expect(deprecated, reason = "the other one is unsafe; a watch keeps its one descriptor for life")]
        let watch = AsyncFd::with_interest(watch, Interest::READABLE)
            .map_err(|e| host::Error::new("watch", "the addresses of this host", e))?;
        let engine = Arc::downgrade(&self.0);
        tokio::spawn(async move {
            let mut known = host::net::own_addresses().unwrap_or_default();
            while let Ok(mut ready) = watch.readable().await {
                watch.get_ref().clear();
                ready.clear_ready();
                let Some(engine) = engine.upgrade().map(Engine) else { return };
                match host::net::own_addresses() {
                    Ok(now) if now != known => known = now,
                    _ => continue,
                }
                for (id, live) in engine.all_live() {
                    tokio::spawn(engine.clone().close_addresses(id, live));
                }
            }
        });
        Ok(())
    }

    async fn close_addresses(self, id: VmId, live: Arc<Live>) {
        let cell = self.cell(id);
        let _turn = cell.turns.take().await;
        let Ok(record) = self.reread(id) else { return };
        if record.network.link != Some(Link::Namespace) || !live.is_in(&cell) {
            return;
        }
        if let Err(error) = self.apply_rules(&record, live.machine.id(), record.network.nat).await {
            tracing::error!(vm = %record.name, error = chain(&error), "a VM's rules do not know the host's new addresses");
            live.set_trouble(Some(format!(
                "its rules do not know the host's new addresses: {}",
                chain(&error)
            )));
        }
    }
}

/// Whether a network of that kind is changed while its VM runs.
fn is_changed_live(link: Option<Link>) -> bool {
    match link {
        Some(Link::Namespace | Link::Bridge) => true,
        Some(Link::BuiltIn) | None => false,
    }
}

/// The VM of `record` as the helper's rules are to see it, where it has a place on the bridge.
fn guest(record: &store::Vm) -> Option<Guest> {
    let Network { nat, number, group, .. } = record.network;
    Some(Guest { vm: record.id, host_number: number?, group, nat: nat.is_on() })
}

fn failed(record: &store::Vm) -> impl Fn(NetworkError) -> Error + Clone + Send + use<> {
    let name = record.name.clone();
    move |cause| Error::Network { name: name.clone(), cause }
}

/// The companion that `entry` is about.
fn companion(entry: &Entry) -> Option<ProcessId> {
    match &entry.undo {
        Undo::Companion(process) => Some(process_id(process)),
        Undo::RunDirectory
        | Undo::Disk(_)
        | Undo::Process(_)
        | Undo::Rules
        | Undo::Tap
        | Undo::OldOverlay
        | Undo::VmDirectory
        | Undo::Record
        | Undo::Staging(_)
        | Undo::Held => None,
    }
}

/// Waits for the end of process `id`, and lets it go.
async fn ended(id: &ProcessId) {
    let Ok(Some(process)) = id.open() else { return };
    let _ = wait(&process).await;
    let _ = process.reap();
}

async fn wait(process: &Process) -> std::io::Result<()> {
    let watched = process.try_clone().map_err(std::io::Error::other)?;
    #[expect(deprecated, reason = "the other one is unsafe; a `Process` keeps its one descriptor for life")]
    let watch = AsyncFd::with_interest(watched, Interest::READABLE)?;
    watch.readable().await.map(drop)
}
