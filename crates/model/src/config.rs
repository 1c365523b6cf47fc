//! The settings of an installation: which keys there are, what they may be, and what they are when nobody says.
//!
//! Whoever reads the file turns it into [`Entry`]s; everything after that is decided here.
//!
//! ```text
//! built in ──▶ files ──▶ BANGER_* variables ──▶ Checked: a Config, and where each of its values was said
//! ```

use std::{ops::Range, path::PathBuf, time::Duration};

use crate::{
    ImageName, KernelName,
    location::Location,
    network::Nat,
    size, sizing,
    sizing::Wish,
    sync::{FileSync, HomePath, HostPath, SyncError},
};

mod limits;
mod mistake;
mod resolvers;

pub use limits::Limits;
use limits::{rate, rate_text};
pub use mistake::{Mistake, Reason, Spot, Stray, Wrong, position, stray};
pub use resolvers::Resolvers;

/// The name of the file in the directory of the configuration.
pub const FILE: &str = "config.toml";

/// A setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// How much the daemon logs.
    LogLevel,
    /// The image of a VM for which none is named.
    DefaultImage,
    /// The kernel of an image that names none.
    DefaultKernel,
    /// Where the catalog of images is refreshed from.
    ImageCatalog,
    /// Where the catalog of kernels is refreshed from.
    KernelCatalog,
    /// Who signs both.
    CatalogKey,
    /// The VMM of a VM for which none is named.
    Vmm,
    /// Whether QEMU's guests run on KVM.
    Accelerator,
    /// QEMU's program.
    QemuBin,
    /// Firecracker's program.
    FirecrackerBin,
    /// How long a stop may take.
    StopTimeout,
    /// How long a start may take.
    BootTimeout,
    /// How long a VM may stay unused.
    AutoStopStaleAfter,
    /// How often guests are asked what they use.
    StatsInterval,
    /// Virtual CPUs of a VM for which none are said.
    Vcpu,
    /// Memory of a VM for which none is said.
    Memory,
    /// The work disk of a VM for which none is said.
    DiskSize,
    /// The system overlay of a VM for which none is said.
    OverlaySize,
    /// Whether a VM for which nothing is said reaches the world.
    Nat,
    /// How VMs are connected.
    NetworkMode,
    /// Where this host asks for the names of VMs.
    DnsPort,
    /// Whom VMs on the bridge are told the names of the world by.
    UpstreamDns,
    /// How fast a VM's disks may be.
    DiskRate,
    /// How fast a VM's network may be.
    NetworkRate,
}

/// What the value of a key is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The name of an image.
    Image,
    /// The name of a kernel.
    Kernel,
    /// Where a file can be fetched from.
    Location,
    /// A public key of minisign.
    SigningKey,
    /// The absolute path of a program.
    Program,
    /// One of these words.
    Word(&'static [&'static str]),
    /// A time like `10s`.
    Duration,
    /// A time like `2h`, or never.
    DurationOrNever,
    /// A number of virtual CPUs.
    Vcpu,
    /// A port that needs no privilege.
    Port,
    /// Addresses of resolvers.
    Resolvers,
    /// A size like `512M`.
    Size,
    /// A size like `50M` for each second, or none.
    Rate,
    /// Yes or no.
    Switch,
}

/// What a key is where nobody says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fallback {
    /// This.
    Value(&'static str),
    /// Something that depends on the host, in words.
    Auto(&'static str),
}

/// A key of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    /// What it sets.
    pub field: Field,
    /// Its name; a dot separates a table from the key in it.
    pub name: &'static str,
    /// The environment variable that wins over the file.
    pub variable: &'static str,
    /// What its value is.
    pub kind: Kind,
    /// What it is where nobody says.
    pub fallback: Fallback,
    /// What it is for, a sentence for the manual.
    pub meaning: &'static str,
}

