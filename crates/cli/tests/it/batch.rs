//! Several machines at once, images and kernels.

use std::{
    fs,
    sync::{Arc, Barrier},
};

use wire::control::{
    CacheContent, Code, ErrorBody, Event, Image, ImageRun, Images, ImportKernel, Kernel, Outcome, PullImage,
    State, Vms, Wait,
};

use crate::{
    banger::{run, run_with},
    fake::{Fake, vm},
};

/// A daemon with the machines `a` (id 00…a), `b` and `c`; `c` cannot be stopped.
fn three() -> Fake {
    Fake::serving(|request, connection| {
        let path: Vec<&str> = request.path.trim_start_matches("/v1/vms/").split(['/', '?']).collect();
        let known = match path[0] {
            "a" | "00000000000a" => vm("00000000000a", "a", State::Running),
            "b" => vm("00000000000b", "b", State::Running),
            "c" => vm("00000000000c", "c", State::Running),
            "00000000000b" => vm("00000000000b", "b", State::Running),
            "00000000000c" => vm("00000000000c", "c", State::Running),
            other => {
                return connection
                    .refuse(&ErrorBody::new(Code::NotFound, format!("no machine is called {other}")));
            }
        };
        match (request.method.as_str(), known.name.as_str()) {
            ("GET", _) => connection.json(&known),
            (_, "c") => {
                connection.stream();
                let error = ErrorBody::new(Code::Conflict, "c is being deleted");
                connection.event(&Event::Failed { error });
            }
            _ => {
                connection.stream();
                connection.event(&Event::Stage { name: "stopping".into() });
                connection.event(&Event::Done { result: Outcome::Vm(Box::new(known)) });
            }
        }
    })
}

