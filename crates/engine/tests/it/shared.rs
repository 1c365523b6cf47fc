//! Several who want the same image or kernel at once: it is fetched once, for as long as one of them waits.

use std::{
    io::{Read, Write},
    net::TcpStream,
    sync::{Arc, Mutex},
};

use engine::{Kind, Operation};
use testkit::{catalog::Publisher, home::wait_until};
use wire::control::{Code, CreateVm, Event};

use crate::{
    catalog,
    fault::{Fault, Gate},
    pull::nothing_is_left,
    pull_hostile::{Goods, goods, pull},
    server::{Asked, Server, head, serve},
    verb::{self, Verb, Verb::*},
    world::{SOON, World},
};

/// Begins to answer with `bytes`, and goes on when the gate is open.
fn slowly(gate: &Gate, stream: &mut TcpStream, bytes: &[u8]) -> bool {
    let (one, other) = bytes.split_at(bytes.len() / 2);
    let begun = head(stream, "200 OK", &format!("Content-Length: {}\r\n", bytes.len()))
        && stream.write_all(one).is_ok();
    gate.pass();
    begun && stream.write_all(other).is_ok()
}

/// A registry whose layer stops half-way, at a gate.
pub fn slow_registry() -> (Server, Arc<Gate>) {
    let (goods, gate) = (goods(), Arc::<Gate>::default());
    let held = gate.clone();
    let server = Server::start(move |asked, stream| match goods.is_layer(asked) && asked.from == 0 {
        true => slowly(&held, stream, &goods.layer),
        false => goods.serve(asked, stream),
    });
    (server, gate)
}

/// Waits until `operation` tells of that stage.
#[track_caller]
pub fn tells(world: &World, operation: &Operation, stage: &str) {
    let mut follow = operation.follow();
    world.wait(async {
        while let Some(event) = follow.next().await {
            if matches!(&event, Event::Stage { name } if name == stage) {
                return;
            }
        }
        panic!("it never was {stage}");
    });
}

fn create(world: &World, request: CreateVm) -> Operation {
    world.begin_with(Kind::VmCreate, |engine, operation| engine.vm_create(operation, request))
}

fn code(world: &World, operation: &Operation) -> Option<Code> {
    world.end(operation).err().map(|error| error.code)
}

fn images(world: &World) -> usize {
    world.engine().image_list().unwrap().images.len()
}

#[test]
fn one_who_waits_gets_the_bytes_that_a_cancelled_one_began_to_fetch() {
    let world = World::new();
    let (server, gate) = slow_registry();
    let first = world.begin_pull(pull(&server));
    tells(&world, &first, "pulling image");
    // It is the same image, whatever it is wanted for.
    let reference = Some(pull(&server).reference);
    let waiting =
        create(&world, CreateVm { image: reference.clone(), no_start: true, ..verb::vm("waiting") });
    let leaving = create(&world, CreateVm { image: reference, no_start: true, ..verb::vm("leaving") });
    [&waiting, &leaving].iter().for_each(|operation| tells(&world, operation, "pulling image"));
    for operation in [&first, &leaving] {
        operation.cancel();
        assert_eq!(code(&world, operation), Some(Code::Cancelled), "at once, while nothing comes");
    }
    gate.open();
    assert_eq!(code(&world, &waiting), None);
    let asked = server.log.lock().unwrap().clone();
    assert_eq!(asked.len(), 3, "manifest, config and layer, each once and from its first byte: {asked:?}");
    assert!(asked.iter().all(|line| line.ends_with(" 0")), "{asked:?}");
    let vms = world.engine().vm_list().unwrap().vms;
    assert_eq!(vms.iter().map(|vm| &*vm.name).collect::<Vec<_>>(), ["waiting"]);
    nothing_is_left(&world);
}

