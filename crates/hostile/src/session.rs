//! What a guest sends on its one port: sessions, and in these the frames of a command.

use bytes::BytesMut;
use wire::{
    exec::{Decoder, Frame},
    session::{self, Event, MAX_PAYLOAD, Nonce, Receiver, Secret, mark},
};

use crate::{choices::Choices, message};

/// The session that the host's end waits for.
const OWN: Nonce = Nonce([2; 16]);

/// What is understood does not depend on how the bytes are cut, a marker always opens a session, and what is passed on of a
/// command's frames is what came.
///
/// The first byte says what the others are: sessions for the guest's or for the host's end, or frames; the second how they
/// are cut.
///
/// # Panics
/// Where that does not hold.
pub fn check(data: &[u8]) {
    let mut choices = Choices::new(data);
    let what = choices.byte() % 3;
    let step = 1 + usize::from(choices.byte());
    if what == 2 {
        return check_frames(choices.rest(), step);
    }
    let secret = Secret::new(*b"0123456789abcdef");
    let input = input(&secret, &mut choices);
    let receiver = || match what {
        0 => Receiver::guest(&secret),
        _ => Receiver::host(&secret, OWN),
    };
    let whole = events(receiver(), &input, input.len().max(1));
    assert_eq!(sessions(&whole), sessions(&events(receiver(), &input, step)), "cut into pieces of {step}");
    assert!(whole.iter().all(|event| !matches!(event, Event::Data(data) if data.is_empty())));
    let opened = |events: &[Event]| events.iter().filter(|event| matches!(event, Event::Opened(_))).count();
    if what == 1 {
        assert!(opened(&whole) <= 1, "the host's end is opened by its own echo, once");
        return;
    }
    // Whatever came, the next marker is heard, or where one was cut off right before it the same one that is sent after it.
    let last = Nonce([9; 16]);
    let again = events(receiver(), &[&input[..], &mark(&secret, last).repeat(2)].concat(), step);
    assert_eq!(again.last(), Some(&Event::Opened(last)));
}

/// Bytes of a port, in which some mean something.
fn input(secret: &Secret, choices: &mut Choices<'_>) -> Vec<u8> {
    let mut out = BytesMut::new();
    while !choices.is_empty() && out.len() < 1 << 18 {
        match choices.byte() % 8 {
            0 => out.extend_from_slice(&mark(secret, OWN)),
            1 => out.extend_from_slice(&mark(secret, Nonce([choices.byte(); 16]))),
            2 => {
                let part = usize::from(choices.byte()) % 32;
                out.extend_from_slice(&mark(secret, OWN)[..part]);
            }
            3 => session::end(&mut out),
            4 => {
                let (length, byte) = (usize::from(choices.half()) % (MAX_PAYLOAD + 1), choices.byte());
                session::data(&vec![byte; length], &mut out);
            }
            5 => {
                let length = usize::from(choices.byte());
                session::data(choices.take(length), &mut out);
            }
            6 => out.extend_from_slice(&choices.word().to_be_bytes()),
            _ => {
                let length = usize::from(choices.byte());
                out.extend_from_slice(choices.take(length));
            }
        }
    }
    out.to_vec()
}

/// The sessions that were opened, and what came in the last one. Those before it are void, and the bytes of a marker that began
/// within a frame may count as some of its payload.
fn sessions(events: &[Event]) -> (Vec<Nonce>, &[Event]) {
    let nonce = |event: &Event| match event {
        Event::Opened(nonce) => Some(*nonce),
        Event::Data(_) | Event::Ended | Event::Broken => None,
    };
    let last = events.iter().rposition(|event| nonce(event).is_some()).unwrap_or(0);
    (events.iter().filter_map(nonce).collect(), &events[last..])
}

/// What `receiver` makes of `input` in pieces of `step` bytes, with data that follows data joined.
fn events(mut receiver: Receiver, input: &[u8], step: usize) -> Vec<Event> {
    let mut found: Vec<Event> = Vec::new();
    for piece in input.chunks(step) {
        receiver.push(piece);
        while let Some(event) = receiver.next_event() {
            match (found.last_mut(), event) {
                (Some(Event::Data(before)), Event::Data(more)) => {
                    *before = [&before[..], &more[..]].concat().into();
                }
                (_, event) => found.push(event),
            }
        }
        assert!(receiver.held() < 256, "{} bytes are held", receiver.held());
    }
    found
}

fn check_frames(input: &[u8], step: usize) {
    let whole = frames(input, input.len().max(1));
    let cut = frames(input, step);
    assert_eq!(whole.0, cut.0, "cut into pieces of {step}");
    assert_eq!(whole.1.is_some(), cut.1.is_some(), "cut into pieces of {step}");
    let (mut passed, mut again) = (Vec::new(), Decoder::default());
    for (frame, bytes) in &whole.0 {
        passed.extend_from_slice(bytes);
        again.push(&frame.to_bytes());
        assert_eq!(again.next_frame().ok().flatten().as_ref(), Some(frame), "it is written otherwise");
    }
    assert!(input.starts_with(&passed));
    whole.1.iter().for_each(|error| message::check(error));
}

type Frames = (Vec<(Frame, bytes::Bytes)>, Option<wire::exec::FrameError>);

/// The frames of `input`, and what ends them early.
fn frames(input: &[u8], step: usize) -> Frames {
    let (mut decoder, mut found) = (Decoder::default(), Vec::new());
    for piece in input.chunks(step) {
        decoder.push(piece);
        loop {
            match decoder.next_with_bytes() {
                Ok(Some(frame)) => found.push(frame),
                Ok(None) => break,
                Err(error) => return (found, Some(error)),
            }
        }
    }
    (found, None)
}
