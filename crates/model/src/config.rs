//! The settings of an installation: which keys there are, what they may be, and what they are when nobody says.
//!
//! Whoever reads the file turns it into [`Entry`]s; everything after that is decided here, so that every program reads
//! the same file alike and says the same about a mistake in it.

use std::{fmt, ops::Range, path::PathBuf, time::Duration};

use crate::{
    ImageName, KernelName,
    name::NameError,
    size::{self, SizeError},
    sizing::{MAX_VCPU, Wish},
};

/// The name of the file in the directory of the configuration.
pub const FILE: &str = "config.toml";

/// What the value of a key is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The name of an image.
    Image,
    /// The name of a kernel.
    Kernel,
    /// The absolute path of a program.
    Program,
    /// One of these words.
    Word(&'static [&'static str]),
    /// A time like `10s`.
    Duration,
    /// A number of virtual CPUs.
    Vcpu,
    /// A size like `512M`.
    Size,
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
    /// Its name; a dot separates a table from the key in it.
    pub name: &'static str,
    /// What its value is.
    pub kind: Kind,
    /// What it is where nobody says.
    pub fallback: Fallback,
}

const fn key(name: &'static str, kind: Kind, fallback: Fallback) -> Key {
    Key { name, kind, fallback }
}

/// Every key, in the order in which they are shown.
pub const KEYS: &[Key] = &[
    key("log_level", Kind::Word(&["error", "warn", "info", "debug", "trace"]), Fallback::Value("info")),
    key("default_image", Kind::Image, Fallback::Value("debian-bookworm")),
    key("default_kernel", Kind::Kernel, Fallback::Value("debian-cloud")),
    key("vmm", Kind::Word(&["auto", "firecracker", "qemu"]), Fallback::Value("auto")),
    key("qemu_bin", Kind::Program, Fallback::Auto("qemu-system-x86_64 in PATH")),
    key("stop_timeout", Kind::Duration, Fallback::Value("10s")),
    key("vm_defaults.vcpu", Kind::Vcpu, Fallback::Auto("a quarter of the host's, 1 to 4")),
    key("vm_defaults.memory", Kind::Size, Fallback::Auto("an eighth of the host's, 512 MiB to 8 GiB")),
    key("vm_defaults.disk_size", Kind::Size, Fallback::Value("8G")),
    key("vm_defaults.overlay_size", Kind::Size, Fallback::Value("8G")),
];

/// Keys and tables that are planned and do nothing yet, so they are refused instead of ignored.
const LATER: &[&str] = &[
    "firecracker_bin",
    "jailer_bin",
    "jailer",
    "ssh_key_path",
    "auto_stop_stale_after",
    "stats_interval",
    "root_disk",
    "file_sync",
    "network",
    "vm_defaults.nat",
];

impl Key {
    /// The variable that overrides it: `BANGER_VM_DEFAULTS_VCPU` for `vm_defaults.vcpu`.
    #[must_use]
    pub fn variable(&self) -> String {
        format!("BANGER_{}", self.name.replace('.', "_").to_ascii_uppercase())
    }
}

/// A value as the file has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// A string.
    Text(String),
    /// A whole number.
    Integer(i64),
    /// Anything else, by its name: `a boolean`, `a list`.
    Other(&'static str),
}

/// One key of the file, its table before it, with the bytes where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The name, a dot after a table's.
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
    Variable(String),
}

/// A value that somebody gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given {
    /// The key.
    pub key: &'static Key,
    /// The value as it was written.
    pub text: String,
    /// Where.
    pub place: Place,
}

/// The settings that somebody gave, checked; the fallbacks are those of whoever asks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Config {
    /// How much the daemon logs.
    pub log_level: Option<String>,
    /// The image of a VM for which none is named.
    pub default_image: Option<ImageName>,
    /// The kernel of an image that names none.
    pub default_kernel: Option<KernelName>,
    /// The VMM of a VM for which none is named.
    pub vmm: Option<String>,
    /// QEMU's program.
    pub qemu_bin: Option<PathBuf>,
    /// How long a stop may take before the VMM ends.
    pub stop_timeout: Option<Duration>,
    /// Sizes of VMs for which none are said.
    pub sizes: Wish,
    /// Where each came from, in the order of [`KEYS`].
    pub given: Vec<Given>,
}

