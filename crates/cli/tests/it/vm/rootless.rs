//! banger without root: an ordinary user has all of it, networks of machines included, and where the kernel lets that user make no
//! namespaces the machine has QEMU's own network, on request.

use std::{net::TcpListener, process::Command};

use testkit::{home::Home, need};

use super::{
    create,
    network::{HOST, SERVER, World, fetch, guest, inside_of, serve},
};

/// Nobody in particular.
const USER: u32 = 61_234;
/// Set for the part of a test whose user makes no namespaces.
const REFUSED: &str = "BANGER_TEST_NO_NAMESPACES";

#[test]
fn an_ordinary_user_has_machines_with_a_network() {
    // Where tests are not root all of them show it.
    if host::proc::own_uid() != 0 || !inside_of("vm::rootless::an_ordinary_user_has_machines_with_a_network")
    {
        return;
    }
    let Some(home) = Home::of(env!("CARGO_BIN_EXE_banger"), USER) else { return };
    // As distributions have it: there for everybody, who makes taps only where that one is master.
    let tun = home.path().join("tun");
    for words in ["mknod TUN c 10 200", "chmod 666 TUN", "mount --bind TUN /dev/net/tun"] {
        let words = words.replace("TUN", &tun.to_string_lossy());
        let mut words = words.split(' ');
        if !Command::new(words.next().unwrap()).args(words).status().is_ok_and(|status| status.success()) {
            return need::missing("tun", "no right to make the device of taps").unwrap_or_default();
        }
    }
    let world = World::new();
    serve(world.within(|| TcpListener::bind((SERVER, 80)).unwrap()));
    let _ = home.ok(&[&create("dev")[..], &["--nat"]].concat());
    assert_eq!(fetch(&home, SERVER), format!("hello {HOST}"));
    for (pid, line) in home.processes() {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let uids = status.lines().find(|line| line.starts_with("Uid:")).unwrap();
        assert!(uids.split_whitespace().skip(1).all(|uid| uid == USER.to_string()), "{line}: {uids}");
    }
    let _ = home.ok(&["vm", "set", "dev", "--no-nat"]);
    assert_eq!(fetch(&home, SERVER), "");
    let _ = home.ok(&["vm", "stop", "dev"]);
    let _ = home.ok(&["vm", "start", "dev"]);
    assert_eq!(guest(&home, "echo on"), "on");
}

/// As the unit of an installed daemon has it.
#[test]
fn where_no_new_rights_can_be_had_a_build_is_refused_with_what_to_do() {
    if host::proc::own_uid() != 0 {
        return;
    }
    let Some(home) = Home::of(env!("CARGO_BIN_EXE_banger"), USER) else { return };
    let plain = home.command(&["daemon", "start"]);
    let mut held = Command::new("setpriv");
    held.args(["--reuid", &USER.to_string(), "--clear-groups", "--no-new-privs"]).arg(plain.get_program());
    held.args(plain.get_args()).envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
    assert!(held.status().unwrap().success());
    let built = home.run(&["image", "build", "debian-bookworm"]);
    assert_eq!(built.code(), 1, "{}", built.stderr);
    assert!(
        built.stderr.contains("cannot use newuidmap") && built.stderr.contains("hint: banger image pull"),
        "{}",
        built.stderr
    );
}

/// Runs test `name` again where its user may make no namespaces; `true` where this already is that.
fn refused(name: &str) -> bool {
    if std::env::var_os(REFUSED).is_some() {
        return true;
    }
    if need::namespaces().is_none() || need::qemu().is_none() {
        return false;
    }
    // A kernel and an image, which come from outside.
    drop(super::home());
    let own = std::env::current_exe().unwrap();
    let script = "echo 0 > /proc/sys/user/max_user_namespaces && exec \"$0\" --exact --nocapture \"$1\"";
    let mut unshare = Command::new("unshare");
    unshare
        .args(["--user", "--map-root-user", "sh", "-c", script])
        .arg(own)
        .arg(format!("vm::rootless::{name}"));
    let status = unshare.env(REFUSED, "1").status().unwrap();
    assert!(status.success(), "{name}: {status}");
    false
}

#[test]
fn where_namespaces_are_refused_a_machine_has_qemus_own_network_on_request() {
    if !refused("where_namespaces_are_refused_a_machine_has_qemus_own_network_on_request") {
        return;
    }
    let Some(home) = super::home() else { return };
    let doctor = home.run(&["doctor", "-o", "json"]).json();
    let row = doctor.as_array().unwrap().iter().find(|row| row["name"] == "network").unwrap().clone();
    assert_eq!(
        (&row["verdict"], &row["hint"]),
        (&"warn".into(), &"sudo sysctl -w user.max_user_namespaces=10000".into())
    );

    // Never by itself: what listens on this host is within reach of it.
    let plain = home.run(&[&create("dev")[..], &["--nat"]].concat());
    assert_eq!(plain.code(), 1, "{}", plain.stderr);
    assert!(plain.stderr.contains("--allow-host-loopback"), "{}", plain.stderr);
    // Nor under a VMM that has no such network.
    let Some(other) = super::home() else { return };
    let firecracker = super::firecracker::program(&other, "1.12.1");
    let believed = other
        .with_env("BANGER_FIRECRACKER_BIN", firecracker.to_str().unwrap())
        .with_env("BANGER_ACCELERATOR", "kvm");
    let allowed = [&create("dev")[..], &["--nat", "--allow-host-loopback", "--no-start"]].concat();
    let refused = believed.run(&[&allowed[..], &["--vmm", "firecracker"]].concat());
    assert!(refused.stderr.contains("only QEMU has a network of its own"), "{}", refused.stderr);
    let _ = believed.ok(&allowed);
    assert_eq!(believed.vm("dev")["vmm"], "qemu", "where nobody named one");
    assert_eq!(home.ok(&["vm", "list", "-q"]), "");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    serve(listener);
    let _ = home.ok(&[&create("dev")[..], &["--nat", "--allow-host-loopback"]].concat());
    let gateway = guest(&home, "busybox ip route | busybox sed -n 's/^default via \\([^ ]*\\).*/\\1/p'");
    assert_eq!(fetch(&home, &format!("{gateway}:{port}")), "hello 127.0.0.1");

    // It cannot be taken away from a machine that runs; off is no card at all.
    let set = home.run(&["vm", "set", "dev", "--no-nat"]);
    assert_eq!(set.code(), 1, "{}", set.stderr);
    assert!(set.stderr.contains("hint: banger vm stop dev"), "{}", set.stderr);
    for words in [&["vm", "stop", "dev"][..], &["vm", "set", "dev", "--no-nat"], &["vm", "start", "dev"]] {
        let _ = home.ok(words);
    }
    assert_eq!(guest(&home, "ls /sys/class/net"), "lo");
}
