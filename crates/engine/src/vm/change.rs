//! What can be changed of a VM that is there: its size, and its system overlay.

use model::{
    VmId,
    boot::DiskRole,
    network::{HostLoopback, Nat},
    sizing::{self, Wish},
    undo::NewDisk,
    vm::{Answer, Refusal, Request, State, answer},
};
use vmm::Disk;
use wire::control::{Outcome, SetVm};

use super::boot::file_of;
use crate::{Engine, Error, Operation, Result, blocking, config::host_size};

impl Engine {
    /// Gives the VM that `text` refers to another size. A disk grows under a running guest too.
    ///
    /// # Errors
    /// Nothing is changed where something of it is out of range, a disk would shrink, or what needs a stopped VM was asked
    /// of a running one. Where the guest of a running VM does not follow, the disk is enlarged, and its file system at the
    /// next start.
    pub async fn vm_set(self, operation: Operation, text: String, request: SetVm) -> Result<Outcome> {
        let id = self.resolve(&text)?;
        let cell = self.cell(id);
        let turn = operation.cancellable(async { Ok(cell.turns.take().await) }).await?;
        let record = self.reread(id)?;
        if request.vcpu.is_some() || request.memory.is_some() {
            allowed(&record, Request::Resize, "its CPUs and memory")?;
        }
        allowed(&record, Request::Grow, "its disks")?;
        let wish = Wish {
            vcpu: request.vcpu,
            memory: request.memory,
            disk: request.disk_size,
            overlay: request.overlay_size,
        };
        let sizes = sizing::change(record.sizes, wish, host_size()?)?;
        if request.nat.is_some() || request.allow_host_loopback {
            let wanted = request.nat.map_or(record.network.nat, Nat::of);
            let loopback =
                if request.allow_host_loopback { HostLoopback::Allowed } else { record.network.loopback };
            self.set_nat(&operation, &record, wanted, loopback).await?;
        }
        let grown = [
            (NewDisk::Overlay, record.sizes.overlay.0, sizes.overlay.0),
            (NewDisk::Work, record.sizes.disk.0, sizes.disk.0),
        ];
        let live = self.live(id);
        for (disk, _, bytes) in grown.into_iter().filter(|(_, before, after)| after > before) {
            let grow = async {
                let Some(live) = &live else { return self.grow_file(id, disk, bytes).await };
                let role = role_of(disk);
                let plan = Disk { role, file: file_of(role).to_owned() };
                let done = live.machine.grow_disk(plan, bytes).await;
                done.map_err(|cause| Error::Control { name: record.name.clone(), cause })
            };
            self.points().around("grow", grow).await?;
        }
        if let Some(live) = &live {
            live.usage.touch();
        }
        // Larger than recorded is harmless, the other way round is not.
        if sizes != record.sizes {
            self.store().vm_sizes(id, sizes)?;
        }
        if let Some(live) = live.filter(|_| grown.iter().any(|(_, before, after)| after > before)) {
            operation.stage("growing file systems");
            let done = live.guest.grow().await;
            done.map_err(|cause| Error::Guest {
                name: record.name,
                action: "grow its file systems; they grow at its next start",
                cause: Box::new(cause),
            })?;
        }
        drop(turn);
        Ok(Outcome::Vm(Box::new(self.vm_view(id)?)))
    }

    /// Makes the system overlay of the VM that `text` refers to new, of the image `image` where that is said; its work
    /// disk stays as it is.
    ///
    /// # Errors
    /// Where it runs, or there is no such image; nothing is changed then.
    pub async fn vm_reset(
        self,
        operation: Operation,
        text: String,
        image: Option<String>,
    ) -> Result<Outcome> {
        let id = self.resolve(&text)?;
        let cell = self.cell(id);
        let turn = operation.cancellable(async { Ok(cell.turns.take().await) }).await?;
        let record = self.reread(id)?;
        allowed(&record, Request::Reset, "its system overlay")?;
        let image = match image {
            Some(name) => self.image_called(&name)?.id,
            None => record.image.clone(),
        };
        let state = match record.state {
            State::Created => State::Created,
            _ => State::Stopped,
        };
        // The next start makes a new overlay. An old one fits no other image, so from this commit on it is to go: here, or
        // before anything else is done with the VM.
        self.store().vm_reset(id, image, state, operation.id())?;
        self.settle_leftovers(&record).await?;
        drop(turn);
        Ok(Outcome::Vm(Box::new(self.vm_view(id)?)))
    }

    /// Enlarges a disk that nobody has open. One that was never made will be made that large.
    async fn grow_file(&self, id: VmId, disk: NewDisk, bytes: u64) -> Result<()> {
        let path = self.paths().disk(id, disk);
        blocking(move || if host::fs::exists(&path) { Ok(host::fs::grow(&path, bytes)?) } else { Ok(()) })
            .await
    }
}

/// Whether `request` can be done to the VM of `record`.
fn allowed(record: &store::Vm, request: Request, what: &'static str) -> Result<()> {
    match answer(record.state, request) {
        Answer::Do(_) | Answer::Already => Ok(()),
        Answer::Refused(Refusal::Running) => Err(Error::Running { name: record.name.clone(), what }),
        Answer::Refused(Refusal::BeingDeleted | Refusal::NotRunning) => {
            Err(Error::BeingDeleted(record.name.clone()))
        }
    }
}

fn role_of(disk: NewDisk) -> DiskRole {
    match disk {
        NewDisk::Overlay => DiskRole::Overlay,
        NewDisk::Work => DiskRole::Work,
    }
}
