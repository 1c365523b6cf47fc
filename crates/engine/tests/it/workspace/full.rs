//! Full copies: all that git knows, and the submodules.

use super::*;

/// Git that may clone from a path, as submodules of these tests do.
fn git_here(dir: &Path, words: &[&str]) -> String {
    git(dir, &[&["-c", "protocol.file.allow=always"], words].concat())
}

fn full(pair: &Pair) -> PrepareWorkspace {
    PrepareWorkspace { mode: WorkspaceMode::FullCopy, ..pair.request() }
}

/// A repository with a submodule `lib` that has one of its own, `lib/deep`, and one that is not checked out, `none`.
fn with_submodules() -> Pair {
    let pair = Pair::new();
    for name in ["deep", "lib"] {
        git(&pair.dir, &["init", "-q", "-b", "main", name]);
        write(&pair.dir.join(name), format!("{name}.txt"), b"1\n");
        git(&pair.dir.join(name), &["add", "-A"]);
        git(&pair.dir.join(name), &["commit", "-qm", name]);
    }
    let add = |dir: &Path, from: &str, place: &str| {
        let from = pair.dir.join(from);
        git_here(dir, &["submodule", "--quiet", "add", from.to_str().unwrap(), place]);
        git(dir, &["commit", "-qm", "a submodule"]);
    };
    add(&pair.dir.join("lib"), "deep", "deep");
    write(&pair.host(), "file", b"1\n");
    write(&pair.host(), ".gitignore", b"*.log\n");
    pair.commit();
    add(&pair.host(), "lib", "lib");
    add(&pair.host(), "deep", "none");
    git_here(&pair.host(), &["submodule", "--quiet", "update", "--init", "--recursive", "lib"]);
    pair.git(&["submodule", "--quiet", "deinit", "none"]);
    pair
}

#[test]
fn a_full_copy_has_the_submodules_and_its_work_comes_back() {
    let world = world();
    let pair = with_submodules();
    let (host, guest) = (pair.host(), pair.guest());
    let refused = prepare(&world, pair.request()).unwrap_err();
    assert!(refused.message.contains("\"lib\"") && refused.hint.unwrap().contains("--mode full-copy"));
    assert!(!guest.exists(), "nothing was made");

    write(&host, "lib/deep/deep.txt", b"edited\n");
    write(&host, "lib/new", b"untracked\n");
    let before = everything(&pair.dir);
    let plan = world.wait(world.engine().workspace_plan(full(&pair))).unwrap();
    let expect = [".gitignore", ".gitmodules", "file", "lib/.gitmodules", "lib/deep/deep.txt", "lib/lib.txt"];
    assert_eq!(plan.files, expect.map(Word::from));
    assert_eq!((plan.skipped, plan.submodules), (1, vec!["lib".into(), "lib/deep".into()]));
    let request = PrepareWorkspace { include_untracked: true, ..full(&pair) };
    prepare(&world, request.clone()).unwrap();
    let arrived = |path: &str| git(&guest.join(path), &["rev-parse", "HEAD"]);
    for path in [".", "lib", "lib/deep"] {
        assert_eq!(arrived(path), git(&host.join(path), &["rev-parse", "HEAD"]), "{path}");
        git(&guest.join(path), &["fsck", "--strict", "--no-dangling"]);
        let status = |top: &Path| git(&top.join(path), &["status", "--porcelain"]);
        assert_eq!(status(&guest), status(&host), "{path}");
    }
    assert_eq!(fs::read_dir(guest.join("none")).unwrap().count(), 0, "a place for what is not checked out");
    assert_eq!(git(&guest, &["submodule", "status"]), pair.git(&["submodule", "status"]));
    let texts: Vec<_> =
        everything(&guest).into_iter().filter(|(path, _)| path.ends_with(b"config")).collect();
    assert_eq!(texts.len(), 3);
    let place = pair.dir.as_os_str().as_bytes();
    for (path, (_, text)) in texts {
        let path = String::from_utf8_lossy(&path).into_owned();
        assert!(!text.windows(place.len()).any(|part| part == place), "{path} has a path of the host");
    }
    assert_eq!(export(&world, None).unwrap().1, b"");

    // Work in every repository of it, committed or not; what the one ignores is no matter of the other.
    let shipped = tree(&guest);
    write(&guest, "file", b"2\n");
    write(&guest, "lib/lib.txt", b"2\n");
    write(&guest, "lib/more.log", b"new\n");
    write(&guest, "ignored.log", b"new\n");
    write(&guest, "lib/deep/deep.txt", b"2\n");
    git(&guest.join("lib/deep"), &["commit", "-qam", "work"]);
    git(&guest, &["commit", "-qam", "work"]);
    let (_, patch, changes) = export(&world, None).unwrap();
    let names: Vec<_> = changes.changes.iter().map(|change| change.path.clone()).collect();
    assert_eq!(names, ["file", "lib/deep/deep.txt", "lib/lib.txt", "lib/more.log"].map(Word::from));
    let copied = pair.dir.join("copy");
    fs::create_dir(&copied).unwrap();
    for (path, (_, content)) in &shipped {
        write(&copied, OsStr::from_bytes(path), content);
    }
    apply(&copied, &patch);
    assert_eq!(fs::read(copied.join("lib/deep/deep.txt")).unwrap(), b"2\n");
    let mut after = everything(&pair.dir);
    after.retain(|path, _| [&b"guest/"[..], b"copy/", b"patch"].iter().all(|own| !path.starts_with(own)));
    assert_eq!(after, before, "the owner's repositories are as they were");
    git(&host, &["apply", "--check", pair.dir.join("patch").to_str().unwrap()]);
    let to_branch = ExportWorkspace { to_branch: Some("work".into()), ..ExportWorkspace::default() };
    assert_eq!(export_as(&world, to_branch).unwrap_err().code, Code::Refused);

    // A commit in a submodule is work too.
    assert_eq!(prepare(&world, request).unwrap_err().code, Code::Conflict);
    world.prepare(&[Delete("a")]);
}