/// Why a value is none for its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wrong {
    /// It is of another type.
    Type(&'static str),
    /// It is no name.
    Name(NameError),
    /// It is no size.
    Size(SizeError),
    /// It is none of the words that there are.
    Word(&'static [&'static str]),
    /// It is no absolute path.
    Path,
    /// It is no time.
    Duration,
    /// It is no number of CPUs.
    Vcpu,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Type(found) => write!(f, "it cannot be {found}"),
            Self::Name(e) => e.fmt(f),
            Self::Size(e) => e.fmt(f),
            Self::Word(words) => write!(f, "it is one of {}", words.join(", ")),
            Self::Path => f.write_str("it is an absolute path"),
            Self::Duration => f.write_str("a time is a whole number above zero and a unit: 10s, 5m, 2h"),
            Self::Vcpu => write!(f, "it is a number from 1 to {MAX_VCPU}"),
        }
    }
}

/// What is wrong with a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// There is no such key; perhaps the other one is meant.
    Unknown(String, Option<&'static str>),
    /// The key is planned.
    Later(String),
    /// The value is not one for the key.
    Wrong(&'static str, Wrong),
    /// The file as a whole is not understood, as its parser says.
    Syntax(String),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(name, None) => write!(f, "unknown key `{name}`"),
            Self::Unknown(name, Some(nearest)) => write!(f, "unknown key `{name}`; is `{nearest}` meant?"),
            Self::Later(name) => write!(f, "`{name}` is not supported by this version"),
            Self::Wrong(name, why) => write!(f, "`{name}`: {why}"),
            Self::Syntax(why) => f.write_str(why),
        }
    }
}

/// A mistake in the settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// What is wrong.
    pub reason: Reason,
    /// Where.
    pub at: Spot,
}

/// Where a mistake is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Spot {
    /// In these bytes of the file.
    File(Range<usize>),
    /// In this environment variable.
    Variable(String),
}

impl Mistake {
    /// The mistake with the line it is on and a caret under it, where `file` is how the file is called and `text` what is
    /// in it.
    #[must_use]
    pub fn render(&self, file: &str, text: &str) -> String {
        match &self.at {
            Spot::Variable(name) => format!("{name}: {}", self.reason),
            Spot::File(range) => {
                let (number, column) = position(text, range.start);
                let line = text.lines().nth(number - 1).unwrap_or_default();
                let length = text.get(range.clone()).unwrap_or_default().lines().next().unwrap_or_default();
                let margin = " ".repeat(number.to_string().len());
                format!(
                    "{file}:{number}:{column}: {}\n{margin} |\n{number} | {line}\n{margin} | {}{}",
                    self.reason,
                    " ".repeat(column - 1),
                    "^".repeat(length.chars().count().max(1)),
                )
            }
        }
    }
}

/// The line and column of byte `at`, both counted from one.
#[must_use]
pub fn position(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at.min(text.len())).unwrap_or(text);
    let begin = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[begin..].chars().count() + 1)
}

