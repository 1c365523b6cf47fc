//! A command's stream: frames between a client's upgraded connection and the guest's agent.
//!
//! Both directions are looked at frame by frame, so the client always gets a whole last frame, whatever happened to the
//! guest, or to this daemon. Nothing is kept: each direction is as fast as its slower end.

use std::time::Duration;

use axum::{
    body::Body,
    extract::Request,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use engine::{Engine, GuestError, GuestStream};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use wire::{
    control::{Code, ErrorBody},
    exec::{Decoder, Frame, TOOLS, UPGRADE, USER, WORKSPACE},
};

use crate::fail::Fail;

/// How often a client whose input the guest does not take is looked at.
const LOOK: Duration = Duration::from_millis(500);

/// How long a client may take to read the last frame.
const LAST: Duration = Duration::from_secs(10);

/// What streams need of the daemon.
#[derive(Clone, Debug)]
pub struct Streams {
    /// Cancelled when the daemon stops.
    pub stop: CancellationToken,
    /// Those that are open.
    pub open: TaskTracker,
}

/// Opens the stream in the VM `reference` and answers the upgrade.
pub async fn upgrade(
    engine: Engine,
    streams: Streams,
    reference: String,
    request: Request,
) -> Result<Response, Fail> {
    let stop = streams.stop.clone();
    let open = async move { engine.vm_exec(&reference).await };
    switch(streams, request, UPGRADE, open, |client, early, stream| async move {
        relay(client, &early, stream, stop).await;
    })
    .await
}

/// Answers a request to upgrade to `protocol` once the stream was opened, and relays it then. `relay` gets the client, what
/// of it came with the request, and the stream.
pub async fn switch<F: Future<Output = ()> + Send + 'static>(
    streams: Streams,
    mut request: Request,
    protocol: &'static str,
    open: impl Future<Output = engine::Result<GuestStream>>,
    relay: impl FnOnce(UnixStream, Bytes, GuestStream) -> F + Send + 'static,
) -> Result<Response, Fail> {
    let asked = request.headers().get(header::UPGRADE).and_then(|value| value.to_str().ok());
    if asked.is_none_or(|asked| !asked.eq_ignore_ascii_case(protocol)) {
        return Err(Fail::invalid(format!("this request needs the header Upgrade: {protocol}")));
    }
    let stream = open.await?;
    let (workspace, user) = (stream.workspace.clone(), stream.user.clone());
    let upgrading = hyper::upgrade::on(&mut request);
    streams.open.spawn(async move {
        let upgraded = match upgrading.await {
            Ok(upgraded) => upgraded,
            Err(error) => return tracing::debug!(%error, "a client went before its stream began"),
        };
        match hyper_util::server::conn::auto::upgrade::downcast::<TokioIo<UnixStream>>(upgraded) {
            Ok(parts) => relay(parts.io.into_inner(), parts.read_buf, stream).await,
            Err(_) => tracing::error!("a client of another kind than the socket's"),
        }
    });
    let headers = [(header::CONNECTION, "upgrade"), (header::UPGRADE, protocol)];
    let mut response = (StatusCode::SWITCHING_PROTOCOLS, headers, Body::empty()).into_response();
    let mut say = |name, text: &str| {
        let text = serde_json::to_vec(text).unwrap_or_default();
        if let Ok(text) = HeaderValue::from_bytes(&text) {
            response.headers_mut().insert(name, text);
        }
    };
    if let Some(user) = user {
        say(USER, &user);
    }
    if let Some(workspace) = workspace {
        say(WORKSPACE, workspace.path.as_str());
        if workspace.pins_tools {
            response.headers_mut().insert(TOOLS, HeaderValue::from_static("pinned"));
        }
    }
    Ok(response)
}

