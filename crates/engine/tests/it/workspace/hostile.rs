//! What a guest does with its tree to reach the host.

use std::time::Duration;

use super::*;
use crate::{liar::Lie, world::SOON};

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

/// The owner's repository and what is being made beside it, after something was refused.
fn is_untouched(world: &World, pair: &Pair, before: &Tree, what: &str) {
    assert_eq!(&everything(&pair.host()), before, "{what}: the owner's repository is as it was");
    let staging = world.home().join("state/staging");
    let left = || fs::read_dir(&staging).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
    wait_until(SOON, "nothing stays of an export", || left().is_empty());
}

/// Whatever an agent says instead of the truth, an export ends, takes no more than it may, and nothing of it lands.
#[test]
fn an_agent_that_lies_is_refused() {
    // A list that grows, one name or a content that has no end, what does not fit together, and what changes meanwhile.
    for (lie, why) in [
        (Lie::EndlessNames, "more files than are taken"),
        (Lie::EndlessName, "malformed"),
        (Lie::Deep, "is not taken"),
        (Lie::CutList, "malformed"),
        (Lie::WrongCount, "malformed"),
        (Lie::Terabyte, "changed more than the 2 GiB that are taken; its file \"new\" has 1 TiB"),
        (Lie::Swollen, "changed more than the 2 GiB that are taken; its file \"file\" has 1 TiB"),
        (Lie::Swelling, "changed more than the 2 GiB that are taken; its file \"file\" has 1 TiB"),
        (Lie::ManyFiles, "more changed files than are taken"),
        (Lie::ManyPatterns, "more files of ignore patterns than are taken"),
        (Lie::CutContent, "malformed"),
        (Lie::SameAsNothing, "malformed"),
        (Lie::BecameLink, "out of the tree"),
        (Lie::Noise, "malformed"),
    ] {
        let world = World::new();
        world.manner.send_replace(Manner::Liar(lie));
        world.prepare(&[Create("a")]);
        let pair = Pair::new();
        write(&pair.host(), "file", b"1\n");
        pair.commit();
        prepare(&world, pair.request()).unwrap();
        let before = everything(&pair.host());
        let is_long = matches!(lie, Lie::EndlessNames | Lie::ManyFiles);
        for to_branch in [None, Some("work".to_owned())].into_iter().skip(usize::from(is_long)) {
            let error = export_as(&world, ExportWorkspace { to_branch, ..ExportWorkspace::default() });
            let error = error.expect_err(&format!("{lie:?}"));
            assert!(error.code == Code::Refused && error.message.contains(why), "{lie:?}: {error:?}");
            is_untouched(&world, &pair, &before, &format!("{lie:?}"));
        }
        world.prepare(&[Delete("a")]);
    }
}

/// An agent that stops in the middle of anything is given up, and leaves nothing.
#[test]
fn an_agent_that_stands_still_is_given_up() {
    let still = "the guest neither took nor gave anything";
    let world_of = |lie| {
        let mut world = World::new();
        world.close();
        world.guest_patience = Some(Duration::from_millis(500));
        world.open();
        world.manner.send_replace(Manner::Liar(lie));
        world.prepare(&[Create("a")]);
        let pair = Pair::new();
        // More than is on its way at once.
        write(&pair.host(), "file", &vec![b'x'; 4 << 20]);
        pair.commit();
        (world, pair)
    };
    let given_up = |error: &ErrorBody, lie| {
        let told = [&error.message].into_iter().chain(&error.causes).any(|text| text.contains(still));
        assert!(told, "{lie:?}: {error:?}");
    };
    for lie in [Lie::StillTaking, Lie::StillTaken] {
        let (world, pair) = world_of(lie);
        let before = everything(&pair.host());
        given_up(&prepare(&world, pair.request()).unwrap_err(), lie);
        is_untouched(&world, &pair, &before, &format!("{lie:?}"));
        world.prepare(&[Delete("a")]);
    }
    for lie in [Lie::StillList, Lie::StillAnswer, Lie::StillContent] {
        let (world, pair) = world_of(lie);
        prepare(&world, pair.request()).unwrap();
        let before = everything(&pair.host());
        given_up(&export(&world, None).unwrap_err(), lie);
        is_untouched(&world, &pair, &before, &format!("{lie:?}"));
        world.prepare(&[Delete("a")]);
    }
}

/// What goes while it is looked at is gone; what is said unasked is not heard.
#[test]
fn a_listing_that_changes_under_way_is_taken_as_it_ends() {
    for (lie, names) in [(Lie::Went, &["file"][..]), (Lie::More, &["file", "new"])] {
        let world = World::new();
        world.manner.send_replace(Manner::Liar(lie));
        world.prepare(&[Create("a")]);
        let pair = Pair::new();
        write(&pair.host(), "file", b"1\n");
        pair.commit();
        prepare(&world, pair.request()).unwrap();
        let before = everything(&pair.host());
        let (_, _, changes) = export(&world, None).unwrap();
        let found: Vec<_> = changes.changes.iter().map(|change| change.path.clone()).collect();
        assert_eq!(found, names.iter().map(|name| Word::from(*name)).collect::<Vec<_>>(), "{lie:?}");
        is_untouched(&world, &pair, &before, &format!("{lie:?}"));
        world.prepare(&[Delete("a")]);
    }
}

