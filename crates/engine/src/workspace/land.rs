//! A guest's work as commits on top of what the owner has: what was not committed when it was shipped, then the work.
//!
//! What was shipped are the bytes of the owner's files, while commits have what git makes of them. So the commits begin with the
//! owner's own tree, and of the shipped one they take what is really another: not line ends alone, and nothing that some filter converts.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use model::workspace::check_tree_path;
use wire::control::Landed;

use super::{
    base::Base,
    error::WorkspaceError,
    git::{Call, Git},
    quarantine::{Over, Target},
    repository::{Repository, path_of},
    take::Taken,
};

type Result<T, E = WorkspaceError> = std::result::Result<T, E>;

/// What git calls a file that is not there, and a submodule.
const NONE: &str = "000000";
const SUBMODULE: &str = "160000";
/// The attributes by which git converts contents.
const CONVERTING: [&str; 3] = ["filter", "ident", "working-tree-encoding"];
/// The largest file whose line ends are looked at.
const MAX_LINES: u64 = 16 << 20;
/// How many bytes of contents are asked for at once.
const BATCH: u64 = 64 << 20;

/// Where a guest's work is to land.
#[derive(Debug)]
pub struct Landing {
    repository: Repository,
    target: Target,
    name: String,
    vm: String,
    shipped: store::Workspace,
}

/// One line of a difference of two trees.
#[derive(Debug, Clone)]
struct Difference {
    path: Vec<u8>,
    modes: [String; 2],
    ids: [String; 2],
}

impl Difference {
    fn is_content(&self) -> bool {
        self.modes.iter().all(|mode| mode.starts_with("100"))
    }

    /// This as `update-index --index-info` reads it, with the content `id`.
    fn line(&self, id: &str) -> Vec<u8> {
        let mut line = format!("{} {id}\t", self.modes[1]).into_bytes();
        line.extend_from_slice(&self.path);
        line.push(0);
        line
    }
}

impl Landing {
    /// The branch `name` of the repository that `shipped` came from.
    ///
    /// # Errors
    /// Why nothing can land there.
    pub fn look(git: &Git, shipped: &store::Workspace, vm: String, name: String, over: Over) -> Result<Self> {
        let repository = Repository::find(git, &shipped.host_path)?;
        let target = Target::look(git, &repository.top, &name, shipped.head.len(), over)?;
        Ok(Self { repository, target, name, vm, shipped: shipped.clone() })
    }

    /// Makes the branch of what was `taken`, on top of `parent` or else of what was checked out.
    ///
    /// # Errors
    /// Where the work has what does not land. Nothing of the owner's is changed then.
    pub fn land(
        &self,
        git: &Git,
        base: &Base,
        taken: &Taken,
        parent: Option<&str>,
        scratch: &Path,
    ) -> Result<Landed> {
        if let Some(path) = &taken.set_id {
            return Err(WorkspaceError::SetId(path.clone()));
        }
        let begin = parent.unwrap_or(&self.shipped.head);
        if self.repository.commit(git, begin)?.as_deref() != Some(begin) {
            let (top, commit) = (self.repository.top.clone(), begin.to_owned());
            return Err(WorkspaceError::Lost { top, commit });
        }
        let dir = &taken.git_dir;
        let mut before = difference(git, dir, &self.shipped.head, &self.shipped.tree)?;
        let work = difference(git, dir, &self.shipped.tree, &taken.tree)?;
        let submodules: BTreeSet<_> =
            before.iter().filter(|one| one.modes[0] == SUBMODULE).map(|one| one.path.clone()).collect();
        let sparse = base.sparse()?;
        let is_own = |one: &Difference| one.modes[0] != SUBMODULE && !within(&submodules, &one.path);
        before.retain(|one| is_own(one) && !(one.modes[1] == NONE && sparse.contains(&one.path)));
        check(&work, &submodules)?;

        let both = before.iter().chain(&work).map(|one| one.path.as_slice());
        let converted = converted(git, &self.repository.top, both)?;
        if let Some(one) = work.iter().find(|one| converted.contains_key(&one.path)) {
            let (path, how) = (path_of(&one.path), converted[&one.path].clone());
            return Err(WorkspaceError::Converted { path, how });
        }
        before.retain(|one| !converted.contains_key(&one.path));
        let lines = lines_only(git, dir, &before)?;

        let tree = Index { git, dir, file: scratch.join("landing") };
        tree.read(&self.shipped.head)?;
        let mut changes = Vec::new();
        for one in &before {
            let id = if lines.contains(&one.path) { &one.ids[0] } else { &one.ids[1] };
            changes.push(one.line(id));
        }
        let shipped = tree.apply(changes)?;
        let mut changes = Vec::new();
        for one in &work {
            let is_content = one.modes[1].starts_with("100");
            let id = if is_content && lines.contains(&one.path) {
                with_line_ends(git, dir, &one.ids[1])?
            } else {
                one.ids[1].clone()
            };
            changes.push(one.line(&id));
        }
        let done = tree.apply(changes)?;

        let onto = match parent {
            Some(_) => Onto::Commit(begin),
            None => Onto::Shipped { head: begin, tree: &shipped },
        };
        let commit = self.commit_on(git, dir, onto, &done, scratch)?;
        Ok(Landed { name: self.name.clone(), commit })
    }

