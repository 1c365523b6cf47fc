//! Steps that undo themselves.
//!
//! Each step's undo is written to the ledger before its effect. Failure, cancel, timeout, stop, delete and recovery after a
//! crash all run [`unwind`], which undoes every entry that is written, taken or not, the last first, goes on past what
//! fails, and tells all of it.

use std::time::Duration;

use host::links::Links;
use model::{
    OperationId, VmId,
    undo::{NewDisk, ProcessEntry, Undo},
};
use store::{Entry, Store};
use wire::helper::Ask;

use crate::{Error, Result, blocking, bridge::Helper, chain, fault::Points, paths::Paths};

/// How long a killed process may take to go. The kernel ends it as soon as it is out of a system call.
const KILL: Duration = Duration::from_secs(20);

/// What steps and their undoing act on.
#[derive(Debug, Clone)]
pub struct World {
    /// Where everything lies.
    pub paths: Paths,
    /// Where everything is written down.
    pub store: Store,
    /// Whom to ask for what only root can do.
    pub helper: Helper,
    /// Where tests make things go wrong.
    pub points: Points,
}

/// The steps of one operation on one VM.
#[derive(Debug)]
pub struct Saga<'a> {
    world: &'a World,
    vm: VmId,
    operation: &'a OperationId,
    entries: Vec<Entry>,
}

/// A step whose undo is written and whose effect has not happened yet.
#[derive(Debug)]
#[must_use = "the step is to be taken, or the saga unwound"]
pub struct Step(i64);

impl<'a> Saga<'a> {
    /// No steps yet.
    #[must_use]
    pub fn new(world: &'a World, vm: VmId, operation: &'a OperationId) -> Self {
        Self { world, vm, operation, entries: Vec::new() }
    }

    /// Goes on with an entry that was written together with a record.
    pub fn adopt(&mut self, id: i64, undo: Undo) -> Step {
        self.entries.push(Entry { id, vm: Some(self.vm), undo, taken: false });
        Step(id)
    }

    /// Writes `undo` down; its effect may happen from now on.
    ///
    /// # Errors
    /// Where it cannot be written down.
    pub fn open(&mut self, undo: Undo) -> Result<Step> {
        let id = self.world.store.ledger_open(Some(self.vm), self.operation, &undo)?;
        Ok(self.adopt(id, undo))
    }

    /// Marks that the effect happened.
    ///
    /// # Errors
    /// Where that cannot be written down.
    pub fn taken(&mut self, step: Step) -> Result<()> {
        Ok(self.world.store.ledger_taken(step.0)?)
    }

    /// Writes `undo` down, lets `effect` happen on a thread that may block, and marks it.
    ///
    /// # Errors
    /// That of the effect, or where the ledger cannot be written.
    pub async fn step<T: Send + 'static>(
        &mut self,
        undo: Undo,
        effect: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let name = undo.kind();
        let step = self.open(undo)?;
        let value = self.world.points.around(name, blocking(effect)).await?;
        self.taken(step)?;
        Ok(value)
    }

    /// Ends the steps badly: undoes all of them. What could not be undone is added to `cause`.
    pub async fn unwind(self, cause: Error) -> Error {
        residue(cause, unwind(self.world, self.entries).await)
    }

    /// Ends the steps badly after the guest ran: releases the host's resources and keeps the VM with its disks and logs.
    pub async fn release(self, cause: Error) -> Error {
        let (host, kept): (Vec<_>, Vec<_>) =
            self.entries.into_iter().partition(|entry| is_runtime(&entry.undo));
        let mut left = unwind(self.world, host).await;
        left.extend(keep_disks(self.world, &kept));
        residue(cause, left)
    }
}

/// Forgets how to remove disks: from now on they are the VM's, but for one that is half made. Its directory stays as well, if
/// it was made. Gives what could not be done.
pub fn keep_disks(world: &World, entries: &[Entry]) -> Vec<String> {
    let keep = |entry: &Entry| -> Result<()> {
        let Some(vm) = entry.vm else { return Ok(()) };
        match &entry.undo {
            Undo::Disk(disk) => {
                host::fs::remove(&world.paths.unfinished_disk(vm, *disk))?;
                world.store.ledger_close(entry.id)?;
            }
            Undo::VmDirectory if !host::fs::exists(&world.paths.vm(vm)) => {
                world.store.ledger_close(entry.id)?;
            }
            Undo::VmDirectory if !entry.taken => world.store.ledger_taken(entry.id)?,
            Undo::VmDirectory => {}
            Undo::RunDirectory
            | Undo::OldOverlay
            | Undo::Process(_)
            | Undo::Companion(_)
            | Undo::Rules
            | Undo::Tap
            | Undo::Record
            | Undo::Staging(_)
            | Undo::Held => {}
        }
        Ok(())
    };
    entries.iter().filter_map(|entry| keep(entry).err()).map(|error| chain(&error)).collect()
}

/// Adds to `cause` what could not be undone.
pub fn residue(cause: Error, left: Vec<String>) -> Error {
    if left.is_empty() { cause } else { Error::Residue { cause: Box::new(cause), left } }
}

/// Adds to `cause` that its consequence could not be written down.
pub fn and_then(cause: Error, written: store::Result<()>) -> Error {
    residue(cause, written.err().iter().map(|error| chain(error)).collect())
}

