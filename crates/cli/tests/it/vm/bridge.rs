//! Machines on the bridge, with the helper where `system install` has it, in network and mount namespaces of the test's own.
//!
//! ```text
//! guests ── taps ── br-banger ── "host": the daemon, the helper, this test ── veth ── "world": servers, a resolver
//! ```

use std::{
    fs,
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command},
    sync::mpsc,
    time::Duration,
};

use testkit::{
    home::{Home, wait_until},
    need,
};

use super::{
    create,
    network::{HOST, SERVER, World, fetch_in, inside_of, listing, packets, serve, within},
};

const SOON: Duration = Duration::from_secs(60);
const GATEWAY: &str = "172.30.0.1";

/// The helper, as long as this lives.
struct Helper(Child);

impl Helper {
    /// Installs it for this user, in places that only these namespaces have.
    fn install(home: &Home) -> Self {
        let script = "mount -t tmpfs test /mnt; mkdir /mnt/upper /mnt/work
             mount -t overlay test -o lowerdir=/etc,upperdir=/mnt/upper,workdir=/mnt/work /etc
             mkdir -p /etc/banger; echo 'owner = 0' > /etc/banger/install.toml
             mount -t tmpfs -o mode=755 test /run; mount -t tmpfs -o mode=755 test /var/log";
        let status = Command::new("sh").args(["-ec", script]).status().unwrap();
        assert!(status.success(), "the places are made");
        Self::begin(home)
    }

