//! What a guest does with its tree to reach the host.

use super::*;

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
