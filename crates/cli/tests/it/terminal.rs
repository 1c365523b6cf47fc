//! At a terminal: `script` gives the program one, as a user's shell does.

use std::{
    io::Write,
    path::PathBuf,
    process::{Command, Stdio},
    sync::mpsc,
};

use bytes::Bytes;
use wire::{
    control::{Code, CreateVm, ErrorBody, Event, Outcome, State, Vms},
    exec::{Exit, Frame, Size, Spec},
};

use crate::{
    banger::{DEADLINE, Home, Outcome as Run, Running},
    fake::{Connection, Fake, made, vm},
};

/// A shell on a terminal of its own that runs `line`; `banger` is in its `PATH`.
fn terminal(home: &Home, line: &str) -> (Running, std::process::ChildStdin) {
    let banger = std::path::Path::new(env!("CARGO_BIN_EXE_banger")).parent().unwrap();
    let mut command = Command::new("script");
    command
        .args(["--quiet", "--return", "--echo", "never", "--command", line, "/dev/null"])
        .env_clear()
        .env("BANGER_HOME", home.path())
        .env("PATH", format!("{}:/usr/bin:/bin", banger.display()))
        .env("SHELL", "/bin/sh")
        .env("TERM", "xterm-256color")
        .env("NO_COLOR", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut running = Running::start(&mut command);
    let stdin = running.stdin();
    (running, stdin)
}

/// What a terminal showed, without what steers it and without what was drawn over.
fn shown(run: &Run) -> String {
    String::from_utf8_lossy(&run.stdout).replace("\r\n", "\n")
}

fn spec(connection: &mut Connection) -> Spec {
    let Frame::Spec(spec) = connection.upgrade() else { panic!("a client begins with what to run") };
    connection.frame(&Frame::Started(7));
    *spec
}

const SHELL: &str = "stty rows 33 cols 99; stty -a >before; ";
const COMPARE: &str = "; code=$?; stty -a >after; cmp before after && echo terminal as before; exit $code";

/// `line` in a shell that looks whether the terminal is afterwards as it was.
fn compared(home: &Home, line: &str) -> String {
    format!("cd '{}'; {SHELL}{line}{COMPARE}", home.path().display())
}

#[test]
fn a_shell_gets_keys_as_bytes_and_the_size_of_the_terminal() {
    let (told, happened) = mpsc::channel();
    let fake = Fake::serving(move |_, connection| {
        told.send(format!("{:?}", spec(connection))).unwrap();
        let mut keys = Vec::new();
        while !keys.ends_with(b"\x04") {
            match connection.next_frame().expect("the client is there") {
                Frame::Stdin(data) => keys.extend_from_slice(&data),
                other => panic!("{other:?}"),
            }
        }
        told.send(format!("{keys:?}")).unwrap();
        connection.frame(&Frame::Stdout(Bytes::from_static(b"bye\r\n")));
        connection.frame(&Frame::Exited(Exit::Code(7)));
    });
    let (running, mut keyboard) = terminal(&fake.home, &compared(&fake.home, "banger vm exec --env A=B dev"));
    let expect = Spec {
        argv: vec![],
        env: vec![("A".into(), "B".into()), ("TERM".into(), "xterm-256color".into())],
        cwd: None,
        user: None,
        terminal: Some(Size { rows: 33, cols: 99 }),
        through: vec![],
    };
    assert_eq!(happened.recv_timeout(DEADLINE).unwrap(), format!("{expect:?}"));
    // Ctrl-C, Ctrl-Z, Ctrl-\, return, Ctrl-D: none of them means anything on this side.
    keyboard.write_all(b"\x03\x1a\x1c\r\x04").unwrap();
    assert_eq!(happened.recv_timeout(DEADLINE).unwrap(), "[3, 26, 28, 13, 4]");
    let run = running.end();
    assert_eq!((run.code, shown(&run).as_str()), (7, "bye\nterminal as before\n"));
}

#[test]
fn the_terminal_is_put_back_after_a_failure() {
    type Play = fn(&mut Connection);
    let ways: [(Play, &str); 2] = [
        (|_| {}, "error: the connection to the daemon was cut while the command was running\n"),
        (
            |connection| {
                connection.frame(&Frame::Failed(Box::new(ErrorBody::new(Code::VmEnded, "dev ended"))));
                connection.closed();
            },
            "error: dev ended\n",
        ),
    ];
    for (play, says) in ways {
        let fake = Fake::serving(move |_, connection| {
            spec(connection);
            play(connection);
        });
        let (running, _keyboard) = terminal(&fake.home, &compared(&fake.home, "banger vm exec dev"));
        let run = running.end();
        assert_eq!((run.code, shown(&run)), (125, format!("{says}terminal as before\n")));
    }
}

/// A shell that runs `banger vm exec dev` on its terminal and does `line` once the returned file is written to.
fn beside(home: &Home, line: &str) -> (Running, std::process::ChildStdin, PathBuf) {
    let go = home.path().join("go");
    assert!(Command::new("mkfifo").arg(&go).status().unwrap().success());
    let line = format!("tty=$(tty); banger vm exec dev <$tty & read x <go; {line}; wait $!");
    let (running, keyboard) = terminal(home, &compared(home, &line));
    (running, keyboard, go)
}

#[test]
fn the_terminal_is_put_back_after_a_signal() {
    for (signal, number, ends) in [("TERM", 15, true), ("HUP", 1, true), ("TERM", 15, false)] {
        let (told, happened) = mpsc::channel();
        let fake = Fake::serving(move |_, connection| {
            spec(connection);
            told.send(()).unwrap();
            connection.expect(|frame| matches!(frame, Frame::Signal(got) if *got == number).then_some(()));
            if ends {
                connection.frame(&Frame::Exited(Exit::Signal(number)));
            } else {
                connection.closed();
            }
        });
        let (running, _keyboard, go) = beside(&fake.home, &format!("kill -s {signal} $!"));
        happened.recv_timeout(DEADLINE).unwrap();
        std::fs::write(&go, "\n").unwrap();
        let run = running.end();
        assert_eq!(
            (run.code, shown(&run).as_str()),
            (128 + i32::from(number), "terminal as before\n"),
            "{signal}"
        );
    }
}

#[test]
fn a_new_window_size_reaches_the_command() {
    let (told, happened) = mpsc::channel();
    let fake = Fake::serving(move |_, connection| {
        spec(connection);
        told.send("runs").unwrap();
        // stty(1) changes one after the other.
        let size = Size { rows: 40, cols: 120 };
        connection.expect(|frame| matches!(frame, Frame::Resize(got) if *got == size).then_some(()));
        told.send("resized").unwrap();
        connection.frame(&Frame::Exited(Exit::Code(0)));
    });
    let (running, _keyboard, go) = beside(&fake.home, "stty rows 40 cols 120 <$tty");
    assert_eq!(happened.recv_timeout(DEADLINE), Ok("runs"));
    std::fs::write(&go, "\n").unwrap();
    assert_eq!(happened.recv_timeout(DEADLINE), Ok("resized"));
    running.end();
}

#[test]
fn a_command_gets_pipes_unless_a_terminal_is_asked_for() {
    for (line, terminal_given) in [
        ("banger vm exec dev -- ls", false),
        ("banger vm exec -t dev -- ls", true),
        ("banger vm exec dev", true),
        ("banger vm exec -T dev", false),
        ("banger vm exec dev </dev/null", false),
        ("banger vm exec dev | cat", false),
    ] {
        let (told, happened) = mpsc::channel();
        let fake = Fake::serving(move |_, connection| {
            told.send(spec(connection).terminal.is_some()).unwrap();
            connection.frame(&Frame::Exited(Exit::Code(0)));
        });
        let (running, _keyboard) = terminal(&fake.home, line);
        assert_eq!(happened.recv_timeout(DEADLINE), Ok(terminal_given), "{line}");
        assert_eq!(running.end().code, 0, "{line}");
    }
}

/// A daemon without the default image, that makes machines once it may build it.
fn without_image() -> Fake {
    Fake::serving(|request, connection| {
        if request.path.ends_with("/exec") {
            spec(connection);
            return connection.frame(&Frame::Exited(Exit::Code(0)));
        }
        let asked: CreateVm = serde_json::from_slice(&request.body).unwrap();
        if asked.build_default_image {
            connection.done(made());
        } else {
            connection
                .refuse(&ErrorBody::new(Code::NotFound, "the default image debian-bookworm is not there"));
        }
    })
}

#[test]
fn a_missing_default_image_is_built_when_the_user_says_so() {
    let ask = "the default image debian-bookworm is not there. Build the default image now? (~2 minutes, 300 MB) [Y/n] ";
    for (answer, code, requests) in [("\n", 0, 2), ("y\n", 0, 2), ("n\n", 4, 1), ("\x03", 130, 1)] {
        let fake = without_image();
        let (running, mut keyboard) = terminal(&fake.home, "banger vm create");
        running.until(ask);
        keyboard.write_all(answer.as_bytes()).unwrap();
        let run = running.end();
        assert_eq!((run.code, fake.lines().len()), (code, requests), "{answer:?}: {}", shown(&run));
    }
    let fake = without_image();
    let (running, _keyboard) = terminal(&fake.home, "banger vm create --yes");
    let run = running.end();
    assert_eq!((run.code, shown(&run).as_str()), (0, "brave-otter\n"));
    let (running, _keyboard) = terminal(&fake.home, "banger vm create --image other </dev/null");
    assert_eq!(running.end().code, 0, "without a terminal nothing is asked");
}

#[test]
fn an_interactive_run_reminds_and_leaves_no_bar_behind() {
    let fake = Fake::serving(|request, connection| {
        if request.path.ends_with("/exec") {
            spec(connection);
            return connection.frame(&Frame::Exited(Exit::Code(0)));
        }
        connection.stream();
        connection.event(&Event::Plan { summary: "2 vCPU · 1 GiB".into() });
        connection.event(&Event::Stage { name: "booting".into() });
        connection.event(&Event::Progress {
            name: "reading".into(),
            done: 3,
            total: Some(8),
            unit: "files".into(),
        });
        connection.event(&Event::Progress {
            name: "reading".into(),
            done: 5,
            total: Some(10),
            unit: "bytes".into(),
        });
        connection.event(&Event::Done { result: made() });
    });
    let (running, _keyboard) = terminal(&fake.home, "banger vm run");
    let run = running.end();
    assert_eq!(run.code, 0);
    let text = shown(&run);
    assert!(text.starts_with("2 vCPU · 1 GiB\n"), "{text:?}");
    assert!(text.contains("booting") && text.contains("reading, 3 of 8 files, 5 B of 10 B"), "{text:?}");
    let left = text.rsplit("\x1b[2K").next().unwrap();
    assert_eq!(
        left, "brave-otter is still running: banger vm exec brave-otter, banger vm delete brave-otter\n",
        "after the last line was cleared"
    );
}

#[test]
fn prune_asks() {
    for (answer, code, requests) in [("y\n", 0, 2), ("\n", 130, 1)] {
        let fake = Fake::serving(|request, connection| match request.method.as_str() {
            "GET" => connection.json(&Vms { vms: vec![vm("00000000000b", "b", State::Stopped)] }),
            _ => connection.done(Outcome::None),
        });
        let (running, mut keyboard) = terminal(&fake.home, "banger vm prune");
        running.until("Delete b with their disks? [y/N] ");
        keyboard.write_all(answer.as_bytes()).unwrap();
        let run = running.end();
        assert_eq!((run.code, fake.lines().len()), (code, requests), "{}", shown(&run));
    }
}

#[test]
fn a_guests_log_does_not_steer_the_terminal() {
    let fake = Fake::serving(|_, connection| connection.answer("200 OK", b"\x1b[2J\x1b[32mok\x1b[0m\r\n"));
    let (running, _keyboard) = terminal(&fake.home, "banger vm logs dev");
    let run = running.end();
    assert_eq!((run.code, shown(&run).as_str()), (0, "\\x1b[2J\x1b[32mok\x1b[0m\n"));
}
