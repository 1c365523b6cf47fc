//! A backend without a guest, for tests of what stands on this crate.
//!
//! Its processes are real, they go through the gate and can be killed and adopted; only what runs in them is not a machine. The
//! "guest" is a function of the test that is handed the other end of every channel.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use host::proc::{Command, Gated, Process, ProcessId, Program, Signal};
use model::{boot, end::MachineEnd, network::Mac};
use tokio::{
    io::DuplexStream,
    sync::{Semaphore, watch},
};
use wire::session::Secret;

use crate::{
    Accelerator, AdoptError, AgentError, Backend, Channel, ControlError, Disk, End, Future, LaunchError,
    Machine, MachinePlan, MachineStatus, Place, Report, STATE, SaveError, Saved, Snapshots, SpawnError,
    Spawned,
    held::Held,
    launch::{KILLED, confine},
    ring::Ring,
    snapshot,
    task::Task,
    watcher,
};

/// What a channel holds on its way.
const BUFFER: usize = 64 << 10;

/// The guest: serves one channel until its stream ends.
pub type Guest = dyn Fn(DuplexStream, Control) -> Future<'static, ()> + Send + Sync;

/// What the guest makes of the power button.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PowerButton {
    /// It powers off.
    Heard,
    /// Nothing.
    Ignored,
}

/// What fails next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// [`Backend::spawn`].
    Spawn,
    /// [`Spawned::release`].
    Release,
}

/// The backend. Clones are the same.
#[derive(Clone)]
pub struct Fake {
    report: Report,
    guest: Arc<Guest>,
    button: PowerButton,
    fault: Arc<Mutex<Option<Fault>>>,
    /// How machines ended that their guests or their owner ended. A leaf: held for one look or one entry.
    ends: Arc<Mutex<HashMap<ProcessId, MachineEnd>>>,
    memories: Memories,
}

/// What machines have in memory. A leaf: held for one look or one entry.
type Memories = Arc<Mutex<HashMap<ProcessId, Memory>>>;

/// What a machine has in memory.
#[derive(Debug, Clone, Default)]
struct Memory {
    bytes: Vec<u8>,
    /// It is paused.
    held: bool,
    /// The address of its card.
    mac: Option<Mac>,
}

impl Fake {
    /// A backend whose guests are `guest`.
    pub fn new(guest: impl Fn(DuplexStream, Control) -> Future<'static, ()> + Send + Sync + 'static) -> Self {
        let report = Report {
            backend: "fake",
            program: PathBuf::from("/bin/sleep"),
            version: "1".to_owned(),
            accelerator: Accelerator::Tcg,
            untested: None,
            why_not_kvm: Some("it is a fake".to_owned()),
        };
        let (fault, ends, memories) = (Arc::default(), Arc::default(), Arc::default());
        Self { report, guest: Arc::new(guest), button: PowerButton::Heard, fault, ends, memories }
    }

    /// The same with guests that take the power button so.
    #[must_use]
    pub fn with_power_button(self, button: PowerButton) -> Self {
        Self { button, ..self }
    }

    /// The same in another version.
    #[must_use]
    pub fn with_version(self, version: &str) -> Self {
        let report = Report { version: version.to_owned(), ..self.report };
        Self { report, ..self }
    }

    /// Makes the next call of that kind fail.
    pub fn fail_next(&self, fault: Fault) {
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = Some(fault);
    }

    /// The machines that live and are paused.
    #[must_use]
    pub fn held(&self) -> Vec<ProcessId> {
        let memories = self.memories.lock().unwrap_or_else(PoisonError::into_inner);
        let lives = |id: &ProcessId| matches!(id.open(), Ok(Some(process)) if process.is_alive());
        let held = memories.iter().filter(|(id, memory)| memory.held && lives(id));
        held.map(|(id, _)| id.clone()).collect()
    }

    /// Does something to the memory of machine `id`.
    fn memory<T>(&self, id: &ProcessId, act: impl FnOnce(&mut Memory) -> T) -> T {
        act(self.memories.lock().unwrap_or_else(PoisonError::into_inner).entry(id.clone()).or_default())
    }

    fn fails(&self, fault: Fault) -> bool {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner).take_if(|next| *next == fault).is_some()
    }
}

/// What a guest can do to its machine.
#[derive(Clone)]
pub struct Control {
    id: ProcessId,
    log_dir: PathBuf,
    fake: Fake,
}

impl Control {
    /// What the machine has in memory: what its guest put there, or what that of a machine did which was saved.
    #[must_use]
    pub fn memory(&self) -> Vec<u8> {
        self.fake.memory(&self.id, |memory| memory.bytes.clone())
    }

