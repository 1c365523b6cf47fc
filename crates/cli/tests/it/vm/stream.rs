//! Exit codes and streams, byte for byte, and terminals.

use std::{
    io::{Read, Write},
    process::{Command, Stdio},
};

use testkit::home::{finish, wait_until};

use super::{create, home, run_rm};
use crate::banger::DEADLINE;

/// Bytes that are no text and compress badly, the same at every run (an xorshift generator).
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    std::iter::repeat_with(|| next().to_le_bytes()).flatten().take(length).collect()
}

#[test]
fn run_exits_as_its_command_and_keeps_its_streams_apart() {
    let Some(home) = home() else { return };
    let output = home.run(&run_rm(&["sh", "-c", "echo out; echo err >&2; exit 42"]));
    assert_eq!((output.code(), output.text().as_str(), output.stderr.as_str()), (42, "out", "err\n"));
    assert_eq!(home.ok(&["vm", "list", "-q"]), "", "--rm leaves no VM");
}

#[test]
fn a_vm_takes_one_command_after_another() {
    let Some(home) = home() else { return };
    assert_eq!(home.ok(&create("dev")), "dev");

    let random = noise(3 << 20);
    let output = home.run_with(&["vm", "exec", "dev", "--", "cat"], &random);
    assert!(output.status.success() && output.stdout == random, "3 MiB there and back");
    let script = "cat >&2; echo end";
    let both = home.run_with(&["vm", "exec", "dev", "--", "sh", "-c", script], b"\xff\x00err");
    assert_eq!((both.text().as_str(), both.stderr.as_bytes()), ("end", "\u{fffd}\0err".as_bytes()));

    for (command, code) in [
        (&["true"][..], 0),
        (&["false"], 1),
        (&["sh", "-c", "exit 255"], 255),
        (&["sh", "-c", "kill -9 $$"], 137),
        (&["sh", "-c", "kill -TERM $$"], 143),
        (&["/etc/passwd"], 126),
        (&["no-such-program"], 127),
    ] {
        let words = [&["vm", "exec", "dev", "--"], command].concat();
        assert_eq!(home.run(&words).code(), code, "{command:?}");
    }

    // Words are an argv, never split again.
    let words =
        ["vm", "exec", "dev", "--", "sh", "-c", "printf '%s|' \"$@\"", "sh", "a b", "", "$HOME;*", "-x"];
    assert_eq!(home.ok(&words), "a b||$HOME;*|-x|");
    let env =
        ["vm", "exec", "dev", "--env", "A=x=y z", "--cwd", "/etc", "--", "sh", "-c", "echo \"$A\" in $(pwd)"];
    assert_eq!(home.ok(&env), "x=y z in /etc");
    assert_eq!(home.ok(&["vm", "exec", "dev", "--user", "user", "--", "id", "-u"]), "1000");
    assert_eq!(home.ok(&["vm", "exec", "dev", "--", "hostname"]), "dev");
}

#[test]
fn commands_side_by_side_do_not_wait_for_each_other() {
    let Some(home) = home() else { return };
    let _ = home.ok(&create("dev"));
    // The first one waits for input that comes only after the second one is through.
    let mut waiting = home.command(&["vm", "exec", "dev", "--", "cat"]);
    let mut waiting = waiting.stdin(Stdio::piped()).spawn().unwrap();
    assert_eq!(home.ok(&["vm", "exec", "dev", "--", "echo", "second"]), "second");
    waiting.stdin.as_mut().unwrap().write_all(b"first").unwrap();
    drop(waiting.stdin.take());
    assert_eq!(finish(waiting, b"", DEADLINE, &["cat"]).text(), "first");
    // One whose output nobody reads holds up nobody.
    let mut flood = home.command(&["vm", "exec", "dev", "--", "cat", "/dev/zero"]).spawn().unwrap();
    flood.stdout.as_mut().unwrap().read_exact(&mut [0; 4096]).unwrap();
    assert_eq!(home.ok(&["vm", "exec", "dev", "--", "echo", "third"]), "third");
    flood.kill().unwrap();
    flood.wait().unwrap();
    wait_until(DEADLINE, "the command of a client that went is hung up", || {
        !home.ok(&["vm", "exec", "dev", "--", "ps"]).contains("cat /dev/zero")
    });
}

