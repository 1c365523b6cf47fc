//! One command in a guest: this process's standard streams, terminal and signals become the command's.
//!
//! ```text
//! stdin ──thread──▶ uplink ───┐            ┌──▶ downlink ──thread──▶ stdout, stderr
//! SIGWINCH, SIGINT, … ────────┴─▶ socket ──┘
//! ```
//! Standard streams are read and written by threads of their own, so a reader that does not read and a writer that does
//! not write stall neither each other nor a signal. Bounded channels carry their pressure to the guest.

use std::{
    io,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use host::stdio::{self, Output, RawTerminal};
use model::exit;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::unix::{OwnedReadHalf, OwnedWriteHalf},
    sync::{mpsc, oneshot},
};
use wire::{
    control::Workspace,
    exec::{Decoder, Exit, Frame, MAX_DATA, Size, Spec, UPGRADE},
};

use crate::{
    client::{Upgraded, path},
    commands::{Context, bootstrap},
    error::Error,
    signals::{Heard, Signals},
    talk::Talk,
    text::visible,
};

/// What the command gets for its standard streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Streams {
    /// A terminal.
    Terminal,
    /// Pipes.
    Pipes,
    /// Pipes, of which nothing of this process's input goes into the first.
    Silent,
}

/// Two interrupts within this time mean that banger is to leave, not only the command.
const TWICE: Duration = Duration::from_secs(2);
/// How long a command that was told to end may take before banger leaves without its exit code.
const PARTING: Duration = Duration::from_secs(2);
/// How long a command in a workspace is held up for what there is to say of that: every file of the repository is looked at.
const PATIENCE: Duration = Duration::from_millis(250);
/// The same for who asked for all that is to be said.
const LONG_PATIENCE: Duration = Duration::from_secs(30);
/// Pieces of at most [`MAX_DATA`] that wait for a standard stream.
const QUEUE: usize = 8;

/// With which tools a command runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tools {
    /// Those that its workspace pins, where the guest has mise.
    Pinned,
    /// What the guest's `PATH` finds.
    Any,
}

/// Runs `spec` in the VM with what its `PATH` finds, and gives its exit code.
///
/// # Errors
/// Where banger failed, the command did not.
pub async fn run(
    context: &Context,
    signals: &mut Signals,
    vm: &str,
    spec: Spec,
    streams: Streams,
) -> Result<u8, Error> {
    run_with(context, signals, vm, spec, streams, Tools::Any).await
}

/// Runs `spec` in the VM with `tools` and gives its exit code.
///
/// # Errors
/// Where banger failed, the command did not.
pub async fn run_with(
    context: &Context,
    signals: &mut Signals,
    vm: &str,
    mut spec: Spec,
    streams: Streams,
    tools: Tools,
) -> Result<u8, Error> {
    if streams == Streams::Terminal {
        spec.terminal = Some(window());
    }
    let target = path(&["vms", vm, "exec"]);
    let Upgraded { socket, first, workspace, user } =
        signals.unless(context.client.upgrade(&target, UPGRADE)).await?;
    let place = workspace.as_ref().map(|workspace| workspace.path.as_str());
    let stale = stale(context, vm, place);
    tokio::pin!(stale);
    // Who begins no command of his own is told nothing of the workspace.
    let mut told = streams == Streams::Silent;
    if streams == Streams::Terminal {
        // Not later, because it would go through what the command draws.
        told = tell_in_time(&context.talk, &mut stale).await;
    }
    // A command for which no user is said runs in the workspace, where it has no other directory.
    if let Some(workspace) = workspace.as_ref().filter(|_| spec.cwd.is_none() && spec.user.is_none()) {
        spec.cwd = Some(workspace.path.as_str().into());
        // A shell finds them by itself, where its user set it up for that.
        if workspace.pins_tools && tools == Tools::Pinned && !spec.argv.is_empty() {
            bootstrap::with_tools(&mut spec, &workspace.path);
        }
    }
    spec.user = spec.user.or(user);
    // Only where there is a terminal at this end; `-t` with pipes here still gives the command one.
    let raw = match streams {
        Streams::Terminal if io::IsTerminal::is_terminal(&io::stdin()) => Some(RawTerminal::enter()?),
        Streams::Terminal | Streams::Pipes | Streams::Silent => None,
    };
    let (receiver, sender) = socket.into_split();
    let (control, controls) = mpsc::unbounded_channel();
    let (output, broken) = Writer::new();
    let up = uplink(sender, spec, streams, controls);
    let down = downlink(receiver, first, output);
    tokio::pin!(up, down, broken);

    let mut leaving = Leaving::default();
    let (mut up_done, mut pipe_broken) = (false, false);
    loop {
        let parting = async {
            match leaving.deadline {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            ended = &mut down => {
                drop(raw);
                if !told {
                    tell_in_time(&context.talk, &mut stale).await;
                }
                return ended.map(|how| exit::Outcome::from(how).code());
            }
            warning = &mut stale, if !told && streams == Streams::Pipes => {
                told = true;
                tell(&context.talk, warning);
            }
            // The answer that is still to come says why nothing more is taken.
            _ = &mut up, if !up_done => up_done = true,
            heard = signals.next() => match leaving.heard(heard, Instant::now()) {
                Action::Resize => drop(control.send(Frame::Resize(window()))),
                Action::Forward(number) => drop(control.send(Frame::Signal(number))),
                Action::Leave(code) => return Ok(code),
            },
            failure = &mut broken, if !pipe_broken => {
                pipe_broken = true;
                let Ok(failure) = failure else { continue };
                if failure.kind() != io::ErrorKind::BrokenPipe {
                    return Err(failure.into());
                }
                // What a command learns where its reader has gone.
                let _ = control.send(Frame::Signal(SIGPIPE));
                leaving.after(128 + SIGPIPE, Instant::now());
            }
            () = parting => return Ok(leaving.code),
        }
    }
}

/// What is to be said of the workspace at `place`: that its repository is not what was shipped any more.
async fn stale(context: &Context, vm: &str, place: Option<&str>) -> Option<String> {
    if place.is_none() || !context.talk.says() {
        return None;
    }
    // What cannot be told is nothing to warn of.
    let workspace: Workspace = context.client.get(&path(&["vms", vm, "workspace"])).await.ok()?;
    let what = match (workspace.moved, workspace.changed) {
        (true, _) => "has another commit checked out",
        (false, true) => "has other files",
        (false, false) => return None,
    };
    let repository = String::from_utf8_lossy(workspace.path.as_bytes()).into_owned();
    let repository = visible(&repository);
    Some(format!("warning: {repository} {what} since it was shipped; --auto-prepare ships it again"))
}

/// Waits for `warning`, but not long; gives whether it came.
async fn tell_in_time(talk: &Talk, warning: impl Future<Output = Option<String>>) -> bool {
    let patience = if talk.details() { LONG_PATIENCE } else { PATIENCE };
    let warning = tokio::time::timeout(patience, warning).await;
    let came = warning.is_ok();
    tell(talk, warning.ok().flatten());
    came
}

fn tell(talk: &Talk, warning: Option<String>) {
    if let Some(warning) = warning {
        talk.say(&warning);
    }
}

const SIGPIPE: u8 = 13;

fn window() -> Size {
    let (rows, cols) = stdio::terminal_size().unwrap_or((24, 80));
    Size { rows, cols }
}

/// What to do about a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    /// The terminal has another size.
    Resize,
    /// The command gets it.
    Forward(u8),
    /// End now, with this code.
    Leave(u8),
}

