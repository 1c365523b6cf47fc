//! VMs: the ones there are, who may change each, and what is live of it.
//!
//! # Locking
//! A [`Cell`] per VM holds its [`Turns`] and what is live of it. The record in the store changes only under the turn.
//! `live` is a watch channel: the holder of the turn sets it, anybody looks.

mod boot;
mod change;
mod create;
mod end;
mod files;
pub mod logs;
mod look;
mod network;
mod snapshot;
mod stop;
mod stream;
mod sync;
mod usage;

use std::sync::{Arc, OnceLock, PoisonError};

pub use files::FilesOut;
use model::{VmId, VmName};
pub use stream::{Ending, GuestStream, Workplace};
pub use sync::SyncError;
use tokio::sync::watch;
pub(crate) use usage::Using;
use vmm::Machine;
use wire::control;

use crate::{Clock, Engine, Error, Result, guest::Guest, turn::Turns};

/// What the daemon keeps of a VM beside its record.
#[derive(Debug, Default)]
pub struct Cell {
    /// Who may change it.
    pub turns: Turns,
    /// Who may change its workspace; never held together with the other.
    pub workspace: Turns,
    /// Its machine, while it runs and its agent answers.
    pub live: watch::Sender<Option<Arc<Live>>>,
}

/// A running VM.
pub struct Live {
    /// The VMM.
    pub machine: Arc<dyn Machine>,
    /// The agent.
    pub guest: Guest,
    /// The guest's boot id, once its agent told it.
    pub boot_id: OnceLock<String>,
    /// Why its end was asked for, if it was.
    pub asked: OnceLock<&'static str>,
    /// Why it ended, as soon as it did.
    pub ended: watch::Sender<Option<String>>,
    /// Who uses it.
    pub usage: usage::Usage,
    /// What its guest uses.
    polled: usage::Polled,
    /// Why its network is not as it is to be. A leaf: held for a look or an assignment.
    trouble: std::sync::Mutex<Option<String>>,
    /// Held by the one who asks the guest for that.
    asking: Arc<tokio::sync::Mutex<()>>,
}

impl std::fmt::Debug for Live {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Live").field("guest", &self.guest).finish_non_exhaustive()
    }
}

impl Live {
    /// A machine that was just started, or found again.
    pub fn new(machine: Arc<dyn Machine>, guest: Guest, clock: Clock) -> Arc<Self> {
        Arc::new(Self {
            machine,
            guest,
            boot_id: OnceLock::new(),
            asked: OnceLock::new(),
            ended: watch::Sender::new(None),
            usage: usage::Usage::new(clock),
            polled: usage::Polled::default(),
            trouble: std::sync::Mutex::default(),
            asking: Arc::default(),
        })
    }

    /// Notes why its network is not as it is to be, or that it is.
    fn set_trouble(&self, why: Option<String>) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = why;
    }

    /// Why its network is not as it is to be, where that is so.
    pub fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether it is what runs in `cell`.
    fn is_in(&self, cell: &Cell) -> bool {
        cell.live.borrow().as_deref().is_some_and(|live| std::ptr::eq(live, self))
    }

    /// Waits for its end and gives the reason.
    pub async fn ended(&self) -> String {
        let mut ended = self.ended.subscribe();
        match ended.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or_default(),
            Err(_) => "it was let go".to_owned(),
        }
    }
}

impl Engine {
    /// The cell of VM `id`, made where there is none.
    pub(crate) fn cell(&self, id: VmId) -> Arc<Cell> {
        self.0.cells.lock().unwrap_or_else(PoisonError::into_inner).entry(id).or_default().clone()
    }

    /// Forgets the cell of a VM that is gone.
    pub(crate) fn forget(&self, id: VmId) {
        self.0.cells.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
    }

    /// The running VM `id`.
    pub(crate) fn live(&self, id: VmId) -> Option<Arc<Live>> {
        self.cell(id).live.borrow().clone()
    }

    /// All running VMs.
    pub(crate) fn all_live(&self) -> Vec<(VmId, Arc<Live>)> {
        let cells: Vec<_> = {
            let cells = self.0.cells.lock().unwrap_or_else(PoisonError::into_inner);
            cells.iter().map(|(id, cell)| (*id, Arc::clone(cell))).collect()
        };
        cells.into_iter().filter_map(|(id, cell)| Some((id, cell.live.borrow().clone()?))).collect()
    }

    /// What is live of the VM that `text` refers to, and its name.
    ///
    /// # Errors
    /// Where there is no such VM, or it does not run.
    pub(crate) fn enter(&self, text: &str) -> Result<(VmName, Arc<Live>)> {
        self.enter_known(self.resolve(text)?)
    }

    /// The same for VM `id`.
    pub(crate) fn enter_known(&self, id: VmId) -> Result<(VmName, Arc<Live>)> {
        let record = self.store().vm_get(id)?;
        match self.live(record.id) {
            Some(live) => Ok((record.name, live)),
            None => Err(Error::NotRunning(record.name)),
        }
    }

    /// The record of VM `id` read again under its turn.
    ///
    /// # Errors
    /// [`Error::NotFound`] where it went while its turn was waited for.
    pub(crate) fn reread(&self, id: VmId) -> Result<store::Vm> {
        self.store().vm_get(id).map_err(|error| match error {
            store::Error::Missing => Error::NotFound { kind: "VM", name: id.to_string(), hint: None },
            error => error.into(),
        })
    }

    /// All VMs in order of creation.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub fn vm_list(&self) -> Result<control::Vms> {
        let images = self.store().image_list()?;
        let kernels = self.store().kernel_list()?;
        let vms = self.store().vm_list()?;
        let workspaces = self.workspaces()?;
        let view = |vm| self.view(vm, &images, &kernels, &workspaces);
        Ok(control::Vms { vms: vms.into_iter().map(view).collect() })
    }

    /// The VM that `text` refers to.
    ///
    /// # Errors
    /// Where there is none.
    pub fn vm_show(&self, text: &str) -> Result<control::Vm> {
        self.vm_view(self.resolve(text)?)
    }

    /// VM `id` as it is shown.
    pub(crate) fn vm_view(&self, id: VmId) -> Result<control::Vm> {
        let images = self.store().image_list()?;
        let kernels = self.store().kernel_list()?;
        Ok(self.view(self.reread(id)?, &images, &kernels, &self.workspaces()?))
    }
}
