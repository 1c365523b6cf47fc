//! Images whose file stays where it is: recording one, and taking it into the store after all.

use std::path::{Path, PathBuf};

use image::{
    ext4::inspect::inspect,
    manifest::{self, ImageManifest, RunConfig},
};
use model::{ImageName, KernelName, undo::Undo};
use store::Ready;
use wire::control::{Outcome, RegisterImage};

use super::{Staged, init_path};
use crate::{
    Engine, Error, Operation, Result, blocking,
    elsewhere::{Elsewhere, digest, locate, registered_now},
    paths,
    payload::uuid_text,
};

/// Who decides at the boot what is init: the guest's agent, which sees what there is.
const FOUND_BY_GUEST: &str = "agent";

/// What will be an image, and its file.
struct Draft {
    id: String,
    name: ImageName,
    kernel: Option<KernelName>,
    init: Option<String>,
    file: PathBuf,
}

impl Engine {
    /// Records the ext4 file system in a file of this host as image `name`; the file stays where it is.
    ///
    /// # Errors
    /// Where the name is taken or wrong, or no guest could use the file.
    pub async fn image_register(
        self,
        operation: Operation,
        name: String,
        how: RegisterImage,
    ) -> Result<Outcome> {
        let name =
            ImageName::try_from(name.as_str()).map_err(|why| Error::invalid("image name", &name, why))?;
        let paths = self.paths().clone();
        let locate = move || locate(&paths, "rootfs", &how.rootfs, "for a directory: banger image import");
        let kernel = how.kernel.as_deref().map(|kernel| self.kernel_named(kernel)).transpose()?;
        let draft = Draft {
            id: uuid::Uuid::new_v4().simple().to_string(),
            name,
            kernel: kernel.map(|kernel| kernel.name),
            init: how.init.map(init_path).transpose()?,
            file: blocking(locate).await?,
        };
        let claim = self.claim(format!("image {}", draft.name));
        let _claim = operation.cancellable(async { Ok(claim.await) }).await?;
        if self.image_named(draft.name.as_str())?.is_some() {
            return Err(store::Error::Taken(draft.name.to_string()).into());
        }
        operation.stage("registering image");
        let entry = self.store().ledger_open(None, operation.id(), &Undo::Staging(draft.id.clone()))?;
        let directory = self.paths().staging().join(&draft.id);
        let task = operation.clone();
        let stage = blocking(move || {
            host::fs::create_dir(&directory)?;
            register(&task, &directory, draft)
        });
        let staged = self.points().around("stage", stage).await;
        let image = self.publish_or_remove(entry, staged).await?;
        Ok(Outcome::Image(Box::new(self.image_view(image)?)))
    }

    /// Copies the file of a registered image into the store, so that it can go; one that is there already stays as it is.
    ///
    /// # Errors
    /// Where there is no such image, its file is not what was registered, or the copy does not fit.
    pub async fn image_promote(self, operation: Operation, name: String) -> Result<Outcome> {
        let _claim = operation.cancellable(async { Ok(self.claim(format!("image {name}")).await) }).await?;
        let image = self.image_called(&name)?;
        if let Some(elsewhere) = self.image_elsewhere(&image)? {
            self.check_registered(&image)?;
            operation.stage("promoting image");
            self.take_in(&operation, elsewhere).await?;
        }
        Ok(Outcome::Image(Box::new(self.image_view(image)?)))
    }

    /// Refuses an image whose file is not the one that was registered any more. One of the store is what it is.
    pub(crate) fn check_registered(&self, image: &store::Image) -> Result<()> {
        let Some(elsewhere) = self.image_elsewhere(image)? else { return Ok(()) };
        let manifest = ImageManifest::read(&self.paths().images().join(&image.id));
        let manifest = manifest
            .map_err(|cause| Error::ReadImage { name: image.name.to_string(), cause: Box::new(cause) })?;
        let registered = manifest.and_then(|manifest| manifest.registered);
        registered.map_or_else(|| Err(elsewhere.other_file()), |registered| elsewhere.check(registered))
    }

    /// Where the file of `image` lies, where that is not in the store.
    fn image_elsewhere(&self, image: &store::Image) -> Result<Option<Elsewhere>> {
        let place = self.paths().rootfs(&image.id);
        let file = host::fs::read_link(&place)?;
        Ok(file.map(|file| Elsewhere {
            kind: "image",
            name: image.name.to_string(),
            place,
            file,
            size: image.size,
            digest: image.digest.clone(),
        }))
    }
}

/// Makes the files of a registered image in `directory`.
fn register(operation: &Operation, directory: &Path, draft: Draft) -> Result<Staged> {
    let Draft { id, name, kernel, init, file } = draft;
    let refused = |cause: crate::error::Cause| Error::RegisterImage { path: file.clone(), cause };
    let registered = registered_now(&file)?;
    let opened = host::fs::open(&file)?;
    let found = inspect(&opened).map_err(|cause| refused(cause.into()))?;
    let sha256 = digest(operation, "registering image", &file, opened)?;
    if registered_now(&file)? != registered {
        return Err(refused("it was changed while it was read".into()));
    }
    host::fs::symlink(&file, &directory.join(paths::ROOTFS))?;
    let manifest = ImageManifest {
        version: manifest::VERSION,
        name: name.to_string(),
        source: format!("file {}", file.display()),
        origin: None,
        resolved: None,
        registered: Some(registered),
        arch: std::env::consts::ARCH.to_owned(),
        sha256,
        size: registered.size,
        created_ms: host::clock::now_ms(),
        kernel: kernel.as_ref().map(KernelName::to_string),
        ready: Some(Ready::Agent.name().to_owned()),
        init: Some(init.unwrap_or_else(|| FOUND_BY_GUEST.to_owned())),
        run: RunConfig::default(),
    };
    manifest.write(directory).map_err(|cause| refused(cause.into()))?;
    let image = store::Image {
        id,
        name,
        source: manifest.source,
        digest: manifest.sha256,
        size: manifest.size,
        uuid: uuid_text(found.uuid),
        kernel,
        ready: Ready::Agent,
        init: manifest.init.expect("it was just set"),
        created_ms: manifest.created_ms,
    };
    Ok(Staged { image, supersedes: false })
}
