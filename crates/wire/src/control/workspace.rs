//! Workspaces: what is asked for, and what came of it.

use serde::{Deserialize, Serialize};

use crate::Word;

/// `POST /v1/vms/{reference}/workspace/prepare`: ship a repository; and `POST /v1/workspace/plan`: only say what would be shipped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct PrepareWorkspace {
    /// The absolute path of the repository, or of something in it.
    pub path: Word,
    /// Where it goes in the guest; without it `repo` in the home of its user.
    #[serde(default)]
    pub guest_path: Option<String>,
    /// The user of the guest, by name or number, whom it belongs to there; without it root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// A new branch for the work in the guest.
    #[serde(default)]
    pub branch: Option<String>,
    /// Where the new branch begins; without it what is checked out. The files of another commit go as git has them.
    #[serde(default)]
    pub from: Option<String>,
    /// Also files that git does not know and does not ignore.
    #[serde(default)]
    pub include_untracked: bool,
    /// How many commits of history go along; without it 10.
    #[serde(default)]
    pub depth: Option<u32>,
    /// The whole history goes along.
    #[serde(default)]
    pub full_history: bool,
    /// Overwrite what the guest changed.
    #[serde(default)]
    pub force: bool,
    /// Nobody in the guest can write it, root included until it is remounted.
    #[serde(default)]
    pub readonly: bool,
    /// How much of it goes along.
    #[serde(default)]
    pub mode: WorkspaceMode,
}

/// How much of a repository is shipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "kebab-case")]
pub enum WorkspaceMode {
    /// Its files, and the latest history of what is checked out. It has no submodules.
    #[default]
    Checkout,
    /// Its files, and all that git knows: every branch, tag and stash with its history, the index, and the same of each submodule.
    FullCopy,
}

/// What would be shipped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct WorkspacePlan {
    /// The top of the repository.
    pub path: Word,
    /// Where it goes in the guest.
    pub guest_path: String,
    /// The commit that is checked out.
    pub head: String,
    /// The branch that the guest is on; none where no branch is checked out.
    #[serde(default)]
    pub branch: Option<String>,
    /// The files, by path.
    pub files: Vec<Word>,
    /// Their bytes.
    pub bytes: u64,
    /// How many files that git does not know, and does not ignore, stay.
    pub skipped: u64,
    /// How much of the repository that is.
    #[serde(default)]
    pub mode: WorkspaceMode,
    /// The submodules that go along, by path.
    #[serde(default)]
    pub submodules: Vec<Word>,
}

/// A workspace that was shipped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Prepared {
    /// Where it is in the guest.
    pub guest_path: String,
    /// The repository.
    pub path: Word,
    /// The commit that was checked out.
    pub head: String,
    /// What was shipped, the id of a tree of git.
    pub tree: String,
    /// How many files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// How many of them travelled: those that the guest did not have.
    #[serde(default)]
    pub sent: u64,
    /// The bytes of those.
    #[serde(default)]
    pub sent_bytes: u64,
    /// How many files that git does not know, and does not ignore, stayed.
    pub skipped: u64,
}

/// `POST /v1/vms/{reference}/workspace/export`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ExportWorkspace {
    /// The commit that the patch is to apply to, by its id; without it what was shipped.
    #[serde(default)]
    pub base_commit: Option<String>,
    /// A new branch of the repository that it came from, which gets the work as commits.
    #[serde(default)]
    pub to_branch: Option<String>,
    /// Give up what that branch has, where it is there.
    #[serde(default)]
    pub force: bool,
}

/// A branch that was made of a guest's work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Landed {
    /// Its name.
    pub name: String,
    /// Its last commit.
    pub commit: String,
}

/// An export, which can be fetched for a while.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Exported {
    /// Its id.
    pub id: String,
    /// How many files changed.
    pub files: u64,
    /// Bytes of the patch.
    pub bytes: u64,
    /// The branch that was asked for; none where nothing was changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub branch: Option<Landed>,
}

/// `GET /v1/vms/{reference}/workspace/exports/{id}/changes`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Changes {
    /// By path.
    pub changes: Vec<Change>,
}

/// A file that a guest changed. Its names are the guest's, so to be escaped before they are shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Change {
    /// How.
    pub kind: ChangeKind,
    /// Its path.
    pub path: Word,
    /// Its path before, where it was renamed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Word>,
}

/// How a file changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum ChangeKind {
    /// It is new.
    Added,
    /// It is gone.
    Deleted,
    /// Its content or mode is another.
    Modified,
    /// It is under another path, perhaps with another content.
    Renamed,
    /// It was a file and is a link, or the other way round.
    Kind,
}

/// `GET /v1/vms/{reference}/workspace`: what was shipped into a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Workspace {
    /// Where it is in the guest.
    pub guest_path: String,
    /// The repository.
    pub path: Word,
    /// The commit that was checked out.
    pub head: String,
    /// When: milliseconds since the Unix epoch.
    pub prepared_ms: u64,
    /// Whether another commit is checked out in the repository by now.
    pub moved: bool,
    /// Whether its files are by now others than were shipped.
    #[serde(default)]
    pub changed: bool,
    /// The words that ship it again.
    #[serde(default)]
    pub again: Option<PrepareWorkspace>,
}
