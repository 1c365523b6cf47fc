//! Unix sockets, under paths of any length.
//!
//! A socket address holds 108 bytes, and a path in a user's home is easily longer. So the directory is opened first and the
//! socket addressed through its descriptor.

use std::{
    io,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::{
            fs::FileTypeExt,
            net::{UnixListener, UnixStream},
        },
    },
    path::Path,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{Mode, OFlags},
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType},
};

use crate::{Error, Result};

/// As many clients may wait to be accepted.
const BACKLOG: i32 = 128;

/// Listens at the new socket `path`, which only this user can connect to from its first moment on.
///
/// # Errors
/// Where something is there already ([`io::ErrorKind::AddrInUse`]) or it cannot be made.
pub fn listen(path: &Path) -> Result<UnixListener> {
    listen_as(path, SocketType::STREAM).map(UnixListener::from)
}

/// The same for a socket of another kind.
pub(crate) fn listen_as(path: &Path, kind: SocketType) -> Result<OwnedFd> {
    let listen = || -> io::Result<OwnedFd> {
        let socket = socket(kind)?;
        // A socket file takes over the mode of its socket, so it never has another one.
        rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
        let (_directory, address) = address(path)?;
        rustix::net::bind(&socket, &address)?;
        rustix::net::listen(&socket, BACKLOG)?;
        Ok(socket)
    };
    listen().map_err(|e| Error::path("listen at", path, e))
}

/// Listens at `path` in place of a socket that is there. For whoever holds the lock that says that nobody serves it.
///
/// # Errors
/// Where something else than a socket is there, or it cannot be made.
pub fn listen_replacing(path: &Path) -> Result<UnixListener> {
    if std::fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket()) {
        crate::fs::remove(path)?;
    }
    listen(path)
}

/// Connects to the socket at `path`.
///
/// # Errors
/// Where it is missing, or nobody listens ([`io::ErrorKind::ConnectionRefused`]).
pub fn connect(path: &Path) -> Result<UnixStream> {
    connect_as(path, SocketType::STREAM).map(UnixStream::from)
}

/// The same for a socket of another kind.
pub(crate) fn connect_as(path: &Path, kind: SocketType) -> Result<OwnedFd> {
    let connect = || -> io::Result<OwnedFd> {
        let socket = socket(kind)?;
        let (_directory, address) = address(path)?;
        rustix::io::retry_on_intr(|| rustix::net::connect(&socket, &address))?;
        Ok(socket)
    };
    connect().map_err(|e| Error::path("connect to", path, e))
}

fn socket(kind: SocketType) -> io::Result<OwnedFd> {
    Ok(rustix::net::socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)?)
}

/// The address of `path`, good while the directory is held.
fn address(path: &Path) -> io::Result<(OwnedFd, SocketAddrUnix)> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let directory = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(".".as_ref());
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(directory, flags, Mode::empty())?;
    let short = Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(name);
    Ok((directory, SocketAddrUnix::new(short)?))
}

/// Who is at the other end, as the kernel knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// The user who connected.
    pub uid: u32,
    /// The process that connected, at that time.
    pub pid: u32,
}

/// Who connected `stream`.
///
/// # Errors
/// Where the kernel does not say.
pub fn peer(stream: impl AsFd) -> Result<Peer> {
    let credentials = rustix::net::sockopt::socket_peercred(stream)
        .map_err(|e| Error::new("ask for the peer of", "a socket", e))?;
    Ok(Peer { uid: credentials.uid.as_raw(), pid: credentials.pid.as_raw_nonzero().get().unsigned_abs() })
}

/// Whether the other end of `stream` has closed it. Bytes that it sent before may still be unread.
#[must_use]
pub fn hung_up(stream: impl AsFd) -> bool {
    let mut fds = [PollFd::new(&stream, PollFlags::empty())];
    matches!(poll(&mut fds, Some(&Timespec::default())), Ok(count) if count > 0)
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        io::{Read, Write},
        os::unix::fs::MetadataExt,
        path::PathBuf,
    };

    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("banger-sock-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir(&dir).unwrap();
        dir
    }

    #[test]
    fn a_closed_end_is_seen_behind_what_it_sent() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(b"last words").unwrap();
        assert!(!hung_up(&ours));
        drop(theirs);
        assert!(hung_up(&ours));
    }

    #[test]
    fn long_paths_work_and_are_private() {
        let dir = scratch("long");
        let deep = dir.join("d".repeat(120)).join("e".repeat(120));
        fs::create_dir_all(&deep).unwrap();
        let path = deep.join("a.sock");
        let listener = listen(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        let mut client = connect(&path).unwrap();
        let (mut served, _) = listener.accept().unwrap();
        client.write_all(b"x").unwrap();
        let mut byte = [0];
        served.read_exact(&mut byte).unwrap();
        let own = Peer { uid: rustix::process::geteuid().as_raw(), pid: std::process::id() };
        assert_eq!(peer(&served).unwrap(), own);
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_socket_is_replaced_only_where_that_is_said() {
        let dir = scratch("stale");
        let path = dir.join("a.sock");
        drop(listen(&path).unwrap());
        assert_eq!(connect(&path).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        assert_eq!(listen(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        let _listener = listen_replacing(&path).unwrap();
        connect(&path).unwrap();
        let file = dir.join("file");
        fs::write(&file, "precious").unwrap();
        assert_eq!(listen_replacing(&file).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        assert_eq!(fs::read(&file).unwrap(), b"precious");
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn errors_name_the_path() {
        let missing = connect("/nonexistent/a.sock".as_ref()).unwrap_err();
        assert!(missing.is_missing());
        assert_eq!(missing.to_string(), "cannot connect to /nonexistent/a.sock");
    }
}
