//! A host of a test's own: a network namespace, an installation in a directory, and the helper in both.

use std::{
    fs::{self, File},
    io::{Read, Write},
    num::NonZeroU16,
    os::{
        fd::{AsFd, OwnedFd},
        unix::{
            fs::{DirBuilderExt, PermissionsExt},
            net::UnixDatagram,
        },
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use host::packet::Packets;
use model::{OperationId, VmId};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use testkit::need;
use wire::helper::{Answer, Ask, Guest, MAX_ANSWER, Request, Status};

/// How long anything may take on a busy machine.
pub const DEADLINE: Duration = Duration::from_secs(30);
/// Whose installation it is.
pub const OWNER: u32 = 12_345;
/// The host's address.
pub const GATEWAY: [u8; 4] = [172, 30, 0, 1];

/// A network namespace. It is there as long as this is, or something in it.
pub struct Namespace(File);

impl Namespace {
    pub fn new() -> Self {
        // `cat` answers when it is in the namespace, and then it is not needed any longer.
        let mut cat = Command::new("unshare")
            .args(["--net", "cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        cat.stdin.as_mut().unwrap().write_all(b"x").unwrap();
        cat.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        let namespace = Self(File::open(format!("/proc/{}/ns/net", cat.id())).unwrap());
        drop(cat.stdin.take());
        cat.wait().unwrap();
        namespace.sh("ip link set lo up");
        namespace
    }

    /// Runs `body` in it.
    pub fn run<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                move_into_link_name_space(self.0.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
                body()
            });
            inside.join().unwrap()
        })
    }

    /// What the shell's `script` says in it.
    pub fn sh(&self, script: &str) -> String {
        let output = self.run(|| Command::new("sh").args(["-ec", script]).output().unwrap());
        assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Its rules.
    pub fn ruleset(&self) -> String {
        self.sh("nft list ruleset")
    }

    /// Its links and their addresses, without what changes by itself.
    pub fn links(&self) -> String {
        self.sh("ip -brief address; cat /proc/sys/net/ipv4/ip_forward")
    }

    /// Joins it with `other` by a pair of links of these names and addresses.
    pub fn join(&self, name: &str, address: &str, other: &Self, other_name: &str, other_address: &str) {
        use std::os::fd::AsRawFd;
        let path = format!("/proc/{}/fd/{}", std::process::id(), other.0.as_raw_fd());
        self.sh(&format!(
            "ip link add {name} type veth peer name {other_name} netns {path}
             ip address add {address} dev {name}; ip link set {name} up"
        ));
        other.sh(&format!("ip address add {other_address} dev {other_name}; ip link set {other_name} up"));
    }
}

/// A helper that runs.
pub struct World {
    pub host: Namespace,
    pub root: PathBuf,
    helper: Option<Child>,
}

impl World {
    /// A host with a helper; `None` where the test cannot have one.
    pub fn new() -> Option<Self> {
        let mut world = Self::without_helper("")?;
        world.begin();
        Some(world)
    }

    /// The same with further settings and before the helper begins.
    pub fn without_helper(settings: &str) -> Option<Self> {
        Self::at(&std::env::temp_dir(), settings)
    }

    /// The same with its files below `place`.
    pub fn at(place: &Path, settings: &str) -> Option<Self> {
        if host::proc::own_uid() != 0 {
            return need::missing("root", "no root, and only root makes network namespaces and taps");
        }
        need::program("nft", "nft")?;
        need::program("ip", "ip")?;
        if !Path::new("/dev/net/tun").exists() {
            return need::missing("tun", "no /dev/net/tun");
        }
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let root = place.join(format!("banger-helper-{}-{number}", std::process::id()));
        let _ = fs::remove_dir_all(&root);
        for dir in ["etc/banger", "run", "var/log"] {
            fs::DirBuilder::new().recursive(true).mode(0o755).create(root.join(dir)).unwrap();
        }
        let text = format!("owner = {OWNER}\n{settings}");
        fs::write(root.join("etc/banger/install.toml"), text).unwrap();
        Some(Self { host: Namespace::new(), root, helper: None })
    }

    /// Starts the helper and waits until it works.
    pub fn begin(&mut self) {
        let socket = self.root.join("ready");
        let _ = fs::remove_file(&socket);
        let ready = UnixDatagram::bind(&socket).unwrap();
        ready.set_read_timeout(Some(DEADLINE)).unwrap();
        self.helper = Some(self.host.run(|| self.command().env("NOTIFY_SOCKET", &socket).spawn().unwrap()));
        let mut text = [0; 32];
        let count = ready.recv(&mut text).unwrap_or_else(|e| panic!("the helper does not begin: {e}"));
        assert_eq!(&text[..count], b"READY=1");
    }

    /// The helper before it is started.
    pub fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_banger-helper"));
        command.arg("--root").arg(&self.root);
        command
    }

    /// The helper's process.
    pub fn pid(&self) -> u32 {
        self.helper.as_ref().unwrap().id()
    }

    /// Kills the helper, as a crash does.
    pub fn kill(&mut self) {
        let mut helper = self.helper.take().unwrap();
        helper.kill().unwrap();
        helper.wait().unwrap();
    }

    pub fn socket(&self) -> PathBuf {
        self.root.join("run/banger-helper/helper.sock")
    }

    pub fn connect(&self) -> Packets {
        Packets::connect(&self.socket(), DEADLINE).unwrap()
    }

    /// What the helper answers to `ask`, and what comes along.
    pub fn exchange(&self, ask: Ask) -> (Answer, Vec<OwnedFd>) {
        exchange(&self.connect(), ask)
    }

    /// Asks for what must succeed.
    pub fn done(&self, ask: Ask) {
        assert_eq!(self.exchange(ask).0, Answer::Done, "{ask:?}");
    }

    pub fn status(&self) -> Status {
        match self.exchange(Ask::Status).0 {
            Answer::Status(status) => status,
            other => panic!("{other:?}"),
        }
    }

    /// The log of requests.
    pub fn audit(&self) -> String {
        fs::read_to_string(self.root.join("var/log/banger-helper/audit.log")).unwrap()
    }

    /// Gives others access to the socket, as if nothing else than the check of the peer protected it.
    pub fn open_to_all(&self) {
        for (path, mode) in [("", 0o755), ("run", 0o755), ("run/banger-helper", 0o755)] {
            fs::set_permissions(self.root.join(path), fs::Permissions::from_mode(mode)).unwrap();
        }
        fs::set_permissions(self.socket(), fs::Permissions::from_mode(0o666)).unwrap();
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if self.helper.is_some() {
            self.kill();
        }
        let _ = fs::remove_dir_all(&self.root);
    }
}

/// Sends `ask` and gives what is answered.
pub fn exchange(connection: &Packets, ask: Ask) -> (Answer, Vec<OwnedFd>) {
    connection.send(&packet(ask), &[]).unwrap();
    let answer = connection.receive(MAX_ANSWER).unwrap().expect("an answer");
    assert!(answer.whole);
    (Answer::decode(&answer.bytes).unwrap(), answer.descriptors)
}

/// `ask` as a packet.
pub fn packet(ask: Ask) -> Vec<u8> {
    Request { operation: OperationId::from_uuid([7; 16]), ask }.encode()
}

/// A guest with address `172.30.0.n`.
pub fn guest(n: u8) -> Guest {
    Guest { vm: VmId::from_bytes([n; 6]), host_number: u16::from(n), group: None, nat: false }
}

/// The same in a group.
pub fn in_group(n: u8, group: u16) -> Guest {
    Guest { group: NonZeroU16::new(group), ..guest(n) }
}

/// Waits until `holds`.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !holds() {
        assert!(Instant::now() < end, "not in time: {what}");
        thread::yield_now();
    }
}
