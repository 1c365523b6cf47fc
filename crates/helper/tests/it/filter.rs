//! What passes a guest's tap, and what does not: every frame is really sent.

use std::{
    io::ErrorKind,
    net::{TcpListener, UdpSocket},
    os::fd::OwnedFd,
    time::Duration,
};

use host::links::Links;
use rustix::net::sockopt;
use wire::helper::{Answer, Ask, Guest};

use crate::{
    frames::{BROADCAST, Card, arp, ethernet, holds, is_arp, udp},
    world::{DEADLINE, GATEWAY, Namespace, World, eventually, guest, in_group},
};

/// How long it is waited for what must not come, after what must came. The kernel hands frames on at once.
const NOTHING: Duration = Duration::from_millis(200);

/// The sockets that the helper passes for names.
fn dns(world: &World) -> (UdpSocket, TcpListener) {
    let (answer, sockets) = world.exchange(Ask::DnsSockets);
    assert_eq!(answer, Answer::Sockets);
    let [datagrams, streams]: [OwnedFd; 2] = sockets.try_into().unwrap();
    assert_eq!(sockopt::socket_type(&datagrams), Ok(rustix::net::SocketType::DGRAM));
    let datagrams = UdpSocket::from(datagrams);
    datagrams.set_read_timeout(Some(DEADLINE)).unwrap();
    (datagrams, streams.into())
}

fn text(socket: &UdpSocket) -> String {
    let mut bytes = [0; 2048];
    let (count, _) = socket.recv_from(&mut bytes).unwrap();
    String::from_utf8_lossy(&bytes[..count]).into_owned()
}

fn is_silent(socket: &UdpSocket) -> bool {
    socket.set_read_timeout(Some(NOTHING)).unwrap();
    let silent = socket.recv(&mut [0; 2048]).is_err_and(|e| e.kind() == ErrorKind::WouldBlock);
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    silent
}

/// A socket at `address` in `namespace`.
fn socket(namespace: &Namespace, address: &str) -> UdpSocket {
    let socket = namespace.run(|| UdpSocket::bind(address).unwrap());
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket
}

#[test]
fn only_a_guests_own_frames_pass_its_tap() {
    let Some(world) = World::new() else { return };
    let card = Card::plug(&world, guest(2));
    let (names, _) = dns(&world);
    let (own, address, other) = (card.mac, card.address, [2, 9, 9, 9, 9, 9]);
    let stranger = [172, 30, 0, 99];
    let packet = |from, text: &str| udp(from, GATEWAY, (4000, 53), text);
    let to_host = |from: [u8; 6], kind, payload: &[u8]| ethernet(card.gateway, from, kind, payload);
    let mut tagged = 7u16.to_be_bytes().to_vec();
    tagged.extend(0x0800u16.to_be_bytes());
    tagged.extend(packet(address, "bad: tagged"));
    let bad = [
        ("another's MAC", to_host(other, 0x0800, &packet(address, "bad: MAC"))),
        ("the host's MAC", to_host(card.gateway, 0x0800, &packet(address, "bad: the host's MAC"))),
        ("another's address", to_host(own, 0x0800, &packet(stranger, "bad: address"))),
        ("the host's address", to_host(own, 0x0800, &packet(GATEWAY, "bad: the host's address"))),
        ("no address", to_host(own, 0x0800, &packet([0; 4], "bad: no address"))),
        ("a VLAN", to_host(own, 0x8100, &tagged)),
        ("a VLAN of a provider", to_host(own, 0x88a8, &tagged)),
        ("IPv6", to_host(own, 0x86dd, &neighbour(own))),
        ("IPv6 to all", ethernet([0x33, 0x33, 0, 0, 0, 1], own, 0x86dd, &neighbour(own))),
        ("something else", to_host(own, 0x88b5, b"bad: experimental")),
        ("a bridge's own protocol", ethernet([1, 0x80, 0xc2, 0, 0, 0], own, 0x0027, b"bad: spanning tree")),
        (
            "a link's own protocol",
            ethernet([1, 0x80, 0xc2, 0, 0, 0xe], own, 0x0800, &packet(address, "bad: link")),
        ),
        ("a DHCP server", to_host(own, 0x0800, &udp(address, GATEWAY, (67, 53), "bad: DHCP"))),
    ];
    for (what, frame) in &bad {
        card.send(frame);
        card.send(&card.datagram(GATEWAY, (4000, 53), what));
        assert_eq!(&text(&names), what, "it passes");
    }
    let lies = [
        ("another's address", arp(BROADCAST, own, 1, (own, stranger), ([0; 6], GATEWAY))),
        ("the host's address", arp(BROADCAST, own, 2, (own, GATEWAY), (BROADCAST, GATEWAY))),
        ("another's MAC", arp(BROADCAST, own, 1, (other, address), ([0; 6], GATEWAY))),
        ("another sender", arp(BROADCAST, other, 1, (own, address), ([0; 6], GATEWAY))),
    ];
    for (what, frame) in &lies {
        card.send(frame);
        card.send(&card.datagram(GATEWAY, (4000, 53), what));
        assert_eq!(&text(&names), what);
    }
    let neighbours = world.host.sh("ip neigh show dev br-banger");
    assert!(!neighbours.contains("172.30.0.99") && !neighbours.contains("02:09:09"), "{neighbours}");
    let learnt = world.host.sh("bridge fdb show br br-banger");
    assert!(!learnt.contains("02:09:09:09:09:09"), "{learnt}");
    assert!(is_silent(&names));
}

