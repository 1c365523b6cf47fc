//! Boot: from a record to a machine whose agent answers.
//!
//! The VM's directory, before its first start → run directory → disks → boot payload → VMM behind its gate → agent. Each
//! resource is in the ledger before it is taken; the process is there before its entry, but it waits at the gate and dies with
//! the daemon until the entry is written.

use std::{sync::Arc, time::Instant};

use model::{
    boot::DiskRole,
    config::Limits,
    network::{Link, Network},
    undo::{NewDisk, Undo},
    vm::{Answer, Refusal, Request, State, answer},
};
use store::{Ready, Starting};
use vmm::{Disk, Machine, MachinePlan, Nic, Place};
use wire::{
    control::{Event, Outcome, Phase, Wait},
    guest::{Config, Health, Identity, Step},
    session::Secret,
};

use super::{Live, sync};
use crate::{
    Engine, Error, Operation, Result, blocking,
    guest::{Guest, GuestError},
    payload::{self, KernelFiles},
    saga::{Saga, World, and_then, process_entry},
    view,
};

/// How many lines of the console a failure shows.
const CONSOLE_LINES: usize = 12;
/// How long init may take. In software emulation, on a busy host, Debian with docker takes two minutes.
const INIT: std::time::Duration = std::time::Duration::from_secs(300);
/// How often init is asked whether it is ready.
const READY_POLL: std::time::Duration = std::time::Duration::from_millis(100);

/// Whether a boot is the first of its VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aim {
    /// The VM is being created: a cancel leaves nothing.
    First,
    /// The VM was there before: its disks stay whatever happens.
    Again,
}

/// How a boot failed, which decides which world is right afterwards.
#[derive(Debug)]
pub enum Failure {
    /// Before the guest ran: everything is to be as before.
    Before(Error),
    /// The guest ran: its disks and logs are worth keeping.
    After(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Before(error)
    }
}

/// What one phase after the other took.
struct Clock {
    begun: Instant,
    last: Instant,
    phases: Vec<Phase>,
}

impl Clock {
    fn start() -> Self {
        let now = Instant::now();
        Self { begun: now, last: now, phases: Vec::new() }
    }

    fn phase(&mut self, name: &str) {
        let now = Instant::now();
        let us = |duration: std::time::Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let step = Step { name: name.to_owned(), at_us: us(now - self.begun), took_us: us(now - self.last) };
        self.phases.push(Phase { place: "host".to_owned(), step });
        self.last = now;
    }
}

impl Engine {
    /// Starts the VM that `text` refers to and waits until it is ready.
    ///
    /// # Errors
    /// The VM is as it was then, except where the guest ran and never became ready: then it is in `error`.
    pub async fn vm_start(self, operation: Operation, text: String, wait: Option<Wait>) -> Result<Outcome> {
        let id = self.resolve(&text)?;
        let cell = self.cell(id);
        let turn = operation.cancellable(async { Ok(cell.turns.take().await) }).await?;
        let mut record = self.reread(id)?;
        record.ready = wait.map(view::ready).or(record.ready);
        match answer(record.state, Request::Start) {
            Answer::Already => return Ok(Outcome::Vm(Box::new(self.vm_view(id)?))),
            Answer::Refused(Refusal::BeingDeleted | Refusal::NotRunning | Refusal::Running) => {
                return Err(Error::BeingDeleted(record.name));
            }
            Answer::Do(_) => {}
        }
        turn.interruptible_by_kill(operation.token().clone());
        self.start_again(&operation, &record).await?;
        drop(turn);
        Ok(Outcome::Vm(Box::new(self.vm_view(id)?)))
    }

