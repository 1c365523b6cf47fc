//! Runs a command for the host: one conversation of [`wire::exec`] frames.
//!
//! ```text
//! client ──▶ feed ──▶ stdin │ terminal ──▶ pump ──▶ client        select: whoever is first
//!                           └ pidfd    ──▶ exit ──▶ client          · the command ended: settle, Exited
//!                                                                   · the client is gone: HUP, KILL
//! ```
//! - **The end of output.** When the command has ended, all that it wrote itself is sent, however slowly the client takes it. A
//!   process that it left behind may still hold the pipes; what that writes is sent for [`SETTLE`] longer, then read and
//!   dropped, so that it is not killed by a closed pipe.
//! - **A client that goes away** is HUP to the process group, and KILL to it and the command's control group after
//!   [`GRACE`]. The leader is not reaped before that, so its number cannot be another's.
//! - **Nothing is buffered without bound.** Output is read when the stream has taken what was read before; input is taken
//!   from the stream up to [`QUEUE`] ahead of the command, so that a signal behind it is still seen.

pub mod account;
mod cgroup;
mod command;
mod spawn;
mod streams;

use std::{cell::Cell, collections::VecDeque, future::pending, io, os::fd::AsFd, rc::Rc, time::Duration};

use bytes::{Buf, Bytes};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use rustix::process::{WaitId, WaitIdOptions, waitid};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::mpsc,
    time::{Instant, sleep, sleep_until},
};
use wire::{
    Word,
    control::{Code, ErrorBody},
    exec::{Decoder, Exit, Frame, Spec},
};

use self::{
    account::Files,
    command::{Command, Directory},
    spawn::{Fault, Running},
    streams::{End, Streams},
};
use crate::sys;

/// How long after a command's end others may go on to write to its pipes.
pub const SETTLE: Duration = Duration::from_millis(200);
/// How long a command has to end when its client is gone.
pub const GRACE: Duration = Duration::from_secs(2);
/// The most input that waits for the command.
pub const QUEUE: usize = 256 << 10;
/// The most output in one frame.
const PIECE: usize = 32 << 10;
/// What a terminal takes for the end of input.
const END_OF_TRANSMISSION: &[u8] = b"\x04";

/// Where a conversation's frames go.
pub type Output = mpsc::Sender<io::Result<Bytes>>;

/// Leads the conversation of `body` to its end, with `environment` below each command's own. It is to be a task of its
/// own: it goes on when the client is gone, until the command has ended.
pub async fn converse(body: Incoming, out: Output, environment: Rc<[(Word, Word)]>) {
    let mut input = Input { body, decoder: Decoder::default() };
    let spec = match input.next().await {
        Ok(Some(Frame::Spec(spec))) => spec,
        Ok(_) | Err(Gone::Malformed) => {
            let error = ErrorBody::new(Code::Invalid, "a command begins with a frame that says what to run");
            return send(&out, &Frame::Failed(Box::new(error))).await;
        }
        Err(Gone::Left) => return,
    };
    match begin(&spec, &environment).await {
        Ok((job, stdin)) => job.run(&mut input, stdin, &out).await,
        Err(Refusal::Failed(error)) => send(&out, &Frame::Failed(Box::new(error))).await,
        Err(Refusal::Ended(pid, exit)) => {
            send(&out, &Frame::Started(pid)).await;
            send(&out, &Frame::Exited(exit)).await;
        }
    }
}

/// Why a command does not run.
enum Refusal {
    Failed(ErrorBody),
    /// There was a process, but it never became the command.
    Ended(u32, Exit),
}

async fn begin(spec: &Spec, environment: &[(Word, Word)]) -> Result<(Job, Rc<End>), Refusal> {
    let user = spec.user.as_deref();
    let account = Files::read().find(user).ok_or_else(|| {
        let name = user.unwrap_or_default().escape_debug();
        Refusal::Failed(ErrorBody::new(Code::Invalid, format!("the guest has no user {name}")))
    })?;
    let command = Command::new(spec, account, environment).map_err(|command::NoShell| {
        let error = ErrorBody::new(Code::NotFound, "the guest has no shell");
        Refusal::Failed(error.with_hint("name a program of the image"))
    })?;
    let (streams, stdio) = match spec.terminal {
        Some(size) => Streams::terminal(size, &command.account),
        None => Streams::pipes(),
    }
    .map_err(|error| failed("the guest has no terminal or pipe left", &error))?;
    let (running, fault) = match spawn::start(&command, stdio).await {
        Ok(started) => started,
        Err(fault) => return Err(refusal(&command, 0, fault)),
    };
    let pid = running.pid.as_raw_nonzero().get().unsigned_abs();
    let job =
        Job::new(running, &streams).map_err(|error| failed("the guest cannot watch a process", &error))?;
    if let Some(fault) = fault {
        job.reap().await;
        return Err(refusal(&command, pid, fault));
    }
    let stdin = match streams {
        Streams::Terminal(end) => end,
        Streams::Pipes { stdin, .. } => stdin,
    };
    Ok((job, stdin))
}

