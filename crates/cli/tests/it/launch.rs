//! Starting the daemon on demand: which program, and what is said where it does not come up.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

use wire::control::{Daemon, Vms};

use crate::{
    banger::{Home, Running, run, wait_until},
    fake::{Fake, serve},
};

/// banger installed in a directory of its own, with a `bangerd` that is this script.
struct Installed(PathBuf);

impl Installed {
    fn new(place: &str, script: Option<&str>) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        // Beside the program that is tested, so that it can be linked instead of copied.
        let base = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{}-{number}", std::process::id()));
        let _ = fs::remove_dir_all(&base);
        fs::create_dir_all(base.join("bin")).unwrap();
        fs::hard_link(env!("CARGO_BIN_EXE_banger"), base.join("bin/banger")).unwrap();
        if let Some(script) = script {
            let daemon = base.join(place);
            fs::create_dir_all(daemon.parent().unwrap()).unwrap();
            fs::write(&daemon, format!("#!/bin/sh\n{script}\n")).unwrap();
            fs::set_permissions(&daemon, fs::Permissions::from_mode(0o755)).unwrap();
        }
        Self(base)
    }

    fn banger(&self, home: &Home, words: &[&str]) -> Command {
        let like = home.banger(words);
        let mut command = Command::new(self.0.join("bin/banger"));
        command.args(words).env_clear().envs(like.get_envs().filter_map(|(key, value)| Some((key, value?))));
        command.stdin(std::process::Stdio::null());
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        command
    }
}

impl Drop for Installed {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Serves what `vm list` and `daemon start` ask, once somebody made the file `started` in the home.
fn serve_once_started(home: &Home) {
    let (started, run) = (home.path().join("started"), home.path().join("run"));
    std::thread::spawn(move || {
        wait_until("start", || started.exists());
        serve(&run, |request, connection| match request.path.as_str() {
            "/v1/vms" => connection.json(&Vms::default()),
            _ => connection.json(&Daemon {
                version: "0.1.0".into(),
                commit: String::new(),
                api: 1,
                pid: 9,
                socket: String::new(),
            }),
        });
    });
}

#[test]
fn a_command_starts_the_daemon_that_is_installed_with_it() {
    for place in ["bin/bangerd", "libexec/banger/bangerd"] {
        let home = Home::new();
        serve_once_started(&home);
        // Gives way at once, as a daemon does that finds the lock taken; the winner is still on its way.
        let installed = Installed::new(place, Some("touch \"$BANGER_HOME/started\""));
        let outcome = run(&mut installed.banger(&home, &["vm", "list", "-o", "json"]));
        assert_eq!((outcome.code, outcome.err().as_str()), (0, ""), "{place}");
        assert_eq!(serde_json::from_str::<Vms>(&outcome.out()).unwrap(), Vms::default());
    }
}

#[test]
fn twenty_first_commands_at_once_all_succeed() {
    let home = Home::new();
    serve_once_started(&home);
    let installed = Installed::new("bin/bangerd", Some("touch \"$BANGER_HOME/started\""));
    let all: Vec<_> = (0..20).map(|_| Running::start(&mut installed.banger(&home, &["ps"]))).collect();
    for outcome in all.into_iter().map(Running::end) {
        assert_eq!((outcome.code, outcome.err().as_str()), (0, ""));
    }
}

#[test]
fn a_daemon_that_fails_is_quoted() {
    let home = Home::new();
    fs::create_dir(home.path().join("state")).unwrap();
    fs::write(home.path().join("state/bangerd.log"), "of another day\n").unwrap();
    let script = "echo starting; echo 'the database is of a newer banger' >&2; exit 3";
    let installed = Installed::new("bin/bangerd", Some(script));
    for (words, code) in
        [(&["vm", "list"][..], 3), (&["vm", "run", "--", "x"], 125), (&["daemon", "start"], 3)]
    {
        let outcome = run(&mut installed.banger(&home, words));
        assert_eq!((outcome.code, outcome.out().as_str()), (code, ""), "{words:?}");
        insta::allow_duplicates! {
            insta::assert_snapshot!(outcome.err(), @r"
            error: the daemon did not start: it ended with exit code 3
              cause: starting
              cause: the database is of a newer banger
            ");
        }
    }
}

#[test]
fn a_daemon_that_is_nowhere_is_said() {
    let home = Home::new();
    let installed = Installed::new("", None);
    let outcome = run(&mut installed.banger(&home, &["vm", "list"]));
    assert_eq!(outcome.code, 3);
    insta::assert_snapshot!(outcome.err(), @r"
    error: cannot find the program bangerd beside banger, in ../libexec/banger or in PATH
    hint: build it with `cargo build --release`, or install banger with all its programs
    ");
    assert!(!home.path().join("state").exists(), "nothing was made");
}

#[test]
fn looking_starts_nothing() {
    let home = Home::new();
    let installed = Installed::new("bin/bangerd", Some("touch \"$BANGER_HOME/started\""));
    for (words, code, out) in [
        (&["daemon", "status"][..], 3, "not running\n"),
        (&["daemon", "status", "-o", "json"], 3, "{\n  \"running\": false\n}\n"),
        (&["daemon", "stop"], 0, ""),
    ] {
        let outcome = run(&mut installed.banger(&home, words));
        assert_eq!((outcome.code, outcome.out().as_str()), (code, out), "{words:?}");
    }
    assert_eq!(run(&mut installed.banger(&home, &["version"])).code, 0);
    assert_eq!(run(&mut installed.banger(&home, &["completion", "zsh"])).code, 0);
    assert!(fs::read_dir(home.path()).unwrap().next().is_none(), "nothing was made");
}

#[test]
fn a_socket_that_is_not_ours_to_use_is_no_missing_daemon() {
    let home = Home::new();
    fs::create_dir(home.path().join("run")).unwrap();
    std::os::unix::fs::symlink("bangerd.sock", home.path().join("run/bangerd.sock")).unwrap();
    let installed = Installed::new("bin/bangerd", Some("touch \"$BANGER_HOME/started\""));
    let outcome = run(&mut installed.banger(&home, &["vm", "list"]));
    assert_eq!(outcome.code, 3);
    assert!(!home.path().join("started").exists());
}

#[test]
fn settings_of_the_environment_reach_the_daemon_that_is_started() {
    let home = Home::new();
    serve_once_started(&home);
    let installed =
        Installed::new("bin/bangerd", Some("echo \"$BANGER_VMM $SECRET\" >\"$BANGER_HOME/started\""));
    let mut command = installed.banger(&home, &["vm", "list"]);
    assert_eq!(run(command.env("BANGER_VMM", "qemu").env("SECRET", "x")).code, 0);
    assert_eq!(fs::read_to_string(home.path().join("started")).unwrap(), "qemu \n");
}

#[test]
fn a_daemon_that_ends_as_it_is_asked_is_asked_again_where_that_changes_nothing() {
    let connections = AtomicU32::new(0);
    let fake = Fake::serving(move |_, connection| {
        if connections.fetch_add(1, Ordering::Relaxed) % 2 == 1 {
            connection.json(&Vms::default());
        }
    });
    let listed = run(&mut fake.home.banger(&["vm", "list", "-q"]));
    assert_eq!((listed.code, listed.err().as_str()), (0, ""));
    assert_eq!(fake.lines(), ["GET /v1/vms"; 2]);

    let created = run(&mut fake.home.banger(&["vm", "create"]));
    assert_eq!(created.code, 1, "{}", created.err());
    assert_eq!(fake.lines()[2..], ["POST /v1/vms"], "it may have begun");
}
