//! The network of bridge mode: which addresses its subnet has for guests, and what their taps are called.
//!
//! What a VM leases is a number in the subnet. So what is recorded of it holds also after root chose another subnet.

use std::{fmt, net::Ipv4Addr, ops::RangeInclusive};

use super::Subnet;
use crate::VmId;

/// The subnet where root chose none.
pub const BRIDGE_SUBNET: Subnet = Subnet::of(Ipv4Addr::new(172, 30, 0, 0), 24);
/// How a guest's tap on the bridge is called; the VM's id follows.
pub const TAP_PREFIX: &str = "bg-";
/// The largest and the smallest subnet of a bridge.
const PREFIXES: RangeInclusive<u8> = 20..=30;

/// Why a text is no subnet of a bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoSubnet;

impl fmt::Display for NoSubnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (from, to) = (PREFIXES.start(), PREFIXES.end());
        write!(f, "it is a private network of {from} to {to} bits, like {BRIDGE_SUBNET}")
    }
}

impl std::error::Error for NoSubnet {}

/// What the tap of VM `id` on the bridge is called.
#[must_use]
pub fn tap(id: VmId) -> String {
    format!("{TAP_PREFIX}{id}")
}

impl Subnet {
    /// The host's own address in a bridge's subnet, which is the guests' gateway and resolver.
    #[must_use]
    pub const fn gateway(self) -> Ipv4Addr {
        self.host(1)
    }

    /// The numbers that a bridge's subnet has for guests: behind the gateway's, up to the broadcast address.
    #[must_use]
    pub fn guests(self) -> RangeInclusive<u16> {
        let size = 1u32.checked_shl(32 - u32::from(self.prefix())).unwrap_or(u32::MAX);
        2..=u16::try_from(size.saturating_sub(2)).unwrap_or(u16::MAX)
    }

    /// The address of the guest that has `number`, where a guest may have that.
    #[must_use]
    pub fn guest(self, number: u16) -> Option<Ipv4Addr> {
        self.guests().contains(&number).then(|| self.host(u32::from(number)))
    }
}

/// A subnet that a bridge can have, like `172.30.0.0/24`.
///
/// # Errors
/// Where `text` is none.
pub fn bridge_subnet(text: &str) -> Result<Subnet, NoSubnet> {
    let (address, prefix) = text.split_once('/').ok_or(NoSubnet)?;
    let address: Ipv4Addr = address.parse().map_err(|_| NoSubnet)?;
    let prefix = prefix.parse().map_err(|_| NoSubnet)?;
    let subnet = Subnet::of(address, prefix);
    let fits = address.is_private() && PREFIXES.contains(&prefix) && subnet.address() == address;
    if fits { Ok(subnet) } else { Err(NoSubnet) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bridge_has_a_private_network_that_is_neither_tiny_nor_huge() {
        for text in ["172.30.0.0/24", "10.0.0.0/20", "192.168.7.4/30"] {
            assert_eq!(bridge_subnet(text).unwrap().to_string(), text);
        }
        for text in [
            "",
            "172.30.0.0",
            "172.30.0.1/24",
            "8.8.8.0/24",
            "10.0.0.0/8",
            "10.0.0.0/31",
            "10.0.0.0/99",
            "10.0.0.0/",
        ] {
            assert_eq!(bridge_subnet(text), Err(NoSubnet), "{text:?}");
        }
        assert_eq!(NoSubnet.to_string(), "it is a private network of 20 to 30 bits, like 172.30.0.0/24");
    }

    #[test]
    fn guests_have_the_addresses_between_the_hosts_and_the_last() {
        for (text, first, last) in [("10.9.0.0/24", 2, 254), ("10.9.0.0/30", 2, 2), ("10.9.0.0/20", 2, 4094)]
        {
            let subnet = bridge_subnet(text).unwrap();
            assert_eq!(subnet.guests(), first..=last, "{text}");
            for number in [0, 1, last + 1, u16::MAX] {
                assert_eq!(subnet.guest(number), None, "{number} of {text}");
            }
            assert_eq!(subnet.guest(last), Some(subnet.host(u32::from(last))));
            assert_eq!(subnet.gateway(), subnet.host(1));
        }
    }

    #[test]
    fn a_tap_is_named_by_its_vm_and_fits_a_link() {
        let name = tap(VmId::from_bytes([0xff; 6]));
        assert_eq!((name.as_str(), name.len()), ("bg-ffffffffffff", 15));
    }
}
