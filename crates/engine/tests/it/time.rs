//! What comes of time that passes: operations are forgotten, and VMs that nobody uses stopped. The clock is put forward.

use std::{num::NonZeroU16, time::Duration};

use engine::{Engine, GuestStream};
use http_body_util::channel::Channel;
use model::copy::CopyPath;
use testkit::home::wait_until;
use wire::control::{Code, ExportWorkspace, OperationState, State};

use crate::{
    verb::Verb::{self, *},
    workspace::Pair,
    world::{SOON, World, default_config},
};

const MINUTE: Duration = Duration::from_secs(60);
/// After which VMs are stopped that nobody uses.
const LIMIT: Duration = Duration::from_secs(3600);
/// Most of it.
const MOST: Duration = Duration::from_secs(40 * 60);

fn code(world: &World, id: &str) -> Option<Code> {
    world.engine().operations().get(id).err().map(|error| error.to_body().code)
}

#[test]
fn an_operation_is_remembered_for_an_hour_and_is_gone_then() {
    let world = World::new();
    let running = world.operation(engine::Kind::VmCreate);
    let ended = world.begin(&CreateUnstarted("a"));
    world.end(&ended).unwrap();
    let id = ended.id().to_string();
    world.clock.put_forward(59 * MINUTE);
    assert_eq!(world.engine().operations().get(&id).unwrap().show().state, OperationState::Done);
    world.clock.put_forward(2 * MINUTE);
    assert_eq!(code(&world, &id), Some(Code::Gone));
    assert_eq!(code(&world, "another"), Some(Code::NotFound));
    // One that is under way stays, and is remembered from its end.
    world.clock.put_forward(24 * LIMIT);
    let listed = world.engine().operations().list();
    assert_eq!(listed.iter().map(|one| one.id()).collect::<Vec<_>>(), [running.id()]);
    running.finish(&Ok(wire::control::Outcome::None));
    world.clock.put_forward(59 * MINUTE);
    assert_eq!(code(&world, running.id().as_str()), None);
}

#[test]
fn the_last_thousand_operations_are_remembered() {
    let world = World::new();
    let kind = engine::Kind::VmCreate;
    let running = world.operation(kind);
    let ended: Vec<_> = (0..1_500)
        .map(|_| {
            let operation = world.operation(kind);
            operation.finish(&Ok(wire::control::Outcome::None));
            operation.id().to_string()
        })
        .collect();
    assert_eq!(world.engine().operations().list().len(), 1_000);
    assert_eq!(code(&world, running.id().as_str()), None, "it is under way");
    let gone = ended.iter().take_while(|id| code(&world, id) == Some(Code::Gone)).count();
    assert_eq!(gone, 501, "the oldest ones");
    assert!(ended[gone..].iter().all(|id| code(&world, id).is_none()));
}

/// A world with the VMs `a` and `idle`, which both were just started.
fn world() -> World {
    let world =
        World::with(engine::config::Config { auto_stop_stale_after: Some(LIMIT), ..default_config() });
    world.prepare(&[Create("a"), Create("idle")]);
    world
}

fn state(world: &World, name: &str) -> State {
    world.engine().vm_show(name).unwrap().state
}

fn is_stopped(world: &World, name: &str) {
    wait_until(SOON, "it is stopped", || state(world, name) == State::Stopped);
    let reason = world.engine().vm_show(name).unwrap().reason;
    assert_eq!(reason.as_deref(), Some("it was stopped because nobody used it"));
}

/// Whether VM `a` was used by `touch`, after most of the limit had passed.
fn touches(touch: impl FnOnce(&World)) -> bool {
    let world = world();
    world.clock.put_forward(MOST);
    touch(&world);
    world.clock.put_forward(MOST);
    // One look at all of them finds both.
    is_stopped(&world, "idle");
    let id = world.engine().vm_show("a").unwrap().id;
    let is_begun = |one: &engine::Operation| one.show().what == format!("vm.auto-stop {id}");
    if !world.engine().operations().list().iter().any(is_begun) {
        assert_eq!(state(&world, "a"), State::Running);
        world.clock.put_forward(MOST);
        is_stopped(&world, "a");
        return true;
    }
    is_stopped(&world, "a");
    false
}

