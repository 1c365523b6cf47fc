//! The store against real database files.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{collections::BTreeSet, ffi::OsString, ops::RangeInclusive, os::unix::ffi::OsStringExt};

use model::{
    GroupName, ImageName, KernelName, OperationId, SnapshotName, VmId, VmName,
    network::{HostLoopback, Link, Nat, Network},
    sizing::{Host, Wish, resolve},
    undo::{ProcessEntry, Undo},
    vm::State,
    workspace::GuestPath,
};
use store::{
    Commit, Compatibility, Error, Image, Kernel, Ready, Reserved, Snapshot, Starting, Store, Vm, Workspace,
};

struct Scratch(std::path::PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("banger-store-{name}-{}", std::process::id()));
        let _ = host::fs::remove_all(&dir);
        host::fs::create_dir(&dir).unwrap();
        Self(dir)
    }

    fn database(&self) -> std::path::PathBuf {
        self.0.join("banger.db")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        host::fs::remove_all(&self.0).unwrap();
    }
}

/// What was made without staging.
const NO_ENTRY: i64 = 0;

fn operation() -> OperationId {
    OperationId::from_uuid([1; 16])
}

fn kernel() -> Kernel {
    Kernel {
        id: "k1".to_owned(),
        name: KernelName::try_from("default").unwrap(),
        release: "6.1.0".to_owned(),
        source: "a.deb".to_owned(),
        size: 7,
        created_ms: 1,
    }
}

fn image() -> Image {
    Image {
        id: "i1".to_owned(),
        name: ImageName::try_from("debian").unwrap(),
        source: "tar".to_owned(),
        digest: "00".to_owned(),
        size: 7,
        uuid: "u".to_owned(),
        kernel: Some(KernelName::try_from("default").unwrap()),
        ready: Ready::Init,
        init: "systemd".to_owned(),
        created_ms: 1,
    }
}

fn vm(number: u8, name: &str) -> Vm {
    Vm {
        id: VmId::from_bytes([number; 6]),
        name: VmName::try_from(name).unwrap(),
        state: State::Created,
        reason: None,
        image: "i1".to_owned(),
        kernel: "k1".to_owned(),
        vmm: "qemu".to_owned(),
        sizes: resolve(Wish::default(), Wish::default(), Host { cpus: 4, memory: 8 << 30 }).unwrap(),
        network: Network { nat: Nat::On, loopback: HostLoopback::Allowed, ..Network::default() },
        group: None,
        user: Some("ci:users".to_owned()),
        env: "[]".to_owned(),
        ready: Some(Ready::Agent),
        rm: true,
        machine_id: "m".to_owned(),
        secret: None,
        build: None,
        has_secrets: false,
        snapshot: None,
        created_ms: 5,
        started_ms: None,
        timeline: "[]".to_owned(),
    }
}

fn starting(link: Link) -> Starting {
    Starting { secret: "s".to_owned(), link: Some(link), build: "7.2 tcg".to_owned(), has_secrets: true }
}

fn snapshot() -> Snapshot {
    Snapshot {
        id: "s1".to_owned(),
        name: SnapshotName::try_from("warm").unwrap(),
        vm: "one".to_owned(),
        image: "i1".to_owned(),
        kernel: "k1".to_owned(),
        vmm: "qemu".to_owned(),
        build: "7.2 tcg".to_owned(),
        agent: 1,
        vcpu: 2,
        memory: 3 << 30,
        disk: 4,
        overlay: 5,
        link: Some(Link::Bridge),
        nat: Nat::On,
        env: "[]".to_owned(),
        secret: "s".to_owned(),
        has_secrets: true,
        files: "[]".to_owned(),
        size: 6,
        created_ms: 7,
    }
}

/// Reserves a VM that an operation makes.
fn insert(store: &Store, vm: Vm) -> store::Result<Option<i64>> {
    reserve(store, vm, None).map(|reserved| reserved.entry)
}

/// The same with one of `numbers`.
fn reserve(store: &Store, vm: Vm, numbers: Option<RangeInclusive<u16>>) -> store::Result<Reserved> {
    let (sender, answer) = std::sync::mpsc::channel();
    store.vm_insert(vm, numbers, Some(&operation()), move |answer| sender.send(answer).unwrap());
    answer.recv().unwrap().unwrap()
}

