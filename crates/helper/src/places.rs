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

    /// The log of requests.
    #[must_use]
    pub fn audit(&self) -> PathBuf {
        self.log.join("audit.log")
    }
}
