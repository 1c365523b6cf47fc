//! Sequences effects into operations that either happen or leave nothing.
//!
//! | module | knows |
//! | --- | --- |
//! | `operation` | what users asked for: ids, events, cancel |
//! | `kind` | what can be asked for |
//! | `happenings` | what happens, for those who listen |
//! | `saga` | steps that undo themselves, by the ledger |
//! | `clock` | what time it is |
//! | `shared` | work that several want and that is done once |
//! | `turn` | who may change a VM now |
//! | `vm` | create, boot, stop, delete; what happens when a guest ends by itself |
//! | `reconcile` | what a crash left open |
//! | `images`, `kernels` | making and publishing them |
//! | `snapshots` | those there are |
//! | `catalogs` | which catalog is in force, fetching what it names |
//! | `network` | rules and companion of a VM's network |
//! | `bridge` | the bridge of root's helper |
//! | `registry` | fetching what images are made of |
//! | `guest` | talking to an agent |
//! | `ssh` | keys and pins for a guest's sshd |
//! | `workspace` | a repository into a VM, a patch out of it |
//! | `doctor` | looking at an installation and its host |
//! | `fault` | where tests make things go wrong |
//!
//! No argv, no terminals, no HTTP serving: those are the CLI's and the daemon's.

pub mod bridge;
mod catalogs;
mod clock;
pub mod config;
pub mod dns;
pub mod doctor;
mod elsewhere;
mod error;
pub mod fault;
pub mod guest;
mod happenings;
mod images;
mod kernels;
mod kind;
mod network;
pub mod operation;
mod paths;
mod payload;
mod program;
mod reconcile;
pub mod registry;
mod saga;
mod shared;
mod snapshots;
mod ssh;
mod turn;
mod view;
mod vm;
mod vmms;
mod workspace;

use std::{collections::HashMap, path::PathBuf, sync::Arc, time::Duration};

pub use clock::Clock;
pub use error::{Error, Result};
pub use guest::{GuestError, Output};
pub use happenings::Listener;
pub use host::chain;
use host::{dirs::Dirs, lock::Lock, proc::Program};
pub use image::catalog::Kind as CatalogKind;
pub use kind::Kind;
use model::{VmId, network::Subnet, refs::RefError, system::SOCKET};
pub use operation::{Follow, Operation, Operations};
use store::{Compatibility, Store};
use tokio::{sync::Mutex, task::JoinHandle};
use tokio_util::sync::CancellationToken;
pub use vm::{
    Ending, FilesOut, GuestStream, Workplace,
    logs::{Log, Source},
};
use wire::control::Outcome;
pub use workspace::{Part, WorkspaceError};

use crate::{config::Config, paths::Paths, saga::World, shared::Shared, vm::Cell, vmms::Vmms};

/// How long it may take to take back what is true only as long as a daemon runs.
pub const CLOSING: Duration = Duration::from_secs(1);

/// One installation's engine. Clones are the same one.
#[derive(Debug, Clone)]
pub struct Engine(Arc<Inner>);

/// # Locking
/// `cells` is a leaf: held to look up or insert, never across an effect. `claims` are per name and held while that image
/// or kernel is being made or removed; their holder takes no other lock.
#[derive(Debug)]
struct Inner {
    world: World,
    config: Config,
    clock: Clock,
    guest_patience: Duration,
    /// The static agent that boots guests.
    agent: PathBuf,
    operations: Operations,
    cells: std::sync::Mutex<HashMap<VmId, Arc<Cell>>>,
    claims: std::sync::Mutex<HashMap<String, Arc<Mutex<()>>>>,
    /// Images that are being fetched or built because somebody needs them.
    images: Shared<store::Image>,
    /// Kernels that are.
    kernels: Shared<store::Kernel>,
    vmms: Vmms,
    registries: registry::Settings,
    builder: Program,
    ssh: ssh::Keys,
    /// The bridge that VMs are on, if they are.
    bridge: Option<bridge::Bridge>,
    /// What tells names, where it does.
    naming: Naming,
    _lock: Lock,
}

/// The task that tells names, and what ends it.
#[derive(Debug, Default)]
struct Naming {
    stop: CancellationToken,
    /// A leaf, held to put it there or to take it.
    task: std::sync::Mutex<Option<JoinHandle<()>>>,
}

/// What tests put in the place of the real thing. By default nothing.
#[derive(Default)]
pub struct Seams {
    /// Runs all VMs.
    pub backend: Option<Arc<dyn vmm::Backend>>,
    /// Makes things go wrong.
    pub faults: Option<Arc<dyn fault::Faults>>,
    /// How registries are spoken with.
    pub registries: Option<registry::Settings>,
    /// Builds images.
    pub builder: Option<Program>,
    /// The bridge that root installed for this user.
    pub bridge: Option<bridge::Bridge>,
    /// What time it is.
    pub clock: Clock,
    /// How long a guest may stand still while files are on their way to it or from it.
    pub guest_patience: Option<Duration>,
}

