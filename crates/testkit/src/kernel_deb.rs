//! A real kernel for tests: Debian's cloud kernel package, downloaded once and not installed.

use std::{
    env, fs,
    fs::File,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::need;

/// The package to use, from `BANGER_TEST_KERNEL_DEB`, else from `target/test-assets`, else fetched there by apt. Without
/// any a test says that it skips, or fails where `BANGER_REQUIRE` names `kernel`.
///
/// # Panics
/// Where it is required and missing, or `BANGER_TEST_KERNEL_DEB` names nothing.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "a test's environment is its edge")]
pub fn path() -> Option<PathBuf> {
    if let Some(path) = env::var_os("BANGER_TEST_KERNEL_DEB") {
        let path = PathBuf::from(path);
        assert!(path.is_file(), "BANGER_TEST_KERNEL_DEB names {}, which is no file", path.display());
        return Some(path);
    }
    fetch().or_else(|| {
        need::missing("kernel", "no kernel package, and apt could not fetch linux-image-cloud-amd64")
    })
}

/// `target/test-assets` of this workspace: what tests download, kept between runs.
///
/// # Panics
/// Where it cannot be made.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "a directory of the build, not of banger")]
pub fn assets() -> PathBuf {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let dir =
        workspace.canonicalize().expect("the workspace is where it was built").join("target/test-assets");
    fs::create_dir_all(&dir).expect("the target directory is writable");
    dir
}

/// The package in the assets, fetched where it is not there yet. Tests of several binaries come at the same time, so
/// the first one fetches under a lock.
#[expect(clippy::disallowed_methods, reason = "a directory of the build, not of banger")]
fn fetch() -> Option<PathBuf> {
    let dir = assets();
    let lock = File::create(dir.join("kernel.lock")).expect("the assets are writable");
    lock.lock().expect("a local file can be locked");
    if let Some(found) = newest(&dir) {
        return Some(found);
    }
    // The package without a version is empty and depends on the one with the kernel.
    let listing = Command::new("apt-cache").args(["depends", "linux-image-cloud-amd64"]).output().ok()?;
    let listing = String::from_utf8(listing.stdout).ok()?;
    let name = listing.lines().find_map(|line| line.trim().strip_prefix("Depends: linux-image-"))?;
    // Into a directory of its own first, so that what is found in the assets is whole.
    let staging = dir.join("kernel.part");
    let _ = fs::remove_dir_all(&staging);
    fs::create_dir(&staging).expect("the assets are writable");
    let fetched = Command::new("apt-get")
        // Root downloads as root: apt's own user has no business in the build's directories.
        .args(["-q", "-o", "APT::Sandbox::User=root", "download", &format!("linux-image-{name}")])
        .current_dir(&staging)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status();
    let found = newest(&staging).filter(|_| fetched.is_ok_and(|status| status.success()));
    let kept = found.map(|deb| {
        let kept = dir.join(deb.file_name().expect("it was found in a directory"));
        fs::rename(&deb, &kept).expect("the assets are one file system");
        kept
    });
    let _ = fs::remove_dir_all(&staging);
    kept
}

fn newest(dir: &Path) -> Option<PathBuf> {
    let packages = fs::read_dir(dir).ok()?.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("linux-image-") && name.ends_with(".deb")
    });
    packages.max()
}
