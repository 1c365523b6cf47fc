//! Talking with the kernel by netlink(7): one request, its answers. What the attributes mean is the callers'.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{
    io::Errno,
    net::{
        AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, netlink::SocketAddrNetlink,
    },
};

/// The kernel's messages are never longer than this.
const BUFFER: usize = 64 << 10;
const HEAD: usize = 16;

const ERROR: u16 = 2;
const DONE: u16 = 3;

const REQUEST: u16 = 1;
const ACKNOWLEDGE: u16 = 4;
/// Make what is not there, and only that.
pub(crate) const CREATE: u16 = 0x600;
/// All that there are.
pub(crate) const DUMP: u16 = 0x300;

/// A message of the kernel's.
#[derive(Debug)]
pub(crate) struct Message {
    pub kind: u16,
    pub body: Vec<u8>,
}

/// A netlink socket.
#[derive(Debug)]
pub(crate) struct Socket {
    descriptor: OwnedFd,
    sequence: u32,
}

impl Socket {
    /// A socket that also hears what is told to `groups`, a mask.
    pub fn open(protocol: Option<Protocol>, groups: u32) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC;
        let descriptor = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, protocol)?;
        rustix::net::bind(&descriptor, &SocketAddrNetlink::new(0, groups))?;
        Ok(Self { descriptor, sequence: 0 })
    }

    /// Asks for `kind` with `body`; gives what the kernel answers besides that it is done.
    pub fn ask(&mut self, kind: u16, flags: u16, body: &[u8]) -> io::Result<Vec<Message>> {
        self.sequence = self.sequence.wrapping_add(1);
        let acknowledge = if flags & DUMP == DUMP { 0 } else { ACKNOWLEDGE };
        let length = u32::try_from(HEAD + body.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        let mut request = Vec::with_capacity(HEAD + body.len());
        request.extend(length.to_ne_bytes());
        request.extend(kind.to_ne_bytes());
        request.extend((REQUEST | acknowledge | flags).to_ne_bytes());
        request.extend(self.sequence.to_ne_bytes());
        request.extend(0u32.to_ne_bytes());
        request.extend(body);
        rustix::io::retry_on_intr(|| rustix::net::send(&self.descriptor, &request, SendFlags::empty()))?;
        let mut answers = Vec::new();
        loop {
            for (sequence, message) in self.receive(RecvFlags::empty())? {
                if sequence != self.sequence {
                    continue;
                }
                match message.kind {
                    DONE => return Ok(answers),
                    ERROR => {
                        let errno = number(&message.body).ok_or(io::ErrorKind::InvalidData)?;
                        return match errno.cast_signed() {
                            0 => Ok(answers),
                            errno => Err(io::Error::from_raw_os_error(-errno)),
                        };
                    }
                    _ => answers.push(message),
                }
            }
        }
    }

    /// What was told to the groups since the last look.
    pub fn heard(&self) -> io::Result<Vec<Message>> {
        let mut heard = Vec::new();
        loop {
            match self.receive(RecvFlags::DONTWAIT) {
                Ok(messages) => heard.extend(messages.into_iter().map(|(_, message)| message)),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(heard),
                Err(e) => return Err(e),
            }
        }
    }

    fn receive(&self, flags: RecvFlags) -> io::Result<Vec<(u32, Message)>> {
        let mut buffer = vec![0; BUFFER];
        let (count, length) = loop {
            match rustix::net::recv(&self.descriptor, &mut buffer[..], flags | RecvFlags::TRUNC) {
                Err(Errno::INTR) => {}
                other => break other?,
            }
        };
        if length > count {
            return Err(io::ErrorKind::InvalidData.into());
        }
        messages(&buffer[..count]).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

/// The messages that `bytes` hold, each with its sequence.
fn messages(mut bytes: &[u8]) -> Option<Vec<(u32, Message)>> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let length = usize::try_from(number(bytes)?).ok()?;
        let message = bytes.get(..length)?;
        let kind = u16::from_ne_bytes(message.get(4..6)?.try_into().ok()?);
        let body = message.get(HEAD..)?.to_vec();
        found.push((number(message.get(8..)?)?, Message { kind, body }));
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Some(found)
}

/// The number that `bytes` begin with.
pub(crate) fn number(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
}

/// The attributes that `bytes` hold, by their kind. What is no attribute ends them.
pub(crate) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(*bytes.first_chunk()?));
        let kind = u16::from_ne_bytes(bytes.get(2..4)?.try_into().ok()?) & 0x3fff;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The text of an attribute, which ends with a zero byte.
pub(crate) fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value.strip_suffix(&[0]).unwrap_or(value)).into_owned()
}

/// Adds an attribute to `body`.
pub(crate) fn put(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(4 + value.len()).expect("only short values are sent");
    body.extend(length.to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
    body.resize(body.len().next_multiple_of(4), 0);
}
