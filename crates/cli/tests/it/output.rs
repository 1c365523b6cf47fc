//! Data on standard output, for people and for programs, and the help.

use wire::{
    control::{AllStats, Daemon, Operation, OperationState, Operations, Origin, Phase, State, Vm, Vms},
    guest::Step,
};

use crate::{
    banger::{Home, run},
    fake::{Fake, vm},
};

fn machines() -> Vms {
    let mut dev = vm("00000000000a", "dev", State::Running);
    dev.ip = Some("10.0.0.2".into());
    dev.memory.value = 3 << 29;
    dev.memory.origin = Origin::Host;
    dev.pid = Some(77);
    dev.started_ms = Some(90_061_000);
    dev.timeline = vec![Phase {
        place: "guest".into(),
        step: Step { name: "mount overlay".into(), at_us: 2_000_000, took_us: 12_345 },
    }];
    let mut old = vm("00000000000b", "old\u{1b}[2J", State::Error);
    old.reason = Some("the guest panicked:\nKernel panic \u{1b}]0;x\u{7}".into());
    Vms {
        vms: vec![
            dev,
            old,
            vm("00000000000c", "idle", State::Stopped),
            vm("00000000000d", "new", State::Created),
        ],
    }
}

fn showing() -> Fake {
    Fake::serving(|request, connection| match request.line().as_str() {
        "GET /v1/vms" => connection.json(&machines()),
        "GET /v1/vms/dev" => connection.json(&machines().vms[0]),
        "GET /v1/vms/old" => connection.json(&machines().vms[1]),
        "GET /v1/vms/dev/logs?source=console" => connection.answer("200 OK", b"a\x1b[2J\r\n\xff\0"),
        "GET /v1/vms/dev/logs?source=agent&follow=true" => {
            connection.stream();
            connection.raw(b"one\n");
            connection.raw(b"two\n");
        }
        "GET /v1/operations" => connection.json(&Operations {
            operations: vec![Operation {
                id: "0190-op".into(),
                what: "vm.start dev".into(),
                state: OperationState::Running,
                begun_ms: 0,
                ended_ms: None,
                error: None,
            }],
        }),
        "POST /v1/operations/0190-op/cancel" => connection.answer("204 No Content", b""),
        "GET /v1/daemon" => connection.json(&Daemon {
            version: "0.1.0".into(),
            commit: "abc".into(),
            api: 1,
            pid: 9,
            socket: "/x.sock".into(),
        }),
        other => panic!("{other}"),
    })
}

/// `text` without what depends on today.
fn timeless(text: &str) -> String {
    let ago = |line: &str| match line.find(" days ago") {
        Some(end) => {
            let begin = line[..end].rfind(|c: char| !c.is_ascii_digit()).map_or(0, |at| at + 1);
            format!("{}N{}", &line[..begin], &line[end..])
        }
        None => line.to_owned(),
    };
    text.lines().map(|line| ago(line) + "\n").collect()
}

#[test]
fn machines_are_listed() {
    let fake = showing();
    let list = |words: &[&str]| {
        let outcome = run(&mut fake.home.banger(words));
        assert_eq!((outcome.code, outcome.err().as_str()), (0, ""));
        timeless(&outcome.out())
    };
    insta::assert_snapshot!(list(&["vm", "list"]));
    insta::assert_snapshot!(list(&["ps"]));
    assert_eq!(list(&["ps", "-a"]), list(&["vm", "list"]));
    assert_eq!(list(&["ps", "-q"]), "00000000000a\n00000000000b\n");
    let json: Vms = serde_json::from_str(&list(&["vm", "list", "-o", "json"])).unwrap();
    assert_eq!(json, machines());
}

