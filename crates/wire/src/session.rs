//! Session boundaries for a virtio-serial port, which has none.
//!
//! The port is one byte pipe each way that outlives its users: stale bytes of the last connection arrive on the next one,
//! either end may vanish in the middle of anything, and a restored guest does not notice that it was restored. So the host
//! opens each session with a marker, a secret of this boot and a fresh nonce, and resends it until the guest echoes it.
//!
//! ```text
//! host → guest   … stale …  MARK(nonce) MARK(nonce)   frame frame …
//! guest → host   … stale …              ECHO(nonce)   frame frame …
//! MARK = ECHO = secret: 16 bytes · nonce: 16 bytes
//! frame = kind: u8 (0 data, 1 end) · length: u24, big endian · payload
//! ```
//! The host drops everything before the echo of its latest nonce. The guest's scanner is always on, because a marker may
//! come in the middle of a frame that will never be finished. Nobody who does not know the secret can write a marker by
//! accident; a guest that does it on purpose only ends its own session.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use memchr::memmem;

/// The name of the port that the agent opens (`/sys/class/virtio-ports/*/name`).
pub const PORT: &str = "banger.agent";
/// A write to the port takes at most 32 KiB, so a frame is made to fill one.
pub const MAX_PAYLOAD: usize = (32 << 10) - HEADER;
const HEADER: usize = 4;
const MARK: usize = 32;

/// What only the host and this boot of the guest know.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret([u8; 16]);

impl Secret {
    /// The secret of these random bytes. Only the first one gets its high bit, so a secret begins neither like a frame
    /// nor anywhere within itself, and stale bytes before it cannot hide where it begins.
    #[must_use]
    pub fn new(bytes: [u8; 16]) -> Self {
        let mut bytes = bytes.map(|byte| byte & 0x7f);
        bytes[0] |= 0x80;
        Self(bytes)
    }

    /// The secret that `hex` writes, as [`crate::guest::Config`] carries it.
    #[must_use]
    pub fn from_hex(hex: &str) -> Option<Self> {
        let digits: Option<Vec<u32>> = hex.chars().map(|c| c.to_digit(16)).collect();
        let bytes: Vec<u8> =
            digits?.chunks_exact(2).filter_map(|d| u8::try_from(d[0] << 4 | d[1]).ok()).collect();
        Some(Self::new(bytes.try_into().ok().filter(|_| hex.len() == 32)?))
    }

    /// It in 32 hexadecimal digits.
    #[must_use]
    pub fn to_hex(&self) -> String {
        model::hex::encode(&self.0)
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// A fresh random number for each session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Nonce(pub [u8; 16]);

/// The marker that opens, or echoes, the session of `nonce`.
#[must_use]
pub fn mark(secret: &Secret, nonce: Nonce) -> [u8; MARK] {
    let mut out = [0; MARK];
    out[..16].copy_from_slice(&secret.0);
    out[16..].copy_from_slice(&nonce.0);
    out
}

/// Appends the data frame of `payload` to `out`.
///
/// # Panics
/// Where it is longer than [`MAX_PAYLOAD`].
pub fn data(payload: &[u8], out: &mut BytesMut) {
    assert!(payload.len() <= MAX_PAYLOAD, "payloads are cut before they are framed");
    header(0, payload.len(), out);
    out.put_slice(payload);
}

/// Appends the frame that ends the session to `out`.
pub fn end(out: &mut BytesMut) {
    header(1, 0, out);
}

fn header(kind: u8, length: usize, out: &mut BytesMut) {
    out.put_u32(u32::from(kind) << 24 | u32::try_from(length).expect("MAX_PAYLOAD fits"));
}

/// What arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The other side opened (guest) or confirmed (host) the session of this nonce; what came before it is void.
    Opened(Nonce),
    /// Bytes of the session.
    Data(Bytes),
    /// The other side ended the session.
    Ended,
    /// The bytes are not of this protocol; only a new session helps.
    Broken,
}

/// The receiving half of either end: bytes as they come in, [`Event`]s out.
///
/// The scanner looks at bytes that frames have already used, too: a marker may begin inside what a cut frame claims.
#[derive(Debug)]
pub struct Receiver {
    finder: memmem::Finder<'static>,
    side: Side,
    open: bool,
    /// Whether a marker was heard before.
    was_open: bool,
    buffer: BytesMut,
    /// Up to here `buffer` was used by frames or dropped; a few used bytes stay for the scanner.
    used: usize,
    /// Up to here `buffer` is known to hold no whole pattern.
    scanned: usize,
    /// Payload bytes of the current data frame that are still to come.
    left: usize,
}

#[derive(Debug, Clone, Copy)]
enum Side {
    /// Takes any marker, at any time.
    Guest,
    /// Takes only the echo of its own nonce, once: the guest sends it no second time while the session lives.
    Host,
}

impl Receiver {
    /// The guest's end: every marker opens a new session.
    #[must_use]
    pub fn guest(secret: &Secret) -> Self {
        Self::new(&secret.0, Side::Guest)
    }

