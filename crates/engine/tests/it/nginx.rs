//! A real web server, and connections to it that break off.
#![expect(clippy::disallowed_methods, reason = "a test's server is a process of its own")]

use std::{
    io::{self, Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use testkit::{home::wait_until, need};

use crate::world::{SOON, World};

/// What a connection brings before it breaks off.
pub const ENDURES: usize = 700_000;
/// What is carried at once, so the most by which it brings more.
const PIECE: usize = 16 << 10;

/// nginx with a directory of a world; it ends with the value.
pub struct Nginx {
    child: Child,
    socket: PathBuf,
    log: PathBuf,
}

impl Nginx {
    /// Starts one that serves what is in `root`, and goes by `more` there; without it the test has said that it skips.
    pub fn start(world: &World, root: &Path, more: &str) -> Option<Self> {
        let program = need::program("nginx", "nginx")?;
        let dir = world.home().join("nginx");
        host::fs::private_dir(&dir).unwrap();
        let (socket, log, config) = (dir.join("socket"), dir.join("log"), dir.join("nginx.conf"));
        let at = |name: &str| dir.join(name).display().to_string();
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .iter()
            .map(|name| format!("{name}_temp_path {};\n", at("temporary")))
            .collect();
        // As the user of the test, also where that is root.
        let text = format!(
            "daemon off; master_process off; pid {}; error_log {};\nevents {{}}\nhttp {{\n{temporary}\
             log_format asked '$request_uri $status $http_range';\naccess_log {} asked;\ndefault_type application/octet-stream;\n\
             server {{ listen unix:{}; root {}; {more}\n\
             location /v2/x/manifests/ {{ default_type application/vnd.oci.image.manifest.v1+json; }} }}\n}}\n",
            at("pid"),
            at("errors"),
            log.display(),
            socket.display(),
            root.display()
        );
        host::fs::write_atomic(&config, text.as_bytes()).unwrap();
        let mut command = Command::new(program);
        command.arg("-e").arg(dir.join("errors")).arg("-p").arg(&dir).arg("-c").arg(&config);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let started = Self { child, socket, log };
        wait_until(SOON, "nginx listens", || UnixStream::connect(&started.socket).is_ok());
        Some(started)
    }

    /// How it answered the requests for what has `part` in its path: status and range, in the order in which they ended.
    pub fn answers(&self, part: &str) -> Vec<(u16, String)> {
        let log = host::fs::read_text(&self.log).unwrap();
        let of = log.lines().filter(|line| line.contains(part));
        of.map(|line| {
            let mut words = line.split(' ').skip(1);
            (words.next().unwrap().parse().unwrap(), words.next().unwrap().to_owned())
        })
        .collect()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A way to nginx that breaks off where an answer is long, so often as is said.
pub struct Cable {
    pub address: String,
    ended: Arc<AtomicBool>,
}

impl Cable {
    pub fn to(nginx: &Nginx, breaks: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let ended = Arc::<AtomicBool>::default();
        let (socket, stop, left) =
            (nginx.socket.clone(), Arc::clone(&ended), Arc::new(AtomicUsize::new(breaks)));
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let (server, left) = (UnixStream::connect(&socket).unwrap(), Arc::clone(&left));
                std::thread::spawn(move || carry(&client, &server, &left));
            }
        });
        Self { address, ended }
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(&self.address);
    }
}

/// Carries what is asked and answered, until the connection has brought too much.
fn carry(client: &TcpStream, server: &UnixStream, left: &AtomicUsize) {
    let (asking, asked) = (client.try_clone().unwrap(), server.try_clone().unwrap());
    std::thread::spawn(move || {
        let _ = io::copy(&mut &asking, &mut &asked);
        let _ = asked.shutdown(std::net::Shutdown::Write);
    });
    let (mut buffer, mut carried) = (vec![0; PIECE], 0);
    while let Ok(count) = (&mut &*server).read(&mut buffer)
        && count > 0
        && (&mut &*client).write_all(&buffer[..count]).is_ok()
    {
        carried += count;
        let breaks = |left: usize| left.checked_sub(1);
        if carried > ENDURES && left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, breaks).is_ok() {
            break;
        }
    }
    let _ = client.shutdown(std::net::Shutdown::Both);
    let _ = server.shutdown(std::net::Shutdown::Both);
}

/// Waits until a download of `size` bytes of what has `part` in its path is logged, each piece of which went on behind the one
/// before.
#[track_caller]
pub fn went_on(nginx: &Nginx, part: &str, size: usize) {
    let from = |range: &str| range.trim_start_matches("bytes=").trim_end_matches('-').parse().unwrap_or(0);
    let last = |answers: &[(u16, String)]| answers.iter().map(|(_, range)| from(range)).max().unwrap_or(0);
    wait_until(SOON, "all is logged", || last(&nginx.answers(part)) + ENDURES + PIECE > size);
    let answers = nginx.answers(part);
    let mut begins: Vec<usize> = answers.iter().map(|(_, range)| from(range)).collect();
    begins.sort_unstable();
    begins.dedup();
    assert_eq!(begins.len(), answers.len(), "{answers:?}");
    // The last one may be too short to be waited for.
    assert!(answers.len() >= size / (ENDURES + PIECE), "{answers:?}");
    let is_fitting = |(status, range): &(u16, String)| *status == if range == "-" { 200 } else { 206 };
    assert!(answers.iter().all(is_fitting), "{answers:?}");
}
