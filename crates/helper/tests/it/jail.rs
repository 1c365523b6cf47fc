//! Jails: what a machine has in one, what never enters, and that nothing is left of any.

use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Write},
    num::{NonZeroU16, NonZeroU32},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::{
            fs::{MetadataExt, PermissionsExt, chown},
            net::UnixStream,
        },
    },
    path::{Path, PathBuf},
    sync::atomic::{AtomicU8, Ordering},
    thread,
};

use host::proc::{Process, ProcessId};
use model::{VmId, signal::Signal};
use rustix::{
    fs::{MemfdFlags, Mode, OFlags},
    process::{Gid, Uid},
    thread::{set_thread_res_gid, set_thread_res_uid},
};
use testkit::{jailer, need};
use wire::helper::{Answer, Ask, Jail, JailFile, Jailed, MAX_ANSWER, Refusal};

use crate::world::{DEADLINE, OWNER, World, eventually, packet};

/// The group of the owner's files.
const GROUP: u32 = 12_346;
/// The first user of jails.
const FIRST: u32 = 70_000;
const UIDS: &str = "jail_uids = '70000-70255'";

/// A helper's world with the owner's files of a machine, and what stands in for Firecracker.
struct Cell {
    world: World,
    state: PathBuf,
    /// No other test has it: control groups are all of one host.
    number: u8,
}

/// What the helper handed over.
struct Handed {
    jailed: Jailed,
    directory: OwnedFd,
    process: Process,
}

impl Cell {
    /// `None` where the test cannot have one.
    fn new() -> Option<Self> {
        Self::with(UIDS)
    }

    fn with(settings: &str) -> Option<Self> {
        let mut cell = Self::without_helper(settings)?;
        cell.world.begin();
        Some(cell)
    }

    fn without_helper(settings: &str) -> Option<Self> {
        let world = World::without_helper(settings)?;
        let state = world.root.join("var/lib/banger");
        fs::create_dir_all(&state).unwrap();
        let own = std::env::current_exe().unwrap();
        let built = own.ancestors().nth(2).unwrap().join("examples/jailed_inside");
        jailer::install(&world.root.join("usr/local/lib/banger"), &built);
        static NUMBER: AtomicU8 = AtomicU8::new(0);
        let cell = Self { world, state, number: NUMBER.fetch_add(1, Ordering::Relaxed) };
        for name in JailFile::ALL.into_iter().filter_map(JailFile::name) {
            cell.file(name, &format!("the {name} of its owner"));
        }
        Some(cell)
    }

    /// Machine `n`; every second one has modules.
    fn jail(&self, n: u8) -> Jail {
        let [a, b, c, d] = std::process::id().to_be_bytes();
        let (processors, memory_mib) = (NonZeroU16::new(2).unwrap(), NonZeroU32::new(128).unwrap());
        let vm = VmId::from_bytes([n, self.number, a, b, c, d]);
        Jail { vm, processors, memory_mib, modules: n.is_multiple_of(2), card: false }
    }

    /// A file of the owner's, nobody else's to read.
    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.state.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        chown(&path, Some(OWNER), Some(GROUP)).unwrap();
        path
    }

    /// What comes along for `jail`, and the end of its console that the daemon keeps.
    fn files(&self, jail: &Jail) -> (File, Vec<OwnedFd>) {
        let (console, given) = as_owner(|| host::proc::pipe().unwrap());
        let mut given = Some(given);
        let open = |what: JailFile| match what.name() {
            None => OwnedFd::from(given.take().unwrap()),
            Some(name) => {
                let path = self.state.join(name);
                OpenOptions::new().read(true).write(what.is_written()).open(path).unwrap().into()
            }
        };
        (console, jail.files().map(open).collect())
    }

    fn ask(&self, ask: Ask, given: &[OwnedFd]) -> (Answer, Vec<OwnedFd>) {
        let connection = self.world.connect();
        let given: Vec<BorrowedFd<'_>> = given.iter().map(AsFd::as_fd).collect();
        connection.send(&packet(ask), &given).unwrap();
        let answer = connection.receive(MAX_ANSWER).unwrap().unwrap();
        (Answer::decode(&answer.bytes).unwrap(), answer.descriptors)
    }

    fn handed(&self, ask: Ask, given: &[OwnedFd]) -> Handed {
        match self.ask(ask, given) {
            (Answer::Jailed(jailed), descriptors) => {
                let [_pidfd, directory] = descriptors.try_into().unwrap();
                let id = ProcessId::of(jailed.pid).unwrap();
                assert_eq!(id.start, jailed.start);
                Handed { jailed, directory, process: id.open().unwrap().expect("it runs") }
            }
            (answer, _) => panic!("{ask:?}: {answer:?}"),
        }
    }

    /// A machine in a jail.
    fn start(&self, jail: Jail) -> (Handed, File) {
        let (console, files) = self.files(&jail);
        (self.handed(Ask::Jail(jail), &files), console)
    }

    fn jails(&self) -> PathBuf {
        self.world.root.join("var/lib/banger-helper/jails")
    }

    /// Nothing is left of any jail.
    fn assert_clean(&self, jail: Jail) {
        assert_eq!(host::fs::list(&self.jails()).unwrap(), Vec::<PathBuf>::new());
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(self.world.root.to_str().unwrap()), "{mounts}");
        if let Some(group) = group(jail.vm) {
            assert!(!group.exists(), "{}", group.display());
        }
    }
}