    /// The host's end of a session that it marks with `nonce`.
    #[must_use]
    pub fn host(secret: &Secret, nonce: Nonce) -> Self {
        Self::new(&mark(secret, nonce), Side::Host)
    }

    fn new(pattern: &[u8], side: Side) -> Self {
        let finder = memmem::Finder::new(pattern).into_owned();
        Self {
            finder,
            side,
            open: false,
            was_open: false,
            buffer: BytesMut::new(),
            used: 0,
            scanned: 0,
            left: 0,
        }
    }

    /// Adds bytes that arrived.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// How many bytes are held: few, whatever came, once there is no further event.
    #[must_use]
    pub fn held(&self) -> usize {
        self.buffer.len()
    }

    /// The next event; `None` until more bytes arrive. After [`Event::Broken`] the guest's end waits for a marker.
    pub fn next_event(&mut self) -> Option<Event> {
        let marker = self.scan();
        let limit = marker.unwrap_or(self.buffer.len());
        let event = if self.open { self.frame(limit, marker.is_some()) } else { None };
        if event.is_none() && !self.open {
            self.used = limit.max(self.used);
        }
        let event = match (event, marker) {
            (None, Some(at)) => self.opened(at),
            (event, _) => event,
        };
        self.trim();
        event
    }

    /// Whether a marker may still come.
    fn is_looking(&self) -> bool {
        match self.side {
            Side::Guest => true,
            Side::Host => !self.was_open,
        }
    }

    /// Where the next marker begins, as far as it can be seen yet.
    fn scan(&mut self) -> Option<usize> {
        if !self.is_looking() {
            // Nothing need be kept for it.
            self.scanned = self.buffer.len();
            return None;
        }
        // The last bytes that were scanned may be the beginning of one.
        let from = self.scanned.saturating_sub(self.finder.needle().len() - 1);
        let found = self.finder.find(&self.buffer[from..]).map(|at| from + at);
        self.scanned = found.unwrap_or(self.buffer.len());
        found
    }

    /// Takes the marker at `at`, where it is there whole; a frame that it cut off is void.
    fn opened(&mut self, at: usize) -> Option<Event> {
        let nonce = self.buffer.get(at + 16..at + MARK)?;
        let nonce = Nonce(nonce.try_into().expect("16 bytes"));
        self.buffer.advance(at + MARK);
        (self.used, self.scanned, self.left, self.open, self.was_open) = (0, 0, 0, true, true);
        Some(Event::Opened(nonce))
    }

