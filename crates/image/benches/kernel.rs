//! How long it takes to make a kernel of the store of Debian's package, which is fetched once and kept with the build.
//!
//! ```text
//! cargo bench -p image --bench kernel
//! ```
#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    dead_code,
    reason = "a bench measures real tools on real files and prints what it found, and needs a part of what benches share"
)]

mod support;

use std::{fs, ops::ControlFlow};

use image::kernel::{self, Source};
use support::{Scratch, measure, median};

const RUNS: usize = 5;

fn main() {
    let Some(package) = testkit::kernel_deb::path() else { return };
    println!("{}: {} bytes", package.display(), fs::metadata(&package).unwrap().len());
    let scratch = Scratch::new("kernel");
    let mut imports = Vec::new();
    for _ in 0..RUNS {
        let staging = scratch.0.join("staging");
        fs::create_dir(&staging).unwrap();
        let source = Source::Deb(vec![package.clone()]);
        imports.push(measure(|| {
            kernel::import(&source, &staging, &mut |_| ControlFlow::Continue(())).unwrap();
        }));
        fs::remove_dir_all(&staging).unwrap();
    }
    let import = median(imports);
    println!("import: {import}");
    println!("wall, import of a Debian package: {:.2} s (at most 5 s)", import.wall.as_secs_f64());
}
