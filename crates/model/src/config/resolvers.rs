//! Whom the daemon asks for names of the world, where the settings say it.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use super::Wrong;

/// The port of DNS.
const PORT: u16 = 53;

/// Resolvers, in the order in which they are asked; one at least.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolvers(Vec<SocketAddr>);

impl Resolvers {
    /// As many are asked, as resolv.conf(5) has it.
    pub const MOST: usize = 3;

    /// Those that the `text` of a resolv.conf(5) names, if it names any.
    #[must_use]
    pub fn of_host(text: &str) -> Option<Self> {
        let servers = text.lines().filter_map(|line| {
            let mut words = line.split_whitespace();
            resolver(words.next().filter(|word| *word == "nameserver").and(words.next())?)
        });
        let servers: Vec<_> = servers.take(Self::MOST).collect();
        (!servers.is_empty()).then_some(Self(servers))
    }

    /// Where each of them is asked.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.0
    }
}

impl TryFrom<&str> for Resolvers {
    type Error = Wrong;

    /// Addresses with spaces between them, each with its port where it is not the one of DNS.
    fn try_from(text: &str) -> Result<Self, Wrong> {
        let all: Option<Vec<SocketAddr>> = text.split_whitespace().map(resolver).collect();
        let fits = |all: &Vec<SocketAddr>| (1..=Self::MOST).contains(&all.len());
        all.filter(fits).map(Self).ok_or(Wrong::Resolvers)
    }
}

impl fmt::Display for Resolvers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |address: &SocketAddr| match address.port() {
            PORT => address.ip().to_string(),
            _ => address.to_string(),
        };
        f.write_str(&self.0.iter().map(shown).collect::<Vec<_>>().join(" "))
    }
}

/// One that can be asked: nobody listens at an address that is none, or at port 0.
fn resolver(text: &str) -> Option<SocketAddr> {
    let plain = text.parse::<IpAddr>().map(|address| SocketAddr::from((address, PORT)));
    let address = plain.or_else(|_| text.parse()).ok()?;
    let ip = address.ip();
    let is_one = match ip {
        IpAddr::V4(ip) => !ip.is_broadcast(),
        IpAddr::V6(_) => true,
    };
    (is_one && !ip.is_unspecified() && !ip.is_multicast() && address.port() != 0).then_some(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_resolvers_are_read() {
        for (text, expect) in [
            ("# mine\nnameserver 192.0.2.1\noptions edns0\n", Some("192.0.2.1")),
            (
                "search example\n\tnameserver\t2001:db8::1  \nnameserver 127.0.0.53",
                Some("2001:db8::1 127.0.0.53"),
            ),
            (
                "nameserver 192.0.2.1\nnameserver 192.0.2.2\nnameserver 192.0.2.3\nnameserver 192.0.2.4",
                Some("192.0.2.1 192.0.2.2 192.0.2.3"),
            ),
            ("nameserver\nnameserver none\n;nameserver 192.0.2.1\nnameservers 192.0.2.1", None),
            ("", None),
        ] {
            assert_eq!(
                Resolvers::of_host(text).map(|found| found.to_string()).as_deref(),
                expect,
                "{text:?}"
            );
        }
    }
}
