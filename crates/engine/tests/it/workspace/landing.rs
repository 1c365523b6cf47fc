//! A guest's work as a branch of the owner's repository.

use super::*;

fn land(world: &World, name: &str) -> Result<Exported, ErrorBody> {
    let request = ExportWorkspace { to_branch: Some(name.to_owned()), ..ExportWorkspace::default() };
    export_as(world, request).map(|(exported, ..)| exported)
}

fn force(world: &World, name: &str) -> Result<Exported, ErrorBody> {
    let to_branch = Some(name.to_owned());
    export_as(world, ExportWorkspace { to_branch, force: true, ..ExportWorkspace::default() })
        .map(|(exported, ..)| exported)
}

#[test]
fn work_becomes_a_branch() {
    let world = world();
    let pair = Pair::new();
    let (host, guest) = (pair.host(), pair.guest());
    write(&host, "committed", b"1\n");
    write(&host, "gone", b"1\n");
    pair.commit();
    let head = pair.git(&["rev-parse", "HEAD"]);
    prepare(&world, pair.request()).unwrap();
    assert_eq!(land(&world, "none").unwrap().branch, None, "nothing was changed");
    assert_eq!(pair.git(&["branch", "--list", "none"]), "");

    // On a clean checkout it is one commit.
    write(&guest, OsStr::from_bytes(b"new/\xff"), b"binary \0");
    fs::remove_file(guest.join("gone")).unwrap();
    symlink("committed", guest.join("link")).unwrap();
    git(&guest, &["add", "-A"]);
    git(&guest, &["commit", "-qm", "a guest's commit"]);
    let files = tree(&host);
    let branch = land(&world, "work/one").unwrap().branch.unwrap();
    assert_eq!(branch.commit, pair.git(&["rev-parse", "work/one"]));
    assert_eq!(pair.git(&["rev-parse", "work/one^"]), head);
    assert_eq!(pair.git(&["log", "-1", "--format=%s", "work/one"]), "Work in VM a");
    assert!(pair.git(&["reflog", "show", "work/one"]).contains("banger: work of a VM"));
    assert_eq!((tree(&host), pair.git(&["symbolic-ref", "HEAD"])), (files, "refs/heads/main".to_owned()));
    assert_eq!(pair.git(&["status", "--porcelain"]), "", "nothing is checked out");
    pair.git(&["fsck", "--strict", "--no-dangling"]);
    let worktree = pair.dir.join("worktree");
    pair.git(&["worktree", "add", "-q", worktree.to_str().unwrap(), "work/one"]);
    assert_eq!(tree(&worktree), tree(&guest));

    // What was not committed is a commit of its own below the work.
    fs::remove_dir_all(guest.join("new")).unwrap();
    fs::remove_file(guest.join("link")).unwrap();
    write(&host, "committed", b"2\n");
    write(&host, "untracked", b"2\n");
    let request = PrepareWorkspace { include_untracked: true, force: true, ..pair.request() };
    prepare(&world, request).unwrap();
    write(&guest, "committed", b"2\n3\n");
    land(&world, "two").unwrap();
    assert_eq!(pair.git(&["rev-list", "--count", "main..two"]), "2");
    assert_eq!(pair.git(&["diff-tree", "-r", "--name-status", "two^", "two"]), "M\tcommitted");
    let before = pair.git(&["diff-tree", "-r", "--name-status", "main", "two^"]);
    assert_eq!(before, "M\tcommitted\nA\tuntracked");
    // Against a commit it is one on that.
    let request = ExportWorkspace {
        base_commit: Some(head[..12].to_owned()),
        to_branch: Some("three".to_owned()),
        ..ExportWorkspace::default()
    };
    export_as(&world, request).unwrap();
    assert_eq!(
        pair.git(&["rev-parse", "three^", "three^{tree}"]),
        format!("{head}\n{}", pair.git(&["rev-parse", "two^{tree}"]))
    );
    world.prepare(&[Delete("a")]);
}

