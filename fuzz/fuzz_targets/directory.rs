//! `hostile::Target::Directory`.
#![no_main]

use hostile::{Asked, Target};

libfuzzer_sys::fuzz_target!(|data: &[u8]| Target::Directory.check(data, Asked::Sometimes));
