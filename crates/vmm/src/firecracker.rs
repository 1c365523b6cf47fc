//! Firecracker: one process for each machine, with KVM.
//!
//! It is told its machine over its API socket, which it makes itself. The console is its standard output, a named pipe of ours
//! that takes what it has room for and holds up nobody; the agent is reached by vsock, whose host side is one more socket of its; its
//! log and its counters come through two more pipes. All of them stay in the run directory, where the next daemon finds them.
//!
//! # How a machine ends
//! Firecracker ends by itself only when the guest resets its machine. A guest that powers off halts, and says so on its console,
//! where it is heard and the process ended.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use host::{
    pipe,
    proc::{Command, Exit, Gated, Process, ProcessId, Program, Signal},
    sock,
};
use model::{boot, boot::DiskAccess, network::Link};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixStream, unix::pipe::Receiver},
    sync::{Notify, Semaphore, watch},
    time::{sleep, timeout},
};
use wire::{guest::VSOCK_PORT, session::Secret};

use crate::{
    AdoptError, AgentError, Backend, Channel, ControlError, Disk, End, Future, LaunchError, Machine,
    MachinePlan, MachineStatus, Place, Report, Snapshots, SpawnError, Spawned, card,
    console::Console,
    end::{self, Told},
    held::Held,
    launch::{ADOPTION, COMING_UP, KILLED, Unsettled, blocking, confine, plain_name, stream},
    probe::{ProbeError, Settings},
    task::Task,
    watcher::{self, Watcher},
};
use api::Api;
use said::Said;
use version::{Ability, Version};

mod api;
mod probe;
mod said;
mod snapshot;
mod version;

pub(crate) use probe::PRODUCT;

const API_SOCKET: &str = "api.sock";
const AGENT_SOCKET: &str = "agent.sock";
const CONSOLE_PIPE: &str = "console.pipe";

/// Between two tries to reach an agent that does not listen yet.
const RECONNECT: Duration = Duration::from_millis(10);
/// How long Firecracker may take to say whether the guest takes a connection. Its own patience is 2 s.
const HANDSHAKE: Duration = Duration::from_secs(4);

/// The Firecracker that is used where none is configured. It is not looked at.
#[must_use]
pub fn installed() -> Option<PathBuf> {
    PRODUCT.installed()
}

/// Firecracker as it was found on this host.
#[derive(Debug, Clone)]
pub struct Firecracker {
    report: Report,
}

impl Firecracker {
    /// Looks for Firecracker, its version, and whether guests run with KVM. Blocks for up to some seconds the first time after a
    /// boot of the host; later it is read from the cache.
    ///
    /// # Errors
    /// Where there is no Firecracker that can be used.
    pub fn find(settings: &Settings) -> Result<Self, ProbeError> {
        probe::find(settings).map(|report| Self { report })
    }
}

impl Backend for Firecracker {
    fn report(&self) -> &Report {
        &self.report
    }

    fn machine(&self) -> boot::Machine {
        boot::Machine::Firecracker
    }

    fn spawn(&self, plan: MachinePlan) -> Future<'_, Result<Box<dyn Spawned>, SpawnError>> {
        let program = self.report.program.clone();
        Box::pin(async move {
            let (gated, console, pipes, tap, plan) = blocking(move || {
                let Place { run_dir, log_dir } = &plan.place;
                plain_name("name", &plan.name)?;
                let console = run_dir.join(CONSOLE_PIPE);
                pipe::make(&console)?;
                let writer = pipe::writer(&console)?;
                let reader = pipe::reader(&console)?;
                let log = watcher::fresh_log(log_dir)?;
                let pipes = Said::make(run_dir)?;
                let mut command = Command::new(Program::Firecracker(program))
                    .dir(run_dir)
                    .args(["--api-sock", API_SOCKET, "--id", &plan.name])
                    .args(["--log-path", said::LOG, "--level", "Warning"])
                    .args(["--metrics-path", said::METRICS])
                    .stdout(writer)
                    .stderr(log);
                lock_disks(&mut command, &plan)?;
                let tap = plan.nic.as_ref().map(|nic| card::name(&mut command, nic)).transpose()?;
                let gated = command.gated()?;
                confine(&gated, &plan)?;
                Ok::<_, SpawnError>((gated, reader, pipes, tap, plan))
            })
            .await?;
            let halted = Arc::new(Notify::new());
            let console = read_console(console, &plan.place, halted.clone())?;
            let said = Said::listen(&plan.place)?;
            Ok(Box::new(Waiting { gated, console, said, pipes, halted, tap, plan }) as Box<dyn Spawned>)
        })
    }

    fn adopt(
        &self,
        id: ProcessId,
        place: Place,
        _secret: Secret,
    ) -> Future<'_, Result<Option<Arc<dyn Machine>>, AdoptError>> {
        Box::pin(adopt(id, place))
    }
}

