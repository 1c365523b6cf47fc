//! What is shipped of a repository, and what is not.

use std::os::unix::fs::MetadataExt;

use testkit::home::wait_until;

use super::*;
use crate::{verb::Verb, world::SOON};

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
fn files_that_have_lain_for_a_while_are_known_by_their_stamps() {
    let world = world();
    let pair = Pair::new();
    write(&pair.host(), "known", b"1");
    pair.commit();
    // A file that was changed a moment ago is read instead.
    let lain = || {
        let changed = fs::metadata(pair.host().join("known")).unwrap().ctime();
        host::clock::now_ms() / 1000 > u64::try_from(changed).unwrap() + 3
    };
    wait_until(SOON, "the file has lain for a while", lain);
    prepare(&world, pair.request()).unwrap();
    let changed = || world.wait(world.engine().workspace_show("a")).unwrap().changed;
    assert!(!changed());
    write(&pair.host(), "known", b"2");
    assert!(changed());
}

#[test]
fn history_goes_along_as_deep_as_was_asked() {
    let world = world();
    let pair = Pair::new();
    (0..14).for_each(|_| pair.commit());
    pair.git(&["remote", "add", "origin", "https://me:secret@example.org/x"]);
    pair.git(&["config", "user.email", "own@example.org"]);
    let commits = |request| {
        let place =
            pair.dir.join(format!("guest-{}", host::rand::bytes::<4>().map(|b| b.to_string()).join("")));
        prepare(&world, PrepareWorkspace { guest_path: Some(place.display().to_string()), ..request })
            .unwrap();
        assert_eq!(git(&place, &["config", "remote.origin.url"]), "https://me@example.org/x");
        // What is the repository's own of who commits goes into the checkout, and what is not does not.
        let who = git(&place, &["config", "--file", ".git/config", "--get-regexp", "^user\\."]);
        assert_eq!(who, "user.email own@example.org");
        git(&place, &["rev-list", "--count", "HEAD"])
    };
    assert_eq!(commits(pair.request()), "10");
    assert_eq!(commits(PrepareWorkspace { depth: Some(3), ..pair.request() }), "3");
    assert_eq!(commits(PrepareWorkspace { full_history: true, ..pair.request() }), "14");
    world.prepare(&[Delete("a")]);
}

