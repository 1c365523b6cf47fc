//! A privileged program's beginning: nothing of who started it but what the service manager says.

use std::{
    os::{
        fd::{FromRawFd, OwnedFd, RawFd},
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStrExt,
            net::{SocketAddr, UnixDatagram},
        },
    },
    path::Path,
};

use rustix::fs::Mode;

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
    let passed = env::text("LISTEN_PID") == Some(std::process::id().to_string())
        && env::text("LISTEN_FDS").as_deref() == Some("1");
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
