//! `hostile::Target::Tree`.
#![no_main]

use hostile::{Asked, Target};

libfuzzer_sys::fuzz_target!(|data: &[u8]| Target::Tree.check(data, Asked::Sometimes));
