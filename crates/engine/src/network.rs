//! The network of a VM in user mode: rules in its namespace, and pasta beside it.
//!
//! ```text
//! VMM at its gate, in its own user and network namespace, its tap up
//!    │ rules      nft, in there
//!    ▼
//!    │ companion  pasta, out here: behind a gate until the ledger has it, then until it has made its device in there
//!    ▼
//! VMM executes
//! ```
//! Everything of it goes with two processes: the VMM, whose namespaces they are, and pasta. What a VM's network is to be says
//! `model::network`; when it is set up, changed and mended, [`crate::vm`].

mod probe;

use std::{
    fs::File,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::Duration,
};

use host::proc::{Command, Gated, Namespaces, Process, ProcessId, Program};
use model::network::{Card, DNS, HOST_END, Nat, Rules, UPLINK, USER_END, USER_PREFIX};
use tokio::{io::AsyncReadExt, net::unix::pipe::Receiver};

pub use probe::{Missing, Probe};

/// How long `nft` may take on a busy host; it needs a hundredth of a second.
const NFT: Duration = Duration::from_secs(20);
/// How long pasta may take until it is connected; it needs a few hundredths.
const CONNECTED: Duration = Duration::from_secs(20);
/// What is kept of what a program says.
const SAID: usize = 4096;
/// What pasta says, beside a VM's other logs.
pub const LOG: &str = "network.log";
/// What that may grow to; pasta itself keeps to it.
const LOG_SIZE: &str = "262144";
/// The address of pasta's own device. Each is alone in its namespace, so it can be the same everywhere.
const UPLINK_MAC: &str = "02:00:00:00:00:02";

/// Why a VM's network is not as it is to be.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The machine ended meanwhile, and its namespaces with it.
    #[error("its machine has ended")]
    Ended,
    /// The rules were refused.
    #[error("nft refused the rules: {0}")]
    Rules(String),
    /// Pasta ended instead of connecting it.
    #[error("pasta ended: {0}")]
    Pasta(String),
    /// Pasta did not say that it is connected.
    #[error("pasta did not connect within {} s", CONNECTED.as_secs())]
    Silent,
    /// Root's helper does not put it on the bridge.
    #[error(transparent)]
    Helper(#[from] crate::bridge::HelperError),
    /// A program could not be started.
    #[error(transparent)]
    Host(#[from] host::Error),
}

/// Puts the rules into the namespaces of process `machine`, in place of those that were there. Blocks.
///
/// # Errors
/// The rules are as before.
pub fn apply(machine: &ProcessId, card: &Card, nat: Nat) -> Result<(), NetworkError> {
    let namespaces = Namespaces::of(machine)?.ok_or(NetworkError::Ended)?;
    let closed = host::net::own_addresses()?;
    let script = Rules { card, nat, closed: &closed }.script();
    let nft = Command::new(Program::Nft)
        .args(["-f", "-"])
        .stdin(host::fs::memory_file("rules", script.as_bytes())?);
    let output = nft.inside(namespaces).output(SAID, NFT)?;
    if output.exit.success() {
        return Ok(());
    }
    Err(NetworkError::Rules(last_line(&String::from_utf8_lossy(&output.stderr))))
}

/// A pasta that has not been executed.
#[must_use = "release it, or it ends unexecuted"]
pub struct Waiting {
    gated: Gated,
    /// Ends with it; a line says that it is connected.
    said: File,
    log: PathBuf,
}

impl Waiting {
    /// A pasta for the namespaces of process `machine`, which logs into `directory`. Blocks.
    ///
    /// # Errors
    /// Where it is not installed or there can be no more processes.
    pub fn new(machine: &ProcessId, directory: &Path) -> Result<Self, NetworkError> {
        let log = directory.join(LOG);
        host::fs::remove(&log)?;
        let (said, says) = host::proc::pipe()?;
        let [user, net] = ["user", "net"].map(|kind| format!("/proc/{}/ns/{kind}", machine.pid));
        let owner = host::proc::own_uid().to_string();
        let command = Command::new(Program::Pasta)
            .args(["--foreground", "--quiet", "--pid", "/dev/stdout"])
            .arg("--log-file")
            .arg(&log)
            .args(["--log-size", LOG_SIZE])
            .args(["--userns", &user, "--netns", &net, "--ns-ifname", UPLINK])
            // Where it finds addresses and routes to copy; those it is given are its own, so it does not depend on any
            // of the host's, and what the host has then or later is its own business.
            .args(["--interface", "lo", "--ipv4-only", "--config-net"])
            .args(["--address", &USER_END.to_string(), "--netmask", &USER_PREFIX.to_string()])
            .args(["--gateway", &HOST_END.to_string(), "--mac-addr", UPLINK_MAC])
            // Neither the host's loopback in there, nor ports of there on the host, nor the other way round.
            .args(["--no-map-gw", "--tcp-ports", "none", "--udp-ports", "none"])
            .args(["--tcp-ns", "none", "--udp-ns", "none", "--no-dhcp"])
            .args(["--dns-forward", &DNS.to_string()])
            .stdout(says);
        // It takes itself for root's servant and becomes nobody, who may not enter what root made.
        let command = if owner == "0" { command.args(["--runas", &owner]) } else { command };
        Ok(Self { gated: command.gated()?, said, log })
    }

    /// Its identity: commit this before the release.
    pub fn id(&self) -> &ProcessId {
        self.gated.id()
    }

    /// Lets it go, and waits until it is connected.
    ///
    /// # Errors
    /// It is gone then, or about to be killed.
    pub async fn release(self) -> Result<(), NetworkError> {
        let Self { gated, said, log } = self;
        let mut said = Receiver::from_owned_fd(OwnedFd::from(said))
            .map_err(|e| host::Error::new("listen to", "pasta", e))?;
        let released =
            tokio::task::spawn_blocking(|| gated.release().map(|process| Unsettled(Some(process))));
        let mut unsettled = match released.await {
            Ok(released) => released?,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        };
        let mut byte = [0];
        match tokio::time::timeout(CONNECTED, said.read(&mut byte)).await {
            Ok(Ok(1)) => {
                unsettled.0 = None;
                Ok(())
            }
            Ok(_) => {
                let text = host::fs::read_limited(&log, SAID as u64).unwrap_or_default();
                Err(NetworkError::Pasta(last_line(&String::from_utf8_lossy(&text))))
            }
            Err(_) => Err(NetworkError::Silent),
        }
    }
}

/// A pasta that nobody relies on yet: killed when its start is given up.
struct Unsettled(Option<Process>);

impl Drop for Unsettled {
    fn drop(&mut self) {
        if let Some(process) = self.0.take() {
            let _ = process.signal(host::proc::Signal::Kill);
            let _ = process.wait_exit(Duration::from_secs(5));
            let _ = process.reap();
        }
    }
}

/// What a program said last, without what would change a terminal.
fn last_line(text: &str) -> String {
    let line =
        text.lines().rfind(|line| line.chars().any(char::is_alphabetic)).unwrap_or("it did not say why");
    line.trim().chars().filter(|c| !c.is_control()).collect()
}