    /// Commits the tree `done`, below it what was not committed when it was shipped, and makes the branch of that.
    fn commit_on(&self, git: &Git, dir: &Path, onto: Onto<'_>, done: &str, scratch: &Path) -> Result<String> {
        let who = self.repository.person(git)?;
        let commit = |tree: &str, parent: &str, text: String| {
            let call =
                Call::inside("make a commit", dir).args(["commit-tree", tree, "-p", parent, "-m", &text]);
            git.call(who.sign(call))?.line()
        };
        let (begin, below) = match onto {
            Onto::Commit(commit) => (commit, commit.to_owned()),
            Onto::Shipped { head, tree } if git.tree_of(dir, head)? == tree => (head, head.to_owned()),
            Onto::Shipped { head, tree } => {
                let text = format!("What was not committed when it was shipped to VM {}", self.vm);
                (head, commit(tree, head, text)?)
            }
        };
        let tip = commit(done, &below, format!("Work in VM {}", self.vm))?;
        self.target.put(git, dir, begin, &tip, &who, scratch)?;
        Ok(tip)
    }
}

/// What the work is committed on.
#[derive(Debug, Clone, Copy)]
enum Onto<'a> {
    /// A commit that was asked for.
    Commit(&'a str),
    /// What was shipped, which is this tree and may be more than the commit that was checked out.
    Shipped { head: &'a str, tree: &'a str },
}

/// Whether `path` is one of `places` or below it.
fn within(places: &BTreeSet<Vec<u8>>, path: &[u8]) -> bool {
    let mut ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
    places.contains(path) || ends.any(|at| places.contains(&path[..at]))
}

/// That the work is of what a tree of the owner's may have. Its names and links were checked when they were taken; what it is
/// made into is checked once more, since it was written down and read again.
fn check(work: &[Difference], submodules: &BTreeSet<Vec<u8>>) -> Result<()> {
    for one in work {
        if within(submodules, &one.path) {
            return Err(WorkspaceError::InSubmodule(path_of(&one.path)));
        }
        check_tree_path(&one.path)
            .map_err(|cause| WorkspaceError::Path { path: path_of(&one.path), cause })?;
        if !matches!(one.modes[1].as_str(), NONE | "100644" | "100755" | "120000") {
            return Err(WorkspaceError::Malformed("a file of another kind"));
        }
    }
    Ok(())
}

/// What differs between two trees.
fn difference(git: &Git, dir: &Path, from: &str, to: &str) -> Result<Vec<Difference>> {
    let what = "compare trees";
    let call =
        Call::inside(what, dir).args(["diff-tree", "-r", "-z", "--no-renames", "--full-index", from, to]);
    let list = git.call(call)?.ok()?;
    let mut fields = list.split(|byte| *byte == 0).filter(|field| !field.is_empty());
    let mut all = Vec::new();
    while let Some(about) = fields.next() {
        let one = std::str::from_utf8(about).ok().and_then(|text| {
            let mut words = text.strip_prefix(':')?.split(' ').map(str::to_owned);
            let modes = [words.next()?, words.next()?];
            let ids = [words.next()?, words.next()?];
            Some(Difference { path: fields.next()?.to_vec(), modes, ids })
        });
        all.push(one.ok_or(WorkspaceError::Git { what, why: "its list is malformed".to_owned() })?);
    }
    Ok(all)
}

/// Those of `paths` whose contents git converts in the repository at `top`, and by what.
fn converted<'a>(
    git: &Git,
    top: &Path,
    paths: impl Iterator<Item = &'a [u8]>,
) -> Result<BTreeMap<Vec<u8>, String>> {
    let what = "read the attributes";
    let call = Call::new(what, top).args(["check-attr", "-z", "--stdin"]).args(CONVERTING);
    let done = git.feed(call, |input| {
        for path in paths {
            input.write_all(path).and_then(|()| input.write_all(b"\0")).map_err(WorkspaceError::Unread)?;
        }
        Ok(())
    })?;
    let list = done.ok()?;
    let fields: Vec<&[u8]> = list.split(|byte| *byte == 0).collect();
    let mut found = BTreeMap::new();
    for entry in fields.chunks_exact(3) {
        if !matches!(entry[2], b"unspecified" | b"unset") {
            let how = format!("{}={}", String::from_utf8_lossy(entry[1]), String::from_utf8_lossy(entry[2]));
            found.insert(entry[0].to_vec(), how);
        }
    }
    Ok(found)
}