impl Engine {
    /// Opens the installation in `dirs`: takes its lock, opens its database, and makes true again what a crash left open.
    ///
    /// # Errors
    /// Where another daemon has it, a directory or the database cannot be used. `None` means another daemon has it.
    pub async fn open(dirs: Dirs, config: Config, agent: PathBuf, seams: Seams) -> Result<Option<Self>> {
        let paths = Paths::prepare(dirs.clone())?;
        let Some(lock) = host::lock::try_exclusive(&paths.lock())? else { return Ok(None) };
        let ssh = ssh::Keys::ensure(&dirs)?;
        let mode = config.network_mode;
        let of_host = || bridge::Bridge::installed_for(&dirs, mode);
        let installed = || seams.bridge.map_or_else(of_host, |bridge| Ok(Some(bridge)));
        let bridge = bridge::Bridge::by(mode, installed)?;
        let fresh = Store::check(&paths.database())? == Compatibility::Absent;
        let points = fault::Points::new(seams.faults);
        let store = points.watch(Store::open(&paths.database())?);
        let socket = bridge.as_ref().map_or_else(|| SOCKET.into(), |bridge| bridge.socket.clone());
        let vmms = Vmms::new(&config, paths.probes(), seams.backend);
        let engine = Self(Arc::new(Inner {
            world: World { paths, store, points, helper: bridge::Helper::at(socket) },
            config,
            agent,
            operations: Operations::new(seams.clock.clone()),
            clock: seams.clock,
            guest_patience: seams.guest_patience.unwrap_or(guest::PATIENCE),
            cells: std::sync::Mutex::default(),
            claims: std::sync::Mutex::default(),
            images: Shared::default(),
            kernels: Shared::default(),
            vmms,
            registries: seams.registries.unwrap_or_default(),
            builder: seams.builder.unwrap_or(Program::Mmdebstrap),
            ssh,
            bridge,
            naming: Naming::default(),
            _lock: lock,
        }));
        let happenings = engine.operations().happenings().clone();
        let named = engine.name_vms()?;
        engine.store().listen(move |news| {
            if let Some((names, subnet)) = &named {
                bridge::naming::follow(names, *subnet, &news);
            }
            happenings.tell_vm(news);
        });
        // What was being fetched or removed when a daemon died is nobody's.
        for left in [engine.paths().partial(), engine.paths().blobs_aside()] {
            host::fs::list(&left)?.iter().try_for_each(|path| host::fs::remove_all(path))?;
        }
        engine.reconcile().await?;
        engine.unpin_strangers().await?;
        // Beside a new database everything would seem to belong to nothing: somebody may have put the old one aside.
        if !fresh {
            engine.sweep().await?;
        }
        engine.keep_watch();
        engine.watch_addresses()?;
        Ok(Some(engine))
    }

    /// Begins to tell names, where VMs are on a bridge: at first of those that ran when the last daemon ended.
    fn name_vms(&self) -> Result<Option<(dns::Names, Subnet)>> {
        let Some(bridge) = &self.0.bridge else { return Ok(None) };
        let (names, subnet) = (dns::Names::default(), bridge.subnet);
        for vm in self.store().vm_list()? {
            bridge::naming::follow(&names, subnet, &store::VmNews::of(&vm));
        }
        let (helper, port) = (self.0.world.helper.clone(), self.0.config.dns_port);
        let upstream = bridge::naming::upstream(self.0.config.upstream_dns.clone());
        let stop = self.0.naming.stop.clone();
        let task = tokio::spawn(bridge::naming::serve(names.clone(), upstream, helper, subnet, port, stop));
        *self.0.naming.task.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(task);
        Ok(Some((names, subnet)))
    }

    /// Takes back what is true on this host only as long as this daemon runs: that its resolver asks for names here. Machines run
    /// on. Where the helper does not answer soon it is left to it.
    pub async fn close(&self) {
        self.0.naming.stop.cancel();
        let task = self.0.naming.task.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        if let Some(task) = task {
            let _ = tokio::time::timeout(CLOSING, task).await;
        }
    }

    /// The operations.
    #[must_use]
    pub fn operations(&self) -> &Operations {
        &self.0.operations
    }

    /// Begins an operation of that kind on `subject` and runs `work` as a task of its own, to its end whoever follows it.
    pub fn begin<F, W>(&self, kind: Kind, subject: &str, work: W) -> Operation
    where
        W: FnOnce(Self, Operation) -> F,
        F: Future<Output = Result<Outcome>> + Send + 'static,
    {
        let operation = self.0.operations.begin(kind, subject);
        let task = tokio::spawn(work(self.clone(), operation.clone()));
        let ended = operation.clone();
        tokio::spawn(async move {
            // One that panicked is a bug of ours, and those who follow it are told even so.
            let result = task.await.unwrap_or(Err(Error::Broken));
            ended.finish(&result);
        });
        operation
    }

    fn store(&self) -> &Store {
        &self.0.world.store
    }

    fn paths(&self) -> &Paths {
        &self.0.world.paths
    }

    fn points(&self) -> &fault::Points {
        &self.0.world.points
    }

    /// The VM that `text` refers to.
    fn resolve(&self, text: &str) -> Result<VmId> {
        let fits = self.store().vm_beginning(text)?;
        model::refs::resolve(&fits, text).map_err(|error| match error {
            RefError::Unknown => {
                Error::NotFound { kind: "VM", name: text.to_owned(), hint: Some("banger vm list".to_owned()) }
            }
            RefError::Ambiguous(fits) => Error::Ambiguous {
                text: text.to_owned(),
                candidates: fits.iter().map(|(id, name)| format!("{name} ({id})")).collect(),
            },
        })
    }

    /// The right to make the image or kernel `name`; others who want the same wait, and find it there.
    async fn claim(&self, name: String) -> tokio::sync::OwnedMutexGuard<()> {
        let claim = {
            let mut claims = self.0.claims.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            claims.retain(|_, claim| Arc::strong_count(claim) > 1);
            claims.entry(name).or_default().clone()
        };
        claim.lock_owned().await
    }
}

/// Runs `work` on a thread that may block.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => Err(Error::ShuttingDown),
    }
}
