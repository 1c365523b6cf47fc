//! `hostile::Target::ImageReference`.
#![no_main]

use hostile::{Asked, Target};

libfuzzer_sys::fuzz_target!(|data: &[u8]| Target::ImageReference.check(data, Asked::Sometimes));