fn port() -> NonZeroU16 {
    NonZeroU16::new(22).unwrap()
}

/// A stream into `a` that was open for a moment.
fn opened<F: Future<Output = engine::Result<GuestStream>>>(open: impl FnOnce(Engine) -> F) -> bool {
    touches(|world| drop(world.wait(open(world.engine().clone())).unwrap()))
}

#[test]
fn what_uses_a_vm_keeps_it() {
    let does = |verbs: &'static [Verb]| touches(|world| world.prepare(verbs));
    assert!(does(&[Stop("a"), Start("a")]) && does(&[Restart("a")]), "a start");
    assert!(does(&[Grow("a")]), "another size");
    assert!(opened(async |engine| engine.vm_exec("a").await), "a command");
    assert!(opened(async |engine| engine.vm_connect("a", port()).await), "ssh, or a forwarded connection");
    let path = CopyPath::try_from("/root").unwrap();
    assert!(touches(|world| drop(world.wait(world.engine().vm_files_read("a", &path)))), "files out of it");
    let files_in = |world: &World| {
        let (sender, body) = Channel::new(1);
        drop(sender);
        drop(world.wait(world.engine().vm_files_write("a", &path, body)));
    };
    assert!(touches(files_in), "files into it");
    // Also those that come to nothing, as these do without an agent.
    let pair = Pair::new();
    pair.commit();
    let request = pair.request();
    assert!(touches(|world| drop(world.run(&Prepare("a", Box::new(request))))), "a workspace");
    assert!(touches(|world| drop(world.run(&Export("a", ExportWorkspace::default())))), "its work");
}

#[test]
fn who_only_looks_at_a_vm_does_not_keep_it() {
    let looks = |look: fn(&Engine)| touches(|world| look(world.engine()));
    assert!(!looks(|_| {}));
    assert!(!looks(|engine| drop(engine.vm_list().unwrap())));
    assert!(!looks(|engine| drop(engine.vm_show("a").unwrap())));
    assert!(!touches(|world| drop(world.wait(world.engine().vm_stats(Vec::new())).unwrap())));
    assert!(!touches(|world| drop(world.wait(world.engine().vm_health("a")).unwrap())));
    assert!(!touches(|world| drop(world.run(&ImportImage("new")).unwrap())), "what is done elsewhere");
}

#[test]
fn a_vm_with_an_open_stream_is_never_stopped_for_being_unused() {
    let world = world();
    let stream = world.wait(world.engine().vm_exec("a")).unwrap();
    world.clock.put_forward(100 * LIMIT);
    is_stopped(&world, "idle");
    let (input, output, ending) = stream.into_parts();
    drop((input, output));
    world.prepare(&[Start("idle")]);
    world.clock.put_forward(100 * LIMIT);
    is_stopped(&world, "idle");
    assert_eq!(state(&world, "a"), State::Running);
    // From its end on the time counts.
    drop(ending);
    world.prepare(&[Start("idle")]);
    world.clock.put_forward(MOST);
    assert_eq!(state(&world, "a"), State::Running);
    world.clock.put_forward(MOST);
    is_stopped(&world, "a");
}

#[test]
fn a_vm_that_another_daemon_finds_again_was_used_just_now() {
    let mut world = world();
    world.clock.put_forward(MOST);
    world.reopen();
    world.prepare(&[Stop("idle"), Start("idle")]);
    world.clock.put_forward(MOST);
    assert_eq!(state(&world, "a"), State::Running);
    world.clock.put_forward(MOST);
    is_stopped(&world, "a");
}
