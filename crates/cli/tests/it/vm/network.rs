//! A guest's network in user mode, in a network namespace of the test's own: nothing here touches the host's.
//!
//! ```text
//! guest ── its VMM's namespace ── pasta ── "host": where this test, the daemon and a resolv.conf are ── veth ── "world": servers
//! ```

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, UdpSocket},
    os::fd::AsFd,
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
    sync::mpsc,
    time::Duration,
};

use testkit::{
    home::{Home, wait_until},
    need,
};

use super::create;

const SOON: Duration = Duration::from_secs(60);
/// What is in the world, beyond the host's own network.
pub const SERVER: &str = "198.51.100.7";
/// The host's own address, and the server that is next to it.
pub const HOST: &str = "192.0.2.1";
/// Set for the part of a test that runs in its own namespaces.
const INSIDE: &str = "BANGER_TEST_NETWORK";

/// Runs test `name` again in network and mount namespaces of its own; `false` where this already is that.
fn inside(name: &str) -> bool {
    inside_of(&format!("vm::network::{name}"))
}

/// The same for the test that is `test` in this program.
pub fn inside_of(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    if need::namespaces().is_none() || need::qemu().is_none() || need::program("namespaces", "ip").is_none() {
        return false;
    }
    // A kernel and an image, which come from outside.
    drop(super::home());
    let mut unshare = Command::new("unshare");
    unshare.args(["--net", "--mount"]);
    if host::proc::own_uid() != 0 {
        unshare.args(["--user", "--map-root-user"]);
    }
    let own = std::env::current_exe().unwrap();
    let status = unshare.arg(own).args(["--exact", "--nocapture", test]).env(INSIDE, "1").status().unwrap();
    assert!(status.success(), "{test}: {status}");
    false
}

pub fn ip(words: &str) {
    let status = Command::new("ip").args(words.split(' ')).status().unwrap();
    assert!(status.success(), "ip {words}");
}

/// A network namespace with servers in it, as long as this lives.
pub struct World {
    holder: Child,
    /// `tail` ends by itself once nobody reads what it writes.
    _said: BufReader<ChildStdout>,
}

impl World {
    pub fn new() -> Self {
        let mut holder = Command::new("unshare")
            .args(["--net", "sh", "-c", "echo; exec tail -f /dev/null"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(holder.stdout.take().unwrap());
        said.read_line(&mut String::new()).unwrap();
        let world = Self { holder, _said: said };
        ip("link set lo up");
        ip(&format!("link add h0 type veth peer name w0 netns {}", world.holder.id()));
        ip(&format!("addr add {HOST}/24 dev h0"));
        ip("link set h0 up");
        for words in [
            "link set lo up",
            "addr add 192.0.2.2/24 dev w0",
            "link set w0 up",
            &format!("addr add {SERVER}/32 dev lo"),
        ] {
            let words = words.to_owned();
            world.within(move || ip(&words));
        }
        ip("route add default via 192.0.2.2");
        world
    }

    /// Runs `work` in there.
    pub fn within<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let net = fs::File::open(format!("/proc/{}/ns/net", self.holder.id())).unwrap();
        let thread = std::thread::spawn(move || {
            rustix::thread::move_into_link_name_space(net.as_fd(), None).unwrap();
            work()
        });
        thread.join().unwrap()
    }

    /// dnsmasq at port 5353 there, which says of `some.example` that it is 203.0.113.9.
    pub fn dnsmasq(&self) -> Running {
        let words = "--keep-in-foreground --conf-file=/dev/null --no-hosts --no-resolv --user=root --pid-file --port=5353 \
                     --address=/some.example/203.0.113.9";
        Running(self.within(move || Command::new("dnsmasq").args(words.split_whitespace()).spawn().unwrap()))
    }

    /// A resolver there, which says of every name that it is [`SERVER`], and the host's resolv.conf that names it.
    pub fn resolver(&self, home: &Path) {
        let socket = self.within(|| UdpSocket::bind((SERVER, 53)).unwrap());
        std::thread::spawn(move || {
            let mut buffer = [0; 512];
            while let Ok((length, who)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(&answer(&buffer[..length]), who);
            }
        });
        let file = home.join("resolv.conf");
        fs::write(&file, format!("nameserver {SERVER}\n")).unwrap();
        let status = Command::new("mount").arg("--bind").arg(&file).arg("/etc/resolv.conf").status().unwrap();
        assert!(status.success());
    }
}

/// A program of the world's, as long as this lives.
pub struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// The answer to a question about one name: one address, or none of the other kind.
fn answer(question: &[u8]) -> Vec<u8> {
    let end = 12 + question[12..].iter().position(|byte| *byte == 0).unwrap() + 5;
    let is_a = question[end - 4..end - 2] == [0, 1];
    let mut out = question[..end].to_vec();
    out[2..4].copy_from_slice(&[0x81, 0x80]);
    out[6..12].copy_from_slice(&[0, u8::from(is_a), 0, 0, 0, 0]);
    if is_a {
        out.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        out.extend(SERVER.parse::<std::net::Ipv4Addr>().unwrap().octets());
    }
    out
}

/// A server that tells who came.
pub fn serve(listener: TcpListener) {
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = writeln!(stream, "hello {}", stream.peer_addr().unwrap().ip());
        }
    });
}

