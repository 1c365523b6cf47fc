//! One command in a guest: streams, exit codes, signals.

use std::{
    io::Read,
    process::Stdio,
    sync::{Arc, Mutex, mpsc},
};

use bytes::Bytes;
use wire::{
    control::{Code, ErrorBody, Workspace},
    exec::{Exit, Frame, MAX_DATA, Spec},
};

use crate::{
    banger::{DEADLINE, Running, run, run_with},
    fake::{Connection, Fake},
};

const EXEC: &str = "POST /v1/vms/dev/exec";

/// A daemon that does `play` for the command, after its spec.
fn playing(play: impl Fn(Spec, &mut Connection) + Send + Sync + 'static) -> Fake {
    Fake::serving(move |request, connection| {
        assert_eq!(request.line(), EXEC);
        assert!(request.head.to_ascii_lowercase().contains("upgrade: banger-exec\r\n"), "{}", request.head);
        let Frame::Spec(spec) = connection.upgrade() else { panic!("a client begins with what to run") };
        connection.frame(&Frame::Started(7));
        play(*spec, connection);
    })
}

/// Bytes without a pattern that a copy could get right by accident.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[3]
        })
        .collect()
}

#[test]
fn streams_pass_byte_for_byte_both_ways() {
    let fake = playing(|_, connection| {
        let mut errors = Vec::new();
        loop {
            match connection.next_frame().expect("the client is there until the end") {
                Frame::Stdin(data) => {
                    assert!(data.len() <= MAX_DATA);
                    errors.extend(data.iter().map(|byte| !byte));
                    connection.frame(&Frame::Stdout(data));
                }
                Frame::StdinEnd => break,
                other => panic!("{other:?}"),
            }
        }
        errors
            .chunks(MAX_DATA)
            .for_each(|piece| connection.frame(&Frame::Stderr(Bytes::copy_from_slice(piece))));
        connection.frame(&Frame::Exited(Exit::Code(42)));
    });
    let input = noise(3_000_000);
    let outcome = run_with(&mut fake.home.banger(&["vm", "exec", "dev", "--", "both"]), &input);
    assert_eq!(outcome.code, 42);
    assert!(outcome.stdout == input, "stdout is what was sent");
    assert!(outcome.stderr.iter().map(|byte| !byte).eq(input), "stderr is what was sent, apart");
}

#[test]
fn words_reach_the_guest_as_they_are() {
    let specs = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&specs);
    let fake = playing(move |spec, connection| {
        seen.lock().unwrap().push(spec);
        connection.frame(&Frame::Exited(Exit::Code(0)));
    });
    let words = ["vm", "exec", "--env", "A=b=c d", "--cwd", "/tmp/x y", "--user", "me", "dev", "--"];
    let mut command = fake.home.banger(&words);
    let odd: &std::ffi::OsStr = std::os::unix::ffi::OsStrExt::from_bytes(b"\xff$(x) 'y'");
    assert_eq!(run(command.args(["printf", "%s\\n", "--env", ""]).arg(odd)).code, 0);
    let [spec] = &specs.lock().unwrap()[..] else { panic!("one command") };
    let argv: Vec<&[u8]> = spec.argv.iter().map(wire::Word::as_bytes).collect();
    assert_eq!(argv, [&b"printf"[..], b"%s\\n", b"--env", b"", b"\xff$(x) 'y'"]);
    assert_eq!(spec.env, [("A".into(), "b=c d".into())]);
    assert_eq!(spec.cwd, Some("/tmp/x y".into()));
    assert_eq!(spec.user.as_deref(), Some("me"));
    assert_eq!(spec.terminal, None);
}

#[test]
fn the_exit_code_is_the_commands() {
    for (exit, code) in [
        (Exit::Code(0), 0),
        (Exit::Code(255), 255),
        (Exit::Signal(9), 137),
        (Exit::NotExecutable, 126),
        (Exit::NotFound, 127),
    ] {
        let fake = playing(move |_, connection| connection.frame(&Frame::Exited(exit)));
        let outcome = run(&mut fake.home.banger(&["vm", "exec", "dev", "--", "x"]));
        assert_eq!((outcome.code, outcome.err().as_str()), (code, ""), "{exit:?}");
    }
}

