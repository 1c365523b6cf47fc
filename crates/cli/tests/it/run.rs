//! `vm run` and `vm create`: what is asked for, in which order, and what is left when it ends.

use std::{
    fs,
    sync::{Arc, Mutex, mpsc},
};

use bytes::Bytes;
use wire::{
    control::{Code, CreateVm, ErrorBody, Event, ImageRun, Outcome, Vm},
    exec::{Exit, Frame, Spec},
};

use crate::{
    banger::{DEADLINE, Home, Running, run, run_with},
    fake::{Connection, Fake, Request, made},
};

fn created(request: &Request) -> CreateVm {
    serde_json::from_slice(&request.body).unwrap()
}

fn events() -> Vec<Event> {
    vec![
        Event::Begun { op_id: "0190-op".into() },
        Event::Plan { summary: "2 vCPU · 1 GiB · 8 GiB disk · debian-bookworm · qemu (no KVM)".into() },
        Event::Stage { name: "booting".into() },
        Event::Progress { name: "booting".into(), done: 1, total: None, unit: "entries".into() },
        Event::Warning { message: "KVM is not usable".into() },
        Event::Stage { name: "waiting for agent".into() },
        Event::Done { result: made() },
    ]
}

/// A daemon that makes machines, deletes them, and does `play` for each command.
fn making(play: impl Fn(&mut Connection) + Send + Sync + 'static) -> (Fake, mpsc::Receiver<&'static str>) {
    let (told, happened) = mpsc::channel();
    let deleted = Arc::new(Mutex::new(()));
    let fake = Fake::serving(move |request, connection| match request.line().as_str() {
        "POST /v1/vms" => {
            connection.stream();
            events().iter().for_each(|event| connection.event(event));
            if created(request).rm {
                connection.closed();
                drop(deleted.lock().unwrap());
                told.send("owner gone").unwrap();
            }
        }
        "POST /v1/vms/0123456789ab/exec" => {
            connection.upgrade();
            play(connection);
        }
        "POST /v1/vms/0123456789ab/delete" => {
            let _order = deleted.lock().unwrap();
            told.send("deleted").unwrap();
            connection.done(Outcome::None);
        }
        other => panic!("{other}"),
    });
    (fake, happened)
}

const WHOLE: [&str; 3] =
    ["POST /v1/vms", "POST /v1/vms/0123456789ab/exec", "POST /v1/vms/0123456789ab/delete"];

#[test]
fn a_command_runs_and_nothing_is_left() {
    let (fake, happened) = making(|connection| {
        let Some(Frame::Stdin(data)) = connection.next_frame() else { panic!("input first") };
        connection.frame(&Frame::Stdout(data));
        connection.frame(&Frame::Stderr(Bytes::from_static(b"err\n")));
        connection.frame(&Frame::Exited(Exit::Code(42)));
    });
    let outcome = run_with(&mut fake.home.banger(&["vm", "run", "--rm", "--", "cat"]), b"hello\n");
    assert_eq!((outcome.code, outcome.out().as_str(), outcome.err().as_str()), (42, "hello\n", "err\n"));
    assert_eq!(fake.lines(), WHOLE);
    assert_eq!(happened.recv_timeout(DEADLINE), Ok("deleted"), "before its owner lets go");
    assert_eq!(happened.recv_timeout(DEADLINE), Ok("owner gone"));
    let request = created(&fake.seen()[0]);
    assert_eq!(request, CreateVm { rm: true, build_default_image: true, ..CreateVm::default() });
}

#[test]
fn rm_deletes_also_after_a_failure_of_bangers_own() {
    let (fake, happened) = making(|_| {});
    let outcome = run(&mut fake.home.banger(&["vm", "run", "--rm", "--", "x"]));
    assert_eq!(outcome.code, 125);
    assert_eq!(fake.lines(), WHOLE);
    assert_eq!(happened.recv_timeout(DEADLINE), Ok("deleted"));
}

