//! What can go wrong in the program itself, and how every failure becomes words and an exit code.

use std::io;

use host::dirs::NoDirs;
use model::exit;
use wire::control::{Code, ErrorBody};

use crate::{
    files::FilesError,
    text::{visible, visible_lines},
};

/// A failure as it reaches the user.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The command line asks for something that is not there or makes no sense.
    #[error("{message}")]
    Usage {
        /// What is wrong.
        message: String,
        /// What to type instead.
        hint: Option<&'static str>,
    },
    /// There is no place for banger's files.
    #[error(transparent)]
    NoDirs(#[from] NoDirs),
    /// The daemon does not answer and could not be started.
    #[error("cannot reach the daemon")]
    Unreachable(#[source] host::Error),
    /// The daemon is a service of the system's and does not answer.
    #[error("banger is installed with the system, and its daemon does not answer")]
    NotServed(#[source] host::Error),
    /// The daemon was started and did not come up.
    #[error("the daemon did not start: {why}")]
    NotStarted {
        /// What was seen of it.
        why: String,
        /// The last lines of its log.
        log: Vec<String>,
    },
    /// The daemon said that it goes, and is still there.
    #[error("the daemon was asked to stop and still answers")]
    DaemonStays,
    /// There are mistakes in the settings; each with its place.
    #[error("{0}")]
    Config(String),
    /// There is no sshd in a guest.
    #[error("no sshd listens in {}", visible(.0))]
    NoSshd(String),
    /// ssh cannot be given its configuration.
    #[error("cannot tell ssh of machines by {}: {why}", path.display())]
    SshConfig {
        /// The file, or what was to be in it.
        path: std::path::PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Files were not copied.
    #[error(transparent)]
    Files(#[from] FilesError),
    /// `bangerd` is nowhere.
    #[error("cannot find the program bangerd beside banger, in ../libexec/banger or in PATH")]
    NoDaemonProgram,
    /// The part that is root cannot be installed, asked or removed.
    #[error("{message}")]
    System {
        /// Why.
        message: String,
        /// What to do.
        hint: Option<&'static str>,
    },
    /// The daemon refused, or failed at, the request.
    #[error("{}", visible(&.0.message))]
    Daemon(ErrorBody),
    /// The daemon answered with something that this version does not understand.
    #[error("the daemon's answer is not understood: {0}")]
    Protocol(String),
    /// The connection to the daemon ended in the middle of something.
    #[error("the connection to the daemon was cut while {0}")]
    Cut(&'static str, #[source] Option<io::Error>),
    /// The operating system refused.
    #[error(transparent)]
    Host(#[from] host::Error),
    /// The user, or a signal, ended it.
    #[error("cancelled")]
    Cancelled,
    /// Of several things some failed; each was reported already.
    #[error("{failed} of {all} failed")]
    Several {
        /// How many failed.
        failed: usize,
        /// Of how many.
        all: usize,
        /// The exit code that all of them have in common, or the general one.
        code: u8,
    },
}

impl Error {
    /// A command line that cannot be carried out.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::Usage { message: message.into(), hint: None }
    }

    /// The exit code where banger's own success is what the command is about.
    #[must_use]
    pub fn code(&self) -> u8 {
        match self {
            Self::Usage { .. } | Self::NoDirs(NoDirs::Relative(_)) => exit::USAGE,
            Self::NoDirs(NoDirs::Homeless)
            | Self::Unreachable(_)
            | Self::NotServed(_)
            | Self::NotStarted { .. }
            | Self::NoDaemonProgram => exit::UNREACHABLE,
            Self::Daemon(body) => match body.code {
                Code::Invalid => exit::USAGE,
                Code::NotFound | Code::Gone => exit::NOT_FOUND,
                Code::NotRunning => exit::NOT_RUNNING,
                Code::Cancelled => exit::CANCELLED,
                Code::Ambiguous
                | Code::Taken
                | Code::Conflict
                | Code::InUse
                | Code::Refused
                | Code::Host
                | Code::Guest
                | Code::VmEnded
                | Code::Internal
                | Code::Unknown => exit::FAILED,
            },
            Self::Config(_)
            | Self::System { .. }
            | Self::DaemonStays
            | Self::NoSshd(_)
            | Self::SshConfig { .. }
            | Self::Files(_)
            | Self::Protocol(_)
            | Self::Cut(..)
            | Self::Host(_) => exit::FAILED,
            Self::Cancelled => exit::CANCELLED,
            Self::Several { code, .. } => *code,
        }
    }

    /// The exit code where a command's own code is what the user waits for: 125 keeps the two apart.
    #[must_use]
    pub fn command_code(&self) -> u8 {
        match self.code() {
            code @ (exit::USAGE | exit::CANCELLED) => code,
            _ => exit::COMMAND_FAILED,
        }
    }

    /// What to type, where there is something.
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::Usage { hint, .. } | Self::System { hint, .. } => *hint,
            Self::NoSshd(_) => Some("`banger vm exec` needs none"),
            Self::NoDirs(_) => Some("set BANGER_HOME to a directory of yours, from the root"),
            Self::Unreachable(_) => Some("banger daemon start"),
            Self::NotServed(_) => Some("sudo banger system restart"),
            Self::NoDaemonProgram => {
                Some("build it with `cargo build --release`, or install banger with all its programs")
            }
            Self::Protocol(_) => {
                Some("banger and bangerd may be of different versions: banger daemon stop, then try again")
            }
            Self::Daemon(body) => body.hint.as_deref(),
            Self::NotStarted { .. }
            | Self::DaemonStays
            | Self::Config(_)
            | Self::SshConfig { .. }
            | Self::Files(_)
            | Self::Cut(..)
            | Self::Host(_)
            | Self::Cancelled
            | Self::Several { .. } => None,
        }
    }

    /// Whether it says that no daemon runs.
    #[must_use]
    pub fn means_no_daemon(&self) -> bool {
        matches!(self, Self::Unreachable(cause) if crate::client::nobody_listens(cause))
    }

    /// Whether it was reported when it happened, so there is nothing left to say.
    #[must_use]
    pub fn is_reported(&self) -> bool {
        matches!(self, Self::Several { .. })
    }

    fn causes(&self) -> Vec<String> {
        match self {
            Self::Daemon(body) => body.causes.clone(),
            Self::NotStarted { log, .. } => log.clone(),
            _ => {
                let mut causes = Vec::new();
                let mut next = std::error::Error::source(self);
                while let Some(cause) = next {
                    causes.push(cause.to_string());
                    next = cause.source();
                }
                causes
            }
        }
    }

    /// The failure in words, for standard error; `paint` decorates the two labels.
    #[must_use]
    pub fn render(&self, paint: fn(Label) -> &'static str) -> String {
        let mut out = format!("{} {self}\n", paint(Label::Error));
        for cause in self.causes() {
            let mut lines = visible_lines(&cause);
            if let Some(first) = lines.next() {
                out.push_str(&format!("  cause: {first}\n"));
            }
            lines.for_each(|line| out.push_str(&format!("         {line}\n")));
        }
        if let Some(hint) = self.hint() {
            out.push_str(&format!("{} {}\n", paint(Label::Hint), visible(hint)));
        }
        if let Self::Daemon(ErrorBody { op_id: Some(id), .. }) = self {
            out.push_str(&format!("operation: {}\n", visible(id)));
        }
        out
    }
}

/// What begins a line of an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Label {
    /// `error:`
    Error,
    /// `hint:`
    Hint,
}

impl Label {
    /// Without decoration.
    #[must_use]
    pub fn plain(self) -> &'static str {
        match self {
            Self::Error => "error:",
            Self::Hint => "hint:",
        }
    }

    /// For a terminal that shows colour.
    #[must_use]
    pub fn coloured(self) -> &'static str {
        match self {
            Self::Error => "\x1b[1;31merror:\x1b[0m",
            Self::Hint => "\x1b[1;36mhint:\x1b[0m",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn daemon(code: Code) -> Error {
        Error::Daemon(ErrorBody::new(code, "x"))
    }

    #[test]
    fn every_failure_has_its_exit_code() {
        for (error, code, command) in [
            (Error::usage("x"), 2, 2),
            (NoDirs::Homeless.into(), 3, 125),
            (NoDirs::Relative("x".into()).into(), 2, 2),
            (Error::NoDaemonProgram, 3, 125),
            (daemon(Code::Invalid), 2, 2),
            (daemon(Code::NotFound), 4, 125),
            (daemon(Code::NotRunning), 5, 125),
            (daemon(Code::Cancelled), 130, 130),
            (daemon(Code::Taken), 1, 125),
            (daemon(Code::Guest), 1, 125),
            (Error::Cancelled, 130, 130),
            (Error::Cut("x", None), 1, 125),
            (Error::Several { failed: 2, all: 2, code: 4 }, 4, 125),
        ] {
            assert_eq!((error.code(), error.command_code()), (code, command), "{error:?}");
        }
    }

    #[test]
    fn an_error_shows_causes_hint_and_operation() {
        let body = ErrorBody {
            causes: vec!["the guest did not answer".into(), "last lines:\nBUG: \x1b[2Jpanic".into()],
            op_id: Some("0190-1".into()),
            ..ErrorBody::new(Code::Guest, "cannot start dev").with_hint("banger vm logs dev")
        };
        insta::assert_snapshot!(Error::Daemon(body).render(Label::plain), @r"
        error: cannot start dev
          cause: the guest did not answer
          cause: last lines:
                 BUG: \u{1b}[2Jpanic
        hint: banger vm logs dev
        operation: 0190-1
        ");
        let cause = io::Error::from(io::ErrorKind::ConnectionRefused);
        let error = Error::Unreachable(host::Error::new("connect to", "/run/x.sock", cause));
        insta::assert_snapshot!(error.render(Label::plain), @r"
        error: cannot reach the daemon
          cause: cannot connect to /run/x.sock
          cause: connection refused
        hint: banger daemon start
        ");
    }
}
