//! What can be asked of the engine, each with its one line.

use std::{io::Cursor, path::Path, time::Duration};

use engine::{Engine, Error, Kind, Operation};
use model::{VmId, network::Nat, signal::Signal};
use testkit::images::Tar;
use wire::control::{
    BuildImage, CreateVm, ExportWorkspace, ImportImage, ImportKernel, Outcome, PrepareWorkspace, PullImage,
    PullKernel, RegisterImage, SetVm, TakeSnapshot,
};

/// One operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verb {
    Create(&'static str),
    CreateUnstarted(&'static str),
    CreateOwned(&'static str),
    /// Of another image than the smallest one, and not started.
    CreateOf(&'static str, &'static str),
    /// With a network.
    CreateNat(&'static str),
    Start(&'static str),
    Stop(&'static str),
    Restart(&'static str),
    Kill(&'static str),
    Delete(&'static str),
    /// Because nobody uses it.
    AutoStop(&'static str),
    /// Both disks.
    Grow(&'static str),
    /// NAT on or off.
    SetNat(&'static str, Nat),
    Reset(&'static str),
    /// Of a VM, to be called so.
    Snapshot(&'static str, &'static str),
    DeleteSnapshot(&'static str),
    /// A VM that goes on from a snapshot.
    CreateFrom(&'static str, &'static str),
    ImportImage(&'static str),
    /// From the catalog by name, or from a registry by its reference.
    PullImage(&'static str),
    /// From the catalog.
    PullKernel(&'static str),
    RefreshCatalogs,
    /// By a recipe, with a builder of this test's.
    BuildImage(&'static str),
    /// The file that lies beside the source of kernels.
    RegisterImage(&'static str),
    PromoteImage(&'static str),
    DeleteImage(&'static str),
    /// Those that tags have left.
    PruneImages,
    /// All blobs that were pulled.
    PruneCache,
    ImportKernel(&'static str),
    /// From a file of this home, where it stays.
    ImportKernelInPlace(&'static str),
    PromoteKernel(&'static str),
    DeleteKernel(&'static str),
    Prepare(&'static str, Box<PrepareWorkspace>),
    Export(&'static str, ExportWorkspace),
}

impl Verb {
    /// What kind of operation it is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Create(_)
            | Self::CreateUnstarted(_)
            | Self::CreateOwned(_)
            | Self::CreateNat(_)
            | Self::CreateFrom(..)
            | Self::CreateOf(..) => Kind::VmCreate,
            Self::Start(_) => Kind::VmStart,
            Self::Stop(_) => Kind::VmStop,
            Self::Restart(_) => Kind::VmRestart,
            Self::Kill(_) => Kind::VmKill,
            Self::Delete(_) => Kind::VmDelete,
            Self::AutoStop(_) => Kind::VmAutoStop,
            Self::Grow(_) | Self::SetNat(..) => Kind::VmSet,
            Self::Reset(_) => Kind::VmReset,
            Self::Snapshot(..) => Kind::VmSnapshot,
            Self::DeleteSnapshot(_) => Kind::SnapshotDelete,
            Self::ImportImage(_) => Kind::ImageImport,
            Self::PullImage(_) => Kind::ImagePull,
            Self::BuildImage(_) => Kind::ImageBuild,
            Self::PullKernel(_) => Kind::KernelPull,
            Self::RefreshCatalogs => Kind::CatalogRefresh,
            Self::RegisterImage(_) => Kind::ImageRegister,
            Self::PromoteImage(_) => Kind::ImagePromote,
            Self::DeleteImage(_) => Kind::ImageDelete,
            Self::PruneImages => Kind::ImagePrune,
            Self::PruneCache => Kind::ImageCachePrune,
            Self::ImportKernel(_) | Self::ImportKernelInPlace(_) => Kind::KernelImport,
            Self::PromoteKernel(_) => Kind::KernelPromote,
            Self::DeleteKernel(_) => Kind::KernelDelete,
            Self::Prepare(..) => Kind::WorkspacePrepare,
            Self::Export(..) => Kind::WorkspaceExport,
        }
    }

    /// Does it; `home` has the source of kernels.
    pub async fn perform(self, engine: Engine, operation: Operation, home: &Path) -> Result<Outcome, Error> {
        match self {
            Self::Create(name) => engine.vm_create(operation, vm(name)).await,
            Self::CreateUnstarted(name) => {
                engine.vm_create(operation, CreateVm { no_start: true, ..vm(name) }).await
            }
            Self::CreateOf(name, image) => {
                let image = Some(image.to_owned());
                engine.vm_create(operation, CreateVm { image, no_start: true, ..vm(name) }).await
            }
            Self::CreateOwned(name) => engine.vm_create(operation, CreateVm { rm: true, ..vm(name) }).await,
            Self::Start(name) => engine.vm_start(operation, name.to_owned(), None).await,
            Self::Stop(name) => engine.vm_stop(operation, name.to_owned()).await,
            Self::Restart(name) => engine.vm_restart(operation, name.to_owned()).await,
            Self::Kill(name) => engine.vm_kill(operation, name.to_owned(), Signal::Kill).await,
            Self::Delete(name) => engine.vm_delete(operation, name.to_owned()).await,
            Self::AutoStop(name) => {
                let id = VmId::try_from(&*engine.vm_show(name)?.id).expect("an id");
                engine.vm_stop_unused(operation, id, Duration::ZERO).await
            }
            Self::Grow(name) => {
                let size = Some(80 << 20);
                let wish = SetVm { disk_size: size, overlay_size: size, ..SetVm::default() };
                engine.vm_set(operation, name.to_owned(), wish).await
            }
            Self::CreateNat(name) => {
                engine.vm_create(operation, CreateVm { nat: Some(true), ..vm(name) }).await
            }
            Self::SetNat(name, nat) => {
                let wish = SetVm { nat: Some(nat.is_on()), ..SetVm::default() };
                engine.vm_set(operation, name.to_owned(), wish).await
            }
            Self::Reset(name) => engine.vm_reset(operation, name.to_owned(), None).await,
            Self::Snapshot(name, snapshot) => {
                let take = TakeSnapshot { name: snapshot.to_owned(), with_secrets: false };
                engine.vm_snapshot(operation, name.to_owned(), take).await
            }
            Self::CreateFrom(name, snapshot) => engine.vm_create(operation, clone(name, snapshot)).await,
            Self::DeleteSnapshot(name) => engine.snapshot_delete(operation, name.to_owned()).await,
            Self::ImportImage(name) => {
                let how = ImportImage::default();
                engine.image_import(operation, name.to_owned(), how, Cursor::new(tar())).await
            }
            Self::PullImage(reference) => {
                let pull = PullImage { reference: reference.to_owned(), ..PullImage::default() };
                engine.image_pull(operation, pull).await
            }
            Self::PullKernel(name) => {
                engine.kernel_pull(operation, name.to_owned(), PullKernel { force: true }).await
            }
            Self::RefreshCatalogs => engine.catalog_refresh(&operation).await.map(|_| Outcome::None),
            Self::BuildImage(name) => {
                let build = BuildImage {
                    recipe: "debian-bookworm".to_owned(),
                    name: Some(name.to_owned()),
                    variant: Some("minimal".to_owned()),
                    include: Vec::new(),
                };
                engine.image_build(operation, build).await
            }
            Self::RegisterImage(name) => {
                let rootfs = home.join(ROOTFS).display().to_string();
                let how = RegisterImage { rootfs, ..RegisterImage::default() };
                engine.image_register(operation, name.to_owned(), how).await
            }
            Self::PromoteImage(name) => engine.image_promote(operation, name.to_owned()).await,
            Self::DeleteImage(name) => engine.image_delete(operation, name.to_owned()).await,
            Self::PruneImages => engine.image_prune(&operation).await.map(|_| Outcome::None),
            Self::PruneCache => engine.image_cache_prune().await.map(|_| Outcome::None),
            Self::ImportKernel(name) => {
                let from = ImportKernel::Path(home.join("kernel").display().to_string());
                engine.kernel_import(operation, name.to_owned(), from).await
            }
            Self::ImportKernelInPlace(name) => {
                let from = ImportKernel::InPlace(home.join(KERNEL).display().to_string());
                engine.kernel_import(operation, name.to_owned(), from).await
            }
            Self::PromoteKernel(name) => engine.kernel_promote(operation, name.to_owned()).await,
            Self::Prepare(name, request) => engine.vm_prepare(operation, name.to_owned(), *request).await,
            Self::Export(name, request) => engine.vm_export(operation, name.to_owned(), request).await,
            Self::DeleteKernel(name) => engine.kernel_delete(operation, name.to_owned()).await,
        }
    }
}

/// The file of a file system that is to be registered, in a world's home.
pub const ROOTFS: &str = "mine.ext4";

/// The file of a kernel that is to stay where it is, in a world's home.
pub const KERNEL: &str = "mine.vmlinux";

/// The smallest VM.
pub fn vm(name: &str) -> CreateVm {
    CreateVm {
        name: Some(name.to_owned()),
        image: Some("tiny".to_owned()),
        disk_size: Some(64 << 20),
        overlay_size: Some(64 << 20),
        ..CreateVm::default()
    }
}

/// One that goes on from `snapshot`.
pub fn clone(name: &str, snapshot: &str) -> CreateVm {
    CreateVm { name: Some(name.to_owned()), snapshot: Some(snapshot.to_owned()), ..CreateVm::default() }
}

/// The smallest image.
pub fn tar() -> Vec<u8> {
    Tar::default().directory("etc").file("etc/os-release", 0o644, b"ID=tiny\n").finish()
}