impl Drop for Cell {
    fn drop(&mut self) {
        // A test that failed leaves no machine either.
        for place in host::fs::list(&self.jails()).unwrap_or_default() {
            let vm =
                place.file_name().and_then(|name| name.to_str()).and_then(|name| VmId::try_from(name).ok());
            if let Some(vm) = vm.filter(|_| self.world.runs()) {
                let _ = self.ask(Ask::Unjail(vm), &[]);
            }
        }
    }
}

impl Handed {
    /// What the machine answers to its owner.
    fn told(&self, line: &str) -> String {
        self.asked(format!("{line}\n").as_bytes(), |stream, answer| {
            stream.read_to_end(answer).unwrap();
        })
    }

    /// The same of a real one: the head of what it answers, and a short body.
    fn requested(&self, method: &str, path: &str, body: &str) -> String {
        let request =
            format!("{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        self.asked(request.as_bytes(), |stream, answer| {
            answer.resize(4096, 0);
            let count = stream.read(answer).unwrap();
            answer.truncate(count);
        })
    }

    fn asked(&self, request: &[u8], read: fn(&mut UnixStream, &mut Vec<u8>)) -> String {
        let path = PathBuf::from(format!("/proc/self/fd/{}/api.sock", self.directory.as_raw_fd()));
        as_owner(|| {
            let mut stream = None;
            eventually("its socket is there", || {
                stream = host::sock::connect(&path).ok();
                stream.is_some()
            });
            let mut stream = stream.unwrap();
            stream.set_read_timeout(Some(DEADLINE)).unwrap();
            stream.write_all(request).unwrap();
            let mut answer = Vec::new();
            read(&mut stream, &mut answer);
            String::from_utf8(answer).unwrap()
        })
    }

    /// A line of its status that begins with `key`.
    fn status(&self, key: &str) -> String {
        let text = fs::read_to_string(format!("/proc/{}/status", self.jailed.pid)).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(key)).unwrap();
        line.split_ascii_whitespace().collect::<Vec<_>>().join(" ")
    }

    fn namespace(&self, name: &str) -> PathBuf {
        fs::read_link(format!("/proc/{}/ns/{name}", self.jailed.pid)).unwrap()
    }
}

/// Runs `body` as the owner.
fn as_owner<T: Send>(body: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let owner = scope.spawn(|| {
            let (uid, gid) = (Uid::from_raw(OWNER), Gid::from_raw(GROUP));
            set_thread_res_gid(gid, gid, gid).unwrap();
            set_thread_res_uid(uid, uid, uid).unwrap();
            body()
        });
        owner.join().unwrap()
    })
}

/// The control group of the jail of `vm`, where this host's helper makes some.
fn group(vm: VmId) -> Option<PathBuf> {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap();
    let tree = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(Path::new);
    let tree = tree.into_iter().find(|path| path.join("cgroup.controllers").exists())?;
    own.lines().any(|line| line == "0::/").then(|| tree.join(format!("jail-{vm}")))
}

