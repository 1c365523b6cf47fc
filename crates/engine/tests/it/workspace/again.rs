//! A second prepare: what travels, and what of the guest's work it keeps.

use super::*;

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
