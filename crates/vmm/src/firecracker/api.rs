//! Firecracker's control socket: the requests of its published API that a machine needs.
//!
//! Each is an HTTP/1.1 request with a JSON body on a connection of its own
//! (`src/firecracker/swagger/firecracker.yaml` of its source). Answers are bounded, because a guest may have taken over the
//! process that writes them.

use std::{io::ErrorKind, path::PathBuf, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use model::boot::{DiskAccess, DiskRole};
use serde::{Deserialize, Serialize};
use tokio::time::{sleep, timeout};

use super::version::{Ability, Version};
use crate::{ControlError, MachinePlan, MachineStatus, launch::stream, task::Task};

/// When a request that was not answered is given up.
const ANSWER: Duration = Duration::from_secs(5);
/// The same of one that writes or maps a machine's memory, on a disk that is slow.
const WHOLE: Duration = Duration::from_secs(600);
/// The longest answer.
const LONGEST: usize = 64 << 10;
/// Between two looks for a socket that is not there yet.
const INTERVAL: Duration = Duration::from_millis(1);
/// The guest's address in vsock(7); the host reaches it by a socket of each machine's own, so all may have the same.
const GUEST_CID: u32 = 3;
/// Virtual memory sizes are in these.
const MIB: u64 = 1 << 20;

/// `PUT /machine-config`.
#[derive(Serialize)]
struct MachineConfig {
    vcpu_count: u32,
    mem_size_mib: u64,
}

/// `PUT /boot-source`.
#[derive(Serialize)]
struct BootSource<'a> {
    kernel_image_path: &'a str,
    initrd_path: &'a str,
    boot_args: &'a str,
}

/// `PUT /drives/{drive_id}`.
#[derive(Serialize)]
struct Drive<'a> {
    drive_id: &'a str,
    path_on_host: &'a str,
    is_root_device: bool,
    is_read_only: bool,
    /// `Writeback` has the guest's flushes reach the disk; by itself they do not.
    cache_type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    rate_limiter: Option<RateLimiter>,
}

/// What may pass a device.
#[derive(Clone, Copy, Serialize)]
struct RateLimiter {
    bandwidth: TokenBucket,
}

/// So many bytes in so many milliseconds.
#[derive(Clone, Copy, Serialize)]
struct TokenBucket {
    size: u64,
    refill_time: u64,
}

impl RateLimiter {
    /// So many bytes in a second.
    fn of(rate: u64) -> Self {
        Self { bandwidth: TokenBucket { size: rate, refill_time: 1000 } }
    }
}

/// `PATCH /drives/{drive_id}`.
#[derive(Serialize)]
struct ChangedDrive<'a> {
    drive_id: &'a str,
    path_on_host: &'a str,
}

/// `PUT /network-interfaces/{iface_id}`. It opens the tap by its name; the guest's MTU is the agent's to set.
#[derive(Serialize)]
struct NetworkInterface<'a> {
    iface_id: &'static str,
    guest_mac: String,
    host_dev_name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    rx_rate_limiter: Option<RateLimiter>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tx_rate_limiter: Option<RateLimiter>,
}

/// The id of the one card that a machine may have.
const CARD: &str = "net";

/// `PUT /vsock`.
#[derive(Serialize)]
struct Vsock<'a> {
    guest_cid: u32,
    uds_path: &'a str,
}

/// `PUT /entropy`.
#[derive(Serialize)]
struct Entropy {}

/// `PUT /balloon`. It takes nothing by itself.
#[derive(Serialize)]
struct Balloon {
    amount_mib: u64,
    deflate_on_oom: bool,
    /// What the guest has freed goes back to the host.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    free_page_reporting: bool,
}

/// `PUT /actions`.
#[derive(Serialize)]
struct Action {
    action_type: &'static str,
}

/// `PATCH /vm`.
#[derive(Serialize)]
struct Vm {
    state: &'static str,
}

/// `PUT /snapshot/create`.
#[derive(Serialize)]
struct CreateSnapshot<'a> {
    snapshot_type: &'static str,
    snapshot_path: &'a str,
    mem_file_path: &'a str,
}