    /// One event out of the bytes before `limit`, where the buffer ends or, if `marked`, a marker begins.
    fn frame(&mut self, limit: usize, marked: bool) -> Option<Event> {
        let may_come = !marked && self.is_looking();
        while self.left == 0 {
            let rest = self.buffer.get(self.used..limit).unwrap_or_default();
            // A secret never begins like a header, so what begins like one is a marker on its way.
            if may_come && !rest.is_empty() && self.finder.needle().starts_with(&rest[..rest.len().min(16)]) {
                return None;
            }
            let header = rest.get(..HEADER)?;
            let length = usize::from(header[1]) << 16 | usize::from(header[2]) << 8 | usize::from(header[3]);
            match (header[0], length) {
                (0, 0..=MAX_PAYLOAD) => self.left = length,
                (kind, _) => {
                    self.open = false;
                    return Some(if (kind, length) == (1, 0) { Event::Ended } else { Event::Broken });
                }
            }
            self.used += HEADER;
        }
        let mut count = limit.saturating_sub(self.used).min(self.left);
        if may_come && count < self.left {
            // The frame is not whole, so waiting for what follows these bytes costs nothing.
            count = count.saturating_sub(self.partial());
        }
        if count == 0 {
            return None;
        }
        let data = Bytes::copy_from_slice(&self.buffer[self.used..self.used + count]);
        self.used += count;
        self.left -= count;
        Some(Event::Data(data))
    }

    /// How many of the last bytes may be the beginning of a marker.
    fn partial(&self) -> usize {
        let needle = self.finder.needle();
        let most = (needle.len() - 1).min(self.buffer.len());
        (1..=most).rev().find(|&n| self.buffer.ends_with(&needle[..n])).unwrap_or(0)
    }