/// Where it is refused the owner's repository has not one byte that is another.
#[test]
fn a_branch_of_the_owners_is_not_overwritten() {
    let world = world();
    let pair = Pair::new();
    let (host, guest) = (pair.host(), pair.guest());
    write(&host, "file", b"1\n");
    pair.commit();
    pair.git(&["branch", "there"]);
    pair.git(&["symbolic-ref", "refs/heads/alias", "refs/heads/there"]);
    let elsewhere = pair.dir.join("elsewhere");
    pair.git(&["worktree", "add", "-q", "-b", "elsewhere", elsewhere.to_str().unwrap()]);
    let unborn = pair.dir.join("unborn");
    pair.git(&["worktree", "add", "-q", "--detach", unborn.to_str().unwrap()]);
    git(&unborn, &["checkout", "-q", "--orphan", "unborn"]);
    // Whatever it would run here says so.
    let marker = pair.dir.join("ran");
    for hook in ["reference-transaction", "pre-receive", "update", "post-update", "post-commit", "pre-commit"]
    {
        let path = format!(".git/hooks/{hook}");
        write(&host, &path, format!("#!/bin/sh\ntouch {}\n", marker.display()).as_bytes());
        fs::set_permissions(host.join(&path), fs::Permissions::from_mode(0o755)).unwrap();
    }
    prepare(&world, pair.request()).unwrap();
    write(&guest, "file", b"2\n");
    let before = everything(&host);
    for (name, code, why) in [
        ("there", Code::Conflict, "already"),
        ("main", Code::Conflict, "checked out"),
        ("elsewhere", Code::Conflict, "checked out"),
        ("unborn", Code::Conflict, "checked out"),
        ("there/below", Code::Conflict, "beside"),
        ("a..b", Code::Invalid, "no name"),
        ("-x", Code::Invalid, "no name"),
        ("HEAD", Code::Invalid, "no name"),
    ] {
        let error = land(&world, name).unwrap_err();
        assert!(error.code == code && error.message.contains(why), "{name}: {error:?}");
        assert_eq!(everything(&host), before, "{name}");
    }
    for (name, why) in [("main", "checked out"), ("elsewhere", "checked out"), ("alias", "second name")] {
        let error = force(&world, name).unwrap_err();
        assert!(error.code == Code::Conflict && error.message.contains(why), "{name}: {error:?}");
        assert_eq!(everything(&host), before, "{name}");
    }
    // Somebody else is just making it: what was moved goes again.
    write(&host, ".git/refs/heads/new.lock", b"");
    let locked = everything(&host);
    assert_eq!(land(&world, "new").unwrap_err().code, Code::Host);
    assert_eq!(everything(&host), locked);
    fs::remove_file(host.join(".git/refs/heads/new.lock")).unwrap();

    land(&world, "new").unwrap();
    let old = pair.git(&["rev-parse", "there"]);
    force(&world, "there").unwrap();
    assert_ne!(pair.git(&["rev-parse", "there"]), old);
    assert!(!marker.exists(), "no hook ran");
    // Without what the work stands on there is no branch.
    write(&host, "file", b"3\n");
    pair.git(&["commit", "-qa", "--amend", "-m", "another"]);
    pair.git(&["worktree", "remove", "--force", elsewhere.to_str().unwrap()]);
    pair.git(&["worktree", "remove", "--force", unborn.to_str().unwrap()]);
    for branch in ["alias", "there", "new", "elsewhere"] {
        pair.git(&["branch", "-D", "-q", branch]);
    }
    pair.git(&["reflog", "expire", "--expire=now", "--all"]);
    pair.git(&["gc", "-q", "--prune=now"]);
    let error = land(&world, "lost").unwrap_err();
    assert!(error.code == Code::NotFound && error.message.contains("any more"), "{error:?}");
    world.prepare(&[Delete("a")]);
}