/// What a guest can really do to its tree, by the real agent: sizes, depths and names that mean something elsewhere.
#[test]
fn a_guests_absurd_tree_is_refused_or_comes_back_as_it_is() {
    let world = world();
    let pair = Pair::new();
    write(&pair.host(), "file", b"1\n");
    pair.commit();
    prepare(&world, pair.request()).unwrap();
    let (guest, before) = (pair.guest(), everything(&pair.host()));

    // A sparse file of a terabyte, a new one or one that was shipped: its size is known before a byte of it is read, there too.
    for name in ["sparse", "file"] {
        fs::File::create(guest.join(name)).unwrap().set_len(1 << 40).unwrap();
        let error = export(&world, None).unwrap_err();
        assert!(error.code == Code::Refused, "{error:?}");
        assert!(error.message.contains(&format!("its file {name:?} has 1 TiB")), "{error:?}");
        is_untouched(&world, &pair, &before, "a terabyte");
        let error = prepare(&world, pair.request()).unwrap_err();
        assert_eq!(error.code, Code::Conflict, "it is work like any other");
        fs::remove_file(guest.join(name)).unwrap();
        prepare(&world, PrepareWorkspace { force: true, ..pair.request() }).unwrap();
    }
    assert_eq!(export(&world, None).unwrap().1, b"");

    // What has no content, or another one each time, in the place of a file that was shipped.
    let gone = |what: &str| {
        let (_, _, changes) = export(&world, None).unwrap();
        let found: Vec<_> = changes.changes.iter().map(|change| (change.kind, change.path.clone())).collect();
        assert_eq!(found, [(ChangeKind::Deleted, Word::from("file"))], "{what}");
        is_untouched(&world, &pair, &before, what);
        fs::remove_file(guest.join("file")).unwrap();
    };
    fs::remove_file(guest.join("file")).unwrap();
    fifo(&guest.join("file"));
    gone("a fifo");
    let socket = std::os::unix::net::UnixListener::bind(guest.join("file")).unwrap();
    gone("a socket");
    drop(socket);
    // /dev/zero and /dev/kmsg, where this test may make them.
    for minor in ["5", "11"] {
        let made = Command::new("mknod").arg(guest.join("file")).args(["c", "1", minor]).output().unwrap();
        if made.status.success() {
            gone("a device without an end");
        }
    }
    for target in ["/proc/self/mem", "/proc/self/fd/0", "/dev/zero"] {
        symlink(target, guest.join("file")).unwrap();
        let error = export(&world, None).unwrap_err();
        assert!(error.code == Code::Refused && error.message.contains("out of the tree"), "{error:?}");
        is_untouched(&world, &pair, &before, target);
        fs::remove_file(guest.join("file")).unwrap();
    }
    prepare(&world, PrepareWorkspace { force: true, ..pair.request() }).unwrap();

    // Directories deeper than any path can be long, made from within.
    let name = "d".repeat(200);
    let script = format!(
        "cd '{}'; i=0; while [ $i -lt 30 ]; do mkdir {name}; cd ./{name}; i=$((i+1)); done; echo >bottom",
        guest.display()
    );
    assert!(Command::new("bash").args(["-c", &script]).status().unwrap().success());
    let error = export(&world, None).unwrap_err();
    assert!(matches!(error.code, Code::Refused | Code::Guest), "{error:?}");
    is_untouched(&world, &pair, &before, "a deep tree");
    assert!(Command::new("rm").arg("-rf").arg(guest.join(&name)).status().unwrap().success());

    // Names for a terminal, for a shell, for git, and for no encoding: they come back as they are, and go nowhere else.
    let names: [&[u8]; 9] = [
        b"\x1b[31mred\x1b]0;title\x07",
        b"two\nlines",
        b"\"quoted\" \\ back",
        b"--output=here",
        b":(top)magic",
        b"\xff\xfe",
        b"$(touch pwned)",
        b"a -> b",
        b"\xe2\x80\xaetxt.exe",
    ];
    for name in names {
        write(&guest, OsStr::from_bytes(name), b"x\n");
    }
    let (_, patch, changes) = export(&world, None).unwrap();
    let mut found: Vec<_> = changes.changes.iter().map(|change| change.path.as_bytes().to_vec()).collect();
    found.sort();
    let mut expect = names.map(<[u8]>::to_vec);
    expect.sort();
    assert_eq!(found, expect);
    let printable = |byte: &u8| matches!(byte, b' '..=b'~' | b'\n' | b'\t');
    assert!(patch.iter().all(printable), "a patch that is shown does nothing to a terminal");
    let copied = pair.dir.join("copy");
    fs::create_dir(&copied).unwrap();
    write(&copied, "file", b"1\n");
    apply(&copied, &patch);
    assert_eq!(tree(&copied), tree(&guest));
    is_untouched(&world, &pair, &before, "names");

    // References and a git directory that lead elsewhere are the guest's own business.
    for (path, text) in [
        (".git/refs/heads/x", &b"ref: ../../../../etc/passwd\n"[..]),
        (".git/packed-refs", b"nonsense"),
        (".git/commondir", b"/etc\n"),
        (
            ".git/config",
            b"[include]\n\tpath = /etc/passwd\n[core]\n\tworktree = /\n\tfsmonitor = touch pwned\n",
        ),
        (".git/hooks/post-index-change", b"#!/bin/sh\ntouch pwned\n"),
        (".gitmodules", b"[submodule \"x\"]\n\tpath = x\n\turl = -u./pwned\n\tupdate = !touch pwned\n"),
        ("sub/.git", b"gitdir: /etc\n"),
    ] {
        write(&guest, path, text);
    }
    fs::set_permissions(guest.join(".git/hooks/post-index-change"), fs::Permissions::from_mode(0o755))
        .unwrap();
    let (_, _, changes) = export(&world, None).unwrap();
    assert_eq!(changes.changes.len(), names.len() + 1, "and .gitmodules as a file like any other");
    is_untouched(&world, &pair, &before, "a git directory");
    assert!(!guest.join("pwned").exists() && !pair.host().join("pwned").exists());
    world.prepare(&[Delete("a")]);
}
