//! What nftables tells whoever listens: that the rules of the network namespace changed, and which table's.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
};

use rustix::net::netlink;

use crate::{
    Error, Result,
    netlink::{Socket, attributes, text},
};

/// The group that is told of changes: NFNLGRP_NFTABLES, 7.
const GROUP: u32 = 1 << (7 - 1);
const SUBSYSTEM: u16 = 10 << 8;
const NEW_GENERATION: u16 = SUBSYSTEM | 15;
const GET_GENERATION: u16 = SUBSYSTEM | 16;
/// The table, in the messages about every kind of thing in it; the generation, in those about that.
const FIRST: u16 = 1;
/// What begins a message of this subsystem: family, version, and a number that it does not use.
const GENERAL: usize = 4;

/// Listens to changes of the rules.
#[derive(Debug)]
pub struct Watch {
    told: Socket,
    asked: Socket,
}

impl Watch {
    /// Hears of every change from now on.
    ///
    /// # Errors
    /// Where the kernel has no nftables.
    pub fn open() -> Result<Self> {
        let open = || -> io::Result<Self> {
            let protocol = Some(netlink::NETFILTER);
            Ok(Self { told: Socket::open(protocol, GROUP)?, asked: Socket::open(protocol, 0)? })
        };
        open().map_err(|e| Error::new("listen to", "nftables", e))
    }

    /// Which transaction was the last.
    ///
    /// # Errors
    /// Where the kernel does not say.
    pub fn generation(&mut self) -> Result<u32> {
        let mut ask = || -> io::Result<u32> {
            let answers = self.asked.ask(GET_GENERATION, 0, &[0; GENERAL])?;
            let mut found =
                answers.iter().filter(|answer| answer.kind == NEW_GENERATION).flat_map(|answer| {
                    attributes(answer.body.get(GENERAL..).unwrap_or_default())
                        .filter(|(kind, _)| *kind == FIRST)
                });
            let value = found.next().and_then(|(_, value)| value.first_chunk());
            value.map(|value| u32::from_be_bytes(*value)).ok_or_else(|| io::ErrorKind::InvalidData.into())
        };
        ask().map_err(|e| Error::new("ask for the generation of", "nftables", e))
    }

    /// Whether a table called `name`, or something in it, was changed since the last look. So it is where there was too much
    /// to hear.
    ///
    /// # Errors
    /// Where the kernel cannot be heard.
    pub fn changed(&self, name: &str) -> Result<bool> {
        match self.told.heard() {
            Ok(messages) => Ok(messages.iter().any(|message| {
                message.kind != NEW_GENERATION
                    && attributes(message.body.get(GENERAL..).unwrap_or_default())
                        .any(|(kind, value)| kind == FIRST && text(value) == name)
            })),
            Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => Ok(true),
            Err(e) => Err(Error::new("listen to", "nftables", e)),
        }
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.told.as_fd()
    }
}
