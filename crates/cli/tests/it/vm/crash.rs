//! Programs that are killed at a bad moment leave a right world.

use std::{io::Read, time::Duration};

use testkit::home::{spawn_apart, wait_until};

use super::{create, home, run_rm};

const SOON: Duration = Duration::from_secs(60);

#[test]
fn a_vm_outlives_its_daemon_and_is_found_again() {
    let Some(home) = home() else { return };
    let _ = home.ok(&create("dev"));
    let before = home.vm("dev");
    home.kill_9(home.daemon_pid());
    let vmm = i32::try_from(before["pid"].as_i64().unwrap()).unwrap();
    assert!(home.processes().contains_key(&vmm), "the VMM runs on");
    // The next command starts another daemon.
    assert_eq!(home.ok(&["vm", "exec", "dev", "--", "echo", "found"]), "found");
    let after = home.vm("dev");
    assert_eq!((&after["state"], &after["pid"]), (&before["state"], &before["pid"]));
    let _ = home.ok(&["vm", "stop", "dev"]);
    assert_eq!(home.vm("dev")["reason"], "it was stopped");
}

#[test]
fn a_daemon_that_starts_waits_for_one_that_is_ending() {
    let Some(home) = home() else { return };
    let _ = home.run(&["daemon", "stop"]);
    let state = home.path().join("state");
    // Held as by a daemon that listens no more and undoes what it was doing.
    let mut ending = None;
    wait_until(SOON, "the daemon has ended", || {
        ending = host::lock::try_exclusive(&state.join("lock")).unwrap();
        ending.is_some()
    });
    let mut daemon = home.daemon().spawn().unwrap();
    let log = || host::fs::read_text(&state.join("bangerd.log")).unwrap();
    wait_until(SOON, "it waits", || log().contains("does not listen, waiting for it"));
    drop(ending);
    let socket = home.path().join("run/bangerd.sock");
    wait_until(SOON, "it listens", || host::sock::connect(&socket).is_ok());
    assert_eq!(home.daemon_pid(), i32::try_from(daemon.id()).unwrap());
    let _ = home.run(&["daemon", "stop"]);
    assert!(daemon.wait().unwrap().success());
}

#[test]
fn a_vmm_that_died_without_a_daemon_leaves_its_vm_stopped() {
    let Some(home) = home() else { return };
    let _ = home.ok(&create("dev"));
    let vmm = i32::try_from(home.vm("dev")["pid"].as_i64().unwrap()).unwrap();
    home.kill_9(home.daemon_pid());
    home.kill_9(vmm);
    let vm = home.vm("dev");
    assert_eq!(
        (&vm["state"], &vm["reason"]),
        (&"stopped".into(), &"it ended while no daemon was running".into())
    );
    let _ = home.ok(&["vm", "start", "dev"]);
}

#[test]
fn a_vmm_that_is_killed_leaves_an_error() {
    let Some(home) = home() else { return };
    let _ = home.ok(&create("dev"));
    home.kill_9(i32::try_from(home.vm("dev")["pid"].as_i64().unwrap()).unwrap());
    home.wait_for_state("dev", "error");
    let _ = home.ok(&["vm", "start", "dev"]);
    assert_eq!(home.vm("dev")["state"], "running");
}

#[test]
fn a_killed_client_takes_its_rm_vm_with_it() {
    let Some(home) = home() else { return };
    let mut client = spawn_apart(home.command(&run_rm(&["sh", "-c", "echo up; exec sleep 1000"])));
    client.stdout.as_mut().unwrap().read_exact(&mut [0; 3]).unwrap();
    assert_eq!(home.ok(&["vm", "list", "-q"]).lines().count(), 1);
    client.kill().unwrap();
    client.wait().unwrap();
    wait_until(SOON, "its VM is gone", || home.ok(&["vm", "list", "-q"]).is_empty());
    wait_until(SOON, "its files are gone", || home.leftovers().is_empty());
}

#[test]
fn a_client_killed_while_its_vm_boots_leaves_nothing() {
    let Some(home) = home() else { return };
    let mut client = spawn_apart(home.command(&run_rm(&["true"])));
    wait_until(SOON, "its VMM runs", || home.processes().values().any(|line| line.contains("-kernel")));
    client.kill().unwrap();
    client.wait().unwrap();
    wait_until(SOON, "its VM is gone", || home.ok(&["vm", "list", "-q"]).is_empty());
    wait_until(SOON, "its files are gone", || home.leftovers().is_empty());
}

#[test]
fn a_daemon_killed_while_a_vm_boots_leaves_nothing_of_it() {
    let Some(home) = home() else { return };
    let _ = home.run(&["daemon", "start"]);
    let mut client = spawn_apart(home.command(&create("dev")));
    wait_until(SOON, "its VMM runs", || home.processes().values().any(|line| line.contains("-kernel")));
    home.kill_9(home.daemon_pid());
    assert!(!client.wait().unwrap().success(), "its client is told");
    assert_eq!(home.ok(&["vm", "list", "-q"]), "", "a creation that did not end is undone");
    assert!(!home.processes().values().any(|line| line.contains("-kernel")), "its VMM is gone");
    assert!(home.leftovers().is_empty());
}

#[test]
fn a_daemon_that_fails_to_start_leaves_no_socket_and_no_lock() {
    let Some(home) = home() else { return };
    let _ = home.ok(&["vm", "list"]);
    let _ = home.run(&["daemon", "stop"]);
    let (state, run) = (home.path().join("state"), home.path().join("run"));
    let is_free = || host::lock::try_exclusive(&state.join("lock")).unwrap().is_some();
    wait_until(SOON, "the daemon has ended", || {
        !home.processes().values().any(|line| line.contains("bangerd"))
    });
    let fails = |why: &str| {
        let daemon = home.daemon().spawn().unwrap();
        let ended = testkit::home::finish(daemon, b"", SOON, &[why]);
        assert!(!ended.status.success(), "{why}");
        assert!(is_free(), "{why}");
    };
    // With the log that belongs to it; SQLite would take all from there.
    let database = ["banger.db", "banger.db-wal", "banger.db-shm"].map(|name| state.join(name));
    let aside = home.path().join("aside");
    host::fs::create_dir(&aside).unwrap();
    let there: Vec<_> = database.iter().filter(|path| path.exists()).collect();
    let place = |path: &std::path::Path| aside.join(path.file_name().unwrap());
    there.iter().for_each(|path| host::fs::rename(path, &place(path)).unwrap());
    host::fs::write_atomic(&database[0], b"this is no database").unwrap();
    fails("a database that is none");
    assert!(host::fs::list(&run).unwrap().is_empty(), "there is no socket");
    there.iter().for_each(|path| host::fs::rename(&place(path), path).unwrap());
    // When it has both lock and database, there is no place for its socket.
    let socket = run.join("bangerd.sock");
    host::fs::create_dir(&socket).unwrap();
    fails("a directory where its socket belongs");
    host::fs::remove_all(&socket).unwrap();
    let _ = home.ok(&["vm", "list"]);
}

#[test]
fn twenty_first_commands_start_one_daemon() {
    let Some(home) = home() else { return };
    let clients: Vec<_> = (0..20).map(|_| home.command(&["vm", "list"]).spawn().unwrap()).collect();
    for client in clients {
        let output = testkit::home::finish(client, b"", SOON, &["vm", "list"]);
        assert!(output.status.success(), "{}", output.stderr);
    }
    wait_until(SOON, "one daemon is left", || {
        home.processes().values().filter(|line| line.contains("bangerd")).count() == 1
    });
}
