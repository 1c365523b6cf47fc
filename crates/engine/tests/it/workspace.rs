//! Repositories into a guest and patches out of it: real git on both ends, and the real agent's code in between.
#![expect(clippy::disallowed_methods, reason = "tests make repositories and look at files as users do")]

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs,
    io::Read,
    os::unix::{
        ffi::OsStrExt,
        fs::{PermissionsExt, symlink},
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

mod again;
mod changes;
mod ending;
mod full;
mod hostile;
mod landing;
mod odd;
mod round_trip;
mod shipping;

use engine::Part;
use proptest::prelude::*;
use testkit::home::wait_until;
use wire::{
    Word,
    control::{
        ChangeKind, Changes, Code, ErrorBody, Event, ExportWorkspace, Exported, Outcome, PrepareWorkspace,
        Prepared, WorkspaceMode,
    },
};

use crate::{guest::Manner, verb::Verb::*, world::World};

/// Files of a tree: what each is, and its content.
type Tree = BTreeMap<Vec<u8>, (char, Vec<u8>)>;

/// A repository, a place for it in the guest, and nothing else.
pub struct Pair {
    dir: PathBuf,
}

impl Pair {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("banger-workspace-{}-{number}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(dir.join("host")).unwrap();
        let pair = Self { dir };
        pair.git(&["init", "-q", "-b", "main"]);
        pair
    }

    pub fn host(&self) -> PathBuf {
        self.dir.join("host")
    }

    pub fn guest(&self) -> PathBuf {
        self.dir.join("guest")
    }

    /// The words for shipping the one to the other.
    pub fn request(&self) -> PrepareWorkspace {
        PrepareWorkspace {
            path: self.host().as_os_str().as_bytes().to_vec().into(),
            guest_path: Some(self.guest().display().to_string()),
            user: None,
            branch: None,
            from: None,
            include_untracked: false,
            depth: None,
            full_history: false,
            force: false,
            readonly: false,
            mode: WorkspaceMode::Checkout,
        }
    }

    pub fn git(&self, words: &[&str]) -> String {
        git(&self.host(), words)
    }

    pub fn commit(&self) {
        self.git(&["add", "-A"]);
        self.git(&["commit", "-q", "--allow-empty", "-m", "a commit"]);
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Git as a user of this machine runs it.
fn git(dir: &Path, words: &[&str]) -> String {
    let output = Command::new("git")
        .args(["-c", "user.name=A", "-c", "user.email=a@b", "-c", "safe.directory=*"])
        .args(words)
        .current_dir(dir)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(output.status.success(), "git {words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
}

pub fn write(dir: &Path, path: impl AsRef<OsStr>, content: &[u8]) {
    let path = dir.join(Path::new(&path));
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    if fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_symlink()) {
        fs::remove_file(&path).unwrap();
    }
    fs::write(path, content).unwrap();
}

/// All below `dir` but what is called `.git`, or `ignored`.
fn tree(dir: &Path) -> Tree {
    let mut found = Tree::new();
    read_tree(dir, dir, &|name| name == ".git" || name == "ignored", &mut found);
    found
}

/// All below `dir`.
fn everything(dir: &Path) -> Tree {
    let mut found = Tree::new();
    read_tree(dir, dir, &|_| false, &mut found);
    found
}

fn read_tree(top: &Path, dir: &Path, skips: &dyn Fn(&OsStr) -> bool, found: &mut Tree) {
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let (path, meta) = (entry.path(), entry.path().symlink_metadata().unwrap());
        if skips(&entry.file_name()) {
            continue;
        }
        let key = path.strip_prefix(top).unwrap().as_os_str().as_bytes().to_vec();
        if meta.is_dir() {
            read_tree(top, &path, skips, found);
        } else if meta.is_symlink() {
            found.insert(key, ('l', fs::read_link(&path).unwrap().as_os_str().as_bytes().to_vec()));
        } else {
            let kind = if meta.permissions().mode() & 0o100 == 0 { 'f' } else { 'x' };
            found.insert(key, (kind, fs::read(&path).unwrap()));
        }
    }
}

/// A world with a running VM `a` that has the real agent.
pub fn world() -> World {
    let world = World::new();
    world.manner.send_replace(Manner::Agent);
    world.prepare(&[Create("a")]);
    world
}

pub fn prepare(world: &World, request: PrepareWorkspace) -> Result<Prepared, ErrorBody> {
    match world.run(&Prepare("a", Box::new(request)))? {
        Outcome::Prepared(prepared) => Ok(prepared),
        other => panic!("{other:?}"),
    }
}

pub fn export(world: &World, base: Option<&str>) -> Result<(Exported, Vec<u8>, Changes), ErrorBody> {
    export_as(world, ExportWorkspace { base_commit: base.map(str::to_owned), ..ExportWorkspace::default() })
}

fn export_as(world: &World, request: ExportWorkspace) -> Result<(Exported, Vec<u8>, Changes), ErrorBody> {
    let Outcome::Exported(exported) = world.run(&Export("a", request))? else { panic!() };
    let read = |part| {
        let mut bytes = Vec::new();
        world.engine().vm_exported("a", &exported.id, part).unwrap().read_to_end(&mut bytes).unwrap();
        bytes
    };
    let (patch, changes) = (read(Part::Patch), serde_json::from_slice(&read(Part::Changes)).unwrap());
    assert_eq!(patch.len() as u64, exported.bytes);
    Ok((exported, patch, changes))
}

/// Applies `patch` to the files in `dir`.
fn apply(dir: &Path, patch: &[u8]) {
    let file = dir.parent().unwrap().join("patch");
    fs::write(&file, patch).unwrap();
    // Outside of any repository, so that git looks at files and at nothing else.
    let ceiling = dir.parent().unwrap();
    let output = Command::new("git")
        .args(["apply", "--allow-empty", "--whitespace=nowarn"])
        .arg(&file)
        .current_dir(dir)
        .env("GIT_CEILING_DIRECTORIES", ceiling)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(patch);
    assert!(output.status.success(), "{}\n{text}", String::from_utf8_lossy(&output.stderr));
}

pub fn fifo(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}
