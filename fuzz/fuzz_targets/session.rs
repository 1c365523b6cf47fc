//! `hostile::Target::Session`.
#![no_main]

use hostile::{Asked, Target};

libfuzzer_sys::fuzz_target!(|data: &[u8]| Target::Session.check(data, Asked::Sometimes));
