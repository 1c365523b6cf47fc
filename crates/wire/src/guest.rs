//! The guest's side: what a guest is told at boot, and what its agent answers.
//!
//! [`Config`] travels as `/banger/config.json` in the initramfs. The requests are HTTP/2 on the one byte stream of the
//! VMM; their bodies are JSON unless said otherwise.
//!
//! | request | body → answer |
//! | --- | --- |
//! | `GET /v1/health` | → [`Health`] |
//! | `POST /v1/exec` | [`crate::exec`] frames ↔ frames |
//! | `POST /v1/connect?tcp=PORT` or `?unix=PATH` | bytes ↔ bytes; PORT on the guest's 127.0.0.1 |
//! | `GET /v1/tree?path=P` | → a tar of P; with `follow=true`, of what it leads to where it is a link |
//! | `PUT /v1/tree?path=P` | a tar → unpacked below directory P; with `make=true` a workspace's P is made where it is missing; with `into=true`, of one thing, it goes into P where that is a directory and becomes P otherwise |
//! | `GET /v1/tree/list?path=P` | → lines of [`crate::tree::Line`]: what lies below P |
//! | `POST /v1/tree/pick?path=P` | lines of [`crate::tree::Wanted`] → their contents, in that order |
//! | `POST /v1/tree/remove?path=P` | paths below P as JSON words, one a line → 204 when they are gone |
//! | `GET /v1/ports` | → [`Ports`] |
//! | `GET /v1/stats` | → [`Stats`] |
//! | `POST /v1/grow` | → [`Grown`]: the overlay and work file systems fill their disks |
//! | `POST /v1/sync` | → 204 after `sync(2)` |
//! | `POST /v1/hold` | → 204 after `sync(2)`: nothing but these three and health is served until one of the next two |
//! | `POST /v1/release` | [`Clock`] → 204: it goes on as who it is |
//! | `POST /v1/configure` | [`Identity`] → 204: it is that one from now on |
//! | `POST /v1/poweroff` | [`Poweroff`] → 202; then the guest ends |
//!
//! A query value is percent-encoded. Failures are [`crate::control::ErrorBody`] with a 4xx or 5xx status.

mod answer;

use std::net::Ipv4Addr;

pub use answer::{AnswerError, answer, refusal};
use serde::{Deserialize, Serialize};

use crate::Word;

/// The version of these types. The agent always matches the daemon that booted it, except across a daemon's upgrade.
pub const VERSION: u32 = 1;
/// Where the boot payload holds the [`Config`].
pub const CONFIG_PATH: &str = "banger/config.json";
/// The port of `AF_VSOCK` (vsock(7)) where the agent listens.
pub const VSOCK_PORT: u32 = 52;
/// The most bytes of a JSON answer that the daemon reads from a guest.
pub const MAX_ANSWER: usize = 1 << 20;

/// What a guest is told at boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// [`VERSION`]; another one is refused.
    pub version: u32,
    /// Where the agent serves the host.
    pub channel: Channel,
    /// The host name: the VM's name.
    pub hostname: String,
    /// `/etc/machine-id` (machine-id(5)): 32 hexadecimal digits, the same at every boot of this VM.
    pub machine_id: String,
    /// The disks, in the order they are attached.
    pub disks: Vec<Disk>,
    /// What to run as init.
    pub init: Init,
    /// How this VMM's machine ends.
    pub end: End,
    /// Variables for commands: the image's, then the VM's.
    #[serde(default)]
    pub env: Vec<(Word, Word)>,
    /// Keys for sshd, where the image has one.
    #[serde(default)]
    pub ssh: Option<Ssh>,
    /// Its network, where it has a card.
    #[serde(default)]
    pub network: Option<Network>,
}

/// What the guest is on its network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// The card's address, by which it is found: `02:00:5e:10:00:01`.
    pub mac: String,
    /// The guest's address.
    pub address: Ipv4Addr,
    /// How many bits of it tell its network.
    pub prefix: u8,
    /// Where everything else is.
    pub gateway: Ipv4Addr,
    /// The largest packet.
    pub mtu: u16,
    /// Whom it asks for names.
    pub resolvers: Vec<Ipv4Addr>,
}

/// The byte stream between host and agent.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Channel {
    /// A virtio-serial port ([`crate::session`]).
    VirtioSerial {
        /// Its secret, 32 hexadecimal digits ([`crate::session::Secret`]).
        secret: String,
    },
    /// Connections of the host to [`VSOCK_PORT`]: each is a stream of its own, so nothing lies under HTTP/2.
    Vsock,
}

impl std::fmt::Debug for Channel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::VirtioSerial { .. } => "VirtioSerial",
            Self::Vsock => "Vsock",
        })
    }
}

/// One disk and what it is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// What it is for.
    pub role: DiskRole,
    /// Its virtio serial, where the VMM shows one.
    #[serde(default)]
    pub serial: Option<String>,
    /// The UUID of its ext4 file system, as 8-4-4-4-12 hexadecimal digits; checked before it is mounted.
    pub uuid: String,
}