#[test]
fn bangers_own_failures_are_125_and_say_why() {
    let failed =
        ErrorBody::new(Code::VmEnded, "dev ended while the command ran").with_hint("banger vm start dev");
    let fake = playing(move |_, connection| {
        connection.frame(&Frame::Stdout(Bytes::from_static(b"so far")));
        connection.frame(&Frame::Failed(Box::new(failed.clone())));
    });
    let outcome = run(&mut fake.home.banger(&["vm", "exec", "dev", "--", "x"]));
    assert_eq!((outcome.code, outcome.out().as_str()), (125, "so far"));
    insta::assert_snapshot!(outcome.err(), @r"
    error: dev ended while the command ran
    hint: banger vm start dev
    ");

    let fake = playing(|_, connection| connection.frame(&Frame::Stdout(Bytes::from_static(b"so far"))));
    let outcome = run(&mut fake.home.banger(&["vm", "exec", "dev", "--", "x"]));
    assert_eq!((outcome.code, outcome.out().as_str()), (125, "so far"));
    insta::assert_snapshot!(outcome.err(), @"error: the connection to the daemon was cut while the command was running");

    let fake = Fake::serving(|_, connection| {
        connection
            .refuse(&ErrorBody::new(Code::NotRunning, "dev is not running").with_hint("banger vm start dev"));
    });
    let outcome = run(&mut fake.home.banger(&["vm", "exec", "dev", "--", "x"]));
    assert_eq!(outcome.code, 125);
    insta::assert_snapshot!(outcome.err(), @r"
    error: dev is not running
    hint: banger vm start dev
    ");
}

/// A command that tells the test that it runs, then the signals it gets, and ends by the last of `until`.
fn signalled(until: &'static [u8]) -> (Fake, mpsc::Receiver<u8>) {
    let (sender, receiver) = mpsc::channel();
    let fake = playing(move |_, connection| {
        sender.send(0).unwrap();
        for &number in until {
            let got = connection.expect(|frame| match frame {
                Frame::Signal(got) => Some(*got),
                _ => None,
            });
            assert_eq!(got, number);
            sender.send(got).unwrap();
        }
        match until.last() {
            Some(&last) => connection.frame(&Frame::Exited(Exit::Signal(last))),
            None => connection.closed(),
        }
    });
    (fake, receiver)
}

#[test]
fn signals_reach_the_command_and_its_end_is_the_exit_code() {
    for (name, number, code) in [("INT", 2, 130), ("QUIT", 3, 131), ("TERM", 15, 143), ("HUP", 1, 129)] {
        let until: &'static [u8] = vec![number].leak();
        let (fake, heard) = signalled(until);
        let running = Running::start(&mut fake.home.banger(&["vm", "exec", "dev", "--", "x"]));
        assert_eq!(heard.recv_timeout(DEADLINE), Ok(0));
        running.signal(name);
        assert_eq!(heard.recv_timeout(DEADLINE), Ok(number));
        assert_eq!(running.end().code, code, "{name}");
    }
}

#[test]
fn a_command_that_stays_after_a_termination_is_left() {
    // It gets the signal and does not end: this process ends nevertheless, and its going is the command's HUP.
    let (sender, heard) = mpsc::channel();
    let fake = playing(move |_, connection| {
        sender.send(0).unwrap();
        let signal = connection.expect(|frame| match frame {
            Frame::Signal(number) => Some(*number),
            _ => None,
        });
        connection.closed();
        sender.send(signal).unwrap();
    });
    let running = Running::start(&mut fake.home.banger(&["vm", "exec", "dev", "--", "x"]));
    assert_eq!(heard.recv_timeout(DEADLINE), Ok(0));
    running.signal("TERM");
    assert_eq!(running.end().code, 143);
    assert_eq!(heard.recv_timeout(DEADLINE), Ok(15));
}

#[test]
fn a_second_interrupt_leaves_at_once() {
    let (sender, heard) = mpsc::channel();
    let fake = playing(move |_, connection| {
        sender.send(0).unwrap();
        connection.expect(|frame| matches!(frame, Frame::Signal(2)).then_some(()));
        sender.send(2).unwrap();
        connection.closed();
        sender.send(1).unwrap();
    });
    let running = Running::start(&mut fake.home.banger(&["vm", "exec", "dev", "--", "x"]));
    assert_eq!(heard.recv_timeout(DEADLINE), Ok(0));
    running.signal("INT");
    assert_eq!(heard.recv_timeout(DEADLINE), Ok(2));
    running.signal("INT");
    assert_eq!(running.end().code, 130);
    assert_eq!(heard.recv_timeout(DEADLINE), Ok(1));
}

#[test]
fn an_ignored_signal_stays_ignored() {
    // As under nohup: HUP does nothing, TERM still reaches the command.
    let (fake, heard) = signalled(&[15]);
    let banger = fake.home.banger(&[]);
    let mut command = std::process::Command::new("sh");
    command.args(["-c", "trap '' HUP; exec \"$0\" vm exec dev -- x"]).arg(banger.get_program());
    command.envs(banger.get_envs().filter_map(|(key, value)| Some((key, value?))));
    let running = Running::start(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()));
    assert_eq!(heard.recv_timeout(DEADLINE), Ok(0));
    running.signal("HUP");
    running.signal("TERM");
    assert_eq!(heard.recv_timeout(DEADLINE), Ok(15));
    assert_eq!(running.end().code, 143);
}

#[test]
fn a_reader_that_goes_is_a_broken_pipe_to_the_command() {
    let fake = playing(|_, connection| {
        connection.frame(&Frame::Stdout(Bytes::from_static(b"first\n")));
        connection.expect(|frame| matches!(frame, Frame::StdinEnd).then_some(()));
        // The reader went before it ended our input.
        connection.frame(&Frame::Stdout(Bytes::from(vec![b'y'; 4096])));
        connection.expect(|frame| matches!(frame, Frame::Signal(13)).then_some(()));
        connection.frame(&Frame::Exited(Exit::Signal(13)));
    });
    let mut command = fake.home.banger(&["vm", "exec", "dev", "--", "yes"]);
    let (mut running, mut stdout) = Running::start_unread(command.stdin(Stdio::piped()));
    let mut first = [0; 6];
    stdout.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"first\n");
    drop(stdout);
    drop(running.stdin());
    let outcome = running.end();
    assert_eq!((outcome.code, outcome.err().as_str()), (141, ""));
}

