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

/// That the repository at `top`, or what `in_it` is in, goes in, comes out and gets a branch, and is not another but for that.
fn works(world: &World, pair: &Pair, top: &Path, in_it: &str) {
    let guest = pair.dir.join(format!("guest of {}", top.file_name().unwrap().to_str().unwrap()));
    let request = PrepareWorkspace {
        path: top.join(in_it).as_os_str().as_bytes().to_vec().into(),
        guest_path: Some(guest.display().to_string()),
        ..pair.request()
    };
    let before = everything(&pair.dir);
    prepare(world, request).unwrap();
    assert_eq!(git(&guest, &["rev-parse", "HEAD"]), git(top, &["rev-parse", "HEAD"]));
    git(&guest, &["fsck", "--strict", "--no-dangling"]);
    assert_eq!(export(world, None).unwrap().1, b"");
    write(&guest, "work", b"done\n");
    assert_eq!(export(world, None).unwrap().0.files, 1);
    let mut after = everything(&pair.dir);
    let name = guest.file_name().unwrap().as_bytes();
    after.retain(|path, _| !path.starts_with(name));
    assert_eq!(after, before, "what is there was only read");
    let landed = branch(world, "work").unwrap().branch.unwrap();
    assert_eq!(git(top, &["rev-parse", "work"]), landed.commit);
    assert_eq!(git(top, &["cat-file", "blob", "work:work"]), "done");
    assert_eq!(git(top, &["diff", "--name-only", "work~1", "work"]), "work");
    git(top, &["fsck", "--strict", "--no-dangling"]);
    fs::remove_dir_all(guest).unwrap();
}

#[test]
fn repositories_that_keep_their_objects_elsewhere_or_otherwise_work() {
    let world = world();
    let pair = Pair::new();
    write(&pair.host(), "dir/file", b"1\n");
    pair.commit();
    pair.commit();
    pair.commit();
    works(&world, &pair, &pair.host(), "dir");
    pair.git(&["branch", "-D", "-q", "work"]);

    let (linked, shared) = (pair.dir.join("linked"), pair.dir.join("shared, \"with\": a colon"));
    pair.git(&["worktree", "add", "-q", "-b", "linked", linked.to_str().unwrap()]);
    works(&world, &pair, &linked, ".");
    let from = pair.host().display().to_string();
    git(&pair.dir, &["clone", "-q", "--shared", &from, shared.to_str().unwrap()]);
    works(&world, &pair, &shared, ".");
    let shallow = pair.dir.join("shallow");
    git(&pair.dir, &["clone", "-q", "--depth", "2", &format!("file://{from}"), "shallow"]);
    works(&world, &pair, &shallow, ".");

    for (name, option) in [("sha256", "--object-format=sha256"), ("reftable", "--ref-format=reftable")] {
        let output =
            Command::new("git").args(["init", "-q", option, name]).current_dir(&pair.dir).output().unwrap();
        if !output.status.success() {
            println!("skipped: this git has no {option}");
            continue;
        }
        let top = pair.dir.join(name);
        write(&top, "file", b"1\n");
        git(&top, &["add", "-A"]);
        git(&top, &["commit", "-qm", "one"]);
        works(&world, &pair, &top, "file");
    }
    world.prepare(&[Delete("a")]);
}

/// Whatever an index says of its files, these go as they lie there.
#[test]
fn an_index_in_any_state_is_only_read() {
    let world = world();
    let pair = Pair::new();
    let (host, guest) = (pair.host(), pair.guest());
    for path in ["assumed", "unmerged", "filtered", "program"] {
        write(&host, path, b"base\n");
    }
    pair.commit();
    pair.git(&["checkout", "-q", "-b", "other"]);
    write(&host, "unmerged", b"theirs\n");
    pair.commit();
    pair.git(&["checkout", "-q", "main"]);
    write(&host, "unmerged", b"ours\n");
    pair.commit();
    let merge = Command::new("git").args(["merge", "-q", "other"]).current_dir(&host).output().unwrap();
    assert!(!merge.status.success() && fs::read(host.join("unmerged")).unwrap().starts_with(b"<<<<<<<"));
    pair.git(&["update-index", "--assume-unchanged", "assumed"]);
    write(&host, "assumed", b"changed\n");
    write(&host, "intended", b"new\n");
    pair.git(&["add", "-N", "intended"]);
    pair.git(&["config", "core.fileMode", "false"]);
    fs::set_permissions(host.join("program"), fs::Permissions::from_mode(0o755)).unwrap();
    // What its configuration would have run; a pointer of LFS is a file like any other.
    let marker = pair.dir.join("ran");
    let evil = format!("touch {}", marker.display());
    for key in [
        "core.fsmonitor",
        "core.hooksPath",
        "core.pager",
        "core.sshCommand",
        "diff.external",
        "filter.lfs.process",
        "filter.lfs.clean",
        "filter.lfs.smudge",
        "uploadpack.packObjectsHook",
        "core.alternateRefsCommand",
        "gpg.program",
    ] {
        pair.git(&["config", key, &evil]);
    }
    write(&host, ".gitattributes", b"filtered filter=lfs diff=lfs merge=lfs -text\n");
    write(&host, "filtered", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n");
    let before = everything(&host);
    prepare(&world, pair.request()).unwrap();
    let mut expect = tree(&host);
    expect.remove(&b".gitattributes"[..]);
    expect.get_mut(&b"program"[..]).unwrap().0 = 'f';
    assert_eq!(tree(&guest), expect);
    write(&guest, "unmerged", b"resolved\n");
    assert_eq!(export(&world, None).unwrap().0.files, 1);
    assert_eq!(everything(&host), before);
    branch(&world, "work").unwrap();
    assert!(!marker.exists(), "nothing of its configuration ran");
    world.prepare(&[Delete("a")]);
}

#[test]
fn a_huge_file_goes_and_comes() {
    let world = world();
    let pair = Pair::new();
    let file = fs::File::create(pair.host().join("huge")).unwrap();
    file.set_len((64 << 20) + 1).unwrap();
    pair.commit();
    prepare(&world, pair.request()).unwrap();
    let there = fs::File::options().append(true).open(pair.guest().join("huge")).unwrap();
    there.set_len((64 << 20) + 2).unwrap();
    let (exported, patch, _) = export(&world, None).unwrap();
    assert!(exported.files == 1 && patch.len() < 1 << 20, "zeros are packed");
    world.prepare(&[Delete("a")]);
}

#[test]
fn a_repository_of_another_user_is_refused() {
    let world = world();
    let pair = Pair::new();
    pair.commit();
    let theirs = match std::os::unix::fs::chown(pair.host(), Some(65_534), Some(65_534)) {
        Ok(()) => pair.host(),
        Err(_) => {
            return testkit::need::missing::<()>("root", "no root to give files away").unwrap_or_default();
        }
    };
    let path = theirs.as_os_str().as_bytes().to_vec().into();
    let plan = world.engine().workspace_plan(PrepareWorkspace { path, ..pair.request() });
    let refused = world.wait(plan).unwrap_err().to_string();
    assert!(refused.contains("belongs to another user"), "{refused}");
    world.prepare(&[Delete("a")]);
}
