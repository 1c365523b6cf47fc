//! Processes that work for us and end with us: to their end with captured output, or beside us on pipes.

use std::{
    fs::File,
    io::Read,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    pipe::{PipeFlags, pipe_with},
    process::{Pid, kill_process_group},
};

use super::{
    Command, Exit, Process, Signal,
    fork::{Leads, fork},
    identity,
};
use crate::{Error, Result};

/// How long a process gets to clean up after itself once it was asked to end.
const GRACE: Duration = Duration::from_secs(3);

/// How a process ended and what it said.
#[derive(Debug)]
pub struct Output {
    /// How it ended.
    pub exit: Exit,
    /// The end of its standard output.
    pub stdout: Vec<u8>,
    /// The end of its errors.
    pub stderr: Vec<u8>,
}

impl Command {
    /// Runs it to its end, at most for `timeout`, and keeps the last `limit` bytes of each of its streams.
    ///
    /// # Errors
    /// Where it cannot be started or takes too long; it is gone then. Its exit code is the caller's to judge.
    pub fn output(self, limit: usize, timeout: Duration) -> Result<Output> {
        let deadline = Instant::now() + timeout;
        let program = format!("{:?}", self.program);
        let error = |e: Errno| Error::new("run", &program, e);
        let mut running = self.start()?;
        let streams = [running.stdout.take(), running.stderr.take()];
        let mut streams = streams.map(|stream| (stream, Vec::new()));
        while streams.iter().any(|(stream, _)| stream.is_some()) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(error(Errno::TIMEDOUT));
            }
            let fds = streams.iter().filter_map(|(stream, _)| stream.as_ref());
            let mut fds: Vec<_> = fds.map(|stream| PollFd::new(stream, PollFlags::IN)).collect();
            match poll(&mut fds, Timespec::try_from(left).ok().as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(e) => return Err(error(e)),
            }
            let mut ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
            for (stream, kept) in &mut streams {
                if stream.is_some() && ready.remove(0) {
                    take_some(stream, kept, limit);
                }
            }
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if !running.process.wait_exit(left)? {
            return Err(error(Errno::TIMEDOUT));
        }
        let [(_, stdout), (_, stderr)] = streams;
        Ok(Output { exit: running.wait()?, stdout, stderr })
    }

    /// Starts it on the standard streams of this process, in its directory and process group, so that it is what the user at
    /// the terminal talks to.
    ///
    /// # Errors
    /// Where it cannot be executed.
    pub fn foreground(mut self) -> Result<Foreground> {
        let own = |stream: BorrowedFd<'_>| {
            rustix::io::fcntl_dupfd_cloexec(stream, 3)
                .map(Some)
                .map_err(|e| Error::new("pass on", "a standard stream", e))
        };
        self.stdin = own(rustix::stdio::stdin())?;
        self.stdout = own(rustix::stdio::stdout())?;
        self.stderr = own(rustix::stdio::stderr())?;
        self.directory = Some(".".into());
        Ok(Foreground(Arc::new(fork(self, Leads::Ours, None)?.executed()?)))
    }

    /// Starts it with its output and errors on pipes, unless they were set, and its standard input empty.
    ///
    /// # Errors
    /// Where it cannot be executed.
    pub fn start(mut self) -> Result<Running> {
        let pipe = |place: &mut Option<OwnedFd>| -> Result<Option<File>> {
            if place.is_some() {
                return Ok(None);
            }
            let (ours, theirs) =
                pipe_with(PipeFlags::CLOEXEC).map_err(|e| Error::new("make", "a pipe", e))?;
            *place = Some(theirs);
            Ok(Some(ours.into()))
        };
        let stdout = pipe(&mut self.stdout)?;
        let stderr = pipe(&mut self.stderr)?;
        let process = fork(self, Leads::Group, None)?.executed()?;
        Ok(Running { process: Arc::new(process), reaped: Arc::default(), stdout, stderr })
    }
}

/// Reads what is there; keeps the end.
fn take_some(stream: &mut Option<File>, kept: &mut Vec<u8>, limit: usize) {
    let mut buffer = [0; 8192];
    match stream.as_mut().map(|stream| stream.read(&mut buffer)) {
        Some(Ok(count)) if count > 0 => {
            kept.extend_from_slice(&buffer[..count]);
            kept.drain(..kept.len().saturating_sub(limit));
        }
        Some(Err(e)) if e.kind() == std::io::ErrorKind::Interrupted => {}
        _ => *stream = None,
    }
}

/// A process that runs beside us. Dropping it ends it and all of its process group.
#[derive(Debug)]
#[must_use = "it is ended when this is dropped"]
pub struct Running {
    process: Arc<Process>,
    reaped: Arc<Mutex<Option<Exit>>>,
    stdout: Option<File>,
    stderr: Option<File>,
}

impl Running {
    /// The reading end of its standard output, once.
    pub fn take_stdout(&mut self) -> Option<File> {
        self.stdout.take()
    }

