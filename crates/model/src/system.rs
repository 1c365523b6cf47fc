//! What `sudo banger system install` writes: the settings of the privileged helper and its units, as they are pinned here.
//!
//! The directives are as tight as what the helper does lets them be: it changes links, taps, rules and a few settings below
//! `/proc/sys/net`, runs nft, binds the port for names, and gives its socket away.

use std::fmt::Write;

/// The helper's settings.
pub const INSTALL: &str = "/etc/banger/install.toml";
/// Where the helper is put, unless it is installed with the system's programs.
pub const PROGRAM: &str = "/usr/local/lib/banger/banger-helper";
/// Where it is asked.
pub const SOCKET: &str = "/run/banger-helper/helper.sock";
/// The unit of its socket.
pub const SOCKET_UNIT: &str = "banger-helper.socket";
/// Its own unit.
pub const SERVICE_UNIT: &str = "banger-helper.service";
/// Where units lie that an administrator made.
pub const UNITS: &str = "/etc/systemd/system";
/// What is true until the next boot.
pub const RUNTIME: &str = "/run/banger-helper";
/// The log of requests.
pub const LOG: &str = "/var/log/banger-helper";

/// An installation. What is not said keeps the helper's own default.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Installation {
    /// The user who runs banger.
    pub owner: u32,
    /// The bridge's name.
    pub bridge: Option<String>,
    /// The addresses of host and guests.
    pub subnet: Option<String>,
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
        Some(Self { owner: value("owner")?.parse().ok()?, bridge: value("bridge"), subnet: value("subnet") })
    }

    /// Its files, with the helper at `program`.
    #[must_use]
    pub fn files(&self, program: &str) -> [SystemFile; 3] {
        [
            SystemFile {
                path: INSTALL.to_owned(),
                text: self.settings(),
                why: "whose installation it is; the helper believes only what root wrote there",
            },
            SystemFile {
                path: format!("{UNITS}/{SOCKET_UNIT}"),
                text: self.socket_unit(),
                why: "the socket at which the owner, and nobody else but root, asks the helper",
            },
            SystemFile {
                path: format!("{UNITS}/{SERVICE_UNIT}"),
                text: service_unit(program),
                why: "the helper: bridge, taps and packet filter; it begins when it is first asked",
            },
        ]
    }

    fn settings(&self) -> String {
        let mut text = format!(
            "# Written by `banger system install`. Only root may be able to write it.\nowner = {}\n",
            self.owner
        );
        for (key, value) in [("bridge", &self.bridge), ("subnet", &self.subnet)] {
            if let Some(value) = value {
                let _ = writeln!(text, "{key} = \"{value}\"");
            }
        }
        text
    }

    fn socket_unit(&self) -> String {
        format!(
            "[Unit]
Description=Socket of banger's privileged helper

[Socket]
ListenSequentialPacket={SOCKET}
SocketUser={}
SocketMode=0600
DirectoryMode=0711
RemoveOnStop=yes

[Install]
WantedBy=sockets.target
",
            self.owner
        )
    }
}

fn service_unit(program: &str) -> String {
    format!(
        "[Unit]
Description=banger's privileged helper: bridge, taps and packet filter
Requires={SOCKET_UNIT}
After={SOCKET_UNIT}

[Service]
Type=notify
ExecStart={program}
Restart=always
RestartSec=100ms
KillMode=process
SendSIGKILL=no
UMask=0077
# Guests pass unfiltered from somebody's change of the rules until the helper has answered it.
Nice=-20
RuntimeDirectory=banger-helper
RuntimeDirectoryMode=0711
RuntimeDirectoryPreserve=yes
LogsDirectory=banger-helper
LogsDirectoryMode=0700
CapabilityBoundingSet=CAP_NET_ADMIN CAP_NET_BIND_SERVICE CAP_CHOWN
NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
DevicePolicy=closed
DeviceAllow=/dev/net/tun rw
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM

[Install]
Also={SOCKET_UNIT}
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The directives of a unit's text that begin with a name of `names`.
    fn directives<'a>(text: &'a str, names: &[&str]) -> Vec<&'a str> {
        text.lines().filter(|line| names.iter().any(|name| line.starts_with(&format!("{name}=")))).collect()
    }

    #[test]
    fn settings_are_read_as_they_were_written() {
        for installation in [
            Installation { owner: 1000, ..Installation::default() },
            Installation {
                owner: 1,
                bridge: Some("br-x".to_owned()),
                subnet: Some("10.9.0.0/24".to_owned()),
            },
        ] {
            let [settings, ..] = installation.files(PROGRAM);
            assert_eq!(Installation::read(&settings.text), Some(installation));
        }
        assert_eq!(Installation::read("owner = root"), None);
    }

    #[test]
    fn the_units_directives_are_these() {
        let [_, socket, service] = Installation { owner: 1000, ..Installation::default() }.files(PROGRAM);
        assert_eq!(
            directives(
                &socket.text,
                &["ListenSequentialPacket", "SocketUser", "SocketMode", "DirectoryMode"]
            ),
            [
                "ListenSequentialPacket=/run/banger-helper/helper.sock",
                "SocketUser=1000",
                "SocketMode=0600",
                "DirectoryMode=0711"
            ]
        );
        // VMs outlive a restart of the helper, which has only what it needs.
        let pinned = [
            "ExecStart=/usr/local/lib/banger/banger-helper",
            "KillMode=process",
            "SendSIGKILL=no",
            "Nice=-20",
            "RuntimeDirectoryPreserve=yes",
            "CapabilityBoundingSet=CAP_NET_ADMIN CAP_NET_BIND_SERVICE CAP_CHOWN",
            "NoNewPrivileges=yes",
            "ProtectSystem=strict",
            "ProtectHome=yes",
            "LockPersonality=yes",
            "RestrictSUIDSGID=yes",
            "SystemCallFilter=@system-service",
        ];
        let names: Vec<&str> = pinned.iter().filter_map(|line| line.split('=').next()).collect();
        assert_eq!(directives(&service.text, &names), pinned);
    }
}
