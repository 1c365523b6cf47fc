//! Who uses a VM, since when nobody has, and what its guest uses.
//!
//! A start and a change of its size touch a VM, and so does whatever goes into it or comes out of it (a command, a connection,
//! files, a workspace) for as long as that is open. Looking at it does not.
//!
//! # Locking
//! Both mutexes are leaves, held for a look or an assignment.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use model::{VmId, vm::State};
use tokio::time::MissedTickBehavior;
use wire::{
    control::{StatsOfVm, VmStats},
    guest::Stats,
};

use super::Live;
use crate::{Clock, Engine, Error, Kind, Result, blocking, chain};

/// How often, at most, VMs are looked at whether they are unused.
const LOOK: Duration = Duration::from_secs(30);
/// How long a guest may take to say what it uses. One that is stuck is asked again when its turn comes.
const ANSWER: Duration = Duration::from_secs(5);

/// Who uses a VM.
#[derive(Debug)]
pub struct Usage {
    uses: Mutex<Uses>,
    clock: Clock,
}

#[derive(Debug)]
struct Uses {
    streams: usize,
    touched: Instant,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Usage {
    /// That of a VM which was used just now.
    pub fn new(clock: Clock) -> Self {
        Self { uses: Mutex::new(Uses { streams: 0, touched: clock.moment() }), clock }
    }

    /// Notes that the VM was used.
    pub fn touch(&self) {
        lock(&self.uses).touched = self.clock.moment();
    }

    /// How long it has been unused.
    fn idle(&self) -> Duration {
        let uses = lock(&self.uses);
        if uses.streams > 0 {
            return Duration::ZERO;
        }
        self.clock.moment().saturating_duration_since(uses.touched)
    }
}

/// A stream into a VM, which is used for as long as this is held.
#[derive(Debug)]
pub struct Using(Arc<Live>);

impl Using {
    /// Notes that a stream into `live` is open.
    pub fn new(live: Arc<Live>) -> Self {
        lock(&live.usage.uses).streams += 1;
        Self(live)
    }
}

impl Drop for Using {
    fn drop(&mut self) {
        let usage = &self.0.usage;
        let mut uses = lock(&usage.uses);
        uses.streams -= 1;
        uses.touched = usage.clock.moment();
    }
}

/// What a guest said last of what it uses, and what follows from its last two answers.
#[derive(Debug, Default)]
pub struct Polled(Mutex<Option<VmStats>>);

impl Polled {
    /// What is known.
    pub fn last(&self) -> Option<VmStats> {
        lock(&self.0).clone()
    }

    /// Takes an answer over.
    fn take(&self, at_ms: u64, guest: Stats, host_memory: u64) -> VmStats {
        let mut last = lock(&self.0);
        let cpu_percent = last.as_ref().and_then(|before| {
            let passed = at_ms.checked_sub(before.at_ms).filter(|ms| *ms > 0)?;
            // Less than before is another boot's.
            let busy = guest.cpu_ms.checked_sub(before.guest.cpu_ms)?;
            Some(100.0 * busy as f64 / passed as f64)
        });
        let now = VmStats { at_ms, cpu_percent, host_memory, guest };
        *last = Some(now.clone());
        now
    }
}

impl Engine {
    /// What each of the VMs that `texts` refer to, or each that runs, uses. Guests that did not say yet are asked now.
    ///
    /// # Errors
    /// Where there is no such VM, it does not run, or its guest does not answer.
    pub async fn vm_stats(&self, texts: Vec<String>) -> Result<Vec<StatsOfVm>> {
        let vms: Vec<_> = if texts.is_empty() {
            let all = self.store().vm_list()?;
            all.into_iter().filter_map(|vm| Some((vm.id, vm.name, self.live(vm.id)?))).collect()
        } else {
            let found = texts.iter().map(|text| {
                let vm = self.store().vm_get(self.resolve(text)?)?;
                let live = self.live(vm.id).ok_or_else(|| Error::NotRunning(vm.name.clone()))?;
                Ok((vm.id, vm.name, live))
            });
            found.collect::<Result<_>>()?
        };
        let mut all = Vec::new();
        for (id, name, live) in vms {
            let stats = match live.polled.last() {
                Some(stats) => stats,
                None => live.poll().await.map_err(|cause| Error::Guest {
                    name: name.clone(),
                    action: "say what it uses",
                    cause: Box::new(cause),
                })?,
            };
            all.push(StatsOfVm { id: id.to_string(), name: name.to_string(), stats });
        }
        Ok(all)
    }