#[test]
fn records_are_read_back_as_they_were_written() {
    let scratch = Scratch::new("records");
    let store = Store::open(&scratch.database()).unwrap();
    store.kernel_insert(kernel(), NO_ENTRY).unwrap();
    store.image_insert(image(), NO_ENTRY).unwrap();
    insert(&store, vm(1, "one")).unwrap();
    drop(store);
    assert_eq!(Store::check(&scratch.database()).unwrap(), Compatibility::Current);
    let store = Store::open(&scratch.database()).unwrap();
    assert_eq!(store.kernel_list().unwrap(), [kernel()]);
    assert_eq!(store.image_list().unwrap(), [image()]);
    assert_eq!(store.vm_list().unwrap(), [vm(1, "one")]);
    store.vm_starting(vm(1, "one").id, starting(Link::Namespace), None).unwrap();
    store.vm_nat(vm(1, "one").id, Nat::Off, HostLoopback::Closed).unwrap();
    store.vm_started(vm(1, "one").id, 9, "[1]".to_owned()).unwrap();
    let expect = Vm {
        state: State::Running,
        secret: Some("s".to_owned()),
        build: Some("7.2 tcg".to_owned()),
        has_secrets: true,
        network: Network { link: Some(Link::Namespace), ..Network::default() },
        started_ms: Some(9),
        timeline: "[1]".to_owned(),
        ..vm(1, "one")
    };
    assert_eq!(store.vm_get(vm(1, "one").id).unwrap(), expect);
}

#[test]
fn a_snapshot_keeps_image_and_kernel_and_is_kept_by_what_is_being_made_of_it() {
    let scratch = Scratch::new("snapshots");
    let store = Store::open(&scratch.database()).unwrap();
    store.kernel_insert(kernel(), NO_ENTRY).unwrap();
    store.image_insert(image(), NO_ENTRY).unwrap();
    let of_it = |number, name: &str| Vm { snapshot: Some("s1".to_owned()), ..vm(number, name) };
    assert!(matches!(insert(&store, of_it(1, "early")), Err(Error::Missing)), "there is no snapshot yet");
    store.snapshot_insert(snapshot(), NO_ENTRY).unwrap();
    let again = Snapshot { id: "s2".to_owned(), ..snapshot() };
    assert!(matches!(store.snapshot_insert(again, NO_ENTRY), Err(Error::Taken(name)) if name == "warm"));
    assert_eq!(store.snapshot_list().unwrap(), [snapshot()]);
    assert_eq!(store.snapshot_named("warm").unwrap(), Some(snapshot()));
    assert_eq!(
        (store.snapshot_get("s1").unwrap(), store.snapshot_get("s2").unwrap()),
        (Some(snapshot()), None)
    );

    assert!(matches!(store.image_delete("i1"), Err(Error::InUse(users)) if users == ["snapshot warm"]));
    assert_eq!(store.kernel_users("k1").unwrap(), ["image debian", "snapshot warm"]);
    for (number, name) in [(1, "runs"), (2, "failed"), (3, "gone")] {
        insert(&store, of_it(number, name)).unwrap();
        let users = [format!("VM {name}")];
        assert!(matches!(store.snapshot_delete("s1"), Err(Error::InUse(found)) if found == users));
        let id = VmId::from_bytes([number; 6]);
        match name {
            "runs" => store.vm_started(id, 9, "[]".to_owned()).unwrap(),
            "failed" => store.vm_failed(id, "it did not answer".to_owned()).unwrap(),
            _ => store.vm_delete(id).unwrap(),
        }
    }
    store.snapshot_delete("s1").unwrap();
    assert!(matches!(store.snapshot_delete("s1"), Err(Error::Missing)));
    assert_eq!(store.image_users("i1").unwrap(), ["failed", "runs"]);
}