    /// Forgets what neither the frames nor the scanner need.
    fn trim(&mut self) {
        let count = self.used.min(self.scanned).saturating_sub(MARK);
        self.buffer.advance(count);
        self.used -= count;
        self.scanned -= count;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn secret() -> Secret {
        Secret::new([7; 16])
    }

    fn drain(receiver: &mut Receiver) -> Vec<Event> {
        std::iter::from_fn(|| receiver.next_event()).collect()
    }

    fn joined(events: Vec<Event>) -> Vec<Event> {
        let mut out: Vec<Event> = Vec::new();
        for event in events {
            match (out.last_mut(), event) {
                (Some(Event::Data(before)), Event::Data(more)) => {
                    *before = [&before[..], &more[..]].concat().into()
                }
                (_, event) => out.push(event),
            }
        }
        out
    }

    fn framed(payload: &[u8]) -> Vec<u8> {
        let mut out = BytesMut::new();
        payload.chunks(MAX_PAYLOAD).for_each(|piece| data(piece, &mut out));
        out.to_vec()
    }

    #[test]
    fn a_marker_in_the_middle_of_a_frame_opens_a_new_session() {
        let (one, two) = (Nonce([1; 16]), Nonce([2; 16]));
        let half = &framed(&[9; 1000])[..500];
        let input =
            [b"stale", &mark(&secret(), one)[..], half, &mark(&secret(), two), &framed(b"fresh")].concat();
        for step in [1, 3, 31, 32, 33, input.len()] {
            let mut receiver = Receiver::guest(&secret());
            let mut events = Vec::new();
            for piece in input.chunks(step) {
                receiver.push(piece);
                events.extend(drain(&mut receiver));
            }
            let expect = [
                Event::Opened(one),
                Event::Data(vec![9; 496].into()),
                Event::Opened(two),
                Event::Data(Bytes::from_static(b"fresh")),
            ];
            assert_eq!(joined(events), expect, "in pieces of {step}");
        }
    }

    #[test]
    fn what_was_used_is_not_held() {
        let nonce = Nonce([1; 16]);
        for mut receiver in [Receiver::guest(&secret()), Receiver::host(&secret(), nonce)] {
            receiver.push(&mark(&secret(), nonce));
            for _ in 0..100 {
                receiver.push(&framed(&[9; 10_000]));
                drain(&mut receiver);
                assert!(receiver.held() < 100, "{} bytes", receiver.held());
            }
        }
    }

    #[test]
    fn the_host_hears_its_echo_once() {
        let own = Nonce([2; 16]);
        let mut receiver = Receiver::host(&secret(), own);
        let echo = mark(&secret(), own);
        receiver.push(&[&echo[..], &[9; 4], &echo, &framed(b"more")].concat());
        assert_eq!(drain(&mut receiver), [Event::Opened(own), Event::Broken]);
        // Where a frame should be it is none, and nothing is waited for.
        let mut receiver = Receiver::host(&secret(), own);
        receiver.push(&[&echo[..], &echo[..20]].concat());
        assert_eq!(drain(&mut receiver), [Event::Opened(own), Event::Broken]);
    }

    #[test]
    fn a_marker_behind_one_that_was_cut_off_is_heard_when_it_is_sent_again() {
        let own = Nonce([2; 16]);
        let half = &mark(&secret(), Nonce([1; 16]))[..24];
        let mut receiver = Receiver::guest(&secret());
        // The first one is taken for the end of the half.
        receiver.push(&[half, &mark(&secret(), own)].concat());
        assert!(!drain(&mut receiver).contains(&Event::Opened(own)));
        receiver.push(&mark(&secret(), own));
        assert_eq!(drain(&mut receiver), [Event::Opened(own)]);
    }

    #[test]
    fn the_host_drops_all_before_its_own_echo() {
        let (stale, own) = (Nonce([1; 16]), Nonce([2; 16]));
        let mut receiver = Receiver::host(&secret(), own);
        receiver.push(&mark(&secret(), stale));
        receiver.push(&framed(b"old"));
        assert_eq!(drain(&mut receiver), []);
        receiver.push(&mark(&secret(), own));
        receiver.push(&framed(b"new"));
        assert_eq!(drain(&mut receiver), [Event::Opened(own), Event::Data(Bytes::from_static(b"new"))]);
    }

    #[test]
    fn data_that_looks_like_a_marker_but_is_none_passes() {
        let nonce = Nonce([1; 16]);
        // Also at the very end of a frame, where nothing follows that would tell.
        let payload = [&secret().0[..15], b"x", &secret().0[..8]].concat();
        assert_eq!(Secret::from_hex(&secret().to_hex()), Some(secret()));
        let mut receiver = Receiver::guest(&secret());
        receiver.push(&mark(&secret(), nonce));
        receiver.push(&framed(&payload));
        let mut end_frame = BytesMut::new();
        end(&mut end_frame);
        receiver.push(&end_frame);
        assert_eq!(
            joined(drain(&mut receiver)),
            [Event::Opened(nonce), Event::Data(payload.into()), Event::Ended]
        );
    }

    #[test]
    fn nonsense_breaks_the_session_until_the_next_marker() {
        let nonce = Nonce([1; 16]);
        let mut receiver = Receiver::guest(&secret());
        receiver.push(&mark(&secret(), nonce));
        receiver.push(&[9, 9, 9, 9]);
        assert_eq!(drain(&mut receiver), [Event::Opened(nonce), Event::Broken]);
        receiver.push(b"more nonsense");
        receiver.push(&mark(&secret(), nonce));
        assert_eq!(drain(&mut receiver), [Event::Opened(nonce)]);
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_receiver_panic(pieces: Vec<Vec<u8>>, marks: Vec<bool>) {
            let mut receiver = Receiver::guest(&secret());
            for (piece, marked) in pieces.iter().zip(marks) {
                receiver.push(piece);
                drain(&mut receiver);
                if marked {
                    receiver.push(&mark(&secret(), Nonce([5; 16])));
                    let events = drain(&mut receiver);
                    prop_assert_eq!(events.last(), Some(&Event::Opened(Nonce([5; 16]))));
                }
            }
        }

        #[test]
        fn a_session_carries_any_bytes(stale: Vec<u8>, payload in proptest::collection::vec(any::<u8>(), 0..100_000), step in 1usize..5000) {
            let nonce = Nonce([3; 16]);
            let secret = Secret::new(*b"0123456789abcdef");
            let input = [&stale[..], &mark(&secret, nonce), &framed(&payload)].concat();
            for mut receiver in [Receiver::guest(&secret), Receiver::host(&secret, nonce)] {
                let mut events = Vec::new();
                for piece in input.chunks(step) {
                    receiver.push(piece);
                    events.extend(drain(&mut receiver));
                }
                let mut expect = vec![Event::Opened(nonce)];
                if !payload.is_empty() {
                    expect.push(Event::Data(payload.clone().into()));
                }
                prop_assert_eq!(joined(events), expect);
            }
        }
    }
}