fn refusal(command: &Command, pid: u32, fault: Fault) -> Refusal {
    match fault {
        Fault::NotFound => Refusal::Ended(pid, Exit::NotFound),
        Fault::NotExecutable => Refusal::Ended(pid, Exit::NotExecutable),
        Fault::Directory(error) => {
            let (Directory::Asked(path) | Directory::Home(path)) = &command.directory;
            failed(&format!("cannot begin in {}", path.to_string_lossy().escape_debug()), &error)
        }
        Fault::Account(error) => failed("cannot take on that user", &error),
        Fault::Process(error) => failed("the guest cannot start a process", &error),
    }
}

fn failed(message: &str, error: &io::Error) -> Refusal {
    let mut body = ErrorBody::new(Code::Guest, message);
    body.causes.push(error.to_string());
    Refusal::Failed(body)
}

/// Sends a frame. That there is nobody to take it is seen elsewhere.
async fn send(out: &Output, frame: &Frame) {
    let _ = out.send(Ok(frame.to_bytes())).await;
}

/// A client that says nothing more.
enum Gone {
    /// It went away.
    Left,
    /// It sends what is not of this protocol.
    Malformed,
}

/// The client's frames.
struct Input {
    body: Incoming,
    decoder: Decoder,
}

impl Input {
    /// The next one; `None` at their end. It may be dropped at any time and loses nothing.
    async fn next(&mut self) -> Result<Option<Frame>, Gone> {
        loop {
            if let Some(frame) = self.decoder.next_frame().map_err(|_| Gone::Malformed)? {
                return Ok(Some(frame));
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(Err(_)) => return Err(Gone::Left),
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        self.decoder.push(data);
                    }
                }
            }
        }
    }
}

/// One stream of output.
struct Source {
    end: Rc<End>,
    frame: fn(Bytes) -> Frame,
    /// Bytes read from it, and bytes of these that the client's stream has taken.
    taken: Cell<u64>,
    sent: Cell<u64>,
    over: Cell<bool>,
}

impl Source {
    /// Sends all there is until its end.
    async fn pump(&self, out: &Output) {
        let mut buffer = vec![0; PIECE];
        loop {
            // A pipe that cannot be read has nothing more to say.
            let count = self.end.read(&mut buffer).await.unwrap_or(0);
            if count == 0 {
                return self.over.set(true);
            }
            self.taken.set(self.taken.get() + count as u64);
            send(out, &(self.frame)(Bytes::copy_from_slice(&buffer[..count]))).await;
            self.sent.set(self.sent.get() + count as u64);
        }
    }

    /// What the client will have been sent when all that is in the pipe now was.
    fn mark(&self) -> u64 {
        self.taken.get() + sys::readable(self.end.as_fd())
    }

    /// Reads and drops what comes, until the end.
    async fn drain(self) {
        let mut buffer = vec![0; 4096];
        while self.end.read(&mut buffer).await.is_ok_and(|count| count > 0) {}
    }
}

/// A command that runs, and its output.
struct Job {
    running: Running,
    ended: AsyncFd<std::os::fd::OwnedFd>,
    terminal: Option<Rc<End>>,
    sources: Vec<Source>,
}

impl Job {
    fn new(running: Running, streams: &Streams) -> io::Result<Self> {
        let source = |end: &Rc<End>, frame| Source {
            end: Rc::clone(end),
            frame,
            taken: Cell::default(),
            sent: Cell::default(),
            over: Cell::default(),
        };
        let (terminal, sources) = match streams {
            Streams::Terminal(end) => (Some(Rc::clone(end)), vec![source(end, Frame::Stdout)]),
            Streams::Pipes { stdout, stderr, .. } => {
                (None, vec![source(stdout, Frame::Stdout), source(stderr, Frame::Stderr)])
            }
        };
        let ended = sys::watch(running.pidfd.try_clone()?, Interest::READABLE)?;
        Ok(Self { running, ended, terminal, sources })
    }

    async fn run(self, input: &mut Input, stdin: Rc<End>, out: &Output) {
        send(out, &Frame::Started(self.running.pid.as_raw_nonzero().get().unsigned_abs())).await;
        let exit = tokio::select! {
            exit = self.finish(out) => Some(exit),
            () = out.closed() => None,
            () = self.feed(input, stdin) => None,
        };
        match exit {
            Some(exit) => {
                self.reap().await;
                send(out, &Frame::Exited(exit)).await;
                for source in self.sources.into_iter().filter(|source| !source.over.get()) {
                    // A terminal hangs up instead, as terminals do.
                    if self.terminal.is_none() {
                        tokio::task::spawn_local(source.drain());
                    }
                }
            }
            None => self.hang_up().await,
        }
    }

