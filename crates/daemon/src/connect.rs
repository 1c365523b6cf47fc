//! A connection into a guest: the bytes between a client's upgraded connection and a port of the guest's loopback.
//!
//! The end of one direction leaves the other open. Nothing is kept: each direction is as fast as its slower end.

use std::num::NonZeroU16;

use axum::{extract::Request, response::Response};
use bytes::Bytes;
use engine::{Engine, GuestStream};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
};
use wire::control::CONNECT;

use crate::{
    exec::{Streams, switch},
    fail::Fail,
};

/// Opens the connection to `port` in the VM `reference` and answers the upgrade.
pub async fn upgrade(
    engine: Engine,
    streams: Streams,
    reference: String,
    port: NonZeroU16,
    request: Request,
) -> Result<Response, Fail> {
    let stop = streams.stop.clone();
    let open = async move { engine.vm_connect(&reference, port).await };
    switch(streams, request, CONNECT, open, |client, early, stream| async move {
        tokio::select! {
            () = relay(client, early, stream) => {}
            () = stop.cancelled() => {}
        }
    })
    .await
}

async fn relay(client: UnixStream, early: Bytes, stream: GuestStream) {
    let (from_client, to_client) = client.into_split();
    let ended = stream.vm_ended();
    let (input, output, _ending) = stream.into_parts();
    tokio::select! {
        _ = async { tokio::join!(up(from_client, early, input), down(output, to_client)) } => {}
        _ = ended => {}
    }
}

/// Ends with the client's last byte, or with the guest's side of the connection.
async fn up(
    mut client: OwnedReadHalf,
    early: Bytes,
    mut input: http_body_util::channel::Sender<Bytes, std::convert::Infallible>,
) {
    if !early.is_empty() && input.send_data(early).await.is_err() {
        return;
    }
    let mut buffer = vec![0; 64 << 10];
    while let Ok(count @ 1..) = client.read(&mut buffer).await {
        if input.send_data(Bytes::copy_from_slice(&buffer[..count])).await.is_err() {
            return;
        }
    }
}

async fn down(mut output: engine::Output, mut client: OwnedWriteHalf) {
    while let Ok(Some(data)) = output.next().await {
        if client.write_all(&data).await.is_err() {
            return;
        }
    }
    let _ = client.shutdown().await;
}
