//! `system status`, and what doctor says of the helper.

use std::path::Path;

use host::fs;
use model::system::{DAEMON_UNITS, INSTALL, Installation, LOG};
use serde::Serialize;
use wire::{
    doctor::Row,
    helper::{Answer, Ask},
};

use super::{ask, property};
use crate::{
    args::Output,
    error::Error,
    talk::{print, print_json},
    text::fields,
};

/// What `system status -o json` tells; of the helper only where it works.
#[derive(Debug, Default, Serialize)]
struct SystemStatus {
    installed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    owner: Option<u32>,
    /// As systemd says it: `active`, `inactive`, `failed`.
    daemon: String,
    works: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    gateway: Option<String>,
    bridge: bool,
    filtered: bool,
    taps: usize,
    guests: usize,
}

/// `system status`.
///
/// # Errors
/// Where it is not installed, or helper or daemon do not work.
pub fn status(output: Output) -> Result<(), Error> {
    let installation = fs::read_text(Path::new(INSTALL)).ok().and_then(|text| Installation::read(&text));
    let mut status = SystemStatus {
        installed: installation.is_some(),
        owner: installation.map(|installation| installation.owner),
        ..SystemStatus::default()
    };
    let mut answer = None;
    if status.installed {
        let [_, daemon] = DAEMON_UNITS;
        status.daemon = property(daemon, "ActiveState")?;
        answer = Some(ask(Ask::Status));
    }
    if let Some(Ok(Answer::Status(helper))) = &answer {
        status.works = true;
        status.gateway = Some(format!("{}/{}", helper.gateway, helper.prefix));
        (status.bridge, status.filtered) = (helper.bridge, helper.filtered);
        (status.taps, status.guests) = (helper.taps.len(), helper.guests.len());
    }
    let yes = |is: bool| if is { "yes" } else { "no" }.to_owned();
    match output {
        Output::Json => print_json(&status)?,
        Output::Text if !status.installed => print("not installed\n")?,
        Output::Text => print(&fields(&[
            ("owner", status.owner.map(|owner| owner.to_string()).unwrap_or_default()),
            ("daemon", status.daemon.clone()),
            ("helper", if status.works { "works" } else { "does not answer" }.to_owned()),
            ("gateway", status.gateway.clone().unwrap_or_default()),
            ("bridge", yes(status.bridge)),
            ("filtered", yes(status.filtered)),
            ("taps", status.taps.to_string()),
            ("guests", status.guests.to_string()),
        ]))?,
    }
    match answer {
        Some(Err(error)) => Err(error),
        _ if status.works && status.daemon == "active" => Ok(()),
        _ => Err(Error::Several { failed: 1, all: 1, code: model::exit::UNREACHABLE }),
    }
}

/// What doctor says of the helper.
#[must_use]
pub fn row() -> Row {
    let installed = fs::exists(Path::new(INSTALL));
    row_of(installed.then(|| ask(Ask::Status)))
}

/// The row where the helper, if it is installed, said `answer`.
fn row_of(answer: Option<Result<Answer, Error>>) -> Row {
    const NAME: &str = "helper";
    match answer {
        None => Row::pass(NAME, "not installed: there is no bridge, and all else works without it"),
        Some(Ok(Answer::Status(status))) if status.bridge && !status.filtered => Row::fail(
            NAME,
            "its rules cannot be made, so machines on the bridge are cut off",
            format!("see {LOG}/audit.log; something on this host takes nftables' tables `banger`"),
        ),
        Some(Ok(Answer::Status(status))) if status.bridge => {
            Row::pass(NAME, format!("works; on the bridge: {}", status.taps.len()))
        }
        Some(Ok(_)) => Row::pass(NAME, "works; nobody needed the bridge yet"),
        Some(Err(Error::Host(error))) if error.kind() == std::io::ErrorKind::PermissionDenied => Row::warn(
            NAME,
            "it is another user's: there is no bridge for you",
            "sudo banger system install --owner $USER takes it over",
        ),
        Some(Err(error)) => Row::fail(NAME, error.to_string(), "sudo banger system restart"),
    }
}

#[cfg(test)]
mod tests {
    use model::system::SOCKET;
    use wire::{doctor::Verdict, helper::Status};

    use super::*;

    #[test]
    fn doctor_says_how_the_helper_is() {
        let status = |bridge, filtered| {
            let gateway = std::net::Ipv4Addr::new(172, 30, 0, 1);
            Ok(Answer::Status(Status { gateway, prefix: 24, bridge, filtered, taps: vec![], guests: vec![] }))
        };
        let denied = host::Error::new("connect to", SOCKET, std::io::ErrorKind::PermissionDenied);
        let gone = host::Error::new("connect to", SOCKET, std::io::ErrorKind::ConnectionRefused);
        for (answer, verdict, found) in [
            (None, Verdict::Pass, "not installed"),
            (Some(status(false, false)), Verdict::Pass, "nobody needed the bridge"),
            (Some(status(true, true)), Verdict::Pass, "works; on the bridge: 0"),
            (Some(status(true, false)), Verdict::Fail, "cut off"),
            (Some(Err(denied.into())), Verdict::Warn, "another user's"),
            (Some(Err(gone.into())), Verdict::Fail, "cannot connect to"),
        ] {
            let row = row_of(answer);
            assert_eq!(row.verdict, verdict, "{found}");
            assert!(row.found.contains(found), "{}", row.found);
        }
    }
}
