//! A VM's states, what may be asked of it in each, and how it ends.
//!
//! ```text
//!            start            agent answers           stop
//! created ─────────▶ starting ─────────────▶ running ──────▶ stopping ──▶ stopped
//!    │                  │ │                     │                │           │
//!    │      undone, no  │ │ the guest ran,      │ it ended       │ failed    │ start
//!    │      row at all ◀┘ └▶ error ◀────────────┴────────────────┘           └──▶ starting
//!    └───────────── delete, from any state ──▶ deleting ──▶ (gone)
//! ```
//! The durable record holds the state; what is held on the host right now is in the ledger.

use std::fmt;

/// Where a VM is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// Recorded, never started, and nothing of it is on the host but its directory.
    Created,
    /// A start is under way.
    Starting,
    /// Its agent answered.
    Running,
    /// A stop or kill is under way.
    Stopping,
    /// Not running, ready to start.
    Stopped,
    /// Not running, and the record says why that was not meant to be.
    Error,
    /// A delete is under way or was interrupted; it is only ever finished.
    Deleting,
}

impl State {
    /// All states, in the order of a life.
    pub const ALL: [Self; 7] = [
        Self::Created,
        Self::Starting,
        Self::Running,
        Self::Stopping,
        Self::Stopped,
        Self::Error,
        Self::Deleting,
    ];

    /// The state's stable name, for people, JSON and the database.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Error => "error",
            Self::Deleting => "deleting",
        }
    }

    /// The state of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.name() == name)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What can be asked of a VM's life. Restart is stop, then start, under one turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Request {
    /// Start it.
    Start,
    /// Stop it, losing nothing.
    Stop,
    /// End its VMM now.
    Kill,
    /// Remove everything of it.
    Delete,
    /// Run something in it, or look at it from inside.
    Enter,
    /// Enlarge a disk of it.
    Grow,
    /// Give it another number of CPUs or amount of memory.
    Resize,
    /// Make its system overlay new.
    Reset,
}

impl Request {
    /// All requests.
    pub const ALL: [Self; 8] = [
        Self::Start,
        Self::Stop,
        Self::Kill,
        Self::Delete,
        Self::Enter,
        Self::Grow,
        Self::Resize,
        Self::Reset,
    ];
}

/// What follows from a request in a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Do it, moving through this state.
    Do(State),
    /// It is so already.
    Already,
    /// It cannot be done now.
    Refused(Refusal),
}

/// Why a request cannot be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// There is nothing to enter.
    NotRunning,
    /// A machine that runs keeps what it has.
    Running,
    /// It is being deleted; nothing else can happen to it.
    BeingDeleted,
}

/// What follows from `request` when the VM's turn is held and it is in `state`.
///
/// A turn is never held by two, so `Starting` and `Stopping` are met only where an operation was cut off by a crash before
/// reconcile came by; such a VM holds nothing any more.
#[must_use]
pub fn answer(state: State, request: Request) -> Answer {
    use Answer::{Already, Do, Refused};
    match (state, request) {
        (State::Deleting, Request::Delete) => Do(State::Deleting),
        (
            State::Deleting,
            Request::Start
            | Request::Stop
            | Request::Kill
            | Request::Enter
            | Request::Grow
            | Request::Resize
            | Request::Reset,
        ) => Refused(Refusal::BeingDeleted),
        (
            State::Created
            | State::Starting
            | State::Running
            | State::Stopping
            | State::Stopped
            | State::Error,
            Request::Delete,
        ) => Do(State::Deleting),

        (State::Running, Request::Start) => Already,
        (
            State::Created | State::Starting | State::Stopping | State::Stopped | State::Error,
            Request::Start,
        ) => Do(State::Starting),

        (State::Created | State::Stopped, Request::Stop | Request::Kill) => Already,
        (State::Starting | State::Running | State::Stopping, Request::Stop | Request::Kill) => {
            Do(State::Stopping)
        }
        // Afterwards the state is `stopped`, never `error`.
        (State::Error, Request::Stop | Request::Kill) => Do(State::Stopping),

        (State::Running, Request::Enter) => Do(State::Running),
        (
            State::Created | State::Starting | State::Stopping | State::Stopped | State::Error,
            Request::Enter,
        ) => Refused(Refusal::NotRunning),

        (State::Running, Request::Resize | Request::Reset) => Refused(Refusal::Running),
        (
            State::Created
            | State::Starting
            | State::Running
            | State::Stopping
            | State::Stopped
            | State::Error,
            Request::Grow,
        )
        | (
            State::Created | State::Starting | State::Stopping | State::Stopped | State::Error,
            Request::Resize | Request::Reset,
        ) => Do(state),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_and_request_has_an_answer() {
        for state in State::ALL {
            assert_eq!(State::from_name(state.name()), Some(state));
            for request in Request::ALL {
                let answer = answer(state, request);
                // What holds for all of them:
                match request {
                    Request::Delete => assert_eq!(answer, Answer::Do(State::Deleting)),
                    Request::Enter => {
                        assert_eq!(answer == Answer::Do(State::Running), state == State::Running)
                    }
                    Request::Start | Request::Stop | Request::Kill | Request::Grow => {
                        let refused = answer == Answer::Refused(Refusal::BeingDeleted);
                        assert_eq!(refused, state == State::Deleting, "{state} {request:?}");
                    }
                    Request::Resize | Request::Reset => {
                        let idle = !matches!(state, State::Running | State::Deleting);
                        assert_eq!(answer == Answer::Do(state), idle, "{state} {request:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_stop_of_what_does_not_run_is_done_already() {
        assert_eq!(answer(State::Stopped, Request::Stop), Answer::Already);
        assert_eq!(answer(State::Running, Request::Start), Answer::Already);
        assert_eq!(answer(State::Error, Request::Start), Answer::Do(State::Starting));
    }
}