    fn begin(home: &Home) -> Self {
        let socket = Path::new("/run/banger-helper/helper.sock");
        let _ = fs::remove_file(socket);
        let helper = Self(Command::new(home.programs().join("banger-helper")).spawn().unwrap());
        wait_until(SOON, "the helper listens", || socket.exists());
        helper
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What the host is told of `name`.
fn told(name: &str) -> String {
    listing("dig", &["@127.0.0.1", "-p", "42069", "+short", "+tries=1", "+time=20", name]).trim().to_owned()
}

/// The addresses that `vm` is told for `name`.
fn lookup(home: &Home, vm: &str, name: &str) -> String {
    within(home, vm, &format!("busybox nslookup {name} 2>/dev/null | sed -n '/^Name/,$s/^Address: *//p'"))
}

/// Lets `vm` say hello to who reads its page.
fn serve_in(home: &Home, vm: &str) {
    let script =
        format!("mkdir -p /tmp/www; echo hello {vm} > /tmp/www/page; busybox httpd -p 80 -h /tmp/www");
    let _ = home.ok(&["vm", "exec", vm, "--", "sh", "-c", &script]);
}

/// What this host reads of the page of the machine at `address`.
fn page(address: &str) -> String {
    let mut text = String::new();
    if let Ok(mut stream) = TcpStream::connect((address, 80)) {
        let _ = stream.write_all(b"GET /page HTTP/1.0\r\n\r\n");
        let _ = stream.read_to_string(&mut text);
    }
    text
}

/// What `vm` reads of the page of the machine at `address`.
fn read(home: &Home, vm: &str, address: &str) -> String {
    let ask = "printf 'GET /page HTTP/1.0\\r\\n\\r\\n'";
    let script =
        format!("({ask}; busybox sleep 4) | busybox timeout 8 busybox nc -w 4 {address} 80 | tail -n 1");
    within(home, vm, &script)
}

/// Namespaces with the helper in them for test `name`; nothing where that cannot be, or this only begins it there. The home goes
/// first: its machines are taken away by the helper.
fn bridged(name: &str) -> Option<(Helper, Home)> {
    if host::proc::own_uid() != 0 {
        return need::missing("root", "no root, who installs the helper");
    }
    if !inside_of(&format!("vm::bridge::{name}")) {
        return None;
    }
    // A daemon that was not installed with the bridge takes it only when it is told to.
    let home = super::home()?.with_env("BANGER_NETWORK_MODE", "bridge");
    let helper = Helper::install(&home);
    Some((helper, home))
}

#[test]
fn a_machine_that_goes_on_from_a_snapshot_has_an_address_of_its_own() {
    let name = "a_machine_that_goes_on_from_a_snapshot_has_an_address_of_its_own";
    let Some((_helper, home)) = bridged(name) else { return };
    let world = World::new();
    serve(world.within(|| TcpListener::bind((SERVER, 80)).unwrap()));
    let _ = home.ok(&create("one"));
    serve_in(&home, "one");
    let _ = home.ok(&["vm", "snapshot", "one", "warm"]);
    for name in ["two", "three"] {
        let _ = home.ok(&["vm", "create", "--snapshot", "warm", "--name", name, "--nat"]);
    }
    let own = |vm: &str| {
        within(&home, vm, "busybox ip -4 -o addr show | sed -n 's/.* inet 172/172/p' | cut -d/ -f1")
    };
    for (vm, address) in [("one", "172.30.0.2"), ("two", "172.30.0.3"), ("three", "172.30.0.4")] {
        assert_eq!([home.vm(vm)["ip"].as_str().unwrap(), own(vm).trim()], [address; 2], "{vm}");
        // What listened goes on, where each is now.
        wait_until(SOON, "the host reaches it", || page(address).contains("hello one"));
    }
    // Only they have NAT, and a route by their own addresses.
    assert_eq!(fetch_in(&home, "two", SERVER), format!("hello {HOST}"));
    assert_eq!(fetch_in(&home, "one", SERVER), "");
}

#[test]
fn machines_on_the_bridge_reach_what_they_may_and_nothing_else() {
    if need::program("dig", "dig").is_none() || need::program("dnsmasq", "dnsmasq").is_none() {
        return;
    }
    let name = "machines_on_the_bridge_reach_what_they_may_and_nothing_else";
    let Some((helper, home)) = bridged(name) else { return };
    let world = World::new();
    world.resolver(home.path());
    let _dnsmasq = world.dnsmasq();
    serve(world.within(|| TcpListener::bind((SERVER, 80)).unwrap()));
    let held = world.within(|| TcpListener::bind((SERVER, 7000)).unwrap());
    serve(TcpListener::bind((HOST, 8080)).unwrap());
    serve(TcpListener::bind("0.0.0.0:8081").unwrap());

    let _ = home.ok(&[&create("one")[..], &["--nat"]].concat());
    let _ = home.ok(&create("two"));
    let place = |name: &str| {
        let vm = home.vm(name);
        (vm["network"]["mode"].as_str().unwrap().to_owned(), vm["ip"].as_str().unwrap().to_owned())
    };
    assert_eq!(place("one"), ("bridge".into(), "172.30.0.2".into()));
    assert_eq!(place("two"), ("bridge".into(), "172.30.0.3".into()));

    // Another daemon of this user leaves the bridge alone: its addresses are the first one's.
    let Some(other) = super::home() else { return };
    let _ = other.ok(&["vm", "create", "--name", "other", "--image", "busybox", "--no-start"]);
    assert!(other.vm("other")["ip"].is_null(), "{}", other.vm("other"));
    drop(other);

    // The host reaches both: nobody listens there, and they say so.
    for address in ["172.30.0.2:9", "172.30.0.3:9"] {
        let tried = TcpStream::connect_timeout(&address.parse::<SocketAddr>().unwrap(), SOON);
        assert_eq!(tried.unwrap_err().kind(), ErrorKind::ConnectionRefused, "{address}");
    }
    // Names, for the host and for guests; without NAT a guest knows itself alone.
    assert_eq!([told("one.vm"), told("two.vm"), told("none.vm")], ["172.30.0.2", "172.30.0.3", ""]);
    assert_eq!(
        [lookup(&home, "one", "two.vm"), lookup(&home, "one", "some.example")],
        ["172.30.0.3", SERVER]
    );
    assert_eq!(
        [
            lookup(&home, "two", "two.vm"),
            lookup(&home, "two", "one.vm"),
            lookup(&home, "two", "some.example")
        ],
        ["172.30.0.3", "", ""]
    );
    // The world with NAT alone; of the host, and of each other, nothing.
    assert_eq!(fetch_in(&home, "one", SERVER), format!("hello {HOST}"));
    assert_eq!(fetch_in(&home, "two", SERVER), "");
    for place in [format!("{HOST}:8080"), format!("{GATEWAY}:8081"), "169.254.169.254".to_owned()] {
        assert_eq!(fetch_in(&home, "one", &place), "", "{place}");
    }
    serve_in(&home, "two");
    wait_until(SOON, "the host reaches it", || page("172.30.0.3").contains("hello two"));
    assert_eq!(read(&home, "one", "172.30.0.3"), "");

    // In a group they do, by name, and nobody else.
    let _ = home.ok(&[&create("three")[..], &["--group", "pair"]].concat());
    let _ = home.ok(&[&create("four")[..], &["--group", "pair"]].concat());
    assert_eq!(home.vm("four")["group"], "pair");
    serve_in(&home, "four");
    wait_until(SOON, "the host reaches it", || page("172.30.0.5").contains("hello four"));
    assert_eq!([lookup(&home, "three", "four.vm"), lookup(&home, "three", "one.vm")], ["172.30.0.5", ""]);
    assert_eq!(read(&home, "three", "172.30.0.5"), "hello four");
    for (from, to) in [("one", "172.30.0.5"), ("two", "172.30.0.5"), ("three", "172.30.0.3")] {
        assert_eq!(read(&home, from, to), "", "{from} reads from {to}");
    }
    let _ = home.ok(&["vm", "delete", "three", "four"]);

    // A flow that was there is cut as long as NAT is off.
    let (arrived, streams) = mpsc::channel();
    std::thread::spawn(move || arrived.send(held.accept().unwrap().0));
    let flow = format!("(echo x; exec busybox sleep 600) | busybox nc {SERVER} 7000 > /tmp/flow");
    let mut flow = testkit::home::spawn_apart(home.command(&["vm", "exec", "one", "--", "sh", "-c", &flow]));
    let mut stream = streams.recv_timeout(SOON).unwrap();
    stream.read_exact(&mut [0; 2]).unwrap();
    let came = |word: &str| within(&home, "one", "cat /tmp/flow").contains(word);
    stream.write_all(b"before\n").unwrap();
    wait_until(SOON, "it flows", || came("before"));
    let _ = home.ok(&["vm", "set", "one", "--no-nat"]);
    stream.write_all(b"after\n").unwrap();
    assert_eq!(fetch_in(&home, "one", SERVER), "");
    assert!(!came("after"));
    let _ = home.ok(&["vm", "set", "one", "--nat"]);
    wait_until(SOON, "it flows again", || came("after"));
    let _ = flow.kill();
    let _ = flow.wait();

    // Somebody flushes all rules: they come back, and nobody is let through meanwhile.
    let status = Command::new("nft").args(["flush", "ruleset"]).status().unwrap();
    assert!(status.success());
    assert_eq!(fetch_in(&home, "two", SERVER), "");
    wait_until(SOON, "it is as before", || fetch_in(&home, "one", SERVER) == format!("hello {HOST}"));

    // Neither the daemon's death nor the helper's is felt. The next one goes by settings that name a resolver.
    let config = home.path().join("config");
    fs::create_dir_all(&config).unwrap();
    let upstream = format!("[network]\nupstream_dns = [\"{SERVER}:5353\"]\n");
    fs::write(config.join("config.toml"), upstream).unwrap();
    home.kill_9(home.daemon_pid());
    drop(helper);
    assert_eq!(fetch_in(&home, "one", SERVER), format!("hello {HOST}"));
    assert_eq!(fetch_in(&home, "two", SERVER), "");
    let _helper = Helper::begin(&home);
    wait_until(SOON, "names are told again", || told("two.vm") == "172.30.0.3");
    wait_until(SOON, "guests too", || lookup(&home, "one", "one.vm") == "172.30.0.2");
    wait_until(SOON, "the resolver is told", || lookup(&home, "one", "some.example") == "203.0.113.9");
    assert_eq!(lookup(&home, "two", "some.example"), "", "without NAT nobody is asked");

    let _ = home.ok(&["vm", "stop", "two"]);
    assert_eq!([told("one.vm"), told("two.vm")], ["172.30.0.2", ""]);
    let _ = home.ok(&["vm", "delete", "one", "two"]);
    assert!(!listing("ip", &["-o", "link"]).contains("bg-"), "no tap is left");
    for set in [["bridge", "sources"], ["inet", "nat"], ["inet", "macs"]] {
        let listed = listing("nft", &["list", "set", set[0], "banger", set[1]]);
        assert!(!listed.contains("elements"), "{listed}");
    }
}

/// Frames of a guest that are not its own, as nft tells them.
const FOREIGN: [(&str, &str); 4] = [
    ("ipv4", "ether type ip ip saddr != 172.30.0.2"),
    ("arp", "ether type arp arp saddr ip != 172.30.0.2"),
    ("ipv6", "ether type ip6"),
    ("card", "ether saddr != OWN"),
];

/// Each kind of foreign frame comes to the tap, and none of it further: not even to another of the guest's group.
#[test]
fn a_guest_on_the_bridge_cannot_pretend_to_be_another() {
    let Some((_helper, home)) = bridged("a_guest_on_the_bridge_cannot_pretend_to_be_another") else { return };
    for name in ["one", "two"] {
        let _ = home.ok(&[&create(name)[..], &["--group", "pair"]].concat());
    }
    let card = |name: &str| within(&home, name, "cat /sys/class/net/eth0/address");
    let (own, others) = (card("one"), card("two"));
    let tap = format!("bg-{}", home.vm("one")["id"].as_str().unwrap());
    // One looks at all that comes to the tap, the other behind banger's rules.
    let rules = FOREIGN.map(|(kind, of)| format!("{of} counter comment \"{kind}\"\n")).concat();
    let rules = rules + "ether saddr OWN ip saddr 172.30.0.2 counter comment \"own\"";
    let probes = format!(
        "table netdev probe {{\nchain came {{\ntype filter hook ingress device {tap} priority 0;\n{rules}\n}}\n}}
         table bridge probe {{\nchain passed {{\ntype filter hook prerouting priority 100;
         iifname != {tap} accept\n{rules}\n}}\n}}\n"
    )
    .replace("OWN", &own);
    let file = home.path().join("probes");
    fs::write(&file, probes).unwrap();
    assert!(Command::new("nft").arg("-f").arg(&file).status().unwrap().success());
    let came = |kind: &str| packets(&listing("nft", &["list", "table", "netdev", "probe"]), kind);
    let passed = |kind: &str| packets(&listing("nft", &["list", "table", "bridge", "probe"]), kind);

    // The helper cuts guests off for a moment, as somebody changed rules. Then what is its own gets to the other one.
    let reaches = || within(&home, "one", "busybox ping -c 1 -W 5 172.30.0.3").contains("1 packets received");
    wait_until(SOON, "they reach each other", reaches);
    assert!(came("own") > 0 && passed("own") > 0);

    let spoof = [
        ("ipv4", "busybox ip addr add 172.30.0.3/24 dev eth0; busybox ping -c 2 -W 1 -I 172.30.0.3 172.30.0.255".to_owned()),
        ("arp", "busybox arping -c 2 -w 3 -s 172.30.0.3 -I eth0 172.30.0.1; busybox arping -U -c 2 -w 3 -s 172.30.0.3 -I eth0 172.30.0.3".to_owned()),
        (
            "ipv6",
            "busybox ip addr del 172.30.0.3/24 dev eth0; echo 0 >/proc/sys/net/ipv6/conf/eth0/disable_ipv6; \
             busybox ip -6 addr add fd00::2/64 dev eth0; busybox ping -6 -c 2 -W 1 ff02::1%eth0; busybox ping -6 -c 1 -W 1 fd00::1; \
             echo 1 >/proc/sys/net/ipv6/conf/eth0/disable_ipv6".to_owned(),
        ),
        (
            "card",
            format!("busybox ip link set eth0 down; busybox ip link set eth0 address {others}; busybox ip link set eth0 up; \
                     busybox ping -c 2 -W 1 172.30.0.1"),
        ),
    ];
    for (kind, script) in spoof {
        let _ = within(&home, "one", &script);
        assert!(came(kind) > 0, "{kind} is sent");
    }
    for (kind, _) in FOREIGN {
        assert_eq!(passed(kind), 0, "{kind} stays at the tap, of {}", came(kind));
    }
    // Nothing of it is believed either: the other one is where it was.
    assert!(!listing("bridge", &["fdb", "show", "dev", &tap]).contains(&others));
    let honest = format!(
        "busybox ip link set eth0 down; busybox ip link set eth0 address {own}; busybox ip link set eth0 up"
    );
    let _ = within(&home, "one", &honest);
    wait_until(SOON, "they reach each other again", reaches);
}
