//! A child in namespaces of its own, and one that enters them: what each may do there.

use std::{fs::File, io::Write, net::Ipv4Addr, os::fd::OwnedFd, path::PathBuf, time::Duration};

use host::{
    net::Device,
    proc::{Command, Exit, Namespaces, Program, Signal},
};

const DEADLINE: Duration = Duration::from_secs(20);

/// A shell that runs `script`, standing in for a machine.
fn shell(script: &str) -> Command {
    Command::new(Program::Qemu(PathBuf::from("/bin/sh"))).arg("-c").arg(script)
}

fn tap() -> Device {
    Device::new("tap0", Ipv4Addr::new(172, 30, 0, 1), 24, 9000).unwrap().with_mac([2, 0, 0, 0, 0, 1])
}

fn said(command: Command) -> String {
    let output = command.output(1 << 16, DEADLINE).unwrap();
    assert_eq!(output.exit, Exit::Code(0), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_machine_is_alone_with_its_tap_and_without_privilege() {
    if testkit::need::namespaces().is_none() {
        return;
    }
    let mut command = shell("cat /proc/self/status /proc/net/dev; ls /proc/self/fd");
    let number = command.with_tap(tap()).unwrap();
    let text = said(command);
    for line in [
        "CapPrm:\t0000000000000000",
        "CapEff:\t0000000000000000",
        "CapBnd:\t0000000000000000",
        "CapAmb:\t0000000000000000",
        "NoNewPrivs:\t1",
        &number.to_string(),
    ] {
        assert!(text.lines().any(|found| found == line), "{line} in {text}");
    }
    let has = |device: &str| text.lines().any(|line| line.trim_start().starts_with(device));
    assert!(has("lo:") && has("tap0:") && !has("eth"), "{text}");
}

#[test]
fn who_enters_may_change_the_network_there() {
    if testkit::need::namespaces().is_none() {
        return;
    }
    let mut command = shell("exec tail -f /dev/null");
    let _ = command.with_tap(tap()).unwrap();
    let gated = command.gated().unwrap();
    let inside = |command: Command| command.inside(Namespaces::of(gated.id()).unwrap().expect("it waits"));
    let (script, mut writer) = std::io::pipe().unwrap();
    writer.write_all(b"table inet t {\n}\n").unwrap();
    drop(writer);
    let nft = Command::new(Program::Nft).args(["-f", "-"]).stdin(File::from(OwnedFd::from(script)));
    assert_eq!(said(inside(nft)), "");
    assert!(said(inside(Command::new(Program::Nft).args(["list", "tables"]))).contains("inet t"));
    let text = said(inside(shell("cat /proc/self/status /proc/net/dev /proc/sys/net/ipv4/ip_forward")));
    assert!(text.contains("tap0:") && text.ends_with("\n1\n"), "{text}");
    if host::proc::own_uid() != 0 {
        assert!(text.contains("CapEff:\t0000000000001000"), "{text}");
    }
    // The machine itself may not, once it runs.
    let id = gated.id().clone();
    let process = gated.release().unwrap();
    assert!(Namespaces::of(&id).unwrap().is_some(), "they are there as long as it runs");
    process.signal(Signal::Kill).unwrap();
    assert!(process.wait_exit(DEADLINE).unwrap());
    assert!(Namespaces::of(&id).unwrap().is_none());
    process.reap().unwrap();
}

#[test]
fn a_machine_cannot_change_its_own_rules() {
    if testkit::need::namespaces().is_none() {
        return;
    }
    let mut command = shell(
        "PATH=/usr/sbin:/sbin:$PATH nft add table inet t 2>&1 && exit 3; ip link set tap0 down 2>&1 && exit 4; exit 0",
    );
    let _ = command.with_tap(tap()).unwrap();
    let text = said(command);
    assert!(text.contains("Operation not permitted"), "{text}");
}

#[test]
fn the_rules_of_a_vm_are_what_nft_reads_and_applied_twice_are_the_same() {
    use model::network::{Card, Mac, Nat, Rules, Subnet};
    if testkit::need::namespaces().is_none() {
        return;
    }
    let card = Card::in_namespace(Mac([2, 0, 0, 0, 0, 9]));
    let closed =
        [Subnet::single(Ipv4Addr::new(192, 0, 2, 1)), Subnet::of(Ipv4Addr::new(192, 168, 122, 0), 24)];
    let mut command = shell("exec tail -f /dev/null");
    let _ = command.with_tap(tap()).unwrap();
    let gated = command.gated().unwrap();
    let inside = |command: Command| command.inside(Namespaces::of(gated.id()).unwrap().expect("it waits"));
    let apply = |nat| {
        let script = Rules { card: &card, nat, closed: &closed }.script();
        let (reader, mut writer) = std::io::pipe().unwrap();
        writer.write_all(script.as_bytes()).unwrap();
        drop(writer);
        let nft = Command::new(Program::Nft).args(["-f", "-"]).stdin(File::from(OwnedFd::from(reader)));
        assert_eq!(said(inside(nft)), "");
        said(inside(Command::new(Program::Nft).args(["-s", "list", "ruleset"])))
    };
    let on = apply(Nat::On);
    assert!(on.contains("192.168.122.0/24") && on.contains("masquerade"), "{on}");
    assert_eq!(apply(Nat::On), on);
    let off = apply(Nat::Off);
    assert!(!off.contains("masquerade"), "{off}");
    assert_eq!(apply(Nat::On), on);
}
