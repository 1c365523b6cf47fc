//! The words of `banger image`, `banger kernel` and `banger snapshot`.

use std::{ffi::OsString, path::PathBuf};

use clap::{Args, Subcommand};
use clap_complete::ArgValueCandidates;
use model::{ImageChoice, ImageName, KernelName, SnapshotName};

use super::Format;
use crate::complete;

/// What to do with images.
#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    /// Make an image of a root tar or directory, an OCI layout or archive, or what `docker save` writes
    Import(ImportImageArgs),
    /// Use an ext4 file system where it lies as an image
    Register(RegisterArgs),
    /// Copy the file of a registered image into the store, so that it can go
    Promote {
        /// The image
        #[arg(value_parser = |text: &str| ImageName::try_from(text), add = ArgValueCandidates::new(complete::images))]
        name: ImageName,
    },
    /// Get an image of the catalog, or from a registry
    Pull(PullArgs),
    /// Build an image from a named recipe with this host's own tools
    Build(BuildArgs),
    /// List all images
    #[command(visible_alias = "ls")]
    List(AvailableArgs),
    /// Show everything about one image
    Show {
        /// The image
        #[arg(value_parser = |text: &str| ImageName::try_from(text), add = ArgValueCandidates::new(complete::images))]
        name: ImageName,
        #[command(flatten)]
        format: Format,
    },
    /// Delete images whose name a newer one has, as where a tag moved, and that no machine uses
    Prune {
        /// Only say which these are
        #[arg(long)]
        dry_run: bool,
    },
    /// Look after what pulls keep
    #[command(subcommand)]
    Cache(CacheCommand),
    /// Delete images that no machine uses
    #[command(visible_alias = "rm")]
    Delete {
        /// The images
        #[arg(required = true, value_name = "NAME", value_parser = |text: &str| ImageName::try_from(text),
            add = ArgValueCandidates::new(complete::images))]
        names: Vec<ImageName>,
    },
}

/// `image import`.
#[derive(Debug, Args)]
#[command(
    before_help = "\
Examples:
  banger image import rootfs.tar --name mine
  docker save alpine | banger image import - --name alpine
  banger image import ./layout --name mine --tag latest
  banger image import ./root --name mine
",
    help_template = "{about-with-newline}\n{before-help}{usage-heading} {usage}\n\n{all-args}{after-help}"
)]
pub struct ImportImageArgs {
    /// A root tar, an OCI archive or a `docker save` archive (`-` is standard input), the directory of an OCI layout, or a
    /// directory to be the root as it is, owners included
    #[arg(value_name = "SRC")]
    pub source: OsString,
    /// The image's name
    #[arg(long, value_parser = |text: &str| ImageName::try_from(text))]
    pub name: ImageName,
    /// The kernel it boots; without it the default kernel
    #[arg(long, value_parser = |text: &str| KernelName::try_from(text), add = ArgValueCandidates::new(complete::kernels))]
    pub kernel: Option<KernelName>,
    /// The program to run as init instead of what is found in it
    #[arg(long, value_name = "PATH")]
    pub init: Option<String>,
    /// Which image, where a layout or an archive has several
    #[arg(long)]
    pub tag: Option<String>,
}

/// `image register`.
#[derive(Debug, Args)]
pub struct RegisterArgs {
    /// A file with an ext4 file system, which must not change from now on
    #[arg(value_name = "FILE")]
    pub rootfs: PathBuf,
    /// The image's name
    #[arg(long, value_parser = |text: &str| ImageName::try_from(text))]
    pub name: ImageName,
    /// The kernel it boots; without it the default kernel
    #[arg(long, value_parser = |text: &str| KernelName::try_from(text), add = ArgValueCandidates::new(complete::kernels))]
    pub kernel: Option<KernelName>,
    /// The program to run as init instead of what is found in it
    #[arg(long, value_name = "PATH")]
    pub init: Option<String>,
}

/// `image pull`.
#[derive(Debug, Args)]
#[command(
    before_help = "\
Examples:
  banger image pull debian-bookworm
  banger image pull alpine:3.20
  banger image pull ghcr.io/org/app:1.2 --name app
  banger image pull localhost:5000/mine
",
    help_template = "{about-with-newline}\n{before-help}{usage-heading} {usage}\n\n{all-args}{after-help}"
)]
pub struct PullArgs {
    /// A name of the catalog, else `[HOST[:PORT]/]PATH[:TAG][@DIGEST]`; without a host Docker Hub's
    #[arg(value_name = "REF", value_parser = |text: &str| ImageChoice::try_from(text))]
    pub reference: ImageChoice,
    /// The image's name; without it the catalog's, or the last part of the path and the tag
    #[arg(long, value_parser = |text: &str| ImageName::try_from(text))]
    pub name: Option<ImageName>,
    /// The kernel it boots; without it the default kernel
    #[arg(long, value_parser = |text: &str| KernelName::try_from(text), add = ArgValueCandidates::new(complete::kernels))]
    pub kernel: Option<KernelName>,
    /// Speak plain HTTP with the registry; one on this host gets that anyway
    #[arg(long)]
    pub insecure: bool,
}

