//! Directories as tests need them: listed, copied, shared.
#![expect(clippy::disallowed_methods, reason = "a test's files are its own")]

use std::{
    fs,
    path::{Path, PathBuf},
};

/// The entries of `directory`, sorted; none where it is missing.
///
/// # Panics
/// Where it cannot be read.
#[must_use]
pub fn list(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let mut found: Vec<PathBuf> = entries.map(|entry| entry.expect("it can be read").path()).collect();
    found.sort();
    found
}

/// Copies `from` and all below to the new directory `to`.
///
/// # Panics
/// Where it cannot be copied.
pub fn copy(from: &Path, to: &Path) {
    walk(from, to, &|from, to| {
        fs::copy(from, to).expect("both can be used");
    });
}

/// Makes `to` what `from` is, with files that are never modified shared by hard links: those of images and kernels, and
/// disk templates. Others are copied.
///
/// # Panics
/// Where it cannot be made.
pub fn link(from: &Path, to: &Path) {
    walk(from, to, &|from, to| {
        let immutable = ["images", "kernels", "templates", "payload"];
        let below = from.components().any(|part| immutable.iter().any(|name| part.as_os_str() == *name));
        if !(below && fs::hard_link(from, to).is_ok()) {
            // Holes stay holes: disks are mostly these, and the place may be small.
            host::fs::clone_sparse(from, to).expect("both can be used");
        }
    });
}

fn walk(from: &Path, to: &Path, file: &dyn Fn(&Path, &Path)) {
    fs::create_dir(to).expect("its parent is there");
    fs::set_permissions(to, fs::metadata(from).expect("it is there").permissions()).expect("it is ours");
    for entry in list(from) {
        let target = to.join(entry.file_name().expect("it is an entry"));
        let kind = fs::symlink_metadata(&entry).expect("it is there").file_type();
        if kind.is_dir() {
            walk(&entry, &target, file);
        } else if kind.is_file() {
            file(&entry, &target);
        }
    }
}
