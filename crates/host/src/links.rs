//! The links, addresses and routes of this network namespace, by rtnetlink(7), and taps.

use std::{ffi::c_int, fmt::Display, fs::File, io, net::Ipv4Addr, os::fd::AsRawFd, path::Path};

use crate::{
    Error, Result, fs,
    netlink::{self as message, Message, Socket, attributes, number, put, text},
};

const NEW_LINK: u16 = 16;
const DELETE_LINK: u16 = 17;
const GET_LINK: u16 = 18;
const SET_LINK: u16 = 19;
const NEW_ADDRESS: u16 = 20;
const GET_ADDRESS: u16 = 22;
const GET_ROUTE: u16 = 26;

const LINK_ADDRESS: u16 = 1;
const LINK_NAME: u16 = 3;
const LINK_MASTER: u16 = 10;
const LINK_PORT: u16 = 12 | NESTED;
const LINK_INFO: u16 = 18;
const INFO_KIND: u16 = 1;
const PORT_ISOLATED: u16 = 33;
const ADDRESS: u16 = 1;
const ADDRESS_LOCAL: u16 = 2;
const ADDRESS_BROADCAST: u16 = 4;
const ROUTE_DESTINATION: u16 = 1;
const ROUTE_LINK: u16 = 4;
const NESTED: u16 = 0x8000;

const FAMILY_ANY: u8 = 0;
const FAMILY_IPV4: u8 = 2;
const FAMILY_BRIDGE: u8 = 7;
const UP: u32 = 1;
/// The longest name of a link, without the zero byte behind it.
const NAME: usize = 15;

/// A network link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its number.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// What it is, like `bridge` or `tun`; empty for hardware.
    pub kind: String,
    /// Whether it is set up.
    pub up: bool,
    /// The bridge that it is a port of.
    pub bridge: Option<u32>,
    /// Its hardware address.
    pub address: Option<[u8; 6]>,
}

/// Whether frames pass a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passage {
    /// They do.
    Up,
    /// They do not.
    Down,
}

/// Whom a bridge's port reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Every port.
    All,
    /// Every port that is not alone itself, and the host.
    Alone,
}

/// An IPv4 route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// Where to.
    pub destination: Ipv4Addr,
    /// How many bits of that count.
    pub prefix: u8,
    /// Through which link.
    pub link: Option<u32>,
}

/// Looks at the links of this network namespace and changes them.
#[derive(Debug)]
pub struct Links(Socket);

impl Links {
    /// Begins to talk with the kernel.
    ///
    /// # Errors
    /// Where it cannot.
    pub fn open() -> Result<Self> {
        Socket::open(None, 0).map(Self).map_err(|e| Error::new("talk with", "rtnetlink", e))
    }

    /// All links.
    ///
    /// # Errors
    /// Where the kernel does not tell.
    pub fn list(&mut self) -> Result<Vec<Link>> {
        let answers = self.0.ask(GET_LINK, message::DUMP, &link_head(FAMILY_ANY, 0, 0, 0));
        Ok(answers.map_err(|e| Error::new("list", "links", e))?.iter().filter_map(read_link).collect())
    }

    /// The link called `name`.
    ///
    /// # Errors
    /// Where the kernel does not tell.
    pub fn find(&mut self, name: &str) -> Result<Option<Link>> {
        let mut body = link_head(FAMILY_ANY, 0, 0, 0);
        put_name(&mut body, name).map_err(|e| Error::new("look for", name, e))?;
        match self.0.ask(GET_LINK, 0, &body) {
            Ok(answers) => Ok(answers.iter().find_map(read_link)),
            Err(e) if e.raw_os_error() == Some(libc::ENODEV) => Ok(None),
            Err(e) => Err(Error::new("look for", name, e)),
        }
    }

    /// Makes the bridge `name` with this hardware address.
    ///
    /// # Errors
    /// Where it is there already or cannot be made.
    pub fn add_bridge(&mut self, name: &str, address: [u8; 6]) -> Result<()> {
        self.add(name, "bridge", Some(address))
    }

    /// Makes the link `name`, which leads nowhere, and always has a carrier where it is up.
    ///
    /// # Errors
    /// Where it is there already or cannot be made.
    pub fn add_dummy(&mut self, name: &str) -> Result<()> {
        self.add(name, "dummy", None)
    }

    fn add(&mut self, name: &str, kind: &str, address: Option<[u8; 6]>) -> Result<()> {
        let mut info = Vec::new();
        put(&mut info, INFO_KIND, kind.as_bytes());
        let mut body = link_head(FAMILY_ANY, 0, 0, 0);
        put_name(&mut body, name).map_err(|e| Error::new("make link", name, e))?;
        if let Some(address) = address {
            put(&mut body, LINK_ADDRESS, &address);
        }
        put(&mut body, LINK_INFO, &info);
        self.change(NEW_LINK, message::CREATE, &body, "make link", name)
    }

