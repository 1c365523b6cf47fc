//! What `sudo banger system install` writes: the settings of the privileged helper, and the units of helper and daemon.

use std::fmt::Write;

mod units;

/// The helper's settings, and the word of root that there is an installation.
pub const INSTALL: &str = "/etc/banger/install.toml";
/// Where it is noted that an installation began, until it has ended.
pub const UNFINISHED: &str = "/etc/banger/unfinished";
/// Where the programs are put, unless they are installed with the system's.
pub const PROGRAMS: &str = "/usr/local/lib/banger";
/// The programs that units start, and the agent that the daemon gives to guests.
pub const NAMES: [&str; 3] = [HELPER, "bangerd", "banger-agent"];
/// The helper's name among them.
const HELPER: &str = "banger-helper";
/// Where the helper is asked.
pub const SOCKET: &str = "/run/banger-helper/helper.sock";
/// The units of the helper: its socket, then itself.
pub const HELPER_UNITS: [&str; 2] = ["banger-helper.socket", "banger-helper.service"];
/// The units of the daemon: its socket, then itself.
pub const DAEMON_UNITS: [&str; 2] = ["bangerd.socket", "bangerd.service"];
/// Where units lie that an administrator made.
pub const UNITS: &str = "/etc/systemd/system";
/// What of the helper's is true until the next boot.
pub const RUNTIME: &str = "/run/banger-helper";
/// The log of requests to the helper.
pub const LOG: &str = "/var/log/banger-helper";
/// Where jails are.
pub const JAILS: &str = "/var/lib/banger-helper";
/// The control group of the helper below its unit's, beside which those of jails are.
pub const HELPER_GROUP: &str = "helper";
/// Firecracker and its jailer, which root puts among the programs where machines are to be jailed.
pub const JAIL_PROGRAMS: [&str; 2] = ["firecracker", "jailer"];
/// The users that jailed machines have where nothing else is said: no system gives these out by itself (Debian's policy 9.2.2,
/// systemd's "Users, Groups, UIDs and GIDs").
pub const JAIL_UIDS: &str = "70000-70255";
/// The daemon's state.
pub const STATE: &str = "/var/lib/banger";
/// What the daemon can make again.
pub const CACHE: &str = "/var/cache/banger";
/// The directory of the daemon's socket.
pub const RUN: &str = "/run/banger";
/// The settings of the daemon that are not its owner's own.
pub const CONFIG: &str = "/etc/banger";

/// What the bridge is called where nothing else is said.
pub const BRIDGE: &str = "br-banger";

/// Whether machines are jailed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Jails {
    Some,
    None,
}

/// An installation. What is not said keeps the helper's own default.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Installation {
    /// The user who runs banger.
    pub owner: u32,
    /// The bridge's name.
    pub bridge: Option<String>,
    /// The addresses of host and guests.
    pub subnet: Option<String>,
    /// The users of jailed machines, where machines may be jailed: the helper then has the rights that takes.
    pub jail_uids: Option<String>,
}

/// A file of the installation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SystemFile {
    /// Where it lies.
    pub path: String,
    /// What is in it.
    pub text: String,
    /// What it is for.
    pub why: &'static str,
}

impl Installation {
    /// What the settings `text`, which were written before, say; what is not understood is as if it was not there.
    #[must_use]
    pub fn read(text: &str) -> Option<Self> {
        let value = |key: &str| {
            text.lines().find_map(|line| {
                let (name, value) = line.split_once('=')?;
                (name.trim() == key).then(|| value.trim().trim_matches('"').to_owned())
            })
        };
        Some(Self {
            owner: value("owner")?.parse().ok()?,
            bridge: value("bridge"),
            subnet: value("subnet"),
            jail_uids: value("jail_uids"),
        })
    }

    /// What its bridge is called.
    #[must_use]
    pub fn bridge(&self) -> &str {
        self.bridge.as_deref().unwrap_or(BRIDGE)
    }

    /// Its files in the order in which they are written, with the programs in the directory `programs`, for an owner whose home
    /// is `home`. The settings are the last, as banger's programs take their word that there is an installation.
    #[must_use]
    pub fn files(&self, programs: &str, home: Option<&str>) -> [SystemFile; 5] {
        let file = |name: &str, text: String, why| SystemFile { path: format!("{UNITS}/{name}"), text, why };
        let ([helper_socket, helper], [daemon_socket, daemon]) = (HELPER_UNITS, DAEMON_UNITS);
        [
            file(
                helper_socket,
                units::helper_socket(self.owner),
                "the socket at which the owner, and nobody else but root, asks the helper",
            ),
            file(
                helper,
                units::helper(programs, if self.jail_uids.is_some() { Jails::Some } else { Jails::None }),
                "the helper: bridge, taps and packet filter; it begins when it is first asked",
            ),
            file(
                daemon_socket,
                units::daemon_socket(self.owner),
                "the socket at which the owner, and nobody else but root, asks the daemon",
            ),
            file(
                daemon,
                units::daemon(self.owner, programs, home),
                "the daemon, as the owner and without any privilege; it begins with the system",
            ),
            SystemFile {
                path: INSTALL.to_owned(),
                text: self.settings(),
                why: "whose installation it is; the helper believes only what root wrote there",
            },
        ]
    }

    fn settings(&self) -> String {
        let mut text = format!(
            "# Written by `banger system install`. Only root may be able to write it.\nowner = {}\n",
            self.owner
        );
        for (key, value) in
            [("bridge", &self.bridge), ("subnet", &self.subnet), ("jail_uids", &self.jail_uids)]
        {
            if let Some(value) = value {
                let _ = writeln!(text, "{key} = \"{value}\"");
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_as_they_were_written() {
        for installation in [
            Installation { owner: 1000, ..Installation::default() },
            Installation {
                owner: 1,
                bridge: Some("br-x".to_owned()),
                subnet: Some("10.9.0.0/24".to_owned()),
                jail_uids: Some(JAIL_UIDS.to_owned()),
            },
        ] {
            let [.., settings] = installation.files(PROGRAMS, None);
            assert_eq!(settings.path, INSTALL);
            assert_eq!(Installation::read(&settings.text), Some(installation));
        }
        assert_eq!(Installation::read("owner = root"), None);
    }
}
