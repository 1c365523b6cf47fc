//! Whom to ask for names that are not ours. What they say is passed on as it is, to whom asked that and under its own number.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    time::timeout,
};
use wire::dns::{Finding, MAX_DATAGRAM, Query};

/// How long one of them may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// Resolvers, in the order in which they are asked; perhaps none.
#[derive(Debug, Clone, Default)]
pub struct Upstream(Vec<SocketAddr>);

/// How a question came, and so how it goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// By UDP.
    Datagram,
    /// By TCP, where an answer is as long as it likes.
    Stream,
}

impl Upstream {
    /// These.
    #[must_use]
    pub fn of(servers: Vec<SocketAddr>) -> Self {
        Self(servers)
    }

    /// Whether there is nobody to ask.
    #[must_use]
    pub fn is_nobody(&self) -> bool {
        self.0.is_empty()
    }

    /// The answer to the question `packet`; that there is none where nobody answers it.
    pub async fn ask(&self, packet: &[u8], transport: Transport) -> Vec<u8> {
        let Ok(query) = Query::parse(packet) else { return Vec::new() };
        for server in &self.0 {
            // A number of our own, so that nobody who knows the asker's can answer in the server's place.
            let id = u16::from_ne_bytes(host::rand::bytes());
            let mut asked = packet.to_vec();
            asked[..2].copy_from_slice(&id.to_be_bytes());
            let exchange = async {
                match transport {
                    Transport::Datagram => by_datagram(*server, &asked, id, &query).await,
                    Transport::Stream => by_stream(*server, &asked).await,
                }
            };
            if let Ok(Ok(mut answer)) = timeout(PATIENCE, exchange).await
                && query.is_answered_by(id, &answer)
            {
                answer[..2].copy_from_slice(&query.id.to_be_bytes());
                return answer;
            }
        }
        query.answer(Finding::Failed)
    }
}

async fn by_datagram(server: SocketAddr, packet: &[u8], id: u16, query: &Query<'_>) -> io::Result<Vec<u8>> {
    let any: IpAddr =
        if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    // Another port each time.
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    socket.send(packet).await?;
    let mut answer = vec![0; MAX_DATAGRAM];
    loop {
        let count = socket.recv(&mut answer).await?;
        if query.is_answered_by(id, &answer[..count]) {
            answer.truncate(count);
            return Ok(answer);
        }
    }
}

async fn by_stream(server: SocketAddr, packet: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(packet.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    stream.write_all(&[&length.to_be_bytes()[..], packet].concat()).await?;
    let length = stream.read_u16().await?;
    let mut answer = vec![0; usize::from(length)];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}
