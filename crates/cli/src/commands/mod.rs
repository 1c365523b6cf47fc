//! What each command does: a request or a few, and their answers in words.

pub mod bootstrap;
pub mod catalogs;
pub mod copy;
pub mod create;
pub mod daemon;
pub mod doctor;
pub mod events;
pub mod images;
pub mod kernels;
pub mod lifecycle;
pub mod operations;
pub mod ports;
pub mod settings;
mod several;
pub mod show;
pub mod snapshots;
pub mod ssh;
pub mod ssh_config;
pub mod stats;
pub mod system;
pub mod version;
pub mod workspace;

use std::path::Path;

use crate::{client::Client, error::Error, talk::Talk};

/// `path` as the daemon, which has another working directory, finds it.
fn absolute(path: &Path) -> Result<String, Error> {
    let absolute = std::path::absolute(path).map_err(|e| host::Error::path("find", path, e))?;
    let text = absolute.into_os_string().into_string();
    text.map_err(|path| Error::usage(format!("the path {} is not UTF-8", path.display())))
}

/// What every command works with.
#[derive(Debug)]
pub struct Context {
    /// The way to the daemon.
    pub client: Client,
    /// The way to the user.
    pub talk: Talk,
}
