//! Workspace operations: faults at every point, also within a transfer, and who waits for whom.

use std::path::PathBuf;

use engine::{Operation, fault::Moment};
use testkit::home::wait_until;
use wire::control::{Code, Event, ExportWorkspace, Outcome, PrepareWorkspace};

use crate::{
    fault::Fault,
    verb::Verb::{self, *},
    workspace::{Pair, export, prepare, world, write},
    world::{SOON, World},
};

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// A repository is shipped into an empty place.
    Ships,
    /// It is shipped once more, on top of what is there.
    ShipsAgain,
    /// The work comes back.
    BringsBack,
    /// It becomes a branch of the owner's repository.
    Lands,
}

impl Way {
    /// A world with what comes before, and the operation.
    fn begin(self) -> (World, Pair, Verb) {
        let (world, pair) = (world(), Pair::new());
        write(&pair.host(), "file", b"one\n");
        write(&pair.host(), "other", b"other\n");
        pair.commit();
        let ship = Prepare("a", Box::new(pair.request()));
        if self == Self::Ships {
            return (world, pair, ship);
        }
        world.prepare(std::slice::from_ref(&ship));
        match self {
            Self::Ships | Self::ShipsAgain => {
                write(&pair.host(), "file", b"one and more\n");
                host::fs::remove(&pair.host().join("other")).unwrap();
                (world, pair, ship)
            }
            Self::BringsBack => {
                write(&pair.guest(), "file", b"of the guest\n");
                (world, pair, Export("a", ExportWorkspace::default()))
            }
            Self::Lands => {
                write(&pair.guest(), "file", b"of the guest\n");
                (world, pair, Export("a", landing(Over::Nothing)))
            }
        }
    }

    /// How many points it has. One of them lies before each file, and one after the last that is shipped.
    fn points(self) -> usize {
        match self {
            Self::Ships => 7,
            Self::ShipsAgain => 10,
            Self::BringsBack | Self::Lands => 3,
        }
    }
}

/// Its line in the harness of [`crate::operations`]: what a fault or a crash leaves of a workspace keeps nobody from shipping
/// once more, and the work from coming back.
#[test]
pub fn any_fault_leaves_what_can_be_done_again() {
    let good = {
        let (world, _pair, verb) = Way::Ships.begin();
        world.prepare(&[verb]);
        export(&world, None).unwrap();
        world.look()
    };
    for way in [Way::Ships, Way::ShipsAgain, Way::BringsBack, Way::Lands] {
        let (world, _pair, verb) = way.begin();
        world.faults.arm(&[]);
        world.prepare(&[verb]);
        let points = world.faults.disarm();
        assert_eq!(points.len(), way.points(), "{way:?}: {points:#?}");
        let mut count = 0;
        for (number, point) in points.iter().enumerate() {
            for fault in Fault::ALL.into_iter().filter(|fault| fault.fits(*point)) {
                let (mut world, pair, verb) = way.begin();
                world.faults.arm(&[(number, fault)]);
                let result = world.run(&verb).map(drop);
                let what = format!("{way:?}, {fault:?} at {number} ({point:?}): {result:?}");
                assert_eq!(world.faults.killed(), fault == Fault::Kill, "{what}");
                // One that is cancelled when it is through has happened; a fault never has.
                let may_succeed = fault == Fault::Cancel && point.moment == Moment::After;
                assert!(may_succeed || result.is_err(), "{what}");
                if fault == Fault::Kill {
                    world.reopen();
                }
                world.faults.disarm();
                if way == Way::Lands {
                    whole_or_none(&world, &pair, &what);
                }
                prepare(&world, PrepareWorkspace { force: true, ..pair.request() }).expect(&what);
                write(&pair.guest(), "file", b"two\n");
                let (_, patch, _) = export(&world, None).expect(&what);
                assert!(String::from_utf8_lossy(&patch).contains("+two"), "{what}");
                wait_until(SOON, &what, || world.look().leaks == good.leaks);
                assert_eq!(world.look().seen, good.seen, "{what}");
                world.prepare(&[Delete("a")]);
                count += 1;
            }
        }
        println!("{way:?}: {} points, {count} faults", points.len());
    }
}

/// What a branch may have had before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Over {
    Nothing,
    Anything,
}

