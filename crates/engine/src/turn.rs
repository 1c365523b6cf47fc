//! Turns: at most one lifecycle operation works on a VM at a time, in order of arrival.
//!
//! # Locking
//! One turn per VM, granted first come, first served; a `kill` goes to the front and interrupts the holder if that is a
//! start. Waiting is cancelled by dropping the future. The inner mutex is a leaf, held for a few instructions and never
//! across an await. Nobody holds the turns of two VMs.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

/// The queue for one VM.
#[derive(Debug, Default, Clone)]
pub struct Turns(Arc<Mutex<Queue>>);

#[derive(Debug, Default)]
struct Queue {
    held: bool,
    /// How many who interrupt are waiting.
    urgent: usize,
    interrupt: Option<CancellationToken>,
    waiting: VecDeque<oneshot::Sender<Turn>>,
}

/// The right to change the VM; ends when dropped.
#[derive(Debug)]
#[must_use = "the turn ends with this value"]
pub struct Turn {
    /// None of one that was given back.
    turns: Option<Turns>,
}

impl Turns {
    /// Waits for the turn, behind all who came before.
    pub async fn take(&self) -> Turn {
        let place = self.queue(VecDeque::push_back);
        place.await.expect("the queue lives as long as its VM, and it is held here")
    }

    /// Interrupts a holder that can be interrupted and waits for the turn before all others.
    pub async fn take_first(&self) -> Turn {
        let _urgent = Urgent::new(self);
        let place = self.queue(VecDeque::push_front);
        place.await.expect("the queue lives as long as its VM, and it is held here")
    }

    fn queue(
        &self,
        put: fn(&mut VecDeque<oneshot::Sender<Turn>>, oneshot::Sender<Turn>),
    ) -> oneshot::Receiver<Turn> {
        let (sender, receiver) = oneshot::channel();
        put(&mut self.lock().waiting, sender);
        self.grant();
        receiver
    }

    /// Gives the free turn to the first who still waits.
    fn grant(&self) {
        loop {
            let next = {
                let mut queue = self.lock();
                if queue.held {
                    return;
                }
                let Some(next) = queue.waiting.pop_front() else { return };
                queue.held = true;
                next
            };
            // One who left is told nothing; the turn comes back in the drop of what was not sent.
            match next.send(Turn { turns: Some(self.clone()) }) {
                Ok(()) => return,
                Err(unwanted) => unwanted.give_back(),
            }
        }
    }

    fn end(&self) {
        let mut queue = self.lock();
        queue.held = false;
        queue.interrupt = None;
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One who interrupts, for as long as it waits.
struct Urgent<'a>(&'a Turns);

impl<'a> Urgent<'a> {
    fn new(turns: &'a Turns) -> Self {
        let mut queue = turns.lock();
        queue.urgent += 1;
        if let Some(token) = &queue.interrupt {
            token.cancel();
        }
        drop(queue);
        Self(turns)
    }
}

impl Drop for Urgent<'_> {
    fn drop(&mut self) {
        self.0.lock().urgent -= 1;
    }
}

impl Turn {
    /// Lets a `kill` that comes meanwhile, or that waits already, cancel `token`, until the turn ends.
    pub fn interruptible_by_kill(&self, token: CancellationToken) {
        let Some(turns) = &self.turns else { return };
        let mut queue = turns.lock();
        if queue.urgent > 0 {
            token.cancel();
        }
        queue.interrupt = Some(token);
    }

    /// Ends it without granting the next one, which whoever granted this one does.
    fn give_back(mut self) {
        if let Some(turns) = self.turns.take() {
            turns.end();
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(turns) = self.turns.take() {
            turns.end();
            turns.grant();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    async fn is_pending<T>(future: &mut (impl Future<Output = T> + Unpin)) -> bool {
        tokio::time::timeout(Duration::from_millis(20), future).await.is_err()
    }

    #[tokio::test]
    async fn turns_come_in_order_and_one_who_left_is_skipped() {
        let turns = Turns::default();
        let held = turns.take().await;
        let mut second = Box::pin(turns.take());
        let mut third = Box::pin(turns.take());
        let mut fourth = Box::pin(turns.take());
        assert!(
            is_pending(&mut second).await && is_pending(&mut third).await && is_pending(&mut fourth).await
        );
        drop(second);
        drop(held);
        let held = third.await;
        assert!(is_pending(&mut fourth).await);
        drop(held);
        let _held = fourth.await;
    }

    #[tokio::test]
    async fn a_kill_interrupts_the_holder_and_comes_first() {
        let turns = Turns::default();
        let held = turns.take().await;
        let token = CancellationToken::new();
        held.interruptible_by_kill(token.clone());
        let mut waiting = Box::pin(turns.take());
        assert!(is_pending(&mut waiting).await);
        let mut kill = Box::pin(turns.take_first());
        assert!(is_pending(&mut kill).await);
        assert!(token.is_cancelled());
        drop(held);
        let killing = kill.await;
        assert!(is_pending(&mut waiting).await);
        drop(killing);
        let _held = waiting.await;
    }

    #[tokio::test]
    async fn a_kill_that_waits_interrupts_what_begins_meanwhile() {
        let turns = Turns::default();
        let held = turns.take().await;
        let mut kill = Box::pin(turns.take_first());
        assert!(is_pending(&mut kill).await);
        let token = CancellationToken::new();
        held.interruptible_by_kill(token.clone());
        assert!(token.is_cancelled());
        drop(held);
        drop(kill.await);
        let next = turns.take().await;
        let token = CancellationToken::new();
        next.interruptible_by_kill(token.clone());
        assert!(!token.is_cancelled(), "that kill is over");
    }

    #[tokio::test]
    async fn a_turn_granted_to_one_who_left_is_not_lost() {
        let turns = Turns::default();
        let held = turns.take().await;
        let mut waiting = Box::pin(turns.take());
        assert!(is_pending(&mut waiting).await);
        drop(held); // grants it to `waiting`, which never looks
        drop(waiting);
        drop(turns.take().await);
        assert_eq!(Arc::strong_count(&turns.0), 1, "nothing of them stays");
    }

    #[tokio::test]
    async fn those_who_left_in_thousands_are_skipped_and_nothing_of_them_stays() {
        let turns = Turns::default();
        let held = turns.take().await;
        for _ in 0..100_000 {
            drop(turns.queue(VecDeque::push_back));
        }
        drop(held);
        drop(turns.take().await);
        assert_eq!(Arc::strong_count(&turns.0), 1);
    }
}
