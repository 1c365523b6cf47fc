//! The byte stream to the host: sessions on a virtio-serial port.
//!
//! ```text
//!            edges               frames              bytes
//!   port ───────────▶ Pump ◀──────────────▶ session ───────▶ handler (HTTP/2)
//! ```
//! The pump reads all that the port has, always, because a marker that opens the next session may be behind anything.
//! What the handler has not taken yet waits here; HTTP/2's own flow control bounds it, and a host that breaks that loses
//! its session. In the other direction nothing is taken from the handler until the port has taken what was there.
//!
//! # What the port does
//! - While the host is away a read gives 0 and a write `EAGAIN`; `EPIPE` never comes, and `EPOLLHUP` stays set until the
//!   host is back. So readiness is watched by *edges* in an epoll of our own, which is what tokio watches: the driver wakes the
//!   port's waiters on every change, the host's return among them, and nothing spins.
//! - The host's going may not be seen at all when it is back at once, or be told after the first bytes of its return. So
//!   only a marker is a boundary; a host that stays away for [`AWAY`] merely ends what it left behind.

use std::{
    collections::VecDeque,
    future::{Future, poll_fn},
    io,
    os::fd::OwnedFd,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use rustix::{event::epoll, io::Errno};
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, Join, ReadBuf, ReadHalf, SimplexStream, WriteHalf, unix::AsyncFd},
    task::{JoinHandle, spawn_local},
    time::{Sleep, sleep},
};
use wire::session::{self, Event, MAX_PAYLOAD, Nonce, Receiver, Secret};

use crate::sys;

/// The most bytes that a host may send beyond what the handler takes. HTTP/2 windows are far below.
const MAX_BACKLOG: usize = 4 << 20;
/// The bytes that wait between the pump and the handler, each way.
const PIPE: usize = 64 << 10;
/// How long a host may be away before its session is over.
const AWAY: Duration = Duration::from_millis(500);
/// Rounds of a pump before others of the thread get their turn.
const ROUNDS: usize = 32;

/// What a handler reads and writes.
pub type Stream = Join<ReadHalf<SimplexStream>, WriteHalf<SimplexStream>>;

/// Serves sessions on `port`, each by a new `handler`, until the port fails. A session's handler is dropped when the
/// host ends it, goes away, or opens another.
///
/// # Errors
/// The port's own error; always.
pub async fn serve<F>(port: OwnedFd, secret: &Secret, handler: impl Fn(Stream) -> F) -> io::Error
where
    F: Future<Output = ()> + 'static,
{
    let mut pump = match Port::new(port) {
        Ok(port) => Pump::new(port, secret, handler),
        Err(error) => return error,
    };
    poll_fn(|cx| pump.poll(cx)).await
}

/// A port and the epoll that sees its edges.
struct Port {
    fd: OwnedFd,
    edges: AsyncFd<OwnedFd>,
}

impl Port {
    fn new(fd: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        let edges = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let flags = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::ET;
        epoll::add(&edges, &fd, epoll::EventData::new_u64(0), flags)?;
        Ok(Self { fd, edges: sys::watch(edges, Interest::READABLE)? })
    }

    /// Ready when the port may have changed since the last time.
    fn poll_edge(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut guard = ready!(self.edges.poll_read_ready(cx))?;
        let mut events =
            [epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) }];
        epoll::wait(self.edges.get_ref(), &mut events, Some(&rustix::event::Timespec::default()))?;
        guard.clear_ready();
        Poll::Ready(Ok(()))
    }
}

/// A session that the host opened.
struct Session {
    nonce: Nonce,
    to_handler: WriteHalf<SimplexStream>,
    from_handler: ReadHalf<SimplexStream>,
    handler: JoinHandle<()>,
    /// The handler has returned; what it wrote may still be on its way.
    over: bool,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.handler.abort();
    }
}

/// Whether a round of the pump did anything.
enum Progress {
    Some,
    None,
}

struct Pump<H> {
    port: Port,
    secret: Secret,
    receiver: Receiver,
    handler: H,
    session: Option<Session>,
    /// Bytes for the handler that it has not taken yet.
    backlog: VecDeque<Bytes>,
    backlog_bytes: usize,
    /// Bytes for the port.
    outgoing: BytesMut,
    scratch: Box<[u8]>,
    readable: bool,
    writable: bool,
    /// When the host will have been away for too long.
    away: Option<Pin<Box<Sleep>>>,
}