/// Whether this host's temporary files can be shown to another user.
fn can_map(cell: &Cell) -> Option<()> {
    let (_console, files) = cell.files(&cell.jail(9));
    match cell.ask(Ask::Jail(cell.jail(9)), &files).0 {
        Answer::Failed(why) if why.contains("cannot map the users of a mount") => {
            need::missing("idmap", "no file system of temporary files whose users can be mapped")
        }
        Answer::Jailed(_) => {
            cell.world.done(Ask::Unjail(cell.jail(9).vm));
            Some(())
        }
        answer => panic!("{answer:?}"),
    }
}

#[test]
fn a_jailed_machine_has_a_user_files_a_network_and_a_group_of_its_own_and_leaves_nothing() {
    let Some(cell) = Cell::new() else { return };
    let Some(()) = can_map(&cell) else { return };
    let machines = [cell.jail(1), cell.jail(2)];
    let [(one, _), (two, _)] = machines.map(|jail| cell.start(jail));
    for (handed, jail, uid) in [(&one, cell.jail(1), FIRST), (&two, cell.jail(2), FIRST + 1)] {
        assert_eq!(handed.told("read kernel"), "the kernel of its owner");
        assert_eq!(handed.status("Uid:"), format!("{uid} {uid} {uid} {uid}"));
        assert_eq!(handed.status("Gid:"), format!("{uid} {uid} {uid} {uid}"));
        assert_eq!(handed.status("Groups:"), "");
        assert_eq!(handed.status("CapEff:"), "0000000000000000");
        for name in ["net", "mnt", "ipc", "uts"] {
            assert_ne!(handed.namespace(name), fs::read_link(format!("/proc/self/ns/{name}")).unwrap());
        }
        let modules = if jail.modules { "modules " } else { "" };
        let all = handed.told("list /");
        let own: Vec<&str> = all.split(' ').filter(|name| !["lib", "lib64", "usr"].contains(name)).collect();
        let expect =
            format!("api.sock dev firecracker image initrd kernel {modules}overlay run vmm.log work");
        assert_eq!(own.join(" "), expect);
        for name in ["kernel", "initrd", "image"] {
            assert_eq!(handed.told(&format!("write {name} hostile")), "error: ReadOnlyFilesystem", "{name}");
        }
        if let Some(group) = group(jail.vm) {
            let inside = fs::read_to_string(group.join("cgroup.procs")).unwrap();
            assert_eq!(inside.trim(), handed.jailed.pid.to_string());
        }
    }
    assert_ne!(one.namespace("net"), two.namespace("net"));
    assert_eq!(one.told("write work data"), "written");
    let work = cell.state.join("work");
    assert_eq!(fs::read_to_string(&work).unwrap(), "datawork of its owner");
    let kept = fs::metadata(&work).unwrap();
    assert_eq!((kept.uid(), kept.gid(), kept.mode() & 0o777), (OWNER, GROUP, 0o600));
    // Nobody but who was handed it gets to the jail.
    let place = cell.jails().join(cell.jail(1).vm.to_string());
    assert_eq!(as_owner(|| fs::read_dir(&place).unwrap_err().kind()), std::io::ErrorKind::PermissionDenied);
    // Asked for again it is the same one, however it is asked.
    let (_console, files) = cell.files(&cell.jail(1));
    assert_eq!(cell.handed(Ask::Jail(cell.jail(1)), &files).jailed, one.jailed);
    assert_eq!(cell.handed(Ask::FindJailed(cell.jail(1).vm), &[]).jailed, one.jailed);
    for (handed, jail) in [(one, cell.jail(1)), (two, cell.jail(2))] {
        for _ in 0..2 {
            cell.world.done(Ask::Unjail(jail.vm));
        }
        assert!(!handed.process.is_alive());
        assert_eq!(cell.ask(Ask::FindJailed(jail.vm), &[]).0, Answer::Refused(Refusal::NotJailed));
        // It is reaped, too.
        assert!(!Path::new(&format!("/proc/{}", handed.jailed.pid)).exists());
    }
    cell.assert_clean(cell.jail(1));
    cell.assert_clean(cell.jail(2));
}

