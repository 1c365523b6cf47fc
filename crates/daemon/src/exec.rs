//! A command's stream: frames between a client's upgraded connection and the guest's agent.
//!
//! Both directions are looked at frame by frame, so the client always gets a whole last frame, whatever happened to the
//! guest. Nothing is kept: each direction is as fast as its slower end.

use std::time::Duration;

use axum::{
    body::Body,
    extract::Request,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use engine::{Engine, ExecStream};
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use wire::{
    control::{Code, ErrorBody},
    exec::{Decoder, Frame, UPGRADE},
};

use crate::fail::Fail;

type Client = TokioIo<hyper::upgrade::Upgraded>;

/// How long a client may take to read the last frame.
const LAST: Duration = Duration::from_secs(10);

/// Opens the stream in the VM `reference` and answers the upgrade.
pub async fn upgrade(engine: Engine, reference: String, mut request: Request) -> Result<Response, Fail> {
    let asked = request.headers().get(header::UPGRADE).and_then(|value| value.to_str().ok());
    if asked.is_none_or(|protocol| !protocol.eq_ignore_ascii_case(UPGRADE)) {
        return Err(Fail::invalid(format!("this request needs the header Upgrade: {UPGRADE}")));
    }
    let stream = engine.vm_exec(&reference).await?;
    let upgrading = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        match upgrading.await {
            Ok(upgraded) => relay(TokioIo::new(upgraded), stream).await,
            Err(error) => tracing::debug!(%error, "a client went before its exec began"),
        }
    });
    let headers = [(header::CONNECTION, "upgrade"), (header::UPGRADE, UPGRADE)];
    Ok((StatusCode::SWITCHING_PROTOCOLS, headers, Body::empty()).into_response())
}

/// Relays until the last frame went to the client or the client went.
async fn relay(client: Client, stream: ExecStream) {
    let (from_client, mut to_client) = tokio::io::split(client);
    let ended = stream.vm_ended();
    let (input, output, ending) = stream.into_parts();
    // When the client goes, both halves are dropped, and the agent hangs the command up.
    tokio::select! {
        () = forward_input(from_client, input) => {}
        result = forward_output(output, &mut to_client) => {
            let last = match result {
                Output::Finished | Output::ClientGone => None,
                Output::Broken => Some(ending.after_break().await.to_body()),
                Output::Malformed(why) => Some(ErrorBody::new(Code::Guest, format!("its agent sent nonsense: {why}"))),
            };
            send_last(&mut to_client, last).await;
        }
        // The channel breaks with the VM; should it not, the client is still told.
        error = async { let error = ended.await; tokio::time::sleep(Duration::from_secs(1)).await; error } => {
            send_last(&mut to_client, Some(error.to_body())).await;
        }
    }
}

async fn send_last(client: &mut WriteHalf<Client>, error: Option<ErrorBody>) {
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
    mut client: ReadHalf<Client>,
    mut input: http_body_util::channel::Sender<Bytes, std::convert::Infallible>,
) {
    let mut decoder = Decoder::default();
    let mut buffer = vec![0; 64 << 10];
    loop {
        match client.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(count) => decoder.push(&buffer[..count]),
        }
        loop {
            let frame = match decoder.next_frame() {
                Ok(Some(frame)) => frame,
                Ok(None) => break,
                Err(error) => {
                    tracing::debug!(%error, "a client sent nonsense");
                    return;
                }
            };
            match frame {
                Frame::Spec(_) | Frame::Stdin(_) | Frame::StdinEnd | Frame::Resize(_) | Frame::Signal(_) => {}
                Frame::Started(_)
                | Frame::Stdout(_)
                | Frame::Stderr(_)
                | Frame::Exited(_)
                | Frame::Failed(_) => return,
            }
            if input.send_data(frame.to_bytes()).await.is_err() {
                // The guest's side is over; what it said last is still on its way to the client.
                return std::future::pending().await;
            }
        }
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
    /// With bytes that are no frames.
    Malformed(String),
}

async fn forward_output(mut output: hyper::body::Incoming, client: &mut WriteHalf<Client>) -> Output {
    let mut decoder = Decoder::default();
    loop {
        let data = match output.frame().await {
            None | Some(Err(_)) => return Output::Broken,
            Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
        };
        decoder.push(&data);
        loop {
            let frame = match decoder.next_frame() {
                Ok(Some(frame)) => frame,
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
            if client.write_all(&frame.to_bytes()).await.is_err() {
                return Output::ClientGone;
            }
            if last {
                return Output::Finished;
            }
        }
    }
}
