//! Files of the owner's that are used where they lie: looked at, recognised, and taken into the store after all.
//!
//! ```text
//! images/<id>/rootfs.ext4, kernels/<id>/vmlinux   a link to the file     registered
//!                                                 a file of the store    promoted, by one rename
//! ```
//! Nobody keeps the owner from changing a file of theirs, so its size and time are compared at every start. Promoting changes
//! nothing for a VM: the copy has the digest of what was registered.

use std::{
    fs::File,
    io::{self, Read},
    ops::ControlFlow,
    path::{Path, PathBuf},
};

use image::{identity, manifest::Registered};
use model::undo::Undo;
use wire::control::Event;

use crate::{Engine, Error, Operation, Result, blocking, chain, paths::Paths, saga};

/// How many bytes go by between two reports.
const REPORT_EVERY: u64 = 64 << 20;

/// A file of the owner's that an image or a kernel of the store is made of.
#[derive(Debug, Clone)]
pub(crate) struct Elsewhere {
    /// `image` or `kernel`.
    pub kind: &'static str,
    /// Its name.
    pub name: String,
    /// The link in the store.
    pub place: PathBuf,
    /// What it leads to.
    pub file: PathBuf,
    /// The bytes of that.
    pub size: u64,
    /// Its SHA-256.
    pub digest: String,
}

/// The regular file at `path`, which stands for `what`, without a link on the way: what leads there later does not matter. One of
/// banger's own is refused, since these go with what they belong to.
pub(crate) fn locate(paths: &Paths, what: &'static str, path: &str, otherwise: &str) -> Result<PathBuf> {
    if !path.starts_with('/') {
        return Err(Error::invalid(what, path, "it must be an absolute path"));
    }
    if !host::fs::is_file(Path::new(path)) {
        return Err(Error::invalid(what, path, format!("there is no file; {otherwise}")));
    }
    let file = host::fs::real_path(Path::new(path))?;
    if paths.hold(&file)? {
        let why = "it is one of banger's own files, which go with what they belong to; register a copy of it";
        return Err(Error::invalid(what, path, why));
    }
    Ok(file)
}

/// What tells whether `file` is the one that was registered.
pub(crate) fn registered_now(file: &Path) -> host::Result<Registered> {
    let (size, modified) = host::fs::identity(file)?;
    Ok(Registered { size, modified_ns: i64::try_from(modified).unwrap_or(i64::MAX) })
}

impl Elsewhere {
    /// Refuses a file that is not the one that was `registered` any more.
    pub(crate) fn check(&self, registered: Registered) -> Result<()> {
        match registered_now(&self.file) {
            Ok(now) if now == registered => Ok(()),
            Ok(_) | Err(_) => Err(self.other_file()),
        }
    }

    /// What is said of another file.
    pub(crate) fn other_file(&self) -> Error {
        Error::OtherFile { kind: self.kind, name: self.name.clone(), path: self.file.clone() }
    }

    /// Copies the file to the new file `copy`, to the last byte what was registered.
    fn copy(&self, operation: &Operation, copy: &Path) -> Result<()> {
        let mut watch = |done| tell(operation, &format!("copying {}", self.kind), done, self.size);
        let copied = host::fs::clone_watched(&self.file, copy, &mut watch);
        operation.checkpoint()?;
        copied?;
        let copied = host::fs::open(copy)?;
        if digest(operation, &format!("checking {}", self.kind), copy, copied)? != self.digest {
            return Err(self.other_file());
        }
        let copied = host::fs::open(copy)?;
        Ok(copied.sync_all().map_err(|e| host::Error::path("sync", copy, e))?)
    }
}

