//! The owner's files that a start puts into its guest: those that `[[file_sync]]` names, and who commits there.
//!
//! They are looked at before anything is made, and read again at each start. Only what lies in the owner's home goes, by its
//! place after all links; links below a directory are copied as links and never followed.

use std::{
    ffi::OsStr,
    io,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use host::{
    archive::{Archive, Item, PackError},
    tree::Tree,
};
use model::{
    copy::CopyPath,
    sync::{FileSync, MAX_SYNCED, MAX_SYNCED_FILES},
};
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

impl Packed {
    /// Whether nothing goes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tar.is_empty()
    }
}

/// Packs what `entries` name.
///
/// # Errors
/// Why one of them cannot be: by its number, counted from one.
pub fn pack(entries: &[FileSync]) -> Result<Packed> {
    let mut packing = Packing { archive: Archive::new(Vec::new()), files: 0, bytes: 0, warnings: Vec::new() };
    for (entry, number) in entries.iter().zip(1..) {
        let packed = packing.entry(entry, number);
        packed.map_err(|cause| Error::FileSync { number, file: entry.host.as_str().to_owned(), cause })?;
    }
    let Packing { archive, files, warnings, .. } = packing;
    // An archive of nothing is two blocks of zeros, and nobody has to be asked to take them.
    let tar = if files == 0 { Vec::new() } else { archive.finish().expect("memory takes all") };
    Ok(Packed { tar, warnings })
}

struct Packing {
    archive: Archive<Vec<u8>>,
    files: usize,
    bytes: u64,
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
        let Self { archive, files, bytes, warnings } = self;
        archive.tree(&tree, name, Path::new(entry.guest.as_str()), |path, item| {
            *files += 1;
            if let Item::File(_, size) = item {
                *bytes = bytes.saturating_add(size);
            }
            if *files > MAX_SYNCED_FILES || *bytes > MAX_SYNCED {
                return Err(SyncError::TooMuch);
            }
            match item {
                Item::File(own, _) => Ok(entry.mode.unwrap_or(own & 0o777)),
                Item::Directory(own) => Ok(own),
                Item::Special if path == name => Err(SyncError::Kind(found.clone())),
                Item::Special => {
                    warnings.push(format!("{} is no file, and stays here", path.display()));
                    Ok(0)
                }
                Item::Link => Ok(0),
            }
        })
    }
}

impl From<PackError> for SyncError {
    fn from(error: PackError) -> Self {
        match error {
            PackError::From(_, cause) => Self::Host(cause),
            PackError::To(_) => unreachable!("memory takes all"),
        }
    }
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
    if packed.is_empty() { Ok(()) } else { guest.home_write(packed.tar.into()).await }
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
    let (mut archive, mut content) = (Archive::new(Vec::new()), identity.as_bytes());
    let (size, now) = (content.len() as u64, host::clock::now_ms() / 1000);
    archive.file(b".gitconfig", 0o644, size, now, &mut content).expect("memory takes all");
    guest.home_write(Bytes::from(archive.finish().expect("memory takes all"))).await
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
