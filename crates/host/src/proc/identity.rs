//! Which process it is, for longer than its pid says so.
//!
//! A pid is reused, also while somebody looks at it. A process is its pid, start time and boot; to act on it, its pidfd is
//! opened first and compared then, so the one that was compared is the one that is signalled.

use std::{
    fmt, io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

use model::{signal::Signal, undo::ProcessEntry};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    process::{Pid, PidfdFlags, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid},
};

use crate::{Error, Result};

/// What tells a process from every other one, also after a restart of this program or the host.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ProcessId {
    /// Its number while it lives.
    pub pid: u32,
    /// When it started, in clock ticks since the boot.
    pub start: u64,
    /// The boot it lives in.
    pub boot: String,
}

impl fmt::Display for ProcessId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {}", self.pid)
    }
}

impl ProcessId {
    /// The identity of the process that has number `pid` now.
    ///
    /// # Errors
    /// Where there is none.
    pub fn of(pid: u32) -> Result<Self> {
        let error = |e: io::Error| Error::new("identify process", pid, e);
        Ok(Self { pid, start: start_time(pid).map_err(error)?, boot: boot_id()? })
    }

    /// The identity of this process.
    ///
    /// # Errors
    /// Where /proc is not mounted.
    pub fn own() -> Result<Self> {
        Self::of(std::process::id())
    }

    /// A hold on the process, `None` where it is gone or has ended.
    ///
    /// # Errors
    /// Where it cannot be told.
    pub fn open(&self) -> Result<Option<Process>> {
        if self.boot != boot_id()? {
            return Ok(None);
        }
        let error = |e: io::Error| Error::new("find", self, e);
        let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) else { return Ok(None) };
        let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => pidfd,
            // Also the number of a thread that is no process.
            Err(Errno::SRCH | Errno::INVAL) => return Ok(None),
            Err(e) => return Err(error(e.into())),
        };
        let found = match start_time(self.pid) {
            Ok(start) => start,
            Err(e) if is_gone(&e) => return Ok(None),
            Err(e) => return Err(error(e)),
        };
        let process = Process { id: self.clone(), pidfd };
        // The pidfd was there before the comparison: if its process ended and another one was compared, it is not alive.
        Ok((found == self.start && process.is_alive()).then_some(process))
    }
}

impl From<ProcessEntry> for ProcessId {
    fn from(ProcessEntry { pid, start, boot }: ProcessEntry) -> Self {
        Self { pid, start, boot }
    }
}

impl From<ProcessId> for ProcessEntry {
    fn from(ProcessId { pid, start, boot }: ProcessId) -> Self {
        Self { pid, start, boot }
    }
}

fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(Errno::SRCH.raw_os_error())
}

