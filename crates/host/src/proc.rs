//! The one spawner of the workspace, and the durable identity of what was spawned.
//!
//! What can be started is a closed list, [`Program`]. A child gets the arguments, variables, directory and descriptors
//! that its [`Command`] names and nothing else of this process: no other descriptor, no signal disposition, no variable.
//! There are five ways to start one:
//!
//! ```text
//! Command::output      runs to its end, its output captured and bounded
//! Command::start       runs beside us, its output on pipes; ended with all its children when dropped
//! Command::foreground  on our standard streams and at our terminal, until it ends
//! Command::gated       exists, but waits on a pipe before exec until it is released; in its own session
//! Command::detached    in its own session, at once
//! ```
//! The last two survive this process; a gated one that was not released yet ends with it.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    os::{
        fd::{AsRawFd, OwnedFd, RawFd},
        unix::fs::PermissionsExt,
    },
    path::{Path, PathBuf},
};

use model::config::KEYS;

use crate::{Error, Result, env};

mod clean;
mod fork;
mod gate;
mod identity;
mod run;
mod space;
mod users;

pub use clean::{Inherited, begin_clean, passed_listener};
pub use gate::{Gated, Limit};
pub use identity::{Exit, Process, ProcessId, boot_id};
pub use model::signal::Signal;
pub use run::{Foreground, Output, Running, Stopper};
use space::Space;
pub use space::{Devices, Namespaces, what_forbids_namespaces};
pub use users::{Mapping, UserMap};

/// Every program that banger starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Program {
    /// The machine emulator at this path.
    Qemu(PathBuf),
    /// The Firecracker VMM at this path.
    Firecracker(PathBuf),
    /// What starts Firecracker in a jail, at this path.
    Jailer(PathBuf),
    /// banger's own daemon at this path.
    Daemon(PathBuf),
    /// Makes a Debian root file system.
    Mmdebstrap,
    /// Fetches packages.
    AptGet,
    /// Tells what packages there are.
    AptCache,
    /// Reads repositories of the owner and makes patches; always with a configuration that is ours.
    Git,
    /// The user's own OpenSSH.
    Ssh,
    /// Changes packet filters.
    Nft,
    /// Manages units.
    Systemctl,
    /// Reads the logs of units.
    Journalctl,
    /// Tells the host's resolver whom to ask.
    Resolvectl,
    /// Connects a network namespace to the world, without privilege.
    Pasta,
    /// Keeps a user's credentials: `docker-credential-` and this, in the user's path.
    CredentialHelper(String),
}

