//! The end of the machine.

use std::time::{Duration, Instant};

use rustix::system::{RebootCommand, reboot};
use wire::guest::End;

use crate::{storage::Storage, sys};

/// Between two looks whether the last process has ended.
const INTERVAL: Duration = Duration::from_millis(20);

/// Ends every process but PID 1 and this one: asks, waits up to `patience`, and kills what is left.
pub fn end_processes(patience: Duration) {
    let deadline = Instant::now() + patience;
    sys::kill_everything(libc::SIGTERM);
    // Shells do not end by TERM.
    sys::kill_everything(libc::SIGHUP);
    sys::kill_everything(libc::SIGCONT);
    while Instant::now() < deadline && others_run() {
        std::thread::sleep(INTERVAL);
    }
    sys::kill_everything(libc::SIGKILL);
}

/// Writes out the disks and ends the machine.
pub fn seal_and_end(storage: &Storage, end: End) -> ! {
    storage.seal();
    end_machine(end)
}

/// Ends the machine, now.
pub fn end_machine(end: End) -> ! {
    let command = match end {
        End::Poweroff => RebootCommand::PowerOff,
        End::Reboot => RebootCommand::Restart,
    };
    // Neither returns, except where this is not allowed to end the machine; then a restart is not allowed either.
    let _ = reboot(command);
    let _ = reboot(RebootCommand::Restart);
    sys::exit_now(1)
}

/// Whether a process other than PID 1, this one and the agent is alive. Threads of the kernel have no command line, and
/// neither have the dead.
fn others_run() -> bool {
    let own = std::process::id();
    host::fs::list(std::path::Path::new("/proc")).unwrap_or_default().iter().any(|path| {
        let pid: Option<u32> = path.file_name().and_then(|n| n.to_str()).and_then(|n| n.parse().ok());
        let lives = |command: Vec<u8>| !command.is_empty() && command[0] != b'@';
        pid.is_some_and(|pid| pid != 1 && pid != own)
            && host::fs::read_limited(&path.join("cmdline"), 4 << 20).map_or_else(|e| !e.is_missing(), lives)
    })
}
