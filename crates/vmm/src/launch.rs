//! What every VMM's start has in common: a process that is nobody's until it answers, and why it did not.

use std::time::Duration;

use host::proc::{Gated, Limit, Process, Signal};
use tokio::{net::UnixStream, time::timeout};

use crate::{ControlError, LaunchError, MachinePlan, Place, SpawnError, end, watcher};

/// How long a VMM may take until it answers: it allocates memory and opens disks before, on a host that may be busy.
pub(crate) const COMING_UP: Duration = Duration::from_secs(30);
/// How long a VMM that runs may take to answer a new connection.
pub(crate) const ADOPTION: Duration = Duration::from_secs(10);
/// How long a process that was killed may take to be gone.
pub(crate) const KILLED: Duration = Duration::from_secs(30);

/// Runs what may wait for the disk.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// The runtime's end of a socket.
pub(crate) fn stream(socket: std::os::unix::net::UnixStream) -> host::Result<UnixStream> {
    let converted = socket.set_nonblocking(true).and_then(|()| UnixStream::from_std(socket));
    converted.map_err(|e| host::Error::new("use", "a socket of the machine", e))
}

/// `value` where it means itself to every VMM, among options too: no comma, and nothing outside the run directory.
pub(crate) fn plain_name<'a>(field: &'static str, value: &'a str) -> Result<&'a str, SpawnError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let first = value.starts_with(|c: char| c.is_ascii_alphanumeric());
    if first && value.chars().all(plain) {
        return Ok(value);
    }
    Err(SpawnError::Plan { field, value: value.to_owned() })
}

/// What a VMM needs beside its guest's memory, at most: what it has translated in software, and its threads' stacks, of which each
/// takes 8 MiB whether it is used or not.
const OWN_MEMORY: u64 = 2 << 30;
const STACKS: u64 = 16 << 20;
/// What it has open: disks, sockets, connections of the guest's channel.
const DESCRIPTORS: u64 = 2048;

/// Limits what a VMM that a guest has taken over can take of the host, and leaves no guest's memory behind in a core file. That it starts
/// no processes, its own seccomp filter sees to.
pub(crate) fn confine(gated: &Gated, plan: &MachinePlan) -> host::Result<()> {
    gated.limit(Limit::Core, 0)?;
    gated.limit(Limit::Descriptors, DESCRIPTORS)?;
    let stacks = STACKS.saturating_mul(u64::from(plan.vcpus));
    gated.limit(Limit::Memory, plan.memory.saturating_add(OWN_MEMORY).saturating_add(stacks))
}

/// A VMM that nobody holds yet: killed when its start is given up.
pub(crate) struct Unsettled(Option<Process>);

impl Unsettled {
    pub(crate) fn new(process: Process) -> Self {
        Self(Some(process))
    }

    /// Its process.
    pub(crate) fn process(&self) -> &Process {
        self.0.as_ref().expect("there until it is settled")
    }

    /// It is held from now on.
    pub(crate) fn settle(mut self) -> Process {
        self.0.take().expect("there until it is settled")
    }

    /// Why it is of no use, by what was `said` on its control socket; its log tells more than its silence, once `last_words`
    /// resolved after its end.
    pub(crate) async fn launch_error(
        self,
        place: &Place,
        said: ControlError,
        last_words: impl Future<Output = ()>,
    ) -> LaunchError {
        let process = self.process();
        // A process closes its sockets a moment before it has ended.
        let ended = timeout(Duration::from_secs(1), watcher::ended(process)).await.is_ok();
        if ended {
            let _ = timeout(watcher::LEFTOVERS, last_words).await;
            let lines = watcher::log_lines(&place.log_dir);
            let exit = process.reap().ok().flatten();
            return LaunchError::Ended { exit, hint: end::hint(&lines), lines };
        }
        LaunchError::Control { lines: watcher::log_lines(&place.log_dir), cause: said }
    }
}

impl Drop for Unsettled {
    fn drop(&mut self) {
        if let Some(process) = self.0.take() {
            let _ = process.signal(Signal::Kill);
            // Its memory takes a moment to be freed, and this may be a thread that must not wait.
            std::thread::spawn(move || process.wait_exit(KILLED).and_then(|_| process.reap()));
        }
    }
}
