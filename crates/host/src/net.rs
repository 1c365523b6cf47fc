//! Network devices: their addresses, and what is set on one.
//!
//! Devices are set up by `ioctl(2)` (netdevice(7)) of the network namespace that the caller is in. [`apply`] allocates nothing, so a
//! child may call it between fork and exec.

use std::{
    ffi::{CStr, c_int, c_short},
    io,
    net::Ipv4Addr,
    os::fd::{AsRawFd, OwnedFd},
    path::Path,
    ptr,
};

use model::network::Subnet;

use crate::{Error, Result};

/// What a device is to be.
#[derive(Debug, Clone, Copy)]
pub struct Device {
    /// Its name, filled with zeros.
    name: [u8; libc::IFNAMSIZ],
    /// Its Ethernet address, where that is not to stay.
    mac: Option<[u8; 6]>,
    /// Its address and how many bits of that tell its network.
    address: (Ipv4Addr, u8),
    /// The largest packet.
    mtu: u16,
}

impl Device {
    /// Device `name` with this address.
    ///
    /// # Errors
    /// Where that is no name of a device.
    pub fn new(name: &str, address: Ipv4Addr, prefix: u8, mtu: u16) -> Result<Self> {
        let mut padded = [0; libc::IFNAMSIZ];
        // The last byte stays a zero.
        if name.is_empty() || name.len() >= padded.len() || name.bytes().any(|b| b == 0 || b == b'/') {
            return Err(Error::new("set up device", name, io::Error::from(io::ErrorKind::InvalidInput)));
        }
        padded[..name.len()].copy_from_slice(name.as_bytes());
        Ok(Self { name: padded, mac: None, address: (address, prefix), mtu })
    }

    /// The same with Ethernet address `mac`.
    #[must_use]
    pub fn with_mac(self, mac: [u8; 6]) -> Self {
        Self { mac: Some(mac), ..self }
    }

    /// Its name, filled with zeros.
    pub(crate) fn name(&self) -> &[u8; libc::IFNAMSIZ] {
        &self.name
    }
}

/// Sets up `device`, which is there, and brings it up.
///
/// # Errors
/// Where the kernel refuses.
pub fn set_up(device: &Device) -> Result<()> {
    let name = String::from_utf8_lossy(&device.name).trim_end_matches('\0').to_owned();
    apply(device).map_err(|errno| Error::new("set up device", name, io::Error::from_raw_os_error(errno)))
}

/// Sends all that is for no device's own network to `gateway`.
///
/// # Errors
/// Where the kernel refuses, as where there is a default route.
pub fn route_to_world(gateway: Ipv4Addr) -> Result<()> {
    let fail = |e: io::Error| Error::new("route to", gateway, e);
    let socket = Socket::open().map_err(|errno| fail(io::Error::from_raw_os_error(errno)))?;
    // SAFETY: all zero is a valid rtentry: no flags, no device, addresses of no family.
    let mut route: libc::rtentry = unsafe { std::mem::zeroed() };
    route.rt_dst = socket_address(Ipv4Addr::UNSPECIFIED);
    route.rt_genmask = socket_address(Ipv4Addr::UNSPECIFIED);
    route.rt_gateway = socket_address(gateway);
    route.rt_flags = libc::RTF_UP | libc::RTF_GATEWAY;
    // SAFETY: SIOCADDRT reads one rtentry; its pointer to a device's name is null.
    match unsafe { libc::ioctl(socket.0, libc::SIOCADDRT, &raw const route) } {
        0 => Ok(()),
        _ => Err(fail(io::Error::last_os_error())),
    }
}

/// What [`set_up`] does; gives the `errno` of what failed. Allocates nothing.
pub(crate) fn apply(device: &Device) -> Result<(), c_int> {
    let socket = Socket::open()?;
    if let Some(mac) = device.mac {
        let mut address = socket_address(Ipv4Addr::UNSPECIFIED);
        address.sa_family = libc::ARPHRD_ETHER;
        for (to, from) in address.sa_data.iter_mut().zip(mac) {
            *to = from.cast_signed() as libc::c_char;
        }
        socket.set(libc::SIOCSIFHWADDR, &device.name, |value| value.ifru_hwaddr = address)?;
    }
    socket.set(libc::SIOCSIFMTU, &device.name, |value| value.ifru_mtu = c_int::from(device.mtu))?;
    let (address, prefix) = device.address;
    socket.set(libc::SIOCSIFADDR, &device.name, |value| value.ifru_addr = socket_address(address))?;
    let mask = Subnet::of(Ipv4Addr::BROADCAST, prefix).address();
    socket.set(libc::SIOCSIFNETMASK, &device.name, |value| value.ifru_addr = socket_address(mask))?;
    bring_up(&socket, &device.name)
}

/// Brings the loopback device up.
///
/// # Errors
/// Where the kernel refuses.
pub fn bring_loopback_up() -> Result<()> {
    loopback_up().map_err(|errno| Error::new("bring up", "lo", io::Error::from_raw_os_error(errno)))
}

/// The same; gives the `errno`. Allocates nothing.
pub(crate) fn loopback_up() -> Result<(), c_int> {
    let mut name = [0; libc::IFNAMSIZ];
    name[..2].copy_from_slice(b"lo");
    bring_up(&Socket::open()?, &name)
}

fn bring_up(socket: &Socket, name: &[u8; libc::IFNAMSIZ]) -> Result<(), c_int> {
    let flags = (libc::IFF_UP | libc::IFF_RUNNING) as c_short;
    socket.set(libc::SIOCSIFFLAGS, name, |value| value.ifru_flags = flags)
}

/// Any socket of a network namespace; its devices are set through it.
struct Socket(c_int);

