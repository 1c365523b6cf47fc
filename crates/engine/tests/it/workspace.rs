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

use engine::Part;
use proptest::prelude::*;
use testkit::home::wait_until;
use wire::{
    Word,
    control::{ChangeKind, Changes, Code, ErrorBody, Exported, Outcome, PrepareWorkspace, Prepared},
};

use crate::{guest::Manner, shared, verb::Verb::*, world::World};

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
            branch: None,
            from: None,
            include_untracked: false,
            depth: None,
            full_history: false,
            force: false,
        }
    }

    fn git(&self, words: &[&str]) -> String {
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
    let Outcome::Exported(exported) = world.run(&Export("a", base.map(str::to_owned)))? else { panic!() };
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

/// Something done to a file, by the number of its path and that of its content.
#[derive(Debug, Clone, Copy)]
enum Edit {
    Write(usize, usize),
    Program(usize, usize),
    Link(usize, usize),
    Delete(usize),
    Rename(usize, usize),
}

const PATHS: &[&[u8]] = &[
    b"a",
    b"README.md",
    b"dir/one",
    b"dir/two words",
    b"dir/deep/er/\xff\xfe",
    b"-dash",
    b":colon",
    b"\"quote\\",
    b"tab\there",
    b"line\nbreak",
    "\u{fc}mlaut/\u{1f980}".as_bytes(),
    b"dir/ignored",
    b"other/.gitignore",
    b".gitattributes",
];

fn content(number: usize) -> Vec<u8> {
    match number {
        0 => Vec::new(),
        1 => b"one line\n".to_vec(),
        2 => b"no end of line".to_vec(),
        3 => b"dos\r\nlines\r\n".to_vec(),
        4 => (0..=255).cycle().take(5000).collect(),
        5 => (0..20_000).flat_map(|n: u32| format!("line {n}\n").into_bytes()).collect(),
        6 => b"*.txt filter=evil diff=evil text eol=crlf\n* ident\n$Id$\n".to_vec(),
        7 => b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n".to_vec(),
        other => format!("{other}\n{}", "x".repeat(other * 37)).into_bytes(),
    }
}

fn edits() -> impl Strategy<Value = Vec<Edit>> {
    let path = || 0..PATHS.len();
    let one = prop_oneof![
        4 => (path(), 0..12usize).prop_map(|(path, content)| Edit::Write(path, content)),
        1 => (path(), 0..12usize).prop_map(|(path, content)| Edit::Program(path, content)),
        1 => (path(), path()).prop_map(|(path, target)| Edit::Link(path, target)),
        2 => path().prop_map(Edit::Delete),
        1 => (path(), path()).prop_map(|(from, to)| Edit::Rename(from, to)),
    ];
    prop::collection::vec(one, 0..8)
}

fn perform(dir: &Path, edits: &[Edit]) {
    let place = |number: usize| dir.join(OsStr::from_bytes(PATHS[number]));
    for edit in edits {
        match *edit {
            Edit::Write(path, number) => write(dir, OsStr::from_bytes(PATHS[path]), &content(number)),
            Edit::Program(path, number) => {
                write(dir, OsStr::from_bytes(PATHS[path]), &content(number));
                fs::set_permissions(place(path), fs::Permissions::from_mode(0o755)).unwrap();
            }
            Edit::Link(path, target) => {
                let _ = fs::remove_file(place(path));
                fs::create_dir_all(place(path).parent().unwrap()).unwrap();
                // Patterns are read from files alone, and a link there would be none.
                if !PATHS[path].starts_with(b"other") && !PATHS[path].starts_with(b".git") {
                    symlink(OsStr::from_bytes(PATHS[target]), place(path)).unwrap();
                }
            }
            Edit::Delete(path) => drop(fs::remove_file(place(path))),
            Edit::Rename(from, to) => {
                fs::create_dir_all(place(to).parent().unwrap()).unwrap();
                let _ = fs::rename(place(from), place(to));
            }
        }
    }
}

fn copy(from: &Tree, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for (path, (kind, content)) in from {
        let path = OsStr::from_bytes(path);
        match kind {
            'l' => {
                fs::create_dir_all(to.join(path).parent().unwrap()).unwrap();
                symlink(OsStr::from_bytes(content), to.join(path)).unwrap();
            }
            kind => {
                write(to, path, content);
                let mode = if *kind == 'x' { 0o755 } else { 0o644 };
                fs::set_permissions(to.join(path), fs::Permissions::from_mode(mode)).unwrap();
            }
        }
    }
}

/// Any state of a repository goes in, any work comes out as a patch that makes the one the other; and neither the owner's
/// repository nor the guest's is another afterwards.
#[test]
fn work_comes_back_as_it_was_done() {
    // As many at once as keep the processors busy: most of a case is waiting for git.
    let done = std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..THREADS).map(|_| scope.spawn(|| round_trips(cases().div_ceil(THREADS)))).collect();
        threads.into_iter().all(|thread| thread.join().is_ok())
    });
    assert!(done, "a thread above says what failed");
}