/// `PUT /snapshot/load`.
#[derive(Serialize)]
struct LoadSnapshot<'a> {
    snapshot_path: &'static str,
    mem_backend: MemoryBackend,
    resume_vm: bool,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    network_overrides: &'a [NetworkOverride<'a>],
}

/// Another tap than the one that the saved machine had.
#[derive(Serialize)]
struct NetworkOverride<'a> {
    iface_id: &'static str,
    host_dev_name: &'a str,
}

/// Where the memory of a snapshot comes from. It is mapped privately: what a machine changes in it is its own.
#[derive(Serialize)]
struct MemoryBackend {
    backend_type: &'static str,
    backend_path: &'static str,
}

/// The answer of `GET /`.
#[derive(Deserialize)]
struct Instance {
    state: String,
    vmm_version: String,
}

/// An answer that is a refusal.
#[derive(Deserialize)]
struct Fault {
    fault_message: String,
}

/// The control socket of one machine.
#[derive(Debug, Clone)]
pub(super) struct Api {
    socket: PathBuf,
}

impl Api {
    /// The one at `socket`, which need not be there yet.
    pub(super) fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    /// Waits until it is there, for as long as it takes; gives its version.
    pub(super) async fn appear(&self) -> Result<Version, ControlError> {
        loop {
            match self.instance().await {
                Err(ControlError::Ended) => sleep(INTERVAL).await,
                answer => return answer.map(|(_, version)| version),
            }
        }
    }

    /// Sets up the machine of `plan` as `version` can, whose agent is reached at `agent` and whose card is at `tap`, and starts it.
    pub(super) async fn start(
        &self,
        version: Version,
        plan: &MachinePlan,
        agent: &str,
        tap: Option<&str>,
    ) -> Result<(), ControlError> {
        let machine = MachineConfig { vcpu_count: plan.vcpus.max(1), mem_size_mib: plan.memory / MIB };
        self.put("/machine-config", &machine).await?;
        let boot = BootSource {
            kernel_image_path: &plan.kernel,
            initrd_path: &plan.initrd,
            boot_args: &plan.command_line,
        };
        self.put("/boot-source", &boot).await?;
        // The guest knows them by the order in which they come.
        for disk in &plan.disks {
            let drive = Drive {
                drive_id: disk.role.name(),
                path_on_host: &disk.file,
                is_root_device: false,
                is_read_only: disk.role.access() == DiskAccess::ReadOnly,
                cache_type: "Writeback",
                rate_limiter: plan.limits.disk.map(RateLimiter::of),
            };
            self.put(drive_path(disk.role), &drive).await?;
        }
        if let (Some(nic), Some(host_dev_name)) = (&plan.nic, tap) {
            let guest_mac = nic.card.mac.to_string();
            let rate = plan.limits.network.map(RateLimiter::of);
            let card = NetworkInterface {
                iface_id: CARD,
                guest_mac,
                host_dev_name,
                rx_rate_limiter: rate,
                tx_rate_limiter: rate,
            };
            self.put("/network-interfaces/net", &card).await?;
        }
        self.put("/vsock", &Vsock { guest_cid: GUEST_CID, uds_path: agent }).await?;
        self.put("/entropy", &Entropy {}).await?;
        let free_page_reporting = version.can(Ability::FreePageReporting);
        let balloon = Balloon { amount_mib: 0, deflate_on_oom: true, free_page_reporting };
        self.put("/balloon", &balloon).await?;
        self.put("/actions", &Action { action_type: "InstanceStart" }).await
    }

    /// Holds the machine.
    pub(super) async fn pause(&self) -> Result<(), ControlError> {
        self.change_vm("Paused").await
    }

    /// Lets it go on.
    pub(super) async fn resume(&self) -> Result<(), ControlError> {
        self.change_vm("Resumed").await
    }

    async fn change_vm(&self, state: &'static str) -> Result<(), ControlError> {
        self.call_within(WHOLE, Method::PATCH, "/vm", body(&Vm { state })).await.map(drop)
    }

