//! Running git: with no configuration but what is said here, so that nothing of a repository's own runs.
//!
//! Two kinds of directories are handed to it: the owner's repository, which it only reads, and ones of our own. Never one
//! that a guest wrote.

use std::{
    ffi::OsString,
    fs::File,
    io::{self, BufWriter, Read, Write},
    path::Path,
    time::Duration,
};

use host::proc::{Command, Exit, Program};
use tokio_util::sync::CancellationToken;

use super::error::WorkspaceError;
use crate::program::end_when;

/// What of a repository's configuration would make git run other programs, or write.
const OVERRIDES: &[&str] = &[
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "core.untrackedCache=false",
    "core.quotePath=true",
    "fetch.unpackLimit=1",
    "fastimport.unpackLimit=0",
    "gc.auto=0",
    "maintenance.auto=false",
    "advice.graftFileDeprecated=false",
];
/// The most bytes of an answer.
const ANSWER: u64 = 512 << 20;
/// The most bytes of complaints.
const COMPLAINTS: u64 = 64 << 10;
/// The longest that one call may take; a whole history may be large.
const LIMIT: Duration = Duration::from_secs(3600);

/// Runs git until a token is cancelled.
#[derive(Debug, Clone)]
pub struct Git(CancellationToken);

/// One call.
#[derive(Debug)]
pub struct Call {
    what: &'static str,
    command: Command,
}

impl Call {
    /// A call in `dir`; `what` says what it is for.
    pub fn new(what: &'static str, dir: &Path) -> Self {
        let command = OVERRIDES
            .iter()
            .fold(Command::new(Program::Git).dir(dir), |command, setting| command.arg("-c").arg(*setting));
        Self { what, command: command.arg("--no-pager") }
    }

    /// A call about the repository `git_dir`, which is ours.
    pub fn inside(what: &'static str, git_dir: &Path) -> Self {
        let mut option = OsString::from("--git-dir=");
        option.push(git_dir);
        Self::new(what, git_dir).args([option])
    }

    /// More arguments.
    pub fn args<A: Into<OsString>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.command = self.command.args(arguments);
        self
    }

    /// One more variable.
    pub fn env(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.command = self.command.env(name, value);
        self
    }

    /// Where its answer goes.
    pub fn stdout(mut self, file: File) -> Self {
        self.command = self.command.stdout(file);
        self
    }

    /// The failure of this call.
    fn failed(&self, why: impl Into<String>) -> WorkspaceError {
        WorkspaceError::Git { what: self.what, why: why.into() }
    }
}

/// How a call ended.
#[derive(Debug)]
pub struct Done {
    what: &'static str,
    exit: Exit,
    /// Its answer.
    pub stdout: Vec<u8>,
    /// Its complaints.
    pub stderr: String,
}

impl Done {
    /// The exit code.
    pub fn code(&self) -> Option<i32> {
        match self.exit {
            Exit::Code(code) => Some(code),
            Exit::Signal(_) => None,
        }
    }

    /// Its answer, if it succeeded.
    ///
    /// # Errors
    /// Its complaints.
    pub fn ok(self) -> Result<Vec<u8>, WorkspaceError> {
        if self.code() == Some(0) { Ok(self.stdout) } else { Err(self.failure()) }
    }

    /// Its complaints as an error.
    pub fn failure(&self) -> WorkspaceError {
        let mut lines = self.stderr.lines().map(|line| line.trim_start_matches("fatal: ").trim());
        let last = lines.rfind(|line| !line.is_empty());
        let why = last.map_or_else(|| format!("it ended with {:?}", self.exit), str::to_owned);
        WorkspaceError::Git { what: self.what, why }
    }

    /// Its answer as one line of text.
    ///
    /// # Errors
    /// Its complaints.
    pub fn line(self) -> Result<String, WorkspaceError> {
        let what = self.what;
        let mut text = String::from_utf8(self.ok()?)
            .map_err(|_| WorkspaceError::Git { what, why: "its answer is not UTF-8".to_owned() })?;
        if text.ends_with('\n') {
            text.pop();
        }
        Ok(text)
    }
}

impl Git {
    /// Git that ends with `token`.
    pub fn new(token: CancellationToken) -> Self {
        Self(token)
    }

    /// Makes a call without input. Blocks.
    ///
    /// # Errors
    /// Where git cannot be run; its exit code is the caller's to judge.
    pub fn call(&self, call: Call) -> Result<Done, WorkspaceError> {
        self.feed(call, |_| Ok(()))
    }

    /// The tree of `commit` in `git_dir`, a repository of ours.
    ///
    /// # Errors
    /// Where that has no such commit.
    pub fn tree_of(&self, git_dir: &Path, commit: &str) -> Result<String, WorkspaceError> {
        let call = Call::inside("find the commit's tree", git_dir);
        self.call(call.args(["rev-parse", "--verify", &format!("{commit}^{{tree}}")]))?.line()
    }

    /// Makes a call whose input `feed` writes. Blocks.
    ///
    /// # Errors
    /// Those of `feed`, but for a git that did not read it all and says why; or where git cannot be run.
    pub fn feed(
        &self,
        call: Call,
        feed: impl FnOnce(&mut dyn Write) -> Result<(), WorkspaceError>,
    ) -> Result<Done, WorkspaceError> {
        let (ours, theirs) = {
            let (reader, writer) = io::pipe().map_err(|e| host::Error::new("make", "a pipe", e))?;
            (writer, File::from(std::os::fd::OwnedFd::from(reader)))
        };
        let (what, gone) = (call.what, call.failed("its answer is too long"));
        let mut running = call.command.stdin(theirs).start()?;
        let (stdout, stderr) = (running.take_stdout(), running.take_stderr());
        let watch = end_when(self.0.clone(), running.stopper(), LIMIT);
        let read = |stream: Option<File>, limit: u64| {
            let mut bytes = Vec::new();
            // A stream that breaks has said what it had to say.
            let _ = stream.map(|stream| stream.take(limit).read_to_end(&mut bytes));
            bytes
        };
        let (fed, stdout, stderr) = std::thread::scope(|scope| {
            let answer = scope.spawn(|| read(stdout, ANSWER + 1));
            let complaints = scope.spawn(|| read(stderr, COMPLAINTS));
            let mut input = BufWriter::with_capacity(64 << 10, ours);
            let fed = feed(&mut input);
            // Its end is the input's end, also where that failed; what is still in the buffer is not missed then.
            let _ = input.flush();
            drop(input.into_parts());
            (fed, answer.join().unwrap_or_default(), complaints.join().unwrap_or_default())
        });
        let exit = running.wait()?;
        drop(watch);
        if stdout.len() as u64 > ANSWER {
            return Err(gone);
        }
        let done = Done { what, exit, stdout, stderr: String::from_utf8_lossy(&stderr).into_owned() };
        match fed {
            Ok(()) => Ok(done),
            Err(WorkspaceError::Unread(_)) if done.code() != Some(0) => Err(done.failure()),
            Err(error) => Err(error),
        }
    }
}
