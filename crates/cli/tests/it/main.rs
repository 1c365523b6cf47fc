//! The program `banger` as a user runs it, against a daemon of a few lines that plays what a real one can hardly be made
//! to do at a given moment. What a real daemon can show is tested with a real one, in real machines.
#![expect(clippy::disallowed_methods, reason = "tests start the program and look at files as a user does")]
#![expect(clippy::unwrap_used, reason = "a test fails by it")]

mod banger;
mod batch;
mod doctor;
mod exec;
mod fake;
mod launch;
mod output;
mod run;
mod settings;
mod terminal;
mod vm;