    /// Writes the held machine's devices to `state` and its memory to `memory`, both in its directory.
    pub(super) async fn save(&self, state: &str, memory: &str) -> Result<(), ControlError> {
        let files = CreateSnapshot { snapshot_type: "Full", snapshot_path: state, mem_file_path: memory };
        self.call_within(WHOLE, Method::PUT, "/snapshot/create", body(&files)).await.map(drop)
    }

    /// Has it go on from what was saved so, instead of being set up, its card at `tap` where that is told.
    pub(super) async fn restore(
        &self,
        state: &'static str,
        memory: &'static str,
        tap: Option<&str>,
    ) -> Result<(), ControlError> {
        let mem_backend = MemoryBackend { backend_type: "File", backend_path: memory };
        let taps = tap.map(|host_dev_name| NetworkOverride { iface_id: CARD, host_dev_name });
        let files = LoadSnapshot {
            snapshot_path: state,
            mem_backend,
            resume_vm: true,
            network_overrides: taps.as_slice(),
        };
        self.call_within(WHOLE, Method::PUT, "/snapshot/load", body(&files)).await.map(drop)
    }

    /// What it says of its machine.
    pub(super) async fn status(&self) -> Result<MachineStatus, ControlError> {
        self.instance().await.map(|(status, _)| status)
    }

    /// What it says of its machine, and its version.
    pub(super) async fn instance(&self) -> Result<(MachineStatus, Version), ControlError> {
        let answer = self.call(Method::GET, "/", Bytes::new()).await?;
        let instance: Instance = serde_json::from_slice(&answer).map_err(|_| ControlError::Protocol)?;
        let status = match instance.state.as_str() {
            "Running" => MachineStatus::Running,
            "Paused" | "Not started" => MachineStatus::Paused,
            _ => return Err(ControlError::Protocol),
        };
        let version = Version::parse(&instance.vmm_version).ok_or(ControlError::Protocol)?;
        Ok((status, version))
    }

    /// Presses Control, Alt and Delete on the keyboard that every machine has.
    pub(super) async fn press_ctrl_alt_del(&self) -> Result<(), ControlError> {
        self.put("/actions", &Action { action_type: "SendCtrlAltDel" }).await
    }

    /// Has it look at the file of a disk again, whose size has changed.
    pub(super) async fn refresh(&self, role: DiskRole, file: &str) -> Result<(), ControlError> {
        let body = body(&ChangedDrive { drive_id: role.name(), path_on_host: file });
        self.call(Method::PATCH, drive_path(role), body).await.map(drop)
    }

    async fn put(&self, path: &'static str, value: &impl Serialize) -> Result<(), ControlError> {
        self.call(Method::PUT, path, body(value)).await.map(drop)
    }

    async fn call(&self, method: Method, path: &'static str, body: Bytes) -> Result<Bytes, ControlError> {
        self.call_within(ANSWER, method, path, body).await
    }

    async fn call_within(
        &self,
        patience: Duration,
        method: Method,
        path: &'static str,
        body: Bytes,
    ) -> Result<Bytes, ControlError> {
        let call = async {
            let socket = match host::sock::connect(&self.socket) {
                Ok(socket) => socket,
                Err(e) if e.is_missing() || e.kind() == ErrorKind::ConnectionRefused => {
                    return Err(ControlError::Ended);
                }
                Err(e) => return Err(e.into()),
            };
            let (mut sender, connection) =
                http1::handshake(TokioIo::new(stream(socket)?)).await.map_err(broken)?;
            let request = Request::builder()
                .method(method)
                .uri(path)
                .header(header::HOST, "localhost")
                .header(header::ACCEPT, "application/json")
                .header(header::CONTENT_TYPE, "application/json")
                .body(Full::new(body))
                .expect("its parts are constants");
            let connection = Task::spawn(connection);
            let answer = match sender.send_request(request).await {
                Ok(answer) => answer,
                // The connection knows better why.
                Err(error) => {
                    return Err(broken(connection.join().await.ok().and_then(Result::err).unwrap_or(error)));
                }
            };
            let status = answer.status();
            let body = Limited::new(answer.into_body(), LONGEST).collect().await;
            let body = body.map_err(|_| ControlError::Protocol)?.to_bytes();
            if status.is_success() {
                return Ok(body);
            }
            let fault: Fault = serde_json::from_slice(&body).map_err(|_| ControlError::Protocol)?;
            Err(ControlError::Refused { command: path, reason: fault.fault_message })
        };
        timeout(patience, call).await.unwrap_or(Err(ControlError::Timeout(patience)))
    }
}