/// Checks that of `cases` states and works, in a world of their own.
fn round_trips(cases: u32) {
    let world = world();
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(cases) };
    let strategy = (edits(), edits(), edits(), edits(), edits(), any::<bool>());
    let mut runner = proptest::test_runner::TestRunner::new(config);
    let checked = runner.run(&strategy, |(committed, staged, unstaged, later, work, commits)| {
        let pair = Pair::new();
        let (host, guest) = (pair.host(), pair.guest());
        write(&host, ".gitignore", b"ignored\n");
        perform(&host, &committed);
        pair.commit();
        perform(&host, &staged);
        pair.git(&["add", "-A"]);
        perform(&host, &unstaged);
        let request = PrepareWorkspace { include_untracked: true, ..pair.request() };
        prepare(&world, request.clone()).unwrap();
        assert_eq!(tree(&guest), tree(&host), "what arrives is what is there");

        perform(&host, &later);
        if commits {
            pair.commit();
        }
        let before = everything(&host);
        let shipped = prepare(&world, request).unwrap();
        assert_eq!(shipped.head, pair.git(&["rev-parse", "HEAD"]));
        let base = tree(&guest);
        assert_eq!(base, tree(&host), "what arrives again too");
        assert_eq!(git(&guest, &["rev-parse", "HEAD"]), shipped.head);
        git(&guest, &["fsck", "--strict", "--no-dangling"]);

        perform(&guest, &work);
        write(&guest, "new/ignored/file", b"never seen");
        if commits {
            git(&guest, &["add", "-A"]);
            git(&guest, &["commit", "-q", "--allow-empty", "-m", "work"]);
        }
        let (guests_git, after) = (everything(&guest.join(".git")), tree(&guest));
        let (_, patch, _) = export(&world, None).unwrap();
        let copied = pair.dir.join("copy");
        copy(&base, &copied);
        apply(&copied, &patch);
        assert_eq!(tree(&copied), after, "the patch is the work");
        assert_eq!(everything(&guest.join(".git")), guests_git, "the guest's repository is as it was");
        assert_eq!(everything(&host), before, "the owner's repository is as it was");
        Ok(())
    });
    checked.unwrap();
    world.prepare(&[Delete("a")]);
}

/// How many round trips are made at once.
const THREADS: u32 = 4;

/// Others with `PROPTEST_CASES`.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(200)
}

