//! Downloads from a real web server over connections that break off.
#![expect(clippy::disallowed_methods, reason = "a test's server is a process of its own")]

use std::{
    io::{self, Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::net::UnixStream,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use testkit::{home::wait_until, need};
use wire::control::PullImage;

use crate::{
    pull::nothing_is_left,
    pull_hostile::{Goods, goods},
    world::{SOON, World},
};

/// What a connection brings before it breaks off.
const ENDURES: usize = 700_000;

/// nginx with an image in its directory; it ends with the value.
struct Nginx {
    child: Child,
    socket: PathBuf,
    log: PathBuf,
}

impl Nginx {
    /// Starts one that serves `goods`, and goes by `more` where it has files; without it the test has said that it skips.
    fn start(world: &World, goods: &Goods, more: &str) -> Option<Self> {
        let program = need::program("nginx", "nginx")?;
        let dir = world.home().join("nginx");
        for (path, bytes) in &goods.documents {
            let path = dir.join("root").join(&path[1..]);
            host::fs::private_dir(path.parent().unwrap()).unwrap();
            host::fs::write_atomic(&path, bytes).unwrap();
        }
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
            at("root")
        );
        host::fs::write_atomic(&config, text.as_bytes()).unwrap();
        let mut command = Command::new(program);
        command.arg("-e").arg(dir.join("errors")).arg("-p").arg(&dir).arg("-c").arg(&config);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let started = Self { child, socket, log };
        wait_until(SOON, "nginx listens", || UnixStream::connect(&started.socket).is_ok());
        Some(started)
    }

    /// How it answered the requests for the layer: status and range, in the order in which they ended.
    fn answers(&self, goods: &Goods) -> Vec<(u16, String)> {
        let digest = image::oci::Digest::of(&goods.layer).to_string();
        let log = host::fs::read_text(&self.log).unwrap();
        let of = log.lines().filter(|line| line.contains(&digest));
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
struct Cable {
    address: String,
    ended: Arc<AtomicBool>,
}

impl Cable {
    fn to(nginx: &Nginx, breaks: usize) -> Self {
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
    let (mut buffer, mut carried) = (vec![0; 16 << 10], 0);
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

/// Pulls over a cable to `nginx`.
fn pulled(world: &World, cable: &Cable) {
    let pull = PullImage { reference: format!("{}/x:1", cable.address), ..PullImage::default() };
    world.end(&world.begin_pull(pull)).unwrap();
    nothing_is_left(world);
}

#[test]
fn a_download_from_nginx_goes_on_where_it_broke_off() {
    let (world, goods) = (World::new(), goods());
    let Some(nginx) = Nginx::start(&world, &goods, "") else { return };
    pulled(&world, &Cable::to(&nginx, usize::MAX));
    wait_until(SOON, "all is logged", || {
        nginx.answers(&goods).iter().any(|(_, range)| range.starts_with("bytes=2"))
    });
    let answers = nginx.answers(&goods);
    // Each goes on behind the one before.
    let from = |range: &str| range.trim_start_matches("bytes=").trim_end_matches('-').parse().unwrap_or(0);
    let mut begins: Vec<u64> = answers.iter().map(|(_, range)| from(range)).collect();
    begins.sort_unstable();
    begins.dedup();
    assert_eq!(begins.len(), answers.len(), "{answers:?}");
    assert!(answers.len() > goods.layer.len() / ENDURES, "{answers:?}");
    assert!(
        answers.iter().all(|(status, range)| *status == if range == "-" { 200 } else { 206 }),
        "{answers:?}"
    );
}

#[test]
fn a_download_from_nginx_that_gives_no_parts_begins_again() {
    let (world, goods) = (World::new(), goods());
    let Some(nginx) = Nginx::start(&world, &goods, "max_ranges 0;") else { return };
    pulled(&world, &Cable::to(&nginx, 1));
    wait_until(SOON, "all is logged", || nginx.answers(&goods).len() == 2);
    let answers = nginx.answers(&goods);
    assert!(answers.iter().all(|(status, _)| *status == 200), "{answers:?}");
    assert!(answers.iter().any(|(_, range)| range.starts_with("bytes=")), "{answers:?}");
}