#[test]
fn a_name_is_reserved_once_and_exactly() {
    let scratch = Scratch::new("names");
    let store = Store::open(&scratch.database()).unwrap();
    assert!(matches!(insert(&store, vm(1, "beta")), Err(Error::Missing)), "no image yet");
    store.kernel_insert(kernel(), NO_ENTRY).unwrap();
    store.image_insert(image(), NO_ENTRY).unwrap();
    insert(&store, vm(1, "beta-sandbox")).unwrap();
    insert(&store, vm(2, "beta")).unwrap();
    assert!(matches!(insert(&store, vm(3, "beta")), Err(Error::Taken(name)) if name == "beta"));
    assert!(matches!(store.image_insert(image(), NO_ENTRY), Err(Error::Taken(_))));
    let outcomes: Vec<bool> = std::thread::scope(|scope| {
        let tries: Vec<_> = (10..30)
            .map(|n| {
                let store = store.clone();
                scope.spawn(move || insert(&store, vm(n, "race")).is_ok())
            })
            .collect();
        tries.into_iter().map(|t| t.join().unwrap()).collect()
    });
    assert_eq!(outcomes.iter().filter(|won| **won).count(), 1);
}

#[test]
fn an_image_takes_the_place_of_one_of_its_name() {
    let scratch = Scratch::new("supersede");
    let store = Store::open(&scratch.database()).unwrap();
    store.kernel_insert(kernel(), NO_ENTRY).unwrap();
    let named = |id: &str| Image { id: id.to_owned(), ..image() };
    let images = || -> Vec<_> {
        let images = store.image_list().unwrap().into_iter();
        images.map(|image| (image.name.to_string(), image.id.clone(), image.is_superseded())).collect()
    };
    let row = |name: &str, id: &str, is_superseded| (name.to_owned(), id.to_owned(), is_superseded);
    assert_eq!(store.image_supersede(named("0123456789abcdef"), NO_ENTRY).unwrap(), None);
    insert(&store, Vm { image: "0123456789abcdef".to_owned(), ..vm(1, "one") }).unwrap();
    // One that is in use stays, the next one goes.
    assert_eq!(store.image_supersede(named("fedcba9876543210"), NO_ENTRY).unwrap(), None);
    let old = store.image_supersede(named("00112233445566"), NO_ENTRY).unwrap();
    assert_eq!(old.as_deref(), Some("fedcba9876543210"));
    let expected =
        [row("debian", "00112233445566", false), row("debian-0123456789ab", "0123456789abcdef", true)];
    assert_eq!(images(), expected);
    // Without its kernel nothing changes.
    let orphan = Image { kernel: Some(KernelName::try_from("gone").unwrap()), ..named("x") };
    assert!(matches!(store.image_supersede(orphan, NO_ENTRY), Err(Error::Missing)));
    assert_eq!(images(), expected);
}

#[test]
fn what_is_in_use_stays() {
    let scratch = Scratch::new("in-use");
    let store = Store::open(&scratch.database()).unwrap();
    store.kernel_insert(kernel(), NO_ENTRY).unwrap();
    store.image_insert(image(), NO_ENTRY).unwrap();
    insert(&store, vm(1, "one")).unwrap();
    assert!(matches!(store.image_delete("i1"), Err(Error::InUse(users)) if users == ["one"]));
    assert!(
        matches!(store.kernel_delete("k1"), Err(Error::InUse(users)) if users == ["VM one", "image debian"])
    );
    store.vm_delete(vm(1, "one").id).unwrap();
    store.image_delete("i1").unwrap();
    store.kernel_delete("k1").unwrap();
    assert!(matches!(store.image_delete("i1"), Err(Error::Missing)));
}

#[test]
fn strays_are_what_is_held_for_vms_that_are_gone() {
    let scratch = Scratch::new("strays");
    let store = Store::open(&scratch.database()).unwrap();
    store.kernel_insert(kernel(), NO_ENTRY).unwrap();
    store.image_insert(image(), NO_ENTRY).unwrap();
    insert(&store, vm(1, "one")).unwrap();
    let (here, gone) = (vm(1, "one").id, vm(2, "two").id);
    store.ledger_open(Some(here), &operation(), &Undo::Tap).unwrap();
    store.ledger_open(None, &operation(), &Undo::Staging("s".to_owned())).unwrap();
    assert_eq!(store.ledger_strays().unwrap(), []);
    store.ledger_open(Some(gone), &operation(), &Undo::Tap).unwrap();
    let strays = store.ledger_strays().unwrap();
    assert_eq!(strays.iter().map(|e| (e.vm, &e.undo)).collect::<Vec<_>>(), [(Some(gone), &Undo::Tap)]);
}

