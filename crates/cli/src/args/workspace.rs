//! The words of `banger vm workspace`, and those that `vm run` shares with it.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use clap_complete::ArgValueCandidates;
use model::workspace::{DEFAULT_DEPTH, DEFAULT_GUEST_PATH, GuestPath};
use wire::control::WorkspaceMode;

use super::vm::reference;
use crate::complete;

/// What to do with a machine's workspace.
#[derive(Debug, Subcommand)]
pub enum WorkspaceCommand {
    /// Ship a git repository into a running machine
    ///
    /// The files that git knows go along as they are in the working tree now, and the latest history. Nothing in the
    /// repository is changed.
    Prepare(PrepareArgs),
    /// Get a machine's changes as a patch for `git apply`, or as a branch
    ///
    /// Everything that was changed in the machine since its workspace was shipped, committed there or not, but for what is
    /// ignored.
    Export(ExportArgs),
}

/// How much of a repository is shipped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum ModeWord {
    /// The files, and the latest history of what is checked out
    #[default]
    Checkout,
    /// The files and all that git knows: every branch, tag and stash, and the submodules
    FullCopy,
}

impl From<ModeWord> for WorkspaceMode {
    fn from(word: ModeWord) -> Self {
        match word {
            ModeWord::Checkout => Self::Checkout,
            ModeWord::FullCopy => Self::FullCopy,
        }
    }
}

/// How a repository is shipped.
#[derive(Debug, Clone, Default, Args)]
pub struct Shipping {
    /// A new branch for the work in the machine
    #[arg(long, value_name = "NAME")]
    pub branch: Option<String>,
    /// Where the new branch begins; the files of another commit than the one checked out go as git has them
    #[arg(long, value_name = "REF", requires = "branch")]
    pub from: Option<String>,
    /// Where the repository goes in the machine
    #[arg(long, value_name = "PATH", value_parser = |text: &str| GuestPath::try_from(text), help = format!("Where the repository goes in the machine; without it {DEFAULT_GUEST_PATH}, or repo in the home of --user"))]
    pub guest_path: Option<GuestPath>,
    /// Ship also files that git does not know and does not ignore
    #[arg(long)]
    pub include_untracked: bool,
    /// How many commits of history go along
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..), conflicts_with = "full_history", help = format!("How many commits of history go along; without it {DEFAULT_DEPTH}"))]
    pub depth: Option<u32>,
    /// Ship the whole history
    #[arg(long)]
    pub full_history: bool,
    /// How much of the repository goes along
    #[arg(long, value_enum)]
    pub mode: Option<ModeWord>,
    /// Nobody in the machine can write it, root included until it is remounted
    #[arg(long)]
    pub readonly: bool,
    /// Only list the files that would be shipped
    #[arg(long)]
    pub dry_run: bool,
}

impl Shipping {
    /// The first of these words that was given.
    #[must_use]
    pub fn first(&self) -> Option<&'static str> {
        let given = [
            ("--branch", self.branch.is_some()),
            ("--guest-path", self.guest_path.is_some()),
            ("--include-untracked", self.include_untracked),
            ("--depth", self.depth.is_some()),
            ("--full-history", self.full_history),
            ("--mode", self.mode.is_some()),
            ("--readonly", self.readonly),
            ("--dry-run", self.dry_run),
        ];
        given.into_iter().find_map(|(word, given)| given.then_some(word))
    }
}

/// `vm workspace prepare`.
#[derive(Debug, Args)]
pub struct PrepareArgs {
    /// The machine
    #[arg(value_name = "REF", value_parser = reference, add = ArgValueCandidates::new(complete::vms))]
    pub reference: String,
    /// The repository, or anything in it
    #[arg(default_value = ".")]
    pub path: PathBuf,
    /// Overwrite what was changed in the machine
    #[arg(long)]
    pub force: bool,
    /// The user of the machine whom it belongs to there, and in whose home it goes; without it the machine's user
    #[arg(long, short)]
    pub user: Option<String>,
    #[command(flatten)]
    pub shipping: Shipping,
}

/// `vm workspace export`.
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// The machine
    #[arg(value_name = "REF", value_parser = reference, add = ArgValueCandidates::new(complete::vms))]
    pub reference: String,
    /// Put the patch into a file instead of on standard output
    #[arg(long, short, value_name = "FILE", conflicts_with = "list")]
    pub output: Option<PathBuf>,
    /// The commit that the patch is to apply to, instead of what was shipped
    #[arg(long, value_name = "SHA")]
    pub base_commit: Option<String>,
    /// Only list what was changed
    #[arg(long)]
    pub list: bool,
    /// Make the changes a new branch of the repository that was shipped
    ///
    /// Its commits stand on the one that was checked out there, and nothing is checked out. No hook runs.
    #[arg(long, value_name = "NAME", conflicts_with_all = ["list", "output"])]
    pub to_branch: Option<String>,
    /// Put the new branch over one of that name, which nobody has checked out
    #[arg(long, requires = "to_branch")]
    pub force: bool,
}
