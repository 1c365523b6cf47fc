//! The packet filter of a VM in user mode, as `nft` reads it.
//!
//! ```text
//! guest ── tap0 ─┬─ what is not this card's own IPv4 or ARP is gone before anybody looks at it
//!                ├─ to the gateway: ping, and names, which are passed on to pasta
//!                └─ to elsewhere: with NAT, what is not closed ── masquerade ── up0 ── pasta ── the world
//! ```
//! All of it is replaced in one transaction, so there is no moment without rules, and the same rules may be applied twice.

use std::{fmt::Write, net::Ipv4Addr};

use super::{Card, Nat, Subnet};

/// The guest's tap, as its namespace calls it.
pub const TAP: &str = "tap0";
/// The device that pasta makes there.
pub const UPLINK: &str = "up0";
/// The little network between rules and pasta; of a range that is for such things only (RFC 2544).
const UPLINK_SUBNET: Subnet = Subnet::of(Ipv4Addr::new(198, 18, 0, 0), USER_PREFIX);
/// How large it is.
pub const USER_PREFIX: u8 = 30;
/// Pasta's end.
pub const HOST_END: Ipv4Addr = UPLINK_SUBNET.host(1);
/// The namespace's end.
pub const USER_END: Ipv4Addr = UPLINK_SUBNET.host(2);
/// Where pasta takes questions for the host's resolver.
pub const DNS: Ipv4Addr = HOST_END;

/// What is no part of the world, whatever the host's own addresses are.
const NEVER: [Subnet; 7] = [
    Subnet::of(Ipv4Addr::new(0, 0, 0, 0), 8),
    Subnet::of(Ipv4Addr::new(127, 0, 0, 0), 8),
    Subnet::of(Ipv4Addr::new(169, 254, 0, 0), 16),
    super::USER_SUBNET,
    UPLINK_SUBNET,
    Subnet::of(Ipv4Addr::new(224, 0, 0, 0), 4),
    Subnet::of(Ipv4Addr::new(240, 0, 0, 0), 4),
];

/// What the rules of a VM depend on.
#[derive(Debug, Clone, Copy)]
pub struct Rules<'a> {
    /// Its card.
    pub card: &'a Card,
    /// Whether it reaches the world.
    pub nat: Nat,
    /// The host's own addresses, and the networks of its bridges: no part of the world either.
    pub closed: &'a [Subnet],
}

