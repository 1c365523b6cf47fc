//! Speaks with the agent of a guest by hand: `call SOCKET SECRET METHOD PATH [BODY]` or `call SOCKET SECRET exec [ARGV…]`.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program for people")]

#[path = "../tests/it/client.rs"]
mod client;

use std::{io::Write, time::Instant};

use client::{Client, Exec, open, spec};
use tokio::io::AsyncReadExt;
use wire::{exec::Frame, session::Secret};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let [socket, secret, verb, rest @ ..] = &words[..] else { return Err("too few arguments".into()) };
    let secret = Secret::from_hex(secret).ok_or("the secret is not 32 hexadecimal digits")?;
    agent::serve::block_on(async {
        let begun = Instant::now();
        let socket = tokio::net::UnixStream::connect(socket).await?;
        let mut client = Client::new(open(socket, &secret).await?).await?;
        eprintln!("open after {:?}", begun.elapsed());
        match (*verb, rest) {
            ("exec", argv) => converse(client.exec(spec(argv)).await?).await,
            (method, [path, body @ ..]) => {
                let body = body.first().copied().unwrap_or_default();
                let (status, answer) = client.call(method, path, body.as_bytes()).await?;
                eprintln!("{status}");
                println!("{}", String::from_utf8_lossy(&answer));
                Ok(())
            }
            (_, []) => Err("no path".into()),
        }
    })?
}

async fn converse(exec: Exec) -> Result<(), Box<dyn std::error::Error>> {
    let Exec { input, mut output } = exec;
    tokio::task::spawn_local(async move {
        let Some(input) = input else { return };
        let mut buffer = vec![0; 32 << 10];
        let mut stdin = tokio::io::stdin();
        while let Ok(count @ 1..) = stdin.read(&mut buffer).await {
            let frame = Frame::Stdin(bytes::Bytes::copy_from_slice(&buffer[..count]));
            if input.send(frame.to_bytes()).await.is_err() {
                return;
            }
        }
        let _ = input.send(Frame::StdinEnd.to_bytes()).await;
        input.closed().await;
    });
    while let Some(frame) = output.next().await? {
        match frame {
            Frame::Stdout(bytes) => std::io::stdout().write_all(&bytes)?,
            Frame::Stderr(bytes) => std::io::stderr().write_all(&bytes)?,
            other => eprintln!("{other:?}"),
        }
    }
    Ok(())
}
