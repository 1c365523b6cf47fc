//! What becomes of a VM whose guest or whose users misbehave.

use testkit::home::wait_until;
use wire::control::Code;

use crate::{
    guest::Manner,
    verb::Verb::*,
    world::{SOON, World},
};

fn seen(world: &World) -> Vec<String> {
    let scene = world.look();
    assert_eq!(scene.leaks, Vec::<String>::new());
    scene.seen.into_iter().filter(|line| line.starts_with("vm ")).collect()
}

#[test]
fn a_guest_that_does_not_end_is_ended() {
    let world = World::new();
    world.prepare(&[Create("a")]);
    world.manner.send_replace(Manner::Stubborn);
    world.prepare(&[Stop("a")]);
    let vm = world.engine().vm_show("a").unwrap();
    assert_eq!(vm.reason.unwrap(), "its guest did not end in time, so its machine was ended");
    assert_eq!(seen(&world), ["vm a stopped"]);
}

#[test]
fn a_vm_whose_guest_panics_is_kept_and_can_be_started() {
    let world = World::new();
    world.manner.send_replace(Manner::Panicking);
    assert_eq!(world.run(&CreateOwned("a")).unwrap_err().code, Code::Guest);
    assert_eq!(seen(&world), ["vm a error"]);
    world.manner.send_replace(Manner::Good);
    world.prepare(&[Start("a")]);
    assert_eq!(seen(&world), ["vm a running"]);
}

#[test]
fn a_kill_interrupts_a_first_start_which_leaves_nothing() {
    let world = World::new();
    world.manner.send_replace(Manner::Booting);
    let create = world.begin(&Create("a"));
    wait_until(SOON, "its machine runs", || !world.processes().is_empty());
    // It goes while its kill waits.
    assert_eq!(world.run(&Kill("a")).unwrap_err().code, Code::NotFound);
    assert_eq!(world.end(&create).unwrap_err().code, Code::Cancelled);
    assert_eq!(seen(&world), [""; 0]);
}

#[test]
fn a_kill_interrupts_a_later_start_which_keeps_the_vm() {
    let world = World::new();
    world.prepare(&[CreateUnstarted("a")]);
    world.manner.send_replace(Manner::Booting);
    let start = world.begin(&Start("a"));
    wait_until(SOON, "its machine runs", || !world.processes().is_empty());
    world.prepare(&[Kill("a")]);
    assert_eq!(world.end(&start).unwrap_err().code, Code::Cancelled);
    assert_eq!(seen(&world), ["vm a stopped"]);
}
