//! The owner's repository: what it is, and what of it would be shipped. Nothing in it is ever written.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    ffi::{OsStr, OsString},
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
};

use host::tree::{Entry, Tree};
use wire::{control::WorkspaceMode, tree::Kind};

use super::{
    base::Base,
    error::WorkspaceError,
    git::{Call, Git},
    members::{self, Member},
    ship::is_same,
};

type Result<T, E = WorkspaceError> = std::result::Result<T, E>;

/// A repository with files.
#[derive(Debug)]
pub struct Repository {
    /// The top of its files.
    pub top: PathBuf,
    /// The commit that is shipped.
    pub head: String,
    /// Which files are shipped.
    pub files: Files,
    /// The branch that is checked out.
    pub branch: Option<String>,
    /// `sha1` or `sha256`.
    pub format: String,
    /// Settings that travel: where it came from, and who commits to it.
    pub origin: Option<String>,
    /// `user.name` and `user.email` of this repository alone.
    pub identity: [Option<String>; 2],
    /// What its owner ignores everywhere.
    excludes: Option<PathBuf>,
    /// What is ignored in this repository alone.
    own_excludes: PathBuf,
    /// Whether the bits of files tell which are programs.
    modes: Modes,
    /// How much of it is shipped.
    pub mode: WorkspaceMode,
    /// Its submodules, in a full copy.
    pub members: Vec<Member>,
}

/// Who commits.
#[derive(Debug)]
pub struct Person {
    name: String,
    email: String,
}

impl Person {
    /// `call` in this person's name.
    pub fn sign(&self, call: Call) -> Call {
        ["AUTHOR", "COMMITTER"].iter().fold(call, |call, role| {
            call.env(&format!("GIT_{role}_NAME"), &self.name).env(&format!("GIT_{role}_EMAIL"), &self.email)
        })
    }
}

/// What tells which files are programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Modes {
    Files,
    Index,
}

/// Which files are shipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Files {
    /// Those that lie there, of the commit that is checked out.
    Working,
    /// Those of another commit, as git has them.
    Committed,
}

/// Whether files that git does not know go along.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Untracked {
    /// They do, but for those that are ignored.
    Included,
    /// They stay.
    Left,
}

/// What would be shipped.
#[derive(Debug, Default)]
pub struct Plan {
    /// The files by path.
    pub files: BTreeMap<Vec<u8>, Planned>,
    /// Their bytes.
    pub bytes: u64,
    /// How many files that git does not know stay.
    pub skipped: u64,
    /// Files that git knows and does not check out here (sparse checkout).
    pub sparse: BTreeSet<Vec<u8>>,
    /// Where submodules belong, checked out or not.
    pub submodules: BTreeSet<Vec<u8>>,
}

/// What the index has of a path.
#[derive(Debug)]
pub struct Staged {
    /// `H`, or `S` where it is not checked out; in small letters where git does not look at the file.
    tag: u8,
    /// As git writes it.
    pub mode: Vec<u8>,
    /// The path.
    pub path: Vec<u8>,
}

/// A file that would be shipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Planned {
    /// What it is by the repository, where its own bits do not tell.
    pub kind: Option<Kind>,
    /// Whether git knows it.
    pub tracked: bool,
}

impl Repository {
    /// The repository that `path` is in, to be shipped as `mode` says.
    ///
    /// # Errors
    /// Why it cannot be.
    pub fn open(git: &Git, path: &Path, mode: WorkspaceMode) -> Result<Self> {
        let found = Self { mode, ..Self::find(git, path)? };
        let members = match mode {
            WorkspaceMode::Checkout => Vec::new(),
            WorkspaceMode::FullCopy => members::find(git, &found)?,
        };
        Ok(Self { members, ..found })
    }