#[test]
fn a_second_full_copy_ships_the_difference_alone() {
    let world = world();
    let pair = with_submodules();
    let (host, guest) = (pair.host(), pair.guest());
    let ship = |what: &str| {
        let prepared = prepare(&world, full(&pair)).unwrap();
        assert_eq!(tree(&guest), tree(&host), "{what}");
        for path in [".", "lib", "lib/deep"] {
            let refs = |top: &Path| git(&top.join(path), &["for-each-ref"]);
            assert_eq!(refs(&guest), refs(&host), "{what}: {path}");
            git(&guest.join(path), &["fsck", "--strict", "--no-dangling"]);
        }
        prepared.sent
    };
    assert_eq!(ship("first"), 6);
    assert_eq!(ship("again"), 0);
    write(&host, "lib/lib.txt", b"2\n");
    git(&host.join("lib"), &["commit", "-qam", "two"]);
    git(&host.join("lib"), &["tag", "v2"]);
    pair.git(&["branch", "more"]);
    assert_eq!(ship("a commit, a tag and a branch"), 1);
    let shown = world.wait(world.engine().workspace_show("a")).unwrap();
    assert!(!shown.changed && !shown.moved);
    pair.git(&["branch", "-D", "-q", "more"]);
    git(&host.join("lib"), &["tag", "-d", "v2"]);
    assert_eq!(ship("what is gone goes"), 0);
    write(&host, "lib/deep/deep.txt", b"2\n");
    assert!(world.wait(world.engine().workspace_show("a")).unwrap().changed);
    for work in ["tag", "branch"] {
        git(&guest.join("lib/deep"), &[work, "mine"]);
        assert_eq!(prepare(&world, full(&pair)).unwrap_err().code, Code::Conflict, "{work}");
        git(&guest.join("lib/deep"), &[work, "-d", "mine"]);
    }
    assert_eq!(ship("an edit"), 1);

    // Without its submodules it is shipped in the other way, and nothing of them stays.
    for name in ["lib", "none"] {
        pair.git(&["rm", "-qf", name]);
    }
    pair.commit();
    assert_eq!(prepare(&world, pair.request()).unwrap().files, 3);
    assert_eq!(everything(&guest).keys().filter(|path| path.starts_with(b"lib")).count(), 0);
    assert_eq!(git(&guest, &["branch", "--list"]), "* main");
    pair.git(&["branch", "more"]);
    prepare(&world, full(&pair)).unwrap();
    assert_eq!(git(&guest, &["branch", "--list"]), "* main\n  more");
    world.prepare(&[Delete("a")]);
}

