//! Starts a command: clone, the child's way to `execve(2)`, and what went wrong on it.

use std::{
    ffi::{CStr, CString},
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
    pipe::{PipeFlags, pipe_with},
    process::{Gid, Pid, Uid, chdir, setsid},
};
use tokio::{io::AsyncReadExt, net::unix::pipe};

use super::{
    cgroup::Cgroup,
    command::{Command, Directory},
};
use crate::sys;

/// What becomes the command's standard streams.
#[derive(Debug)]
pub enum Stdio {
    /// A terminal, which also controls it.
    Terminal(OwnedFd),
    /// Input, output, errors.
    Pipes([OwnedFd; 3]),
}

/// A command that runs.
#[derive(Debug)]
pub struct Running {
    /// The leader of its session and process group.
    pub pid: Pid,
    /// Readable when it has ended.
    pub pidfd: OwnedFd,
    /// Where it and its descendants are counted, where the guest has control groups.
    pub cgroup: Option<Cgroup>,
}

/// Why a command did not come to run.
#[derive(Debug)]
pub enum Fault {
    /// There is no such program.
    NotFound,
    /// It is there, but no program that this kernel and this user can execute.
    NotExecutable,
    /// Its directory cannot be entered.
    Directory(io::Error),
    /// The user cannot be taken on.
    Account(io::Error),
    /// There can be no more processes, or descriptors.
    Process(io::Error),
}

/// How far a child came, as it tells its parent: this byte and the error's number.
const AT_ACCOUNT: u8 = 1;
const AT_DIRECTORY: u8 = 2;
const AT_PROGRAM: u8 = 3;

/// Starts `command` on `stdio`. Gives the process also where the command did not come to run, for it must be waited for.
///
/// # Errors
/// Where there is no process at all.
pub async fn start(command: &Command, stdio: Stdio) -> Result<(Running, Option<Fault>), Fault> {
    let (result, report) = pipe_with(PipeFlags::CLOEXEC).map_err(|e| Fault::Process(e.into()))?;
    let pointers = Pointers::new(command);
    let cgroup = Cgroup::new();
    let child = || child(command, &pointers, &stdio, report.as_fd());
    let cloned = match &cgroup {
        // Control groups are for order only; a command runs also where they do not let it in.
        Some(group) => sys::clone(Some(group.as_fd()), child).or_else(|_| sys::clone(None, child)),
        None => sys::clone(None, child),
    };
    let cloned = cloned.map_err(Fault::Process)?;
    drop(report);
    let running = Running { pid: cloned.pid, pidfd: cloned.pidfd, cgroup };
    let mut bytes = Vec::new();
    rustix::io::ioctl_fionbio(&result, true).map_err(|e| Fault::Process(e.into()))?;
    let mut result = pipe::Receiver::from_owned_fd(result).map_err(Fault::Process)?;
    // The pipe ends when the child executes the program, or ends.
    result.read_to_end(&mut bytes).await.map_err(Fault::Process)?;
    Ok((running, fault(&bytes)))
}

fn fault(report: &[u8]) -> Option<Fault> {
    let [at, error @ ..] = report else { return None };
    let error = io::Error::from_raw_os_error(i32::from_ne_bytes(error.try_into().unwrap_or_default()));
    Some(match *at {
        AT_ACCOUNT => Fault::Account(error),
        AT_DIRECTORY => Fault::Directory(error),
        _ if error.kind() == io::ErrorKind::NotFound => Fault::NotFound,
        _ => Fault::NotExecutable,
    })
}

/// Lists of pointers as `execve(2)` takes them, made before there is a child that must not allocate.
struct Pointers {
    arguments: Vec<*const libc::c_char>,
    environment: Vec<*const libc::c_char>,
    groups: Vec<Gid>,
}

impl Pointers {
    fn new(command: &Command) -> Self {
        let list = |words: &[CString]| words.iter().map(|w| w.as_ptr()).chain([std::ptr::null()]).collect();
        Self {
            arguments: list(&command.arguments),
            environment: list(&command.environment),
            groups: command.account.groups.iter().map(|group| Gid::from_raw(*group)).collect(),
        }
    }
}

