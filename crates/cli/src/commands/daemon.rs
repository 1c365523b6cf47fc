//! `banger daemon`.

use std::{io::Read, time::Duration};

use host::{
    fs,
    proc::{Command, Exit, ProcessId, Program},
};
use hyper::Method;
use model::system::DAEMON_UNITS;
use serde::Serialize;
use wire::control::{Daemon, ENDING};

use super::Context;
use crate::{
    args::{DaemonCommand, DaemonLogsArgs, Output},
    client::{Client, Start, path},
    error::Error,
    launch,
    talk::{Printer, Reader, Talk, print, print_json},
    text::fields,
};

/// How often a log that is followed is looked at.
const LOOK: Duration = Duration::from_millis(200);

/// `banger daemon`.
///
/// # Errors
/// Where it cannot be started or asked.
pub async fn run(talk: Talk, command: DaemonCommand) -> Result<(), Error> {
    match command {
        DaemonCommand::Start => {
            let context = Context { client: Client::of_user(Start::IfNeeded)?, talk };
            let daemon: Daemon = context.client.get(&path(&["daemon"])).await?;
            context.talk.say(&format!("the daemon is running (pid {})", daemon.pid));
            Ok(())
        }
        DaemonCommand::Stop => stop(&Context { client: Client::of_user(Start::Never)?, talk }).await,
        DaemonCommand::Status(format) => {
            status(&Context { client: Client::of_user(Start::Never)?, talk }, format.output).await
        }
    }
}

/// `banger logs`: the log of the daemon, also of one that does not run any more.
///
/// # Errors
/// Where there is none, or it cannot be read.
pub async fn logs(talk: Talk, args: DaemonLogsArgs) -> Result<(), Error> {
    let client = Client::of_user(Start::Never)?;
    if client.dirs().is_system() {
        return journal(args);
    }
    let path = client.dirs().state.join(launch::LOG);
    let mut file = match fs::open(&path) {
        Err(error) if error.is_missing() => {
            talk.say("there is no log: no daemon was started yet");
            return Ok(());
        }
        file => file?,
    };
    let mut printer = Printer::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        let count = file.read(&mut buffer).map_err(|e| host::Error::path("read", &path, e))?;
        let reader = printer.print(&buffer[..count])?;
        if reader == Reader::Gone || count == 0 && !args.follow {
            return Ok(());
        }
        if count == 0 {
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// The log of a daemon that is a service, as its manager kept it.
fn journal(args: DaemonLogsArgs) -> Result<(), Error> {
    let [_, unit] = DAEMON_UNITS;
    let words = ["--unit", unit, "--output", "cat", "--no-pager"];
    let journal = Command::new(Program::Journalctl).args(words).args(args.follow.then_some("--follow"));
    match journal.foreground()?.wait()? {
        Exit::Code(0) | Exit::Signal(_) => Ok(()),
        exit => Err(Error::System {
            message: format!("journalctl ended with {exit}"),
            hint: Some("sudo journalctl -u bangerd"),
        }),
    }
}

/// What `daemon status -o json` tells; the other fields only of a daemon that runs.
#[derive(Debug, Serialize)]
struct Status {
    running: bool,
    #[serde(flatten)]
    daemon: Option<Daemon>,
}

async fn status(context: &Context, output: Output) -> Result<(), Error> {
    let daemon = match context.client.get::<Daemon>(&path(&["daemon"])).await {
        Ok(daemon) => Some(daemon),
        Err(error) if error.means_no_daemon() => None,
        Err(error) => return Err(error),
    };
    let status = Status { running: daemon.is_some(), daemon };
    match (output, &status.daemon) {
        (Output::Json, _) => print_json(&status)?,
        (Output::Text, None) => print("not running\n")?,
        (Output::Text, Some(daemon)) => print(&fields(&[
            ("running", "yes".to_owned()),
            ("pid", daemon.pid.to_string()),
            ("socket", daemon.socket.clone()),
            ("version", format!("{} ({})", daemon.version, daemon.commit)),
        ]))?,
    }
    if status.running {
        Ok(())
    } else {
        Err(Error::Several { failed: 1, all: 1, code: model::exit::UNREACHABLE })
    }
}

async fn stop(context: &Context) -> Result<(), Error> {
    let asked = async {
        // Its end is that of its process: at a socket of the service manager's the next one answers.
        let daemon: Daemon = context.client.get(&path(&["daemon"])).await?;
        let process = ProcessId::of(daemon.pid).ok();
        context.client.send(Method::POST, &path(&["daemon", "stop"])).await?;
        Ok::<_, Error>(process.map(|id| id.open()).transpose()?.flatten())
    };
    let process = match asked.await {
        Err(error) if error.means_no_daemon() => {
            context.talk.say("the daemon is not running");
            return Ok(());
        }
        other => other?,
    };
    let Some(process) = process else { return Ok(()) };
    let ended = tokio::task::spawn_blocking(move || process.wait_exit(ENDING)).await;
    match ended.expect("waiting does not panic")? {
        true => Ok(()),
        false => Err(Error::DaemonStays),
    }
}