#[test]
fn rm_deletes_also_after_two_interrupts_and_a_termination() {
    for (signals, code) in [(&["INT", "INT"][..], 130), (&["TERM", "TERM"], 143)] {
        let (sender, heard) = mpsc::channel();
        let (fake, happened) = making(move |connection| {
            sender.send(()).unwrap();
            connection.expect(|frame| matches!(frame, Frame::Signal(_)).then_some(()));
            sender.send(()).unwrap();
            connection.closed();
        });
        let running = Running::start(&mut fake.home.banger(&["vm", "run", "--rm", "--", "x"]));
        for signal in signals {
            heard.recv_timeout(DEADLINE).unwrap();
            running.signal(signal);
        }
        assert_eq!(running.end().code, code, "{signals:?}");
        assert_eq!(fake.lines(), WHOLE);
        assert_eq!(happened.recv_timeout(DEADLINE), Ok("deleted"));
    }
}

#[test]
fn the_owning_stream_lasts_as_long_as_the_program() {
    let (sender, heard) = mpsc::channel();
    let (fake, happened) = making(move |connection| {
        sender.send(()).unwrap();
        connection.closed();
    });
    let running = Running::start(&mut fake.home.banger(&["vm", "run", "--rm", "--", "x"]));
    heard.recv_timeout(DEADLINE).unwrap();
    assert_eq!(happened.try_recv(), Err(mpsc::TryRecvError::Empty));
    running.signal("KILL");
    assert_eq!(running.end().code, -9);
    assert_eq!(happened.recv_timeout(DEADLINE), Ok("owner gone"));
}

#[test]
fn without_a_command_it_runs_what_the_image_says() {
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let image_run = ImageRun {
        entrypoint: words(&["/bin/app", "a b"]),
        cmd: words(&["c"]),
        env: words(&["SET=by the daemon"]),
        user: Some("7:8".into()),
        workdir: Some("/srv".into()),
    };
    let (told, happened) = mpsc::channel();
    let fake = Fake::serving(move |request, connection| {
        if request.line() == "POST /v1/vms" {
            let Outcome::Vm(vm) = made() else { panic!("a machine is made") };
            return connection.done(Outcome::Vm(Box::new(Vm { run: Some(image_run.clone()), ..*vm })));
        }
        let Frame::Spec(spec) = connection.upgrade() else { panic!("what to run comes first") };
        told.send(*spec).unwrap();
        connection.frame(&Frame::Exited(Exit::Code(3)));
    });
    let expected = Spec {
        argv: vec!["/bin/app".into(), "a b".into(), "c".into()],
        env: vec![],
        cwd: Some("/srv".into()),
        user: Some("7:8".into()),
        ..Spec::default()
    };
    let own = Spec { argv: vec!["x".into()], cwd: None, user: None, ..expected.clone() };
    let other_user = Spec { user: Some("root".into()), ..expected.clone() };
    for (words, expected) in [
        (&["vm", "run", "--image", "h.io/x:1"][..], expected),
        (&["vm", "run", "--user", "root"], other_user),
        (&["vm", "run", "--", "x"], own),
    ] {
        let outcome = run(&mut fake.home.banger(words));
        assert_eq!(outcome.code, 3, "{}", outcome.err());
        assert_eq!(happened.recv_timeout(DEADLINE), Ok(expected), "{words:?}");
    }
    assert_eq!(created(&fake.seen()[0]).image.as_deref(), Some("h.io/x:1"));
}

#[test]
fn an_interrupted_create_is_cancelled_by_going_away() {
    for words in [&["vm", "run", "--rm", "--", "x"][..], &["vm", "create"], &["vm", "run"]] {
        let (sender, heard) = mpsc::channel();
        let fake = Fake::serving(move |_, connection| {
            connection.stream();
            connection.event(&Event::Stage { name: "booting".into() });
            sender.send("created").unwrap();
            connection.closed();
            sender.send("gone").unwrap();
        });
        let running = Running::start(&mut fake.home.banger(words));
        assert_eq!(heard.recv_timeout(DEADLINE), Ok("created"));
        running.signal("INT");
        let outcome = running.end();
        assert_eq!((outcome.code, outcome.out().as_str()), (130, ""), "{words:?}");
        assert_eq!(heard.recv_timeout(DEADLINE), Ok("gone"));
        assert_eq!(fake.lines(), ["POST /v1/vms"]);
    }
}