    /// The reading end of its errors, once.
    pub fn take_stderr(&mut self) -> Option<File> {
        self.stderr.take()
    }

    /// What ends it from another thread.
    #[must_use]
    pub fn stopper(&self) -> Stopper {
        Stopper { process: self.process.clone(), reaped: self.reaped.clone() }
    }

    /// Waits for its end. Pipes that were not taken are closed first, so it cannot wait for us.
    ///
    /// # Errors
    /// Where it cannot be waited for.
    pub fn wait(mut self) -> Result<Exit> {
        (self.stdout, self.stderr) = (None, None);
        identity::readable(self.process.as_fd(), None)
            .map_err(|e| Error::new("wait for", self.process.id(), e))?;
        self.stopper().reap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let stopper = self.stopper();
        if stopper.reaped.lock().unwrap_or_else(PoisonError::into_inner).is_some() {
            return;
        }
        (self.stdout, self.stderr) = (None, None);
        stopper.signal(Signal::Term);
        let _ = self.process.wait_exit(GRACE);
        // Also those of its group that did not end with it.
        stopper.signal(Signal::Kill);
        let _ = self.process.wait_exit(GRACE);
        let _ = stopper.reap();
    }
}

/// A process that has the terminal. Clones are the same one.
#[derive(Debug, Clone)]
pub struct Foreground(Arc<Process>);

impl Foreground {
    /// Sends it a signal that only we were sent.
    ///
    /// # Errors
    /// Where it cannot be signalled.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.0.signal(signal)
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// Where it cannot be waited for, or somebody did already.
    pub fn wait(&self) -> Result<Exit> {
        self.0.wait()
    }
}

/// Ends a [`Running`] process from elsewhere; does nothing once it has ended.
#[derive(Debug, Clone)]
pub struct Stopper {
    process: Arc<Process>,
    /// How it ended. Held while its group is signalled, so the group's number cannot become another's meanwhile.
    reaped: Arc<Mutex<Option<Exit>>>,
}

impl Stopper {
    /// Sends `signal` to the process and its group.
    pub fn signal(&self, signal: Signal) {
        let reaped = self.reaped.lock().unwrap_or_else(PoisonError::into_inner);
        let group = i32::try_from(self.process.id().pid).ok().and_then(Pid::from_raw);
        if let (None, Some(group)) = (*reaped, group) {
            let _ = kill_process_group(group, identity::number(signal));
        }
    }

    fn reap(&self) -> Result<Exit> {
        let mut reaped = self.reaped.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(exit) = *reaped {
            return Ok(exit);
        }
        let exit = self.process.wait()?;
        *reaped = Some(exit);
        Ok(exit)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};

    use super::{
        super::{ProcessId, tests::shell},
        *,
    };

    const DEADLINE: Duration = Duration::from_secs(20);

    #[test]
    fn output_is_captured_and_bounded() {
        let output = shell("echo out; echo err >&2; exit 42").output(100, DEADLINE).unwrap();
        assert_eq!(
            (output.exit, &output.stdout[..], &output.stderr[..]),
            (Exit::Code(42), &b"out\n"[..], &b"err\n"[..])
        );
        let output = shell("head -c 1000000 /dev/zero; printf end").output(10, DEADLINE).unwrap();
        assert_eq!(output.stdout, b"\0\0\0\0\0\0\0end");
    }

    #[test]
    fn what_takes_too_long_is_ended_with_its_children() {
        let dir = std::env::temp_dir().join(format!("banger-run-{}", std::process::id()));
        let script = "sh -c 'echo $$ > \"$0\"; read line < /dev/tty || tail -f /dev/null' \"$1\"; echo";
        let command = shell(script).arg("sh").arg(&dir);
        let error = command.output(100, Duration::from_millis(300)).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
        let pid = std::fs::read_to_string(&dir).unwrap().trim().parse().unwrap();
        // The grandchild is init's to reap, so it may be a zombie for a moment.
        if let Some(process) = ProcessId::of(pid).ok().and_then(|id| id.open().unwrap()) {
            assert!(process.wait_exit(DEADLINE).unwrap());
        }
        std::fs::remove_file(dir).unwrap();
    }

    #[test]
    fn a_stopper_ends_it_from_another_thread() {
        let mut running = shell("echo begun; tail -f /dev/null").start().unwrap();
        let stopper = running.stopper();
        let mut line = String::new();
        // It is kept: `tail -f` ends by itself once nobody reads what it writes.
        let mut stdout = BufReader::new(running.take_stdout().unwrap());
        stdout.read_line(&mut line).unwrap();
        assert_eq!(line, "begun\n");
        let waiter = std::thread::spawn(move || running.wait());
        stopper.signal(Signal::Term);
        assert_eq!(waiter.join().unwrap().unwrap(), Exit::Signal(15));
        stopper.signal(Signal::Kill);
    }
}
