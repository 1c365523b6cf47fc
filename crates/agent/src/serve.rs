//! The second role: answers the host's requests ([`wire::guest`]) over HTTP/2.

use std::{
    cell::RefCell,
    convert::Infallible,
    future::Future,
    io::{self, Write},
    path::{Path, PathBuf},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::{
    Method, Request, Response, StatusCode, Uri,
    body::{Body, Frame, Incoming},
    header,
    server::conn::http2,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use model::workspace::GuestPath;
use rustix::fs::{Mode, OFlags};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::mpsc,
    task::{JoinSet, LocalSet, spawn_local},
};
use wire::{
    Word,
    control::{Code, ErrorBody},
    guest::{Channel, Clock, Health, Identity, InitKind, Poweroff, User, VERSION, VSOCK_PORT},
    pieces::{Sink, Source},
    session::Secret,
    tree::{Access, MAX_WANTED, Wanted},
};

use crate::{
    boot::{Booted, now_us},
    channel,
    configure::{self, Standing},
    connect, exec, port, ports, poweroff, query,
    root::Root,
    stats, sys, systemd,
    tree::{self, Owner, UnpackError},
    vsock,
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

/// Where sysvinit's scripts look for whom to spare at the end.
const SPARED: &str = "run/sendsigs.omit.d/banger";

/// What the requests are about.
#[derive(Debug)]
pub struct Guest {
    /// What the boot handed over; `None` where this is no guest, as in tests.
    pub booted: Option<&'static Booted>,
    /// What may change of it.
    pub standing: Standing,
}

impl Guest {
    /// What the boot handed over, for requests that make sense in a guest alone.
    fn booted(&self) -> Result<&'static Booted, Refused> {
        self.booted.ok_or_else(|| Refused::new(StatusCode::CONFLICT, Code::Conflict, "this is no guest"))
    }
}

/// Is the agent. Returns only by ending the process.
pub fn run(booted: &'static Booted) -> ! {
    settle_in(booted.init.kind);
    if let Err(error) = serve(booted) {
        log(&format!("the agent cannot go on: {error}"));
    }
    sys::exit_now(1)
}

/// Becomes a process that is spared and left alone.
fn settle_in(init: InitKind) {
    sys::mask(sys::Mask::None);
    sys::ignore(&IGNORED);
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
    if init == InitKind::Sysvinit {
        // Its scripts spare the processes named there, and wait long for those that are neither named nor gone.
        let spare = || {
            Root::open(Path::new("/"))?.write(
                Path::new(SPARED),
                std::process::id().to_string().as_bytes(),
                0o644,
            )
        };
        if let Err(error) = spare() {
            log(&format!("init will not spare the agent: {error}"));
        }
    }
    if let Ok(null) = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()) {
        let _ = sys::replace_stdio(&null);
    }
}

/// Leaves a line in the kernel's log, the only one that is always there, urgent enough for the console, which outlives us.
pub fn log(line: &str) {
    let flags = OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOCTTY;
    if let Ok(kmsg) = rustix::fs::open("/dev/kmsg", flags, Mode::empty()) {
        let _ = rustix::io::write(&kmsg, format!("<3>banger: {line}\n").as_bytes());
    }
}