/// A branch may begin elsewhere than at what is checked out: then that commit's files go, through no filter, and the edits stay.
#[test]
fn a_branch_begins_at_another_commit_with_its_files() {
    let world = world();
    let pair = Pair::new();
    let (host, guest) = (pair.host(), pair.guest());
    let marker = pair.dir.join("ran");
    write(&host, "file", b"old\n");
    write(&host, "gone", b"old\n");
    write(&host, "dir/dos.txt", b"old\n");
    write(&host, "filtered", b"old\n");
    symlink("file", host.join("link")).unwrap();
    write(&host, "program", b"#!/bin/sh\n");
    fs::set_permissions(host.join("program"), fs::Permissions::from_mode(0o755)).unwrap();
    write(&host, ".gitattributes", b"*.txt text eol=crlf\nfiltered filter=evil ident\n");
    pair.commit();
    let old = pair.git(&["rev-parse", "HEAD"]);
    write(&host, "file", b"new\n");
    fs::remove_file(host.join("gone")).unwrap();
    pair.commit();
    pair.git(&["config", "filter.evil.smudge", &format!("touch {}; cat", marker.display())]);
    write(&host, "file", b"edited\n");
    let before = everything(&host);

    let from = |from: &str| PrepareWorkspace {
        branch: Some("work".to_owned()),
        from: Some(from.to_owned()),
        ..pair.request()
    };
    let plan = world.wait(world.engine().workspace_plan(from("HEAD~1"))).unwrap();
    assert_eq!((plan.files.len(), plan.head.as_str()), (7, old.as_str()));
    assert_eq!(prepare(&world, from("HEAD~1")).unwrap().head, old);
    assert_eq!(git(&guest, &["status", "--porcelain", "-b"]), "## work");
    assert_eq!(git(&guest, &["rev-parse", "HEAD"]), old);
    assert_eq!(fs::read(guest.join("file")).unwrap(), b"old\n");
    assert_eq!(fs::read(guest.join("dir/dos.txt")).unwrap(), b"old\n", "as git has it");
    assert_eq!(tree(&guest)[&b"program"[..]].0, 'x');
    assert_eq!(fs::read_link(guest.join("link")).unwrap(), Path::new("file"));
    assert_eq!(export(&world, None).unwrap().1, b"");
    let shown = || world.wait(world.engine().workspace_show("a")).unwrap();
    assert_eq!((shown().moved, shown().changed), (false, false));
    // The same words again are the same again, and a branch that moved is told.
    assert_eq!(prepare(&world, shown().again.unwrap()).unwrap().sent, 0);
    write(&guest, "file", b"work\n");
    let to_branch = Some("landed".to_owned());
    export_as(&world, ExportWorkspace { to_branch, ..ExportWorkspace::default() }).unwrap();
    assert_eq!(pair.git(&["rev-parse", "landed~1"]), old);
    pair.git(&["branch", "-D", "-q", "landed"]);
    fs::remove_dir_all(host.join(".git/logs/refs/heads")).unwrap();

    prepare(&world, PrepareWorkspace { force: true, ..from("HEAD") }).unwrap();
    assert_eq!(
        fs::read(guest.join("file")).unwrap(),
        b"edited\n",
        "what is checked out goes as it lies there"
    );
    prepare(&world, PrepareWorkspace { depth: Some(1), ..from(&old) }).unwrap();
    assert_eq!(git(&guest, &["rev-list", "--count", "HEAD"]), "1");
    assert!(guest.join("gone").exists());
    assert_eq!(tree(&host).len(), before.keys().filter(|path| !path.starts_with(b".git/")).count());
    assert!(!marker.exists(), "no filter ran");
    world.prepare(&[Delete("a")]);
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
    pair.commit();

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
    assert!(refused(from("main~7")).contains("no commit"));
    assert!(refused(from("--all")).contains("no commit"));
    assert!(refused(PrepareWorkspace { branch: None, ..from("main") }).contains("not which branch"));
    pair.commit();
    let untracked = PrepareWorkspace { include_untracked: true, ..from("main~1") };
    assert!(refused(untracked).contains("untracked files belong"));
    assert!(refused(PrepareWorkspace { depth: Some(0), ..pair.request() }).contains("depth of 0"));
    let both = PrepareWorkspace { depth: Some(1), full_history: true, ..pair.request() };
    assert!(refused(both).contains("not the full history"));
    world.prepare(&[Delete("a")]);
}

/// How far a transfer is, in bytes and in files, to the last of both.
#[test]
fn progress_is_told_in_bytes_and_files() {
    let world = world();
    let pair = Pair::new();
    for number in 0..20 {
        write(&pair.host(), format!("file{number}"), &[b'x'; 1000]);
    }
    pair.commit();
    let last = |verb: &Verb| {
        let operation = world.begin(verb);
        world.end(&operation).unwrap();
        let (mut follow, mut last) = (operation.follow(), BTreeMap::new());
        world.wait(async {
            while let Some(event) = follow.next().await {
                if let Event::Progress { name, done, total, unit } = event {
                    assert!(total.is_none_or(|total| done <= total), "{name}: {done} {total:?}");
                    assert!(last.insert(unit, (done, total)).is_none_or(|(before, _)| before <= done));
                }
            }
        });
        last
    };
    let of = |files, bytes| [("files".to_owned(), files), ("bytes".to_owned(), bytes)].into();
    let shipped = last(&Prepare("a", Box::new(pair.request())));
    assert_eq!(shipped, of((20, Some(20)), (20_000, Some(20_000))));
    for number in 0..5 {
        write(&pair.guest(), format!("file{number}"), &[b'y'; 500]);
    }
    let exported = last(&Export("a", ExportWorkspace::default()));
    assert_eq!(exported, of((5, None), (2500, None)));
    world.prepare(&[Delete("a")]);
}