/// The child. It calls nothing that allocates or takes a lock; see [`sys::clone`].
fn child(command: &Command, pointers: &Pointers, stdio: &Stdio, report: BorrowedFd<'_>) -> libc::c_int {
    let (at, error) = become_command(command, pointers, stdio);
    let mut message = [0; 5];
    message[0] = at;
    message[1..].copy_from_slice(&error.raw_os_error().to_ne_bytes());
    // Five bytes always fit a new pipe.
    let _ = rustix::io::write(report, &message);
    127
}

fn become_command(command: &Command, pointers: &Pointers, stdio: &Stdio) -> (u8, Errno) {
    // It has one, being new.
    let _ = setsid();
    if let Err(error) = take_stdio(stdio) {
        return (AT_PROGRAM, error);
    }
    sys::close_on_exec();
    sys::reset_signals();
    sys::mask(sys::Mask::None);
    rustix::process::umask(Mode::WGRP | Mode::WOTH);
    // The agent is spared when memory runs out and goes first when there is work; its commands are as any other.
    let _ = rustix::process::setpriority_process(None, 0);
    score_zero();
    if let Err(error) = take_account(command, pointers) {
        return (AT_ACCOUNT, error);
    }
    let entered = match &command.directory {
        Directory::Asked(path) => chdir(path.as_c_str()),
        Directory::Home(path) => chdir(path.as_c_str()).or_else(|_| chdir(c"/")),
    };
    if let Err(error) = entered {
        return (AT_DIRECTORY, error);
    }
    (AT_PROGRAM, execute(command, pointers))
}

fn take_stdio(stdio: &Stdio) -> Result<(), Errno> {
    let [stdin, stdout, stderr] = match stdio {
        Stdio::Terminal(terminal) => {
            rustix::process::ioctl_tiocsctty(terminal)?;
            [terminal, terminal, terminal]
        }
        Stdio::Pipes([stdin, stdout, stderr]) => [stdin, stdout, stderr],
    };
    rustix::stdio::dup2_stdin(stdin)?;
    rustix::stdio::dup2_stdout(stdout)?;
    rustix::stdio::dup2_stderr(stderr)
}

fn score_zero() {
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    if let Ok(file) = rustix::fs::open(c"/proc/self/oom_score_adj", flags, Mode::empty()) {
        let _ = rustix::io::write(&file, b"0");
    }
}

fn take_account(command: &Command, pointers: &Pointers) -> Result<(), Errno> {
    let (uid, gid) = (Uid::from_raw(command.account.uid), Gid::from_raw(command.account.gid));
    if rustix::process::geteuid() == uid && !uid.is_root() {
        // Outside a guest the agent is not root, and can be nobody else.
        return Ok(());
    }
    // rustix's are the bare system calls: the C library's would signal threads that this copy does not have.
    rustix::thread::set_thread_groups(&pointers.groups)?;
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid)
}

/// Tries the candidates as `execvp(3)` does: the first that is there counts, unless it only may not be executed.
fn execute(command: &Command, pointers: &Pointers) -> Errno {
    let mut result = Errno::NOENT;
    for program in &command.candidates {
        // SAFETY: both lists end with a null pointer and live, with their strings, in `command`.
        unsafe { libc::execve(program.as_ptr(), pointers.arguments.as_ptr(), pointers.environment.as_ptr()) };
        match Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::NOEXEC) {
            // A script whose interpreter is missing, or a program whose loader is.
            Errno::NOENT if is_there(program) => return Errno::NOEXEC,
            Errno::NOENT | Errno::NOTDIR => {}
            Errno::ACCESS => result = Errno::ACCESS,
            error => return error,
        }
    }
    result
}

fn is_there(path: &CStr) -> bool {
    rustix::fs::access(path, rustix::fs::Access::EXISTS).is_ok()
}
