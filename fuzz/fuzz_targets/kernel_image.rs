//! `hostile::Target::KernelImage`.
#![no_main]

use hostile::{Asked, Target};

libfuzzer_sys::fuzz_target!(|data: &[u8]| Target::KernelImage.check(data, Asked::Sometimes));
