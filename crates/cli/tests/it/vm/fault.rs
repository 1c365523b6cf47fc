//! The real daemon, killed at every point of its journal while a real machine is made, started, stopped and deleted.
//!
//! What the engine's own tests do with fake machines, once more with everything real: after each crash another daemon is
//! started, and the VM is either there or gone, with no process, socket or file too many.

use std::{collections::BTreeSet, process::Child, time::Duration};

use testkit::{
    home::{Home, wait_until},
    tree,
};

use super::{create, home};

const SOON: Duration = Duration::from_secs(60);

/// The operation `words`, on a VM that is made by the first of `before` and brought into its state by the others, has
/// `points` effects and commits. The VM may be `or` afterwards; one that is `gone` is none.
fn check(words: &[&str], before: &[&[&str]], points: usize, or: &[&str]) {
    if let Some(home) = home() {
        check_in(&home, words, before, points, or);
    }
}

/// The same in `home`.
fn check_in(home: &Home, words: &[&str], before: &[&[&str]], points: usize, or: &[&str]) {
    let mut crashes = 0;
    loop {
        let there = is_there(home);
        if there && before.is_empty() {
            let _ = home.ok(&["vm", "delete", "dev"]);
        }
        for words in before.iter().skip(usize::from(there)) {
            let _ = home.ok(words);
        }
        let _ = home.run(&["daemon", "stop"]);
        let mut daemon = start(home, crashes);
        let output = home.run(words);
        if output.status.success() {
            let _ = home.run(&["daemon", "stop"]);
            let _ = daemon.wait().unwrap();
            break;
        }
        let why = format!("a crash, not {}", output.stderr);
        wait_until(SOON, &why, || daemon.try_wait().unwrap().is_some_and(|status| !status.success()));
        // The next command starts another daemon.
        let state = if is_there(home) {
            home.vm("dev")["state"].as_str().unwrap().to_owned()
        } else {
            "gone".to_owned()
        };
        assert!(or.contains(&state.as_str()), "{words:?}, a crash at {crashes}: it is {state}");
        assert_eq!(leaks(home, &state), [""; 0], "{words:?}, a crash at {crashes}: it is {state}");
        if state == "running" {
            assert_eq!(
                home.ok(&["vm", "exec", "dev", "--", "echo", "there"]),
                "there",
                "a crash at {crashes}"
            );
        }
        crashes += 1;
    }
    assert_ne!(crashes, 0, "bangerd was built without the feature `faults`: run `cargo xtask build`");
    assert_eq!(crashes, points, "{words:?} has that many points");
}

/// A daemon that dies right after the point of number `crash`.
fn start(home: &Home, crash: usize) -> Child {
    let daemon = home.daemon().env("BANGER_CRASH_AT", crash.to_string()).spawn().unwrap();
    let socket = home.path().join("run/bangerd.sock");
    wait_until(SOON, "the daemon listens", || std::os::unix::net::UnixStream::connect(&socket).is_ok());
    daemon
}

fn is_there(home: &Home) -> bool {
    !home.ok(&["vm", "list", "-q"]).is_empty()
}

/// What is there of VM `dev` in `state` beside what should be.
fn leaks(home: &Home, state: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    let machines = home.processes().values().filter(|line| line.contains("-kernel")).count();
    if machines != usize::from(state == "running") {
        wrong.push(format!("{machines} machines run"));
    }
    let directories = home.leftovers();
    if directories.len() != usize::from(state != "gone") {
        wrong.push(format!("there are {directories:?}"));
    }
    for directory in directories {
        let fine = BTreeSet::from([
            "console.log",
            "console.log.1",
            "console.times",
            "console.times.1",
            "vmm.log",
            "overlay.ext4",
            "work.ext4",
        ]);
        for path in tree::list(&directory) {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if !(fine.contains(&*name) || name == "run" && state == "running") {
                wrong.push(format!("{} is left", path.display()));
            }
        }
    }
    wrong
}

#[test]
fn a_daemon_killed_at_any_point_of_a_create() {
    check(&create("dev"), &[], 21, &["gone", "running"]);
}

#[test]
fn a_daemon_killed_at_any_point_of_a_start() {
    let before: &[&[&str]] = &[&create("dev"), &["vm", "stop", "dev"]];
    check(&["vm", "start", "dev"], before, 11, &["stopped", "running"]);
}

#[test]
fn a_daemon_killed_at_any_point_of_a_stop() {
    let before: &[&[&str]] = &[&create("dev"), &["vm", "start", "dev"]];
    check(&["vm", "stop", "dev"], before, 6, &["stopped"]);
}

#[test]
fn a_daemon_killed_at_any_point_of_a_delete() {
    check(&["vm", "delete", "dev"], &[&create("dev")], 8, &["gone"]);
}

#[test]
fn a_daemon_killed_at_any_point_of_a_snapshot() {
    let Some(home) = home() else { return };
    let _ = home.ok(&create("dev"));
    let pid = home.vm("dev")["pid"].clone();
    let mut crashes = 0;
    let last = loop {
        let name = format!("s{crashes}");
        let _ = home.run(&["daemon", "stop"]);
        let mut daemon = start(&home, crashes);
        if home.run(&["vm", "snapshot", "dev", &name]).status.success() {
            let _ = home.run(&["daemon", "stop"]);
            let _ = daemon.wait().unwrap();
            break name;
        }
        wait_until(SOON, "a crash", || daemon.try_wait().unwrap().is_some_and(|status| !status.success()));
        // The next daemon lets it go on.
        assert_eq!(home.ok(&["vm", "exec", "dev", "--", "echo", "there"]), "there", "a crash at {crashes}");
        assert_eq!(leaks(&home, "running"), [""; 0], "a crash at {crashes}");
        let list = home.run(&["snapshot", "list", "-o", "json"]).json();
        let snapshots = list["snapshots"].as_array().unwrap().len();
        assert_eq!(tree::list(&home.path().join("state/snapshots")).len(), snapshots, "a crash at {crashes}");
        assert_eq!(tree::list(&home.path().join("state/staging")).len(), 0, "a crash at {crashes}");
        for snapshot in list["snapshots"].as_array().unwrap() {
            let _ = home.ok(&["snapshot", "delete", snapshot["name"].as_str().unwrap()]);
        }
        crashes += 1;
    };
    assert_eq!(crashes, 12, "a snapshot has that many points");
    assert_eq!(home.vm("dev")["pid"], pid, "it is the same machine");

    let _ = home.ok(&["vm", "delete", "dev"]);
    let words = ["vm", "create", "--snapshot", &last, "--name", "dev"];
    check_in(&home, &words, &[], 21, &["gone", "running"]);
}