    /// The repository that `path` is in.
    ///
    /// # Errors
    /// Why it cannot be shipped.
    pub fn find(git: &Git, path: &Path) -> Result<Self> {
        let dir = if host::fs::is_dir(path) { path } else { path.parent().unwrap_or(path) };
        if !host::fs::is_dir(dir) {
            return Err(WorkspaceError::NoRepository(path.to_owned()));
        }
        let read = |words: &[&str]| git.call(Call::new("read the repository", dir).args(words));
        let about = read(&["rev-parse", "--is-bare-repository", "--is-inside-work-tree"])?;
        if about.code() != Some(0) {
            return Err(match &about.stderr {
                text if text.contains("dubious ownership") => WorkspaceError::OtherUser(dir.to_owned()),
                text if text.contains("not a git repository") => {
                    WorkspaceError::NoRepository(path.to_owned())
                }
                _ => about.failure(),
            });
        }
        match about.stdout.as_slice() {
            b"false\ntrue\n" => {}
            b"true\nfalse\n" => return Err(WorkspaceError::Bare(path.to_owned())),
            _ => return Err(WorkspaceError::NoRepository(path.to_owned())),
        }
        let path_of = |words: &[&str]| {
            let mut bytes = read(words)?.ok()?;
            bytes.pop();
            Ok::<_, WorkspaceError>(PathBuf::from(OsString::from_vec(bytes)))
        };
        let top = path_of(&["rev-parse", "--show-toplevel"])?;
        // Its settings may name any directory above it for its files, which would then be those of somebody else.
        let own = path_of(&["rev-parse", "--absolute-git-dir"])?;
        let found =
            git.call(Call::new("read the repository", &top).args(["rev-parse", "--absolute-git-dir"]))?;
        if found.code() != Some(0) || found.stdout.strip_suffix(b"\n") != Some(own.as_os_str().as_bytes()) {
            return Err(WorkspaceError::Elsewhere { path: path.to_owned(), top });
        }
        if Tree::open(&top)?.owner(Path::new(""))? != host::proc::own_uid() {
            return Err(WorkspaceError::OtherUser(top));
        }
        let head = read(&["rev-parse", "--verify", "--quiet", "HEAD^{commit}"])?;
        if head.code() != Some(0) {
            return Err(WorkspaceError::Unborn(top));
        }
        let own_excludes = path_of(&["rev-parse", "--path-format=absolute", "--git-path", "info/exclude"])?;
        // What is not set ends with 1.
        let setting = |words: &[&str]| Ok::<_, WorkspaceError>(read(words)?.line().ok());
        let config = |key: &str| setting(&["config", "--local", "--get", key]);
        let modes = match setting(&["config", "--type=bool", "--get", "core.fileMode"])?.as_deref() {
            Some("false") => Modes::Index,
            _ => Modes::Files,
        };
        Ok(Self {
            head: head.line()?,
            files: Files::Working,
            branch: setting(&["symbolic-ref", "--quiet", "--short", "HEAD"])?,
            format: read(&["rev-parse", "--show-object-format"])?.line()?,
            origin: config("remote.origin.url")?.as_deref().and_then(model::workspace::origin_for_guest),
            identity: [config("user.name")?, config("user.email")?],
            excludes: owners_excludes(git, &top)?,
            own_excludes,
            modes,
            mode: WorkspaceMode::Checkout,
            members: Vec::new(),
            top,
        })
    }

    /// It at its top, and its submodules, each with its place; in the order of a base's members.
    #[must_use]
    pub fn all(&self) -> Vec<(&[u8], &Self)> {
        let members = self.members.iter().map(|member| (member.path.as_slice(), &member.repository));
        std::iter::once((&b""[..], self)).chain(members).collect()
    }

    /// What its index has, a path that is in conflict more than once.
    ///
    /// # Errors
    /// Where git does not tell.
    pub fn staged(&self, git: &Git) -> Result<Vec<Staged>> {
        let what = "list the files";
        let list = git.call(Call::new(what, &self.top).args(["ls-files", "-z", "-v", "--stage"]))?.ok()?;
        let lines = list.split(|byte| *byte == 0).filter(|line| !line.is_empty());
        let staged = lines.map(parse_staged).collect::<Option<_>>();
        staged.ok_or(WorkspaceError::Git { what, why: "its list is malformed".to_owned() })
    }

    /// The commit that `text` means here, if it means one.
    ///
    /// # Errors
    /// Where git cannot be run.
    pub fn commit(&self, git: &Git, text: &str) -> Result<Option<String>> {
        let words = ["rev-parse", "--verify", "--quiet", "--end-of-options"];
        let call =
            Call::new("read the repository", &self.top).args(words).args([format!("{text}^{{commit}}")]);
        Ok(git.call(call)?.line().ok())
    }

    /// Who commits to it.
    ///
    /// # Errors
    /// Where git cannot be run.
    pub fn person(&self, git: &Git) -> Result<Person> {
        let [name, email] = &self.identity;
        let setting = |own: &Option<String>, key| match own {
            Some(own) => Ok(Some(own.clone())),
            None => owners_setting(git, &self.top, "--no-type", key),
        };
        let said = |text: Option<String>, otherwise: &str| {
            text.filter(|text| text.chars().any(char::is_alphanumeric))
                .unwrap_or_else(|| otherwise.to_owned())
        };
        Ok(Person {
            name: said(setting(name, "user.name")?, "banger"),
            email: said(setting(email, "user.email")?, "banger@localhost"),
        })
    }