/// Field 22 of `/proc/PID/stat`.
fn start_time(pid: u32) -> io::Result<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    parse_start_time(&stat).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn parse_start_time(stat: &str) -> Option<u64> {
    // The second field is the program's name in parentheses, and may itself contain spaces and parentheses.
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// What tells this boot of the host from every other one.
///
/// # Errors
/// Where /proc is not mounted.
pub fn boot_id() -> Result<String> {
    Ok(crate::fs::read_text("/proc/sys/kernel/random/boot_id".as_ref())?.trim().to_owned())
}

pub(super) fn number(signal: Signal) -> rustix::process::Signal {
    match signal {
        Signal::Term => rustix::process::Signal::TERM,
        Signal::Kill => rustix::process::Signal::KILL,
        Signal::Int => rustix::process::Signal::INT,
        Signal::Hup => rustix::process::Signal::HUP,
        Signal::Quit => rustix::process::Signal::QUIT,
        Signal::Usr1 => rustix::process::Signal::USR1,
        Signal::Usr2 => rustix::process::Signal::USR2,
        Signal::Abrt => rustix::process::Signal::ABORT,
    }
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// By itself, with this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

impl Exit {
    /// Whether it ended by itself with code 0.
    #[must_use]
    pub fn success(self) -> bool {
        self == Self::Code(0)
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
        }
    }
}

/// A hold on one process: whatever happens to its number, this means that process. Dropping it does nothing to the process.
///
/// As a descriptor it is readable once the process has ended.
#[derive(Debug)]
pub struct Process {
    id: ProcessId,
    pidfd: OwnedFd,
}

impl Process {
    /// The hold on our child `pid`, which has not been reaped.
    pub(super) fn of_child(pid: Pid) -> Result<Self> {
        let number = pid.as_raw_nonzero().get().unsigned_abs();
        let pidfd =
            pidfd_open(pid, PidfdFlags::empty()).map_err(|e| Error::new("watch process", number, e))?;
        Ok(Self { id: ProcessId::of(number)?, pidfd })
    }

    /// Its durable identity.
    #[must_use]
    pub fn id(&self) -> &ProcessId {
        &self.id
    }

    /// Another hold on the same process.
    ///
    /// # Errors
    /// Where this process has too many files open.
    pub fn try_clone(&self) -> Result<Self> {
        let pidfd = self.pidfd.try_clone().map_err(|e| Error::new("watch", &self.id, e))?;
        Ok(Self { id: self.id.clone(), pidfd })
    }

    /// Sends it `signal`; one that has ended is fine.
    ///
    /// # Errors
    /// Where it belongs to somebody else.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        match pidfd_send_signal(&self.pidfd, number(signal)) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(e) => Err(Error::new("signal", &self.id, e)),
        }
    }

    /// Whether it has not ended yet. One that ended and was not reaped is not alive.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        !readable(self.pidfd.as_fd(), Some(Duration::ZERO)).unwrap_or(true)
    }

    /// Waits until it has ended, at most for `timeout`; says whether it has.
    ///
    /// # Errors
    /// Where it cannot be watched.
    pub fn wait_exit(&self, timeout: Duration) -> Result<bool> {
        readable(self.pidfd.as_fd(), Some(timeout)).map_err(|e| Error::new("watch", &self.id, e))
    }

    /// How it ended, where it is our child, has ended and nobody asked before. Afterwards it is no zombie any more.
    ///
    /// # Errors
    /// Where it cannot be asked.
    pub fn reap(&self) -> Result<Option<Exit>> {
        match self.wait_for_status(WaitIdOptions::EXITED | WaitIdOptions::NOHANG) {
            Ok(exit) => Ok(exit),
            Err(Errno::CHILD) => Ok(None),
            Err(e) => Err(Error::new("wait for", &self.id, e)),
        }
    }

    /// Waits for our child and says how it ended.
    pub(super) fn wait(&self) -> Result<Exit> {
        let status = self.wait_for_status(WaitIdOptions::EXITED);
        status.and_then(|exit| exit.ok_or(Errno::CHILD)).map_err(|e| Error::new("wait for", &self.id, e))
    }

    fn wait_for_status(&self, options: WaitIdOptions) -> Result<Option<Exit>, Errno> {
        let status = rustix::io::retry_on_intr(|| waitid(WaitId::PidFd(self.pidfd.as_fd()), options))?;
        Ok(status.map(|status| match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => Exit::Code(code),
            (None, signal) => Exit::Signal(signal.unwrap_or_default()),
        }))
    }
}

impl AsFd for Process {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

impl From<Process> for OwnedFd {
    fn from(process: Process) -> Self {
        process.pidfd
    }
}

impl std::os::fd::AsRawFd for Process {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        std::os::fd::AsRawFd::as_raw_fd(&self.pidfd)
    }
}

/// Waits until `fd` is readable or hung up, at most for `timeout`.
pub(super) fn readable(fd: BorrowedFd<'_>, timeout: Option<Duration>) -> io::Result<bool> {
    let deadline = timeout.map(|timeout| Instant::now() + timeout);
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let spec = left.and_then(|left| Timespec::try_from(left).ok());
        match poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)], spec.as_ref()) {
            Ok(ready) => return Ok(ready > 0),
            Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tests::shell, *};

    const DEADLINE: Duration = Duration::from_secs(20);

    #[test]
    fn start_times_are_read_past_any_name() {
        let tail = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20 21";
        for name in ["sh", "a b", ") S 1 2 (", "(("] {
            assert_eq!(parse_start_time(&format!("42 ({name}) {tail}\n")), Some(4711), "{name}");
        }
        assert_eq!(parse_start_time("42 (sh) S 1"), None);
    }

    #[test]
    fn a_process_is_found_again_until_it_ends() {
        let child = shell("exec tail -f /dev/null").detached().unwrap();
        let id = child.id().clone();
        let found = id.open().unwrap().expect("it lives");
        assert!(found.is_alive());
        assert_eq!(found.reap().unwrap(), None, "it has not ended");
        found.signal(Signal::Kill).unwrap();
        assert!(found.wait_exit(DEADLINE).unwrap());
        assert!(id.open().unwrap().is_none(), "a zombie is gone");
        assert_eq!(child.reap().unwrap(), Some(Exit::Signal(9)));
        assert_eq!(child.reap().unwrap(), None, "asked before");
        assert!(id.open().unwrap().is_none());
        found.signal(Signal::Kill).unwrap();
    }

    #[test]
    fn a_reused_pid_is_refused() {
        let own = ProcessId::own().unwrap();
        assert!(own.open().unwrap().is_some());
        let other_start = ProcessId { start: own.start + 1, ..own.clone() };
        let other_boot = ProcessId { boot: "00000000-0000-0000-0000-000000000000".into(), ..own.clone() };
        let nobody = ProcessId { pid: u32::MAX, ..own };
        for id in [other_start, other_boot, nobody] {
            assert!(id.open().unwrap().is_none(), "{id:?}");
        }
    }
}
