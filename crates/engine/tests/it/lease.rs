//! Addresses on the bridge: each VM has one from its reservation to its deletion, and nobody else has it.

use std::collections::BTreeSet;

use engine::{Kind, bridge::Bridge};
use model::network::bridge_subnet;
use store::Store;
use wire::control::{Code, CreateVm};

use crate::{
    verb::{Verb::*, vm},
    world::World,
};

/// A world with this bridge, which nobody is asked for: nothing is started in it.
fn world(subnet: &str) -> World {
    World::with_bridge(Bridge { subnet: bridge_subnet(subnet).unwrap(), socket: "/nowhere".into() })
}

/// The numbers that are leased, in the order of the VMs' names.
fn leases(world: &World) -> Vec<(String, Option<u16>)> {
    let store = Store::open(&world.home().join("state/banger.db")).unwrap();
    let mut all: Vec<_> =
        store.vm_list().unwrap().into_iter().map(|vm| (vm.name.to_string(), vm.network.number)).collect();
    all.sort();
    all
}

#[test]
fn creates_at_the_same_time_get_addresses_of_their_own() {
    const NAMES: [&str; 32] = [
        "a0", "a1", "a2", "a3", "a4", "a5", "a6", "a7", "b0", "b1", "b2", "b3", "b4", "b5", "b6", "b7", "c0",
        "c1", "c2", "c3", "c4", "c5", "c6", "c7", "d0", "d1", "d2", "d3", "d4", "d5", "d6", "d7",
    ];
    let world = world("10.9.0.0/24");
    let creates: Vec<_> = NAMES.iter().map(|name| world.begin(&CreateUnstarted(name))).collect();
    creates.iter().for_each(|create| assert!(world.end(create).is_ok()));
    let numbers: BTreeSet<u16> = leases(&world).into_iter().filter_map(|(_, number)| number).collect();
    assert_eq!(numbers, (2..34).collect());
}

#[test]
fn without_an_address_nothing_is_made_and_one_that_is_deleted_gives_its_own() {
    // Room for five beside the network, the host and the broadcast address.
    let world = world("10.9.0.0/29");
    world.prepare(&["a", "b", "c", "d", "e"].map(CreateUnstarted));
    let before = world.look();
    let error = world.run(&CreateUnstarted("f")).unwrap_err();
    assert_eq!(
        (error.code, &*error.message),
        (Code::Host, "all 5 addresses of the bridge are leased to VMs")
    );
    assert!(error.hint.is_some_and(|hint| hint.contains("banger vm delete") && hint.contains("--subnet")));
    assert_eq!(world.look(), before);
    world.prepare(&[Delete("b"), CreateUnstarted("f")]);
    let expect = [("a", 2), ("c", 4), ("d", 5), ("e", 6), ("f", 3)];
    assert_eq!(leases(&world), expect.map(|(name, number)| (name.to_owned(), Some(number))));
}

#[test]
fn addresses_are_still_theirs_after_the_daemon_was_killed() {
    let mut world = world("10.9.0.0/24");
    world.prepare(&["a", "b"].map(CreateUnstarted));
    world.reopen();
    world.prepare(&[CreateUnstarted("c"), Delete("a")]);
    world.reopen();
    world.prepare(&[CreateUnstarted("d")]);
    let expect = [("b", 3), ("c", 4), ("d", 2)];
    assert_eq!(leases(&world), expect.map(|(name, number)| (name.to_owned(), Some(number))));
}

#[test]
fn a_group_that_cannot_be_is_refused_before_anything_is_made() {
    let (plain, bridged) = (World::new(), world("10.9.0.0/24"));
    for (world, group, why) in
        [(&plain, "pair", "sudo banger system install"), (&bridged, "No Group", "'N' is not allowed")]
    {
        let before = world.look();
        let request = CreateVm { group: Some(group.to_owned()), no_start: true, ..vm("a") };
        let create =
            world.begin_with(Kind::VmCreate, |engine, operation| engine.vm_create(operation, request));
        let error = world.end(&create).unwrap_err();
        assert_eq!(error.code, Code::Invalid, "{error:?}");
        assert!(error.causes.concat().contains(why), "{error:?}");
        assert_eq!(world.look(), before);
    }
}