const fn key(
    field: Field,
    name: &'static str,
    variable: &'static str,
    kind: Kind,
    fallback: Fallback,
    meaning: &'static str,
) -> Key {
    Key { field, name, variable, kind, fallback, meaning }
}

/// Every key, in the order in which they are shown.
#[rustfmt::skip]
pub const KEYS: &[Key] = &[
    key(Field::LogLevel, "log_level", "BANGER_LOG_LEVEL", Kind::Word(LogLevel::WORDS), Fallback::Value("info"),
        "How much the daemon writes to its log."),
    key(Field::DefaultImage, "default_image", "BANGER_DEFAULT_IMAGE", Kind::Image, Fallback::Value("debian-bookworm"),
        "The image of a VM for which none is named."),
    key(Field::DefaultKernel, "default_kernel", "BANGER_DEFAULT_KERNEL", Kind::Kernel, Fallback::Value("debian-cloud"),
        "The kernel of an image that names none."),
    key(Field::ImageCatalog, "image_catalog", "BANGER_IMAGE_CATALOG", Kind::Location, Fallback::Auto("none"),
        "Where `banger catalog refresh` gets the catalog of images; its signature lies beside it, as `.minisig`."),
    key(Field::KernelCatalog, "kernel_catalog", "BANGER_KERNEL_CATALOG", Kind::Location, Fallback::Auto("none"),
        "The same for the catalog of kernels."),
    key(Field::CatalogKey, "catalog_key", "BANGER_CATALOG_KEY", Kind::SigningKey, Fallback::Auto("none"),
        "Whose signature a catalog must have."),
    key(Field::Vmm, "vmm", "BANGER_VMM", Kind::Word(Vmm::WORDS), Fallback::Value("auto"),
        "What runs a VM for which `--vmm` was not given."),
    key(Field::Accelerator, "accelerator", "BANGER_ACCELERATOR", Kind::Word(Accelerator::WORDS), Fallback::Value("auto"),
        "What runs a guest's instructions: the processor (`kvm`), QEMU's emulation (`tcg`), or the processor where a test guest ran on it."),
    key(Field::QemuBin, "qemu_bin", "BANGER_QEMU_BIN", Kind::Program, Fallback::Auto("`qemu-system-x86_64` in `PATH`"),
        "QEMU's program."),
    key(Field::FirecrackerBin, "firecracker_bin", "BANGER_FIRECRACKER_BIN", Kind::Program,
        Fallback::Auto("`firecracker` in `PATH`"), "Firecracker's program."),
    key(Field::StopTimeout, "stop_timeout", "BANGER_STOP_TIMEOUT", Kind::Duration, Fallback::Value("10s"),
        "How long a guest may take to shut down before its machine is ended."),
    key(Field::BootTimeout, "boot_timeout", "BANGER_BOOT_TIMEOUT", Kind::Duration, Fallback::Value("2m"),
        "How long a guest may take until its agent answers."),
    key(Field::AutoStopStaleAfter, "auto_stop_stale_after", "BANGER_AUTO_STOP_STALE_AFTER", Kind::DurationOrNever,
        Fallback::Value("never"), "How long a VM may be unused until it is stopped."),
    key(Field::StatsInterval, "stats_interval", "BANGER_STATS_INTERVAL", Kind::Duration, Fallback::Value("10s"),
        "How often guests are asked what they use, for `vm stats`."),
    key(Field::Vcpu, "vm_defaults.vcpu", "BANGER_VM_DEFAULTS_VCPU", Kind::Vcpu,
        Fallback::Auto("a quarter of the host's, 1 to 4"), "Virtual CPUs of a VM."),
    key(Field::Memory, "vm_defaults.memory", "BANGER_VM_DEFAULTS_MEMORY", Kind::Size,
        Fallback::Auto("an eighth of the host's, 512 MiB to 8 GiB"), "Memory of a VM."),
    key(Field::DiskSize, "vm_defaults.disk_size", "BANGER_VM_DEFAULTS_DISK_SIZE", Kind::Size, Fallback::Value("8G"),
        "The most that a VM's work disk, `/root`, holds."),
    key(Field::OverlaySize, "vm_defaults.overlay_size", "BANGER_VM_DEFAULTS_OVERLAY_SIZE", Kind::Size,
        Fallback::Value("8G"), "The most that a VM's changes to its system hold."),
    key(Field::Nat, "vm_defaults.nat", "BANGER_VM_DEFAULTS_NAT", Kind::Switch, Fallback::Value("false"),
        "Whether a VM reaches the world for which neither `--nat` nor `--no-nat` was given."),
    key(Field::NetworkMode, "network.mode", "BANGER_NETWORK_MODE", Kind::Word(NetworkMode::WORDS), Fallback::Value("auto"),
        "How VMs are connected: without root (`user`), by the bridge of `banger system install` (`bridge`), or by that where this daemon was installed with it (`auto`)."),
    key(Field::DnsPort, "network.dns_port", "BANGER_NETWORK_DNS_PORT", Kind::Port, Fallback::Value("42069"),
        "The port of this host's loopback at which the names of VMs on the bridge are told."),
    key(Field::UpstreamDns, "network.upstream_dns", "BANGER_NETWORK_UPSTREAM_DNS", Kind::Resolvers,
        Fallback::Auto("those of `/etc/resolv.conf`"),
        "Who is asked for the names of the world, for VMs on the bridge with `--nat`."),
    key(Field::DiskRate, "limits.disk_rate", "BANGER_LIMITS_DISK_RATE", Kind::Rate, Fallback::Value("none"),
        "How much each disk of a VM reads and writes together in a second at most, from its next start on."),
    key(Field::NetworkRate, "limits.network_rate", "BANGER_LIMITS_NETWORK_RATE", Kind::Rate, Fallback::Value("none"),
        "How much a VM sends, and how much it receives, in a second at most, from its next start on; QEMU cannot keep to it, so a VM with a network is refused there."),
];

