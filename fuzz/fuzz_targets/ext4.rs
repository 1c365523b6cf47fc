//! `hostile::Target::Ext4`.
#![no_main]

use hostile::{Asked, Target};

libfuzzer_sys::fuzz_target!(|data: &[u8]| Target::Ext4.check(data, Asked::Sometimes));
