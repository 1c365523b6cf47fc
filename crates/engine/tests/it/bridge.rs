//! Machines on the bridge of a real helper, in a network namespace: their addresses and names through all of their life.

use std::sync::{Arc, Mutex};

use model::config::NetworkMode;
use testkit::{bridge::BridgeHost, home::wait_until, need};
use wire::control::Code;

use crate::{
    verb::Verb::*,
    world::{SOON, World},
};

fn host() -> Option<Arc<Mutex<BridgeHost>>> {
    Some(Arc::new(Mutex::new(BridgeHost::built()?)))
}

/// What this host is told of `name`.
fn told(host: &Mutex<BridgeHost>, name: &str) -> String {
    let ask = format!("dig @127.0.0.1 -p 42069 +short +tries=1 +time=20 {name}.vm");
    host.lock().unwrap().host.sh(&ask).trim().to_owned()
}

/// Waits until this host can ask.
fn until_told(host: &Mutex<BridgeHost>) {
    let listens = || !host.lock().unwrap().host.sh("ss -Hlun 'sport = 42069'").is_empty();
    wait_until(SOON, "names are told", listens);
}

#[test]
fn names_follow_machines_through_stops_and_the_death_of_the_daemon() {
    let (Some(_), Some(host)) = (need::program("dig", "dig"), host()) else { return };
    let mut world = World::on_bridge(&host);
    until_told(&host);
    world.prepare(&[Create("a"), CreateUnstarted("b")]);
    let shown = |world: &World, name: &str| world.engine().vm_show(name).unwrap().ip;
    assert_eq!((shown(&world, "a").as_deref(), shown(&world, "b")), (Some("172.30.0.2"), None));
    assert_eq!((told(&host, "a"), told(&host, "b")), ("172.30.0.2".into(), String::new()));
    world.prepare(&[Start("b")]);
    assert_eq!(told(&host, "b"), "172.30.0.3");
    // Who finds them again knows them before it listens to anybody.
    world.reopen();
    until_told(&host);
    assert_eq!((told(&host, "a"), told(&host, "b")), ("172.30.0.2".into(), "172.30.0.3".into()));
    world.prepare(&[Stop("a")]);
    assert_eq!((told(&host, "a"), told(&host, "b")), (String::new(), "172.30.0.3".into()));
    // One that is killed with nobody there is no name for the next daemon.
    world.prepare(&[Start("a"), Delete("b")]);
    assert_eq!((told(&host, "a"), told(&host, "b")), ("172.30.0.2".into(), String::new()));
    assert_eq!(world.look().leaks, Vec::<String>::new());
}

#[test]
fn without_its_helper_a_start_is_refused_with_what_to_do_and_others_run_on() {
    let Some(host) = host() else { return };
    let world = World::on_bridge(&host);
    world.prepare(&[Create("a"), CreateUnstarted("b")]);
    host.lock().unwrap().kill();
    let error = world.run(&Start("b")).unwrap_err();
    assert_eq!(error.code, Code::Host, "{error:?}");
    assert!(error.causes.concat().contains("cannot ask banger's helper"), "{error:?}");
    assert!(error.hint.is_some_and(|hint| hint.contains("sudo banger system status")));
    // What it cannot give back now it does later.
    assert!(world.run(&Delete("a")).is_err());
    assert_eq!(world.processes().len(), 0, "the machine is gone all the same");
    world.begin_helper();
    world.prepare(&[Delete("a"), Start("b")]);
    assert_eq!(world.look().leaks, Vec::<String>::new());
}

#[test]
fn what_could_not_be_given_back_is_in_nobodys_way() {
    let Some(host) = host() else { return };
    let world = World::on_bridge(&host);
    // Its address is free again while its rules are still there.
    world.faults.arm(&[]);
    world.prepare(&[Create("a"), Delete("a")]);
    let points = world.faults.disarm();
    let spawn = points.iter().position(|point| point.name == "spawn").unwrap();
    world.faults.arm(&[(spawn, crate::fault::Fault::Helper), (spawn + 1, crate::fault::Fault::Fail)]);
    assert!(world.run(&Create("a")).is_err());
    world.faults.disarm();
    world.begin_helper();
    assert_eq!(host.lock().unwrap().status().guests.len(), 1);
    world.prepare(&[Create("b")]);
    assert_eq!(world.engine().vm_show("b").unwrap().ip.as_deref(), Some("172.30.0.2"));
    assert_eq!(world.look().leaks, Vec::<String>::new());
}

#[test]
fn machines_of_user_mode_get_their_address_when_they_start_on_the_bridge() {
    let Some(host) = host() else { return };
    let mut world = World::on_bridge(&host);
    world.config.network_mode = NetworkMode::User;
    world.reopen();
    world.prepare(&[Create("old"), CreateUnstarted("older")]);
    assert_eq!(world.engine().vm_show("old").unwrap().network, None);
    world.config.network_mode = NetworkMode::Bridge;
    world.reopen();
    // It runs on as it was started.
    assert_eq!(world.engine().vm_show("old").unwrap().ip, None);
    world.prepare(&[Create("new"), Restart("old"), Start("older")]);
    let ip = |name| world.engine().vm_show(name).unwrap().ip.unwrap_or_default();
    assert_eq!([ip("new"), ip("old"), ip("older")], ["172.30.0.2", "172.30.0.3", "172.30.0.4"]);
    assert_eq!(world.look().leaks, Vec::<String>::new());
}