/// What the file's `entries` and the environment say, where `variable` gives the text of a variable that is set.
///
/// # Errors
/// Every mistake there is.
pub fn check(entries: Vec<Entry>, variable: impl Fn(&str) -> Option<String>) -> Result<Config, Vec<Mistake>> {
    let mut config = Config::default();
    let mut mistakes = Vec::new();
    let mut given: Vec<Given> = Vec::new();
    for entry in entries {
        let Some(key) = KEYS.iter().find(|key| key.name == entry.name) else {
            mistakes.push(Mistake { reason: unknown(entry.name), at: Spot::File(entry.name_at) });
            continue;
        };
        let text = match entry.value {
            Value::Text(text) => Ok(text),
            Value::Integer(number) if matches!(key.kind, Kind::Vcpu | Kind::Size) => Ok(number.to_string()),
            Value::Integer(_) if key.kind == Kind::Duration => Err(Wrong::Duration),
            Value::Integer(_) => Err(Wrong::Type("a number")),
            Value::Other(found) => Err(Wrong::Type(found)),
        };
        // What a variable overrides has to be right nevertheless: the variable may be gone tomorrow.
        match text.and_then(|text| config.set(key, &text).map(|()| text)) {
            Ok(text) => given.push(Given { key, text, place: Place::File(entry.name_at.start) }),
            Err(why) => {
                mistakes
                    .push(Mistake { reason: Reason::Wrong(key.name, why), at: Spot::File(entry.value_at) });
            }
        }
    }
    for key in KEYS {
        let name = key.variable();
        let Some(text) = variable(&name) else { continue };
        match config.set(key, &text) {
            Ok(()) => {
                given.retain(|other| other.key != key);
                given.push(Given { key, text, place: Place::Variable(name) });
            }
            Err(why) => {
                mistakes.push(Mistake { reason: Reason::Wrong(key.name, why), at: Spot::Variable(name) });
            }
        }
    }
    given.sort_by_key(|given| KEYS.iter().position(|key| key == given.key));
    config.given = given;
    if mistakes.is_empty() { Ok(config) } else { Err(mistakes) }
}

impl Config {
    fn set(&mut self, key: &Key, text: &str) -> Result<(), Wrong> {
        let sizes = &mut self.sizes;
        match key.kind {
            Kind::Image => self.default_image = Some(ImageName::try_from(text).map_err(Wrong::Name)?),
            Kind::Kernel => self.default_kernel = Some(KernelName::try_from(text).map_err(Wrong::Name)?),
            Kind::Program if text.starts_with('/') => self.qemu_bin = Some(text.into()),
            Kind::Program => return Err(Wrong::Path),
            Kind::Word(words) if !words.contains(&text) => return Err(Wrong::Word(words)),
            Kind::Word(_) if key.name == "vmm" => self.vmm = Some(text.to_owned()),
            Kind::Word(_) => self.log_level = Some(text.to_owned()),
            Kind::Duration => self.stop_timeout = Some(duration(text).ok_or(Wrong::Duration)?),
            Kind::Vcpu => {
                let number = text.parse().ok().filter(|number| (1..=MAX_VCPU).contains(number));
                sizes.vcpu = Some(number.ok_or(Wrong::Vcpu)?);
            }
            Kind::Size => {
                let bytes = Some(size::parse(text).map_err(Wrong::Size)?);
                match key.name {
                    "vm_defaults.memory" => sizes.memory = bytes,
                    "vm_defaults.disk_size" => sizes.disk = bytes,
                    _ => sizes.overlay = bytes,
                }
            }
        }
        Ok(())
    }
}

/// `10s`, `5m`, `2h`.
fn duration(text: &str) -> Option<Duration> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return None,
    };
    let number: u64 = number.parse().ok().filter(|number| *number > 0)?;
    number.checked_mul(seconds).map(Duration::from_secs)
}

fn unknown(name: String) -> Reason {
    if LATER.iter().any(|later| name == *later || name.starts_with(&format!("{later}."))) {
        return Reason::Later(name);
    }
    let nearest = KEYS
        .iter()
        .map(|key| (distance(&name, key.name), key.name))
        .min()
        .filter(|(distance, name)| *distance <= name.len().div_ceil(3))
        .map(|(_, name)| name);
    Reason::Unknown(name, nearest)
}

