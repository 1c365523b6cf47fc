//! `hostile::Target::Json`.
#![no_main]

use hostile::{Asked, Target};

libfuzzer_sys::fuzz_target!(|data: &[u8]| Target::Json.check(data, Asked::Sometimes));
