//! The byte stream to the host where the VMM gives vsock (vsock(7)): each connection of the host is a stream of its own.
//!
//! Programs of the guest can connect to the port too, where their kernel has a loopback; who is not the host is let go at once.

use std::{
    future::Future,
    io,
    os::{fd::OwnedFd, unix::net},
    time::Duration,
};

use host::vsock;
use tokio::{
    io::{Interest, unix::AsyncFd},
    net::UnixStream,
    select,
    task::JoinSet,
    time::sleep,
};

use crate::sys;

/// How many connections may be open at once: one that is used, and those whose end was not noticed yet.
const CONNECTIONS: usize = 8;
/// Between two tries to accept where the kernel has no room for one.
const ROOM: Duration = Duration::from_millis(100);

/// Serves each connection of the host to `port` by a new `handler`, until the socket fails.
///
/// # Errors
/// The socket's own error; always.
pub async fn serve<F>(port: u32, handler: impl Fn(UnixStream) -> F) -> io::Error
where
    F: Future<Output = ()> + 'static,
{
    let listener = match listen(port) {
        Ok(listener) => listener,
        Err(error) => return error,
    };
    let mut connections = JoinSet::new();
    loop {
        let accepted = select! {
            accepted = listener.async_io(Interest::READABLE, vsock::accept), if connections.len() < CONNECTIONS => accepted,
            Some(_) = connections.join_next() => continue,
        };
        match accepted.and_then(|(fd, peer)| Ok((stream(fd)?, peer))) {
            Ok((stream, vsock::HOST)) => drop(connections.spawn_local(handler(stream))),
            Ok(_) => {}
            Err(error) if passes(&error) => sleep(ROOM).await,
            Err(error) => return error,
        }
    }
}

fn listen(port: u32) -> io::Result<AsyncFd<OwnedFd>> {
    let listener = vsock::listen(port).map_err(io::Error::other)?;
    rustix::io::ioctl_fionbio(&listener, true)?;
    sys::watch(listener, Interest::READABLE)
}

/// A connected stream socket is one for the runtime whatever its addresses are; nobody asks this one for them.
fn stream(fd: OwnedFd) -> io::Result<UnixStream> {
    let stream = net::UnixStream::from(fd);
    stream.set_nonblocking(true)?;
    UnixStream::from_std(stream)
}

/// Whether `error` is of one connection, or of the moment.
fn passes(error: &io::Error) -> bool {
    let passing = [libc::ECONNABORTED, libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM, libc::EINTR];
    error.raw_os_error().is_some_and(|number| passing.contains(&number))
}
