//! What a VM's network is: its card, its addresses, and what follows from `--nat`.
//!
//! A VM has a network card only where it needs one. Every card shows the guest the same: one static IPv4 address, a gateway that
//! is also its resolver, an MTU. What lies behind the gateway is its [`Link`].

mod bridge;
mod rules;

use std::{fmt, net::Ipv4Addr, num::NonZeroU16};

use crate::VmId;

pub use bridge::{BRIDGE_SUBNET, NoSubnet, TAP_PREFIX, bridge_subnet, tap};
pub use rules::{DNS, HOST_END, Rules, TAP, UPLINK, USER_END, USER_PREFIX};

/// An Ethernet address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// The card of VM `id`: locally administered, and as unique as the id's last 40 bits.
    #[must_use]
    pub fn of(id: VmId) -> Self {
        let [_, rest @ ..] = id.bytes();
        let [a, b, c, d, e] = rest;
        Self([0x02, a, b, c, d, e])
    }

    /// The one that is written so: `02:00:5e:10:00:01`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let bytes: Option<Vec<u8>> = text
            .split(':')
            .map(|byte| (byte.len() == 2).then(|| u8::from_str_radix(byte, 16).ok()).flatten())
            .collect();
        bytes?.try_into().ok().map(Self)
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// A range of IPv4 addresses as routes have it: the first `prefix` bits of `address`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subnet {
    address: Ipv4Addr,
    prefix: u8,
}

impl Subnet {
    /// The range that `address` is in where the first `prefix` bits, at most 32, tell it.
    #[must_use]
    pub const fn of(address: Ipv4Addr, prefix: u8) -> Self {
        let prefix = if prefix > 32 { 32 } else { prefix };
        let mask = if prefix == 0 { 0 } else { u32::MAX << (32 - prefix) };
        Self { address: Ipv4Addr::from_bits(address.to_bits() & mask), prefix }
    }

    /// One address.
    #[must_use]
    pub const fn single(address: Ipv4Addr) -> Self {
        Self::of(address, 32)
    }

    /// Its first address.
    #[must_use]
    pub const fn address(self) -> Ipv4Addr {
        self.address
    }

    /// How many of its bits are told.
    #[must_use]
    pub const fn prefix(self) -> u8 {
        self.prefix
    }

    /// Whether all of `other` is in it.
    #[must_use]
    pub const fn holds(self, other: Self) -> bool {
        other.prefix >= self.prefix
            && Self::of(other.address, self.prefix).address.to_bits() == self.address.to_bits()
    }

    /// The address at place `n`.
    #[must_use]
    pub const fn host(self, n: u32) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.address.to_bits().saturating_add(n))
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// What a guest is told of its network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Card {
    /// Its card's address.
    pub mac: Mac,
    /// Its IPv4 address.
    pub address: Ipv4Addr,
    /// How large its network is.
    pub prefix: u8,
    /// Where everything else is, also its resolver.
    pub gateway: Ipv4Addr,
    /// The largest packet.
    pub mtu: u16,
}

/// The network between a guest and its own host in user mode. Each VM is alone in it, so all have the same.
pub const USER_SUBNET: Subnet = Subnet::of(Ipv4Addr::new(172, 30, 0, 0), 24);
/// Packets between a guest and its own host never leave it, and one that is larger costs as much as one that is small.
const USER_MTU: u16 = 65520;
/// What Ethernet carries.
const MTU: u16 = 1500;
/// The network that QEMU emulates.
pub const BUILT_IN_SUBNET: Subnet = Subnet::of(Ipv4Addr::new(10, 0, 2, 0), 24);

impl Card {
    /// The card in a namespace that its VM is alone in.
    #[must_use]
    pub const fn in_namespace(mac: Mac) -> Self {
        Self {
            mac,
            address: USER_SUBNET.host(2),
            prefix: USER_SUBNET.prefix(),
            gateway: USER_SUBNET.host(1),
            mtu: USER_MTU,
        }
    }

    /// The card on QEMU's built-in network.
    #[must_use]
    pub const fn built_in(mac: Mac) -> Self {
        Self {
            mac,
            address: BUILT_IN_SUBNET.host(15),
            prefix: BUILT_IN_SUBNET.prefix(),
            gateway: BUILT_IN_SUBNET.host(2),
            mtu: MTU,
        }
    }

