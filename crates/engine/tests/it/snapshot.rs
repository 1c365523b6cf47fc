//! Snapshots, and the VMs that go on from them.

use std::os::unix::fs::FileExt;

use testkit::home::wait_until;
use wire::control::{Code, CreateVm, ErrorBody, Outcome, TakeSnapshot};

use crate::{
    guest::{HELD, Manner},
    verb::{self, Verb::*},
    world::{SOON, World},
};

fn create(world: &World, request: CreateVm) -> Result<Outcome, ErrorBody> {
    world.end(&world.begin_with(engine::Kind::VmCreate, |engine, op| engine.vm_create(op, request)))
}

fn take(world: &World, vm: &'static str, name: &str, with_secrets: bool) -> Result<Outcome, ErrorBody> {
    let request = TakeSnapshot { name: name.to_owned(), with_secrets };
    let kind = engine::Kind::VmSnapshot;
    world.end(&world.begin_with(kind, |engine, op| engine.vm_snapshot(op, vm.to_owned(), request)))
}

fn seen(world: &World) -> Vec<String> {
    let scene = world.look();
    assert_eq!(scene.leaks, Vec::<String>::new());
    scene.seen.into_iter().collect()
}

/// The file of the work disk of VM `name`.
fn work_disk(world: &World, name: &str) -> std::path::PathBuf {
    let id = world.engine().vm_show(name).unwrap().id;
    world.home().join("state/vms").join(id).join("work.ext4")
}

#[test]
fn ten_go_on_side_by_side_each_as_itself_on_disks_of_its_own() {
    const CLONES: [&str; 10] = ["c0", "c1", "c2", "c3", "c4", "c5", "c6", "c7", "c8", "c9"];
    let world = World::new();
    world.prepare(&[Create("a")]);
    let before = host::fs::read(&work_disk(&world, "a")).unwrap();
    world.prepare(&[Snapshot("a", "s")]);
    let begun = CLONES.map(|name| world.begin(&CreateFrom(name, "s")));
    begun.iter().for_each(|create| drop(world.end(create).unwrap()));

    let mut names = world.memories();
    names.sort();
    assert_eq!(
        names,
        ["", "c0", "c1", "c2", "c3", "c4", "c5", "c6", "c7", "c8", "c9"],
        "the guests' own names"
    );
    for name in CLONES {
        let (vm, disk) = (world.engine().vm_show(name).unwrap(), work_disk(&world, name));
        assert_eq!((&*vm.image, vm.disk.value), ("tiny", 64 << 20));
        assert!(host::fs::read(&disk).unwrap() == before, "{name} has other content");
        assert!(vm.timeline.iter().any(|phase| phase.step.name == "identity"));
    }
    host::fs::open_rw(&work_disk(&world, "c0")).unwrap().write_all_at(&[7; 4096], 0).unwrap();
    assert!(host::fs::read(&work_disk(&world, "c1")).unwrap() == before);
    // They need it no more.
    world.prepare(&[DeleteSnapshot("s"), Stop("c1"), Start("c1")]);
    assert_eq!(world.look().leaks, Vec::<String>::new());
    assert!(!world.memories().contains(&"c1".to_owned()), "a start boots it anew");
}

#[test]
fn a_daemon_that_ends_leaves_who_goes_on_from_a_snapshot_running() {
    let mut world = World::new();
    world.prepare(&[Create("a"), Snapshot("a", "s"), CreateFrom("b", "s")]);
    let pid = world.engine().vm_show("b").unwrap().pid;
    world.reopen();
    assert_eq!(world.engine().vm_show("b").unwrap().pid, pid);
    world.prepare(&[Snapshot("b", "t"), CreateFrom("c", "t")]);
    let vms = ["image tiny", "kernel debian-cloud", "snapshot s", "snapshot t"].map(str::to_owned);
    let vms = vms.into_iter().chain(["vm a running", "vm b running", "vm c running"].map(str::to_owned));
    assert_eq!(seen(&world), vms.collect::<Vec<_>>());
}

