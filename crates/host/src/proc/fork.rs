//! From a [`Command`] to a child: the only fork and exec.
//!
//! Between fork and exec a child of a program with threads may do almost nothing: no allocation, no lock, no panic. So all
//! that needs memory is prepared before, in [`Prepared`], and the child's part is one function of system calls.
//!
//! A child closes what it is not to have at once, not at its exec, because it may wait long for that: what it held would
//! keep pipes of its siblings open.

use std::{
    ffi::{CString, OsStr, c_char, c_int},
    io, iter,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd, RawFd},
        unix::ffi::{OsStrExt, OsStringExt},
    },
    ptr,
};

use rustix::{
    fs::{Mode, OFlags},
    pipe::{PipeFlags, pipe_with},
    process::Pid,
};

use super::{
    Command, Process,
    space::{Space, Stage},
};
use crate::{Error, Result, net::errno};

/// Whom the child belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leads {
    /// Its own session: no terminal's signals, nobody's group.
    Session,
    /// Us: what the terminal sends us reaches it too.
    Ours,
    /// Its own process group, so that it can be signalled with its children.
    Group,
}

/// What the gate reads before it lets its child go on.
pub(super) const RELEASE: u8 = b'R';
/// What a child tells when it is in namespaces of its own.
const READY: u8 = b'N';

/// A command as the kernel takes it.
struct Prepared {
    path: CString,
    argv: Vec<CString>,
    envp: Vec<CString>,
    directory: OwnedFd,
    stdio: [OwnedFd; 3],
    passed: Vec<OwnedFd>,
}

/// A child before its exec, or about to.
pub(super) struct Forked {
    pub process: Process,
    /// What was started, for errors.
    pub program: String,
    /// Ends without a byte when the program runs; else carries what failed, after [`READY`] where the child told that.
    pub status: OwnedFd,
}

impl Forked {
    /// Waits until the program runs.
    pub fn executed(self) -> Result<Process> {
        let mut report = [0; 4];
        match self.read(&mut report)? {
            0 => Ok(self.process),
            _ => Err(self.failed(report)),
        }
    }

    /// Waits until the child is in namespaces of its own, where it is to have some.
    fn settled(self, space: &Space) -> Result<Self> {
        match space {
            Space::Same | Space::Others(_) => return Ok(self),
            Space::Own(_) | Space::Jailed(..) => {}
        }
        let mut report = [0; 4];
        match self.read(&mut report[..1])? {
            1 if report[0] == READY => Ok(self),
            // The rest of what it reports was written together with its first byte.
            1 => self.read(&mut report[1..]).and_then(|_| Err(self.failed(report))),
            _ => Err(self.failed(Stage::Namespaces.report(libc::ECHILD))),
        }
    }

    fn read(&self, into: &mut [u8]) -> Result<usize> {
        rustix::io::retry_on_intr(|| rustix::io::read(&self.status, &mut *into))
            .map_err(|e| Error::new("start", &self.program, e))
    }

    fn failed(&self, report: [u8; 4]) -> Error {
        let _ = self.process.wait();
        let (action, error) = Stage::read(report);
        Error::new(action, &self.program, error)
    }
}

