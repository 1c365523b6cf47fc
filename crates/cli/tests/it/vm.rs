//! The whole: the real programs with a home of their own and real machines, as a user types it.
//!
//! When a home is dropped it asserts that no process, socket or file of a VM is left.

mod book;
mod bridge;
mod catalog;
mod copy;
mod crash;
mod fault;
mod firecracker;
mod image;
mod layers;
mod life;
mod network;
mod refused;
mod rootless;
mod round_trip;
mod snapshot;
mod ssh;
mod stream;
mod sync;
mod system;
mod workspace;

use testkit::home::Home;

/// A home with a kernel and the image `busybox`; without what it takes the test has said that it skips.
fn home() -> Option<Home> {
    Home::new(env!("CARGO_BIN_EXE_banger"))
}

/// The words of a `vm run --rm` of the image `busybox`, small and quick to boot.
fn run_rm<'a>(command: &[&'a str]) -> Vec<&'a str> {
    let mut words = vec!["vm", "run", "--rm", "--image", "busybox", "--memory", "256M", "--"];
    words.extend(command);
    words
}

/// The words of a `vm create` of the image `busybox`.
fn create(name: &str) -> Vec<&str> {
    vec!["vm", "create", "--name", name, "--image", "busybox", "--memory", "256M"]
}
