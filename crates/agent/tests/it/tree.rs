//! Trees in and out of a root, which nothing leaves.

use std::{
    io::{Read, Write},
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

use rustix::fs::{CWD, FileType, Mode, mknodat};
use tar::{Builder, EntryType, Header};
use wire::{
    control::{Code, ErrorBody},
    tree::{Kind, Known, Line, Picked, Stamped, Wanted},
};

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

#[test]
fn one_thing_goes_into_a_directory_or_becomes_what_is_asked_for() {
    let scratch = Scratch::new("tree-into");
    let top = &scratch.0;
    for dir in ["from/sub", "there"] {
        host::fs::private_dir(&top.join(dir)).unwrap();
    }
    host::fs::write_atomic(&top.join("file"), b"old").unwrap();
    symlink("from", top.join("link")).unwrap();
    let mut tar = Builder::new(Vec::new());
    add(&mut tar, EntryType::Directory, "a/", "", b"");
    add(&mut tar, EntryType::Regular, "a/one", "", b"one");
    add(&mut tar, EntryType::Link, "a/two", "a/one", b"");
    let tree = tar.into_inner().unwrap();
    let mut tar = Builder::new(Vec::new());
    add(&mut tar, EntryType::Regular, "a", "", b"alone");
    let file = tar.into_inner().unwrap();
    with_agent(async |port| {
        let mut client = port.client().await;
        for (tar, to, status, made) in [
            (&tree, "there", 204, "there/a/two"),
            (&tree, "new", 204, "new/two"),
            (&tree, "none/new", 404, ""),
            (&tree, "new2/", 409, ""),
            (&file, "file", 204, "file"),
            (&file, "there/", 204, "there/a"),
            (&file, "link", 204, "from/a"),
            (&file, "from/..", 204, "a"),
        ] {
            if to == "there/" {
                host::fs::remove_all(&top.join("there/a")).unwrap();
            }
            let path = format!("/v1/tree?path={}/{to}&into=true", top.display());
            let (answer, body) = client.call("PUT", &path, tar).await.unwrap();
            assert_eq!(answer, status, "{to}: {}", String::from_utf8_lossy(&body));
            assert!(status != 204 || top.join(made).is_file(), "{to}");
        }
        let path = format!("/v1/tree?path={}/link&follow=true", top.display());
        let (_, tar) = client.call("GET", &path, b"").await.unwrap();
        let names: Vec<_> = tar::Archive::new(&tar[..])
            .entries()
            .unwrap()
            .map(|e| e.unwrap().path().unwrap().into_owned())
            .collect();
        assert_eq!(names, ["./", "a", "sub/"].map(Path::new));
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

/// JSON values, one a line.
fn lines<T: serde::Serialize>(values: &[T]) -> Vec<u8> {
    values.iter().flat_map(|value| [serde_json::to_vec(value).unwrap(), b"\n".to_vec()].concat()).collect()
}

#[test]
fn a_tree_is_listed_without_git_and_without_following() {
    let scratch = Scratch::new("tree-list");
    let (top, outside) = (scratch.0.join("top"), scratch.0.join("outside"));
    for dir in [".git/hooks", "a/b/.git", "empty"] {
        host::fs::private_dir(&top.join(dir)).unwrap();
    }
    host::fs::private_dir(&outside).unwrap();
    for file in [".git/config", "a/b/.git/config", "a/b/file", "run", "../outside/secret"] {
        host::fs::write_atomic(&top.join(file), b"123").unwrap();
    }
    std::fs::set_permissions(top.join("run"), std::fs::Permissions::from_mode(0o755)).unwrap();
    symlink("../outside", top.join("link")).unwrap();
    rustix::fs::mkfifoat(CWD, top.join("fifo"), Mode::RUSR).unwrap();
    with_agent(async |port| {
        let mut client = port.client().await;
        let target = format!("/v1/tree/list?path={}", top.display());
        let (status, answer) = client.call("GET", &target, b"").await.unwrap();
        assert_eq!(status, 200);
        let text = String::from_utf8(answer.to_vec()).unwrap();
        let all: Vec<Line> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(all.last(), Some(&Line::End(4)));
        let mut found: Vec<_> = all
            .iter()
            .filter_map(|line| match line {
                Line::Entry(entry) => {
                    Some((String::from_utf8(entry.path.as_bytes().to_vec()).unwrap(), entry.kind, entry.size))
                }
                Line::End(_) => None,
            })
            .collect();
        found.sort();
        let expect = [
            ("a/b/file", Kind::File, 3),
            ("fifo", Kind::Other, 0),
            ("link", Kind::Link, 10),
            ("run", Kind::Executable, 3),
        ];
        assert_eq!(found, expect.map(|(path, kind, size)| (path.to_owned(), kind, size)));
    });
}

/// What of a tree was not touched has the stamp that it was unpacked with, and whatever was done to a file leaves another.
#[test]
fn stamps_tell_what_was_touched() {
    let scratch = Scratch::new("tree-stamps");
    let top = scratch.0.join("top");
    let mut tar = Builder::new(Vec::new());
    let names = ["still", "rewritten", "mode", "replaced"];
    for name in names {
        add(&mut tar, EntryType::Regular, name, "", b"content");
    }
    let tar = tar.into_inner().unwrap();
    with_agent(async |port| {
        let mut client = port.client().await;
        let put = format!("/v1/tree?make=true&path={}", top.display());
        let (status, answer) = client.call("PUT", &put, &tar).await.unwrap();
        assert_eq!(status, 200);
        let given = answer.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let given: Vec<Stamped> = given.map(|line| serde_json::from_slice(line).unwrap()).collect();
        assert_eq!(
            given.iter().map(|stamped| stamped.path.as_bytes()).collect::<Vec<_>>(),
            names.map(str::as_bytes)
        );

        let before = std::fs::metadata(top.join("rewritten")).unwrap();
        let file = host::fs::open_rw(&top.join("rewritten")).unwrap();
        (&file).write_all(b"CONTENT").unwrap();
        file.set_times(std::fs::FileTimes::new().set_modified(before.modified().unwrap())).unwrap();
        std::fs::set_permissions(top.join("mode"), std::fs::Permissions::from_mode(0o755)).unwrap();
        host::fs::write_atomic(&top.join("replaced"), b"content").unwrap();
        let (_, answer) =
            client.call("GET", &format!("/v1/tree/list?path={}", top.display()), b"").await.unwrap();
        let text = String::from_utf8(answer.to_vec()).unwrap();
        let mut same = Vec::new();
        for line in text.lines() {
            let Line::Entry(entry) = serde_json::from_str(line).unwrap() else { continue };
            assert!(entry.fresh, "it was changed a moment ago");
            let stamped = given.iter().find(|stamped| stamped.path == entry.path).unwrap();
            if entry.stamp.as_ref() == Some(&stamped.stamp) {
                same.push(String::from_utf8(entry.path.as_bytes().to_vec()).unwrap());
            }
        }
        assert_eq!(same, ["still"]);
    });
}

#[test]
fn contents_come_in_order_and_only_of_what_differs() {
    let scratch = Scratch::new("tree-pick");
    let (top, outside) = (scratch.0.join("top"), scratch.0.join("outside"));
    host::fs::private_dir(&top.join("a")).unwrap();
    host::fs::private_dir(&outside).unwrap();
    host::fs::write_atomic(&outside.join("secret"), b"secret").unwrap();
    host::fs::write_atomic(&top.join("a/file"), b"content").unwrap();
    symlink("../outside", top.join("link")).unwrap();
    // printf content | sha256sum
    let sha256 = "ed7002b439e9ac845f22357d822bac1444730fbdb6016d3ec9432297b9ec9f73".to_owned();
    let known = |kind, sha256: &str| Some(Known { kind, sha256: sha256.to_owned(), size: None });
    let sized = |size| Some(Known { kind: Kind::File, sha256: sha256.clone(), size: Some(size) });
    let wanted = [
        ("a/file", None),
        ("a/file", known(Kind::File, &sha256)),
        ("a/file", known(Kind::Executable, &sha256)),
        ("a/file", known(Kind::File, &sha256.replace('e', "f"))),
        ("a/file", sized(7)),
        ("a/file", sized(8)),
        ("gone/file", None),
        ("a", None),
        ("link/secret", None),
        ("../outside/secret", None),
        ("link", None),
    ]
    .map(|(path, known)| Wanted { path: path.into(), known });
    with_agent(async |port| {
        let mut client = port.client().await;
        let target = format!("/v1/tree/pick?path={}", top.display());
        let (status, answer) = client.call("POST", &target, &lines(&wanted)).await.unwrap();
        assert_eq!(status, 200);
        let mut rest = &answer[..];
        let mut next = || {
            let (header, after) = rest.split_first_chunk().unwrap();
            let picked = Picked::parse(*header).unwrap();
            let length = if let Picked::Content(_, length) = picked { length } else { 0 };
            let (content, after) = after.split_at(usize::try_from(length).unwrap());
            rest = after;
            (picked, String::from_utf8(content.to_vec()).unwrap())
        };
        let file = (Picked::Content(Kind::File, 7), "content".to_owned());
        assert_eq!(next(), file);
        assert_eq!(next(), (Picked::Same, String::new()));
        assert_eq!([next(), next()], [file.clone(), file.clone()]);
        assert_eq!([next(), next()], [(Picked::Same, String::new()), file]);
        for what in ["gone", "a directory", "through a link", "outside"] {
            assert_eq!(next(), (Picked::Gone, String::new()), "{what}");
        }
        assert_eq!(next(), (Picked::Content(Kind::Link, 10), "../outside".to_owned()));
        assert!(rest.is_empty());
    });
}

/// What changes while it is read ends all the same, and is as long as was said.
#[test]
fn what_does_not_hold_still_is_read_to_an_end() {
    let scratch = Scratch::new("tree-restless");
    let top = &scratch.0;
    host::fs::write_atomic(&top.join("grows"), b"").unwrap();
    let sparse = host::fs::create_new(&top.join("sparse")).unwrap();
    sparse.set_len(1 << 40).unwrap();
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let over = Over(&is_over);
        // One that grows and shrinks, and one that is a file, a link to what has no end, or a fifo in turn.
        scope.spawn(|| {
            let mut grows = host::fs::append(&top.join("grows")).unwrap();
            while !is_over.load(Ordering::Relaxed) {
                (0..64).for_each(|_| grows.write_all(&[b'x'; 4096]).unwrap());
                grows.set_len(0).unwrap();
            }
        });
        scope.spawn(|| {
            host::fs::write_atomic(&top.join("one"), b"content").unwrap();
            symlink("/dev/zero", top.join("two")).unwrap();
            mknodat(CWD, top.join("three"), FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
            while !is_over.load(Ordering::Relaxed) {
                for name in ["one", "two", "three"] {
                    host::fs::rename(&top.join(name), &top.join("turns")).unwrap();
                    host::fs::rename(&top.join("turns"), &top.join(name)).unwrap();
                }
            }
        });
        // By the size that it has it is known to be another, and by its digest only what may be read.
        let known = |size| Some(Known { kind: Kind::File, sha256: "00".repeat(32), size });
        let wanted = [
            ("sparse", known(Some(0))),
            ("sparse", known(None)),
            ("grows", known(None)),
            ("turns", known(None)),
        ];
        let wanted = wanted.map(|(path, known)| Wanted { path: path.into(), known });
        let restless: Vec<_> = wanted[2..].iter().cycle().take(400).cloned().collect();
        let read = |wanted: &[Wanted]| {
            let mut answer = Vec::new();
            agent::tree::pick(top, wanted, &mut answer).unwrap();
            answer
        };
        let mut rest = &read(&restless)[..];
        for wanted in &restless {
            let (header, after) = rest.split_first_chunk().unwrap();
            let length = match Picked::parse(*header).unwrap() {
                Picked::Content(_, length) => usize::try_from(length).unwrap(),
                Picked::Gone => 0,
                Picked::Same => panic!("{wanted:?} is never what is known"),
            };
            rest = &after[length..];
        }
        assert!(rest.is_empty());
        drop(over);
        // Of a terabyte only so much comes as somebody takes.
        for wanted in &wanted[..2] {
            let mut first = First(Vec::new());
            agent::tree::pick(top, std::slice::from_ref(wanted), &mut first).unwrap_err();
            assert_eq!(first.0, Picked::Content(Kind::File, 1 << 40).header());
        }
    });
}

/// Says at its end, whatever that is, that all is over.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Takes the first bytes that are written and no more.
struct First(Vec<u8>);

impl Write for First {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if !self.0.is_empty() {
            return Err(std::io::ErrorKind::BrokenPipe.into());
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn what_is_removed_lies_in_the_tree() {
    let scratch = Scratch::new("tree-remove");
    let (top, outside) = (scratch.0.join("top"), scratch.0.join("outside"));
    for dir in ["a/b", ".git/objects", "full"] {
        host::fs::private_dir(&top.join(dir)).unwrap();
    }
    host::fs::private_dir(&outside).unwrap();
    for file in ["a/b/file", ".git/objects/x", "full/one", "full/two", "../outside/secret"] {
        host::fs::write_atomic(&top.join(file), b"").unwrap();
    }
    symlink("../outside", top.join("link")).unwrap();
    let paths = ["a/b/file", ".git", "full/one", "not/there", "../outside/secret", "link/secret", "", "."];
    let paths = paths.map(wire::Word::from);
    with_agent(async |port| {
        let mut client = port.client().await;
        let target = format!("/v1/tree/remove?path={}", top.display());
        assert_eq!(client.call("POST", &target, &lines(&paths)).await.unwrap().0, 204);
    });
    assert_eq!(host::fs::list(&top).unwrap(), [top.join("full"), top.join("link")]);
    assert_eq!(host::fs::list(&top.join("full")).unwrap(), [top.join("full/two")]);
    assert!(host::fs::exists(&outside.join("secret")));
}

#[test]
fn a_workspace_is_made_where_it_may_be() {
    let scratch = Scratch::new("tree-make");
    let top = scratch.0.join("a/b");
    let tar = Builder::new(Vec::new()).into_inner().unwrap();
    with_agent(async |port| {
        let mut client = port.client().await;
        let put = |path: &Path| format!("/v1/tree?make=true&path={}", path.display());
        assert_eq!(client.call("PUT", &put(&top), &tar).await.unwrap().0, 200);
        for bad in ["/", "/etc", "/root/../etc/x", "/usr/lib/banger-test"] {
            assert_eq!(client.call("PUT", &put(Path::new(bad)), &tar).await.unwrap().0, 400, "{bad}");
        }
    });
    assert!(host::fs::is_dir(&top) && !host::fs::exists(Path::new("/usr/lib/banger-test")));
}
