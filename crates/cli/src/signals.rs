//! Signals to this process, as values.

use host::signals::Ignored;
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

/// The signals that are listened to; from then on they no longer end the process by themselves. One that whoever started
/// the process made it ignore stays ignored.
#[derive(Debug)]
pub struct Signals {
    interrupt: Option<Signal>,
    quit: Option<Signal>,
    terminate: Option<Signal>,
    hangup: Option<Signal>,
    window: Option<Signal>,
}

impl Signals {
    /// Those that end an operation.
    ///
    /// # Errors
    /// Where the kernel refuses, which it does not.
    pub fn ending() -> Result<Self, Error> {
        let ignored = Ignored::of_this_process()?;
        Ok(Self {
            interrupt: listen(Heard::Interrupt, ignored)?,
            quit: None,
            terminate: listen(Heard::Terminate, ignored)?,
            hangup: listen(Heard::Hangup, ignored)?,
            window: None,
        })
    }

    /// Also those that a command in a guest gets.
    ///
    /// # Errors
    /// As [`Signals::ending`].
    pub fn all() -> Result<Self, Error> {
        let ignored = Ignored::of_this_process()?;
        let quit = listen(Heard::Quit, ignored)?;
        let window = listen(Heard::Window, ignored)?;
        Ok(Self { quit, window, ..Self::ending()? })
    }

    /// The next one. Dropping the future loses none.
    pub async fn next(&mut self) -> Heard {
        async fn one(signal: &mut Option<Signal>) {
            match signal {
                Some(signal) => drop(signal.recv().await),
                None => std::future::pending().await,
            }
        }
        tokio::select! {
            () = one(&mut self.interrupt) => Heard::Interrupt,
            () = one(&mut self.terminate) => Heard::Terminate,
            () = one(&mut self.hangup) => Heard::Hangup,
            () = one(&mut self.quit) => Heard::Quit,
            () = one(&mut self.window) => Heard::Window,
        }
    }

    /// What `work` comes to, unless a signal that ends an operation is first. Going away from the daemon then cancels
    /// what it was asked for.
    ///
    /// # Errors
    /// That of `work`, or that it was cancelled.
    pub async fn unless<T>(&mut self, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        tokio::pin!(work);
        loop {
            tokio::select! {
                result = &mut work => return result,
                heard = self.next() => match heard {
                    Heard::Window => {}
                    Heard::Interrupt | Heard::Quit | Heard::Terminate | Heard::Hangup => {
                        return Err(Error::Cancelled);
                    }
                },
            }
        }
    }
}

fn listen(heard: Heard, ignored: Ignored) -> Result<Option<Signal>, Error> {
    if ignored.contains(heard.number()) {
        return Ok(None);
    }
    let listen = tokio::signal::unix::signal(SignalKind::from_raw(i32::from(heard.number())));
    listen.map(Some).map_err(|e| host::Error::new("listen to", "signals", e).into())
}
