//! `hostile::Target::Cpio`.
#![no_main]

use hostile::{Asked, Target};

libfuzzer_sys::fuzz_target!(|data: &[u8]| Target::Cpio.check(data, Asked::Sometimes));
