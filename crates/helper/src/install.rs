//! What root wrote down about this installation: whose it is, and the bridge's name and subnet.
//!
//! It is the only configuration of the helper, and only believed where nobody but root can have written it.

use std::{net::Ipv4Addr, path::Path};

use model::network::{BRIDGE_SUBNET, Mac, Subnet, TAP_PREFIX, bridge_subnet};
use serde::Deserialize;
use wire::helper::Refusal;

/// The most bytes of the file.
const LIMIT: u64 = 16 << 10;
/// The longest name of a link.
const LINK_NAME: usize = 15;

/// An installation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Install {
    /// The user who runs banger.
    pub owner: u32,
    /// What the bridge is called.
    pub bridge: String,
    /// The addresses of host and guests.
    pub subnet: Subnet,
}

/// Why there is no installation.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// It is missing, or somebody else than root can have written it.
    #[error("cannot use the installation's settings")]
    File(#[source] host::Error),
    /// It is not what it should be.
    #[error("{path} is not understood: {why}")]
    Content {
        /// Where it lies.
        path: String,
        /// What is wrong.
        why: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    owner: u32,
    #[serde(default = "default_bridge")]
    bridge: String,
    #[serde(default = "default_subnet")]
    subnet: String,
}

fn default_bridge() -> String {
    model::system::BRIDGE.to_owned()
}

fn default_subnet() -> String {
    BRIDGE_SUBNET.to_string()
}

impl Install {
    /// Reads the file at `path`.
    ///
    /// # Errors
    /// Where it is missing, not root's alone, or not understood.
    pub fn read(path: &Path) -> Result<Self, InstallError> {
        let bytes = host::fs::read_of_root(path, LIMIT).map_err(InstallError::File)?;
        let understood = str::from_utf8(&bytes).map_err(|e| e.to_string()).and_then(Self::parse);
        understood.map_err(|why| InstallError::Content { path: path.display().to_string(), why })
    }

    fn parse(text: &str) -> Result<Self, String> {
        let text: Text = toml::from_str(text).map_err(|e| e.message().to_owned())?;
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let name = &text.bridge;
        let is_name = (1..=LINK_NAME).contains(&name.len()) && name.bytes().all(plain);
        if !is_name || name.starts_with(TAP_PREFIX) || name.starts_with('-') {
            return Err(format!("`bridge` cannot be {name:?}"));
        }
        let subnet = bridge_subnet(&text.subnet)
            .map_err(|why| format!("`subnet` cannot be {:?}: {why}", text.subnet))?;
        Ok(Self { owner: text.owner, bridge: text.bridge, subnet })
    }

    /// The host's address on the bridge.
    #[must_use]
    pub fn gateway(&self) -> Ipv4Addr {
        self.subnet.gateway()
    }

    /// The address of the guest that has `number`.
    ///
    /// # Errors
    /// [`Refusal::HostNumber`] where that is nobody's to have.
    pub fn address(&self, number: u16) -> Result<Ipv4Addr, Refusal> {
        self.subnet.guest(number).ok_or(Refusal::HostNumber)
    }

    /// The bridge's hardware address: always the same, and no guest's.
    #[must_use]
    pub fn mac(&self) -> Mac {
        let [a, b, c, _] = self.subnet.address().octets();
        Mac([0x06, b'b', b'g', a, b, c])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_said_is_as_always() {
        let install = Install::parse("owner = 1000").unwrap();
        assert_eq!((install.owner, install.bridge.as_str()), (1000, "br-banger"));
        assert_eq!(install.gateway().to_string(), "172.30.0.1");
        assert_eq!(install.mac().to_string(), "06:62:67:ac:1e:00");
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for text in [
            "",
            "owner = -1",
            "owner = 4294967296",
            "owner = 'root'",
            "owner = 1\nnft = '/tmp/nft'",
            "owner = 1\nbridge = ''",
            "owner = 1\nbridge = 'bg-0123'",
            "owner = 1\nbridge = '-b'",
            "owner = 1\nbridge = 'br\" drop'",
            "owner = 1\nbridge = 'br-0123456789ab4'",
            "owner = 1\nsubnet = '172.30.0.0'",
            "owner = 1\nsubnet = '172.30.0.1/24'",
            "owner = 1\nsubnet = '8.8.8.0/24'",
            "owner = 1\nsubnet = '10.0.0.0/8'",
            "owner = 1\nsubnet = '10.0.0.0/31'",
            "owner = 1\nsubnet = '10.0.0.0/99'",
        ] {
            assert!(Install::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn guests_have_the_addresses_between_the_hosts_and_the_last() {
        let install = Install::parse("owner = 1\nsubnet = '10.9.0.0/24'").unwrap();
        for (number, expect) in [
            (0, Err(Refusal::HostNumber)),
            (1, Err(Refusal::HostNumber)),
            (2, Ok(Ipv4Addr::new(10, 9, 0, 2))),
            (254, Ok(Ipv4Addr::new(10, 9, 0, 254))),
            (255, Err(Refusal::HostNumber)),
            (256, Err(Refusal::HostNumber)),
            (u16::MAX, Err(Refusal::HostNumber)),
        ] {
            assert_eq!(install.address(number), expect, "{number}");
        }
    }
}
