//! The standard streams of this process, byte for byte, and the terminal behind them.
//!
//! A stream may have been made non-blocking by whoever shares it; these functions wait then instead of failing.

use std::{io, os::fd::BorrowedFd};

use rustix::{
    event::{PollFd, PollFlags},
    io::Errno,
    stdio,
    termios::{self, OptionalActions, Termios},
};

use crate::{Error, Result};

/// One of the two output streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Output {
    fn fd(self) -> BorrowedFd<'static> {
        match self {
            Self::Stdout => stdio::stdout(),
            Self::Stderr => stdio::stderr(),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Stdout => "standard output",
            Self::Stderr => "standard error",
        }
    }
}

/// Writes all of `bytes`, unbuffered.
///
/// # Errors
/// Where the stream takes no more.
pub fn write_all(output: Output, mut bytes: &[u8]) -> Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(output.fd(), bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => wait(output.fd(), PollFlags::OUT),
            Err(e) => return Err(Error::new("write to", output.name(), e)),
        }
    }
    Ok(())
}

/// Reads what is there on standard input, at least one byte; 0 at its end.
///
/// # Errors
/// Where it cannot be read.
pub fn read(buffer: &mut [u8]) -> Result<usize> {
    loop {
        match rustix::io::read(stdio::stdin(), &mut *buffer) {
            Ok(count) => return Ok(count),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => wait(stdio::stdin(), PollFlags::IN),
            Err(e) => return Err(Error::new("read", "standard input", e)),
        }
    }
}

/// Whether standard input is known to bring nothing more, without waiting or taking of it: `/dev/null`, or
/// a pipe that is empty and has no writer.
#[must_use]
pub fn has_ended() -> bool {
    let stdin = stdio::stdin();
    let mut fds = [PollFd::from_borrowed_fd(stdin, PollFlags::IN)];
    let Ok(stat) = rustix::fs::fstat(stdin) else { return false };
    match rustix::fs::FileType::from_raw_mode(stat.st_mode) {
        rustix::fs::FileType::CharacterDevice => stat.st_rdev == rustix::fs::makedev(1, 3),
        rustix::fs::FileType::Fifo => {
            let polled =
                rustix::event::poll(&mut fds, Some(&rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 }));
            // A pipe that still has something says that too.
            polled.is_ok_and(|count| count == 1) && fds[0].revents() == PollFlags::HUP
        }
        _ => false,
    }
}

fn wait(fd: BorrowedFd<'_>, flags: PollFlags) {
    // A failure here shows again, with its reason, at the read or write that follows.
    let _ = rustix::event::poll(&mut [PollFd::from_borrowed_fd(fd, flags)], None);
}

/// The terminal's size in rows and columns, from the first standard stream that is one; `None` where none is, or it does
/// not know.
#[must_use]
pub fn terminal_size() -> Option<(u16, u16)> {
    [stdio::stdout(), stdio::stdin(), stdio::stderr()]
        .into_iter()
        .filter_map(|stream| termios::tcgetwinsize(stream).ok())
        .find(|size| size.ws_row > 0 && size.ws_col > 0)
        .map(|size| (size.ws_row, size.ws_col))
}

/// A terminal on standard input that passes every key on as bytes; as it was before when this value ends.
#[must_use = "the terminal is put back when this value ends"]
pub struct RawTerminal {
    before: Termios,
}

impl RawTerminal {
    /// Puts the terminal on standard input into raw mode.
    ///
    /// # Errors
    /// Where standard input is no terminal.
    pub fn enter() -> Result<Self> {
        let fail = |e: Errno| Error::new("switch the mode of", "the terminal", io::Error::from(e));
        let before = termios::tcgetattr(stdio::stdin()).map_err(fail)?;
        let mut raw = before.clone();
        raw.make_raw();
        termios::tcsetattr(stdio::stdin(), OptionalActions::Now, &raw).map_err(fail)?;
        Ok(Self { before })
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // After what was written: a terminal that has gone cannot be put back, and nobody sees it.
        let _ = termios::tcsetattr(stdio::stdin(), OptionalActions::Drain, &self.before);
    }
}
