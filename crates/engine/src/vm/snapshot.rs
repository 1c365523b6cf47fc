//! Taking a snapshot: the guest serves nothing, its machine is held, memory and disks are copied, and it goes on, whatever came of it.
//!
//! ```text
//! running ─ hold ─ pause ─ save memory ─ copy disks ─ resume ─ release ─▶ running
//!            └──────── `Held` is in the ledger ────────────┘         └─▶ staged files ─ sync ─ rename and row ─▶ a snapshot
//! ```
//! Held, the guest knows that it may wake up as another one: it serves nothing until it is told that it is still itself, or who it
//! is ([`super::boot`]).

use std::{ops::ControlFlow, path::PathBuf};

use model::{
    SnapshotName, VmId,
    undo::{NewDisk, Undo},
};
use vmm::{ControlError, MachineStatus, Saved, Snapshots};
use wire::{
    control::{Outcome, TakeSnapshot},
    guest,
};

use super::Live;
use crate::{
    Engine, Error, Operation, Result, blocking, chain,
    saga::{self, residue},
    snapshots::files_text,
};

/// What a VMM writes at most beside the guest's memory: its devices.
const DEVICES: u64 = 256 << 20;

impl Engine {
    /// Takes a snapshot of the running VM that `text` refers to, which goes on afterwards.
    ///
    /// # Errors
    /// Where the name is taken or wrong, the VM does not run or has what may be secret and that was not asked for, or it could not
    /// be saved: nothing is left of it then, and the VM goes on.
    pub async fn vm_snapshot(
        self,
        operation: Operation,
        text: String,
        request: TakeSnapshot,
    ) -> Result<Outcome> {
        let name = SnapshotName::try_from(&*request.name)
            .map_err(|why| Error::invalid("snapshot name", &request.name, why))?;
        let id = self.resolve(&text)?;
        let cell = self.cell(id);
        let turn = operation.cancellable(async { Ok(cell.turns.take().await) }).await?;
        turn.interruptible_by_kill(operation.token().clone());
        let record = self.reread(id)?;
        let (_, live) = self.enter_known(id)?;
        if self.store().snapshot_named(name.as_str())?.is_some() {
            return Err(store::Error::Taken(name.to_string()).into());
        }
        if record.has_secrets && !request.with_secrets {
            return Err(Error::Secrets { vm: record.name, snapshot: name });
        }
        let (Some(build), Some(secret)) = (record.build.clone(), record.secret.clone()) else {
            return Err(Error::UnknownBuild(record.name));
        };

        let directory = uuid::Uuid::new_v4().simple().to_string();
        let entry = self.store().ledger_open(None, operation.id(), &Undo::Staging(directory.clone()))?;
        let staged = self.stage_snapshot(&operation, &record, &live, &directory).await;
        // What is left to be done needs no turn, and no VM.
        drop(turn);
        let taken = async {
            let (saved, size) = staged?;
            let snapshot = store::Snapshot {
                id: directory,
                name,
                vm: record.name.to_string(),
                image: record.image,
                kernel: record.kernel,
                vmm: record.vmm,
                build,
                agent: guest::VERSION,
                vcpu: record.sizes.vcpu.0,
                memory: record.sizes.memory.0,
                disk: record.sizes.disk.0,
                overlay: record.sizes.overlay.0,
                link: record.network.link,
                nat: record.network.nat,
                env: record.env,
                secret,
                has_secrets: record.has_secrets,
                files: files_text(&saved.files),
                size,
                created_ms: host::clock::now_ms(),
            };
            let from = self.paths().staging().join(&snapshot.id);
            let to = self.paths().snapshot(&snapshot.id);
            let insert = |store: &store::Store| store.snapshot_insert(snapshot.clone(), entry);
            self.put_directory_in_place(from, to, insert).await?;
            Ok(snapshot)
        };
        let snapshot = saga::undo_staging(&self.0.world, entry, taken.await).await?;
        Ok(Outcome::Snapshot(Box::new(self.snapshot_view(snapshot)?)))
    }

