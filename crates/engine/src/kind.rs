//! What operations there are: a closed list, so that none is without its line in the harness of faults
//! (`tests/it/operations.rs`).

/// What an operation does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Makes a VM.
    VmCreate,
    /// Starts one.
    VmStart,
    /// Asks its guest to end.
    VmStop,
    /// Stops and starts it.
    VmRestart,
    /// Ends its machine.
    VmKill,
    /// Removes it.
    VmDelete,
    /// Gives it another size.
    VmSet,
    /// Gives it a new system.
    VmReset,
    /// Starts it again because its guest rebooted.
    VmReboot,
    /// Connects its network again.
    VmReconnect,
    /// Stops it because nobody uses it.
    VmAutoStop,
    /// Takes a snapshot of it.
    VmSnapshot,
    /// Removes a snapshot.
    SnapshotDelete,
    /// Ships a repository into it.
    WorkspacePrepare,
    /// Brings the work back.
    WorkspaceExport,
    /// Makes an image of what a client sends.
    ImageImport,
    /// Makes one by a recipe.
    ImageBuild,
    /// Makes one of what a registry has.
    ImagePull,
    /// Records a file as one.
    ImageRegister,
    /// Takes such a file into the store.
    ImagePromote,
    /// Removes one.
    ImageDelete,
    /// Removes those whose name a newer one has.
    ImagePrune,
    /// Empties the cache of blobs.
    ImageCachePrune,
    /// Makes a kernel bootable.
    KernelImport,
    /// Takes the file of one that stays elsewhere into the store.
    KernelPromote,
    /// Takes a kernel from the catalog.
    KernelPull,
    /// Removes one.
    KernelDelete,
    /// Fetches the catalogs.
    CatalogRefresh,
}

impl Kind {
    /// All there are.
    pub const ALL: [Self; 28] = [
        Self::VmCreate,
        Self::VmStart,
        Self::VmStop,
        Self::VmRestart,
        Self::VmKill,
        Self::VmDelete,
        Self::VmSet,
        Self::VmReset,
        Self::VmReboot,
        Self::VmReconnect,
        Self::VmAutoStop,
        Self::VmSnapshot,
        Self::SnapshotDelete,
        Self::WorkspacePrepare,
        Self::WorkspaceExport,
        Self::ImageImport,
        Self::ImageBuild,
        Self::ImagePull,
        Self::ImageRegister,
        Self::ImagePromote,
        Self::ImageDelete,
        Self::ImagePrune,
        Self::ImageCachePrune,
        Self::KernelImport,
        Self::KernelPromote,
        Self::KernelPull,
        Self::KernelDelete,
        Self::CatalogRefresh,
    ];

    /// What it is called where operations are listed.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::VmCreate => "vm.create",
            Self::VmStart => "vm.start",
            Self::VmStop => "vm.stop",
            Self::VmRestart => "vm.restart",
            Self::VmKill => "vm.kill",
            Self::VmDelete => "vm.delete",
            Self::VmSet => "vm.set",
            Self::VmReset => "vm.reset",
            Self::VmReboot => "vm.reboot",
            Self::VmReconnect => "vm.reconnect",
            Self::VmAutoStop => "vm.auto-stop",
            Self::VmSnapshot => "vm.snapshot",
            Self::SnapshotDelete => "snapshot.delete",
            Self::WorkspacePrepare => "workspace.prepare",
            Self::WorkspaceExport => "workspace.export",
            Self::ImageImport => "image.import",
            Self::ImageBuild => "image.build",
            Self::ImagePull => "image.pull",
            Self::ImageRegister => "image.register",
            Self::ImagePromote => "image.promote",
            Self::ImageDelete => "image.delete",
            Self::ImagePrune => "image.prune",
            Self::ImageCachePrune => "image.cache.prune",
            Self::KernelImport => "kernel.import",
            Self::KernelPromote => "kernel.promote",
            Self::KernelPull => "kernel.pull",
            Self::KernelDelete => "kernel.delete",
            Self::CatalogRefresh => "catalog.refresh",
        }
    }
}
