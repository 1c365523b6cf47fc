//! QEMU: one process for each machine, in software or with KVM.
//!
//! Its three sockets (control, console, agent) are made and listened at by us and handed to it, so each can be connected to
//! before QEMU runs: nothing waits for a file to appear, and no byte of the console is lost. They stay in the run
//! directory, where the next daemon finds them.

use std::{
    os::unix::net::{UnixListener, UnixStream as StdStream},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use host::{
    proc::{Command, Gated, Process, ProcessId, Program, Signal},
    sock,
};
use model::boot;
use serde_json::json;
use tokio::{
    net::UnixStream,
    sync::{Semaphore, watch},
    time::timeout,
};
use wire::session::Secret;

use crate::{
    AdoptError, AgentError, Backend, Channel, ControlError, Disk, End, Future, LaunchError, Machine,
    MachinePlan, MachineStatus, Place, Report, Snapshots, SpawnError, Spawned, card, channel,
    console::Console,
    end::Told,
    launch::{ADOPTION, COMING_UP, KILLED, Unsettled, blocking, confine, stream},
    probe::{ProbeError, Settings},
    qmp::Qmp,
    watcher::{self, Watcher},
};
use snapshot::Feed;

mod arguments;
mod probe;
mod snapshot;

pub(crate) use probe::PRODUCT;

/// The QEMU that is used where none is configured. It is not looked at.
#[must_use]
pub fn installed() -> Option<PathBuf> {
    PRODUCT.installed()
}

const CONTROL_SOCKET: &str = "control.sock";
const CONSOLE_SOCKET: &str = "console.sock";
const AGENT_SOCKET: &str = "agent.sock";

/// Between two looks whether an agent socket that could not be used is usable again.
const RECONNECT: Duration = Duration::from_millis(100);

/// QEMU as it was found on this host.
#[derive(Debug, Clone)]
pub struct Qemu {
    report: Report,
}

impl Qemu {
    /// Looks for QEMU, its version, and whether guests run with KVM. Blocks for up to some seconds the first time after a
    /// boot of the host; later it is read from the cache.
    ///
    /// # Errors
    /// Where there is no QEMU that can be used.
    pub fn find(settings: &Settings) -> Result<Self, ProbeError> {
        probe::find(settings).map(|report| Self { report })
    }
}

impl Backend for Qemu {
    fn report(&self) -> &Report {
        &self.report
    }

    fn machine(&self) -> boot::Machine {
        boot::Machine::Pc
    }

    fn spawn(&self, plan: MachinePlan) -> Future<'_, Result<Box<dyn Spawned>, SpawnError>> {
        let (program, accelerator) = (self.report.program.clone(), self.report.accelerator);
        Box::pin(async move {
            let (place, secret) = (plan.place.clone(), plan.secret.clone());
            let (gated, control, console, feed) = blocking(move || {
                let run_dir = &plan.place.run_dir;
                let mut command = Command::new(Program::Qemu(program)).dir(run_dir);
                let mut socket = |name: &str| -> host::Result<_> {
                    let path = run_dir.join(name);
                    let listener: UnixListener = sock::listen(&path)?;
                    let client = sock::connect(&path)?;
                    Ok((command.pass(listener), client))
                };
                let (control_fd, control) = socket(CONTROL_SOCKET)?;
                let (console_fd, console) = socket(CONSOLE_SOCKET)?;
                // Its one client comes later, and until then may not be another one.
                let agent_fd = command.pass(sock::listen(&run_dir.join(AGENT_SOCKET))?);
                let tap = plan.nic.as_ref().map(|nic| card::open(&mut command, nic)).transpose()?.flatten();
                let (feed, saved) = match &plan.saved {
                    Some(saved) => {
                        let (stream, theirs) = StdStream::pair()
                            .map_err(|e| host::Error::new("make", "a pair of sockets", e))?;
                        (Some(Feed { saved: saved.clone(), stream }), Some(command.pass(theirs)))
                    }
                    None => (None, None),
                };
                let sockets = arguments::Sockets {
                    control: control_fd,
                    console: console_fd,
                    agent: agent_fd,
                    tap,
                    saved,
                };
                let command = command
                    .args(arguments::arguments(&plan, accelerator, sockets)?)
                    .stderr(watcher::fresh_log(&plan.place.log_dir)?);
                let gated = command.gated()?;
                confine(&gated, &plan)?;
                Ok::<_, SpawnError>((gated, control, console, feed))
            })
            .await?;
            let console = Console::start(stream(console)?, &place.log_dir, |_| {})?;
            let control = stream(control)?;
            Ok(Box::new(Waiting { gated, control, console, feed, place, secret }) as Box<dyn Spawned>)
        })
    }

    fn adopt(
        &self,
        id: ProcessId,
        place: Place,
        secret: Secret,
    ) -> Future<'_, Result<Option<Arc<dyn Machine>>, AdoptError>> {
        Box::pin(adopt(id, place, secret))
    }
}

