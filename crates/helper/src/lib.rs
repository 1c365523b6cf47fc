//! Does, as root, the few things that only root can do. It trusts nobody but root: least of all the daemon, which a guest may
//! have taken over.
//!
//! ```text
//!              who? (SO_PEERCRED)    what? (closed, ids and numbers)       from the id and install.toml
//! connection ───────▶ serve ─┬─────────────▶ network ──────────────────┬──▶ links: bridge, taps
//!                       │    │                                         ├──▶ filter: rules ──▶ nft
//!                       │    │                                         ├──▶ sockets for names
//!                       │    │                                         └──▶ names ──▶ resolvectl
//!                       │    └─────────────▶ jail: user, files, control group ──▶ Firecracker's jailer
//!                       └──▶ audit
//! ```
//! One thread, one request after the other. No text of a request reaches a name, a path, a rule or an argument: it has none.

pub mod audit;
pub mod filter;
pub mod install;
pub mod jail;
pub mod names;
pub mod network;
pub mod places;
pub mod rules;
pub mod serve;
pub mod state;
