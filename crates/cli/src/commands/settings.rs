//! `config show`: `bangerd` reads the settings, so it is asked, in a mode that starts nothing.

use std::time::Duration;

use host::proc::{Command, Exit, Program};

use crate::{args::Output, error::Error, launch, talk::print, text::visible_lines};

/// How long it may take to read a file.
const DEADLINE: Duration = Duration::from_secs(10);
/// The most of its answer.
const LIMIT: usize = 1 << 20;

/// `config show`: what a daemon that is started now goes by.
///
/// # Errors
/// Where there is a mistake in the settings.
pub fn show(output: Output) -> Result<(), Error> {
    print(&ask(output)?)
}

/// The settings in words or as JSON.
///
/// # Errors
/// [`Error::Config`] where there is a mistake in them.
pub fn ask(output: Output) -> Result<String, Error> {
    let program = launch::program().ok_or(Error::NoDaemonProgram)?;
    let json = match output {
        Output::Text => None,
        Output::Json => Some("--json"),
    };
    let command = Command::new(Program::Daemon(program)).arg("--config").args(json);
    let answer = command.output(LIMIT, DEADLINE)?;
    let lines = |bytes: &[u8]| -> String {
        let text = String::from_utf8_lossy(bytes);
        visible_lines(&text).map(|line| line + "\n").collect()
    };
    match answer.exit {
        Exit::Code(0) => Ok(lines(&answer.stdout)),
        Exit::Code(1) => Err(Error::Config(lines(&answer.stderr).trim_end().to_owned())),
        exit => Err(Error::Protocol(format!("bangerd --config ended with {exit}"))),
    }
}