#[test]
fn when_nobody_waits_any_more_a_pull_ends_and_leaves_nothing() {
    let world = World::new();
    let hung_up = Arc::<Gate>::default();
    let (goods, told) = (goods(), hung_up.clone());
    let is_slow = Mutex::new(true);
    let server = Server::start(move |asked, stream| {
        if !goods.is_layer(asked) || !std::mem::take(&mut *is_slow.lock().unwrap()) {
            return goods.serve(asked, stream);
        }
        head(stream, "200 OK", &format!("Content-Length: {}\r\n", goods.layer.len()));
        let _ = stream.write_all(&goods.layer[..2_000_000]);
        let _ = stream.read(&mut [0]);
        told.open();
        false
    });
    let operations = [(); 3].map(|()| world.begin_pull(pull(&server)));
    operations.iter().for_each(|operation| tells(&world, operation, "pulling image"));
    wait_until(SOON, "the layer is asked for", || server.asked("/blobs/") == 2);
    operations.iter().for_each(Operation::cancel);
    operations.iter().for_each(|operation| assert_eq!(code(&world, operation), Some(Code::Cancelled)));
    hung_up.pass();
    nothing_is_left(&world);
    assert_eq!((images(&world), world.look().leaks), (1, vec![]));
    // The next one begins anew.
    assert_eq!(code(&world, &world.begin_pull(pull(&server))), None);
    assert_eq!(images(&world), 2);
}

#[test]
fn what_a_shared_pull_fails_of_is_told_to_all() {
    let world = World::new();
    let gate = Arc::<Gate>::default();
    let (goods, held) = (goods(), gate.clone());
    let server = Server::start(move |asked, stream| {
        let lie = vec![0; goods.layer.len()];
        if goods.is_layer(asked) { slowly(&held, stream, &lie) } else { goods.serve(asked, stream) }
    });
    let operations = [(); 2].map(|()| world.begin_pull(pull(&server)));
    operations.iter().for_each(|operation| tells(&world, operation, "pulling image"));
    gate.open();
    let mut errors = operations.map(|operation| world.end(&operation).unwrap_err());
    errors.iter_mut().for_each(|error| assert!(error.op_id.take().is_some()));
    assert_eq!(errors[0], errors[1]);
    assert_eq!(errors[0].code, Code::Refused);
    assert!(errors[0].causes[1].starts_with("its digest is"), "{errors:?}");
    nothing_is_left(&world);
}

/// A catalog on the web with image `box` and its kernel `boxed`; `slow` of them stops half-way, at a gate.
fn slow_catalog(slow: &'static str) -> Option<(World, Publisher, Server, Arc<Gate>)> {
    let (mut world, publisher) = catalog::published()?;
    catalog::publish(&world, &publisher, 1);
    let (directory, gate) = (publisher.directory().to_owned(), Arc::<Gate>::default());
    let held = gate.clone();
    let server = Server::start(move |asked, stream| {
        let bytes = host::fs::read(&directory.join(&asked.path[1..])).unwrap();
        if asked.path == slow { slowly(&held, stream, &bytes) } else { serve(asked, stream, &bytes) }
    });
    let address = server.address.clone();
    catalog::configure(&mut world, publisher.key(), |name| format!("http://{address}/{name}"));
    world.prepare(&[RefreshCatalogs]);
    Some((world, publisher, server, gate))
}

#[test]
fn what_a_catalog_has_is_shared_too() {
    let check = |verb: Verb, slow: &'static str, stage: &str| {
        let Some((world, _publisher, server, gate)) = slow_catalog(slow) else { return };
        let [first, second] = [(); 2].map(|()| world.begin(&verb));
        [&first, &second].iter().for_each(|operation| tells(&world, operation, stage));
        wait_until(SOON, "it is asked for", || server.asked(slow) > 0);
        first.cancel();
        assert_eq!(code(&world, &first), Some(Code::Cancelled), "{verb:?}");
        gate.open();
        assert_eq!(code(&world, &second), None, "{verb:?}");
        assert_eq!(server.asked(slow), 1, "{verb:?}");
        assert_eq!(world.look().leaks, Vec::<String>::new(), "{verb:?}");
    };
    check(PullImage("box"), "/box.tar.zst", "pulling image");
    check(PullImage("box"), "/boxed.tar.zst", "pulling kernel");
    check(PullKernel("boxed"), "/boxed.tar.zst", "pulling kernel");
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a word into a pipe with a name")]
fn two_first_vms_share_the_build_of_the_default_image() {
    let world = World::new();
    let builder = world.home().join("builder");
    let executable = std::fs::metadata(&builder).unwrap().permissions();
    // It tells that it began, and waits for a word.
    let script = b"#!/bin/sh\necho begun >> \"$0.log\"\nread word < \"$0.go\"\nexec cat \"$0.tar\"\n";
    host::fs::write_atomic(&builder, script).unwrap();
    std::fs::set_permissions(&builder, executable).unwrap();
    crate::workspace::fifo(&world.home().join("builder.go"));
    let log = world.home().join("builder.log");
    let begun = || host::fs::read(&log).map_or(0, |log| log.len() / "begun\n".len());
    let request =
        |name| CreateVm { image: None, build_default_image: true, no_start: true, ..verb::vm(name) };
    let [first, second] = ["first", "second"].map(|name| create(&world, request(name)));
    [&first, &second].iter().for_each(|operation| tells(&world, operation, "building image"));
    wait_until(SOON, "the builder runs", || begun() == 1);
    first.cancel();
    assert_eq!(code(&world, &first), Some(Code::Cancelled));
    std::fs::write(world.home().join("builder.go"), "go\n").unwrap();
    assert_eq!(code(&world, &second), None);
    assert_eq!(begun(), 1, "it was built once");
    assert_eq!(world.look().leaks, Vec::<String>::new());
}

