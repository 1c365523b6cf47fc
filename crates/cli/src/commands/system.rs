//! `banger system`: installs what only root can give, and the daemon as a service. Each step is right also where it was done before.

mod install;
mod rows;
mod status;
mod uninstall;

use std::{path::Path, time::Duration};

use host::{
    packet::Packets,
    proc::{Command, Exit, Program, own_uid},
};
use model::{
    OperationId,
    system::{DAEMON_UNITS, HELPER_UNITS, SOCKET},
};
pub use rows::rows;
use wire::helper::{Answer, Ask, MAX_ANSWER, Request};

use crate::{args::SystemCommand, error::Error, talk::Talk};

/// How long the helper may take to answer: it may have to begin.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long systemd may take.
const SYSTEMD: Duration = Duration::from_secs(120);
/// The most of what it says.
const SAID: usize = 4096;

/// `system`.
///
/// # Errors
/// Where something cannot be done; what was done before stays, and the same command goes on there.
pub fn run(talk: &Talk, command: SystemCommand) -> Result<(), Error> {
    match command {
        SystemCommand::Install(args) => install::install(talk, &args),
        SystemCommand::Status(format) => status::status(format.output),
        SystemCommand::Restart => {
            require_root("restart")?;
            let ([_, helper], [_, daemon]) = (HELPER_UNITS, DAEMON_UNITS);
            systemctl(&["restart", helper, daemon])?;
            ask(Ask::Status).map(|_| ())
        }
        SystemCommand::Uninstall(args) => uninstall::uninstall(talk, &args),
    }
}

fn failed(message: impl Into<String>, hint: Option<&'static str>) -> Error {
    Error::System { message: message.into(), hint }
}

fn require_root(what: &str) -> Result<(), Error> {
    match own_uid() {
        0 => Ok(()),
        _ => Err(failed(format!("only root can {what} what is root's"), Some("put sudo before the command"))),
    }
}

/// All units: sockets before what they start.
fn units() -> [&'static str; 4] {
    let ([helper_socket, helper], [daemon_socket, daemon]) = (HELPER_UNITS, DAEMON_UNITS);
    [helper_socket, daemon_socket, helper, daemon]
}

fn systemctl(words: &[&str]) -> Result<String, Error> {
    let output = Command::new(Program::Systemctl).args(words.iter().copied()).output(SAID, SYSTEMD)?;
    match output.exit {
        Exit::Code(0) => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        exit => Err(failed(
            format!(
                "systemctl {} ended with {exit}: {}",
                words.join(" "),
                String::from_utf8_lossy(&output.stderr).trim()
            ),
            Some("journalctl -u banger-helper -u bangerd"),
        )),
    }
}

/// What systemd says that `property` of `unit` is.
fn property(unit: &str, property: &str) -> Result<String, Error> {
    systemctl(&["show", "--property", property, "--value", unit]).map(|said| said.trim().to_owned())
}

fn ask(ask: Ask) -> Result<Answer, Error> {
    let connection = Packets::connect(Path::new(SOCKET), PATIENCE)?;
    let operation = OperationId::from_uuid(uuid());
    connection.send(&Request { operation, ask }.encode(), &[])?;
    let packet = connection.receive(MAX_ANSWER)?.filter(|packet| packet.whole);
    let answer = packet.and_then(|packet| Answer::decode(&packet.bytes).ok());
    match answer {
        Some(Answer::Refused(why)) => Err(failed(format!("the helper refuses: {why}"), None)),
        Some(Answer::Failed(why)) => Err(failed(format!("the helper cannot do it: {why}"), None)),
        Some(answer) => Ok(answer),
        None => Err(failed("the helper's answer is not understood", Some("banger system restart"))),
    }
}

/// A UUID of version 7: this moment, then chance.
fn uuid() -> [u8; 16] {
    let mut bytes: [u8; 16] = host::rand::bytes();
    bytes[..6].copy_from_slice(&host::clock::now_ms().to_be_bytes()[2..]);
    bytes[6] = bytes[6] & 0x0f | 0x70;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    bytes
}