    /// The patterns by which files are ignored that the repository's own files do not tell.
    #[must_use]
    pub fn excludes(&self) -> Vec<u8> {
        let mut all = Vec::new();
        for path in self.excludes.iter().chain([&self.own_excludes]) {
            all.extend(host::fs::read_limited(path, model::workspace::MAX_IGNORE.0).unwrap_or_default());
            all.push(b'\n');
        }
        all
    }

    /// What would be shipped: the files as they are now.
    ///
    /// # Errors
    /// Why they cannot be.
    pub fn plan(&self, git: &Git, untracked: Untracked) -> Result<Plan> {
        match (self.mode, self.files) {
            (WorkspaceMode::FullCopy, _) => members::plan(git, self, untracked),
            (WorkspaceMode::Checkout, Files::Committed) => self.plan_committed(git),
            (WorkspaceMode::Checkout, Files::Working) => {
                let plan = self.plan_working(git, untracked)?;
                match plan.submodules.first() {
                    Some(path) => Err(WorkspaceError::Submodules(path_of(path))),
                    None => Ok(plan),
                }
            }
        }
    }

    fn plan_committed(&self, git: &Git) -> Result<Plan> {
        let what = "list the commit's files";
        let call =
            Call::new(what, &self.top).args(["ls-tree", "-r", "-z", "--long", "--full-tree", &self.head]);
        let list = git.call(call)?.ok()?;
        let mut plan = Plan::default();
        for line in list.split(|byte| *byte == 0).filter(|line| !line.is_empty()) {
            let (mode, size, path) = parse_listed(line)
                .ok_or(WorkspaceError::Git { what, why: "its list is malformed".to_owned() })?;
            if mode == b"160000" {
                return Err(WorkspaceError::Submodules(path_of(path)));
            }
            model::workspace::check_tree_path(path)
                .map_err(|cause| WorkspaceError::Path { path: path_of(path), cause })?;
            plan.bytes += size;
            plan.files.insert(path.to_vec(), Planned { kind: None, tracked: true });
        }
        Ok(plan)
    }

    /// What of its own files would be shipped, and nothing of its submodules.
    ///
    /// # Errors
    /// Why they cannot be.
    pub fn plan_working(&self, git: &Git, untracked: Untracked) -> Result<Plan> {
        let (mut candidates, mut unchecked) = (BTreeMap::new(), BTreeSet::new());
        let mut plan = Plan::default();
        for Staged { tag, mode, path } in self.staged(git)? {
            if tag.eq_ignore_ascii_case(&b'S') {
                unchecked.insert(path.clone());
            }
            let kind = match mode.as_slice() {
                b"160000" => {
                    plan.submodules.insert(path);
                    continue;
                }
                b"100755" => Kind::Executable,
                _ => Kind::File,
            };
            let kind = (self.modes == Modes::Index).then_some(kind);
            candidates.insert(path, Planned { kind, tracked: true });
        }
        let excludes = self.excludes.as_ref().map(|path| {
            let mut setting = OsString::from("core.excludesFile=");
            setting.push(path);
            setting
        });
        let call = excludes.into_iter().fold(Call::new("list the files", &self.top), |call, setting| {
            call.args([OsString::from("-c"), setting])
        });
        let others = git.call(call.args(["ls-files", "-z", "--others", "--exclude-standard"]))?.ok()?;
        for path in others.split(|byte| *byte == 0).filter(|path| !path.is_empty()) {
            // A repository in the repository is a directory here, and stays.
            if untracked == Untracked::Left || path.ends_with(b"/") {
                plan.skipped += 1;
            } else {
                candidates.entry(path.to_vec()).or_insert(Planned { kind: None, tracked: false });
            }
        }
        let tree = Tree::open(&self.top)?;
        for (path, planned) in candidates {
            model::workspace::check_tree_path(&path)
                .map_err(|cause| WorkspaceError::Path { path: path_of(&path), cause })?;
            match tree.entry(&path_of(&path))? {
                Some(Entry::File { size, .. }) => plan.bytes += size,
                Some(Entry::Link(target)) => plan.bytes += target.len() as u64,
                None if unchecked.contains(&path) => {
                    plan.sparse.insert(path);
                    continue;
                }
                // It was deleted, or something is in its place that git does not know.
                Some(Entry::Other) | None => continue,
            }
            plan.files.insert(path, planned);
        }
        Ok(plan)
    }

