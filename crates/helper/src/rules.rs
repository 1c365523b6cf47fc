//! The rules, as nft reads them: two tables of banger's own, the same for all guests, and sets that say which guests there are.
//!
//! ```text
//! tap ─▶ bridge prerouting: the guest's own MAC, its own IPv4 or ARP, no DHCP server; everything else is dropped
//!        ├─▶ bridge forward: from tap to tap only inside a group
//!        ├─▶ inet input: from the bridge only DNS, and answers to the host
//!        └─▶ inet forward: with NAT to the world, not to other bridges; masquerade
//! ```
//! Frames from tap to tap meet `inet forward` too where the host filters what it bridges (br_netfilter); the bridge's table judges
//! those. What is routed instead goes to the host's own hardware address, which is none of the guests', or to nobody.
//!
//! A guest is elements of sets, so a change of one is one small transaction, whatever the number of the others. NAT that goes off
//! cuts flows at once: no rule lets a packet through because another one went before, unless the guest is in the set.

use std::{collections::BTreeSet, fmt::Write, net::Ipv4Addr};

use model::{
    VmId,
    network::{Mac, TAP_PREFIX, tap},
};
use wire::helper::Guest;

use crate::install::Install;

/// The name of both tables.
pub const TABLE: &str = "banger";

/// A set of the tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Set {
    /// Which tap has which MAC and address.
    Sources,
    /// From which tap to which.
    Pairs,
    /// The guests' MACs.
    Macs,
    /// Which addresses reach the world.
    Nat,
}

impl Set {
    const ALL: [Self; 4] = [Self::Sources, Self::Pairs, Self::Macs, Self::Nat];

    fn path(self) -> &'static str {
        match self {
            Self::Sources => "bridge banger sources",
            Self::Pairs => "bridge banger pairs",
            Self::Macs => "inet banger macs",
            Self::Nat => "inet banger nat",
        }
    }
}

/// Whose tap is called `name`.
#[must_use]
pub fn tap_owner(name: &str) -> Option<VmId> {
    VmId::try_from(name.strip_prefix(TAP_PREFIX)?).ok()
}

/// What becomes of packets that are neither from nor to a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Others {
    /// That is not banger's to say: the host forwarded packets before.
    Untouched,
    /// They are not forwarded, as they were not before the helper let the host forward those of guests.
    NotForwarded,
}

/// The transaction that makes both tables anew, for all `guests`.
#[must_use]
pub fn whole<'a>(
    install: &Install,
    guests: impl Iterator<Item = &'a Guest> + Clone,
    others: Others,
) -> String {
    let mut text = String::new();
    // Declared first, so that there is something to delete the first time.
    let _ = writeln!(text, "{}", removal());
    text.push_str(&tables(install, others));
    let all: BTreeSet<Element> =
        guests.clone().flat_map(|guest| elements(install, guest, guests.clone())).collect();
    text.push_str(&commands("add", &all));
    text
}

/// The transaction that leaves neither table.
#[must_use]
pub fn removal() -> String {
    ["bridge", "inet"]
        .map(|family| format!("table {family} {TABLE}\ndelete table {family} {TABLE}\n"))
        .concat()
}

/// The transaction that makes `before` to `after`, where `others` stay.
#[must_use]
pub fn change<'a>(
    install: &Install,
    before: Option<&Guest>,
    after: Option<&Guest>,
    others: impl Iterator<Item = &'a Guest> + Clone,
) -> String {
    let of = |guest: Option<&Guest>| -> BTreeSet<Element> {
        guest.map(|guest| elements(install, guest, others.clone())).unwrap_or_default()
    };
    let (before, after) = (of(before), of(after));
    let gone = before.difference(&after).cloned().collect();
    let new = after.difference(&before).cloned().collect();
    commands("delete", &gone) + &commands("add", &new)
}

/// An element and its set.
type Element = (Set, String);

/// What `guest` is in the sets, beside `all`, in which it may be itself.
fn elements<'a>(install: &Install, guest: &Guest, all: impl Iterator<Item = &'a Guest>) -> BTreeSet<Element> {
    // A number that is no address was refused before.
    let Ok(address) = install.address(guest.host_number) else { return BTreeSet::new() };
    let (name, mac) = (tap(guest.vm), Mac::of(guest.vm));
    let mut found = BTreeSet::from([
        (Set::Sources, format!("\"{name}\" . {mac} . {address}")),
        (Set::Macs, mac.to_string()),
    ]);
    if guest.nat {
        found.insert((Set::Nat, Ipv4Addr::to_string(&address)));
    }
    let mates =
        all.filter(|other| other.vm != guest.vm && other.group.is_some() && other.group == guest.group);
    for mate in mates.map(|mate| tap(mate.vm)) {
        found.insert((Set::Pairs, format!("\"{name}\" . \"{mate}\"")));
        found.insert((Set::Pairs, format!("\"{mate}\" . \"{name}\"")));
    }
    found
}

