//! The rules in the kernel: each change is one transaction, and nobody else's change goes unseen.
//!
//! ```text
//! change ──▶ nft: one transaction ──▶ was it the only one? ── yes ──▶ done
//!                     │ failed                  │ no, or somebody else touched our tables at any time
//!                     └────────────┬────────────┘
//!                        taps down ▼ all of the rules anew ──▶ taps up; where that fails they stay down
//! ```

use std::{
    os::fd::{AsFd, BorrowedFd},
    time::Duration,
};

use host::{
    nftables::Watch,
    proc::{Command, Exit, Program},
};

use crate::rules::TABLE;

/// How long a transaction may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// The most that is kept of what nft says.
const SAID: usize = 512;

/// Why the rules are not what they should be.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// nft cannot be run.
    #[error("cannot run nft")]
    Run(#[source] host::Error),
    /// nft refuses the rules.
    #[error("nft refuses the rules: {0}")]
    Refused(String),
    /// The kernel does not tell of changes.
    #[error("cannot watch the rules")]
    Watch(#[source] host::Error),
}

/// Whether a transaction was alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    /// Nobody else changed rules meanwhile, or our tables before.
    Alone,
    /// Somebody may have.
    Disturbed,
}

/// nftables, changed and watched.
#[derive(Debug)]
pub struct Filter {
    watch: Watch,
}

impl Filter {
    /// Begins to watch.
    ///
    /// # Errors
    /// Where there is no nft that only root can have written, or the kernel has no nftables.
    pub fn open() -> Result<Self, FilterError> {
        trusted().map_err(FilterError::Run)?;
        Ok(Self { watch: Watch::open().map_err(FilterError::Watch)? })
    }

    /// Gives nft `transaction`.
    ///
    /// # Errors
    /// Where it is not done.
    pub fn apply(&mut self, transaction: &str) -> Result<Applied, FilterError> {
        // In this order: what came before the number is heard now, and what comes after changes the number.
        let before = self.watch.generation().map_err(FilterError::Watch)?;
        let touched = self.disturbed()?;
        let input = host::fs::memory_file("rules", transaction.as_bytes()).map_err(FilterError::Run)?;
        trusted().map_err(FilterError::Run)?;
        let nft = Command::new(Program::Nft).arg("-f").arg("-").stdin(input);
        let output = nft.output(SAID, PATIENCE).map_err(FilterError::Run)?;
        if output.exit != Exit::Code(0) {
            let said = String::from_utf8_lossy(&output.stderr);
            let line = said.lines().find(|line| line.contains("Error:")).unwrap_or_default();
            return Err(FilterError::Refused(line.to_owned()));
        }
        let after = self.watch.generation().map_err(FilterError::Watch)?;
        // What is heard now is our own, where the number says so.
        let _ = self.disturbed()?;
        let alone = !touched && after == before.wrapping_add(1);
        Ok(if alone { Applied::Alone } else { Applied::Disturbed })
    }

    /// Whether somebody touched our tables since the last look.
    ///
    /// # Errors
    /// Where that cannot be known.
    pub fn disturbed(&self) -> Result<bool, FilterError> {
        self.watch.changed(TABLE).map_err(FilterError::Watch)
    }
}

impl AsFd for Filter {
    /// Readable where there is something to look at.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.watch.as_fd()
    }
}

/// That nft is a program that only root can have written.
fn trusted() -> host::Result<()> {
    host::fs::program_of_root(&Program::Nft.path()?).map(|_| ())
}
