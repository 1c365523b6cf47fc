//! Where tests make things go wrong: a fault, a cancel or a crash, between any two effects of an operation.
//!
//! An operation reaches a point right before and right after each effect, before each piece of a transfer, and right before and
//! after each commit of the database. Nobody listens to them unless [`crate::Seams`] says so.

use std::sync::Arc;

use crate::Result;

/// A moment of one effect or commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Point {
    /// What the effect is, like `disk_overlay`; [`COMMIT`] for a commit.
    pub name: &'static str,
    /// On which side of it.
    pub moment: Moment,
}

/// The name of the points around a commit.
pub const COMMIT: &str = "commit";

/// A side of an effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// It has not happened.
    Before,
    /// It has.
    After,
}

/// What a point leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing goes wrong.
    GoOn,
    /// What the point belongs to fails.
    Fail,
}

/// Listens to points.
pub trait Faults: Send + Sync {
    /// Told that `point` is reached, on whatever thread that happens. Instead of answering it may end the process, or panic:
    /// then whoever reached the point does nothing more, which is what a crash leaves of it.
    fn reach(&self, point: Point) -> Verdict;
}

/// The points, with whoever listens.
#[derive(Clone, Default)]
pub struct Points(Option<Arc<dyn Faults>>);

impl std::fmt::Debug for Points {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Points").field(&self.0.is_some()).finish()
    }
}

impl Points {
    /// The points that `faults` listens to.
    #[must_use]
    pub fn new(faults: Option<Arc<dyn Faults>>) -> Self {
        Self(faults)
    }

    /// Lets `effect` happen between its two points.
    ///
    /// # Errors
    /// That of the effect, or the fault.
    pub async fn around<T>(&self, name: &'static str, effect: impl Future<Output = Result<T>>) -> Result<T> {
        self.reach(name, Moment::Before)?;
        let value = effect.await?;
        self.reach(name, Moment::After)?;
        Ok(value)
    }

    /// A point within an effect that is made of many pieces, right before one of them.
    ///
    /// # Errors
    /// The fault.
    pub fn pass(&self, name: &'static str) -> host::Result<()> {
        self.reach(name, Moment::Before)
    }

    fn reach(&self, name: &'static str, moment: Moment) -> host::Result<()> {
        let Some(faults) = &self.0 else { return Ok(()) };
        match faults.reach(Point { name, moment }) {
            Verdict::GoOn => Ok(()),
            Verdict::Fail => Err(host::Error::new("get past", name, std::io::Error::other("a test's fault"))),
        }
    }

    /// `store`, whose commits are points too.
    #[must_use]
    pub fn watch(&self, store: store::Store) -> store::Store {
        let Some(faults) = self.0.clone() else { return store };
        store.with_witness(Arc::new(move |commit| {
            let moment = match commit {
                store::Commit::Before => Moment::Before,
                store::Commit::After => Moment::After,
            };
            match faults.reach(Point { name: COMMIT, moment }) {
                Verdict::GoOn => Ok(()),
                Verdict::Fail => Err(store::Error::Full),
            }
        }))
    }
}
