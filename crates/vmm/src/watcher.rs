//! Watches a machine's process until it has ended, and says once what that end was.

use std::{fs::File, io::Write, path::Path, time::Duration};

use host::{
    fs,
    proc::{Exit, Process},
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::watch,
    time::{MissedTickBehavior, interval, timeout},
};

use crate::{
    ControlError, End, Place,
    console::Console,
    end::{self, Told},
    ring,
    task::Task,
};

/// What the VMM itself says. It writes there directly, because it outlives everybody who could read a pipe.
pub(crate) const LOG: &str = "vmm.log";
/// What that file may grow to.
const LOG_LIMIT: u64 = 1 << 20;
/// How often its size is looked at.
const LOG_CHECK: Duration = Duration::from_secs(10);
/// How many of its last lines are told.
const LOG_LINES: usize = 12;
/// How long what a dead process left in its sockets may take to be read.
pub(crate) const LEFTOVERS: Duration = Duration::from_secs(5);

/// The VMM's log in `directory`, empty.
pub(crate) fn fresh_log(directory: &Path) -> host::Result<File> {
    let path = directory.join(LOG);
    fs::remove(&path)?;
    fs::append(&path)
}

/// Adds `bytes` to the VMM's log in `directory`, in place of all it has where it would grow too long.
pub(crate) fn log(directory: &Path, bytes: &[u8]) -> host::Result<()> {
    let path = directory.join(LOG);
    let mut file = fs::append(&path)?;
    let fail = |e| host::Error::path("write", &path, e);
    if fs::size(&path)?.saturating_add(bytes.len() as u64) > LOG_LIMIT {
        file.set_len(0).map_err(fail)?;
    }
    file.write_all(bytes).map_err(fail)
}

/// The last lines of the VMM's log in `directory`.
pub(crate) fn log_lines(directory: &Path) -> Vec<String> {
    let bytes = fs::read_limited(&directory.join(LOG), 2 * LOG_LIMIT).unwrap_or_default();
    ring::lines_of(&bytes, LOG_LINES)
}

/// Waits until `process` has ended.
pub(crate) async fn ended(process: &Process) -> Result<(), ControlError> {
    let error = |e: std::io::Error| ControlError::Host(host::Error::new("watch", process.id(), e));
    #[expect(deprecated, reason = "the other one is unsafe; a `Process` keeps its one descriptor for life")]
    let watch = AsyncFd::with_interest(process.try_clone()?, Interest::READABLE).map_err(error)?;
    watch.readable().await.map(drop).map_err(error)
}

/// Waits for the end that a watcher tells.
pub(crate) async fn end_of(mut end: watch::Receiver<Option<End>>) -> End {
    match end.wait_for(Option::is_some).await.map(|end| end.clone()) {
        Ok(Some(end)) => end,
        // The machine was let go of, so its end will not be known here.
        Ok(None) | Err(_) => std::future::pending().await,
    }
}

/// Waits for the end that a watcher tells, for `patience` at most.
pub(crate) async fn gone(end: watch::Receiver<Option<End>>, patience: Duration) -> Result<(), ControlError> {
    timeout(patience, end_of(end)).await.map(drop).map_err(|_| ControlError::Timeout(patience))
}

/// What there is to watch.
pub(crate) struct Watcher {
    pub(crate) process: Process,
    pub(crate) place: Place,
    pub(crate) console: Console,
}

impl Watcher {
    /// Watches from now on. `last_words` resolves soon after the end, when the VMM has said all it will; `told` is what that was,
    /// by how its process ended and the end of the console too.
    pub(crate) fn run(
        self,
        sender: watch::Sender<Option<End>>,
        last_words: impl Future<Output = ()> + Send + 'static,
        told: impl FnOnce(Option<Exit>, &[u8]) -> Option<Told> + Send + 'static,
    ) -> Task<()> {
        Task::spawn(async move {
            let end = self.end(last_words, told).await;
            sender.send_replace(Some(end));
        })
    }

    async fn end(
        self,
        last_words: impl Future<Output = ()> + Send,
        told: impl FnOnce(Option<Exit>, &[u8]) -> Option<Told> + Send,
    ) -> End {
        let log = self.place.log_dir.join(LOG);
        tokio::select! {
            ended = ended(&self.process) => if let Err(error) = ended {
                // A pidfd that cannot be polled does not happen; if it does, the machine is as good as lost.
                tracing::warn!(error = &error as &dyn std::error::Error, "machine cannot be watched");
            },
            () = keep_short(&log) => {}
        }
        let exit = self.process.reap().ok().flatten();
        // A console whose disk is slow does not cost the reason.
        let _ = timeout(LEFTOVERS, last_words).await;
        let console = timeout(LEFTOVERS, self.console.join()).await.unwrap_or_default();
        let what = end::classify(told(exit, &console), &console);
        let vmm_lines = match what {
            model::end::MachineEnd::VmmDied => log_lines(&self.place.log_dir),
            model::end::MachineEnd::Poweroff
            | model::end::MachineEnd::Reset
            | model::end::MachineEnd::Panic
            | model::end::MachineEnd::Quit
            | model::end::MachineEnd::HostReboot => Vec::new(),
        };
        End { what, exit, vmm_lines }
    }
}

/// Empties the log whenever it has grown too long. The VMM appends, so it goes on at the beginning.
async fn keep_short(log: &Path) {
    let mut ticks = interval(LOG_CHECK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if fs::size(log).is_ok_and(|size| size > LOG_LIMIT) {
            let _ = fs::open_rw(log).map(|file| file.set_len(0));
        }
    }
}
