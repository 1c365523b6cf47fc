//! What a crash left open is made right at the daemon's start: ledger and records are compared with the world.
//!
//! | record | world | becomes |
//! | --- | --- | --- |
//! | its creation never ended | anything | gone |
//! | `rm` | anything | gone: its owner's stream ended with the daemon |
//! | `deleting` | anything | gone |
//! | `running` | its VMM lives | `running`, adopted |
//! | `running`, held for its snapshot | its VMM lives | the same, and it goes on |
//! | `running` | its VMM is gone | `stopped`, with the reason |
//! | `starting`, `stopping` | anything | `stopped`, everything released |
//! | none | a directory, a ledger entry | gone |

use std::{collections::HashSet, path::Path};

use model::{VmId, undo::Undo, vm::State};
use store::Entry;
use vmm::Place;
use wire::session::Secret;

use crate::{
    Engine, Error, Result, blocking, chain,
    guest::Guest,
    paths,
    saga::{is_runtime, keep_disks, process_id, unwind},
    vm::Live,
};

impl Engine {
    /// Makes true again what the last daemon left open. What cannot be is told in the log and tried at the next start.
    pub(crate) async fn reconcile(&self) -> Result<()> {
        let entries = self.store().ledger_list(None)?;
        let records = self.store().vm_list()?;
        for record in &records {
            let own: Vec<Entry> =
                entries.iter().filter(|entry| entry.vm == Some(record.id)).cloned().collect();
            if let Err(error) = self.reconcile_vm(record, own).await {
                tracing::error!(vm = %record.name, error = chain(&error), "a VM could not be made right");
            }
        }
        let known: HashSet<VmId> = records.iter().map(|record| record.id).collect();
        let strays =
            entries.into_iter().filter(|entry| entry.vm.is_none_or(|id| !known.contains(&id))).collect();
        for left in unwind(&self.0.world, strays).await {
            tracing::error!(left, "something of the last daemon's could not be removed");
        }
        Ok(())
    }

    async fn reconcile_vm(&self, record: &store::Vm, entries: Vec<Entry>) -> Result<()> {
        // Its creation is through when that is not to be undone any more.
        let unborn = entries.iter().any(|entry| entry.undo == Undo::Record);
        if unborn || record.rm || record.state == State::Deleting {
            tracing::info!(vm = %record.name, "removing a VM that was not to stay");
            return self.remove(record.id).await;
        }
        match record.state {
            State::Running => self.find_again(record, entries).await,
            State::Starting | State::Stopping => {
                self.settle_as_stopped(record, entries, "the daemon ended while it was starting or stopping")
                    .await
            }
            State::Created | State::Stopped | State::Error => self.settle_leftovers(record).await,
            State::Deleting => Ok(()),
        }
    }

    /// Adopts the machine of a VM that ran, or settles that it is gone.
    async fn find_again(&self, record: &store::Vm, entries: Vec<Entry>) -> Result<()> {
        let process = entries.iter().rev().find_map(|entry| match &entry.undo {
            Undo::Process(process) => Some(process_id(process)),
            Undo::RunDirectory
            | Undo::Disk(_)
            | Undo::OldOverlay
            | Undo::Companion(_)
            | Undo::Rules
            | Undo::Tap
            | Undo::VmDirectory
            | Undo::Record
            | Undo::Staging(_)
            | Undo::Held => None,
        });
        let (Some(process), Some(secret)) = (process, record.secret.as_deref().and_then(Secret::from_hex))
        else {
            return self.settle_as_stopped(record, entries, "its process is not known").await;
        };
        let rebooted = process.boot != host::proc::boot_id()?;
        let place = Place { run_dir: self.paths().run(record.id), log_dir: self.paths().vm(record.id) };
        let adopted = self.0.vmms.adopt(&record.vmm, process, place, secret).await;
        match adopted.map_err(|cause| Error::Adopt { name: record.name.clone(), cause }) {
            Ok(Some(machine)) => {
                tracing::info!(vm = %record.name, pid = machine.id().pid, "found a running VM again");
                let guest = Guest::new(machine.clone(), self.0.guest_patience);
                let live = Live::new(machine, guest, self.0.clock.clone());
                self.go_live(record.id, live.clone());
                if entries.iter().any(|entry| entry.undo == Undo::Held) {
                    // A snapshot was being taken of it. One that stays held does so alone.
                    let gone_on = self.go_on(record.id, &live).await;
                    gone_on.unwrap_or_else(|error| tracing::error!(error = chain(&error), "a VM is held"));
                }
                self.find_network(record, &live).await;
                // A guest that is stuck must not hold up the daemon.
                tokio::spawn(async move {
                    if let Ok(health) = live.guest.health().await {
                        live.boot_id.get_or_init(|| health.boot_id);
                    }
                });
                Ok(())
            }
            Ok(None) if rebooted => self.settle_as_stopped(record, entries, "the host was restarted").await,
            Ok(None) => self.settle_as_stopped(record, entries, "it ended while no daemon was running").await,
            Err(error) => {
                let reason = chain(&error);
                self.settle(record, entries, State::Error, &reason).await
            }
        }
    }

