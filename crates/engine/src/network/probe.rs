//! Whether VMs can have namespaces of their own here, with a tap, rules and pasta: by making all of it.

use std::path::Path;

use host::{
    net::Device,
    proc::{Command, ProcessId, Program, what_forbids_namespaces},
};
use model::network::{Card, Mac, Nat, TAP};

use super::{NetworkError, Waiting, apply};

/// Where it is remembered that it worked.
const MEMORY: &str = "network-probe";
/// The card that the probe makes rules for.
const CARD: Card = Card::in_namespace(Mac([2, 0, 0, 0, 0, 0xfe]));

/// What is missing for a network of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// What, and why.
    pub what: String,
    /// What to type.
    pub hint: String,
}

impl std::fmt::Display for Missing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for Missing {}

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probe {
    /// Really now.
    Live,
    /// What worked since the host's boot with the same programs still does.
    Remembered,
}

impl Probe {
    /// Asks; `directory` keeps the answer, and what pasta says meanwhile.
    ///
    /// # Errors
    /// What is missing.
    pub async fn ask(self, directory: &Path) -> Result<(), Missing> {
        let memory = directory.join(MEMORY);
        let question = question()?;
        if self == Self::Remembered && host::fs::read_text(&memory).is_ok_and(|text| text == question) {
            return Ok(());
        }
        try_it(directory).await?;
        // Without a memory the next one asks again.
        let _ = host::fs::write_atomic(&memory, question.as_bytes());
        Ok(())
    }
}

/// What the answer holds for: this boot, this user, these programs.
fn question() -> Result<String, Missing> {
    let boot = host::proc::boot_id().unwrap_or_default();
    let mut question = format!("{boot} {}\n", host::proc::own_uid());
    for (program, package) in [(Program::Nft, "nftables"), (Program::Pasta, "passt")] {
        let path = program.path().map_err(|error| Missing {
            what: format!("{} is not installed", if package == "passt" { "pasta" } else { "nft" }),
            hint: match error.is_missing() {
                true => format!("sudo apt-get install {package}"),
                false => error.to_string(),
            },
        })?;
        let (size, modified) = host::fs::identity(&path).unwrap_or_default();
        question += &format!("{} {size} {modified}\n", path.display());
    }
    Ok(question)
}

async fn try_it(directory: &Path) -> Result<(), Missing> {
    let waiting = tokio::task::spawn_blocking(machine).await;
    let machine = match waiting {
        Ok(machine) => machine?,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    };
    let id = machine.id().clone();
    let rules = {
        let id = id.clone();
        tokio::task::spawn_blocking(move || apply(&id, &CARD, Nat::On)).await
    };
    match rules {
        Ok(rules) => rules.map_err(|error| missing(&error, "the nftables of this kernel"))?,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
    let connected = connect(&id, directory).await;
    // With it goes everything, pasta too.
    drop(machine);
    connected.map_err(|error| missing(&error, "pasta"))
}

/// A process that never executes anything, in namespaces of its own.
fn machine() -> Result<host::proc::Gated, Missing> {
    let made = Device::new(TAP, CARD.gateway, CARD.prefix, CARD.mtu).and_then(|device| {
        let mut command = Command::new(Program::Nft);
        let _ = command.with_tap(device)?;
        command.gated()
    });
    made.map_err(|error| Missing {
        what: crate::chain(&error),
        hint: match what_forbids_namespaces() {
            Some(setting) => format!("sudo sysctl -w {setting}"),
            None if error.kind() == std::io::ErrorKind::NotFound => "sudo modprobe tun".to_owned(),
            None => "let this user make user namespaces and open /dev/net/tun".to_owned(),
        },
    })
}

async fn connect(machine: &ProcessId, directory: &Path) -> Result<(), NetworkError> {
    let waiting = Waiting::new(machine, directory)?;
    let id = waiting.id().clone();
    waiting.release().await?;
    if let Some(process) = id.open()? {
        process.signal(host::proc::Signal::Kill)?;
        process.wait_exit(super::NFT)?;
        process.reap()?;
    }
    host::fs::remove(&directory.join(super::LOG))?;
    Ok(())
}

fn missing(error: &NetworkError, what: &str) -> Missing {
    Missing {
        what: format!("{what} does not work: {}", crate::chain(error)),
        hint: "banger doctor, after what it names is mended".to_owned(),
    }
}
