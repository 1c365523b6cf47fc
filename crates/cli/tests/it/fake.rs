//! A daemon of a few lines: HTTP/1.1 on the control socket, its answers given by the test.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
    sync::{Arc, Mutex},
    thread,
};

use bytes::BytesMut;
use serde::Serialize;
use wire::{
    control::{ErrorBody, Event, Origin, Outcome, Sized, State, Vm},
    exec::{Decoder, Frame},
};

use crate::banger::{DEADLINE, Home};

/// What was asked.
#[derive(Debug, Clone)]
pub struct Request {
    pub method: String,
    pub path: String,
    pub head: String,
    pub body: Vec<u8>,
}

impl Request {
    /// Method and path, to match on.
    pub fn line(&self) -> String {
        format!("{} {}", self.method, self.path)
    }
}

/// A daemon that serves as long as this value lives.
pub struct Fake {
    pub home: Home,
    seen: Arc<Mutex<Vec<Request>>>,
}

impl Fake {
    /// Serves each connection by `answer`, on a thread of its own.
    pub fn serving(answer: impl Fn(&Request, &mut Connection) + Send + Sync + 'static) -> Self {
        let home = Home::new();
        let seen = serve(&home.path().join("run"), answer);
        Self { home, seen }
    }

    /// What was asked so far, in order.
    pub fn seen(&self) -> Vec<Request> {
        self.seen.lock().unwrap().clone()
    }

    /// Method and path of what was asked so far.
    pub fn lines(&self) -> Vec<String> {
        self.seen().iter().map(Request::line).collect()
    }
}

/// Serves at the control socket in `dir`.
pub fn serve(
    dir: &Path,
    answer: impl Fn(&Request, &mut Connection) + Send + Sync + 'static,
) -> Arc<Mutex<Vec<Request>>> {
    fs::create_dir_all(dir).unwrap();
    let listener = UnixListener::bind(dir.join("bangerd.sock")).unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (answer, all) = (Arc::new(answer), Arc::clone(&seen));
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (answer, all, stream) = (Arc::clone(&answer), Arc::clone(&all), stream.unwrap());
            thread::spawn(move || {
                let mut connection = Connection::new(stream);
                // A connection that asks nothing is somebody looking whether we are there.
                let Some(request) = connection.request() else { return };
                all.lock().unwrap().push(request.clone());
                answer(&request, &mut connection);
            });
        }
    });
    seen
}

/// One connection of a client.
pub struct Connection {
    stream: BufReader<UnixStream>,
    decoder: Decoder,
}

impl Connection {
    fn new(stream: UnixStream) -> Self {
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        Self { stream: BufReader::new(stream), decoder: Decoder::default() }
    }

