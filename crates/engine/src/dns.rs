//! Names of VMs: an authority for `.vm`, for the host at its loopback and for guests at the bridge's address.
//!
//! ```text
//! host ──▶ 127.0.0.1:42069 ─┐                         ┌─ a VM's address, or that there is none
//!                           ├─ UDP, TCP ──▶ Names ────┤
//! guest ─▶ gateway:53 ──────┘  who asks?              └─ elsewhere: with NAT, whoever the host asks; else refused
//! ```
//! A guest without NAT is told only of its own group. What is no question, or comes from no guest, is not answered. Who asks too
//! often is not answered for a while.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::Semaphore,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use wire::dns::{Finding, MAX_DATAGRAM, Query};

mod names;
mod upstream;

pub use names::{Machine, Names, Told};
pub use upstream::{Transport, Upstream};

/// Questions of one guest that are answered at once, and how many more each second.
const BURST: f64 = 500.0;
const RATE: f64 = 200.0;
/// Questions that others are asked at the same time.
const FORWARDED: usize = 256;
/// Streams at the same time, of one address and of all.
const STREAMS_OF_ONE: usize = 4;
const STREAMS: usize = 128;
/// How long a stream may be silent.
const SILENCE: Duration = Duration::from_secs(10);
/// After an error of a socket that may last.
const PAUSE: Duration = Duration::from_millis(100);

/// Who can reach a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Programs of the host.
    Host,
    /// Guests, who are told apart by their address: the bridge lets no other one through.
    Guests,
}

/// Answers until it is dropped.
#[derive(Debug)]
#[must_use = "it answers until this is dropped"]
pub struct Server {
    shared: Arc<Shared>,
    tasks: JoinSet<()>,
}

#[derive(Debug)]
struct Shared {
    names: Names,
    upstream: Upstream,
    forwarding: Arc<Semaphore>,
    /// A leaf, held for a look at one entry.
    askers: Mutex<HashMap<IpAddr, Asker>>,
}

/// What one guest did lately.
#[derive(Debug)]
struct Asker {
    left: f64,
    seen: Instant,
    streams: usize,
}

impl Asker {
    fn new() -> Self {
        Self { left: BURST, seen: Instant::now(), streams: 0 }
    }

    /// Whether it may ask once more.
    fn may_ask(&mut self) -> bool {
        let now = Instant::now();
        self.left = (self.left + now.duration_since(self.seen).as_secs_f64() * RATE).min(BURST);
        self.seen = now;
        let may = self.left >= 1.0;
        if may {
            self.left -= 1.0;
        }
        may
    }
}

/// What becomes of a question.
enum Reply {
    Now(Vec<u8>),
    Forwarded,
    Nothing,
}

impl Server {
    /// Answers nobody yet.
    pub fn new(names: Names, upstream: Upstream) -> Self {
        let shared = Shared {
            names,
            upstream,
            forwarding: Arc::new(Semaphore::new(FORWARDED)),
            askers: Mutex::default(),
        };
        Self { shared: Arc::new(shared), tasks: JoinSet::new() }
    }

    /// Answers also who asks at these sockets, which are to be non-blocking.
    ///
    /// # Errors
    /// Where they cannot be waited on.
    pub fn serve(
        &mut self,
        side: Side,
        datagrams: std::net::UdpSocket,
        streams: std::net::TcpListener,
    ) -> io::Result<()> {
        let datagrams = Arc::new(UdpSocket::from_std(datagrams)?);
        let streams = TcpListener::from_std(streams)?;
        self.tasks.spawn(self.shared.clone().serve_datagrams(side, datagrams));
        self.tasks.spawn(self.shared.clone().serve_streams(side, streams));
        Ok(())
    }
}