#[test]
fn the_ledger_keeps_the_order_of_effects() {
    let scratch = Scratch::new("ledger");
    let store = Store::open(&scratch.database()).unwrap();
    let (a, b) = (VmId::from_bytes([1; 6]), VmId::from_bytes([2; 6]));
    let process = Undo::Process(ProcessEntry { pid: 1, start: 2, boot: "b".to_owned() });
    let first = store.ledger_open(Some(a), &operation(), &Undo::RunDirectory).unwrap();
    store.ledger_open(Some(b), &operation(), &Undo::RunDirectory).unwrap();
    let last = store.ledger_open(Some(a), &operation(), &process).unwrap();
    store.ledger_taken(first).unwrap();
    let entries = store.ledger_list(Some(a)).unwrap();
    assert_eq!(
        entries.iter().map(|e| (&e.undo, e.taken)).collect::<Vec<_>>(),
        [(&Undo::RunDirectory, true), (&process, false)]
    );
    assert_eq!(store.ledger_list(None).unwrap().len(), 3);
    store.ledger_close(last).unwrap();
    assert_eq!(store.ledger_list(Some(a)).unwrap().len(), 1);
}

#[test]
fn a_newer_or_damaged_database_is_refused_untouched() {
    let scratch = Scratch::new("damage");
    let path = scratch.database();
    assert_eq!(Store::check(&path).unwrap(), Compatibility::Absent);
    drop(Store::open(&path).unwrap());

    let newer = scratch.0.join("newer.db");
    let mut bytes = host::fs::read(&path).unwrap();
    bytes[60..64].copy_from_slice(&99u32.to_be_bytes()); // user_version, at offset 60 of the header
    host::fs::write_atomic(&newer, &bytes).unwrap();
    assert_eq!(Store::check(&newer).unwrap(), Compatibility::Newer);
    assert!(matches!(Store::open(&newer), Err(Error::Newer { found: 99, .. })));

    let damaged = scratch.0.join("damaged.db");
    host::fs::write_atomic(&damaged, b"this is no database, though long enough to look at").unwrap();
    assert!(matches!(Store::open(&damaged), Err(Error::Damaged { .. })));
    assert_eq!(host::fs::read(&damaged).unwrap(), b"this is no database, though long enough to look at");
}

#[test]
fn whoever_closes_last_puts_the_log_back() {
    let scratch = Scratch::new("close");
    let is_open = || {
        let open = host::fs::list("/proc/self/fd".as_ref()).unwrap();
        open.iter().any(|fd| std::fs::read_link(fd).is_ok_and(|file| file.starts_with(&scratch.0)))
    };
    for round in 0..50 {
        let store = Store::open(&scratch.database()).unwrap();
        let _ = store.ledger_open(None, &operation(), &Undo::Staging(round.to_string())).unwrap();
        assert_eq!(store.vm_list().unwrap(), []);
        drop(store);
        while is_open() {
            std::thread::yield_now();
        }
        assert_eq!(host::fs::list(&scratch.0).unwrap(), [scratch.database()], "round {round}");
    }
}

#[test]
fn a_publication_closes_its_staging_entry() {
    let scratch = Scratch::new("publication");
    let store = Store::open(&scratch.database()).unwrap();
    let staging = |name: &str| Undo::Staging(name.to_owned());
    let [kernel_entry, image_entry] =
        ["k", "i"].map(|name| store.ledger_open(None, &operation(), &staging(name)).unwrap());
    store.kernel_insert(kernel(), kernel_entry).unwrap();
    store.image_insert(image(), image_entry).unwrap();
    assert_eq!(store.ledger_list(None).unwrap(), []);
}

