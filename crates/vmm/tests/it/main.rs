//! The conformance suite of all backends, and what only one of them does.
#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stderr,
    clippy::cast_possible_truncation,
    reason = "tests fail where they stand, look at files as they are, and say what a machine said"
)]

mod conformance;
mod fake;
mod firecracker;
mod guest;
mod namespaces;
mod qemu;
mod subject;