    /// The card of the VM that has `number` in the `subnet` of a bridge, where a VM may have that.
    #[must_use]
    pub fn on_bridge(mac: Mac, subnet: Subnet, number: u16) -> Option<Self> {
        let address = subnet.guest(number)?;
        Some(Self { mac, address, prefix: subnet.prefix(), gateway: subnet.gateway(), mtu: MTU })
    }

    /// Whom the guest asks for names.
    #[must_use]
    pub const fn resolver(&self, link: Link) -> Ipv4Addr {
        match link {
            Link::Namespace | Link::Bridge => self.gateway,
            // QEMU answers names at another address than it routes at.
            Link::BuiltIn => BUILT_IN_SUBNET.host(3),
        }
    }
}

/// What a VM's card is connected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Link {
    /// A tap in the VMM's own user and network namespace, with banger's rules in it and pasta beside it.
    Namespace,
    /// QEMU's built-in user networking: no rules, and the host's loopback within reach.
    BuiltIn,
    /// A tap of its own on the bridge that root's helper keeps, which filters what passes it.
    Bridge,
}

impl Link {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Namespace, Self::BuiltIn, Self::Bridge];

    /// Its stable name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Namespace => "user",
            Self::BuiltIn => "qemu",
            Self::Bridge => "bridge",
        }
    }

    /// The one of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|link| link.name() == name)
    }
}

/// Whether a VM reaches the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Nat {
    /// It does.
    On,
    /// It does not.
    #[default]
    Off,
}

impl Nat {
    /// By a flag.
    #[must_use]
    pub const fn of(on: bool) -> Self {
        if on { Self::On } else { Self::Off }
    }

    /// As a flag.
    #[must_use]
    pub const fn is_on(self) -> bool {
        match self {
            Self::On => true,
            Self::Off => false,
        }
    }
}

impl fmt::Display for Nat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_on() { "on" } else { "off" })
    }
}

/// Whether somebody said that a guest may reach services on the host's loopback.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum HostLoopback {
    /// It may.
    Allowed,
    /// Nobody said so.
    #[default]
    Closed,
}

/// What is recorded of a VM's network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Network {
    /// Whether it is to reach the world.
    pub nat: Nat,
    /// Whether it may reach the host's loopback where that cannot be closed.
    pub loopback: HostLoopback,
    /// What its card is connected to since its last start; without one it had no card.
    pub link: Option<Link>,
    /// Its number in the bridge's subnet, which nobody else has while its record is there.
    pub number: Option<u16>,
    /// The number of its group, which all VMs of that have: they see each other on the bridge.
    pub group: Option<NonZeroU16>,
}

/// Why a VM cannot have the network that it is to have: what is missing for namespaces, while nobody allowed the fallback.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NeedsConsent;

/// What a VM that starts now is connected to, where `namespaces` tells whether those can be used.
///
/// # Errors
/// [`NeedsConsent`].
pub fn link(network: Network, namespaces: Namespaces) -> Result<Option<Link>, NeedsConsent> {
    match (network.nat, namespaces, network.loopback) {
        (Nat::Off, _, _) => Ok(None),
        (Nat::On, Namespaces::Usable, _) => Ok(Some(Link::Namespace)),
        (Nat::On, Namespaces::Refused, HostLoopback::Allowed) => Ok(Some(Link::BuiltIn)),
        (Nat::On, Namespaces::Refused, HostLoopback::Closed) => Err(NeedsConsent),
    }
}

/// Whether a VM can have its own namespaces, with all that is needed in them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Namespaces {
    /// It can.
    Usable,
    /// Something is missing.
    Refused,
}

/// What a change of NAT takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flip {
    /// Nothing: it is so.
    Already,
    /// Only to be recorded; the next start does it.
    AtNextStart,
    /// The running VM's rules, and its companion where it has one.
    Live,
    /// It cannot be done while the VM runs.
    NeedsStop,
}

/// What it takes to set NAT of a VM of `network` to `wanted`.
#[must_use]
pub fn flip(network: Network, wanted: Nat, running: Running) -> Flip {
    match (running, network.link, wanted) {
        _ if network.nat == wanted => Flip::Already,
        (Running::No, _, _) | (Running::Yes, None, _) => Flip::AtNextStart,
        (Running::Yes, Some(Link::Namespace | Link::Bridge), _) => Flip::Live,
        // What is to be off is not left on until somebody restarts it.
        (Running::Yes, Some(Link::BuiltIn), Nat::Off | Nat::On) => Flip::NeedsStop,
    }
}

