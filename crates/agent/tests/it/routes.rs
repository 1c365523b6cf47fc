//! What the agent answers about its machine, and connections into it.

use bytes::Bytes;
use http_body_util::BodyExt;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, UnixListener},
};
use wire::{
    control::{Code, ErrorBody},
    guest::{Health, Ports, Stats, VERSION},
};

use crate::world::{Scratch, with_agent};

#[test]
fn health_ports_and_stats_are_this_machines() {
    with_agent(async |port| {
        let mut client = port.client().await;
        let (status, answer) = client.call("GET", "/v1/health", b"").await.unwrap();
        let health: Health = serde_json::from_slice(&answer).unwrap();
        assert_eq!((status.as_u16(), health.version), (200, VERSION));
        assert_eq!(health.boot_id.len(), 36);
        assert!(health.uptime_ms > 0);

        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let number = listener.local_addr().unwrap().port();
        let (_, answer) = client.call("GET", "/v1/ports", b"").await.unwrap();
        let ports: Ports = serde_json::from_slice(&answer).unwrap();
        assert!(ports.ports.iter().any(|port| port.port == number && port.pid == Some(std::process::id())));

        let (_, answer) = client.call("GET", "/v1/stats", b"").await.unwrap();
        assert!(serde_json::from_slice::<Stats>(&answer).unwrap().memory_total > 0);
        assert_eq!(client.call("POST", "/v1/sync", b"").await.unwrap().0, 204);
    });
}

#[test]
fn what_cannot_be_done_is_an_error_with_a_code() {
    with_agent(async |port| {
        let mut client = port.client().await;
        for (method, path, status, code) in [
            ("GET", "/v2/health", 404, Code::Invalid),
            ("DELETE", "/v1/health", 404, Code::Invalid),
            ("POST", "/v1/grow", 409, Code::Conflict),
            ("POST", "/v1/poweroff", 409, Code::Conflict),
            ("POST", "/v1/connect", 400, Code::Invalid),
            ("POST", "/v1/connect?tcp=0", 400, Code::Invalid),
            ("POST", "/v1/connect?tcp=70000", 400, Code::Invalid),
            ("POST", "/v1/connect?unix=/no/such/socket", 502, Code::Guest),
            ("GET", "/v1/tree", 400, Code::Invalid),
            ("GET", "/v1/tree?path=relative", 400, Code::Invalid),
            ("GET", "/v1/tree?path=/no/such/file", 404, Code::NotFound),
            ("PUT", "/v1/tree?path=/no/such/directory", 404, Code::NotFound),
            ("PUT", "/v1/tree?path=/etc/passwd", 409, Code::NotFound),
            ("GET", "/v1/tree/list?path=/no/such/directory", 404, Code::NotFound),
            ("POST", "/v1/tree/remove?path=/no/such/directory", 404, Code::NotFound),
        ] {
            let (got, answer) = client.call(method, path, b"").await.unwrap();
            let error: ErrorBody = serde_json::from_slice(&answer).unwrap();
            assert_eq!((got.as_u16(), error.code), (status, code), "{method} {path}");
        }
    });
}

#[test]
fn a_held_guest_serves_nothing_until_it_is_released() {
    with_agent(async |port| {
        let mut client = port.client().await;
        let clock = br#"{"now_ms": 0}"#;
        for round in ["as it is", "once more"] {
            assert_eq!(client.call("GET", "/v1/stats", b"").await.unwrap().0, 200, "{round}");
            assert_eq!(client.call("POST", "/v1/hold", b"").await.unwrap().0, 204);
            for (method, path) in [
                ("GET", "/v1/stats"),
                ("GET", "/v1/tree?path=/"),
                ("POST", "/v1/exec"),
                ("POST", "/v1/connect?tcp=1"),
                ("POST", "/v1/poweroff"),
            ] {
                let (status, answer) = client.call(method, path, b"").await.unwrap();
                let error: ErrorBody = serde_json::from_slice(&answer).unwrap();
                assert_eq!((status.as_u16(), error.code), (409, Code::Conflict), "{path}");
            }
            assert_eq!(client.call("GET", "/v1/health", b"").await.unwrap().0, 200);
            assert_eq!(client.call("POST", "/v1/hold", b"").await.unwrap().0, 204);
            // What is not understood releases nothing, and this machine is no guest that could be another.
            assert_eq!(client.call("POST", "/v1/release", b"{").await.unwrap().0, 400);
            assert_eq!(client.call("POST", "/v1/configure", b"{}").await.unwrap().0, 409);
            assert_eq!(client.call("GET", "/v1/stats", b"").await.unwrap().0, 409);
            assert_eq!(client.call("POST", "/v1/release", clock).await.unwrap().0, 204);
        }
    });
}

/// Reads all, then answers with it reversed: so each direction must end by itself.
async fn reverse(mut stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin) {
    let mut all = Vec::new();
    stream.read_to_end(&mut all).await.unwrap();
    all.reverse();
    stream.write_all(&all).await.unwrap();
}

#[test]
fn a_connection_carries_bytes_and_each_direction_ends_by_itself() {
    let scratch = Scratch::new("connect");
    let path = scratch.0.join("socket");
    with_agent(async |port| {
        let mut client = port.client().await;
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let unix = UnixListener::bind(&path).unwrap();
        let targets = [
            format!("/v1/connect?tcp={}", tcp.local_addr().unwrap().port()),
            format!("/v1/connect?unix={}", path.display()),
        ];
        tokio::task::spawn_local(async move { reverse(tcp.accept().await.unwrap().0).await });
        tokio::task::spawn_local(async move { reverse(unix.accept().await.unwrap().0).await });
        for target in targets {
            let (input, status, body) = client.request("POST", &target).await.unwrap();
            assert_eq!(status, 200);
            let data = crate::world::random(1 << 20);
            let pieces: Vec<Bytes> = data.chunks(10_000).map(Bytes::copy_from_slice).collect();
            for piece in pieces {
                input.send(piece).await.unwrap();
            }
            drop(input);
            let mut answer = body.collect().await.unwrap().to_bytes().to_vec();
            answer.reverse();
            assert!(answer == data, "{target}");
        }
    });
}

#[test]
fn a_connection_ends_with_its_client() {
    with_agent(async |port| {
        let mut client = port.client().await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = format!("/v1/connect?tcp={}", listener.local_addr().unwrap().port());
        let (input, _, body) = client.request("POST", &target).await.unwrap();
        let (mut stream, _) = listener.accept().await.unwrap();
        drop((input, body));
        assert_eq!(stream.read(&mut [0; 10]).await.unwrap_or(0), 0);
    });
}