#[test]
fn a_slow_pull_holds_up_neither_another_pull_nor_any_create() {
    let Some((world, _publisher, server, gate)) = slow_catalog("/box.tar.zst") else { return };
    let (registry, layer) = slow_registry();
    let slow = [
        world.begin(&PullImage("box")),
        world.begin_pull(pull(&registry)),
        create(&world, CreateVm { image: Some("box".into()), no_start: true, ..verb::vm("waits") }),
    ];
    slow.iter().for_each(|operation| tells(&world, operation, "pulling image"));
    wait_until(SOON, "both are asked for", || {
        server.asked("/box.tar") == 1 && registry.asked("/blobs/") == 2
    });
    let goods = goods();
    let other = Server::start(move |asked: &Asked, stream| Goods::serve(&goods, asked, stream));
    world.prepare(&[Create("a"), CreateUnstarted("b"), ImportImage("new"), ImportKernel("new")]);
    let named = wire::control::PullImage { name: Some("quick".into()), ..pull(&other) };
    assert_eq!(code(&world, &world.begin_pull(named)), None);
    let of_it = CreateVm { image: Some("quick".into()), ..verb::vm("c") };
    assert_eq!(code(&world, &create(&world, of_it)), None);
    world.prepare(&[Stop("a"), Delete("a"), DeleteImage("new"), DeleteKernel("new"), RefreshCatalogs]);
    assert!(slow.iter().all(|operation| operation.show().ended_ms.is_none()), "they still wait");
    gate.open();
    layer.open();
    slow.iter().for_each(|operation| assert_eq!(code(&world, operation), None));
    assert_eq!(world.look().leaks, Vec::<String>::new());
}

#[test]
fn of_two_sources_of_one_name_one_wins_and_the_other_leaves_nothing() {
    let world = World::new();
    let (slow, gate) = slow_registry();
    let goods = goods();
    let other = Server::start(move |asked: &Asked, stream| Goods::serve(&goods, asked, stream));
    let named = |server: &Server| wire::control::PullImage { name: Some("new".into()), ..pull(server) };
    let first = world.begin_pull(named(&slow));
    wait_until(SOON, "the layer is asked for", || slow.asked("/blobs/") == 2);
    let second = world.begin_pull(named(&other));
    let import = world.begin(&ImportImage("new"));
    let impatient = world.begin_pull(named(&other));
    impatient.cancel();
    assert_eq!(code(&world, &impatient), Some(Code::Cancelled), "who waits for a name leaves at once");
    gate.open();
    assert_eq!(code(&world, &first), None);
    assert_eq!(code(&world, &second), Some(Code::Taken));
    assert_eq!(code(&world, &import), Some(Code::Taken));
    assert_eq!(world.engine().image_show("new").unwrap().source, pull(&slow).reference);
    nothing_is_left(&world);
    assert_eq!(world.look().leaks, Vec::<String>::new());
}

