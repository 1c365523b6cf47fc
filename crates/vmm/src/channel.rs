//! The session with the agent over a virtio-serial port's socket.
//!
//! `wire::session` has the protocol and why it is needed; here are its waits. The host's marker is resent until the guest
//! echoes it, and everything that arrives meanwhile is read and dropped, or both sides could block on full buffers. A
//! connection on which nothing comes back for a while may be one that lost its way in QEMU, so it is made again.
//!
//! A session that is dropped says so and reads on until nothing comes any more. Of a connection that is closed while the guest is held
//! up, QEMU forgets a buffer of the guest's for good (`discard_throttle_data` in its `hw/char/virtio-serial-bus.c`), and when all 128
//! are gone the port never takes a byte again.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::UnixStream,
    runtime::Handle,
    sync::OwnedSemaphorePermit,
    time::{Instant, sleep_until, timeout},
};
use wire::session::{self, Event, Nonce, Receiver, Secret};

/// How often the marker is sent.
const RESEND: Duration = Duration::from_millis(300);
/// When a connection without an echo is given up for a new one.
const WEDGED: Duration = Duration::from_secs(3);
/// What one read takes at most.
const READ: usize = 64 << 10;
/// What is collected before it is written: what the port takes at once.
const BATCH: usize = 32 << 10;
/// A guest from which nothing came for so long has stopped sending for a session that ended.
const QUIET: Duration = Duration::from_millis(100);
/// What it may take until then.
const LEAVING: Duration = Duration::from_secs(2);

/// Opens a session on `stream`; `None` where no echo came in time and a new connection may help.
///
/// # Errors
/// Where the connection is gone.
pub(crate) async fn open(stream: UnixStream, secret: &Secret) -> io::Result<Option<Session>> {
    let nonce = Nonce(host::rand::bytes());
    let mark = session::mark(secret, nonce);
    let mut receiver = Receiver::host(secret, nonce);
    let mut buffer = vec![0; READ];
    let mut unsent = BytesMut::from(&mark[..]);
    let mut resend = Instant::now() + RESEND;
    let (mut reader, mut writer) = stream.into_split();
    let wedged = Instant::now() + WEDGED;
    let deadline = sleep_until(wedged);
    tokio::pin!(deadline);
    loop {
        tokio::select! {
            () = &mut deadline => return Ok(None),
            count = reader.read(&mut buffer) => {
                let count = count?;
                if count == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                receiver.push(&buffer[..count]);
                match receiver.next_event() {
                    Some(Event::Opened(_)) => break,
                    Some(Event::Data(_) | Event::Ended | Event::Broken) | None => {}
                }
            }
            written = writer.write_buf(&mut unsent), if !unsent.is_empty() => {
                if written? == 0 {
                    return Err(io::ErrorKind::WriteZero.into());
                }
            }
            () = sleep_until(resend) => {
                // A marker that the port did not take yet need not be doubled.
                if unsent.is_empty() {
                    unsent.extend_from_slice(&mark);
                }
                resend += RESEND;
            }
        }
    }
    let stream = reader.reunite(writer).expect("both halves are of one stream");
    // What is left of a marker has to go first; the guest takes the same one twice.
    Ok(Some(Session(Some(Open {
        stream,
        receiver,
        incoming: Bytes::new(),
        outgoing: unsent,
        buffer: buffer.into_boxed_slice(),
        state: State::Open,
        permit: None,
    }))))
}

/// A session that is open, as a byte stream. There until it is dropped.
#[derive(Debug)]
pub(crate) struct Session(Option<Open>);

#[derive(Debug)]
struct Open {
    stream: UnixStream,
    receiver: Receiver,
    incoming: Bytes,
    /// Frames that are not written yet.
    outgoing: BytesMut,
    buffer: Box<[u8]>,
    state: State,
    permit: Option<OwnedSemaphorePermit>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// The end was framed on our side.
    Finished,
}

impl Session {
    /// Keeps `permit` for as long as the session lives.
    pub(crate) fn holding(mut self, permit: OwnedSemaphorePermit) -> Self {
        self.open().permit = Some(permit);
        self
    }

    fn open(&mut self) -> &mut Open {
        self.0.as_mut().expect("there until it is dropped")
    }
}

impl Open {
    fn poll_drain(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.outgoing.is_empty() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(context, &self.outgoing))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.outgoing.advance(written);
        }
        Poll::Ready(Ok(()))
    }

    /// Tells the guest that the session is over, and reads what it sent before it heard that.
    async fn leave(mut self) {
        if self.state == State::Open {
            session::end(&mut self.outgoing);
        }
        let (mut reader, mut writer) = self.stream.split();
        let drain = async {
            loop {
                tokio::select! {
                    // Both ways at once, or both sides may wait for each other.
                    read = timeout(QUIET, reader.read(&mut self.buffer)) => match read {
                        Ok(Ok(count @ 1..)) => self.receiver.push(&self.buffer[..count]),
                        Ok(Ok(0) | Err(_)) | Err(_) => return,
                    },
                    Ok(1..) = writer.write_buf(&mut self.outgoing), if !self.outgoing.is_empty() => {}
                }
                while let Some(event) = self.receiver.next_event() {
                    // A guest that says so too is through.
                    if matches!(event, Event::Ended | Event::Broken) && self.outgoing.is_empty() {
                        return;
                    }
                }
            }
        };
        let _ = timeout(LEAVING, drain).await;
    }
}

