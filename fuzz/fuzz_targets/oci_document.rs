//! `hostile::Target::OciDocument`.
#![no_main]

use hostile::{Asked, Target};

libfuzzer_sys::fuzz_target!(|data: &[u8]| Target::OciDocument.check(data, Asked::Sometimes));