    async fn settle_as_stopped(&self, record: &store::Vm, entries: Vec<Entry>, reason: &str) -> Result<()> {
        self.settle(record, entries, State::Stopped, reason).await
    }

    async fn settle(
        &self,
        record: &store::Vm,
        entries: Vec<Entry>,
        state: State,
        reason: &str,
    ) -> Result<()> {
        let left = self.release_entries(entries).await;
        self.store().vm_state(record.id, state, Some(reason.to_owned()))?;
        if left.is_empty() { Ok(()) } else { Err(left_of(record, left)) }
    }

    /// Releases what a VM that is there holds only while it runs. Disks that a start made before it was cut off are whole,
    /// and may have been written to, so they stay.
    pub(crate) async fn release_entries(&self, entries: Vec<Entry>) -> Vec<String> {
        let (runtime, kept): (Vec<_>, Vec<_>) =
            entries.into_iter().partition(|entry| is_runtime(&entry.undo));
        let mut left = unwind(&self.0.world, runtime).await;
        left.extend(keep_disks(&self.0.world, &kept));
        left
    }

    /// Removes directories that belong to nothing in the database, for a power loss may have rolled their rows back, and what
    /// was never finished beside what can be made again.
    pub(crate) async fn sweep(&self) -> Result<()> {
        let store = self.store();
        let vms: HashSet<String> = store.vm_list()?.iter().map(|vm| vm.id.to_string()).collect();
        let images: HashSet<String> = store.image_list()?.into_iter().map(|image| image.id).collect();
        let kernels: HashSet<String> = store.kernel_list()?.into_iter().map(|kernel| kernel.id).collect();
        let snapshots: HashSet<String> =
            store.snapshot_list()?.into_iter().map(|snapshot| snapshot.id).collect();
        let places = [
            (self.paths().vms(), vms),
            (self.paths().images(), images),
            (self.paths().kernels(), kernels),
            (self.paths().snapshots(), snapshots),
            (self.paths().staging(), HashSet::new()),
        ];
        let unfinished = [self.paths().templates(), self.paths().payloads(), self.paths().catalogs()];
        blocking(move || {
            for (place, known) in places {
                remove_from(&place, |name| !known.contains(name));
            }
            for place in unfinished {
                remove_from(&place, |name| name.starts_with('.') || name.ends_with(".new"));
            }
            Ok(())
        })
        .await
    }
}

/// Removes what is a stray in `place`. One that cannot be removed is no reason not to serve.
fn remove_from(place: &Path, is_stray: impl Fn(&str) -> bool) {
    let found = host::fs::list(place).unwrap_or_else(|error| {
        tracing::error!(error = chain(&error), "cannot look for what belongs to nothing");
        Vec::new()
    });
    for path in found.iter().filter(|path| is_stray(&paths::name_of(path))) {
        tracing::warn!(path = %path.display(), "removing what belongs to nothing");
        if let Err(error) = host::fs::remove_all(path) {
            tracing::error!(error = chain(&error), "cannot remove what belongs to nothing");
        }
    }
}

fn left_of(record: &store::Vm, left: Vec<String>) -> Error {
    Error::Left { action: "release", name: record.name.clone(), left }
}
