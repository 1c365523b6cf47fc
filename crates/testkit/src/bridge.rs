//! A host of a test's own: a network namespace, an installation in a directory, and the helper in both.
#![expect(
    clippy::disallowed_methods,
    reason = "it makes namespaces and starts the real helper, as a test does"
)]

use std::{
    fs::{self, File},
    io::{Read, Write},
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::{
            fs::{DirBuilderExt, PermissionsExt},
            net::UnixDatagram,
        },
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::Duration,
};

use host::packet::Packets;
use model::OperationId;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use wire::helper::{Answer, Ask, MAX_ANSWER, Request, Status};

use crate::need;

/// How long anything may take on a busy machine.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// A network namespace. It is there as long as this is, or something in it.
#[derive(Debug)]
pub struct Namespace(File);

impl Clone for Namespace {
    fn clone(&self) -> Self {
        Self(self.0.try_clone().expect("there are descriptors left"))
    }
}

impl Default for Namespace {
    fn default() -> Self {
        Self::new()
    }
}

impl Namespace {
    /// A new one whose loopback is up.
    ///
    /// # Panics
    /// Where none can be made, as without root.
    #[must_use]
    pub fn new() -> Self {
        // `cat` answers when it is in the namespace, and then it is not needed any longer.
        let mut cat = Command::new("unshare")
            .args(["--net", "cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare is installed");
        cat.stdin.as_mut().expect("it is a pipe").write_all(b"x").expect("it reads");
        cat.stdout.as_mut().expect("it is a pipe").read_exact(&mut [0]).expect("it answers");
        let namespace = Self(File::open(format!("/proc/{}/ns/net", cat.id())).expect("it is there"));
        drop(cat.stdin.take());
        cat.wait().expect("it is a child");
        namespace.sh("ip link set lo up");
        namespace
    }

    /// Moves this thread into it.
    ///
    /// # Panics
    /// Without root.
    pub fn enter(&self) {
        move_into_link_name_space(self.0.as_fd(), Some(LinkNameSpaceType::Network))
            .expect("root may enter it");
    }

    /// Runs `body` in it.
    ///
    /// # Panics
    /// Where `body` does.
    pub fn run<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                self.enter();
                body()
            });
            inside.join().expect("the test's own words tell")
        })
    }

    /// What the shell's `script` says in it.
    ///
    /// # Panics
    /// Where it fails.
    pub fn sh(&self, script: &str) -> String {
        let output =
            self.run(|| Command::new("sh").args(["-ec", script]).output().expect("there is a shell"));
        assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("it says text")
    }

    /// Its rules.
    #[must_use]
    pub fn ruleset(&self) -> String {
        self.sh("nft list ruleset")
    }

    /// Its links and their addresses, without what changes by itself.
    #[must_use]
    pub fn links(&self) -> String {
        self.sh("ip -brief address; cat /proc/sys/net/ipv4/ip_forward")
    }

    /// Joins it with `other` by a pair of links of these names and addresses.
    pub fn join(&self, name: &str, address: &str, other: &Self, other_name: &str, other_address: &str) {
        let path = format!("/proc/{}/fd/{}", std::process::id(), other.0.as_raw_fd());
        self.sh(&format!(
            "ip link add {name} type veth peer name {other_name} netns {path}
             ip address add {address} dev {name}; ip link set {name} up"
        ));
        other.sh(&format!("ip address add {other_address} dev {other_name}; ip link set {other_name} up"));
    }
}

/// A host with a helper.
#[derive(Debug)]
pub struct BridgeHost {
    /// Its network.
    pub host: Namespace,
    /// Where the files of its installation lie.
    pub root: PathBuf,
    program: PathBuf,
    helper: Option<Child>,
}

