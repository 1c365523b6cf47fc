//! A privileged program's beginning: nothing of who started it but what the service manager says.

use std::{
    os::{
        fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd},
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStrExt,
            net::{SocketAddr, UnixDatagram},
        },
    },
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

use rustix::{fs::Mode, io::FdFlags};

use super::fork;
use crate::{Error, Result, env};

/// The first descriptor that a service manager hands over (sd_listen_fds(3)).
const FIRST: RawFd = 3;

/// What the service manager handed over.
#[derive(Debug, Default)]
pub struct Inherited {
    /// The socket that it listens at for us.
    pub listener: Option<OwnedFd>,
    notify: Option<SocketAddr>,
}

impl Inherited {
    /// Says that the program does its work from now on (sd_notify(3)).
    ///
    /// # Errors
    /// Where somebody wants to know it and cannot be told.
    pub fn ready(&self) -> Result<()> {
        let Some(address) = &self.notify else { return Ok(()) };
        UnixDatagram::unbound()
            .and_then(|socket| socket.send_to_addr(b"READY=1", address))
            .map(|_| ())
            .map_err(|e| Error::new("tell", "the service manager", e))
    }
}

/// Closes all descriptors but the standard streams and a socket that the service manager passed, forgets every variable, makes
/// files private from now on, and stands in `/`. The first thing that a privileged program does.
///
/// # Errors
/// Where the process cannot be asked about or `/` not be entered.
///
/// # Panics
/// Where there are other threads already: they may use what is closed.
pub fn begin_clean() -> Result<Inherited> {
    let threads = crate::fs::list(Path::new("/proc/self/task"))?.len();
    assert_eq!(threads, 1, "it is the first thing that a program does");
    let passed = is_passed();
    let notify = env::var("NOTIFY_SOCKET").and_then(|name| match name.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name).ok(),
        _ => SocketAddr::from_pathname(&name).ok(),
    });
    // SAFETY: no other thread uses the numbers, and nothing of ours was opened yet.
    unsafe { fork::close_range(FIRST + RawFd::from(passed), RawFd::MAX) };
    for (name, _) in std::env::vars_os() {
        // SAFETY: there is no other thread that could read the environment.
        unsafe { std::env::remove_var(name) };
    }
    rustix::process::umask(Mode::from_raw_mode(0o077));
    rustix::process::chdir("/").map_err(|e| Error::new("enter", "/", e))?;
    // SAFETY: the service manager passed this number, as its variables said, and nobody else owns it.
    let listener = passed.then(|| unsafe { OwnedFd::from_raw_fd(FIRST) });
    Ok(Inherited { listener, notify })
}

/// Whether the service manager passed this process one socket (sd_listen_fds(3)).
fn is_passed() -> bool {
    env::text("LISTEN_PID") == Some(std::process::id().to_string())
        && env::text("LISTEN_FDS").as_deref() == Some("1")
}

/// The socket at which the service manager listens for this process, if it does. No child gets it. To be asked once, before anything
/// else is opened.
///
/// # Errors
/// Where what was passed is no descriptor.
///
/// # Panics
/// Where it is asked twice: it has one owner.
pub fn passed_listener() -> Result<Option<OwnedFd>> {
    static ASKED: AtomicBool = AtomicBool::new(false);
    assert!(!ASKED.swap(true, Ordering::Relaxed), "it is the first thing that a program does");
    if !is_passed() {
        return Ok(None);
    }
    // SAFETY: only looks at what the number stands for.
    let passed = unsafe { BorrowedFd::borrow_raw(FIRST) };
    rustix::io::fcntl_setfd(passed, FdFlags::CLOEXEC)
        .map_err(|e| Error::new("take over", "the socket of the service manager", e))?;
    // SAFETY: the service manager passed this number, as its variables said, and nobody else took it before.
    Ok(Some(unsafe { OwnedFd::from_raw_fd(FIRST) }))
}