/// What a command in the guest prints; nothing where it fails.
pub fn guest(home: &Home, script: &str) -> String {
    within(home, "dev", script)
}

/// The same in VM `vm`.
pub fn within(home: &Home, vm: &str, script: &str) -> String {
    home.run(&["vm", "exec", vm, "--", "sh", "-c", script]).text()
}

/// What the server at `place` says to the guest; nothing where it cannot be reached.
pub fn fetch(home: &Home, place: &str) -> String {
    fetch_in(home, "dev", place)
}

/// The same in VM `vm`.
pub fn fetch_in(home: &Home, vm: &str, place: &str) -> String {
    let (host, port) = place.split_once(':').unwrap_or((place, "80"));
    // Its input stays open, so that the server is the one who closes.
    let pipe = "[ -p /tmp/open ] || busybox mkfifo /tmp/open";
    within(
        home,
        vm,
        &format!("{pipe}; busybox timeout 8 busybox nc -w 4 {host} {port} 2>/dev/null <>/tmp/open"),
    )
}

/// The addresses that the guest's resolver has for a name.
fn lookup(home: &Home) -> String {
    guest(home, "busybox nslookup some.example 2>&1 | grep 198.51")
}

pub fn listing(program: &str, words: &[&str]) -> String {
    String::from_utf8(Command::new(program).args(words).output().unwrap().stdout).unwrap()
}