/// Relays until the last frame went to the client or the client went. `early` came with the request.
async fn relay(client: UnixStream, early: &[u8], stream: GuestStream, stop: CancellationToken) {
    let (from_client, mut to_client) = client.into_split();
    let ended = stream.vm_ended();
    let (input, output, ending) = stream.into_parts();
    // When the client goes, both halves are dropped, and the agent hangs the command up.
    tokio::select! {
        () = forward_input(from_client, early, input) => {}
        result = forward_output(output, &mut to_client) => {
            let last = match result {
                Output::Finished | Output::ClientGone => None,
                Output::Broken => Some(ending.after_break().await.to_body()),
                Output::Refused(cause) => Some(ending.refused(cause).to_body()),
                Output::Malformed(why) => Some(ErrorBody::new(Code::Guest, format!("its agent sent nonsense: {why}"))),
            };
            send_last(&mut to_client, last).await;
        }
        // The channel breaks with the VM; should it not, the client is still told.
        error = async { let error = ended.await; tokio::time::sleep(Duration::from_secs(1)).await; error } => {
            send_last(&mut to_client, Some(error.to_body())).await;
        }
        () = stop.cancelled() => {
            send_last(&mut to_client, Some(engine::Error::ShuttingDown.to_body())).await;
        }
    }
}

async fn send_last(client: &mut OwnedWriteHalf, error: Option<ErrorBody>) {
    let send = async {
        if let Some(error) = error {
            client.write_all(&Frame::Failed(Box::new(error)).to_bytes()).await?;
        }
        client.shutdown().await
    };
    let _ = tokio::time::timeout(LAST, send).await;
}

/// Resolves when the client has gone or broke the rules.
async fn forward_input(
    mut client: OwnedReadHalf,
    early: &[u8],
    mut input: http_body_util::channel::Sender<Bytes, std::convert::Infallible>,
) {
    let mut decoder = Decoder::default();
    decoder.push(early);
    let mut buffer = vec![0; 64 << 10];
    loop {
        loop {
            let (frame, bytes) = match decoder.next_with_bytes() {
                Ok(Some(next)) => next,
                Ok(None) => break,
                Err(error) => return tracing::debug!(%error, "a client sent nonsense"),
            };
            match frame {
                Frame::Spec(_) | Frame::Stdin(_) | Frame::StdinEnd | Frame::Resize(_) | Frame::Signal(_) => {}
                Frame::Started(_)
                | Frame::Stdout(_)
                | Frame::Stderr(_)
                | Frame::Exited(_)
                | Frame::Failed(_) => return,
            }
            let sent = tokio::select! {
                sent = input.send_data(bytes) => sent,
                // Nothing more is read of a client whose input nobody takes, so its end would not be seen.
                () = hung_up(&client) => return,
            };
            if sent.is_err() {
                // The guest's side is over; what it said last is still on its way to the client.
                return std::future::pending().await;
            }
        }
        match client.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(count) => decoder.push(&buffer[..count]),
        }
    }
}

/// Resolves when the other side has closed its connection.
async fn hung_up(client: &OwnedReadHalf) {
    while !host::sock::hung_up(client.as_ref()) {
        tokio::time::sleep(LOOK).await;
    }
}

/// Why output ended.
enum Output {
    /// With the command's last frame.
    Finished,
    /// The client took no more.
    ClientGone,
    /// Without a last frame.
    Broken,
    /// Before it began.
    Refused(GuestError),
    /// With bytes that are no frames.
    Malformed(String),
}

async fn forward_output(mut output: engine::Output, client: &mut OwnedWriteHalf) -> Output {
    let mut decoder = Decoder::default();
    loop {
        let data = match output.next().await {
            Ok(Some(data)) => data,
            Ok(None) | Err(GuestError::Connection(_)) => return Output::Broken,
            Err(cause) => return Output::Refused(cause),
        };
        decoder.push(&data);
        loop {
            let (frame, bytes) = match decoder.next_with_bytes() {
                Ok(Some(next)) => next,
                Ok(None) => break,
                Err(error) => return Output::Malformed(error.to_string()),
            };
            let last = match frame {
                Frame::Exited(_) | Frame::Failed(_) => true,
                Frame::Started(_) | Frame::Stdout(_) | Frame::Stderr(_) => false,
                Frame::Spec(_) | Frame::Stdin(_) | Frame::StdinEnd | Frame::Resize(_) | Frame::Signal(_) => {
                    return Output::Malformed("a frame of the wrong direction".to_owned());
                }
            };
            if client.write_all(&bytes).await.is_err() {
                return Output::ClientGone;
            }
            if last {
                return Output::Finished;
            }
        }
    }
}
