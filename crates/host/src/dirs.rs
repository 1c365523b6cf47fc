//! Where banger keeps its files: by the XDG base directories, or with the system where root installed it for this user.

use std::path::{Path, PathBuf};

use model::{
    config::FILE,
    system::{self, Installation},
};

use crate::{Result, env, fs, proc::own_uid};

/// The most bytes of the word of root that there is an installation.
const LIMIT: u64 = 16 << 10;

/// The directories of one installation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dirs {
    /// What must not be lost: the database, VMs, images, kernels.
    pub state: PathBuf,
    /// What can be made again: downloads, templates.
    pub cache: PathBuf,
    /// The daemon's control socket.
    pub runtime: PathBuf,
    /// `config.toml`.
    pub config: PathBuf,
}

/// Why a user has no directories.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoDirs {
    /// Nothing says where they are.
    #[error("cannot tell where banger's files are: neither HOME nor BANGER_HOME is set")]
    Homeless,
    /// They would be elsewhere for each directory that banger is called in.
    #[error("BANGER_HOME is {0:?}, which is no absolute path")]
    Relative(PathBuf),
}

impl Dirs {
    /// The directories of this user: below `BANGER_HOME` where it is set, else the system's where the installation is this
    /// user's, else by XDG; without `XDG_RUNTIME_DIR` the control socket lies in the state directory.
    ///
    /// # Errors
    /// For a user without a home, or where `BANGER_HOME` is relative.
    pub fn of_user() -> Result<Self, NoDirs> {
        match env::var("BANGER_HOME").map(PathBuf::from) {
            Some(home) if home.is_absolute() => Ok(Self::below(&home)),
            Some(home) => Err(NoDirs::Relative(home)),
            None if installation().is_some_and(|found| found.owner == own_uid()) => Ok(Self::of_system()),
            None => Self::by_xdg().ok_or(NoDirs::Homeless),
        }
    }

    /// The directories of the installation that root made.
    #[must_use]
    pub fn of_system() -> Self {
        let own = Self::by_xdg().map(|dirs| dirs.config);
        Self {
            state: system::STATE.into(),
            cache: system::CACHE.into(),
            runtime: system::RUN.into(),
            config: own.unwrap_or_else(|| system::CONFIG.into()),
        }
    }

    /// Whether these are the system's, whose daemon is a service: nobody else starts it.
    #[must_use]
    pub fn is_system(&self) -> bool {
        self.runtime == Path::new(system::RUN)
    }

    fn below(home: &Path) -> Self {
        Self {
            state: home.join("state"),
            cache: home.join("cache"),
            runtime: home.join("run"),
            config: home.join("config"),
        }
    }

    fn by_xdg() -> Option<Self> {
        let home = env::var("HOME").map(PathBuf::from);
        let base = |name: &str, below: &str| {
            // The specification says that a relative path there is to be ignored.
            let set = env::var(name).map(PathBuf::from).filter(|path| path.is_absolute());
            set.or_else(|| home.as_ref().map(|home| home.join(below))).map(|path| path.join("banger"))
        };
        let state = base("XDG_STATE_HOME", ".local/state")?;
        let runtime = env::var("XDG_RUNTIME_DIR").map(|dir| PathBuf::from(dir).join("banger"));
        Some(Self {
            runtime: runtime.unwrap_or_else(|| state.join("run")),
            cache: base("XDG_CACHE_HOME", ".cache")?,
            config: base("XDG_CONFIG_HOME", ".config")?,
            state,
        })
    }

    /// The files of settings, of which a later one counts more: with the system, root's before the owner's.
    #[must_use]
    pub fn config_files(&self) -> Vec<PathBuf> {
        let (system, own) = (Path::new(system::CONFIG).join(FILE), self.config.join(FILE));
        let of_root = (self.is_system() && system != own).then_some(system);
        of_root.into_iter().chain([own]).collect()
    }

    /// The daemon's control socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.runtime.join("bangerd.sock")
    }

    /// What SSH into VMs needs, this user's alone.
    #[must_use]
    pub fn ssh(&self) -> PathBuf {
        self.state.join("ssh")
    }

    /// Banger's own private key, beside its public one.
    #[must_use]
    pub fn ssh_identity(&self) -> PathBuf {
        self.ssh().join("id_ed25519")
    }

    /// The host keys of VMs.
    #[must_use]
    pub fn ssh_known_hosts(&self) -> PathBuf {
        self.ssh().join("known_hosts")
    }

    /// What ssh is told of VMs.
    #[must_use]
    pub fn ssh_config(&self) -> PathBuf {
        self.ssh().join("config")
    }
}

/// The bytes that root wrote down about the installation on this host; `None` where there is none.
///
/// # Errors
/// Where they cannot be read, or others could have written them.
pub fn installation_file() -> Result<Option<Vec<u8>>> {
    match fs::read_of_root(Path::new(system::INSTALL), LIMIT) {
        Err(error) if error.is_missing() => Ok(None),
        other => other.map(Some),
    }
}

/// What root wrote down about the installation on this host; `None` where there is none that can be used.
#[must_use]
pub fn installation() -> Option<Installation> {
    let bytes = installation_file().ok()??;
    Installation::read(str::from_utf8(&bytes).ok()?)
}

/// The files in which this user's docker and podman keep credentials for registries, the one that counts most first.
#[must_use]
pub fn credential_files() -> Vec<PathBuf> {
    let dir = |name: &str| env::var(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let home = || dir("HOME");
    let config = || dir("XDG_CONFIG_HOME").or_else(|| home().map(|home| home.join(".config")));
    let docker = || dir("DOCKER_CONFIG").or_else(|| home().map(|home| home.join(".docker")));
    [
        dir("REGISTRY_AUTH_FILE"),
        dir("XDG_RUNTIME_DIR").map(|dir| dir.join("containers/auth.json")),
        config().map(|dir| dir.join("containers/auth.json")),
        docker().map(|dir| dir.join("config.json")),
    ]
    .into_iter()
    .flatten()
    .collect()
}
