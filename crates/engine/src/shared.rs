//! Work that several operations want at once and that is done once: the pull of one image for two clients.
//!
//! ```text
//! operation A ── seat ──┐
//!                       ├──▶ the work: a task with an operation of its own, which no list shows ──▶ one result for all
//! operation B ── seat ──┘
//! ```
//! The work lives while somebody sits with it. Who is cancelled leaves at once and is not missed; the last who leaves has the
//! work cancelled, and waits until it has undone what it did. What it tells of itself, all of them tell.
//!
//! Whoever else wants to change what the work is about waits for a claim ([`crate::Engine::claim`]), which the work takes itself.
//!
//! # Locking
//! The table is a leaf, held to look up, insert or remove.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use model::OperationId;
use tokio::sync::watch;
use wire::control::Event;

use crate::{Error, Operation, Result};

/// The work of one sort that is under way. Clones are the same one.
#[derive(Debug, Clone)]
pub struct Shared<T>(Arc<Mutex<HashMap<String, Work<T>>>>);

/// What all who wait for the work get; nothing until it is through.
type Answer<T> = Option<Result<T, Arc<Error>>>;

/// Work that is under way.
#[derive(Debug)]
struct Work<T> {
    operation: Operation,
    answer: watch::Receiver<Answer<T>>,
    /// How many sit with it; without one it is not in the table.
    seats: usize,
}

/// One who waits for the work.
struct Seat<T> {
    table: Shared<T>,
    key: String,
    operation: Operation,
    answer: watch::Receiver<Answer<T>>,
    is_taken: bool,
}

/// What somebody leaves behind who does not want the work any more.
#[derive(Debug, PartialEq, Eq)]
enum Left {
    /// Work that others wait for.
    ToOthers,
    /// Work that ends, or has ended.
    ToNobody,
}

impl<T> Default for Shared<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T: Clone + Send + Sync + 'static> Shared<T> {
    /// Has the work `key` done for `operation`: what is under way, or what `begin` begins. Two who give the same key must be
    /// content with the same result.
    ///
    /// # Errors
    /// That of the work, or [`Error::Cancelled`].
    pub async fn with<F>(
        &self,
        key: String,
        operation: &Operation,
        begin: impl FnOnce(Operation) -> F,
    ) -> Result<T>
    where
        F: Future<Output = Result<T>> + Send + 'static,
    {
        operation.checkpoint()?;
        let mut seat = self.take_seat(key, operation, begin);
        let mut told = seat.operation.follow();
        let mut answer = seat.answer.clone();
        loop {
            tokio::select! {
                biased;
                () = operation.token().cancelled() => match seat.leave() {
                    Left::ToOthers => return Err(Error::Cancelled),
                    Left::ToNobody => break,
                },
                event = told.next() => match event {
                    // Whoever waits has begun before.
                    Some(Event::Begun { .. }) => {}
                    Some(event) => operation.emit(event),
                    None => break,
                },
                _ = answer.wait_for(Option::is_some) => break,
            }
        }
        let answer = answer.wait_for(Option::is_some).await.map(|answer| answer.clone());
        // Nothing is left of work without an answer but the process that is going down.
        answer.ok().flatten().unwrap_or_else(|| Err(Arc::new(Error::ShuttingDown))).map_err(Error::Shared)
    }

    fn take_seat<F>(&self, key: String, waiter: &Operation, begin: impl FnOnce(Operation) -> F) -> Seat<T>
    where
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let (operation, answer) = match self.lock().entry(key.clone()) {
            Entry::Occupied(mut entry) => {
                let work = entry.get_mut();
                work.seats += 1;
                tracing::info!(op = %waiter.id(), work = %work.operation.id(), "operation waits for work that is under way");
                (work.operation.clone(), work.answer.clone())
            }
            Entry::Vacant(entry) => {
                let operation = Operation::unlisted(key.clone());
                tracing::info!(op = %waiter.id(), work = %operation.id(), "operation begins work that others may share");
                let (sender, answer) = watch::channel(None);
                entry.insert(Work { operation: operation.clone(), answer: answer.clone(), seats: 1 });
                let task = tokio::spawn(begin(operation.clone()));
                let (table, key, work) = (self.clone(), key.clone(), operation.clone());
                tokio::spawn(async move {
                    // One that panicked is a bug of ours, and those who wait are told even so.
                    let result = task.await.unwrap_or(Err(Error::Broken));
                    work.tell_held();
                    // Whoever comes now looks again at what there is.
                    table.remove(&key, work.id());
                    sender.send_replace(Some(result.map_err(Arc::new)));
                });
                (operation, answer)
            }
        };
        Seat { table: self.clone(), key, operation, answer, is_taken: true }
    }

    fn remove(&self, key: &str, id: &OperationId) {
        let mut table = self.lock();
        if table.get(key).is_some_and(|work| work.operation.id() == id) {
            table.remove(key);
        }
    }
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Work<T>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Seat<T> {
    /// Gives the seat back. Without anybody the work is cancelled, and the next who wants it begins anew.
    fn leave(&mut self) -> Left {
        if !std::mem::take(&mut self.is_taken) {
            return Left::ToNobody;
        }
        let mut table = self.table.lock();
        let Some(work) = table.get_mut(&self.key).filter(|work| work.operation.id() == self.operation.id())
        else {
            return Left::ToNobody;
        };
        work.seats -= 1;
        if work.seats > 0 {
            return Left::ToOthers;
        }
        table.remove(&self.key);
        self.operation.cancel();
        Left::ToNobody
    }
}

impl<T> Drop for Seat<T> {
    fn drop(&mut self) {
        self.leave();
    }
}