#[test]
fn a_machine_is_shown() {
    let fake = showing();
    let show = |words: &[&str]| {
        let outcome = run(&mut fake.home.banger(words));
        assert_eq!((outcome.code, outcome.err().as_str()), (0, ""));
        timeless(&outcome.out())
    };
    insta::assert_snapshot!(show(&["vm", "show", "dev"]));
    insta::assert_snapshot!(show(&["vm", "show", "old"]));
    insta::assert_snapshot!(show(&["vm", "show", "dev", "--timeline"]), @r"
    PLACE  TOOK     DONE AT    PHASE
    guest  12.3 ms  2000.0 ms  mount overlay
    ");
    let json: Vm = serde_json::from_str(&show(&["vm", "show", "dev", "-o", "json"])).unwrap();
    assert_eq!(json, machines().vms[0]);
}

#[test]
fn logs_are_bytes() {
    let fake = showing();
    let outcome = run(&mut fake.home.banger(&["vm", "logs", "dev"]));
    assert_eq!((outcome.code, &outcome.stdout[..]), (0, &b"a\x1b[2J\r\n\xff\0"[..]));
    let outcome = run(&mut fake.home.banger(&["vm", "logs", "-f", "--source", "agent", "dev"]));
    assert_eq!((outcome.code, &outcome.stdout[..]), (0, &b"one\ntwo\n"[..]));
}

#[test]
fn operations_are_listed_and_cancelled() {
    let fake = showing();
    let outcome = run(&mut fake.home.banger(&["operation", "list"]));
    assert_eq!(outcome.code, 0);
    insta::assert_snapshot!(timeless(&outcome.out()), @r"
    ID       WHAT          STATE    BEGUN
    0190-op  vm.start dev  running  N days ago
    ");
    assert_eq!(run(&mut fake.home.banger(&["operation", "cancel", "0190-op"])).code, 0);
}

#[test]
fn the_daemon_is_described() {
    let fake = showing();
    let outcome = run(&mut fake.home.banger(&["daemon", "status", "-o", "json"]));
    assert_eq!(outcome.code, 0);
    let json: serde_json::Value = serde_json::from_str(&outcome.out()).unwrap();
    let expect = serde_json::json!({
        "running": true, "version": "0.1.0", "commit": "abc", "api": 1, "pid": 9, "socket": "/x.sock",
    });
    assert_eq!(json, expect);
    let outcome = run(&mut fake.home.banger(&["version", "-o", "json"]));
    let json: serde_json::Value = serde_json::from_str(&outcome.out()).unwrap();
    assert_eq!(json["cli"]["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(json["daemon"]["pid"], 9);
}

#[test]
fn an_answer_of_another_version_is_not_misread() {
    let fake = Fake::serving(|_, connection| connection.answer("404 Not Found", b"nothing here"));
    let outcome = run(&mut fake.home.banger(&["vm", "list"]));
    assert_eq!((outcome.code, outcome.out().as_str()), (1, ""));
    insta::assert_snapshot!(outcome.err(), @r"
    error: the daemon's answer is not understood: status 404 Not Found
    hint: banger and bangerd may be of different versions: banger daemon stop, then try again
    ");
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let fake = showing();
    let banger = fake.home.banger(&[]);
    let mut command = std::process::Command::new("sh");
    command.args(["-c", "\"$0\" vm list | true; echo $?"]).arg(banger.get_program());
    command.envs(banger.get_envs().filter_map(|(key, value)| Some((key, value?))));
    let outcome = run(command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()));
    assert_eq!((outcome.out().as_str(), outcome.err().as_str()), ("0\n", ""));
}

#[test]
fn what_is_watched_is_shown_until_nobody_looks() {
    let fake = Fake::serving(|request, connection| {
        assert_eq!(request.line(), "GET /v1/stats");
        connection.json(&AllStats::default());
    });
    let banger = fake.home.banger(&[]);
    let mut command = std::process::Command::new("sh");
    // Twice the head of the table, and then its reader goes.
    command.args(["-c", "\"$0\" vm stats --watch | head -n 2 | cut -c 1-2"]).arg(banger.get_program());
    command.envs(banger.get_envs().filter_map(|(key, value)| Some((key, value?))));
    let outcome = run(command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()));
    assert_eq!((outcome.out().as_str(), outcome.err().as_str()), ("ID\nID\n", ""));
}

#[test]
fn the_help_opens_with_what_to_type() {
    let home = Home::new();
    let help = |words: &[&str]| {
        let outcome = run(&mut home.banger(words));
        assert_eq!((outcome.code, outcome.err().as_str()), (0, ""));
        outcome.out()
    };
    insta::assert_snapshot!(help(&["--help"]));
    insta::assert_snapshot!(help(&["vm", "run", "--help"]));
    insta::assert_snapshot!(help(&["vm", "--help"]));
    assert_eq!(help(&["--version"]), format!("banger {}\n", env!("CARGO_PKG_VERSION")));
}

/// What a real bash that took the script in offers for the last of `words`.
fn offered(home: &Home, words: &[&str]) -> String {
    let outcome = run(&mut home.banger(&["completion", "bash"]));
    assert_eq!(outcome.code, 0);
    let script = home.path().join("completion.bash");
    std::fs::write(&script, outcome.stdout).unwrap();
    let program = std::path::Path::new(env!("CARGO_BIN_EXE_banger")).parent().unwrap();
    let ask = "source \"$1\"; shift; COMP_WORDS=(\"$@\"); COMP_CWORD=$(($# - 1)); COMP_TYPE=9; \
               _clap_complete_banger banger \"${COMP_WORDS[COMP_CWORD]}\" \"${COMP_WORDS[COMP_CWORD-1]}\"; \
               printf '%s\\n' \"${COMPREPLY[@]}\"";
    let mut command = std::process::Command::new("bash");
    command.args(["--norc", "-c", ask, "bash"]).arg(&script).args(words).env_clear();
    command.env("BANGER_HOME", home.path()).env("PATH", format!("{}:/usr/bin:/bin", program.display()));
    let outcome = run(command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()));
    assert_eq!(outcome.err(), "");
    outcome.out()
}

#[test]
fn shells_complete_names_live() {
    let fake = showing();
    for (words, expect) in [
        (&["banger", "vm", "show", "d"][..], "dev\n"),
        (&["banger", "vm", "stop", "dev", "i"], "idle\n"),
        (&["banger", "vm", "cp", "./x", "d"], "dev:\n"),
        // Its name would steer the terminal.
        (&["banger", "vm", "show", "o"], "\n"),
    ] {
        assert_eq!(offered(&fake.home, words), expect, "{words:?}");
    }
}

#[test]
fn a_completion_starts_no_daemon() {
    let home = Home::new();
    assert_eq!(offered(&home, &["banger", "vm", "show", "d"]), "\n");
    assert!(!home.path().join("state").exists() && !home.path().join("run").exists());
}
