//! Kernels: importing them, getting those of the catalog, and finding the one that an image boots.

mod bundle;

use std::{
    ops::ControlFlow,
    path::{Path, PathBuf},
};

use host::proc::{Command, Program};
use image::{
    catalog::Kind,
    kernel::{self, KernelManifest, Source},
    manifest::Registered,
};
use model::{KernelName, undo::Undo};
use wire::control::{self, Event, ImportKernel, Outcome};

use self::bundle::Existing;
use crate::{
    Engine, Error, Operation, Result, blocking, chain,
    elsewhere::{Elsewhere, locate, registered_now},
    paths::Paths,
    program, saga,
};

/// Debian's package that depends on the newest kernel for virtual machines.
const PACKAGE: &str = "linux-image-cloud-amd64";
/// How long apt may take over each of its steps.
const APT: std::time::Duration = std::time::Duration::from_secs(600);

impl Engine {
    /// All kernels by name.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub fn kernel_list(&self) -> Result<control::Kernels> {
        let kernels = self.store().kernel_list()?;
        let kernels = kernels.into_iter().map(|kernel| self.kernel_view(kernel)).collect::<Result<_>>()?;
        Ok(control::Kernels { kernels })
    }

    /// The kernel `name`.
    ///
    /// # Errors
    /// Where there is none.
    pub fn kernel_show(&self, name: &str) -> Result<control::Kernel> {
        self.kernel_view(self.kernel_named(name)?)
    }

    /// Removes the unused kernel `name`.
    ///
    /// # Errors
    /// Where there is none, or a VM or an image uses it.
    pub async fn kernel_delete(self, operation: Operation, name: String) -> Result<Outcome> {
        let _claim = operation.cancellable(async { Ok(self.claim(format!("kernel {name}")).await) }).await?;
        let kernel = self.kernel_named(&name)?;
        self.store().kernel_delete(&kernel.id)?;
        let directory = self.paths().kernels().join(&kernel.id);
        self.remove_directory("kernel", &name, directory).await?;
        Ok(Outcome::None)
    }

    /// Imports a kernel as `name`.
    ///
    /// # Errors
    /// Where the name is taken or wrong, or the kernel is refused; nothing is left then.
    pub async fn kernel_import(
        self,
        operation: Operation,
        name: String,
        from: ImportKernel,
    ) -> Result<Outcome> {
        let name =
            KernelName::try_from(name.as_str()).map_err(|why| Error::invalid("kernel name", &name, why))?;
        let _claim = operation.cancellable(async { Ok(self.claim(format!("kernel {name}")).await) }).await?;
        let kernel = self.import_kernel(&operation, name, from).await?;
        Ok(Outcome::Kernel(Box::new(self.kernel_view(kernel)?)))
    }

    async fn import_kernel(
        &self,
        operation: &Operation,
        name: KernelName,
        from: ImportKernel,
    ) -> Result<store::Kernel> {
        if self.store().kernel_named(name.as_str())?.is_some() {
            return Err(store::Error::Taken(name.to_string()).into());
        }
        operation.stage("importing kernel");
        let id = uuid::Uuid::new_v4().simple().to_string();
        let entry = self.store().ledger_open(None, operation.id(), &Undo::Staging(id.clone()))?;
        let staging = self.paths().staging().join(&id);
        let target = self.paths().kernels().join(&id);
        let (task, paths, staged) = (operation.clone(), self.paths().clone(), staging.clone());
        let stage = blocking(move || {
            host::fs::create_dir(&staged)?;
            import(&task, &paths, id, name, from, &staged)
        });
        let imported = async {
            let kernel = self.points().around("stage", stage).await?;
            operation.checkpoint()?;
            self.put_directory_in_place(staging, target, |store| store.kernel_insert(kernel.clone(), entry))
                .await?;
            Ok(kernel)
        }
        .await;
        saga::undo_staging(&self.0.world, entry, imported).await
    }

    /// The kernel that `image` boots. The default one is taken from the catalog, the distribution or the host, where it is
    /// missing.
    pub(crate) async fn kernel_for(
        &self,
        operation: &Operation,
        image: &store::Image,
    ) -> Result<store::Kernel> {
        if let Some(name) = &image.kernel {
            return self.kernel_named(name.as_str());
        }
        let name = self.0.config.default_kernel.clone();
        match self.kernel_named(name.as_str()) {
            Err(Error::NotFound { .. }) => {}
            found => return found,
        }
        if let Some(found) = self.in_catalog(Kind::Kernels, name.as_str())? {
            return self.kernel_of_catalog(operation, found, Existing::Use).await;
        }
        // Only the built-in default stands for the distribution's; another one is somebody's own.
        if name != crate::config::Config::default().default_kernel {
            return self.kernel_named(name.as_str());
        }
        let (engine, key) = (self.clone(), format!("{name} of the distribution or the host"));
        let import = |importing| async move { engine.kernel_of_distribution(&importing, name).await };
        self.0.kernels.with(key, operation, import).await
    }

    async fn kernel_of_distribution(&self, operation: &Operation, name: KernelName) -> Result<store::Kernel> {
        let _claim = operation.cancellable(async { Ok(self.claim(format!("kernel {name}")).await) }).await?;
        match self.kernel_named(name.as_str()) {
            Err(Error::NotFound { .. }) => {}
            found => return found,
        }
        match self.import_kernel(operation, name.clone(), ImportKernel::Distribution).await {
            Err(Error::Program { program: "apt-get", why, .. }) => {
                let message = format!("no kernel from the distribution ({why}); taking the host's");
                operation.emit(Event::Warning { message });
                self.import_kernel(operation, name, ImportKernel::Host).await
            }
            imported => imported,
        }
    }

    /// Copies the bootable file of kernel `name` into the store, where that stays elsewhere, so that it can go; one that is there
    /// already stays as it is.
    ///
    /// # Errors
    /// Where there is no such kernel, its file is not what was imported, or the copy does not fit.
    pub async fn kernel_promote(self, operation: Operation, name: String) -> Result<Outcome> {
        let _claim = operation.cancellable(async { Ok(self.claim(format!("kernel {name}")).await) }).await?;
        let kernel = self.kernel_named(&name)?;
        if let Some((elsewhere, registered)) = self.kernel_elsewhere(&kernel)? {
            elsewhere.check(registered)?;
            operation.stage("promoting kernel");
            self.take_in(&operation, elsewhere).await?;
        }
        Ok(Outcome::Kernel(Box::new(self.kernel_view(kernel)?)))
    }

    /// Refuses the kernel of the id `id` where its bootable file stays where it is, and is not the one that was imported any
    /// more.
    pub(crate) fn check_kernel_in_place(&self, id: &str) -> Result<()> {
        let kernels = self.store().kernel_list()?;
        let Some(kernel) = kernels.into_iter().find(|kernel| kernel.id == id) else { return Ok(()) };
        self.kernel_elsewhere(&kernel)?.map_or(Ok(()), |(elsewhere, registered)| elsewhere.check(registered))
    }

    /// Where the bootable file of `kernel` lies, and what it was like when it was imported, where that is not in the store.
    fn kernel_elsewhere(&self, kernel: &store::Kernel) -> Result<Option<(Elsewhere, Registered)>> {
        let directory = self.paths().kernels().join(&kernel.id);
        // One that cannot be read is told of where it is booted.
        let Ok(manifest) = KernelManifest::read(&directory) else { return Ok(None) };
        let (Some(registered), Some(boot)) = (manifest.registered, manifest.bootable()) else {
            return Ok(None);
        };
        let (place, record) = (directory.join(boot), manifest.files.get(boot));
        let (Some(file), Some(record)) = (host::fs::read_link(&place)?, record) else { return Ok(None) };
        let (name, size, digest) = (kernel.name.to_string(), record.size, record.sha256.clone());
        Ok(Some((Elsewhere { kind: "kernel", name, place, file, size, digest }, registered)))
    }

    /// The kernel `name`.
    pub(crate) fn kernel_named(&self, name: &str) -> Result<store::Kernel> {
        self.store().kernel_named(name)?.ok_or_else(|| {
            let hint = format!(
                "banger kernel list shows those there are; banger kernel import {name} --from SRC makes one"
            );
            Error::NotFound { kind: "kernel", name: name.to_owned(), hint: Some(hint) }
        })
    }

    fn kernel_view(&self, kernel: store::Kernel) -> Result<control::Kernel> {
        let used_by = self.store().kernel_users(&kernel.id)?;
        Ok(control::Kernel {
            name: kernel.name.to_string(),
            release: kernel.release,
            source: kernel.source,
            size: kernel.size,
            created_ms: kernel.created_ms,
            used_by,
        })
    }
}