    /// Saves the machine of `record` into the staging directory `name`, with copies of its disks; gives what the VMM wrote and how
    /// much it is on disk.
    async fn stage_snapshot(
        &self,
        operation: &Operation,
        record: &store::Vm,
        live: &Live,
        name: &str,
    ) -> Result<(Saved, u64)> {
        let directory = self.paths().staging().join(name);
        let make = directory.clone();
        self.points().around("stage", blocking(move || Ok(host::fs::create_dir(&make)?))).await?;
        operation.stage("saving");
        let _forgotten_when_it_goes_on =
            self.store().ledger_open(Some(record.id), operation.id(), &Undo::Held)?;
        let copied = self.copy_held(operation, record, live, directory.clone()).await;
        let gone_on = self.go_on(record.id, live).await;
        let saved = match (copied, gone_on) {
            (copied, Ok(())) => copied?,
            (Ok(_), Err(error)) => return Err(error),
            (Err(cause), Err(error)) => return Err(residue(cause, vec![chain(&error)])),
        };
        operation.checkpoint()?;
        operation.stage("writing");
        let sync = blocking(move || {
            let mut size = 0;
            for path in host::fs::list(&directory)? {
                let file = host::fs::open_rw(&path)?;
                file.sync_all().map_err(|e| host::Error::path("sync", &path, e))?;
                size += host::fs::disk_usage(&path)?;
            }
            host::fs::sync_dir(&directory)?;
            Ok(size)
        });
        let size = self.points().around("sync", sync).await?;
        Ok((saved, size))
    }

    /// Holds the machine of `record`, and copies memory and disks into `directory`. It is held afterwards.
    async fn copy_held(
        &self,
        operation: &Operation,
        record: &store::Vm,
        live: &Live,
        directory: PathBuf,
    ) -> Result<Saved> {
        let control = |cause| Error::Control { name: record.name.clone(), cause };
        let machine = snapshots(record, live)?;
        let points = self.points();
        let held = operation.cancellable(async {
            live.guest.hold().await.map_err(|cause| Error::Guest {
                name: record.name.clone(),
                action: "hold still for its snapshot",
                cause: Box::new(cause),
            })
        });
        points.around("hold", held).await?;
        let paused = operation.cancellable(async { machine.pause().await.map_err(control) });
        points.around("pause", paused).await?;
        let limit = record.sizes.memory.0.saturating_add(DEVICES);
        let save = operation.cancellable(async {
            let saved = machine.save(directory.clone(), limit).await;
            saved.map_err(|cause| Error::Save { name: record.name.clone(), cause })
        });
        let saved = points.around("save", save).await?;
        let (own, id, asked) = (self.paths().clone(), record.id, operation.clone());
        // Not dropped half-way: the guest goes on when nobody reads its disks any more.
        let copy = blocking(move || {
            for disk in NewDisk::ALL {
                let mut watch = |_| match asked.checkpoint() {
                    Ok(()) => ControlFlow::Continue(()),
                    Err(_) => ControlFlow::Break(()),
                };
                let copied =
                    host::fs::clone_watched(&own.disk(id, disk), &directory.join(disk.file()), &mut watch);
                asked.checkpoint()?;
                copied?;
            }
            Ok(())
        });
        points.around("copy disks", copy).await?;
        Ok(saved)
    }

    /// Lets VM `id` go on that is held, or half so, and forgets that it was. Fine where it was not, and where its machine ended.
    ///
    /// # Errors
    /// Where it stays held: until the next snapshot of it, or the daemon's next start, which try again; or until it is ended.
    pub(crate) async fn go_on(&self, id: VmId, live: &Live) -> Result<()> {
        let name = || self.reread(id).map(|record| record.name);
        let resume = async {
            let Some(machine) = live.machine.snapshots() else { return Ok(()) };
            match machine.resume().await {
                Ok(()) => {}
                Err(ControlError::Ended) => return Ok(()),
                Err(cause) => return Err(Error::Control { name: name()?, cause }),
            }
            let Err(cause) = live.guest.release(host::clock::now_ms()).await else { return Ok(()) };
            // Its watcher does the rest.
            if let Ok(MachineStatus::Ended) | Err(ControlError::Ended) = live.machine.status().await {
                return Ok(());
            }
            let action = "go on after its snapshot";
            Err(Error::Guest { name: name()?, action, cause: Box::new(cause) })
        };
        let resumed = self.points().around("resume", resume).await;
        let forget = || -> Result<()> {
            for entry in self.store().ledger_list(Some(id))? {
                if entry.undo == Undo::Held {
                    self.store().ledger_close(entry.id)?;
                }
            }
            Ok(())
        };
        match resumed.and_then(|()| forget()) {
            Ok(()) => Ok(()),
            Err(error) => Err(Error::Left { action: "resume", name: name()?, left: vec![chain(&error)] }),
        }
    }
}

fn snapshots<'a>(record: &store::Vm, live: &'a Live) -> Result<&'a dyn Snapshots> {
    let unable = || Error::invalid("VMM", &record.vmm, "this version takes no snapshots with it");
    live.machine.snapshots().ok_or_else(unable)
}