#[test]
fn what_is_shipped_is_what_git_knows() {
    let world = world();
    let pair = Pair::new();
    write(&pair.host(), ".gitignore", b"*.o\n");
    write(&pair.host(), "known", b"1");
    write(&pair.host(), "gone", b"1");
    pair.commit();
    fs::remove_file(pair.host().join("gone")).unwrap();
    for file in ["unknown", "built.o", "staged"] {
        write(&pair.host(), file, b"2");
    }
    pair.git(&["add", "staged"]);
    let sub = PrepareWorkspace {
        path: Word::from(pair.host().join("known").display().to_string().as_str()),
        ..pair.request()
    };
    let plan = world.wait(world.engine().workspace_plan(sub)).unwrap();
    assert_eq!(plan.files, [".gitignore", "known", "staged"].map(Word::from));
    assert_eq!((plan.skipped, plan.branch.as_deref()), (1, Some("main")));
    assert!(!pair.guest().exists(), "a plan ships nothing");

    let prepared =
        prepare(&world, PrepareWorkspace { branch: Some("work".into()), ..pair.request() }).unwrap();
    assert_eq!((prepared.files, prepared.skipped), (3, 1));
    let names: Vec<_> = tree(&pair.guest()).into_keys().collect();
    assert_eq!(names, [&b".gitignore"[..], b"known", b"staged"]);
    // What is staged or deleted on the host is so in the guest, and the branch is the guest's alone.
    assert_eq!(git(&pair.guest(), &["status", "--porcelain", "-b"]), "## work\n D gone\nA  staged");
    assert_eq!(pair.git(&["branch", "--list", "work"]), "");
    let shown = world.wait(world.engine().workspace_show("a")).unwrap();
    assert_eq!((shown.head.as_str(), shown.moved, shown.changed), (prepared.head.as_str(), false, false));
    let now = || {
        let shown = world.wait(world.engine().workspace_show("a")).unwrap();
        (shown.moved, shown.changed)
    };
    // A touch is no change, nor is what would not be shipped.
    write(&pair.host(), "known", b"1");
    write(&pair.host(), "more unknown", b"1");
    assert_eq!(now(), (false, false));
    write(&pair.host(), "known", b"2");
    assert_eq!(now(), (false, true));
    write(&pair.host(), "known", b"1");
    write(&pair.host(), "gone", b"1");
    assert_eq!(now(), (false, true));
    fs::remove_file(pair.host().join("gone")).unwrap();
    assert_eq!(now(), (false, false));
    fs::set_permissions(pair.host().join("known"), fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(now(), (false, true));
    pair.commit();
    assert!(now().0);
    let again = world.wait(world.engine().workspace_show("a")).unwrap().again.unwrap();
    assert_eq!(again.branch.as_deref(), Some("work"));
    prepare(&world, again).unwrap();
    assert_eq!(now(), (false, false));
    fs::remove_dir_all(pair.host()).unwrap();
    assert_eq!(now(), (false, false), "what is gone is not told");
    world.prepare(&[Delete("a")]);
}

#[test]
fn history_goes_along_as_deep_as_was_asked() {
    let world = world();
    let pair = Pair::new();
    (0..14).for_each(|_| pair.commit());
    pair.git(&["remote", "add", "origin", "https://me:secret@example.org/x"]);
    let commits = |request| {
        let place =
            pair.dir.join(format!("guest-{}", host::rand::bytes::<4>().map(|b| b.to_string()).join("")));
        prepare(&world, PrepareWorkspace { guest_path: Some(place.display().to_string()), ..request })
            .unwrap();
        assert_eq!(git(&place, &["config", "remote.origin.url"]), "https://me@example.org/x");
        git(&place, &["rev-list", "--count", "HEAD"])
    };
    assert_eq!(commits(pair.request()), "10");
    assert_eq!(commits(PrepareWorkspace { depth: Some(3), ..pair.request() }), "3");
    assert_eq!(commits(PrepareWorkspace { full_history: true, ..pair.request() }), "14");
    world.prepare(&[Delete("a")]);
}

#[test]
fn a_guests_work_is_not_overwritten() {
    let world = world();
    let pair = Pair::new();
    write(&pair.host(), "file", b"1");
    write(&pair.host(), "other", b"1");
    pair.commit();
    let force = || PrepareWorkspace { force: true, ..pair.request() };
    write(&pair.guest(), "somebody's", b"");
    assert_eq!(prepare(&world, pair.request()).unwrap_err().code, Code::Conflict);
    fs::remove_dir_all(pair.guest()).unwrap();

    prepare(&world, pair.request()).unwrap();
    write(&pair.host(), "file", b"2");
    fs::remove_file(pair.host().join("other")).unwrap();
    write(&pair.guest(), "built/ignored", b"kept");
    write(&pair.host(), ".gitignore", b"ignored\n");
    pair.commit();
    // As the guest has no pattern for it yet, it is work.
    let error = prepare(&world, pair.request()).unwrap_err();
    assert!(error.code == Code::Conflict && error.hint.unwrap().contains("export"));
    assert_eq!(fs::read(pair.guest().join("file")).unwrap(), b"1", "nothing was touched");
    prepare(&world, force()).unwrap();
    assert_eq!(tree(&pair.guest()), tree(&pair.host()));
    assert!(pair.guest().join("built/ignored").exists());

    // Nothing was changed now, and what is ignored is no work.
    write(&pair.host(), "file", b"3");
    prepare(&world, pair.request()).unwrap();
    assert_eq!(fs::read(pair.guest().join("file")).unwrap(), b"3");
    assert!(pair.guest().join("built/ignored").exists());
    git(&pair.guest(), &["commit", "-qam", "only a commit"]);
    assert_eq!(prepare(&world, pair.request()).unwrap_err().code, Code::Conflict, "a commit is work too");
    world.prepare(&[Delete("a")]);
}

#[test]
fn a_second_prepare_ships_the_difference_alone() {
    let world = world();
    let pair = Pair::new();
    let (host, guest) = (pair.host(), pair.guest());
    for number in 0..20 {
        write(&host, format!("dir{}/{number}", number % 3), &[number; 1000]);
    }
    write(&host, ".gitignore", b"ignored\n");
    pair.commit();
    let sent = |request| {
        let prepared = prepare(&world, request).unwrap();
        assert_eq!(tree(&guest), tree(&host));
        assert_eq!(git(&guest, &["rev-parse", "HEAD"]), pair.git(&["rev-parse", "HEAD"]));
        assert_eq!(git(&guest, &["status", "--porcelain"]), pair.git(&["status", "--porcelain"]));
        git(&guest, &["fsck", "--strict", "--no-dangling"]);
        (prepared.sent, prepared.sent_bytes)
    };
    assert_eq!(sent(pair.request()), (21, 20_008));
    write(&guest, "dir0/ignored", b"kept");
    assert_eq!(sent(pair.request()), (0, 0));

    fs::rename(host.join("dir1/1"), host.join("dir1/renamed")).unwrap();
    fs::remove_file(host.join("dir2/2")).unwrap();
    write(&host, "dir0/0", b"changed");
    fs::set_permissions(host.join("dir0/3"), fs::Permissions::from_mode(0o755)).unwrap();
    // A directory in the place of a file, and the other way round.
    fs::remove_file(host.join("dir2/5")).unwrap();
    write(&host, "dir2/5/deep", b"x");
    pair.commit();
    assert_eq!(sent(pair.request()), (4, 2008));
    fs::remove_dir_all(host.join("dir2/5")).unwrap();
    symlink("8", host.join("dir2/5")).unwrap();
    pair.commit();
    assert_eq!(sent(pair.request()).0, 1);
    assert_eq!(fs::read(guest.join("dir0/ignored")).unwrap(), b"kept");
    assert_eq!(export(&world, None).unwrap().1, b"");

    // More history or less of it, and no branch.
    assert_eq!(sent(PrepareWorkspace { depth: Some(1), ..pair.request() }), (0, 0));
    assert_eq!(git(&guest, &["rev-list", "--count", "HEAD"]), "1");
    assert_eq!(sent(PrepareWorkspace { full_history: true, ..pair.request() }), (0, 0));
    assert_eq!(git(&guest, &["rev-list", "--count", "HEAD"]), "3");
    pair.git(&["checkout", "-q", "--detach", "HEAD~1"]);
    assert_eq!(sent(pair.request()).0, 1);
    assert_eq!(git(&guest, &["branch", "--list", "main"]), "");

    // Packs do not pile up for ever.
    for number in 0..15 {
        write(&host, "dir0/0", &[number]);
        pair.commit();
        sent(pair.request());
    }
    let packs = fs::read_dir(guest.join(".git/objects/pack")).unwrap().count();
    assert!(packs <= 2 * 27, "{packs}");

    // What is ignored stays, also where the host needs its place.
    write(&guest, "dir1/ignored", b"kept");
    write(&host, "dir1/ignored/file", b"");
    pair.git(&["add", "-f", "dir1/ignored/file"]);
    let error = prepare(&world, pair.request()).unwrap_err();
    assert!(error.code == Code::Conflict && error.message.contains("dir1/ignored"), "{error:?}");
    assert_eq!(fs::read(guest.join("dir1/ignored")).unwrap(), b"kept");
    prepare(&world, PrepareWorkspace { force: true, ..pair.request() }).unwrap();
    assert!(guest.join("dir1/ignored/file").exists());
    world.prepare(&[Delete("a")]);
}

/// Whatever a guest does to what was shipped is seen by the next prepare, also where it hides that, and by an export.
#[test]
fn a_second_prepare_is_not_fooled() {
    let world = world();
    let pair = Pair::new();
    let guest = pair.guest();
    for name in ["one", "two", "three/four"] {
        write(&pair.host(), name, b"original");
    }
    pair.commit();
    let file = guest.join("one");
    let faked = |content: &[u8]| {
        let times = fs::metadata(&file).unwrap();
        write(&guest, "one", content);
        let times = fs::FileTimes::new()
            .set_modified(times.modified().unwrap())
            .set_accessed(times.accessed().unwrap());
        fs::File::options().write(true).open(&file).unwrap().set_times(times).unwrap();
    };
    let run = |words: &[&str]| drop(git(&guest, words));
    let changes: [(&str, &dyn Fn()); 11] = [
        ("a write whose time was set back", &|| faked(b"0riginal")),
        ("another mode", &|| fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap()),
        ("a removed file", &|| fs::remove_file(guest.join("three/four")).unwrap()),
        ("a link in the place of a file", &|| {
            fs::rename(&file, guest.join(".git/one")).unwrap();
            symlink(".git/one", &file).unwrap();
        }),
        ("a directory in the place of a file", &|| {
            fs::remove_file(&file).unwrap();
            fs::create_dir(&file).unwrap();
        }),
        ("a new file", &|| write(&guest, "new", b"")),
        ("a branch", &|| run(&["branch", "mine"])),
        ("a tag", &|| run(&["tag", "mine"])),
        ("a packed tag", &|| {
            run(&["tag", "mine"]);
            run(&["pack-refs", "--all"]);
        }),
        ("another branch checked out", &|| run(&["symbolic-ref", "HEAD", "refs/heads/other"])),
        ("a commit", &|| run(&["commit", "-q", "--allow-empty", "-m", "mine"])),
    ];
    for (what, change) in changes {
        prepare(&world, PrepareWorkspace { force: true, ..pair.request() }).unwrap();
        change();
        let there = everything(&guest);
        let error = prepare(&world, pair.request()).unwrap_err();
        assert_eq!(error.code, Code::Conflict, "{what}: {error:?}");
        assert_eq!(everything(&guest), there, "{what}: nothing was touched");
        let _ = fs::remove_file(guest.join("new"));
    }
    prepare(&world, PrepareWorkspace { force: true, ..pair.request() }).unwrap();
    faked(b"0riginal");
    assert_eq!(export(&world, None).unwrap().0.files, 1, "an export sees through it too");

    // What git there lost comes again: all of it, or a part.
    faked(b"original");
    for lost in [".git", ".git/objects/pack", ".git/index"] {
        let _ = fs::remove_dir_all(guest.join(lost));
        let _ = fs::remove_file(guest.join(lost));
        assert_eq!(prepare(&world, pair.request()).unwrap().sent, 0, "{lost}");
        git(&guest, &["fsck", "--strict", "--no-dangling"]);
        assert_eq!(git(&guest, &["status", "--porcelain"]), "");
    }
    // A change of the host then goes on top of that.
    write(&pair.host(), "two", b"2");
    assert_eq!(prepare(&world, pair.request()).unwrap().sent, 1);
    assert_eq!(tree(&guest), tree(&pair.host()));
    world.prepare(&[Delete("a")]);
}

#[test]
fn changes_are_listed_and_can_be_against_a_commit() {
    let world = world();
    let pair = Pair::new();
    write(&pair.host(), "old name", b"the same content, long enough to be known again\n");
    write(&pair.host(), "edited", b"1\n");
    write(&pair.host(), "gone", b"1\n");
    pair.commit();
    write(&pair.host(), "edited", b"2\n");
    let head = prepare(&world, pair.request()).unwrap().head;
    assert_eq!(export(&world, None).unwrap().1, b"", "what was shipped is no change");
    assert!(String::from_utf8(export(&world, Some(&head)).unwrap().1).unwrap().contains("-1\n+2\n"));
    let guest = pair.guest();
    fs::rename(guest.join("old name"), guest.join("new name")).unwrap();
    fs::remove_file(guest.join("gone")).unwrap();
    write(&guest, "\x1b[2Jnew", b"");
    let (exported, patch, changes) = export(&world, None).unwrap();
    let kinds: Vec<_> = changes.changes.iter().map(|change| (change.path.as_bytes(), change.kind)).collect();
    assert_eq!(
        kinds,
        [
            (&b"\x1b[2Jnew"[..], ChangeKind::Added),
            (b"gone", ChangeKind::Deleted),
            (b"new name", ChangeKind::Renamed)
        ]
    );
    assert_eq!(exported.files, 3);
    assert!(!patch.contains(&0x1b), "names that could steer a terminal are escaped");
    assert_eq!(export(&world, Some("0123456")).unwrap_err().code, Code::NotFound);
    assert_eq!(export(&world, Some("--all")).unwrap_err().code, Code::NotFound);

    // It goes on when the owner's repository is not there any more.
    fs::remove_dir_all(pair.host()).unwrap();
    assert_eq!(export(&world, None).unwrap().1, patch);
    world.prepare(&[Delete("a")]);
}

/// What a guest can put in its tree to reach the host. None of it is run, followed or taken.
#[test]
fn a_hostile_tree_is_refused_or_harmless() {
    let world = world();
    let pair = Pair::new();
    write(&pair.host(), "file", b"1\n");
    pair.commit();
    prepare(&world, pair.request()).unwrap();
    let guest = pair.guest();
    let refused = |what: &str| {
        let error = export(&world, None).unwrap_err();
        assert_eq!(error.code, Code::Refused, "{what}: {error:?}");
        error.message
    };
    for path in [".GIT/config", "git~1/config", ".git /hooks/post-checkout", ".g\u{200c}it/x"] {
        write(&guest, path, b"[core]\nfsmonitor = touch /tmp/pwned\n");
        assert!(refused(path).contains("is not taken"));
        fs::remove_dir_all(guest.join(path.split('/').next().unwrap())).unwrap();
    }
    for target in ["/etc/passwd", "../outside", "sub/../../outside", "sub/../file", ".git/config"] {
        symlink(target, guest.join("link")).unwrap();
        assert!(refused(target).contains("out of the tree"));
        fs::remove_file(guest.join("link")).unwrap();
    }

    // Its repository may say what it likes: nobody here reads it.
    let marker = pair.dir.join("pwned");
    let evil = format!("touch {}", marker.display());
    for setting in
        ["core.fsmonitor", "diff.external", "core.hooksPath", "filter.evil.clean", "diff.evil.textconv"]
    {
        git(&guest, &["config", setting, &evil]);
    }
    write(&guest, ".gitattributes", b"* filter=evil diff=evil\n");
    write(&guest, ".git/info/attributes", b"* filter=evil diff=evil\n");
    write(&guest, ".git/objects/info/alternates", b"/etc\n");
    write(&guest, ".git/index", b"nonsense");
    write(&guest, ".git/HEAD", b"nonsense");
    write(&guest, "file", b"2\n");
    fs::set_permissions(guest.join("file"), fs::Permissions::from_mode(0o6755)).unwrap();
    write(&guest, ".gitignore", b"!*\n[\n\\\n**/**/**/**/**/x\n");
    let patch = String::from_utf8(export(&world, None).unwrap().1).unwrap();
    assert!(patch.contains("-1\n+2\n") && patch.contains("new mode 100755"), "{patch}");
    assert!(!marker.exists());
    fifo(&guest.join("fifo"));
    assert_eq!(export(&world, None).unwrap().1, patch.as_bytes(), "a fifo is no file");
    world.prepare(&[Delete("a")]);
}

pub fn fifo(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

#[test]
fn repositories_that_cannot_be_shipped_are_refused_with_the_reason() {
    let world = world();
    let pair = Pair::new();
    let plan = |path: &Path| {
        let path = Word::from(path.as_os_str().as_bytes().to_vec());
        let request = PrepareWorkspace { path, ..pair.request() };
        world.wait(world.engine().workspace_plan(request)).unwrap_err().to_string()
    };
    assert!(plan(&pair.host()).contains("no commit yet"));
    assert!(plan(&pair.dir).contains("in no git repository"));
    assert!(plan(&pair.dir.join("nowhere/at/all")).contains("in no git repository"));
    assert!(plan(Path::new("relative")).contains("in no git repository"));
    pair.commit();
    git(&pair.dir, &["clone", "-q", "--bare", "host", "bare"]);
    assert!(plan(&pair.dir.join("bare")).contains("bare"));
    let link = format!("160000,{},sub", pair.git(&["rev-parse", "HEAD"]));
    pair.git(&["update-index", "--add", "--cacheinfo", &link]);
    assert!(plan(&pair.host()).contains("submodules"));
    pair.git(&["rm", "-q", "--cached", "sub"]);
    write(&pair.host(), "file", b"");
    pair.commit();
    pair.git(&["update-index", "--skip-worktree", "file"]);
    assert!(plan(&pair.host()).contains("sparse"));
    pair.git(&["update-index", "--no-skip-worktree", "file"]);

    let refused = |request| world.wait(world.engine().workspace_plan(request)).unwrap_err().to_string();
    for (guest_path, why) in [("/etc", "cannot be a workspace"), ("/root/../x", "cannot be a workspace")] {
        let request = PrepareWorkspace { guest_path: Some(guest_path.to_owned()), ..pair.request() };
        assert!(refused(request).contains(why));
    }
    let branch = |name: &str| PrepareWorkspace { branch: Some(name.to_owned()), ..pair.request() };
    for name in ["a..b", "-x", "a b", ""] {
        assert!(refused(branch(name)).contains("no name for a branch"), "{name}");
    }
    let from = |from: &str| PrepareWorkspace { from: Some(from.to_owned()), ..branch("x") };
    assert!(world.wait(world.engine().workspace_plan(from("main"))).is_ok());
    assert!(refused(from("main~1")).contains("not what is checked out"));
    assert!(refused(from("--all")).contains("not what is checked out"));
    world.prepare(&[Delete("a")]);
}

/// A workspace operation that gets nowhere holds up nobody who wants the VM to end, and ends with it.
#[test]
fn a_stalled_prepare_ends_with_its_vm() {
    let pair = Pair::new();
    pair.commit();
    for end in [Stop("a"), Restart("a"), Kill("a"), Delete("a")] {
        let world = World::new();
        world.prepare(&[Create("a")]);
        world.manner.send_replace(Manner::Booting);
        let stalled = world.begin(&Prepare("a", Box::new(pair.request())));
        // It has its turn when it says what it does.
        shared::tells(&world, &stalled, "reading the repository");
        let waiting = world.begin(&Export("a", None));
        let ending = world.begin(&end);
        assert_eq!(world.end(&stalled).unwrap_err().code, Code::VmEnded, "{end:?}");
        let waited = world.end(&waiting).unwrap_err().code;
        let is_gone = waited == Code::NotFound && end == Delete("a");
        assert!(waited == Code::NotRunning || is_gone, "it waited for its turn: {end:?} {waited:?}");
        world.manner.send_replace(Manner::Good);
        world.end(&ending).unwrap();
        wait_until(crate::world::SOON, "nothing of it stays", || world.look().leaks.is_empty());
    }
    let world = World::new();
    world.prepare(&[Create("a")]);
    world.manner.send_replace(Manner::Booting);
    let stalled = world.begin(&Prepare("a", Box::new(pair.request())));
    stalled.cancel();
    assert_eq!(world.end(&stalled).unwrap_err().code, Code::Cancelled);
    world.manner.send_replace(Manner::Good);
    world.prepare(&[Delete("a")]);
}