#[test]
fn what_contradicts_a_snapshot_is_refused_and_nothing_is_made() {
    let world = World::new();
    world.prepare(&[Create("a"), Snapshot("a", "s"), ImportImage("other")]);
    let before = seen(&world);
    let of_it = || verb::clone("b", "s");
    for (request, why) in [
        (CreateVm { no_start: true, ..of_it() }, "a machine goes on from it at once, or not at all"),
        (CreateVm { image: Some("other".to_owned()), ..of_it() }, "its machine runs another one"),
        (CreateVm { vmm: Some("qemu".to_owned()), ..of_it() }, "fake saved it"),
        (CreateVm { vcpu: Some(63), ..of_it() }, "its machine has"),
        (CreateVm { memory: Some(77 << 20), ..of_it() }, "its machine has"),
        (CreateVm { disk_size: Some(65 << 20), ..of_it() }, "its machine has 64 MiB"),
        (CreateVm { overlay_size: Some(65 << 20), ..of_it() }, "its machine has 64 MiB"),
    ] {
        let error = create(&world, request).unwrap_err();
        assert_eq!(error.code, Code::Invalid, "{error:?}");
        assert!(error.causes[0].starts_with("snapshot s: ") && error.causes[0].contains(why), "{error:?}");
    }
    let error = create(&world, CreateVm { nat: Some(true), ..of_it() }).unwrap_err();
    assert!(matches!(error.code, Code::Conflict | Code::Host), "{error:?}");
    assert_eq!(create(&world, verb::clone("b", "t")).unwrap_err().code, Code::NotFound);
    assert_eq!(seen(&world), before);
    // What agrees with it may be said.
    let said = CreateVm {
        image: Some("tiny".to_owned()),
        disk_size: Some(64 << 20),
        vmm: Some("auto".to_owned()),
        nat: Some(false),
        ..of_it()
    };
    create(&world, said).unwrap();
}

#[test]
fn what_may_be_secret_is_saved_only_where_that_is_asked_for() {
    let world = World::new();
    let env = vec![("TOKEN".into(), "x".into())];
    create(&world, CreateVm { env: env.clone(), ..verb::vm("a") }).unwrap();
    let error = take(&world, "a", "s", false).unwrap_err();
    assert_eq!(error.code, Code::Conflict);
    assert_eq!(error.hint.unwrap(), "banger vm snapshot a s --with-secrets");
    take(&world, "a", "s", true).unwrap();
    assert!(world.engine().snapshot_show("s").unwrap().has_secrets);
    // Whoever goes on from it has them.
    world.prepare(&[CreateFrom("b", "s")]);
    assert_eq!(take(&world, "b", "t", false).unwrap_err().code, Code::Conflict);
    // So has one that is given its own.
    world.prepare(&[Create("c"), Snapshot("c", "plain")]);
    create(&world, CreateVm { env, ..verb::clone("d", "plain") }).unwrap();
    assert_eq!(take(&world, "d", "t", false).unwrap_err().code, Code::Conflict);
}

#[test]
fn a_snapshot_keeps_its_image_and_kernel() {
    let world = World::new();
    world.prepare(&[Create("a"), Snapshot("a", "s"), Delete("a")]);
    let error = world.run(&DeleteImage("tiny")).unwrap_err();
    assert_eq!((error.code, &*error.message), (Code::InUse, "it is used by snapshot s"));
    assert_eq!(world.run(&DeleteKernel("debian-cloud")).unwrap_err().code, Code::InUse);
    assert_eq!(world.engine().image_show("tiny").unwrap().used_by, ["snapshot s"]);
    world.prepare(&[CreateFrom("b", "s"), Delete("b"), DeleteSnapshot("s"), DeleteImage("tiny")]);
    world.prepare(&[DeleteKernel("debian-cloud")]);
}

#[test]
fn another_build_of_the_vmm_does_not_go_on_from_a_snapshot() {
    let mut world = World::new();
    world.prepare(&[Create("a"), Snapshot("a", "s")]);
    world.close();
    world.upgrade_vmm("2");
    world.open();
    // That of the machine counts, which runs since before.
    world.prepare(&[Snapshot("a", "t")]);
    for name in ["s", "t"] {
        let error = create(&world, verb::clone("b", name)).unwrap_err();
        assert_eq!(error.code, Code::Conflict);
        let why = "cannot be gone on from: the build of its VMM was \"1 tcg\", and is \"2 tcg\" now";
        assert_eq!(error.message, format!("snapshot {name} {why}"));
    }
    world.prepare(&[Restart("a"), Snapshot("a", "u"), CreateFrom("b", "u")]);
}

