//! Sequences effects into operations that either happen or leave nothing.
