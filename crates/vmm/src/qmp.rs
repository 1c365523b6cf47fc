//! QEMU's control socket: one line of JSON for each command, answer and event.
//!
//! Only what a machine needs: a few commands, and the reason that QEMU gives for its end. Lines are
//! bounded, because a guest may have taken over the process that writes them.

use std::{
    io,
    sync::{Arc, OnceLock},
    time::Duration,
};

use serde::Deserialize;
use serde_json::{Value, json};
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
    /// Of the command that is answered.
    id: Option<u64>,
}

struct Answer {
    id: Option<u64>,
    result: Result<Value, String>,
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
    answers: mpsc::Receiver<Answer>,
    /// The last command's number.
    last: u64,
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
        let qmp = Self { calls: Mutex::new(Calls { writer, answers, last: 0 }), shutdown };
        // QEMU greets before it has set up its machine, and obeys after that.
        qmp.execute_within(patience, "qmp_capabilities", Value::Null).await?;
        Ok((qmp, listener))
    }

    /// Why QEMU shut down, in its own word, where it said so.
    pub(crate) fn shutdown_reason(&self) -> Option<&str> {
        self.shutdown.get().map(String::as_str)
    }

    /// Has QEMU execute `command`.
    pub(crate) async fn execute(&self, command: &'static str) -> Result<Value, ControlError> {
        self.execute_with(command, Value::Null).await
    }

    /// Has QEMU execute `command` with `arguments`, an object.
    pub(crate) async fn execute_with(
        &self,
        command: &'static str,
        arguments: Value,
    ) -> Result<Value, ControlError> {
        self.execute_within(ANSWER, command, arguments).await
    }

    /// The same with an answer that may take as long as `patience`.
    pub(crate) async fn execute_within(
        &self,
        patience: Duration,
        command: &'static str,
        arguments: Value,
    ) -> Result<Value, ControlError> {
        let call = async {
            let mut calls = self.calls.lock().await;
            calls.last += 1;
            let id = calls.last;
            let mut request = json!({ "execute": command, "id": id });
            if !arguments.is_null() {
                request["arguments"] = arguments;
            }
            let line = format!("{request}\n");
            calls.writer.write_all(line.as_bytes()).await.map_err(|_| ControlError::Ended)?;
            loop {
                let answer = calls.answers.recv().await.ok_or(ControlError::Ended)?;
                // Others answer commands that were given up.
                if answer.id == Some(id) {
                    return answer.result.map_err(|reason| ControlError::Refused { command, reason });
                }
            }
        };
        timeout(patience, call).await.unwrap_or(Err(ControlError::Timeout(patience)))
    }
}

async fn listen(
    mut reader: BufReader<OwnedReadHalf>,
    answers: mpsc::Sender<Answer>,
    shutdown: Arc<OnceLock<String>>,
) {
    while let Ok(message) = next(&mut reader).await {
        let result = message.result.map(Ok).or_else(|| message.error.map(|refusal| Err(refusal.desc)));
        if let Some(result) = result {
            // Nobody waits where it is full of answers to what was given up.
            let _ = answers.try_send(Answer { id: message.id, result });
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

#[cfg(test)]
mod tests {
    use super::*;

    const GREETING: &str = "{\"QMP\": {\"version\": {}, \"capabilities\": []}}\r\n";

    /// Plays QEMU: says each part after the line that it waits for.
    async fn play(stream: UnixStream, script: &[(&str, &str)]) {
        let (reader, mut writer) = stream.into_split();
        let mut lines = BufReader::new(reader).lines();
        writer.write_all(GREETING.as_bytes()).await.unwrap();
        for (expect, say) in script {
            let line = lines.next_line().await.unwrap().unwrap();
            assert!(line.contains(expect), "{line} is not {expect}");
            writer.write_all(say.as_bytes()).await.unwrap();
        }
    }

    const READY: (&str, &str) = ("qmp_capabilities", "{\"return\": {}, \"id\": 1}\r\n");

    #[tokio::test]
    async fn answers_refusals_and_the_end_are_told_apart() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let script = [
            READY,
            (
                "query-status",
                "{\"event\": \"STOP\", \"data\": {\"reason\": 5}}\r\n{\"return\": {\"status\": \"paused\"}, \"id\": 2}\r\n",
            ),
            (
                "system_powerdown",
                "{\"error\": {\"class\": \"GenericError\", \"desc\": \"no\"}, \"id\": 3}\r\n",
            ),
            (
                "quit",
                "{\"return\": {}, \"id\": 4}\r\n{\"event\": \"SHUTDOWN\", \"data\": {\"guest\": false, \"reason\": \"host-qmp-quit\"}}\r\n\
                      {\"event\": \"SHUTDOWN\", \"data\": {\"reason\": \"other\"}}\r\n",
            ),
        ];
        let qemu = tokio::spawn(async move { play(theirs, &script).await });
        let (qmp, listener) = Qmp::negotiate(ours, ANSWER).await.unwrap();
        assert_eq!(qmp.execute("query-status").await.unwrap()["status"], "paused");
        let refused = qmp.execute("system_powerdown").await.unwrap_err();
        assert_eq!(refused.to_string(), "the VMM refused system_powerdown: no");
        qmp.execute("quit").await.unwrap();
        qemu.await.unwrap();
        listener.join().await.unwrap();
        assert_eq!(qmp.shutdown_reason(), Some("host-qmp-quit"), "the first one counts");
        assert!(matches!(qmp.execute("query-status").await, Err(ControlError::Ended)));
    }

    #[tokio::test]
    async fn an_answer_that_comes_too_late_is_not_taken_for_another() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let script = [
            READY,
            ("stop", ""),
            (
                "query-status",
                "{\"return\": {\"late\": true}, \"id\": 2}\n{\"return\": {\"late\": false}, \"id\": 3}\n",
            ),
        ];
        let qemu = tokio::spawn(async move { play(theirs, &script).await });
        let (qmp, _listener) = Qmp::negotiate(ours, ANSWER).await.unwrap();
        let given_up = timeout(Duration::from_millis(50), qmp.execute("stop")).await;
        assert!(given_up.is_err());
        assert_eq!(qmp.execute("query-status").await.unwrap()["late"], false);
        qemu.await.unwrap();
    }

    #[tokio::test]
    async fn what_is_not_the_protocol_is_refused() {
        for said in ["hello\n", "[1]\n", "{\"QMP\": \n", "", "{}\n{}\n"] {
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            theirs.write_all(said.as_bytes()).await.unwrap();
            drop(theirs);
            let refused = Qmp::negotiate(ours, ANSWER).await.map(drop).unwrap_err();
            assert!(matches!(refused, ControlError::Protocol | ControlError::Ended), "{said:?}: {refused:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_given_up() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let silent = Qmp::negotiate(ours, ANSWER).await.map(drop).unwrap_err();
        assert!(matches!(silent, ControlError::Timeout(patience) if patience == ANSWER));
    }

    #[tokio::test]
    async fn an_endless_line_is_refused() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let endless = tokio::spawn(async move { while theirs.write_all(&[b' '; 4096]).await.is_ok() {} });
        let refused = Qmp::negotiate(ours, Duration::from_secs(60)).await.map(drop).unwrap_err();
        assert!(matches!(refused, ControlError::Protocol));
        endless.await.unwrap();
    }
}
