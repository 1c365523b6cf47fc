//! Saving and restoring: QEMU's migration, to and from a file that goes through us.
//!
//! The stream goes over a socket, so that it is bounded, and its digest known, without a second reading. QEMU takes the disks back
//! from its migration by `cont` alone.

use std::{
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::json;
use tokio::{
    net::UnixListener,
    time::{sleep, timeout},
};

use super::QemuMachine;
use crate::{
    ControlError, Future, LaunchError, SaveError, Saved, Snapshots,
    launch::blocking,
    qmp::Qmp,
    snapshot::{self, Damage, STATE},
};

/// Where QEMU connects to while it saves, in its working directory.
const SOCKET: &str = "migration.sock";
/// How long QEMU may take to stop a guest and write out what it holds for its disks.
const PAUSING: Duration = Duration::from_secs(60);
/// How long it may take to save or restore a machine, on a disk that is slow and a host that is busy.
const WHOLE: Duration = Duration::from_secs(600);
/// How long a migration that was cancelled may take to end.
const CANCELLING: Duration = Duration::from_secs(60);
/// Between two looks how far it is.
const POLL: Duration = Duration::from_millis(5);

impl Snapshots for QemuMachine {
    fn pause(&self) -> Future<'_, Result<(), ControlError>> {
        Box::pin(async { self.qmp.execute_within(PAUSING, "stop", json!(null)).await.map(drop) })
    }

    fn save(&self, directory: PathBuf, limit: u64) -> Future<'_, Result<Saved, SaveError>> {
        Box::pin(async move {
            let saving = save(&self.qmp, &self.place.run_dir, directory, limit);
            timeout(WHOLE, saving).await.unwrap_or_else(|_| Err(ControlError::Timeout(WHOLE).into()))
        })
    }

    fn resume(&self) -> Future<'_, Result<(), ControlError>> {
        Box::pin(resume(&self.qmp))
    }
}

async fn save(qmp: &Qmp, run_dir: &Path, directory: PathBuf, limit: u64) -> Result<Saved, SaveError> {
    let socket = run_dir.join(SOCKET);
    let listener = {
        // One that was given up half-way may have left it.
        host::fs::remove(&socket).map_err(SaveError::Write)?;
        let listener = host::sock::listen(&socket).map_err(SaveError::Write)?;
        let unusable = |e| SaveError::Write(host::Error::path("listen at", &socket, e));
        listener.set_nonblocking(true).map_err(unusable)?;
        UnixListener::from_std(listener).map_err(unusable)?
    };
    // By itself it holds back, for the sake of a network.
    qmp.execute_with("migrate-set-parameters", json!({ "max-bandwidth": 1_u64 << 50 })).await?;
    qmp.execute_with("migrate", json!({ "uri": format!("unix:{SOCKET}") })).await?;
    let receive = async {
        let broken = |e| SaveError::Write(host::Error::path("use", &socket, e));
        let (stream, _) = listener.accept().await.map_err(broken)?;
        let stream = stream.into_std().and_then(snapshot::impatient).map_err(broken)?;
        let into = directory.clone();
        blocking(move || snapshot::collect(stream, &into, STATE, limit)).await
    };
    let finish = async {
        loop {
            match migration(qmp).await? {
                Migration::Completed => return Ok::<_, SaveError>(()),
                Migration::UnderWay => sleep(POLL).await,
                Migration::Ended(reason) => {
                    return Err(ControlError::Refused { command: "migrate", reason }.into());
                }
            }
        }
    };
    // What fails first is why.
    let (file, ()) = tokio::try_join!(receive, finish)?;
    host::fs::remove(&socket).map_err(SaveError::Write)?;
    Ok(Saved { directory, files: vec![file] })
}

/// How far a migration is.
enum Migration {
    Completed,
    UnderWay,
    /// Without a good end, or there never was one.
    Ended(String),
}

async fn migration(qmp: &Qmp) -> Result<Migration, ControlError> {
    // It may hold everything up while it writes.
    let answer = qmp.execute_within(WHOLE, "query-migrate", json!(null)).await?;
    Ok(match answer["status"].as_str() {
        Some("completed") => Migration::Completed,
        None | Some("none" | "failed" | "cancelled") => {
            Migration::Ended(answer["error-desc"].as_str().unwrap_or("it was cancelled").to_owned())
        }
        Some(_) => Migration::UnderWay,
    })
}

async fn resume(qmp: &Qmp) -> Result<(), ControlError> {
    let cancelled = async {
        while let Migration::UnderWay = migration(qmp).await? {
            qmp.execute("migrate_cancel").await?;
            sleep(POLL).await;
        }
        Ok(())
    };
    timeout(CANCELLING, cancelled).await.unwrap_or(Err(ControlError::Timeout(CANCELLING)))?;
    qmp.execute("cont").await.map(drop)
}

/// What is sent to a QEMU that waits for it.
pub(super) struct Feed {
    pub(super) saved: Saved,
    pub(super) stream: UnixStream,
}

impl Feed {
    /// Sends it, and lets the guest go on where QEMU took it and it is what was saved. `Err` where it is not.
    pub(super) async fn restore(self, qmp: &Qmp) -> Result<Result<(), ControlError>, Damage> {
        let Self { saved, stream } = self;
        let sending = blocking(move || snapshot::feed(&saved, STATE, &stream));
        let loaded = async {
            while qmp.execute_within(WHOLE, "query-status", json!(null)).await?["status"] == "inmigrate" {
                sleep(POLL).await;
            }
            Ok(())
        };
        let loaded = async { timeout(WHOLE, loaded).await.unwrap_or(Err(ControlError::Timeout(WHOLE))) };
        let (sent, loaded) = tokio::join!(sending, loaded);
        // QEMU ends of what it does not understand; what is wrong with the file tells more.
        sent?;
        Ok(match loaded {
            Ok(()) => qmp.execute("cont").await.map(drop),
            Err(error) => Err(error),
        })
    }
}

impl From<Damage> for LaunchError {
    fn from(damage: Damage) -> Self {
        Self::Damaged(damage)
    }
}
