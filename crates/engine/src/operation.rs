//! Operations: one thing that a user asked for, with an id, events to follow and a way to cancel it.
//!
//! # Locking
//! The table and each operation's events lie behind leaf mutexes, held for a push or a copy and never across an await.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use model::OperationId;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use wire::control::{self, ErrorBody, Event, Happened, OperationState, Outcome};

use crate::{Clock, Error, Kind, Result, happenings::Happenings};

/// How many operations are remembered, those under way included.
const KEPT: usize = 1_000;
/// How long after their end, in milliseconds.
const KEPT_MS: u64 = 3_600_000;

/// All operations that are under way or not yet forgotten.
#[derive(Debug, Default)]
pub struct Operations {
    table: Mutex<VecDeque<Operation>>,
    happenings: Happenings,
    clock: Clock,
}

/// One operation. Clones are the same one.
#[derive(Debug, Clone)]
pub struct Operation(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    id: OperationId,
    what: String,
    begun_ms: u64,
    token: CancellationToken,
    log: Mutex<Log>,
    length: watch::Sender<usize>,
    happenings: Happenings,
    clock: Clock,
}

#[derive(Debug, Default)]
struct Log {
    events: Vec<Event>,
    /// The newest progress of each sort that is not told yet.
    held: Vec<Event>,
    /// When progress was told.
    progress_ms: u64,
    ended_ms: Option<u64>,
    error: Option<ErrorBody>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Operations {
    /// None yet; they end and are forgotten by `clock`.
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        Self { clock, ..Self::default() }
    }

    /// Begins an operation of that kind on `subject`, which is shown like `vm.start dev`.
    pub fn begin(&self, kind: Kind, subject: &str) -> Operation {
        let what = format!("{} {subject}", kind.name());
        let operation = Operation::new(what.clone(), self.happenings.clone(), self.clock.clone());
        tracing::info!(op = %operation.id(), what, "operation begins");
        self.happenings.tell(Happened::Begun { op_id: operation.id().to_string(), operation: what });
        let mut table = lock(&self.table);
        // Those under way stay however many they are.
        while table.len() >= KEPT
            && let Some(oldest) = table.iter().position(|op| op.ended_ms().is_some())
        {
            table.remove(oldest);
        }
        table.push_back(operation.clone());
        operation
    }

    /// Forgets those that ended too long ago; gives the others.
    fn remembered(&self) -> MutexGuard<'_, VecDeque<Operation>> {
        let now = self.clock.now_ms();
        let mut table = lock(&self.table);
        table.retain(|op| op.ended_ms().is_none_or(|ended| now.saturating_sub(ended) <= KEPT_MS));
        table
    }

    /// Where their beginnings and ends are told, and what else happens.
    #[must_use]
    pub fn happenings(&self) -> &Happenings {
        &self.happenings
    }

    /// All that are remembered, the oldest first.
    #[must_use]
    pub fn list(&self) -> Vec<Operation> {
        self.remembered().iter().cloned().collect()
    }

    /// The operation of that id.
    ///
    /// # Errors
    /// [`Error::Forgotten`] where it ended long ago, [`Error::NotFound`] where it never was.
    pub fn get(&self, id: &str) -> Result<Operation> {
        let found = self.remembered().iter().find(|op| op.0.id.as_str() == id).cloned();
        found.ok_or_else(|| match uuid::Uuid::try_parse(id).map(|id| id.get_version_num()) {
            // Only banger makes these, so it was one.
            Ok(7) => Error::Forgotten(id.to_owned()),
            _ => Error::NotFound { kind: "operation", name: id.to_owned(), hint: None },
        })
    }

    /// Cancels all that are under way.
    pub fn cancel_all(&self) {
        lock(&self.table).iter().for_each(Operation::cancel);
    }

    /// Whether any is under way.
    #[must_use]
    pub fn any_running(&self) -> bool {
        lock(&self.table).iter().any(|op| op.ended_ms().is_none())
    }
}

impl Operation {
    fn new(what: String, happenings: Happenings, clock: Clock) -> Self {
        let id = OperationId::from_uuid(uuid::Uuid::now_v7().into_bytes());
        let first = Event::Begun { op_id: id.to_string() };
        Self(Arc::new(Inner {
            id,
            what,
            begun_ms: clock.now_ms(),
            token: CancellationToken::new(),
            log: Mutex::new(Log { events: vec![first], ..Log::default() }),
            length: watch::Sender::new(1),
            happenings,
            clock,
        }))
    }

