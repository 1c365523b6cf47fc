//! `bangerd`: the daemon of one user, or of an installation's owner. One-shot modes answer without starting it.

#[cfg(feature = "faults")]
mod crash;

use std::{
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use daemon::{
    config::{self, Loaded},
    settings::Settings,
};
use engine::{
    Engine, Seams, chain,
    config::Config,
    doctor::{self, Mode, Patient},
};
use host::dirs::Dirs;
use store::{Compatibility, Store};
use wire::{control::ENDING, doctor::Row};

const USAGE: &str = "usage: bangerd [--config [--json] | --doctor [--fix] | --check-migrations | --openapi | --version | --help]";
/// How often it is looked whether it has ended.
const LOOK: Duration = Duration::from_millis(10);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => serve(),
        ["--config"] => show_config(|settings| settings.table()),
        ["--config", "--json"] => show_config(|settings| {
            serde_json::to_string_pretty(settings).expect("texts and numbers are JSON") + "\n"
        }),
        ["--doctor"] => examine(Mode::Look),
        ["--doctor", "--fix"] => examine(Mode::Fix),
        ["--check-migrations"] => check_migrations(),
        ["--openapi"] => print(&daemon::openapi::document()),
        ["--version"] => print(concat!("bangerd ", env!("CARGO_PKG_VERSION"))),
        ["--help"] => print(USAGE),
        _ => {
            complain(USAGE);
            ExitCode::from(model::exit::USAGE)
        }
    }
}

#[expect(clippy::print_stdout, reason = "the answer of a one-shot mode")]
fn print(text: &str) -> ExitCode {
    println!("{}", text.trim_end());
    ExitCode::SUCCESS
}

#[expect(clippy::print_stderr, reason = "there is no log yet")]
fn complain(text: &str) {
    eprintln!("{text}");
}

/// Shows the settings that a daemon would take; what is wrong with them, and code 1, where it would not start.
fn show_config(form: fn(&Settings) -> String) -> ExitCode {
    match load() {
        Ok((_, loaded)) => print(&form(&Settings::of(&loaded))),
        Err(why) => {
            complain(&why);
            ExitCode::FAILURE
        }
    }
}

fn load() -> Result<(Dirs, Loaded), String> {
    let dirs = Dirs::of_user().map_err(|error| error.to_string())?;
    let loaded = config::load(&dirs).map_err(|error| chain(&error))?;
    Ok((dirs, loaded))
}

/// Prints what a look at the installation and the host finds, as JSON.
fn examine(mode: Mode) -> ExitCode {
    let dirs = match Dirs::of_user() {
        Ok(dirs) => dirs,
        Err(error) => {
            complain(&error.to_string());
            return ExitCode::FAILURE;
        }
    };
    let files: Vec<String> = dirs.config_files().iter().map(|file| file.display().to_string()).collect();
    let (row, config) = match config::load(&dirs) {
        Ok(loaded) => (Row::pass("config", files.join(", ")), loaded.checked.config),
        Err(error) => {
            (Row::fail("config", chain(&error), format!("edit {}", files.join(" or "))), Config::default())
        }
    };
    let patient = Patient { dirs, config, agent: companion("banger-agent") };
    let rows: Vec<Row> = std::iter::once(row).chain(doctor::examine(&patient, mode)).collect();
    print(&serde_json::to_string(&rows).expect("texts are JSON"))
}

/// 0: compatible, 1: a migration is needed, 2: incompatible.
fn check_migrations() -> ExitCode {
    let dirs = match Dirs::of_user() {
        Ok(dirs) => dirs,
        Err(error) => {
            complain(&error.to_string());
            return ExitCode::from(2);
        }
    };
    match Store::check(&dirs.state.join("banger.db")) {
        Ok(Compatibility::Absent | Compatibility::Current) => ExitCode::SUCCESS,
        Ok(Compatibility::Older) => ExitCode::from(1),
        Ok(Compatibility::Newer) => ExitCode::from(2),
        Err(error) => {
            complain(&error.to_string());
            ExitCode::from(2)
        }
    }
}

fn serve() -> ExitCode {
    let passed = match host::proc::passed_listener() {
        Ok(passed) => passed,
        Err(error) => {
            complain(&chain(&error));
            return ExitCode::FAILURE;
        }
    };
    let (dirs, Loaded { checked, .. }) = match load() {
        Ok(loaded) => loaded,
        Err(why) => {
            complain(&why);
            return ExitCode::FAILURE;
        }
    };
    let config = checked.config;
    let filter = host::env::text("BANGER_LOG").unwrap_or_else(|| config.log_level.as_str().to_owned());
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_writer(std::io::stderr).init();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let result =
        runtime.map_err(|e| e.to_string()).and_then(|runtime| runtime.block_on(run(dirs, config, passed)));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            tracing::error!("{why}");
            ExitCode::FAILURE
        }
    }
}

async fn run(dirs: Dirs, config: Config, passed: Option<OwnedFd>) -> Result<(), String> {
    let agent =
        companion("banger-agent").ok_or("banger-agent is neither beside bangerd nor in ../libexec/banger")?;
    // 20 first commands at once start 20 daemons: all but one end here, and their clients find the one.
    // Behind a socket of the service manager's it is this one that they wait for.
    let others = if passed.is_none() { Others::Serve } else { Others::Wait };
    let Some(engine) = open(&dirs, &config, &agent, others).await? else {
        let why = "another daemon has this installation";
        tracing::info!("{why}");
        return if others == Others::Serve { Ok(()) } else { Err(why.to_owned()) };
    };
    daemon::server::serve(engine, &dirs.socket(), passed).await.map_err(|error| chain(&error))
}

/// Who connects to the socket where another daemon has the installation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Others {
    /// They are served by it.
    Serve,
    /// They wait for this one.
    Wait,
}

/// Opens the installation, unless a daemon that has it listens or is about to. One that is ending is waited for.
async fn open(dirs: &Dirs, config: &Config, agent: &Path, others: Others) -> Result<Option<Engine>, String> {
    let (begin, mut told) = (Instant::now(), false);
    loop {
        let opening = Engine::open(dirs.clone(), config.clone(), agent.to_owned(), seams());
        let opened = opening.await.map_err(|error| chain(&error))?;
        let listens = || others == Others::Serve && host::sock::connect(&dirs.socket()).is_ok();
        if opened.is_some() || listens() || begin.elapsed() > ENDING {
            return Ok(opened);
        }
        if !std::mem::replace(&mut told, true) {
            tracing::info!("another daemon has this installation and does not listen, waiting for it");
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// What tests put in the place of the real thing: nothing in the program that users get.
fn seams() -> Seams {
    Seams {
        #[cfg(feature = "faults")]
        faults: crash::ordered(),
        ..Seams::default()
    }
}

/// The program `name` that was installed with this one.
fn companion(name: &str) -> Option<PathBuf> {
    let own = std::env::current_exe().ok()?;
    let beside = own.parent()?;
    let places = [beside.join(name), beside.join("../libexec/banger").join(name)];
    places.into_iter().find(|path| host::fs::exists(path))
}
