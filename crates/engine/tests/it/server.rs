//! A server that speaks as much HTTP as it takes, and behaves as a test wants.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

/// One request: its path and the byte from which on it wants a blob.
#[derive(Clone)]
pub struct Asked {
    pub path: String,
    pub from: usize,
    pub authorization: Option<String>,
    /// What it calls this server.
    pub host: String,
}

type Behave = dyn Fn(&Asked, &mut TcpStream) -> bool + Send + Sync;

/// The server; it ends with the value.
pub struct Server {
    pub address: String,
    pub log: Arc<Mutex<Vec<String>>>,
    ended: Arc<AtomicBool>,
}

/// Answers with `body`.
pub fn answer(stream: &mut TcpStream, status: &str, headers: &str, body: &[u8]) -> bool {
    head(stream, status, &format!("{headers}Content-Length: {}\r\n", body.len()))
        && stream.write_all(body).is_ok()
}

/// Answers with no body yet.
pub fn head(stream: &mut TcpStream, status: &str, headers: &str) -> bool {
    stream.write_all(format!("HTTP/1.1 {status}\r\n{headers}\r\n").as_bytes()).is_ok()
}

/// Answers with `bytes`, or the part of them that was asked for.
pub fn serve(asked: &Asked, stream: &mut TcpStream, bytes: &[u8]) -> bool {
    if asked.from == 0 {
        return answer(stream, "200 OK", "", bytes);
    }
    let range = format!("Content-Range: bytes {}-{}/{}\r\n", asked.from, bytes.len() - 1, bytes.len());
    answer(stream, "206 Partial Content", &range, &bytes[asked.from..])
}

impl Server {
    /// Starts one. `behave` answers a request, and says whether the connection goes on.
    pub fn start(behave: impl Fn(&Asked, &mut TcpStream) -> bool + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (log, ended) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let behave: Arc<Behave> = Arc::new(behave);
        let (known, stop) = (Arc::clone(&log), Arc::clone(&ended));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let (behave, known) = (Arc::clone(&behave), Arc::clone(&known));
                std::thread::spawn(move || connection(stream, &*behave, &known));
            }
        });
        Self { address, log, ended }
    }

    /// How many requests had `what` in their path.
    pub fn asked(&self, what: &str) -> usize {
        self.log.lock().unwrap().iter().filter(|line| line.contains(what)).count()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(&self.address);
    }
}

fn connection(stream: TcpStream, behave: &Behave, log: &Mutex<Vec<String>>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut stream = stream;
    loop {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            match reader.by_ref().take(100_000).read_line(&mut line) {
                Ok(0) | Err(_) => return,
                Ok(_) if line == "\r\n" => break,
                Ok(_) => lines.push(line.trim_end().to_owned()),
            }
        }
        let field = |name: &str| {
            lines.iter().find_map(|line| {
                line.to_ascii_lowercase().starts_with(name).then(|| line[name.len()..].trim().to_owned())
            })
        };
        let from =
            field("range:").map_or(0, |range| range["bytes=".len()..].trim_end_matches('-').parse().unwrap());
        let path = lines[0].split(' ').nth(1).unwrap().to_owned();
        log.lock().unwrap().push(format!("{path} {from}"));
        let (authorization, host) = (field("authorization:"), field("host:").unwrap_or_default());
        if !behave(&Asked { path, from, authorization, host }, &mut stream) {
            return;
        }
    }
}