/// What became of a connection that failed.
fn broken(error: hyper::Error) -> ControlError {
    if error.is_parse() { ControlError::Protocol } else { ControlError::Ended }
}

fn body(value: &impl Serialize) -> Bytes {
    serde_json::to_vec(value).expect("texts, numbers and flags").into()
}

/// A disk's path in the API: its role is its id.
fn drive_path(role: DiskRole) -> &'static str {
    match role {
        DiskRole::Image => "/drives/image",
        DiskRole::Overlay => "/drives/overlay",
        DiskRole::Work => "/drives/work",
        DiskRole::Modules => "/drives/modules",
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::UnixListener,
    };

    use super::*;

    /// Asks for the status of somebody who answers with `head`, and with `body` for as long as that is taken.
    async fn ask(name: &str, head: &'static str, body: &'static [u8]) -> Result<MachineStatus, ControlError> {
        let path = std::env::temp_dir().join(format!("banger-api-{name}-{}", std::process::id()));
        host::fs::remove(&path).unwrap();
        let listener = UnixListener::bind(&path).unwrap();
        let serving = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let _ = stream.read(&mut request).await;
            let _ = stream.write_all(head.as_bytes()).await;
            while !body.is_empty() && stream.write_all(body).await.is_ok() {}
            // It waits for whoever asked to go.
            let _ = stream.read(&mut request).await;
        });
        let answer = Api::new(path.clone()).status().await;
        serving.abort();
        host::fs::remove(&path).unwrap();
        answer
    }

    #[tokio::test]
    async fn answers_and_refusals_are_told_apart() {
        let running = "HTTP/1.1 200 \r\nContent-Length: 45\r\n\r\n{\"state\": \"Running\", \"vmm_version\": \"1.12.1\"}";
        assert_eq!(ask("running", running, b"").await.unwrap(), MachineStatus::Running);
        let refusal = "HTTP/1.1 400 \r\nContent-Length: 23\r\n\r\n{\"fault_message\": \"no\"}";
        let error = ask("refusal", refusal, b"").await.unwrap_err();
        assert_eq!(error.to_string(), "the VMM refused /: no");
        let nobody = Api::new(Path::new("/nonexistent/api.sock").to_owned());
        assert!(matches!(nobody.status().await, Err(ControlError::Ended)));
    }

    #[tokio::test]
    async fn what_is_not_the_api_is_refused_and_no_endless_answer_read() {
        let unknown =
            "HTTP/1.1 200 \r\nContent-Length: 44\r\n\r\n{\"state\": \"Lost!!\", \"vmm_version\": \"1.12.1\"}";
        let nameless =
            "HTTP/1.1 200 \r\nContent-Length: 40\r\n\r\n{\"state\": \"Running\", \"vmm_version\": \"x\"}";
        let chunked = "HTTP/1.1 200 \r\nTransfer-Encoding: chunked\r\n\r\n";
        const CHUNK: &[u8] = b"10\r\n0123456789abcdef\r\n";
        for (name, head, body) in [
            ("unknown", unknown, b"".as_slice()),
            ("nameless", nameless, b""),
            ("noise", "\x01\x02 this is no HTTP\r\n\r\n", b""),
            ("endless", chunked, CHUNK),
            ("mute", "HTTP/1.1 400 \r\nContent-Length: 0\r\n\r\n", b""),
        ] {
            let error = ask(name, head, body).await.unwrap_err();
            assert!(matches!(error, ControlError::Protocol), "{name}: {error:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_given_up() {
        assert!(matches!(ask("silence", "", b"").await, Err(ControlError::Timeout(ANSWER))));
    }
}
