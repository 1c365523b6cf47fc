//! What each command does: a request or a few, and their answers in words.

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
pub mod ssh;
pub mod ssh_config;
pub mod stats;
pub mod version;
pub mod workspace;

use crate::{client::Client, talk::Talk};

/// What every command works with.
#[derive(Debug)]
pub struct Context {
    /// The way to the daemon.
    pub client: Client,
    /// The way to the user.
    pub talk: Talk,
}
