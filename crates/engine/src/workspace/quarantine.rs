//! Objects of ours into the owner's repository, as the new value of a branch that nobody has checked out.
//!
//! ```text
//! pack ──▶ quarantine ──▶ checked, with the owner's objects as alternates ──▶ moved ──▶ reference, if it is still what it was
//! ```
//! Until the move nothing in the owner's repository is written; where the reference is not taken, what was moved goes again. None of
//! the owner's hooks runs.

use std::{
    ffi::OsString,
    io::{self, Write},
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
};

use super::{
    error::WorkspaceError,
    git::{Call, Git},
    repository::{Person, path_of},
};

type Result<T, E = WorkspaceError> = std::result::Result<T, E>;

/// What a branch may be put over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Over {
    /// There is none of that name.
    Nothing,
    /// Another one, which is given up.
    Branch,
}

/// A branch of the owner's repository that can be written.
#[derive(Debug)]
pub struct Target {
    /// The top of the repository's files.
    top: PathBuf,
    /// Where its objects are.
    objects: PathBuf,
    /// The branch's whole name.
    reference: String,
    /// What it is now; of one that is not there, zeros.
    old: String,
}

impl Target {
    /// The branch `name` of the repository at `top`, whose ids are `length` characters.
    ///
    /// # Errors
    /// Why it cannot be written.
    pub fn look(git: &Git, top: &Path, name: &str, length: usize, over: Over) -> Result<Self> {
        let reference = format!("refs/heads/{name}");
        let call = Call::new("check the branch's name", Path::new("/"));
        let checked = git.call(call.args(["check-ref-format", &reference]))?;
        if checked.code() != Some(0) || name.starts_with('-') || name == "HEAD" {
            return Err(WorkspaceError::Branch(name.to_owned()));
        }
        let read = |words: &[&str]| git.call(Call::new("read the branches", top).args(words))?.ok();
        // Also of one that has no commit yet.
        let trees = read(&["worktree", "list", "--porcelain", "-z"])?;
        let is_it = |field: &[u8]| field.strip_prefix(b"branch ") == Some(reference.as_bytes());
        if trees.split(|byte| *byte == 0).any(is_it) {
            return Err(WorkspaceError::BranchCheckedOut(name.to_owned()));
        }
        let format = "--format=%(refname) %(objectname) %(symref)";
        let known = read(&["for-each-ref", format, "refs/heads"])?;
        let mut old = "0".repeat(length);
        for line in known.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let mut words = line.split(|byte| *byte == b' ');
            let (Some(other), Some(id)) = (words.next(), words.next()) else { continue };
            let is_alias = words.next().is_some_and(|target| !target.is_empty());
            if other == reference.as_bytes() {
                match over {
                    Over::Nothing => return Err(WorkspaceError::BranchExists(name.to_owned())),
                    // Another branch would be written through it.
                    Over::Branch if is_alias => return Err(WorkspaceError::BranchAlias(name.to_owned())),
                    Over::Branch => old = String::from_utf8_lossy(id).into_owned(),
                }
            } else if is_below(other, reference.as_bytes()) || is_below(reference.as_bytes(), other) {
                let other = String::from_utf8_lossy(&other["refs/heads/".len()..]).into_owned();
                return Err(WorkspaceError::BranchInTheWay { name: name.to_owned(), other });
            }
        }
        let mut objects = read(&["rev-parse", "--path-format=absolute", "--git-path", "objects"])?;
        objects.pop();
        Ok(Self { top: top.to_owned(), objects: path_of(&objects), reference, old })
    }

    /// Puts the objects of `git_dir` that lead from `parent`, which the owner has, to `commit` into the owner's repository, and
    /// makes the branch `commit`. `scratch` is an own directory.
    ///
    /// # Errors
    /// Where they are not what a repository may have, or the branch was changed meanwhile. Nothing is changed then.
    pub fn put(
        &self,
        git: &Git,
        git_dir: &Path,
        parent: &str,
        commit: &str,
        who: &Person,
        scratch: &Path,
    ) -> Result<()> {
        let quarantine = scratch.join("quarantine");
        host::fs::create_dir(&quarantine)?;
        host::fs::create_dir(&quarantine.join("pack"))?;
        let pack = scratch.join("pack");
        let range = format!("{commit}\n^{parent}\n");
        let call =
            Call::inside("pack the objects", git_dir).args(["pack-objects", "--revs", "--quiet", "--stdout"]);
        let packed =
            git.feed(call.stdout(host::fs::create_new(&pack)?), |input| write(input, range.as_bytes()))?;
        packed.ok()?;
        self.check(git, &quarantine, &pack, &range)?;

        let moved = self.take(&quarantine)?;
        let update = Call::new("make the branch", &self.top)
            .args(["update-ref", "--no-deref", "--create-reflog", "-m", "banger: work of a VM"])
            .args([&self.reference, commit, &self.old]);
        let made = git.call(who.sign(update)).and_then(super::git::Done::ok);
        if made.is_err() {
            moved.iter().rev().for_each(|path| drop(host::fs::remove(path)));
        }
        made.map(drop)
    }

    /// Puts `pack` into `quarantine`, where git checks each object, and that with those of the owner all of `range` is there.
    fn check(&self, git: &Git, quarantine: &Path, pack: &Path, range: &str) -> Result<()> {
        let inside = |what| {
            Call::new(what, &self.top)
                .env("GIT_OBJECT_DIRECTORY", quarantine.as_os_str())
                .env("GIT_ALTERNATE_OBJECT_DIRECTORIES", quoted(&self.objects))
                .env("GIT_QUARANTINE_PATH", quarantine.as_os_str())
        };
        let mut content = host::fs::open(pack)?;
        let call = inside("check the objects").args(["index-pack", "--strict", "--stdin"]);
        let checked =
            git.feed(call, |input| io::copy(&mut content, input).map(drop).map_err(WorkspaceError::Unread))?;
        checked.ok()?;
        let call =
            inside("check what the objects lead to").args(["rev-list", "--objects", "--quiet", "--stdin"]);
        git.feed(call, |input| write(input, range.as_bytes()))?.ok().map(drop)
    }

    /// Moves what is in quarantine into the owner's objects; gives what is new there.
    fn take(&self, quarantine: &Path) -> Result<Vec<PathBuf>> {
        let packs = self.objects.join("pack");
        if !host::fs::exists(&packs) {
            host::fs::create_dir(&packs)?;
        }
        let mut moved = Vec::new();
        let found = host::fs::list(&quarantine.join("pack"))?;
        // An index makes git see a pack, so it comes last.
        for end in ["pack", "rev", "idx"] {
            for path in found.iter().filter(|path| path.extension().is_some_and(|own| own == end)) {
                let target = packs.join(crate::paths::name_of(path));
                if host::fs::exists(&target) {
                    continue;
                }
                let put = host::fs::move_file(path, &target);
                if let Err(error) = put {
                    moved.iter().rev().for_each(|path: &PathBuf| drop(host::fs::remove(path)));
                    return Err(error.into());
                }
                moved.push(target);
            }
        }
        Ok(moved)
    }
}

fn write(input: &mut dyn Write, bytes: &[u8]) -> Result<()> {
    input.write_all(bytes).map_err(WorkspaceError::Unread)
}

/// Whether the reference `a` would be a directory of `b`.
fn is_below(a: &[u8], b: &[u8]) -> bool {
    b.strip_prefix(a).is_some_and(|rest| rest.starts_with(b"/"))
}

/// A path as git reads it in a list of such, where a colon would part it (git(1)).
fn quoted(path: &Path) -> OsString {
    let mut text = vec![b'"'];
    for byte in path.as_os_str().as_encoded_bytes() {
        match byte {
            b'"' | b'\\' => text.extend([b'\\', *byte]),
            b'\n' => text.extend(b"\\n"),
            byte => text.push(*byte),
        }
    }
    text.push(b'"');
    OsString::from_vec(text)
}
