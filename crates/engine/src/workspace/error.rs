//! Why a workspace was not shipped, or its changes not taken.

use std::path::PathBuf;

use model::{
    size::human,
    workspace::{GuestPathError, MAX_CHANGED_BYTES, TreePathError},
};
use wire::{control::Code, tree::ListingError};

use super::repository::path_of;
use crate::guest::GuestError;

/// Why not.
#[derive(Debug, thiserror::Error)]
pub enum WorkspaceError {
    /// There is no repository at the path or above it.
    #[error("{0:?} is in no git repository")]
    NoRepository(PathBuf),
    /// The repository has no files.
    #[error("{0:?} is a bare repository: it has no files to ship")]
    Bare(PathBuf),
    /// The repository has no commit.
    #[error("the repository {0:?} has no commit yet")]
    Unborn(PathBuf),
    /// The repository belongs to somebody else.
    #[error("the repository {0:?} belongs to another user")]
    OtherUser(PathBuf),
    /// The repository says that its files are in a directory that is not its own.
    #[error("the repository at {path:?} has its files in {top:?}, which is another one's")]
    Elsewhere {
        /// Where it is.
        path: PathBuf,
        /// Where it says that its files are.
        top: PathBuf,
    },
    /// The repository has submodules.
    #[error("the repository has submodules, like {0:?}, which only a full copy has")]
    Submodules(PathBuf),
    /// A submodule's git directory is not in the repository.
    #[error("the submodule {path:?} is no part of the repository: its git directory is in {place:?}")]
    SubmoduleElsewhere {
        /// The submodule.
        path: PathBuf,
        /// What it leads to.
        place: PathBuf,
    },
    /// There are more submodules than go along.
    #[error("the repository has more than {0} submodules")]
    ManySubmodules(usize),
    /// A full copy is of what is checked out.
    #[error("a full copy is of what is checked out, which is not {0:?}")]
    FromFullCopy(String),
    /// A full copy has it all.
    #[error("a full copy has the whole history")]
    DepthFullCopy,
    /// The place in the guest cannot be used.
    #[error("{path:?} cannot be a workspace")]
    GuestPath {
        /// The place.
        path: String,
        /// Why.
        #[source]
        cause: GuestPathError,
    },
    /// The new branch cannot have that name.
    #[error("{0:?} is no name for a branch")]
    Branch(String),
    /// The new branch would begin nowhere.
    #[error("{from:?} is no commit of the repository {top:?}")]
    From {
        /// What was said.
        from: String,
        /// The repository.
        top: PathBuf,
    },
    /// The new branch would begin elsewhere than what untracked files lie beside.
    #[error("untracked files belong to what is checked out, which is not {0:?}")]
    FromUntracked(String),
    /// The new branch is another one of the repository, all of which go.
    #[error("the repository has a branch {0:?} already")]
    BranchTaken(String),
    /// Where a branch would begin was said, but not which.
    #[error("where a branch begins was said, but not which branch")]
    FromAlone,
    /// That is no depth of a history.
    #[error("{0}")]
    Depth(&'static str),
    /// A file of the host cannot be read.
    #[error(transparent)]
    Host(#[from] host::Error),
    /// Git is not there, or did not do it.
    #[error("git cannot {what}: {why}")]
    Git {
        /// What it was for.
        what: &'static str,
        /// Its last words.
        why: String,
    },
    /// Git stopped reading; its own words say why.
    #[error("git stopped reading")]
    Unread(#[source] std::io::Error),
    /// Nothing was shipped into the VM.
    #[error("no workspace was shipped into VM {0}")]
    NoWorkspace(String),
    /// Something is at that place in the guest that was not shipped.
    #[error("{path} in the guest is not empty, and nothing in it was shipped")]
    NotEmpty {
        /// The VM.
        vm: String,
        /// The place.
        path: String,
    },
    /// The guest's work would be lost.
    #[error("{path} in the guest was changed since it was shipped")]
    Changed {
        /// The VM.
        vm: String,
        /// The place.
        path: String,
    },
    /// What is ignored in the guest has a place that is needed.
    #[error("{path:?}, which is ignored in the guest, is where something else belongs now")]
    InTheWay {
        /// The VM.
        vm: String,
        /// The file.
        path: PathBuf,
    },
    /// The guest's agent did not do it.
    #[error("the guest did not {action}")]
    Guest {
        /// What it was asked for.
        action: &'static str,
        /// What it said.
        #[source]
        cause: GuestError,
    },
    /// The guest takes no more; why is in its answer.
    #[error("the guest takes no more of it")]
    GuestGone,
    /// What the guest says makes no sense.
    #[error("what the guest says of its files is malformed: {0}")]
    Malformed(&'static str),
    /// The guest has more than is taken.
    #[error("the guest has more {what} than are taken: {limit}")]
    TooMuch {
        /// What.
        what: &'static str,
        /// How many.
        limit: u64,
    },
    /// The guest changed more than is taken.
    #[error(
        "the guest changed more than the {} that are taken; its file {path:?} has {}",
        human(MAX_CHANGED_BYTES),
        human(*bytes)
    )]
    TooLarge {
        /// The largest of its files, or the one that was too much.
        path: PathBuf,
        /// How large that is.
        bytes: u64,
    },
    /// A name in the guest's tree is not taken.
    #[error("the file {path:?} of the guest is not taken")]
    Path {
        /// The name.
        path: PathBuf,
        /// Why.
        #[source]
        cause: TreePathError,
    },
    /// A link in the guest's tree leads out of it.
    #[error("the link {path:?} of the guest is not taken: by {target:?} it may lead out of the tree")]
    Link {
        /// The link.
        path: PathBuf,
        /// Where it leads.
        target: PathBuf,
    },
    /// A commit is not among what was shipped.
    #[error("there is no commit {0} in what was shipped")]
    NoCommit(String),
    /// The branch is there already.
    #[error("there is a branch {0:?} already")]
    BranchExists(String),
    /// The branch is checked out.
    #[error("the branch {0:?} is checked out")]
    BranchCheckedOut(String),
    /// The branch is another name of another one.
    #[error("the branch {0:?} is another one under a second name")]
    BranchAlias(String),
    /// A branch of another name is in its place.
    #[error("there can be no branch {name:?} beside the branch {other:?}")]
    BranchInTheWay {
        /// The branch.
        name: String,
        /// The other one.
        other: String,
    },
    /// What was shipped is not in the owner's repository any more.
    #[error("the repository {top:?} does not have the commit {commit} any more that was shipped")]
    Lost {
        /// The repository.
        top: PathBuf,
        /// The commit.
        commit: String,
    },
    /// Git makes something else of the file when it is committed.
    #[error("git converts {path:?} when it is committed ({how}), which only git itself does")]
    Converted {
        /// The file.
        path: PathBuf,
        /// By which attribute.
        how: String,
    },
    /// The file belongs to a repository in the repository.
    #[error("{path:?} belongs to a submodule, and a branch has no files of those", path = .0)]
    InSubmodule(PathBuf),
    /// The file would run as its owner.
    #[error("the file {path:?} of the guest has a set-user or set-group bit", path = .0)]
    SetId(PathBuf),
    /// There is no such export.
    #[error("there is no export {0} any more")]
    NoExport(String),
}

impl From<ListingError> for WorkspaceError {
    fn from(error: ListingError) -> Self {
        match error {
            ListingError::Malformed(what) => Self::Malformed(what),
            ListingError::TooMuch { what, limit } => Self::TooMuch { what, limit },
            ListingError::Path { path, cause } => Self::Path { path: path_of(&path), cause },
        }
    }
}

impl WorkspaceError {
    /// For programs.
    pub fn code(&self) -> Code {
        match self {
            Self::NoRepository(_)
            | Self::Bare(_)
            | Self::Unborn(_)
            | Self::OtherUser(_)
            | Self::Elsewhere { .. }
            | Self::Submodules(_)
            | Self::SubmoduleElsewhere { .. }
            | Self::ManySubmodules(_)
            | Self::FromFullCopy(_)
            | Self::DepthFullCopy
            | Self::GuestPath { .. }
            | Self::Branch(_)
            | Self::From { .. }
            | Self::FromUntracked(_)
            | Self::FromAlone
            | Self::Depth(_) => Code::Invalid,
            Self::BranchExists(_)
            | Self::BranchTaken(_)
            | Self::BranchCheckedOut(_)
            | Self::BranchAlias(_)
            | Self::BranchInTheWay { .. } => Code::Conflict,
            Self::Host(_) | Self::Git { .. } | Self::Unread(_) => Code::Host,
            Self::NoWorkspace(_) | Self::NoCommit(_) | Self::NoExport(_) | Self::Lost { .. } => {
                Code::NotFound
            }
            Self::NotEmpty { .. } | Self::Changed { .. } | Self::InTheWay { .. } => Code::Conflict,
            Self::Guest { .. } | Self::GuestGone => Code::Guest,
            Self::Malformed(_)
            | Self::TooMuch { .. }
            | Self::TooLarge { .. }
            | Self::Path { .. }
            | Self::Link { .. }
            | Self::Converted { .. }
            | Self::InSubmodule(_)
            | Self::SetId(_) => Code::Refused,
        }
    }

    /// What to type, where there is something.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Unborn(_) => Some("git commit".to_owned()),
            Self::Submodules(_) => Some("--mode full-copy ships the repository with them".to_owned()),
            Self::NoWorkspace(vm) => Some(format!("banger vm workspace prepare {vm} PATH")),
            Self::NotEmpty { vm, .. } => {
                Some(format!("banger vm workspace prepare {vm} --force, or another --guest-path"))
            }
            Self::Changed { vm, .. } => Some(format!(
                "banger vm workspace export {vm} --output FILE saves the changes; --force drops them"
            )),
            Self::InTheWay { vm, .. } => Some(format!("banger vm workspace prepare {vm} --force removes it")),
            Self::BranchExists(_) => Some("another name, or --force to give up what it has".to_owned()),
            Self::Lost { .. } | Self::Converted { .. } | Self::InSubmodule(_) => {
                Some("banger vm workspace export --output FILE, and git apply FILE".to_owned())
            }
            Self::TooLarge { .. } => {
                Some("remove it in the guest, or add it to a .gitignore there where it is new".to_owned())
            }
            Self::NoCommit(_) => Some("ship more history: --depth or --full-history".to_owned()),
            _ => None,
        }
    }
}
