//! `banger daemon`.

use std::{io::Read, time::Duration};

use host::fs;
use hyper::Method;
use serde::Serialize;
use wire::control::Daemon;

use super::Context;
use crate::{
    args::{DaemonCommand, DaemonLogsArgs, Output},
    client::{Client, Start, connect, path},
    error::Error,
    launch,
    talk::{Printer, Reader, Talk, print, print_json},
    text::fields,
};

/// How often a log that is followed is looked at.
const LOOK: Duration = Duration::from_millis(200);
/// How long the daemon may take to go.
const STOPPING: Duration = Duration::from_secs(10);

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
    let path = Client::of_user(Start::Never)?.dirs().state.join(launch::LOG);
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
    match context.client.send(Method::POST, &path(&["daemon", "stop"])).await {
        Err(error) if error.means_no_daemon() => {
            context.talk.say("the daemon is not running");
            return Ok(());
        }
        other => other?,
    }
    let socket = context.client.dirs().socket();
    let gone = async {
        while connect(&socket).is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(STOPPING, gone).await.map_err(|_| Error::DaemonStays)
}
