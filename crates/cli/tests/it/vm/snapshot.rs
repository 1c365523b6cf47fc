//! Real machines that are saved, and others that go on from there as themselves.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use testkit::{
    home::{Home, finish, spawn_apart, wait_until},
    need,
};

use super::{create, home};

const SOON: Duration = Duration::from_secs(60);

/// What each machine of its own must have of its own.
const IDENTITY: [&str; 5] = ["hostname", "kernel", "machine-id", "host-key", "random"];

/// Prints what a guest is, one line each.
const TELL: &str = "
    echo hostname=$(cat /etc/hostname); echo kernel=$(hostname)
    echo machine-id=$(cat /etc/machine-id)
    echo host-key=$(sed -n 3p /etc/ssh/ssh_host_ed25519_key)
    echo random=$(head -c 16 /dev/urandom | od -An -tx1 | tr -d ' ')
    echo mac=$(cat /sys/class/net/e*/address 2>/dev/null)
    echo clock=$(date +%s)
    echo memory=$(cat /tmp/file); echo disk=$(cat /root/file)
    echo process=$(cat /proc/$(cat /tmp/pid)/comm 2>/dev/null)";

/// Makes `dev`, which has a file in memory, one on disk, a process, and something that banger takes for an sshd.
fn warm(home: &Home, memory: &str, nat: bool) {
    let words = ["vm", "create", "--name", "dev", "--image", "busybox", "--memory", memory];
    let _ = home.ok(&[&words[..], if nat { &["--nat"] } else { &[] }].concat());
    let script = "echo warm > /tmp/file; echo kept > /root/file
        mkdir -p /usr/sbin; printf '#!/bin/sh\\n' > /usr/sbin/sshd; chmod +x /usr/sbin/sshd
        setsid sleep 100000 > /dev/null 2>&1 < /dev/null & echo $! > /tmp/pid";
    let _ = home.ok(&["vm", "exec", "dev", "--", "sh", "-c", script]);
}

/// What the guest of `vm` is.
fn tell(home: &Home, vm: &str) -> BTreeMap<String, String> {
    let text = home.ok(&["vm", "exec", vm, "--", "sh", "-c", TELL]);
    let pair = |line: &str| line.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned()));
    text.lines().filter_map(pair).collect()
}

fn clone(home: &Home, name: &str) {
    assert_eq!(home.ok(&["vm", "create", "--snapshot", "warm", "--name", name]), name);
}

fn now() -> u64 {
    host::clock::now_ms() / 1000
}

#[test]
fn a_saved_machine_goes_on_and_others_go_on_from_it_as_themselves() {
    let Some(home) = home() else { return };
    let nat = need::namespaces().is_some();
    warm(&home, "256M", nat);
    let pid = home.vm("dev")["pid"].clone();
    assert_eq!(home.ok(&["vm", "snapshot", "dev", "warm"]), "warm");
    let dev = tell(&home, "dev");
    assert_eq!(home.vm("dev")["pid"], pid, "it is the same machine");
    clone(&home, "one");
    clone(&home, "two");
    let all = [dev, tell(&home, "one"), tell(&home, "two")];
    for told in &all {
        assert_eq!((&*told["memory"], &*told["disk"], &*told["process"]), ("warm", "kept", "sleep"));
        assert!(told["clock"].parse::<u64>().unwrap().abs_diff(now()) < 60, "{told:?}");
    }
    assert_eq!([&*all[1]["hostname"], &*all[2]["kernel"]], ["one", "two"]);
    // The saved one has no key: it booted without an sshd.
    let own = |key: &str| all.iter().map(|told| told[key].clone()).collect::<BTreeSet<_>>().len();
    assert_eq!(IDENTITY.map(own), [3; 5], "{all:?}");
    if nat {
        assert_eq!(own("mac"), 3, "{all:?}");
    }
    // What one of them writes is its own.
    let _ = home.ok(&["vm", "exec", "one", "--", "sh", "-c", "echo other > /root/file; sync"]);
    assert_eq!(tell(&home, "two")["disk"], "kept");

    // They outlive the daemon, and the snapshot.
    home.kill_9(home.daemon_pid());
    assert_eq!(tell(&home, "one")["process"], "sleep");
    let list = home.run(&["snapshot", "list", "-o", "json"]).json();
    assert_eq!((&list["snapshots"][0]["name"], &list["snapshots"][0]["vm"]), (&"warm".into(), &"dev".into()));
    assert!(home.ok(&["snapshot", "show", "warm"]).contains("busybox"));
    let refused = home.run(&["vm", "create", "--snapshot", "warm", "--memory", "512M"]);
    assert_eq!(refused.code(), 2);
    assert!(refused.stderr.contains("its machine has 256 MiB"), "{}", refused.stderr);
    assert_eq!(home.ok(&["snapshot", "delete", "warm"]), "warm");
    assert!(!home.run(&["vm", "create", "--snapshot", "warm"]).status.success());

    // From its first stop on it boots, as itself.
    let _ = home.ok(&["vm", "restart", "one"]);
    let again = tell(&home, "one");
    for same in ["hostname", "machine-id", "host-key"] {
        assert_eq!(again[same], all[1][same], "{same}");
    }
    assert_eq!((&*again["memory"], &*again["disk"], &*again["process"]), ("", "other", ""));
}