/// Forks the child of `command`. With a `gate` it waits until it reads [`RELEASE`] from there.
pub(super) fn fork(command: Command, leads: Leads, gate: Option<OwnedFd>) -> Result<Forked> {
    let path = command.program.path()?;
    let program = path.display().to_string();
    let error = |e: io::Error| Error::new("start", &program, e);
    let mut command = command;
    let space = std::mem::replace(&mut command.space, Space::Same);
    let prepared = Prepared::new(command, &path).map_err(error)?;
    let (status, status_end) = pipe_with(PipeFlags::CLOEXEC).map_err(|e| error(e.into()))?;
    let gate = gate.map(above_stdio).transpose().map_err(error)?;
    let status_end = above_stdio(status_end).map_err(error)?;

    let mut keep: Vec<RawFd> = prepared.passed.iter().chain(&gate).map(AsRawFd::as_raw_fd).collect();
    keep.extend([status_end.as_raw_fd(), prepared.directory.as_raw_fd()]);
    keep.extend(space.descriptors());
    keep.sort_unstable();
    let passed: Vec<RawFd> = prepared.passed.iter().map(AsRawFd::as_raw_fd).collect();
    let argv = pointers(&prepared.argv);
    let envp = pointers(&prepared.envp);
    let child = Child {
        path: prepared.path.as_ptr(),
        argv: &argv,
        envp: &envp,
        directory: prepared.directory.as_raw_fd(),
        stdio: [0, 1, 2].map(|n: usize| prepared.stdio[n].as_raw_fd()),
        passed: &passed,
        keep: &keep,
        space: &space,
        gate: gate.as_ref().map(AsRawFd::as_raw_fd),
        status: status_end.as_raw_fd(),
        leads,
    };

    let signals = BlockedSignals::new();
    // SAFETY: the child runs only `Child::run`, which calls only async-signal-safe functions and never returns.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        child.run();
    }
    drop(signals);
    let pid = Pid::from_raw(pid).filter(|_| pid > 0).ok_or_else(|| error(io::Error::last_os_error()))?;
    // The child holds its own copies; the pipe must end when the child's does.
    drop(status_end);
    Forked { process: Process::of_child(pid)?, program, status }.settled(&space)
}

impl Prepared {
    fn new(command: Command, path: &std::path::Path) -> io::Result<Self> {
        let text = |text: &OsStr| CString::new(text.as_bytes()).map_err(io::Error::from);
        let argv = iter::once(Ok(path.as_os_str().to_owned()))
            .chain(command.arguments.into_iter().map(Ok))
            .map(|argument: io::Result<_>| text(&argument?))
            .collect::<io::Result<_>>()?;
        let envp = command
            .variables
            .into_iter()
            .map(|(name, value)| {
                let mut variable = name.into_vec();
                variable.push(b'=');
                variable.extend(value.into_vec());
                CString::new(variable).map_err(io::Error::from)
            })
            .collect::<io::Result<_>>()?;
        let directory = command.directory.as_deref().unwrap_or("/".as_ref());
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(directory, flags, Mode::empty())
            .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", directory.display())))?;
        let stream = |given: Option<OwnedFd>| match given {
            Some(fd) => above_stdio(fd),
            None => {
                above_stdio(rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?)
            }
        };
        Ok(Self {
            path: text(path.as_os_str())?,
            argv,
            envp,
            directory: above_stdio(directory)?,
            stdio: [stream(command.stdin)?, stream(command.stdout)?, stream(command.stderr)?],
            passed: command.passed,
        })
    }
}

/// `fd` with a number that the child's standard streams do not take.
fn above_stdio(fd: OwnedFd) -> io::Result<OwnedFd> {
    if fd.as_raw_fd() > 2 {
        return Ok(fd);
    }
    Ok(rustix::io::fcntl_dupfd_cloexec(fd.as_fd(), 3)?)
}

fn pointers(texts: &[CString]) -> Vec<*const c_char> {
    texts.iter().map(|text| text.as_ptr()).chain(iter::once(ptr::null())).collect()
}

/// No signal is delivered to this thread while it lives, so no handler of ours runs in a child.
struct BlockedSignals(libc::sigset_t);

impl BlockedSignals {
    fn new() -> Self {
        // SAFETY: both sets are plain memory that the calls fill.
        unsafe {
            let mut all = std::mem::zeroed();
            let mut before = std::mem::zeroed();
            libc::sigfillset(&raw mut all);
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before);
            Self(before)
        }
    }
}

impl Drop for BlockedSignals {
    fn drop(&mut self) {
        // SAFETY: the set was filled by the call in `new`.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.0, ptr::null_mut()) };
    }
}