    /// Whether the machine has not ended.
    #[must_use]
    pub fn lives(&self) -> bool {
        matches!(self.id.open(), Ok(Some(process)) if process.is_alive())
    }

    /// Puts `bytes` there.
    pub fn remember(&self, bytes: &[u8]) {
        self.fake.memory(&self.id, |memory| memory.bytes = bytes.to_vec());
    }

    /// The address of the machine's network card, if it has one.
    #[must_use]
    pub fn mac(&self) -> Option<Mac> {
        self.fake.memory(&self.id, |memory| memory.mac)
    }

    /// Ends the machine in that way.
    pub fn end(&self, what: MachineEnd) {
        let ends = &self.fake.ends;
        ends.lock().unwrap_or_else(PoisonError::into_inner).entry(self.id.clone()).or_insert(what);
        if let Ok(Some(process)) = self.id.open() {
            let _ = process.signal(Signal::Kill);
        }
    }

    /// Writes `text` to the machine's console.
    ///
    /// # Errors
    /// Where its log cannot be written.
    pub fn say(&self, text: &str) -> host::Result<()> {
        Ring::open(&self.log_dir, Instant::now())?.write(text.as_bytes(), Instant::now())
    }
}

impl Backend for Fake {
    fn report(&self) -> &Report {
        &self.report
    }

    fn machine(&self) -> boot::Machine {
        boot::Machine::Pc
    }

    fn spawn(&self, plan: MachinePlan) -> Future<'_, Result<Box<dyn Spawned>, SpawnError>> {
        Box::pin(async move {
            if self.fails(Fault::Spawn) {
                return Err(SpawnError::Plan { field: "fault", value: "spawn".to_owned() });
            }
            // A while, not for ever: what a killed test leaves behind ends by itself.
            let mut command = Command::new(Program::Qemu(self.report.program.clone()))
                .arg("900")
                .dir(&plan.place.run_dir)
                .stderr(watcher::fresh_log(&plan.place.log_dir)?);
            if let Some(nic) = &plan.nic {
                let _ = crate::card::open(&mut command, nic)?;
            }
            let gated = command.gated()?;
            confine(&gated, &plan)?;
            let (place, mac, saved) = (plan.place, plan.nic.map(|nic| nic.card.mac), plan.saved);
            Ok(Box::new(Waiting { gated, place, mac, saved, fake: self.clone() }) as Box<dyn Spawned>)
        })
    }

    fn adopt(
        &self,
        id: ProcessId,
        place: Place,
        _secret: Secret,
    ) -> Future<'_, Result<Option<Arc<dyn Machine>>, AdoptError>> {
        Box::pin(async move {
            let Some(process) = id.open().map_err(AdoptError::Process)? else { return Ok(None) };
            Ok(Some(Arc::new(FakeMachine::new(process, place, self.clone())?) as Arc<dyn Machine>))
        })
    }
}

struct Waiting {
    gated: Gated,
    place: Place,
    mac: Option<Mac>,
    saved: Option<Saved>,
    fake: Fake,
}

impl Spawned for Waiting {
    fn id(&self) -> &ProcessId {
        self.gated.id()
    }

    fn release(self: Box<Self>) -> Future<'static, Result<Arc<dyn Machine>, LaunchError>> {
        Box::pin(async move {
            let Self { gated, place, mac, saved, fake } = *self;
            if fake.fails(Fault::Release) {
                return Err(LaunchError::Ended { exit: None, lines: vec!["a fault".to_owned()], hint: None });
            }
            let mut bytes = Vec::new();
            if let Some(saved) = saved {
                saved.read(STATE, |piece| {
                    bytes.extend_from_slice(piece);
                    Ok(())
                })?;
            }
            let process = gated.release().map_err(LaunchError::Execute)?;
            fake.memory(process.id(), |memory| (memory.bytes, memory.mac) = (bytes, mac));
            let machine = FakeMachine::new(process, place, fake).map_err(LaunchError::Execute)?;
            Ok(Arc::new(machine) as Arc<dyn Machine>)
        })
    }
}

struct FakeMachine {
    process: Process,
    run_dir: PathBuf,
    fake: Fake,
    control: Control,
    end: watch::Receiver<Option<End>>,
    agent: Arc<Semaphore>,
    _watcher: Task<()>,
}

