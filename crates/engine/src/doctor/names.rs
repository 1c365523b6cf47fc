//! The row about the ports at which names of VMs are told: whether somebody else has them.
//!
//! Nothing is bound for that, so that a daemon that begins meanwhile finds them free. Who listens is asked instead.

use std::{
    io::ErrorKind,
    net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket},
    path::Path,
    time::Duration,
};

use host::{dirs::Dirs, fs};
use wire::doctor::Row;

use crate::{bridge::Bridge, config::Config};

const NAME: &str = "dns";
/// How long who listens may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// Who is responsible for `vm.`, which only banger says of itself.
const QUESTION: &[u8] = &[0x62, 0x67, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 2, b'v', b'm', 0, 0, 6, 0, 1];
const ONLY_OURS: &[u8] = b"\x0ahostmaster";
/// Sockets of the host, as the kernel lists them.
const LISTS: [&str; 2] = ["/proc/net/udp", "/proc/net/tcp"];

/// Who has a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Holder {
    Nobody,
    Banger,
    Another,
}

/// Whether names can be told, where VMs are on a bridge.
pub fn ports(dirs: &Dirs, config: &Config) -> Option<Row> {
    let mode = config.network_mode;
    Bridge::by(mode, || Bridge::installed_for(dirs, mode)).ok()??;
    let lists = LISTS.map(|list| fs::read_text(Path::new(list)).unwrap_or_default());
    Some(row(config.dns_port, holder(config.dns_port), lists.iter().any(|list| has_everywhere(list))))
}

/// The row where `holder` has this host's `port`, and another program has the port of DNS at every address, or not.
fn row(port: u16, holder: Holder, elsewhere: bool) -> Row {
    let own = format!("127.0.0.1 port {port}");
    match (holder, elsewhere) {
        (Holder::Another, _) => Row::fail(
            NAME,
            format!("another program has {own}, so this host is not told the names of VMs"),
            "set another `dns_port` below [network], then: banger daemon stop",
        ),
        (Holder::Nobody | Holder::Banger, true) => Row::fail(
            NAME,
            "another program has port 53 at every address, so VMs are not told names",
            "have it listen at addresses of its own; for dnsmasq: bind-dynamic, and except-interface for the bridge",
        ),
        (Holder::Nobody, false) => {
            Row::pass(NAME, format!("{own} is free; a daemon tells the names of VMs there"))
        }
        (Holder::Banger, false) => Row::pass(NAME, format!("the names of VMs are told at {own}")),
    }
}

/// Who has `port` of the loopback.
fn holder(port: u16) -> Holder {
    let at = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let asked = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|socket| {
        socket.connect(at)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.send(QUESTION)?;
        let mut answer = [0; 512];
        let count = socket.recv(&mut answer)?;
        Ok(answer[..count].to_vec())
    });
    match asked {
        Ok(answer) if is_ours(&answer) => Holder::Banger,
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            match TcpStream::connect_timeout(&at, PATIENCE) {
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => Holder::Nobody,
                Ok(_) | Err(_) => Holder::Another,
            }
        }
        Ok(_) | Err(_) => Holder::Another,
    }
}

/// Whether `answer` is to [`QUESTION`], by somebody who is responsible, and as banger's is.
fn is_ours(answer: &[u8]) -> bool {
    answer.starts_with(&QUESTION[..2])
        && answer.get(2).is_some_and(|flags| flags & 0x84 == 0x84)
        && answer.windows(ONLY_OURS.len()).any(|part| part == ONLY_OURS)
}

/// Whether somebody is at the port of DNS at every address, of what the kernel lists.
fn has_everywhere(list: &str) -> bool {
    list.lines().any(|line| line.split_whitespace().nth(1) == Some("00000000:0035"))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use wire::doctor::Verdict;

    use super::*;
    use crate::dns::{Names, Server, Side, Upstream};

    /// A UDP and a TCP socket of the same port.
    fn sockets() -> (UdpSocket, TcpListener) {
        loop {
            let datagrams = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            if let Ok(streams) = TcpListener::bind(datagrams.local_addr().unwrap()) {
                return (datagrams, streams);
            }
        }
    }

    #[test]
    fn who_has_the_port_is_asked() {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let _inside = runtime.enter();
        let (datagrams, streams) = sockets();
        let port = datagrams.local_addr().unwrap().port();
        datagrams.set_nonblocking(true).unwrap();
        streams.set_nonblocking(true).unwrap();
        let mut server = Server::new(Names::default(), Upstream::default());
        server.serve(Side::Host, datagrams, streams).unwrap();
        assert_eq!(holder(port), Holder::Banger);

        // Somebody who sends back what is said, and one who takes streams alone.
        let (datagrams, streams) = sockets();
        let port = datagrams.local_addr().unwrap().port();
        let echo = std::thread::spawn(move || {
            let mut bytes = [0; 512];
            let (count, from) = datagrams.recv_from(&mut bytes).unwrap();
            datagrams.send_to(&bytes[..count], from).unwrap();
        });
        assert_eq!(holder(port), Holder::Another);
        echo.join().unwrap();
        assert_eq!(holder(port), Holder::Another, "only streams are left");
        drop(streams);
    }

    #[test]
    fn what_is_free_is_told_from_what_is_taken() {
        let verdict = |holder, elsewhere| {
            let row = row(42_069, holder, elsewhere);
            assert_eq!(row.hint.is_none(), row.verdict == Verdict::Pass);
            row.verdict
        };
        assert_eq!([Holder::Nobody, Holder::Banger].map(|who| verdict(who, false)), [Verdict::Pass; 2]);
        assert_eq!([Holder::Nobody, Holder::Banger].map(|who| verdict(who, true)), [Verdict::Fail; 2]);
        assert_eq!([true, false].map(|elsewhere| verdict(Holder::Another, elsewhere)), [Verdict::Fail; 2]);
    }

    #[test]
    fn who_is_everywhere_is_seen() {
        let head = "  sl  local_address rem_address   st tx_queue rx_queue\n";
        for (line, expect) in [
            ("   0: 00000000:0035 00000000:0000 07 00000000:00000000", true),
            ("   0: 3500007F:0035 00000000:0000 07 00000000:00000000", false),
            ("   0: 00000000:0043 00000000:0035 07 00000000:00000000", false),
            ("   0: 0200007F:0043 00000000:0035 07 00000000:00000000", false),
            ("", false),
        ] {
            assert_eq!(has_everywhere(&format!("{head}{line}\n")), expect, "{line}");
        }
    }
}
