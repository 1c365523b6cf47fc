//! Images whose file stays where it is: recording one, and taking it into the store after all.
//!
//! ```text
//! images/<id>/rootfs.ext4   a link to the file         registered
//!                           a file of the store        promoted, by one rename
//! ```
//! Nobody keeps the owner from changing a file of theirs, so its size and time are compared at every start. Promoting changes
//! nothing for a VM: the copy has the digest of what was registered.

use std::{
    fs::File,
    io::{self, Read},
    ops::ControlFlow,
    path::{Path, PathBuf},
};

use image::{
    ext4::inspect::inspect,
    identity,
    manifest::{self, ImageManifest, Registered, RunConfig},
};
use model::{ImageName, KernelName, undo::Undo};
use store::Ready;
use wire::control::{Event, Outcome, RegisterImage};

use super::{Staged, init_path};
use crate::{Engine, Error, Operation, Result, blocking, chain, paths, payload::uuid_text, saga};

/// Who decides at the boot what is init: the guest's agent, which sees what there is.
const FOUND_BY_GUEST: &str = "agent";
/// How many bytes go by between two reports.
const REPORT_EVERY: u64 = 64 << 20;

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
        if !how.rootfs.starts_with('/') {
            return Err(Error::invalid("rootfs", &how.rootfs, "it must be an absolute path"));
        }
        let kernel = how.kernel.as_deref().map(|kernel| self.kernel_named(kernel)).transpose()?;
        let draft = Draft {
            id: uuid::Uuid::new_v4().simple().to_string(),
            name,
            kernel: kernel.map(|kernel| kernel.name),
            init: how.init.map(init_path).transpose()?,
            file: how.rootfs.into(),
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
        let place = self.paths().rootfs(&image.id);
        if let Some(file) = host::fs::read_link(&place)? {
            self.check_registered(&image)?;
            operation.stage("promoting image");
            let id = uuid::Uuid::new_v4().simple().to_string();
            let entry = self.store().ledger_open(None, operation.id(), &Undo::Staging(id.clone()))?;
            let staging = self.paths().staging().join(&id);
            let promoted = async {
                let (task, image, from, to) =
                    (operation.clone(), image.clone(), file.clone(), staging.clone());
                let stage = blocking(move || copy(&task, &image, &from, &to));
                self.points().around("stage", stage).await?;
                operation.checkpoint()?;
                self.take_in(entry, staging.clone(), place, file).await
            };
            saga::undo_staging(&self.0.world, entry, promoted.await).await?;
            // It is empty; where it stays all the same, the next start sweeps it away.
            let _ = blocking(move || Ok(host::fs::remove_all(&staging)?)).await;
        }
        Ok(Outcome::Image(Box::new(self.image_view(image)?)))
    }

    /// Puts the copy in `staging`, whose ledger entry is given, into `place`, where a link to `file` is, or leaves the link.
    async fn take_in(&self, entry: i64, staging: PathBuf, place: PathBuf, file: PathBuf) -> Result<()> {
        let (copy, target) = (staging.join(paths::ROOTFS), place.clone());
        let rename = blocking(move || Ok(host::fs::rename(&copy, &target)?));
        let renamed = self.points().around("publish", rename).await;
        let Err(cause) = renamed.and_then(|()| Ok(self.store().ledger_close(entry)?)) else { return Ok(()) };
        let put_back = blocking(move || {
            let link = staging.join("link");
            host::fs::symlink(&file, &link)?;
            Ok(host::fs::rename(&link, &place)?)
        });
        Err(match put_back.await {
            Ok(()) => cause,
            Err(error) => Error::Residue { cause: Box::new(cause), left: vec![chain(&error)] },
        })
    }

    /// Refuses an image whose file is not the one that was registered any more. One of the store is what it is.
    pub(crate) fn check_registered(&self, image: &store::Image) -> Result<()> {
        let place = self.paths().rootfs(&image.id);
        let Some(file) = host::fs::read_link(&place)? else { return Ok(()) };
        let manifest = ImageManifest::read(&self.paths().images().join(&image.id));
        let manifest = manifest
            .map_err(|cause| Error::ReadImage { name: image.name.to_string(), cause: Box::new(cause) })?;
        let registered = manifest.and_then(|manifest| manifest.registered);
        match registered_now(&file) {
            Ok(now) if Some(now) == registered => Ok(()),
            Ok(_) | Err(_) => {
                Err(Error::OtherFile { kind: "image", name: image.name.to_string(), path: file })
            }
        }
    }
}