/// The files that differ by their line ends alone: what git has ends lines with LF, what was shipped with CR LF.
fn lines_only(git: &Git, dir: &Path, all: &[Difference]) -> Result<BTreeSet<Vec<u8>>> {
    let candidates: Vec<_> = all.iter().filter(|one| one.is_content() && one.ids[0] != one.ids[1]).collect();
    let ids = candidates.iter().flat_map(|one| &one.ids);
    let asked = ask(git, dir, "--batch-check=%(objectsize)", ids)?;
    let sizes: Vec<u64> = asked
        .split(|byte| *byte == b'\n')
        .filter_map(|line| std::str::from_utf8(line).ok()?.parse().ok())
        .collect();
    let is_fit = |sizes: &[u64]| sizes[0] < sizes[1] && sizes[1] <= MAX_LINES;
    let mut left: Vec<_> =
        candidates.into_iter().zip(sizes.chunks_exact(2)).filter(|(_, sizes)| is_fit(sizes)).collect();
    let mut found = BTreeSet::new();
    while !left.is_empty() {
        let mut bytes = 0;
        let fits = |(_, sizes): &&(&Difference, &[u64])| {
            bytes += sizes[0] + sizes[1];
            bytes <= BATCH
        };
        let count = left.iter().take_while(fits).count().max(1);
        let batch: Vec<_> = left.drain(..count).collect();
        let contents = ask(git, dir, "--batch=", batch.iter().flat_map(|(one, _)| &one.ids))?;
        // Each begins with an empty line, that of what is said of it, and ends with one.
        let mut rest = contents.as_slice();
        let mut next = |size: u64| {
            let end = usize::try_from(size).ok()? + 1;
            let content = rest.get(1..end)?;
            rest = rest.get(end + 1..)?;
            Some(content)
        };
        for (one, sizes) in batch {
            let cut = WorkspaceError::Git { what: "read contents", why: "its answer is cut".to_owned() };
            let (Some(ours), Some(shipped)) = (next(sizes[0]), next(sizes[1])) else { return Err(cut) };
            if !ours.contains(&0) && without_returns(shipped) == ours {
                found.insert(one.path.clone());
            }
        }
    }
    Ok(found)
}

/// What `cat-file` says of `ids`.
fn ask<'a>(git: &Git, dir: &Path, how: &str, ids: impl Iterator<Item = &'a String>) -> Result<Vec<u8>> {
    let call = Call::inside("read contents", dir).args(["cat-file", how]);
    let done = git.feed(call, |input| {
        for id in ids {
            writeln!(input, "{id}").map_err(WorkspaceError::Unread)?;
        }
        Ok(())
    })?;
    done.ok()
}

/// The content `id` with LF at the end of its lines; its id.
fn with_line_ends(git: &Git, dir: &Path, id: &str) -> Result<String> {
    let content = git.call(Call::inside("read contents", dir).args(["cat-file", "blob", id]))?.ok()?;
    let call = Call::inside("keep contents", dir).args(["hash-object", "-w", "--no-filters", "--stdin"]);
    git.feed(call, |input| input.write_all(&without_returns(&content)).map_err(WorkspaceError::Unread))?
        .line()
}

/// `content` without the CR before each LF.
fn without_returns(content: &[u8]) -> Vec<u8> {
    let mut all = Vec::with_capacity(content.len());
    for line in content.split_inclusive(|byte| *byte == b'\n') {
        match line.strip_suffix(b"\r\n") {
            Some(text) => {
                all.extend_from_slice(text);
                all.push(b'\n');
            }
            None => all.extend_from_slice(line),
        }
    }
    all
}

/// An index of ours, in which trees are made.
struct Index<'a> {
    git: &'a Git,
    dir: &'a Path,
    file: PathBuf,
}

impl Index<'_> {
    fn call(&self, words: &[&str]) -> Call {
        Call::inside("make a tree", self.dir).env("GIT_INDEX_FILE", self.file.as_os_str()).args(words)
    }

    fn read(&self, tree: &str) -> Result<()> {
        self.git.call(self.call(&["read-tree", tree]))?.ok().map(drop)
    }

    /// The tree after these lines.
    fn apply(&self, mut lines: Vec<Vec<u8>>) -> Result<String> {
        // What goes goes first: it may be where others belong.
        lines.sort_by_key(|line| !line.starts_with(NONE.as_bytes()));
        // Names that some file system takes for git's own are refused once more, by git.
        let protect = ["-c", "core.protectHFS=true", "-c", "core.protectNTFS=true"];
        let call = self.call(&[&protect[..], &["update-index", "-z", "--index-info"]].concat());
        let done = self.git.feed(call, |input| {
            lines.iter().try_for_each(|line| input.write_all(line)).map_err(WorkspaceError::Unread)
        })?;
        // A path that git does not take it only complains of, and goes on without.
        if done.code() != Some(0) || !done.stderr.is_empty() {
            return Err(done.failure());
        }
        self.git.call(self.call(&["write-tree"]))?.line()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_ends() {
        let check = |content: &[u8], expect: &[u8]| assert_eq!(without_returns(content), expect);
        check(b"a\r\nb\r\n", b"a\nb\n");
        check(b"a\rb\r", b"a\rb\r");
        check(b"\r\r\n\n", b"\r\n\n");
        check(b"", b"");
    }

    #[test]
    fn what_is_within() {
        let places = BTreeSet::from([b"a/b".to_vec()]);
        for (path, expect) in [("a/b", true), ("a/b/c", true), ("a/bc", false), ("a", false)] {
            assert_eq!(within(&places, path.as_bytes()), expect, "{path}");
        }
    }
}
