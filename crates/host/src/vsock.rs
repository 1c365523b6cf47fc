//! A guest's sockets to its host (vsock(7)), in the forms that the standard library lacks.

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use crate::{Error, Result};

/// The host's address: `VMADDR_CID_HOST`.
pub const HOST: u32 = libc::VMADDR_CID_HOST;

/// As many connections may wait to be accepted.
const BACKLOG: i32 = 8;

/// Listens at `port`, at every address of this guest.
///
/// # Errors
/// Where the port is taken, or this kernel has no vsock.
pub fn listen(port: u32) -> Result<OwnedFd> {
    let listen = || -> io::Result<OwnedFd> {
        // SAFETY: takes numbers only.
        let socket =
            owned(unsafe { libc::socket(libc::AF_VSOCK, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) })?;
        // SAFETY: all zero is a valid address.
        let mut address: libc::sockaddr_vm = unsafe { std::mem::zeroed() };
        address.svm_family = libc::sa_family_t::try_from(libc::AF_VSOCK).expect("a small number");
        address.svm_port = port;
        address.svm_cid = libc::VMADDR_CID_ANY;
        // SAFETY: the address is as long as is said.
        if unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), LENGTH) } != 0 {
            return Err(io::Error::last_os_error());
        }
        rustix::net::listen(&socket, BACKLOG)?;
        Ok(socket)
    };
    listen().map_err(|e| Error::new("listen at vsock port", port, e))
}

/// Accepts a connection on `listener`; gives it and the address (CID) of who connected.
///
/// # Errors
/// What the kernel says, `WouldBlock` among it where the listener does not block and nobody waits.
pub fn accept(listener: &OwnedFd) -> io::Result<(OwnedFd, u32)> {
    // SAFETY: all zero is a valid address.
    let mut peer: libc::sockaddr_vm = unsafe { std::mem::zeroed() };
    let mut length = LENGTH;
    let (socket, address) = (listener.as_raw_fd(), (&raw mut peer).cast());
    // SAFETY: the kernel writes at most `length` bytes of the address, which is what there is room for.
    let accepted = unsafe { libc::accept4(socket, address, &raw mut length, libc::SOCK_CLOEXEC) };
    Ok((owned(accepted)?, peer.svm_cid))
}

const LENGTH: libc::socklen_t = size_of::<libc::sockaddr_vm>() as libc::socklen_t;

/// What a call gave: a new descriptor, or -1 and an error.
fn owned(fd: libc::c_int) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_taken_once() {
        // Some kernels have no vsock; then there is nothing to take.
        let Ok(listener) = listen(0x6b61_0052) else { return };
        assert_eq!(listen(0x6b61_0052).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        rustix::io::ioctl_fionbio(&listener, true).unwrap();
        assert_eq!(accept(&listener).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }
}