#[test]
fn a_delete_waits_for_the_pull_of_its_image_or_kernel() {
    let check = |pull: Verb, delete: Verb, slow: &'static str, stage: &str| {
        let Some((world, _publisher, server, gate)) = slow_catalog(slow) else { return };
        let before = world.look();
        let pulling = world.begin(&pull);
        tells(&world, &pulling, stage);
        wait_until(SOON, "it is asked for", || server.asked(slow) > 0);
        let (impatient, deleting) = (world.begin(&delete), world.begin(&delete));
        impatient.cancel();
        assert_eq!(code(&world, &impatient), Some(Code::Cancelled), "{delete:?}");
        assert_eq!(deleting.show().ended_ms, None, "{delete:?}");
        gate.open();
        assert_eq!(code(&world, &pulling), None, "{pull:?}");
        assert_eq!(code(&world, &deleting), None, "{delete:?}");
        let mut after = world.look();
        // An image brings its kernel.
        after.seen.remove("kernel boxed");
        assert_eq!(after, before, "{delete:?}");
        // Where the pull is cancelled there is nothing to delete.
        let pulling = world.begin(&pull);
        let deleting = world.begin(&delete);
        pulling.cancel();
        let (pulled, deleted) = (code(&world, &pulling), code(&world, &deleting));
        assert!(matches!(pulled, None | Some(Code::Cancelled)), "{pulled:?}");
        assert!(matches!(deleted, None | Some(Code::NotFound)), "{deleted:?}");
        assert_eq!(world.look().leaks, Vec::<String>::new());
    };
    check(PullImage("box"), DeleteImage("box"), "/box.tar.zst", "pulling image");
    check(PullKernel("boxed"), DeleteKernel("boxed"), "/boxed.tar.zst", "pulling kernel");
}

#[test]
fn a_pull_whose_kernel_is_deleted_meanwhile_leaves_nothing() {
    let Some((world, _publisher, server, gate)) = slow_catalog("/box.tar.zst") else { return };
    let before = world.look();
    let pulling = world.begin(&PullImage("box"));
    wait_until(SOON, "it is asked for", || server.asked("/box.tar") == 1);
    world.prepare(&[DeleteKernel("boxed")]);
    gate.open();
    assert_eq!(code(&world, &pulling), Some(Code::NotFound));
    assert_eq!(world.look(), before);
}

/// Who of two that wait for one pull is cancelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leaves {
    First,
    Both,
}

/// Its line in the harness of [`crate::operations`]: two wait for one pull, and a fault happens at each point of that.
#[test]
pub fn a_fault_of_a_shared_pull_is_one_for_all_and_a_cancel_is_not() {
    let trial = |number: usize, fault: Fault, leaves: Leaves| {
        let what = format!("{fault:?} at {number}, {leaves:?}");
        let mut world = World::new();
        let (server, gate) = slow_registry();
        let before = world.look();
        let both = [(); 2].map(|()| world.begin_pull(pull(&server)));
        both.iter().for_each(|operation| tells(&world, operation, "pulling image"));
        world.faults.arm(&[(number, fault)]);
        world.faults.watch(&both[0]);
        if leaves == Leaves::Both {
            world.faults.watch(&both[1]);
        }
        gate.open();
        let [first, second] = both.map(|operation| code(&world, &operation));
        let (killed, points) = (world.faults.killed(), world.faults.disarm().len());
        if !killed {
            let scene = world.look();
            assert_eq!(scene.leaks, Vec::<String>::new(), "{what}");
            let is_there = first.is_none() || second.is_none();
            assert_eq!(scene != before, is_there, "{what}: {first:?}, {second:?}");
            match (fault, leaves) {
                // It may have been through before that was noticed.
                (Fault::Cancel, Leaves::First) => {
                    assert_eq!(second, None, "{what}");
                    assert!(matches!(first, None | Some(Code::Cancelled)), "{what}: {first:?}");
                }
                (Fault::Cancel, Leaves::Both) => {
                    for end in [first, second] {
                        assert!(matches!(end, None | Some(Code::Cancelled)), "{what}: {end:?}");
                    }
                }
                (Fault::Fail | Fault::Full | Fault::Kill | Fault::Helper, _) => {
                    assert_eq!(first, second, "{what}")
                }
            }
            assert_eq!(code(&world, &world.begin_pull(pull(&server))), None, "{what}: it can be asked for");
        }
        world.reopen();
        assert_eq!(world.look().leaks, Vec::<String>::new(), "{what}, after another start");
        points
    };
    let points = trial(usize::MAX, Fault::Kill, Leaves::First);
    assert_eq!(points, 8, "as many as those of a pull by one");
    for number in 0..points {
        for fault in [Fault::Fail, Fault::Cancel, Fault::Kill] {
            trial(number, fault, Leaves::First);
        }
        trial(number, Fault::Cancel, Leaves::Both);
    }
}