#[test]
fn a_witness_sees_what_is_committed_and_can_prevent_it() {
    let scratch = Scratch::new("witness");
    let (sender, seen) = std::sync::mpsc::channel();
    let store = Store::open(&scratch.database()).unwrap();
    let plain = store.clone();
    let watched = store.with_witness(std::sync::Arc::new(move |commit| {
        sender.send(commit).unwrap();
        Err(Error::Full)
    }));
    assert_eq!(watched.ledger_list(None).unwrap(), []);
    assert_eq!(seen.try_recv().ok(), None, "what reads commits nothing");
    let undo = Undo::Staging("x".to_owned());
    assert!(matches!(watched.ledger_open(None, &operation(), &undo), Err(Error::Full)));
    assert_eq!(seen.try_iter().collect::<Vec<_>>(), [Commit::Before]);
    assert_eq!(plain.ledger_list(None).unwrap(), [], "it was rolled back");
}

#[test]
fn what_waits_together_is_committed_together_and_each_has_its_own_answer() {
    let scratch = Scratch::new("together");
    let store = Store::open(&scratch.database()).unwrap();
    store.kernel_insert(kernel(), NO_ENTRY).unwrap();
    store.image_insert(image(), NO_ENTRY).unwrap();
    // The first one's news hold up the thread, until the others wait for it.
    let (go_on, held) = std::sync::mpsc::channel::<()>();
    let held = std::sync::Mutex::new(held);
    let (enter, entered) = std::sync::mpsc::channel();
    store.listen(move |_| {
        let _ = enter.send(());
        let _ = held.lock().unwrap().recv();
    });
    let (sender, seen) = std::sync::mpsc::channel();
    let watched = store.clone().with_witness(std::sync::Arc::new(move |commit| {
        sender.send(commit).unwrap();
        Ok(())
    }));
    let (sender, answers) = std::sync::mpsc::channel();
    store.vm_insert(vm(1, "one"), None, None, |_| {});
    entered.recv().unwrap();
    for (number, name) in [(2, "two"), (3, "two"), (4, "four")] {
        let sender = sender.clone();
        let reply = move |answer: store::Answer<_>| sender.send((number, answer.unwrap())).unwrap();
        watched.vm_insert(vm(number, name), None, Some(&operation()), reply);
    }
    drop(go_on);
    drop(sender);
    let answers: Vec<_> = answers.iter().collect();
    assert!(matches!(
        &answers[..],
        [(2, Ok(Reserved { entry: Some(_), .. })), (3, Err(Error::Taken(name))), (4, Ok(Reserved { entry: Some(_), .. }))] if name == "two"
    ));
    let [before, after] = [Commit::Before, Commit::After];
    assert_eq!(seen.try_iter().collect::<Vec<_>>(), [before, before, after, after]);
    let names: Vec<String> = store.vm_list().unwrap().into_iter().map(|vm| vm.name.to_string()).collect();
    assert_eq!(names, ["one", "two", "four"]);
    assert_eq!(store.ledger_list(None).unwrap().len(), 2);
}

#[test]
fn a_panic_in_a_transaction_is_its_callers_alone() {
    let scratch = Scratch::new("panic");
    let store = Store::open(&scratch.database()).unwrap();
    let watched =
        store.clone().with_witness(std::sync::Arc::new(|_| std::panic::resume_unwind(Box::new("killed"))));
    let undo = Undo::Staging("x".to_owned());
    let open = || watched.ledger_open(None, &operation(), &undo);
    let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(open)).unwrap_err();
    assert_eq!(panic.downcast_ref(), Some(&"killed"));
    assert_eq!(store.ledger_list(None).unwrap(), []);
}

fn workspace(head: &str) -> Workspace {
    Workspace {
        guest_path: GuestPath::try_from("/root/repo").unwrap(),
        host_path: OsString::from_vec(b"/home/\xff/repo".to_vec()).into(),
        head: head.to_owned(),
        tree: "t".to_owned(),
        prepared_ms: 7,
    }
}

