//! A crash where a test orders one: `BANGER_CRASH_AT=N` ends the daemon right after the effect or commit of that number, the
//! first being 0, counted from its start. Only in programs that are built with the feature `faults`.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use engine::fault::{Faults, Moment, Point, Verdict};

/// The variable that orders a crash.
const VARIABLE: &str = "BANGER_CRASH_AT";

struct CrashAt {
    number: usize,
    reached: AtomicUsize,
}

/// The crash that was ordered, if one was.
pub fn ordered() -> Option<Arc<dyn Faults>> {
    let number = host::env::text(VARIABLE)?.parse().ok()?;
    Some(Arc::new(CrashAt { number, reached: AtomicUsize::new(0) }))
}

impl Faults for CrashAt {
    fn reach(&self, point: Point) -> Verdict {
        // What is before one effect or commit is after the one that came before it.
        if point.moment == Moment::After && self.reached.fetch_add(1, Ordering::SeqCst) == self.number {
            std::process::abort();
        }
        Verdict::GoOn
    }
}
