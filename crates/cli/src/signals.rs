//! Signals to this process, as values.

use tokio::signal::unix::{Signal, SignalKind};

use crate::error::Error;

/// A signal that arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// Ctrl-C, where the terminal makes a signal of it.
    Interrupt,
    /// Ctrl-\, likewise.
    Quit,
    /// Somebody wants this process to end.
    Terminate,
    /// The terminal has gone.
    Hangup,
    /// The terminal has another size.
    Window,
}

impl Heard {
    /// Its Linux number.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Hangup => 1,
            Self::Interrupt => 2,
            Self::Quit => 3,
            Self::Terminate => 15,
            Self::Window => 28,
        }
    }
}

/// The signals that are listened to; from then on they no longer end the process by themselves.
#[derive(Debug)]
pub struct Signals {
    interrupt: Signal,
    quit: Option<Signal>,
    terminate: Signal,
    hangup: Signal,
    window: Option<Signal>,
}

impl Signals {
    /// Those that end an operation.
    ///
    /// # Errors
    /// Where the kernel refuses, which it does not.
    pub fn ending() -> Result<Self, Error> {
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            quit: None,
            terminate: listen(SignalKind::terminate())?,
            hangup: listen(SignalKind::hangup())?,
            window: None,
        })
    }

    /// Also those that a command in a guest gets.
    ///
    /// # Errors
    /// As [`Signals::ending`].
    pub fn all() -> Result<Self, Error> {
        Ok(Self {
            quit: Some(listen(SignalKind::quit())?),
            window: Some(listen(SignalKind::window_change())?),
            ..Self::ending()?
        })
    }

    /// The next one. Dropping the future loses none.
    pub async fn next(&mut self) -> Heard {
        async fn maybe(signal: &mut Option<Signal>) {
            match signal {
                Some(signal) => drop(signal.recv().await),
                None => std::future::pending().await,
            }
        }
        tokio::select! {
            _ = self.interrupt.recv() => Heard::Interrupt,
            _ = self.terminate.recv() => Heard::Terminate,
            _ = self.hangup.recv() => Heard::Hangup,
            () = maybe(&mut self.quit) => Heard::Quit,
            () = maybe(&mut self.window) => Heard::Window,
        }
    }
}

fn listen(kind: SignalKind) -> Result<Signal, Error> {
    tokio::signal::unix::signal(kind).map_err(|e| host::Error::new("listen to", "signals", e).into())
}