    /// Removes `link`; one that is gone is fine.
    ///
    /// # Errors
    /// Where it cannot be removed.
    pub fn remove(&mut self, link: &Link) -> Result<()> {
        match self.0.ask(DELETE_LINK, 0, &link_head(FAMILY_ANY, link.index, 0, 0)) {
            Err(e) if e.raw_os_error() != Some(libc::ENODEV) => Err(Error::new("remove", &link.name, e)),
            _ => Ok(()),
        }
    }

    /// Sets `link` up or down.
    ///
    /// # Errors
    /// Where it cannot be.
    pub fn set(&mut self, link: &Link, passage: Passage) -> Result<()> {
        let flags = match passage {
            Passage::Up => UP,
            Passage::Down => 0,
        };
        self.change(SET_LINK, 0, &link_head(FAMILY_ANY, link.index, flags, UP), "set", &link.name)
    }

    /// Makes `link` a port of `bridge`.
    ///
    /// # Errors
    /// Where it cannot be one.
    pub fn attach(&mut self, link: &Link, bridge: &Link) -> Result<()> {
        let mut body = link_head(FAMILY_ANY, link.index, 0, 0);
        put(&mut body, LINK_MASTER, &bridge.index.to_ne_bytes());
        self.change(SET_LINK, 0, &body, "attach to its bridge", &link.name)
    }

    /// Says whom `port`, which is a bridge's, reaches.
    ///
    /// # Errors
    /// Where it is no port, or the kernel is older than 4.18.
    pub fn reach(&mut self, port: &Link, reach: Reach) -> Result<()> {
        let mut nested = Vec::new();
        put(&mut nested, PORT_ISOLATED, &[u8::from(reach == Reach::Alone)]);
        let mut body = link_head(FAMILY_BRIDGE, port.index, 0, 0);
        put(&mut body, LINK_PORT, &nested);
        self.change(SET_LINK, 0, &body, "isolate", &port.name)
    }

    /// Gives `link` the address `address` in a subnet of `prefix` bits.
    ///
    /// # Errors
    /// Where it has that already or cannot have it.
    pub fn add_address(&mut self, link: &Link, address: Ipv4Addr, prefix: u8) -> Result<()> {
        let mut body = vec![FAMILY_IPV4, prefix, 0, 0];
        body.extend(link.index.to_ne_bytes());
        let host = u32::MAX.checked_shr(u32::from(prefix)).unwrap_or(0);
        put(&mut body, ADDRESS_LOCAL, &address.octets());
        put(&mut body, ADDRESS, &address.octets());
        put(&mut body, ADDRESS_BROADCAST, &Ipv4Addr::from_bits(address.to_bits() | host).octets());
        self.change(NEW_ADDRESS, message::CREATE, &body, "give an address to", &link.name)
    }

    /// The IPv4 addresses of `link`, each with the bits of its subnet.
    ///
    /// # Errors
    /// Where the kernel does not tell.
    pub fn addresses(&mut self, link: &Link) -> Result<Vec<(Ipv4Addr, u8)>> {
        let head = [FAMILY_IPV4, 0, 0, 0, 0, 0, 0, 0];
        let answers = self.0.ask(GET_ADDRESS, message::DUMP, &head);
        let answers = answers.map_err(|e| Error::new("list addresses of", &link.name, e))?;
        let read = |answer: &Message| {
            let (head, rest) = answer.body.split_first_chunk::<8>()?;
            let local = attributes(rest).find(|(kind, _)| *kind == ADDRESS_LOCAL);
            (number(&head[4..])? == link.index).then_some(())?;
            Some((ipv4(local?.1)?, head[1]))
        };
        Ok(answers.iter().filter_map(read).collect())
    }

    /// The IPv4 routes of all tables.
    ///
    /// # Errors
    /// Where the kernel does not tell.
    pub fn routes(&mut self) -> Result<Vec<Route>> {
        let mut head = vec![0; 12];
        head[0] = FAMILY_IPV4;
        let answers = self.0.ask(GET_ROUTE, message::DUMP, &head);
        let read = |answer: &Message| {
            let (head, rest) = answer.body.split_first_chunk::<12>()?;
            let attribute =
                |wanted| attributes(rest).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
            Some(Route {
                destination: attribute(ROUTE_DESTINATION).and_then(ipv4).unwrap_or(Ipv4Addr::UNSPECIFIED),
                prefix: head[1],
                link: attribute(ROUTE_LINK).and_then(number),
            })
        };
        Ok(answers.map_err(|e| Error::new("list", "routes", e))?.iter().filter_map(read).collect())
    }

    fn change(
        &mut self,
        kind: u16,
        flags: u16,
        body: &[u8],
        action: &'static str,
        name: impl Display,
    ) -> Result<()> {
        self.0.ask(kind, flags, body).map(|_| ()).map_err(|e| Error::new(action, name, e))
    }
}

/// What a message about a link begins with.
fn link_head(family: u8, index: u32, flags: u32, change: u32) -> Vec<u8> {
    let mut head = vec![family, 0, 0, 0];
    head.extend([index, flags, change].iter().flat_map(|number| number.to_ne_bytes()));
    head
}