/// Keys and tables that are planned and do nothing yet, so they are refused instead of ignored.
pub const LATER: &[&str] = &["jailer_bin", "jailer", "ssh_key_path", "root_disk"];

/// The list of the owner's files that every start puts into its guest.
pub const FILE_SYNC: &str = "file_sync";

/// Where this host asks for the names of VMs, unless another port is set.
pub const DNS_PORT: u16 = 42_069;

/// What the names of banger's environment variables begin with.
pub const PREFIX: &str = "BANGER_";

/// Environment variables that are no settings: where banger's files are, what a daemon logs, what shells and tests ask, and
/// what a build says of itself.
pub const VARIABLES: &[&str] = &[
    "BANGER_HOME",
    "BANGER_LOG",
    "BANGER_COMPLETE",
    "BANGER_CRASH_AT",
    "BANGER_REQUIRE",
    "BANGER_SKIPS",
    "BANGER_TEST_KERNEL_DEB",
    "BANGER_COMMIT",
    "BANGER_BUILT",
];

/// Whether `name` is a table with keys in it.
#[must_use]
pub fn is_table(name: &str) -> bool {
    KEYS.iter().any(|key| key.name.split_once('.').is_some_and(|(table, _)| table == name))
}

/// How much the daemon logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogLevel(&'static str);

impl LogLevel {
    const WORDS: &[&str] = &["error", "warn", "info", "debug", "trace"];

    /// Its word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.0
    }
}

/// What runs a VM for which nobody said it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vmm {
    /// The best one of this host.
    Auto,
    /// Firecracker.
    Firecracker,
    /// QEMU.
    Qemu,
}

impl Vmm {
    const ALL: [Self; 3] = [Self::Auto, Self::Firecracker, Self::Qemu];
    const WORDS: &[&str] = &["auto", "firecracker", "qemu"];

    /// The one of that word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|vmm| vmm.as_str() == word)
    }

    /// Its word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Firecracker => "firecracker",
            Self::Qemu => "qemu",
        }
    }
}