/// What git knows goes, however the owner's repository keeps it; what is the host's own stays.
#[test]
fn a_full_copy_has_what_git_knows_and_nothing_of_the_hosts() {
    let world = world();
    let pair = Pair::new();
    let (host, guest) = (pair.host(), pair.guest());
    write(&host, "file", b"1\n");
    pair.commit();
    let base = pair.git(&["rev-parse", "HEAD"]);
    pair.git(&["checkout", "-q", "-b", "side"]);
    write(&host, "file", b"side\n");
    pair.commit();
    pair.git(&["checkout", "-q", "main"]);
    (0..14).for_each(|_| pair.commit());
    for text in ["first", "second"] {
        write(&host, "file", text.as_bytes());
        pair.git(&["stash", "push", "-q", "-m", text]);
    }
    pair.git(&["tag", "-a", "-m", "tagged", "v1", &base]);
    pair.git(&["notes", "add", "-m", "noted"]);
    pair.git(&["symbolic-ref", "refs/heads/alias", "refs/heads/side"]);
    pair.git(&["update-ref", "refs/remotes/origin/main", "HEAD"]);
    pair.git(&["symbolic-ref", "refs/remotes/origin/HEAD", "refs/remotes/origin/main"]);
    let secret = pair.git(&["commit-tree", "HEAD^{tree}", "-m", "nothing leads to it"]);
    // Half of a merge: in conflict, and something staged that is in no commit.
    write(&host, "file", b"main\n");
    pair.commit();
    let merge = Command::new("git").args(["merge", "-q", "side"]).current_dir(&host).output().unwrap();
    assert!(!merge.status.success());
    write(&host, "staged", b"only in the index\n");
    pair.git(&["add", "staged"]);
    write(&host, "staged", b"and another in the tree\n");
    for (key, value) in [
        ("remote.origin.url", "https://me:secret@example.org/x"),
        ("remote.backup.url", "/home/me/backup"),
        ("http.extraHeader", "Authorization: secret"),
        ("core.hooksPath", "/home/me/hooks"),
        ("log.showSignature", "true"),
        ("gpg.program", "/home/me/gpg"),
        ("user.email", "me@example.org"),
        ("branch.main.remote", "origin"),
    ] {
        pair.git(&["config", key, value]);
    }
    write(&host, ".git/hooks/post-commit", b"#!/bin/sh\necho secret\n");

    // As it is, with its objects in another one, and as a linked worktree.
    let shared = pair.dir.join("shared");
    let linked = pair.dir.join("linked");
    git(&pair.dir, &["clone", "-q", "--shared", "--no-checkout", "host", "shared"]);
    git(&shared, &["checkout", "-q", "-f", "main"]);
    pair.git(&["worktree", "add", "-q", "-f", "-b", "linked", linked.to_str().unwrap(), "side"]);
    let before = everything(&host);
    for top in [&host, &shared, &linked] {
        let place = format!("guest-{}", top.file_name().unwrap().to_str().unwrap());
        let guest = guest.with_file_name(&place);
        let path = Word::from(top.as_os_str().as_bytes().to_vec());
        let guest_path = Some(guest.display().to_string());
        prepare(&world, PrepareWorkspace { path, guest_path, ..full(&pair) }).unwrap();
        for words in [
            &["for-each-ref"][..],
            &["stash", "list"],
            &["status", "--porcelain=v2", "--branch"],
            &["ls-files", "--stage"],
            &["rev-list", "--all", "--count"],
            &["log", "--oneline", "--all", "--graph"],
        ] {
            assert_eq!(git(&guest, words), git(top, words), "{place}: {words:?}");
        }
        git(&guest, &["fsck", "--strict", "--no-dangling"]);
        assert!(guest.join(".git").is_dir() && !guest.join(".git/objects/info/alternates").exists());
        for (path, (_, content)) in everything(&guest) {
            let has = |text: &[u8]| content.windows(text.len()).any(|part| part == text);
            let path = String::from_utf8_lossy(&path).into_owned();
            for own in [&b"secret@"[..], b"Authorization", b"/home/me", pair.dir.as_os_str().as_bytes()] {
                assert!(!has(own), "{place}: {path}");
            }
            assert!(!path.starts_with(".git/hooks"), "{path}");
        }
        let unknown = Command::new("git").args(["cat-file", "-e", &secret]).current_dir(&guest).status();
        assert!(!unknown.unwrap().success(), "{place}: nothing led to it");
        assert_eq!(export(&world, None).unwrap().1, b"");
    }
    assert_eq!(everything(&host), before, "it was only read");
    let guest = guest.with_file_name("guest-host");
    assert_eq!(git(&guest, &["config", "remote.origin.url"]), "https://me@example.org/x");
    assert_eq!(git(&guest, &["config", "--local", "user.email"]), "me@example.org");
    git(&guest, &["commit", "-qam", "merged"]);
    assert_eq!(git(&guest, &["rev-list", "--count", "--merges", "HEAD"]), "1", "the merge was gone on with");
    world.prepare(&[Delete("a")]);
}

