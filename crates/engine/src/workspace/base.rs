//! What was shipped, kept beside the VM: history, the shipped tree, and digests of its files.
//!
//! ```text
//! base/  git/       a bare repository of our own: the history that was shipped and the tree, in packs
//!        files      a JSON line for each file: path, kind, digest
//!        excludes   patterns by which the owner ignores files elsewhere than in the tree
//!        index      the guest's index as it was shipped
//!        checkout/  its HEAD, packed-refs and config
//!        history    which history was taken, and how much of it
//!        stamps     a JSON line for each file that the guest's agent gave a stamp
//!        owners     the same for the owner's files, when they were read
//!        words      what was asked for, as JSON
//!        committed  where the files of another commit than the one that was checked out were shipped
//!        pins       where its files pin tools
//!        sparse     a JSON word for each file that git knew and that was not checked out
//!        members/   in a full copy a base of each submodule, by its number, with no files of its own
//!        paths      a JSON word for each of those: where it lies
//! ```
//! So changes can be told later whatever became of the owner's repository, and nothing of the guest's is ever put in here.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ffi::OsString,
    io::{BufRead, BufWriter, Write},
    path::{Path, PathBuf},
};

use model::workspace::TOOL_FILES;
use serde::{Deserialize, Serialize};
use wire::{
    Word,
    control::{PrepareWorkspace, WorkspaceMode},
    tree::{Known, Stamped},
};

use super::{
    error::WorkspaceError,
    full,
    git::{Call, Git},
    members::split,
    repository::{Plan, Repository, paths},
};

type Result<T, E = WorkspaceError> = std::result::Result<T, E>;

/// The shipped tree's commit, which no branch leads to.
pub const SHIPPED: &str = "refs/banger/shipped";
/// The commit that was checked out.
const HEAD: &str = "refs/banger/head";

/// The packs after which a base is made anew: each that goes on from another may add two.
const MAX_PACKS: usize = 24;
/// As deep as git goes.
const INFINITE: u32 = i32::MAX.cast_unsigned();