/// `image list` and `kernel list`.
#[derive(Debug, Args)]
pub struct AvailableArgs {
    /// What the catalog has for this host instead of what is here
    #[arg(long)]
    pub available: bool,
    #[command(flatten)]
    pub format: Format,
}

/// What to do with the cache of images.
#[derive(Debug, Subcommand)]
pub enum CacheCommand {
    /// Remove the layers that pulls keep to be quick; images stay
    Prune {
        /// Only say what would be removed
        #[arg(long)]
        dry_run: bool,
    },
}

/// `image build`.
#[derive(Debug, Args)]
pub struct BuildArgs {
    /// The recipe: debian-bookworm
    pub recipe: String,
    /// The image's name; without it the recipe's
    #[arg(long, value_parser = |text: &str| ImageName::try_from(text))]
    pub name: Option<ImageName>,
    /// `minimal` leaves out docker and what it needs
    #[arg(long)]
    pub variant: Option<String>,
    /// Further packages
    #[arg(long, value_name = "PACKAGE", value_delimiter = ',')]
    pub include: Vec<String>,
}

/// What to do with kernels.
#[derive(Debug, Subcommand)]
pub enum KernelCommand {
    /// Take a kernel from a package, a file, a directory or this host
    Import(ImportKernelArgs),
    /// Copy the file of a kernel that stays where it is into the store, so that it can go
    Promote {
        /// The kernel
        #[arg(value_parser = |text: &str| KernelName::try_from(text), add = ArgValueCandidates::new(complete::kernels))]
        name: KernelName,
    },
    /// Get a kernel of the catalog
    Pull(PullKernelArgs),
    /// List all kernels
    #[command(visible_alias = "ls")]
    List(AvailableArgs),
    /// Show everything about one kernel
    Show {
        /// The kernel
        #[arg(value_parser = |text: &str| KernelName::try_from(text), add = ArgValueCandidates::new(complete::kernels))]
        name: KernelName,
        #[command(flatten)]
        format: Format,
    },
    /// Delete kernels that no image or machine uses
    #[command(visible_alias = "delete")]
    Rm {
        /// The kernels
        #[arg(required = true, value_name = "NAME", value_parser = |text: &str| KernelName::try_from(text),
            add = ArgValueCandidates::new(complete::kernels))]
        names: Vec<KernelName>,
    },
}

/// `kernel pull`.
#[derive(Debug, Args)]
pub struct PullKernelArgs {
    /// The name of a kernel of the catalog
    #[arg(value_parser = |text: &str| KernelName::try_from(text))]
    pub name: KernelName,
    /// Put it in the place of another one of that name; machines keep theirs
    #[arg(long)]
    pub force: bool,
}

/// What to do with snapshots.
#[derive(Debug, Subcommand)]
pub enum SnapshotCommand {
    /// List all snapshots
    #[command(visible_alias = "ls")]
    List(Format),
    /// Show everything about one snapshot
    Show {
        /// The snapshot
        #[arg(value_parser = |text: &str| SnapshotName::try_from(text), add = ArgValueCandidates::new(complete::snapshots))]
        name: SnapshotName,
        #[command(flatten)]
        format: Format,
    },
    /// Delete snapshots; machines that were made of them stay
    #[command(visible_alias = "rm")]
    Delete {
        /// The snapshots
        #[arg(required = true, value_name = "NAME", value_parser = |text: &str| SnapshotName::try_from(text),
            add = ArgValueCandidates::new(complete::snapshots))]
        names: Vec<SnapshotName>,
    },
}

/// What to do with catalogs.
#[derive(Debug, Subcommand)]
pub enum CatalogCommand {
    /// Get newer catalogs of images and kernels from where `config.toml` says
    Refresh(Format),
}

/// `kernel import`.
#[derive(Debug, Args)]
#[command(
    group = clap::ArgGroup::new("source").required(true),
    before_help = "\
Examples:
  banger kernel import debian --distribution
  banger kernel import debian --from linux-image-6.1.0-cloud-amd64.deb
  banger kernel import mine --from bzImage
",
    help_template = "{about-with-newline}\n{before-help}{usage-heading} {usage}\n\n{all-args}{after-help}"
)]
pub struct ImportKernelArgs {
    /// The kernel's name
    #[arg(value_parser = |text: &str| KernelName::try_from(text))]
    pub name: KernelName,
    /// A .deb, a directory, a vmlinux or a bzImage
    #[arg(long, value_name = "SRC", group = "source")]
    pub from: Option<PathBuf>,
    /// Leave the vmlinux or bzImage where it is, which must not change from now on, instead of copying it
    #[arg(long, requires = "from")]
    pub in_place: bool,
    /// The running host's kernel
    #[arg(long, group = "source")]
    pub host: bool,
    /// The distribution's kernel package, fetched with the host's own tools
    #[arg(long, group = "source")]
    pub distribution: bool,
}
