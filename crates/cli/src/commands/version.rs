//! `version` and the end of `daemon status`: which banger this is.

use serde::Serialize;
use wire::control::Daemon;

use crate::{
    args::Output,
    client::{Client, Start, path},
    error::Error,
    talk::{print, print_json},
    text::visible,
};

/// A program of banger.
#[derive(Debug, Serialize)]
struct Program {
    version: &'static str,
    commit: &'static str,
    built: &'static str,
}

/// What `version -o json` tells.
#[derive(Debug, Serialize)]
struct Versions {
    cli: Program,
    /// Of the daemon that runs, if one does.
    daemon: Option<Daemon>,
}

const CLI: Program = Program {
    version: env!("CARGO_PKG_VERSION"),
    commit: env!("BANGER_COMMIT"),
    built: env!("BANGER_BUILT"),
};

/// `version`. It starts no daemon.
///
/// # Errors
/// Where standard output takes nothing.
pub async fn run(output: Output) -> Result<(), Error> {
    // A daemon that does not answer, for whatever reason, is not what this command is about.
    let daemon = match Client::of_user(Start::Never) {
        Ok(client) => client.get::<Daemon>(&path(&["daemon"])).await.ok(),
        Err(_) => None,
    };
    let versions = Versions { cli: CLI, daemon };
    match output {
        Output::Json => print_json(&versions),
        Output::Text => {
            let cli = &versions.cli;
            let mut text = format!("banger  {} ({}, {})\n", cli.version, cli.commit, cli.built);
            text.push_str(&match &versions.daemon {
                Some(daemon) => {
                    format!("bangerd {} ({})\n", visible(&daemon.version), visible(&daemon.commit))
                }
                None => "bangerd not running\n".to_owned(),
            });
            print(&text)
        }
    }
}
