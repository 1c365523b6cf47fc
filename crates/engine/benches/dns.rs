//! How many questions for names one processor answers.
//!
//! ```text
//! cargo bench -p engine --bench dns
//! ```
//! The server has one thread, whose processor time counts: a machine that others keep busy answers as many in it.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a bench measures the real thing and prints what it found"
)]

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    sync::mpsc,
    thread,
    time::Duration,
};

use engine::dns::{Machine, Names, Server, Side, Upstream};
use model::{VmName, network::Nat};
use rustix::time::{ClockId, clock_gettime};

/// Questions that are measured, and how many are on their way at a time.
const QUESTIONS: usize = 200_000;
const WINDOW: usize = 32;
/// Machines that have names.
const MACHINES: u8 = 200;

fn main() {
    let datagrams = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let streams = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    datagrams.set_nonblocking(true).unwrap();
    streams.set_nonblocking(true).unwrap();
    let address = datagrams.local_addr().unwrap();
    let (end, ended) = tokio::sync::oneshot::channel::<()>();
    let (begin, begun) = mpsc::channel();
    let server = thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let names = Names::default();
            for n in 0..MACHINES {
                let machine = Machine { address: Ipv4Addr::new(172, 30, 0, n), group: None, nat: Nat::Off };
                names.set(&VmName::try_from(format!("vm{n}").as_str()).unwrap(), machine);
            }
            let mut server = Server::new(names, Upstream::default());
            server.serve(Side::Host, datagrams, streams).unwrap();
            begin.send(()).unwrap();
            let _ = ended.await;
        });
        processor_time()
    });
    begun.recv().unwrap();
    let answered = ask(address);
    end.send(()).unwrap();
    let took = server.join().unwrap();
    #[expect(clippy::cast_precision_loss, reason = "some hundred thousand")]
    let rate = answered as f64 / took.as_secs_f64();
    println!("{answered} of {QUESTIONS} questions answered in {:.2} s of one processor", took.as_secs_f64());
    println!("answers of names in a second of one processor: {rate:.0} (at least 20000)");
}

/// Asks, and gives how many answers came.
fn ask(server: SocketAddr) -> usize {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket.connect(server).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let questions: Vec<Vec<u8>> = (0..MACHINES).map(question).collect();
    let mut answered = 0;
    let mut bytes = [0; 512];
    for (number, question) in questions.iter().cycle().take(QUESTIONS).enumerate() {
        socket.send(question).unwrap();
        if number >= WINDOW
            && socket
                .recv(&mut bytes)
                .is_ok_and(|count| bytes[..count].ends_with(&[0, 4, 172, 30, 0, bytes[count - 1]]))
        {
            answered += 1;
        }
    }
    answered
}

fn question(n: u8) -> Vec<u8> {
    let name = format!("vm{n}");
    let mut bytes = vec![0, n, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, u8::try_from(name.len()).unwrap()];
    bytes.extend(name.as_bytes());
    bytes.extend(b"\x02vm\0\0\x01\0\x01");
    bytes
}

/// What this thread has had of a processor.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap())
}