/// What tells whether `file` is the one that was registered.
pub(crate) fn registered_now(file: &Path) -> host::Result<Registered> {
    let (size, modified) = host::fs::identity(file)?;
    Ok(Registered { size, modified_ns: i64::try_from(modified).unwrap_or(i64::MAX) })
}

/// Makes the files of a registered image in `directory`.
fn register(operation: &Operation, directory: &Path, draft: Draft) -> Result<Staged> {
    let Draft { id, name, kernel, init, file } = draft;
    if !host::fs::is_file(&file) {
        let shown = file.display().to_string();
        return Err(Error::invalid(
            "rootfs",
            &shown,
            "there is no file; for a directory: banger image import",
        ));
    }
    // What a link leads to later does not matter.
    let file = host::fs::real_path(&file)?;
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

/// Copies the file of registered `image` into the new directory `staging`, to the last byte what was registered.
fn copy(operation: &Operation, image: &store::Image, file: &Path, staging: &Path) -> Result<()> {
    let copy = staging.join(paths::ROOTFS);
    host::fs::create_dir(staging)?;
    let mut watch = |done| tell(operation, "copying image", done, image.size);
    let copied = host::fs::clone_watched(file, &copy, &mut watch);
    operation.checkpoint()?;
    copied?;
    let copied = host::fs::open(&copy)?;
    if digest(operation, "checking image", &copy, copied)? != image.digest {
        return Err(Error::OtherFile { kind: "image", name: image.name.to_string(), path: file.to_owned() });
    }
    let copied = host::fs::open(&copy)?;
    Ok(copied.sync_all().map_err(|e| host::Error::path("sync", &copy, e))?)
}

/// Tells how far a stage is; ends it where nobody wants it any more.
fn tell(operation: &Operation, stage: &str, done: u64, total: u64) -> ControlFlow<()> {
    let (name, unit) = (stage.to_owned(), "bytes".to_owned());
    operation.emit(Event::Progress { name, done, total: Some(total), unit });
    if operation.token().is_cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
}

/// The digest of a file that may be large: whoever follows sees it get on, and can end it.
fn digest(operation: &Operation, stage: &str, path: &Path, file: File) -> Result<String> {
    let total = file.metadata().map_err(|e| host::Error::path("look at", path, e))?.len();
    let mut watched = Watched { file, operation, stage, total, done: 0, next: 0 };
    let digest = identity::sha256(&mut watched);
    operation.checkpoint()?;
    Ok(digest.map_err(|e| host::Error::path("read", path, e))?)
}

/// A file that is read under the eyes of an operation.
struct Watched<'a> {
    file: File,
    operation: &'a Operation,
    stage: &'a str,
    total: u64,
    done: u64,
    next: u64,
}

impl Read for Watched<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.done >= self.next {
            self.next = self.done + REPORT_EVERY;
            if tell(self.operation, self.stage, self.done, self.total).is_break() {
                return Err(io::Error::other("cancelled"));
            }
        }
        let count = self.file.read(out)?;
        self.done += count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn a_copy_ends_when_nobody_wants_it_any_more() {
        let dir = std::env::temp_dir().join(format!("banger-engine-copy-{}", std::process::id()));
        host::fs::create_dir(&dir).unwrap();
        let file = dir.join("file");
        host::fs::create_new(&file).unwrap().write_all_at(&[b'x'; 1 << 20], 0).unwrap();
        let image = store::Image {
            id: "1".to_owned(),
            name: ImageName::try_from("new").unwrap(),
            source: String::new(),
            digest: identity::sha256(&mut &*host::fs::read(&file).unwrap()).unwrap(),
            size: 1 << 20,
            uuid: String::new(),
            kernel: None,
            ready: Ready::Agent,
            init: String::new(),
            created_ms: 0,
        };
        let operation = Operation::unlisted("promote".to_owned());
        copy(&operation, &image, &file, &dir.join("whole")).unwrap();
        assert!(
            host::fs::read(&dir.join("whole").join(paths::ROOTFS)).unwrap() == host::fs::read(&file).unwrap()
        );
        operation.cancel();
        let ended = copy(&operation, &image, &file, &dir.join("ended"));
        assert!(matches!(ended, Err(Error::Cancelled)), "{ended:?}");
        host::fs::remove_all(&dir).unwrap();
    }
}
