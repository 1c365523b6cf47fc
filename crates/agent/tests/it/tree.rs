//! Trees in and out of a root, which nothing leaves.

use std::{
    io::Read,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::Path,
};

use tar::{Builder, EntryType, Header};
use wire::control::{Code, ErrorBody};

use crate::world::{Scratch, random, with_agent};

/// An entry as a hostile client writes it.
fn add(tar: &mut Builder<Vec<u8>>, kind: EntryType, path: &str, link: &str, content: &[u8]) {
    let mut header = Header::new_gnu();
    let own = std::fs::metadata("/proc/self").unwrap();
    header.set_entry_type(kind);
    // Set by hand: the library refuses to write what it should refuse to read.
    header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
    header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.set_size(content.len() as u64);
    header.set_mode(0o640);
    header.set_uid(own.uid().into());
    header.set_gid(own.gid().into());
    header.set_mtime(1_000_000_000);
    header.set_cksum();
    tar.append(&header, content).unwrap();
}

#[test]
fn a_tree_comes_back_as_it_went() {
    let (from, to) = (Scratch::new("tree-from"), Scratch::new("tree-to"));
    let top = &from.0;
    let data = random(3_000_000);
    host::fs::private_dir(&top.join("a/b")).unwrap();
    host::fs::write_atomic(&top.join("a/data"), &data).unwrap();
    std::fs::hard_link(top.join("a/data"), top.join("a/twin")).unwrap();
    symlink("/etc/passwd", top.join("a/b/link")).unwrap();
    host::fs::create_new(&top.join("holes")).unwrap().set_len(64 << 20).unwrap();
    let long = "x".repeat(200);
    host::fs::write_atomic(&top.join("a").join(&long), b"long").unwrap();
    std::fs::set_permissions(top.join("a/b"), std::fs::Permissions::from_mode(0o550)).unwrap();

    with_agent(async |port| {
        let mut client = port.client().await;
        let path = |dir: &Path| format!("/v1/tree?path={}", dir.display());
        let (status, tar) = client.call("GET", &path(top), b"").await.unwrap();
        assert_eq!(status, 200);
        let (sender, receiver) = tokio::sync::mpsc::channel(1);
        drop((sender, receiver) as (tokio::sync::mpsc::Sender<()>, _));
        let (status, answer) = client.call("PUT", &path(&to.0), &tar).await.unwrap();
        assert_eq!(status, 204, "{}", String::from_utf8_lossy(&answer));
    });

    let meta = |path: &str| std::fs::symlink_metadata(to.0.join(path)).unwrap();
    assert!(host::fs::read(&to.0.join("a/data")).unwrap() == data);
    assert_eq!(meta("a/data").ino(), meta("a/twin").ino());
    assert_eq!(std::fs::read_link(to.0.join("a/b/link")).unwrap(), Path::new("/etc/passwd"));
    assert_eq!((meta("holes").len(), meta("holes").blocks()), (64 << 20, 0));
    assert_eq!(host::fs::read(&to.0.join("a").join(&long)).unwrap(), b"long");
    let before = std::fs::metadata(top.join("a/b")).unwrap();
    assert_eq!((meta("a/b").mode(), meta("a/b").mtime()), (before.mode(), before.mtime()));
    std::fs::set_permissions(to.0.join("a/b"), std::fs::Permissions::from_mode(0o700)).unwrap();
    std::fs::set_permissions(top.join("a/b"), std::fs::Permissions::from_mode(0o700)).unwrap();
}

#[test]
fn one_file_is_one_entry_and_a_link_is_not_followed() {
    let scratch = Scratch::new("tree-one");
    host::fs::write_atomic(&scratch.0.join("file"), b"content").unwrap();
    symlink("file", scratch.0.join("link")).unwrap();
    with_agent(async |port| {
        let mut client = port.client().await;
        for (name, kind, content) in
            [("file", EntryType::Regular, "content"), ("link", EntryType::Symlink, "")]
        {
            let path = format!("/v1/tree?path={}", scratch.0.join(name).display());
            let (_, tar) = client.call("GET", &path, b"").await.unwrap();
            let mut archive = tar::Archive::new(&tar[..]);
            let mut entries = archive.entries().unwrap();
            let mut entry = entries.next().unwrap().unwrap();
            assert_eq!((&*entry.path().unwrap(), entry.header().entry_type()), (Path::new(name), kind));
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            assert_eq!(text, content);
            assert!(entries.next().is_none());
        }
    });
}

