//! Talking to a guest's agent: HTTP/2 over the one byte stream of its VMM.
//!
//! A guest is hostile: every length and wait is bounded here, and nothing that comes back is a path or a text to trust.

mod flow;

use std::{num::NonZeroU16, pin::Pin, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Full, Limited, channel, combinators::UnsyncBoxBody};
use hyper::{body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use model::{copy::CopyPath, workspace::GuestPath};
use serde::de::DeserializeOwned;
use tokio::task::AbortHandle;
use vmm::Machine;
use wire::{
    control::ErrorBody,
    guest::{Clock, Grown, Health, Identity, MAX_ANSWER, Ports, Poweroff, Stats, User, answer, refusal},
    tree::{Access, MAX_WANTED, Stamped},
};

pub use flow::{Content, PATIENCE};

/// How long the agent may take over an answer that needs no waiting in the guest.
const ANSWER: Duration = Duration::from_secs(30);
/// How long the first answer is waited for on a first connection; on each that follows it is twice as long, up to [`ANSWER`].
const FIRST_ANSWER: Duration = Duration::from_secs(2);
/// What is under way to the agent on one stream before it is read there.
const STREAM_WINDOW: u32 = 256 << 10;
/// The same over all streams: as many as the agent takes, so that streams nobody reads hold up no other.
const CONNECTION_WINDOW: u32 = 128 * STREAM_WINDOW;

/// Why the agent did not do it.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// No byte stream to the agent could be opened.
    #[error("cannot reach the agent")]
    Connect(#[source] vmm::AgentError),
    /// The HTTP/2 connection failed.
    #[error("the connection to the agent broke")]
    Connection(#[from] hyper::Error),
    /// The agent took too long.
    #[error("the agent did not answer in {} s", .0.as_secs())]
    Timeout(Duration),
    /// Nothing moves any more.
    #[error("the guest neither took nor gave anything for {} s", .0.as_secs())]
    Still(Duration),
    /// The answer was not of the agreed form or too large.
    #[error("the agent's answer is malformed")]
    Malformed(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The agent speaks another version.
    #[error("the agent speaks version {0} of the protocol")]
    Version(u32),
    /// The agent refused.
    #[error("the agent says: {}", .0.message)]
    Refused(Box<ErrorBody>),
}

type Body = UnsyncBoxBody<Bytes, std::convert::Infallible>;

/// A guest's agent. Connects when first needed and again after the connection broke; calls share one connection.
pub struct Guest {
    machine: Arc<dyn Machine>,
    /// Held while connecting, so that there is one connection: the port takes no second one.
    connection: tokio::sync::Mutex<Option<Connection>>,
    /// How long it may stand still in the middle of a stream of files.
    patience: Duration,
}

/// A connection to the agent.
struct Connection {
    sender: http2::SendRequest<Body>,
    /// What reads and writes for it.
    driver: AbortHandle,
}

impl std::fmt::Debug for Guest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Guest").field(self.machine.id()).finish()
    }
}

impl Guest {
    /// The agent of `machine`, which may stand still for so long in the middle of a stream of files.
    #[must_use]
    pub fn new(machine: Arc<dyn Machine>, patience: Duration) -> Self {
        Self { machine, connection: tokio::sync::Mutex::new(None), patience }
    }

    async fn connection(&self) -> Result<http2::SendRequest<Body>, GuestError> {
        let mut slot = self.connection.lock().await;
        if let Some(open) = slot.as_ref().filter(|connection| !connection.sender.is_closed()) {
            return Ok(open.sender.clone());
        }
        let stream = self.machine.connect_agent().await.map_err(GuestError::Connect)?;
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(16 << 10)
            .max_concurrent_reset_streams(64)
            .handshake(TokioIo::new(stream))
            .await?;
        let driver = tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "the connection to an agent ended");
            }
        });
        *slot = Some(Connection { sender: sender.clone(), driver: driver.abort_handle() });
        Ok(sender)
    }

    /// Ends the connection with all that is under way on it.
    async fn disconnect(&self) {
        if let Some(connection) = self.connection.lock().await.take() {
            connection.driver.abort();
        }
    }

    async fn send(&self, method: Method, path: &str, body: Body) -> Result<Response<Incoming>, GuestError> {
        self.begin(method, path, body).await?.await
    }

    /// Sends a request; what it gives is the answer.
    async fn begin(
        &self,
        method: Method,
        path: &str,
        body: Body,
    ) -> Result<impl Future<Output = Result<Response<Incoming>, GuestError>> + Send + use<>, GuestError> {
        let mut sender = self.connection().await?;
        let request = Request::builder().method(method).uri(format!("http://agent{path}")).body(body);
        let sent = sender.send_request(request.expect("the paths are constants or encoded"));
        Ok(async move {
            let response = sent.await?;
            if response.status().is_success() {
                return Ok(response);
            }
            let status = response.status();
            let body = read(response.into_body()).await.ok().and_then(|bytes| refusal(&bytes));
            Err(GuestError::Refused(Box::new(body.unwrap_or_else(|| unexplained(status)))))
        })
    }

    /// Asks for what may be much, for as long as the guest gives it.
    async fn told(&self, path: &str) -> Result<Content, GuestError> {
        let answer = tokio::time::timeout(ANSWER, self.send(Method::GET, path, empty())).await;
        let answer = answer.map_err(|_| GuestError::Timeout(ANSWER))??;
        Ok(Content::new(answer.into_body(), self.patience))
    }

    /// Sends what may be much, for as long as the guest takes it, and asks for what may be much, for as long as it gives it.
    async fn content(
        &self,
        method: Method,
        path: &str,
        body: impl hyper::body::Body<Data = Bytes, Error = std::convert::Infallible> + Send + Unpin + 'static,
    ) -> Result<Content, GuestError> {
        let (body, turn) = flow::watched(body);
        let answer = flow::while_taken(turn, self.patience, self.send(method, path, body.boxed_unsync()));
        Ok(Content::new(answer.await?.into_body(), self.patience))
    }

    async fn json<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Body,
    ) -> Result<T, GuestError> {
        let answered = async {
            let bytes = read(self.send(method, path, body).await?.into_body()).await?;
            answer(&bytes).map_err(|e| GuestError::Malformed(Box::new(e)))
        };
        tokio::time::timeout(ANSWER, answered).await.map_err(|_| GuestError::Timeout(ANSWER))?
    }

    /// How the agent and the guest are.
    ///
    /// # Errors
    /// [`GuestError`].
    pub async fn health(&self) -> Result<Health, GuestError> {
        let health: Health = self.json(Method::GET, "/v1/health", empty()).await?;
        if health.version != wire::guest::VERSION {
            return Err(GuestError::Version(health.version));
        }
        Ok(health)
    }

    /// The agent's first answer, for which there is no other bound than the caller's: a boot may be slow. Where a connection
    /// brings none, another one may: Firecracker before 1.16 takes one that is made right after a machine went on from a
    /// snapshot, and its guest never hears of it ([firecracker#5882]).
    ///
    /// [firecracker#5882]: https://github.com/firecracker-microvm/firecracker/issues/5882
    ///
    /// # Errors
    /// [`GuestError`], but not that it takes long.
    pub async fn first_health(&self) -> Result<Health, GuestError> {
        let mut patience = FIRST_ANSWER;
        loop {
            let _ = self.connection().await?;
            match tokio::time::timeout(patience, self.health()).await {
                Ok(Err(GuestError::Timeout(_))) | Err(_) => self.disconnect().await,
                Ok(answer) => return answer,
            }
            patience = ANSWER.min(patience * 2);
        }
    }

    /// Lets the file systems of both writable disks fill their disks.
    ///
    /// # Errors
    /// [`GuestError`].
    pub async fn grow(&self) -> Result<Grown, GuestError> {
        self.json(Method::POST, "/v1/grow", empty()).await
    }

    /// What the guest uses.
    ///
    /// # Errors
    /// [`GuestError`].
    pub async fn stats(&self) -> Result<Stats, GuestError> {
        self.json(Method::GET, "/v1/stats", empty()).await
    }

    /// Asks the guest to end; it answers before it does.
    ///
    /// # Errors
    /// [`GuestError`].
    pub async fn poweroff(&self, how: Poweroff) -> Result<(), GuestError> {
        self.tell("/v1/poweroff", &how).await
    }

    /// Has the guest write out its files, and serve nothing until it is [released](Self::release), or
    /// [another one](Self::configure).
    ///
    /// # Errors
    /// [`GuestError`].
    pub async fn hold(&self) -> Result<(), GuestError> {
        within_answer(self.send(Method::POST, "/v1/hold", empty())).await
    }

    /// Lets a guest serve again as who it is, and tells it what time it is: milliseconds since the Unix epoch.
    ///
    /// # Errors
    /// [`GuestError`].
    pub async fn release(&self, now_ms: u64) -> Result<(), GuestError> {
        self.tell("/v1/release", &Clock { now_ms }).await
    }

    /// Makes a guest the one of `identity`; once it has confirmed that it serves again.
    ///
    /// # Errors
    /// [`GuestError`]; then it must not be used.
    pub async fn configure(&self, identity: &Identity) -> Result<(), GuestError> {
        self.tell("/v1/configure", identity).await
    }

    /// Posts `what`, whose answer says no more than that it is done.
    async fn tell(&self, path: &str, what: &(impl serde::Serialize + Sync)) -> Result<(), GuestError> {
        let json = serde_json::to_vec(what).expect("words and numbers");
        within_answer(self.send(Method::POST, path, Full::new(Bytes::from(json)).boxed_unsync())).await
    }

    /// What lies in the directory `path`: lines of [`wire::tree::Line`].
    ///
    /// # Errors
    /// [`GuestError`].
    pub async fn tree_list(&self, path: &GuestPath) -> Result<Content, GuestError> {
        self.told(&about("/v1/tree/list", path.as_str())).await
    }

    /// The contents of files in the directory `path`, as `wanted` names them: [`wire::tree::Picked`] and contents.
    ///
    /// # Errors
    /// [`GuestError`].
    pub async fn tree_pick(&self, path: &GuestPath, wanted: Bytes) -> Result<Content, GuestError> {
        self.content(Method::POST, &about("/v1/tree/pick", path.as_str()), Full::new(wanted)).await
    }

    /// Removes what lines of [`wire::Word`] name from the directory `path`.
    ///
    /// # Errors
    /// [`GuestError`].
    pub async fn tree_remove(&self, path: &GuestPath, paths: Bytes) -> Result<(), GuestError> {
        self.content(Method::POST, &about("/v1/tree/remove", path.as_str()), Full::new(paths)).await.map(drop)
    }

    /// Makes the directory `path` and all below as `access` says.
    ///
    /// # Errors
    /// [`GuestError`].
    pub async fn tree_access(&self, path: &GuestPath, access: Access) -> Result<(), GuestError> {
        let target = format!("{}&access={}", about("/v1/tree/access", path.as_str()), access.word());
        let sent = self.send(Method::POST, &target, empty());
        tokio::time::timeout(ANSWER, sent).await.map_err(|_| GuestError::Timeout(ANSWER))?.map(drop)
    }

    /// The user of the guest that is called `name`.
    ///
    /// # Errors
    /// [`GuestError`].
    pub async fn user(&self, name: &str) -> Result<User, GuestError> {
        self.json(Method::GET, &asked("/v1/user", "name", name), empty()).await
    }

    /// Unpacks the tar `body` in the directory `path`, which is made where it is missing; gives the stamps of its files. All of it
    /// belongs to `owner`, where there is one, and else to whom the tar says. Takes as long as `body` does.
    ///
    /// # Errors
    /// [`GuestError`].
    pub async fn tree_write(
        &self,
        path: &GuestPath,
        owner: Option<&User>,
        body: channel::Channel<Bytes, std::convert::Infallible>,
    ) -> Result<Vec<Stamped>, GuestError> {
        let owner = owner.map(|user| format!("&owner={}:{}", user.uid, user.gid)).unwrap_or_default();
        let target = format!("{}&make=true{owner}", about("/v1/tree", path.as_str()));
        let bytes = self.content(Method::PUT, &target, body).await?.whole(MAX_WANTED).await?.freeze();
        let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let read = |line| serde_json::from_slice(line).map_err(|e| GuestError::Malformed(Box::new(e)));
        lines.map(read).collect()
    }

    /// A tar of what lies at `path`.
    ///
    /// # Errors
    /// [`GuestError`].
    pub async fn files_read(&self, path: &CopyPath) -> Result<Content, GuestError> {
        let target = format!("{}&follow=true", about("/v1/tree", path.as_str()));
        self.told(&target).await
    }

    /// Puts the one thing of the tar `body` at `path`. Takes as long as `body` does.
    ///
    /// # Errors
    /// [`GuestError`].
    pub async fn files_write(
        &self,
        path: &CopyPath,
        body: channel::Channel<Bytes, std::convert::Infallible>,
    ) -> Result<(), GuestError> {
        let target = format!("{}&into=true", about("/v1/tree", path.as_str()));
        self.content(Method::PUT, &target, body).await.map(drop)
    }

    /// Unpacks `tar` in the home of root.
    ///
    /// # Errors
    /// [`GuestError`].
    pub async fn home_write(&self, tar: Bytes) -> Result<(), GuestError> {
        let target = about("/v1/tree", "/root");
        within_answer(self.send(Method::PUT, &target, Full::new(tar).boxed_unsync())).await
    }

    /// Opens an exec: [`wire::exec`] frames go in by the sender and come out of the body.
    ///
    /// # Errors
    /// [`GuestError`].
    pub async fn exec(&self) -> Result<Ends, GuestError> {
        let (sender, body) = channel::Channel::new(4);
        let answer = self.begin(Method::POST, "/v1/exec", body.boxed_unsync()).await?;
        // What is to be run goes after it without a look at its answer, which would cost a way there and back.
        let answered = async {
            let answer = tokio::time::timeout(ANSWER, answer).await;
            Ok(answer.map_err(|_| GuestError::Timeout(ANSWER))??.into_body())
        };
        Ok((sender, Output::Asked(Box::pin(answered))))
    }

    /// Opens a connection to `port` of the guest's loopback.
    ///
    /// # Errors
    /// [`GuestError`].
    pub async fn connect(&self, port: NonZeroU16) -> Result<Ends, GuestError> {
        self.stream(&format!("/v1/connect?tcp={port}")).await
    }

    /// The guest's sockets that listen.
    ///
    /// # Errors
    /// [`GuestError`].
    pub async fn ports(&self) -> Result<Ports, GuestError> {
        self.json(Method::GET, "/v1/ports", empty()).await
    }

    async fn stream(&self, path: &str) -> Result<Ends, GuestError> {
        let (sender, body) = channel::Channel::new(4);
        let sent = self.send(Method::POST, path, body.boxed_unsync());
        let response =
            tokio::time::timeout(ANSWER, sent).await.map_err(|_| GuestError::Timeout(ANSWER))??;
        Ok((sender, Output::Open(response.into_body())))
    }
}