#[test]
fn a_shell_has_a_real_terminal() {
    let Some(home) = home() else { return };
    let _ = home.ok(&create("dev"));
    let line = "stty rows 41 cols 97; banger vm exec -t dev -- sh";
    #[expect(
        clippy::disallowed_methods,
        reason = "`script` gives the program a terminal, as a user's shell does"
    )]
    let mut script = Command::new("script")
        .args(["--quiet", "--return", "--echo", "never", "--command", line, "/dev/null"])
        .env("BANGER_HOME", home.path())
        .env("PATH", format!("{}:/usr/bin:/bin", home.programs().display()))
        .env("SHELL", "/bin/sh")
        .env("TERM", "xterm")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The shell is there when it has answered; before that, what is typed would meet the outer terminal.
    let mut typed = script.stdin.take().unwrap();
    let mut shown = script.stdout.take().unwrap();
    let mut seen = String::new();
    let mut until = |typed: &mut std::process::ChildStdin, text: &str, expect: &str| {
        typed.write_all(text.as_bytes()).unwrap();
        let mut buffer = [0; 4096];
        while !seen.contains(expect) {
            let count = shown.read(&mut buffer).unwrap();
            assert!(count > 0, "the terminal closed before {expect:?}: {seen}");
            seen.push_str(&String::from_utf8_lossy(&buffer[..count]));
        }
        seen.clear();
    };
    until(&mut typed, "echo ready-$((40 + 2))\r", "ready-42");
    until(&mut typed, "tty; stty size\r", "41 97");
    // Ctrl-C ends the command in the guest, not the session.
    until(&mut typed, "echo wait-$((1 + 1)); sleep 1000\r", "wait-2");
    until(&mut typed, "\x03", "^C");
    until(&mut typed, "echo after-$((1 + 2))\r", "after-3");
    typed.write_all(b"exit 7\r").unwrap();
    let ended = finish(script, b"", DEADLINE, &["script"]);
    assert_eq!(ended.code(), 7, "{}", ended.stderr);
}

#[test]
fn a_port_of_a_guest_is_forwarded() {
    let Some(home) = home() else { return };
    let _ = home.ok(&create("dev"));
    let serve = "busybox nc -ll -p 77 -e cat >/dev/null 2>&1 </dev/null &";
    let _ = home.ok(&["vm", "exec", "dev", "--", "sh", "-c", serve]);
    wait_until(DEADLINE, "it listens", || home.ok(&["vm", "ports", "dev"]).contains("  77  "));
    // Only the guest itself reaches this one.
    let _ = home.ok(&["vm", "exec", "dev", "--", "busybox", "httpd", "-p", "127.0.0.1:79", "-h", "/etc"]);
    let listening = home.ok(&["vm", "ports", "dev"]);
    let row = listening.lines().find(|row| row.contains("  79  ")).expect("it listens");
    assert!(row.contains("127.0.0.1"), "{row}");
    let mut forward = home.command(&["vm", "forward", "dev", "0:77", "0:78", "0:79"]).spawn().unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(forward.stdout.take().unwrap()));
    let mut address = || lines.next().unwrap().unwrap().split(' ').next().unwrap().to_owned();
    let (open, closed, own) = (address(), address(), address());
    let mut page = std::net::TcpStream::connect(&own).unwrap();
    page.write_all(b"GET /hostname HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    page.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("dev\n"), "{answer}");

    // Both directions, the end of each by itself, and two at once.
    let random = noise(1 << 20);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut stream = std::net::TcpStream::connect(&open).unwrap();
                let mut reader = stream.try_clone().unwrap();
                let back = std::thread::spawn(move || {
                    let mut back = Vec::new();
                    reader.read_to_end(&mut back).unwrap();
                    back
                });
                stream.write_all(&random).unwrap();
                stream.shutdown(std::net::Shutdown::Write).unwrap();
                assert!(back.join().unwrap() == random, "1 MiB there and back");
            });
        }
    });
    // Where nobody listens the connection ends, and the forward goes on.
    let mut nobody = std::net::TcpStream::connect(&closed).unwrap();
    assert_eq!(nobody.read(&mut [0]).unwrap_or(0), 0);
    assert_eq!(home.ok(&["vm", "ping", "dev"]), home.ok(&["vm", "health", "dev"]));
    let health = home.run(&["vm", "health", "dev", "-o", "json"]).json();
    assert_eq!(health["init"], "agent", "{health}");

    let _ = home.ok(&["vm", "stop", "dev"]);
    let output = finish(forward, b"", DEADLINE, &["vm", "forward"]);
    assert_eq!(output.code(), 5, "it ends with its machine: {}", output.stderr);
    assert!(output.stderr.contains("port 78"), "{}", output.stderr);
}

