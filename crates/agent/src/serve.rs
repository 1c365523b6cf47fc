//! The second role: answers the host's requests ([`wire::guest`]) over HTTP/2.

use std::{
    cell::RefCell,
    convert::Infallible,
    future::Future,
    io,
    path::Path,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use bytes::Bytes;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Body, Frame, Incoming},
    header,
    server::conn::http2,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use rustix::fs::{Mode, OFlags};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::mpsc,
    task::{JoinSet, LocalSet, spawn_local},
};
use wire::{
    Word,
    control::{Code, ErrorBody},
    guest::{Health, VERSION},
    session::Secret,
};

use crate::{
    boot::{Booted, now_us},
    channel, exec, port, sys,
};

/// The most requests at once. A command takes one for its whole life.
const STREAMS: u32 = 128;
/// What a client may send ahead, on one stream and on all together.
const STREAM_WINDOW: u32 = 256 << 10;
const WINDOW: u32 = 2 << 20;
/// Pieces of an answer that wait to be sent.
const PIECES: usize = 2;
/// What the agent does not end by; its children begin with the defaults again.
const IGNORED: [libc::c_int; 7] =
    [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGPIPE, libc::SIGTERM, libc::SIGUSR1, libc::SIGUSR2];

/// What the requests are about.
#[derive(Debug)]
pub struct Guest {
    /// What the boot handed over; `None` where this is no guest, as in tests.
    pub booted: Option<&'static Booted>,
    /// Variables for commands.
    pub environment: Rc<[(Word, Word)]>,
}

/// Is the agent. Returns only by ending the process.
pub fn run(booted: &'static Booted) -> ! {
    settle_in();
    if let Err(error) = serve_port(booted) {
        log(&format!("the agent cannot go on: {error}"));
    }
    sys::exit_now(1)
}

/// Becomes a process that is spared and left alone.
fn settle_in() {
    sys::mask(sys::Mask::None);
    sys::dispose(&IGNORED, sys::Disposition::Ignore);
    let _ = rustix::process::setsid();
    // systemd's last round of signals passes over names that begin like this.
    if let Err(error) = sys::rename(c"@banger-agent") {
        log(&format!("cannot rename the agent: {error}"));
    }
    let _ = rustix::thread::set_name(c"banger-agent");
    let _ = rustix::process::setpriority_process(None, -5);
    let write_only = OFlags::WRONLY | OFlags::CLOEXEC;
    if let Ok(file) = rustix::fs::open("/proc/self/oom_score_adj", write_only, Mode::empty()) {
        let _ = rustix::io::write(&file, b"-1000");
    }
    if let Ok(null) = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()) {
        let _ = sys::replace_stdio(&null);
    }
}

/// Leaves a line in the kernel's log: the only one that is always there.
pub fn log(line: &str) {
    let flags = OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOCTTY;
    if let Ok(kmsg) = rustix::fs::open("/dev/kmsg", flags, Mode::empty()) {
        let _ = rustix::io::write(&kmsg, format!("<4>banger: {line}\n").as_bytes());
    }
}

fn serve_port(booted: &'static Booted) -> io::Result<()> {
    let secret = Secret::from_hex(&booted.config.channel_secret)
        .ok_or_else(|| io::Error::other("the configuration has no secret for the channel"))?;
    let guest = Rc::new(Guest { environment: booted.config.env.clone().into(), booted: Some(booted) });
    block_on(async move {
        loop {
            let port = port::open().await;
            let guest = Rc::clone(&guest);
            let error =
                channel::serve(port, &secret, move |stream| connection(stream, Rc::clone(&guest))).await;
            log(&format!("the port failed: {error}"));
        }
    })
}

/// Runs `future` on this thread, with all that it spawns.
///
/// # Errors
/// Where the kernel gives no epoll.
pub fn block_on<T>(future: impl Future<Output = T>) -> io::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .max_blocking_threads(8)
        .thread_stack_size(256 << 10)
        .build()?;
    Ok(LocalSet::new().block_on(&runtime, future))
}