impl Socket {
    fn open() -> Result<Self, c_int> {
        // SAFETY: takes numbers only.
        match unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) } {
            fd if fd >= 0 => Ok(Self(fd)),
            _ => Err(errno()),
        }
    }

    fn set(
        &self,
        request: libc::Ioctl,
        name: &[u8; libc::IFNAMSIZ],
        fill: impl FnOnce(&mut libc::__c_anonymous_ifr_ifru),
    ) -> Result<(), c_int> {
        // SAFETY: all zero is a valid ifreq.
        let mut value: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in value.ifr_name.iter_mut().zip(name) {
            *to = from.cast_signed() as libc::c_char;
        }
        fill(&mut value.ifr_ifru);
        // SAFETY: each of these requests reads one ifreq, whose name ends with a zero.
        match unsafe { libc::ioctl(self.0, request, &raw const value) } {
            0 => Ok(()),
            _ => Err(errno()),
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // SAFETY: it was opened by this and nobody else has it.
        unsafe { libc::close(self.0) };
    }
}

pub(crate) fn errno() -> c_int {
    // SAFETY: the place is this thread's own.
    unsafe { *libc::__errno_location() }
}

/// An address as the old calls take it.
fn socket_address(address: Ipv4Addr) -> libc::sockaddr {
    // SAFETY: all zero is a valid sockaddr.
    let mut out: libc::sockaddr = unsafe { std::mem::zeroed() };
    out.sa_family = libc::AF_INET as libc::sa_family_t;
    // Behind the port's two bytes.
    for (to, from) in out.sa_data[2..].iter_mut().zip(address.octets()) {
        *to = from.cast_signed() as libc::c_char;
    }
    out
}

/// The devices of this network namespace whose Ethernet address is `mac`, by name.
///
/// # Errors
/// Where they cannot be listed.
pub fn device_of(mac: &str) -> Result<Option<String>> {
    for path in crate::fs::list(Path::new("/sys/class/net"))? {
        let own = crate::fs::read_text(&path.join("address")).unwrap_or_default();
        if own.trim() == mac {
            return Ok(path.file_name().and_then(|name| name.to_str()).map(str::to_owned));
        }
    }
    Ok(None)
}

/// What of the IPv4 world is this host itself: its addresses, and all of the networks of its bridges.
///
/// # Errors
/// Where they cannot be listed.
pub fn own_addresses() -> Result<Vec<Subnet>> {
    let fail = |e: io::Error| Error::new("list", "the addresses of this host", e);
    let mut first: *mut libc::ifaddrs = ptr::null_mut();
    // SAFETY: the call fills in a pointer to a list of its own.
    if unsafe { libc::getifaddrs(&raw mut first) } != 0 {
        return Err(fail(io::Error::last_os_error()));
    }
    let mut own = Vec::new();
    let mut next = first;
    // SAFETY: the list ends with a null pointer, and each pointer in it is null or into memory that lives until freeifaddrs.
    unsafe {
        while let Some(entry) = next.as_ref() {
            next = entry.ifa_next;
            let address = |at: *const libc::sockaddr| {
                let at = at.as_ref().filter(|at| i32::from(at.sa_family) == libc::AF_INET)?;
                let [_, _, a, b, c, d, ..] = at.sa_data.map(|byte| byte as u8);
                Some(Ipv4Addr::new(a, b, c, d))
            };
            let Some(own_address) = address(entry.ifa_addr) else { continue };
            let name = CStr::from_ptr(entry.ifa_name).to_string_lossy();
            let bridge = Path::new("/sys/class/net").join(&*name).join("bridge");
            // The mask of a device without one has no family.
            let mask = address(entry.ifa_netmask).filter(|_| crate::fs::exists(&bridge));
            let bits = mask.map_or(32, |mask| u8::try_from(mask.to_bits().leading_ones()).unwrap_or(32));
            own.push(Subnet::of(own_address, bits));
        }
        libc::freeifaddrs(first);
    }
    own.sort_unstable();
    own.dedup();
    Ok(own)
}

/// A descriptor that is readable after an IPv4 address of this network namespace came or went.
#[derive(Debug)]
pub struct AddressWatch(OwnedFd);

impl AddressWatch {
    /// Watches from now on.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn new() -> Result<Self> {
        use rustix::net::{AddressFamily, SocketFlags, SocketType, netlink, socket_with};
        // Without a protocol it is that of routes and addresses.
        let fail = |e: rustix::io::Errno| Error::new("watch", "the addresses of this host", e);
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None).map_err(fail)?;
        let groups = libc::RTMGRP_IPV4_IFADDR as u32;
        rustix::net::bind(&socket, &netlink::SocketAddrNetlink::new(0, groups)).map_err(fail)?;
        Ok(Self(socket))
    }

    /// Takes away what made it readable.
    pub fn clear(&self) {
        let mut buffer = [0; 8192];
        // An overrun is news too, and is cleared by this as well.
        while !matches!(rustix::io::read(&self.0, &mut buffer), Err(rustix::io::Errno::AGAIN) | Ok(0)) {}
    }
}

impl AsRawFd for AddressWatch {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.0.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_host_is_on_its_loopback() {
        let own = own_addresses().unwrap();
        assert!(own.contains(&Subnet::single(Ipv4Addr::LOCALHOST)), "{own:?}");
    }

    #[test]
    fn a_name_that_is_none_is_refused() {
        for bad in ["", "a-name-of-16-char", "a/b", "a\0b", "sixteen-letters!"] {
            assert!(Device::new(bad, Ipv4Addr::LOCALHOST, 8, 1500).is_err(), "{bad:?}");
        }
        assert_eq!(&Device::new("tap0", Ipv4Addr::LOCALHOST, 8, 1500).unwrap().name()[..5], b"tap0\0");
    }
}
