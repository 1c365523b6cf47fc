//! Which VMM runs a VM. Each backend is probed once, when it is first needed.

use std::{path::PathBuf, sync::Arc};

use host::proc::ProcessId;
use model::{
    boot,
    config::{self, Limits, Vmm},
    network::Link,
    size,
};
use tokio::sync::OnceCell;
use vmm::{AdoptError, Backend, Machine, Place, Report, Settings, firecracker::Firecracker, qemu::Qemu};
use wire::{control::Event, session::Secret};

use crate::{Error, Operation, Result, blocking, config::Config, payload::KernelFiles};

/// What the record of a VM calls its VMM.
const FIRECRACKER: &str = "firecracker";
const QEMU: &str = "qemu";

/// The backends of this host.
pub struct Vmms {
    default: Vmm,
    limits: Limits,
    firecracker: Probed,
    qemu: Probed,
    /// Runs all VMs in place of what the host has.
    only: Option<Arc<dyn Backend>>,
}

/// A backend that is looked for when it is first needed; one that was not found is looked for again.
struct Probed {
    settings: Settings,
    found: OnceCell<Arc<dyn Backend>>,
}

impl std::fmt::Debug for Vmms {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vmms").field("qemu", &self.qemu.settings).finish_non_exhaustive()
    }
}

/// A VMM that was chosen for a VM.
pub struct Choice {
    backend: Arc<dyn Backend>,
    by: By,
}

/// Who chose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    /// The user or the configuration: no other one will do.
    Word,
    /// We did: the best one of this host.
    Us,
}

impl Choice {
    /// Its stable name.
    pub fn name(&self) -> &'static str {
        self.backend.report().backend
    }

    /// The kind of machine that it makes.
    pub fn machine(&self) -> boot::Machine {
        self.backend.machine()
    }

    /// What it runs on.
    pub fn report(&self) -> &Report {
        self.backend.report()
    }

    /// It in words: `qemu`, `qemu (no KVM)`.
    pub fn label(&self) -> String {
        match self.backend.report().accelerator {
            vmm::Accelerator::Kvm => self.name().to_owned(),
            vmm::Accelerator::Tcg => format!("{} (no KVM)", self.name()),
        }
    }
}

/// How `config` has the VMM with the program `program` looked for; answers are remembered in `cache_dir`.
fn settings(config: &Config, program: Option<&PathBuf>, cache_dir: PathBuf) -> Settings {
    let accelerator = match config.accelerator {
        config::Accelerator::Auto => None,
        config::Accelerator::Kvm => Some(vmm::Accelerator::Kvm),
        config::Accelerator::Tcg => Some(vmm::Accelerator::Tcg),
    };
    Settings { program: program.cloned(), accelerator, cache_dir }
}

/// How `config` has QEMU looked for; answers are remembered in `cache_dir`.
pub fn qemu(config: &Config, cache_dir: PathBuf) -> Settings {
    settings(config, config.qemu_bin.as_ref(), cache_dir)
}

/// How `config` has Firecracker looked for; answers are remembered in `cache_dir`.
pub fn firecracker(config: &Config, cache_dir: PathBuf) -> Settings {
    settings(config, config.firecracker_bin.as_ref(), cache_dir)
}

impl Probed {
    fn new(settings: Settings) -> Self {
        Self { settings, found: OnceCell::new() }
    }

    async fn get<B: Backend + 'static>(
        &self,
        find: fn(&Settings) -> Result<B, vmm::ProbeError>,
    ) -> Result<Arc<dyn Backend>> {
        let probe = || {
            let settings = self.settings.clone();
            blocking(move || {
                find(&settings).map(|backend| Arc::new(backend) as Arc<dyn Backend>).map_err(Error::NoVmm)
            })
        };
        self.found.get_or_try_init(probe).await.cloned()
    }
}

impl Vmms {
    /// Nothing is probed yet; answers are remembered below `probes`.
    pub fn new(config: &Config, probes: PathBuf, only: Option<Arc<dyn Backend>>) -> Self {
        let firecracker = Probed::new(firecracker(config, probes.clone()));
        let qemu = Probed::new(qemu(config, probes));
        Self { default: config.vmm, limits: config.limits, firecracker, qemu, only }
    }