#[test]
fn nothing_but_the_owners_own_plain_files_enters_a_jail() {
    let Some(cell) = Cell::new() else { return };
    let jail = cell.jail(2);
    let open = |path: &Path, flags| rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty()).unwrap();
    let own = cell.file("own", "text");
    let others = cell.file("others", "secret");
    chown(&others, Some(OWNER + 1), None).unwrap();
    let linked = cell.file("linked", "text");
    fs::hard_link(&linked, cell.state.join("link")).unwrap();
    let gone = cell.file("gone", "text");
    let gone = [OFlags::RDONLY, OFlags::RDWR].map(|flags| open(&gone, flags));
    fs::remove_file(cell.state.join("gone")).unwrap();
    let memory = || {
        let memory = rustix::fs::memfd_create("disk", MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::fchown(&memory, Some(Uid::from_raw(OWNER)), None).unwrap();
        memory
    };
    for (at, what) in jail.files().enumerate() {
        let (right, wrong) =
            if what.is_written() { (OFlags::RDWR, OFlags::RDONLY) } else { (OFlags::RDONLY, OFlags::RDWR) };
        let gone = &gone[usize::from(what.is_written())];
        let mut hostile = vec![
            ("opened for the other thing", open(&own, wrong)),
            ("another's", open(&others, right)),
            ("a hard link", open(&linked, right)),
            ("removed", gone.try_clone().unwrap()),
            ("a path", open(&own, OFlags::PATH)),
            ("memory", memory()),
            ("/proc", open(Path::new("/proc/self/mem"), right)),
            ("a directory", open(&cell.state, OFlags::RDONLY | OFlags::DIRECTORY)),
            ("a device", open(Path::new("/dev/null"), right)),
            ("root's pipe", host::proc::pipe().unwrap().1.into()),
        ];
        if what == JailFile::Console {
            hostile.push(("the pipe's other end", as_owner(|| host::proc::pipe().unwrap()).0.into()));
            hostile.push(("a file", open(&own, right)));
        } else {
            hostile.push(("a pipe", as_owner(|| host::proc::pipe().unwrap()).1.into()));
        }
        for (why, descriptor) in hostile {
            let (_console, mut files) = cell.files(&jail);
            files[at] = descriptor;
            let answer = cell.ask(Ask::Jail(jail), &files).0;
            assert_eq!(answer, Answer::Refused(Refusal::File), "{why} as {what:?}");
        }
    }
    let (_console, files) = cell.files(&jail);
    for count in 0..files.len() {
        let answer = cell.ask(Ask::Jail(jail), &files[..count]).0;
        assert_eq!(answer, Answer::Refused(Refusal::Descriptors), "{count}");
    }
    let fewer = Ask::Jail(Jail { modules: false, ..jail });
    assert_eq!(cell.ask(fewer, &files).0, Answer::Refused(Refusal::Descriptors));
    cell.assert_clean(jail);
}

#[test]
fn programs_that_others_than_root_can_have_written_are_not_started() {
    let Some(cell) = Cell::new() else { return };
    let programs = cell.world.root.join("usr/local/lib/banger");
    let answer = || cell.ask(Ask::Jail(cell.jail(1)), &cell.files(&cell.jail(1)).1).0;
    for name in ["firecracker", "jailer"] {
        let path = programs.join(name);
        chown(&path, Some(OWNER), None).unwrap();
        assert!(
            matches!(answer(), Answer::Failed(why) if why.contains("it does not belong to root")),
            "{name}"
        );
        chown(&path, Some(0), None).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o775)).unwrap();
        assert!(matches!(answer(), Answer::Failed(why) if why.contains("others than root may write to it")));
        fs::remove_file(&path).unwrap();
        assert_eq!(answer(), Answer::Refused(Refusal::NoJailer), "{name}");
        cell.assert_clean(cell.jail(1));
        jailer::install(&programs, &std::env::current_exe().unwrap());
    }
}