/// An IPv6 neighbour solicitation.
fn neighbour(mac: [u8; 6]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0, 0, 24, 58, 255];
    packet.extend([0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, mac[5]]);
    packet.extend([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    packet.extend([135, 0, 0, 0, 0, 0, 0, 0]);
    packet.extend([0; 16]);
    packet
}

#[test]
fn a_guest_reaches_no_service_of_the_host_but_names() {
    let Some(world) = World::new() else { return };
    let card = Card::plug(&world, Guest { nat: true, ..guest(2) });
    let (names, _) = dns(&world);
    let (outside, world_net) = ("10.7.0.1", Namespace::new());
    world.host.join("wan", "10.7.0.1/24", &world_net, "eth", "10.7.0.2/24");
    let services = [socket(&world.host, "0.0.0.0:4001"), socket(&world.host, "127.0.0.1:4002")];
    for to in [GATEWAY, [10, 7, 0, 1], [127, 0, 0, 1], [172, 30, 0, 255], [255; 4]] {
        for port in [4001, 4002, 53] {
            if (to, port) != (GATEWAY, 53) {
                card.send(&card.datagram(to, (5000, port), "bad"));
            }
        }
    }
    // Also not by frames that a bridge takes as its neighbour's own, or that go to the tap's own address.
    let tap = world.host.run(|| Links::open().unwrap().find("bg-020202020202").unwrap().unwrap());
    for to in [[1, 0x80, 0xc2, 0, 0, 0xe], [1, 0x80, 0xc2, 0, 0, 3], tap.address.unwrap(), BROADCAST] {
        card.send(&ethernet(to, card.mac, 0x0800, &udp(card.address, GATEWAY, (5000, 4001), "bad")));
    }
    card.send(&card.datagram(GATEWAY, (5000, 53), "a question"));
    assert_eq!(text(&names), "a question");
    for service in &services {
        assert!(is_silent(service), "{outside}");
    }
    // The host reaches the guest, and is answered.
    services[0].send_to(b"a greeting", "172.30.0.2:6000").unwrap();
    card.wait_for("a greeting");
    card.send(&card.datagram(GATEWAY, (6000, 4001), "an answer"));
    assert_eq!(text(&services[0]), "an answer");
}

#[test]
fn guests_see_each_other_only_in_a_group() {
    // Whether the host also filters what it bridges as if it routed it (br_netfilter), as it does beside docker.
    for bridged in ["1", "0"] {
        let Some(world) = World::new() else { return };
        let setting = "/proc/sys/net/bridge/bridge-nf-call-iptables";
        world.host.sh(&format!("if [ -e {setting} ]; then echo {bridged} > {setting}; fi"));
        see_each_other_only_in_a_group(&world);
    }
}

fn see_each_other_only_in_a_group(world: &World) {
    world.host.sh("echo 1 > /proc/sys/net/ipv4/ip_forward");
    let alone = Card::plug(world, guest(2));
    let one = Card::plug(world, in_group(3, 7));
    let mate = Card::plug(world, in_group(4, 7));
    let stranger = Card::plug(world, in_group(5, 8));
    let cards = [("alone", &alone), ("one", &one), ("mate", &mate), ("stranger", &stranger)];
    let (names, _) = dns(world);
    let drain = || cards.iter().for_each(|(_, card)| while card.receive(Duration::ZERO).is_some() {});
    drain();
    for (who, from) in cards {
        for (whom, to) in cards.iter().filter(|(whom, _)| *whom != who) {
            let say = format!("from {who} to {whom}");
            let packet = udp(from.address, to.address, (5000, 5000), &say);
            from.send(&from.asks(to.address));
            from.send(&ethernet(to.mac, from.mac, 0x0800, &packet));
            from.send(&ethernet(BROADCAST, from.mac, 0x0800, &packet));
            // By way of the host, which must not be a way round.
            from.send(&from.datagram(to.address, (5000, 5000), &format!("{say}, routed")));
            from.send(&from.datagram(GATEWAY, (5000, 53), &say));
            assert_eq!(text(&names), say);
            let mates = ["one", "mate"].contains(&who) && ["one", "mate"].contains(whom);
            let heard = |frame: &[u8]| holds(frame, &say) || (is_arp(frame, 1) && frame[22..28] == from.mac);
            let mut left = if mates { 3 } else { 0 };
            while left > 0 {
                let frame = to.receive(DEADLINE).unwrap_or_else(|| panic!("{say}: {left} do not come"));
                left -= usize::from(heard(&frame));
            }
            let more: Vec<Vec<u8>> = std::iter::from_fn(|| to.receive(Duration::ZERO)).collect();
            assert!(!more.iter().any(|frame| heard(frame)), "{say}: {more:?}");
            drain();
        }
    }
    // A guest that leaves its group is alone at once.
    world.done(Ask::ApplyRules(guest(4)));
    let packet = udp(one.address, mate.address, (5000, 5000), "are you there");
    one.send(&ethernet(mate.mac, one.mac, 0x0800, &packet));
    one.send(&one.datagram(GATEWAY, (5000, 53), "later"));
    assert_eq!(text(&names), "later");
    // The host says something of its own now and then.
    assert!(!std::iter::from_fn(|| mate.receive(NOTHING)).any(|frame| holds(&frame, "are you there")));
}

#[test]
fn the_world_is_reached_with_nat_alone_and_flows_are_cut_with_it() {
    let Some(world) = World::new() else { return };
    let outside = Namespace::new();
    world.host.join("wan", "10.7.0.1/24", &outside, "eth", "10.7.0.2/24");
    // Another bridge of the host, and what lies behind it.
    let behind = Namespace::new();
    world
        .host
        .sh("ip link add docker type bridge; ip address add 10.8.0.1/24 dev docker; ip link set docker up");
    world.host.join("port", "0.0.0.0", &behind, "eth", "10.8.0.2/24");
    world.host.sh("ip link set port master docker");
    behind.sh("ip route add default via 10.8.0.1");
    let (server, other) = (socket(&outside, "0.0.0.0:7"), socket(&behind, "10.8.0.2:7"));
    let closed = guest(2);
    let open = Guest { nat: true, ..closed };
    let card = Card::plug(&world, open);
    let (names, _) = dns(&world);
    let say = |text: &str, to| card.send(&card.datagram(to, (5000, 7), text));
    // The kernel asks for the neighbour first, and holds the packet meanwhile.
    say("with", [10, 7, 0, 2]);
    let mut bytes = [0; 100];
    let (count, from) = server.recv_from(&mut bytes).unwrap();
    assert_eq!(
        (&bytes[..count], from.ip().to_string()),
        (&b"with"[..], "10.7.0.1".to_owned()),
        "its host's address"
    );
    server.send_to(b"back", from).unwrap();
    card.wait_for("back");
    // Another bridge is no part of the world, nor is what is only there for links.
    world.host.sh("ip address add 169.254.1.1/16 dev wan");
    outside.sh("ip address add 169.254.1.2/16 dev eth");
    say("bad", [10, 8, 0, 2]);
    say("bad", [169, 254, 1, 2]);
    assert!(is_silent(&other) && is_silent(&server));

    world.done(Ask::ApplyRules(closed));
    say("without", [10, 7, 0, 2]);
    card.send(&card.datagram(GATEWAY, (5000, 53), "a question"));
    assert_eq!(text(&names), "a question");
    assert!(is_silent(&server));
    server.send_to(b"still there?", from).unwrap();
    assert!(!std::iter::from_fn(|| card.receive(NOTHING)).any(|frame| holds(&frame, "still there?")));

    world.done(Ask::ApplyRules(open));
    say("again", [10, 7, 0, 2]);
    assert_eq!(text(&server), "again");
}

#[test]
fn a_host_that_did_not_forward_does_so_only_for_guests_and_not_afterwards() {
    let Some(world) = World::new() else { return };
    let (left, right) = (Namespace::new(), Namespace::new());
    world.host.join("left", "10.7.0.1/24", &left, "eth", "10.7.0.2/24");
    world.host.join("right", "10.8.0.1/24", &right, "eth", "10.8.0.2/24");
    for (namespace, gateway) in [(&left, "10.7.0.1"), (&right, "10.8.0.1")] {
        namespace.sh(&format!("ip route add default via {gateway}"));
    }
    let forwards = || world.host.sh("cat /proc/sys/net/ipv4/ip_forward").trim() == "1";
    world.done(Ask::EnsureBridge);
    world.done(Ask::ApplyRules(guest(2)));
    assert!(!forwards(), "nobody needs it yet");
    let (from, to) = (socket(&left, "10.7.0.2:7"), socket(&right, "10.8.0.2:7"));
    world.done(Ask::ApplyRules(Guest { nat: true, ..guest(3) }));
    assert!(forwards());
    from.send_to(b"through", "10.8.0.2:7").unwrap();
    assert!(is_silent(&to), "the host is no router for others");
    world.done(Ask::RemoveBridge);
    assert!(!forwards());
    // Where it was one before, it stays one.
    world.host.sh("echo 1 > /proc/sys/net/ipv4/ip_forward");
    world.done(Ask::EnsureBridge);
    world.done(Ask::ApplyRules(Guest { nat: true, ..guest(3) }));
    from.send_to(b"through", "10.8.0.2:7").unwrap();
    assert_eq!(text(&to), "through");
    world.done(Ask::RemoveBridge);
    assert!(forwards());
}

#[test]
fn a_flushed_ruleset_leaves_no_guest_unfiltered() {
    let Some(world) = World::new() else { return };
    let card = Card::plug(&world, guest(2));
    let (names, _) = dns(&world);
    let rules = world.host.ruleset();
    for disturbance in [
        "nft flush ruleset",
        "nft delete table bridge banger",
        "nft flush chain bridge banger prerouting",
        "nft delete element bridge banger sources '{ \"bg-020202020202\" . 02:02:02:02:02:02 . 172.30.0.2 }'",
        "nft insert rule bridge banger prerouting accept",
        "nft add element inet banger nat '{ 172.30.0.2 }'",
    ] {
        world.host.sh(disturbance);
        eventually("the rules are back", || world.host.ruleset() == rules);
        eventually("the tap is up again", || world.host.sh("ip link show bg-020202020202").contains(",UP"));
        card.send(&ethernet(card.gateway, card.mac, 0x0800, &udp([172, 30, 0, 99], GATEWAY, (1, 53), "bad")));
        card.send(&card.datagram(GATEWAY, (5000, 53), disturbance));
        assert_eq!(text(&names), disturbance);
    }
    // Rules of others come and go as they like.
    world.host.sh("nft add table inet mine; nft delete table inet mine");
    assert_eq!(world.audit().matches("they are made anew").count(), 6);
    assert!(world.status().filtered);
}

#[test]
fn guests_are_cut_off_while_their_rules_cannot_be_made() {
    let Some(world) = World::new() else { return };
    let _card = Card::plug(&world, guest(2));
    let rules = world.host.ruleset();
    let up = || world.host.sh("ip link show bg-020202020202").contains(",UP");
    // A chain of the same name in a table that somebody owns who is still there: nft cannot replace it.
    let mut owner = world.host.run(|| {
        use std::{
            io::Write,
            process::{Command, Stdio},
        };
        let mut nft =
            Command::new("nft").arg("-i").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let script = "delete table inet banger\nadd table inet banger { flags owner; }\n";
        nft.stdin.as_mut().unwrap().write_all(script.as_bytes()).unwrap();
        nft
    });
    eventually("guests are cut off", || !world.status().filtered);
    assert!(!up());
    assert!(world.audit().contains("guests are cut off"));
    drop(owner.stdin.take());
    owner.wait().unwrap();
    eventually("the rules are back", || world.status().filtered && world.host.ruleset() == rules);
    assert!(up());
}

#[test]
fn a_hundred_guests_leave_the_rules_byte_by_byte_as_they_were() {
    let Some(world) = World::new() else { return };
    world.host.sh("nft add table ip mine; nft add chain ip mine c '{ type filter hook input priority 5; }'");
    world.done(Ask::EnsureBridge);
    let (rules, links) = (world.host.ruleset(), world.host.links());
    let guests: Vec<Guest> =
        (2..102).map(|n| Guest { nat: n % 2 == 0, ..in_group(n, u16::from(n % 5)) }).collect();
    for guest in &guests {
        world.done(Ask::CreateTap(guest.vm));
        world.done(Ask::ApplyRules(*guest));
    }
    let full = world.host.ruleset();
    assert_eq!(full.matches("\" . 02:").count(), guests.len());
    world.done(Ask::ApplyRules(guests[7]));
    assert_eq!(world.host.ruleset(), full);
    for guest in &guests {
        world.done(Ask::RemoveRules(guest.vm));
        world.done(Ask::RemoveTap(guest.vm));
    }
    // That it forwards stays until there is no bridge.
    let without = |links: &str| links.trim_end().trim_end_matches(['0', '1']).to_owned();
    let lines = |rules: &str| {
        rules.lines().filter(|line| line.trim() != "drop").map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(without(&world.host.links()), without(&links));
    assert_eq!(lines(&world.host.ruleset()), lines(&rules));
}
