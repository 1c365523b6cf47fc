//! Exports: what a guest changed, as a patch that can be fetched for a while, and as a branch of the owner's repository.

use std::{fs::File, path::Path};

use wire::{
    Word,
    control::{self, Change, ChangeKind, Event, ExportWorkspace, Exported, Outcome},
};

use super::{
    Visit, WorkspaceError,
    base::Base,
    git::{Call, Git},
    land::Landing,
    quarantine::Over,
    take,
};
use crate::{Engine, Operation, Result, blocking};

/// How many exports of a VM are kept for their readers.
const EXPORTS: usize = 3;
/// How many files that may run by themselves are named.
const NOTED: usize = 10;

/// What of an export is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The patch.
    Patch,
    /// The list of changes.
    Changes,
}

impl Engine {
    /// Makes a patch of all that the guest of the VM that `text` refers to changed, and a branch where that is asked for.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn vm_export(
        self,
        operation: Operation,
        text: String,
        request: ExportWorkspace,
    ) -> Result<Outcome> {
        let visit = self.visit(&operation, &text).await?;
        let work = self.export(&operation, &visit, request);
        visit.unless_ended(&operation, work).await.map(Outcome::Exported)
    }

    async fn export(
        &self,
        operation: &Operation,
        visit: &Visit,
        request: ExportWorkspace,
    ) -> Result<Exported> {
        let none = || WorkspaceError::NoWorkspace(visit.name.to_string());
        let workspace = self.store().workspace_get(visit.id)?.ok_or_else(none)?;
        let place = self.paths().workspace(visit.id);
        let scratch = self.scratch(operation)?;
        // Before the work, not after it.
        let landing = match request.to_branch {
            Some(name) => {
                let (git, shipped, vm) = (visit.git.clone(), workspace.clone(), visit.name.to_string());
                let over = if request.force { Over::Branch } else { Over::Nothing };
                Some(blocking(move || Ok(Landing::look(&git, &shipped, vm, name, over)?)).await?)
            }
            None => None,
        };
        operation.stage("reading the guest's files");
        let progress = self.progress(operation, "reading the guest's files", None);
        let (guest, path) = (&visit.live.guest, &workspace.guest_path);
        let base = Base::at(place.clone());
        let taken = take::take(&visit.git, guest, path, &base, &workspace.tree, &scratch, progress).await?;
        operation.stage("making the patch");
        let (git, id, told) = (visit.git.clone(), operation.id().to_string(), operation.clone());
        let make = blocking(move || {
            let scratch = scratch;
            let parent = match &request.base_commit {
                Some(commit) => Some(commit_of(&git, &taken.git_dir, commit)?),
                None => None,
            };
            let from = match &parent {
                Some(commit) => git.tree_of(&taken.git_dir, commit)?,
                None => workspace.tree.clone(),
            };
            let (patch, changes) = (scratch.0.join("patch"), scratch.0.join("changes"));
            let diff = |what, words: &[&str]| {
                Call::inside(what, &taken.git_dir)
                    .args(["diff-tree", "-r", "-M"])
                    .args(words)
                    .args([&from, &taken.tree])
            };
            let words = [
                "-p",
                "--binary",
                "--full-index",
                "--no-ext-diff",
                "--no-textconv",
                "--no-color",
                "--src-prefix=a/",
                "--dst-prefix=b/",
            ];
            let call = diff("make the patch", &words).stdout(host::fs::create_new(&patch)?);
            git.call(call)?.ok()?;
            let status = git.call(diff("list the changes", &["-z", "--name-status"]))?.ok()?;
            let list = changes_of(&status).ok_or(WorkspaceError::Git {
                what: "list the changes",
                why: "its list is malformed".to_owned(),
            })?;
            if let Some(message) = runs_by_itself(&list) {
                told.emit(Event::Warning { message });
            }
            let branch = match landing {
                Some(landing) if !list.is_empty() => {
                    told.stage("making the branch");
                    Some(landing.land(&git, &base, &taken, parent.as_deref(), &scratch.0)?)
                }
                Some(_) | None => None,
            };
            let (files, bytes) = (list.len() as u64, host::fs::size(&patch)?);
            let exported = Exported { id: id.clone(), files, bytes, branch };
            let list = serde_json::to_vec(&control::Changes { changes: list }).expect("words");
            host::fs::write_atomic(&changes, &list)?;
            let exports = place.join("exports");
            host::fs::private_dir(&exports)?;
            // By age, because their names begin with the time.
            let old = host::fs::list(&exports)?;
            for path in old.iter().take(old.len().saturating_sub(EXPORTS - 1)) {
                host::fs::remove_all(path)?;
            }
            host::fs::create_dir(&exports.join(&id))?;
            host::fs::rename(&patch, &exports.join(&id).join("patch"))?;
            host::fs::rename(&changes, &exports.join(&id).join("changes"))?;
            Ok(exported)
        });
        self.points().around("patch", make).await
    }

    /// What export `id` of the VM that `text` refers to came to: its patch, or the list of its changes as JSON.
    ///
    /// # Errors
    /// Where there is no such VM or export.
    pub fn vm_exported(&self, text: &str, id: &str, what: Part) -> Result<File> {
        let vm = self.resolve(text)?;
        let gone = || WorkspaceError::NoExport(id.to_owned());
        let id = uuid::Uuid::try_parse(id).map_err(|_| gone())?.to_string();
        let name = match what {
            Part::Patch => "patch",
            Part::Changes => "changes",
        };
        let path = self.paths().workspace(vm).join("exports").join(id).join(name);
        host::fs::open(&path).map_err(|error| if error.is_missing() { gone().into() } else { error.into() })
    }
}

