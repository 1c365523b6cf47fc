//! The submodules of the owner's repository, for a full copy of it: each is a repository in a directory of the one above it.
//!
//! Only what lies in the repository itself is a member of it: a directory that says that its git directory is somewhere else
//! could make any repository of the owner's go along.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use host::tree::Tree;

use super::{
    base::Base,
    error::WorkspaceError,
    git::{Call, Git},
    repository::{Plan, Repository, Untracked, path_of},
};

type Result<T, E = WorkspaceError> = std::result::Result<T, E>;

/// The most repositories of a full copy.
const MAX_MEMBERS: usize = 1000;

/// A submodule that is checked out.
#[derive(Debug)]
pub struct Member {
    /// Where it lies, relative to the top of all.
    pub path: Vec<u8>,
    /// What it is.
    pub repository: Repository,
}

/// The submodules of `repository` that are checked out, and theirs, by path.
///
/// # Errors
/// Why they cannot be shipped.
pub fn find(git: &Git, repository: &Repository) -> Result<Vec<Member>> {
    let own = git_dirs(git, &repository.top)?;
    let tree = Tree::open(&repository.top)?;
    let mut todo = links(git, repository, b"")?;
    let mut members = Vec::new();
    while let Some(path) = todo.pop_first() {
        model::workspace::check_tree_path(&path)
            .map_err(|cause| WorkspaceError::Path { path: path_of(&path), cause })?;
        // Without one it was never checked out; git would find the repository above it.
        if tree.entry(&path_of(&inside(&path, b".git")))?.is_none() {
            continue;
        }
        if members.len() == MAX_MEMBERS {
            return Err(WorkspaceError::ManySubmodules(MAX_MEMBERS));
        }
        let top = repository.top.join(path_of(&path));
        let mut found = Repository::find(git, &top)?;
        let elsewhere = |place: PathBuf| WorkspaceError::SubmoduleElsewhere { path: path_of(&path), place };
        if found.top != top {
            return Err(elsewhere(found.top));
        }
        let is_own =
            |dir: &Path| dir.starts_with(&repository.top) || own.iter().any(|own| dir.starts_with(own));
        if let Some(place) = git_dirs(git, &top)?.into_iter().find(|dir| !is_own(dir)) {
            return Err(elsewhere(place));
        }
        todo.extend(links(git, &found, &path)?);
        found.mode = repository.mode;
        members.push(Member { path, repository: found });
    }
    members.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(members)
}

/// What would be shipped of `repository` and its members.
///
/// # Errors
/// Why it cannot be.
pub fn plan(git: &Git, repository: &Repository, untracked: Untracked) -> Result<Plan> {
    let mut plan = repository.plan_working(git, untracked)?;
    for Member { path, repository } in &repository.members {
        let own = repository.plan_working(git, untracked)?;
        let within = |name: Vec<u8>| inside(path, &name);
        for (name, planned) in own.files {
            let name = within(name);
            model::workspace::check_tree_path(&name)
                .map_err(|cause| WorkspaceError::Path { path: path_of(&name), cause })?;
            plan.files.insert(name, planned);
        }
        plan.sparse.extend(own.sparse.into_iter().map(within));
        plan.submodules.extend(own.submodules.into_iter().map(within));
        plan.bytes += own.bytes;
        plan.skipped += own.skipped;
    }
    Ok(plan)
}

/// `name` in the directory `path`, which is the top where it is empty.
#[must_use]
pub fn inside(path: &[u8], name: &[u8]) -> Vec<u8> {
    if path.is_empty() { name.to_vec() } else { [path, b"/", name].concat() }
}

/// `names` by which of the `members` each is in, the innermost, and relative to that.
pub fn split<'a>(members: &[(Vec<u8>, Base)], names: impl Iterator<Item = &'a [u8]>) -> Vec<Vec<&'a [u8]>> {
    let tops: Vec<_> = members.iter().map(|(path, _)| inside(path, b"")).collect();
    let mut parts = vec![Vec::new(); members.len()];
    for name in names {
        let found = tops.iter().enumerate().filter(|(_, top)| name.starts_with(top));
        if let Some((number, top)) = found.max_by_key(|(_, top)| top.len()) {
            parts[number].push(&name[top.len()..]);
        }
    }
    parts
}

/// Where submodules belong in `repository`, which lies at `at`.
fn links(git: &Git, repository: &Repository, at: &[u8]) -> Result<BTreeSet<Vec<u8>>> {
    let found = repository.staged(git)?;
    let links = found.into_iter().filter(|staged| staged.mode == b"160000");
    Ok(links.map(|staged| inside(at, &staged.path)).collect())
}

/// The git directory of the repository at `top`, and the one that it shares with others, each without links.
fn git_dirs(git: &Git, top: &Path) -> Result<[PathBuf; 2]> {
    let dir = |which: &str| {
        let call = Call::new("read the repository", top);
        let mut bytes = git.call(call.args(["rev-parse", "--path-format=absolute", which]))?.ok()?;
        bytes.pop();
        Ok::<_, WorkspaceError>(host::fs::real_path(&path_of(&bytes))?)
    };
    Ok([dir("--git-dir")?, dir("--git-common-dir")?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_belong_to_the_innermost() {
        let members = ["", "a", "a/b", "ab"].map(|path| (path.into(), Base::at(PathBuf::new())));
        let names = ["x", "a", "a/x", "a/b/x", "ab/x", "a/bx"].map(str::as_bytes);
        let expect: [&[&str]; 4] = [&["x", "a"], &["x", "bx"], &["x"], &["x"]];
        assert_eq!(
            split(&members, names.into_iter()),
            expect.map(|names| names.iter().map(|name| name.as_bytes()).collect::<Vec<_>>())
        );
    }
}