#[test]
fn a_snapshot_is_not_deleted_under_who_is_being_made_of_it() {
    let world = World::new();
    world.prepare(&[Create("a"), Snapshot("a", "s")]);
    world.manner.send_replace(Manner::Booting);
    let create = world.begin(&CreateFrom("b", "s"));
    wait_until(SOON, "its machine runs", || world.processes().len() == 2);
    let error = world.run(&DeleteSnapshot("s")).unwrap_err();
    assert_eq!((error.code, &*error.message), (Code::InUse, "it is used by VM b"));
    world.manner.send_replace(Manner::Good);
    world.end(&create).unwrap();
    world.prepare(&[DeleteSnapshot("s")]);
}

#[test]
fn a_guest_that_takes_no_identity_serves_nobody_and_boots_anew() {
    let world = World::new();
    world.prepare(&[Create("a"), Snapshot("a", "s")]);
    world.manner.send_replace(Manner::Stubborn);
    let error = world.run(&CreateFrom("b", "s")).unwrap_err();
    assert_eq!(
        (error.code, &*error.message),
        (Code::Guest, "the guest of VM b did not take an identity of its own")
    );
    world.manner.send_replace(Manner::Good);
    assert!(seen(&world).contains(&"vm b error".to_owned()));
    world.prepare(&[Start("b")]);
    assert_eq!(world.memories(), ["", ""]);
}

#[test]
fn a_guest_whose_first_connection_is_never_answered_is_asked_by_another() {
    let world = World::new();
    world.prepare(&[Create("a"), Snapshot("a", "s")]);
    world.manner.send_replace(Manner::DeafAtFirst);
    world.prepare(&[CreateFrom("b", "s"), Create("c")]);
    assert_eq!(seen(&world)[3..], ["vm a running", "vm b running", "vm c running"]);
    world.manner.send_replace(Manner::Good);
}

#[test]
fn a_snapshot_that_was_changed_on_disk_is_not_gone_on_from() {
    let world = World::new();
    world.prepare(&[Create("a"), Snapshot("a", "s"), CreateFrom("b", "s"), Snapshot("b", "t")]);
    let before = seen(&world);
    let directories = testkit::tree::list(&world.home().join("state/snapshots"));
    for directory in directories {
        host::fs::write_atomic(&directory.join("state"), b"held X").unwrap();
    }
    for name in ["s", "t"] {
        let error = create(&world, verb::clone("c", name)).unwrap_err();
        assert_eq!(error.message, "cannot start the machine of VM c");
        assert_eq!(error.causes[0], "the saved machine is damaged");
    }
    assert_eq!(seen(&world), before);
}

#[test]
fn only_a_vm_that_runs_is_saved_and_only_under_a_name_that_is_free() {
    let world = World::new();
    world.prepare(&[Create("a"), CreateUnstarted("b"), Snapshot("a", "s")]);
    assert_eq!(take(&world, "b", "t", false).unwrap_err().code, Code::NotRunning);
    assert_eq!(take(&world, "nobody", "t", false).unwrap_err().code, Code::NotFound);
    assert_eq!(take(&world, "a", "s", false).unwrap_err().code, Code::Taken);
    assert_eq!(take(&world, "a", "../s", false).unwrap_err().code, Code::Invalid);
    assert_eq!(world.run(&DeleteSnapshot("t")).unwrap_err().code, Code::NotFound);
}

#[test]
fn a_kill_interrupts_a_snapshot() {
    let world = World::new();
    world.prepare(&[Create("a")]);
    let gate = world.faults.hold("pause");
    let snapshot = world.begin(&Snapshot("a", "s"));
    wait_until(SOON, "it is about to be paused", || world.faults.came() == 1);
    let kill = world.begin(&Kill("a"));
    wait_until(SOON, "it is told to end", || snapshot.token().is_cancelled());
    gate.open();
    assert_eq!(world.end(&snapshot).unwrap_err().code, Code::Cancelled);
    world.end(&kill).unwrap();
    assert_eq!(seen(&world), ["image tiny", "kernel debian-cloud", "vm a stopped"]);
}

#[test]
fn a_command_for_a_vm_that_is_being_saved_is_refused_with_that_reason() {
    let world = World::new();
    world.prepare(&[Create("a")]);
    world.newest_guest_remembers(HELD);
    let stream = world.wait(world.engine().vm_exec("a")).unwrap();
    let (_input, mut output, ending) = stream.into_parts();
    let refused = world.wait(output.next()).unwrap_err();
    let error = ending.refused(refused).to_body();
    assert_eq!(error.message, "VM a is being saved, and serves nothing until that is done");
    assert_eq!(error.code, Code::Conflict);
}
