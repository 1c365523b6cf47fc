//! Repositories of every odd kind: each works, or is refused with the reason.

use super::*;

fn branch(world: &World, name: &str) -> Result<Exported, ErrorBody> {
    let request = ExportWorkspace { to_branch: Some(name.to_owned()), ..ExportWorkspace::default() };
    export_as(world, request).map(|(exported, ..)| exported)
}

#[test]
fn of_a_sparse_checkout_the_files_go_that_are_there() {
    let world = world();
    let pair = Pair::new();
    let (host, guest) = (pair.host(), pair.guest());
    for path in ["in/a", "out/b", "out/c", "top"] {
        write(&host, path, b"1\n");
    }
    pair.commit();
    pair.git(&["sparse-checkout", "set", "in"]);
    assert!(!host.join("out").exists());
    // One that is there all the same.
    write(&host, "out/c", b"2\n");
    prepare(&world, pair.request()).unwrap();
    assert_eq!(tree(&guest), tree(&host));
    assert_eq!(git(&guest, &["status", "--porcelain"]), " M out/c", "what is not there was not deleted");
    assert_eq!(export(&world, None).unwrap().1, b"");
    write(&guest, "in/a", b"2\n");
    branch(&world, "work").unwrap();
    assert_eq!(pair.git(&["diff", "--name-status", "work^", "work"]), "M\tin/a");
    assert_eq!(pair.git(&["diff", "--name-status", "main", "work^"]), "M\tout/c");
    write(&host, "in/a", b"2\n");
    let error = prepare(&world, pair.request()).unwrap_err();
    assert_eq!(error.code, Code::Conflict);
    prepare(&world, PrepareWorkspace { force: true, ..pair.request() }).unwrap();
    assert_eq!(prepare(&world, pair.request()).unwrap().sent, 0);
    world.prepare(&[Delete("a")]);
}
