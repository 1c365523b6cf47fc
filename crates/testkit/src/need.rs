//! What a test needs of its machine: found, or the test says why it skips, or fails because the run requires it.
//!
//! `BANGER_REQUIRE` is a list such as `qemu,kernel`: what it names must be there. `BANGER_SKIPS` names a file in which
//! every skip is noted, because the harness shows no output of tests that pass.

use std::{env, fs::OpenOptions, io::Write, path::PathBuf, process::Command};

/// The program `name`, which `BANGER_REQUIRE` calls `word`. A test without it returns at once.
///
/// # Panics
/// Where it is required and missing.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "a test's environment is its edge")]
pub fn program(word: &str, name: &str) -> Option<PathBuf> {
    let directories = env::var_os("PATH").unwrap_or_default();
    // Where the system's own programs lie, which users do not always have in their path.
    let system = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    let mut candidates = env::split_paths(&directories).chain(system).map(|dir| dir.join(name));
    let found = candidates.find(|path| path.is_file());
    found.or_else(|| missing(word, &format!("no {name}")))
}

/// QEMU for this machine's processors.
///
/// # Panics
/// Where it is required and missing.
#[must_use]
pub fn qemu() -> Option<PathBuf> {
    program("qemu", &format!("qemu-system-{}", env::consts::ARCH))
}

/// The right of root to `act`.
///
/// # Panics
/// Where it is required and missing.
#[must_use]
pub fn root(act: &str) -> Option<()> {
    if rustix::process::geteuid().is_root() {
        return Some(());
    }
    missing("root", &format!("no right to {act}"))
}

/// User and network namespaces with a tap in them, and the programs that make a network of that.
///
/// # Panics
/// Where they are required and cannot be had.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "it looks at the machine as a test does")]
pub fn namespaces() -> Option<()> {
    const WORD: &str = "namespaces";
    program(WORD, "nft")?;
    program(WORD, "pasta")?;
    let try_one = Command::new("unshare").args(["--user", "--net", "--map-current-user", "true"]).output();
    if !try_one.is_ok_and(|output| output.status.success()) {
        return missing(WORD, "no way to make user namespaces");
    }
    let tap = OpenOptions::new().read(true).write(true).open("/dev/net/tun");
    tap.map_or_else(|_| missing(WORD, "no /dev/net/tun that opens"), |_| Some(()))
}

/// Says that a test skips because of `why`.
///
/// # Panics
/// Where `BANGER_REQUIRE` names `word`.
#[expect(clippy::print_stderr, clippy::disallowed_methods, reason = "a test speaks to who runs it")]
pub fn missing<T>(word: &str, why: &str) -> Option<T> {
    let required = env::var("BANGER_REQUIRE").unwrap_or_default();
    assert!(
        !required.split(',').any(|item| item.trim() == word),
        "BANGER_REQUIRE names {word}, but there is {why}"
    );
    eprintln!("skipped: {why}");
    if let Some(path) = env::var_os("BANGER_SKIPS") {
        let file = OpenOptions::new().append(true).open(path);
        // One write, so that lines of tests that skip at the same time do not mix.
        let line = format!("{word}: {why}\n");
        file.and_then(|mut file| file.write_all(line.as_bytes())).expect("BANGER_SKIPS names a file");
    }
    None
}
