//! `hostile::Target::Catalog`.
#![no_main]

use hostile::{Asked, Target};

libfuzzer_sys::fuzz_target!(|data: &[u8]| Target::Catalog.check(data, Asked::Sometimes));