fn serve(booted: &'static Booted) -> io::Result<()> {
    let standing = Standing::new(&booted.config.env, booted.config.network.clone());
    let guest = Rc::new(Guest { standing, booted: Some(booted) });
    match &booted.config.channel {
        Channel::VirtioSerial { secret } => {
            let secret = Secret::from_hex(secret)
                .ok_or_else(|| io::Error::other("the secret of the channel in the configuration is none"))?;
            block_on(async move {
                loop {
                    let port = port::open().await;
                    let handler = |stream| connection(stream, Rc::clone(&guest));
                    let error = channel::serve(port, &secret, handler).await;
                    log(&format!("the port failed: {error}"));
                }
            })
        }
        Channel::Vsock => {
            let handler = move |stream| connection(stream, Rc::clone(&guest));
            block_on(async move { Err(vsock::serve(VSOCK_PORT, handler).await) })?
        }
    }
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
        if let Some(cause) = error.source() {
            refused.because(cause);
        }
        refused
    }

    /// Adds the cause, and its causes.
    pub fn because(&mut self, error: &dyn std::error::Error) {
        let mut cause = Some(error);
        while let Some(error) = cause {
            self.error.causes.push(error.to_string());
            cause = error.source();
        }
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
    let of_the_held = ["/v1/health", "/v1/hold", "/v1/release", "/v1/configure"];
    if guest.standing.is_held() && !of_the_held.contains(&&path[..]) {
        let message = "the guest is being saved, or was restored and is nobody yet";
        return Err(Refused::new(StatusCode::CONFLICT, Code::Conflict, message));
    }
    match (request.method(), &path[..]) {
        (&Method::GET, "/v1/health") => Ok(json(StatusCode::OK, &health(guest.booted).await)),
        (&Method::POST, "/v1/exec") => {
            let (sender, response) = stream();
            // Not a task of the connection: it has to end the command when that is cut.
            spawn_local(exec::converse(request.into_body(), sender, guest.standing.environment()));
            Ok(response)
        }
        (&Method::POST, "/v1/connect") => {
            let connection = connect::open(request.uri()).await?;
            let (sender, response) = stream();
            // It ends by itself when either direction of the stream breaks.
            spawn_local(connect::carry(connection, request.into_body(), sender));
            Ok(response)
        }
        (&Method::GET, "/v1/tree") => read_tree(request.uri()).await,
        (&Method::PUT, "/v1/tree") => write_tree(request).await,
        (&Method::GET, "/v1/tree/list") => {
            let path = tree_path(request.uri())?;
            rustix::fs::stat(&path).map_err(|error| not_there(&path, &error.into()))?;
            Ok(written(move |sink| tree::list(&path, sink)))
        }
        (&Method::POST, "/v1/tree/pick") => {
            let path = tree_path(request.uri())?;
            let wanted: Vec<Wanted> = read_lines(request.into_body()).await?;
            Ok(written(move |sink| tree::pick(&path, &wanted, sink)))
        }
        (&Method::POST, "/v1/tree/remove") => {
            let path = tree_path(request.uri())?;
            let paths: Vec<Word> = read_lines(request.into_body()).await?;
            let top = path.clone();
            let removed = blocking(move || tree::remove(&top, &paths)).await?;
            removed.map(|()| empty(StatusCode::NO_CONTENT)).map_err(|error| not_there(&path, &error))
        }
        (&Method::POST, "/v1/tree/access") => {
            let path = tree_path(request.uri())?;
            let access = query::value(request.uri(), "access").and_then(|text| Access::parse(&text));
            let unknown =
                || Refused::new(StatusCode::BAD_REQUEST, Code::Invalid, "no such access".to_owned());
            let access = access.ok_or_else(unknown)?;
            let place = path.clone();
            let set = blocking(move || tree::set_access(&place, access)).await?;
            set.map(|()| empty(StatusCode::NO_CONTENT)).map_err(|error| not_there(&path, &error))
        }
        (&Method::GET, "/v1/user") => {
            let name = query::value(request.uri(), "name").and_then(|name| String::from_utf8(name).ok());
            let name = name.unwrap_or_default();
            let found = blocking(exec::account::Files::read).await?.find(Some(&name)).ok_or_else(|| {
                let message = format!("the guest has no user {}", name.escape_debug());
                Refused::new(StatusCode::NOT_FOUND, Code::NotFound, message)
            })?;
            Ok(json(StatusCode::OK, &User { uid: found.uid, gid: found.gid, home: found.home }))
        }
        (&Method::GET, "/v1/ports") => Ok(json(StatusCode::OK, &blocking(ports::list).await?)),
        (&Method::GET, "/v1/stats") => {
            let (overlay, work) = guest.booted.map(|booted| booted.storage.usage()).unwrap_or_default();
            Ok(json(StatusCode::OK, &stats::now(overlay, work)))
        }
        (&Method::POST, "/v1/grow") => {
            let booted = guest.booted()?;
            let grown = blocking(|| booted.storage.grow()).await?;
            grown.map(|grown| json(StatusCode::OK, &grown)).map_err(|error| Refused::from_error(&error))
        }
        (&Method::POST, "/v1/sync") => {
            blocking(rustix::fs::sync).await?;
            Ok(empty(StatusCode::NO_CONTENT))
        }
        (&Method::POST, "/v1/hold") => {
            guest.standing.hold();
            blocking(rustix::fs::sync).await?;
            Ok(empty(StatusCode::NO_CONTENT))
        }
        (&Method::POST, "/v1/release") => {
            let Clock { now_ms } = read_json(request.into_body()).await?;
            guest.standing.release();
            if guest.booted.is_some() {
                configure::set_clock(now_ms).map_err(|error| Refused::from_error(&error))?;
            }
            Ok(empty(StatusCode::NO_CONTENT))
        }
        (&Method::POST, "/v1/configure") => {
            guest.booted()?;
            let identity: Identity = read_json(request.into_body()).await?;
            let network = guest.standing.network();
            // It serves nothing until all of that is done, also where it was not held.
            guest.standing.hold();
            let (identity, applied) = blocking(move || {
                let applied = configure::apply(&identity, network.as_ref());
                (identity, applied)
            })
            .await?;
            applied.map_err(|error| Refused::from_error(&error))?;
            guest.standing.become_it(&identity);
            Ok(empty(StatusCode::NO_CONTENT))
        }
        (&Method::POST, "/v1/poweroff") => {
            let booted = guest.booted()?;
            let how: Poweroff = read_json(request.into_body()).await?;
            // Nobody waits for it: it ends with the machine.
            tokio::task::spawn_blocking(move || {
                poweroff::run(booted, Duration::from_millis(how.init_timeout_ms));
            });
            Ok(empty(StatusCode::ACCEPTED))
        }
        _ => Err(Refused::new(StatusCode::NOT_FOUND, Code::Invalid, format!("the agent has no {path}"))),
    }
}

