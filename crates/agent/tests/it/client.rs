//! The host's end, as small as it can be: opens a session on a unix socket and speaks HTTP/2 on it.
#![allow(dead_code, reason = "the example and the tests each use a part")]

use std::{
    convert::Infallible,
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::{
    Request, StatusCode,
    body::{Body, Frame as Piece, Incoming},
    client::conn::http2,
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    net::UnixStream,
    sync::mpsc,
    task::spawn_local,
};
use wire::{
    exec::{Decoder, Frame, Spec},
    session::{self, Event, MAX_PAYLOAD, Nonce, Receiver, Secret},
};

/// A marker that was not echoed is sent again after this.
const RESEND: Duration = Duration::from_millis(300);

/// Opens a session on `socket`. What comes back carries its bytes; dropped, the session's socket is closed.
///
/// # Errors
/// Where the socket ends before the session is open.
pub async fn open(mut socket: UnixStream, secret: &Secret) -> io::Result<DuplexStream> {
    let nonce = Nonce(host::rand::bytes());
    let mut receiver = Receiver::host(secret, nonce);
    let mut buffer = vec![0; 64 << 10];
    let mut early = Vec::new();
    'open: loop {
        socket.write_all(&session::mark(secret, nonce)).await?;
        let again = tokio::time::Instant::now() + RESEND;
        while let Ok(count) = tokio::time::timeout_at(again, socket.read(&mut buffer)).await {
            let count = count?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            receiver.push(&buffer[..count]);
            if receiver.next_event() == Some(Event::Opened(nonce)) {
                early.extend(std::iter::from_fn(|| receiver.next_event()));
                break 'open;
            }
        }
    }
    let (ours, theirs) = tokio::io::duplex(256 << 10);
    spawn_local(pump(socket, receiver, early, ours));
    Ok(theirs)
}

async fn pump(socket: UnixStream, mut receiver: Receiver, early: Vec<Event>, inner: DuplexStream) {
    let (mut from_guest, mut to_guest) = socket.into_split();
    let (mut from_client, mut to_client) = tokio::io::split(inner);
    let inbound = async {
        let mut buffer = vec![0; 64 << 10];
        let mut events = early;
        loop {
            for event in events.drain(..) {
                match event {
                    Event::Data(bytes) => to_client.write_all(&bytes).await?,
                    Event::Opened(_) | Event::Ended | Event::Broken => return to_client.shutdown().await,
                }
            }
            let count = from_guest.read(&mut buffer).await?;
            if count == 0 {
                return to_client.shutdown().await;
            }
            receiver.push(&buffer[..count]);
            events.extend(std::iter::from_fn(|| receiver.next_event()));
        }
    };
    let outbound = async {
        let mut buffer = vec![0; MAX_PAYLOAD];
        let mut framed = BytesMut::new();
        loop {
            let count = from_client.read(&mut buffer).await?;
            if count == 0 {
                return Ok::<_, io::Error>(());
            }
            framed.clear();
            session::data(&buffer[..count], &mut framed);
            to_guest.write_all(&framed).await?;
        }
    };
    tokio::select! {
        _ = inbound => {}
        _ = outbound => {}
    }
}

/// A request body that is written while it is sent.
pub struct Pieces(mpsc::Receiver<Bytes>);

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Piece<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|piece| piece.map(|piece| Ok(Piece::data(piece))))
    }
}

/// A connection to the agent.
pub struct Client(http2::SendRequest<Pieces>);

#[derive(Clone)]
struct Local;

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for Local {
    fn execute(&self, task: F) {
        spawn_local(task);
    }
}

type Answer<T> = Result<T, Box<dyn std::error::Error>>;

impl Client {
    /// Speaks HTTP/2 on `stream`.
    pub async fn new(
        stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + 'static,
    ) -> Answer<Self> {
        let (sender, connection) = http2::Builder::new(Local)
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(4 << 20)
            .handshake(TokioIo::new(stream))
            .await?;
        spawn_local(async {
            let _ = connection.await;
        });
        Ok(Self(sender))
    }

    /// Sends a request; its body is what goes into the sender, until that is dropped.
    pub async fn request(
        &mut self,
        method: &str,
        path: &str,
    ) -> Answer<(mpsc::Sender<Bytes>, StatusCode, Incoming)> {
        let (sender, receiver) = mpsc::channel(2);
        let request =
            Request::builder().method(method).uri(format!("http://guest{path}")).body(Pieces(receiver))?;
        self.0.ready().await?;
        let response = self.0.send_request(request).await?;
        Ok((sender, response.status(), response.into_body()))
    }

    /// A request without a body, and all of its answer.
    pub async fn call(&mut self, method: &str, path: &str, body: &[u8]) -> Answer<(StatusCode, Bytes)> {
        let (sender, receiver) = mpsc::channel(1);
        sender.send(Bytes::copy_from_slice(body)).await?;
        drop(sender);
        let request =
            Request::builder().method(method).uri(format!("http://guest{path}")).body(Pieces(receiver))?;
        self.0.ready().await?;
        let response = self.0.send_request(request).await?;
        let status = response.status();
        Ok((status, response.into_body().collect().await?.to_bytes()))
    }

    /// Begins a command.
    pub async fn exec(&mut self, spec: Spec) -> Answer<Exec> {
        let (input, status, body) = self.request("POST", "/v1/exec").await?;
        assert_eq!(status, StatusCode::OK);
        let mut exec = Exec { input: Some(input), output: Output { body, decoder: Decoder::default() } };
        exec.send(&Frame::Spec(Box::new(spec))).await?;
        Ok(exec)
    }
}

/// A command's conversation.
pub struct Exec {
    pub input: Option<mpsc::Sender<Bytes>>,
    pub output: Output,
}

/// The agent's frames.
pub struct Output {
    body: Incoming,
    decoder: Decoder,
}

impl Exec {
    pub async fn send(&mut self, frame: &Frame) -> Answer<()> {
        Ok(self.input.as_ref().ok_or("the input is over")?.send(frame.to_bytes()).await?)
    }
}

impl Output {
    /// The next frame; `None` at the end.
    pub async fn next(&mut self) -> Answer<Option<Frame>> {
        loop {
            if let Some(frame) = self.decoder.next_frame()? {
                return Ok(Some(frame));
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(piece) => {
                    if let Some(data) = piece?.data_ref() {
                        self.decoder.push(data);
                    }
                }
            }
        }
    }
}

/// A command line as a spec.
pub fn spec(argv: &[&str]) -> Spec {
    let argv = argv.iter().map(|word| (*word).into()).collect();
    Spec { argv, env: Vec::new(), cwd: None, user: None, terminal: None, through: Vec::new() }
}