/// Locks the disks of `plan` that are written, for as long as the process of `command` lives. Firecracker itself locks none.
fn lock_disks(command: &mut Command, plan: &MachinePlan) -> host::Result<()> {
    let written = |disk: &&Disk| disk.role.access() == DiskAccess::ReadWrite;
    for disk in plan.disks.iter().filter(written) {
        let path = plan.place.run_dir.join(&disk.file);
        // One that is not there is not to be made by this.
        host::fs::size(&path)?;
        let taken = || host::Error::path("lock", &path, std::io::ErrorKind::ResourceBusy);
        let _ = command.pass(host::lock::try_exclusive(&path)?.ok_or_else(taken)?);
    }
    Ok(())
}

/// [`Backend::adopt`] without a probe: a machine that runs is taken hold of also where its program is being replaced.
///
/// # Errors
/// As [`Backend::adopt`].
pub async fn adopt(id: ProcessId, place: Place) -> Result<Option<Arc<dyn Machine>>, AdoptError> {
    let Some(process) = id.open().map_err(AdoptError::Process)? else { return Ok(None) };
    let api = Api::new(place.run_dir.join(API_SOCKET));
    let halted = Arc::new(Notify::new());
    let reached = async {
        let console = read_console(pipe::reader(&place.run_dir.join(CONSOLE_PIPE))?, &place, halted.clone())?;
        let said = Said::listen(&place)?;
        let answer = timeout(ADOPTION, api.instance()).await.map_err(|_| ControlError::Timeout(ADOPTION))?;
        Ok::<_, ControlError>((console, said, answer?.1))
    };
    match reached.await {
        Ok((console, said, version)) => {
            let watcher = Watcher { process, place: place.clone(), console };
            let machine = FirecrackerMachine::new(id, place, (api, version), watcher, said, halted)?;
            Ok(Some(Arc::new(machine) as Arc<dyn Machine>))
        }
        Err(_) if !process.is_alive() => {
            let _ = process.reap();
            Ok(None)
        }
        Err(cause) => Err(AdoptError::Control { id, cause }),
    }
}

/// Reads the console; `halted` is told when the guest says there that it has stopped for good.
fn read_console(pipe: std::fs::File, place: &Place, halted: Arc<Notify>) -> host::Result<Console> {
    let pipe = Receiver::from_file(pipe).map_err(|e| host::Error::new("use", "the machine's console", e))?;
    Console::start(pipe, &place.log_dir, move |said| {
        if end::says_halted(said) {
            halted.notify_one();
        }
    })
}

/// A Firecracker before its exec.
struct Waiting {
    gated: Gated,
    console: Console,
    said: Said,
    /// They keep what it says of itself open until it has opened that.
    pipes: [std::fs::File; 2],
    halted: Arc<Notify>,
    /// The name of its tap, where it has a card.
    tap: Option<String>,
    plan: MachinePlan,
}

impl Spawned for Waiting {
    fn id(&self) -> &ProcessId {
        self.gated.id()
    }