/// What the child needs, in memory that exists already.
struct Child<'a> {
    path: *const c_char,
    argv: &'a [*const c_char],
    envp: &'a [*const c_char],
    directory: RawFd,
    stdio: [RawFd; 3],
    passed: &'a [RawFd],
    /// Sorted.
    keep: &'a [RawFd],
    space: &'a Space,
    gate: Option<RawFd>,
    status: RawFd,
    leads: Leads,
}

impl Child<'_> {
    fn run(&self) -> ! {
        // SAFETY: these functions are async-signal-safe; every pointer is into memory of the parent that was copied by
        // the fork, and the arrays end with a null pointer.
        unsafe {
            let report = match self.go_where_it_belongs() {
                Ok(()) => {
                    if self.pass_gate() {
                        libc::execve(self.path, self.argv.as_ptr(), self.envp.as_ptr());
                    }
                    Stage::Execute.report(errno())
                }
                Err((stage, errno)) => stage.report(errno),
            };
            libc::write(self.status, report.as_ptr().cast(), report.len());
            libc::_exit(127)
        }
    }

    /// Has its descriptors and no others, and is in its namespaces.
    ///
    /// SAFETY: only in the child, between fork and exec.
    unsafe fn go_where_it_belongs(&self) -> Result<(), (Stage, c_int)> {
        // SAFETY: as promised to this; a child of fork has one thread.
        unsafe {
            if !self.prepare() {
                return Err((Stage::Execute, errno()));
            }
            self.space.enter()?;
            if let Space::Own(_) | Space::Jailed(..) = self.space {
                libc::write(self.status, [READY].as_ptr().cast(), 1);
            }
        }
        Ok(())
    }

    /// SAFETY: only in the child, between fork and exec.
    unsafe fn prepare(&self) -> bool {
        // SAFETY: as in `run`.
        unsafe {
            match self.leads {
                Leads::Session => libc::setsid(),
                Leads::Group => libc::setpgid(0, 0),
                Leads::Ours => 0,
            };
            for (number, fd) in (0..).zip(self.stdio) {
                if libc::dup2(fd, number) < 0 {
                    return false;
                }
            }
            let mut first: c_int = 3;
            for &fd in self.keep {
                if fd > first {
                    close_range(first, fd - 1);
                }
                first = fd + 1;
            }
            close_range(first, c_int::MAX);
            for &fd in self.passed {
                if libc::fcntl(fd, libc::F_SETFD, 0) < 0 {
                    return false;
                }
            }
            // Ours ignores SIGPIPE, and an ignored signal stays so across an exec.
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = libc::SIG_DFL;
            for signal in 1..=libc::SIGRTMAX() {
                libc::sigaction(signal, &raw const action, ptr::null_mut());
            }
            let mut none = std::mem::zeroed();
            libc::sigemptyset(&raw mut none);
            libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut());
            libc::fchdir(self.directory) == 0
        }
    }

    /// Waits for the release. Without it, because the parent changed its mind or is dead, the child ends here.
    ///
    /// SAFETY: only in the child, between fork and exec.
    unsafe fn pass_gate(&self) -> bool {
        let Some(gate) = self.gate else { return true };
        let mut byte = 0u8;
        // SAFETY: as in `run`; `byte` has room for what is read.
        unsafe {
            loop {
                match libc::read(gate, (&raw mut byte).cast(), 1) {
                    1 if byte == RELEASE => return true,
                    -1 if *libc::__errno_location() == libc::EINTR => {}
                    _ => libc::_exit(127),
                }
            }
        }
    }
}

/// SAFETY: nothing of this process may still use a descriptor in the range.
pub(super) unsafe fn close_range(first: c_int, last: c_int) {
    // A kernel without the call leaves the descriptors to their close-on-exec flag.
    // SAFETY: closes numbers only.
    unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
}
