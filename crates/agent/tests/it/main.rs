//! The agent on this machine, on a socket in the place of its port: everything but the boot.

mod channel;
mod client;
mod exec;
mod routes;
mod tree;
mod world;
