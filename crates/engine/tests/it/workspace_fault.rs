//! Faults while a repository is shipped or work is brought back.

use testkit::home::wait_until;
use wire::control::PrepareWorkspace;

use crate::{
    fault::Fault,
    verb::Verb::*,
    workspace::{Pair, export, prepare, world, write},
};

/// Its line in the harness of [`crate::operations`]: what a fault or a crash leaves of a workspace keeps nobody from shipping
/// once more, and the work from coming back.
#[test]
pub fn any_fault_leaves_what_can_be_done_again() {
    let good = {
        let (world, pair) = (world(), Pair::new());
        pair.commit();
        prepare(&world, pair.request()).unwrap();
        export(&world, None).unwrap();
        world.look()
    };
    // The record of what was shipped is the one thing that is committed.
    for (brings_back, points) in [(false, 2), (true, 0)] {
        let trials = (0..points).flat_map(|number| Fault::ALL.map(|fault| (number, fault)));
        for (number, fault) in trials.chain([(usize::MAX, Fault::Fail)]) {
            let (mut world, pair) = (world(), Pair::new());
            write(&pair.host(), "file", b"one\n");
            pair.commit();
            let mut verb = Prepare("a", Box::new(pair.request()));
            if brings_back {
                world.prepare(&[verb]);
                verb = Export("a", None);
            }
            world.faults.arm(&[(number, fault)]);
            let result = world.run(&verb);
            let what = format!("{verb:?}, {fault:?} at {number}: {result:?}");
            if world.faults.killed() {
                world.reopen();
            } else {
                assert!(number != usize::MAX || result.is_ok() && world.faults.met() == points, "{what}");
                world.faults.disarm();
            }
            prepare(&world, PrepareWorkspace { force: true, ..pair.request() }).expect(&what);
            write(&pair.guest(), "file", b"two\n");
            let (_, patch, _) = export(&world, None).expect(&what);
            assert!(String::from_utf8_lossy(&patch).contains("+two"), "{what}");
            wait_until(crate::world::SOON, &what, || world.look().leaks == good.leaks);
            assert_eq!(world.look().seen, good.seen, "{what}");
            world.prepare(&[Delete("a")]);
        }
    }
}