/// What says that it is part of the repository and is elsewhere does not make that go along.
#[test]
fn a_full_copy_has_nothing_from_elsewhere() {
    let world = world();
    let pair = with_submodules();
    let host = pair.host();
    git(&pair.dir, &["init", "-q", "-b", "main", "private"]);
    let private = pair.dir.join("private");
    write(&private, "secret", b"secret\n");
    git(&private, &["add", "-A"]);
    git(&private, &["commit", "-qm", "secret"]);
    let refused = |request: PrepareWorkspace| {
        let error = prepare(&world, request).unwrap_err();
        assert_eq!(error.code, Code::Invalid, "{error:?}");
        assert!(!pair.guest().exists(), "nothing was made");
        error.message
    };
    let pointer = host.join("lib/deep/.git");
    let own = fs::read(&pointer).unwrap();
    fs::write(&pointer, format!("gitdir: {}\n", private.join(".git").display())).unwrap();
    assert!(refused(full(&pair)).contains("no part of the repository"));
    fs::remove_file(&pointer).unwrap();
    symlink(private.join(".git"), &pointer).unwrap();
    assert!(refused(full(&pair)).contains("no part of the repository"));
    fs::remove_file(&pointer).unwrap();
    fs::write(&pointer, own).unwrap();
    // Files that a repository's settings say are its own, and are another's.
    write(&pair.dir, "precious", b"secret\n");
    pair.git(&["config", "core.worktree", pair.dir.to_str().unwrap()]);
    for request in [full(&pair), pair.request()] {
        assert!(refused(request).contains("which is another one's"));
    }
    pair.git(&["config", "--unset", "core.worktree"]);

    let depth = PrepareWorkspace { depth: Some(3), ..full(&pair) };
    assert!(refused(depth).contains("whole history"));
    let from = PrepareWorkspace { branch: Some("x".into()), from: Some("HEAD~1".into()), ..full(&pair) };
    assert!(refused(from).contains("what is checked out"));
    pair.git(&["branch", "taken"]);
    let taken = PrepareWorkspace { branch: Some("taken".into()), ..full(&pair) };
    assert_eq!(prepare(&world, taken).unwrap_err().code, Code::Conflict);
    prepare(&world, PrepareWorkspace { branch: Some("new".into()), ..full(&pair) }).unwrap();
    assert_eq!(git(&pair.guest(), &["branch", "--show-current"]), "new");
    world.prepare(&[Delete("a")]);
}
