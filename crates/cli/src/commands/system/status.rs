//! `system status`: whether daemon and helper work.

use std::path::Path;

use host::fs;
use model::system::{DAEMON_UNITS, INSTALL, Installation};
use serde::Serialize;
use wire::helper::{Answer, Ask};

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
    named: bool,
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
        (status.bridge, status.filtered, status.named) = (helper.bridge, helper.filtered, helper.named);
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
            ("names", yes(status.named)),
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
