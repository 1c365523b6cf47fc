//! `hostile::Target::TarMerge`.
#![no_main]

use hostile::{Asked, Target};

libfuzzer_sys::fuzz_target!(|data: &[u8]| Target::TarMerge.check(data, Asked::Sometimes));
