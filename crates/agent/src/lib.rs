//! The guest's side: init and agent in one static program.
//!
//! | module | |
//! | --- | --- |
//! | [`boot`] | the first role, `/init`: builds the root and hands over to the image's init |
//! | [`reaper`] | PID 1 where the image has no init |
//! | [`serve`] | the second role: the host's requests |
//! | [`channel`] | sessions on the port to the host |
//! | [`exec`], [`connect`], [`tree`] | commands, connections, files |
//! | [`configure`] | who a restored guest is |
//! | [`ports`], [`stats`], [`systemd`] | what the guest does |
//! | [`storage`], [`poweroff`], [`finish`] | the writable disks, and the machine's end |
//!
//! What serves does not need a guest: tests run it on any Linux, over a socket.

pub mod boot;
pub mod channel;
pub mod configure;
pub mod connect;
pub mod exec;
pub mod finish;
mod port;
pub mod ports;
pub mod poweroff;
mod query;
pub mod reaper;
pub mod root;
pub mod serve;
pub mod stats;
pub mod storage;
mod sys;
pub mod systemd;
pub mod tree;
mod vsock;
