//! Starting the daemon where a command needs it and it does not run.
//!
//! Any number of commands may do this at once: each starts a daemon, one of these gets the lock of the state directory,
//! the others find it taken and end with code 0, and every command connects to the one that is left.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use host::{
    dirs::Dirs,
    fs,
    proc::{self, Command, Exit, Program},
};
use tokio::net::UnixStream;
use wire::control::ENDING;

use crate::{
    args::Output,
    client::{connect, nobody_listens},
    commands::settings,
    error::Error,
};

/// How long the daemon may take until it answers: it waits for one that ends, and looks at what that left.
const DEADLINE: Duration = Duration::from_secs(ENDING.as_secs() + 10);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(5);
/// The daemon's log, in the directory of the state.
pub const LOG: &str = "bangerd.log";
/// How large it may be where a daemon starts; a larger one is put aside.
const LOG_SIZE: u64 = 8 << 20;
/// Lines of the daemon's log that an error shows.
const LINES: usize = 8;

/// Starts the daemon of `dirs` and connects to it.
///
/// # Errors
/// Where it is not installed, or does not come up.
pub async fn daemon(dirs: &Dirs) -> Result<UnixStream, Error> {
    let program = program().ok_or(Error::NoDaemonProgram)?;
    fs::private_dir(&dirs.state)?;
    let path = dirs.state.join(LOG);
    // Only here: the daemon that has it open writes on where it is.
    if fs::size(&path).is_ok_and(|size| size > LOG_SIZE) {
        fs::rename(&path, &dirs.state.join(format!("{LOG}.1")))?;
    }
    let log = fs::append(&path)?;
    let before = fs::size(&path)?;
    let again = log.try_clone().map_err(|e| host::Error::path("share", &path, e))?;
    let process = Command::new(Program::Daemon(program)).stdout(log).stderr(again).detached()?;

    let begin = Instant::now();
    let failed = |why: String| Error::NotStarted { why, log: tail(&path, before) };
    let mut ended = None;
    loop {
        // Looked at before the socket, so a daemon that another command started is seen where ours gave way to it.
        if ended.is_none() {
            ended = process.reap()?;
        }
        match connect(&dirs.socket()) {
            Ok(stream) => return Ok(stream),
            Err(e) if !nobody_listens(&e) => return Err(Error::Unreachable(e)),
            Err(_) => {}
        }
        if let Some(exit) = ended.filter(|exit| !exit.success()) {
            // A mistake in the settings is shown where it is, not as a daemon that does not start.
            if exit == Exit::Code(1)
                && let Err(mistake @ Error::Config(_)) = settings::ask(Output::Text)
            {
                return Err(mistake);
            }
            return Err(failed(format!("it ended with {exit}")));
        }
        if begin.elapsed() > DEADLINE {
            return Err(failed(format!("it does not answer after {} seconds", DEADLINE.as_secs())));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// `bangerd` beside this program, else where it is installed with it, else in `PATH`.
pub fn program() -> Option<PathBuf> {
    let own = std::env::current_exe().ok();
    let dir = own.as_deref().and_then(std::path::Path::parent);
    let beside = dir.into_iter().flat_map(|dir| [dir.join("bangerd"), dir.join("../libexec/banger/bangerd")]);
    beside
        .into_iter()
        .find(|path| fs::exists(path))
        .or_else(|| proc::find("bangerd", &host::env::var("PATH")?))
}

/// The last lines that were added to the log at `path`.
fn tail(path: &std::path::Path, before: u64) -> Vec<String> {
    let bytes = fs::read(path).unwrap_or_default();
    let new = bytes.get(usize::try_from(before).unwrap_or(usize::MAX)..).unwrap_or_default();
    let text = String::from_utf8_lossy(new);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LINES)..].iter().map(|line| (*line).to_owned()).collect()
}
