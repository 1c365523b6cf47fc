//! QEMU's control socket: one line of JSON for each command, answer and event.
//!
//! Only what a machine needs: commands without arguments, and the reason that QEMU gives for its end. Lines are
//! bounded, because a guest may have taken over the process that writes them.

use std::{
    io,
    sync::{Arc, OnceLock},
    time::Duration,
};

use serde::Deserialize;
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{Mutex, mpsc},
    time::timeout,
};

use crate::{ControlError, task::Task};

/// When a command that QEMU did not answer is given up.
const ANSWER: Duration = Duration::from_secs(5);
/// The longest line.
const LINE: u64 = 1 << 20;

/// Everything that QEMU says.
#[derive(Debug, Deserialize)]
struct Message {
    #[serde(rename = "QMP")]
    greeting: Option<Value>,
    event: Option<String>,
    #[serde(default)]
    data: Value,
    #[serde(rename = "return")]
    result: Option<Value>,
    error: Option<Refusal>,
}

#[derive(Debug, Deserialize)]
struct Refusal {
    desc: String,
}

/// A control connection.
pub(crate) struct Qmp {
    /// Taken for one command and its answer.
    calls: Mutex<Calls>,
    shutdown: Arc<OnceLock<String>>,
}

struct Calls {
    writer: OwnedWriteHalf,
    answers: mpsc::Receiver<Result<Value, String>>,
    /// Answers of commands that were given up and are still to come.
    owed: usize,
}

/// Reads what QEMU says until it says no more; then the reason of its shutdown is known, if it gave one.
pub(crate) type Listener = Task<()>;

impl Qmp {
    /// Greets and gets ready, within `patience`.
    pub(crate) async fn negotiate(
        stream: UnixStream,
        patience: Duration,
    ) -> Result<(Self, Listener), ControlError> {
        let (reader, writer) = stream.into_split();
        let mut reader = BufReader::new(reader);
        let greeting = async {
            loop {
                if next(&mut reader).await?.greeting.is_some() {
                    return Ok::<_, ControlError>(());
                }
            }
        };
        timeout(patience, greeting).await.map_err(|_| ControlError::Timeout(patience))??;
        let (sender, answers) = mpsc::channel(16);
        let shutdown = Arc::new(OnceLock::new());
        let listener = Task::spawn(listen(reader, sender, shutdown.clone()));
        let qmp = Self { calls: Mutex::new(Calls { writer, answers, owed: 0 }), shutdown };
        qmp.execute("qmp_capabilities").await?;
        Ok((qmp, listener))
    }

    /// Why QEMU shut down, in its own word, where it said so.
    pub(crate) fn shutdown_reason(&self) -> Option<&str> {
        self.shutdown.get().map(String::as_str)
    }

    /// Has QEMU execute `command`.
    pub(crate) async fn execute(&self, command: &'static str) -> Result<Value, ControlError> {
        let call = async {
            let mut calls = self.calls.lock().await;
            let line = format!("{{\"execute\":\"{command}\"}}\n");
            calls.writer.write_all(line.as_bytes()).await.map_err(|_| ControlError::Ended)?;
            // From here on an answer will come, also when nobody waits for it any more.
            calls.owed += 1;
            loop {
                let answer = calls.answers.recv().await.ok_or(ControlError::Ended)?;
                calls.owed -= 1;
                if calls.owed == 0 {
                    return answer.map_err(|reason| ControlError::Refused { command, reason });
                }
            }
        };
        timeout(ANSWER, call).await.unwrap_or(Err(ControlError::Timeout(ANSWER)))
    }
}

async fn listen(
    mut reader: BufReader<OwnedReadHalf>,
    answers: mpsc::Sender<Result<Value, String>>,
    shutdown: Arc<OnceLock<String>>,
) {
    while let Ok(message) = next(&mut reader).await {
        if let Some(result) = message.result {
            let _ = answers.try_send(Ok(result));
        } else if let Some(refusal) = message.error {
            let _ = answers.try_send(Err(refusal.desc));
        } else if message.event.as_deref() == Some("SHUTDOWN") {
            // The first one is the cause; a quit that comes after it is ours.
            let _ = shutdown.set(message.data["reason"].as_str().unwrap_or_default().to_owned());
        }
    }
}

async fn next(reader: &mut BufReader<OwnedReadHalf>) -> Result<Message, ControlError> {
    let mut line = Vec::new();
    match reader.take(LINE).read_until(b'\n', &mut line).await {
        Ok(0) => Err(ControlError::Ended),
        Ok(_) => serde_json::from_slice(&line).map_err(|_| ControlError::Protocol),
        Err(e) if e.kind() == io::ErrorKind::ConnectionReset => Err(ControlError::Ended),
        Err(_) => Err(ControlError::Protocol),
    }
}