/// Each of these tars tries to reach `outside`, which lies beside the directory that it is unpacked into.
#[test]
fn nothing_is_written_outside() {
    type Fill = fn(&mut Builder<Vec<u8>>);
    let hostile: [(&str, Fill); 8] = [
        ("climbing", |tar| add(tar, EntryType::Regular, "../outside/file", "", b"bad")),
        ("climbing late", |tar| add(tar, EntryType::Regular, "a/../../outside/file", "", b"bad")),
        ("through a link", |tar| {
            add(tar, EntryType::Symlink, "link", "../outside", b"");
            add(tar, EntryType::Regular, "link/file", "", b"bad");
        }),
        ("through an absolute link", |tar| {
            add(tar, EntryType::Symlink, "link", "/tmp", b"");
            add(tar, EntryType::Regular, "link/banger-agent-bad", "", b"bad");
        }),
        ("a directory through a link", |tar| {
            add(tar, EntryType::Symlink, "link", "../outside", b"");
            add(tar, EntryType::Directory, "link/dir", "", b"");
        }),
        ("a hard link out", |tar| {
            add(tar, EntryType::Link, "twin", "../outside/file", b"");
            add(tar, EntryType::Regular, "twin", "", b"bad");
        }),
        ("a hard link through a link", |tar| {
            add(tar, EntryType::Symlink, "link", "../outside", b"");
            add(tar, EntryType::Link, "twin", "link/file", b"");
        }),
        ("the directory itself", |tar| add(tar, EntryType::Symlink, ".", "../outside", b"")),
    ];
    let scratch = Scratch::new("tree-hostile");
    let (top, outside) = (scratch.0.join("top"), scratch.0.join("outside"));
    host::fs::create_dir(&outside).unwrap();
    host::fs::write_atomic(&outside.join("file"), b"good").unwrap();
    with_agent(async |port| {
        let mut client = port.client().await;
        let path = format!("/v1/tree?path={}", top.display());
        for (name, fill) in hostile {
            host::fs::remove_all(&top).unwrap();
            host::fs::create_dir(&top).unwrap();
            let mut tar = Builder::new(Vec::new());
            fill(&mut tar);
            let (status, answer) = client.call("PUT", &path, &tar.into_inner().unwrap()).await.unwrap();
            assert_eq!(status, 400, "{name}");
            assert_eq!(serde_json::from_slice::<ErrorBody>(&answer).unwrap().code, Code::Invalid, "{name}");
            assert_eq!(host::fs::list(&outside).unwrap(), [outside.join("file")], "{name}");
            assert_eq!(host::fs::read(&outside.join("file")).unwrap(), b"good", "{name}");
            assert_eq!(std::fs::metadata(outside.join("file")).unwrap().nlink(), 1, "{name}");
        }
        assert!(!host::fs::exists(Path::new("/tmp/banger-agent-bad")));

        // What leads somewhere inside is as good as any path, and an absolute one is taken as below the directory.
        host::fs::remove_all(&top).unwrap();
        host::fs::create_dir(&top).unwrap();
        let mut tar = Builder::new(Vec::new());
        add(&mut tar, EntryType::Directory, "./dir/", "", b"");
        add(&mut tar, EntryType::Symlink, "link", "dir", b"");
        add(&mut tar, EntryType::Regular, "link/one", "", b"1");
        add(&mut tar, EntryType::Regular, "/dir/two", "", b"2");
        let (status, _) = client.call("PUT", &path, &tar.into_inner().unwrap()).await.unwrap();
        assert_eq!(status, 204);
        assert_eq!(host::fs::read(&top.join("dir/one")).unwrap(), b"1");
        let two = std::fs::metadata(top.join("dir/two")).unwrap();
        assert_eq!((two.mode() & 0o7777, two.mtime()), (0o640, 1_000_000_000));

        // A cut tar is no whole one.
        let mut tar = Builder::new(Vec::new());
        add(&mut tar, EntryType::Regular, "file", "", &[7; 5000]);
        let tar = tar.into_inner().unwrap();
        assert_eq!(client.call("PUT", &path, &tar[..2000]).await.unwrap().0, 400);
    });
}
