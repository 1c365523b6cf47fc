//! What becomes of a VM whose guest or whose users misbehave.

use std::path::Path;

use testkit::home::wait_until;
use wire::control::Code;

use crate::{
    fault::Fault,
    guest::Manner,
    verb::Verb::*,
    world::{SOON, World},
};

fn seen(world: &World) -> Vec<String> {
    let scene = world.look();
    assert_eq!(scene.leaks, Vec::<String>::new());
    scene.seen.into_iter().filter(|line| line.starts_with("vm ")).collect()
}

#[test]
fn a_guest_that_does_not_end_is_ended() {
    let world = World::new();
    world.prepare(&[Create("a")]);
    world.manner.send_replace(Manner::Stubborn);
    world.prepare(&[Stop("a")]);
    let vm = world.engine().vm_show("a").unwrap();
    assert_eq!(vm.reason.unwrap(), "its guest did not end in time, so its machine was ended");
    assert_eq!(seen(&world), ["vm a stopped"]);
}

#[test]
fn a_vm_whose_guest_panics_is_kept_and_can_be_started() {
    let world = World::new();
    world.manner.send_replace(Manner::Panicking);
    assert_eq!(world.run(&CreateOwned("a")).unwrap_err().code, Code::Guest);
    assert_eq!(seen(&world), ["vm a error"]);
    world.manner.send_replace(Manner::Good);
    world.prepare(&[Start("a")]);
    assert_eq!(seen(&world), ["vm a running"]);
}

#[test]
fn a_kill_interrupts_a_first_start_which_leaves_nothing() {
    let world = World::new();
    world.manner.send_replace(Manner::Booting);
    let create = world.begin(&Create("a"));
    wait_until(SOON, "its machine runs", || !world.processes().is_empty());
    // It goes while its kill waits.
    assert_eq!(world.run(&Kill("a")).unwrap_err().code, Code::NotFound);
    assert_eq!(world.end(&create).unwrap_err().code, Code::Cancelled);
    assert_eq!(seen(&world), [""; 0]);
}

#[test]
fn a_kill_interrupts_a_later_start_which_keeps_the_vm() {
    let world = World::new();
    world.prepare(&[CreateUnstarted("a")]);
    world.manner.send_replace(Manner::Booting);
    let start = world.begin(&Start("a"));
    wait_until(SOON, "its machine runs", || !world.processes().is_empty());
    world.prepare(&[Kill("a")]);
    assert_eq!(world.end(&start).unwrap_err().code, Code::Cancelled);
    assert_eq!(seen(&world), ["vm a stopped"]);
}

#[test]
fn a_new_name_may_begin_an_old_one_or_an_id_but_not_be_one() {
    let world = World::new();
    world.prepare(&[CreateUnstarted("dev-long")]);
    world.prepare(&[CreateUnstarted("dev")]);
    assert_eq!(world.run(&CreateUnstarted("dev")).unwrap_err().code, Code::Taken);
    let id = world.engine().vm_show("dev").unwrap().id;
    let start: &'static str = id[..4].to_owned().leak();
    world.prepare(&[CreateUnstarted(start)]);
    // The exact name is meant, whatever else begins like it.
    assert_eq!(world.engine().vm_show("dev").unwrap().id, id);
    assert_eq!(world.engine().vm_show(start).unwrap().name, start);
    assert_eq!(seen(&world).len(), 3);
}

#[test]
fn damaged_run_files_prevent_no_cleanup() {
    let damages: [fn(&Path); 4] = [
        |run| host::fs::remove_all(run).unwrap(),
        |run| {
            host::fs::remove_all(run).unwrap();
            host::fs::write_atomic(run, b"a file").unwrap();
        },
        |run| {
            host::fs::remove_all(run).unwrap();
            host::fs::symlink(Path::new("/proc"), run).unwrap();
        },
        |run| {
            host::fs::create_dir(&run.join("strange")).unwrap();
            host::fs::write_atomic(&run.join("strange/file"), b"strange").unwrap();
        },
    ];
    for damage in damages {
        for end in [Stop("a"), Kill("a"), Delete("a"), Restart("a")] {
            let mut world = World::new();
            world.prepare(&[Create("a")]);
            let id = world.engine().vm_show("a").unwrap().id;
            damage(&world.home().join("state/vms").join(id).join("run"));
            if end == Kill("a") {
                // A daemon that finds it so when it starts copes too.
                world.reopen();
            }
            world.prepare(&[end]);
            let _ = seen(&world);
        }
    }
}

#[test]
fn a_full_disk_refuses_what_is_new_and_loses_nothing() {
    let world = World::new();
    world.prepare(&[Create("a")]);
    let before = world.look();
    world.faults.arm(&[(0, Fault::Full)]);
    for verb in [Create("b"), CreateUnstarted("b"), Stop("a"), Kill("a"), Delete("a"), ImportImage("new")] {
        let error = world.run(&verb).unwrap_err();
        assert_eq!(error.code, Code::Host, "{verb:?}: {error:?}");
        assert!(
            error.hint.as_ref().is_some_and(|hint| hint.contains("free some space")),
            "{verb:?}: {error:?}"
        );
        assert_eq!(world.engine().vm_show("a").unwrap().name, "a", "what is there can be looked at");
    }
    world.faults.disarm();
    assert_eq!(world.look(), before);
    world.prepare(&[Stop("a"), Start("a"), Create("b")]);
    assert_eq!(seen(&world), ["vm a running", "vm b running"]);
}

