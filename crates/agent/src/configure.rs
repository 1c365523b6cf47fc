//! Who a restored guest is from now on: entropy, clock, names, keys, network.
//!
//! Memory that was saved is a guest that believes to be another. Between [`hold`](Standing::hold), before the save, and a release or a new
//! identity nothing of it is served, so no two guests ever act as one.

use std::{
    cell::{Cell, RefCell},
    collections::HashSet,
    io,
    path::Path,
    rc::Rc,
    time::{Duration, Instant},
};

use host::{Error, Result};
use rustix::process::{Pid, Signal, kill_process};
use wire::{
    Word,
    guest::{Identity, Network},
};

use crate::{
    boot::{identity, network},
    ports,
    root::Root,
    sys,
};

/// How long an sshd may take to listen again. It takes a moment; one that hangs is not worth waiting for.
const RELOADED: Duration = Duration::from_secs(5);
/// Between two looks whether it does.
const LOOK: Duration = Duration::from_millis(10);

/// What may change of a guest while it runs.
#[derive(Debug)]
pub struct Standing {
    /// Variables for commands.
    environment: RefCell<Rc<[(Word, Word)]>>,
    /// Its network, as it knows it.
    network: RefCell<Option<Network>>,
    /// Nothing is served.
    held: Cell<bool>,
}

impl Standing {
    /// That of a guest that has booted.
    #[must_use]
    pub fn new(environment: &[(Word, Word)], network: Option<Network>) -> Self {
        Self {
            environment: RefCell::new(environment.into()),
            network: RefCell::new(network),
            held: Cell::new(false),
        }
    }

    /// Variables for commands.
    #[must_use]
    pub fn environment(&self) -> Rc<[(Word, Word)]> {
        Rc::clone(&self.environment.borrow())
    }

    /// Its network, as it knows it.
    #[must_use]
    pub fn network(&self) -> Option<Network> {
        self.network.borrow().clone()
    }

    /// Whether nothing is served.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.held.get()
    }

    /// Serves nothing until it is released, or is another one.
    pub fn hold(&self) {
        self.held.set(true);
    }

    /// Serves again.
    pub fn release(&self) {
        self.held.set(false);
    }

    /// Serves as another one, which it has [become](apply).
    pub fn become_it(&self, identity: &Identity) {
        *self.environment.borrow_mut() = identity.env.clone().into();
        if identity.network.is_some() {
            self.network.borrow_mut().clone_from(&identity.network);
        }
        self.release();
    }
}

/// Makes this guest the one of `identity`; `before` is the network that it has. Done twice, it is the same.
///
/// # Errors
/// Where any of it cannot be: then this guest must not be used.
pub fn apply(identity: &Identity, before: Option<&Network>) -> Result<()> {
    // First, so that nothing that follows is drawn from what others drew from.
    reseed(&identity.entropy)?;
    set_clock(identity.now_ms)?;
    rustix::system::sethostname(identity.hostname.as_bytes())
        .map_err(|e| Error::new("set host name", &identity.hostname, e))?;
    let root = Root::open(Path::new("/"))?;
    identity::names(&root, &identity.hostname, &identity.machine_id)?;
    if let Some(keys) = &identity.ssh {
        identity::ssh(&root, keys)?;
        reload_sshd()?;
    }
    match (&identity.network, before) {
        (Some(network), Some(before)) => network::change(&root, before, network),
        (None, None) => Ok(()),
        (Some(_), None) | (None, Some(_)) => {
            let cause = io::Error::other("it has a network card, or none, as it was saved");
            Err(Error::new("change", "the network of the guest", cause))
        }
    }
}

/// Mixes `hexadecimal` into the kernel's random numbers, and has all its generators draw from them anew.
fn reseed(hexadecimal: &str) -> Result<()> {
    let fail = |e: io::Error| Error::new("renew", "the guest's random numbers", e);
    let bytes = model::hex::decode::<{ sys::ENTROPY }>(hexadecimal)
        .ok_or_else(|| fail(io::ErrorKind::InvalidInput.into()))?;
    let device = host::fs::open(Path::new("/dev/urandom"))?;
    sys::add_entropy(&device, bytes).map_err(fail)
}

/// Sets the wall clock: it stood still while the guest was saved.
///
/// # Errors
/// Where the kernel refuses.
pub fn set_clock(now_ms: u64) -> Result<()> {
    let now = rustix::time::Timespec {
        tv_sec: i64::try_from(now_ms / 1000).unwrap_or(i64::MAX),
        tv_nsec: i64::try_from(now_ms % 1000 * 1_000_000).unwrap_or_default(),
    };
    rustix::time::clock_settime(rustix::time::ClockId::Realtime, now)
        .map_err(|e| Error::new("set", "the clock", io::Error::from(e)))
}

/// Has an sshd that runs read its host key again, and waits until it listens again, so that nobody who comes finds it away.
fn reload_sshd() -> Result<()> {
    for path in host::fs::list(Path::new("/proc"))? {
        let pid = path.file_name().and_then(|name| name.to_str()?.parse().ok()).and_then(Pid::from_raw);
        let Some(pid) = pid else { continue };
        // One that serves a connection has another parent, and ends of it.
        if is_listening_sshd(&host::fs::read_text(&path.join("stat")).unwrap_or_default()) {
            let before = ports::listens(&path);
            match kill_process(pid, Signal::HUP) {
                Ok(()) => wait_for_others(&path, &before),
                Err(rustix::io::Errno::SRCH) => {}
                Err(e) => return Err(Error::new("reload", "sshd", io::Error::from(e))),
            }
        }
    }
    Ok(())
}

/// Waits until `process` listens on other sockets than those of `before`, where it did on any; a while at most.
fn wait_for_others(process: &Path, before: &HashSet<u64>) {
    let begun = Instant::now();
    while !before.is_empty() && begun.elapsed() < RELOADED && host::fs::exists(process) {
        let now = ports::listens(process);
        if !now.is_empty() && now.is_disjoint(before) {
            return;
        }
        std::thread::sleep(LOOK);
    }
}

/// Whether `stat` (proc_pid_stat(5)) is that of an sshd that init or nobody started.
fn is_listening_sshd(stat: &str) -> bool {
    // The name may hold anything, also parentheses.
    let Some((before, rest)) = stat.rsplit_once(')') else { return false };
    let name = before.split_once('(').map(|(_, name)| name);
    name == Some("sshd") && rest.split_ascii_whitespace().nth(1) == Some("1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_sshd_that_listens_is_reloaded() {
        assert!(is_listening_sshd("612 (sshd) S 1 612 612 0 -1 4194560"));
        assert!(!is_listening_sshd("700 (sshd) S 612 700 700 0 -1 4194560"), "it serves a connection");
        assert!(!is_listening_sshd("700 (sshd) S 1 x) S 612 700"), "it calls itself so");
        assert!(!is_listening_sshd("1 (systemd) S 0 1 1"));
        assert!(!is_listening_sshd(""));
    }

    #[test]
    fn a_held_guest_is_released_by_an_identity() {
        let standing = Standing::new(&[("A".into(), "1".into())], None);
        assert!(!standing.is_held());
        standing.hold();
        assert!(standing.is_held());
        let identity = Identity {
            hostname: "b".to_owned(),
            machine_id: String::new(),
            env: vec![("B".into(), "2".into())],
            ssh: None,
            network: None,
            entropy: String::new(),
            now_ms: 0,
        };
        standing.become_it(&identity);
        assert!(!standing.is_held());
        assert_eq!(standing.environment()[..], [("B".into(), "2".into())]);
    }
}
