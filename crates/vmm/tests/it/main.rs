//! The conformance suite of all backends, and what only QEMU does.

mod conformance;
mod guest;
mod subject;