    /// One that no list shows and nobody hears of: what others wait for together.
    pub(crate) fn unlisted(what: String) -> Self {
        Self::new(what, Happenings::default(), Clock::default())
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> &OperationId {
        &self.0.id
    }

    /// Cancelled when somebody wants it to end; long waits take it.
    #[must_use]
    pub fn token(&self) -> &CancellationToken {
        &self.0.token
    }

    /// Asks it to end; it undoes what it did.
    pub fn cancel(&self) {
        self.0.token.cancel();
    }

    /// [`Error::Cancelled`] where somebody wants it to end; asked between effects.
    ///
    /// # Errors
    /// See above.
    pub fn checkpoint(&self) -> Result<()> {
        if self.0.token.is_cancelled() { Err(Error::Cancelled) } else { Ok(()) }
    }

    /// Runs `wait` until it is done or somebody wants the operation to end.
    ///
    /// # Errors
    /// [`Error::Cancelled`], or that of `wait`.
    pub async fn cancellable<T>(&self, wait: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            biased;
            () = self.0.token.cancelled() => Err(Error::Cancelled),
            result = wait => result,
        }
    }

    /// Tells those who follow. Progress is told ten times a second: that is enough for a person, and keeps a long import's log
    /// small. The last of each sort, which is where it got to, is told with whatever comes next.
    pub fn emit(&self, event: Event) {
        {
            let mut log = lock(&self.0.log);
            log.held.retain(|held| !is_older(held, &event));
            let is_progress = matches!(event, Event::Progress { .. });
            log.held.push(event);
            if is_progress {
                let now = self.0.clock.now_ms();
                if now.saturating_sub(log.progress_ms) < 100 {
                    return;
                }
                log.progress_ms = now;
            }
        }
        self.tell_held();
    }

    /// Tells what was held back, where nothing else may come.
    pub(crate) fn tell_held(&self) {
        let length = {
            let mut log = lock(&self.0.log);
            let held = std::mem::take(&mut log.held);
            log.events.extend(held);
            log.events.len()
        };
        self.0.length.send_replace(length);
    }

    /// Tells that a stage begins.
    pub fn stage(&self, name: &str) {
        tracing::debug!(op = %self.0.id, stage = name, "stage begins");
        self.emit(Event::Stage { name: name.to_owned() });
    }

    /// Ends it.
    pub fn finish(&self, result: &Result<Outcome>) {
        let error = result.as_ref().err().map(|error| {
            let body = ErrorBody { op_id: Some(self.0.id.to_string()), ..error.to_body() };
            tracing::error!(op = %self.0.id, what = self.0.what, error = body.message, causes = ?body.causes, "operation failed");
            body
        });
        {
            let mut log = lock(&self.0.log);
            log.ended_ms = Some(self.0.clock.now_ms());
            log.error.clone_from(&error);
        }
        let shown = self.show();
        self.0.happenings.tell(Happened::Ended {
            op_id: shown.id,
            operation: shown.what,
            state: shown.state,
            error: error.as_ref().map(|error| error.message.clone()),
        });
        self.emit(match (error, result) {
            (Some(error), _) => Event::Failed { error },
            (None, Ok(outcome)) => Event::Done { result: outcome.clone() },
            (None, Err(_)) => unreachable!("an error has a body"),
        });
    }

    fn ended_ms(&self) -> Option<u64> {
        lock(&self.0.log).ended_ms
    }

    /// Its events from the first; ends after the last.
    #[must_use]
    pub fn follow(&self) -> Follow {
        Follow { operation: self.clone(), next: 0, length: self.0.length.subscribe() }
    }

    /// As it is shown.
    #[must_use]
    pub fn show(&self) -> control::Operation {
        let log = lock(&self.0.log);
        let cancelled = log.error.as_ref().is_some_and(|e| e.code == control::Code::Cancelled);
        let state = match (&log.ended_ms, &log.error) {
            (None, _) => OperationState::Running,
            (Some(_), None) => OperationState::Done,
            (Some(_), Some(_)) if cancelled => OperationState::Cancelled,
            (Some(_), Some(_)) => OperationState::Failed,
        };
        control::Operation {
            id: self.0.id.to_string(),
            what: self.0.what.clone(),
            state,
            begun_ms: self.0.begun_ms,
            ended_ms: log.ended_ms,
            error: log.error.clone(),
        }
    }
}

/// Whether `held` is progress of the same sort as `event`, which says more.
fn is_older(held: &Event, event: &Event) -> bool {
    match (held, event) {
        (Event::Progress { name, unit, .. }, Event::Progress { name: newer, unit: same, .. }) => {
            (name, unit) == (newer, same)
        }
        _ => false,
    }
}

/// The events of an operation, one after the other.
#[derive(Debug)]
pub struct Follow {
    operation: Operation,
    next: usize,
    length: watch::Receiver<usize>,
}

impl Follow {
    /// The next event; `None` after the last.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            self.length.borrow_and_update();
            {
                let log = lock(&self.operation.0.log);
                if let Some(event) = log.events.get(self.next) {
                    self.next += 1;
                    return Some(event.clone());
                }
                if matches!(log.events.last(), Some(Event::Done { .. } | Event::Failed { .. })) {
                    return None;
                }
            }
            if self.length.changed().await.is_err() {
                return None;
            }
        }
    }
}
