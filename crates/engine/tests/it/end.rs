//! Machines that end by themselves, and what of them a daemon finds again.

use model::{
    end::MachineEnd,
    undo::{ProcessEntry, Undo},
};
use store::Store;
use testkit::home::wait_until;

use crate::{
    fault::Fault,
    verb::Verb::*,
    world::{SOON, World},
};

fn state(world: &World) -> String {
    let scene = world.look();
    assert_eq!(scene.leaks, Vec::<String>::new());
    scene.seen.into_iter().find_map(|line| Some(line.strip_prefix("vm a ")?.to_owned())).unwrap()
}

/// A machine that ends as `what` has `points` points; after a fault at any of them the VM can be stopped, and after a crash it
/// is in one of `states`.
fn check(what: MachineEnd, points: usize, states: &[&str]) {
    for number in 0..points {
        for fault in Fault::ALL {
            let mut world = World::new();
            world.prepare(&[Create("a")]);
            world.faults.arm(&[(number, fault)]);
            world.faults.watch_all(world.engine());
            world.newest_guest_ends(what);
            wait_until(SOON, "the point is met", || world.faults.met() > number);
            if world.faults.killed() {
                world.reopen();
                let state = state(&world);
                assert!(states.contains(&&*state), "{what}, a crash at {number}: {state}");
                continue;
            }
            // A full disk has space again before the user comes.
            world.faults.disarm();
            world.prepare(&[Stop("a")]);
            assert_eq!(state(&world), "stopped", "{what}, {fault:?} at {number}");
            world.prepare(&[Start("a")]);
            assert_eq!(state(&world), "running", "{what}, {fault:?} at {number}");
        }
    }
    let world = World::new();
    world.prepare(&[Create("a")]);
    world.faults.arm(&[]);
    world.newest_guest_ends(what);
    let is_settled = || world.faults.met() >= points && states.contains(&&*state(&world));
    wait_until(SOON, "all is settled", is_settled);
    assert_eq!(world.faults.disarm().len(), points, "{what}");
}

#[test]
fn a_guest_powers_off() {
    check(MachineEnd::Poweroff, 10, &["stopped"]);
}

#[test]
fn a_guest_panics() {
    check(MachineEnd::Panic, 10, &["error", "stopped"]);
}

#[test]
pub fn a_guest_reboots() {
    check(MachineEnd::Reset, 32, &["running", "stopped"]);
}

/// The companion of a VM's network.
fn companion(world: &World) -> Option<u32> {
    crate::scene::companions(world.home()).into_iter().next()
}

fn kill(pid: u32) {
    let process = host::proc::ProcessId::of(pid).unwrap().open().unwrap().unwrap();
    process.signal(host::proc::Signal::Kill).unwrap();
}

/// Whatever goes wrong when it is replaced, it is replaced: by this daemon later, or by the next one.
#[test]
pub fn a_companion_dies() {
    const POINTS: usize = 12;
    if testkit::need::namespaces().is_none() {
        return;
    }
    for number in 0..POINTS {
        for fault in [Fault::Fail, Fault::Kill] {
            let mut world = World::new();
            world.prepare(&[CreateNat("a")]);
            let old = companion(&world).unwrap();
            world.faults.arm(&[(number, fault)]);
            world.faults.watch_all(world.engine());
            kill(old);
            let replaced = |world: &World| companion(world).is_some_and(|new| new != old);
            wait_until(SOON, "the point is met", || world.faults.met() > number || replaced(&world));
            if world.faults.killed() {
                world.reopen();
            }
            world.faults.disarm();
            let is_well = || {
                let vm = world.engine().vm_show("a").unwrap();
                replaced(&world)
                    && vm.network.is_some_and(|network| network.trouble.is_none())
                    && world.look().leaks.is_empty()
            };
            wait_until(SOON, "there is another one", is_well);
            assert_eq!(state(&world), "running, nat", "{fault:?} at {number}");
        }
    }
    let world = World::new();
    world.prepare(&[CreateNat("a")]);
    let old = companion(&world).unwrap();
    world.faults.arm(&[]);
    kill(old);
    let is_well = || world.engine().vm_show("a").unwrap().network.unwrap().trouble.is_none();
    wait_until(SOON, "there is another one", || world.faults.met() >= POINTS && is_well());
    assert_eq!(world.faults.disarm().len(), POINTS);
}

/// Lets another daemon find `entry` in the place of the process of VM `a`, whose id is given.
fn with_process(world: &mut World, change: impl Fn(ProcessEntry) -> ProcessEntry) -> u32 {
    world.prepare(&[Create("a")]);
    world.close();
    let store = Store::open(&world.home().join("state/banger.db")).unwrap();
    let entries = store.ledger_list(None).unwrap();
    let (old, process) = entries
        .into_iter()
        .find_map(|entry| match entry.undo.clone() {
            Undo::Process(process) => Some((entry, process)),
            _ => None,
        })
        .unwrap();
    store.ledger_close(old.id).unwrap();
    let pid = process.pid;
    let operation = model::OperationId::from_uuid([1; 16]);
    let new = store.ledger_open(old.vm, &operation, &Undo::Process(change(process))).unwrap();
    store.ledger_taken(new).unwrap();
    drop(store);
    world.open();
    pid
}

#[test]
fn a_process_that_only_has_the_same_number_is_left_alone() {
    let mut world = World::new();
    let pid = with_process(&mut world, |process| ProcessEntry { start: process.start + 1, ..process });
    let vm = world.engine().vm_show("a").unwrap();
    assert_eq!(vm.reason.unwrap(), "it ended while no daemon was running");
    assert!(world.processes().contains_key(&pid), "it was not signalled");
}

#[test]
fn a_vm_of_before_the_hosts_restart_is_stopped() {
    let mut world = World::new();
    let pid = with_process(&mut world, |process| ProcessEntry { boot: "another".to_owned(), ..process });
    let vm = world.engine().vm_show("a").unwrap();
    assert_eq!(vm.reason.unwrap(), "the host was restarted");
    assert!(world.processes().contains_key(&pid), "it was not signalled");
}