impl AsyncRead for Session {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.open();
        while this.incoming.is_empty() {
            match this.receiver.next_event() {
                Some(Event::Data(bytes)) => this.incoming = bytes,
                Some(Event::Ended) => return Poll::Ready(Ok(())),
                Some(Event::Opened(_) | Event::Broken) => {
                    return Poll::Ready(Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        "the guest broke the session",
                    )));
                }
                None => {
                    let mut buffer = ReadBuf::new(&mut this.buffer);
                    ready!(Pin::new(&mut this.stream).poll_read(context, &mut buffer))?;
                    if buffer.filled().is_empty() {
                        return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
                    }
                    this.receiver.push(buffer.filled());
                }
            }
        }
        let count = this.incoming.len().min(into.remaining());
        into.put_slice(&this.incoming.split_to(count));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Session {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.open();
        if this.state == State::Finished {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if this.outgoing.len() >= BATCH {
            ready!(this.poll_drain(context))?;
        }
        let taken = bytes.len().min(session::MAX_PAYLOAD);
        if taken > 0 {
            session::data(&bytes[..taken], &mut this.outgoing);
        }
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.open().poll_drain(context)
    }

    /// Ends the session both ways: the port knows no half of one.
    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.open();
        if this.state == State::Open {
            session::end(&mut this.outgoing);
            this.state = State::Finished;
        }
        this.poll_drain(context)
    }
}

impl Drop for Session {
    /// Leaves in peace. Where there is no runtime any more, this program is about to end, and its sockets with it.
    fn drop(&mut self) {
        if let (Some(open), Ok(runtime)) = (self.0.take(), Handle::try_current()) {
            runtime.spawn(open.leave());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret() -> Secret {
        Secret::new(*b"fedcba9876543210")
    }

    /// A guest that echoes every session's bytes, after `stale` bytes of an earlier one.
    async fn echo(mut port: UnixStream, stale: Vec<u8>) {
        port.write_all(&stale).await.unwrap();
        let mut receiver = Receiver::guest(&secret());
        let mut buffer = vec![0; 4096];
        loop {
            let mut out = BytesMut::new();
            while let Some(event) = receiver.next_event() {
                match event {
                    Event::Opened(nonce) => out.extend_from_slice(&session::mark(&secret(), nonce)),
                    Event::Data(bytes) => session::data(&bytes, &mut out),
                    Event::Ended => session::end(&mut out),
                    Event::Broken => panic!("the host broke the session"),
                }
            }
            if port.write_all(&out).await.is_err() {
                return;
            }
            match port.read(&mut buffer).await {
                Ok(count) if count > 0 => receiver.push(&buffer[..count]),
                _ => return,
            }
        }
    }

    #[tokio::test]
    async fn a_session_carries_bytes_past_stale_ones() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        // More than the socket takes at once: the handshake must read while it writes.
        let guest = tokio::spawn(echo(theirs, session::mark(&secret(), Nonce([7; 16])).repeat(30_000)));
        let session = open(ours, &secret()).await.unwrap().expect("an echo");
        let sent: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
        let (mut reader, mut writer) = tokio::io::split(session);
        let expect = sent.clone();
        let writing = tokio::spawn(async move {
            writer.write_all(&sent).await.unwrap();
            writer.shutdown().await.unwrap();
            assert_eq!(writer.write(b"x").await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
            writer
        });
        let mut got = Vec::new();
        reader.read_to_end(&mut got).await.unwrap();
        assert!(got == expect, "{} bytes of {}", got.len(), expect.len());
        drop((reader, writing.await.unwrap()));
        guest.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_connection_is_given_up_after_resent_markers() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        assert!(open(ours, &secret()).await.unwrap().is_none());
        let mut got = Vec::new();
        theirs.read_to_end(&mut got).await.unwrap();
        assert_eq!(got.len() % 32, 0);
        assert!((9..=11).contains(&(got.len() / 32)), "{} markers", got.len() / 32);
        assert!(got.chunks(32).all(|mark| mark == &got[..32]), "one nonce for one connection");
    }

    #[tokio::test]
    async fn a_connection_that_is_gone_is_an_error() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(theirs);
        assert!(open(ours, &secret()).await.is_err());
    }

    #[tokio::test]
    async fn a_dropped_session_says_so() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let guest = tokio::spawn(async move {
            let mut port = theirs;
            let mut mark = [0; 32];
            port.read_exact(&mut mark).await.unwrap();
            port.write_all(&mark).await.unwrap();
            let mut rest = Vec::new();
            port.read_to_end(&mut rest).await.unwrap();
            rest
        });
        drop(open(ours, &secret()).await.unwrap().expect("an echo"));
        let mut end = BytesMut::new();
        session::end(&mut end);
        assert_eq!(guest.await.unwrap(), end);
    }
}