/// Where the programs that are named without a path are searched.
const SYSTEM_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// What a program that fetches things needs to know of the way out.
const NETWORK: &[&str] =
    &["http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "HOME", "TMPDIR"];
/// What the daemon takes from the user who starts it, besides the settings that the environment overrides.
const DAEMON: &[&str] = &[
    "HOME",
    "USER",
    "LOGNAME",
    "PATH",
    "TMPDIR",
    "BANGER_HOME",
    "BANGER_LOG",
    "XDG_STATE_HOME",
    "XDG_CACHE_HOME",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
    "XDG_RUNTIME_DIR",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "DBUS_SESSION_BUS_ADDRESS",
    "DOCKER_CONFIG",
    "REGISTRY_AUTH_FILE",
];
/// What a helper needs to find the user's key ring.
const HELPER: &[&str] = &[
    "HOME",
    "USER",
    "PATH",
    "XDG_RUNTIME_DIR",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
    "DBUS_SESSION_BUS_ADDRESS",
    "GNUPGHOME",
    "PASSWORD_STORE_DIR",
];

/// What ssh needs of its user, and what the command needs that it starts to reach a VM.
const SSH: &[&str] = &[
    "HOME",
    "USER",
    "LOGNAME",
    "PATH",
    "TERM",
    "LANG",
    "LC_ALL",
    "LC_CTYPE",
    "BANGER_HOME",
    "XDG_STATE_HOME",
    "XDG_CACHE_HOME",
    "XDG_CONFIG_HOME",
    "XDG_RUNTIME_DIR",
];

/// No configuration but the repository's, no questions, no network, no writing where only reading was asked for.
const GIT: &[(&str, &str)] = &[
    ("PATH", SYSTEM_PATH),
    ("LC_ALL", "C"),
    ("GIT_CONFIG_NOSYSTEM", "1"),
    ("GIT_CONFIG_GLOBAL", "/dev/null"),
    ("GIT_ATTR_NOSYSTEM", "1"),
    ("GIT_TERMINAL_PROMPT", "0"),
    ("GIT_OPTIONAL_LOCKS", "0"),
    ("GIT_NO_REPLACE_OBJECTS", "1"),
    ("GIT_NO_LAZY_FETCH", "1"),
    ("GIT_ALLOW_PROTOCOL", "file"),
];

impl Program {
    /// Where it is.
    ///
    /// # Errors
    /// Where it is not installed.
    pub fn path(&self) -> Result<PathBuf> {
        let system = |name: &str| {
            find(name, OsStr::new(SYSTEM_PATH)).ok_or_else(|| {
                Error::new("find program", name, std::io::Error::from(std::io::ErrorKind::NotFound))
            })
        };
        match self {
            Self::Qemu(path) | Self::Firecracker(path) | Self::Jailer(path) | Self::Daemon(path) => {
                Ok(path.clone())
            }
            Self::Mmdebstrap => system("mmdebstrap"),
            Self::AptGet => system("apt-get"),
            Self::AptCache => system("apt-cache"),
            Self::Git => system("git"),
            Self::Ssh => system("ssh"),
            Self::Nft => system("nft"),
            Self::Systemctl => system("systemctl"),
            Self::Journalctl => system("journalctl"),
            Self::Resolvectl => system("resolvectl"),
            Self::Pasta => system("pasta"),
            Self::CredentialHelper(name) => {
                let name = format!("docker-credential-{name}");
                let path = env::var("PATH").unwrap_or_else(|| SYSTEM_PATH.into());
                find(&name, &path).ok_or_else(|| {
                    Error::new("find program", name, std::io::Error::from(std::io::ErrorKind::NotFound))
                })
            }
        }
    }

    /// The variables that it takes over from this process.
    fn inherits(&self) -> &'static [&'static str] {
        match self {
            // Git finds no configuration but a repository's own without a home.
            Self::Qemu(_)
            | Self::Firecracker(_)
            | Self::Jailer(_)
            | Self::Git
            | Self::Nft
            | Self::Systemctl
            | Self::Journalctl
            | Self::Resolvectl
            | Self::Pasta => &[],
            Self::Daemon(_) => DAEMON,
            Self::Mmdebstrap | Self::AptGet | Self::AptCache => NETWORK,
            Self::Ssh => SSH,
            Self::CredentialHelper(_) => HELPER,
        }
    }

    /// The variables that it gets whatever they are in this process.
    fn fixed(&self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Qemu(_)
            | Self::Firecracker(_)
            | Self::Jailer(_)
            | Self::Nft
            | Self::Systemctl
            | Self::Journalctl
            | Self::Resolvectl
            | Self::Pasta => &[("PATH", SYSTEM_PATH), ("LC_ALL", "C.UTF-8")],
            Self::Daemon(_) | Self::Ssh => &[],
            Self::Git => GIT,
            Self::CredentialHelper(_) => &[("LC_ALL", "C.UTF-8")],
            Self::Mmdebstrap | Self::AptGet | Self::AptCache => {
                &[("PATH", SYSTEM_PATH), ("LC_ALL", "C.UTF-8"), ("DEBIAN_FRONTEND", "noninteractive")]
            }
        }
    }
}

/// The user that this process acts as.
#[must_use]
pub fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Whether this process and all that it starts can never have more rights than it has now (prctl(2), `PR_SET_NO_NEW_PRIVS`).
#[must_use]
pub fn is_held_back() -> bool {
    rustix::thread::no_new_privs().unwrap_or(false)
}

/// The memory of process `pid` that is resident, in bytes (proc_pid_statm(5)).
///
/// # Errors
/// Where there is no such process.
pub fn resident(pid: u32) -> Result<u64> {
    let path = PathBuf::from(format!("/proc/{pid}/statm"));
    let pages =
        crate::fs::read_text(&path)?.split_whitespace().nth(1).and_then(|word| word.parse::<u64>().ok());
    let pages = pages.ok_or_else(|| Error::path("understand", &path, std::io::ErrorKind::InvalidData))?;
    Ok(pages * rustix::param::page_size() as u64)
}

/// The executable file `name` in the first of the directories of `path` (like `$PATH`) that has one.
#[must_use]
pub fn find(name: &str, path: &OsStr) -> Option<PathBuf> {
    let executable = |file: &Path| {
        std::fs::metadata(file).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    };
    std::env::split_paths(path)
        .filter(|dir| dir.is_absolute())
        .map(|dir| dir.join(name))
        .find(|f| executable(f))
}

/// A pipe: what is read, and where that is written.
///
/// # Errors
/// Where there can be no more descriptors.
pub fn pipe() -> Result<(File, File)> {
    let made = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC);
    let (reader, writer) = made.map_err(|e| Error::new("make", "a pipe", e))?;
    Ok((reader.into(), writer.into()))
}

/// A program with all that it is started with.
#[derive(Debug)]
#[must_use = "nothing is started yet"]
pub struct Command {
    program: Program,
    arguments: Vec<OsString>,
    variables: Vec<(OsString, OsString)>,
    directory: Option<PathBuf>,
    stdin: Option<OwnedFd>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
    passed: Vec<OwnedFd>,
    space: Space,
}

