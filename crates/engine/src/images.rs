//! Images: making them, publishing them, finding the one that a VM wants.
//!
//! The slow work happens in a staging directory without any lock; publication renames the directory into place and inserts
//! the row. The loser of a race for a name fails at the row, and its directory goes.

mod bundle;
mod pull;
pub(crate) mod register;

use std::{
    io::Read,
    ops::ControlFlow,
    path::{Path, PathBuf},
};

use host::proc::Command;
use image::{
    catalog::Kind,
    manifest::{self, ImageManifest, RunConfig},
    oci::{self, Digest, Imported, Manifest, OciError, Opened},
    rootfs::{self, ImportOptions},
};
use model::{ImageChoice, ImageName, KernelName, init::Init, undo::Undo};
use store::{Ready, Store};
use wire::control::{self, BuildImage, CreateVm, Event, ImportImage, Outcome};

use crate::{
    Engine, Error, Operation, Result, blocking, chain, paths, payload::uuid_text, program, saga, view,
};

/// What goes into `debian-bookworm`, whatever its variant.
const PACKAGES: &[&str] = &[
    "systemd",
    "systemd-sysv",
    "udev",
    "dbus",
    "libpam-systemd",
    "openssh-server",
    "git",
    "curl",
    "jq",
    "ca-certificates",
    "iproute2",
    "procps",
    "less",
    "kmod",
];
/// What `--variant minimal` leaves out.
const DOCKER: &[&str] = &["docker.io", "iptables"];
/// Starts the image's sshd only in a VM that was given a host key.
const SSHD_DROPIN: &str = "/etc/systemd/system/ssh.service.d";
const SSHD_CONDITION: &str = "[Unit]\\nConditionPathExists=/etc/ssh/ssh_host_ed25519_key\\n";
/// Units that wait until they are wanted: docker's socket starts docker, and a machine that may live for a minute has nothing to
/// upgrade in the background, least of all while somebody uses its package manager.
const SETTLED: &str = "multi-user.target.wants/docker.service multi-user.target.wants/containerd.service \
                       multi-user.target.wants/e2scrub_reap.service timers.target.wants/e2scrub_all.timer \
                       timers.target.wants/apt-daily.timer timers.target.wants/apt-daily-upgrade.timer";
/// The one recipe there is.
pub(crate) const RECIPE: &str = "debian-bookworm";

/// How long a build may take.
const BUILD: std::time::Duration = std::time::Duration::from_secs(3600);

/// What an image is made of.
enum Material<R> {
    /// A root tar, or an archive of an image.
    Stream(R),
    /// A directory: an OCI layout, or a root file system as it is.
    Directory(PathBuf),
    /// The blobs of a manifest with that digest.
    Pulled(Box<(Opened, (Digest, Manifest))>),
}

/// An image that is whole but not published.
struct Staged {
    image: store::Image,
    /// Whether it takes the place of an older one of its name.
    supersedes: bool,
}

/// What is known of an image before it is published.
struct Draft {
    name: ImageName,
    source: String,
    kernel: Option<KernelName>,
    ready: Ready,
    /// Asked for, instead of what is found.
    init: Option<String>,
    /// Which of several images.
    tag: Option<String>,
    /// What its reference led to; such an image takes the place of an older one of its name.
    resolved: Option<Digest>,
}