fn import(
    operation: &Operation,
    paths: &Paths,
    id: String,
    name: KernelName,
    from: ImportKernel,
    staging: &Path,
) -> Result<store::Kernel> {
    let download = staging.join(".download");
    let mut stays = None;
    let source = match from {
        ImportKernel::Host => Source::Host,
        ImportKernel::InPlace(path) => {
            let file = locate(paths, "path", &path, "only a vmlinux or a bzImage can stay where it is")?;
            stays = Some((file.clone(), registered_now(&file)?));
            Source::Image(file)
        }
        ImportKernel::Path(path) => source_at(PathBuf::from(path))?,
        ImportKernel::Distribution => {
            host::fs::create_dir(&download)?;
            Source::Deb(vec![fetch_package(operation, &download)?])
        }
    };
    let mut progress = |progress: kernel::Progress| {
        let (name, unit) = ("importing kernel".to_owned(), "bytes".to_owned());
        match progress {
            kernel::Progress::Reading { done, total } => {
                operation.emit(Event::Progress { name, done, total: Some(total), unit });
            }
            kernel::Progress::Packing => {}
        }
        if operation.token().is_cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let mut manifest = kernel::import(&source, staging, &mut progress).map_err(|cause| match cause {
        kernel::KernelError::Cancelled => Error::Cancelled,
        cause => Error::ImportKernel { name: name.to_string(), hint: cause.hint(), cause: Box::new(cause) },
    })?;
    host::fs::remove_all(&download)?;
    if let Some((file, registered)) = stays {
        if registered_now(&file)? != registered {
            return Err(Error::OtherFile { kind: "kernel", name: name.to_string(), path: file });
        }
        let boot = manifest.bootable().expect("a kernel that was imported has one").to_owned();
        host::fs::remove(&staging.join(&boot))?;
        host::fs::symlink(&file, &staging.join(boot))?;
        manifest.registered = Some(registered);
        manifest.write(staging)?;
    }
    Ok(store::Kernel {
        id,
        name,
        release: manifest.release,
        source: manifest.source,
        size: manifest.files.values().map(|file| file.size).sum(),
        created_ms: host::clock::now_ms(),
    })
}

/// What kind of source lies at `path`.
fn source_at(path: PathBuf) -> Result<Source> {
    if !path.is_absolute() {
        return Err(Error::invalid("path", &path.display().to_string(), "it must be absolute"));
    }
    // Asked before anything is made of it, so a wrong path is told as itself.
    host::fs::identity(&path)?;
    Ok(if host::fs::is_dir(&path) {
        Source::Directory(path)
    } else if path.extension().is_some_and(|extension| extension == "deb") {
        Source::Deb(vec![path])
    } else {
        Source::Image(path)
    })
}

/// Fetches the package that [`PACKAGE`] depends on into `directory`, without installing it.
fn fetch_package(operation: &Operation, directory: &Path) -> Result<PathBuf> {
    operation.checkpoint()?;
    let failed = |why: String| Error::Program {
        program: "apt-get",
        why,
        hint: Some("banger kernel import debian-cloud --from DIR_OR_DEB, or apt-get update".to_owned()),
    };
    let run = |program, arguments: &[&str]| {
        let command = Command::new(program).args(arguments.iter().copied()).dir(directory);
        let ended = program::capture(operation, command, APT);
        operation.checkpoint()?;
        match ended {
            Ok((exit, stdout, _)) if exit.success() => Ok(stdout),
            Ok((_, _, stderr)) => Err(failed(stderr.trim().to_owned())),
            Err(error) => Err(failed(chain(&error))),
        }
    };
    let depends = run(Program::AptCache, &["depends", "--no-recommends", "--no-suggests", PACKAGE])?;
    let package = depends.lines().find_map(|line| line.trim().strip_prefix("Depends: "));
    let package = package.ok_or_else(|| failed(format!("{PACKAGE} is in none of its lists")))?.to_owned();
    run(Program::AptGet, &["download", &package])?;
    let found = host::fs::list(directory)?;
    let deb = found.into_iter().find(|path| path.extension().is_some_and(|extension| extension == "deb"));
    deb.ok_or_else(|| failed(format!("it left no package {package}")))
}
