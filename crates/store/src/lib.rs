//! The one reader and writer of the database: records of VMs, images, kernels and snapshots, and the ledger.
//!
//! SQLite in WAL mode with `synchronous=NORMAL`: a crash of the daemon loses nothing, a power loss may lose the last
//! commits, which reconcile copes with. One thread writes ([`writer`]); whoever reads does so on a connection of its own, and
//! sees all that was committed before. So a call here blocks its caller for one transaction, a fraction of a millisecond.
//!
//! # Locking
//! `readers` holds the connections for reading that nobody uses; a leaf, held to take one or to put it back.
//!
//! No SQL type leaves this crate.

mod connection;
mod image;
mod kernel;
mod lease;
mod ledger;
mod published;
mod snapshot;
mod vm;
mod workspace;
mod writer;

use std::{
    panic::resume_unwind,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, mpsc},
};

pub use connection::Compatibility;
pub use image::{Image, Ready};
pub use kernel::Kernel;
pub use ledger::Entry;
pub use published::Published;
use rusqlite::ErrorCode;
pub use snapshot::Snapshot;
pub use vm::{Reserved, Sizes, Starting, Vm, VmNews};
pub use workspace::Workspace;
pub use writer::Answer;
use writer::{Change, Request};

/// Why the database did not do it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The name is in use.
    #[error("the name {0} is taken")]
    Taken(String),
    /// Something that was named is not there (any more).
    #[error("it is not there")]
    Missing,
    /// Something that was to go is still needed by these.
    #[error("it is used by {}", .0.join(", "))]
    InUse(Vec<String>),
    /// All addresses that VMs may have are leased.
    #[error("all {0} addresses of the bridge are leased to VMs")]
    NoAddress(usize),
    /// A newer banger wrote this database.
    #[error("the database has version {found}, and this banger knows up to {known}")]
    Newer {
        /// Its version.
        found: u32,
        /// The newest that this program knows.
        known: u32,
    },
    /// The file is no database, or a damaged one. It was not touched.
    #[error("the database {path} is damaged or none of banger's")]
    Damaged {
        /// The file.
        path: String,
        /// What SQLite says.
        #[source]
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A value in a row is not one that banger writes.
    #[error("the database holds a {what} that banger does not know: {value:?}")]
    Value {
        /// Which column.
        what: &'static str,
        /// The value.
        value: String,
    },
    /// The disk of the database is full.
    #[error("the disk of the database is full")]
    Full,
    /// Its disk fails, or lets nobody write any more.
    #[error("the files of the database cannot be read or written")]
    Disk(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The database could not be read or written.
    #[error("cannot use the database")]
    Sql(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A file beside the database could not be handled.
    #[error(transparent)]
    Host(#[from] host::Error),
}

impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Self {
        let code = error.sqlite_error_code();
        match code {
            Some(ErrorCode::DiskFull) => Self::Full,
            code if is_of_the_disk(code) => Self::Disk(Box::new(error)),
            _ if error == rusqlite::Error::QueryReturnedNoRows => Self::Missing,
            _ => Self::Sql(Box::new(error)),
        }
    }
}

/// Whether `code` is about the files of the database, and not about what is in them.
fn is_of_the_disk(code: Option<ErrorCode>) -> bool {
    let codes =
        [ErrorCode::ReadOnly, ErrorCode::SystemIoFailure, ErrorCode::CannotOpen, ErrorCode::PermissionDenied];
    code.is_some_and(|code| codes.contains(&code))
}

/// The result of a call to the store.
pub type Result<T, E = Error> = std::result::Result<T, E>;

type News = Box<dyn Fn(VmNews) + Send + Sync>;

/// A moment of a transaction that changes something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Commit {
    /// All is ready to be committed.
    Before,
    /// It is committed.
    After,
}

/// Told of both moments of each transaction that changes something: a seam for tests of what becomes of a database that
/// cannot be written, and of a crash between any two commits.
///
/// An error is its transaction's, which is rolled back where it is not committed yet. A panic is the caller's.
pub type Witness = Arc<dyn Fn(Commit) -> Result<()> + Send + Sync>;

/// The open database. Clones share it; it is closed when the last one is gone.
#[derive(Clone)]
pub struct Store {
    /// Dropped before `changes`: SQLite puts its log back into the database only where the last connection may write.
    readers: Arc<Readers>,
    changes: Arc<mpsc::Sender<Box<dyn Change>>>,
    witness: Option<Witness>,
    news: Arc<OnceLock<News>>,
}

/// Connections that read.
struct Readers {
    path: PathBuf,
    free: Mutex<Vec<rusqlite::Connection>>,
}

impl Readers {
    fn free(&self) -> MutexGuard<'_, Vec<rusqlite::Connection>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Store")
    }
}

