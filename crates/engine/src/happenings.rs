//! What happens in the installation, told to whoever listens as it happens.
//!
//! Nothing is kept for later, and nobody is waited for: a listener that is too slow is told how much it missed.

use store::VmNews;
use tokio::sync::broadcast::{self, error::RecvError};
use wire::control::{Happened, Happening};

use crate::view;

/// How much a listener may be behind.
const KEPT: usize = 1_024;

/// Where what happens is told.
#[derive(Debug, Clone)]
pub struct Happenings(broadcast::Sender<Happening>);

impl Default for Happenings {
    fn default() -> Self {
        Self(broadcast::Sender::new(KEPT))
    }
}

impl Happenings {
    /// Tells those who listen now.
    pub fn tell(&self, what: Happened) {
        // Nobody listening is fine.
        let _ = self.0.send(Happening { at_ms: host::clock::now_ms(), what });
    }

    /// Tells what became of a VM.
    pub(crate) fn tell_vm(&self, news: VmNews) {
        let (id, name) = (news.id.to_string(), news.name);
        self.tell(match news.state {
            Some(state) => Happened::Vm { id, name, state: view::state(state), reason: news.reason },
            None => Happened::VmRemoved { id, name },
        });
    }

    /// Listens from now on.
    #[must_use]
    pub fn listen(&self) -> Listener {
        Listener(self.0.subscribe())
    }
}

/// One who listens.
#[derive(Debug)]
pub struct Listener(broadcast::Receiver<Happening>);

impl Listener {
    /// What happens next; `None` where nothing will any more.
    pub async fn next(&mut self) -> Option<Happening> {
        match self.0.recv().await {
            Ok(happening) => Some(happening),
            Err(RecvError::Lagged(count)) => {
                Some(Happening { at_ms: host::clock::now_ms(), what: Happened::Missed { count } })
            }
            Err(RecvError::Closed) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use model::{network::Network, vm::State};

    use super::*;

    #[tokio::test]
    async fn a_slow_listener_is_told_what_it_missed() {
        let happenings = Happenings::default();
        let mut listener = happenings.listen();
        let removed = |n: u64| Happened::VmRemoved { id: n.to_string(), name: String::new() };
        (0..KEPT as u64 + 7).for_each(|n| happenings.tell(removed(n)));
        assert_eq!(listener.next().await.unwrap().what, Happened::Missed { count: 7 });
        assert_eq!(listener.next().await.unwrap().what, removed(7));
        drop(happenings);
        for _ in 8..KEPT + 7 {
            assert!(listener.next().await.is_some());
        }
        assert_eq!(listener.next().await, None);
    }

    #[test]
    fn every_state_is_told() {
        let happenings = Happenings::default();
        let mut listener = happenings.listen();
        for state in State::ALL {
            let id = model::VmId::from_bytes([1; 6]);
            let news = VmNews {
                id,
                name: "dev".to_owned(),
                state: Some(state),
                reason: None,
                network: Network::default(),
            };
            happenings.tell_vm(news);
            let told = listener.0.try_recv().unwrap().what;
            let text = serde_json::to_value(told).unwrap();
            assert_eq!((text["what"].as_str(), text["state"].as_str()), (Some("vm"), Some(state.name())));
        }
    }
}
