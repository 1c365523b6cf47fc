//! The calls that neither the standard library nor rustix has in a safe form.

use std::{
    ffi::CStr,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    ptr,
};

use rustix::{
    ioctl::{self, Setter, opcode},
    process::{Pid, RawPid},
};
use tokio::io::{Interest, unix::AsyncFd};

/// `FIFREEZE` of `linux/fs.h`.
const FREEZE: ioctl::Opcode = opcode::read_write::<libc::c_int>(b'X', 119);
/// `CLONE_INTO_CGROUP` of `linux/sched.h`; the C library's constant is too narrow for it.
const CLONE_INTO_CGROUP: u64 = 1 << 33;
/// `EXT4_IOC_RESIZE_FS`: the new size in blocks.
const RESIZE: ioctl::Opcode = opcode::write::<u64>(b'f', 16);

/// Bytes that [`add_entropy`] takes.
pub const ENTROPY: usize = 64;
/// `RNDADDENTROPY` of `linux/random.h`.
const ADD_ENTROPY: ioctl::Opcode = opcode::write::<[libc::c_int; 2]>(b'R', 3);
/// `RNDRESEEDCRNG`.
const RESEED: ioctl::Opcode = opcode::none(b'R', 7);

/// `struct rand_pool_info`: bits, bytes, and those.
#[repr(C)]
struct Pool(libc::c_int, libc::c_int, [u8; ENTROPY]);

/// Mixes `bytes`, all of them random, into the kernel's random numbers by way of its device, and has all generators draw anew.
///
/// # Errors
/// What the kernel says; only root may.
pub fn add_entropy(device: impl AsFd, bytes: [u8; ENTROPY]) -> io::Result<()> {
    let count = libc::c_int::try_from(ENTROPY).expect("a small constant");
    // SAFETY: RNDADDENTROPY reads a rand_pool_info, two numbers and as many bytes as the second says, which is what Pool is.
    unsafe { ioctl::ioctl(&device, Setter::<ADD_ENTROPY, Pool>::new(Pool(count * 8, count, bytes))) }?;
    // SAFETY: RNDRESEEDCRNG takes no argument.
    Ok(unsafe { ioctl::ioctl(&device, ioctl::NoArg::<RESEED>::new()) }?)
}

/// Writes out the file system of `fd` and stops all writing to it.
///
/// # Errors
/// What the kernel says.
pub fn freeze(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: FIFREEZE reads no argument, so any integer is one.
    Ok(unsafe { ioctl::ioctl(fd, Setter::<FREEZE, libc::c_int>::new(0)) }?)
}

/// Lets the ext4 file system of `fd` have `blocks` blocks.
///
/// # Errors
/// What the kernel says.
pub fn resize_ext4(fd: BorrowedFd<'_>, blocks: u64) -> io::Result<()> {
    // SAFETY: EXT4_IOC_RESIZE_FS reads one u64, which is what the setter holds.
    Ok(unsafe { ioctl::ioctl(fd, Setter::<RESIZE, u64>::new(blocks)) }?)
}

/// Lets the runtime tell when `fd` is ready.
///
/// # Errors
/// What the kernel says, and where there is no runtime.
pub fn watch(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd is the same open descriptor for as long as it lives, which is as long as the AsyncFd.
    Ok(unsafe { AsyncFd::register_with_interest(fd, interest) }?)
}

/// Makes standard input, output and error be `fd`.
///
/// # Errors
/// What the kernel says.
pub fn replace_stdio(fd: &OwnedFd) -> io::Result<()> {
    rustix::stdio::dup2_stdin(fd)?;
    rustix::stdio::dup2_stdout(fd)?;
    Ok(rustix::stdio::dup2_stderr(fd)?)
}

/// Runs `child` in a new process, which ends with what it returns.
///
/// # Errors
/// Where there can be no more processes.
pub fn fork(child: impl FnOnce() -> libc::c_int) -> io::Result<Pid> {
    // SAFETY: this process has one thread, so the child finds no lock held by another.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => exit_now(child()),
        pid => Ok(Pid::from_raw(pid).expect("fork gives a positive number to the parent")),
    }
}

/// Becomes `program`. Returns only the error.
pub fn exec(program: &CStr, arguments: &[&CStr], environment: &[&CStr]) -> io::Error {
    let list = |words: &[&CStr]| -> Vec<*const libc::c_char> {
        words.iter().map(|word| word.as_ptr()).chain([ptr::null()]).collect()
    };
    let (arguments, environment) = (list(arguments), list(environment));
    // SAFETY: both lists end with a null pointer, and they and their strings live until the call returns.
    unsafe { libc::execve(program.as_ptr(), arguments.as_ptr(), environment.as_ptr()) };
    io::Error::last_os_error()
}

