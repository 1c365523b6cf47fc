//! Requests to the daemon: HTTP/1.1 on its unix socket, one connection a request.
//!
//! Where nobody listens the daemon is started first, if the command may do that.

use std::{io, marker::PhantomData, path::Path};

use bytes::{Buf, Bytes, BytesMut};
use host::dirs::Dirs;
use http_body_util::{BodyExt, Empty, Full, combinators::UnsyncBoxBody};
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    client::conn::http1::{self, SendRequest},
    header::{CONNECTION, CONTENT_TYPE, HOST, UPGRADE},
};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use tokio::net::UnixStream;
use wire::{
    control::{Code, ErrorBody, Event, Happening},
    exec::{TOOLS, USER, WORKSPACE},
};

use crate::{error::Error, launch};

/// The body of a request.
pub type Body = UnsyncBoxBody<Bytes, io::Error>;

/// The most bytes of an answer that is read as a whole.
const MAX_ANSWER: usize = 64 << 20;
/// The most bytes of one line of an event stream.
const MAX_LINE: usize = 4 << 20;

/// What to do where no daemon listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// Start it.
    IfNeeded,
    /// Fail.
    Never,
}

/// A connection that a request was turned into.
#[derive(Debug)]
pub struct Upgraded {
    /// The connection.
    pub socket: UnixStream,
    /// The bytes of it that already came.
    pub first: Bytes,
    /// The VM's workspace, where it has one.
    pub workspace: Option<Workplace>,
    /// Who runs a command for which no user is said; without it root.
    pub user: Option<String>,
}

/// Where a command in a workspace runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workplace {
    /// The directory in the guest.
    pub path: String,
    /// Whether it pins the tools that are to be used there.
    pub pins_tools: bool,
}

/// The way to the daemon.
#[derive(Debug, Clone)]
pub struct Client {
    dirs: Dirs,
    start: Start,
}

impl Client {
    /// To this user's daemon.
    ///
    /// # Errors
    /// Where the user has no home, or one that is relative.
    pub fn of_user(start: Start) -> Result<Self, Error> {
        Ok(Self { dirs: Dirs::of_user()?, start })
    }

    /// Where banger's files are.
    #[must_use]
    pub fn dirs(&self) -> &Dirs {
        &self.dirs
    }

