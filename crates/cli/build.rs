//! Which commit this is built from, and when.
#![expect(clippy::disallowed_methods, reason = "a build script is no part of the program")]

use std::{env, process::Command};

fn main() {
    let git = |arguments: &[&str]| {
        let output =
            Command::new("git").args(arguments).output().ok().filter(|output| output.status.success())?;
        let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
        (!text.is_empty()).then_some(text)
    };
    let unknown = || "unknown".to_owned();
    let commit = env::var("BANGER_COMMIT").ok().or_else(|| git(&["rev-parse", "--short=12", "HEAD"]));
    // The commit's own time, so that building the same twice gives the same program.
    let built = env::var("BANGER_BUILT").ok().or_else(|| git(&["show", "-s", "--format=%cI", "HEAD"]));
    println!("cargo::rustc-env=BANGER_COMMIT={}", commit.unwrap_or_else(unknown));
    println!("cargo::rustc-env=BANGER_BUILT={}", built.unwrap_or_else(unknown));
    println!("cargo::rerun-if-env-changed=BANGER_COMMIT");
    println!("cargo::rerun-if-env-changed=BANGER_BUILT");
    for path in ["HEAD", "logs/HEAD"] {
        if let Some(path) = git(&["rev-parse", "--path-format=absolute", "--git-path", path]) {
            println!("cargo::rerun-if-changed={path}");
        }
    }
}
