//! The error of every call to the operating system.

use std::{fmt, io, path::Path};

/// A call to the operating system that failed: what was being done, to what, and the cause.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {subject}")]
pub struct Error {
    action: &'static str,
    subject: String,
    #[source]
    cause: io::Error,
}

/// The result of a call to the operating system.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// `action` (an infinitive, like `open`) on `subject` failed because of `cause`.
    pub fn new(action: &'static str, subject: impl fmt::Display, cause: impl Into<io::Error>) -> Self {
        Self { action, subject: subject.to_string(), cause: cause.into() }
    }

    /// The same for a path.
    pub fn path(action: &'static str, path: &Path, cause: impl Into<io::Error>) -> Self {
        Self::new(action, path.display(), cause)
    }

    /// The kind of the cause, to decide by.
    #[must_use]
    pub fn kind(&self) -> io::ErrorKind {
        self.cause.kind()
    }

    /// The cause's `errno(3)`, where it has one.
    #[must_use]
    pub fn raw_os_error(&self) -> Option<i32> {
        self.cause.raw_os_error()
    }

    /// Whether the thing was not there.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        self.kind() == io::ErrorKind::NotFound
    }

    /// Whether there was no room: a full disk or a quota.
    #[must_use]
    pub fn is_full(&self) -> bool {
        matches!(self.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        io::Error::new(error.kind(), error)
    }
}

/// An error with its causes on one line.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}