    /// What answers a GET of `path`.
    ///
    /// # Errors
    /// Where the daemon cannot be reached or refuses.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Error> {
        self.ask(Method::GET, path).await
    }

    /// What answers a request without content.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn ask<T: DeserializeOwned>(&self, method: Method, path: &str) -> Result<T, Error> {
        let body = self.request(method, path, empty()).await?.into_body();
        serde_json::from_slice(&whole(body).await?).map_err(|e| Error::Protocol(e.to_string()))
    }

    /// What answers a POST of `body` to `path`, which changes nothing.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn consult<T: DeserializeOwned>(&self, path: &str, body: Body) -> Result<T, Error> {
        let body = self.request(Method::POST, path, body).await?.into_body();
        serde_json::from_slice(&whole(body).await?).map_err(|e| Error::Protocol(e.to_string()))
    }

    /// Sends a request whose answer has no content.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn send(&self, method: Method, path: &str) -> Result<(), Error> {
        whole(self.request(method, path, empty()).await?.into_body()).await.map(drop)
    }

    /// Puts `body` at `path`; the answer has no content.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn put(&self, path: &str, body: Body) -> Result<(), Error> {
        whole(self.request(Method::PUT, path, body).await?.into_body()).await.map(drop)
    }

    /// Begins an operation and gives its events. Dropping them before the last cancels it.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn operate(&self, method: Method, path: &str, body: Body) -> Result<Events, Error> {
        let body = self.request(method, path, body).await?.into_body();
        Ok(Lines { body, buffer: BytesMut::new(), of: PhantomData })
    }

    /// What the daemon tells of all that happens from now on.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn listen(&self) -> Result<Lines<Happening>, Error> {
        let body = self.request(Method::GET, &path(&["events"]), empty()).await?.into_body();
        Ok(Lines { body, buffer: BytesMut::new(), of: PhantomData })
    }

    /// The bytes that answer a GET of `path`, as they come.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn stream(&self, path: &str) -> Result<ByteStream, Error> {
        Ok(ByteStream { body: self.request(Method::GET, path, empty()).await?.into_body() })
    }

    /// Turns a POST to `path` into a connection that speaks `protocol`.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn upgrade(&self, path: &str, protocol: &str) -> Result<Upgraded, Error> {
        let request = Request::builder()
            .method(Method::POST)
            .uri(path)
            .header(HOST, "banger")
            .header(CONNECTION, "upgrade")
            .header(UPGRADE, protocol);
        let response = self.exchange(request.body(empty())).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(refusal(response).await);
        }
        let headers = response.headers();
        let said = |name| -> Option<String> {
            headers.get(name).and_then(|value| serde_json::from_slice(value.as_bytes()).ok())
        };
        let (place, user) = (said(WORKSPACE), said(USER));
        let pins_tools = headers.contains_key(TOOLS);
        let workspace = place.map(|path| Workplace { path, pins_tools });
        let upgraded = hyper::upgrade::on(response)
            .await
            .map_err(|e| Error::Cut("a command was being started", Some(io::Error::other(e))))?;
        let parts = upgraded
            .downcast::<TokioIo<UnixStream>>()
            .expect("every connection of this client is one on a unix socket");
        Ok(Upgraded { socket: parts.io.into_inner(), first: parts.read_buf, workspace, user })
    }

    async fn request(&self, method: Method, path: &str, body: Body) -> Result<Response<Incoming>, Error> {
        let head = || {
            Request::builder()
                .method(&method)
                .uri(path)
                .header(HOST, "banger")
                .header(CONTENT_TYPE, "application/json")
        };
        let response = match self.exchange(head().body(body)).await {
            // A daemon that was ending still took the connection. Asking twice changes nothing, and the next may be there.
            Err(Error::Cut(..)) if method == Method::GET => self.exchange(head().body(empty())).await?,
            other => other?,
        };
        if response.status().is_success() { Ok(response) } else { Err(refusal(response).await) }
    }

    async fn exchange(
        &self,
        request: hyper::http::Result<Request<Body>>,
    ) -> Result<Response<Incoming>, Error> {
        let request = request.map_err(|e| Error::Protocol(e.to_string()))?;
        let mut sender = self.connect().await?;
        sender
            .send_request(request)
            .await
            .map_err(|e| Error::Cut("it was being asked", Some(io::Error::other(e))))
    }

    async fn connect(&self) -> Result<SendRequest<Body>, Error> {
        let stream = match connect(&self.dirs.socket()) {
            Ok(stream) => stream,
            Err(cause) if self.dirs.is_system() && nobody_listens(&cause) => {
                return Err(Error::NotServed(cause));
            }
            Err(cause) if self.start == Start::IfNeeded && nobody_listens(&cause) => {
                launch::daemon(&self.dirs).await?
            }
            Err(cause) => return Err(Error::Unreachable(cause)),
        };
        let (sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|e| Error::Cut("it was being asked", Some(io::Error::other(e))))?;
        // Its failures show at the request or at its answer.
        tokio::spawn(connection.with_upgrades());
        Ok(sender)
    }
}

/// Connects to the daemon's socket at `path`.
///
/// # Errors
/// Where nobody listens, or it may not be used.
pub fn connect(path: &Path) -> host::Result<UnixStream> {
    let stream = host::sock::connect(path)?;
    let of_runtime = || {
        stream.set_nonblocking(true)?;
        UnixStream::from_std(stream)
    };
    of_runtime().map_err(|e| host::Error::path("use", path, e))
}

