//! Kernels of the catalog: fetch a bundle, unpack and check it, publish.

use std::{fs::File, io::BufReader, ops::ControlFlow, path::Path, sync::Arc};

use image::{
    catalog::{
        Kind,
        bundle::{self, BundleError},
    },
    rootfs,
};
use model::{KernelName, undo::Undo};
use store::Store;
use wire::control::{Event, Outcome, PullKernel};

use crate::{
    Engine, Error, Operation, Result, blocking,
    catalogs::{Found, bundle::source},
    saga,
};

/// What becomes of a kernel that has the name already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Existing {
    /// It is what was asked for.
    Use,
    /// It makes room.
    Replace,
}

impl Engine {
    /// Gets kernel `name` of the catalog.
    ///
    /// # Errors
    /// Where the catalog does not have it or cannot be used, there is another one of the name, or the bundle is refused;
    /// nothing is left then.
    pub async fn kernel_pull(self, operation: Operation, name: String, pull: PullKernel) -> Result<Outcome> {
        let name =
            KernelName::try_from(name.as_str()).map_err(|why| Error::invalid("kernel name", &name, why))?;
        let Some(found) = self.in_catalog(Kind::Kernels, name.as_str())? else {
            let hint = Some("banger kernel list --available; banger catalog refresh".to_owned());
            return Err(Error::NotFound { kind: "kernel in the catalog", name: name.to_string(), hint });
        };
        let wanted = source(found.entry.name.as_str(), &found.entry.digest);
        let existing = if pull.force { Existing::Replace } else { Existing::Use };
        let kernel = self.kernel_of_catalog(&operation, found, existing).await?;
        // Another one than the catalog's is in the way.
        if kernel.source != wanted {
            return Err(Error::OtherKernel(kernel.name));
        }
        Ok(Outcome::Kernel(Box::new(self.kernel_view(kernel)?)))
    }

    /// The kernel `name`, which is pulled where it is missing and the catalog has it.
    pub(crate) async fn kernel_or_pulled(
        &self,
        operation: &Operation,
        name: &KernelName,
    ) -> Result<store::Kernel> {
        match self.kernel_named(name.as_str()) {
            Err(missing @ Error::NotFound { .. }) => match self.in_catalog(Kind::Kernels, name.as_str())? {
                Some(found) => self.kernel_of_catalog(operation, found, Existing::Use).await,
                None => Err(missing),
            },
            found => found,
        }
    }

    /// The kernel of the catalog that was `found`, which all who want it meanwhile pull together.
    pub(super) async fn kernel_of_catalog(
        &self,
        operation: &Operation,
        found: Found,
        existing: Existing,
    ) -> Result<store::Kernel> {
        let key = format!("{} of the catalog's {}, {existing:?}", found.entry.name, found.entry.digest);
        let engine = self.clone();
        let pull = |pulling| async move { engine.pull_kernel(&pulling, found, existing).await };
        self.0.kernels.with(key, operation, pull).await
    }

    async fn pull_kernel(
        &self,
        operation: &Operation,
        found: Found,
        existing: Existing,
    ) -> Result<store::Kernel> {
        let name = KernelName::try_from(found.entry.name.as_str())
            .map_err(|why| Error::invalid("kernel name", found.entry.name.as_str(), why))?;
        let claim = self.claim(format!("kernel {name}"));
        let _claim = operation.cancellable(async { Ok(claim.await) }).await?;
        let source = source(name.as_str(), &found.entry.digest);
        if existing == Existing::Use
            && let Some(kernel) = self.store().kernel_named(name.as_str())?
        {
            return Ok(kernel);
        }
        operation.stage("pulling kernel");
        let id = uuid::Uuid::new_v4().simple().to_string();
        let entry = self.store().ledger_open(None, operation.id(), &Undo::Staging(id.clone()))?;
        let (staging, target) = (self.paths().staging().join(&id), self.paths().kernels().join(&id));
        let stage = async {
            host::fs::create_dir(&staging)?;
            let file = self.fetch_bundle(operation, "pulling kernel", &found, &staging).await?;
            let (task, staged) = (operation.clone(), staging.clone());
            blocking(move || {
                unpack(
                    &task,
                    &file,
                    &staged,
                    store::Kernel {
                        id,
                        name,
                        release: String::new(),
                        source,
                        size: 0,
                        created_ms: host::clock::now_ms(),
                    },
                )
            })
            .await
        };
        let pulled = async {
            let kernel = self.points().around("stage", stage).await?;
            operation.checkpoint()?;
            let mut old = None;
            let insert = |store: &Store| {
                old = store.kernel_supersede(kernel.clone(), entry)?;
                Ok(())
            };
            self.put_directory_in_place(staging.clone(), target, insert).await?;
            if let Some(old) = old {
                let directory = self.paths().kernels().join(old);
                self.remove_directory("kernel", kernel.name.as_str(), directory).await?;
            }
            Ok(kernel)
        }
        .await;
        saga::undo_staging(&self.0.world, entry, pulled).await
    }
}

/// Unpacks the bundle in `file` into `staging`, and completes `kernel` by what it is.
fn unpack(
    operation: &Operation,
    file: &Arc<File>,
    staging: &Path,
    kernel: store::Kernel,
) -> Result<store::Kernel> {
    let mut progress = |progress: rootfs::Progress| {
        let (name, unit) = ("importing kernel".to_owned(), "bytes".to_owned());
        operation.emit(Event::Progress { name, done: progress.unpacked, total: None, unit });
        if operation.token().is_cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let unpacked = bundle::unpack_kernel(BufReader::new(&**file), staging, &mut progress);
    let manifest = unpacked.map_err(|cause| match cause {
        BundleError::Cancelled => Error::Cancelled,
        cause => Error::ImportKernel { name: kernel.name.to_string(), hint: None, cause: Box::new(cause) },
    })?;
    let size = manifest.files.values().map(|file| file.size).sum();
    Ok(store::Kernel { release: manifest.release, size, ..kernel })
}
