//! A disk that is really full, and one that is really read-only, under the whole home of a daemon.
#![expect(clippy::disallowed_methods, reason = "tests mount what they test on")]

use std::{fs::File, io::Write, path::Path, process::Command};

use testkit::{home::wait_until, need};
use wire::control::Code;

use crate::{
    scene::Scene,
    verb::Verb::*,
    world::{SOON, Small, World},
};

/// A world on a small file system of its own; without the right to mount one the test has said that it skips.
fn small() -> Option<World> {
    let small = Small::mount().or_else(|| need::missing("mount", "no right to mount"))?;
    Some(World::on(small))
}

/// Takes all that is free below `home`, to the last byte.
fn fill(home: &Path) {
    let mut ballast = File::create(home.join("ballast")).unwrap();
    for chunk in [64 << 10, 4 << 10, 1] {
        while ballast.write_all(&vec![1; chunk]).is_ok() {}
    }
}

fn empty(home: &Path) {
    host::fs::remove(&home.join("ballast")).unwrap();
}

#[test]
fn a_disk_that_is_full_refuses_what_is_new_and_loses_nothing() {
    let Some(mut world) = small() else { return };
    world.prepare(&[Create("a"), Create("b"), Stop("b"), ImportImage("new")]);
    let before = world.look();
    fill(world.home());
    let mut refused = 0;
    for verb in [Create("c"), CreateUnstarted("c"), Start("b"), ImportKernel("new"), BuildImage("built")] {
        // What fits into the pages that the database has already is no loss.
        let Err(error) = world.run(&verb) else { continue };
        refused += 1;
        assert_eq!(error.code, Code::Host, "{verb:?}: {error:?}");
        let is_hinted = error.hint.as_ref().is_some_and(|hint| hint.contains("free some space"));
        assert!(is_hinted, "{verb:?}: {error:?}");
    }
    assert!(refused >= 3, "{refused}: the disk is full");
    assert_eq!(world.engine().vm_list().unwrap().vms[0].name, "a", "what is there can be looked at");
    empty(world.home());
    // What could not be undone on a full disk goes with the next start.
    world.reopen();
    let after = world.look();
    assert_eq!(after.leaks, before.leaks);
    let lost: Vec<_> = before.seen.difference(&after.seen).collect();
    // One that was committed in the last free page has become more than was asked for, not less.
    assert!(lost.iter().all(|line| **line == "vm b stopped"), "{lost:?}");
    kept(&before, &after);
    world.prepare(&[Stop("a"), Start("a"), Start("b"), Delete("a"), Delete("b")]);
}

#[test]
fn a_daemon_killed_on_a_full_disk_loses_nothing() {
    let Some(mut world) = small() else { return };
    world.prepare(&[Create("a"), Create("b"), Stop("b")]);
    let before = world.look();
    fill(world.home());
    world.close();
    // It may start or say why not; neither loses anything.
    let _ = world.open_result();
    empty(world.home());
    world.open();
    assert_eq!(world.look(), before);
    world.prepare(&[Stop("a"), Start("a"), Start("b")]);
}

#[test]
fn a_disk_that_is_read_only_is_said_and_nothing_is_lost() {
    let Some(mut world) = small() else { return };
    world.prepare(&[Create("a"), CreateUnstarted("b"), Stop("a")]);
    let before = world.look();
    world.close();
    remount(world.home(), "ro");
    let refused = world.open_result().unwrap_err();
    assert!(refused.contains("Read-only file system") || refused.contains("readonly"), "{refused}");
    remount(world.home(), "rw");
    world.open();
    assert_eq!(world.look(), before);
    world.prepare(&[Start("a"), Start("b"), Create("c")]);
}

/// Disks that were there are there as they were.
fn kept(before: &Scene, after: &Scene) {
    for (disk, identity) in &before.disks {
        assert_eq!(after.disks.get(disk), Some(identity), "{disk}");
    }
}

fn remount(home: &Path, how: &str) {
    // What other tests fork has files of it open until it starts its program.
    wait_until(SOON, "it is remounted", || {
        let mut mount = Command::new("mount");
        mount.args(["-o", &format!("remount,{how}")]).arg(home).output().unwrap().status.success()
    });
}