#[test]
fn a_daemon_that_cannot_start_holds_no_lock() {
    let mut world = World::new();
    world.close();
    let database = world.home().join("state/banger.db");
    let good = host::fs::read(&database).unwrap();
    host::fs::write_atomic(&database, b"this is no database").unwrap();
    let refused = world.open_error();
    assert!(refused.contains("damaged"), "{refused}");
    assert_eq!(host::fs::read(&database).unwrap(), b"this is no database");
    host::fs::write_atomic(&database, &good).unwrap();
    world.open();
    assert_eq!(seen(&world), [""; 0]);
}

#[test]
fn what_a_crash_left_half_made_is_gone_after_the_next_start() {
    let mut world = World::new();
    world.prepare(&[CreateUnstarted("a")]);
    world.faults.arm(&[]);
    world.prepare(&[Start("a"), Delete("a"), CreateUnstarted("a")]);
    let points = world.faults.disarm();
    let id = world.engine().vm_show("a").unwrap().id;
    let disk = points.iter().position(|point| point.name == "disk_overlay").unwrap();
    world.faults.arm(&[(disk, Fault::Kill)]);
    assert!(world.run(&Start("a")).is_err() && world.faults.killed());
    // A kill in the middle of an effect leaves this.
    let directory = world.home().join("state/vms").join(id);
    for half_made in [
        directory.join("overlay.ext4.new"),
        world.home().join("cache/templates/work-1.0123.new"),
        world.home().join("cache/payload/.0123"),
        world.home().join("state/staging/0123"),
    ] {
        host::fs::write_atomic(&half_made, b"half").unwrap();
    }
    world.reopen();
    assert_eq!(seen(&world), ["vm a stopped"]);
    world.prepare(&[Start("a")]);
    assert_eq!(seen(&world), ["vm a running"]);
}

#[test]
fn a_reset_that_did_not_happen_keeps_the_overlay_and_one_that_did_is_finished() {
    for (point, fault, is_kept) in [(0, Fault::Fail, true), (0, Fault::Kill, true), (1, Fault::Kill, false)] {
        let mut world = World::new();
        world.prepare(&[Create("a"), Stop("a")]);
        let before = world.look().disks;
        world.faults.arm(&[(point, fault)]);
        assert!(world.run(&Reset("a")).is_err());
        world.reopen();
        let mut expected = before;
        if !is_kept {
            expected.remove("a/overlay.ext4");
        }
        assert_eq!(world.look().disks, expected, "{fault:?} at {point}");
        world.prepare(&[Start("a")]);
        assert_eq!(seen(&world), ["vm a running"]);
    }
}

#[test]
fn a_teardown_goes_on_when_the_machine_does_not_exit_and_is_finished_later() {
    let mut world = World::new();
    world.prepare(&[Create("a")]);
    world.faults.arm(&[]);
    world.prepare(&[Delete("a")]);
    // The machine is the last that was taken, so it is the first to go.
    let first = world.faults.disarm().iter().position(|point| point.name == "undo").unwrap();
    world.prepare(&[Create("a")]);
    let directory = world.home().join("state/vms").join(world.engine().vm_show("a").unwrap().id);
    let machines = || world.processes().into_keys().collect::<Vec<_>>();
    let machine = machines();
    world.faults.arm(&[(first, Fault::Fail)]);
    let error = world.run(&Delete("a")).unwrap_err();
    world.faults.disarm();
    assert!(error.message.starts_with("cannot remove all of VM a"), "{error:?}");
    assert_eq!(machines(), machine, "it is still there");
    assert!(!directory.exists(), "all else is gone");
    assert_eq!(world.engine().vm_show("a").unwrap().state, wire::control::State::Deleting);
    assert_eq!(world.run(&Start("a")).unwrap_err().code, Code::Conflict);
    world.reopen();
    assert_eq!(seen(&world), [""; 0]);
    assert!(world.processes().is_empty());
}

#[test]
fn a_kernel_or_an_image_that_cannot_be_read_is_not_called_missing() {
    for (what, message) in
        [("kernels", "cannot prepare the boot of VM b"), ("images", "cannot read image tiny")]
    {
        let world = World::new();
        world.prepare(&[CreateUnstarted("a")]);
        let directory = crate::catalog::only(&world, what);
        host::fs::write_atomic(&directory.join("manifest.json"), b"{ torn").unwrap();
        let error = world.run(&Create("b")).unwrap_err();
        assert_eq!((error.code, &*error.message), (Code::Host, message), "{error:?}");
        assert_eq!(seen(&world), ["vm a created"]);
    }
}
