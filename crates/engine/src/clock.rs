//! The time that the engine goes by: the host's, which a test may put forward.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::watch;

/// The clock. Clones are the same one.
#[derive(Debug, Clone)]
pub struct Clock(Arc<watch::Sender<Duration>>);

impl Default for Clock {
    /// The host's.
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(Duration::ZERO)))
    }
}

impl Clock {
    /// Lets `time` pass at once, for all who go by it.
    pub fn put_forward(&self, time: Duration) {
        self.0.send_modify(|ahead| *ahead += time);
    }

    /// Wall-clock time in whole milliseconds since the Unix epoch.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        let ahead = u64::try_from(self.ahead().as_millis()).unwrap_or(u64::MAX);
        host::clock::now_ms().saturating_add(ahead)
    }

    /// A moment that can be compared with others.
    #[must_use]
    pub fn moment(&self) -> Instant {
        Instant::now() + self.ahead()
    }

    /// Tells whenever it is put forward.
    pub(crate) fn leaps(&self) -> watch::Receiver<Duration> {
        self.0.subscribe()
    }

    fn ahead(&self) -> Duration {
        *self.0.borrow()
    }
}