/// Files by path.
pub type Files = BTreeMap<Vec<u8>, Known>;
/// What files were like when they had their known contents, by path.
pub type Stamps = HashMap<Vec<u8>, String>;

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
    /// That of every branch, tag and stash too.
    Everything,
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

    /// What of the guest's git directory is text, by its name there.
    pub fn checkout(&self, name: &str) -> PathBuf {
        self.0.join("checkout").join(name)
    }

    /// The names of those texts.
    ///
    /// # Errors
    /// Where they cannot be listed.
    pub fn texts(&self) -> Result<BTreeSet<Vec<u8>>> {
        let top = self.0.join("checkout");
        let (mut found, mut todo) = (BTreeSet::new(), vec![top.clone()]);
        while let Some(dir) = todo.pop() {
            for path in host::fs::list(&dir)? {
                let name = path.strip_prefix(&top).expect("it is below it").as_os_str().as_encoded_bytes();
                found.insert(name.to_vec());
                if host::fs::is_dir(&path) {
                    found.remove(name);
                    todo.push(path);
                }
            }
        }
        Ok(found)
    }

    /// This, for the top of the repository, and those of its submodules, each with its place.
    ///
    /// # Errors
    /// Where their list cannot be read.
    pub fn members(&self) -> Result<Vec<(Vec<u8>, Self)>> {
        let list = self.0.join("paths");
        let paths = if host::fs::exists(&list) { read_lines::<Word>(&list)? } else { Vec::new() };
        let members = paths.into_iter().enumerate();
        let members = members.map(|(number, path)| (path.into_bytes(), self.member(number)));
        Ok(std::iter::once((Vec::new(), self.clone())).chain(members).collect())
    }

    fn member(&self, number: usize) -> Self {
        Self(self.0.join("members").join(number.to_string()))
    }

    /// Its packs.
    ///
    /// # Errors
    /// Where they cannot be listed.
    pub fn packs(&self) -> Result<Vec<PathBuf>> {
        let mut files = host::fs::list(&self.git_dir().join("objects/pack"))?;
        files.retain(|path| path.extension().is_some_and(|end| end == "pack" || end == "idx"));
        Ok(files)
    }

    /// Whether another may go on from it for `repository`: so much of it as before, with the same submodules.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub fn goes_on(&self, git: &Git, repository: &Repository) -> Result<bool> {
        let members = self.members()?;
        let wanted = repository.all();
        let is_same = self.words().is_some_and(|words| words.mode == repository.mode)
            && members.iter().map(|(path, _)| path.as_slice()).eq(wanted.iter().map(|(path, _)| *path));
        if !is_same {
            return Ok(false);
        }
        for ((_, base), (_, repository)) in members.iter().zip(wanted) {
            if !base.takes(git, &repository.format)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether it takes more objects of `format`.
    fn takes(&self, git: &Git, format: &str) -> Result<bool> {
        let ask = Call::inside("read the base", &self.git_dir()).args(["rev-parse", "--show-object-format"]);
        let fits = git.call(ask)?.line().is_ok_and(|own| own == format);
        Ok(fits && host::fs::exists(&self.0.join("history")) && self.packs()?.len() <= 2 * MAX_PACKS)
    }

    /// Makes it in an empty directory, with `history` of `repository`; goes on from `before`, where that is said.
    ///
    /// # Errors
    /// Where git does not do it.
    pub fn begin(
        &self,
        git: &Git,
        repository: &Repository,
        history: History,
        before: Option<&Self>,
    ) -> Result<()> {
        self.begin_one(git, repository, history, before)?;
        if repository.members.is_empty() {
            return Ok(());
        }
        let paths = repository.members.iter().map(|member| Word::from(member.path.clone()));
        write_lines(&self.0.join("paths"), paths)?;
        host::fs::create_dir(&self.0.join("members"))?;
        for (number, member) in repository.members.iter().enumerate() {
            let base = self.member(number);
            host::fs::create_dir(&base.0)?;
            let before = before.map(|before| before.member(number));
            base.begin_one(git, &member.repository, history, before.as_ref())?;
        }
        Ok(())
    }

    fn begin_one(
        &self,
        git: &Git,
        repository: &Repository,
        history: History,
        before: Option<&Self>,
    ) -> Result<()> {
        match before {
            // Git replaces files and never writes into them, so both may have the same ones.
            Some(before) => link_all(&before.git_dir(), &self.git_dir())?,
            None => init(git, &self.git_dir(), &repository.format)?,
        }
        host::fs::write_atomic(&self.excludes(), &repository.excludes())?;
        host::fs::create_dir(&self.0.join("checkout"))?;
        let wanted = format!("{history:?} {}\n", repository.head);
        if let Some(Ok(had)) = before.map(|before| host::fs::read_text(&before.0.join("history")))
            && had == wanted
            && history != History::Everything
        {
            return Ok(host::fs::write_atomic(&self.0.join("history"), wanted.as_bytes())?);
        }
        let mut call = Call::inside("take the history", &self.git_dir()).args(full::FETCH);
        match (history, before) {
            (History::Depth(depth), _) => call = call.args([format!("--depth={depth}")]),
            // What was begun with a part is made whole by that alone.
            (History::Full, Some(_)) => call = call.args([format!("--depth={INFINITE}")]),
            (History::Full, None) | (History::Everything, _) => {}
        }
        let call = call.args(["--", "host"]).args([format!("+{}:{HEAD}", repository.head)]);
        git.call(full::from_host(call, repository))?.ok()?;
        if history == History::Everything {
            full::fetch(git, self, repository)?;
        }
        Ok(host::fs::write_atomic(&self.0.join("history"), wanted.as_bytes())?)
    }

    /// Lays the files of `commit`, which it has, out in `scratch`, as git has them: through no filter, with no other line ends. Gives
    /// where they are.
    ///
    /// # Errors
    /// Where git does not do it.
    pub fn check_out(&self, git: &Git, commit: &str, scratch: &Path) -> Result<PathBuf> {
        let (git_dir, files) = (scratch.join("committed.git"), scratch.join("committed"));
        let ask = Call::inside("read the base", &self.git_dir()).args(["rev-parse", "--show-object-format"]);
        init(git, &git_dir, &git.call(ask)?.line()?)?;
        borrow(&git_dir, self)?;
        host::fs::private_dir(&git_dir.join("info"))?;
        // These come before those that lie in the tree.
        let attributes = b"* -text -ident -filter -working-tree-encoding\n";
        host::fs::write_atomic(&git_dir.join("info/attributes"), attributes)?;
        host::fs::create_dir(&files)?;
        let mut tree = OsString::from("--work-tree=");
        tree.push(&files);
        let call = |words: &[&str]| {
            Call::inside("lay out the commit's files", &git_dir).args([tree.clone()]).args(words)
        };
        git.call(call(&["read-tree", commit]))?.ok()?;
        git.call(call(&["checkout-index", "--all", "--quiet"]))?.ok()?;
        host::fs::write_atomic(&self.0.join("committed"), b"")?;
        Ok(files)
    }

    /// Whether the files of another commit than the one that was checked out were shipped.
    #[must_use]
    pub fn is_committed(&self) -> bool {
        host::fs::exists(&self.0.join("committed"))
    }

    /// Writes the digests of `files`, and the indexes of a guest that has them. Gives the id of their tree.
    ///
    /// # Errors
    /// Where git does not do it.
    pub fn finish(&self, git: &Git, repository: &Repository, plan: &Plan, files: &Files) -> Result<String> {
        let tree = git
            .call(
                Call::inside("name the tree", &self.git_dir())
                    .args(["rev-parse", &format!("{SHIPPED}^{{tree}}")]),
            )?
            .line()?;
        self.write_files(files)?;
        write_lines(&self.0.join("sparse"), plan.sparse.iter().cloned().map(Word::from))?;
        let members = self.members()?;
        let sparse = split(&members, plan.sparse.iter().map(Vec::as_slice));
        for (((_, base), (_, repository)), sparse) in members.iter().zip(repository.all()).zip(sparse) {
            match repository.mode {
                WorkspaceMode::Checkout => base.index_head(git, plan)?,
                WorkspaceMode::FullCopy => {
                    let lines = full::index_lines(git, repository)?;
                    let add = base.indexed("make the index", &["update-index", "-z", "--index-info"]);
                    git.feed(add, |input| input.write_all(&lines).map_err(WorkspaceError::Unread))?.ok()?;
                }
            }
            base.skip_sparse(git, sparse)?;
        }
        Ok(tree)
    }

    fn indexed(&self, what: &'static str, words: &[&str]) -> Call {
        Call::inside(what, &self.git_dir()).env("GIT_INDEX_FILE", self.index()).args(words)
    }

    /// The index of the commit, and what is new to git.
    fn index_head(&self, git: &Git, plan: &Plan) -> Result<()> {
        git.call(self.indexed("make the index", &["read-tree", HEAD]))?.ok()?;
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
        let add = self.indexed("make the index", &["update-index", "-z", "--index-info"]);
        git.feed(add, |input| feed_paths(input, new))?.ok().map(drop)
    }

    /// Tells the index what is not checked out.
    fn skip_sparse(&self, git: &Git, paths: Vec<&[u8]>) -> Result<()> {
        if paths.is_empty() {
            return Ok(());
        }
        // It is about an index alone, and still asks for files that could be looked at.
        let words = ["--work-tree=.", "update-index", "-z", "--skip-worktree", "--stdin"];
        let skip = self.indexed("make the index", &words);
        git.feed(skip, |input| feed_paths(input, paths.into_iter()))?.ok().map(drop)
    }

    fn write_files(&self, files: &Files) -> Result<()> {
        let lines =
            files.iter().map(|(path, known)| Line { path: path.clone().into(), known: known.clone() });
        write_lines(&self.0.join("files"), lines)
    }

    /// Writes the stamps of the guest's files.
    ///
    /// # Errors
    /// Where that cannot be done.
    pub fn write_stamps(&self, stamps: Stamps) -> Result<()> {
        write_stamps(&self.0.join("stamps"), stamps)
    }

    /// Writes the stamps that the owner's files had.
    ///
    /// # Errors
    /// Where that cannot be done.
    pub fn write_owners(&self, stamps: Stamps) -> Result<()> {
        write_stamps(&self.0.join("owners"), stamps)
    }

    /// Writes the words that ship the same again.
    ///
    /// # Errors
    /// Where that cannot be done.
    pub fn write_words(&self, words: &PrepareWorkspace) -> Result<()> {
        let json = serde_json::to_vec(words).expect("words and numbers");
        Ok(host::fs::write_atomic(&self.0.join("words"), &json)?)
    }

    /// Notes whether `files` pin the tools of who works with them.
    ///
    /// # Errors
    /// Where that cannot be done.
    pub fn write_pins(&self, files: &Files) -> Result<()> {
        if TOOL_FILES.iter().any(|name| files.contains_key(name.as_bytes())) {
            host::fs::write_atomic(&self.0.join("pins"), b"")?;
        }
        Ok(())
    }

    /// Whether its files pin tools.
    #[must_use]
    pub fn pins_tools(&self) -> bool {
        host::fs::exists(&self.0.join("pins"))
    }

    /// The words that ship the same again, where they are known.
    #[must_use]
    pub fn words(&self) -> Option<PrepareWorkspace> {
        serde_json::from_slice(&host::fs::read(&self.0.join("words")).ok()?).ok()
    }

    /// Whether it was to be read-only in the guest.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.words().is_some_and(|words| words.readonly)
    }

    /// The known stamps of the guest's files.
    ///
    /// # Errors
    /// Where their list cannot be read.
    pub fn stamps(&self) -> Result<Stamps> {
        self.read_stamps("stamps")
    }

    /// The known stamps of the owner's files.
    ///
    /// # Errors
    /// Where their list cannot be read.
    pub fn owners(&self) -> Result<Stamps> {
        self.read_stamps("owners")
    }

    /// The files that git knew and that were not checked out.
    ///
    /// # Errors
    /// Where their list cannot be read.
    pub fn sparse(&self) -> Result<BTreeSet<Vec<u8>>> {
        let path = self.0.join("sparse");
        if !host::fs::exists(&path) {
            return Ok(BTreeSet::new());
        }
        Ok(read_lines::<Word>(&path)?.into_iter().map(Word::into_bytes).collect())
    }

    fn read_stamps(&self, name: &str) -> Result<Stamps> {
        let path = self.0.join(name);
        if !host::fs::exists(&path) {
            return Ok(Stamps::new());
        }
        let lines = read_lines::<Stamped>(&path)?;
        Ok(lines.into_iter().map(|line| (line.path.into_bytes(), line.stamp)).collect())
    }

    /// How many files were shipped.
    ///
    /// # Errors
    /// Where their list cannot be read.
    pub fn count(&self) -> Result<u64> {
        let list = host::fs::read(&self.0.join("files"))?;
        Ok(list.iter().map(|byte| u64::from(*byte == b'\n')).sum())
    }

    /// The files that were shipped.
    ///
    /// # Errors
    /// Where their list cannot be read.
    pub fn files(&self) -> Result<Files> {
        let lines = read_lines::<Line>(&self.0.join("files"))?;
        Ok(lines.into_iter().map(|line| (line.path.into_bytes(), line.known)).collect())
    }
}

