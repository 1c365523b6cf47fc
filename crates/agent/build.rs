//! Links `banger-agent` static by a plain `cargo build`, in every profile.
//!
//! The agent runs in images that may hold no libc at all. `-C target-feature=+crt-static` would do it, but cargo takes it
//! only for a whole build: without `--target` it breaks proc-macros, with `--target` the binary lands in another
//! directory than `banger` and `bangerd`. So the same link is asked for here: `-static-pie`, and a directory searched
//! before the system's in which each shared library that rustc names is a linker script for the archive of that name.
//! The standard library is the same file in both modes; `cargo xtask build` checks the result. Not for musl targets,
//! which are static anyhow.
#![expect(clippy::disallowed_methods, reason = "a build script cannot use the crates it comes before")]

use std::path::Path;
use std::{env, fs, io};

/// What stands for each library that rustc links against on gnu. `libc.a` and `libgcc_eh.a` need each other.
const SCRIPTS: [(&str, &str); 7] = [
    ("libc.so", "GROUP ( -l:libc.a -l:libgcc_eh.a -l:libgcc.a )\n"),
    ("libgcc_s.so", "GROUP ( -l:libgcc_eh.a -l:libgcc.a -l:libc.a )\n"),
    ("libm.so", "INPUT ( -l:libm.a )\n"),
    ("libutil.so", "INPUT ( -l:libutil.a )\n"),
    ("librt.so", "INPUT ( -l:librt.a )\n"),
    ("libpthread.so", "INPUT ( -l:libpthread.a )\n"),
    ("libdl.so", "INPUT ( -l:libdl.a )\n"),
];

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed=build.rs");
    if env::var("CARGO_CFG_TARGET_ENV").is_ok_and(|libc| libc != "gnu") {
        return Ok(());
    }
    let out = env::var("OUT_DIR").expect("cargo sets OUT_DIR for build scripts");
    let scripts = Path::new(&out).join("static");
    fs::create_dir_all(&scripts)?;
    for (name, script) in SCRIPTS {
        fs::write(scripts.join(name), script)?;
    }
    println!("cargo::rustc-link-arg-bin=banger-agent=-L{}", scripts.display());
    println!("cargo::rustc-link-arg-bin=banger-agent=-static-pie");
    Ok(())
}
