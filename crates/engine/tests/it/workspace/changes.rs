//! What a guest changed: as a list, and against a commit.

use super::*;

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
