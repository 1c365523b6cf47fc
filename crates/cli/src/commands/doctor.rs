//! `banger doctor`: `bangerd` looks, in a mode that starts nothing; the daemon that runs is asked which one it is.

use std::time::Duration;

use host::proc::{Command, Exit, Program};
use wire::{
    control::Daemon,
    doctor::{Row, Verdict},
};

use super::{ssh_config, system};
use crate::{
    args::{DoctorArgs, Output},
    client::{Client, Start, path},
    error::Error,
    launch,
    talk::{print, print_json},
    text::visible_lines,
};

/// How long a look may take: a test guest has some seconds.
const DEADLINE: Duration = Duration::from_secs(60);
/// The most of its answer.
const LIMIT: usize = 1 << 20;

/// `doctor`.
///
/// # Errors
/// With code 1 where something is to be mended, or where nobody could look.
pub async fn run(args: DoctorArgs) -> Result<(), Error> {
    let mut rows = look(args.fix)?;
    rows.push(daemon().await);
    rows.push(ssh_config::row(args.fix));
    rows.extend(system::rows());
    match args.format.output {
        Output::Json => print_json(&rows)?,
        Output::Text => print(&text(&rows))?,
    }
    match rows.iter().filter(|row| row.verdict == Verdict::Fail).count() {
        0 => Ok(()),
        failed => Err(Error::Several { failed, all: rows.len(), code: model::exit::FAILED }),
    }
}

fn look(fix: bool) -> Result<Vec<Row>, Error> {
    let program = launch::program().ok_or(Error::NoDaemonProgram)?;
    let command = Command::new(Program::Daemon(program)).arg("--doctor").args(fix.then_some("--fix"));
    let answer = command.output(LIMIT, DEADLINE)?;
    let strange = |why: String| Error::Protocol(format!("bangerd --doctor {why}"));
    match answer.exit {
        Exit::Code(0) => serde_json::from_slice(&answer.stdout).map_err(|e| strange(e.to_string())),
        exit => {
            Err(strange(format!("ended with {exit}: {}", String::from_utf8_lossy(&answer.stderr).trim())))
        }
    }
}

/// Whether the daemon that runs, if one does, is of this version.
async fn daemon() -> Row {
    let own = concat!(env!("CARGO_PKG_VERSION"), " (", env!("BANGER_COMMIT"), ")");
    let asked = match Client::of_user(Start::Never) {
        Ok(client) => client.get::<Daemon>(&path(&["daemon"])).await,
        Err(error) => Err(error),
    };
    match asked {
        Ok(daemon) => {
            let theirs = format!("{} ({})", daemon.version, daemon.commit);
            let found = format!("{theirs} runs with pid {}", daemon.pid);
            if theirs == own {
                Row::pass("daemon", found)
            } else {
                let hint = "banger daemon stop; the next command starts the new one, and VMs go on running";
                Row::warn("daemon", format!("{found}, and this is banger {own}"), hint)
            }
        }
        Err(error) if error.means_no_daemon() => {
            Row::pass("daemon", "not running: the first command starts it")
        }
        Err(error) => Row::fail("daemon", error.to_string(), "banger logs"),
    }
}

/// A line a row, and its hint below it.
fn text(rows: &[Row]) -> String {
    let width = rows.iter().map(|row| row.name.chars().count()).max().unwrap_or(0);
    let mut out = String::new();
    for row in rows {
        let mut head = format!("{}  {:width$}  ", row.verdict.as_str(), row.name);
        let hint = row.hint.iter().map(|hint| format!("hint: {hint}"));
        for line in row.found.lines().map(str::to_owned).chain(hint) {
            let shown: String = visible_lines(&line).collect();
            out.push_str(&format!("{head}{shown}\n"));
            head = " ".repeat(head.chars().count());
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_row_has_its_hint_below_it() {
        let rows = [
            Row::pass("git", "/usr/bin/git"),
            Row::fail("config", "c.toml:1:1: no\n1 | \x1b[2J", "edit c.toml"),
            Row::warn("kvm", "no", "buy one"),
        ];
        insta::assert_snapshot!(text(&rows), @r"
        pass  git     /usr/bin/git
        fail  config  c.toml:1:1: no
                      1 | \u{1b}[2J
                      hint: edit c.toml
        warn  kvm     no
                      hint: buy one
        ");
    }
}