    /// Boots a VM that was there before, its turn being held.
    pub(crate) async fn start_again(&self, operation: &Operation, record: &store::Vm) -> Result<()> {
        self.settle_leftovers(record).await?;
        let mut saga = Saga::new(&self.0.world, record.id, operation.id());
        match self.boot(operation, record, &mut saga, Aim::Again).await {
            Ok(()) => Ok(()),
            Err(Failure::Before(error)) => {
                let error = saga.unwind(error).await;
                Err(and_then(error, self.store().vm_state(record.id, record.state, record.reason.clone())))
            }
            Err(Failure::After(error)) => {
                let (state, reason) = match &error {
                    Error::Cancelled => (State::Stopped, "its start was cancelled".to_owned()),
                    error => (State::Error, error.to_string()),
                };
                let error = saga.release(error).await;
                Err(and_then(error, self.store().vm_state(record.id, state, Some(reason))))
            }
        }
    }

    /// Boots the VM of `record`, whose turn is held.
    pub(crate) async fn boot(
        &self,
        operation: &Operation,
        record: &store::Vm,
        saga: &mut Saga<'_>,
        aim: Aim,
    ) -> Result<(), Failure> {
        let mut clock = Clock::start();
        let world = &self.0.world;
        let image = self.image_of(record)?;
        self.check_registered(&image)?;
        self.check_kernel_in_place(&record.kernel)?;
        let kernel = self.paths().kernels().join(&record.kernel);
        let name = record.name.clone();
        let kernel =
            blocking(move || KernelFiles::read(&kernel).map_err(|cause| Error::Payload { name, cause }))
                .await?;
        let vmm = self.0.vmms.backend(&record.vmm).await?;
        let files = self.packed_files().await?;
        for message in &files.warnings {
            operation.emit(Event::Warning { message: message.clone() });
        }
        let snapshot = self.snapshot_of(record)?;
        let link = match &snapshot {
            Some(snapshot) => self.link_to_restore(snapshot, record.network, vmm.report()).await?,
            None => self.link_for(record.network).await?,
        };
        self.0.vmms.connects(&record.vmm, link)?;
        let bridge = self.0.bridge.as_ref().filter(|_| link == Some(Link::Bridge));
        if bridge.is_some() {
            self.ensure_bridge(operation, record).await?;
        }
        if link == Some(Link::BuiltIn) {
            let message =
                "QEMU's own network is used: the guest reaches what listens on this host's loopback";
            operation.emit(Event::Warning { message: message.to_owned() });
        }
        // What an agent was told that goes on is what it listens to.
        let saved = snapshot.as_ref().and_then(|snapshot| Secret::from_hex(&snapshot.secret));
        let secret = saved.unwrap_or_else(|| Secret::new(host::rand::bytes()));
        let numbers = bridge.map(|bridge| bridge.subnet.guests());
        let starting = Starting {
            secret: secret.to_hex(),
            link,
            build: vmm.report().build(),
            has_secrets: !files.is_empty(),
        };
        let number = self.store().vm_starting(record.id, starting, numbers).map_err(Error::from)?;
        let record = &store::Vm { network: Network { link, number, ..record.network }, ..record.clone() };
        let card = self.card(record.id, record.network);
        let nic = link.zip(card).map(|(link, card)| Nic { vm: record.id, card, link });
        operation.stage("preparing");

        let directory = self.paths().vm(record.id);
        if !host::fs::exists(&directory) {
            saga.step(Undo::VmDirectory, move || Ok(host::fs::create_dir(&directory)?)).await?;
        }
        let run = self.paths().run(record.id);
        saga.step(Undo::RunDirectory, {
            let (world, record, run, kernel) = (world.clone(), record.clone(), run.clone(), kernel.clone());
            let machine = vmm.machine();
            move || lay_out(&world, &record, &run, &kernel, machine)
        })
        .await?;
        // Who commits is told once, to a home that is new: later it is the guest's to know.
        let new_home = snapshot.is_none() && !host::fs::exists(&self.paths().disk(record.id, NewDisk::Work));
        let identity = new_home.then(|| tokio::task::spawn_blocking(sync::identity));
        let mut uuids = Vec::new();
        for disk in NewDisk::ALL {
            uuids.push(self.disk(record, snapshot.as_ref(), saga, disk).await?);
            operation.checkpoint()?;
        }
        clock.phase("disks");

        let ssh = self.0.ssh.for_guest(record.id);
        let hardware = payload::Hardware { machine: vmm.machine(), secret: &secret, nic };
        let config = payload::config(record, &image, &uuids, &kernel, ssh, hardware);
        let modules_disk = kernel.modules_uuid.is_some();
        if snapshot.is_none() {
            let (base_dir, agent, target) = (self.paths().payloads(), self.0.agent.clone(), run.join(INITRD));
            let (name, config) = (record.name.clone(), config.clone());
            let write = blocking(move || {
                payload::write(&base_dir, &agent, &kernel, &config, &target)
                    .map_err(|cause| Error::Payload { name, cause })
            });
            world.points.around("payload", write).await?;
        }
        // Without it ssh refuses the guest, and all else of it is as usable.
        if let Err(error) = self.pin(record.id, &record.name).await {
            operation.emit(Event::Warning {
                message: format!("`vm ssh` will not work: {}", crate::chain(&error)),
            });
        }
        clock.phase("payload");

        operation.checkpoint()?;
        if link == Some(Link::Bridge) {
            self.plug_in(operation, record, saga).await?;
            clock.phase("network");
        }
        operation.stage("booting");
        let place = Place { run_dir: run, log_dir: self.paths().vm(record.id) };
        let command_line = model::boot::command_line(vmm.machine());
        let saved = snapshot.as_ref().map(|snapshot| self.saved(snapshot));
        let plan = plan(record, place, command_line, secret, modules_disk, nic);
        let plan = MachinePlan { saved, limits: self.0.config.limits, ..plan };
        let spawn = async {
            vmm.spawn(plan).await.map_err(|cause| Error::Spawn { name: record.name.clone(), cause })
        };
        let spawned = world.points.around("spawn", spawn).await?;
        let step = saga.open(Undo::Process(process_entry(spawned.id())))?;
        if link == Some(Link::Namespace) {
            // All its rules stand before anything of it runs.
            self.connect(record, saga, spawned.id()).await?;
            clock.phase("network");
        }
        let release = async {
            spawned.release().await.map_err(|cause| Error::Launch { name: record.name.clone(), cause })
        };
        let machine = world.points.around("release", release).await?;
        saga.taken(step)?;
        clock.phase("vmm");

        operation.stage("waiting for agent");
        let guest = Guest::new(machine.clone(), self.0.guest_patience);
        let ready = self.wait_ready(operation, record, &image, &machine, &guest);
        let health = match world.points.around("ready", ready).await {
            Ok(health) => health,
            // Before its first start is through, a cancelled VM leaves nothing.
            Err(Error::Cancelled) if aim == Aim::First => return Err(Failure::Before(Error::Cancelled)),
            Err(error) => return Err(Failure::After(error)),
        };
        clock.phase("guest");
        if snapshot.is_some() {
            operation.stage("giving it an identity of its own");
            let configured = self.configure(operation, record, &guest, config);
            world.points.around("configure", configured).await.map_err(|error| match error {
                Error::Cancelled => Failure::Before(error),
                error => Failure::After(error),
            })?;
            clock.phase("identity");
        }
        let name = || record.name.clone();
        let refused = |cause| Error::Guest { name: name(), action: "take the files of file_sync", cause };
        let placed = sync::place(&guest, files).await;
        placed.map_err(|cause| Failure::After(refused(Box::new(cause))))?;
        if let Some(identity) = identity {
            let introduced = sync::introduce(&guest, identity.await.unwrap_or_default()).await;
            introduced.unwrap_or_else(|cause| sync::unintroduced(operation, &cause));
        }
        self.protect(operation, record.id, &guest).await;
        let after = |error: store::Error| Failure::After(error.into());
        host::fs::remove(&self.paths().run(record.id).join(INITRD)).map_err(|e| Failure::After(e.into()))?;
        // How another one booted, once, is not what this one took.
        let steps = if snapshot.is_some() { Vec::new() } else { health.steps };
        let guest_steps = steps.into_iter().map(|step| Phase { place: "guest".to_owned(), step });
        clock.phases.extend(guest_steps);
        let timeline = serde_json::to_string(&clock.phases).expect("names and numbers");
        self.store().vm_started(record.id, host::clock::now_ms(), timeline).map_err(after)?;
        let live = Live::new(machine, guest, self.0.clock.clone());
        live.boot_id.get_or_init(|| health.boot_id);
        self.go_live(record.id, live.clone());
        self.guard(record.id, live);
        Ok(())
    }