impl BridgeHost {
    /// A host on which the helper `program` does not run yet, with these `settings` and its files below `place`. `None` where
    /// the machine lacks what it takes, which was said.
    ///
    /// # Panics
    /// Where something that `BANGER_REQUIRE` names is missing.
    #[must_use]
    pub fn at(program: &Path, place: &Path, settings: &str) -> Option<Self> {
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
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(root.join(dir))
                .expect("there is room for it");
        }
        fs::write(root.join("etc/banger/install.toml"), settings).expect("there is room for it");
        Some(Self { host: Namespace::new(), root, program: program.to_owned(), helper: None })
    }

    /// The same with the helper that was built beside the programs of this test, and for this user.
    ///
    /// # Panics
    /// As before.
    #[must_use]
    pub fn built() -> Option<Self> {
        let own = std::env::current_exe().expect("this program is a file");
        let program = own.ancestors().nth(2).map(|built| built.join("banger-helper"));
        let program = program.filter(|path| path.is_file());
        let Some(program) = program else {
            return need::missing("helper", "no banger-helper that was built: cargo xtask build");
        };
        let mut made = Self::at(&program, &std::env::temp_dir(), "owner = 0\n")?;
        made.begin();
        Some(made)
    }

    /// Starts the helper and waits until it works.
    ///
    /// # Panics
    /// Where it does not begin.
    pub fn begin(&mut self) {
        let socket = self.root.join("ready");
        let _ = fs::remove_file(&socket);
        let ready = UnixDatagram::bind(&socket).expect("there is room for it");
        ready.set_read_timeout(Some(DEADLINE)).expect("it is no zero");
        let start = || self.command().env("NOTIFY_SOCKET", &socket).spawn().expect("it was built");
        self.helper = Some(self.host.run(start));
        let mut text = [0; 32];
        let count = ready.recv(&mut text).unwrap_or_else(|e| panic!("the helper does not begin: {e}"));
        assert_eq!(&text[..count], b"READY=1");
    }

    /// The helper before it is started.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--root").arg(&self.root);
        command
    }

    /// The helper's process.
    ///
    /// # Panics
    /// Where it does not run.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.helper.as_ref().expect("it runs").id()
    }

    /// Whether it runs, as far as this has neither killed it nor begun it.
    #[must_use]
    pub fn runs(&self) -> bool {
        self.helper.is_some()
    }

    /// Kills the helper, as a crash does.
    ///
    /// # Panics
    /// Where it does not run.
    pub fn kill(&mut self) {
        let mut helper = self.helper.take().expect("it runs");
        helper.kill().expect("it is a child");
        helper.wait().expect("it is a child");
    }

    /// Where it is asked.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.root.join("run/banger-helper/helper.sock")
    }

    /// A connection to it.
    ///
    /// # Panics
    /// Where it does not listen.
    #[must_use]
    pub fn connect(&self) -> Packets {
        Packets::connect(&self.socket(), DEADLINE).expect("it listens")
    }

    /// What the helper answers to `ask`, and what comes along.
    #[must_use]
    pub fn exchange(&self, ask: Ask) -> (Answer, Vec<OwnedFd>) {
        exchange(&self.connect(), ask)
    }

    /// Asks for what must succeed.
    ///
    /// # Panics
    /// Where it does not.
    pub fn done(&self, ask: Ask) {
        assert_eq!(self.exchange(ask).0, Answer::Done, "{ask:?}");
    }

    /// How things are.
    ///
    /// # Panics
    /// Where it does not say.
    #[must_use]
    pub fn status(&self) -> Status {
        match self.exchange(Ask::Status).0 {
            Answer::Status(status) => status,
            other => panic!("{other:?}"),
        }
    }

    /// The log of requests.
    ///
    /// # Panics
    /// Where there is none.
    #[must_use]
    pub fn audit(&self) -> String {
        fs::read_to_string(self.root.join("var/log/banger-helper/audit.log")).expect("it is written")
    }

    /// Gives others access to the socket, as if nothing else than the check of the peer protected it.
    ///
    /// # Panics
    /// Where that cannot be.
    pub fn open_to_all(&self) {
        let set = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("it is this user's");
        };
        for path in ["", "run", "run/banger-helper"] {
            set(&self.root.join(path), 0o755);
        }
        set(&self.socket(), 0o666);
    }
}

impl Drop for BridgeHost {
    fn drop(&mut self) {
        if self.runs() {
            self.kill();
        }
        let _ = fs::remove_dir_all(&self.root);
    }
}

/// Sends `ask` and gives what is answered.
///
/// # Panics
/// Where nothing is.
#[must_use]
pub fn exchange(connection: &Packets, ask: Ask) -> (Answer, Vec<OwnedFd>) {
    connection.send(&packet(ask), &[]).expect("it is read");
    let answer = connection.receive(MAX_ANSWER).expect("it answers").expect("it answers");
    assert!(answer.whole);
    (Answer::decode(&answer.bytes).expect("it is an answer"), answer.descriptors)
}

/// `ask` as a packet.
#[must_use]
pub fn packet(ask: Ask) -> Vec<u8> {
    Request { operation: OperationId::from_uuid([7; 16]), ask }.encode()
}