/// How VMs are connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NetworkMode {
    /// By the bridge where one is installed for this user, else as `User`.
    Auto,
    /// Without root, each by itself.
    User,
    /// By the bridge that root's helper keeps.
    Bridge,
}

impl NetworkMode {
    const ALL: [Self; 3] = [Self::Auto, Self::User, Self::Bridge];
    const WORDS: &[&str] = &["auto", "user", "bridge"];

    /// The one of that word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.as_str() == word)
    }

    /// Its word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::User => "user",
            Self::Bridge => "bridge",
        }
    }
}

/// What runs a guest's instructions under QEMU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accelerator {
    /// The processor, where a test guest ran on it, else software.
    Auto,
    /// The processor.
    Kvm,
    /// Software.
    Tcg,
}

impl Accelerator {
    const WORDS: &[&str] = &["auto", "kvm", "tcg"];

    /// Its word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }
}

/// A public key of minisign. Whether it is a point of its curve shows when it is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SigningKey(String);

impl SigningKey {
    /// Its text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<&str> for SigningKey {
    type Error = Wrong;

    /// 42 bytes in base 64, which begin with `Ed`.
    fn try_from(text: &str) -> Result<Self, Wrong> {
        let is_digit = |c: char| c.is_ascii_alphanumeric() || c == '+' || c == '/';
        let begins = text.starts_with("RW") && text[2..].starts_with(['Q', 'R', 'S', 'T']);
        match begins && text.len() == 56 && text.chars().all(is_digit) {
            true => Ok(Self(text.to_owned())),
            false => Err(Wrong::Key),
        }
    }
}

/// The settings that an installation goes by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// How much the daemon logs.
    pub log_level: LogLevel,
    /// The image of a VM for which none is named.
    pub default_image: ImageName,
    /// The kernel of an image that names none.
    pub default_kernel: KernelName,
    /// Where the catalog of images is refreshed from.
    pub image_catalog: Option<Location>,
    /// Where the catalog of kernels is refreshed from.
    pub kernel_catalog: Option<Location>,
    /// Who signs both.
    pub catalog_key: Option<SigningKey>,
    /// The VMM of a VM for which none is named.
    pub vmm: Vmm,
    /// What runs a guest's instructions.
    pub accelerator: Accelerator,
    /// QEMU's program, where it is not the one in `PATH`.
    pub qemu_bin: Option<PathBuf>,
    /// Firecracker's program, where it is not the one in `PATH`.
    pub firecracker_bin: Option<PathBuf>,
    /// How long a stop may take before the VMM ends.
    pub stop_timeout: Duration,
    /// How long a guest may take until its agent answers.
    pub boot_timeout: Duration,
    /// How long a VM may be unused until it is stopped, where that is wanted.
    pub auto_stop_stale_after: Option<Duration>,
    /// How often guests are asked what they use.
    pub stats_interval: Duration,
    /// Sizes of VMs for which none were said; what is not said here either depends on the host.
    pub sizes: Wish,
    /// Whether a VM for which nothing was said reaches the world.
    pub nat: Nat,
    /// How VMs are connected.
    pub network_mode: NetworkMode,
    /// Where this host asks for the names of VMs.
    pub dns_port: u16,
    /// Whom VMs on the bridge are told the names of the world by, where it is not by the host's own resolvers.
    pub upstream_dns: Option<Resolvers>,
    /// How fast VMs may be.
    pub limits: Limits,
    /// Files of the owner's that every start puts into its guest.
    pub file_sync: Vec<FileSync>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            log_level: LogLevel("info"),
            default_image: ImageName::try_from("debian-bookworm").expect("it is one"),
            default_kernel: KernelName::try_from("debian-cloud").expect("it is one"),
            image_catalog: None,
            kernel_catalog: None,
            catalog_key: None,
            vmm: Vmm::Auto,
            accelerator: Accelerator::Auto,
            qemu_bin: None,
            firecracker_bin: None,
            stop_timeout: Duration::from_secs(10),
            boot_timeout: Duration::from_secs(120),
            auto_stop_stale_after: None,
            stats_interval: Duration::from_secs(10),
            sizes: Wish::default(),
            nat: Nat::Off,
            network_mode: NetworkMode::Auto,
            dns_port: DNS_PORT,
            upstream_dns: None,
            limits: Limits::default(),
            file_sync: Vec::new(),
        }
    }
}

