//! What the end of a machine means for its VM.
//!
//! ```text
//!                     asked for nothing               stop or kill asked for
//! guest powered off   stopped                         stopped
//! guest rebooted      start again; before it was      stopped
//!                     ever ready: error
//! guest panicked      error                           stopped
//! VMM died            error                           stopped
//! VMM told to quit    error (somebody else did it)    stopped
//! host rebooted       stopped                         stopped
//! ```

use std::fmt;

use crate::vm::State;

/// How a machine ended, as its VMM and its console tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MachineEnd {
    /// The guest powered itself off.
    Poweroff,
    /// The guest reset itself: a reboot.
    Reset,
    /// The guest's kernel panicked.
    Panic,
    /// The VMM was told over its control socket to quit.
    Quit,
    /// The VMM's process ended without saying why: a crash, `kill -9`, the OOM killer.
    VmmDied,
    /// The host was restarted while the machine ran.
    HostReboot,
}

impl MachineEnd {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Poweroff, Self::Reset, Self::Panic, Self::Quit, Self::VmmDied, Self::HostReboot];

    /// Its stable name, for JSON and the database.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Poweroff => "guest_poweroff",
            Self::Reset => "guest_reboot",
            Self::Panic => "guest_panic",
            Self::Quit => "vmm_quit",
            Self::VmmDied => "vmm_died",
            Self::HostReboot => "host_reboot",
        }
    }

    /// The end of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|end| end.name() == name)
    }
}

impl fmt::Display for MachineEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Poweroff => "the guest powered itself off",
            Self::Reset => "the guest rebooted",
            Self::Panic => "the guest's kernel panicked",
            Self::Quit => "the VMM was told to quit",
            Self::VmmDied => "the VMM ended unexpectedly",
            Self::HostReboot => "the host was restarted",
        })
    }
}

/// What was going on when a machine ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Moment {
    /// It was starting: its agent had not answered yet.
    BeforeReady,
    /// Its agent had answered, and nobody had asked for an end.
    Running,
    /// A stop, kill or delete was under way.
    EndAskedFor,
}

/// What follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consequence {
    /// Unwind, then this state with the end as its reason.
    Settle(State),
    /// Unwind, then start the VM again: its guest asked for that.
    StartAgain,
}

/// What follows from `end` at that `moment`.
#[must_use]
pub fn consequence(end: MachineEnd, moment: Moment) -> Consequence {
    use Consequence::{Settle, StartAgain};
    match (end, moment) {
        (_, Moment::EndAskedFor)
        | (MachineEnd::Poweroff, Moment::BeforeReady | Moment::Running)
        | (MachineEnd::HostReboot, Moment::BeforeReady | Moment::Running) => Settle(State::Stopped),
        (MachineEnd::Reset, Moment::Running) => StartAgain,
        // A guest that resets before it ever answered would do so for ever.
        (MachineEnd::Reset, Moment::BeforeReady)
        | (
            MachineEnd::Panic | MachineEnd::Quit | MachineEnd::VmmDied,
            Moment::BeforeReady | Moment::Running,
        ) => Settle(State::Error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_this() {
        use Consequence::{Settle, StartAgain};
        use State::{Error, Stopped};
        let table = [
            (MachineEnd::Poweroff, [Settle(Stopped), Settle(Stopped)]),
            (MachineEnd::Reset, [Settle(Error), StartAgain]),
            (MachineEnd::Panic, [Settle(Error), Settle(Error)]),
            (MachineEnd::Quit, [Settle(Error), Settle(Error)]),
            (MachineEnd::VmmDied, [Settle(Error), Settle(Error)]),
            (MachineEnd::HostReboot, [Settle(Stopped), Settle(Stopped)]),
        ];
        assert_eq!(table.map(|(end, _)| end), MachineEnd::ALL);
        for (end, [before_ready, running]) in table {
            assert_eq!(consequence(end, Moment::BeforeReady), before_ready, "{end}");
            assert_eq!(consequence(end, Moment::Running), running, "{end}");
            assert_eq!(consequence(end, Moment::EndAskedFor), Settle(Stopped), "{end}");
            assert_eq!(MachineEnd::from_name(end.name()), Some(end));
        }
    }
}