/// The whole id of `commit`, where that was shipped.
fn commit_of(git: &Git, git_dir: &Path, commit: &str) -> Result<String> {
    let none = || WorkspaceError::NoCommit(commit.to_owned());
    let is_id = (4..=64).contains(&commit.len()) && commit.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !is_id {
        return Err(none().into());
    }
    let call = Call::inside("find the commit", git_dir);
    let done = git.call(call.args(["rev-parse", "--verify", &format!("{commit}^{{commit}}")]))?;
    Ok(done.line().map_err(|_| none())?)
}

/// What is to be said of changed files that may run without being asked for, where there are some.
fn runs_by_itself(changes: &[Change]) -> Option<String> {
    let runs = |change: &&Change| {
        change.kind != ChangeKind::Deleted && model::workspace::runs_by_itself(change.path.as_bytes())
    };
    let mut found: Vec<_> = changes.iter().filter(runs).collect();
    let more = found.len().saturating_sub(NOTED);
    found.truncate(NOTED);
    let names: Vec<_> =
        found.iter().map(|change| String::from_utf8_lossy(change.path.as_bytes()).into_owned()).collect();
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    (!names.is_empty()).then(|| {
        format!(
            "look at these before you use them, since they may run by themselves: {}{more}",
            names.join(", ")
        )
    })
}

/// What `git diff-tree -z --name-status` says.
fn changes_of(status: &[u8]) -> Option<Vec<Change>> {
    let mut fields = status.split(|byte| *byte == 0).filter(|field| !field.is_empty());
    let mut changes = Vec::new();
    while let Some(letter) = fields.next() {
        let mut path = || Some(Word::from(fields.next()?.to_vec()));
        let (kind, from) = match letter.first()? {
            b'A' => (ChangeKind::Added, None),
            b'D' => (ChangeKind::Deleted, None),
            b'M' => (ChangeKind::Modified, None),
            b'T' => (ChangeKind::Kind, None),
            b'R' => (ChangeKind::Renamed, Some(path()?)),
            _ => return None,
        };
        changes.push(Change { kind, path: path()?, from });
    }
    Some(changes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_read() {
        let status = b"A\0new\0R087\0old name\0new\xff\0T\0link\0";
        let changes = changes_of(status).unwrap();
        let shown: Vec<_> = changes
            .iter()
            .map(|change| (change.kind, change.path.as_bytes(), change.from.is_some()))
            .collect();
        assert_eq!(
            shown,
            [
                (ChangeKind::Added, &b"new"[..], false),
                (ChangeKind::Renamed, b"new\xff", true),
                (ChangeKind::Kind, b"link", false)
            ]
        );
        assert!(changes_of(b"A\0").is_none() && changes_of(b"?\0x\0").is_none());
    }
}
