//! Taking a guest's tree as it is now, into a repository of ours, to be compared with what was shipped.
//!
//! ```text
//! list ──▶ names ──▶ .gitignore files ──▶ what is ignored ──▶ pick what differs ──▶ a tree
//! ```
//! Nothing of git runs in the guest, and none here in a directory that the guest made: of its files only the patterns of its
//! `.gitignore`s are put into one, where git reads them. A guest says what a file holds; where that goes was checked before.

use std::{
    collections::BTreeMap,
    io::{self, Read, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use model::workspace::{GuestPath, MAX_CHANGED, MAX_CHANGED_BYTES, MAX_IGNORE, MAX_PATH, link_stays};
use tokio::sync::mpsc;
use wire::{
    pieces::Source,
    tree::{Entry, HEADER, Kind, Known, Listing, MAX_WANTED, Picked, Wanted},
};

use super::{
    Scratch, Through,
    base::{Base, Files, Stamps, borrow, init},
    error::WorkspaceError,
    git::{Call, Git},
    import::{self, Import},
    members,
    repository::{path_of, paths},
};
use crate::guest::{Content, Guest};

type Result<T, E = WorkspaceError> = std::result::Result<T, E>;

/// Where the taken tree's commit is.
const TAKEN: &str = "refs/banger/taken";

/// A guest's tree, taken.
#[derive(Debug)]
pub struct Taken {
    /// The repository of ours that has it, and by an alternate what was shipped.
    pub git_dir: PathBuf,
    /// Its id.
    pub tree: String,
    /// A file in it that would run as its owner or group.
    pub set_id: Option<PathBuf>,
}

/// Takes the tree at `path` of `guest` into `scratch`. `told` hears how much came, and may end it.
///
/// # Errors
/// Where the guest does not give it, or gives what is not taken.
pub async fn take(
    git: &Git,
    guest: &Guest,
    path: &GuestPath,
    base: &Base,
    shipped: &str,
    scratch: &Arc<Scratch>,
    told: impl FnMut(Through) -> Result<()> + Send + 'static,
) -> Result<Taken> {
    let listed = list(guest, path).await?;
    let (files, stamps) = (base.files()?, base.stamps()?);
    let new: Vec<Vec<u8>> = listed.keys().filter(|path| !files.contains_key(*path)).cloned().collect();
    let ignored = ignored(git, guest, path, base, &listed, new, scratch).await?;
    let ignored = paths(&ignored);
    let taken: BTreeMap<&Vec<u8>, &Entry> = listed
        .iter()
        .filter(|(path, entry)| entry.kind != Kind::Other && !ignored.contains(path.as_slice()))
        .collect();
    let is_untouched = |path: &Vec<u8>, entry: &Entry| {
        files.get(path).is_some_and(|known| known.kind == entry.kind) && is_stamped(&stamps, path, entry)
    };
    let wanted: Vec<Wanted> = taken
        .iter()
        .filter(|(path, entry)| !is_untouched(path, entry))
        .map(|(path, entry)| Wanted {
            path: (*path).clone().into(),
            known: files.get(*path).filter(|known| known.may_be(entry.kind, entry.size)).cloned(),
        })
        .collect();
    // What cannot be what is known has to come whole, so too much of that is told before any of it is read there.
    let whole = wanted.iter().filter(|wanted| wanted.known.is_none());
    check_bytes(whole.map(|wanted| (wanted.path.as_bytes(), listed[wanted.path.as_bytes()].size)))?;
    let gone: Vec<Vec<u8>> = files.keys().filter(|path| !taken.contains_key(path)).cloned().collect();
    let pieces = pick(guest, path, &wanted).await?;
    let (git, base, shipped) = (git.clone(), base.clone(), shipped.to_owned());
    let held = scratch.clone();
    let set_id = taken.iter().find(|(_, entry)| entry.set_id).map(|(path, _)| path_of(path));
    working(move || {
        let git_dir = held.0.join("taken");
        let tree = build(&git, &base, &shipped, &git_dir, &wanted, gone, &files, pieces, told)?;
        Ok(Taken { git_dir, tree, set_id })
    })
    .await
}

/// Whether `entry` is what the file at `path` was when its content was known.
pub fn is_stamped(stamps: &Stamps, path: &[u8], entry: &Entry) -> bool {
    entry.stamp.is_some() && stamps.get(path) == entry.stamp.as_ref()
}

/// Those of `candidates` that are ignored by the patterns of `listed` or of the owner, each with a NUL at its end.
///
/// # Errors
/// Where that cannot be told.
pub async fn ignored(
    git: &Git,
    guest: &Guest,
    path: &GuestPath,
    base: &Base,
    listed: &BTreeMap<Vec<u8>, Entry>,
    candidates: Vec<Vec<u8>>,
    scratch: &Arc<Scratch>,
) -> Result<Vec<u8>> {
    if candidates.is_empty() {
        return Ok(Vec::new());
    }
    let rules: Vec<Wanted> = listed
        .iter()
        .filter(|(path, entry)| is_rules(path) && entry.kind != Kind::Link && entry.size <= MAX_IGNORE.0)
        .map(|(path, _)| Wanted { path: path.clone().into(), known: None })
        .collect();
    limit("files of ignore patterns", rules.len() as u64, MAX_IGNORE.1)?;
    let pieces = pick(guest, path, &rules).await?;
    let (git, base, held) = (git.clone(), base.clone(), scratch.clone());
    working(move || check_ignored(&git, &base, &held.0.join("patterns"), &rules, pieces, &candidates)).await
}

/// Runs what blocks on a thread that may.
///
/// # Errors
/// Those of `work`.
pub async fn working<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => Err(WorkspaceError::GuestGone),
    }
}