impl<F, H> Pump<H>
where
    H: Fn(Stream) -> F,
    F: Future<Output = ()> + 'static,
{
    fn new(port: Port, secret: &Secret, handler: H) -> Self {
        Self {
            port,
            secret: secret.clone(),
            receiver: Receiver::guest(secret),
            handler,
            session: None,
            backlog: VecDeque::new(),
            backlog_bytes: 0,
            outgoing: BytesMut::new(),
            scratch: vec![0; MAX_PAYLOAD].into(),
            readable: true,
            writable: true,
            away: None,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        for _ in 0..ROUNDS {
            match self.round(cx) {
                Ok(Progress::Some) => {}
                Ok(Progress::None) => return Poll::Pending,
                Err(error) => return Poll::Ready(error),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn round(&mut self, cx: &mut Context<'_>) -> io::Result<Progress> {
        let received = self.receive()?;
        if self.away.as_mut().is_some_and(|away| away.as_mut().poll(cx).is_ready()) {
            self.away = None;
            self.close();
        }
        let delivered = self.deliver(cx);
        let sent = self.send(cx)?;
        if received || delivered || sent {
            return Ok(Progress::Some);
        }
        match self.port.poll_edge(cx) {
            Poll::Ready(edge) => edge?,
            Poll::Pending => return Ok(Progress::None),
        }
        (self.readable, self.writable) = (true, true);
        Ok(Progress::Some)
    }

    /// Takes one read's worth from the port. Whether there was something.
    fn receive(&mut self) -> io::Result<bool> {
        if !self.readable {
            return Ok(false);
        }
        match rustix::io::read(&self.port.fd, &mut self.scratch[..]) {
            Ok(0) => {
                self.readable = false;
                if self.session.is_some() && self.away.is_none() {
                    self.away = Some(Box::pin(sleep(AWAY)));
                }
            }
            Ok(count) => {
                self.away = None;
                self.receiver.push(&self.scratch[..count]);
                while let Some(event) = self.receiver.next_event() {
                    self.apply(event);
                }
                return Ok(true);
            }
            Err(Errno::AGAIN) => (self.readable, self.away) = (false, None),
            Err(Errno::INTR) => return Ok(true),
            Err(error) => return Err(error.into()),
        }
        Ok(false)
    }

    fn apply(&mut self, event: Event) {
        match event {
            // The host resends its marker until the echo arrives.
            Event::Opened(nonce) if self.session.as_ref().is_some_and(|s| s.nonce == nonce) => {}
            Event::Opened(nonce) => {
                self.close();
                self.open(nonce);
            }
            Event::Data(bytes) if self.session.is_some() => {
                self.backlog_bytes += bytes.len();
                self.backlog.push_back(bytes);
                if self.backlog_bytes > MAX_BACKLOG {
                    self.close();
                }
            }
            Event::Data(_) => {}
            Event::Ended | Event::Broken => self.close(),
        }
    }

    fn open(&mut self, nonce: Nonce) {
        let (inner_in, to_handler) = tokio::io::simplex(PIPE);
        let (from_handler, inner_out) = tokio::io::simplex(PIPE);
        let handler = spawn_local((self.handler)(tokio::io::join(inner_in, inner_out)));
        self.session = Some(Session { nonce, to_handler, from_handler, handler, over: false });
        self.outgoing.put_slice(&session::mark(&self.secret, nonce));
    }

    /// Ends the session; what it has not sent is void, for whatever comes next begins with a marker.
    fn close(&mut self) {
        self.session = None;
        self.backlog.clear();
        self.backlog_bytes = 0;
        self.outgoing.clear();
    }

    /// Hands on one piece to the handler. Whether it took something.
    fn deliver(&mut self, cx: &mut Context<'_>) -> bool {
        let (Some(session), Some(first)) = (&mut self.session, self.backlog.front_mut()) else {
            return false;
        };
        match pin!(&mut session.to_handler).poll_write(cx, first) {
            Poll::Ready(Ok(count)) => {
                first.advance(count);
                self.backlog_bytes -= count;
                if first.is_empty() {
                    self.backlog.pop_front();
                }
                true
            }
            // A handler that is gone is noticed in `send`.
            Poll::Ready(Err(_)) | Poll::Pending => false,
        }
    }

    /// Writes to the port what there is, fetching from the handler when there is nothing. Whether something went.
    fn send(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        if self.outgoing.is_empty() {
            self.fetch(cx);
        }
        if self.outgoing.is_empty() || !self.writable {
            return Ok(false);
        }
        match rustix::io::write(&self.port.fd, &self.outgoing) {
            Ok(count) => self.outgoing.advance(count),
            Err(Errno::AGAIN) => {
                self.writable = false;
                return Ok(false);
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(true)
    }

    fn fetch(&mut self, cx: &mut Context<'_>) {
        let Some(session) = &mut self.session else { return };
        session.over = session.over || Pin::new(&mut session.handler).poll(cx).is_ready();
        let over = session.over;
        let mut buffer = ReadBuf::new(&mut self.scratch);
        match pin!(&mut session.from_handler).poll_read(cx, &mut buffer) {
            Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                session::data(buffer.filled(), &mut self.outgoing)
            }
            Poll::Ready(_) | Poll::Pending if over => {
                self.close();
                session::end(&mut self.outgoing);
            }
            Poll::Ready(_) | Poll::Pending => {}
        }
    }
}
