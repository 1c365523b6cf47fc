//! `hostile::Target::Helper`.
#![no_main]

use hostile::{Asked, Target};

libfuzzer_sys::fuzz_target!(|data: &[u8]| Target::Helper.check(data, Asked::Sometimes));
