//! The one thread that writes. What waits for it at the same time is committed together: one commit costs what many do.
//!
//! Each change is made within a savepoint of its own and answered by itself, once all are committed. One that fails takes no
//! other along; a commit that fails, all of its.

use std::{
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, mpsc},
};

use rusqlite::{Connection, ErrorCode};

use crate::{Commit, Error, Result, Witness, is_of_the_disk};

/// The most that are committed together, so that none waits for long.
const TOGETHER: usize = 64;

/// What a change came to, or the panic of what made it.
pub type Answer<T> = std::thread::Result<Result<T>>;

/// Something that is to be changed in one transaction.
pub trait Change: Send {
    /// Makes it in the transaction that is open.
    fn make(&mut self, db: &Connection) -> Made;
    /// Tells its caller what came of it, now that all is `committed`, or nothing.
    fn settle(self: Box<Self>, committed: Result<()>);
}

/// Whether a change is to be committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Made {
    /// It is.
    Well,
    /// It failed, or was refused.
    Badly,
}

/// A change with what follows from it.
pub struct Request<T, Work, After, Reply> {
    pub work: Option<Work>,
    pub after: After,
    pub reply: Reply,
    pub witness: Option<Witness>,
    pub answer: Option<Answer<T>>,
}

impl<T, Work, After, Reply> Change for Request<T, Work, After, Reply>
where
    T: Send,
    Work: FnOnce(&Connection) -> Result<T> + Send,
    After: FnOnce(&T) + Send,
    Reply: FnOnce(Answer<T>) + Send,
{
    fn make(&mut self, db: &Connection) -> Made {
        let work = self.work.take().expect("it is made once");
        let witness = &mut self.witness;
        // A panic is its caller's, and the thread goes on for the others.
        let answer = catch_unwind(AssertUnwindSafe(|| {
            let before = db.total_changes();
            let value = work(db)?;
            witness.take_if(|_| db.total_changes() == before);
            witness.as_ref().map_or(Ok(()), |witness| witness(Commit::Before))?;
            Ok(value)
        }));
        let made = if matches!(answer, Ok(Ok(_))) { Made::Well } else { Made::Badly };
        self.answer = Some(answer);
        made
    }

    fn settle(self: Box<Self>, committed: Result<()>) {
        let Self { after, reply, witness, answer, .. } = *self;
        reply(match (answer, committed) {
            (Some(Ok(Ok(value))), Ok(())) => catch_unwind(AssertUnwindSafe(|| {
                after(&value);
                witness.map_or(Ok(()), |witness| witness(Commit::After))?;
                Ok(value)
            })),
            (Some(Ok(Ok(_))) | None, committed) => {
                Ok(Err(committed.err().unwrap_or_else(|| Error::Sql("it was never made".into()))))
            }
            (Some(failed), _) => failed,
        });
    }
}

/// Makes all changes that come through `queue` until nobody can send one any more.
pub fn serve(db: &Connection, queue: &mpsc::Receiver<Box<dyn Change>>) {
    while let Ok(first) = queue.recv() {
        let mut waiting: VecDeque<_> = queue.try_iter().take(TOGETHER - 1).collect();
        waiting.push_front(first);
        while !waiting.is_empty() {
            commit_together(db, &mut waiting);
        }
    }
}

/// Commits as many of those that wait as can be at once, which is all of them unless SQLite gives one transaction up.
fn commit_together(db: &Connection, waiting: &mut VecDeque<Box<dyn Change>>) {
    let mut made = Vec::with_capacity(waiting.len());
    let mut work = || -> rusqlite::Result<()> {
        run(db, "BEGIN IMMEDIATE")?;
        while let Some(mut change) = waiting.pop_front() {
            run(db, "SAVEPOINT change")?;
            let how = change.make(db);
            made.push(change);
            if db.is_autocommit() {
                // Where the disk is full, say, SQLite itself has rolled back everything.
                return Err(full());
            }
            if how == Made::Badly {
                run(db, "ROLLBACK TO change")?;
            }
            run(db, "RELEASE change")?;
        }
        run(db, "COMMIT")
    };
    let committed = work().map_err(Arc::new);
    if committed.is_err() {
        if !db.is_autocommit() {
            // Nothing else can be done about one that cannot be rolled back; the next transaction tells.
            let _ = run(db, "ROLLBACK");
        }
        if made.is_empty() {
            made.extend(waiting.drain(..));
        }
    }
    for change in made {
        change.settle(committed.as_ref().copied().map_err(the_same));
    }
}

fn run(db: &Connection, sql: &'static str) -> rusqlite::Result<()> {
    db.prepare_cached(sql)?.execute([]).map(drop)
}

fn full() -> rusqlite::Error {
    rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_FULL), None)
}

/// One failure, told to each whom it concerns.
fn the_same(error: &Arc<rusqlite::Error>) -> Error {
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => Error::Full,
        code if is_of_the_disk(code) => Error::Disk(Box::new(Arc::clone(error))),
        _ => Error::Sql(Box::new(Arc::clone(error))),
    }
}