#[test]
fn there_are_as_many_jails_as_users_and_one_that_could_not_begin_takes_none() {
    let Some(cell) = Cell::with("jail_uids = '80000-80000'") else { return };
    let Some(()) = can_map(&cell) else { return };
    let (one, _console) = cell.start(cell.jail(1));
    assert_eq!(
        cell.ask(Ask::Jail(cell.jail(3)), &cell.files(&cell.jail(3)).1).0,
        Answer::Refused(Refusal::TooMany)
    );
    cell.world.done(Ask::Unjail(cell.jail(1).vm));
    assert!(!one.process.is_alive());
    // What the jailer does not like ends it, and its words are in the owner's log.
    let jailer = cell.world.root.join("usr/local/lib/banger/jailer");
    fs::write(&jailer, "#!/bin/sh\necho no device >&2\nexit 1\n").unwrap();
    let (answer, _) = cell.ask(Ask::Jail(cell.jail(3)), &cell.files(&cell.jail(3)).1);
    assert!(matches!(answer, Answer::Jailed(_)), "{answer:?}");
    eventually("it says why", || {
        fs::read_to_string(cell.state.join("vmm.log")).unwrap().contains("no device")
    });
    eventually("it has ended", || {
        cell.ask(Ask::FindJailed(cell.jail(3).vm), &[]).0 == Answer::Refused(Refusal::NotJailed)
    });
    fs::write(&jailer, "no program").unwrap();
    let (answer, _) = cell.ask(Ask::Jail(cell.jail(3)), &cell.files(&cell.jail(3)).1);
    assert!(matches!(&answer, Answer::Failed(why) if why.starts_with("cannot start")), "{answer:?}");
    cell.assert_clean(cell.jail(3));
}

#[test]
fn a_helper_that_was_killed_finds_its_jails_again() {
    let Some(mut cell) = Cell::new() else { return };
    let Some(()) = can_map(&cell) else { return };
    let (handed, _console) = cell.start(cell.jail(1));
    assert_eq!(handed.told("read image"), "the image of its owner");
    cell.world.kill();
    assert_eq!(handed.told("read image"), "the image of its owner", "it needs no helper");
    cell.world.begin();
    let again = cell.handed(Ask::FindJailed(cell.jail(1).vm), &[]);
    assert_eq!(again.jailed, handed.jailed);
    assert_eq!(again.told("read image"), "the image of its owner");
    let (other, _console) = cell.start(cell.jail(3));
    assert_eq!(other.told("read image"), "the image of its owner");
    assert_eq!(other.status("Uid:").split(' ').next(), Some("70001"), "users are taken as before");
    for jail in [cell.jail(1), cell.jail(3)] {
        cell.world.done(Ask::Unjail(jail.vm));
    }
    assert!(!handed.process.is_alive() && !other.process.is_alive());
    cell.assert_clean(cell.jail(1));
}

#[test]
fn a_helper_that_is_killed_at_any_moment_leaves_what_the_next_removes() {
    let Some(mut cell) = Cell::new() else { return };
    let Some(()) = can_map(&cell) else { return };
    let jail = cell.jail(2);
    let place = cell.jails().join(jail.vm.to_string());
    let root = place.join("firecracker").join(jail.vm.to_string()).join("root");
    let steps = ["kernel", "modules", "firecracker", "api.sock"].map(|name| root.join(name));
    let steps = [place.join("slot"), root].into_iter().chain(steps);
    // Each twice: the next helper removes it, or makes it whole.
    for (number, step) in steps.flat_map(|step| [step.clone(), step]).enumerate() {
        let (_console, files) = cell.files(&jail);
        let given: Vec<BorrowedFd<'_>> = files.iter().map(AsFd::as_fd).collect();
        let connection = cell.world.connect();
        connection.send(&packet(Ask::Jail(jail)), &given).unwrap();
        eventually("it is that far", || step.exists());
        cell.world.kill();
        cell.world.begin();
        if number % 2 == 1 {
            let handed = cell.handed(Ask::Jail(jail), &files);
            assert_eq!(handed.told("read kernel"), "the kernel of its owner", "{}", step.display());
        }
        cell.world.done(Ask::Unjail(jail.vm));
        cell.assert_clean(jail);
        assert_eq!(processes(&jail.vm.to_string()), Vec::<String>::new(), "{}", step.display());
    }
}