impl FakeMachine {
    fn new(process: Process, place: Place, fake: Fake) -> host::Result<Self> {
        let control =
            Control { id: process.id().clone(), log_dir: place.log_dir.clone(), fake: fake.clone() };
        let run_dir = place.run_dir.clone();
        let (sender, end) = watch::channel(None);
        let (watched, ends) = (process.try_clone()?, fake.ends.clone());
        let watcher = Task::spawn(async move {
            let _ = watcher::ended(&watched).await;
            let exit = watched.reap().ok().flatten();
            let what = ends.lock().unwrap_or_else(PoisonError::into_inner).get(watched.id()).copied();
            let what = what.unwrap_or(MachineEnd::VmmDied);
            let vmm_lines =
                if what == MachineEnd::VmmDied { watcher::log_lines(&place.log_dir) } else { Vec::new() };
            sender.send_replace(Some(End { what, exit, vmm_lines }));
        });
        Ok(Self {
            process,
            run_dir,
            fake,
            control,
            end,
            agent: Arc::new(Semaphore::new(1)),
            _watcher: watcher,
        })
    }
}

impl Machine for FakeMachine {
    fn id(&self) -> &ProcessId {
        self.process.id()
    }

    fn ended(&self) -> Future<'static, End> {
        let end = self.end.clone();
        Box::pin(watcher::end_of(end))
    }

    fn connect_agent(&self) -> Future<'static, Result<Channel, AgentError>> {
        let (permits, ended) = (self.agent.clone(), self.ended());
        let (guest, control) = (self.fake.guest.clone(), self.control.clone());
        let lost = self.ended();
        Box::pin(async move {
            let permit = tokio::select! {
                permit = permits.acquire_owned() => permit.expect("never closed"),
                _ = ended => return Err(AgentError::Ended),
            };
            if control.id.open()?.is_none() {
                return Err(AgentError::Ended);
            }
            let (ours, theirs) = tokio::io::duplex(BUFFER);
            // The guest goes with its machine, and its stream with it.
            tokio::spawn(async move {
                tokio::select! {
                    () = guest(theirs, control) => {}
                    _ = lost => {}
                }
            });
            Ok(Box::new(Held::new(ours, permit)) as Channel)
        })
    }

    fn powerdown(&self) -> Future<'_, Result<(), ControlError>> {
        Box::pin(async {
            if !self.process.is_alive() {
                return Err(ControlError::Ended);
            }
            match self.fake.button {
                PowerButton::Heard => self.control.end(MachineEnd::Poweroff),
                PowerButton::Ignored => {}
            }
            Ok(())
        })
    }

    fn quit(&self, _grace: Duration) -> Future<'_, Result<(), ControlError>> {
        Box::pin(async {
            self.control.end(MachineEnd::Quit);
            watcher::gone(self.end.clone(), KILLED).await
        })
    }

    fn signal(&self, signal: Signal) -> Result<(), ControlError> {
        Ok(self.process.signal(signal)?)
    }

    fn kill(&self) -> Future<'_, Result<(), ControlError>> {
        Box::pin(async {
            self.process.signal(Signal::Kill)?;
            watcher::gone(self.end.clone(), KILLED).await
        })
    }

    fn grow_disk(&self, disk: Disk, bytes: u64) -> Future<'_, Result<(), ControlError>> {
        Box::pin(async move { Ok(host::fs::grow(&self.run_dir.join(disk.file), bytes)?) })
    }

    fn status(&self) -> Future<'_, Result<MachineStatus, ControlError>> {
        let held = self.fake.memory(self.process.id(), |memory| memory.held);
        let status = match self.process.is_alive() {
            true if held => MachineStatus::Paused,
            true => MachineStatus::Running,
            false => MachineStatus::Ended,
        };
        Box::pin(async move { Ok(status) })
    }

    fn snapshots(&self) -> Option<&dyn Snapshots> {
        Some(self)
    }
}

impl FakeMachine {
    fn hold(&self, held: bool) -> Result<(), ControlError> {
        if !self.process.is_alive() {
            return Err(ControlError::Ended);
        }
        self.fake.memory(self.process.id(), |memory| memory.held = held);
        Ok(())
    }
}

impl Snapshots for FakeMachine {
    fn pause(&self) -> Future<'_, Result<(), ControlError>> {
        Box::pin(async { self.hold(true) })
    }

    fn save(&self, directory: PathBuf, limit: u64) -> Future<'_, Result<Saved, SaveError>> {
        Box::pin(async move {
            let memory = self.fake.memory(self.process.id(), |memory| memory.clone());
            if !memory.held {
                let reason = "it runs".to_owned();
                return Err(ControlError::Refused { command: "save", reason }.into());
            }
            let file = snapshot::collect(memory.bytes.as_slice(), &directory, STATE, limit)?;
            Ok(Saved { directory, files: vec![file] })
        })
    }

    fn resume(&self) -> Future<'_, Result<(), ControlError>> {
        Box::pin(async { self.hold(false) })
    }
}