    /// Makes a running machine known, and watches for its end.
    pub(crate) fn go_live(&self, id: model::VmId, live: Arc<Live>) {
        self.cell(id).live.send_replace(Some(live.clone()));
        self.watch(id, live);
    }

    /// Makes writable disk `disk` of the VM where it is missing, as that of `snapshot` where there is one; gives the UUID of its
    /// file system.
    async fn disk(
        &self,
        record: &store::Vm,
        snapshot: Option<&store::Snapshot>,
        saga: &mut Saga<'_>,
        disk: NewDisk,
    ) -> Result<[u8; 16]> {
        let path = self.paths().disk(record.id, disk);
        if host::fs::exists(&path) {
            return blocking(move || Ok(image::identity::uuid_of(&path)?)).await;
        }
        let templates = self.paths().templates();
        let (role, size) = match disk {
            NewDisk::Overlay => (image::template::Role::Overlay, record.sizes.overlay.0),
            NewDisk::Work => (image::template::Role::Work, record.sizes.disk.0),
        };
        let uuid = uuid::Uuid::new_v4().into_bytes();
        let unfinished = self.paths().unfinished_disk(record.id, disk);
        if let Some(snapshot) = snapshot {
            let saved = self.paths().snapshot(&snapshot.id).join(disk.file());
            let copy = move || {
                host::fs::remove(&unfinished)?;
                host::fs::clone_sparse(&saved, &unfinished)?;
                host::fs::rename(&unfinished, &path)?;
                // Its guest has it mounted.
                Ok(image::identity::uuid_of(&path)?)
            };
            return saga.step(Undo::Disk(disk), copy).await;
        }
        saga.step(Undo::Disk(disk), move || {
            let template = image::template::ensure(&templates, role, size).map_err(template_error)?;
            host::fs::remove(&unfinished)?;
            host::fs::clone_sparse(&template, &unfinished)?;
            image::template::set_uuid(&unfinished, uuid).map_err(template_error)?;
            // What has the disk's name is a whole disk, whatever a crash leaves.
            host::fs::rename(&unfinished, &path)?;
            Ok(uuid)
        })
        .await
    }

