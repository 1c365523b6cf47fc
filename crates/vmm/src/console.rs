//! Reads a machine's console into its ring, so that the machine never waits for a reader.

use std::{path::Path, time::Instant};

use tokio::io::{AsyncRead, AsyncReadExt};

use crate::{end, ring::Ring, task::Task};

/// As much of the console's end is kept at hand to tell a panic by; it ends with a few kilobytes of traces.
const TAIL: usize = 32 << 10;

/// A console that is read.
pub(crate) struct Console(Task<Vec<u8>>);

impl Console {
    /// Reads `stream` into the ring in `directory` until the machine closes it. `listen` hears all of it, in pieces that begin
    /// [`end::LONGEST`] bytes before what is new.
    pub(crate) fn start(
        stream: impl AsyncRead + Send + Unpin + 'static,
        directory: &Path,
        listen: impl FnMut(&[u8]) + Send + 'static,
    ) -> host::Result<Self> {
        let ring = Ring::open(directory, Instant::now())?;
        Ok(Self(Task::spawn(pump(stream, ring, listen))))
    }

    /// Waits until all is read; gives the end of what was read here.
    pub(crate) async fn join(self) -> Vec<u8> {
        self.0.join().await.unwrap_or_default()
    }
}

async fn pump(mut stream: impl AsyncRead + Unpin, ring: Ring, mut listen: impl FnMut(&[u8])) -> Vec<u8> {
    let mut ring = Some(ring);
    let mut tail = Vec::new();
    let mut buffer = vec![0; 16 << 10];
    while let Ok(count) = stream.read(&mut buffer).await {
        if count == 0 {
            break;
        }
        let bytes = buffer[..count].to_vec();
        tail.extend_from_slice(&bytes);
        tail.drain(..tail.len().saturating_sub(TAIL));
        listen(&tail[tail.len().saturating_sub(count + end::LONGEST)..]);
        // A log that cannot be written any more must not stop the machine: it is read on, into nothing.
        if let Some(mut writing) = ring.take() {
            let written =
                tokio::task::spawn_blocking(move || writing.write(&bytes, Instant::now()).map(|()| writing));
            match written.await {
                Ok(Ok(writing)) => ring = Some(writing),
                Ok(Err(error)) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "console log given up")
                }
                Err(_) => {}
            }
        }
    }
    if let Some(ring) = ring {
        let _ = tokio::task::spawn_blocking(move || ring.finish()).await;
    }
    tail
}
