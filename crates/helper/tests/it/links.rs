//! Bridge and taps: made, found again, removed without a trace.

use wire::helper::{Answer, Ask};

use crate::world::{OWNER, World, guest};

#[test]
fn bridge_and_tap_come_and_go_and_leave_the_host_as_it_was() {
    let Some(world) = World::new() else { return };
    world
        .host
        .sh("nft add table inet mine; nft add chain inet mine c '{ type filter hook input priority 5; }'");
    let before = (world.host.links(), world.host.ruleset());
    let vm = guest(2).vm;
    for _ in 0..2 {
        // Each may be asked for again.
        for _ in 0..2 {
            world.done(Ask::EnsureBridge);
        }
        for _ in 0..2 {
            world.done(Ask::CreateTap(vm));
        }
        let links = world.host.sh("ip -details link show bg-020202020202; ip -brief address show br-banger");
        for part in
            ["master br-banger", "state DOWN", "isolated on", "vnet_hdr on", "persist on", "172.30.0.1/24"]
        {
            assert!(links.contains(part), "{part}: {links}");
        }
        assert!(links.contains(&format!("user {OWNER}")), "{links}");
        world.done(Ask::ApplyRules(guest(2)));
        let status = world.status();
        assert_eq!((status.gateway.octets(), status.prefix), ([172, 30, 0, 1], 24));
        assert_eq!(
            (status.bridge, status.filtered, &status.taps[..], &status.guests[..]),
            (true, true, &[vm][..], &[vm][..])
        );
        for _ in 0..2 {
            world.done(Ask::RemoveRules(vm));
            world.done(Ask::RemoveTap(vm));
        }
        assert!(!world.host.links().contains("bg-"));
        for _ in 0..2 {
            world.done(Ask::RemoveBridge);
        }
        assert_eq!((world.host.links(), world.host.ruleset()), before);
    }
}

#[test]
fn a_tap_is_up_only_with_rules_in_whatever_order() {
    let Some(world) = World::new() else { return };
    let up = || world.host.sh("ip link show bg-020202020202").contains(",UP");
    let vm = guest(2).vm;
    world.done(Ask::EnsureBridge);
    world.done(Ask::CreateTap(vm));
    assert!(!up());
    world.done(Ask::ApplyRules(guest(2)));
    assert!(up());
    world.done(Ask::RemoveRules(vm));
    assert!(!up());
    world.done(Ask::RemoveTap(vm));
    world.done(Ask::ApplyRules(guest(2)));
    world.done(Ask::CreateTap(vm));
    assert!(up());
}

#[test]
fn a_subnet_or_name_of_somebody_elses_is_refused() {
    let Some(world) = World::new() else { return };
    world
        .host
        .sh("ip link add other type bridge; ip address add 172.30.0.77/20 dev other; ip link set other up");
    let failed = |ask| match world.exchange(ask).0 {
        Answer::Failed(why) => why,
        other => panic!("{other:?}"),
    };
    let why = failed(Ask::EnsureBridge);
    assert!(why.contains("172.30.0.0/24 overlaps with the route to 172.30.0.0/20"), "{why}");
    assert!(!world.host.links().contains("br-banger"), "{}", world.host.links());
    world.host.sh("ip link delete other; ip link add br-banger type veth peer name peer");
    assert_eq!(failed(Ask::EnsureBridge), "br-banger is there and is not banger's");
    assert_eq!(failed(Ask::RemoveBridge), "br-banger is there and is not banger's");
    world.host.sh("ip link delete br-banger");
    world.done(Ask::EnsureBridge);
    world.host.sh("ip link add bg-020202020202 type veth peer name peer");
    for ask in [Ask::CreateTap(guest(2).vm), Ask::RemoveTap(guest(2).vm)] {
        assert_eq!(failed(ask), "bg-020202020202 is there and is not banger's");
    }
}

#[test]
fn a_helper_that_was_killed_knows_its_guests_again() {
    let Some(mut world) = World::new() else { return };
    world.done(Ask::EnsureBridge);
    world.done(Ask::CreateTap(guest(2).vm));
    world.done(Ask::ApplyRules(guest(2)));
    let rules = world.host.ruleset();
    world.kill();
    // Rules that went while nobody watched are there before anything is answered.
    world.host.sh("nft flush ruleset");
    world.begin();
    assert_eq!(world.host.ruleset(), rules);
    let status = world.status();
    assert!(status.filtered && status.guests == [guest(2).vm] && status.taps == [guest(2).vm]);
    world.done(Ask::RemoveRules(guest(2).vm));
    assert!(!world.host.ruleset().contains("172.30.0.2"));
}
