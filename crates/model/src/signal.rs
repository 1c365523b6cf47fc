//! Signals that can be sent to a process of ours (signal(7)).

use std::fmt;

/// A signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Signal {
    /// Asks it to end.
    Term,
    /// Ends it.
    Kill,
    /// What Ctrl-C sends.
    Int,
    /// Its terminal went away.
    Hup,
    /// What Ctrl-\ sends.
    Quit,
    /// Whatever the program makes of it.
    Usr1,
    /// Whatever the program makes of it.
    Usr2,
    /// Ends it, with a core file where the host keeps those.
    Abrt,
}

impl Signal {
    /// All of them.
    pub const ALL: [Self; 8] =
        [Self::Term, Self::Kill, Self::Int, Self::Hup, Self::Quit, Self::Usr1, Self::Usr2, Self::Abrt];

    /// Its name, as signal(7) has it.
    #[must_use]
    pub fn full_name(self) -> &'static str {
        match self {
            Self::Term => "SIGTERM",
            Self::Kill => "SIGKILL",
            Self::Int => "SIGINT",
            Self::Hup => "SIGHUP",
            Self::Quit => "SIGQUIT",
            Self::Usr1 => "SIGUSR1",
            Self::Usr2 => "SIGUSR2",
            Self::Abrt => "SIGABRT",
        }
    }

    /// Its name without `SIG`.
    #[must_use]
    pub fn name(self) -> &'static str {
        &self.full_name()["SIG".len()..]
    }

    /// The signal of that name, in any case, with or without `SIG`.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        let name = name.to_ascii_uppercase();
        let name = name.strip_prefix("SIG").unwrap_or(&name);
        Self::ALL.into_iter().find(|signal| signal.name() == name)
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for signal in Signal::ALL {
            assert_eq!(Signal::from_name(signal.name()), Some(signal));
            assert_eq!(Signal::from_name(&format!("sig{signal}")), Some(signal));
        }
        assert_eq!(Signal::from_name("SEGV"), None);
        assert_eq!(Signal::from_name(""), None);
    }
}