#[test]
fn a_vm_has_one_workspace_which_goes_with_it() {
    let scratch = Scratch::new("workspace");
    let store = Store::open(&scratch.database()).unwrap();
    store.kernel_insert(kernel(), NO_ENTRY).unwrap();
    store.image_insert(image(), NO_ENTRY).unwrap();
    let id = vm(1, "one").id;
    assert!(matches!(store.workspace_put(id, workspace("a")), Err(Error::Missing)));
    insert(&store, vm(1, "one")).unwrap();
    assert_eq!(store.workspace_get(id).unwrap(), None);
    store.workspace_put(id, workspace("a")).unwrap();
    store.workspace_put(id, workspace("b")).unwrap();
    assert_eq!(store.workspace_get(id).unwrap(), Some(workspace("b")));
    assert_eq!(store.workspace_list().unwrap(), [(id, workspace("b").guest_path)]);
    store.workspace_forget(id).unwrap();
    assert_eq!(store.workspace_get(id).unwrap(), None);
    store.workspace_put(id, workspace("c")).unwrap();
    store.vm_delete(id).unwrap();
    assert_eq!(store.workspace_get(id).unwrap(), None);
}

/// A store with the kernel and the image that VMs need.
fn furnished(scratch: &Scratch) -> Store {
    let store = Store::open(&scratch.database()).unwrap();
    store.kernel_insert(kernel(), NO_ENTRY).unwrap();
    store.image_insert(image(), NO_ENTRY).unwrap();
    store
}

#[test]
fn an_address_is_the_lowest_free_one_until_its_record_goes() {
    let scratch = Scratch::new("leases");
    let store = furnished(&scratch);
    let lease =
        |n: u8| reserve(&store, vm(n, &format!("vm-{n}")), Some(2..=4)).map(|reserved| reserved.number);
    assert_eq!([1, 2, 3].map(|n| lease(n).unwrap()), [Some(2), Some(3), Some(4)]);
    assert!(matches!(lease(4), Err(Error::NoAddress(3))));
    // What was refused left nothing, also not its name.
    assert_eq!(store.vm_list().unwrap().len(), 3);
    // Who has no address is none of theirs, and gets one when it first starts on the bridge.
    assert_eq!(reserve(&store, vm(5, "plain"), None).unwrap().number, None);
    let start =
        |n: u8, numbers| store.vm_starting(VmId::from_bytes([n; 6]), starting(Link::Bridge), Some(numbers));
    assert!(matches!(start(5, 2..=4), Err(Error::NoAddress(3))));
    assert_eq!((start(5, 2..=6).unwrap(), start(5, 2..=6).unwrap()), (Some(5), Some(5)));
    assert_eq!(start(1, 2..=6).unwrap(), Some(2));
    // Where that is none any more, another one is its own.
    assert_eq!(start(5, 6..=7).unwrap(), Some(6));
    assert!(matches!(start(9, 2..=6), Err(Error::Missing)));
    store.vm_delete(VmId::from_bytes([2; 6])).unwrap();
    assert_eq!(lease(6).unwrap(), Some(3));
    store.vm_delete(VmId::from_bytes([1; 6])).unwrap();
    assert_eq!(lease(7).unwrap(), Some(2));
    assert_eq!(store.vm_get(VmId::from_bytes([7; 6])).unwrap().network.number, Some(2));
    // In another subnet what is leased of it stays leased.
    assert_eq!(reserve(&store, vm(8, "eight"), Some(3..=6)).unwrap().number, Some(5));
    drop(store);
    let store = Store::open(&scratch.database()).unwrap();
    assert!(matches!(reserve(&store, vm(9, "nine"), Some(2..=6)), Err(Error::NoAddress(5))));
}

#[test]
fn vms_of_a_group_have_its_number_and_no_other_group_has() {
    let scratch = Scratch::new("groups");
    let store = furnished(&scratch);
    let make = |n: u8, group: &str| {
        let group = Some(GroupName::try_from(group).unwrap());
        let reserved = reserve(&store, Vm { group, ..vm(n, &format!("vm-{n}")) }, None).unwrap();
        reserved.group.unwrap().get()
    };
    assert_eq!([make(1, "db"), make(2, "web"), make(3, "db"), make(4, "ci")], [1, 2, 1, 3]);
    assert_eq!(reserve(&store, vm(5, "alone"), None).unwrap().group, None);
    let read = store.vm_get(VmId::from_bytes([3; 6])).unwrap();
    assert_eq!((read.group.unwrap().as_str(), read.network.group.unwrap().get()), ("db", 1));
    store.vm_delete(VmId::from_bytes([2; 6])).unwrap();
    store.vm_delete(VmId::from_bytes([1; 6])).unwrap();
    assert_eq!([make(6, "new"), make(7, "db"), make(8, "more")], [2, 1, 4]);
}