#[test]
fn each_is_independent_once_and_in_order() {
    let fake = three();
    let words = ["vm", "stop", "b", "nope", "a", "c", "00000000000a", "b", "nope", "--quiet"];
    let outcome = run(&mut fake.home.banger(&words));
    assert_eq!((outcome.code, outcome.out().as_str()), (1, "b\na\n"));
    insta::assert_snapshot!(outcome.err(), @r"
    error: no machine is called nope
    error: c is being deleted
    ");
    let mut asked = fake.lines();
    asked.retain(|line| line.starts_with("POST"));
    asked.sort();
    let stop = |id: &str| format!("POST /v1/vms/{id}/stop");
    assert_eq!(asked, [stop("00000000000a"), stop("00000000000b"), stop("00000000000c")]);
}

#[test]
fn the_exit_code_is_what_all_have_in_common() {
    let fake = three();
    for (words, code) in [
        (&["vm", "stop", "a"][..], 0),
        (&["vm", "stop", "nope"], 4),
        (&["vm", "stop", "nope", "none"], 4),
        (&["vm", "stop", "nope", "a"], 1),
        (&["vm", "stop", "c"], 1),
        (&["vm", "show", "nope"], 4),
    ] {
        assert_eq!(run(&mut fake.home.banger(words)).code, code, "{words:?}");
    }
}

#[test]
fn stages_say_whose_they_are() {
    let fake = three();
    let outcome = run(&mut fake.home.banger(&["vm", "restart", "a", "b"]));
    assert_eq!((outcome.code, outcome.out().as_str()), (0, "a\nb\n"));
    let mut lines: Vec<_> = outcome.err().lines().map(str::to_owned).collect();
    lines.sort();
    assert_eq!(lines, ["a: stopping", "b: stopping"]);
}

#[test]
fn several_go_at_once() {
    // Each answer waits for the other request: one after the other would never end.
    let both = Arc::new(Barrier::new(2));
    let fake = Fake::serving(move |request, connection| {
        let name = request.path.split('/').nth(3).unwrap().to_owned();
        if request.method == "GET" {
            return connection.json(&vm(&name, &name, State::Stopped));
        }
        both.wait();
        connection.done(Outcome::None);
    });
    let outcome = run(&mut fake.home.banger(&["vm", "start", "--wait", "agent", "x", "y"]));
    assert_eq!((outcome.code, outcome.out().as_str()), (0, "x\ny\n"));
    assert!(fake.lines().contains(&"POST /v1/vms/x/start?wait=agent".to_owned()), "{:?}", fake.lines());
}

#[test]
fn kill_names_its_signal() {
    let fake = three();
    assert_eq!(run(&mut fake.home.banger(&["vm", "kill", "a"])).code, 0);
    assert_eq!(run(&mut fake.home.banger(&["vm", "kill", "--signal", "sigterm", "a"])).code, 0);
    let mut asked = fake.lines();
    asked.retain(|line| line.starts_with("POST"));
    let kill = |name: &str| format!("POST /v1/vms/00000000000a/kill?signal={name}");
    assert_eq!(asked, [kill("KILL"), kill("TERM")]);
}

#[test]
fn prune_deletes_what_does_not_run() {
    let fake = Fake::serving(|request, connection| match request.line().as_str() {
        "GET /v1/vms" => connection.json(&Vms {
            vms: vec![
                vm("00000000000a", "a", State::Running),
                vm("00000000000b", "b", State::Stopped),
                vm("00000000000c", "c", State::Error),
            ],
        }),
        _ => connection.done(Outcome::None),
    });
    let outcome = run(&mut fake.home.banger(&["vm", "prune"]));
    assert_eq!(outcome.code, 2);
    insta::assert_snapshot!(outcome.err(), @r"
    error: prune deletes machines and cannot ask without a terminal
    hint: banger vm prune -f
    ");
    assert_eq!(fake.lines().len(), 0);
    let outcome = run(&mut fake.home.banger(&["vm", "prune", "-f"]));
    assert_eq!((outcome.code, outcome.out().as_str()), (0, "b\nc\n"));
    let mut asked = fake.lines();
    asked.sort();
    assert_eq!(
        asked,
        ["GET /v1/vms", "POST /v1/vms/00000000000b/delete", "POST /v1/vms/00000000000c/delete"]
    );
}

fn image() -> Image {
    Image {
        name: "mine".into(),
        source: "standard input".into(),
        digest: "ab".repeat(32),
        size: 5 << 20,
        run: ImageRun::default(),
        kernel: None,
        ready: Wait::Agent,
        init: "none".into(),
        created_ms: 0,
        rootfs: "/x/rootfs.ext4".into(),
        superseded: false,
        used_by: vec![],
    }
}

#[test]
fn an_image_is_sent_as_it_is() {
    let fake = Fake::serving(|_, connection| connection.done(Outcome::Image(Box::new(image()))));
    let tar: Vec<u8> = (0..3_000_001_u32).map(|i| i.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
    let words = ["image", "import", "-", "--name", "mine", "--kernel", "k", "--init", "/bin/my init"];
    let outcome = run_with(&mut fake.home.banger(&words), &tar);
    assert_eq!((outcome.code, outcome.out().as_str()), (0, "mine\n"), "{}", outcome.err());
    let file = fake.home.path().join("rootfs.tar");
    fs::write(&file, &tar).unwrap();
    let outcome = run(&mut fake.home.banger(&["image", "import", file.to_str().unwrap(), "--name", "mine"]));
    assert_eq!(outcome.code, 0, "{}", outcome.err());
    let [piped, read] = &fake.seen()[..] else { panic!("two requests") };
    let path = "/v1/images/mine/import?source=standard%20input&kernel=k&init=%2Fbin%2Fmy%20init";
    assert_eq!(piped.path, path);
    assert!(piped.body == tar && read.body == tar, "the bytes of the tar");
    assert!(read.path.ends_with("rootfs.tar"), "{}", read.path);
}

#[test]
fn an_image_that_cannot_be_read_is_said_before_anything_is_sent() {
    let fake = Fake::serving(|request, _| panic!("{}", request.line()));
    let outcome = run(&mut fake.home.banger(&["image", "import", "/nonexistent.tar", "--name", "x"]));
    assert_eq!(outcome.code, 1);
    insta::assert_snapshot!(outcome.err(), @r"
    error: cannot open /nonexistent.tar
      cause: No such file or directory (os error 2)
    ");
}

#[test]
fn a_layout_is_read_by_the_daemon_where_it_lies() {
    let fake = Fake::serving(|_, connection| connection.done(Outcome::Image(Box::new(image()))));
    let home = fake.home.path();
    fs::create_dir(home.join("layout")).unwrap();
    let words = ["image", "import", "layout", "--name", "mine", "--tag", "a:b"];
    let outcome = run(fake.home.banger(&words).current_dir(home));
    assert_eq!(outcome.code, 0, "{}", outcome.err());
    let [request] = &fake.seen()[..] else { panic!("one request") };
    let path = home.join("layout").display().to_string().replace('/', "%2F");
    assert_eq!(request.path, format!("/v1/images/mine/import?source={path}&tag=a%3Ab&directory={path}"));
    assert!(request.body.is_empty());
}

#[test]
fn a_pull_is_asked_for_in_full() {
    let fake = Fake::serving(|_, connection| connection.done(Outcome::Image(Box::new(image()))));
    let words = ["image", "pull", "alpine:3.20", "--name", "mine", "--insecure"];
    let outcome = run(&mut fake.home.banger(&words));
    assert_eq!((outcome.code, outcome.out().as_str()), (0, "mine\n"), "{}", outcome.err());
    let [request] = &fake.seen()[..] else { panic!("one request") };
    let asked: PullImage = serde_json::from_slice(&request.body).unwrap();
    let reference = "docker.io/library/alpine:3.20".to_owned();
    let expected = PullImage { reference, name: Some("mine".into()), kernel: None, insecure: true };
    assert_eq!((request.line().as_str(), asked), ("POST /v1/image-pulls", expected));
    let outcome = run(&mut fake.home.banger(&["image", "pull", "a b"]));
    assert_eq!(outcome.code, 2);
    assert!(outcome.err().contains("' ' is not allowed"), "{}", outcome.err());
}

#[test]
fn the_cache_is_emptied_or_looked_at() {
    let fake = Fake::serving(|_, connection| connection.json(&CacheContent { blobs: 3, bytes: 5 << 20 }));
    let outcome = run(&mut fake.home.banger(&["image", "cache", "prune", "--dry-run"]));
    assert_eq!(outcome.out(), "3 blobs of 5 MiB would be removed\n");
    let outcome = run(&mut fake.home.banger(&["image", "cache", "prune"]));
    assert_eq!(outcome.out(), "3 blobs of 5 MiB were removed\n");
    assert_eq!(fake.lines(), ["GET /v1/image-cache", "POST /v1/image-cache/prune"]);
}

#[test]
fn images_that_tags_have_left_are_deleted_or_told() {
    let old = Image { superseded: true, name: "app-1-0123456789ab".into(), ..image() };
    let fake = Fake::serving(move |_, connection| {
        connection.json(&Images { images: vec![old.clone()] });
    });
    let outcome = run(&mut fake.home.banger(&["image", "prune", "--dry-run"]));
    assert_eq!((&*outcome.out(), &*outcome.err()), ("app-1-0123456789ab\n", "would free 5 MiB\n"));
    let outcome = run(&mut fake.home.banger(&["image", "prune"]));
    assert_eq!((&*outcome.out(), &*outcome.err()), ("app-1-0123456789ab\n", "freed 5 MiB\n"));
    assert_eq!(fake.lines(), ["GET /v1/image-prunes", "POST /v1/image-prunes"]);
}

#[test]
fn an_image_is_shown_with_how_it_is_run() {
    let fake = Fake::serving(|_, connection| {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        connection.json(&Image {
            run: ImageRun {
                entrypoint: words(&["/bin/my app", "--serve"]),
                cmd: words(&["all", ""]),
                env: words(&["PATH=/bin", "EVIL=\u{1b}[31m"]),
                user: Some("7:8".into()),
                workdir: Some("/srv".into()),
            },
            ..image()
        });
    });
    let outcome = run(&mut fake.home.banger(&["image", "show", "mine"]));
    assert_eq!(outcome.code, 0, "{}", outcome.err());
    insta::assert_snapshot!(outcome.out(), @r#"
    name:        mine
    source:      standard input
    digest:      abababababababababababababababababababababababababababababababab
    size:        5 MiB
    kernel:      (default)
    init:        none
    entrypoint:  "/bin/my app" --serve
    command:     all ""
    environment: PATH=/bin
                 EVIL=\u{1b}[31m
    user:        7:8
    directory:   /srv
    ready when:  the agent answers
    created:     1970-01-01T00:00:00Z
    file:        /x/rootfs.ext4
    used by:
    "#);
}

#[test]
fn kernels_come_from_absolute_paths() {
    let fake = Fake::serving(|_, connection| {
        connection.done(Outcome::Kernel(Box::new(Kernel {
            name: "k".into(),
            release: "6.1.0".into(),
            source: "k.deb".into(),
            size: 1,
            created_ms: 0,
            used_by: vec![],
        })));
    });
    fs::write(fake.home.path().join("k.deb"), "x").unwrap();
    for words in
        [&["--from", "k.deb"][..], &["--from", "k.deb", "--in-place"], &["--host"], &["--distribution"]]
    {
        let mut command = fake.home.banger(&["kernel", "import", "k"]);
        let outcome = run(command.args(words).current_dir(fake.home.path()));
        assert_eq!((outcome.code, outcome.out().as_str()), (0, "k\n"), "{}", outcome.err());
    }
    let asked: Vec<ImportKernel> =
        fake.seen().iter().map(|request| serde_json::from_slice(&request.body).unwrap()).collect();
    let path = fake.home.path().join("k.deb").to_str().unwrap().to_owned();
    let expected = [
        ImportKernel::Path(path.clone()),
        ImportKernel::InPlace(path),
        ImportKernel::Host,
        ImportKernel::Distribution,
    ];
    assert_eq!(asked, expected);
}

#[test]
fn images_are_deleted_each_on_its_own() {
    let fake = Fake::serving(|request, connection| match request.path.as_str() {
        "/v1/images/used" => {
            connection.refuse(
                &ErrorBody::new(Code::InUse, "image used is used by dev").with_hint("banger vm delete dev"),
            );
        }
        _ => connection.answer("204 No Content", b""),
    });
    let outcome = run(&mut fake.home.banger(&["image", "delete", "a", "used", "a", "b"]));
    assert_eq!((outcome.code, outcome.out().as_str()), (1, "a\nb\n"));
    insta::assert_snapshot!(outcome.err(), @r"
    error: image used is used by dev
    hint: banger vm delete dev
    ");
}