    fn release(self: Box<Self>) -> Future<'static, Result<Arc<dyn Machine>, LaunchError>> {
        Box::pin(async move {
            let Self { gated, console, said, pipes, halted, tap, plan } = *self;
            let (id, place) = (gated.id().clone(), plan.place.clone());
            if let Some(saved) = &plan.saved {
                snapshot::prepare(place.run_dir.clone(), saved.clone()).await?;
            }
            let released = blocking(|| gated.release().map(Unsettled::new)).await;
            let unsettled = released.map_err(LaunchError::Execute)?;
            let api = Api::new(place.run_dir.join(API_SOCKET));
            let start = async {
                let version = api.appear().await?;
                match plan.saved {
                    // In a namespace of its own it is called as the saved machine's was.
                    Some(_) => {
                        let on_bridge = plan.nic.is_some_and(|nic| nic.link == Link::Bridge);
                        snapshot::restore(&api, tap.as_deref().filter(|_| on_bridge)).await
                    }
                    None => api.start(version, &plan, AGENT_SOCKET, tap.as_deref()).await,
                }
                .map(|()| version)
            };
            let started = tokio::select! {
                started = timeout(COMING_UP, start) => {
                    started.unwrap_or(Err(ControlError::Timeout(COMING_UP)))
                }
                ended = watcher::ended(unsettled.process()) => ended.and(Err(ControlError::Ended)),
            };
            drop(pipes);
            match started {
                Ok(version) => {
                    let watcher = Watcher { process: unsettled.settle(), place: place.clone(), console };
                    let machine = FirecrackerMachine::new(id, place, (api, version), watcher, said, halted);
                    machine.map(|machine| Arc::new(machine) as _).map_err(LaunchError::Execute)
                }
                Err(cause) => Err(unsettled.launch_error(&place, cause, said.ended()).await),
            }
        })
    }
}

/// A Firecracker that runs, or did.
struct FirecrackerMachine {
    id: ProcessId,
    process: Process,
    place: Place,
    api: Api,
    version: Version,
    end: watch::Receiver<Option<End>>,
    /// It was told to quit.
    quitting: Arc<AtomicBool>,
    /// One session with the agent at a time.
    agent: Arc<Semaphore>,
    _watcher: Task<()>,
    _halt: Task<()>,
}

impl FirecrackerMachine {
    fn new(
        id: ProcessId,
        place: Place,
        (api, version): (Api, Version),
        watcher: Watcher,
        said: Said,
        halted: Arc<Notify>,
    ) -> host::Result<Self> {
        let process = watcher.process.try_clone()?;
        let quitting = Arc::new(AtomicBool::new(false));
        let (sender, end) = watch::channel(None);
        let watching = watcher.run(sender, said.ended(), {
            let quitting = quitting.clone();
            move |exit, console| told(exit, console, quitting.load(Ordering::Relaxed))
        });
        let halt = Task::spawn({
            let process = process.try_clone()?;
            async move {
                halted.notified().await;
                if let Err(error) = process.signal(Signal::Kill) {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "a halted machine cannot be ended"
                    );
                }
            }
        });
        let agent = Arc::new(Semaphore::new(1));
        Ok(Self { id, process, place, api, version, end, quitting, agent, _watcher: watching, _halt: halt })
    }
}

/// What the end of the process tells, with the end of the console. How it ended is not known of one that was adopted.
fn told(exit: Option<Exit>, console: &[u8], quitting: bool) -> Option<Told> {
    match exit {
        _ if end::says_halted(console) => Some(Told::Poweroff),
        Some(Exit::Code(0)) => Some(Told::Reset),
        None if end::says_reset(console) => Some(Told::Reset),
        // It ends by the signal, which it does not handle.
        Some(Exit::Signal(TERM)) | None if quitting => Some(Told::Quit),
        Some(Exit::Code(_) | Exit::Signal(_)) | None => None,
    }
}

/// The number of [`Signal::Term`].
const TERM: i32 = 15;

impl Machine for FirecrackerMachine {
    fn id(&self) -> &ProcessId {
        &self.id
    }

