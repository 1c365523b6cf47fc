//! Shipping: the owner's files and a git directory made for the guest, as one tar, while the same bytes become the base.

use std::{
    io::{self, Write},
    path::Path,
};

use bytes::Bytes;
use host::{
    archive::Archive,
    sparse::CopyError,
    tree::{Entry, Tree},
};
use http_body_util::channel::Sender;
use image::identity::sha256;
use tokio::runtime::Handle;
use wire::{
    control::WorkspaceMode,
    pieces::PIECE,
    tree::{Kind, Known},
};

use super::{
    Through,
    base::{Base, Files, SHIPPED, Stamps},
    error::WorkspaceError,
    full,
    git::Git,
    import::{self, Import},
    kept::Kept,
    members,
    repository::{Plan, Planned, Repository, path_of},
};

type Result<T, E = WorkspaceError> = std::result::Result<T, E>;

/// What is said of a checkout in the guest.
#[derive(Debug)]
pub struct Checkout {
    /// The branch, where there is one.
    pub branch: Option<String>,
}

/// What is shipped, and on top of what.
#[derive(Debug)]
pub struct Shipment<'a> {
    /// Where it comes from.
    pub repository: &'a Repository,
    /// Where its files lie.
    pub source: &'a Path,
    /// Which files.
    pub plan: &'a Plan,
    /// What it becomes here.
    pub base: &'a Base,
    /// What it becomes there.
    pub checkout: &'a Checkout,
    /// What is there already.
    pub kept: Option<&'a Kept>,
}

/// What was shipped.
#[derive(Debug)]
pub struct Shipped {
    /// The id of its tree.
    pub tree: String,
    /// How many files travelled.
    pub sent: u64,
    /// Their bytes.
    pub sent_bytes: u64,
}