/// What `nft` says in the namespace of process `pid`.
fn nft(pid: i64, words: &str) -> String {
    let pid = pid.to_string();
    let enter = ["-t", &pid, "--user", "--net", "--preserve-credentials", "nft"];
    let output = Command::new("nsenter").args(enter).args(words.split(' ')).output().unwrap();
    assert!(output.status.success(), "nft {words}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// How many packets met the rule with that `comment`, of what nft lists.
pub fn packets(listed: &str, comment: &str) -> u64 {
    let comment = format!("\"{comment}\"");
    let line = listed.lines().find(|line| line.contains(&comment)).unwrap();
    line.split("packets ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap()
}

fn companion(home: &Home) -> Option<i32> {
    home.processes().into_iter().find_map(|(pid, line)| line.starts_with("/usr/bin/pasta").then_some(pid))
}

#[test]
fn a_guest_reaches_the_world_with_nat_and_nothing_without() {
    if !inside("a_guest_reaches_the_world_with_nat_and_nothing_without") {
        return;
    }
    let Some(home) = super::home() else { return };
    let world = World::new();
    world.resolver(home.path());
    serve(world.within(|| TcpListener::bind((SERVER, 80)).unwrap()));
    let held = world.within(|| TcpListener::bind((SERVER, 7000)).unwrap());
    for place in [format!("{HOST}:8080"), "127.0.0.1:8081".to_owned(), "0.0.0.0:8082".to_owned()] {
        serve(TcpListener::bind(place).unwrap());
    }
    let links = listing("ip", &["-o", "-4", "addr"]);
    assert_eq!(listing("nft", &["list", "ruleset"]), "");

    let _ = home.ok(&[&create("dev")[..], &["--nat"]].concat());
    let vm = home.vm("dev");
    assert_eq!((vm["nat"].as_bool(), vm["network"]["mode"].as_str()), (Some(true), Some("user")), "{vm}");
    let pid = vm["pid"].as_i64().unwrap();

    // The world, as the host; names through the host's resolver; and one that is not there.
    assert_eq!(fetch(&home, SERVER), format!("hello {HOST}"));
    assert_eq!(lookup(&home), format!("Address: {SERVER}"));
    assert_eq!(
        guest(&home, "cat /etc/resolv.conf"),
        "# Written by banger at every start.\nnameserver 172.30.0.1"
    );
    assert!(
        guest(&home, "busybox ping -c 1 -W 5 172.30.0.1").contains("1 packets received"),
        "the gateway answers"
    );
    // Nothing of the host, by any of its addresses or of its namespace's.
    for place in [
        format!("{HOST}:8080"),
        "172.30.0.1:8081".to_owned(),
        "198.18.0.1:8081".to_owned(),
        "198.18.0.1:8082".to_owned(),
        "198.18.0.2:8082".to_owned(),
        format!("{HOST}:8082"),
        "169.254.169.254".to_owned(),
    ] {
        assert_eq!(fetch(&home, &place), "", "{place}");
    }

    // A flow that was there before NAT went off.
    let (opened, established) = mpsc::channel();
    let (closed, cut) = mpsc::channel();
    std::thread::spawn(move || {
        let (mut stream, _) = held.accept().unwrap();
        let mut byte = [0];
        stream.read_exact(&mut [0; 2]).unwrap();
        opened.send(()).unwrap();
        closed.send(stream.read(&mut byte).unwrap_or(0)).unwrap();
    });
    let flow = home.command(&[
        "vm",
        "exec",
        "dev",
        "--",
        "sh",
        "-c",
        &format!("(echo x; exec busybox sleep 600) | busybox nc {SERVER} 7000"),
    ]);
    let mut flow = testkit::home::spawn_apart(flow);
    established.recv_timeout(SOON).unwrap();
    let _ = home.ok(&["vm", "set", "dev", "--no-nat"]);
    assert_eq!(cut.recv_timeout(SOON).unwrap(), 0, "the flow was cut");
    let _ = flow.kill();
    let _ = flow.wait();
    assert_eq!(fetch(&home, SERVER), "");
    assert_eq!(lookup(&home), "");
    assert_eq!(companion(&home), None, "nobody is there who could forward it");
    assert_eq!(home.vm("dev")["nat"], false);
    assert!(!nft(pid, "list ruleset").contains("masquerade"));

    // On again, as it runs; and it is still on for a daemon that finds it again.
    let _ = home.ok(&["vm", "set", "dev", "--nat"]);
    assert_eq!(fetch(&home, SERVER), format!("hello {HOST}"));
    let before = companion(&home).unwrap();
    home.kill_9(home.daemon_pid());
    assert_eq!(fetch(&home, SERVER), format!("hello {HOST}"));
    assert_eq!(companion(&home), Some(before), "it was found again");

    // A companion that dies is replaced, and the guest notices no more than that its flows end.
    home.kill_9(before);
    wait_until(SOON, "there is another one", || {
        companion(&home).is_some_and(|pid| pid != before) && home.vm("dev")["network"]["trouble"].is_null()
    });
    assert_eq!(fetch(&home, SERVER), format!("hello {HOST}"));

    // An address that the host gets later is closed as well.
    ip("addr add 203.0.113.5/32 dev lo");
    wait_until(SOON, "the rules know it", || nft(pid, "list set inet banger closed").contains("203.0.113.5"));
    assert_eq!(fetch(&home, "203.0.113.5:8082"), "");
    ip("addr del 203.0.113.5/32 dev lo");

    // It is the VM's own for as long as there is one.
    let _ = home.ok(&["vm", "stop", "dev"]);
    assert_eq!(companion(&home), None);
    let _ = home.ok(&["vm", "start", "dev"]);
    assert_eq!(fetch(&home, SERVER), format!("hello {HOST}"));
    let _ = home.ok(&["vm", "delete", "dev"]);
    assert_eq!(companion(&home), None);
    assert_eq!(listing("ip", &["-o", "-4", "addr"]), links, "the host's links are what they were");
    assert_eq!(listing("nft", &["list", "ruleset"]), "", "and its rules");
}

/// Frames that are not the card's own go no further than the tap.
#[test]
fn a_guest_cannot_pretend_to_be_another() {
    if !inside("a_guest_cannot_pretend_to_be_another") {
        return;
    }
    let Some(home) = super::home() else { return };
    let _world = World::new();
    let _ = home.ok(&[&create("dev")[..], &["--nat"]].concat());
    let pid = home.vm("dev")["pid"].as_i64().unwrap();
    // Behind banger's own chain: what it dropped never comes here.
    for words in [
        "add table netdev probe",
        "add chain netdev probe seen { type filter hook ingress device tap0 priority 100; }",
        "add rule netdev probe seen ether type arp counter comment \"arp\"",
        "add rule netdev probe seen ether type arp arp saddr ip != 172.30.0.2 counter comment \"spoofed-arp\"",
        "add rule netdev probe seen ip saddr 172.30.0.2 counter comment \"own\"",
        "add rule netdev probe seen ether type ip ip saddr != 172.30.0.2 counter comment \"spoofed-ip\"",
        "add rule netdev probe seen ether type ip6 counter comment \"ipv6\"",
        "add rule netdev probe seen ether saddr 02:66:66:66:66:66 counter comment \"spoofed-mac\"",
        "add rule netdev probe seen ether type != { arp, ip } counter comment \"other\"",
    ] {
        let _ = nft(pid, words);
    }
    let seen = |comment: &str| packets(&nft(pid, "list table netdev probe"), comment);
    let sent = || guest(&home, "cat /sys/class/net/eth0/statistics/tx_packets").parse::<u64>().unwrap();
    let ping = "busybox ping -c 1 -W 1 172.30.0.1";
    assert!(guest(&home, ping).contains("1 packets received"));
    assert!(seen("own") > 0 && seen("arp") > 0);

    for script in [
        // Another sender in IPv4, and in ARP.
        "busybox ip addr add 172.30.0.9/24 dev eth0; busybox ping -c 3 -W 1 -I 172.30.0.9 172.30.0.1; busybox arping -c 2 -w 3 -s 172.30.0.9 -I eth0 172.30.0.1; \
         busybox ip addr del 172.30.0.9/24 dev eth0",
        // IPv6.
        "echo 0 >/proc/sys/net/ipv6/conf/eth0/disable_ipv6; busybox ip -6 addr add fd00::2/64 dev eth0; busybox ping -6 -c 3 -W 1 ff02::1%eth0; \
         busybox ping -6 -c 2 -W 1 fd00::1; echo 1 >/proc/sys/net/ipv6/conf/eth0/disable_ipv6",
        // Another card.
        "busybox ip link set eth0 down; busybox ip link set eth0 address 02:66:66:66:66:66; busybox ip link set eth0 up; busybox ip route add default via 172.30.0.1; \
         busybox ping -c 3 -W 1 172.30.0.1",
    ] {
        let before = sent();
        let _ = guest(&home, script);
        assert!(sent() > before, "something was sent: {script}");
    }
    for comment in ["spoofed-arp", "spoofed-ip", "ipv6", "spoofed-mac", "other"] {
        assert_eq!(seen(comment), 0, "{comment}");
    }
}

#[test]
fn without_nat_there_is_no_card_and_it_comes_with_the_next_start() {
    let Some(home) = super::home() else { return };
    if need::namespaces().is_none() {
        return;
    }
    let _ = home.ok(&create("dev"));
    assert!(home.vm("dev")["network"].is_null());
    assert_eq!(guest(&home, "ls /sys/class/net"), "lo");
    let set = home.run(&["vm", "set", "dev", "--nat", "-v"]);
    assert_eq!(set.code(), 0, "{}", set.stderr);
    assert!(set.stderr.contains("at its next start"), "{}", set.stderr);
    let _ = home.ok(&["vm", "restart", "dev"]);
    assert_eq!(home.vm("dev")["network"]["address"], "172.30.0.2");
    let _ = home.ok(&["vm", "set", "dev", "--no-nat"]);
    let _ = home.ok(&["vm", "restart", "dev"]);
    assert!(home.vm("dev")["network"].is_null());
}