    fn ended(&self) -> Future<'static, End> {
        Box::pin(watcher::end_of(self.end.clone()))
    }

    fn connect_agent(&self) -> Future<'static, Result<Channel, AgentError>> {
        let (permits, ended) = (self.agent.clone(), self.ended());
        let path = self.place.run_dir.join(AGENT_SOCKET);
        let connect = async move {
            let permit = permits.acquire_owned().await.expect("never closed");
            loop {
                match sock::connect(&path) {
                    Ok(socket) => {
                        if let Ok(Some(stream)) = timeout(HANDSHAKE, shake_hands(stream(socket)?)).await {
                            return Ok(Box::new(Held::new(stream, permit)) as Channel);
                        }
                    }
                    // Gone with its machine, whose end the other branch tells.
                    Err(e) if e.is_missing() || e.kind() == std::io::ErrorKind::ConnectionRefused => {}
                    Err(e) => return Err(e.into()),
                }
                sleep(RECONNECT).await;
            }
        };
        Box::pin(async move {
            tokio::select! {
                connected = connect => connected,
                _ = ended => Err(AgentError::Ended),
            }
        })
    }

    /// Control, Alt and Delete: a machine of Firecracker has no other button. Inits restart by it, which ends the machine.
    fn powerdown(&self) -> Future<'_, Result<(), ControlError>> {
        Box::pin(self.api.press_ctrl_alt_del())
    }

    /// It has no command for that. What the guest wrote is in files of the host already, in order.
    fn quit(&self, grace: Duration) -> Future<'_, Result<(), ControlError>> {
        Box::pin(async move {
            self.quitting.store(true, Ordering::Relaxed);
            self.process.signal(Signal::Term)?;
            match watcher::gone(self.end.clone(), grace).await {
                Ok(()) => Ok(()),
                Err(_) => self.kill().await,
            }
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
        Box::pin(async move {
            let path = self.place.run_dir.join(&disk.file);
            blocking(move || host::fs::grow(&path, bytes)).await?;
            self.api.refresh(disk.role, &disk.file).await
        })
    }

    fn snapshots(&self) -> Option<&dyn Snapshots> {
        self.version.can(Ability::Restore).then_some(self as &dyn Snapshots)
    }

    fn status(&self) -> Future<'_, Result<MachineStatus, ControlError>> {
        Box::pin(async {
            match self.api.status().await {
                Err(ControlError::Ended) => Ok(MachineStatus::Ended),
                answer => answer,
            }
        })
    }
}

/// Has Firecracker connect `stream` to the agent's port (`docs/vsock.md` of its source); `None` where nobody listens there.
async fn shake_hands(mut stream: UnixStream) -> Option<UnixStream> {
    /// `OK ` and a port.
    const LONGEST: usize = 16;
    stream.write_all(format!("CONNECT {VSOCK_PORT}\n").as_bytes()).await.ok()?;
    let mut line = Vec::new();
    // What follows the line is the agent's.
    while line.last() != Some(&b'\n') && line.len() < LONGEST {
        line.push(stream.read_u8().await.ok()?);
    }
    line.starts_with(b"OK ").then_some(stream)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_told_by_exit_and_console() {
        let halted = b"reboot: System halted\n".as_slice();
        let restarting = b"reboot: Restarting system\n".as_slice();
        let kill = Some(Exit::Signal(9));
        for (exit, console, quitting, expect) in [
            (kill, halted, false, Some(Told::Poweroff)),
            (None, halted, true, Some(Told::Poweroff)),
            (Some(Exit::Code(0)), restarting, false, Some(Told::Reset)),
            (Some(Exit::Code(0)), b"", true, Some(Told::Reset)),
            (None, restarting, false, Some(Told::Reset)),
            (Some(Exit::Signal(TERM)), b"", true, Some(Told::Quit)),
            (Some(Exit::Signal(TERM)), b"", false, None),
            (None, b"", true, Some(Told::Quit)),
            (kill, b"", true, None),
            (kill, restarting, false, None),
            (Some(Exit::Code(148)), b"", false, None),
            (None, b"", false, None),
        ] {
            assert_eq!(told(exit, console, quitting), expect, "{exit:?} {quitting}");
        }
    }
}