/// Runs what blocks on a thread of its own.
async fn blocking<T: Send + 'static>(act: impl FnOnce() -> T + Send + 'static) -> Result<T, Refused> {
    tokio::task::spawn_blocking(act).await.map_err(|error| Refused::from_error(&error))
}

/// A small body that is JSON.
async fn read_json<T: serde::de::DeserializeOwned>(body: Incoming) -> Result<T, Refused> {
    let refused =
        || Refused::new(StatusCode::BAD_REQUEST, Code::Invalid, "the request's body is not understood");
    let body = Limited::new(body, 64 << 10).collect().await.map_err(|_| refused())?;
    serde_json::from_slice(&body.to_bytes()).map_err(|_| refused())
}

fn tree_path(uri: &Uri) -> Result<PathBuf, Refused> {
    query::path(uri, "path").ok_or_else(|| {
        Refused::new(StatusCode::BAD_REQUEST, Code::Invalid, "a tree needs path=, and it is absolute")
    })
}

/// Whom what is unpacked belongs to, where a query says so: `owner=UID:GID`.
fn owner(uri: &Uri) -> Result<Option<Owner>, Refused> {
    let Some(text) = query::value(uri, "owner") else { return Ok(None) };
    let parsed = std::str::from_utf8(&text).ok().and_then(|text| {
        let (uid, gid) = text.split_once(':')?;
        Some(Owner { uid: uid.parse().ok()?, gid: gid.parse().ok()? })
    });
    let none = || Refused::new(StatusCode::BAD_REQUEST, Code::Invalid, "an owner is UID:GID");
    parsed.map(Some).ok_or_else(none)
}

/// Whether a query says `name=true`.
fn flag(uri: &Uri, name: &str) -> bool {
    query::value(uri, name).as_deref() == Some(b"true")
}

fn not_there(path: &Path, error: &io::Error) -> Refused {
    let code =
        if error.kind() == io::ErrorKind::NotFound { StatusCode::NOT_FOUND } else { StatusCode::CONFLICT };
    let mut refused =
        Refused::new(code, Code::NotFound, format!("cannot open {} in the guest", path.display()));
    refused.because(error);
    refused
}

/// A body of one JSON value a line.
async fn read_lines<T: serde::de::DeserializeOwned>(body: Incoming) -> Result<Vec<T>, Refused> {
    let refused =
        || Refused::new(StatusCode::BAD_REQUEST, Code::Invalid, "the request's body is not understood");
    let body = Limited::new(body, MAX_WANTED).collect().await.map_err(|_| refused())?.to_bytes();
    let lines = body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| serde_json::from_slice(line).map_err(|_| refused())).collect()
}

/// An answer that `write` writes on a thread of its own.
fn written(write: impl FnOnce(&mut dyn Write) -> io::Result<()> + Send + 'static) -> Response<Reply> {
    let (sender, response) = stream();
    tokio::task::spawn_blocking(move || {
        let mut sink = Sink::new(move |piece| sender.blocking_send(piece).is_ok());
        if let Err(error) = write(&mut sink) {
            sink.fail(error);
        }
    });
    response
}

