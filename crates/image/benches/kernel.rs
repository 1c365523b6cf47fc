//! How long it takes to make a kernel of the store of Debian's package, which is fetched once and kept with the build; in turn with
//! `dpkg-deb -x`, which unpacks the same to the same disk, so that the ratio means something on a machine with other work.
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

use std::{fs, ops::ControlFlow, process::Command, time::Instant};

use image::kernel::{self, Source};
use support::{Scratch, measure, median, ratio};

const RUNS: usize = 5;

fn main() {
    let Some(package) = testkit::kernel_deb::path() else { return };
    println!("{}: {} bytes", package.display(), fs::metadata(&package).unwrap().len());
    let scratch = Scratch::new("kernel");
    let (mut imports, mut unpacks) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        let tree = scratch.0.join("tree");
        let started = Instant::now();
        let done = Command::new("dpkg-deb").arg("-x").arg(&package).arg(&tree).status();
        if done.is_ok_and(|done| done.success()) {
            assert!(Command::new("sync").arg("-f").arg(&tree).status().unwrap().success());
            unpacks.push(started.elapsed());
            fs::remove_dir_all(tree).unwrap();
        }
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
    println!("cpu, import of a Debian package: {:.2} s (at most 3 s)", import.cpu.as_secs_f64());
    unpacks.sort();
    if let Some(unpack) = unpacks.get(unpacks.len() / 2) {
        println!("dpkg-deb -x: wall {:.3} s", unpack.as_secs_f64());
        println!("wall, import over dpkg-deb -x and sync: {:.2} (at most 2)", ratio(import.wall, *unpack));
    }
}