#[test]
fn a_reader_that_does_not_read_holds_up_no_signal() {
    let (sender, heard) = mpsc::channel();
    let fake = playing(move |_, connection| {
        // More than a pipe and the queue before it hold, less than would stop this side.
        for _ in 0..128 {
            connection.frame(&Frame::Stdout(Bytes::from(vec![b'y'; 1024])));
        }
        sender.send(0).unwrap();
        connection.expect(|frame| matches!(frame, Frame::Signal(15)).then_some(()));
        sender.send(15).unwrap();
        connection.frame(&Frame::Exited(Exit::Signal(15)));
    });
    let mut command = fake.home.banger(&["vm", "exec", "dev", "--", "yes"]);
    let (running, stdout) = Running::start_unread(&mut command);
    assert_eq!(heard.recv_timeout(DEADLINE), Ok(0));
    running.signal("TERM");
    assert_eq!(heard.recv_timeout(DEADLINE), Ok(15));
    assert_eq!(running.end().code, 143);
    drop(stdout);
}

#[test]
fn a_command_does_not_wait_for_what_there_is_to_say_of_its_workspace() {
    let (began, begun) = mpsc::channel();
    let (began, begun) = (Mutex::new(began), Mutex::new(begun));
    let fake = Fake::serving(move |request, connection| match request.line().as_str() {
        EXEC => {
            let Frame::Spec(spec) = connection.upgrade_in("/srv/work") else { panic!("a spec comes first") };
            began.lock().unwrap().send(spec.cwd).unwrap();
            connection.frame(&Frame::Exited(Exit::Code(3)));
        }
        "GET /v1/vms/dev/workspace" => {
            // It is answered only to somebody whose command runs.
            assert_eq!(begun.lock().unwrap().recv_timeout(DEADLINE), Ok(Some("/srv/work".into())));
            connection.json(&Workspace {
                guest_path: "/srv/work".to_owned(),
                path: "/home/me/work".into(),
                head: "0".repeat(40),
                prepared_ms: 0,
                moved: false,
                changed: true,
                again: None,
            });
        }
        other => panic!("{other}"),
    });
    let told = run(&mut fake.home.banger(&["-v", "vm", "exec", "dev", "--", "x"]));
    let warning =
        "warning: /home/me/work has other files since it was shipped; --auto-prepare ships it again\n";
    assert_eq!((told.code, told.err().as_str()), (3, warning));
    let untold = run(&mut fake.home.banger(&["vm", "exec", "dev", "--", "x"]));
    assert_eq!((untold.code, untold.err().as_str()), (3, ""));
    let asked: Vec<String> = fake.seen().iter().map(|request| request.line()).collect();
    assert_eq!(asked, [EXEC, "GET /v1/vms/dev/workspace", EXEC], "nobody asks what nobody is told");
}