    /// Asks every guest in turn what it uses, and stops VMs that nobody used for long. Ends with the engine.
    pub(crate) fn keep_watch(&self) {
        let weak = Arc::downgrade(&self.0);
        let clock = &self.0.clock;
        every(self.0.config.stats_interval, clock, weak.clone(), |engine| {
            for (_, live) in engine.all_live() {
                // Each by itself, so that one that is stuck holds up no other.
                let Ok(asking) = live.asking.clone().try_lock_owned() else { continue };
                tokio::spawn(async move {
                    if let Err(error) = live.poll().await {
                        tracing::debug!(error = chain(&error), "a guest does not say what it uses");
                    }
                    drop(asking);
                });
            }
        });
        let Some(limit) = self.0.config.auto_stop_stale_after else { return };
        every(LOOK.min(limit / 4), clock, weak, move |engine| {
            for (id, live) in engine.all_live() {
                if live.usage.idle() >= limit {
                    engine.begin(Kind::VmAutoStop, &id.to_string(), move |engine, operation| {
                        engine.vm_stop_unused(operation, id, limit)
                    });
                }
            }
        });
    }

    /// Whether VM `id` is to be stopped because nobody has used it for `limit`, or an earlier try did not get to its end.
    pub(crate) fn is_unused(&self, id: VmId, limit: Duration) -> Result<bool> {
        Ok(match self.reread(id)?.state {
            State::Running => self.live(id).is_some_and(|live| live.usage.idle() >= limit),
            State::Stopping | State::Stopped => true,
            State::Created | State::Starting | State::Error | State::Deleting => false,
        })
    }
}

/// Does `work` again and again until the engine is gone.
fn every(
    period: Duration,
    clock: &Clock,
    engine: std::sync::Weak<crate::Inner>,
    work: impl Fn(&Engine) + Send + 'static,
) {
    let mut leaps = clock.leaps();
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(period.max(Duration::from_millis(100)));
        // A host that was asleep does not catch up.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                Ok(()) = leaps.changed() => {}
            }
            match engine.upgrade() {
                Some(inner) => work(&Engine(inner)),
                None => return,
            }
        }
    });
}

impl Live {
    /// Asks the guest what it uses.
    async fn poll(&self) -> Result<VmStats, crate::guest::GuestError> {
        let asked = tokio::time::timeout(ANSWER, self.guest.stats()).await;
        let guest = asked.map_err(|_| crate::guest::GuestError::Timeout(ANSWER))??;
        let pid = self.machine.id().pid;
        // A process that has just gone uses nothing.
        let host_memory = blocking(move || Ok(host::proc::resident(pid)?)).await.unwrap_or(0);
        Ok(self.polled.take(host::clock::now_ms(), guest, host_memory))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_of_a_cpu_is_that_between_two_answers() {
        let polled = Polled::default();
        let of = |cpu_ms| Stats { cpu_ms, ..Stats::default() };
        assert_eq!(polled.take(1_000, of(100), 7).cpu_percent, None);
        assert_eq!(polled.take(3_000, of(1_100), 7).cpu_percent, Some(50.0));
        assert_eq!(polled.take(3_000, of(1_100), 7).cpu_percent, None, "no time has passed");
        assert_eq!(polled.take(4_000, of(3), 7).cpu_percent, None, "it was restarted");
        assert_eq!(polled.last().unwrap().guest.cpu_ms, 3);
    }
}
