//! Listening sockets, from `/proc` alone: an image may have no tool that would tell.

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::Path,
};

use wire::guest::{Port, Ports};

/// The most of a file of `/proc` that is read.
const LIMIT: u64 = 8 << 20;
/// The most sockets that are told of.
const MOST: usize = 4096;
/// The states (`net/tcp_states.h`) of a TCP socket that listens and a UDP socket that is bound but not connected.
const TCP_LISTEN: &str = "0A";
const UDP_UNCONNECTED: &str = "07";

/// All listening sockets of the guest's own network.
#[must_use]
pub fn list() -> Ports {
    let mut sockets = Vec::new();
    for (file, proto, state) in [
        ("/proc/net/tcp", "tcp", TCP_LISTEN),
        ("/proc/net/tcp6", "tcp", TCP_LISTEN),
        ("/proc/net/udp", "udp", UDP_UNCONNECTED),
        ("/proc/net/udp6", "udp", UDP_UNCONNECTED),
    ] {
        let table = host::fs::read_limited(Path::new(file), LIMIT).unwrap_or_default();
        let table = String::from_utf8_lossy(&table);
        sockets
            .extend(table.lines().skip(1).filter_map(|line| socket(line, state)).map(|found| (proto, found)));
    }
    sockets.truncate(MOST);
    let owners = if sockets.is_empty() { HashMap::new() } else { owners() };
    let port = |(proto, socket): (&str, Socket)| {
        let owner = owners.get(&socket.inode);
        Port {
            proto: proto.to_owned(),
            address: socket.address.to_string(),
            port: socket.port,
            pid: owner.copied(),
            process: owner.and_then(|pid| name(*pid)),
        }
    };
    Ports { ports: sockets.into_iter().map(port).collect() }
}

#[derive(Debug, PartialEq, Eq)]
struct Socket {
    address: IpAddr,
    port: u16,
    inode: u64,
}

/// `sl local remote state queues timer retransmits uid timeout inode …`
fn socket(line: &str, state: &str) -> Option<Socket> {
    let mut fields = line.split_ascii_whitespace();
    let local = fields.nth(1)?;
    if fields.nth(1)? != state {
        return None;
    }
    let inode = fields.nth(5)?.parse().ok()?;
    let (address, port) = local.split_once(':')?;
    Some(Socket { address: self::address(address)?, port: u16::from_str_radix(port, 16).ok()?, inode })
}

/// Words of 32 bits, each in the machine's byte order.
fn address(hex: &str) -> Option<IpAddr> {
    let word = |at: usize| Some(u32::from_str_radix(hex.get(at * 8..at * 8 + 8)?, 16).ok()?.to_ne_bytes());
    match hex.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let bytes = [word(0)?, word(1)?, word(2)?, word(3)?].concat();
            Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into())
        }
        _ => None,
    }
}

/// The process of each socket, by the socket's inode. Of several that share one, that with the lowest number.
fn owners() -> HashMap<u64, u32> {
    let mut owners = HashMap::new();
    for (pid, process) in processes() {
        for inode in sockets_of(&process) {
            let owner = owners.entry(inode).or_insert(pid);
            *owner = pid.min(*owner);
        }
    }
    owners
}

/// The inodes of the sockets that `process`, a directory of `/proc`, has open.
fn sockets_of(process: &Path) -> impl Iterator<Item = u64> + use<> {
    host::fs::list(&process.join("fd")).unwrap_or_default().into_iter().filter_map(|fd| {
        let target = rustix::fs::readlink(&fd, Vec::new()).ok()?;
        target.to_str().ok()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
    })
}

/// The inodes of the TCP sockets on which `process`, a directory of `/proc`, listens.
#[must_use]
pub fn listens(process: &Path) -> HashSet<u64> {
    let mut listening = HashSet::new();
    for file in ["/proc/net/tcp", "/proc/net/tcp6"] {
        let table = host::fs::read_limited(Path::new(file), LIMIT).unwrap_or_default();
        let table = String::from_utf8_lossy(&table);
        let sockets = table.lines().skip(1).filter_map(|line| socket(line, TCP_LISTEN));
        listening.extend(sockets.map(|socket| socket.inode));
    }
    sockets_of(process).filter(|inode| listening.contains(inode)).collect()
}

/// All processes: number and directory.
fn processes() -> impl Iterator<Item = (u32, std::path::PathBuf)> {
    host::fs::list(Path::new("/proc")).unwrap_or_default().into_iter().filter_map(|path| {
        let pid = path.file_name()?.to_str()?.parse().ok()?;
        Some((pid, path))
    })
}

fn name(pid: u32) -> Option<String> {
    let bytes = host::fs::read_limited(Path::new(&format!("/proc/{pid}/comm")), 256).ok()?;
    Some(String::from_utf8_lossy(bytes.trim_ascii_end()).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TCP: &str = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 12345 1 0 100";
    const TCP6: &str = "   1: 00000000000000000000000001000000:0016 00000000000000000000000000000000:0000 0A \
                        00000000:00000000 00:00000000 00000000     0        0 77 1 0 100";

    #[test]
    fn the_tables_are_read() {
        let expect = Socket { address: "127.0.0.1".parse().unwrap(), port: 8080, inode: 12345 };
        assert_eq!(socket(TCP, TCP_LISTEN), Some(expect));
        let expect = Socket { address: "::1".parse().unwrap(), port: 22, inode: 77 };
        assert_eq!(socket(TCP6, TCP_LISTEN), Some(expect));
        assert_eq!(socket(&TCP.replace(" 0A ", " 01 "), TCP_LISTEN), None, "connected");
        for bad in ["", "0: x", "0: 0100007F:1F90 0:0 0A 0 0 0 0 0 no", "0: 01007F:1F90 0:0 0A 0 0 0 0 0 1"] {
            assert_eq!(socket(bad, TCP_LISTEN), None, "{bad}");
        }
    }

    #[test]
    fn a_socket_of_this_process_is_found() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let number = listener.local_addr().unwrap().port();
        let ports = list().ports;
        let found = ports.iter().find(|port| port.port == number && port.proto == "tcp").unwrap();
        assert_eq!((&found.address[..], found.pid), ("127.0.0.1", Some(std::process::id())));
        assert!(found.process.is_some());
        let own = Path::new("/proc/self");
        let before = listens(own);
        drop(listener);
        assert!(!before.is_subset(&listens(own)), "it is gone");
    }
}