/// [`Backend::adopt`] without a probe: a machine that runs is taken hold of also where its program is being replaced.
///
/// # Errors
/// As [`Backend::adopt`].
pub async fn adopt(
    id: ProcessId,
    place: Place,
    secret: Secret,
) -> Result<Option<Arc<dyn Machine>>, AdoptError> {
    let Some(process) = id.open().map_err(AdoptError::Process)? else { return Ok(None) };
    let connect = |name: &str| stream(sock::connect(&place.run_dir.join(name))?);
    let negotiated = async {
        let console = Console::start(connect(CONSOLE_SOCKET)?, &place.log_dir, |_| {})?;
        let (qmp, listener) = Qmp::negotiate(connect(CONTROL_SOCKET)?, ADOPTION).await?;
        Ok::<_, ControlError>((console, qmp, listener))
    };
    match negotiated.await {
        Ok((console, qmp, listener)) => {
            let watcher = Watcher { process, place: place.clone(), console };
            let machine = QemuMachine::new(id, place, secret, qmp, listener, watcher)?;
            Ok(Some(Arc::new(machine) as Arc<dyn Machine>))
        }
        Err(_) if !process.is_alive() => {
            let _ = process.reap();
            Ok(None)
        }
        Err(cause) => Err(AdoptError::Control { id, cause }),
    }
}

impl From<host::Error> for AdoptError {
    fn from(error: host::Error) -> Self {
        Self::Process(error)
    }
}

/// A QEMU before its exec.
struct Waiting {
    gated: Gated,
    control: UnixStream,
    console: Console,
    feed: Option<Feed>,
    place: Place,
    secret: Secret,
}

impl Spawned for Waiting {
    fn id(&self) -> &ProcessId {
        self.gated.id()
    }

    fn release(self: Box<Self>) -> Future<'static, Result<Arc<dyn Machine>, LaunchError>> {
        Box::pin(async move {
            let Self { gated, control, console, feed, place, secret } = *self;
            let id = gated.id().clone();
            let unsettled = blocking(|| gated.release().map(Unsettled::new));
            let unsettled = unsettled.await.map_err(LaunchError::Execute)?;
            let negotiated = tokio::select! {
                negotiated = Qmp::negotiate(control, COMING_UP) => negotiated,
                ended = watcher::ended(unsettled.process()) => ended.and(Err(ControlError::Ended)),
            };
            let up = match (negotiated, feed) {
                (Ok((qmp, listener)), Some(feed)) => {
                    let restored = feed.restore(&qmp).await?;
                    restored.map(|()| (qmp, listener))
                }
                (negotiated, _) => negotiated,
            };
            match up {
                Ok((qmp, listener)) => {
                    let process = unsettled.settle();
                    let watcher = Watcher { process, place: place.clone(), console };
                    let machine = QemuMachine::new(id, place, secret, qmp, listener, watcher);
                    machine.map(|machine| Arc::new(machine) as _).map_err(LaunchError::Execute)
                }
                Err(cause) => Err(unsettled.launch_error(&place, cause, std::future::ready(())).await),
            }
        })
    }
}

/// A QEMU that runs, or did.
struct QemuMachine {
    id: ProcessId,
    process: Process,
    place: Place,
    secret: Secret,
    qmp: Arc<Qmp>,
    end: watch::Receiver<Option<End>>,
    /// One session with the agent at a time: a second client of the port would connect and hear nothing.
    agent: Arc<Semaphore>,
    _watcher: crate::task::Task<()>,
}

