//! A disk that is really full, and one that is really read-only, under the whole home of a daemon.
#![expect(clippy::disallowed_methods, reason = "tests mount what they test on")]

use std::{
    fs::File,
    io::Write,
    path::{Path, PathBuf},
    process::Command,
};

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

/// The files of a world's database, which nobody can write as long as this is held, whoever has them open (chattr(1)).
struct Unwritable(Vec<PathBuf>);

impl Unwritable {
    /// Without the right to do so, or on a file system that does not know this, the test has said that it skips.
    fn make(world: &World) -> Option<Self> {
        let held =
            Self(["banger.db", "banger.db-wal"].map(|name| world.home().join("state").join(name)).into());
        let probe = world.home().join("probe");
        let mut open = File::create(&probe).unwrap();
        let probe = Self(vec![probe]);
        let can = probe.chattr("+i") && open.write_all(b"x").is_err();
        drop(probe);
        if can && held.chattr("+i") {
            return Some(held);
        }
        need::missing("immutable", "no files that can be made immutable")
    }

    fn chattr(&self, how: &str) -> bool {
        let output = Command::new("chattr").arg(how).args(&self.0).output();
        output.is_ok_and(|output| output.status.success())
    }
}

impl Drop for Unwritable {
    fn drop(&mut self) {
        self.chattr("-i");
    }
}

#[test]
fn a_database_that_becomes_read_only_under_its_daemon_loses_nothing_and_is_used_again_when_it_is_not() {
    let mut world = World::on(Small::on_disk());
    world.prepare(&[Create("a"), Create("b"), Stop("b"), ImportImage("new"), CreateOwned("owned")]);
    let before = world.look();
    let Some(unwritable) = Unwritable::make(&world) else { return };
    for verb in [
        Create("c"),
        CreateUnstarted("c"),
        Start("b"),
        Stop("a"),
        Restart("a"),
        Kill("a"),
        Delete("a"),
        Reset("b"),
        ImportImage("other"),
        DeleteImage("new"),
        ImportKernel("new"),
    ] {
        let error = world.run(&verb).unwrap_err();
        assert_eq!(error.code, Code::Host, "{verb:?}: {error:?}");
        let message = "the files of the database cannot be read or written";
        assert!(error.message == message && error.hint.is_some(), "{verb:?}: {error:?}");
        assert_eq!(world.engine().vm_list().unwrap().vms.len(), 3, "what is there can be looked at");
    }
    drop(unwritable);
    assert_eq!(world.look(), before, "the same daemon has lost nothing");
    world.prepare(&[Stop("a"), Start("b"), Start("a"), Create("c"), DeleteImage("new"), Delete("owned")]);
    // Nor has one that is killed meanwhile, or the next one, which serves or says why it does not.
    let before = world.look();
    let Some(unwritable) = Unwritable::make(&world) else { return };
    assert!(world.run(&Stop("a")).is_err());
    world.close();
    let _ = world.open_result();
    drop(unwritable);
    world.open();
    assert_eq!(world.look(), before);
    world.prepare(&[Stop("a"), Stop("b"), Start("a"), Delete("a"), Delete("b"), Delete("c")]);
    assert_eq!(world.look().leaks, Vec::<String>::new());
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
