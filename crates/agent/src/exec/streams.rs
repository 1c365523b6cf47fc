//! A command's standard streams, on the agent's side: pipes or the master of a terminal, without blocking.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    rc::Rc,
};

use rustix::{
    io::Errno,
    pipe::{PipeFlags, pipe_with},
    pty::{OpenptFlags, openpt, unlockpt},
    termios::{Winsize, tcsetwinsize},
};
use tokio::io::{Interest, unix::AsyncFd};
use wire::exec::Size;

use super::{account::Account, spawn::Stdio};
use crate::sys;

/// The end of a stream that the agent holds.
#[derive(Debug)]
pub struct End(AsyncFd<OwnedFd>);

impl End {
    fn new(fd: OwnedFd, interest: Interest) -> io::Result<Rc<Self>> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        Ok(Rc::new(Self(sys::watch(fd, interest)?)))
    }

    /// Reads what there is, up to the buffer's length; 0 at the end.
    pub async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = |fd: &OwnedFd| match rustix::io::read(fd, &mut *buffer) {
            // What a terminal gives when the last process that had it open is gone.
            Err(Errno::IO) => Ok(0),
            result => Ok(result?),
        };
        let mut read = read;
        self.0.async_io(Interest::READABLE, |fd| read(fd)).await
    }

    /// Writes some of `bytes`.
    pub async fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.0.async_io(Interest::WRITABLE, |fd| Ok(rustix::io::write(fd, bytes)?)).await
    }
}

impl AsFd for End {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.get_ref().as_fd()
    }
}

/// The agent's side of all the streams.
#[derive(Debug)]
pub enum Streams {
    /// One for all.
    Terminal(Rc<End>),
    /// One each.
    Pipes {
        /// Where input goes.
        stdin: Rc<End>,
        /// Where output comes from.
        stdout: Rc<End>,
        /// Where errors come from.
        stderr: Rc<End>,
    },
}

impl Streams {
    /// Three pipes.
    pub fn pipes() -> io::Result<(Self, Stdio)> {
        let pipe = || pipe_with(PipeFlags::CLOEXEC);
        let ((in_reader, in_writer), (out_reader, out_writer), (err_reader, err_writer)) =
            (pipe()?, pipe()?, pipe()?);
        let ours = Self::Pipes {
            stdin: End::new(in_writer, Interest::WRITABLE)?,
            stdout: End::new(out_reader, Interest::READABLE)?,
            stderr: End::new(err_reader, Interest::READABLE)?,
        };
        Ok((ours, Stdio::Pipes([in_reader, out_writer, err_writer])))
    }

    /// A terminal of `size` that belongs to `account`.
    pub fn terminal(size: Size, account: &Account) -> io::Result<(Self, Stdio)> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = openpt(flags)?;
        unlockpt(&master)?;
        let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags)?;
        resize(&master, size)?;
        // Otherwise programs of another user could not open their own terminal by name.
        rustix::fs::fchown(&slave, Some(rustix::fs::Uid::from_raw(account.uid)), None)?;
        Ok((
            Self::Terminal(End::new(master, Interest::READABLE | Interest::WRITABLE)?),
            Stdio::Terminal(slave),
        ))
    }
}

/// Gives a terminal another size; its foreground process group is told.
pub fn resize(terminal: impl AsFd, size: Size) -> io::Result<()> {
    let size = Winsize { ws_row: size.rows, ws_col: size.cols, ws_xpixel: 0, ws_ypixel: 0 };
    Ok(tcsetwinsize(terminal, size)?)
}
