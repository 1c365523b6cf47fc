//! What root wrote down about this installation: whose it is, the bridge's name and subnet, and the users of jails.
//!
//! It is the only configuration of the helper, and only believed where nobody but root can have written it.

use std::{net::Ipv4Addr, ops::RangeInclusive, path::Path, str::FromStr};

use model::network::{BRIDGE_SUBNET, Mac, Subnet, TAP_PREFIX, bridge_subnet};
use serde::Deserialize;
use wire::helper::Refusal;

/// The most bytes of the file.
const LIMIT: u64 = 16 << 10;
/// Those below are given out by systems and administrators.
const FIRST_UID: u32 = 1 << 16;
/// The most users of jails.
const MAX_UIDS: u32 = 4096;
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
    /// The users that jailed machines have, one each, where machines may be jailed.
    pub jail_uids: Option<Uids>,
}

/// Users that nobody else is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uids(RangeInclusive<u32>);

impl Uids {
    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = u32> + use<> {
        self.0.clone()
    }
}

impl FromStr for Uids {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = |text: &str| text.parse().ok().filter(|_| text.bytes().all(|b| b.is_ascii_digit()));
        let ends = text.split_once('-').and_then(|(first, last)| Some((number(first)?, number(last)?)));
        let (first, last): (u32, u32) = ends.ok_or("it is two numbers, as in 70000-70255")?;
        if first < FIRST_UID {
            return Err("users below 65536 may be the system's or somebody's");
        }
        // The last number is no user at all.
        if first > last || last - first >= MAX_UIDS || last == u32::MAX {
            return Err("it is a range of at most 4096 users");
        }
        Ok(Self(first..=last))
    }
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
    jail_uids: Option<String>,
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
        let jail_uids = text.jail_uids.map(|uids| {
            let refuse = |why| format!("`jail_uids` cannot be {uids:?}: {why}");
            match uids.parse::<Uids>() {
                Ok(Uids(all)) if all.contains(&text.owner) => Err(refuse("the owner is one of them")),
                parsed => parsed.map_err(refuse),
            }
        });
        let jail_uids = jail_uids.transpose()?;
        Ok(Self { owner: text.owner, bridge: text.bridge, subnet, jail_uids })
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
        assert_eq!(install.jail_uids, None);
        let install = Install::parse("owner = 1000\njail_uids = '80000-84095'").unwrap();
        assert_eq!(install.jail_uids.unwrap().iter().count(), 4096);
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
            "owner = 1\njail_uids = ''",
            "owner = 1\njail_uids = '70000'",
            "owner = 1\njail_uids = '70000-'",
            "owner = 1\njail_uids = '70000-+70001'",
            "owner = 1\njail_uids = '70001-70000'",
            "owner = 1\njail_uids = '0-1000'",
            "owner = 1\njail_uids = '65535-65536'",
            "owner = 1\njail_uids = '70000-74096'",
            "owner = 1\njail_uids = '4294967290-4294967295'",
            "owner = 70007\njail_uids = '70000-70010'",
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
