//! The owner's files that a start puts into its guest: those that `[[file_sync]]` names, and who commits there.
//!
//! They are looked at before anything is made, and read again at each start. Only what lies in the owner's home goes, by its
//! place after all links; links below a directory are copied as links and never followed.

use std::{
    ffi::OsStr,
    io::{self, Read},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use host::tree::{Entry, Tree};
use model::{
    copy::CopyPath,
    sync::{FileSync, MAX_SYNCED, MAX_SYNCED_FILES},
};
use tar::{Builder, EntryType, Header};
use tokio_util::sync::CancellationToken;
use wire::control::{Code, Event};

use crate::{
    Engine, Error, Operation, Result, blocking, chain,
    guest::{Guest, GuestError},
    workspace::git::{Call, Git},
};

/// Where a guest's git looks for who commits.
const IDENTITY: &str = "/root/.gitconfig";

/// Why an entry of `[[file_sync]]` cannot be copied.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// The owner has no home.
    #[error("HOME is not set")]
    Homeless,
    /// It lies elsewhere.
    #[error("{0} is not in your home directory")]
    Outside(PathBuf),
    /// It is no file and no directory.
    #[error("{0} is neither a file nor a directory")]
    Kind(PathBuf),
    /// There is too much of it.
    #[error("it is more than {} or {MAX_SYNCED_FILES} files", model::size::human(MAX_SYNCED))]
    TooMuch,
    /// It cannot be read.
    #[error(transparent)]
    Host(#[from] host::Error),
}

/// What goes into a guest.
#[derive(Debug, Default)]
pub struct Packed {
    /// A tar, to be unpacked in `/root`; empty where there is nothing.
    tar: Vec<u8>,
    /// What is said of what does not go.
    pub warnings: Vec<String>,
}

/// Packs what `entries` name.
///
/// # Errors
/// Why one of them cannot be: by its number, counted from one.
pub fn pack(entries: &[FileSync]) -> Result<Packed> {
    let mut packing = Packing { tar: Builder::new(Vec::new()), files: 0, warnings: Vec::new() };
    for (entry, number) in entries.iter().zip(1..) {
        let packed = packing.entry(entry, number);
        packed.map_err(|cause| Error::FileSync { number, file: entry.host.as_str().to_owned(), cause })?;
    }
    let Packing { tar, files, warnings } = packing;
    // An archive of nothing is two blocks of zeros, and nobody has to be asked to take them.
    let tar = if files == 0 { Vec::new() } else { tar.into_inner().expect("memory takes all") };
    Ok(Packed { tar, warnings })
}

struct Packing {
    tar: Builder<Vec<u8>>,
    files: usize,
    warnings: Vec<String>,
}

impl Packing {
    fn entry(&mut self, entry: &FileSync, number: usize) -> Result<(), SyncError> {
        let home = host::env::var("HOME").map(PathBuf::from).ok_or(SyncError::Homeless)?;
        let home = std::fs::canonicalize(&home).map_err(|e| host::Error::path("find", &home, e))?;
        let path = entry.host.inside(&home);
        let found = match std::fs::canonicalize(&path) {
            Ok(found) => found,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let warning = format!("file_sync entry {number}: {} is not there", path.display());
                self.warnings.push(warning);
                return Ok(());
            }
            Err(e) => return Err(host::Error::path("find", &path, e).into()),
        };
        let name = found.strip_prefix(&home).ok().filter(|name| !name.as_os_str().is_empty());
        let name = name.ok_or_else(|| SyncError::Outside(found.clone()))?;
        // From here on by way of no link: what was one was resolved.
        let tree = Tree::open(&home)?;
        if matches!(tree.entry(name)?, Some(Entry::Other)) && tree.names(name)?.is_none() {
            return Err(SyncError::Kind(found));
        }
        let mut todo = vec![name.to_owned()];
        while let Some(path) = todo.pop() {
            let below = path.strip_prefix(name).expect("it is below");
            let mut there = PathBuf::from(entry.guest.as_str());
            if !below.as_os_str().is_empty() {
                there.push(below);
            }
            self.one(&tree, &path, &there, entry.mode, &mut todo)?;
        }
        Ok(())
    }

    /// Packs what lies at `path`, called `there`; of a directory itself alone, and what is in it becomes `todo`.
    fn one(
        &mut self,
        tree: &Tree,
        path: &Path,
        there: &Path,
        mode: Option<u32>,
        todo: &mut Vec<PathBuf>,
    ) -> Result<(), SyncError> {
        self.files += 1;
        if self.files > MAX_SYNCED_FILES {
            return Err(SyncError::TooMuch);
        }
        match tree.entry(path)? {
            Some(Entry::File { file, size, mode: own, mtime }) => {
                let taken = self.tar.get_ref().len() as u64;
                if taken.saturating_add(size) > MAX_SYNCED {
                    return Err(SyncError::TooMuch);
                }
                let mut header = header(EntryType::Regular, mode.unwrap_or(own & 0o777));
                header.set_size(size);
                header.set_mtime(mtime);
                // Its length is promised; one that shrinks meanwhile ends in zeros, one that grows is cut.
                let content = file.chain(io::repeat(0)).take(size);
                let added = self.tar.append_data(&mut header, there, content);
                added.map_err(|e| host::Error::path("read", path, e))?;
            }
            Some(Entry::Link(target)) => {
                let mut header = header(EntryType::Symlink, 0o777);
                let added = self.tar.append_link(&mut header, there, OsStr::from_bytes(&target));
                added.map_err(|e| host::Error::path("read", path, e))?;
            }
            Some(Entry::Other) => match tree.names(path)? {
                Some(names) => {
                    let mut header = header(EntryType::Directory, tree.mode(path)?);
                    let added = self.tar.append_data(&mut header, there.join(""), io::empty());
                    added.map_err(|e| host::Error::path("read", path, e))?;
                    todo.extend(names.into_iter().rev().map(|name| path.join(name)));
                }
                None => self.warnings.push(format!("{} is no file, and stays here", path.display())),
            },
            // It went since it was listed.
            None => {}
        }
        Ok(())
    }
}