/// Bytes that git converts are shipped as they lie there, and land as git has them or not at all.
#[test]
fn what_git_converts_lands_as_git_has_it() {
    let world = world();
    let pair = Pair::new();
    let (host, guest) = (pair.host(), pair.guest());
    let marker = pair.dir.join("ran");
    pair.git(&["config", "core.autocrlf", "true"]);
    pair.git(&["config", "filter.secret.clean", "tr a-z n-za-m"]);
    pair.git(&["config", "filter.secret.smudge", "tr a-z n-za-m"]);
    write(&host, ".gitattributes", b"*.secret filter=secret\n*.bin -text\n");
    write(&host, "dos.txt", b"one\r\ntwo\r\n");
    write(&host, "untouched.txt", b"one\r\n");
    write(&host, "x.bin", b"a\r\n");
    write(&host, "a.secret", b"plain text\n");
    pair.commit();
    pair.git(&["config", "filter.secret.clean", &format!("touch {}; cat", marker.display())]);
    prepare(&world, pair.request()).unwrap();
    assert_eq!(fs::read(guest.join("dos.txt")).unwrap(), b"one\r\ntwo\r\n");
    assert_eq!(fs::read(guest.join("a.secret")).unwrap(), b"plain text\n");
    write(&guest, "dos.txt", b"one\r\n2\r\n");
    write(&guest, "x.bin", b"b\r\n");
    land(&world, "work").unwrap();
    assert_eq!(pair.git(&["diff-tree", "-r", "--name-only", "main", "work"]), "dos.txt\nx.bin");
    assert_eq!(
        pair.git(&["diff-tree", "--shortstat", "main", "work"]),
        " 2 files changed, 2 insertions(+), 2 deletions(-)"
    );
    assert_eq!(pair.git(&["rev-list", "--count", "main..work"]), "1", "line ends are no work");
    assert_eq!(pair.git(&["cat-file", "-s", "work:x.bin"]), "3");

    write(&guest, "a.secret", b"more plain text\n");
    let before = everything(&host);
    let error = land(&world, "leak").unwrap_err();
    assert!(error.code == Code::Refused && error.message.contains("filter=secret"), "{error:?}");
    assert!(error.hint.unwrap().contains("git apply"));
    assert_eq!(everything(&host), before);
    assert!(!marker.exists(), "no filter ran");
    world.prepare(&[Delete("a")]);
}

/// What a guest makes of its tree that would do harm in a repository.
#[test]
fn a_hostile_tree_does_not_land() {
    let world = world();
    let pair = Pair::new();
    let (host, guest) = (pair.host(), pair.guest());
    write(&host, "file", b"1\n");
    pair.commit();
    prepare(&world, pair.request()).unwrap();
    let before = everything(&host);
    let refused = |what: &str| {
        let error = land(&world, "work").unwrap_err();
        assert_eq!(error.code, Code::Refused, "{what}: {error:?}");
        assert_eq!(everything(&host), before, "{what}");
    };
    write(&guest, ".GIT/hooks/post-checkout", b"#!/bin/sh\n");
    refused("another .git");
    fs::remove_dir_all(guest.join(".GIT")).unwrap();
    symlink("../outside", guest.join("link")).unwrap();
    refused("a link that leads out");
    fs::remove_file(guest.join("link")).unwrap();
    fs::set_permissions(guest.join("file"), fs::Permissions::from_mode(0o4755)).unwrap();
    refused("a set-user bit");
    fs::set_permissions(guest.join("file"), fs::Permissions::from_mode(0o644)).unwrap();
    // What git itself refuses in a tree.
    symlink("file", guest.join(".gitmodules")).unwrap();
    let error = land(&world, "work").unwrap_err();
    assert!(error.code == Code::Host && error.message.contains("gitmodules"), "{error:?}");
    assert_eq!(everything(&host), before);
    fs::remove_file(guest.join(".gitmodules")).unwrap();

    // What runs by itself lands, and is pointed out.
    write(&guest, ".envrc", b"rm -rf ~\n");
    write(&guest, ".github/workflows/\x1b[2Jci.yml", b"on: push\n");
    let to_branch = Some("work".to_owned());
    let operation = world.begin(&Export("a", ExportWorkspace { to_branch, ..ExportWorkspace::default() }));
    world.end(&operation).unwrap();
    let mut events = operation.follow();
    let warned = world.wait(async {
        while let Some(event) = events.next().await {
            if let Event::Warning { message } = event {
                return message;
            }
        }
        String::new()
    });
    assert!(warned.contains(".envrc") && warned.contains("ci.yml"), "{warned}");
    world.prepare(&[Delete("a")]);
}