/// Where the bytes of a request go. Blocks while the guest does not take them.
struct Pipe {
    sender: Sender<Bytes, std::convert::Infallible>,
    runtime: Handle,
    buffer: Vec<u8>,
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= PIECE {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let piece = Bytes::from(std::mem::take(&mut self.buffer));
        self.runtime.block_on(self.sender.send_data(piece)).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

/// The tar of a shipment.
type Parcel = Archive<Pipe>;

/// Why nothing more can be written there.
fn gone(_: io::Error) -> WorkspaceError {
    WorkspaceError::GuestGone
}

/// Ships what of a shipment the guest does not have into `sender`, and makes all of it the shipped tree of its base. `told`
/// hears how much is through, and may end it. Blocks.
///
/// # Errors
/// Where something cannot be read, or the guest takes no more.
pub fn ship(
    git: &Git,
    shipment: &Shipment<'_>,
    sender: Sender<Bytes, std::convert::Infallible>,
    mut told: impl FnMut(Through) -> Result<()>,
) -> Result<Shipped> {
    let Shipment { repository, source, plan, base, checkout, kept } = *shipment;
    let pipe = Pipe { sender, runtime: Handle::current(), buffer: Vec::with_capacity(2 * PIECE) };
    let mut parcel = Parcel::new(pipe);
    let tree = Tree::open(source)?;
    let (mut files, mut owners) = (Files::new(), Stamps::new());
    let (mut through, mut sent, mut sent_bytes) = (Through::default(), 0, 0);
    let imported = git.feed(import::call(&base.git_dir()), |out| {
        let mut import = Import::new(out);
        if let Some(kept) = kept {
            kept.files
                .keys()
                .filter(|path| !plan.files.contains_key(*path))
                .for_each(|path| import.remove(path));
        }
        for (path, planned) in &plan.files {
            // Before it is read, so that a change meanwhile is seen later.
            if let Some(stamp) = tree.stamp(&path_of(path))? {
                owners.insert(path.clone(), stamp);
            }
            if let Some(known) = kept.and_then(|kept| kept.files.get(path)) {
                let (same, size) = is_same(&tree, path, *planned, known)?;
                // One that went since it was planned is still there, as far as the guest goes.
                if same {
                    through = Through { files: through.files + 1, bytes: through.bytes + size };
                    told(through)?;
                    files.insert(path.clone(), known.clone());
                    continue;
                }
            }
            let before = through.bytes;
            let shipped = one(&tree, path, *planned, &mut import, &mut parcel, |count| {
                through.bytes += count;
                told(through)
            })?;
            through.files += 1;
            // One that went since it was planned is not there.
            if let Some(known) = shipped {
                files.insert(path.clone(), known);
                sent += 1;
                sent_bytes += through.bytes - before;
            }
        }
        told(through)?;
        import.finish(SHIPPED, kept.map(|kept| kept.tree.as_str()))
    })?;
    imported.ok()?;
    let tree = base.finish(git, repository, plan, &files)?;
    base.write_owners(owners)?;
    base.write_pins(&files)?;
    for path in &plan.submodules {
        parcel.directory(path, 0o755).map_err(gone)?;
    }
    for ((path, base), (_, repository)) in base.members()?.iter().zip(repository.all()) {
        // A branch for the work is that of the repository at the top.
        let branch = if path.is_empty() { checkout.branch.as_deref() } else { repository.branch.as_deref() };
        write_checkout(git, repository, base, branch)?;
        git_directory(path, base, kept, &mut parcel)?;
    }
    parcel.finish().map_err(gone)?;
    Ok(Shipped { tree, sent, sent_bytes })
}

/// Whether the file at `path` is what is known of it, and how many bytes it has; true of one that is not there.
///
/// # Errors
/// Where it cannot be read.
pub fn is_same(tree: &Tree, path: &[u8], planned: Planned, known: &Known) -> Result<(bool, u64)> {
    match tree.entry(&path_of(path))? {
        Some(Entry::File { mut file, size, mode, .. }) => {
            if !known.may_be(kind_of(planned, mode), size) {
                return Ok((false, size));
            }
            let digest = sha256(&mut file).map_err(|e| host::Error::path("read", &path_of(path), e))?;
            Ok((digest == known.sha256, size))
        }
        Some(Entry::Link(target)) => {
            let digest = sha256(&mut &target[..]).expect("memory is read");
            Ok((known.kind == Kind::Link && digest == known.sha256, target.len() as u64))
        }
        Some(Entry::Other) | None => Ok((true, 0)),
    }
}

/// What a file is by its bits, or by the repository.
fn kind_of(planned: Planned, mode: u32) -> Kind {
    planned.kind.unwrap_or(if mode & 0o100 == 0 { Kind::File } else { Kind::Executable })
}

fn one(
    tree: &Tree,
    path: &[u8],
    planned: Planned,
    import: &mut Import<'_>,
    parcel: &mut Parcel,
    mut told: impl FnMut(u64) -> Result<()>,
) -> Result<Option<Known>> {
    match tree.entry(&path_of(path))? {
        Some(Entry::File { mut file, size, mode, mtime }) => {
            let kind = kind_of(planned, mode);
            let mode = if kind == Kind::Executable { 0o755 } else { 0o644 };
            parcel.begin(path, mode, size, mtime).map_err(gone)?;
            let known = import.file(path, kind, size, &mut file, |bytes| {
                told(bytes.len() as u64)?;
                parcel.write(bytes).map_err(gone)
            })?;
            parcel.pad(size).map_err(gone)?;
            Ok(Some(known))
        }
        Some(Entry::Link(target)) => {
            parcel.link(path, &target).map_err(gone)?;
            let known = import.file(path, Kind::Link, target.len() as u64, &mut &target[..], |_| Ok(()));
            known.map(Some)
        }
        Some(Entry::Other) | None => Ok(None),
    }
}

/// Writes what the guest's checkout is on, and its configuration.
fn write_checkout(git: &Git, repository: &Repository, base: &Base, branch: Option<&str>) -> Result<()> {
    let head = match branch {
        Some(branch) => format!("ref: refs/heads/{branch}\n"),
        None => format!("{}\n", repository.head),
    };
    host::fs::write_atomic(&base.checkout("HEAD"), head.as_bytes())?;
    let config = match repository.mode {
        WorkspaceMode::Checkout => {
            if let Some(branch) = branch {
                let packed = format!(
                    "# pack-refs with: peeled fully-peeled sorted \n{} refs/heads/{branch}\n",
                    repository.head
                );
                host::fs::write_atomic(&base.checkout("packed-refs"), packed.as_bytes())?;
            }
            config(repository, branch)
        }
        WorkspaceMode::FullCopy => {
            full::write_texts(git, base, repository, branch)?;
            core(repository) + &full::settings(git, repository)?
        }
    };
    Ok(host::fs::write_atomic(&base.checkout("config"), config.as_bytes())?)
}

/// The git directory of the guest's checkout at `place`, but for the packs that it has.
fn git_directory(place: &[u8], base: &Base, kept: Option<&Kept>, parcel: &mut Parcel) -> Result<()> {
    let git_dir = base.git_dir();
    let inside = |name: &[u8]| members::inside(place, &[b".git", name].concat());
    for directory in
        ["", "/objects", "/objects/info", "/objects/pack", "/refs", "/refs/heads", "/refs/tags", "/info"]
    {
        parcel.directory(&inside(directory.as_bytes()), 0o755).map_err(gone)?;
    }
    for path in base.packs()? {
        let name = inside(format!("/objects/pack/{}", crate::paths::name_of(&path)).as_bytes());
        if kept.is_none_or(|kept| !kept.packs.contains(&name)) {
            put(parcel, &name, &path)?;
        }
    }
    for name in base.texts()? {
        let from = base.checkout("").join(path_of(&name));
        put(parcel, &inside(&[b"/", name.as_slice()].concat()), &from)?;
    }
    if host::fs::exists(&git_dir.join("shallow")) {
        put(parcel, &inside(b"/shallow"), &git_dir.join("shallow"))?;
    }
    put(parcel, &inside(b"/info/exclude"), &base.excludes())?;
    put(parcel, &inside(b"/index"), &base.index())
}

/// Puts the file `from` of ours into `parcel` as `path`.
fn put(parcel: &mut Parcel, path: &[u8], from: &Path) -> Result<()> {
    let (mut file, size) = (host::fs::open(from)?, host::fs::size(from)?);
    let written = parcel.file(path, 0o644, size, host::clock::now_ms() / 1000, &mut file);
    written.map_err(|error| match error {
        CopyError::From(cause) => host::Error::path("read", from, cause).into(),
        CopyError::To(cause) => gone(cause),
    })
}

/// What the configuration of any checkout begins with.
fn core(repository: &Repository) -> String {
    let mut text = match repository.format.as_str() {
        "sha1" => "[core]\n\trepositoryformatversion = 0\n".to_owned(),
        other => {
            format!("[extensions]\n\tobjectFormat = {other}\n[core]\n\trepositoryformatversion = 1\n")
        }
    };
    text.push_str("\tfilemode = true\n\tbare = false\n\tlogallrefupdates = true\n");
    text
}

/// The configuration of a guest's checkout on `branch`.
fn config(repository: &Repository, branch: Option<&str>) -> String {
    let mut text = core(repository);
    if let Some(origin) = &repository.origin {
        text.push_str(&format!(
            "[remote \"origin\"]\n\turl = {}\n\tfetch = +refs/heads/*:refs/remotes/origin/*\n",
            value(origin)
        ));
        if let Some(branch) = branch {
            text.push_str(&format!(
                "[branch {0}]\n\tremote = origin\n\tmerge = {1}\n",
                value(branch),
                value(&format!("refs/heads/{branch}"))
            ));
        }
    }
    for (key, setting) in ["name", "email"].iter().zip(&repository.identity) {
        if let Some(setting) = setting {
            text.push_str(&format!("[user]\n\t{key} = {}\n", value(setting)));
        }
    }
    text
}

/// A value in quotes (git-config(1)).
pub fn value(text: &str) -> String {
    let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    format!("\"{text}\"")
}
