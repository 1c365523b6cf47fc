//! The agent on this machine, on a socket in the place of its port: everything but the boot.
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod channel;
mod client;
mod exec;
mod routes;
mod tree;
mod world;