impl Engine {
    /// Puts a copy of the file into the place of the link to it, or leaves the link. Its name is claimed.
    pub(crate) async fn take_in(&self, operation: &Operation, elsewhere: Elsewhere) -> Result<()> {
        let id = uuid::Uuid::new_v4().simple().to_string();
        let entry = self.store().ledger_open(None, operation.id(), &Undo::Staging(id.clone()))?;
        let staging = self.paths().staging().join(&id);
        let taken_in = async {
            let (task, directory, from) = (operation.clone(), staging.clone(), elsewhere.clone());
            let stage = blocking(move || {
                host::fs::create_dir(&directory)?;
                from.copy(&task, &directory.join("copy"))
            });
            self.points().around("stage", stage).await?;
            operation.checkpoint()?;
            self.put_copy_in_place(entry, staging.clone(), elsewhere).await
        };
        saga::undo_staging(&self.0.world, entry, taken_in.await).await?;
        // It is empty; where it stays all the same, the next start sweeps it away.
        let _ = blocking(move || Ok(host::fs::remove_all(&staging)?)).await;
        Ok(())
    }

    /// Renames the copy in `staging`, whose ledger entry is given, into its place, or leaves the link there.
    async fn put_copy_in_place(&self, entry: i64, staging: PathBuf, elsewhere: Elsewhere) -> Result<()> {
        let Elsewhere { place, file, .. } = elsewhere;
        let (copy, target) = (staging.join("copy"), place.clone());
        let rename = blocking(move || Ok(host::fs::rename(&copy, &target)?));
        let renamed = self.points().around("publish", rename).await;
        let Err(cause) = renamed.and_then(|()| Ok(self.store().ledger_close(entry)?)) else { return Ok(()) };
        let put_back = blocking(move || {
            let link = staging.join("link");
            host::fs::symlink(&file, &link)?;
            Ok(host::fs::rename(&link, &place)?)
        });
        Err(match put_back.await {
            Ok(()) => cause,
            Err(error) => Error::Residue { cause: Box::new(cause), left: vec![chain(&error)] },
        })
    }
}

/// Tells how far a stage is; ends it where nobody wants it any more.
fn tell(operation: &Operation, stage: &str, done: u64, total: u64) -> ControlFlow<()> {
    let (name, unit) = (stage.to_owned(), "bytes".to_owned());
    operation.emit(Event::Progress { name, done, total: Some(total), unit });
    if operation.token().is_cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
}

/// The digest of a file that may be large: whoever follows sees it get on, and can end it.
pub(crate) fn digest(operation: &Operation, stage: &str, path: &Path, file: File) -> Result<String> {
    let total = file.metadata().map_err(|e| host::Error::path("look at", path, e))?.len();
    let mut watched = Watched { file, operation, stage, total, done: 0, next: 0 };
    let digest = identity::sha256(&mut watched);
    operation.checkpoint()?;
    Ok(digest.map_err(|e| host::Error::path("read", path, e))?)
}

/// A file that is read under the eyes of an operation.
struct Watched<'a> {
    file: File,
    operation: &'a Operation,
    stage: &'a str,
    total: u64,
    done: u64,
    next: u64,
}

impl Read for Watched<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.done >= self.next {
            self.next = self.done + REPORT_EVERY;
            if tell(self.operation, self.stage, self.done, self.total).is_break() {
                return Err(io::Error::other("cancelled"));
            }
        }
        let count = self.file.read(out)?;
        self.done += count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn a_copy_ends_when_nobody_wants_it_any_more() {
        let dir = std::env::temp_dir().join(format!("banger-engine-copy-{}", std::process::id()));
        host::fs::create_dir(&dir).unwrap();
        let file = dir.join("file");
        host::fs::create_new(&file).unwrap().write_all_at(&[b'x'; 1 << 20], 0).unwrap();
        let elsewhere = Elsewhere {
            kind: "image",
            name: "new".to_owned(),
            place: dir.join("link"),
            file: file.clone(),
            size: 1 << 20,
            digest: identity::sha256(&mut &*host::fs::read(&file).unwrap()).unwrap(),
        };
        let operation = Operation::unlisted("promote".to_owned());
        elsewhere.copy(&operation, &dir.join("whole")).unwrap();
        assert!(host::fs::read(&dir.join("whole")).unwrap() == host::fs::read(&file).unwrap());
        operation.cancel();
        let ended = elsewhere.copy(&operation, &dir.join("ended"));
        assert!(matches!(ended, Err(Error::Cancelled)), "{ended:?}");
        host::fs::remove_all(&dir).unwrap();
    }
}