#[test]
fn progress_is_one_plain_line_a_stage_and_the_name_alone_is_data() {
    for words in [&["vm", "create"][..], &["vm", "run", "-d"]] {
        let (fake, _happened) = making(|_| {});
        let outcome = run(&mut fake.home.banger(words));
        assert_eq!((outcome.code, outcome.out().as_str()), (0, "brave-otter\n"));
        insta::allow_duplicates! {
            insta::assert_snapshot!(outcome.err(), @r"
            2 vCPU · 1 GiB · 8 GiB disk · debian-bookworm · qemu (no KVM)
            booting
            warning: KVM is not usable
            waiting for agent
            ");
        }
        let quiet = run(fake.home.banger(words).arg("--quiet"));
        assert_eq!((quiet.out().as_str(), quiet.err().as_str()), ("brave-otter\n", ""));
    }
}

#[test]
fn a_command_gets_standard_error_to_itself_unless_more_is_wanted() {
    let (fake, _happened) = making(|connection| connection.frame(&Frame::Exited(Exit::Code(0))));
    let outcome = run(&mut fake.home.banger(&["vm", "run", "--", "true"]));
    assert_eq!((outcome.code, outcome.err().as_str()), (0, ""));
    let outcome = run(&mut fake.home.banger(&["vm", "run", "-v", "--", "true"]));
    insta::assert_snapshot!(outcome.err(), @r"
    operation: 0190-op
    2 vCPU · 1 GiB · 8 GiB disk · debian-bookworm · qemu (no KVM)
    booting
    warning: KVM is not usable
    waiting for agent
    ");
    assert_eq!(fake.lines(), [WHOLE[0], WHOLE[1], WHOLE[0], WHOLE[1]], "without --rm it stays");
}

#[test]
fn a_shell_without_a_terminal_reads_its_commands_and_reminds() {
    let (fake, _happened) = making(|connection| {
        connection.expect(|frame| matches!(frame, Frame::StdinEnd).then_some(()));
        connection.frame(&Frame::Exited(Exit::Code(3)));
    });
    let outcome = run_with(&mut fake.home.banger(&["vm", "run"]), b"exit 3\n");
    assert_eq!(outcome.code, 3);
    let last = outcome.err().lines().last().unwrap().to_owned();
    assert_eq!(
        last,
        "brave-otter is still running: banger vm exec brave-otter, banger vm delete brave-otter"
    );
}

#[test]
fn every_flag_reaches_the_daemon() {
    let (fake, _happened) = making(|_| {});
    let words = "vm create --no-start --name dev --image mine --vcpu 4 --memory 512M --disk-size 16G \
                 --overlay-size 2048 --vmm qemu --nat --allow-host-loopback --group web --user dev --env A=1 -e \
                 B=x=y";
    assert_eq!(run(&mut fake.home.banger(&words.split_whitespace().collect::<Vec<_>>())).code, 0);
    insta::assert_snapshot!(String::from_utf8(fake.seen()[0].body.clone()).unwrap(), @r#"{"name":"dev","image":"mine","snapshot":null,"vcpu":4,"memory":536870912,"disk_size":17179869184,"overlay_size":2147483648,"vmm":"qemu","nat":true,"allow_host_loopback":true,"group":"web","user":"dev","env":[["A","1"],["B","x=y"]],"no_start":true,"wait":null,"rm":false,"build_default_image":true}"#);
    assert_eq!(run(&mut fake.home.banger(&["vm", "create", "--wait", "init"])).code, 0);
    assert_eq!(created(&fake.seen()[1]).wait, Some(wire::control::Wait::Init));
    assert_eq!(run(&mut fake.home.banger(&["vm", "create", "--snapshot", "warm"])).code, 0);
    assert_eq!(created(&fake.seen()[2]).snapshot.as_deref(), Some("warm"));
}

#[test]
fn a_failed_create_says_why_and_what_to_type() {
    let fake = Fake::serving(|_, connection| {
        connection.stream();
        let error = ErrorBody {
            causes: vec![
                "the agent did not answer in 60 s".into(),
                "the console's last lines:\nKernel panic".into(),
            ],
            op_id: Some("0190-op".into()),
            ..ErrorBody::new(Code::Guest, "cannot start dev; it is kept").with_hint("banger vm logs dev")
        };
        connection.event(&Event::Failed { error });
    });
    for (words, code) in
        [(&["vm", "run", "--rm", "--", "x"][..], 125), (&["vm", "run", "--rm"], 1), (&["vm", "create"], 1)]
    {
        let outcome = run(&mut fake.home.banger(words));
        assert_eq!((outcome.code, outcome.out().as_str()), (code, ""), "{words:?}");
        insta::allow_duplicates! {
            insta::assert_snapshot!(outcome.err(), @r"
            error: cannot start dev; it is kept
              cause: the agent did not answer in 60 s
              cause: the console's last lines:
                     Kernel panic
            hint: banger vm logs dev
            operation: 0190-op
            ");
        }
    }
    assert_eq!(fake.lines(), ["POST /v1/vms"; 3], "nothing is deleted: the logs are still there");
}

#[test]
fn a_stream_that_breaks_off_is_a_failure() {
    let fake = Fake::serving(|_, connection| {
        connection.stream();
        connection.event(&Event::Stage { name: "booting".into() });
    });
    let outcome = run(&mut fake.home.banger(&["vm", "create", "--quiet"]));
    assert_eq!((outcome.code, outcome.out().as_str()), (1, ""));
    insta::assert_snapshot!(outcome.err(), @"error: the connection to the daemon was cut while an operation was under way");
}

#[test]
fn bad_words_are_refused_before_anything_is_asked() {
    let home = Home::new();
    let seen = crate::fake::serve(&home.path().join("run"), |request, _| panic!("{}", request.line()));
    for words in [
        "vm run --depth 3",
        "vm run --guest-path /etc .",
        "vm run --from x",
        "vm run -d --rm",
        "vm run -d -- true",
        "vm create --name Dev",
        "vm create --name -a",
        "vm create --name a.b",
        "vm create --snapshot ../x",
        "vm create --snapshot warm --no-start",
        "vm create --vcpu 0",
        "vm create --vcpu -1",
        "vm create --memory 0",
        "vm create --memory -1G",
        "vm create --disk-size 0G",
        "vm create --overlay-size much",
        "vm create --env A",
        "vm create --env =A",
        "vm create --image ../x",
        "vm create --vmm xen",
        "vm create --unknown",
        "vm kill --signal STOP dev",
        "vm set dev --nat off",
        "vm set dev --nat on",
        "vm set --nat dev off",
        "vm set dev --nat=off",
        "vm set --nat",
        "vm prune",
        "vm start",
        "vm exec dev true",
        "image import - --name ..",
        "kernel import k",
        "kernel import k --host --from x",
        "nonsense",
    ] {
        let outcome = run(&mut home.banger(&words.split_whitespace().collect::<Vec<_>>()));
        assert_eq!((outcome.code, outcome.out().as_str()), (2, ""), "{words}: {}", outcome.err());
        assert!(outcome.err().starts_with("error: "), "{words}: {}", outcome.err());
    }
    assert_eq!(run(&mut home.banger(&["vm", "show", ""])).code, 2);
    assert_eq!(seen.lock().unwrap().len(), 0);
    assert!(!fs::exists(home.path().join("state")).unwrap());

    let outcome = run(&mut home.banger(&["vm", "run", "--include-untracked"]));
    insta::assert_snapshot!(outcome.err(), @"error: --include-untracked needs the PATH of a repository");
}