/// Whether and when this process leaves although the command goes on.
#[derive(Debug, Default)]
struct Leaving {
    interrupted: Option<Instant>,
    deadline: Option<Instant>,
    code: u8,
}

impl Leaving {
    fn heard(&mut self, heard: Heard, now: Instant) -> Action {
        match heard {
            Heard::Window => Action::Resize,
            Heard::Interrupt => {
                let before = self.interrupted.replace(now);
                match before {
                    Some(before) if now - before < TWICE => Action::Leave(exit::CANCELLED),
                    _ if self.deadline.is_some() => Action::Leave(exit::CANCELLED),
                    _ => Action::Forward(heard.number()),
                }
            }
            Heard::Quit => Action::Forward(heard.number()),
            Heard::Terminate | Heard::Hangup => {
                if self.deadline.is_some() {
                    return Action::Leave(self.code);
                }
                self.after(128 + heard.number(), now);
                Action::Forward(heard.number())
            }
        }
    }

    fn after(&mut self, code: u8, now: Instant) {
        self.deadline.get_or_insert(now + PARTING);
        self.code = code;
    }
}

/// Sends the spec, then what standard input and signals bring, until the connection takes no more.
async fn uplink(
    mut to: OwnedWriteHalf,
    spec: Spec,
    streams: Streams,
    mut controls: mpsc::UnboundedReceiver<Frame>,
) -> io::Result<()> {
    let mut buffer = BytesMut::new();
    Frame::Spec(Box::new(spec)).encode(&mut buffer);
    let mut ended = match streams {
        Streams::Terminal => false,
        // At its end at once.
        Streams::Silent => true,
        // What is no input is said with the command, so that the guest is not bothered twice.
        Streams::Pipes => stdio::has_ended(),
    };
    if ended {
        Frame::StdinEnd.encode(&mut buffer);
    }
    to.write_all(&buffer).await?;
    let mut stdin = if ended { mpsc::channel(1).1 } else { read_stdin() };
    loop {
        let frame = tokio::select! {
            biased;
            Some(frame) = controls.recv() => frame,
            data = stdin.recv(), if !ended => match data {
                Some(data) => Frame::Stdin(data),
                None => {
                    ended = true;
                    Frame::StdinEnd
                }
            },
            else => return Ok(()),
        };
        buffer.clear();
        frame.encode(&mut buffer);
        to.write_all(&buffer).await?;
    }
}