    /// Whether the files at `top` that git knows are those that `base` was made of, as far as their stamps tell that: one call
    /// of git, and nothing is read.
    ///
    /// # Errors
    /// Where it cannot be told.
    pub fn is_untouched(git: &Git, top: &Path, base: &Base) -> Result<bool> {
        let (owners, tree) = (base.owners()?, Tree::open(top)?);
        // One without a stamp would have to be read.
        if owners.len() as u64 != base.count()? {
            return Ok(false);
        }
        let known = git.call(Call::new("list the files", top).args(["ls-files", "-z"]))?.ok()?;
        let known = paths(&known);
        if !owners.keys().all(|path| known.contains(path.as_slice())) {
            return Ok(false);
        }
        for path in known {
            let untouched = match owners.get(path) {
                Some(shipped) => tree.stamp(&path_of(path))?.as_ref() == Some(shipped),
                // It was deleted when the others were shipped.
                None => tree.entry(&path_of(path))?.is_none(),
            };
            if !untouched {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether its files are by now others than those that `base` was made of.
    ///
    /// # Errors
    /// Where it cannot be told.
    pub fn differs(&self, git: &Git, untracked: Untracked, base: &Base) -> Result<bool> {
        let (plan, files, owners) = (self.plan(git, untracked)?, base.files()?, base.owners()?);
        if !plan.files.keys().eq(files.keys()) {
            return Ok(true);
        }
        let tree = Tree::open(&self.top)?;
        for (path, known) in &files {
            let stamp = tree.stamp(&path_of(path))?;
            if stamp.is_some() && stamp.as_ref() == owners.get(path) {
                continue;
            }
            if !is_same(&tree, path, plan.files[path], known)?.0 {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether `text` means another commit at `top` than `head`; false where that cannot be told.
    #[must_use]
    pub fn has_moved(git: &Git, top: &Path, text: &str, head: &str) -> bool {
        if !host::fs::is_dir(top) {
            return false;
        }
        let words = ["rev-parse", "--verify", "--quiet", "--end-of-options"];
        let call = Call::new("read the repository", top).args(words).args([format!("{text}^{{commit}}")]);
        let now = git.call(call);
        now.and_then(super::git::Done::line).is_ok_and(|now| now != head)
    }
}

/// What the owner's own settings say of `key`, as a value of type `kind`.
fn owners_setting(git: &Git, top: &Path, kind: &str, key: &str) -> Result<Option<String>> {
    let Some(home) = host::env::var("HOME").map(PathBuf::from) else { return Ok(None) };
    let config = home.join(".gitconfig");
    if !host::fs::exists(&config) {
        return Ok(None);
    }
    let call = Call::new("read the owner's settings", top)
        .env("HOME", home.as_os_str())
        .args([OsStr::new("config"), OsStr::new("--file"), config.as_os_str()])
        .args(["--includes", kind, "--get", key]);
    Ok(git.call(call)?.line().ok())
}

/// Where the owner's own ignore patterns are, if anywhere.
fn owners_excludes(git: &Git, top: &Path) -> Result<Option<PathBuf>> {
    if let Some(path) = owners_setting(git, top, "--type=path", "core.excludesFile")? {
        return Ok(Some(path.into()));
    }
    let Some(home) = host::env::var("HOME").map(PathBuf::from) else { return Ok(None) };
    let default = host::env::var("XDG_CONFIG_HOME").map_or_else(|| home.join(".config"), PathBuf::from);
    Ok(Some(default.join("git/ignore")).filter(|path| host::fs::exists(path)))
}

/// What a line like `H 100644 <id> 0<tab><path>` says.
fn parse_staged(line: &[u8]) -> Option<Staged> {
    let tab = line.iter().position(|byte| *byte == b'\t')?;
    let (about, path) = (&line[..tab], &line[tab + 1..]);
    let mut words = about.split(|byte| *byte == b' ');
    let (tag, mode) = (words.next()?, words.next()?);
    let whole = tag.len() == 1 && !path.is_empty();
    whole.then(|| Staged { tag: tag[0], mode: mode.to_vec(), path: path.to_vec() })
}

/// Mode, size and path of a line like `100644 blob <id>     12<tab><path>`.
fn parse_listed(line: &[u8]) -> Option<(&[u8], u64, &[u8])> {
    let tab = line.iter().position(|byte| *byte == b'\t')?;
    let (about, path) = (&line[..tab], &line[tab + 1..]);
    let mut words = about.split(|byte| *byte == b' ').filter(|word| !word.is_empty());
    let mode = words.next()?;
    let size = std::str::from_utf8(words.next_back()?).ok()?;
    // What has no content has no size.
    let size = if size == "-" { 0 } else { size.parse().ok()? };
    (!path.is_empty()).then_some((mode, size, path))
}

/// Bytes as a path.
pub fn path_of(bytes: &[u8]) -> PathBuf {
    OsStr::from_bytes(bytes).into()
}

/// The paths of a list of git that ends each with a NUL.
pub fn paths(list: &[u8]) -> HashSet<&[u8]> {
    list.split(|byte| *byte == 0).filter(|path| !path.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_any_bytes() {
        assert_eq!(path_of(b"a\xff").as_os_str().as_bytes(), b"a\xff");
    }
}
