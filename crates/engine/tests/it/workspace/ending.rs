//! Workspace operations whose VM ends.

use super::*;
use crate::shared;

/// A workspace operation that gets nowhere holds up nobody who wants the VM to end, and ends with it.
#[test]
fn a_stalled_prepare_ends_with_its_vm() {
    let pair = Pair::new();
    pair.commit();
    for end in [Stop("a"), Restart("a"), Kill("a"), Delete("a")] {
        let world = World::new();
        world.prepare(&[Create("a")]);
        world.manner.send_replace(Manner::Booting);
        let stalled = world.begin(&Prepare("a", Box::new(pair.request())));
        // It has its turn when it says what it does.
        shared::tells(&world, &stalled, "reading the repository");
        let waiting = world.begin(&Export("a", ExportWorkspace::default()));
        let ending = world.begin(&end);
        assert_eq!(world.end(&stalled).unwrap_err().code, Code::VmEnded, "{end:?}");
        let waited = world.end(&waiting).unwrap_err().code;
        let is_gone = waited == Code::NotFound && end == Delete("a");
        assert!(waited == Code::NotRunning || is_gone, "it waited for its turn: {end:?} {waited:?}");
        world.manner.send_replace(Manner::Good);
        world.end(&ending).unwrap();
        wait_until(crate::world::SOON, "nothing of it stays", || world.look().leaks.is_empty());
    }
    let world = World::new();
    world.prepare(&[Create("a")]);
    world.manner.send_replace(Manner::Booting);
    let stalled = world.begin(&Prepare("a", Box::new(pair.request())));
    stalled.cancel();
    assert_eq!(world.end(&stalled).unwrap_err().code, Code::Cancelled);
    world.manner.send_replace(Manner::Good);
    world.prepare(&[Delete("a")]);
}