/// Serves HTTP/2 on `stream` until it ends. Dropped, it takes all requests along but for commands, which end by
/// themselves when their client is gone.
pub async fn connection(stream: impl AsyncRead + AsyncWrite + Unpin + 'static, guest: Rc<Guest>) {
    let service = service_fn(move |request| {
        let guest = Rc::clone(&guest);
        async move { Ok::<_, Infallible>(answer(request, guest).await) }
    });
    // The errors of a connection are its client's to see.
    let _ = http2::Builder::new(Tasks::default())
        .max_concurrent_streams(STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_send_buf_size(64 << 10)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

/// The tasks of one connection, which end with it.
#[derive(Debug, Clone, Default)]
struct Tasks(Rc<RefCell<JoinSet<()>>>);

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for Tasks {
    fn execute(&self, task: F) {
        let mut tasks = self.0.borrow_mut();
        while tasks.try_join_next().is_some() {}
        tasks.spawn_local(task);
    }
}

/// The body of an answer.
#[derive(Debug)]
pub enum Reply {
    /// All of it; taken when it was sent.
    Whole(Option<Bytes>),
    /// Pieces as they come. An error cuts the stream.
    Stream(mpsc::Receiver<io::Result<Bytes>>),
}

impl Body for Reply {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match &mut *self {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Stream(pieces) => {
                pieces.poll_recv(cx).map(|piece| piece.map(|piece| piece.map(Frame::data)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(None))
    }
}

/// Why a request is refused.
#[derive(Debug)]
pub struct Refused {
    status: StatusCode,
    error: ErrorBody,
}

impl Refused {
    /// A refusal.
    pub fn new(status: StatusCode, code: Code, message: impl Into<String>) -> Self {
        Self { status, error: ErrorBody::new(code, message) }
    }

    /// Something that should work does not.
    pub fn from_error(error: &dyn std::error::Error) -> Self {
        let mut refused = Self::new(StatusCode::INTERNAL_SERVER_ERROR, Code::Guest, error.to_string());
        let mut cause = error.source();
        while let Some(error) = cause {
            refused.error.causes.push(error.to_string());
            cause = error.source();
        }
        refused
    }
}

type Answer = Result<Response<Reply>, Refused>;

async fn answer(request: Request<Incoming>, guest: Rc<Guest>) -> Response<Reply> {
    match route(request, guest).await {
        Ok(response) => response,
        Err(refused) => json(refused.status, &refused.error),
    }
}

async fn route(request: Request<Incoming>, guest: Rc<Guest>) -> Answer {
    let path = request.uri().path().to_owned();
    match (request.method(), &path[..]) {
        (&Method::GET, "/v1/health") => Ok(json(StatusCode::OK, &health(&guest))),
        (&Method::POST, "/v1/exec") => {
            let (sender, response) = stream();
            // Not a task of the connection: it has to end the command when that is cut.
            spawn_local(exec::converse(request.into_body(), sender, Rc::clone(&guest.environment)));
            Ok(response)
        }
        _ => Err(Refused::new(StatusCode::NOT_FOUND, Code::Invalid, format!("the agent has no {path}"))),
    }
}

/// An answer that is JSON.
fn json(status: StatusCode, value: &impl serde::Serialize) -> Response<Reply> {
    let bytes = serde_json::to_vec(value).expect("these types have no map with keys that are no strings");
    let mut response = Response::new(Reply::Whole(Some(bytes.into())));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}

/// An answer that comes in pieces, and where they go.
fn stream() -> (mpsc::Sender<io::Result<Bytes>>, Response<Reply>) {
    let (sender, receiver) = mpsc::channel(PIECES);
    (sender, Response::new(Reply::Stream(receiver)))
}

fn health(guest: &Guest) -> Health {
    let boot_id = host::fs::read_text(Path::new("/proc/sys/kernel/random/boot_id")).unwrap_or_default();
    let booted = guest.booted;
    Health {
        version: VERSION,
        agent: env!("CARGO_PKG_VERSION").to_owned(),
        kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
        boot_id: boot_id.trim().to_owned(),
        uptime_ms: now_us() / 1000,
        steps: booted.map(|b| b.steps.clone()).unwrap_or_default(),
        init: booted.map_or(wire::guest::InitKind::Other, |b| b.init.kind),
        init_ready: None,
    }
}