/// The two ends of a stream: what is for the guest goes into the first, what comes from it out of the second.
pub type Ends = (channel::Sender<Bytes, std::convert::Infallible>, Output);

/// What comes from a guest by a stream.
pub enum Output {
    /// It takes the stream.
    Open(Incoming),
    /// It has not said yet whether it does.
    Asked(Pin<Box<dyn Future<Output = Result<Incoming, GuestError>> + Send>>),
}

impl std::fmt::Debug for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Open(_) => "Open",
            Self::Asked(_) => "Asked",
        })
    }
}

impl Output {
    /// What comes next; nothing at the end. May be dropped at any time and loses nothing.
    ///
    /// # Errors
    /// Where the guest does not take the stream, or it breaks.
    pub async fn next(&mut self) -> Result<Option<Bytes>, GuestError> {
        loop {
            match self {
                Self::Asked(answer) => *self = Self::Open(answer.await?),
                Self::Open(body) => {
                    let Some(frame) = body.frame().await else { return Ok(None) };
                    return Ok(Some(frame?.into_data().unwrap_or_default()));
                }
            }
        }
    }
}

/// Waits for an answer without content.
async fn within_answer(
    sent: impl Future<Output = Result<Response<Incoming>, GuestError>>,
) -> Result<(), GuestError> {
    tokio::time::timeout(ANSWER, sent).await.map_err(|_| GuestError::Timeout(ANSWER))?.map(drop)
}

/// A request about `path`.
fn about(route: &str, path: &str) -> String {
    asked(route, "path", path)
}

/// A request with one word in its query.
fn asked(route: &str, key: &str, word: &str) -> String {
    let mut target = format!("{route}?{key}=");
    for byte in word.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'-' | b'_' | b'.' | b'~' => {
                target.push(char::from(byte));
            }
            _ => target.push_str(&format!("%{byte:02X}")),
        }
    }
    target
}

fn empty() -> Body {
    Empty::new().boxed_unsync()
}

fn unexplained(status: StatusCode) -> ErrorBody {
    ErrorBody::new(wire::control::Code::Guest, format!("status {status}"))
}

async fn read(body: Incoming) -> Result<BytesMut, GuestError> {
    let mut bytes = BytesMut::new();
    let mut body = Limited::new(body, MAX_ANSWER);
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.map_err(GuestError::Malformed)?.into_data() {
            bytes.extend_from_slice(&data);
        }
    }
    Ok(bytes)
}
