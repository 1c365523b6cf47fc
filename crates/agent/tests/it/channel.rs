//! Sessions on the channel: killed in mid-transfer, stale bytes, many streams at once.

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{Duration, timeout},
};
use wire::{
    exec::{Exit, Frame, MAX_DATA},
    session::{self, Event, Nonce, Receiver},
};

use crate::{
    client::{Client, open, spec},
    world::{Port, random, runs, wait_until, with_agent},
};

/// Sends random bytes through `cat` and checks what comes back, up to `count` bytes; gives the command's process.
async fn echo(client: &mut Client, count: usize) -> (u32, bool) {
    let data = random(count);
    let mut exec = client.exec(spec(&["cat"])).await.unwrap();
    let input = exec.input.take().unwrap();
    let pieces: Vec<Bytes> = data.chunks(MAX_DATA).map(Bytes::copy_from_slice).collect();
    let sender = tokio::task::spawn_local(async move {
        for piece in pieces {
            if input.send(Frame::Stdin(piece).to_bytes()).await.is_err() {
                return;
            }
        }
        let _ = input.send(Frame::StdinEnd.to_bytes()).await;
        input.closed().await;
    });
    let (mut pid, mut at) = (0, 0);
    while let Ok(Some(frame)) = exec.output.next().await {
        match frame {
            Frame::Started(number) => pid = number,
            Frame::Stdout(bytes) => {
                assert!(data[at..].starts_with(&bytes), "bytes {at} to {} are others", at + bytes.len());
                at += bytes.len();
            }
            Frame::Exited(exit) => {
                assert_eq!((exit, at), (Exit::Code(0), count));
                return (pid, true);
            }
            other => panic!("{other:?}"),
        }
    }
    sender.abort();
    (pid, false)
}

/// Connections that are killed in the middle of everything, over and over: each next one works, nothing of the last one
/// is in it, and no command is left.
#[test]
fn connections_killed_in_mid_transfer_leave_nothing() {
    with_agent(async |port: Port| {
        let mut pids = Vec::new();
        for round in 0_u64..300 {
            let (socket, relay) = port.connect();
            let mut client = Client::new(open(socket, &port.secret).await.unwrap()).await.unwrap();
            let mut exec = client.exec(spec(&["cat"])).await.unwrap();
            let Some(Frame::Started(pid)) = exec.output.next().await.unwrap() else { panic!("no command") };
            pids.push(pid);
            let data = Frame::Stdin(random(MAX_DATA).into()).to_bytes();
            let input = exec.input.take().unwrap();
            let feed = async { while input.send(data.clone()).await.is_ok() {} };
            let read = async { while let Ok(Some(_)) = exec.output.next().await {} };
            // Anywhere from before the first byte to after some hundred kilobytes; sometimes one side stands still.
            let time = Duration::from_micros(round * 37 % 4000);
            match round % 3 {
                0 => _ = timeout(time, feed).await,
                1 => _ = timeout(time, read).await,
                _ => _ = timeout(time, async { tokio::join!(feed, read) }).await,
            }
            relay.abort();
            let _ = relay.await;
        }
        let mut client = port.client().await;
        assert!(echo(&mut client, 3 << 20).await.1);
        wait_until("the end of all commands", || !pids.iter().any(|pid| runs(*pid))).await;
    });
}

#[test]
fn stale_bytes_and_a_repeated_marker_do_no_harm() {
    with_agent(async |port: Port| {
        let mut bare = port.bare();
        let nonce = Nonce(host::rand::bytes());
        let mark = session::mark(&port.secret, nonce);
        bare.write_all(&[&random(10_000)[..], &mark[..7], &mark, &mark].concat()).await.unwrap();
        let mut receiver = Receiver::host(&port.secret, nonce);
        let mut buffer = [0; 4096];
        let mut events = Vec::new();
        // The echo, once, and what HTTP/2 begins with.
        while events.len() < 2 {
            let count = bare.read(&mut buffer).await.unwrap();
            receiver.push(&buffer[..count]);
            events.extend(std::iter::from_fn(|| receiver.next_event()));
        }
        assert_eq!(events[0], Event::Opened(nonce));
        assert!(matches!(&events[1..], [Event::Data(_), ..]), "{events:?}");

        // What is no HTTP/2 ends the session, and the host is told.
        let mut framed = BytesMut::new();
        session::data(&[b'x'; 100], &mut framed);
        bare.write_all(&framed).await.unwrap();
        while events.last() != Some(&Event::Ended) {
            let count = bare.read(&mut buffer).await.unwrap();
            receiver.push(&buffer[..count]);
            events.extend(std::iter::from_fn(|| receiver.next_event()));
        }

        // And a new one opens on the same bytes' heels.
        let mut client = Client::new(open(bare, &port.secret).await.unwrap()).await.unwrap();
        assert!(echo(&mut client, 100_000).await.1);
    });
}

#[test]
fn a_host_that_stays_away_ends_its_commands() {
    with_agent(async |port: Port| {
        let mut client = Client::new(open(port.bare(), &port.secret).await.unwrap()).await.unwrap();
        let mut exec = client.exec(spec(&["sleep", "1000"])).await.unwrap();
        let Some(Frame::Started(pid)) = exec.output.next().await.unwrap() else { panic!("no command") };
        assert!(runs(pid));
        drop((client, exec));
        wait_until("the end of the command", || !runs(pid)).await;
    });
}

#[test]
fn many_streams_share_one_session() {
    with_agent(async |port: Port| {
        let mut client = port.client().await;
        let mut commands = Vec::new();
        for _ in 0..50 {
            commands.push(client.exec(spec(&["cat"])).await.unwrap());
        }
        for (i, exec) in commands.iter_mut().enumerate() {
            exec.send(&Frame::Stdin(i.to_string().into())).await.unwrap();
            exec.send(&Frame::StdinEnd).await.unwrap();
        }
        for (i, exec) in commands.iter_mut().enumerate() {
            let mut text = Vec::new();
            while let Some(frame) = exec.output.next().await.unwrap() {
                if let Frame::Stdout(bytes) = frame {
                    text.extend(bytes);
                }
            }
            assert_eq!(text, i.to_string().as_bytes());
        }
    });
}