    /// The VMM for a new VM, by the user's word, else by the configuration.
    ///
    /// # Errors
    /// Where that one cannot be used, or there is none of that name.
    pub async fn choose(&self, wanted: Option<&str>) -> Result<Choice> {
        let wanted = match wanted {
            None => self.default,
            Some(word) => Vmm::from_word(word)
                .ok_or_else(|| Error::invalid("--vmm", word, "it is one of auto, firecracker, qemu"))?,
        };
        let (backend, by) = match wanted {
            Vmm::Firecracker => (self.backend(FIRECRACKER).await?, By::Word),
            Vmm::Qemu => (self.backend(QEMU).await?, By::Word),
            Vmm::Auto => match self.backend(FIRECRACKER).await {
                Ok(backend) => (backend, By::Us),
                // Whatever is wrong with it, the doctor tells; QEMU runs with and without KVM.
                Err(_) => (self.backend(QEMU).await?, By::Us),
            },
        };
        Ok(Choice { backend, by })
    }

    /// The VMM `name`, and no other one.
    ///
    /// # Errors
    /// Where it cannot be used.
    pub async fn only(&self, name: &str) -> Result<Choice> {
        Ok(Choice { backend: self.backend(name).await?, by: By::Word })
    }

    /// Whether VMM `vmm` connects a machine to `link`.
    ///
    /// # Errors
    /// Where it cannot.
    pub fn connects(&self, vmm: &str, link: Option<Link>) -> Result<()> {
        match (link, self.limits.network) {
            (Some(Link::BuiltIn), _) if vmm == FIRECRACKER => Err(Error::invalid(
                "--vmm",
                vmm,
                "where namespaces cannot be used, only QEMU has a network of its own: --vmm qemu",
            )),
            (Some(Link::Namespace | Link::Bridge | Link::BuiltIn), Some(rate)) if vmm == QEMU => {
                Err(Error::invalid(
                    "limits.network_rate",
                    &size::exact(rate),
                    "QEMU keeps no network to a rate: take that out of config.toml, or --vmm firecracker",
                ))
            }
            (Some(Link::Namespace | Link::Bridge | Link::BuiltIn) | None, _) => Ok(()),
        }
    }

    /// The same, or QEMU where `choice` was ours and does not connect a machine to `link`.
    ///
    /// # Errors
    /// Where it was somebody's word, or there is no QEMU that does.
    pub async fn for_link(&self, choice: Choice, link: Option<Link>) -> Result<Choice> {
        match (self.connects(choice.name(), link), choice.by) {
            (Ok(()), _) => Ok(choice),
            (Err(_), By::Us) => {
                self.connects(QEMU, link)?;
                Ok(Choice { backend: self.backend(QEMU).await?, by: By::Us })
            }
            (Err(error), By::Word) => Err(error),
        }
    }

    /// The same, or another one where `choice` was ours and cannot run the kernel of these `files`.
    ///
    /// # Errors
    /// Where there is no other one.
    pub async fn for_kernel(
        &self,
        operation: &Operation,
        choice: Choice,
        files: &KernelFiles,
        kernel: &str,
    ) -> Result<Choice> {
        let Err(why) = files.boot(choice.machine()) else { return Ok(choice) };
        if choice.by == By::Us && choice.name() == FIRECRACKER {
            let qemu = self.backend(QEMU).await?;
            if files.boot(qemu.machine()).is_ok() {
                let message = format!("kernel {kernel} does not run under Firecracker ({why}): taking QEMU");
                operation.emit(Event::Warning { message });
                return Ok(Choice { backend: qemu, by: By::Us });
            }
        }
        Err(Error::invalid("--vmm", choice.name(), format!("kernel {kernel} does not run there: {why}")))
    }

    /// The backend of a VM that there is.
    ///
    /// # Errors
    /// Where it cannot be used.
    pub async fn backend(&self, name: &str) -> Result<Arc<dyn Backend>> {
        if let Some(only) = &self.only {
            return Ok(only.clone());
        }
        match name {
            FIRECRACKER => self.firecracker.get(Firecracker::find).await,
            QEMU => self.qemu.get(Qemu::find).await,
            _ => Err(Error::invalid("VMM", name, "this version runs VMs with firecracker and qemu only")),
        }
    }

    /// Takes hold of the machine in process `id`, which VMM `name` runs, again. No VMM needs to be usable for that.
    ///
    /// # Errors
    /// Where it runs and does not answer.
    pub async fn adopt(
        &self,
        name: &str,
        id: ProcessId,
        place: Place,
        secret: Secret,
    ) -> Result<Option<Arc<dyn Machine>>, AdoptError> {
        match &self.only {
            Some(only) => only.adopt(id, place, secret).await,
            None if name == FIRECRACKER => vmm::firecracker::adopt(id, place).await,
            None => vmm::qemu::adopt(id, place, secret).await,
        }
    }
}