fn is_rules(path: &[u8]) -> bool {
    path == b".gitignore" || path.ends_with(b"/.gitignore")
}

fn limit(what: &'static str, count: u64, limit: u64) -> Result<()> {
    if count > limit { Err(WorkspaceError::TooMuch { what, limit }) } else { Ok(()) }
}

/// That files of these paths and sizes are not more than is taken.
fn check_bytes<'a>(files: impl Iterator<Item = (&'a [u8], u64)> + Clone) -> Result<()> {
    let sum = files.clone().fold(0_u64, |sum, (_, size)| sum.saturating_add(size));
    match files.max_by_key(|(_, size)| *size) {
        Some((path, bytes)) if sum > MAX_CHANGED_BYTES => {
            Err(WorkspaceError::TooLarge { path: path_of(path), bytes })
        }
        Some(_) | None => Ok(()),
    }
}

/// Everything in the tree by path.
///
/// # Errors
/// Where the guest does not tell, tells nonsense, or has names that are not taken.
pub async fn list(guest: &Guest, path: &GuestPath) -> Result<BTreeMap<Vec<u8>, Entry>> {
    let failed = |cause| WorkspaceError::Guest { action: "list its files", cause };
    let mut body = guest.tree_list(path).await.map_err(failed)?;
    let mut listing = Listing::default();
    while !listing.is_whole()
        && let Some(piece) = body.next().await.map_err(failed)?
    {
        listing.push(&piece)?;
    }
    Ok(listing.finish()?)
}

/// Everything in the directory `name` of the tree.
///
/// # Errors
/// As [`list`]; also where that is no path of a guest.
pub async fn list_below(guest: &Guest, path: &GuestPath, name: &[u8]) -> Result<BTreeMap<Vec<u8>, Entry>> {
    let place = format!("{path}/{}", String::from_utf8_lossy(name));
    let below = GuestPath::try_from(place.as_str())
        .map_err(|cause| WorkspaceError::GuestPath { path: place.clone(), cause })?;
    list(guest, &below).await
}

