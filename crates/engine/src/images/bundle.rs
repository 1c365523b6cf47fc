//! Images of the catalog: fetch a bundle, unpack and check it, publish.
//!
//! A bundle that is here already costs nothing; another one of the name takes its place as a tag that moved does.

use std::{fs::File, io::BufReader, ops::ControlFlow, path::Path, sync::Arc};

use image::{
    catalog::bundle::{self, BundleError},
    manifest::ImageManifest,
    oci::Digest,
    rootfs,
};
use model::{ImageName, KernelName, undo::Undo};
use store::Ready;
use wire::control::Event;

use super::Staged;
use crate::{
    Engine, Error, Operation, Result, blocking,
    catalogs::{Found, bundle::source},
    payload::uuid_text,
};

/// Where an image is that is being made, and what it will be.
struct Draft {
    id: String,
    name: ImageName,
    kernel: Option<KernelName>,
    source: String,
    digest: Digest,
}

impl Engine {
    /// The image of the catalog that was `found`, as `name` or its own, with `kernel` or its own.
    pub(super) async fn image_of_catalog(
        &self,
        operation: &Operation,
        found: Found,
        name: Option<ImageName>,
        kernel: Option<KernelName>,
    ) -> Result<store::Image> {
        let digest = found.entry.digest;
        let name = name.unwrap_or_else(|| found.entry.name.clone());
        // Before the claim: who has one takes no other.
        let kernel = match (kernel, &found.entry.kernel) {
            (Some(kernel), _) => Some(kernel),
            (None, Some(kernel)) => Some(self.kernel_or_pulled(operation, kernel).await?.name),
            (None, None) => None,
        };
        let wanted = kernel.as_ref().map_or("none", KernelName::as_str);
        let key = format!("{name} of the catalog's {} {digest} with kernel {wanted}", found.entry.name);
        let engine = self.clone();
        let pull = |pulling| async move { engine.pull_bundle(&pulling, found, name, kernel).await };
        self.0.images.with(key, operation, pull).await
    }

    async fn pull_bundle(
        &self,
        operation: &Operation,
        found: Found,
        name: ImageName,
        kernel: Option<KernelName>,
    ) -> Result<store::Image> {
        let digest = found.entry.digest;
        let claim = self.claim(format!("image {name}"));
        let _claim = operation.cancellable(async { Ok(claim.await) }).await?;
        let origin = format!("catalog {} ", found.entry.name);
        if let Some(image) = self.image_named(name.as_str())? {
            if !image.source.starts_with(&origin) {
                return Err(store::Error::Taken(image.name.to_string()).into());
            }
            if self.is_of(&image, digest) {
                return Ok(image);
            }
        }
        operation.stage("pulling image");
        let id = uuid::Uuid::new_v4().simple().to_string();
        let entry = self.store().ledger_open(None, operation.id(), &Undo::Staging(id.clone()))?;
        let directory = self.paths().staging().join(&id);
        let draft = Draft { id, name, kernel, source: source(found.entry.name.as_str(), &digest), digest };
        let stage = async {
            host::fs::create_dir(&directory)?;
            let file = self.fetch_bundle(operation, "pulling image", &found, &directory).await?;
            operation.stage("importing image");
            let task = operation.clone();
            blocking(move || unpack(&task, &file, &directory, draft)).await
        };
        let staged = self.points().around("stage", stage).await;
        self.publish_or_remove(entry, staged).await
    }
}

fn unpack(operation: &Operation, file: &Arc<File>, directory: &Path, draft: Draft) -> Result<Staged> {
    let Draft { id, name, kernel, source, digest } = draft;
    let mut progress = |progress: rootfs::Progress| {
        let (name, unit) = ("importing image".to_owned(), "bytes".to_owned());
        operation.emit(Event::Progress { name, done: progress.unpacked, total: None, unit });
        if operation.token().is_cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let refused = |cause| match cause {
        BundleError::Cancelled => Error::Cancelled,
        cause => Error::ImportImage { name: name.to_string(), cause: Box::new(cause) },
    };
    let unpacked =
        bundle::unpack_image(BufReader::new(&**file), directory, &mut progress).map_err(refused)?;
    let manifest = ImageManifest {
        name: name.to_string(),
        source,
        resolved: Some(digest),
        registered: None,
        kernel: kernel.as_ref().map(KernelName::to_string),
        created_ms: host::clock::now_ms(),
        ..unpacked.manifest
    };
    manifest.write(directory).map_err(|cause| refused(cause.into()))?;
    let image = store::Image {
        id,
        // What is not known was refused.
        ready: manifest.ready.as_deref().and_then(Ready::from_name).unwrap_or(Ready::Agent),
        init: manifest.init.unwrap_or_else(|| "agent".to_owned()),
        digest: manifest.sha256,
        size: manifest.size,
        uuid: uuid_text(unpacked.uuid),
        created_ms: manifest.created_ms,
        source: manifest.source,
        kernel,
        name,
    };
    Ok(Staged { image, supersedes: true })
}