impl Command {
    /// `program` without arguments, in `/`, its standard streams on `/dev/null`.
    pub fn new(program: Program) -> Self {
        let settings = match program {
            Program::Daemon(_) => KEYS,
            Program::Qemu(_)
            | Program::Firecracker(_)
            | Program::Jailer(_)
            | Program::Mmdebstrap
            | Program::AptGet
            | Program::AptCache
            | Program::Git
            | Program::Ssh
            | Program::Nft
            | Program::Systemctl
            | Program::Journalctl
            | Program::Resolvectl
            | Program::Pasta
            | Program::CredentialHelper(_) => &[],
        };
        let names = program.inherits().iter().copied().chain(settings.iter().map(|key| key.variable));
        let inherited = names.filter_map(|name| Some((OsString::from(name), env::var(name)?)));
        let fixed = program.fixed().iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
        Self {
            variables: inherited.chain(fixed).collect(),
            program,
            arguments: Vec::new(),
            directory: None,
            stdin: None,
            stdout: None,
            stderr: None,
            passed: Vec::new(),
            space: Space::Same,
        }
    }

    /// One more argument.
    pub fn arg(mut self, argument: impl Into<OsString>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// More arguments.
    pub fn args<A: Into<OsString>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// One more variable of its environment.
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.variables.push((name.into(), value.into()));
        self
    }

    /// The directory that it runs in.
    pub fn dir(mut self, path: &Path) -> Self {
        self.directory = Some(path.to_owned());
        self
    }

    /// What it reads as standard input.
    pub fn stdin(mut self, file: File) -> Self {
        self.stdin = Some(file.into());
        self
    }

    /// Where its standard output goes.
    pub fn stdout(mut self, file: File) -> Self {
        self.stdout = Some(file.into());
        self
    }

    /// Where its errors go.
    pub fn stderr(mut self, file: File) -> Self {
        self.stderr = Some(file.into());
        self
    }

    /// Hands it the open `descriptor`, and says which number that has for it.
    pub fn pass(&mut self, descriptor: impl Into<OwnedFd>) -> RawFd {
        let descriptor = descriptor.into();
        let number = descriptor.as_raw_fd();
        self.passed.push(descriptor);
        number
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A shell that runs `script`, standing in for a program of the list.
    pub(crate) fn shell(script: &str) -> Command {
        Command::new(Program::Qemu("/bin/sh".into())).arg("-c").arg(script)
    }

    #[test]
    fn the_list_of_programs_is_this() {
        let names = [
            Program::Qemu("/opt/qemu".into()),
            Program::Firecracker("/opt/firecracker".into()),
            Program::Jailer("/opt/jailer".into()),
            Program::Daemon("/opt/bangerd".into()),
            Program::Mmdebstrap,
            Program::AptGet,
            Program::AptCache,
            Program::Git,
            Program::Ssh,
            Program::Nft,
            Program::Systemctl,
            Program::Journalctl,
            Program::Resolvectl,
            Program::Pasta,
            Program::CredentialHelper("pass".to_owned()),
        ]
        .map(|program| match program {
            // A new program is a decision: it gets its line here and its environment above.
            Program::Qemu(path)
            | Program::Firecracker(path)
            | Program::Jailer(path)
            | Program::Daemon(path) => path.display().to_string(),
            Program::Mmdebstrap => "mmdebstrap".to_owned(),
            Program::AptGet => "apt-get".to_owned(),
            Program::AptCache => "apt-cache".to_owned(),
            Program::Git => "git".to_owned(),
            Program::Ssh => "ssh".to_owned(),
            Program::Nft => "nft".to_owned(),
            Program::Systemctl => "systemctl".to_owned(),
            Program::Journalctl => "journalctl".to_owned(),
            Program::Resolvectl => "resolvectl".to_owned(),
            Program::Pasta => "pasta".to_owned(),
            Program::CredentialHelper(name) => format!("docker-credential-{name}"),
        });
        let fixed = [
            "/opt/qemu",
            "/opt/firecracker",
            "/opt/jailer",
            "/opt/bangerd",
            "mmdebstrap",
            "apt-get",
            "apt-cache",
            "git",
            "ssh",
            "nft",
            "systemctl",
            "journalctl",
            "resolvectl",
            "pasta",
            "docker-credential-pass",
        ];
        assert_eq!(names, fixed);
    }

    #[test]
    fn programs_are_found_in_absolute_directories_only() {
        assert_eq!(find("sh", OsStr::new("/nonexistent:bin:/bin")), Some("/bin/sh".into()));
        assert_eq!(find("sh", OsStr::new("bin:")), None);
        assert_eq!(find("passwd", OsStr::new("/etc")), None, "not executable");
    }
}
