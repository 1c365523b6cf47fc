//! Stop, kill and delete. Each runs to its end: what fails is kept and told, none stops the rest.

use std::{sync::Arc, time::Duration};

use model::{
    VmId,
    signal::Signal,
    undo::Undo,
    vm::{Answer, Request, State, answer},
};
use wire::{control::Outcome, guest::Poweroff};

use super::Live;
use crate::{Engine, Error, Operation, Result, chain, saga::unwind};

/// How long a VMM may take to close its disks and go once it was told.
const QUIT: Duration = Duration::from_secs(5);

/// How a VM is ended.
#[derive(Debug, Clone, Copy)]
enum Way {
    /// Its guest is asked first.
    Asked,
    /// The same, because nobody uses it.
    Unused,
    /// By a signal to its VMM.
    Signal(Signal),
}

impl Way {
    fn request(self) -> Request {
        match self {
            Self::Asked | Self::Unused => Request::Stop,
            Self::Signal(_) => Request::Kill,
        }
    }
}

/// Sends the VMM `signal` and gives it a moment to go; gives what is told of it. What is left of it afterwards is killed.
async fn shoot(live: &Live, signal: Signal) -> &'static str {
    let reason = *live.asked.get_or_init(|| "it was killed");
    if let Err(error) = live.machine.signal(signal) {
        tracing::warn!(error = chain(&error), %signal, "the VMM did not get the signal");
    } else if signal != Signal::Kill && tokio::time::timeout(QUIT, live.machine.ended()).await.is_err() {
        tracing::info!(%signal, "the VMM did not end of the signal");
    }
    reason
}

impl Engine {
    /// Stops the VM that `text` refers to, losing nothing that its guest had written.
    ///
    /// # Errors
    /// Where there is no such VM, it is being deleted, or something of it could not be released; it is stopped even so.
    pub async fn vm_stop(self, operation: Operation, text: String) -> Result<Outcome> {
        let id = self.resolve(&text)?;
        let cell = self.cell(id);
        let turn = operation.cancellable(async { Ok(cell.turns.take().await) }).await?;
        self.end(id, Way::Asked, &operation).await?;
        drop(turn);
        Ok(Outcome::Vm(Box::new(self.vm_view(id)?)))
    }

    /// Stops VM `id` where nobody has used it for `limit`, and nobody began to while its turn was waited for.
    ///
    /// # Errors
    /// As [`Engine::vm_stop`].
    pub async fn vm_stop_unused(self, operation: Operation, id: VmId, limit: Duration) -> Result<Outcome> {
        let cell = self.cell(id);
        let turn = operation.cancellable(async { Ok(cell.turns.take().await) }).await?;
        if self.is_unused(id, limit)? {
            self.end(id, Way::Unused, &operation).await?;
        }
        drop(turn);
        Ok(Outcome::None)
    }

    /// Stops the VM if it runs and starts it, in one turn.
    ///
    /// # Errors
    /// As those of stop and start.
    pub async fn vm_restart(self, operation: Operation, text: String) -> Result<Outcome> {
        let id = self.resolve(&text)?;
        let cell = self.cell(id);
        let turn = operation.cancellable(async { Ok(cell.turns.take().await) }).await?;
        self.end(id, Way::Asked, &operation).await?;
        operation.checkpoint()?;
        turn.interruptible_by_kill(operation.token().clone());
        self.start_again(&operation, &self.reread(id)?).await?;
        drop(turn);
        Ok(Outcome::Vm(Box::new(self.vm_view(id)?)))
    }

    /// Ends the VMM of the VM that `text` refers to now by `signal`, or, where it does not end of that, in a while;
    /// interrupts its start.
    ///
    /// # Errors
    /// As those of stop.
    pub async fn vm_kill(self, operation: Operation, text: String, signal: Signal) -> Result<Outcome> {
        let id = self.resolve(&text)?;
        let cell = self.cell(id);
        let turn = operation.cancellable(async { Ok(cell.turns.take_first().await) }).await?;
        self.end(id, Way::Signal(signal), &operation).await?;
        drop(turn);
        Ok(Outcome::Vm(Box::new(self.vm_view(id)?)))
    }

