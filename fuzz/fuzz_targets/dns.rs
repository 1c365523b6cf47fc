//! `hostile::Target::Dns`.
#![no_main]

use hostile::{Asked, Target};

libfuzzer_sys::fuzz_target!(|data: &[u8]| Target::Dns.check(data, Asked::Sometimes));
