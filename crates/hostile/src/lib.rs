//! What every parser keeps to, whatever bytes it gets: the bodies of the fuzz targets.
//!
//! Each target has a function that takes any bytes and panics where a promise is broken. `fuzz/` calls it with what libFuzzer
//! thinks of, and the tests of this crate with the corpus in `fuzz/seeds`: no bytes that once broke something do so again.
//! What only the outside can judge, as e2fsck does, is asked too.

mod bundle;
mod catalog;
mod choices;
mod cpio;
mod directory;
mod dns;
mod e2fsck;
mod ext4;
mod ext4_image;
mod helper;
mod image_reference;
mod json;
mod kernel_image;
mod layers;
mod message;
mod oci_document;
mod scratch;
mod session;
mod tar;
mod tar_merge;
mod tree;

pub use e2fsck::Asked;

/// Something that meets bytes of somebody else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Catalogs, their signatures, addresses and bundles.
    Catalog,
    /// The writer of boot payloads.
    Cpio,
    /// Directories of this host that become images.
    Directory,
    /// Questions for names.
    Dns,
    /// The writer of file systems.
    Ext4,
    /// Packets to the helper, and its answers.
    Helper,
    /// References to images.
    ImageReference,
    /// What clients ask and guests answer, and the names in it.
    Json,
    /// Kernels, modules and the packages that they come in.
    KernelImage,
    /// The documents of an image.
    OciDocument,
    /// What a guest sends on its port: sessions and the frames of commands.
    Session,
    /// Archives and layers of them.
    TarMerge,
    /// A guest's tree: its listing, its names and its links.
    Tree,
}

impl Target {
    /// All.
    pub const ALL: [Self; 13] = [
        Self::Catalog,
        Self::Cpio,
        Self::Directory,
        Self::Dns,
        Self::Ext4,
        Self::Helper,
        Self::ImageReference,
        Self::Json,
        Self::KernelImage,
        Self::OciDocument,
        Self::Session,
        Self::TarMerge,
        Self::Tree,
    ];

    /// What its program in `fuzz/` and its folder in `fuzz/seeds` are called.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Catalog => "catalog",
            Self::Cpio => "cpio",
            Self::Directory => "directory",
            Self::Dns => "dns",
            Self::Ext4 => "ext4",
            Self::Helper => "helper",
            Self::ImageReference => "image_reference",
            Self::Json => "json",
            Self::KernelImage => "kernel_image",
            Self::OciDocument => "oci_document",
            Self::Session => "session",
            Self::TarMerge => "tar_merge",
            Self::Tree => "tree",
        }
    }

    /// Gives it `data`; file systems that come of it are shown to e2fsck as `asked` says.
    ///
    /// # Panics
    /// Where it does not keep what it promises.
    pub fn check(self, data: &[u8], asked: Asked) {
        match self {
            Self::Catalog => catalog::check(data),
            Self::Cpio => cpio::check(data),
            Self::Directory => directory::check(data, asked),
            Self::Dns => dns::check(data),
            Self::Ext4 => ext4::check(data, asked),
            Self::Helper => helper::check(data),
            Self::ImageReference => image_reference::check(data),
            Self::Json => json::check(data),
            Self::KernelImage => kernel_image::check(data, asked),
            Self::OciDocument => oci_document::check(data),
            Self::Session => session::check(data),
            Self::TarMerge => tar_merge::check(data, asked),
            Self::Tree => tree::check(data),
        }
    }
}