/// What a disk is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DiskRole {
    /// The image, read-only.
    Image,
    /// The system overlay.
    Overlay,
    /// The work disk, on `/root`.
    Work,
    /// The kernel's module tree, read-only.
    Modules,
}

/// What becomes PID 1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Init {
    /// `/sbin/init` where it is systemd, or sysvinit or openrc whose sysinit program exists; else the agent stays.
    Auto,
    /// The agent stays PID 1.
    Agent,
    /// This program of the image.
    Path(String),
}

/// How a machine ends so that its VMM notices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// ACPI power-off.
    Poweroff,
    /// A reset; for VMMs where power-off does not end the machine.
    Reboot,
}

/// Keys for the guest's sshd.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ssh {
    /// Lines for root's `authorized_keys`.
    pub authorized: Vec<String>,
    /// The ed25519 host key in OpenSSH's private key form.
    pub host_key: String,
    /// Its public half, one line.
    pub host_key_public: String,
}

impl std::fmt::Debug for Ssh {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ssh").field("host_key_public", &self.host_key_public).finish_non_exhaustive()
    }
}

/// Who a guest is that was restored from what another one was.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The host name.
    pub hostname: String,
    /// `/etc/machine-id`.
    pub machine_id: String,
    /// Variables for commands, instead of those that there are.
    pub env: Vec<(Word, Word)>,
    /// Keys for sshd, where the image has one.
    pub ssh: Option<Ssh>,
    /// Its network, where it has a card.
    pub network: Option<Network>,
    /// 64 random bytes in hexadecimal: what two guests draw from that were one is not the same any more.
    pub entropy: String,
    /// Milliseconds since the Unix epoch.
    pub now_ms: u64,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("hostname", &self.hostname).finish_non_exhaustive()
    }
}

/// What time it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clock {
    /// Milliseconds since the Unix epoch.
    pub now_ms: u64,
}

/// How the agent and the guest are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Health {
    /// [`VERSION`].
    pub version: u32,
    /// The agent's own version.
    pub agent: String,
    /// The guest kernel's release (uname(2)).
    pub kernel: String,
    /// `/proc/sys/kernel/random/boot_id`: another one after every boot.
    pub boot_id: String,
    /// Milliseconds since the guest's kernel began.
    pub uptime_ms: u64,
    /// How long each boot step took, in order.
    pub steps: Vec<Step>,
    /// What PID 1 is.
    pub init: InitKind,
    /// Whether init has finished starting; `None` where it cannot be known.
    pub init_ready: Option<bool>,
}

/// One timed step of the boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Step {
    /// What was done.
    pub name: String,
    /// Microseconds since the guest's kernel began when it was finished.
    pub at_us: u64,
    /// Microseconds that it took.
    pub took_us: u64,
}

/// What PID 1 of a guest is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum InitKind {
    /// The agent itself.
    Agent,
    /// systemd.
    Systemd,
    /// sysvinit.
    Sysvinit,
    /// openrc.
    Openrc,
    /// A program that the image's manifest names.
    Other,
}

/// Listening sockets of a guest.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Ports {
    /// One entry a socket.
    pub ports: Vec<Port>,
}

/// One listening socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Port {
    /// `tcp` or `udp`.
    pub proto: String,
    /// The address it is bound to.
    pub address: String,
    /// The port.
    pub port: u16,
    /// The process that listens, where it could be found.
    #[serde(default)]
    pub pid: Option<u32>,
    /// Its name; written by the guest, so to be escaped before it is shown.
    #[serde(default)]
    pub process: Option<String>,
}

/// What a guest uses.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Stats {
    /// Busy CPU time since boot, in milliseconds, over all CPUs.
    pub cpu_ms: u64,
    /// The load average of one minute (proc(5)).
    pub load_1m: f64,
    /// Memory in bytes.
    pub memory_total: u64,
    /// Memory in bytes that could be given out.
    pub memory_available: u64,
    /// Bytes of the system overlay.
    pub overlay: Usage,
    /// Bytes of the work disk.
    pub work: Usage,
    /// Bytes received by all devices but lo.
    pub net_rx: u64,
    /// Bytes sent by all devices but lo.
    pub net_tx: u64,
}

/// How full a file system is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Usage {
    /// Its size in bytes.
    pub total: u64,
    /// Bytes in use.
    pub used: u64,
}

/// `GET /v1/user?name=`: a user of the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// The user's number.
    pub uid: u32,
    /// The number of the main group.
    pub gid: u32,
    /// The home directory.
    pub home: String,
}

/// The new sizes after `grow`, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grown {
    /// The system overlay.
    pub overlay: u64,
    /// The work disk.
    pub work: u64,
}

/// How to end the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Poweroff {
    /// How long init may take before the agent syncs, remounts read-only and ends the machine itself, in milliseconds;
    /// zero does not ask init at all.
    pub init_timeout_ms: u64,
}