/// Gives the process another `argv[0]`, as `/proc/<pid>/cmdline` shows it.
///
/// # Errors
/// What the kernel says; only root may.
pub fn rename(argument: &CStr) -> io::Result<()> {
    // For good, and on the heap: the kernel shows nothing out of a file's pages.
    let argument: &'static [u8] = Box::leak(argument.to_bytes_with_nul().into());
    let begin = argument.as_ptr() as libc::c_ulong;
    let end = begin + argument.len() as libc::c_ulong;
    const NOTHING: libc::c_ulong = 0;
    let set = |what: libc::c_int, address: libc::c_ulong| {
        // SAFETY: the kernel checks the addresses, and only ever reads there.
        match unsafe { libc::prctl(libc::PR_SET_MM, what, address, NOTHING, NOTHING) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    };
    // The beginning must never be behind the end, so it depends on where the old ones are what can be first.
    let (start, stop) = (libc::PR_SET_MM_ARG_START, libc::PR_SET_MM_ARG_END);
    set(start, begin).or_else(|_| set(stop, end).and_then(|()| set(start, begin)))?;
    set(stop, end)
}

/// Ignores `signals` (Linux numbers).
pub fn ignore(signals: &[libc::c_int]) {
    for signal in signals {
        // SAFETY: ignoring runs no code of ours; a number that is none is refused.
        unsafe { libc::signal(*signal, libc::SIG_IGN) };
    }
}

/// Lets every signal do what it does by itself.
pub fn reset_signals() {
    /// The kernel's own form: handler, flags, restorer, mask. All zero is the default.
    const DEFAULT: [u64; 4] = [0; 4];
    for signal in 1..=64_i64 {
        // SAFETY: reads the action given and writes none. The bare call, because the C library keeps two signals to itself.
        // That two cannot be changed is no failure.
        unsafe {
            libc::syscall(libc::SYS_rt_sigaction, signal, DEFAULT.as_ptr(), ptr::null_mut::<u64>(), 8_usize)
        };
    }
}

/// Lets [`exec`], and every other way to a program, close all but the standard streams.
pub fn close_on_exec() {
    // SAFETY: only sets a flag, on descriptors that this process owns or has not. Kernels before 5.11 cannot; there, too, all
    // of the agent's own have it.
    unsafe { libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
}

/// Lets all signals in, or keeps all out until [`next_signal`].
pub fn mask(how: Mask) {
    // SAFETY: the set is initialised by either call before it is read.
    unsafe {
        let mut set = std::mem::zeroed();
        match how {
            Mask::None => libc::sigemptyset(&raw mut set),
            Mask::All => libc::sigfillset(&raw mut set),
        };
        libc::sigprocmask(libc::SIG_SETMASK, &raw const set, ptr::null_mut());
    }
}

/// Which signals wait.
#[derive(Debug, Clone, Copy)]
pub enum Mask {
    /// None.
    None,
    /// All that can.
    All,
}

/// The next signal that comes in, by its Linux number.
pub fn next_signal() -> libc::c_int {
    loop {
        // SAFETY: the set is initialised before it is read; the kernel writes no information where there is no place.
        let signal = unsafe {
            let mut set = std::mem::zeroed();
            libc::sigfillset(&raw mut set);
            libc::sigwaitinfo(&raw const set, ptr::null_mut())
        };
        if signal > 0 {
            return signal;
        }
    }
}

/// The first of the real-time signals, as programs count them.
#[must_use]
pub fn first_realtime_signal() -> libc::c_int {
    libc::SIGRTMIN()
}

/// Sends `signal` to every process but PID 1, this one and the kernel's.
pub fn kill_everything(signal: libc::c_int) {
    // SAFETY: takes numbers only. That there is nobody to signal is no failure.
    unsafe { libc::kill(-1, signal) };
}

/// Sends signal `number` to process group `group`.
pub fn kill_group(group: Pid, number: libc::c_int) {
    // SAFETY: takes numbers only. A group that is gone, or a number that is none, is the caller's to expect.
    unsafe { libc::kill(-group.as_raw_nonzero().get(), number) };
}

/// Sends signal `number` to PID 1.
///
/// # Errors
/// What the kernel says.
pub fn signal_init(number: libc::c_int) -> io::Result<()> {
    // SAFETY: takes numbers only.
    match unsafe { libc::kill(1, number) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The bytes that can be read from `fd` now.
#[must_use]
pub fn readable(fd: BorrowedFd<'_>) -> u64 {
    rustix::io::ioctl_fionread(fd).unwrap_or_default()
}

/// A child made by [`clone`].
#[derive(Debug)]
pub struct Cloned {
    /// Its process id.
    pub pid: Pid,
    /// Readable when it has ended.
    pub pidfd: OwnedFd,
}

/// Runs `child` in a new process, which begins in the control group of `cgroup` if there is one, and ends with what
/// `child` returns.
///
/// `child` is to call nothing that takes a lock or allocates: other threads of this process may have held locks when it
/// was copied, and nobody in the copy gives them back.
///
/// # Errors
/// Where there can be no more processes.
pub fn clone(cgroup: Option<BorrowedFd<'_>>, child: impl FnOnce() -> libc::c_int) -> io::Result<Cloned> {
    let mut pidfd: libc::c_int = -1;
    // SAFETY: all zero is a valid clone_args: no flags, no stack of its own.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = u64::try_from(libc::CLONE_PIDFD).expect("a positive constant");
    arguments.pidfd = (&raw mut pidfd) as u64;
    arguments.exit_signal = u64::try_from(libc::SIGCHLD).expect("a positive constant");
    if let Some(cgroup) = cgroup {
        arguments.flags |= CLONE_INTO_CGROUP;
        arguments.cgroup = u64::try_from(cgroup.as_fd().as_raw_fd()).expect("descriptors are positive");
    }
    // SAFETY: without CLONE_VM the child goes on in a copy of this memory, as after fork. What is not as after fork is
    // the C library's own state, which is why `child` must not use more of it than system calls.
    match unsafe { libc::syscall(libc::SYS_clone3, &raw mut arguments, size_of::<libc::clone_args>()) } {
        -1 => Err(io::Error::last_os_error()),
        0 => exit_now(child()),
        pid => {
            let pid =
                RawPid::try_from(pid).ok().and_then(Pid::from_raw).expect("clone gives a positive number");
            // SAFETY: the kernel has put a new descriptor there, which nobody else owns.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Cloned { pid, pidfd })
        }
    }
}

/// Ends this process without any clean-up: for a copy made by [`clone`].
pub fn exit_now(code: libc::c_int) -> ! {
    // SAFETY: takes a number and does not return.
    unsafe { libc::_exit(code) }
}