#[test]
fn a_jailed_machine_with_a_card_opens_its_tap_and_gets_the_signals_of_its_owner() {
    let Some(cell) = Cell::new() else { return };
    let Some(()) = can_map(&cell) else { return };
    let jail = Jail { card: true, ..cell.jail(1) };
    let vm = jail.vm;
    assert!(cell.world.status().jails);
    assert_eq!(cell.ask(Ask::Jail(jail), &cell.files(&jail).1).0, Answer::Refused(Refusal::NoTap));
    cell.assert_clean(jail);
    cell.world.done(Ask::EnsureBridge);
    cell.world.done(Ask::CreateTap(vm));
    let (handed, _console) = cell.start(jail);
    assert_eq!(handed.told("read kernel"), "the kernel of its owner");
    let links = cell.world.host.sh(&format!("ip -details link show bg-{vm}"));
    assert!(links.contains("user 70000"), "{links}");
    let network = fs::read_link(format!("/proc/{}/ns/net", cell.world.pid())).unwrap();
    assert_eq!(handed.namespace("net"), network, "there its tap is");
    // The owner is not who the machine is, so it is the helper that signals it.
    as_owner(|| assert!(handed.process.signal(Signal::Kill).is_err()));
    cell.world.done(Ask::SignalJailed(vm, Signal::Term));
    assert!(handed.process.wait_exit(DEADLINE).unwrap());
    let gone = cell.ask(Ask::SignalJailed(vm, Signal::Kill), &[]).0;
    assert_eq!(gone, Answer::Refused(Refusal::NotJailed));
    cell.world.done(Ask::Unjail(vm));
    cell.world.done(Ask::RemoveTap(vm));
    cell.world.done(Ask::RemoveBridge);
    cell.assert_clean(jail);
    fs::remove_file(cell.world.root.join("usr/local/lib/banger/jailer")).unwrap();
    assert!(!cell.world.status().jails);
}

#[test]
fn firecracker_itself_comes_up_in_the_jail_of_its_own_jailer() {
    let Some(mut cell) = Cell::new() else { return };
    let Some(()) = can_map(&cell) else { return };
    let Some(firecracker) = std::env::var_os("BANGER_TEST_FIRECRACKER").map(PathBuf::from) else {
        return need::missing("firecracker", "no BANGER_TEST_FIRECRACKER").unwrap_or(());
    };
    let programs = cell.world.root.join("usr/local/lib/banger");
    for name in ["firecracker", "jailer"] {
        let from = firecracker.with_file_name(name);
        if !from.is_file() {
            return need::missing("firecracker", "no jailer beside BANGER_TEST_FIRECRACKER").unwrap_or(());
        }
        fs::copy(from, programs.join(name)).unwrap();
    }
    let jail = cell.jail(2);
    let (handed, _console) = cell.start(jail);
    let instance = handed.requested("GET", "/", "");
    assert!(instance.contains("\"state\":\"Not started\""), "{instance}");
    assert_eq!(handed.status("Uid:").split(' ').next(), Some("70000"));
    let kernel = r#"{"kernel_image_path": "kernel", "initrd_path": "initrd"}"#;
    let mut asked = vec![("/boot-source".to_owned(), kernel.to_owned())];
    for (disk, is_read_only) in [("image", true), ("overlay", false), ("work", false), ("modules", true)] {
        let drive = format!(
            r#"{{"drive_id": "{disk}", "path_on_host": "{disk}", "is_root_device": false, "is_read_only": {is_read_only}}}"#
        );
        asked.push((format!("/drives/{disk}"), drive));
    }
    asked.push(("/vsock".to_owned(), r#"{"guest_cid": 3, "uds_path": "agent.sock"}"#.to_owned()));
    for (path, body) in asked {
        let answer = handed.requested("PUT", &path, &body);
        assert!(answer.starts_with("HTTP/1.1 204"), "{path}: {answer}");
    }
    cell.world.kill();
    cell.world.begin();
    let again = cell.handed(Ask::FindJailed(jail.vm), &[]);
    assert!(again.requested("GET", "/", "").contains("Not started"));
    cell.world.done(Ask::Unjail(jail.vm));
    assert!(!handed.process.is_alive());
    cell.assert_clean(jail);
}

/// The processes that have `word` among their arguments.
fn processes(word: &str) -> Vec<String> {
    let all = host::fs::list(Path::new("/proc")).unwrap();
    let lines = all.iter().filter_map(|path| fs::read(path.join("cmdline")).ok());
    let texts = lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " "));
    texts.filter(|text| text.contains(word)).collect()
}
