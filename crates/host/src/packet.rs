//! Packets over unix sockets, which can carry descriptors: each arrives whole and alone, or is known not to have.

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
    time::Duration,
};

use rustix::{
    io::Errno,
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
        SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, sockopt,
    },
};

use crate::{Error, Result, sock};

/// The most descriptors of a packet that are received; the kernel closes more than that.
const DESCRIPTORS: usize = 8;

/// Where others connect.
#[derive(Debug)]
pub struct PacketListener(OwnedFd);

/// One end of a connection.
#[derive(Debug)]
pub struct Packets(OwnedFd);

/// What one end sent at once.
#[derive(Debug)]
pub struct Packet {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// What came along, opened by the other end and not to be trusted.
    pub descriptors: Vec<OwnedFd>,
    /// Whether that is all of it: neither bytes nor descriptors were cut.
    pub whole: bool,
}

impl PacketListener {
    /// Listens at the new socket `path`, which only this user can connect to from its first moment on.
    ///
    /// # Errors
    /// Where something is there already, or it cannot be made.
    pub fn bind(path: &Path) -> Result<Self> {
        sock::listen_as(path, SocketType::SEQPACKET).map(Self)
    }

    /// The socket that somebody else listens at for us.
    #[must_use]
    pub fn from_descriptor(descriptor: OwnedFd) -> Self {
        Self(descriptor)
    }

    /// The next connection, of which no call waits.
    ///
    /// # Errors
    /// Where none can be accepted.
    pub fn accept(&self) -> Result<Packets> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        rustix::io::retry_on_intr(|| rustix::net::accept_with(&self.0, flags))
            .map(Packets)
            .map_err(|e| Error::new("accept", "a connection", e))
    }
}

impl AsFd for PacketListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Packets {
    /// Connects to the socket at `path`. Each call on it waits at most for `patience`.
    ///
    /// # Errors
    /// Where it is missing, or nobody listens ([`io::ErrorKind::ConnectionRefused`]).
    pub fn connect(path: &Path, patience: Duration) -> Result<Self> {
        let socket = sock::connect_as(path, SocketType::SEQPACKET)?;
        for direction in [sockopt::Timeout::Recv, sockopt::Timeout::Send] {
            sockopt::set_socket_timeout(&socket, direction, Some(patience))
                .map_err(|e| Error::path("connect to", path, e))?;
        }
        Ok(Self(socket))
    }

    /// Who is at the other end.
    ///
    /// # Errors
    /// Where the kernel does not say.
    pub fn peer(&self) -> Result<sock::Peer> {
        sock::peer(self)
    }

    /// Sends `bytes` and copies of `descriptors`.
    ///
    /// # Errors
    /// Where the other end is gone or does not read.
    pub fn send(&self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if descriptors.len() > DESCRIPTORS {
            return Err(Error::new("send", "descriptors", io::ErrorKind::InvalidInput));
        }
        if !descriptors.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(descriptors));
        }
        let flags = SendFlags::NOSIGNAL;
        rustix::io::retry_on_intr(|| {
            rustix::net::sendmsg(&self.0, &[IoSlice::new(bytes)], &mut control, flags)
        })
        .map(|_| ())
        .map_err(|e| Error::new("send", "a packet", e))
    }

    /// The next packet, of which at most `limit` bytes are kept; `None` where the other end has closed.
    ///
    /// # Errors
    /// Where none is there ([`io::ErrorKind::WouldBlock`]), or it cannot be received.
    pub fn receive(&self, limit: usize) -> Result<Option<Packet>> {
        let mut bytes = vec![0; limit];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let got = loop {
            match rustix::net::recvmsg(
                &self.0,
                &mut [IoSliceMut::new(&mut bytes)],
                &mut control,
                RecvFlags::CMSG_CLOEXEC,
            ) {
                Err(Errno::INTR) => {}
                Err(e) => return Err(Error::new("receive", "a packet", e)),
                Ok(got) => break got,
            }
        };
        let descriptors: Vec<OwnedFd> = control
            .drain()
            .filter_map(|message| match message {
                RecvAncillaryMessage::ScmRights(rights) => Some(rights),
                _ => None,
            })
            .flatten()
            .collect();
        if got.bytes == 0 && descriptors.is_empty() {
            return Ok(None);
        }
        bytes.truncate(got.bytes);
        let whole = !got.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC);
        Ok(Some(Packet { bytes, descriptors, whole }))
    }
}

impl AsFd for Packets {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Two ends that are connected with each other.
///
/// # Errors
/// Where there are too many descriptors.
pub fn pair() -> Result<(Packets, Packets)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
        .map(|(one, other)| (Packets(one), Packets(other)))
        .map_err(|e| Error::new("make", "a pair of sockets", e))
}

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        io::{Read, Write},
    };

    use super::*;

    #[test]
    fn packets_stay_apart_and_bring_descriptors() {
        let (one, other) = pair().unwrap();
        let (mut reader, writer) = io::pipe().unwrap();
        one.send(b"first", &[writer.as_fd()]).unwrap();
        one.send(b"second", &[]).unwrap();
        drop(writer);
        let first = other.receive(100).unwrap().unwrap();
        assert_eq!((&first.bytes[..], first.descriptors.len(), first.whole), (&b"first"[..], 1, true));
        File::from(first.descriptors.into_iter().next().unwrap()).write_all(b"x").unwrap();
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "x", "the descriptor was the pipe's only other end");
        assert_eq!(other.receive(100).unwrap().unwrap().bytes, b"second");
        assert_eq!(other.receive(100).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(one);
        assert!(other.receive(100).unwrap().is_none());
    }

    #[test]
    fn what_was_cut_is_known_to_be() {
        let (one, other) = pair().unwrap();
        one.send(b"too long", &[]).unwrap();
        let packet = other.receive(3).unwrap().unwrap();
        assert_eq!((&packet.bytes[..], packet.whole), (&b"too"[..], false));
        let null = File::open("/dev/null").unwrap();
        let many = [null.as_fd(); DESCRIPTORS + 1];
        assert_eq!(one.send(b"x", &many).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}
