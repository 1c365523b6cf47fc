//! The snapshots there are. [`crate::vm`] takes them, and makes VMs of them.

use model::{
    network::{Link, Nat, Network},
    size::human,
    sizing::Wish,
};
use vmm::{Report, Saved, SavedFile};
use wire::{
    control::{self, CreateVm, Outcome},
    guest,
};

use crate::{Engine, Error, Operation, Result};

impl Engine {
    /// All snapshots by name.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub fn snapshot_list(&self) -> Result<control::Snapshots> {
        let snapshots = self.store().snapshot_list()?;
        Ok(control::Snapshots {
            snapshots: snapshots
                .into_iter()
                .map(|snapshot| self.snapshot_view(snapshot))
                .collect::<Result<_>>()?,
        })
    }

    /// The snapshot `name`.
    ///
    /// # Errors
    /// Where there is none.
    pub fn snapshot_show(&self, name: &str) -> Result<control::Snapshot> {
        self.snapshot_view(self.snapshot_called(name)?)
    }

    /// Removes the snapshot `name`. What was made of it needs it no more once it runs: each has its own disks, and a VMM that goes
    /// on from memory has it open.
    ///
    /// # Errors
    /// Where there is none, or a VM is just being made of it.
    pub async fn snapshot_delete(self, operation: Operation, name: String) -> Result<Outcome> {
        operation.checkpoint()?;
        let snapshot = self.snapshot_called(&name)?;
        self.store().snapshot_delete(&snapshot.id)?;
        // Without its row it is nobody's; a crash here leaves it to reconcile.
        let directory = self.paths().snapshot(&snapshot.id);
        self.remove_directory("snapshot", &name, directory).await?;
        Ok(Outcome::None)
    }

    /// The snapshot that is called `name`.
    pub(crate) fn snapshot_called(&self, name: &str) -> Result<store::Snapshot> {
        let hint = || Some("banger snapshot list".to_owned());
        let missing = || Error::NotFound { kind: "snapshot", name: name.to_owned(), hint: hint() };
        self.store().snapshot_named(name)?.ok_or_else(missing)
    }

    /// A snapshot as it is shown.
    pub(crate) fn snapshot_view(&self, snapshot: store::Snapshot) -> Result<control::Snapshot> {
        let images = self.store().image_list()?;
        let kernels = self.store().kernel_list()?;
        let image = images.iter().find(|image| image.id == snapshot.image);
        let kernel = kernels.iter().find(|kernel| kernel.id == snapshot.kernel);
        Ok(control::Snapshot {
            name: snapshot.name.to_string(),
            vm: snapshot.vm,
            image: image.map(|image| image.name.to_string()).unwrap_or_default(),
            kernel: kernel.map(|kernel| kernel.name.to_string()).unwrap_or_default(),
            vmm: snapshot.vmm,
            build: snapshot.build,
            vcpu: snapshot.vcpu,
            memory: snapshot.memory,
            disk: snapshot.disk,
            overlay: snapshot.overlay,
            network: snapshot.link.map(|link| Link::name(link).to_owned()),
            nat: snapshot.nat.is_on(),
            has_secrets: snapshot.has_secrets,
            size: snapshot.size,
            created_ms: snapshot.created_ms,
        })
    }

    /// The size of a VM that is to go on from `snapshot`, where nothing of `request` contradicts it.
    pub(crate) fn wish_of(&self, snapshot: &store::Snapshot, request: &CreateVm) -> Result<Wish> {
        let refused = |flag, value: &str, why: &str| {
            Err(Error::invalid(flag, value, format!("snapshot {}: {why}", snapshot.name)))
        };
        if request.no_start {
            return refused("--no-start", "", "a machine goes on from it at once, or not at all");
        }
        if let Some(name) = &request.image
            && self.image_called(name)?.id != snapshot.image
        {
            return refused("--image", name, "its machine runs another one");
        }
        if let Some(vmm) = request.vmm.as_deref().filter(|vmm| !["auto", &*snapshot.vmm].contains(vmm)) {
            return refused("--vmm", vmm, &format!("{} saved it", snapshot.vmm));
        }
        if let Some(vcpu) = request.vcpu.filter(|vcpu| *vcpu != snapshot.vcpu) {
            return refused("--vcpu", &vcpu.to_string(), &format!("its machine has {}", snapshot.vcpu));
        }
        for (flag, wish, own) in [
            ("--memory", request.memory, snapshot.memory),
            ("--disk-size", request.disk_size, snapshot.disk),
            ("--overlay-size", request.overlay_size, snapshot.overlay),
        ] {
            if let Some(wish) = wish.filter(|wish| *wish != own) {
                return refused(flag, &human(wish), &format!("its machine has {}", human(own)));
            }
        }
        Ok(Wish {
            vcpu: Some(snapshot.vcpu),
            memory: Some(snapshot.memory),
            disk: Some(snapshot.disk),
            overlay: Some(snapshot.overlay),
        })
    }

    /// The image and kernel of `snapshot`.
    pub(crate) fn sources_of(&self, snapshot: &store::Snapshot) -> Result<(store::Image, store::Kernel)> {
        let image = self.store().image_list()?.into_iter().find(|image| image.id == snapshot.image);
        let kernel = self.store().kernel_list()?.into_iter().find(|kernel| kernel.id == snapshot.kernel);
        Ok(image.zip(kernel).ok_or(store::Error::Missing)?)
    }

    /// What a VM of `network` is connected to that goes on from `snapshot` under the VMM of `report`.
    ///
    /// # Errors
    /// Where that is not the VMM that saved it, or the network is another one.
    pub(crate) async fn link_to_restore(
        &self,
        snapshot: &store::Snapshot,
        network: Network,
        report: &Report,
    ) -> Result<Option<Link>> {
        let differs = |what, saved: String, here: String| Error::Mismatch {
            snapshot: snapshot.name.clone(),
            what,
            saved,
            here,
        };
        if snapshot.build != report.build() {
            return Err(differs("build of its VMM", snapshot.build.clone(), report.build()));
        }
        if snapshot.agent != guest::VERSION {
            let [saved, here] = [snapshot.agent, guest::VERSION].map(|version| version.to_string());
            return Err(differs("version of its agent", saved, here));
        }
        // Where it has a card it keeps that, whatever goes through.
        let asked = if snapshot.link.is_some() { Network { nat: Nat::On, ..network } } else { network };
        let link = self.link_for(asked).await?;
        let is_open = link == Some(Link::BuiltIn) && !network.nat.is_on();
        if link != snapshot.link || is_open {
            let name = |link: Option<Link>| link.map_or("none", Link::name).to_owned();
            let here = if is_open { "one with NAT only".to_owned() } else { name(link) };
            return Err(differs("network", name(snapshot.link), here));
        }
        Ok(link)
    }

    /// What the VMM wrote of `snapshot`, where it lies.
    pub(crate) fn saved(&self, snapshot: &store::Snapshot) -> Saved {
        let directory = self.paths().snapshot(&snapshot.id);
        // It was written by this program.
        let files: Vec<(String, u64, Option<String>)> =
            serde_json::from_str(&snapshot.files).unwrap_or_default();
        let file = |(name, size, sha256)| SavedFile { name, size, sha256 };
        Saved { directory, files: files.into_iter().map(file).collect() }
    }
}

/// `files` as a record has them.
pub fn files_text(files: &[SavedFile]) -> String {
    let files: Vec<_> = files.iter().map(|file| (&file.name, file.size, &file.sha256)).collect();
    serde_json::to_string(&files).expect("names and numbers")
}
