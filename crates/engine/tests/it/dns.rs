//! Names over real sockets, asked for by dig and by hand. Guests are addresses of the loopback.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    num::NonZeroU16,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use engine::dns::{Machine, Names, Server, Side, Upstream};
use model::{VmName, network::Nat};
use testkit::need;
use tokio::runtime::Runtime;

/// How long an answer may take on a busy machine.
const DEADLINE: Duration = Duration::from_secs(30);
/// How long it is waited for what must not come.
const NOTHING: Duration = Duration::from_millis(200);

/// A server at a port of the loopback, as long as this is there.
struct World {
    address: SocketAddr,
    names: Names,
    _server: Server,
    _runtime: Runtime,
}

impl World {
    fn new(side: Side, upstream: Upstream) -> Self {
        let names = Names::default();
        for (name, n, group, nat) in [
            ("dev", 2, 0, Nat::Off),
            ("one", 3, 7, Nat::Off),
            ("two", 4, 7, Nat::Off),
            ("open", 5, 0, Nat::On),
        ] {
            let machine = Machine { address: guest(n), group: NonZeroU16::new(group), nat };
            names.set(&VmName::try_from(name).unwrap(), machine);
        }
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (datagrams, streams) = sockets();
        let address = datagrams.local_addr().unwrap();
        let _inside = runtime.enter();
        let mut server = Server::new(names.clone(), upstream);
        server.serve(side, datagrams, streams).unwrap();
        Self { address, names, _server: server, _runtime: runtime }
    }

    /// What dig says of `words`.
    #[expect(clippy::disallowed_methods, reason = "dig judges what the server says")]
    fn dig(&self, from: u8, words: &[&str]) -> String {
        let output = Command::new("dig")
            .args(["@127.0.0.1", "-p", &self.address.port().to_string(), "-b", &guest(from).to_string()])
            .args(["+tries=1", "+time=20", "+noedns", "+nostats"])
            .args(words)
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    /// A socket of a guest, connected with the server.
    fn socket(&self, from: u8) -> UdpSocket {
        let socket = UdpSocket::bind((guest(from), 0)).unwrap();
        socket.connect(self.address).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        socket
    }
}

fn guest(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 0, n)
}

/// A UDP and a TCP socket of the same port.
fn sockets() -> (UdpSocket, TcpListener) {
    loop {
        let datagrams = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let Ok(streams) = TcpListener::bind(datagrams.local_addr().unwrap()) else { continue };
        datagrams.set_nonblocking(true).unwrap();
        streams.set_nonblocking(true).unwrap();
        return (datagrams, streams);
    }
}

fn query(id: u8, name: &str) -> Vec<u8> {
    let mut bytes = vec![0, id, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        bytes.push(u8::try_from(label.len()).unwrap());
        bytes.extend(label.as_bytes());
    }
    bytes.extend([0, 0, 1, 0, 1]);
    bytes
}

#[test]
fn dig_is_told_of_machines_over_datagrams_and_streams() {
    let Some(_) = need::program("dig", "dig") else { return };
    let world = World::new(Side::Host, Upstream::default());
    for transport in ["+notcp", "+tcp"] {
        let short = |words: &[&str]| world.dig(1, &[&[transport, "+short"], words].concat());
        assert_eq!(short(&["dev.vm"]), "127.0.0.2\n");
        assert_eq!(short(&["DEV.VM", "A"]), "127.0.0.2\n");
        assert_eq!(short(&["dev.vm", "AAAA"]), "");
        assert_eq!(short(&["vm", "SOA"]), "ns.vm. hostmaster.vm. 1 3600 600 86400 5\n");
        for (words, expect) in [
            (&["dev.vm", "A"][..], &["status: NOERROR", "ANSWER: 1", " aa "][..]),
            (&["dev.vm", "AAAA"], &["status: NOERROR", "ANSWER: 0, AUTHORITY: 1", "IN\tSOA"]),
            (&["none.vm", "A"], &["status: NXDOMAIN", "IN\tSOA"]),
            (&["www.dev.vm", "A"], &["status: NXDOMAIN"]),
            (&["example.org", "A"], &["status: REFUSED"]),
            (&["+edns=0", "dev.vm", "A"], &["status: NOERROR", "EDNS: version: 0", "udp: 1232"]),
        ] {
            let said = world.dig(1, &[&[transport], words].concat());
            for part in expect {
                assert!(said.contains(part), "{words:?} {part}: {said}");
            }
            assert!(!said.contains("malformed") && !said.contains("extra bytes"), "{said}");
        }
    }
    world.names.remove(&VmName::try_from("dev").unwrap());
    assert!(world.dig(1, &["dev.vm"]).contains("status: NXDOMAIN"));
}

/// A resolver of the world, which says `192.0.2.1` to everything, after some lies.
fn resolver() -> Upstream {
    let (datagrams, streams) = sockets();
    datagrams.set_nonblocking(false).unwrap();
    streams.set_nonblocking(false).unwrap();
    let address = datagrams.local_addr().unwrap();
    let says = |asked: &[u8]| {
        let mut answer = asked.to_vec();
        answer[2] |= 0x80;
        answer[7] = 1;
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 1]);
        answer
    };
    thread::spawn(move || {
        let mut asked = [0; 512];
        while let Ok((count, from)) = datagrams.recv_from(&mut asked) {
            let asked = &asked[..count];
            // Somebody who guesses: another number, another question.
            let mut lies = [says(asked), says(asked)];
            lies[0][1] ^= 1;
            lies[1][13] ^= 1;
            for answer in lies.iter().chain([&says(asked)]) {
                let mut answer = answer.clone();
                if answer != says(asked) {
                    *answer.last_mut().unwrap() = 66;
                }
                datagrams.send_to(&answer, from).unwrap();
            }
        }
    });
    thread::spawn(move || {
        for stream in streams.incoming() {
            let mut stream = stream.unwrap();
            let mut length = [0; 2];
            stream.read_exact(&mut length).unwrap();
            let mut asked = vec![0; usize::from(u16::from_be_bytes(length))];
            stream.read_exact(&mut asked).unwrap();
            let answer = says(&asked);
            stream.write_all(&u16::try_from(answer.len()).unwrap().to_be_bytes()).unwrap();
            stream.write_all(&answer).unwrap();
        }
    });
    Upstream::of(vec![address])
}

