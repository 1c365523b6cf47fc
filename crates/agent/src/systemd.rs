//! Asks systemd whether it has finished starting: one D-Bus call on its private socket, which needs no bus.

use std::{io, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    time::timeout,
};

const SOCKET: &str = "/run/systemd/private";
/// How long systemd may take to answer. It is slow while it starts, and then it is not ready.
const PATIENCE: Duration = Duration::from_millis(100);
/// The longest answer that is read.
const LIMIT: usize = 4096;
/// The states of `SystemState` (org.freedesktop.systemd1(5)) in which starting is over.
const SETTLED: [&str; 4] = ["running", "degraded", "maintenance", "stopping"];

/// Whether it has.
pub async fn is_ready() -> bool {
    let state = timeout(PATIENCE, system_state()).await;
    matches!(state, Ok(Ok(state)) if SETTLED.contains(&&state[..]))
}

async fn system_state() -> io::Result<String> {
    let mut stream = UnixStream::connect(SOCKET).await?;
    // As user 0, which is 30 in hexadecimal digits of its text.
    stream.write_all(b"\0AUTH EXTERNAL 30\r\nBEGIN\r\n").await?;
    let mut byte = [0];
    while byte != *b"\n" {
        stream.read_exact(&mut byte).await?;
    }
    stream.write_all(&get_system_state()).await?;
    let mut header = [0; 16];
    stream.read_exact(&mut header).await?;
    let number =
        |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]) as usize;
    let (body, fields) = (number(4), number(12).next_multiple_of(8));
    if header[0] != b'l' || body.saturating_add(fields) > LIMIT {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut rest = vec![0; fields + body];
    stream.read_exact(&mut rest).await?;
    text(&rest[fields..]).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// The string in a variant: `1 's' 0 · length · text · 0`.
fn text(body: &[u8]) -> Option<String> {
    let rest = body.strip_prefix(b"\x01s\0")?.get(1..)?;
    let (length, rest) = rest.split_first_chunk()?;
    let text = rest.get(..u32::from_le_bytes(*length) as usize)?;
    String::from_utf8(text.to_vec()).ok()
}

/// The call `org.freedesktop.DBus.Properties.Get("org.freedesktop.systemd1.Manager", "SystemState")`.
fn get_system_state() -> Vec<u8> {
    fn pad(out: &mut Vec<u8>, to: usize) {
        out.resize(out.len().next_multiple_of(to), 0);
    }
    fn string(out: &mut Vec<u8>, text: &str) {
        pad(out, 4);
        out.extend(u32::try_from(text.len()).expect("these are short").to_le_bytes());
        out.extend(text.as_bytes());
        out.push(0);
    }
    let mut body = Vec::new();
    string(&mut body, "org.freedesktop.systemd1.Manager");
    string(&mut body, "SystemState");
    let mut fields = Vec::new();
    for (code, kind, value) in [
        (1, b'o', "/org/freedesktop/systemd1"),
        (2, b's', "org.freedesktop.DBus.Properties"),
        (3, b's', "Get"),
        (6, b's', "org.freedesktop.systemd1"),
    ] {
        pad(&mut fields, 8);
        fields.extend([code, 1, kind, 0]);
        string(&mut fields, value);
    }
    pad(&mut fields, 8);
    // The signature of the body: two strings.
    fields.extend([8, 1, b'g', 0, 2, b's', b's', 0]);
    // Little endian, a method call, no flags, version 1.
    let mut out = vec![b'l', 1, 0, 1];
    out.extend(u32::try_from(body.len()).expect("it is short").to_le_bytes());
    out.extend(1_u32.to_le_bytes());
    out.extend(u32::try_from(fields.len()).expect("they are short").to_le_bytes());
    out.extend(fields);
    pad(&mut out, 8);
    out.extend(body);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variants_string_is_read_within_its_bounds() {
        assert_eq!(text(b"\x01s\0\0\x07\0\0\0running\0").as_deref(), Some("running"));
        for bad in [&b""[..], b"\x01s\0\0", b"\x01u\0\0\x07\0\0\0", b"\x01s\0\0\xff\xff\xff\xffx"] {
            assert_eq!(text(bad), None);
        }
    }
}
