//! Looks at an installation and at its host: what works, what does not, and what to type.
//!
//! It starts, makes and migrates nothing, so it works beside a daemon and without one, and with a database that no daemon
//! opens.

mod installation;
mod machine;
mod names;

use std::path::PathBuf;

use host::dirs::Dirs;
use store::Store;
use wire::doctor::Row;

use crate::{config::Config, paths::Paths};

/// What is looked at.
#[derive(Debug, Clone)]
pub struct Patient {
    /// Where the installation keeps its files.
    pub dirs: Dirs,
    /// Its settings; the built-in ones where its user's have a mistake.
    pub config: Config,
    /// The agent that boots guests, where it was found.
    pub agent: Option<PathBuf>,
}

/// What an examination may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Only look.
    Look,
    /// Also mend what can be mended without losing anything.
    Fix,
}

/// Looks at everything. Blocks for some seconds: a test guest is run.
#[must_use]
pub fn examine(patient: &Patient, mode: Mode) -> Vec<Row> {
    let Patient { dirs, config, agent } = patient;
    let paths = Paths::of(dirs.clone());
    // What cannot be read has its own row; what would be in it is then not there.
    let published = Store::published(&paths.database()).unwrap_or_default();
    let mut rows = vec![
        installation::agent(agent.as_deref()),
        installation::directories(dirs, mode),
        installation::socket(dirs, mode),
        installation::database(&paths),
        installation::image(&paths, config, &published),
        installation::kernel(&paths, config, &published),
    ];
    rows.extend(machine::vmm(config));
    rows.push(machine::network());
    rows.extend(names::ports(dirs, config));
    rows.push(machine::disk(dirs));
    rows.push(machine::git());
    rows.push(machine::logout());
    rows
}