/// Asks for contents.
///
/// # Errors
/// Where the guest does not give them.
pub async fn pick(guest: &Guest, path: &GuestPath, wanted: &[Wanted]) -> Result<Pieces> {
    let mut lines = Vec::new();
    for wanted in wanted {
        serde_json::to_writer(&mut lines, wanted).expect("words and numbers");
        lines.push(b'\n');
    }
    limit("bytes of names", lines.len() as u64, MAX_WANTED as u64)?;
    let failed = |cause| WorkspaceError::Guest { action: "give its files", cause };
    let body = guest.tree_pick(path, lines.into()).await.map_err(failed)?;
    let (sender, mut pieces) = mpsc::channel(4);
    tokio::spawn(forward(body, sender));
    Ok(Pieces(Source::new(Box::new(std::iter::from_fn(move || pieces.blocking_recv())))))
}

async fn forward(mut body: Content, sender: mpsc::Sender<io::Result<Bytes>>) {
    loop {
        let piece = tokio::select! {
            piece = body.next() => piece,
            // Nobody reads it any more.
            () = sender.closed() => return,
        };
        let Some(piece) = piece.map_err(io::Error::other).transpose() else { return };
        let is_broken = piece.is_err();
        if sender.send(piece).await.is_err() || is_broken {
            return;
        }
    }
}

/// An answer as it comes; reading it blocks.
pub struct Pieces(Source<Box<dyn Iterator<Item = io::Result<Bytes>> + Send>>);

impl Pieces {
    /// What is said of the next file.
    ///
    /// # Errors
    /// Where the answer is cut or makes no sense.
    pub fn next(&mut self) -> Result<Picked> {
        let mut header = [0; HEADER];
        self.0.read_exact(&mut header).map_err(cut)?;
        Picked::parse(header).ok_or(WorkspaceError::Malformed("what it says of a file"))
    }

    /// The next `size` bytes.
    ///
    /// # Errors
    /// Where the answer is cut, or that is more than `most`.
    pub fn content(&mut self, size: u64, most: u64) -> Result<Vec<u8>> {
        limit("bytes in such a file", size, most)?;
        let mut bytes = Vec::new();
        (&mut self.0).take(size).read_to_end(&mut bytes).map_err(cut)?;
        if bytes.len() as u64 == size {
            Ok(bytes)
        } else {
            Err(WorkspaceError::Malformed("a file that is cut"))
        }
    }
}

fn cut(error: io::Error) -> WorkspaceError {
    WorkspaceError::Host(host::Error::new("read", "the guest's files", error))
}

/// What git says of that, in the directory `patterns` of nothing but patterns.
fn check_ignored(
    git: &Git,
    base: &Base,
    patterns: &Path,
    rules: &[Wanted],
    mut pieces: Pieces,
    candidates: &[Vec<u8>],
) -> Result<Vec<u8>> {
    host::fs::create_dir(patterns)?;
    for rule in rules {
        match pieces.next()? {
            Picked::Content(Kind::File | Kind::Executable, size) => {
                let content = pieces.content(size, MAX_IGNORE.0)?;
                let place = patterns.join(path_of(rule.path.as_bytes()));
                host::fs::private_dir(place.parent().unwrap_or(patterns))?;
                host::fs::create_new(&place)?
                    .write_all(&content)
                    .map_err(|e| host::Error::path("write", &place, e))?;
            }
            Picked::Content(_, size) => drop(pieces.content(size, MAX_PATH.0 as u64)?),
            Picked::Same | Picked::Gone => {}
        }
    }
    // What is ignored in one repository says nothing of the ones in it.
    let members = base.members()?;
    let mut ignored = Vec::new();
    for ((place, base), names) in
        members.iter().zip(members::split(&members, candidates.iter().map(Vec::as_slice)))
    {
        let dir = patterns.join(path_of(place));
        host::fs::private_dir(&dir)?;
        for name in check_ignored_in(git, base, &dir, &names)?.split_inclusive(|byte| *byte == 0) {
            ignored.extend(members::inside(place, name));
        }
    }
    Ok(ignored)
}