impl Engine {
    /// All images by name.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub fn image_list(&self) -> Result<control::Images> {
        let images = self.store().image_list()?;
        Ok(control::Images {
            images: images.into_iter().map(|image| self.image_view(image)).collect::<Result<_>>()?,
        })
    }

    /// The image `name`.
    ///
    /// # Errors
    /// Where there is none.
    pub fn image_show(&self, name: &str) -> Result<control::Image> {
        self.image_view(self.image_named(name)?.ok_or_else(|| unknown_image(name))?)
    }

    /// Removes the unused image `name`.
    ///
    /// # Errors
    /// Where there is none, or a VM uses it.
    pub async fn image_delete(self, operation: Operation, name: String) -> Result<Outcome> {
        let _claim = operation.cancellable(async { Ok(self.claim(format!("image {name}")).await) }).await?;
        let image = self.image_called(&name)?;
        self.store().image_delete(&image.id)?;
        // Without its row it is nobody's; a crash here leaves it to reconcile.
        let directory = self.paths().images().join(&image.id);
        self.remove_directory("image", &name, directory).await?;
        Ok(Outcome::None)
    }

    /// The images whose name a newer one has, and that no VM uses.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub fn image_prunable(&self) -> Result<control::Images> {
        let mut images = self.image_list()?.images;
        images.retain(|image| image.superseded && image.used_by.is_empty());
        Ok(control::Images { images })
    }

    /// Removes the images whose name a newer one has, and that no VM uses; gives them.
    ///
    /// # Errors
    /// Where one cannot be removed; those before it are.
    pub async fn image_prune(&self, operation: &Operation) -> Result<control::Images> {
        let mut pruned = Vec::new();
        for image in self.image_prunable()?.images {
            operation.checkpoint()?;
            let claim = self.claim(format!("image {}", image.name));
            let _claim = operation.cancellable(async { Ok(claim.await) }).await?;
            let Some(found) = self.image_named(&image.name)? else { continue };
            match self.store().image_delete(&found.id) {
                // Somebody was faster.
                Err(store::Error::InUse(_) | store::Error::Missing) => continue,
                deleted => deleted?,
            }
            let directory = self.paths().images().join(&found.id);
            self.remove_directory("image", &image.name, directory).await?;
            pruned.push(image);
        }
        Ok(control::Images { images: pruned })
    }

    /// Removes what lies in `directory`, whose row is gone.
    pub(crate) async fn remove_directory(
        &self,
        kind: &'static str,
        name: &str,
        directory: PathBuf,
    ) -> Result<()> {
        let remove = blocking(move || Ok(host::fs::remove_all(&directory)?));
        let removed = self.points().around("remove", remove).await;
        removed.map_err(|cause| Error::Files { kind, name: name.to_owned(), cause: Box::new(cause) })
    }

    /// Makes what `reader` gives, plain or compressed, the image `name`: a root tar, an OCI archive or what `docker save`
    /// writes. A directory is read where it lies instead: an OCI layout, or a root file system.
    ///
    /// # Errors
    /// Where the name is taken or wrong, or the source is refused; nothing is left then.
    pub async fn image_import(
        self,
        operation: Operation,
        name: String,
        how: ImportImage,
        reader: impl Read + Send + 'static,
    ) -> Result<Outcome> {
        let draft = Draft {
            name: ImageName::try_from(name.as_str())
                .map_err(|why| Error::invalid("image name", &name, why))?,
            source: how.source.unwrap_or_else(|| "a tar".to_owned()),
            kernel: match how.kernel {
                Some(kernel) => Some(self.kernel_named(&kernel)?.name),
                None => None,
            },
            ready: Ready::Agent,
            init: how.init.map(init_path).transpose()?,
            tag: how.tag,
            resolved: None,
        };
        let material = match how.directory {
            None => Material::Stream(reader),
            Some(path) if path.starts_with('/') => Material::Directory(path.into()),
            Some(path) => return Err(Error::invalid("directory", &path, "it must be an absolute path")),
        };
        let _claim = operation.cancellable(async { Ok(self.claim(format!("image {name}")).await) }).await?;
        operation.stage("importing image");
        let image = self.publish(&operation, draft, material).await?;
        Ok(Outcome::Image(Box::new(self.image_view(image)?)))
    }

    /// Builds an image from a recipe with the host's own tools.
    ///
    /// # Errors
    /// Where the recipe is unknown, a tool is missing or fails, or the name is taken; nothing is left then.
    pub async fn image_build(self, operation: Operation, build: BuildImage) -> Result<Outcome> {
        let name = build.name.clone().unwrap_or_else(|| build.recipe.clone());
        let name =
            ImageName::try_from(name.as_str()).map_err(|why| Error::invalid("image name", &name, why))?;
        let _claim = operation.cancellable(async { Ok(self.claim(format!("image {name}")).await) }).await?;
        let image = self.build(&operation, name, build).await?;
        Ok(Outcome::Image(Box::new(self.image_view(image)?)))
    }

    async fn build(&self, operation: &Operation, name: ImageName, build: BuildImage) -> Result<store::Image> {
        if build.recipe != RECIPE {
            let hint = Some(format!("the recipes are: {RECIPE}"));
            return Err(Error::NotFound { kind: "recipe", name: build.recipe, hint });
        }
        let (docker, ready) = match build.variant.as_deref() {
            None | Some("full") => (DOCKER, Ready::Init),
            Some("minimal") => (&[][..], Ready::Agent),
            Some(other) => return Err(Error::invalid("variant", other, "the variants are: full, minimal")),
        };
        for package in &build.include {
            let fine = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "+-.".contains(c);
            if package.is_empty() || package.starts_with('-') || !package.chars().all(fine) {
                return Err(Error::invalid("package", package, "a Debian package name is [a-z0-9+.-]"));
            }
        }
        if self.image_named(name.as_str())?.is_some() {
            return Err(store::Error::Taken(name.to_string()).into());
        }
        let wanted = PACKAGES.iter().chain(docker).copied().chain(build.include.iter().map(String::as_str));
        let include = wanted.collect::<Vec<_>>().join(",");
        let arguments = [
            "--variant=minbase".to_owned(),
            format!("--include={include}"),
            // Each VM gets keys and an identity of its own; and what apt can fetch again is dead weight.
            "--customize-hook=rm -f \"$1\"/etc/ssh/ssh_host_*_key* \"$1\"/etc/hostname".to_owned(),
            "--customize-hook=: > \"$1\"/etc/machine-id".to_owned(),
            format!("--customize-hook=cd \"$1\"/etc/systemd/system && rm -f {SETTLED}"),
            // Without a key sshd would fail, and take long to do so.
            format!(
                "--customize-hook=mkdir \"$1\"{SSHD_DROPIN}; printf '{SSHD_CONDITION}' > \"$1\"{SSHD_DROPIN}/key.conf"
            ),
            "bookworm".to_owned(),
            "-".to_owned(),
        ];
        let missing = |e: host::Error| Error::Program {
            program: "mmdebstrap",
            why: chain(&e),
            hint: Some("apt-get install mmdebstrap".to_owned()),
        };
        // As an ordinary user it makes other users' files by newuidmap, which is a way to rights that this daemon cannot have.
        if host::proc::is_held_back() && host::proc::own_uid() != 0 {
            return Err(Error::Program {
                program: "mmdebstrap",
                why: "a daemon that is installed with the system cannot use newuidmap".to_owned(),
                hint: Some(
                    "banger image pull or import, or build it with BANGER_HOME set, and register that"
                        .to_owned(),
                ),
            });
        }
        operation.stage("building image");
        let command = Command::new(self.0.builder.clone()).args(arguments);
        let mut running = blocking(move || command.start().map_err(missing)).await?;
        let stdout = running.take_stdout().expect("it was not taken yet");
        let stderr = running.take_stderr().expect("it was not taken yet");
        let talk = tokio::task::spawn_blocking({
            let operation = operation.clone();
            move || follow_talk(&operation, stderr)
        });
        let watch = program::end_with(operation, running.stopper(), BUILD);
        let draft = Draft {
            name,
            source: format!("recipe {RECIPE}"),
            kernel: None,
            ready,
            init: None,
            tag: None,
            resolved: None,
        };
        let (entry, staged) = self.stage(operation, draft, Material::Stream(stdout)).await?;
        let exit = blocking(move || Ok(running.wait()?)).await;
        drop(watch);
        let talk = talk.await.unwrap_or_default();
        // A tar that ends early may look whole, so the program's own word counts; but what broke its pipe comes first.
        let staged = match (exit, staged) {
            _ if operation.token().is_cancelled() => Err(Error::Cancelled),
            (Ok(exit), staged) if exit.success() => staged,
            (_, Err(error)) if error.is_full() => Err(error),
            (Ok(exit), _) => {
                let why = format!("{exit}\n  {}", talk.join("\n  "));
                Err(Error::Program { program: "mmdebstrap", why, hint: None })
            }
            (Err(error), _) => Err(error),
        };
        self.publish_or_remove(entry, staged).await
    }

    /// Imports and publishes.
    async fn publish(
        &self,
        operation: &Operation,
        draft: Draft,
        material: Material<impl Read + Send + 'static>,
    ) -> Result<store::Image> {
        if self.image_named(draft.name.as_str())?.is_some() {
            return Err(store::Error::Taken(draft.name.to_string()).into());
        }
        let (entry, staged) = self.stage(operation, draft, material).await?;
        self.publish_or_remove(entry, staged).await
    }

    /// Writes the root file system into a staging directory, whose ledger entry is given.
    async fn stage(
        &self,
        operation: &Operation,
        draft: Draft,
        material: Material<impl Read + Send + 'static>,
    ) -> Result<(i64, Result<Staged>)> {
        let id = uuid::Uuid::new_v4().simple().to_string();
        let entry = self.store().ledger_open(None, operation.id(), &Undo::Staging(id.clone()))?;
        let directory = self.paths().staging().join(&id);
        let operation = operation.clone();
        let engine = self.clone();
        let stage = blocking(move || {
            host::fs::create_dir(&directory)?;
            engine.write_image(&directory, id, draft, material, &operation)
        });
        Ok((entry, self.points().around("stage", stage).await))
    }

    /// Publishes what was staged, or removes it.
    async fn publish_or_remove(&self, entry: i64, staged: Result<Staged>) -> Result<store::Image> {
        let published = match staged {
            Ok(staged) => self.put_in_place(entry, staged).await,
            Err(error) => Err(error),
        };
        saga::undo_staging(&self.0.world, entry, published).await
    }

    async fn put_in_place(&self, entry: i64, staged: Staged) -> Result<store::Image> {
        let Staged { image, supersedes } = staged;
        let (from, to) = (self.paths().staging().join(&image.id), self.paths().images().join(&image.id));
        let mut old = None;
        let insert = |store: &Store| {
            if supersedes {
                old = store.image_supersede(image.clone(), entry)?;
                return Ok(());
            }
            store.image_insert(image.clone(), entry)
        };
        self.put_directory_in_place(from, to, insert).await?;
        if let Some(old) = old {
            let directory = self.paths().images().join(old);
            self.remove_directory("image", image.name.as_str(), directory).await?;
        }
        Ok(image)
    }

    /// Renames a staged directory into its place and inserts its row, or leaves neither.
    pub(crate) async fn put_directory_in_place(
        &self,
        from: PathBuf,
        to: PathBuf,
        insert: impl FnOnce(&Store) -> store::Result<()>,
    ) -> Result<()> {
        let target = to.clone();
        let rename = blocking(move || Ok(host::fs::rename(&from, &target)?));
        let renamed = self.points().around("publish", rename).await;
        let Err(cause) = renamed.and_then(|()| Ok(insert(self.store())?)) else { return Ok(()) };
        // It was not renamed, or belongs to nothing. Where this fails too, the next start sweeps it away.
        let removed = blocking(move || Ok(host::fs::remove_all(&to)?)).await;
        Err(match removed {
            Ok(()) => cause,
            Err(error) => Error::Residue { cause: Box::new(cause), left: vec![chain(&error)] },
        })
    }

    /// The image that `request` wants. One that is missing is pulled where the catalog has it; the default one is built
    /// where that was asked for.
    pub(crate) async fn image_for(&self, operation: &Operation, request: &CreateVm) -> Result<store::Image> {
        let default = self.0.config.default_image.to_string();
        let name = request.image.clone().unwrap_or_else(|| default.clone());
        if let Some(image) = self.image_named(&name)? {
            return Ok(image);
        }
        if let Ok(ImageChoice::Remote(_)) = ImageChoice::try_from(&*name) {
            return self.image_by_reference(operation, &name).await;
        }
        if let Some(found) = self.in_catalog(Kind::Images, &name)? {
            return self.image_of_catalog(operation, found, None, None).await;
        }
        if request.image.is_some() && name != default {
            return Err(unknown_image(&name));
        }
        if !request.build_default_image || default != RECIPE {
            let hint = match default == RECIPE {
                true => format!("banger image build {default}"),
                false => format!("banger image import SRC --name {default}, or change `default_image`"),
            };
            return Err(Error::NotFound { kind: "image", name, hint: Some(hint) });
        }
        let name =
            ImageName::try_from(name.as_str()).map_err(|why| Error::invalid("image name", &name, why))?;
        let (engine, key) = (self.clone(), format!("{name} by its recipe"));
        let build = |building| async move { engine.build_default(&building, name).await };
        self.0.images.with(key, operation, build).await
    }

    async fn build_default(&self, operation: &Operation, name: ImageName) -> Result<store::Image> {
        let _claim = operation.cancellable(async { Ok(self.claim(format!("image {name}")).await) }).await?;
        // Whoever had the claim before may have built it.
        if let Some(image) = self.image_named(name.as_str())? {
            return Ok(image);
        }
        let build = BuildImage { recipe: RECIPE.to_owned(), name: None, variant: None, include: Vec::new() };
        self.build(operation, name, build).await
    }

    /// The image of a VM.
    pub(crate) fn image_of(&self, record: &store::Vm) -> Result<store::Image> {
        let images = self.store().image_list()?;
        let image = images.into_iter().find(|image| image.id == record.image);
        image.ok_or_else(|| unknown_image(&record.image))
    }

    /// The image that is called `name`.
    pub(crate) fn image_called(&self, name: &str) -> Result<store::Image> {
        self.image_named(name)?.ok_or_else(|| unknown_image(name))
    }

    fn image_named(&self, name: &str) -> Result<Option<store::Image>> {
        Ok(self.store().image_named(name)?)
    }

    /// How the maker of `image` wants it to be run.
    fn image_run(&self, image: &store::Image) -> Result<RunConfig> {
        let read = ImageManifest::read(&self.paths().images().join(&image.id));
        let manifest =
            read.map_err(|cause| Error::ReadImage { name: image.name.to_string(), cause: Box::new(cause) })?;
        Ok(manifest.map(|manifest| manifest.run).unwrap_or_default())
    }

    /// How a VM of `image` is run where it is not said, and what its commands have in their environment: nothing where an init
    /// of its own runs the guest.
    pub(crate) fn entry(&self, image: &store::Image) -> Result<RunConfig> {
        if image.init == "agent" { self.image_run(image) } else { Ok(RunConfig::default()) }
    }

    /// The file of `image`, which may lie outside of the store.
    fn rootfs(&self, image: &store::Image) -> PathBuf {
        let place = self.paths().rootfs(&image.id);
        // One that is damaged is shown too.
        host::fs::read_link(&place).ok().flatten().unwrap_or(place)
    }

    fn image_view(&self, image: store::Image) -> Result<control::Image> {
        let used_by = self.store().image_users(&image.id)?;
        let run = self.image_run(&image)?;
        let rootfs = self.rootfs(&image);
        let superseded = image.is_superseded();
        Ok(control::Image {
            name: image.name.to_string(),
            source: image.source,
            digest: image.digest,
            size: image.size,
            run: view::run(run),
            kernel: image.kernel.map(|kernel| kernel.to_string()),
            ready: view::wait(image.ready),
            init: image.init,
            created_ms: image.created_ms,
            rootfs: rootfs.display().to_string(),
            superseded,
            used_by,
        })
    }
}