fn commands(verb: &str, elements: &BTreeSet<Element>) -> String {
    let of = |set: Set| {
        let members: Vec<&str> =
            elements.iter().filter(|(other, _)| *other == set).map(|(_, element)| element.as_str()).collect();
        (!members.is_empty()).then(|| format!("{verb} element {} {{ {} }}\n", set.path(), members.join(", ")))
    };
    Set::ALL.into_iter().filter_map(of).collect()
}

fn tables(install: &Install, others: Others) -> String {
    let (bridge, gateway) = (&install.bridge, install.gateway());
    let rest = match others {
        Others::Untouched => "",
        Others::NotForwarded => "    drop\n",
    };
    format!(
        "table bridge banger {{
  set sources {{ type ifname . ether_addr . ipv4_addr; }}
  set pairs {{ type ifname . ifname; }}
  chain prerouting {{
    type filter hook prerouting priority -300; policy accept;
    iifname \"{TAP_PREFIX}*\" jump guest
  }}
  chain guest {{
    ether type ip iifname . ether saddr . ip saddr @sources jump ipv4
    ether type arp arp htype 1 arp ptype ip arp hlen 6 arp plen 4 \
           iifname . ether saddr . arp saddr ip @sources iifname . arp saddr ether . arp saddr ip @sources accept
    drop
  }}
  chain ipv4 {{
    udp sport 67 drop
    accept
  }}
  chain input {{
    type filter hook input priority 0; policy accept;
    iifname \"{TAP_PREFIX}*\" ether daddr & ff:ff:ff:ff:ff:f0 == 01:80:c2:00:00:00 drop
  }}
  chain forward {{
    type filter hook forward priority 0; policy accept;
    iifname . oifname @pairs accept
    iifname \"{TAP_PREFIX}*\" drop
    oifname \"{TAP_PREFIX}*\" drop
  }}
}}
table inet banger {{
  set macs {{ type ether_addr; }}
  set nat {{ type ipv4_addr; }}
  chain input {{
    type filter hook input priority 0; policy accept;
    iifname \"{TAP_PREFIX}*\" drop
    iifname \"{bridge}\" jump host
  }}
  chain host {{
    meta nfproto ipv6 drop
    ct state established,related accept
    ip daddr {gateway} meta l4proto {{ tcp, udp }} th dport 53 accept
    drop
  }}
  chain forward {{
    type filter hook forward priority 0; policy accept;
    iifname \"{TAP_PREFIX}*\" drop
    iifname \"{bridge}\" jump out
    oifname \"{bridge}\" jump back
{rest}  }}
  chain out {{
    oifname \"{bridge}\" ether daddr @macs accept
    oifname \"{bridge}\" ether daddr & 01:00:00:00:00:00 == 01:00:00:00:00:00 accept
    meta nfproto ipv6 drop
    meta oifkind \"bridge\" drop
    ip daddr 169.254.0.0/16 drop
    ip saddr @nat accept
    drop
  }}
  chain back {{
    ip daddr @nat ct state established,related accept
    drop
  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr @nat oifname != \"{bridge}\" masquerade
  }}
}}
"
    )
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU16;

    use model::network::Subnet;

    use super::*;

    fn install() -> Install {
        let subnet = Subnet::of(Ipv4Addr::new(10, 9, 0, 0), 24);
        Install { owner: 1000, bridge: "br-banger".to_owned(), subnet, jail_uids: None }
    }

    fn guest(n: u8, group: u16) -> Guest {
        let vm = VmId::from_bytes([n; 6]);
        Guest { vm, host_number: u16::from(n), group: NonZeroU16::new(group), nat: n == 2 }
    }

    #[test]
    fn a_tap_tells_its_vm() {
        let vm = VmId::from_bytes([0xff; 6]);
        assert_eq!(tap_owner(&tap(vm)), Some(vm));
        for other in ["bg-", "br-banger", "bg-fffffffffffff", "eth0"] {
            assert_eq!(tap_owner(other), None, "{other}");
        }
    }

    #[test]
    fn a_change_is_what_differs() {
        let (two, three, four) = (guest(2, 7), guest(3, 7), guest(4, 0));
        let all = [two, three, four];
        assert_eq!(
            change(&install(), None, Some(&two), [three, four].iter()),
            "add element bridge banger sources { \"bg-020202020202\" . 02:02:02:02:02:02 . 10.9.0.2 }\n\
             add element bridge banger pairs { \"bg-020202020202\" . \"bg-030303030303\", \
             \"bg-030303030303\" . \"bg-020202020202\" }\n\
             add element inet banger macs { 02:02:02:02:02:02 }\n\
             add element inet banger nat { 10.9.0.2 }\n"
        );
        let closed = Guest { nat: false, ..two };
        assert_eq!(
            change(&install(), Some(&two), Some(&closed), all.iter()),
            "delete element inet banger nat { 10.9.0.2 }\n"
        );
        assert_eq!(change(&install(), Some(&two), Some(&two), all.iter()), "");
        assert_eq!(change(&install(), Some(&four), None, all.iter()).matches("delete element").count(), 2);
    }

    #[test]
    fn guests_without_a_group_are_nobodys_mates() {
        let (one, other) = (guest(3, 0), guest(4, 0));
        assert!(!whole(&install(), [one, other].iter(), Others::Untouched).contains("pairs { \""));
    }
}