    /// Sends output until the command has ended and what it wrote is on its way.
    async fn finish(&self, out: &Output) -> Exit {
        let pumps = async {
            match &self.sources[..] {
                [one] => one.pump(out).await,
                [one, two] => _ = tokio::join!(one.pump(out), two.pump(out)),
                _ => {}
            }
        };
        let mut pumps = std::pin::pin!(pumps);
        let exit = tokio::select! {
            // It may close its output long before it ends.
            () = &mut pumps => return self.exit().await,
            exit = self.exit() => exit,
        };
        let marks: Vec<u64> = self.sources.iter().map(Source::mark).collect();
        let settled = Instant::now() + SETTLE;
        let owed = || {
            self.sources
                .iter()
                .zip(&marks)
                .any(|(source, mark)| !source.over.get() && source.sent.get() < *mark)
        };
        let settle = async {
            sleep_until(settled).await;
            // The pumps are polled by the same task, so each byte they send asks this again.
            std::future::poll_fn(
                |_| if owed() { std::task::Poll::Pending } else { std::task::Poll::Ready(()) },
            )
            .await;
        };
        tokio::select! {
            () = &mut pumps => {}
            () = settle => {}
        }
        exit
    }

    /// Does what the client's frames say. Returns when the client is gone.
    async fn feed(&self, input: &mut Input, stdin: Rc<End>) {
        let mut stdin = Some(stdin);
        let mut queue: VecDeque<Bytes> = VecDeque::new();
        let mut queued = 0;
        let (mut more_frames, mut more_input) = (true, true);
        loop {
            if queue.is_empty() && !more_input {
                // A pipe ends when nobody holds it any more.
                stdin = None;
            }
            let front = queue.front().cloned();
            let write = async {
                match (&stdin, &front) {
                    (Some(stdin), Some(bytes)) => stdin.write(bytes).await,
                    _ => pending().await,
                }
            };
            tokio::select! {
                written = write => match written {
                    Ok(count) => {
                        queued -= count;
                        let front = queue.front_mut().expect("it was written from");
                        front.advance(count);
                        if front.is_empty() {
                            queue.pop_front();
                        }
                    }
                    // The command reads no more; that is its business.
                    Err(_) => (stdin, queue, queued) = (None, VecDeque::new(), 0),
                },
                frame = input.next(), if more_frames && queued < QUEUE => match frame {
                    Ok(Some(Frame::Stdin(bytes))) if stdin.is_some() && more_input && !bytes.is_empty() => {
                        queued += bytes.len();
                        queue.push_back(bytes);
                    }
                    Ok(Some(Frame::Stdin(_))) => {}
                    Ok(Some(Frame::Resize(size))) => {
                        if let Some(terminal) = &self.terminal {
                            // A size that the kernel does not take changes nothing.
                            let _ = streams::resize(terminal.as_ref(), size);
                        }
                    }
                    Ok(Some(Frame::Signal(number))) => sys::kill_group(self.running.pid, number.into()),
                    Ok(end @ (Some(Frame::StdinEnd) | None)) => {
                        if more_input && self.terminal.is_some() {
                            queued += END_OF_TRANSMISSION.len();
                            queue.push_back(Bytes::from_static(END_OF_TRANSMISSION));
                        }
                        (more_frames, more_input) = (end.is_some(), false);
                    }
                    Ok(Some(_)) | Err(Gone::Malformed | Gone::Left) => return,
                },
            }
        }
    }

    /// How the command ended, once it has. It stays to be reaped.
    async fn exit(&self) -> Exit {
        loop {
            let waited = waitid(
                WaitId::PidFd(self.running.pidfd.as_fd()),
                WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT,
            );
            if let Ok(Some(status)) = waited {
                let number = |n: Option<i32>| n.and_then(|n| u8::try_from(n).ok()).unwrap_or(u8::MAX);
                return match status.exit_status() {
                    Some(code) => Exit::Code(number(Some(code))),
                    None => Exit::Signal(number(status.terminating_signal())),
                };
            }
            match self.ended.readable().await {
                Ok(mut ready) => ready.clear_ready(),
                Err(_) => sleep(SETTLE).await,
            }
        }
    }

    /// Lets the process go.
    async fn reap(&self) {
        self.exit().await;
        let _ = waitid(WaitId::PidFd(self.running.pidfd.as_fd()), WaitIdOptions::EXITED);
    }

    /// Ends a command whose client is gone.
    async fn hang_up(mut self) {
        // A terminal that nobody holds tells its processes itself.
        self.sources.clear();
        self.terminal = None;
        sys::kill_group(self.running.pid, libc::SIGHUP);
        sys::kill_group(self.running.pid, libc::SIGCONT);
        let _ = tokio::time::timeout(GRACE, async {
            self.exit().await;
            while self.running.cgroup.as_ref().is_some_and(cgroup::Cgroup::is_populated) {
                sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
        sys::kill_group(self.running.pid, libc::SIGKILL);
        if let Some(cgroup) = &self.running.cgroup {
            cgroup.kill();
        }
        self.reap().await;
    }
}
