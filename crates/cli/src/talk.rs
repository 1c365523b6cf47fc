//! The two output streams: stdout is data, stderr is talk.

use std::io::IsTerminal;

use host::stdio::{self, Output};
use indicatif::MultiProgress;

use crate::{
    client::ByteStream,
    error::{Error, Label},
    plain::Plain,
};

/// How much is said on standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Only failures.
    Silent,
    /// Failures and questions, no progress.
    Quiet,
    /// Stages and remarks.
    Normal,
    /// Also what helps to understand what happened.
    Verbose,
}

/// What the command does with the terminal.
#[derive(Debug, Clone)]
pub struct Talk {
    level: Level,
    terminal: bool,
    colour: bool,
    bars: MultiProgress,
}

impl Talk {
    /// For a process with this environment: `NO_COLOR` and `TERM=dumb` are obeyed.
    #[must_use]
    pub fn new(level: Level) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let dumb = host::env::text("TERM").is_none_or(|term| term == "dumb");
        let colour = terminal && !dumb && host::env::var("NO_COLOR").is_none();
        Self { level, terminal: terminal && !dumb, colour, bars: MultiProgress::new() }
    }

    /// The same, in command mode: where standard error is no terminal it belongs to the command alone.
    #[must_use]
    pub fn for_command(mut self) -> Self {
        if !std::io::stderr().is_terminal() && self.level < Level::Verbose {
            self.level = Level::Silent;
        }
        self
    }

    /// Whether bars and spinners can be drawn.
    #[must_use]
    pub fn draws(&self) -> bool {
        self.terminal && self.level >= Level::Normal
    }

    /// Where bars are drawn.
    #[must_use]
    pub fn bars(&self) -> &MultiProgress {
        &self.bars
    }

    /// Whether remarks are shown.
    #[must_use]
    pub fn says(&self) -> bool {
        self.level >= Level::Normal
    }

    /// Whether somebody asked for more than remarks.
    #[must_use]
    pub fn details(&self) -> bool {
        self.level >= Level::Verbose
    }

    /// One line, unless it should be quiet.
    pub fn say(&self, line: &str) {
        if self.says() {
            self.stderr(&format!("{line}\n"));
        }
    }

    /// One line for whoever asked for more.
    pub fn detail(&self, line: &str) {
        if self.details() {
            self.stderr(&format!("{line}\n"));
        }
    }

    /// A failure; always said, unless it was already.
    pub fn error(&self, error: &Error) {
        if !error.is_reported() {
            self.stderr(&error.render(if self.colour { Label::coloured } else { Label::plain }));
        }
    }

    /// A question, at the beginning of the answer's line.
    pub fn question(&self, text: &str) {
        self.stderr(text);
    }

    fn stderr(&self, text: &str) {
        // Nobody is left to be told when standard error has gone.
        self.bars.suspend(|| drop(stdio::write_all(Output::Stderr, text.as_bytes())));
    }
}

/// Puts data on standard output.
///
/// # Errors
/// Where it cannot be written. A reader that has seen enough is none.
pub fn print(text: &str) -> Result<(), Error> {
    print_bytes(text.as_bytes()).map(|_| ())
}

/// Whether somebody still reads standard output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reader {
    /// It does.
    There,
    /// It has seen enough and gone.
    Gone,
}

/// Puts bytes on standard output.
///
/// # Errors
/// As [`print`].
pub fn print_bytes(bytes: &[u8]) -> Result<Reader, Error> {
    match stdio::write_all(Output::Stdout, bytes) {
        Ok(()) => Ok(Reader::There),
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(Reader::Gone),
        Err(e) => Err(e.into()),
    }
}

/// Bytes that others chose, on their way to standard output: as they are, unless that is a terminal, which they could steer.
#[derive(Debug)]
pub struct Printer(Option<Plain>);

impl Printer {
    /// For standard output as it is now.
    #[must_use]
    pub fn new() -> Self {
        Self(std::io::stdout().is_terminal().then(Plain::default))
    }

    /// Prints the next `bytes`.
    ///
    /// # Errors
    /// As [`print`].
    pub fn print(&mut self, bytes: &[u8]) -> Result<Reader, Error> {
        match &mut self.0 {
            Some(plain) => print_bytes(&plain.take(bytes)),
            None => print_bytes(bytes),
        }
    }

    /// Prints all of `stream`, or as much as its reader wants.
    ///
    /// # Errors
    /// As [`print`], or where the stream breaks off.
    pub async fn print_all(mut self, mut stream: ByteStream) -> Result<(), Error> {
        while let Some(bytes) = stream.next().await? {
            if self.print(&bytes)? == Reader::Gone {
                break;
            }
        }
        Ok(())
    }
}

/// Puts `value` on standard output as JSON.
///
/// # Errors
/// As [`print`].
pub fn print_json(value: &impl serde::Serialize) -> Result<(), Error> {
    print(&json_text(value))
}

/// `value` as JSON for standard output.
#[must_use]
pub fn json_text(value: &impl serde::Serialize) -> String {
    let mut text = serde_json::to_string_pretty(value).expect("wire types have no keys that are no strings");
    text.push('\n');
    text
}

/// The answer to a yes-or-no question on the terminal; `default` for an empty line, no for the end of input.
///
/// # Errors
/// Where standard input cannot be read.
pub async fn confirm(talk: &Talk, question: &str, default: Answer) -> Result<Answer, Error> {
    talk.question(&format!("{question} {} ", if default == Answer::Yes { "[Y/n]" } else { "[y/N]" }));
    let (sender, answer) = tokio::sync::oneshot::channel();
    // On a thread of its own, so that Ctrl-C is heard while nobody answers.
    std::thread::spawn(move || sender.send(read_answer(default)));
    Ok(answer.await.unwrap_or(Ok(Answer::No))?)
}

fn read_answer(default: Answer) -> host::Result<Answer> {
    let mut line = Vec::new();
    let mut byte = [0];
    // A terminal gives whole lines; byte by byte so that what follows is left for the command.
    while stdio::read(&mut byte)? == 1 {
        match (byte[0], line.first()) {
            (b'\n', None) => return Ok(default),
            (b'\n', Some(b'y' | b'Y')) => return Ok(Answer::Yes),
            (b'\n', Some(_)) => return Ok(Answer::No),
            (other, _) => line.push(other),
        }
    }
    Ok(Answer::No)
}

/// An answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Go on.
    Yes,
    /// Do not.
    No,
}
