//! Fakes, faults, a throw-away home, and a world that must be clean afterwards.

pub mod bridge;
pub mod catalog;
pub mod home;
pub mod images;
pub mod jailer;
pub mod kernel_deb;
pub mod kernel_forge;
pub mod listing;
pub mod need;
pub mod oci;
pub mod token;
pub mod tree;
pub mod umoci;
