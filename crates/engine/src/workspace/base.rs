//! What was shipped, kept beside the VM: history, the shipped tree, and digests of its files.
//!
//! ```text
//! base/  git/       a bare repository of our own: the history that was shipped and the tree, in packs
//!        files      a JSON line for each file: path, kind, digest
//!        excludes   patterns by which the owner ignores files elsewhere than in the tree
//!        index      the guest's index as it was shipped
//! ```
//! So changes can be told later whatever became of the owner's repository, and nothing of the guest's is ever put in here.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufWriter, Write},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use wire::{Word, tree::Known};

use super::{
    error::WorkspaceError,
    git::{Call, Git},
    repository::{Plan, Repository, paths},
};

type Result<T, E = WorkspaceError> = std::result::Result<T, E>;

/// The shipped tree's commit, which no branch leads to.
pub const SHIPPED: &str = "refs/banger/shipped";
/// The commit that was checked out.
const HEAD: &str = "refs/banger/head";

/// Files by path.
pub type Files = BTreeMap<Vec<u8>, Known>;

/// The directory of a base.
#[derive(Debug, Clone)]
pub struct Base(PathBuf);

/// How much history is shipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum History {
    /// The last so many commits.
    Depth(u32),
    /// All of it.
    Full,
}

#[derive(Serialize, Deserialize)]
struct Line {
    path: Word,
    #[serde(flatten)]
    known: Known,
}

impl Base {
    /// The one at `path`.
    pub fn at(path: PathBuf) -> Self {
        Self(path)
    }

    /// Its repository.
    #[must_use]
    pub fn git_dir(&self) -> PathBuf {
        self.0.join("git")
    }

    /// The patterns by which files are ignored that the tree does not tell.
    pub fn excludes(&self) -> PathBuf {
        self.0.join("excludes")
    }

    /// The guest's index.
    pub fn index(&self) -> PathBuf {
        self.0.join("index")
    }

    /// Makes it in an empty directory, with `history` of `repository`.
    ///
    /// # Errors
    /// Where git does not do it.
    pub fn begin(&self, git: &Git, repository: &Repository, history: History) -> Result<()> {
        init(git, &self.git_dir(), &repository.format)?;
        host::fs::write_atomic(&self.excludes(), &repository.excludes())?;
        let mut call = Call::inside("take the history", &self.git_dir()).args([
            "fetch",
            "--quiet",
            "--no-tags",
            "--no-auto-maintenance",
            "--no-write-fetch-head",
            "--update-shallow",
        ]);
        if let History::Depth(depth) = history {
            call = call.args([format!("--depth={depth}")]);
        }
        // By a name for it, because a path may look like anything else.
        let call = call
            .args(["--", "host"])
            .args([format!("+HEAD:{HEAD}")])
            .env("GIT_CONFIG_COUNT", "1")
            .env("GIT_CONFIG_KEY_0", "remote.host.url")
            .env("GIT_CONFIG_VALUE_0", repository.top.as_os_str());
        git.call(call)?.ok().map(drop)
    }

    /// Writes the digests of `files`, and the index of a guest that has them: that of the commit, and what is new to git.
    ///
    /// # Errors
    /// Where git does not do it.
    pub fn finish(&self, git: &Git, plan: &Plan, files: &Files) -> Result<String> {
        let tree = git
            .call(
                Call::inside("name the tree", &self.git_dir())
                    .args(["rev-parse", &format!("{SHIPPED}^{{tree}}")]),
            )?
            .line()?;
        self.write_files(files)?;
        let indexed = |what| Call::inside(what, &self.git_dir()).env("GIT_INDEX_FILE", self.index());
        git.call(indexed("make the index").args(["read-tree", HEAD]))?.ok()?;
        let list = |what: &[&str], of: &str| {
            let call = Call::inside("list the tree", &self.git_dir()).args(["ls-tree", "-r", "-z"]);
            git.call(call.args(what).args([of]))?.ok()
        };
        let committed = list(&["--name-only"], HEAD)?;
        let committed = paths(&committed);
        let shipped = list(&[], SHIPPED)?;
        let new = paths(&shipped).into_iter().filter(|line| {
            let path = line.iter().position(|byte| *byte == b'\t').map_or(&line[..0], |tab| &line[tab + 1..]);
            !committed.contains(path) && plan.files.get(path).is_some_and(|file| file.tracked)
        });
        let add = indexed("make the index").args(["update-index", "-z", "--index-info"]);
        let added = git.feed(add, |input| {
            for line in new {
                input
                    .write_all(line)
                    .and_then(|()| input.write_all(b"\0"))
                    .map_err(WorkspaceError::Unread)?;
            }
            Ok(())
        })?;
        added.ok()?;
        Ok(tree)
    }

    fn write_files(&self, files: &Files) -> Result<()> {
        let path = self.0.join("files");
        let mut out = BufWriter::new(host::fs::create_new(&path)?);
        let written = files.iter().try_for_each(|(path, known)| {
            let line = Line { path: path.clone().into(), known: known.clone() };
            serde_json::to_writer(&mut out, &line)?;
            out.write_all(b"\n")
        });
        written.and_then(|()| out.flush()).map_err(|e| host::Error::path("write", &path, e))?;
        Ok(())
    }

    /// The files that were shipped.
    ///
    /// # Errors
    /// Where their list cannot be read.
    pub fn files(&self) -> Result<Files> {
        let path = self.0.join("files");
        let mut files = Files::new();
        for line in std::io::BufReader::new(host::fs::open(&path)?).lines() {
            let line: Line = line
                .and_then(|line| Ok(serde_json::from_str(&line)?))
                .map_err(|e| host::Error::path("read", &path, e))?;
            files.insert(line.path.into_bytes(), line.known);
        }
        Ok(files)
    }
}

/// Makes the bare repository `git_dir` with nothing of the host's templates in it.
///
/// # Errors
/// Where git does not do it.
pub fn init(git: &Git, git_dir: &Path, format: &str) -> Result<()> {
    host::fs::create_dir(git_dir)?;
    let call = Call::new("make a repository", git_dir).args(["init", "--quiet", "--bare", "--template="]);
    git.call(call.args([format!("--object-format={format}"), ".".to_owned()]))?.ok().map(drop)
}