    fn request(&mut self) -> Option<Request> {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if self.stream.read_line(&mut head).ok()? == 0 {
                return None;
            }
        }
        let mut words = head.split_whitespace();
        let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
        let lower = head.to_ascii_lowercase();
        let body = if lower.contains("transfer-encoding: chunked") {
            self.chunks()
        } else {
            let length = lower.lines().find_map(|line| line.strip_prefix("content-length: "));
            let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
            self.stream.read_exact(&mut body).ok()?;
            body
        };
        Some(Request { method, path, head, body })
    }

    fn chunks(&mut self) -> Vec<u8> {
        let mut body = Vec::new();
        loop {
            let mut line = String::new();
            self.stream.read_line(&mut line).unwrap();
            let size = usize::from_str_radix(line.trim(), 16).unwrap();
            let at = body.len();
            body.resize(at + size, 0);
            self.stream.read_exact(&mut body[at..]).unwrap();
            self.stream.read_line(&mut line).unwrap();
            if size == 0 {
                return body;
            }
        }
    }

    /// Bytes as they are; a client that has gone does not mind.
    pub fn raw(&mut self, bytes: &[u8]) {
        let _ = self.stream.get_mut().write_all(bytes);
    }

    /// A whole answer.
    pub fn json(&mut self, value: &impl Serialize) {
        self.answer("200 OK", &serde_json::to_vec(value).unwrap());
    }

    /// A refusal.
    pub fn refuse(&mut self, error: &ErrorBody) {
        self.answer("409 Conflict", &serde_json::to_vec(error).unwrap());
    }

    pub fn answer(&mut self, status: &str, body: &[u8]) {
        self.raw(format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n", body.len()).as_bytes());
        self.raw(body);
    }

    /// The beginning of an answer that ends with the connection.
    pub fn stream(&mut self) {
        self.raw(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n");
    }

    /// One line of an event stream.
    pub fn event(&mut self, event: &Event) {
        let mut line = serde_json::to_vec(event).unwrap();
        line.push(b'\n');
        self.raw(&line);
    }

    /// A whole operation that succeeds.
    pub fn done(&mut self, result: Outcome) {
        self.stream();
        self.event(&Event::Done { result });
    }

    /// Begins to speak frames, and gives what the client begins with.
    pub fn upgrade(&mut self) -> Frame {
        self.switch("")
    }

    /// The same in a machine whose workspace is at `place`.
    pub fn upgrade_in(&mut self, place: &str) -> Frame {
        self.switch(&format!("banger-workspace: {place:?}\r\n"))
    }

    fn switch(&mut self, more: &str) -> Frame {
        let head = "HTTP/1.1 101 Switching Protocols\r\nupgrade: banger-exec\r\nconnection: upgrade\r\n";
        self.raw(format!("{head}{more}\r\n").as_bytes());
        self.next_frame().expect("a client begins with what to run")
    }

    pub fn frame(&mut self, frame: &Frame) {
        let mut bytes = BytesMut::new();
        frame.encode(&mut bytes);
        self.raw(&bytes);
    }

    /// The client's next frame; `None` when it has gone.
    pub fn next_frame(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.decoder.next_frame().unwrap() {
                return Some(frame);
            }
            let count = match self.stream.fill_buf() {
                Ok([]) => return None,
                Ok(bytes) => {
                    self.decoder.push(bytes);
                    bytes.len()
                }
                Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => return None,
                Err(e) => panic!("the client says nothing more: {e}"),
            };
            self.stream.consume(count);
        }
    }

    /// Frames up to the first that `wanted` takes.
    pub fn expect<T>(&mut self, wanted: impl Fn(&Frame) -> Option<T>) -> T {
        loop {
            let frame = self.next_frame().expect("the client has gone");
            if let Some(found) = wanted(&frame) {
                return found;
            }
        }
    }

    /// Waits until the client has gone.
    pub fn closed(&mut self) {
        let mut rest = Vec::new();
        match self.stream.read_to_end(&mut rest) {
            Ok(_) => {}
            Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => {}
            Err(e) => panic!("the client is still there: {e}"),
        }
    }
}

/// A machine.
pub fn vm(id: &str, name: &str, state: State) -> Vm {
    fn sized<T>(value: T) -> Sized<T> {
        Sized { value, origin: Origin::Default }
    }
    Vm {
        id: id.to_owned(),
        name: name.to_owned(),
        state,
        reason: None,
        image: "debian-bookworm".to_owned(),
        run: None,
        kernel: "debian".to_owned(),
        vmm: "qemu".to_owned(),
        ip: None,
        nat: false,
        group: None,
        user: None,
        network: None,
        vcpu: sized(2),
        memory: sized(1 << 30),
        disk: sized(8 << 30),
        overlay: sized(8 << 30),
        rm: false,
        workspace: None,
        created_ms: 0,
        started_ms: None,
        pid: None,
        boot_id: None,
        timeline: Vec::new(),
    }
}

/// The machine that a test makes.
pub fn made() -> Outcome {
    Outcome::Vm(Box::new(vm("0123456789ab", "brave-otter", State::Running)))
}