#[test]
fn what_happens_is_told_as_it_happens() {
    let Some(home) = home() else { return };
    let _ = home.run(&["daemon", "start"]);
    let mut listener = home.command(&["events", "-o", "json"]).spawn().unwrap();
    let lines = std::io::BufRead::lines(std::io::BufReader::new(listener.stdout.take().unwrap()));
    let (sender, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| sender.send(line)));
    // That it listens shows when it is told of something.
    while told.try_recv().is_err() {
        let _ = home.ok(&[&create("first")[..], &["--no-start"]].concat());
        let _ = home.ok(&["vm", "delete", "first"]);
    }
    let mut seen: Vec<(String, String)> = Vec::new();
    let _ = home.ok(&create("dev"));
    let _ = home.ok(&["vm", "stop", "dev"]);
    while seen.last().is_none_or(|last| last != &("dev".to_owned(), "stopped".to_owned())) {
        let line = told.recv_timeout(DEADLINE).expect("more will come");
        let happening: serde_json::Value = serde_json::from_str(&line).unwrap();
        let text = |key: &str| happening[key].as_str().unwrap_or_default().to_owned();
        if text("what").starts_with("vm") {
            seen.push((text("name"), text("state")));
        }
    }
    listener.kill().unwrap();
    listener.wait().unwrap();
    let dev: Vec<_> =
        seen.iter().filter(|(name, _)| name == "dev").map(|(_, state)| state.as_str()).collect();
    assert_eq!(dev, ["created", "starting", "running", "stopping", "stopped"]);
    assert!(home.ok(&["logs"]).contains("vm.create dev"), "the daemon's log");
}

#[test]
fn a_log_is_followed_until_its_vm_stops() {
    let Some(home) = home() else { return };
    let _ = home.ok(&create("dev"));
    let mut follower = home.command(&["vm", "logs", "-f", "dev"]).spawn().unwrap();
    let mut seen = std::io::BufReader::new(follower.stdout.take().unwrap());
    let mut read_to = |mark: &str| {
        let mut line = Vec::new();
        while !String::from_utf8_lossy(&line).contains(mark) {
            line.clear();
            let count = std::io::BufRead::read_until(&mut seen, b'\n', &mut line).unwrap();
            assert!(count > 0, "the log ended before {mark}");
        }
    };
    for mark in ["first", "second"] {
        let say = format!("echo {mark} mark >/dev/console; echo '<3>banger: {mark} word' >/dev/kmsg");
        let _ = home.ok(&["vm", "exec", "dev", "--", "sh", "-c", &say]);
        read_to(&format!("{mark} mark"));
    }
    let _ = home.ok(&["vm", "stop", "dev"]);
    let mut rest = Vec::new();
    seen.read_to_end(&mut rest).unwrap();
    assert!(follower.wait().unwrap().success());

    let since = |time: &str| home.ok(&["vm", "logs", "dev", "--since", time]);
    assert_eq!(since("2000-01-01T00:00:00Z"), home.ok(&["vm", "logs", "dev"]));
    assert_eq!(since("2900-01-01T00:00:00Z"), "");
    assert_eq!(home.run(&["vm", "logs", "dev", "--since", "5m", "--source", "vmm"]).code(), 2);
    assert_eq!(home.run(&["vm", "logs", "dev", "--since", "yesterday"]).code(), 2);
    let agents = home.ok(&["vm", "logs", "dev", "--source", "agent"]);
    assert!(agents.contains("banger: first word") && agents.contains("banger: second word"), "{agents}");
    assert!(!agents.contains("mark"), "{agents}");
    assert!(home.run(&["vm", "logs", "-f", "dev"]).text().contains("second mark"), "it ends at once");
}