    /// Removes the VM that `text` refers to with everything of it.
    ///
    /// # Errors
    /// Where there is no such VM, or something of it could not be removed: then it stays in `deleting`.
    pub async fn vm_delete(self, operation: Operation, text: String) -> Result<Outcome> {
        let id = self.resolve(&text)?;
        let cell = self.cell(id);
        let turn = operation.cancellable(async { Ok(cell.turns.take_first().await) }).await?;
        self.remove(id).await?;
        drop(turn);
        Ok(Outcome::None)
    }

    /// Removes VM `id`, its turn being held. Never cancelled half-way: what began is finished at the next start at the
    /// latest.
    pub(crate) async fn remove(&self, id: VmId) -> Result<()> {
        let record = self.reread(id)?;
        self.store().vm_state(id, State::Deleting, None)?;
        if let Some(live) = self.cell(id).live.send_replace(None) {
            live.asked.get_or_init(|| "it was deleted");
        }
        // The record goes last, whether its creation was through or not.
        let entries = self.store().ledger_list(Some(id))?;
        let entries = entries.into_iter().filter(|entry| entry.undo != Undo::Record).collect();
        let left = unwind(&self.0.world, entries).await;
        if !left.is_empty() {
            return Err(Error::Left { action: "remove", name: record.name, left });
        }
        // While the name is still taken, so that this is not the pin of the next VM that has it.
        self.unpin_vm(&record.name).await;
        let deleted = self.store().vm_delete(id);
        deleted.map_err(|error| Error::Left {
            action: "remove",
            name: record.name,
            left: vec![chain(&error)],
        })?;
        self.forget(id);
        Ok(())
    }

    /// Ends VM `id`, its turn being held.
    async fn end(&self, id: VmId, way: Way, operation: &Operation) -> Result<()> {
        let record = self.reread(id)?;
        match answer(record.state, way.request()) {
            Answer::Already => return self.settle_leftovers(&record).await,
            Answer::Refused(_) => return Err(Error::BeingDeleted(record.name)),
            Answer::Do(state) => self.store().vm_state(id, state, None)?,
        }
        operation.stage("stopping");
        let live = self.cell(id).live.send_replace(None);
        let reason = match (live, way) {
            (Some(live), Way::Asked) => self.shut_down(live, "it was stopped").await,
            (Some(live), Way::Unused) => self.shut_down(live, "it was stopped because nobody used it").await,
            (Some(live), Way::Signal(signal)) => shoot(&live, signal).await,
            (None, _) => "it did not run",
        };
        let mut left = self.release_runtime(id).await?;
        let noted = self.store().vm_state(id, State::Stopped, Some(reason.to_owned()));
        left.extend(noted.err().map(|error| chain(&error)));
        if left.is_empty() {
            return Ok(());
        }
        Err(Error::Left { action: "release", name: record.name, left })
    }

    /// Asks the guest to end, then its machine, within the bound; gives what is told of it.
    async fn shut_down(&self, live: Arc<Live>, why: &'static str) -> &'static str {
        live.asked.get_or_init(|| why);
        let bound = self.0.config.stop_timeout;
        let began = tokio::time::Instant::now();
        // Init gets most of the time; the agent's own sync and power-off need the rest.
        let init =
            Poweroff { init_timeout_ms: u64::try_from(bound.as_millis() * 6 / 10).unwrap_or(u64::MAX) };
        // An agent that hangs leaves the power button its share.
        let asked = match tokio::time::timeout(bound * 4 / 10, live.guest.poweroff(init)).await {
            Ok(Ok(())) => true,
            Ok(Err(error)) => {
                tracing::warn!(error = chain(&error), "the agent did not take the stop");
                false
            }
            Err(_) => false,
        };
        // What an agent does that was asked is write out what the guest holds, however slow the disk is.
        let deadline = if asked { bound * 3 } else { bound };
        if !asked && let Err(error) = live.machine.powerdown().await {
            tracing::debug!(error = chain(&error), "no power button");
        }
        if tokio::time::timeout_at(began + deadline, live.machine.ended()).await.is_ok() {
            return why;
        }
        if let Err(error) = live.machine.quit(QUIT).await {
            tracing::warn!(error = chain(&error), "the VMM did not quit");
        }
        "its guest did not end in time, so its machine was ended"
    }
}