/// A value as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// A string of the file.
    Text(String),
    /// A whole number of the file.
    Integer(i64),
    /// What a variable holds, which has no type.
    Untyped(String),
    /// Yes or no.
    Switch(bool),
    /// A list of tables; also one of nothing.
    Tables(Vec<Table>),
    /// A list of strings.
    Texts(Vec<String>),
    /// Anything else, by its name: `a boolean`, `a list`.
    Other(&'static str),
}

/// One table of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Where it begins.
    pub at: Range<usize>,
    /// Its keys.
    pub entries: Vec<Entry>,
}

/// One key of the file with its table, and the bytes where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The name, after its table's and a dot.
    pub name: String,
    /// Where the name stands.
    pub name_at: Range<usize>,
    /// The value.
    pub value: Value,
    /// Where the value stands.
    pub value_at: Range<usize>,
}

/// Where a value was said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// In the file, at this byte.
    File(usize),
    /// In this environment variable.
    Variable(&'static str),
}

/// The settings with the places of those that somebody gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// All settings.
    pub config: Config,
    given: Vec<(Field, Place)>,
    /// Where each of [`Config::file_sync`] begins in the file.
    pub file_sync_at: Vec<usize>,
}

impl Checked {
    /// Where `field` was said, if it was.
    #[must_use]
    pub fn place(&self, field: Field) -> Option<&Place> {
        self.given.iter().find(|(given, _)| *given == field).map(|(_, place)| place)
    }
}