#[test]
fn who_reserves_at_the_same_time_gets_an_address_alone() {
    let scratch = Scratch::new("parallel-leases");
    let store = furnished(&scratch);
    let numbers: Vec<Option<u16>> = std::thread::scope(|scope| {
        let each = |n: u8| {
            let store = store.clone();
            scope.spawn(move || reserve(&store, vm(n, &format!("vm-{n}")), Some(2..=254)).unwrap().number)
        };
        let tries: Vec<_> = (10..74).map(each).collect();
        tries.into_iter().map(|one| one.join().unwrap()).collect()
    });
    let distinct: BTreeSet<u16> = numbers.into_iter().flatten().collect();
    assert_eq!(distinct, (2..66).collect());
}

#[test]
fn a_database_of_the_first_version_is_taken_over_and_kept() {
    let scratch = Scratch::new("migration");
    let path = scratch.database();
    let old = rusqlite::Connection::open(&path).unwrap();
    old.execute_batch(include_str!("../../src/migrations/0001.sql")).unwrap();
    old.execute_batch(
        "PRAGMA user_version = 1;
         INSERT INTO kernel VALUES ('k1', 'default', '6.1.0', 'a.deb', 7, 1);
         INSERT INTO image VALUES ('i1', 'debian', 'tar', '00', 7, 'u', 'default', 'init', 'systemd', 1);",
    )
    .unwrap();
    drop(old);
    assert_eq!(Store::check(&path).unwrap(), Compatibility::Older);
    let store = Store::open(&path).unwrap();
    assert_eq!((store.kernel_list().unwrap(), store.image_list().unwrap()), (vec![kernel()], vec![image()]));
    insert(&store, vm(1, "one")).unwrap();
    store.workspace_put(vm(1, "one").id, workspace("a")).unwrap();
    assert_eq!(Store::check(&scratch.0.join("banger.db.v1")).unwrap(), Compatibility::Older);
}

#[test]
fn vms_of_a_version_without_leases_have_none_and_may_have_one() {
    let scratch = Scratch::new("unleased");
    let path = scratch.database();
    let old = rusqlite::Connection::open(&path).unwrap();
    for migration in [
        include_str!("../../src/migrations/0001.sql"),
        include_str!("../../src/migrations/0002.sql"),
        include_str!("../../src/migrations/0003.sql"),
    ] {
        old.execute_batch(migration).unwrap();
    }
    let rows = ["010101010101', 'one", "020202020202', 'two"].map(|row| {
        format!(
            "INSERT INTO vm VALUES ('{row}', 'stopped', NULL, 'i1', 'k1', 'qemu', 2, 'host', 1, 'host', 1, 'default', \
             1, 'default', '[]', NULL, 0, 'm', NULL, 5, NULL, '[]', 1, 0, 'user');"
        )
    });
    old.execute_batch(
        "PRAGMA user_version = 3;
         INSERT INTO kernel VALUES ('k1', 'default', '6.1.0', 'a.deb', 7, 1);
         INSERT INTO image VALUES ('i1', 'debian', 'tar', '00', 7, 'u', 'default', 'init', 'systemd', 1);",
    )
    .unwrap();
    old.execute_batch(&rows.concat()).unwrap();
    drop(old);
    let store = Store::open(&path).unwrap();
    let numbers: Vec<_> = store.vm_list().unwrap().into_iter().map(|vm| vm.network.number).collect();
    assert_eq!(numbers, [None, None]);
    // What was put into them nobody knows any more.
    assert!(store.vm_list().unwrap().iter().all(|vm| vm.has_secrets && vm.build.is_none()));
    assert_eq!(reserve(&store, vm(3, "three"), Some(2..=254)).unwrap().number, Some(2));
    assert_eq!(Store::check(&scratch.0.join("banger.db.v3")).unwrap(), Compatibility::Older);
}