    /// The snapshot that the VM of `record` is being made of.
    fn snapshot_of(&self, record: &store::Vm) -> Result<Option<store::Snapshot>> {
        let Some(id) = &record.snapshot else { return Ok(None) };
        Ok(Some(self.store().snapshot_get(id)?.ok_or(store::Error::Missing)?))
    }

    /// Makes a guest that goes on from a snapshot the one of `config`. Until it has confirmed that it serves nobody.
    async fn configure(
        &self,
        operation: &Operation,
        record: &store::Vm,
        guest: &Guest,
        config: Config,
    ) -> Result<()> {
        let identity = Identity {
            hostname: config.hostname,
            machine_id: config.machine_id,
            env: config.env,
            ssh: config.ssh,
            network: config.network,
            entropy: model::hex::encode(&host::rand::bytes::<64>()),
            now_ms: host::clock::now_ms(),
        };
        let configured = operation.cancellable(async { Ok(guest.configure(&identity).await) }).await?;
        configured.map_err(|cause| Error::Guest {
            name: record.name.clone(),
            action: "take an identity of its own",
            cause: Box::new(cause),
        })
    }

    /// Waits until the guest is as ready as it is to be, its machine ends, or time is up.
    async fn wait_ready(
        &self,
        operation: &Operation,
        record: &store::Vm,
        image: &store::Image,
        machine: &Arc<dyn Machine>,
        guest: &Guest,
    ) -> Result<Health> {
        let bound = self.0.config.boot_timeout;
        let not_ready = |why: String| Error::NotReady {
            name: record.name.clone(),
            why,
            console: self.last_words(record.id, CONSOLE_LINES),
        };
        let ready = async {
            let answers = tokio::time::timeout(bound, guest.first_health()).await;
            let late = |_| not_ready(format!("its agent did not answer in {} s", bound.as_secs()));
            let health = answers.map_err(late)?.map_err(|e| not_ready(crate::chain(&e)))?;
            if record.ready.unwrap_or(image.ready) == Ready::Agent || health.init_ready.is_none() {
                return Ok(health);
            }
            operation.stage("waiting for init");
            match tokio::time::timeout(INIT, init_ready(guest)).await {
                Ok(answer) => answer.map_err(|e| not_ready(crate::chain(&e))),
                // The guest can be used, and its owner is the one to see what holds it up.
                Err(_) => {
                    let message =
                        format!("init is not through after {} s; going on without it", INIT.as_secs());
                    operation.emit(Event::Warning { message });
                    Ok(health)
                }
            }
        };
        operation
            .cancellable(async {
                tokio::select! {
                    result = ready => result,
                    end = machine.ended() => Err(not_ready(super::end::words(&end))),
                }
            })
            .await
    }
}