/// How many characters have to be changed, added or removed to make one of the other (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::size::{GIB, MIB};

    fn entry(name: &str, value: Value) -> Entry {
        Entry { name: name.to_owned(), name_at: 0..1, value, value_at: 2..3 }
    }

    fn text(name: &str, value: &str) -> Entry {
        entry(name, Value::Text(value.to_owned()))
    }

    #[test]
    fn the_environment_beats_the_file() {
        let entries = vec![
            text("vm_defaults.memory", "512M"),
            entry("vm_defaults.vcpu", Value::Integer(3)),
            entry("vm_defaults.disk_size", Value::Integer(100)),
            text("stop_timeout", "2m"),
            text("qemu_bin", "/opt/qemu"),
        ];
        let variable = |name: &str| (name == "BANGER_VM_DEFAULTS_MEMORY").then(|| "2G".to_owned());
        let config = check(entries, variable).unwrap();
        assert_eq!((config.sizes.memory, config.sizes.vcpu), (Some(2 * GIB), Some(3)));
        assert_eq!(config.sizes.disk, Some(100 * MIB));
        assert_eq!(config.stop_timeout, Some(Duration::from_secs(120)));
        assert_eq!(config.qemu_bin, Some("/opt/qemu".into()));
        let names: Vec<_> = config.given.iter().map(|given| given.key.name).collect();
        let order =
            ["qemu_bin", "stop_timeout", "vm_defaults.vcpu", "vm_defaults.memory", "vm_defaults.disk_size"];
        assert_eq!(names, order);
        assert_eq!(config.given[3].place, Place::Variable("BANGER_VM_DEFAULTS_MEMORY".to_owned()));
    }

    #[test]
    fn every_mistake_is_told() {
        for (entry, expect) in [
            (text("defalt_image", "x"), "unknown key `defalt_image`; is `default_image` meant?"),
            (text("vm_defaults.mem", "x"), "unknown key `vm_defaults.mem`; is `vm_defaults.memory` meant?"),
            (text("memory", "x"), "unknown key `memory`"),
            (text("network.subnet", "x"), "`network.subnet` is not supported by this version"),
            (text("networks", "x"), "unknown key `networks`"),
            (text("log_level", "loud"), "`log_level`: it is one of error, warn, info, debug, trace"),
            (text("default_image", "A"), "`default_image`: 'A' is not allowed; use a-z, 0-9, -, . and _"),
            (text("qemu_bin", "qemu"), "`qemu_bin`: it is an absolute path"),
            (
                text("stop_timeout", "0s"),
                "`stop_timeout`: a time is a whole number above zero and a unit: 10s, 5m, 2h",
            ),
            (
                text("stop_timeout", "é"),
                "`stop_timeout`: a time is a whole number above zero and a unit: 10s, 5m, 2h",
            ),
            (entry("vmm", Value::Integer(10)), "`vmm`: it cannot be a number"),
            (entry("vm_defaults.vcpu", Value::Integer(0)), "`vm_defaults.vcpu`: it is a number from 1 to 64"),
            (
                entry("vm_defaults.memory", Value::Integer(0)),
                "`vm_defaults.memory`: a size must be more than zero",
            ),
            (entry("vmm", Value::Other("a boolean")), "`vmm`: it cannot be a boolean"),
        ] {
            let mistakes = check(vec![entry], |_| None).unwrap_err();
            assert_eq!(mistakes.iter().map(|m| m.reason.to_string()).collect::<Vec<_>>(), [expect]);
        }
        let both =
            check(vec![text("a", ""), text("vmm", "")], |name| (name == "BANGER_VMM").then(String::new));
        assert_eq!(both.unwrap_err().len(), 3);
    }

    #[test]
    fn a_mistake_is_shown_where_it_is() {
        let file = "# ä\nvmm = \"xen\"\n";
        let at = Spot::File(file.find("\"xen\"").unwrap()..file.len() - 1);
        let mistake = Mistake { reason: Reason::Wrong("vmm", Wrong::Word(&["auto"])), at };
        let expect = "c.toml:2:7: `vmm`: it is one of auto\n  |\n2 | vmm = \"xen\"\n  |       ^^^^^";
        assert_eq!(mistake.render("c.toml", file), expect);
        let end = Mistake { reason: Reason::Syntax("unfinished".to_owned()), at: Spot::File(99..99) };
        assert_eq!(end.render("c.toml", "x"), "c.toml:1:2: unfinished\n  |\n1 | x\n  |  ^");
    }

    #[test]
    fn every_fallback_is_a_value_of_its_key() {
        for key in KEYS {
            if let Fallback::Value(text) = key.fallback {
                assert_eq!(Config::default().set(key, text), Ok(()), "{}", key.name);
            }
        }
    }
}
