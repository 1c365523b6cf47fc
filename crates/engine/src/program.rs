//! Programs of the host that take a while: they end when their operation is cancelled.

use std::{io::Read, time::Duration};

use host::proc::{Command, Exit, Signal, Stopper};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{Operation, Result};

/// How long a program may take to end by itself after it was asked to.
const GRACE: Duration = Duration::from_secs(5);
/// How much of what a program says is kept.
const KEPT: u64 = 1 << 20;

/// Watches an operation on behalf of a program; dropping it stops watching.
#[derive(Debug)]
#[must_use = "it watches as long as it lives"]
pub struct Watch(JoinHandle<()>);

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Ends a program when `operation` is cancelled, or after `limit`.
pub fn end_with(operation: &Operation, stopper: Stopper, limit: Duration) -> Watch {
    end_when(operation.token().clone(), stopper, limit)
}

/// Ends a program when `token` is cancelled, or after `limit`.
pub fn end_when(token: CancellationToken, stopper: Stopper, limit: Duration) -> Watch {
    Watch(tokio::spawn(async move {
        let _ = tokio::time::timeout(limit, token.cancelled()).await;
        stopper.signal(Signal::Term);
        tokio::time::sleep(GRACE).await;
        stopper.signal(Signal::Kill);
    }))
}

/// Runs `command` to its end, at most for `limit`; gives how it ended and what it printed and complained of. Blocks.
///
/// # Errors
/// Where it cannot be started or waited for.
pub fn capture(operation: &Operation, command: Command, limit: Duration) -> Result<(Exit, String, String)> {
    let mut running = command.start()?;
    let (stdout, stderr) = (running.take_stdout(), running.take_stderr());
    let watch = end_with(operation, running.stopper(), limit);
    let text = |stream: Option<std::fs::File>| {
        let mut bytes = Vec::new();
        // A stream that breaks has said what it had to say.
        let _ = stream.map(|stream| stream.take(KEPT).read_to_end(&mut bytes));
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let (stdout, stderr) = std::thread::scope(|scope| {
        let complaints = scope.spawn(|| text(stderr));
        (text(stdout), complaints.join().unwrap_or_default())
    });
    let exit = running.wait()?;
    drop(watch);
    Ok((exit, stdout, stderr))
}
