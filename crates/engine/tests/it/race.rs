//! Who waits for whom, and who wins: several operations at once.

use std::{
    collections::BTreeSet,
    io::{PipeWriter, Write},
};

use engine::Operation;
use testkit::home::wait_until;
use wire::control::{Code, ErrorBody, ImportImage, Outcome};

use crate::{
    guest::Manner,
    verb::{self, Verb::*},
    world::{SOON, World},
};

/// The VMs and images there are; nothing else may be.
fn seen(world: &World) -> Vec<String> {
    let scene = world.look();
    assert_eq!(scene.leaks, Vec::<String>::new());
    scene.seen.into_iter().filter(|line| !matches!(&**line, "image tiny" | "kernel debian-cloud")).collect()
}

/// An import whose source gives nothing until something is written.
struct Stalled {
    operation: Operation,
    source: PipeWriter,
}

impl Stalled {
    fn begin(world: &World, name: &str, kernel: Option<&str>) -> Self {
        let (reader, source) = std::io::pipe().unwrap();
        let how = ImportImage { kernel: kernel.map(str::to_owned), ..ImportImage::default() };
        let operation = world.begin_import(name, how, reader);
        let staging = world.home().join("state/staging");
        wait_until(SOON, "the import has begun", || !testkit::tree::list(&staging).is_empty());
        Self { operation, source }
    }

    fn finish(mut self, world: &World) -> Result<Outcome, ErrorBody> {
        self.source.write_all(&verb::tar()).unwrap();
        drop(self.source);
        world.end(&self.operation)
    }
}

fn code(result: Result<Outcome, ErrorBody>) -> Option<Code> {
    result.err().map(|error| error.code)
}

#[test]
fn of_several_creates_of_one_name_one_wins_and_the_others_leave_nothing() {
    let world = World::new();
    let creates: Vec<_> = (0..8).map(|_| world.begin(&Create("a"))).collect();
    let codes: Vec<_> = creates.iter().map(|create| code(world.end(create))).collect();
    assert_eq!(codes.iter().filter(|code| code.is_none()).count(), 1, "{codes:?}");
    assert_eq!(codes.iter().filter(|code| **code == Some(Code::Taken)).count(), 7, "{codes:?}");
    assert_eq!(seen(&world), ["vm a running"]);
    assert_eq!(world.processes().len(), 1);
}

#[test]
fn of_two_imports_of_one_name_the_later_finds_it_taken() {
    let world = World::new();
    let first = Stalled::begin(&world, "new", None);
    let second = world.begin(&ImportImage("new"));
    assert_eq!(code(first.finish(&world)), None);
    assert_eq!(code(world.end(&second)), Some(Code::Taken));
    assert_eq!(seen(&world), ["image new"]);
}

#[test]
fn one_who_waits_for_a_cancelled_import_succeeds() {
    let world = World::new();
    let leader = Stalled::begin(&world, "new", None);
    let waiter = world.begin(&ImportImage("new"));
    leader.operation.cancel();
    // A client that cancels ends its upload.
    drop(leader.source);
    assert_eq!(code(world.end(&leader.operation)), Some(Code::Cancelled));
    assert_eq!(code(world.end(&waiter)), None);
    assert_eq!(seen(&world), ["image new"]);
}

#[test]
fn one_who_waits_can_be_cancelled_at_once() {
    let world = World::new();
    let leader = Stalled::begin(&world, "new", None);
    let waiter = world.begin(&ImportImage("new"));
    waiter.cancel();
    assert_eq!(code(world.end(&waiter)), Some(Code::Cancelled));
    assert_eq!(code(leader.finish(&world)), None);
    assert_eq!(seen(&world), ["image new"]);
}

#[test]
fn a_delete_waits_for_the_import_of_its_image() {
    let world = World::new();
    let import = Stalled::begin(&world, "new", None);
    let delete = world.begin(&DeleteImage("new"));
    assert_eq!(code(import.finish(&world)), None);
    assert_eq!(code(world.end(&delete)), None);
    assert_eq!(seen(&world), [""; 0]);
}

