//! Which VMM runs a VM. Each backend is probed once, when it is first needed.

use std::{path::PathBuf, sync::Arc};

use host::proc::ProcessId;
use model::config::{self, Vmm};
use tokio::sync::OnceCell;
use vmm::{
    AdoptError, Backend, Machine, Place,
    qemu::{Qemu, Settings},
};
use wire::session::Secret;

use crate::{Error, Result, blocking, config::Config};

/// The backends of this host.
pub struct Vmms {
    default: Vmm,
    qemu: Settings,
    found: OnceCell<Arc<dyn Backend>>,
    /// Runs all VMs in place of what the host has.
    only: Option<Arc<dyn Backend>>,
}

impl std::fmt::Debug for Vmms {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vmms").field("qemu", &self.qemu).finish_non_exhaustive()
    }
}

/// A VMM that was chosen for a VM.
pub struct Choice(Arc<dyn Backend>);

impl Choice {
    /// Its stable name.
    pub fn name(&self) -> &'static str {
        self.0.report().backend
    }

    /// It in words: `qemu`, `qemu (no KVM)`.
    pub fn label(&self) -> String {
        match self.0.report().accelerator {
            vmm::Accelerator::Kvm => self.name().to_owned(),
            vmm::Accelerator::Tcg => format!("{} (no KVM)", self.name()),
        }
    }
}

/// How `config` has QEMU looked for; answers are remembered in `cache_dir`.
pub fn qemu(config: &Config, cache_dir: PathBuf) -> Settings {
    let accelerator = match config.accelerator {
        config::Accelerator::Auto => None,
        config::Accelerator::Kvm => Some(vmm::Accelerator::Kvm),
        config::Accelerator::Tcg => Some(vmm::Accelerator::Tcg),
    };
    Settings { program: config.qemu_bin.clone(), accelerator, cache_dir }
}

impl Vmms {
    /// Nothing is probed yet; answers are remembered below `probes`.
    pub fn new(config: &Config, probes: PathBuf, only: Option<Arc<dyn Backend>>) -> Self {
        Self { default: config.vmm, qemu: qemu(config, probes), found: OnceCell::new(), only }
    }

    /// The VMM for a new VM, by the user's word, else by the configuration.
    pub async fn choose(&self, wanted: Option<&str>) -> Result<Choice> {
        if let Some(only) = &self.only {
            return Ok(Choice(only.clone()));
        }
        match wanted.unwrap_or(self.default.as_str()) {
            "auto" | "qemu" => Ok(Choice(self.backend("qemu").await?)),
            "firecracker" => {
                Err(Error::invalid("--vmm", "firecracker", "this version runs VMs with qemu only"))
            }
            other => Err(Error::invalid("--vmm", other, "it is one of auto, firecracker, qemu")),
        }
    }

    /// The backend of a VM that there is.
    pub async fn backend(&self, name: &str) -> Result<Arc<dyn Backend>> {
        if let Some(only) = &self.only {
            return Ok(only.clone());
        }
        if name != "qemu" {
            return Err(Error::invalid("VMM", name, "this version runs VMs with qemu only"));
        }
        let settings = self.qemu.clone();
        let probe = || {
            blocking(move || {
                let found = Qemu::find(&settings);
                found.map(|backend| Arc::new(backend) as Arc<dyn Backend>).map_err(Error::NoVmm)
            })
        };
        self.found.get_or_try_init(probe).await.cloned()
    }

    /// Takes hold of the machine in process `id` again. No VMM needs to be usable for that.
    pub async fn adopt(
        &self,
        id: ProcessId,
        place: Place,
        secret: Secret,
    ) -> Result<Option<Arc<dyn Machine>>, AdoptError> {
        match &self.only {
            Some(only) => only.adopt(id, place, secret).await,
            None => vmm::qemu::adopt(id, place, secret).await,
        }
    }
}
