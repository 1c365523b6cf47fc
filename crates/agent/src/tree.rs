//! Trees of files as tar streams, out of the guest and into it. Blocking; each runs on a thread of its own.
//!
//! Nothing here leaves the directory that was asked for: what is read follows no link at all, and what is written resolves
//! below it (`RESOLVE_BENEATH`).

mod access;
mod list;
mod pack;
mod pick;
mod place;
mod remove;
mod stamp;
mod unpack;

pub use access::set_access;
pub use list::list;
pub use pack::pack;
pub use pick::pick;
pub use place::{destination, make_directory};
pub use remove::remove;
pub use stamp::Stamps;
pub use unpack::{Owner, UnpackError, unpack};
