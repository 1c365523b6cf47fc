//! The control socket: who may connect, and how serving ends.

use std::{os::fd::OwnedFd, path::Path, time::Duration};

use axum::serve::Listener;
use engine::{CLOSING, Engine};
use tokio::{
    net::{UnixListener, UnixStream, unix::SocketAddr},
    signal::unix::{SignalKind, signal},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use wire::control::ENDING;

use crate::{api, exec::Streams};

/// Serves `engine` on a unix socket at `path` until it is told to stop: the one that the service manager has there and `passed`, or
/// one that is made. The installation's lock is held, so a socket that is there then is stale.
///
/// # Errors
/// Where the socket cannot be made, or accepting fails for good.
pub async fn serve(engine: Engine, path: &Path, passed: Option<OwnedFd>) -> std::io::Result<()> {
    let is_ours = passed.is_none();
    let listener = match passed {
        Some(passed) => std::os::unix::net::UnixListener::from(passed),
        None => host::sock::listen_replacing(path)?,
    };
    listener.set_nonblocking(true)?;
    let listener = Guarded { listener: UnixListener::from_std(listener)?, uid: host::proc::own_uid() };
    let stop = CancellationToken::new();
    let streams = Streams { stop: stop.clone(), open: TaskTracker::new() };
    let router = api::router(engine.clone(), streams.clone(), path);
    tokio::spawn(stop_on_signal(stop.clone())?);
    tracing::info!(socket = %path.display(), "serving");
    // Outside of systemd there is nobody to tell.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    let ended = stop.clone();
    let shutdown =
        axum::serve(listener, router).with_graceful_shutdown(async move { ended.cancelled().await });
    let served = async { shutdown.await };
    tokio::select! {
        result = served => result?,
        // Streams that follow a guest have no end of their own; VMs run on without us.
        () = async { stop.cancelled().await; tokio::time::sleep(GRACE).await } => {}
    }
    streams.open.close();
    let _ = tokio::time::timeout(GRACE, streams.open.wait()).await;
    engine.operations().cancel_all();
    let deadline = tokio::time::Instant::now() + UNDO;
    while engine.operations().any_running() && tokio::time::Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    engine.close().await;
    if is_ours {
        host::fs::remove(path)?;
    }
    tracing::info!("stopped");
    Ok(())
}

/// How long open requests may take after a stop.
const GRACE: Duration = Duration::from_millis(500);
/// How long cancelled operations may take to undo what they did; the rest is for the next daemon.
const UNDO: Duration = Duration::from_secs(20);
// Whoever waits for this daemon's end knows how long that takes, with a moment for all that takes no time.
const _: () =
    assert!(UNDO.as_millis() + 2 * GRACE.as_millis() + CLOSING.as_millis() + 2_000 <= ENDING.as_millis());

fn stop_on_signal(stop: CancellationToken) -> std::io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            () = stop.cancelled() => {}
        }
        stop.cancel();
    })
}

/// A listener that takes the owner and root only.
struct Guarded {
    listener: UnixListener,
    uid: u32,
}

impl Listener for Guarded {
    type Io = UnixStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            match self.listener.accept().await {
                Ok((stream, address)) => match stream.peer_cred() {
                    Ok(peer) if peer.uid() == self.uid || peer.uid() == 0 => return (stream, address),
                    Ok(peer) => tracing::warn!(uid = peer.uid(), "refused a stranger"),
                    Err(error) => tracing::warn!(%error, "refused a client that cannot be told"),
                },
                Err(error) => {
                    tracing::warn!(%error, "cannot accept");
                    // Out of descriptors: some will be given back.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}