/// The agent's first answer that says that init is through.
async fn init_ready(guest: &Guest) -> Result<Health, GuestError> {
    loop {
        match guest.health().await {
            Err(GuestError::Timeout(_)) => {}
            Ok(health) if health.init_ready != Some(true) => tokio::time::sleep(READY_POLL).await,
            answer => return answer,
        }
    }
}

/// The names that the VMM sees in the run directory, its working directory.
const KERNEL: &str = "kernel";
const INITRD: &str = "initrd";

pub(super) fn file_of(role: DiskRole) -> &'static str {
    match role {
        DiskRole::Image => "image.ext4",
        DiskRole::Overlay => "overlay.ext4",
        DiskRole::Work => "work.ext4",
        DiskRole::Modules => "modules.ext4",
    }
}

/// Makes the run directory with links to what the VMM opens, so every path it is given is a plain name in it.
fn lay_out(
    world: &World,
    record: &store::Vm,
    run: &std::path::Path,
    kernel: &KernelFiles,
    machine: model::boot::Machine,
) -> Result<()> {
    let boot = kernel.boot(machine).map_err(|cause| Error::Payload { name: record.name.clone(), cause })?;
    // What an earlier start left is of no use to this one.
    host::fs::remove_all(run)?;
    host::fs::create_dir(run)?;
    let link = |target: &std::path::Path, name: &str| host::fs::symlink(target, &run.join(name));
    link(boot, KERNEL)?;
    link(&world.paths.rootfs(&record.image), file_of(DiskRole::Image))?;
    link(&world.paths.disk(record.id, NewDisk::Overlay), file_of(DiskRole::Overlay))?;
    link(&world.paths.disk(record.id, NewDisk::Work), file_of(DiskRole::Work))?;
    if let Some(modules) = &kernel.modules_disk {
        link(modules, file_of(DiskRole::Modules))?;
    }
    Ok(())
}

fn plan(
    record: &store::Vm,
    place: Place,
    command_line: String,
    secret: Secret,
    modules_disk: bool,
    nic: Option<Nic>,
) -> MachinePlan {
    let there = |role: &DiskRole| *role != DiskRole::Modules || modules_disk;
    let disks =
        DiskRole::ALL.into_iter().filter(there).map(|role| Disk { role, file: file_of(role).to_owned() });
    MachinePlan {
        place,
        name: record.name.to_string(),
        kernel: KERNEL.to_owned(),
        initrd: INITRD.to_owned(),
        command_line,
        vcpus: record.sizes.vcpu.0,
        memory: record.sizes.memory.0,
        disks: disks.collect(),
        nic,
        limits: Limits::default(),
        secret,
        saved: None,
    }
}

fn template_error(cause: image::template::Error) -> Error {
    Error::Template(Box::new(cause))
}
