//! The helper as a program of its own, in network namespaces that the tests make: the host's own is never touched.
#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "tests stand beside the doors of the program, and fail where they stand"
)]

mod admission;
mod filter;
mod frames;
mod jail;
mod links;
mod world;
