//! Commands: streams, exit codes, terminals, signals, and clients that go away.

use bytes::Bytes;
use tokio::time::{Duration, Instant};
use wire::{
    control::Code,
    exec::{Exit, Frame, MAX_DATA, Size, Spec},
};

use crate::{
    client::{Client, Exec, spec},
    world::{Scratch, random, runs, wait_until, with_agent},
};

/// All that a command said.
#[derive(Debug, Default)]
struct Said {
    pid: u32,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    exit: Option<Exit>,
    failed: Option<(Code, String)>,
}

async fn listen(exec: &mut Exec) -> Said {
    let mut said = Said::default();
    while let Some(frame) = exec.output.next().await.unwrap() {
        assert!(said.exit.is_none() && said.failed.is_none(), "{frame:?} after the last frame");
        match frame {
            Frame::Started(pid) => said.pid = pid,
            Frame::Stdout(bytes) => said.stdout.extend(bytes),
            Frame::Stderr(bytes) => said.stderr.extend(bytes),
            Frame::Exited(exit) => said.exit = Some(exit),
            Frame::Failed(error) => said.failed = Some((error.code, error.message)),
            other => panic!("the agent sent {other:?}"),
        }
    }
    said
}

/// Runs a command with no input.
async fn run(client: &mut Client, spec: Spec) -> Said {
    let mut exec = client.exec(spec).await.unwrap();
    exec.send(&Frame::StdinEnd).await.unwrap();
    listen(&mut exec).await
}

/// The pid that a shell prints as its first line.
async fn first_line(exec: &mut Exec) -> String {
    let mut text = Vec::new();
    while !text.contains(&b'\n') {
        match exec.output.next().await.unwrap().unwrap() {
            Frame::Stdout(bytes) => text.extend(bytes),
            Frame::Started(_) => {}
            other => panic!("{other:?}"),
        }
    }
    String::from_utf8(text).unwrap().trim().to_owned()
}

#[test]
fn streams_are_apart_and_the_exit_code_is_the_commands() {
    with_agent(async |port| {
        let mut client = port.client().await;
        let said = run(&mut client, spec(&["sh", "-c", "echo out; echo err >&2; exit 42"])).await;
        assert_eq!((&said.stdout[..], &said.stderr[..]), (&b"out\n"[..], &b"err\n"[..]));
        assert_eq!(said.exit, Some(Exit::Code(42)));
        let said = run(&mut client, spec(&["sh", "-c", "kill -9 $$"])).await;
        assert_eq!(said.exit, Some(Exit::Signal(9)));
    });
}

