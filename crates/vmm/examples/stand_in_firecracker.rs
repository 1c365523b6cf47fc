//! Stands in for Firecracker in the conformance suite, where there is no KVM: the same command line, the same API, the same sockets,
//! and the suite's guest as a function of its own.
//!
//! What it takes and refuses is what Firecracker's published API says (`src/firecracker/swagger/firecracker.yaml` of its source):
//! fields that are unknown or missing, things asked for at the wrong time, and files that are not there are refused in Firecracker's form.
#![expect(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "it is a program of a test"
)]

use std::{
    cell::RefCell,
    convert::Infallible,
    fs::{File, OpenOptions},
    io::Write,
    process::exit,
    rc::Rc,
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{
    Method, Request, Response, StatusCode, body::Incoming, server::conn::http1, service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    task::{LocalSet, spawn_local},
};

/// The port where the suite's guest listens.
const PORT: u32 = wire::guest::VSOCK_PORT;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MachineConfig {
    vcpu_count: u8,
    mem_size_mib: usize,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BootSource {
    kernel_image_path: String,
    initrd_path: Option<String>,
    #[expect(dead_code, reason = "there is no kernel to give it to")]
    boot_args: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Drive {
    drive_id: String,
    path_on_host: String,
    #[expect(dead_code, reason = "it must be there")]
    is_root_device: bool,
    is_read_only: bool,
    cache_type: CacheType,
    rate_limiter: Option<RateLimiter>,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RateLimiter {
    bandwidth: Option<TokenBucket>,
    ops: Option<TokenBucket>,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenBucket {
    size: u64,
    refill_time: u64,
}

#[derive(Deserialize)]
enum CacheType {
    Unsafe,
    Writeback,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PartialDrive {
    drive_id: String,
    path_on_host: String,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct NetworkInterface {
    iface_id: String,
    guest_mac: Option<String>,
    host_dev_name: String,
    rx_rate_limiter: Option<RateLimiter>,
    tx_rate_limiter: Option<RateLimiter>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NetworkOverride {
    iface_id: String,
    host_dev_name: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Vsock {
    guest_cid: u32,
    uds_path: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entropy {}

/// What version 1.12 knows of it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Balloon {
    amount_mib: u32,
    #[expect(dead_code, reason = "it must be there")]
    deflate_on_oom: bool,
    #[expect(dead_code, reason = "it may be there")]
    stats_polling_interval_s: Option<u16>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Vm {
    state: VmState,
}

#[derive(Deserialize)]
enum VmState {
    Paused,
    Resumed,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CreateSnapshot {
    #[expect(dead_code, reason = "it must be there")]
    snapshot_type: SnapshotType,
    snapshot_path: String,
    mem_file_path: String,
}

#[derive(Deserialize)]
enum SnapshotType {
    Full,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LoadSnapshot {
    snapshot_path: String,
    mem_backend: MemoryBackend,
    resume_vm: bool,
    #[serde(default)]
    network_overrides: Vec<NetworkOverride>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MemoryBackend {
    #[expect(dead_code, reason = "it must be there")]
    backend_type: BackendType,
    backend_path: String,
}

#[derive(Deserialize)]
enum BackendType {
    File,
}

/// What a machine is, as far as it is not its memory: what its snapshots hold beside that.
#[derive(Clone, Default, Serialize, Deserialize)]
struct Shape {
    drives: Vec<(String, String, bool)>,
    card: Option<NetworkInterface>,
    vsock: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Action {
    action_type: ActionType,
}

#[derive(Deserialize)]
enum ActionType {
    InstanceStart,
    SendCtrlAltDel,
    FlushMetrics,
}

/// What it was told so far.
#[derive(Default)]
struct Machine {
    boots: bool,
    running: bool,
    /// Its guest is held.
    paused: bool,
    shape: Shape,
    /// Its guest restarts, as soon as who asked for that has the answer.
    restarts: bool,
    /// Id and open file of each drive.
    drives: Vec<(String, File)>,
    /// The other end of its card's tap.
    tap: Option<File>,
    vsock: Option<UnixListener>,
}

type Outcome = Result<String, String>;

fn main() {
    let mut socket = None;
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().unwrap_or_else(|| usage(&argument));
        match argument.as_str() {
            "--version" => {
                println!("Firecracker v1.12.1\n");
                return;
            }
            "--api-sock" => socket = Some(value()),
            "--id" => {
                let id = value();
                let fits = |c: char| c.is_ascii_alphanumeric() || c == '-';
                if !(1..=64).contains(&id.len()) || !id.chars().all(fits) {
                    usage("--id");
                }
            }
            "--level" => drop(value()),
            "--log-path" => LOG.set(Some(open(&value(), true).unwrap())),
            "--metrics-path" => METRICS.set(Some(open(&value(), true).unwrap())),
            other => usage(other),
        }
    }
    let Some(socket) = socket else { usage("--api-sock") };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
    LocalSet::new().block_on(&runtime, serve(&socket));
}

fn usage(argument: &str) -> ! {
    eprintln!("Error: ParseArguments: {argument}");
    exit(153)
}

async fn serve(socket: &str) {
    let listener = UnixListener::bind(socket).unwrap_or_else(|error| {
        eprintln!("Error: RunWithApi: failed to open the API socket at {socket}: {error}");
        exit(1)
    });
    let machine = Rc::new(RefCell::new(Machine::default()));
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let machine = machine.clone();
        spawn_local(async move {
            let service = service_fn(|request| answer(request, machine.clone()));
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            if machine.borrow().restarts {
                restart("reboot: Restarting system\n");
            }
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    machine: Rc<RefCell<Machine>>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let outcome = handle(&parts.method, parts.uri.path(), &body, &mut machine.borrow_mut());
    let (status, text) = match outcome {
        Ok(text) if text.is_empty() => (StatusCode::NO_CONTENT, text),
        Ok(text) => (StatusCode::OK, text),
        Err(why) => (StatusCode::BAD_REQUEST, serde_json::json!({ "fault_message": why }).to_string()),
    };
    Ok(Response::builder().status(status).body(Full::from(text)).unwrap())
}

fn handle(method: &Method, path: &str, body: &[u8], machine: &mut Machine) -> Outcome {
    match (method.as_str(), path) {
        ("GET", "/") => {
            let state = match machine.running {
                true if machine.paused => "Paused",
                true => "Running",
                false => "Not started",
            };
            Ok(serde_json::json!({
                "app_name": "Firecracker", "id": "stand-in", "state": state, "vmm_version": "1.12.1",
            })
            .to_string())
        }
        ("PUT", "/actions") => act(parse(body)?, machine),
        ("PATCH", "/vm") if machine.running => {
            machine.paused = matches!(parse::<Vm>(body)?.state, VmState::Paused);
            Ok(String::new())
        }
        ("PUT", "/snapshot/create") if machine.running && machine.paused => {
            let files: CreateSnapshot = parse(body)?;
            let shape = serde_json::to_vec(&machine.shape).unwrap();
            write(&files.snapshot_path, &shape)?;
            write(&files.mem_file_path, WORD.with_borrow(|word| word.clone()).as_bytes())?;
            Ok(String::new())
        }
        ("PUT", "/snapshot/load") if !machine.boots && machine.drives.is_empty() => {
            load(&parse(body)?, machine)
        }

        ("PATCH", path) if path.starts_with("/drives/") => {
            let drive: PartialDrive = parse(body)?;
            let known = machine.drives.iter().any(|(id, _)| *id == drive.drive_id);
            if !machine.running || !known || path != format!("/drives/{}", drive.drive_id) {
                return Err(format!("Invalid block device ID: {}", drive.drive_id));
            }
            open(&drive.path_on_host, true).map(|_| String::new())
        }
        ("PUT", _) if machine.running => {
            Err("The requested operation is not supported after starting the microVM.".to_owned())
        }
        ("PUT", "/machine-config") => {
            let config: MachineConfig = parse(body)?;
            match config {
                MachineConfig { vcpu_count: 1..=32, mem_size_mib: 1.. } => Ok(String::new()),
                _ => Err("The vCPU number or the memory size (MiB) is invalid.".to_owned()),
            }
        }
        ("PUT", "/boot-source") => {
            let boot: BootSource = parse(body)?;
            open(&boot.kernel_image_path, false)?;
            boot.initrd_path.map(|path| open(&path, false)).transpose()?;
            machine.boots = true;
            Ok(String::new())
        }
        ("PUT", path) if path.starts_with("/drives/") => {
            let drive: Drive = parse(body)?;
            if path != format!("/drives/{}", drive.drive_id) {
                return Err("The id from the path does not match the id from the body!".to_owned());
            }
            drive.rate_limiter.iter().try_for_each(RateLimiter::check)?;
            if matches!(drive.cache_type, CacheType::Unsafe) {
                return Err("the guest's flushes would reach nothing".to_owned());
            }
            let file = open(&drive.path_on_host, !drive.is_read_only)?;
            machine.shape.drives.push((drive.drive_id.clone(), drive.path_on_host, drive.is_read_only));
            machine.drives.push((drive.drive_id, file));
            Ok(String::new())
        }
        ("PUT", path) if path.starts_with("/network-interfaces/") => {
            let card: NetworkInterface = parse(body)?;
            if path != format!("/network-interfaces/{}", card.iface_id) {
                return Err("The id from the path does not match the id from the body!".to_owned());
            }
            [&card.rx_rate_limiter, &card.tx_rate_limiter]
                .into_iter()
                .flatten()
                .try_for_each(RateLimiter::check)?;
            machine.plug_in(card)?;
            Ok(String::new())
        }
        ("PUT", "/vsock") => {
            let vsock: Vsock = parse(body)?;
            if vsock.guest_cid < 3 {
                return Err("Invalid CID".to_owned());
            }
            machine.vsock = Some(UnixListener::bind(&vsock.uds_path).map_err(|error| error.to_string())?);
            machine.shape.vsock = Some(vsock.uds_path);
            Ok(String::new())
        }
        ("PUT", "/balloon") => match parse::<Balloon>(body)?.amount_mib {
            0 => Ok(String::new()),
            _ => Err("it would take what was given to the guest".to_owned()),
        },
        ("PUT", "/entropy") => parse::<Entropy>(body).map(|_| String::new()),
        _ => Err(format!("Invalid request method and/or path: {method} {path}.")),
    }
}

impl RateLimiter {
    /// A bucket that never holds anything, or is never filled, limits nothing.
    fn check(&self) -> Result<(), String> {
        let fills = |bucket: &TokenBucket| bucket.size > 0 && bucket.refill_time > 0;
        let mut buckets = [&self.bandwidth, &self.ops].into_iter().flatten().peekable();
        match buckets.peek().is_some() && buckets.all(fills) {
            true => Ok(()),
            false => Err("a rate limiter that limits nothing".to_owned()),
        }
    }
}

impl Machine {
    /// Opens the tap of `card` by its name.
    fn plug_in(&mut self, card: NetworkInterface) -> Result<(), String> {
        let opened = host::links::open_tap(&card.host_dev_name);
        let tap = opened.map_err(|error| {
            format!("Cannot create network device: Open tap device failed: {error}: {}", card.host_dev_name)
        })?;
        MAC.set(card.guest_mac.clone().unwrap_or_default());
        (self.tap, self.shape.card) = (Some(tap), Some(card));
        Ok(())
    }
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, String> {
    serde_json::from_slice(body)
        .map_err(|error| format!("An error occurred when deserializing the json body of a request: {error}."))
}

fn open(path: &str, write: bool) -> Result<File, String> {
    use std::os::unix::fs::OpenOptionsExt;
    let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let opened = OpenOptions::new().read(true).write(write).custom_flags(flags).open(path);
    opened.map_err(|error| format!("Unable to open the backing file: {error} {path}"))
}

/// Writes a file of a snapshot, which the API takes in place of one that is there.
fn write(path: &str, bytes: &[u8]) -> Result<(), String> {
    std::fs::write(path, bytes).map_err(|error| format!("Cannot write {path}: {error}"))
}

/// Makes the machine that of a snapshot.
fn load(files: &LoadSnapshot, machine: &mut Machine) -> Outcome {
    let read =
        |path: &str| std::fs::read(path).map_err(|error| format!("Load snapshot error: {path}: {error}"));
    let shape: Shape = serde_json::from_slice(&read(&files.snapshot_path)?)
        .map_err(|error| format!("Load snapshot error: Failed to restore from snapshot: {error}"))?;
    let word = read(&files.mem_backend.backend_path)?;
    for (id, path, is_read_only) in &shape.drives {
        machine.drives.push((id.clone(), open(path, !is_read_only)?));
    }
    if let Some(mut card) = shape.card.clone() {
        for other in files.network_overrides.iter().filter(|other| other.iface_id == card.iface_id) {
            card.host_dev_name.clone_from(&other.host_dev_name);
        }
        machine.plug_in(card)?;
    }
    if let Some(path) = &shape.vsock {
        let listener = UnixListener::bind(path).map_err(|error| error.to_string())?;
        spawn_local(serve_guest(listener));
    }
    WORD.set(String::from_utf8_lossy(&word).into_owned());
    (machine.boots, machine.running, machine.paused) = (true, true, !files.resume_vm);
    machine.shape = Shape { card: machine.shape.card.take(), ..shape };
    Ok(String::new())
}

thread_local! {
    /// What its guest has in memory.
    static WORD: RefCell<String> = RefCell::default();
    /// Where it logs, and writes its counters.
    static LOG: RefCell<Option<File>> = const { RefCell::new(None) };
    static METRICS: RefCell<Option<File>> = const { RefCell::new(None) };
    /// The address of its card.
    static MAC: RefCell<String> = RefCell::default();
}

fn act(action: Action, machine: &mut Machine) -> Outcome {
    match action.action_type {
        ActionType::InstanceStart if machine.running || !machine.boots => {
            Err("Cannot start microvm without kernel configuration, or twice.".to_owned())
        }
        ActionType::InstanceStart => {
            machine.running = true;
            say("guest: up\nguest: serving\n");
            if let Some(listener) = machine.vsock.take() {
                spawn_local(serve_guest(listener));
            }
            Ok(String::new())
        }
        // The kernel's own answer to those keys, where an init has not changed it.
        ActionType::SendCtrlAltDel if machine.running => {
            machine.restarts = true;
            Ok(String::new())
        }
        ActionType::SendCtrlAltDel | ActionType::FlushMetrics => {
            Err("The requested operation is not supported before starting the microVM.".to_owned())
        }
    }
}

/// Writes to the console, whose reader may be away: what it does not take is lost, as it is with Firecracker.
fn say(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes()).and_then(|()| std::io::stdout().flush());
}

/// Writes a line to one of its logs. What a pipe does not take is lost, as it is with Firecracker.
fn log(to: &'static std::thread::LocalKey<RefCell<Option<File>>>, line: &str) {
    to.with_borrow_mut(|file| drop(file.as_mut().map(|file| file.write_all(line.as_bytes()))));
}

fn restart(last_words: &str) -> ! {
    say(last_words);
    exit(0)
}

/// Serves the host's side of vsock (`docs/vsock.md` of Firecracker's source).
async fn serve_guest(listener: UnixListener) {
    while let Ok((stream, _)) = listener.accept().await {
        spawn_local(async move {
            let mut stream = BufReader::new(stream);
            let mut line = String::new();
            if stream.read_line(&mut line).await.is_ok() && line == format!("CONNECT {PORT}\n") {
                let _ = stream.write_all(b"OK 1073741824\n").await;
                let _ = converse(stream).await;
            }
        });
    }
}

/// The suite's guest: the same commands as `conformance_guest.rs`.
async fn converse(mut stream: BufReader<UnixStream>) -> std::io::Result<()> {
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    match line.trim() {
        "echo" => {
            let mut buffer = vec![0; 4096];
            while let count @ 1.. = stream.read(&mut buffer).await? {
                stream.write_all(&buffer[..count]).await?;
            }
        }
        "recall" => {
            let word = WORD.with_borrow(|word| word.clone());
            stream.write_all(format!("{word}\n").as_bytes()).await?;
        }
        "card" => {
            let address = MAC.with_borrow(|address| address.clone());
            stream.write_all(format!("{address}\n").as_bytes()).await?;
        }
        line if line.starts_with("complain ") => {
            let count = line["complain ".len()..].parse().unwrap_or(0);
            for number in 0..count {
                log(&LOG, &format!("2026-12-01 [stand-in:fc_vcpu 0] complaint {number}\n"));
            }
            log(&METRICS, "{\"utc_timestamp_ms\":1,\"block\":{\"event_fails\":2,\"flush_count\":9}}\n");
            stream.write_all(b"said\n").await?;
        }
        // It halts, and its machine goes on doing nothing.
        "poweroff" => {
            say("[    1.0] reboot: Power off not available: System halted instead\n");
            std::future::pending().await
        }
        "reboot" => restart("[    1.0] reboot: Restarting system\n"),
        "panic" => restart("[    1.0] Kernel panic - not syncing: Attempted to kill init!\n"),
        line if line.starts_with("remember ") => {
            WORD.set(line["remember ".len()..].to_owned());
            stream.write_all(b"said\n").await?;
        }
        line => {
            let count = line.strip_prefix("say ").and_then(|count| count.parse().ok()).unwrap_or(0);
            for number in 0..count {
                say(&format!("guest: line {number}\n"));
            }
            stream.write_all(b"said\n").await?;
        }
    }
    Ok(())
}
