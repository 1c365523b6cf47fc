//! Pulls of several layers: how many are fetched at once, what is told meanwhile, and the end in the middle.

use std::{
    io::{Read, Write},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use testkit::images::Tar;
use wire::control::{Code, Event};

use crate::{
    fault::Gate,
    pull::nothing_is_left,
    pull_hostile::{Goods, goods, goods_of, pull},
    server::{Server, head},
    world::World,
};

/// How many blobs are fetched at once.
const AT_ONCE: usize = 4;
/// Layers of the image, beside which it has its configuration.
const LAYERS: usize = 6;

/// An image of layers that differ in one file.
fn several() -> Goods {
    let layers: Vec<_> = (0..LAYERS)
        .map(|number| Tar::default().file(&format!("file-{number}"), 0o644, &[b'x'; 100_000]).finish())
        .collect();
    goods_of(&layers)
}

/// What `operation` told, to its end.
fn told(world: &World, operation: &engine::Operation) -> Vec<Event> {
    let mut follow = operation.follow();
    world.wait(async {
        let mut events = Vec::new();
        while let Some(event) = follow.next().await {
            events.push(event);
        }
        events
    })
}

/// How far the pull in `events` was before it went on with the import, in each unit: done, and of how many.
fn last_told(events: &[Event], wanted: &str) -> Option<(u64, u64)> {
    let until =
        events.iter().position(|event| matches!(event, Event::Stage { name } if name == "importing image"));
    events[..until.unwrap()].iter().rev().find_map(|event| match event {
        Event::Progress { name, done, total: Some(total), unit }
            if name == "pulling image" && unit == wanted =>
        {
            Some((*done, *total))
        }
        _ => None,
    })
}

#[test]
fn layers_are_fetched_in_parallel_and_told_of_to_the_last() {
    let world = World::new();
    let goods = several();
    let blobs = goods.documents.iter().filter(|(path, _)| path.contains("/blobs/"));
    let bytes: usize = blobs.map(|(_, bytes)| bytes.len()).sum();
    // Nobody gets anything before so many wait.
    let (gate, flight) = (Arc::<Gate>::default(), Arc::new(Mutex::new((0, 0))));
    let (held, seen) = (Arc::clone(&gate), Arc::clone(&flight));
    let server = Server::start(move |asked, stream| {
        if !asked.path.contains("/blobs/") {
            return goods.serve(asked, stream);
        }
        {
            let mut flight = seen.lock().unwrap();
            flight.0 += 1;
            flight.1 = flight.1.max(flight.0);
            if flight.0 == AT_ONCE {
                held.open();
            }
        }
        held.pass();
        // Before the answer: whoever asks next has it.
        seen.lock().unwrap().0 -= 1;
        goods.serve(asked, stream)
    });
    let operation = world.begin_pull(pull(&server));
    world.end(&operation).unwrap();
    assert_eq!(flight.lock().unwrap().1, AT_ONCE);
    assert_eq!(server.asked("/blobs/"), LAYERS + 1);
    let events = told(&world, &operation);
    let (blobs, bytes) = (LAYERS as u64 + 1, bytes as u64);
    assert_eq!(last_told(&events, "blobs"), Some((blobs, blobs)), "{events:?}");
    assert_eq!(last_told(&events, "bytes"), Some((bytes, bytes)), "{events:?}");
    // The import is told of to its end, too.
    let Some(Event::Done { .. }) = events.last() else { panic!("{events:?}") };
    let imported = events.iter().rev().find_map(|event| match event {
        Event::Progress { name, done, .. } if name == "importing image" => Some(*done),
        _ => None,
    });
    assert!(imported.is_some_and(|done| done > 0), "{events:?}");
}

#[test]
fn a_pull_that_is_cancelled_in_the_middle_hangs_up_and_keeps_whole_blobs_only() {
    let world = World::new();
    let goods = goods();
    let (hung_up, is_first) = (Arc::<Gate>::default(), AtomicBool::new(true));
    let told = Arc::clone(&hung_up);
    let server = Server::start(move |asked, stream| {
        if !goods.is_layer(asked) || !is_first.swap(false, Ordering::Relaxed) {
            return goods.serve(asked, stream);
        }
        head(stream, "200 OK", &format!("Content-Length: {}\r\n", goods.layer.len()));
        let _ = stream.write_all(&goods.layer[..2_000_000]);
        // Until the other side goes.
        let _ = stream.read(&mut [0]);
        told.open();
        false
    });
    let operation = world.begin_pull(pull(&server));
    let mut follow = operation.follow();
    world.wait(async {
        loop {
            let event = follow.next().await.expect("it goes on");
            if matches!(&event, Event::Progress { unit, done, .. } if unit == "bytes" && *done > 1_000_000) {
                return;
            }
        }
    });
    operation.cancel();
    assert_eq!(world.end(&operation).unwrap_err().code, Code::Cancelled);
    hung_up.pass();
    nothing_is_left(&world);
    let cached = || host::fs::list(&world.home().join("cache/blobs/sha256")).unwrap().len();
    assert_eq!(cached(), 1, "the configuration");
    world.end(&world.begin_pull(pull(&server))).unwrap();
    assert_eq!((cached(), server.asked("/blobs/")), (2, 3), "it is not fetched again");
}
