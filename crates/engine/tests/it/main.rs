//! The engine in a fake world: machines without guests, and everything else real.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "tests fail where they stand and say how many faults they met"
)]

mod behaviour;
mod bridge;
mod catalog;
mod catalog_hostile;
mod disk;
mod dns;
mod end;
mod fault;
mod guest;
mod lease;
mod liar;
mod nginx;
mod operations;
mod property;
mod pull;
mod pull_hostile;
mod pull_layers;
mod pull_resume;
mod pull_token;
mod race;
mod register;
mod scene;
mod server;
mod shared;
mod snapshot;
mod time;
mod verb;
mod workspace;
mod workspace_fault;
mod world;