/// Whether a failure to connect means that there is no daemon.
#[must_use]
pub fn nobody_listens(error: &host::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

/// No body.
#[must_use]
pub fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// `value` as a body.
#[must_use]
pub fn json(value: &impl Serialize) -> Body {
    let bytes = serde_json::to_vec(value).expect("wire types have no keys that are no strings");
    Full::new(Bytes::from(bytes)).map_err(|never| match never {}).boxed_unsync()
}

/// `/v1/` and the segments of a path, each percent-encoded.
#[must_use]
pub fn path(segments: &[&str]) -> String {
    let mut out = "/v1".to_owned();
    for segment in segments {
        out.push('/');
        encode(&mut out, segment);
    }
    out
}

/// Adds a query parameter to `path`.
#[must_use]
pub fn with(mut path: String, key: &str, value: &str) -> String {
    path.push(if path.contains('?') { '&' } else { '?' });
    path.push_str(key);
    path.push('=');
    encode(&mut path, value);
    path
}

/// Everything but the unreserved characters of RFC 3986 becomes `%XX`. A lone `.` or `..` would be a path of its own.
fn encode(out: &mut String, text: &str) {
    let dots = matches!(text, "." | "..");
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || (b"-_~".contains(&byte)) || (byte == b'.' && !dots) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
}

async fn whole(body: Incoming) -> Result<Bytes, Error> {
    let body = http_body_util::Limited::new(body, MAX_ANSWER);
    let collected = body.collect().await;
    collected.map(|b| b.to_bytes()).map_err(|e| Error::Cut("its answer was read", Some(io::Error::other(e))))
}

async fn refusal(response: Response<Incoming>) -> Error {
    let status = response.status();
    match whole(response.into_body()).await {
        Ok(bytes) => match serde_json::from_slice::<ErrorBody>(&bytes) {
            Ok(body) => Error::Daemon(body),
            Err(_) => Error::Protocol(format!("status {status}")),
        },
        Err(error) => error,
    }
}

/// The events of an operation.
pub type Events = Lines<Event>;

/// A stream of values, one a line.
#[derive(Debug)]
pub struct Lines<T> {
    body: Incoming,
    buffer: BytesMut,
    of: PhantomData<T>,
}

impl<T: DeserializeOwned> Lines<T> {
    /// The next one; `None` after the last.
    ///
    /// # Errors
    /// Where the stream breaks off or is no event stream.
    pub async fn next(&mut self) -> Result<Option<T>, Error> {
        loop {
            if let Some(end) = self.buffer.iter().position(|&b| b == b'\n') {
                let line = self.buffer.split_to(end);
                self.buffer.advance(1);
                if line.iter().all(u8::is_ascii_whitespace) {
                    continue;
                }
                return serde_json::from_slice(&line).map(Some).map_err(|e| Error::Protocol(e.to_string()));
            }
            if self.buffer.len() > MAX_LINE {
                return Err(Error::Protocol("an event of more than 4 MiB".to_owned()));
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(Err(e)) => {
                    return Err(Error::Cut("an operation was under way", Some(io::Error::other(e))));
                }
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
            }
        }
    }
}

/// Bytes that come as they are made.
#[derive(Debug)]
pub struct ByteStream {
    body: Incoming,
}

impl ByteStream {
    /// The next ones; `None` at the end.
    ///
    /// # Errors
    /// Where the stream breaks off.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            match self.body.frame().await {
                None => return Ok(None),
                Some(Err(e)) => return Err(Error::Cut("its answer was read", Some(io::Error::other(e)))),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }
}

/// Whether the daemon said that the thing is not there.
#[must_use]
pub fn is_not_found(error: &Error) -> bool {
    matches!(error, Error::Daemon(ErrorBody { code: Code::NotFound, .. }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_a_user_types_stays_one_segment() {
        for (reference, expect) in [
            ("dev", "/v1/vms/dev"),
            ("a/b", "/v1/vms/a%2Fb"),
            ("..", "/v1/vms/%2E%2E"),
            ("a.b", "/v1/vms/a.b"),
            ("x?y#z%", "/v1/vms/x%3Fy%23z%25"),
            ("é", "/v1/vms/%C3%A9"),
        ] {
            assert_eq!(path(&["vms", reference]), expect);
        }
        let query = with(with(path(&["images"]), "source", "a b&c"), "init", "/sbin/init");
        assert_eq!(query, "/v1/images?source=a%20b%26c&init=%2Fsbin%2Finit");
    }
}