/// Whether an entry is to go before the VM starts the next time.
#[must_use]
pub fn is_runtime(undo: &Undo) -> bool {
    match undo {
        Undo::RunDirectory
        | Undo::OldOverlay
        | Undo::Process(_)
        | Undo::Companion(_)
        | Undo::Rules
        | Undo::Tap
        | Undo::Held => true,
        Undo::Disk(_) | Undo::VmDirectory | Undo::Record | Undo::Staging(_) => false,
    }
}

/// Undoes `entries`, the last first, and forgets each that is undone; gives what could not be, in words.
pub async fn unwind(world: &World, entries: Vec<Entry>) -> Vec<String> {
    let mut left = Vec::new();
    for entry in entries.into_iter().rev() {
        let (paths, helper, id) = (world.paths.clone(), world.helper.clone(), entry.id);
        if let (Undo::Record, Some(vm)) = (&entry.undo, entry.vm) {
            // With its row goes the entry.
            left.extend(world.store.vm_delete(vm).err().map(|error| chain(&error)));
            continue;
        }
        let effect = blocking(move || undo(&paths, &helper, entry.vm, &entry.undo));
        let undone = world.points.around("undo", effect).await;
        if let Err(error) = undone.and_then(|()| Ok(world.store.ledger_close(id)?)) {
            left.push(chain(&error));
        }
    }
    left
}

/// Undoes the staging directory of entry `id` if `result` is bad, and adds to that what could not be undone. A publication
/// closed the entry.
///
/// # Errors
/// That of `result`.
pub async fn undo_staging<T>(world: &World, id: i64, result: Result<T>) -> Result<T> {
    let Err(cause) = result else { return result };
    let left = match world.store.ledger_list(None) {
        Ok(entries) => unwind(world, entries.into_iter().filter(|entry| entry.id == id).collect()).await,
        Err(error) => vec![chain(&error)],
    };
    Err(residue(cause, left))
}

/// Makes true what `undo` says. Right also where its effect never happened, half happened, or was undone before.
fn undo(paths: &Paths, helper: &Helper, vm: Option<VmId>, undo: &Undo) -> Result<()> {
    let of_vm = |path: fn(&Paths, VmId) -> std::path::PathBuf| vm.map(|id| path(paths, id));
    match undo {
        Undo::RunDirectory => of_vm(Paths::run).map_or(Ok(()), |path| host::fs::remove_all(&path))?,
        Undo::VmDirectory => of_vm(Paths::vm).map_or(Ok(()), |path| host::fs::remove_all(&path))?,
        Undo::OldOverlay => {
            let Some(id) = vm else { return Ok(()) };
            host::fs::remove(&paths.disk(id, NewDisk::Overlay))?;
        }
        Undo::Disk(disk) => {
            let Some(id) = vm else { return Ok(()) };
            host::fs::remove(&paths.unfinished_disk(id, *disk))?;
            host::fs::remove(&paths.disk(id, *disk))?;
        }
        // It is no effect outside of the database, where it is undone together with its entry.
        Undo::Record => {}
        // Whoever has its machine lets it go on (`Engine::go_on`). Here it has none, or is about to lose it.
        Undo::Held => {}
        Undo::Staging(name) => host::fs::remove_all(&paths.staging().join(name))?,
        Undo::Process(entry) | Undo::Companion(entry) => end_process(entry)?,
        Undo::Rules => vm.map_or(Ok(()), |id| give_back(helper, id, Ask::RemoveRules(id)))?,
        Undo::Tap => vm.map_or(Ok(()), |id| give_back(helper, id, Ask::RemoveTap(id)))?,
    }
    Ok(())
}

/// Has the helper take back by `ask` what VM `id` had on the bridge.
fn give_back(helper: &Helper, id: VmId, ask: Ask) -> Result<()> {
    match helper.done(helper.own(), ask) {
        // With the helper went what it had made, and a reboot of the host ends all of it.
        Err(error) if error.is_absent() && !has_tap(id)? => Ok(()),
        result => Ok(result?),
    }
}

fn has_tap(id: VmId) -> Result<bool> {
    Ok(Links::open()?.find(&model::network::tap(id))?.is_some())
}

fn end_process(entry: &ProcessEntry) -> Result<()> {
    let Some(process) = process_id(entry).open()? else { return Ok(()) };
    process.signal(host::proc::Signal::Kill)?;
    if process.wait_exit(KILL)? {
        // Only our own child leaves a zombie; another's parent sees to it.
        let _ = process.reap();
        return Ok(());
    }
    let still = std::io::Error::from(std::io::ErrorKind::TimedOut);
    Err(host::Error::new("end", format_args!("process {}", entry.pid), still).into())
}

/// The process of a ledger entry as the host knows it.
#[must_use]
pub fn process_id(entry: &ProcessEntry) -> host::proc::ProcessId {
    host::proc::ProcessId { pid: entry.pid, start: entry.start, boot: entry.boot.clone() }
}

/// The ledger entry of a process.
#[must_use]
pub fn process_entry(id: &host::proc::ProcessId) -> ProcessEntry {
    ProcessEntry { pid: id.pid, start: id.start, boot: id.boot.clone() }
}
