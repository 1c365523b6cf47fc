//! What happens when a machine ends by itself.

use std::sync::Arc;

use model::{
    VmId,
    end::{Consequence, MachineEnd, Moment, consequence},
    vm::State,
};
use vmm::End;

use super::Live;
use crate::{
    Engine, Error, Kind, Result,
    saga::{is_runtime, unwind},
    turn::Turn,
};

/// How many lines of the console go into the reason of an error.
const LINES: usize = 8;

/// An end in words, with the VMM's own where it died.
pub fn words(end: &End) -> String {
    let mut text = end.what.to_string();
    if let Some(exit) = end.exit.filter(|_| end.what == MachineEnd::VmmDied) {
        text = format!("{text} with {exit}");
    }
    match end.vmm_lines.last() {
        Some(line) => format!("{text}: {line}"),
        None => text,
    }
}

impl Engine {
    /// Watches for the end of a machine and does what follows from it.
    pub(super) fn watch(&self, id: VmId, live: Arc<Live>) {
        let (engine, cell) = (self.clone(), self.cell(id));
        tokio::spawn(async move {
            let end = live.machine.ended().await;
            // Streams into the guest end at once, whoever has the turn.
            let reason = live.asked.get().map_or_else(|| words(&end), |asked| (*asked).to_owned());
            live.ended.send_replace(Some(reason));
            let turn = cell.turns.take().await;
            let ours = cell.live.borrow().as_ref().is_some_and(|now| Arc::ptr_eq(now, &live));
            // A stop, kill or delete that had the turn has done all this.
            if !ours {
                return;
            }
            cell.live.send_replace(None);
            drop(live);
            if let Err(error) = engine.ended_by_itself(id, &end, &turn).await {
                tracing::error!(vm = %id, error = crate::chain(&error), "a VM ended and could not be cleaned up");
            }
            drop(turn);
        });
    }

    /// Releases what a machine held that ended by itself, its turn being held, and starts it again if its guest rebooted.
    async fn ended_by_itself(&self, id: VmId, end: &End, turn: &Turn) -> Result<()> {
        let record = self.reread(id)?;
        let left = self.release_runtime(id).await?;
        let follows = consequence(end.what, Moment::Running);
        tracing::info!(vm = %record.name, what = end.what.name(), "a VM ended by itself");
        let (state, mut reason) = match follows {
            Consequence::Settle(state) => (state, words(end)),
            Consequence::StartAgain => (State::Stopped, words(end)),
        };
        if state == State::Error {
            for line in self.last_words(id, LINES) {
                reason = format!("{reason}\n  {line}");
            }
        }
        for residue in left {
            reason = format!("{reason}; could not undo: {residue}");
        }
        self.store().vm_state(id, state, Some(reason))?;
        if follows == Consequence::StartAgain {
            let operation = self.0.operations.begin(Kind::VmReboot, record.name.as_str());
            turn.interruptible_by_kill(operation.token().clone());
            let record = self.reread(id)?;
            let result = self.start_again(&operation, &record).await.map(|()| wire::control::Outcome::None);
            operation.finish(&result);
        }
        Ok(())
    }

    /// Undoes what an earlier operation on the VM of `record`, which does not run, could not. Until then it is not started
    /// again: the machine that is left may be writing to its disks.
    pub(crate) async fn settle_leftovers(&self, record: &store::Vm) -> Result<()> {
        let left = self.release_entries(self.store().ledger_list(Some(record.id))?).await;
        if left.is_empty() {
            return Ok(());
        }
        Err(Error::Left { action: "release", name: record.name.clone(), left })
    }

    /// Undoes what VM `id` holds only while it runs; gives what could not be.
    pub(crate) async fn release_runtime(&self, id: VmId) -> Result<Vec<String>> {
        let entries = self.store().ledger_list(Some(id))?;
        Ok(unwind(&self.0.world, entries.into_iter().filter(|entry| is_runtime(&entry.undo)).collect()).await)
    }
}