/// What the files' `entries` and the environment say, where `variable` gives the value of a variable that is set. Of entries with
/// the same name, which are of several files, the last one counts.
///
/// # Errors
/// Every mistake there is.
pub fn check(
    entries: Vec<Entry>,
    variable: impl Fn(&'static str) -> Option<Value>,
) -> Result<Checked, Vec<Mistake>> {
    let mut config = Config::default();
    let mut given: Vec<(Field, Place)> = Vec::new();
    let mut mistakes = Vec::new();
    let mut file_sync_at = Vec::new();
    for entry in entries {
        if entry.name == FILE_SYNC {
            config.file_sync.clear();
            file_sync_at.clear();
            for (read, number) in file_syncs(entry).into_iter().zip(1..) {
                match read {
                    Ok((sync, at)) => {
                        config.file_sync.push(sync);
                        file_sync_at.push(at);
                    }
                    Err((why, at)) => {
                        mistakes.push(Mistake { reason: Reason::FileSync(number, why), at: Spot::File(at) });
                    }
                }
            }
            continue;
        }
        let Some(key) = KEYS.iter().find(|key| key.name == entry.name) else {
            mistakes.push(Mistake { reason: mistake::unknown(entry.name), at: Spot::File(entry.name_at) });
            continue;
        };
        // What a variable overrides has to be right nevertheless: the variable may be gone tomorrow.
        match config.set(key, &entry.value) {
            Ok(()) => {
                given.retain(|(field, _)| *field != key.field);
                given.push((key.field, Place::File(entry.name_at.start)));
            }
            Err(why) => {
                mistakes
                    .push(Mistake { reason: Reason::Wrong(key.name, why), at: Spot::File(entry.value_at) });
            }
        }
    }
    for key in KEYS {
        let Some(value) = variable(key.variable) else { continue };
        match config.set(key, &value) {
            Ok(()) => {
                given.retain(|(field, _)| *field != key.field);
                given.push((key.field, Place::Variable(key.variable)));
            }
            Err(why) => {
                mistakes
                    .push(Mistake { reason: Reason::Wrong(key.name, why), at: Spot::Variable(key.variable) });
            }
        }
    }
    if mistakes.is_empty() { Ok(Checked { config, given, file_sync_at }) } else { Err(mistakes) }
}

/// One of them with the place where it begins, or what is wrong with it and where.
type Synced = Result<(FileSync, usize), (SyncError, Range<usize>)>;

/// The tables of `[[file_sync]]`.
fn file_syncs(entry: Entry) -> Vec<Synced> {
    match entry.value {
        Value::Tables(tables) => tables.into_iter().map(file_sync).collect(),
        Value::Text(_)
        | Value::Integer(_)
        | Value::Switch(_)
        | Value::Untyped(_)
        | Value::Texts(_)
        | Value::Other(_) => vec![Err((SyncError::Table, entry.value_at))],
    }
}

fn file_sync(table: Table) -> Synced {
    let (mut host, mut guest, mut mode) = (None, None, None);
    for Entry { name, name_at, value, value_at } in table.entries {
        let key = ["host", "guest", "mode"].into_iter().find(|key| *key == name);
        let key = key.ok_or((SyncError::Unknown, name_at))?;
        let Value::Text(text) = value else { return Err((SyncError::Text(key), value_at)) };
        let read = match key {
            "host" => HostPath::try_from(&*text).map(|path| host = Some(path)),
            "guest" => HomePath::try_from(&*text).map(|path| guest = Some(path)),
            _ => crate::sync::mode(&text).map(|bits| mode = Some(bits)),
        };
        read.map_err(|why| (why, value_at))?;
    }
    let missing = |key| (SyncError::Missing(key), table.at.clone());
    let host = host.ok_or_else(|| missing("host"))?;
    let guest = guest.ok_or_else(|| missing("guest"))?;
    Ok((FileSync { host, guest, mode }, table.at.start))
}

impl Config {
    fn set(&mut self, key: &Key, value: &Value) -> Result<(), Wrong> {
        let text = key.kind.text(value)?;
        match key.field {
            Field::LogLevel => self.log_level = LogLevel(word(&text, LogLevel::WORDS)?),
            Field::DefaultImage => {
                self.default_image = ImageName::try_from(text.as_str()).map_err(Wrong::Name)?;
            }
            Field::DefaultKernel => {
                self.default_kernel = KernelName::try_from(text.as_str()).map_err(Wrong::Name)?;
            }
            Field::ImageCatalog => self.image_catalog = Some(location(&text)?),
            Field::KernelCatalog => self.kernel_catalog = Some(location(&text)?),
            Field::CatalogKey => self.catalog_key = Some(SigningKey::try_from(&*text)?),
            Field::Vmm => self.vmm = Vmm::from_word(&text).ok_or(Wrong::Word(Vmm::WORDS))?,
            Field::Accelerator => {
                self.accelerator = match word(&text, Accelerator::WORDS)? {
                    "kvm" => Accelerator::Kvm,
                    "tcg" => Accelerator::Tcg,
                    _ => Accelerator::Auto,
                };
            }
            Field::QemuBin | Field::FirecrackerBin if !text.starts_with('/') => return Err(Wrong::Path),
            Field::QemuBin => self.qemu_bin = Some(text.into()),
            Field::FirecrackerBin => self.firecracker_bin = Some(text.into()),
            Field::StopTimeout => self.stop_timeout = duration(&text)?,
            Field::BootTimeout => self.boot_timeout = duration(&text)?,
            Field::AutoStopStaleAfter => {
                self.auto_stop_stale_after = if text == NEVER { None } else { Some(duration(&text)?) };
            }
            Field::StatsInterval => self.stats_interval = duration(&text)?,
            Field::Vcpu => {
                let number = text.parse().ok().filter(|number| (1..=sizing::MAX_VCPU).contains(number));
                self.sizes.vcpu = Some(number.ok_or(Wrong::Vcpu)?);
            }
            Field::Memory => self.sizes.memory = Some(bytes(&text, sizing::MIN_MEMORY, 1 << 63)?),
            Field::DiskSize => self.sizes.disk = Some(bytes(&text, sizing::MIN_DISK, sizing::MAX_DISK)?),
            Field::OverlaySize => {
                self.sizes.overlay = Some(bytes(&text, sizing::MIN_DISK, sizing::MAX_DISK)?);
            }
            Field::Nat => self.nat = Nat::of(word(&text, SWITCH)? == "true"),
            Field::DnsPort => {
                let port = text.parse().ok().filter(|port| *port >= 1024);
                self.dns_port = port.ok_or(Wrong::Port)?;
            }
            Field::UpstreamDns => self.upstream_dns = Some(Resolvers::try_from(&*text)?),
            Field::NetworkMode => {
                self.network_mode = NetworkMode::from_word(&text).ok_or(Wrong::Word(NetworkMode::WORDS))?;
            }
            Field::DiskRate => self.limits.disk = rate(&text)?,
            Field::NetworkRate => self.limits.network = rate(&text)?,
        }
        Ok(())
    }

    /// The value of `field` as the file has it without its quotes. `None` where it depends on the host.
    #[must_use]
    pub fn text(&self, field: Field) -> Option<String> {
        let disk = |bytes: Option<u64>| size::exact(bytes.unwrap_or(sizing::DISK));
        Some(match field {
            Field::LogLevel => self.log_level.as_str().to_owned(),
            Field::DefaultImage => self.default_image.to_string(),
            Field::DefaultKernel => self.default_kernel.to_string(),
            Field::ImageCatalog => self.image_catalog.as_ref()?.to_string(),
            Field::KernelCatalog => self.kernel_catalog.as_ref()?.to_string(),
            Field::CatalogKey => self.catalog_key.as_ref()?.as_str().to_owned(),
            Field::Vmm => self.vmm.as_str().to_owned(),
            Field::Accelerator => self.accelerator.as_str().to_owned(),
            Field::QemuBin => self.qemu_bin.as_ref()?.display().to_string(),
            Field::FirecrackerBin => self.firecracker_bin.as_ref()?.display().to_string(),
            Field::StopTimeout => duration_text(self.stop_timeout),
            Field::BootTimeout => duration_text(self.boot_timeout),
            Field::AutoStopStaleAfter => {
                self.auto_stop_stale_after.map_or_else(|| NEVER.to_owned(), duration_text)
            }
            Field::StatsInterval => duration_text(self.stats_interval),
            Field::Vcpu => self.sizes.vcpu?.to_string(),
            Field::Memory => size::exact(self.sizes.memory?),
            Field::DiskSize => disk(self.sizes.disk),
            Field::OverlaySize => disk(self.sizes.overlay),
            Field::Nat => self.nat.is_on().to_string(),
            Field::NetworkMode => self.network_mode.as_str().to_owned(),
            Field::DnsPort => self.dns_port.to_string(),
            Field::UpstreamDns => self.upstream_dns.as_ref()?.to_string(),
            Field::DiskRate => rate_text(self.limits.disk),
            Field::NetworkRate => rate_text(self.limits.network),
        })
    }
}

impl Kind {
    /// The text of a value of the right type.
    fn text(self, value: &Value) -> Result<String, Wrong> {
        match (value, self) {
            (Value::Untyped(text), _) => Ok(text.clone()),
            (Value::Text(_), Self::Vcpu) => Err(Wrong::Vcpu),
            (Value::Text(_), Self::Port) => Err(Wrong::Port),
            (Value::Switch(on), Self::Switch) => Ok(on.to_string()),
            (Value::Text(_), Self::Switch) => Err(Wrong::Type("a string")),
            (Value::Switch(_), _) => Err(Wrong::Type("a boolean")),
            (Value::Text(text), _) => Ok(text.clone()),
            (Value::Integer(number), Self::Vcpu | Self::Port | Self::Size | Self::Rate) => {
                Ok(number.to_string())
            }
            (Value::Integer(_), Self::Duration | Self::DurationOrNever) => Err(Wrong::Duration),
            (
                Value::Integer(_),
                Self::Image
                | Self::Kernel
                | Self::Location
                | Self::SigningKey
                | Self::Program
                | Self::Switch
                | Self::Resolvers
                | Self::Word(_),
            ) => Err(Wrong::Type("a number")),
            (Value::Texts(all), Self::Resolvers) => Ok(all.join(" ")),
            (Value::Tables(all), Self::Resolvers) if all.is_empty() => Err(Wrong::Resolvers),
            (Value::Tables(_) | Value::Texts(_), _) => Err(Wrong::Type("a list")),
            (Value::Other(found), _) => Err(Wrong::Type(found)),
        }
    }

    /// What to write, in words for the manual.
    #[must_use]
    pub fn words(self) -> String {
        match self {
            Self::Image => "the name of an image".to_owned(),
            Self::Kernel => "the name of a kernel".to_owned(),
            Self::Location => "an address: `https://…`, `file:///…`".to_owned(),
            Self::SigningKey => "a public key of minisign".to_owned(),
            Self::Program => "an absolute path".to_owned(),
            Self::Word(words) => format!("`{}`", words.join("`, `")),
            Self::Duration => "a time: `10s`, `5m`, `2h`".to_owned(),
            Self::DurationOrNever => "a time, `30m` or `8h`, or `never`".to_owned(),
            Self::Vcpu => format!("a number from 1 to {}", sizing::MAX_VCPU),
            Self::Port => "a number from 1024 to 65535".to_owned(),
            Self::Resolvers => {
                format!("1 to {} addresses: `[\"192.0.2.1\", \"192.0.2.2:5353\"]`", Resolvers::MOST)
            }
            Self::Size => "a size: `512M`, `8G`".to_owned(),
            Self::Rate => "a size for each second, `50M`, or `none`".to_owned(),
            Self::Switch => "`true` or `false`".to_owned(),
        }
    }
}

fn location(text: &str) -> Result<Location, Wrong> {
    Location::try_from(text).map_err(Wrong::Location)
}

fn word(text: &str, words: &'static [&'static str]) -> Result<&'static str, Wrong> {
    words.iter().copied().find(|word| *word == text).ok_or(Wrong::Word(words))
}

fn bytes(text: &str, min: u64, max: u64) -> Result<u64, Wrong> {
    let bytes = size::parse(text).map_err(Wrong::Size)?;
    if (min..=max).contains(&bytes) { Ok(bytes) } else { Err(Wrong::Range { min, max }) }
}

/// What a switch is in the environment.
const SWITCH: &[&str] = &["true", "false"];
/// Instead of a time.
const NEVER: &str = "never";
/// The longest time: whoever waits adds it to the clock, which has an end.
const LONGEST: u64 = 24 * 3600;

/// `10s`, `5m`, `2h`.
fn duration(text: &str) -> Result<Duration, Wrong> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return Err(Wrong::Duration),
    };
    match number.parse::<u64>().ok().and_then(|number| number.checked_mul(seconds)) {
        Some(seconds @ 1..=LONGEST) => Ok(Duration::from_secs(seconds)),
        _ => Err(Wrong::Duration),
    }
}

fn duration_text(duration: Duration) -> String {
    match duration.as_secs() {
        seconds if seconds % 3600 == 0 => format!("{}h", seconds / 3600),
        seconds if seconds % 60 == 0 => format!("{}m", seconds / 60),
        seconds => format!("{seconds}s"),
    }
}

#[cfg(test)]
mod tests;