impl Rules<'_> {
    /// The rules as a script for `nft -f -`.
    #[must_use]
    pub fn script(&self) -> String {
        let Card { mac, address, gateway, .. } = self.card;
        let closed = self.closed().iter().map(Subnet::to_string).collect::<Vec<_>>().join(", ");
        let mut out = String::new();
        // Declared first, so that there is something to delete the first time.
        for table in ["netdev banger", "inet banger"] {
            let _ = writeln!(out, "table {table}\ndelete table {table}");
        }
        let _ = write!(
            out,
            "table netdev banger {{
  chain guest {{
    type filter hook ingress device \"{TAP}\" priority filter; policy drop;
    ether saddr != {mac} drop
    ether type arp arp htype 1 arp ptype ip arp hlen 6 arp plen 4 arp saddr ether {mac} arp saddr ip {address} accept
    ether type ip ip saddr {address} accept
  }}
}}
table inet banger {{
  set closed {{
    type ipv4_addr; flags interval;
    elements = {{ {closed} }}
  }}
  chain input {{
    type filter hook input priority filter; policy drop;
    iifname \"lo\" accept
    iifname \"{TAP}\" ip daddr {gateway} icmp type echo-request accept
    iifname \"{TAP}\" reject
  }}
  chain output {{
    type filter hook output priority filter; policy drop;
    oifname \"lo\" accept
    oifname \"{TAP}\" meta l4proto {{ icmp, tcp }} ct direction reply accept
    oifname \"{TAP}\" icmp type destination-unreachable accept
    oifname \"{TAP}\" tcp flags rst accept
  }}
  chain forward {{
    type filter hook forward priority filter; policy drop;
{forward}    iifname \"{TAP}\" meta l4proto tcp reject with tcp reset
    iifname \"{TAP}\" reject with icmp type admin-prohibited
  }}
{nat}}}
",
            forward = self.forward(),
            nat = self.translation(),
        );
        out
    }

    /// What passes, by NAT.
    fn forward(&self) -> String {
        match self.nat {
            Nat::Off => String::new(),
            Nat::On => format!(
                "    iifname \"{UPLINK}\" oifname \"{TAP}\" ct state established,related accept
    iifname \"{TAP}\" oifname \"{UPLINK}\" ip daddr {DNS} ct status dnat accept
    iifname \"{TAP}\" oifname \"{UPLINK}\" ip daddr != @closed accept
"
            ),
        }
    }

    /// Whose address the guest's packets get, and where its questions for names go.
    fn translation(&self) -> String {
        let gateway = self.card.gateway;
        match self.nat {
            Nat::Off => String::new(),
            Nat::On => format!(
                "  chain names {{
    type nat hook prerouting priority dstnat;
    iifname \"{TAP}\" ip daddr {gateway} meta l4proto {{ tcp, udp }} th dport 53 dnat ip to {DNS}
  }}
  chain leave {{
    type nat hook postrouting priority srcnat;
    oifname \"{UPLINK}\" masquerade
  }}
"
            ),
        }
    }

    /// All that is closed, without what is in something else that is: `nft` refuses overlaps.
    fn closed(&self) -> Vec<Subnet> {
        let mut all: Vec<Subnet> = NEVER.iter().chain(self.closed).copied().collect();
        all.sort_by_key(|subnet| (subnet.prefix(), subnet.address()));
        let mut kept: Vec<Subnet> = Vec::new();
        for subnet in all {
            if !kept.iter().any(|larger| larger.holds(subnet)) {
                kept.push(subnet);
            }
        }
        kept.sort_by_key(|subnet| subnet.address());
        kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::Mac;

    fn card() -> Card {
        Card::in_namespace(Mac([2, 0, 0, 0, 0, 7]))
    }

    #[test]
    fn without_nat_nothing_is_forwarded_or_translated() {
        let text = Rules { card: &card(), nat: Nat::Off, closed: &[] }.script();
        let accepts: Vec<&str> = text
            .lines()
            .skip_while(|line| !line.contains("chain forward"))
            .filter(|line| line.contains("accept"))
            .collect();
        assert_eq!(accepts, Vec::<&str>::new());
        assert!(!text.contains("hook prerouting") && !text.contains("masquerade"), "{text}");
    }

    #[test]
    fn only_the_cards_own_addresses_come_in() {
        for nat in [Nat::On, Nat::Off] {
            let text = Rules { card: &card(), nat, closed: &[] }.script();
            let chain: Vec<&str> = text
                .lines()
                .skip_while(|line| !line.contains("chain guest"))
                .take_while(|line| line.trim() != "}")
                .map(str::trim)
                .collect();
            assert_eq!(
                chain[1..],
                [
                    "type filter hook ingress device \"tap0\" priority filter; policy drop;",
                    "ether saddr != 02:00:00:00:00:07 drop",
                    "ether type arp arp htype 1 arp ptype ip arp hlen 6 arp plen 4 arp saddr ether 02:00:00:00:00:07 \
                     arp saddr ip 172.30.0.2 accept",
                    "ether type ip ip saddr 172.30.0.2 accept",
                ]
            );
        }
    }

    #[test]
    fn what_is_closed_does_not_overlap() {
        let closed = [
            Subnet::single(Ipv4Addr::new(192, 0, 2, 1)),
            Subnet::of(Ipv4Addr::new(192, 0, 2, 9), 24),
            Subnet::single(Ipv4Addr::new(127, 0, 0, 1)),
            Subnet::single(Ipv4Addr::new(192, 0, 2, 1)),
        ];
        let rules = Rules { card: &card(), nat: Nat::On, closed: &closed };
        let all: Vec<String> = rules.closed().iter().map(Subnet::to_string).collect();
        assert_eq!(
            all,
            [
                "0.0.0.0/8",
                "127.0.0.0/8",
                "169.254.0.0/16",
                "172.30.0.0/24",
                "192.0.2.0/24",
                "198.18.0.0/30",
                "224.0.0.0/4",
                "240.0.0.0/4"
            ]
        );
    }
}