#[test]
fn ten_machines_go_on_from_one_snapshot_side_by_side() {
    let Some(home) = home() else { return };
    warm(&home, "128M", false);
    let _ = home.ok(&["vm", "snapshot", "dev", "warm"]);
    let names: Vec<String> = (0..10).map(|number| format!("c{number}")).collect();
    std::thread::scope(|scope| {
        names.iter().for_each(|name| drop(scope.spawn(|| clone(&home, name))));
    });
    let all: Vec<_> = names.iter().map(|name| tell(&home, name)).collect();
    for key in IDENTITY {
        let own: BTreeSet<_> = all.iter().map(|told| &told[key]).collect();
        assert_eq!(own.len(), names.len(), "{key}: {own:?}");
    }
    assert!(all.iter().all(|told| told["memory"] == "warm" && told["process"] == "sleep"), "{all:?}");
    assert_eq!(tell(&home, "dev")["hostname"], "dev");
}

#[test]
fn a_snapshot_that_is_interrupted_leaves_its_machine_going_on() {
    let Some(home) = home() else { return };
    warm(&home, "128M", false);
    let pid = Pid::from_raw(i32::try_from(home.vm("dev")["pid"].as_i64().unwrap()).unwrap()).unwrap();
    // Nothing of it can be through before it is interrupted.
    kill_process(pid, Signal::STOP).unwrap();
    let client = spawn_apart(home.command(&["vm", "snapshot", "dev", "warm"]));
    let begun = || home.ok(&["operation", "list"]).contains("vm.snapshot dev");
    wait_until(SOON, "the snapshot has begun", begun);
    kill_process(Pid::from_child(&client), Signal::INT).unwrap();
    assert_eq!(finish(client, b"", SOON, &["vm", "snapshot"]).code(), 130);
    // It goes on as soon as it can, also without who asked for it.
    kill_process(pid, Signal::CONT).unwrap();
    let ended = || {
        let list = home.run(&["operation", "list", "-o", "json"]).json();
        let all = list["operations"].as_array().unwrap().clone();
        all.iter().any(|op| op["what"] == "vm.snapshot dev" && op["state"] != "running")
    };
    wait_until(SOON, "the snapshot has ended", ended);
    assert_eq!(tell(&home, "dev")["process"], "sleep");
    let list = home.run(&["snapshot", "list", "-o", "json"]).json();
    assert_eq!(list["snapshots"].as_array().unwrap().len(), 0);
    let _ = home.ok(&["vm", "snapshot", "dev", "warm"]);
}

#[test]
fn a_machine_with_secrets_is_saved_only_where_that_is_said() {
    let Some(home) = home() else { return };
    let _ = home.ok(&[&create("dev")[..], &["--env", "TOKEN=x"]].concat());
    let refused = home.run(&["vm", "snapshot", "dev", "warm"]);
    assert_eq!(refused.code(), 1);
    assert!(
        refused.stderr.contains("hint: banger vm snapshot dev warm --with-secrets"),
        "{}",
        refused.stderr
    );
    let _ = home.ok(&["vm", "snapshot", "dev", "warm", "--with-secrets"]);
    let _ = home.ok(&["vm", "create", "--snapshot", "warm", "--name", "one", "--env", "MINE=y"]);
    assert_eq!(home.ok(&["vm", "exec", "one", "--", "sh", "-c", "echo $TOKEN $MINE"]), "x y");
    assert_eq!(home.ok(&["vm", "exec", "dev", "--", "sh", "-c", "echo $TOKEN $MINE"]), "x");
}
