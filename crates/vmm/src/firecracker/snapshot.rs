//! Saving and restoring, by Firecracker's own snapshots.
//!
//! It writes and reads plain names of its working directory, where what is saved is moved away from, and what is restored is
//! linked to. Devices are read whole, and known by their digest; memory is mapped and read as it is needed, and known by its size.

use std::path::{Path, PathBuf};

use super::{FirecrackerMachine, api::Api};
use crate::{
    ControlError, Future, LaunchError, MEMORY, MachineStatus, STATE, SaveError, Saved, SavedFile, Snapshots,
    launch::blocking,
    snapshot::{self, Damage},
};

/// What both files of a machine that is restored are called in the working directory.
const STATE_FILE: &str = "saved.state";
const MEMORY_FILE: &str = "saved.memory";
/// How those begin that are being written.
const SAVING: &str = "saving-";

impl Snapshots for FirecrackerMachine {
    fn pause(&self) -> Future<'_, Result<(), ControlError>> {
        Box::pin(self.api.pause())
    }

    fn save(&self, directory: PathBuf, limit: u64) -> Future<'_, Result<Saved, SaveError>> {
        Box::pin(async move {
            let run_dir = self.place.run_dir.clone();
            // Each has its own names: one that was given up may still be at its files.
            let name = model::hex::encode(&host::rand::bytes::<8>());
            let [state, memory] = ["state", "memory"].map(|what| format!("{SAVING}{name}.{what}"));
            self.api.save(&state, &memory).await?;
            blocking(move || take(&run_dir.join(state), &run_dir.join(memory), directory, limit)).await
        })
    }

    /// One that writes its memory answers when it is through with that.
    fn resume(&self) -> Future<'_, Result<(), ControlError>> {
        Box::pin(async move {
            let resumed = match self.api.resume().await {
                Err(ControlError::Refused { .. }) if self.api.status().await? == MachineStatus::Running => {
                    Ok(())
                }
                answer => answer,
            };
            clear(&self.place.run_dir)?;
            resumed
        })
    }
}

/// Removes what saves left that were given up.
fn clear(run_dir: &Path) -> host::Result<()> {
    let is_left =
        |path: &&PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(SAVING));
    host::fs::list(run_dir)?.iter().filter(is_left).try_for_each(|path| host::fs::remove(path))
}

/// Takes what was written to `directory`.
fn take(written: &Path, memory: &Path, directory: PathBuf, limit: u64) -> Result<Saved, SaveError> {
    let whole = |path: &Path| host::fs::size(path).map_err(SaveError::Write);
    let size = whole(memory)?;
    if size.saturating_add(whole(written)?) > limit {
        return Err(SaveError::TooLarge(limit));
    }
    let state = host::fs::open(written).map_err(SaveError::Write)?;
    let state = snapshot::collect(state, &directory, STATE, limit)?;
    host::fs::move_file(memory, &directory.join(MEMORY)).map_err(SaveError::Write)?;
    host::fs::remove(written).map_err(SaveError::Write)?;
    let memory = SavedFile { name: MEMORY.to_owned(), size, sha256: None };
    Ok(Saved { directory, files: vec![state, memory] })
}

/// Puts what was saved where Firecracker finds it, after a look whether it is that.
pub(super) fn lay_out(run_dir: &Path, saved: &Saved) -> Result<(), Damage> {
    saved.read(STATE, |_| Ok(()))?;
    let (memory, _) = saved.file(MEMORY)?;
    host::fs::symlink(&saved.directory.join(STATE), &run_dir.join(STATE_FILE))?;
    host::fs::symlink(&memory, &run_dir.join(MEMORY_FILE))?;
    Ok(())
}

/// Has the new Firecracker of `api` go on from it, with its card at `tap`.
pub(super) async fn restore(api: &Api, tap: Option<&str>) -> Result<(), ControlError> {
    api.restore(STATE_FILE, MEMORY_FILE, tap).await
}

/// What came of laying it out, in a thread that may wait.
pub(super) async fn prepare(run_dir: PathBuf, saved: Saved) -> Result<(), LaunchError> {
    blocking(move || lay_out(&run_dir, &saved)).await.map_err(LaunchError::Damaged)
}