fn header(kind: EntryType, mode: u32) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(0);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(host::clock::now_ms() / 1000);
    header
}

impl Engine {
    /// Packs the files of the settings.
    pub(crate) async fn packed_files(&self) -> Result<Packed> {
        if self.0.config.file_sync.is_empty() {
            return Ok(Packed::default());
        }
        let entries = self.0.config.file_sync.clone();
        blocking(move || pack(&entries)).await
    }
}

/// Puts `packed` into the home of `guest`.
///
/// # Errors
/// Where that does not take it.
pub async fn place(guest: &Guest, packed: Packed) -> Result<(), GuestError> {
    if packed.tar.is_empty() { Ok(()) } else { guest.home_write(packed.tar.into()).await }
}

/// Tells git in `guest` who commits there, unless it was told already or the host's git does not know it either.
///
/// # Errors
/// Where the guest does not take it.
pub async fn introduce(guest: &Guest, identity: Option<String>) -> Result<(), GuestError> {
    let Some(identity) = identity else { return Ok(()) };
    let place = CopyPath::try_from(IDENTITY).expect("it is absolute");
    match guest.files_read(&place).await {
        Err(GuestError::Refused(body)) if body.code == Code::NotFound => {}
        answer => return answer.map(drop),
    }
    let mut tar = Builder::new(Vec::new());
    let mut header = header(EntryType::Regular, 0o644);
    header.set_size(identity.len() as u64);
    tar.append_data(&mut header, ".gitconfig", identity.as_bytes()).expect("memory takes all");
    guest.home_write(Bytes::from(tar.into_inner().expect("memory takes all"))).await
}

/// The settings of git that say who the owner is, as a file of git's. Blocks.
#[must_use]
pub fn identity() -> Option<String> {
    let home = host::env::var("HOME").map(PathBuf::from)?;
    let xdg = host::env::var("XDG_CONFIG_HOME").map_or_else(|| home.join(".config"), PathBuf::from);
    let (mut name, mut email) = (None, None);
    // In the order of git's own: what comes later wins.
    for file in [xdg.join("git/config"), home.join(".gitconfig")] {
        if !host::fs::exists(&file) {
            continue;
        }
        let call = Call::new("read the owner's settings", &home)
            .env("HOME", home.as_os_str())
            .args([OsStr::new("config"), OsStr::new("--file"), file.as_os_str()])
            .args(["--includes", "--null", "--get-regexp", "^user\\.(name|email)$"]);
        // What is not set ends with 1, and where there is no git there is nothing to say.
        let Ok(found) = Git::new(CancellationToken::new()).call(call).and_then(|done| done.ok()) else {
            continue;
        };
        for setting in String::from_utf8_lossy(&found).split('\0') {
            match setting.split_once('\n') {
                Some(("user.name", value)) => name = Some(value.to_owned()),
                Some(("user.email", value)) => email = Some(value.to_owned()),
                Some(_) | None => {}
            }
        }
    }
    let line = |key: &str, value: Option<String>| {
        let value = value.filter(|value| !value.is_empty() && !value.contains(char::is_control))?;
        Some(format!("\t{key} = \"{}\"\n", value.replace('\\', "\\\\").replace('"', "\\\"")))
    };
    let lines: String = [line("name", name), line("email", email)].into_iter().flatten().collect();
    (!lines.is_empty()).then(|| format!("[user]\n{lines}"))
}

/// Says why the guest was not told who commits there: that is no reason to have no machine.
pub fn unintroduced(operation: &Operation, error: &GuestError) {
    let message = format!("the guest's git does not know who commits there: {}", chain(error));
    operation.emit(Event::Warning { message });
}
