//! Any state of a repository goes in, and any work in the guest comes out as a patch that makes the one the other.

use super::*;

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
    let mode = prop_oneof![Just(WorkspaceMode::Checkout), Just(WorkspaceMode::FullCopy)];
    let strategy = (edits(), edits(), edits(), edits(), edits(), any::<bool>(), mode);
    let mut runner = proptest::test_runner::TestRunner::new(config);
    let checked = runner.run(&strategy, |(committed, staged, unstaged, later, work, commits, mode)| {
        let pair = Pair::new();
        let (host, guest) = (pair.host(), pair.guest());
        write(&host, ".gitignore", b"ignored\n");
        perform(&host, &committed);
        pair.commit();
        perform(&host, &staged);
        pair.git(&["add", "-A"]);
        perform(&host, &unstaged);
        let request = PrepareWorkspace { include_untracked: true, mode, ..pair.request() };
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
