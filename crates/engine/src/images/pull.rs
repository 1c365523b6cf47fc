//! Images from registries: resolve, fetch what is not cached, merge, publish.
//!
//! A tag that leads where it led before costs one request. One that moved becomes a new image under the name; VMs keep the
//! old one, which gets a name of its own, and one that nobody uses goes. Blobs are cached by digest; a pull holds those it
//! needs open, so emptying the cache harms none that is under way.

use std::{
    collections::HashSet,
    fs::File,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use image::{
    catalog::Kind,
    manifest::ImageManifest,
    oci::{Choice, Descriptor, Digest, Directory, Manifest, Opened},
};
use model::{ImageChoice, ImageName, ImageReference, KernelName};
use store::Ready;
use tokio::{sync::Semaphore, task::JoinSet};
use wire::control::{CacheContent, Event, Outcome, PullImage};

use super::{Draft, Material};
use crate::{
    Engine, Error, Operation, Result, blocking,
    registry::{Registry, RegistryError, Target, Transport},
};

/// How many blobs are fetched at once.
const AT_ONCE: usize = 4;
/// How often those who follow are told.
const TELL_EVERY: Duration = Duration::from_millis(200);

/// What is to be pulled, under which name.
struct Wish {
    reference: ImageReference,
    name: ImageName,
    kernel: Option<KernelName>,
    transport: Transport,
}

impl Wish {
    /// What makes two wishes the same one.
    fn key(&self) -> String {
        let kernel = self.kernel.as_ref().map_or("its own", KernelName::as_str);
        format!("{} of {} with kernel {kernel}, {:?}", self.name, self.reference, self.transport)
    }
}

impl Engine {
    /// Pulls an image of the catalog, or from a registry.
    ///
    /// # Errors
    /// Where the catalog cannot be used, the reference is none, the registry cannot be reached or does not have it, what it gives is refused, or the name
    /// is that of an image from elsewhere; nothing is left then but whole blobs in the cache.
    pub async fn image_pull(self, operation: Operation, pull: PullImage) -> Result<Outcome> {
        // What could be the name of an image is looked for there first.
        let name = match ImageChoice::try_from(&*pull.reference) {
            Ok(ImageChoice::Stored(name)) => Some(name),
            Ok(ImageChoice::Remote(_)) | Err(_) => None,
        };
        let found =
            name.as_ref().map(|name| self.in_catalog(Kind::Images, name.as_str())).transpose()?.flatten();
        let image = match found {
            Some(found) => {
                let name = pull.name.as_deref().map(|name| {
                    ImageName::try_from(name).map_err(|why| Error::invalid("image name", name, why))
                });
                let kernel = pull.kernel.as_deref().map(|kernel| self.kernel_named(kernel)).transpose()?;
                let kernel = kernel.map(|kernel| kernel.name);
                self.image_of_catalog(&operation, found, name.transpose()?, kernel).await?
            }
            None => {
                let pulled = self.pulled(&operation, self.wish(&pull)?).await;
                pulled.map_err(|cause| self.no_such_name(name, cause))?
            }
        };
        Ok(Outcome::Image(Box::new(self.image_view(image)?)))
    }

    /// The error of a pull of what may have been meant as a `name` of the catalog.
    fn no_such_name(&self, name: Option<ImageName>, cause: Error) -> Error {
        match name {
            Some(name) if cause.is_pull() => Error::NotInCatalog {
                name: name.to_string(),
                configured: self.0.config.image_catalog.is_some(),
                cause: Box::new(cause),
            },
            Some(_) | None => cause,
        }
    }

    fn wish(&self, pull: &PullImage) -> Result<Wish> {
        let reference = ImageReference::try_from(&*pull.reference)
            .map_err(|why| Error::invalid("image reference", &pull.reference, why))?;
        let name = match &pull.name {
            Some(name) => {
                ImageName::try_from(&**name).map_err(|why| Error::invalid("image name", name, why))?
            }
            None => reference.image_name().ok_or_else(|| {
                let why = "no name of an image follows from it; give one with --name";
                Error::invalid("image reference", &pull.reference, why)
            })?,
        };
        let kernel = pull.kernel.as_deref().map(|kernel| self.kernel_named(kernel)).transpose()?;
        let transport = if pull.insecure { Transport::Insecure } else { Transport::Secure };
        Ok(Wish { reference, name, kernel: kernel.map(|kernel| kernel.name), transport })
    }

    /// The newest image that was pulled by reference `text`; it is pulled where there is none.
    pub(super) async fn image_by_reference(&self, operation: &Operation, text: &str) -> Result<store::Image> {
        let pull = PullImage { reference: text.to_owned(), ..PullImage::default() };
        let wish = self.wish(&pull)?;
        let source = wish.reference.to_string();
        let images = self.store().image_list()?;
        let pulled = images.into_iter().filter(|image| image.source == source);
        match pulled.max_by_key(|image| image.created_ms) {
            Some(image) => Ok(image),
            None => self.pulled(operation, wish).await,
        }
    }

    /// The image of `wish`, which all who have the same wish meanwhile pull together.
    async fn pulled(&self, operation: &Operation, wish: Wish) -> Result<store::Image> {
        let (engine, key) = (self.clone(), wish.key());
        let pull = |pulling| async move { engine.pull(&pulling, wish).await };
        self.0.images.with(key, operation, pull).await
    }

    async fn pull(&self, operation: &Operation, wish: Wish) -> Result<store::Image> {
        let claim = self.claim(format!("image {}", wish.name));
        let _claim = operation.cancellable(async { Ok(claim.await) }).await?;
        let reference = wish.reference.to_string();
        let existing = self.image_named(wish.name.as_str())?;
        if let Some(image) = existing.as_ref().filter(|image| image.source != reference) {
            return Err(store::Error::Taken(image.name.to_string()).into());
        }
        operation.stage("pulling image");
        let failed = |cause: RegistryError| match cause {
            RegistryError::Stopped => Error::ShuttingDown,
            cause => Error::Pull { reference: wish.reference.to_string(), cause: Box::new(cause) },
        };
        let choice = Choice::host();
        let found = operation.cancellable(async {
            let registry = Registry::new(wish.reference.clone(), wish.transport, &self.0.registries);
            let registry = Arc::new(registry.await.map_err(failed)?);
            let top = registry.top().await.map_err(failed)?;
            let resolved = top.digest;
            if let Some(image) = existing.as_ref().filter(|image| self.is_of(image, resolved)) {
                return Ok(Err(image.clone()));
            }
            let manifest = registry.manifest(top, &choice).await.map_err(failed)?;
            let blobs = self.fetch(operation, &registry, &manifest.1, &failed).await?;
            Ok(Ok((resolved, manifest, blobs)))
        });
        let (resolved, manifest, blobs) = match found.await? {
            Ok(found) => found,
            // The tag leads where it led before.
            Err(image) => return Ok(image),
        };
        operation.stage("importing image");
        let draft = Draft {
            name: wish.name.clone(),
            source: reference,
            kernel: wish.kernel.or_else(|| existing.and_then(|image| image.kernel)),
            ready: Ready::Agent,
            init: None,
            tag: None,
            resolved: Some(resolved),
        };
        let material = Material::<std::io::Empty>::Pulled(Box::new((blobs, manifest)));
        let (entry, staged) = self.stage(operation, draft, material).await?;
        self.publish_or_remove(entry, staged).await
    }

    /// Whether `image` was made of what `resolved` names.
    pub(super) fn is_of(&self, image: &store::Image, resolved: Digest) -> bool {
        let manifest = ImageManifest::read(&self.paths().images().join(&image.id));
        // One that cannot be read is made again.
        manifest.ok().flatten().and_then(|manifest| manifest.resolved) == Some(resolved)
    }

    /// All blobs of `manifest`, from the cache and from the registry.
    async fn fetch(
        &self,
        operation: &Operation,
        registry: &Arc<Registry>,
        manifest: &Manifest,
        failed: &impl Fn(RegistryError) -> Error,
    ) -> Result<Opened> {
        let mut known = HashSet::new();
        let wanted = manifest.layers.iter().chain([&manifest.config]);
        let wanted: Vec<_> = wanted.filter(|blob| known.insert(blob.digest)).cloned().collect();
        let cache = Directory::new(self.paths().blobs());
        let (blobs, missing) = blocking(move || {
            let mut blobs = Opened::default();
            let mut missing = Vec::new();
            for blob in wanted {
                match cached(&cache.path(&blob.digest), blob.size) {
                    Some(file) => blobs.insert(blob.digest, Arc::new(file)),
                    None => missing.push(blob),
                }
            }
            Ok((blobs, missing))
        })
        .await?;
        let needed = missing.iter().fold(0_u64, |sum, blob| sum.saturating_add(blob.size));
        let free = host::fs::free_space(&self.paths().partial())?;
        if needed > free {
            return Err(failed(RegistryError::NoSpace { needed, free }));
        }

        let of = missing.len() as u64;
        let done = Arc::new(AtomicU64::new(0));
        let tell = |done, total, unit: &str| {
            let (name, unit) = ("pulling image".to_owned(), unit.to_owned());
            operation.emit(Event::Progress { name, done, total: Some(total), unit });
        };
        let tell_bytes = || tell(done.load(Ordering::Relaxed), needed, "bytes");
        let mut finished = 0;
        let mut tasks = self.begin_fetching(registry, missing, &done);
        let mut ticks = tokio::time::interval(TELL_EVERY);
        let mut blobs = blobs;
        loop {
            tokio::select! {
                _ = ticks.tick(), if of > 0 => tell_bytes(),
                ended = tasks.join_next() => match ended {
                    None => return Ok(blobs),
                    Some(Ok(Ok((digest, file)))) => {
                        blobs.insert(digest, file);
                        finished += 1;
                        tell_bytes();
                        tell(finished, of, "blobs");
                    }
                    Some(Ok(Err(error))) => return Err(failed(error)),
                    Some(Err(_)) => return Err(Error::Broken),
                },
            }
        }
    }

    /// Begins to fetch `missing`, a few at a time. Dropped, the tasks end and their files go.
    fn begin_fetching(
        &self,
        registry: &Arc<Registry>,
        missing: Vec<Descriptor>,
        done: &Arc<AtomicU64>,
    ) -> JoinSet<Result<(Digest, Arc<File>), RegistryError>> {
        let places = Arc::new(Semaphore::new(AT_ONCE));
        let cache = Directory::new(self.paths().blobs());
        let mut tasks = JoinSet::new();
        for blob in missing {
            let unique = uuid::Uuid::new_v4().simple();
            let partial = self.paths().partial().join(format!("{}.{unique}", blob.digest.hex()));
            let target = Target { partial, cached: cache.path(&blob.digest) };
            let (registry, places, done) = (Arc::clone(registry), Arc::clone(&places), Arc::clone(done));
            tasks.spawn(async move {
                let _place = places.acquire_owned().await.expect("it is never closed");
                Ok((blob.digest, registry.blob(&blob, target, done).await?))
            });
        }
        tasks
    }

    /// Removes blob `digest` from the cache, where it is not what it should be.
    pub(super) fn forget_blob(&self, digest: &Digest) -> Result<()> {
        Ok(host::fs::remove(&Directory::new(self.paths().blobs()).path(digest))?)
    }

    /// What is in the cache of blobs.
    ///
    /// # Errors
    /// Where it cannot be looked at.
    pub async fn image_cache(&self) -> Result<CacheContent> {
        let blobs = self.paths().blobs();
        blocking(move || content(&blobs)).await
    }

    /// Empties the cache of blobs, and says what was in it. It is put aside first, so that nobody sees half of it.
    ///
    /// # Errors
    /// Where it cannot be emptied.
    pub async fn image_cache_prune(&self) -> Result<CacheContent> {
        let (blobs, aside) = (self.paths().blobs(), self.paths().blobs_aside());
        let prune = blocking(move || {
            let aside = aside.join(uuid::Uuid::new_v4().simple().to_string());
            host::fs::rename(&blobs, &aside)?;
            host::fs::private_dir(&blobs.join("sha256"))?;
            let found = content(&aside)?;
            host::fs::remove_all(&aside)?;
            Ok(found)
        });
        self.points().around("prune", prune).await
    }
}

/// The blob of `size` bytes at `path`, where it is there. Its digest is compared when it is read.
fn cached(path: &Path, size: u64) -> Option<File> {
    let file = host::fs::open(path).ok()?;
    file.metadata().is_ok_and(|meta| meta.is_file() && meta.len() == size).then_some(file)
}

fn content(blobs: &Path) -> Result<CacheContent> {
    let mut found = CacheContent::default();
    for path in host::fs::list(&blobs.join("sha256"))? {
        found.blobs += 1;
        found.bytes += host::fs::disk_usage(&path)?;
    }
    Ok(found)
}