impl Engine {
    /// Makes the image's files in `directory`.
    fn write_image(
        &self,
        directory: &Path,
        id: String,
        draft: Draft,
        material: Material<impl Read>,
        operation: &Operation,
    ) -> Result<Staged> {
        let path = directory.join(paths::ROOTFS);
        let mut progress = |progress: rootfs::Progress| {
            let (name, unit) = ("importing image".to_owned(), "bytes".to_owned());
            operation.emit(Event::Progress { name, done: progress.unpacked, total: None, unit });
            if operation.token().is_cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let options = ImportOptions { label: draft.name.to_string(), ..ImportOptions::default() };
        let choice = oci::Choice { tag: draft.tag, ..oci::Choice::host() };
        let imported = match material {
            Material::Stream(reader) => oci::import_stream(reader, &choice, &path, &options, &mut progress),
            Material::Directory(dir) if choice.tag.is_some() || oci::is_layout(&dir) => {
                oci::import_layout(&dir, &choice, &path, &options, &mut progress)
            }
            Material::Directory(dir) => oci::import_directory(&dir, &path, &options, &mut progress),
            Material::Pulled(pulled) => {
                let (blobs, manifest) = *pulled;
                oci::import(&blobs, manifest, &choice, &path, &options, &mut progress)
            }
        };
        // A cancelled upload breaks its reader first.
        operation.checkpoint()?;
        if let Err(OciError::Blob { digest, .. }) = &imported {
            // Where it lay in the cache it was damaged there.
            self.forget_blob(digest)?;
        }
        let Imported { rootfs, run, origin } = imported.map_err(|e| import_error(&draft.name, e))?;
        let digest = image::identity::sha256_of(&path)?;
        rootfs.file.sync_all().map_err(|e| host::Error::path("sync", &path, e))?;
        let init = draft.init.unwrap_or_else(|| rootfs.init.map_or("agent", Init::name).to_owned());
        let manifest = ImageManifest {
            version: manifest::VERSION,
            name: draft.name.to_string(),
            source: draft.source,
            origin,
            resolved: draft.resolved,
            registered: None,
            arch: std::env::consts::ARCH.to_owned(),
            sha256: digest,
            size: rootfs.size,
            created_ms: host::clock::now_ms(),
            kernel: draft.kernel.as_ref().map(KernelName::to_string),
            ready: Some(draft.ready.name().to_owned()),
            init: Some(init.clone()),
            run,
        };
        let written = manifest.write(directory);
        written.map_err(|e| Error::ImportImage { name: draft.name.to_string(), cause: Box::new(e) })?;
        let image = store::Image {
            id,
            name: draft.name,
            source: manifest.source,
            digest: manifest.sha256,
            size: manifest.size,
            uuid: uuid_text(rootfs.uuid),
            kernel: draft.kernel,
            ready: draft.ready,
            init,
            created_ms: manifest.created_ms,
        };
        Ok(Staged { image, supersedes: draft.resolved.is_some() })
    }
}

fn unknown_image(name: &str) -> Error {
    let hint = format!(
        "it is not in the catalog either; banger image list shows those there are; banger image import SRC --name {name} makes one"
    );
    Error::NotFound { kind: "image", name: name.to_owned(), hint: Some(hint) }
}

fn import_error(name: &ImageName, cause: OciError) -> Error {
    match cause {
        cause if cause.is_cancelled() => Error::Cancelled,
        cause => Error::ImportImage { name: name.to_string(), cause: Box::new(cause) },
    }
}

fn init_path(path: String) -> Result<String> {
    let clean = path.starts_with('/') && path.len() < 4096 && !path.contains('\0');
    if clean {
        Ok(path)
    } else {
        Err(Error::invalid("init", &path, "it must be an absolute path in the image"))
    }
}

/// Follows what a builder says: each line is a sign of life, and the last ones are kept for its failure.
fn follow_talk(operation: &Operation, stderr: std::fs::File) -> Vec<String> {
    use std::io::BufRead;
    let mut last = std::collections::VecDeque::new();
    let lines = std::io::BufReader::new(stderr.take(64 << 20)).split(b'\n').map_while(Result::ok);
    for (done, line) in (1..).zip(lines) {
        let (name, unit) = ("building image".to_owned(), "lines".to_owned());
        operation.emit(Event::Progress { name, done, total: None, unit });
        last.push_back(String::from_utf8_lossy(&line).trim_end().to_owned());
        if last.len() > 10 {
            last.pop_front();
        }
    }
    last.into()
}
