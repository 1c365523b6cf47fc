//! Fakes, faults, a throw-away home, and a world that must be clean afterwards.

pub mod kernel_deb;
pub mod need;
