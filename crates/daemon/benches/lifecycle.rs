//! What the lifecycle costs beside the database and the machines: many creates at once, over the real control socket, with
//! fake machines.
//!
//! ```text
//! cargo bench -p daemon --bench lifecycle
//! ```
#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a bench measures the real thing and prints what it found"
)]

use std::{
    collections::BTreeSet,
    convert::Infallible,
    io::{self, BufRead, BufReader, Cursor, Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use engine::{Engine, Kind, Seams, bridge::Bridge, config::Config};
use http_body_util::Full;
use hyper::{Request, Response, body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use model::{VmId, config::NetworkMode, network::Subnet, vm::State};
use rusqlite::{Connection, types::Value};
use testkit::{images::Tar, kernel_forge};
use tokio::runtime::Runtime;
use vmm::{Future, fake::Fake};
use wire::{
    control::{ImportImage, ImportKernel},
    guest::{Health, InitKind, VERSION},
};

/// Creates that are measured.
const CREATES: usize = 1_000;
/// Connections of the client.
const CONNECTIONS: usize = 32;
/// How long a fake machine boots.
const BOOT: Duration = Duration::from_secs(1);

fn main() {
    // Each leases an address; none is started, which would need the bridge.
    let bridge = Bridge { subnet: Subnet::of([10, 9, 0, 0].into(), 20), socket: "/nowhere".into() };
    let world = World::new().reopened(Some(bridge));
    let ours = world.creates(CREATES);
    let bare = world.bare_loop(CREATES);
    println!("creates a second over {CONNECTIONS} connections: {ours:.0}");
    println!("the same transactions in a bare loop: {bare:.0}");
    println!("create --no-start, rate over that of a bare SQLite loop: {:.2} (at least 0.5)", ours / bare);

    let world = world.stopped().reopened(None);
    println!("reconcile {CREATES} stopped VMs, seconds: {:.2} (at most 1)", world.opened.as_secs_f64());
    drop(world);

    let world = World::new();
    let begin = Instant::now();
    world.together(20, |client, number| client.create(&format!("parallel-{number}"), ""));
    println!(
        "20 parallel creates of VMs that boot for 1 s, seconds: {:.2} (at most 1.5)",
        begin.elapsed().as_secs_f64()
    );

    let (alone, beside) = world.beside_an_import();
    println!("a create beside an import under way, over one alone: {:.2} (at most 1.5)", beside / alone);
}

/// A home with an engine behind its socket.
struct World {
    home: PathBuf,
    engine: Option<Engine>,
    /// How long opening it took.
    opened: Duration,
    runtime: Runtime,
}

impl World {
    fn new() -> Self {
        let home = std::env::temp_dir().join(format!("banger-bench-lifecycle-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&home);
        std::fs::create_dir_all(home.join("kernel")).unwrap();
        std::fs::write(home.join("kernel/vmlinuz"), kernel_forge::vmlinux()).unwrap();
        std::fs::write(home.join("kernel/config"), kernel_forge::CONFIG).unwrap();
        std::fs::write(home.join("agent"), "agent").unwrap();
        let world = Self::open(home, None);
        let engine = world.engine.clone().unwrap();
        let kernel = ImportKernel::Path(world.home.join("kernel").display().to_string());
        let kernels = engine.clone();
        let import = async move {
            let operation = kernels.operations().begin(Kind::KernelImport, "debian-cloud");
            kernels.clone().kernel_import(operation, "debian-cloud".to_owned(), kernel).await.unwrap();
            let tar = Tar::default().directory("etc").file("etc/os-release", 0o644, b"ID=tiny\n").finish();
            let operation = engine.operations().begin(Kind::ImageImport, "image");
            let (how, name) = (ImportImage::default(), "tiny".to_owned());
            engine.clone().image_import(operation, name, how, Cursor::new(tar)).await.unwrap();
        };
        world.runtime.block_on(import);
        // Fills the caches.
        world.client().create("first", "");
        world
    }

    fn open(home: PathBuf, bridge: Option<Bridge>) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let [state, cache, runtime_dir, config] =
            ["state", "cache", "run", "config"].map(|name| home.join(name));
        let dirs = host::dirs::Dirs { state, cache, runtime: runtime_dir, config };
        let fake = Fake::new(|stream, _| -> Future<'static, ()> { Box::pin(guest(stream)) });
        let seams = Seams { backend: Some(Arc::new(fake)), bridge, ..Seams::default() };
        let config = Config { network_mode: NetworkMode::Auto, ..Config::default() };
        let socket = dirs.socket();
        let begin = Instant::now();
        let opening = Engine::open(dirs, config, home.join("agent"), seams);
        let engine = runtime.block_on(opening).unwrap().expect("nobody else has it");
        let opened = begin.elapsed();
        let (served, at) = (engine.clone(), socket.clone());
        runtime.spawn(async move { daemon::server::serve(served, &at, None).await.unwrap() });
        while UnixStream::connect(&socket).is_err() {
            std::thread::yield_now();
        }
        Self { home, engine: Some(engine), opened, runtime }
    }

    /// Does `work` with so many numbers, over so many connections at once as there are numbers, or all that the client has.
    fn together(&self, count: usize, work: impl Fn(&mut Client, usize) + Sync) {
        let next = std::sync::atomic::AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..count.min(CONNECTIONS) {
                scope.spawn(|| {
                    let mut client = self.client();
                    loop {
                        match next.fetch_add(1, Ordering::Relaxed) {
                            number if number < count => work(&mut client, number),
                            _ => return,
                        }
                    }
                });
            }
        });
    }

    fn client(&self) -> Client {
        Client(BufReader::new(UnixStream::connect(self.home.join("run/bangerd.sock")).unwrap()))
    }

    /// How many creates there are a second; all are there afterwards, and distinct.
    fn creates(&self, count: usize) -> f64 {
        let begin = Instant::now();
        self.together(count, |client, number| client.create(&format!("vm-{number}"), ",\"no_start\":true"));
        let rate = count as f64 / begin.elapsed().as_secs_f64();
        let vms = self.engine.as_ref().unwrap().vm_list().unwrap().vms;
        let ids: BTreeSet<&str> = vms.iter().map(|vm| vm.id.as_str()).collect();
        let names: BTreeSet<&str> = vms.iter().map(|vm| vm.name.as_str()).collect();
        assert_eq!((ids.len(), names.len()), (count + 1, count + 1), "with the first one");
        let store = store::Store::open(&self.home.join("state/banger.db")).unwrap();
        let addresses: BTreeSet<u16> =
            store.vm_list().unwrap().iter().filter_map(|vm| vm.network.number).collect();
        assert_eq!(addresses.len(), count);
        rate
    }

    /// How many of a create's one transaction there are a second in a loop that does nothing else, in a database of the same
    /// shape and settings.
    fn bare_loop(&self, count: usize) -> f64 {
        let path = self.home.join("bare.db");
        std::fs::copy(self.home.join("state/banger.db"), &path).unwrap();
        let mut db = Connection::open(&path).unwrap();
        db.pragma_update(None, "journal_mode", "WAL").unwrap();
        db.pragma_update(None, "synchronous", "NORMAL").unwrap();
        db.pragma_update(None, "foreign_keys", true).unwrap();
        let leased = "SELECT * FROM vm WHERE host_number IS NOT NULL LIMIT 1";
        let host_number = db.prepare(leased).unwrap().column_index("host_number").unwrap();
        let mut row: Vec<Value> = db
            .query_row(leased, [], |row| {
                (0..row.as_ref().column_count()).map(|column| row.get(column)).collect()
            })
            .unwrap();
        db.execute("DELETE FROM vm", []).unwrap();
        let marks = vec!["?"; row.len()].join(", ");
        let begin = Instant::now();
        for number in 0..count {
            let (id, name) = (format!("{number:012x}"), format!("vm-{number}"));
            (row[0], row[1]) = (Value::Text(id.clone()), Value::Text(name.clone()));
            let transaction = db.transaction().unwrap();
            let leased = "SELECT count(*), max(host_number) FROM vm WHERE host_number BETWEEN 2 AND 4094";
            let highest: Option<i64> =
                transaction.prepare_cached(leased).unwrap().query_row([], |row| row.get(1)).unwrap();
            row[host_number] = Value::Integer(highest.map_or(2, |highest| highest + 1));
            let exists = |sql: &str, of: &Value| -> bool {
                transaction.prepare_cached(sql).unwrap().query_row([of], |row| row.get(0)).unwrap()
            };
            assert!(!exists("SELECT EXISTS (SELECT 1 FROM vm WHERE name = ?)", &row[1]));
            assert!(exists("SELECT EXISTS (SELECT 1 FROM image WHERE id = ?)", &row[4]));
            assert!(exists("SELECT EXISTS (SELECT 1 FROM kernel WHERE id = ?)", &row[5]));
            let insert = format!("INSERT INTO vm VALUES ({marks})");
            transaction.prepare_cached(&insert).unwrap().execute(rusqlite::params_from_iter(&row)).unwrap();
            transaction.commit().unwrap();
        }
        count as f64 / begin.elapsed().as_secs_f64()
    }

    /// The same with all VMs stopped.
    fn stopped(self) -> Self {
        let store = store::Store::open(&self.home.join("state/banger.db")).unwrap();
        for vm in self.engine.as_ref().unwrap().vm_list().unwrap().vms {
            let id = VmId::try_from(vm.id.as_str()).unwrap();
            if vm.name != "first" {
                store.vm_state(id, State::Stopped, Some("it was stopped".to_owned())).unwrap();
            }
        }
        self
    }

    /// The same in another engine, with this bridge, whose machines are found again.
    fn reopened(mut self, bridge: Option<Bridge>) -> Self {
        let home = std::mem::take(&mut self.home);
        self.close();
        drop(self);
        Self::open(home, bridge)
    }

    /// The median seconds of a create alone, and of one while an image is being imported that takes its time.
    fn beside_an_import(&self) -> (f64, f64) {
        let mut client = self.client();
        let mut once = |name: String| {
            let begin = Instant::now();
            client.create(&name, ",\"no_start\":true");
            begin.elapsed().as_secs_f64()
        };
        let mut median = |kind: &str| {
            let mut all: Vec<f64> = (0..101).map(|number| once(format!("{kind}-{number}"))).collect();
            all.sort_by(f64::total_cmp);
            all[all.len() / 2]
        };
        let alone = median("alone");
        let go_on = Arc::new(AtomicBool::new(false));
        let (engine, source) = (self.engine.clone().unwrap(), Stalled(go_on.clone()));
        let operation = engine.operations().begin(Kind::ImageImport, "image");
        let how = ImportImage::default();
        let import = self.runtime.spawn(engine.image_import(operation, "slow".to_owned(), how, source));
        let beside = median("beside");
        assert!(!import.is_finished(), "it was under way all the time");
        go_on.store(true, Ordering::Relaxed);
        assert!(self.runtime.block_on(import).unwrap().is_err(), "what it got is no tar");
        (alone, beside)
    }

    fn close(&mut self) {
        let Some(engine) = self.engine.take() else { return };
        drop(engine);
        let runtime = std::mem::replace(&mut self.runtime, Runtime::new().unwrap());
        runtime.shutdown_timeout(Duration::from_secs(10));
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if self.home.as_os_str().is_empty() {
            return;
        }
        let engine = self.engine.clone().unwrap();
        let all = engine.vm_list().unwrap().vms;
        for vm in all {
            let (engine, operation) = (engine.clone(), engine.operations().begin(Kind::VmDelete, &vm.id));
            self.runtime.block_on(engine.vm_delete(operation, vm.id)).unwrap();
        }
        drop(engine);
        self.close();
        let _ = std::fs::remove_dir_all(Path::new(&self.home));
    }
}

/// One connection, for one request after the other.
struct Client(BufReader<UnixStream>);

impl Client {
    /// Creates a VM by one request.
    fn create(&mut self, name: &str, more: &str) {
        let body = format!("{{\"name\":\"{name}\",\"image\":\"tiny\",\"disk_size\":67108864{more}}}");
        let length = body.len();
        let request = format!(
            "POST /v1/vms HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        self.0.get_mut().write_all(request.as_bytes()).unwrap();
        let (mut line, mut last) = (String::new(), String::new());
        // The body is in chunks (RFC 9112, 7.1), an event in each; the last chunk is empty.
        while line != "0\r\n" {
            line.clear();
            assert!(self.0.read_line(&mut line).unwrap() > 0, "{last}");
            if line.starts_with('{') {
                last.clone_from(&line);
            }
        }
        self.0.read_line(&mut line).unwrap();
        assert!(last.contains("\"done\""), "{last}");
    }
}

/// A source that says nothing until it is told to, and then nothing of use.
struct Stalled(Arc<AtomicBool>);

impl Read for Stalled {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        while !self.0.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(0)
    }
}

/// A guest that takes its time to boot and is ready then.
async fn guest(stream: tokio::io::DuplexStream) {
    tokio::time::sleep(BOOT).await;
    let service = service_fn(|_: Request<Incoming>| async {
        let health = Health {
            version: VERSION,
            agent: "bench".to_owned(),
            kernel: "6.1.0".to_owned(),
            boot_id: "b".to_owned(),
            uptime_ms: 1,
            steps: Vec::new(),
            init: InitKind::Agent,
            init_ready: Some(true),
        };
        let body = serde_json::to_vec(&health).unwrap();
        Ok::<_, Infallible>(Response::new(Full::new(bytes::Bytes::from(body))))
    });
    let _ = http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
}