/// Whether a VM runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Running {
    /// It does.
    Yes,
    /// It does not.
    No,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_is_named_by_its_vm_and_is_a_single_local_one() {
        let mac = Mac::of(VmId::from_bytes([0xff, 1, 2, 3, 4, 0xab]));
        assert_eq!(mac.to_string(), "02:01:02:03:04:ab");
    }

    #[test]
    fn subnets_hold_what_their_bits_tell() {
        let subnet = |text: &str| {
            let (address, prefix) = text.split_once('/').unwrap();
            Subnet::of(address.parse().unwrap(), prefix.parse().unwrap())
        };
        assert_eq!(subnet("10.1.2.3/8").to_string(), "10.0.0.0/8");
        assert_eq!(subnet("10.1.2.3/99").to_string(), "10.1.2.3/32");
        for (outer, inner, holds) in [
            ("10.0.0.0/8", "10.200.0.0/16", true),
            ("10.0.0.0/8", "11.0.0.0/16", false),
            ("10.0.0.0/16", "10.0.0.0/8", false),
            ("0.0.0.0/0", "192.0.2.1/32", true),
            ("192.0.2.1/32", "192.0.2.1/32", true),
        ] {
            assert_eq!(subnet(outer).holds(subnet(inner)), holds, "{outer} {inner}");
        }
        assert_eq!(USER_SUBNET.host(2).to_string(), "172.30.0.2");
    }

    #[test]
    fn there_is_a_card_only_for_nat_and_the_fallback_only_where_it_was_allowed() {
        for (nat, namespaces, loopback, expect) in [
            (Nat::Off, Namespaces::Usable, HostLoopback::Closed, Ok(None)),
            (Nat::Off, Namespaces::Refused, HostLoopback::Allowed, Ok(None)),
            (Nat::On, Namespaces::Usable, HostLoopback::Closed, Ok(Some(Link::Namespace))),
            // What was allowed for want of something better is not used where there is something better.
            (Nat::On, Namespaces::Usable, HostLoopback::Allowed, Ok(Some(Link::Namespace))),
            (Nat::On, Namespaces::Refused, HostLoopback::Allowed, Ok(Some(Link::BuiltIn))),
            (Nat::On, Namespaces::Refused, HostLoopback::Closed, Err(NeedsConsent)),
        ] {
            let network = Network { nat, loopback, ..Network::default() };
            assert_eq!(link(network, namespaces), expect, "{nat:?} {namespaces:?} {loopback:?}");
        }
    }

    #[test]
    fn a_running_vm_with_its_card_is_changed_at_once() {
        let network = |nat, link| Network { nat, link, ..Network::default() };
        let ns = Some(Link::Namespace);
        for (network, wanted, running, expect) in [
            (network(Nat::On, ns), Nat::On, Running::Yes, Flip::Already),
            (network(Nat::On, ns), Nat::Off, Running::Yes, Flip::Live),
            (network(Nat::Off, ns), Nat::On, Running::Yes, Flip::Live),
            (network(Nat::On, Some(Link::Bridge)), Nat::Off, Running::Yes, Flip::Live),
            (network(Nat::Off, None), Nat::On, Running::Yes, Flip::AtNextStart),
            (network(Nat::Off, ns), Nat::On, Running::No, Flip::AtNextStart),
            (network(Nat::On, Some(Link::BuiltIn)), Nat::Off, Running::Yes, Flip::NeedsStop),
            (network(Nat::On, Some(Link::BuiltIn)), Nat::Off, Running::No, Flip::AtNextStart),
        ] {
            assert_eq!(flip(network, wanted, running), expect, "{network:?} {wanted} {running:?}");
        }
    }

    #[test]
    fn a_card_on_the_bridge_has_its_number_and_asks_its_gateway() {
        let card = Card::on_bridge(Mac([2; 6]), BRIDGE_SUBNET, 7).unwrap();
        assert_eq!(
            (card.address.to_string(), card.gateway.to_string()),
            ("172.30.0.7".into(), "172.30.0.1".into())
        );
        assert_eq!((card.prefix, card.mtu, card.resolver(Link::Bridge)), (24, 1500, card.gateway));
        assert_eq!(Card::on_bridge(Mac([2; 6]), BRIDGE_SUBNET, 255), None);
    }

    #[test]
    fn names_are_read_back() {
        for link in Link::ALL {
            assert_eq!(Link::from_name(link.name()), Some(link));
        }
    }
}