/// Those of `names` that the patterns in `dir` and of `base` ignore.
fn check_ignored_in(git: &Git, base: &Base, dir: &Path, names: &[&[u8]]) -> Result<Vec<u8>> {
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let mut excludes = std::ffi::OsString::from("core.excludesFile=");
    excludes.push(base.excludes());
    let mut git_dir = std::ffi::OsString::from("--git-dir=");
    git_dir.push(base.git_dir());
    let call = Call::new("see what is ignored", dir)
        .args([std::ffi::OsString::from("-c"), excludes, git_dir])
        .args(["--work-tree=.", "check-ignore", "--no-index", "-z", "--stdin"]);
    let done = git.feed(call, |input| {
        for path in names {
            // So that none is taken for more than a path.
            let parts: [&[u8]; 3] = [b"./", path, b"\0"];
            parts.iter().try_for_each(|part| input.write_all(part)).map_err(WorkspaceError::Unread)?;
        }
        Ok(())
    })?;
    match done.code() {
        Some(0 | 1) => Ok(without_dots(&done.stdout)),
        _ => Err(done.failure()),
    }
}

/// The paths of a list without the `./` before each.
fn without_dots(list: &[u8]) -> Vec<u8> {
    let paths = list.split_inclusive(|byte| *byte == 0);
    paths.flat_map(|path| path.strip_prefix(b"./").unwrap_or(path)).copied().collect()
}

#[expect(clippy::too_many_arguments, reason = "one step of `take`, on another thread")]
fn build(
    git: &Git,
    base: &Base,
    shipped: &str,
    git_dir: &Path,
    wanted: &[Wanted],
    gone: Vec<Vec<u8>>,
    files: &Files,
    mut pieces: Pieces,
    mut told: impl FnMut(Through) -> Result<()>,
) -> Result<String> {
    let format =
        git.call(Call::inside("read the base", &base.git_dir()).args(["rev-parse", "--show-object-format"]));
    init(git, git_dir, &format?.line()?)?;
    borrow(git_dir, base)?;
    let shallow = base.git_dir().join("shallow");
    if host::fs::exists(&shallow) {
        host::fs::write_atomic(&git_dir.join("shallow"), &host::fs::read(&shallow)?)?;
    }
    let imported = git.feed(import::call(git_dir), |out| {
        let mut import = Import::new(out);
        gone.iter().for_each(|path| import.remove(path));
        let (mut count, mut bytes) = (0, 0u64);
        for wanted in wanted {
            let path = wanted.path.as_bytes();
            let (kind, size) = match pieces.next()? {
                Picked::Same if wanted.known.is_some() => continue,
                Picked::Same => return Err(WorkspaceError::Malformed("a file that was not known")),
                Picked::Gone => {
                    if files.contains_key(path) {
                        import.remove(path);
                    }
                    continue;
                }
                Picked::Content(kind, size) => (kind, size),
            };
            count += 1;
            bytes = bytes.saturating_add(size);
            limit("changed files", count, MAX_CHANGED)?;
            if bytes > MAX_CHANGED_BYTES {
                return Err(WorkspaceError::TooLarge { path: path_of(path), bytes: size });
            }
            take_one(&mut import, path, kind, size, &mut pieces)?;
            told(Through { files: count, bytes })?;
        }
        import.finish(TAKEN, Some(shipped))
    })?;
    imported.ok()?;
    let name = Call::inside("name the tree", git_dir).args(["rev-parse", &format!("{TAKEN}^{{tree}}")]);
    git.call(name)?.line()
}

fn take_one(
    import: &mut Import<'_>,
    path: &[u8],
    kind: Kind,
    size: u64,
    pieces: &mut Pieces,
) -> Result<Known> {
    if kind == Kind::Link {
        let target = pieces.content(size, MAX_PATH.0 as u64)?;
        if !link_stays(path, &target) {
            return Err(WorkspaceError::Link { path: path_of(path), target: path_of(&target) });
        }
        return import.file(path, kind, size, &mut &target[..], |_| Ok(()));
    }
    let mut content = (&mut pieces.0).take(size);
    let known = import.file(path, kind, size, &mut content, |_| Ok(()))?;
    // What was cut was filled with zeros, and is no file of the guest's.
    if content.limit() > 0 { Err(WorkspaceError::Malformed("a file that is cut")) } else { Ok(known) }
}
