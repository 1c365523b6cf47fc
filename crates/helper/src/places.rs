//! Where the helper's files lie.

use std::path::{Path, PathBuf};

/// All places, below `/` or, in a test, elsewhere.
#[derive(Debug, Clone)]
pub struct Places {
    /// What root wrote down about this installation.
    pub install: PathBuf,
    /// The directory of the socket and of what is true until the next boot.
    pub runtime: PathBuf,
    /// The directory of the log of requests.
    pub log: PathBuf,
    /// The daemon's state, of which the files of machines are.
    pub state: PathBuf,
    root: PathBuf,
}

impl Places {
    /// The places of an installation below `root`.
    #[must_use]
    pub fn below(root: &Path) -> Self {
        Self {
            install: root.join("etc/banger/install.toml"),
            runtime: root.join("run/banger-helper"),
            log: root.join("var/log/banger-helper"),
            state: root.join("var/lib/banger"),
            root: root.to_owned(),
        }
    }

    /// Where requests come in.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.runtime.join("helper.sock")
    }

    /// Whose rules are applied, so that a helper that begins again knows them.
    #[must_use]
    pub fn guests(&self) -> PathBuf {
        self.runtime.join("guests")
    }

    /// Where it is written that the helper let the host forward packets, which it did not before.
    #[must_use]
    pub fn forwarding(&self) -> PathBuf {
        self.runtime.join("forwarding")
    }

    /// At which port the host's resolver is to ask for names of VMs.
    #[must_use]
    pub fn names(&self) -> PathBuf {
        self.runtime.join("names")
    }

    /// What is there while systemd-resolved runs, made anew by each.
    #[must_use]
    pub fn resolved(&self) -> PathBuf {
        self.root.join("run/systemd/resolve/io.systemd.Resolve")
    }

    /// Where jails are. Below `/run` there may be neither programs nor devices.
    #[must_use]
    pub fn jails(&self) -> PathBuf {
        self.root.join("var/lib/banger-helper/jails")
    }

    /// Firecracker, where only root puts it.
    #[must_use]
    pub fn firecracker(&self) -> PathBuf {
        self.root.join("usr/local/lib/banger/firecracker")
    }

    /// Firecracker's own jailer, beside it.
    #[must_use]
    pub fn jailer(&self) -> PathBuf {
        self.root.join("usr/local/lib/banger/jailer")
    }

    /// The log of requests.
    #[must_use]
    pub fn audit(&self) -> PathBuf {
        self.log.join("audit.log")
    }
}