fn feed_paths<'a>(input: &mut dyn Write, mut paths: impl Iterator<Item = &'a [u8]>) -> Result<()> {
    let mut feed = |path: &[u8]| input.write_all(path).and_then(|()| input.write_all(b"\0"));
    paths.try_for_each(|path| feed(path).map_err(WorkspaceError::Unread))
}

fn write_stamps(path: &Path, stamps: Stamps) -> Result<()> {
    write_lines(path, stamps.into_iter().map(|(path, stamp)| Stamped { path: path.into(), stamp }))
}

fn write_lines<T: Serialize>(path: &Path, lines: impl Iterator<Item = T>) -> Result<()> {
    let mut out = BufWriter::new(host::fs::create_new(path)?);
    let mut write = |line| {
        serde_json::to_writer(&mut out, &line)?;
        out.write_all(b"\n")
    };
    let written = lines.into_iter().try_for_each(&mut write).and_then(|()| out.flush());
    Ok(written.map_err(|e| host::Error::path("write", path, e))?)
}

fn read_lines<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Vec<T>> {
    let lines = std::io::BufReader::new(host::fs::open(path)?).lines();
    let read = |line: std::io::Result<String>| Ok(serde_json::from_str(&line?)?);
    let all: std::io::Result<Vec<T>> = lines.map(read).collect();
    Ok(all.map_err(|e| host::Error::path("read", path, e))?)
}

/// Gives everything below `from` a further name below `to`.
fn link_all(from: &Path, to: &Path) -> Result<()> {
    host::fs::create_dir(to)?;
    for path in host::fs::list(from)? {
        let target = to.join(path.file_name().expect("it was listed"));
        if host::fs::is_dir(&path) {
            link_all(&path, &target)?;
        } else {
            host::fs::hard_link(&path, &target)?;
        }
    }
    Ok(())
}

/// Lets the repository `git_dir` of ours use the objects of `base`.
///
/// # Errors
/// Where that cannot be written.
pub fn borrow(git_dir: &Path, base: &Base) -> Result<()> {
    let mut alternate = base.git_dir().join("objects").into_os_string().into_encoded_bytes();
    alternate.push(b'\n');
    host::fs::private_dir(&git_dir.join("objects/info"))?;
    Ok(host::fs::write_atomic(&git_dir.join("objects/info/alternates"), &alternate)?)
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