impl Store {
    /// Opens the database at `path`, making or migrating it; before a migration the old file is copied beside it.
    ///
    /// # Errors
    /// [`Error::Newer`] or [`Error::Damaged`] with the file untouched, or what the file system or SQLite says.
    pub fn open(path: &Path) -> Result<Self> {
        let connection = connection::open(path)?;
        let (changes, queue) = mpsc::channel();
        std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || writer::serve(&connection, &queue))
            .map_err(|e| host::Error::new("start", "the thread of the store", e))?;
        let readers = Arc::new(Readers { path: path.to_owned(), free: Mutex::default() });
        Ok(Self { readers, changes: Arc::new(changes), witness: None, news: Arc::default() })
    }

    /// The same database, with `witness` told of all that this clone and its clones commit.
    #[must_use]
    pub fn with_witness(self, witness: Witness) -> Self {
        Self { witness: Some(witness), ..self }
    }

    /// What opening the database at `path` would do; reads only.
    ///
    /// # Errors
    /// [`Error::Damaged`], or where the file cannot be read.
    pub fn check(path: &Path) -> Result<Compatibility> {
        connection::check(path)
    }

    /// The images and kernels in the database at `path`, which is neither migrated nor written.
    ///
    /// # Errors
    /// Where it cannot be read, or is none of banger's.
    pub fn published(path: &Path) -> Result<Published> {
        published::read(path)
    }

    /// Tells `listener` from now on of every VM that was changed or removed, in that order, once it is committed. It holds
    /// up the store, so it only passes on. The first one stays.
    pub fn listen(&self, listener: impl Fn(VmNews) + Send + Sync + 'static) {
        let _ = self.news.set(Box::new(listener));
    }

    /// Runs `work`, which only reads, by one statement, on the caller's thread.
    fn read<T>(&self, work: impl FnOnce(&rusqlite::Connection) -> Result<T>) -> Result<T> {
        let free = self.readers.free().pop();
        let connection = match free {
            Some(connection) => connection,
            None => connection::open_to_read(&self.readers.path)?,
        };
        let result = work(&connection);
        self.readers.free().push(connection);
        result
    }

    /// Runs `work` in one transaction on the store's thread: all of it happens or nothing.
    fn transaction<T: Send + 'static>(
        &self,
        work: impl FnOnce(&rusqlite::Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.transaction_then(work, |_| {})
    }

    /// The same, and `after` once it is committed, on the same thread.
    fn transaction_then<T: Send + 'static>(
        &self,
        work: impl FnOnce(&rusqlite::Connection) -> Result<T> + Send + 'static,
        after: impl FnOnce(&T) + Send + 'static,
    ) -> Result<T> {
        let (sender, answer) = mpsc::sync_channel(1);
        self.transaction_soon(work, after, move |answer| drop(sender.send(answer)));
        let gone = |_| Error::Sql("its thread is gone".into());
        answer.recv().map_err(gone)?.unwrap_or_else(|panic| resume_unwind(panic))
    }

    /// The same without waiting: `reply` is told on the store's thread what came of it. It is dropped where that thread is
    /// gone.
    fn transaction_soon<T: Send + 'static>(
        &self,
        work: impl FnOnce(&rusqlite::Connection) -> Result<T> + Send + 'static,
        after: impl FnOnce(&T) + Send + 'static,
        reply: impl FnOnce(Answer<T>) + Send + 'static,
    ) {
        let witness = self.witness.clone();
        let change = Request { work: Some(work), after, reply, witness, answer: None };
        // A queue that nobody serves gives the change back, whose drop tells.
        let _ = self.changes.send(Box::new(change));
    }
}

/// The value of an enum column, or [`Error::Value`].
fn known<T>(what: &'static str, value: String, parse: impl Fn(&str) -> Option<T>) -> Result<T> {
    parse(&value).ok_or(Error::Value { what, value })
}