impl QemuMachine {
    fn new(
        id: ProcessId,
        place: Place,
        secret: Secret,
        qmp: Qmp,
        listener: crate::qmp::Listener,
        watcher: Watcher,
    ) -> host::Result<Self> {
        let process = watcher.process.try_clone()?;
        let qmp = Arc::new(qmp);
        let (sender, end) = watch::channel(None);
        // What QEMU said last is still in the socket.
        let last_words = async { drop(listener.join().await) };
        let watching = watcher.run(sender, last_words, {
            let qmp = qmp.clone();
            move |_, _| qmp.shutdown_reason().and_then(told)
        });
        let agent = Arc::new(Semaphore::new(1));
        Ok(Self { id, process, place, secret, qmp, end, agent, _watcher: watching })
    }
}

impl Machine for QemuMachine {
    fn id(&self) -> &ProcessId {
        &self.id
    }

    fn ended(&self) -> Future<'static, End> {
        Box::pin(watcher::end_of(self.end.clone()))
    }

    fn connect_agent(&self) -> Future<'static, Result<Channel, AgentError>> {
        let (permits, secret, ended) = (self.agent.clone(), self.secret.clone(), self.ended());
        let path = self.place.run_dir.join(AGENT_SOCKET);
        let connect = async move {
            let permit = permits.acquire_owned().await.expect("never closed");
            loop {
                if let Some(stream) = connect_agent_once(&path)? {
                    match channel::open(stream, &secret).await {
                        Ok(Some(session)) => return Ok(Box::new(session.holding(permit)) as Channel),
                        // It lost its way; at once another one.
                        Ok(None) => continue,
                        Err(error) => {
                            tracing::debug!(%error, "agent's connection closed before it was a session")
                        }
                    }
                }
                // QEMU let the connection go, or has ended, which the other branch tells.
                tokio::time::sleep(RECONNECT).await;
            }
        };
        Box::pin(async move {
            tokio::select! {
                connected = connect => connected,
                _ = ended => Err(AgentError::Ended),
            }
        })
    }

    fn powerdown(&self) -> Future<'_, Result<(), ControlError>> {
        Box::pin(async { self.qmp.execute("system_powerdown").await.map(drop) })
    }

    fn quit(&self, grace: Duration) -> Future<'_, Result<(), ControlError>> {
        Box::pin(async move {
            // Whatever it answers, what counts is that it goes.
            let asked = async {
                let _ = self.qmp.execute("quit").await;
                watcher::gone(self.end.clone(), grace).await
            };
            match timeout(grace, asked).await {
                Ok(Ok(())) => Ok(()),
                Ok(Err(_)) | Err(_) => self.kill().await,
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
            let arguments = json!({ "node-name": disk.role.name(), "size": bytes });
            self.qmp.execute_with("block_resize", arguments).await.map(drop)
        })
    }

    fn snapshots(&self) -> Option<&dyn Snapshots> {
        Some(self)
    }

    fn status(&self) -> Future<'_, Result<MachineStatus, ControlError>> {
        Box::pin(async {
            let answer = match self.qmp.execute("query-status").await {
                Err(ControlError::Ended) => return Ok(MachineStatus::Ended),
                answer => answer?,
            };
            match answer["status"].as_str() {
                Some("running") => Ok(MachineStatus::Running),
                Some("shutdown" | "guest-panicked" | "internal-error") => Ok(MachineStatus::Ended),
                Some(_) => Ok(MachineStatus::Paused),
                None => Err(ControlError::Protocol),
            }
        })
    }
}

/// What the `reason` in QEMU's SHUTDOWN event tells.
fn told(reason: &str) -> Option<Told> {
    match reason {
        "guest-shutdown" => Some(Told::Poweroff),
        "guest-reset" => Some(Told::Reset),
        "guest-panic" => Some(Told::Panic),
        "host-qmp-quit" | "host-qmp-system-reset" | "host-signal" | "host-ui" => Some(Told::Quit),
        _ => None,
    }
}

/// A connection to the agent's port, `None` while nobody listens there.
fn connect_agent_once(path: &Path) -> Result<Option<UnixStream>, AgentError> {
    match sock::connect(path) {
        Ok(socket) => Ok(Some(stream(socket)?)),
        // Gone with its machine, whose end is told by others.
        Err(e) if e.is_missing() || e.kind() == std::io::ErrorKind::ConnectionRefused => Ok(None),
        Err(e) => Err(e.into()),
    }
}