#[test]
fn a_guest_is_told_of_its_group_and_of_the_world_by_nat() {
    let Some(_) = need::program("dig", "dig") else { return };
    let world = World::new(Side::Guests, resolver());
    for transport in ["+notcp", "+tcp"] {
        for (from, name, expect) in [
            (2, "dev.vm", "127.0.0.2"),
            (2, "one.vm", "NXDOMAIN"),
            (2, "example.org", "REFUSED"),
            (3, "two.vm", "127.0.0.4"),
            (3, "open.vm", "NXDOMAIN"),
            (5, "one.vm", "127.0.0.3"),
            (5, "none.vm", "NXDOMAIN"),
            (5, "example.org", "192.0.2.1"),
        ] {
            let said = world.dig(from, &[transport, name]);
            assert!(said.contains(expect), "{from} asks for {name} {transport}: {said}");
        }
    }
}

#[test]
fn nobody_to_ask_is_said_and_not_waited_for() {
    let Some(_) = need::program("dig", "dig") else { return };
    let world = World::new(Side::Guests, Upstream::default());
    assert!(world.dig(5, &["example.org"]).contains("status: SERVFAIL"));
}

#[test]
fn what_is_no_question_and_who_is_no_guest_is_not_answered() {
    let world = World::new(Side::Guests, Upstream::default());
    let (known, stranger) = (world.socket(2), world.socket(77));
    let mut answer = query(1, "dev.vm");
    answer[2] |= 0x80;
    for packet in [&b""[..], b"x", &[0xff; 600], &answer, &query(1, "dev.vm")[..20]] {
        known.send(packet).unwrap();
    }
    stranger.send(&query(2, "dev.vm")).unwrap();
    known.send(&query(3, "dev.vm")).unwrap();
    let mut bytes = [0; 512];
    known.recv(&mut bytes).unwrap();
    assert_eq!(bytes[1], 3, "only the question is answered");
    stranger.set_read_timeout(Some(NOTHING)).unwrap();
    assert!(stranger.recv(&mut bytes).is_err_and(|e| e.kind() == ErrorKind::WouldBlock));
}

#[test]
fn a_guest_that_asks_without_end_is_held_back_and_others_are_not() {
    let world = World::new(Side::Guests, Upstream::default());
    let (flood, other) = (world.socket(2), world.socket(3));
    // What the flood pushes out is asked again, as every resolver does.
    other.set_read_timeout(Some(NOTHING)).unwrap();
    let ask_other = || {
        let end = Instant::now() + DEADLINE;
        other.send(&query(9, "one.vm")).unwrap();
        while other.recv(&mut [0; 512]).is_err() {
            assert!(Instant::now() < end, "the other one is not answered");
            other.send(&query(9, "one.vm")).unwrap();
        }
    };
    let begin = Instant::now();
    let mut answered = 0;
    flood.set_nonblocking(true).unwrap();
    for n in 0..5_000u32 {
        let _ = flood.send(&query(n.to_be_bytes()[3], "dev.vm"));
        while flood.recv(&mut [0; 512]).is_ok() {
            answered += 1;
        }
        if n % 500 == 0 {
            ask_other();
        }
    }
    ask_other();
    while flood.recv(&mut [0; 512]).is_ok() {
        answered += 1;
    }
    let most = 500.0 + 200.0 * begin.elapsed().as_secs_f64();
    assert!(f64::from(answered) <= most + 1.0, "{answered} answers, at most {most}");
    assert!(answered >= 400, "{answered} answers");
}

#[test]
fn a_guest_has_few_streams_and_a_host_as_many_as_it_likes() {
    let world = World::new(Side::Guests, Upstream::default());
    // Only those are a guest's that come from its address; one that is no guest's is closed at once.
    let mut stranger = TcpStream::connect(world.address).unwrap();
    stranger.set_read_timeout(Some(DEADLINE)).unwrap();
    assert_eq!(stranger.read(&mut [0; 2]).unwrap(), 0);
    let names = &world.names;
    names.set(
        &VmName::try_from("self").unwrap(),
        Machine { address: Ipv4Addr::LOCALHOST, group: None, nat: Nat::Off },
    );
    let mut streams: Vec<TcpStream> = (0..5).map(|_| TcpStream::connect(world.address).unwrap()).collect();
    let mut last = streams.pop().unwrap();
    last.set_read_timeout(Some(DEADLINE)).unwrap();
    assert_eq!(last.read(&mut [0; 2]).unwrap(), 0, "one too many");
    // Half a question holds up nobody.
    streams[0].write_all(&[0]).unwrap();
    let asked = query(4, "self.vm");
    let whole = [&u16::try_from(asked.len()).unwrap().to_be_bytes()[..], &asked].concat();
    streams[1].set_read_timeout(Some(DEADLINE)).unwrap();
    // Two questions at once are answered one after the other.
    streams[1].write_all(&[&whole[..], &whole].concat()).unwrap();
    for _ in 0..2 {
        let mut length = [0; 2];
        streams[1].read_exact(&mut length).unwrap();
        let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
        streams[1].read_exact(&mut answer).unwrap();
        assert_eq!(answer[answer.len() - 4..], [127, 0, 0, 1]);
    }
}