async fn read_tree(uri: &Uri) -> Answer {
    let mut path = tree_path(uri)?;
    if flag(uri, "follow") {
        path = std::fs::canonicalize(&path).map_err(|error| not_there(&path, &error))?;
    }
    // What is there can still be told in the status.
    rustix::fs::lstat(&path).map_err(|error| not_there(&path, &error.into()))?;
    Ok(written(move |sink| tree::pack(&path, sink)))
}

async fn write_tree(request: Request<Incoming>) -> Answer {
    let mut path = tree_path(request.uri())?;
    let mut called = None;
    if flag(request.uri(), "into") {
        (path, called) = tree::destination(&path).map_err(|error| not_there(&path, &error.into()))?;
    }
    let makes = flag(request.uri(), "make");
    if makes {
        let wrong = |why: &str| {
            let message = format!("{} cannot be a workspace: {why}", path.display());
            Refused::new(StatusCode::BAD_REQUEST, Code::Invalid, message)
        };
        let text = path.to_str().ok_or_else(|| wrong("it is not UTF-8"))?;
        GuestPath::try_from(text).map_err(|why| wrong(&why.to_string()))?;
        tree::make_directory(&path).map_err(|error| not_there(&path, &error.into()))?;
    }
    let owner = owner(request.uri())?;
    let (sender, mut receiver) = mpsc::channel(PIECES);
    let mut body = request.into_body();
    let top = path.clone();
    let unpacked = blocking(move || {
        let pieces = Source::new(std::iter::from_fn(|| receiver.blocking_recv()));
        tree::unpack(&top, called, owner, pieces)
    });
    let forward = async move {
        while let Some(piece) = body.frame().await {
            let piece = piece.map_err(io::Error::other).map(|frame| frame.into_data().unwrap_or_default());
            if sender.send(piece).await.is_err() {
                break;
            }
        }
    };
    let ((), unpacked) = tokio::join!(forward, unpacked);
    let in_guest = |path: &Path| format!("{} in the guest", path.display());
    match unpacked? {
        // Who ships a workspace wants to know later what was changed in it.
        Ok(stamps) if makes => {
            let mut response = empty(StatusCode::OK);
            *response.body_mut() = Reply::Whole(Some(stamps.lines().into()));
            Ok(response)
        }
        Ok(_) => Ok(empty(StatusCode::NO_CONTENT)),
        Err(UnpackError::Top(error)) => Err(not_there(&path, &error)),
        Err(UnpackError::Tar(error)) => {
            let mut refused =
                Refused::new(StatusCode::BAD_REQUEST, Code::Invalid, "the tar is malformed or cut");
            refused.because(&error);
            Err(refused)
        }
        Err(UnpackError::Refused(entry)) => {
            let message = format!("the tar's entry {} is refused", entry.display());
            Err(Refused::new(StatusCode::BAD_REQUEST, Code::Invalid, message))
        }
        Err(UnpackError::Write(entry, error)) => {
            let message = format!("cannot write {}", in_guest(&path.join(entry)));
            let mut refused = Refused::new(StatusCode::CONFLICT, Code::Guest, message);
            refused.because(&error);
            Err(refused)
        }
    }
}

/// An answer without a body.
fn empty(status: StatusCode) -> Response<Reply> {
    let mut response = Response::new(Reply::Whole(None));
    *response.status_mut() = status;
    response
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

async fn health(booted: Option<&'static Booted>) -> Health {
    let boot_id = host::fs::read_text(Path::new("/proc/sys/kernel/random/boot_id")).unwrap_or_default();
    let init = booted.map_or(InitKind::Other, |booted| booted.init.kind);
    Health {
        version: VERSION,
        agent: env!("CARGO_PKG_VERSION").to_owned(),
        kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
        boot_id: boot_id.trim().to_owned(),
        uptime_ms: now_us() / 1000,
        steps: booted.map(|booted| booted.steps.clone()).unwrap_or_default(),
        init,
        init_ready: match init {
            InitKind::Agent => Some(true),
            InitKind::Systemd => Some(systemd::is_ready().await),
            // It says which runlevel it is in when it has entered that.
            InitKind::Openrc => Some(
                host::fs::exists(Path::new("/run/openrc/softlevel"))
                    && !host::fs::exists(Path::new("/run/openrc/rc.starting")),
            ),
            InitKind::Sysvinit | InitKind::Other => None,
        },
    }
}
