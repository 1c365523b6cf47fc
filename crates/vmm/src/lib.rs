//! Starts one machine and finds it again.