#[test]
fn an_import_whose_kernel_is_deleted_meanwhile_leaves_nothing() {
    let world = World::new();
    world.prepare(&[ImportKernel("new")]);
    let import = Stalled::begin(&world, "new", Some("new"));
    world.prepare(&[DeleteKernel("new")]);
    assert_eq!(code(import.finish(&world)), Some(Code::NotFound));
    assert_eq!(seen(&world), [""; 0]);
}

/// Whoever comes first: never a VM without its image, and never both refused.
#[test]
fn of_a_create_and_the_delete_of_its_image_one_wins() {
    let world = World::new();
    for round in 0..24 {
        world.prepare(&[ImportImage("new")]);
        let (create, delete) = if round % 2 == 0 {
            let create = world.begin(&CreateOf("a", "new"));
            (create, world.begin(&DeleteImage("new")))
        } else {
            let delete = world.begin(&DeleteImage("new"));
            (world.begin(&CreateOf("a", "new")), delete)
        };
        match (code(world.end(&create)), code(world.end(&delete))) {
            (None, Some(Code::InUse)) => {
                assert_eq!(seen(&world), ["image new", "vm a created"]);
                world.prepare(&[Start("a"), Delete("a"), DeleteImage("new")]);
            }
            (Some(Code::NotFound), None) => {}
            other => panic!("{other:?}"),
        }
        assert_eq!(seen(&world), [""; 0]);
    }
}

#[test]
fn a_stalled_import_and_a_stalled_start_hold_up_no_other_vm() {
    let world = World::new();
    world.prepare(&[Create("a"), CreateUnstarted("slow")]);
    let import = Stalled::begin(&world, "new", None);
    world.manner.send_replace(Manner::Booting);
    let start = world.begin(&Start("slow"));
    wait_until(SOON, "its machine runs", || world.processes().len() == 2);
    // The agent of `a` does not answer either, so its machine is ended by its power button.
    world.prepare(&[Stop("a"), Delete("a"), CreateUnstarted("b"), Delete("b")]);
    world.manner.send_replace(Manner::Good);
    assert_eq!(code(world.end(&start)), None);
    assert_eq!(code(import.finish(&world)), None);
    assert_eq!(seen(&world), ["image new", "vm slow running"]);
}

#[test]
fn twenty_creates_at_once_are_all_there() {
    const NAMES: [&str; 20] = [
        "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v8", "v9", "w0", "w1", "w2", "w3", "w4", "w5", "w6",
        "w7", "w8", "w9",
    ];
    let world = World::new();
    world.manner.send_replace(Manner::Booting);
    let creates: Vec<_> = NAMES.iter().map(|name| world.begin(&Create(name))).collect();
    // None of them is ready, so all of them boot at once.
    wait_until(SOON, "all machines run", || world.processes().len() == NAMES.len());
    world.manner.send_replace(Manner::Good);
    creates.iter().for_each(|create| assert_eq!(code(world.end(create)), None));
    assert_eq!(seen(&world).len(), NAMES.len());
    let vms = world.engine().vm_list().unwrap().vms;
    assert_eq!(vms.iter().map(|vm| &vm.id).collect::<BTreeSet<_>>().len(), NAMES.len());
    assert_eq!(vms.iter().filter_map(|vm| vm.pid).collect::<BTreeSet<_>>().len(), NAMES.len());
}

#[test]
fn those_who_wait_for_a_turn_get_it_in_order_and_find_what_became_of_the_vm() {
    let world = World::new();
    world.prepare(&[CreateUnstarted("a")]);
    world.manner.send_replace(Manner::Booting);
    let start = world.begin(&Start("a"));
    wait_until(SOON, "its machine runs", || !world.processes().is_empty());
    let (stop, again) = (world.begin(&Stop("a")), world.begin(&Start("a")));
    // A delete comes before them and interrupts the start.
    assert_eq!(code(world.run(&Delete("a"))), None);
    assert_eq!(code(world.end(&start)), Some(Code::Cancelled));
    assert_eq!(code(world.end(&stop)), Some(Code::NotFound));
    assert_eq!(code(world.end(&again)), Some(Code::NotFound));
    assert_eq!(seen(&world), [""; 0]);
}
