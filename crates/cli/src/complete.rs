//! Completion: the shell asks this program, which asks the daemon for names. A daemon that is down is not started.

use std::{ffi::OsStr, time::Duration};

use clap_complete::{CompletionCandidate, PathCompleter, engine::ValueCompleter, env::Shells};
use serde::de::DeserializeOwned;
use wire::control::{Images, Kernels, Snapshots, Vms};

use crate::{
    args::Shell,
    client::{Client, Start, path},
    error::Error,
    talk::print,
    text::visible,
};

/// The variable with which the registered script asks this program.
pub const VARIABLE: &str = "BANGER_COMPLETE";
/// A shell waits no longer for names.
const PATIENCE: Duration = Duration::from_millis(500);

/// `completion SHELL`.
///
/// # Errors
/// Where the script cannot be written.
pub fn script(shell: Shell) -> Result<(), Error> {
    let shells = Shells::builtins();
    let completer = shells.completer(shell.name()).expect("every shell of the command line is a builtin one");
    let mut script = Vec::new();
    completer
        .write_registration(VARIABLE, "banger", "banger", "banger", &mut script)
        .map_err(|e| host::Error::new("write", "the completion script", e))?;
    print(&String::from_utf8_lossy(&script))
}

/// The names of machines.
#[must_use]
pub fn vms() -> Vec<CompletionCandidate> {
    names("vms", |all: Vms| all.vms.into_iter().map(|vm| vm.name).collect())
}

/// What a side of a copy may begin with: a machine's name, or a path of this host.
#[must_use]
pub fn sides(begun: &OsStr) -> Vec<CompletionCandidate> {
    let begins = |name: &String| begun.to_str().is_some_and(|begun| name.starts_with(begun));
    let machines = names("vms", |all: Vms| {
        all.vms.into_iter().map(|vm| format!("{}:", vm.name)).filter(begins).collect()
    });
    machines.into_iter().chain(PathCompleter::any().complete(begun)).collect()
}

/// The names of images.
#[must_use]
pub fn images() -> Vec<CompletionCandidate> {
    names("images", |all: Images| all.images.into_iter().map(|image| image.name).collect())
}

/// The names of kernels.
#[must_use]
pub fn kernels() -> Vec<CompletionCandidate> {
    names("kernels", |all: Kernels| all.kernels.into_iter().map(|kernel| kernel.name).collect())
}

/// The names of snapshots.
#[must_use]
pub fn snapshots() -> Vec<CompletionCandidate> {
    names("snapshots", |all: Snapshots| all.snapshots.into_iter().map(|snapshot| snapshot.name).collect())
}

/// What the daemon lists; nothing where it does not answer soon, as a shell has no use for an error here.
fn names<T: DeserializeOwned>(what: &str, of: impl Fn(T) -> Vec<String>) -> Vec<CompletionCandidate> {
    let Ok(client) = Client::of_user(Start::Never) else { return Vec::new() };
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
        return Vec::new();
    };
    let target = path(&[what]);
    let all = runtime.block_on(async { tokio::time::timeout(PATIENCE, client.get::<T>(&target)).await });
    all.ok()
        .and_then(Result::ok)
        // A shell would do what a name says to a terminal.
        .map(|all| {
            of(all).into_iter().filter(|name| visible(name) == *name).map(CompletionCandidate::new).collect()
        })
        .unwrap_or_default()
}