fn put_name(body: &mut Vec<u8>, name: &str) -> io::Result<()> {
    if name.is_empty() || name.len() > NAME || name.contains('\0') {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    put(body, LINK_NAME, &[name.as_bytes(), &[0]].concat());
    Ok(())
}

fn read_link(answer: &Message) -> Option<Link> {
    let (head, rest) = answer.body.split_first_chunk::<16>()?;
    let mut link = Link {
        index: number(&head[4..])?,
        name: String::new(),
        kind: String::new(),
        up: number(&head[8..])? & UP != 0,
        bridge: None,
        address: None,
    };
    for (kind, value) in attributes(rest) {
        match kind {
            LINK_NAME => link.name = text(value),
            LINK_MASTER => link.bridge = number(value),
            LINK_ADDRESS => link.address = value.try_into().ok(),
            LINK_INFO => {
                let kind = attributes(value).find(|(kind, _)| *kind == INFO_KIND);
                link.kind = kind.map(|(_, value)| text(value)).unwrap_or_default();
            }
            _ => {}
        }
    }
    (answer.kind == NEW_LINK).then_some(link)
}

fn ipv4(value: &[u8]) -> Option<Ipv4Addr> {
    value.first_chunk::<4>().map(|octets| Ipv4Addr::from(*octets))
}

// Of linux/if_tun.h.
const TAP: u16 = 0x0002 | 0x1000 | 0x4000;
const NEW: u16 = 0x8000;
const TUN_LINK: libc::c_ulong = 0x4004_54ca;
const TUN_PERSISTENT: libc::c_ulong = 0x4004_54cb;
const TUN_OWNER: libc::c_ulong = 0x4004_54cc;

/// Makes the new tap `name`, which stays until it is removed and which `owner` may open. Its frames begin with the header of
/// virtio-net, as VMMs need it.
///
/// # Errors
/// Where something is called so, or it cannot be made.
pub fn add_tap(name: &str, owner: u32) -> Result<()> {
    let make = || -> io::Result<()> {
        let tun = tap(name, TAP | NEW)?;
        // SAFETY: both take a number.
        done(unsafe { libc::ioctl(tun.as_raw_fd(), TUN_OWNER as _, libc::c_ulong::from(owner)) })?;
        // SAFETY: as before.
        done(unsafe { libc::ioctl(tun.as_raw_fd(), TUN_PERSISTENT as _, 1 as libc::c_ulong) })
    };
    make().map_err(|e| Error::new("make tap", name, e))
}

/// The tap `name`, which must be there and which nobody has open, is `owner`'s to open from now on.
///
/// # Errors
/// Where there is none, or somebody has it open.
pub fn give_tap(name: &str, owner: u32) -> Result<()> {
    let tun = open_tap(name)?;
    // SAFETY: it takes a number.
    let given = done(unsafe { libc::ioctl(tun.as_raw_fd(), TUN_OWNER as _, libc::c_ulong::from(owner)) });
    given.map_err(|e| Error::new("give away tap", name, e))
}

/// The other end of the tap `name`, which must be there: what is written comes out of the tap, and what goes into the tap is read.
///
/// # Errors
/// Where there is none, it is not the caller's, or somebody has it open.
pub fn open_tap(name: &str) -> Result<File> {
    let mut links = Links::open()?;
    if links.find(name)?.is_none() {
        return Err(Error::new("open tap", name, io::ErrorKind::NotFound));
    }
    tap(name, TAP).map_err(|e| Error::new("open tap", name, e))
}

fn tap(name: &str, flags: u16) -> io::Result<File> {
    if name.is_empty() || name.len() > NAME {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let tun = fs::open_rw(Path::new("/dev/net/tun"))?;
    // `struct ifreq`: a name, then a union whose first two bytes are the flags.
    let mut request = [0u8; 40];
    request[..name.len()].copy_from_slice(name.as_bytes());
    request[16..18].copy_from_slice(&flags.to_ne_bytes());
    // SAFETY: `request` is as long as `struct ifreq` and lives across the call.
    done(unsafe { libc::ioctl(tun.as_raw_fd(), TUN_LINK as _, request.as_mut_ptr()) })?;
    Ok(tun)
}

fn done(result: c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_is_found_by_name_and_in_the_list() {
        let mut links = Links::open().unwrap();
        let loopback = links.find("lo").unwrap().unwrap();
        assert!(links.list().unwrap().contains(&loopback));
        assert_eq!(links.find("no-such-link").unwrap(), None);
        assert_eq!(links.find("longer-than-a-link").unwrap_err().kind(), io::ErrorKind::InvalidInput);
        if loopback.up {
            assert!(links.addresses(&loopback).unwrap().contains(&(Ipv4Addr::LOCALHOST, 8)));
            assert!(links.routes().unwrap().iter().any(|route| route.link == Some(loopback.index)));
        }
    }
}