/// Standard input in pieces, to its end; one that cannot be read has ended.
fn read_stdin() -> mpsc::Receiver<Bytes> {
    let (sender, receiver) = mpsc::channel(QUEUE);
    // The thread may sit in read(2) when everything else is over; it ends with the process.
    std::thread::spawn(move || {
        let mut buffer = vec![0; MAX_DATA];
        while let Ok(count @ 1..) = stdio::read(&mut buffer) {
            if sender.blocking_send(Bytes::copy_from_slice(&buffer[..count])).is_err() {
                return;
            }
        }
    });
    receiver
}

/// Passes on what the command writes until it has ended and everything is written.
async fn downlink(mut from: OwnedReadHalf, first: Bytes, mut output: Writer) -> Result<Exit, Error> {
    let mut decoder = Decoder::default();
    decoder.push(&first);
    let mut buffer = BytesMut::with_capacity(2 * MAX_DATA);
    loop {
        while let Some(frame) = decoder.next_frame().map_err(|e| Error::Protocol(e.to_string()))? {
            match frame {
                Frame::Stdout(data) => output.write(Output::Stdout, data).await,
                Frame::Stderr(data) => output.write(Output::Stderr, data).await,
                Frame::Started(_) => {}
                Frame::Exited(exit) => {
                    output.flush().await;
                    return Ok(exit);
                }
                Frame::Failed(error) => {
                    output.flush().await;
                    return Err(Error::Daemon(*error));
                }
                Frame::Spec(_) | Frame::Stdin(_) | Frame::StdinEnd | Frame::Resize(_) | Frame::Signal(_) => {
                    return Err(Error::Protocol("a frame that only banger sends".to_owned()));
                }
            }
        }
        buffer.clear();
        let cause = match from.read_buf(&mut buffer).await {
            Ok(0) => None,
            // The same, of a peer that had not read everything.
            Err(e) if e.kind() == io::ErrorKind::ConnectionReset => None,
            Err(e) => Some(e),
            Ok(_) => {
                decoder.push(&buffer);
                continue;
            }
        };
        output.flush().await;
        return Err(Error::Cut("the command was running", cause));
    }
}

/// The thread that writes standard output and standard error, in the order the command wrote them. It begins with the first
/// of it: many a command says nothing, and would be waited for longer.
struct Writer {
    thread: Option<Thread>,
    failed: Option<oneshot::Sender<host::Error>>,
}

/// That thread.
struct Thread {
    queue: mpsc::Sender<(Output, Bytes)>,
    done: oneshot::Receiver<()>,
}

impl Writer {
    /// The second value gives the first failure to write; what comes for that stream later is discarded.
    fn new() -> (Self, oneshot::Receiver<host::Error>) {
        let (failed, failure) = oneshot::channel();
        (Self { thread: None, failed: Some(failed) }, failure)
    }

    async fn write(&mut self, output: Output, data: Bytes) {
        let failed = &mut self.failed;
        let thread = self.thread.get_or_insert_with(|| Thread::start(failed.take()));
        // It takes pieces until this value goes.
        let _ = thread.queue.send((output, data)).await;
    }

    async fn flush(self) {
        if let Some(thread) = self.thread {
            drop(thread.queue);
            let _ = thread.done.await;
        }
    }
}

impl Thread {
    fn start(mut failed: Option<oneshot::Sender<host::Error>>) -> Self {
        let (queue, mut pieces) = mpsc::channel::<(Output, Bytes)>(QUEUE);
        let (finished, done) = oneshot::channel();
        std::thread::spawn(move || {
            let mut broken = Vec::new();
            while let Some((output, data)) = pieces.blocking_recv() {
                if broken.contains(&output) {
                    continue;
                }
                if let Err(error) = stdio::write_all(output, &data) {
                    broken.push(output);
                    if let Some(failed) = failed.take() {
                        let _ = failed.send(error);
                    }
                }
            }
            let _ = finished.send(());
        });
        Self { queue, done }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_interrupt_in_two_seconds_leaves() {
        let begin = Instant::now();
        let at = |ms| begin + Duration::from_millis(ms);
        let mut leaving = Leaving::default();
        assert_eq!(leaving.heard(Heard::Interrupt, at(0)), Action::Forward(2));
        assert_eq!(leaving.heard(Heard::Interrupt, at(2_500)), Action::Forward(2));
        assert_eq!(leaving.heard(Heard::Window, at(2_600)), Action::Resize);
        assert_eq!(leaving.heard(Heard::Quit, at(2_700)), Action::Forward(3));
        assert_eq!(leaving.heard(Heard::Interrupt, at(4_000)), Action::Leave(130));
        assert_eq!(leaving.deadline, None, "an interrupt alone is the command's business");
    }

    #[test]
    fn a_termination_is_passed_on_and_then_obeyed() {
        let now = Instant::now();
        for (heard, number) in [(Heard::Terminate, 15), (Heard::Hangup, 1)] {
            let mut leaving = Leaving::default();
            assert_eq!(leaving.heard(heard, now), Action::Forward(number));
            assert_eq!((leaving.deadline, leaving.code), (Some(now + PARTING), 128 + number));
            assert_eq!(leaving.heard(Heard::Hangup, now), Action::Leave(128 + number));
            assert_eq!(leaving.heard(Heard::Interrupt, now), Action::Leave(130));
        }
    }
}
