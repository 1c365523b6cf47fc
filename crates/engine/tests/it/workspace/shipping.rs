//! What is shipped of a repository, and what is not.

use super::*;

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
    assert!(refused(from("main~1")).contains("not what is checked out"));
    assert!(refused(from("--all")).contains("not what is checked out"));
    world.prepare(&[Delete("a")]);
}