#[test]
fn what_cannot_be_run_is_told_apart() {
    let scratch = Scratch::new("cannot-run");
    let file = |name: &str, content: &[u8], mode: u32| {
        use std::os::unix::fs::PermissionsExt;
        let path = scratch.0.join(name);
        host::fs::write_atomic(&path, content).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let plain = file("plain", b"#!/bin/sh\n", 0o644);
    let orphan = file("orphan", b"#!/no/such/interpreter\n", 0o755);
    let text = file("text", b"hello", 0o755);
    with_agent(async |port| {
        let mut client = port.client().await;
        for (program, expect) in [
            ("no-such-program", Exit::NotFound),
            ("/no/such/program", Exit::NotFound),
            ("/etc/passwd/x", Exit::NotFound),
            ("", Exit::NotFound),
            (&plain, Exit::NotExecutable),
            (&orphan, Exit::NotExecutable),
            (&text, Exit::NotExecutable),
            ("/tmp", Exit::NotExecutable),
        ] {
            let said = run(&mut client, spec(&[program])).await;
            assert_eq!(said.exit, Some(expect), "{program}");
        }
    });
}

#[test]
fn environment_directory_and_user_are_those_asked_for() {
    with_agent(async |port| {
        let mut client = port.client().await;
        let mut what = spec(&["sh", "-c", "echo $A:$GUEST:$PATH; pwd; umask; id -u"]);
        what.env = vec![("A".into(), "b".into())];
        what.cwd = Some("/usr".into());
        let own = rustix_euid();
        what.user = Some(own.to_string());
        let said = run(&mut client, what).await;
        let expect = format!(
            "b:yes:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n/usr\n0022\n{own}\n"
        );
        assert_eq!(String::from_utf8(said.stdout).unwrap(), expect);

        let mut what = spec(&["true"]);
        what.cwd = Some("/no/such/directory".into());
        assert_eq!(
            run(&mut client, what).await.failed,
            Some((Code::Guest, "cannot begin in /no/such/directory".to_owned()))
        );
        let mut what = spec(&["true"]);
        what.user = Some("no\nbody".to_owned());
        assert_eq!(
            run(&mut client, what).await.failed,
            Some((Code::Invalid, "the guest has no user no\\nbody".to_owned()))
        );
    });
}

fn rustix_euid() -> u32 {
    std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/self").unwrap())
}

#[test]
fn a_command_begins_as_if_from_nothing() {
    with_agent(async |port| {
        let mut client = port.client().await;
        let said = run(
            &mut client,
            spec(&["sh", "-c", "grep -E '^Sig(Blk|Ign)' /proc/self/status; ls /proc/self/fd"]),
        )
        .await;
        // The fourth descriptor is that of the listing.
        let expect = "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n0\n1\n2\n3\n";
        assert_eq!(String::from_utf8(said.stdout).unwrap(), expect);
    });
}

#[test]
fn an_empty_command_is_a_login_shell() {
    with_agent(async |port| {
        let mut exec = port.client().await.exec(spec(&[])).await.unwrap();
        exec.send(&Frame::Stdin(Bytes::from_static(b"case $0 in -*) echo login;; esac; exit 3\n")))
            .await
            .unwrap();
        let said = listen(&mut exec).await;
        assert!(said.stdout.ends_with(b"login\n"), "{said:?}");
        assert_eq!(said.exit, Some(Exit::Code(3)));
    });
}

#[test]
fn three_megabytes_go_both_ways_unchanged() {
    with_agent(async |port| {
        let data = random(3 << 20);
        let mut exec = port.client().await.exec(spec(&["sh", "-c", "tee /dev/stderr"])).await.unwrap();
        let input = exec.input.take().unwrap();
        let pieces: Vec<Bytes> = data.chunks(MAX_DATA).map(Bytes::copy_from_slice).collect();
        tokio::task::spawn_local(async move {
            for piece in pieces {
                input.send(Frame::Stdin(piece).to_bytes()).await.unwrap();
            }
            input.send(Frame::StdinEnd.to_bytes()).await.unwrap();
            input.closed().await;
        });
        let said = listen(&mut exec).await;
        assert!(said.stdout == data && said.stderr == data, "{} {}", said.stdout.len(), said.stderr.len());
        assert_eq!(said.exit, Some(Exit::Code(0)));
    });
}

#[test]
fn all_that_the_command_wrote_arrives_though_others_hold_its_pipe() {
    with_agent(async |port| {
        let mut client = port.client().await;
        let begun = Instant::now();
        let said = run(
            &mut client,
            spec(&["sh", "-c", "sleep 1000 & echo $! >&2; head -c 1000000 /dev/zero; exit 7"]),
        )
        .await;
        assert_eq!((said.stdout.len(), said.exit), (1_000_000, Some(Exit::Code(7))));
        assert!(begun.elapsed() < Duration::from_secs(60));
        let sleeper: u32 = String::from_utf8(said.stderr).unwrap().trim().parse().unwrap();
        assert!(runs(sleeper), "what a command leaves behind is left alone");
        run(&mut client, spec(&["kill", &sleeper.to_string()])).await;
        wait_until("the sleeper's end", || !runs(sleeper)).await;
    });
}

#[test]
fn who_stays_behind_may_write_on() {
    let scratch = Scratch::new("behind");
    let done = scratch.0.join("done");
    with_agent(async |port| {
        // It waits until its parent was reported dead, writes more than a pipe holds, and tells.
        let script = format!(
            "(while [ -d /proc/$$ ]; do :; done; sleep 0.4; head -c 200000 /dev/zero && echo ok > {}) & exit 0",
            done.display()
        );
        let said = run(&mut port.client().await, spec(&["sh", "-c", &script])).await;
        assert_eq!(said.exit, Some(Exit::Code(0)));
        wait_until("the writer's end", || host::fs::read(&done).is_ok_and(|text| text == b"ok\n")).await;
    });
}

#[test]
fn a_signal_reaches_a_command_that_does_not_read() {
    with_agent(async |port| {
        let mut exec = port.client().await.exec(spec(&["sh", "-c", "sleep 1000 & wait"])).await.unwrap();
        for _ in 0..3 {
            exec.send(&Frame::Stdin(Bytes::from(vec![0; MAX_DATA]))).await.unwrap();
        }
        exec.send(&Frame::Signal(15)).await.unwrap();
        assert_eq!(listen(&mut exec).await.exit, Some(Exit::Signal(15)));
    });
}

#[test]
fn a_terminal_has_its_size_and_controls_its_command() {
    with_agent(async |port| {
        let mut client = port.client().await;
        let mut what = spec(&[
            "sh",
            "-c",
            "stty size; echo $TERM; test -t 0 && test -t 2 && ps -o tty= -p $$ >/dev/tty; exit 5",
        ]);
        what.terminal = Some(Size { rows: 33, cols: 101 });
        what.env = vec![("TERM".into(), "vt100".into())];
        let mut exec = client.exec(what).await.unwrap();
        let said = listen(&mut exec).await;
        let text = String::from_utf8(said.stdout).unwrap();
        assert!(text.starts_with("33 101\r\nvt100\r\n") && text.contains("pts/"), "{text:?}");
        assert_eq!(said.exit, Some(Exit::Code(5)));

        let mut what =
            spec(&["sh", "-c", "trap 'stty size; exit 0' WINCH; echo ready; while :; do sleep 0.05; done"]);
        what.terminal = Some(Size { rows: 10, cols: 10 });
        let mut exec = client.exec(what).await.unwrap();
        assert_eq!(first_line(&mut exec).await, "ready");
        exec.send(&Frame::Resize(Size { rows: 7, cols: 9 })).await.unwrap();
        assert_eq!(listen(&mut exec).await.stdout, b"7 9\r\n");

        // The interrupt character and the end of input are the terminal's business.
        // One process, so that the interrupt comes to it whenever it comes.
        for (script, frame, expect) in [
            ("echo ready; cat; exit 9", Frame::StdinEnd, Exit::Code(9)),
            ("echo ready; exec cat", Frame::Stdin(Bytes::from_static(b"\x03")), Exit::Signal(2)),
        ] {
            let mut what = spec(&["sh", "-c", script]);
            what.terminal = Some(Size { rows: 10, cols: 10 });
            let mut exec = client.exec(what).await.unwrap();
            assert_eq!(first_line(&mut exec).await, "ready");
            exec.send(&frame).await.unwrap();
            assert_eq!(listen(&mut exec).await.exit, Some(expect));
        }
    });
}

#[test]
fn a_client_that_goes_away_ends_its_command() {
    with_agent(async |port| {
        let mut client = port.client().await;
        // One that HUP ends, and one with a child that only KILL ends.
        for script in ["echo $$; exec sleep 1000", "trap '' HUP; sleep 1000 & echo $$ $!; wait"] {
            for terminal in [None, Some(Size { rows: 5, cols: 5 })] {
                let mut what = spec(&["sh", "-c", script]);
                what.terminal = terminal;
                let mut exec = client.exec(what).await.unwrap();
                let line = first_line(&mut exec).await;
                let pids: Vec<u32> = line.split(' ').map(|pid| pid.parse().unwrap()).collect();
                assert!(pids.iter().all(|pid| runs(*pid)));
                drop(exec);
                wait_until("the end of the group", || !pids.iter().any(|pid| runs(*pid))).await;
            }
        }
        // The others on the connection go on.
        assert_eq!(run(&mut client, spec(&["true"])).await.exit, Some(Exit::Code(0)));
    });
}

#[test]
fn a_client_that_stops_reading_stops_the_command_not_the_agent() {
    with_agent(async |port| {
        let mut client = port.client().await;
        let stalled = client.exec(spec(&["cat", "/dev/zero"])).await.unwrap();
        for _ in 0..20 {
            assert_eq!(run(&mut client, spec(&["true"])).await.exit, Some(Exit::Code(0)));
        }
        drop(stalled);
        assert_eq!(run(&mut client, spec(&["true"])).await.exit, Some(Exit::Code(0)));
    });
}

#[test]
fn what_is_no_command_is_refused() {
    with_agent(async |port| {
        let mut client = port.client().await;
        for bytes in [&Frame::StdinEnd.to_bytes()[..], b"\xff\xff\xff\xff\xff", b"\0\0\0\0\x02{}x", b""] {
            let (status, answer) = client.call("POST", "/v1/exec", bytes).await.unwrap();
            assert_eq!(status, 200);
            let mut decoder = wire::exec::Decoder::default();
            decoder.push(&answer);
            match decoder.next_frame().unwrap() {
                // `{}` alone is a login shell that gets no input.
                Some(Frame::Failed(error)) => assert_eq!(error.code, Code::Invalid),
                other => assert!(matches!(other, Some(Frame::Started(_))), "{other:?}"),
            }
        }
    });
}