/// The words for an export that becomes the branch `work`.
fn landing(over: Over) -> ExportWorkspace {
    let (to_branch, force) = (Some("work".to_owned()), over == Over::Anything);
    ExportWorkspace { to_branch, force, ..ExportWorkspace::default() }
}

/// The owner's repository is sound, and has all of the branch or nothing of it; it can be had now.
#[track_caller]
fn whole_or_none(world: &World, pair: &Pair, what: &str) {
    let shown = || pair.git(&["show", "work:file"]);
    pair.git(&["fsck", "--strict", "--no-dangling"]);
    if !pair.git(&["branch", "--list", "work"]).is_empty() {
        assert_eq!(shown(), "of the guest", "{what}");
    }
    world.run(&Export("a", landing(Over::Anything))).expect(what);
    assert_eq!(shown(), "of the guest", "{what}");
    pair.git(&["fsck", "--strict", "--no-dangling"]);
    let strays = host::fs::list(&pair.host().join(".git/objects")).unwrap();
    let is_stray = |path: &&PathBuf| path.file_name().unwrap().to_string_lossy().starts_with("tmp");
    assert_eq!(strays.iter().find(is_stray), None, "{what}");
}

/// Begins `verb`, and waits until it is held up in the middle of its transfer.
fn held(world: &World, verb: &Verb) -> Operation {
    let operation = world.begin(verb);
    wait_until(SOON, "it is in its transfer", || world.faults.came() == 1);
    operation
}

#[test]
fn workspace_operations_on_one_vm_never_overlap_and_an_export_waits_for_a_prepare() {
    let (world, pair, ship) = Way::Ships.begin();
    let gate = world.faults.hold("shipping");
    let first = held(&world, &ship);
    let (second, brought, third) =
        (world.begin(&ship), world.begin(&Export("a", ExportWorkspace::default())), world.begin(&ship));
    let left = world.begin(&ship);
    left.cancel();
    assert_eq!(world.end(&left).unwrap_err().code, Code::Cancelled, "who waits leaves at once");
    // Other machines wait for none of it.
    world.prepare(&[CreateUnstarted("b"), Delete("b")]);
    assert_eq!(world.faults.came(), 1, "the others have not begun to ship");
    for waiting in [&second, &brought, &third] {
        assert_eq!(stages(&world, waiting), [""; 0], "it has not begun");
    }
    gate.open();
    for shipped in [&first, &second, &third] {
        // Over what was only half there the later ones would have been refused.
        assert!(matches!(world.end(shipped), Ok(Outcome::Prepared(_))));
    }
    // Before it the first one had shipped; without that there would be nothing to compare with.
    let Ok(Outcome::Exported(exported)) = world.end(&brought) else { panic!() };
    assert_eq!(exported.files, 0);
    assert_eq!(host::fs::read(&pair.guest().join("file")).unwrap(), b"one\n");
    world.prepare(&[Delete("a")]);
}

/// The stages that `operation` has told of so far.
fn stages(world: &World, operation: &Operation) -> Vec<String> {
    let mut follow = operation.follow();
    world.wait(async {
        let mut stages = Vec::new();
        loop {
            tokio::select! {
                biased;
                event = follow.next() => match event {
                    Some(Event::Stage { name }) => stages.push(name),
                    Some(_) => {}
                    None => return stages,
                },
                () = std::future::ready(()) => return stages,
            }
        }
    })
}

#[test]
fn whoever_ends_a_vm_waits_for_no_transfer() {
    for (way, point) in [(Way::Ships, "shipping"), (Way::BringsBack, "reading the guest's files")] {
        for end in [Kill("a"), Delete("a")] {
            let (world, _pair, verb) = way.begin();
            let gate = world.faults.hold(point);
            let transfer = held(&world, &verb);
            world.prepare(std::slice::from_ref(&end));
            assert_eq!(world.end(&transfer).unwrap_err().code, Code::VmEnded, "{way:?} {end:?}");
            gate.open();
            // What was shipped before is kept beside a VM that stays.
            let kept = |leak: &String| leak == "a: workspace is left in its directory";
            wait_until(SOON, "nothing of it stays", || world.look().leaks.iter().all(kept));
        }
    }
}
