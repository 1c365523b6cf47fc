//! A byte stream to a socket of the guest.

use std::{io, net::Ipv4Addr};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::{StatusCode, Uri, body::Incoming};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpStream, UnixStream},
    sync::mpsc,
};
use wire::control::Code;

use crate::{query, serve::Refused};

/// The most bytes in one piece.
const PIECE: usize = 32 << 10;

/// A connection inside the guest.
#[derive(Debug)]
pub enum Connection {
    /// To a TCP port of its loopback.
    Tcp(TcpStream),
    /// To a unix socket.
    Unix(UnixStream),
}

/// Connects to what the query names.
///
/// # Errors
/// Where it names nothing, or nothing listens there.
pub async fn open(uri: &Uri) -> Result<Connection, Refused> {
    let failed = |what: String, error: &io::Error| {
        let mut refused =
            Refused::new(StatusCode::BAD_GATEWAY, Code::Guest, format!("cannot connect to {what}"));
        refused.because(error);
        refused
    };
    if let Some(path) = query::path(uri, "unix") {
        let name = path.display().to_string();
        return UnixStream::connect(path).await.map(Connection::Unix).map_err(|e| failed(name, &e));
    }
    let port: Option<u16> = query::value(uri, "tcp").and_then(|v| String::from_utf8(v).ok()?.parse().ok());
    let port = port.filter(|port| *port != 0).ok_or_else(|| {
        Refused::new(StatusCode::BAD_REQUEST, Code::Invalid, "a connection needs tcp=PORT or unix=PATH")
    })?;
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await;
    stream.map(Connection::Tcp).map_err(|e| failed(format!("port {port} of the guest"), &e))
}

/// Carries bytes both ways until both ends are through, or the client is gone.
pub async fn carry(connection: Connection, body: Incoming, out: mpsc::Sender<io::Result<Bytes>>) {
    match connection {
        Connection::Tcp(mut stream) => {
            let (reader, writer) = stream.split();
            both(reader, writer, body, out).await;
        }
        Connection::Unix(mut stream) => {
            let (reader, writer) = stream.split();
            both(reader, writer, body, out).await;
        }
    }
}

async fn both(
    reader: impl AsyncRead + Unpin,
    writer: impl AsyncWrite + Unpin,
    body: Incoming,
    out: mpsc::Sender<io::Result<Bytes>>,
) {
    let (up, down) = (to_guest(body, writer), from_guest(reader, out));
    // An error either way breaks the connection; an end closes its direction.
    let _ = tokio::try_join!(up, down);
}

async fn to_guest(mut body: Incoming, mut writer: impl AsyncWrite + Unpin) -> Result<(), ()> {
    while let Some(piece) = body.frame().await {
        if let Some(data) = piece.map_err(drop)?.data_ref() {
            // One that reads no more may still have something to say.
            if writer.write_all(data).await.is_err() {
                return Ok(());
            }
        }
    }
    let _ = writer.shutdown().await;
    Ok(())
}

async fn from_guest(
    mut reader: impl AsyncRead + Unpin,
    out: mpsc::Sender<io::Result<Bytes>>,
) -> Result<(), ()> {
    let mut buffer = vec![0; PIECE];
    loop {
        let read = tokio::select! {
            read = reader.read(&mut buffer) => read,
            () = out.closed() => return Err(()),
        };
        let piece = match read {
            Ok(0) => return Ok(()),
            Ok(count) => Ok(Bytes::copy_from_slice(&buffer[..count])),
            Err(error) => Err(error),
        };
        let broken = piece.is_err();
        if out.send(piece).await.is_err() || broken {
            return Err(());
        }
    }
}