impl Shared {
    async fn serve_datagrams(self: Arc<Self>, side: Side, socket: Arc<UdpSocket>) {
        // What is asked of others ends with this task.
        let mut forwarded = JoinSet::new();
        let mut buffer = vec![0; MAX_DATAGRAM];
        loop {
            let Ok((count, from)) = socket.recv_from(&mut buffer).await else {
                sleep(PAUSE).await;
                continue;
            };
            let packet = &buffer[..count];
            match self.reply(side, from, packet) {
                // Where there is no room for it, the asker asks again.
                Reply::Now(answer) => drop(socket.try_send_to(&answer, from)),
                Reply::Nothing => {}
                Reply::Forwarded => {
                    while forwarded.try_join_next().is_some() {}
                    let Ok(permit) = self.forwarding.clone().try_acquire_owned() else { continue };
                    let (shared, socket, packet) = (self.clone(), socket.clone(), packet.to_vec());
                    forwarded.spawn(async move {
                        let answer = shared.upstream.ask(&packet, Transport::Datagram).await;
                        let _ = socket.try_send_to(&answer, from);
                        drop(permit);
                    });
                }
            }
        }
    }

    async fn serve_streams(self: Arc<Self>, side: Side, listener: TcpListener) {
        let mut streams = JoinSet::new();
        loop {
            let Ok((stream, from)) = listener.accept().await else {
                sleep(PAUSE).await;
                continue;
            };
            while streams.try_join_next().is_some() {}
            if streams.len() >= STREAMS || !self.open_stream(side, from.ip()) {
                continue;
            }
            let shared = self.clone();
            streams.spawn(async move {
                // Whatever ends it: there is nobody to tell.
                let _ = shared.serve_stream(side, stream, from).await;
                shared.close_stream(from.ip());
            });
        }
    }

    async fn serve_stream(&self, side: Side, mut stream: TcpStream, from: SocketAddr) -> io::Result<()> {
        loop {
            let length = timeout(SILENCE, stream.read_u16()).await??;
            let mut packet = vec![0; usize::from(length)];
            timeout(SILENCE, stream.read_exact(&mut packet)).await??;
            let answer = match self.reply(side, from, &packet) {
                Reply::Now(answer) => answer,
                Reply::Nothing => return Ok(()),
                Reply::Forwarded => {
                    let Ok(_permit) = self.forwarding.try_acquire() else { return Ok(()) };
                    self.upstream.ask(&packet, Transport::Stream).await
                }
            };
            let length = u16::try_from(answer.len()).map_err(|_| io::ErrorKind::InvalidData)?;
            let whole = [&length.to_be_bytes()[..], &answer].concat();
            timeout(SILENCE, stream.write_all(&whole)).await??;
        }
    }

    /// What becomes of `packet` that came from `from`.
    fn reply(&self, side: Side, from: SocketAddr, packet: &[u8]) -> Reply {
        let Ok(query) = Query::parse(packet) else { return Reply::Nothing };
        if side == Side::Guests {
            if self.names.guest(from.ip()).is_none() {
                return Reply::Nothing;
            }
            let mut askers = self.askers.lock().unwrap_or_else(PoisonError::into_inner);
            if !askers.entry(from.ip()).or_insert_with(Asker::new).may_ask() {
                return Reply::Nothing;
            }
        }
        let told = match side {
            Side::Host => self.names.tell_host(&query.subject()),
            Side::Guests => self.names.tell_guest(from.ip(), &query.subject()),
        };
        match told {
            Told::Finding(finding) => Reply::Now(query.answer(finding)),
            Told::AskOthers if self.upstream.is_nobody() => Reply::Now(query.answer(Finding::Failed)),
            Told::AskOthers => Reply::Forwarded,
        }
    }

    /// Whether one more stream of `from` may be there; then it counts.
    fn open_stream(&self, side: Side, from: IpAddr) -> bool {
        if side == Side::Host {
            return true;
        }
        if self.names.guest(from).is_none() {
            return false;
        }
        let mut askers = self.askers.lock().unwrap_or_else(PoisonError::into_inner);
        let asker = askers.entry(from).or_insert_with(Asker::new);
        let may = asker.streams < STREAMS_OF_ONE;
        asker.streams += usize::from(may);
        may
    }

    fn close_stream(&self, from: IpAddr) {
        let mut askers = self.askers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(asker) = askers.get_mut(&from) {
            asker.streams = asker.streams.saturating_sub(1);
        }
    }
}
