//! `fuzz/seeds` has a folder for each target, whose files are given to it.

use std::{
    fs, panic,
    path::{Path, PathBuf},
};

use hostile::{Asked, Target};
use testkit::need;

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz")
}

/// The names of what is in `dir`, sorted.
fn names(dir: &Path) -> Vec<String> {
    let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
    let mut names: Vec<String> = fs::read_dir(dir).unwrap().map(name).collect();
    names.sort();
    names
}

/// Gives `target` its seeds.
fn replay(target: Target) {
    let dir = fuzz().join("seeds").join(target.name());
    let names = names(&dir);
    assert!(!names.is_empty());
    for name in names {
        let bytes = fs::read(dir.join(&name)).unwrap();
        let kept = panic::catch_unwind(|| target.check(&bytes, Asked::Always));
        assert!(kept.is_ok(), "{}/{name} breaks something, as told above", target.name());
    }
}

#[test]
fn catalogs() {
    replay(Target::Catalog);
}

#[test]
fn boot_payloads() {
    replay(Target::Cpio);
}

#[test]
fn directories() {
    let Some(_) = need::program("e2fsck", "e2fsck") else { return };
    replay(Target::Directory);
}

#[test]
fn file_systems() {
    let Some(_) = need::program("e2fsck", "e2fsck") else { return };
    replay(Target::Ext4);
}

#[test]
fn questions_for_names() {
    replay(Target::Dns);
}

#[test]
fn requests_to_the_helper() {
    replay(Target::Helper);
}

#[test]
fn references_to_images() {
    replay(Target::ImageReference);
}

#[test]
fn requests_and_answers() {
    replay(Target::Json);
}

#[test]
fn kernels() {
    let Some(_) = need::program("e2fsck", "e2fsck") else { return };
    replay(Target::KernelImage);
}

#[test]
fn documents_of_images() {
    replay(Target::OciDocument);
}

#[test]
fn layers() {
    let Some(_) = need::program("e2fsck", "e2fsck") else { return };
    replay(Target::TarMerge);
}

#[test]
fn sessions() {
    replay(Target::Session);
}

#[test]
fn trees_of_guests() {
    replay(Target::Tree);
}

#[test]
fn every_target_has_a_program_and_seeds() {
    let mut targets = Target::ALL.map(|target| target.name().to_owned()).to_vec();
    targets.sort();
    assert_eq!(names(&fuzz().join("seeds")), targets);
    let programs: Vec<String> = targets.iter().map(|name| format!("{name}.rs")).collect();
    assert_eq!(names(&fuzz().join("fuzz_targets")), programs);
    let manifest = fs::read_to_string(fuzz().join("Cargo.toml")).unwrap();
    let named: Vec<&str> =
        manifest.lines().filter_map(|line| line.strip_prefix("path = \"fuzz_targets/")).collect();
    assert_eq!(named, programs.iter().map(|name| format!("{name}\"")).collect::<Vec<_>>());
}
