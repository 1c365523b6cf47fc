//! The exit codes of `banger`, one list for the program and its manual.
//!
//! Commands that run something in a guest exit with its code; the reserved ones follow the convention of `env(1)` and
//! `docker run`: 125 for the tool itself, 126 and 127 for a command that could not be run, 128+N for a signal.

/// How a command in a guest ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It exited with this code.
    Exited(u8),
    /// Signal number N ended it.
    Signalled(u8),
    /// It exists but cannot be executed.
    NotExecutable,
    /// It was not found.
    NotFound,
}

impl Outcome {
    /// The exit code that tells it.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Exited(code) => code,
            Self::Signalled(signal) => 128u8.saturating_add(signal),
            Self::NotExecutable => 126,
            Self::NotFound => 127,
        }
    }
}

/// Success.
pub const OK: u8 = 0;
/// The request failed.
pub const FAILED: u8 = 1;
/// The command line was wrong; nothing was done.
pub const USAGE: u8 = 2;
/// The daemon could not be reached or started.
pub const UNREACHABLE: u8 = 3;
/// No VM, image or kernel has that name.
pub const NOT_FOUND: u8 = 4;
/// The VM is not running.
pub const NOT_RUNNING: u8 = 5;
/// A command in a guest was asked for and banger itself failed.
pub const COMMAND_FAILED: u8 = 125;
/// Cancelled, by Ctrl-C or by somebody else.
pub const CANCELLED: u8 = 130;

/// Every code with its meaning, for the manual.
pub const TABLE: &[(u8, &str)] = &[
    (OK, "success"),
    (FAILED, "the request failed"),
    (USAGE, "the command line was wrong; nothing was done"),
    (UNREACHABLE, "the daemon could not be reached or started"),
    (NOT_FOUND, "no VM, image or kernel has that name"),
    (NOT_RUNNING, "the VM is not running"),
    (COMMAND_FAILED, "`vm run -- CMD`, `vm exec` and `vm ssh`: banger itself failed, not CMD"),
    (126, "`vm run -- CMD`, `vm exec` and `vm ssh`: CMD cannot be executed"),
    (127, "`vm run -- CMD`, `vm exec` and `vm ssh`: CMD was not found"),
    (CANCELLED, "cancelled"),
];
