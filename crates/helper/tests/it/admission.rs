//! Who may ask, and with what.

use std::{
    fs::{self, File},
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::{MetadataExt, PermissionsExt, chown},
    },
    process::Stdio,
    thread,
};

use host::packet::Packets;
use rustix::{
    fs::{MemfdFlags, Mode, OFlags},
    process::Uid,
    thread::set_thread_res_uid,
};
use wire::helper::{Answer, Ask, Guest, MAX_ANSWER, Refusal};

use crate::world::{DEADLINE, OWNER, World, exchange, guest, packet};

/// What the helper answers to each request that is sent by a thread of `uid`.
fn as_user(world: &World, uid: u32, ask: Ask) -> Option<Answer> {
    let path = world.socket();
    thread::scope(|scope| {
        let asker = scope.spawn(|| {
            let uid = Uid::from_raw(uid);
            set_thread_res_uid(uid, uid, uid).unwrap();
            let connection = Packets::connect(&path, DEADLINE).unwrap();
            // The helper may have closed it already.
            let _ = connection.send(&packet(ask), &[]);
            let answer = connection.receive(MAX_ANSWER).ok()??;
            Some(Answer::decode(&answer.bytes).unwrap())
        });
        asker.join().unwrap()
    })
}

#[test]
fn every_request_of_a_stranger_is_refused() {
    let Some(world) = World::new() else { return };
    world.open_to_all();
    let before = (world.host.links(), world.host.ruleset());
    for ask in Ask::each(guest(9)) {
        for stranger in [OWNER + 1, 65_534] {
            // Where the request was on its way when the connection was closed, there is no answer at all.
            let answer = as_user(&world, stranger, ask);
            let is_refused = matches!(answer, None | Some(Answer::Refused(Refusal::Stranger)));
            assert!(is_refused, "{ask:?} of {stranger}: {answer:?}");
        }
    }
    assert_eq!((world.host.links(), world.host.ruleset()), before);
    assert_eq!(world.audit().matches("refused: a stranger").count(), 2 * Ask::each(guest(9)).len());
    assert!(matches!(as_user(&world, OWNER, Ask::Status), Some(Answer::Status(_))), "the owner is none");
}

#[test]
fn the_socket_is_the_owners_and_its_directory_roots() {
    let Some(world) = World::new() else { return };
    let socket = fs::metadata(world.socket()).unwrap();
    assert_eq!((socket.uid(), socket.mode() & 0o777), (OWNER, 0o600));
    let directory = fs::metadata(world.socket().parent().unwrap()).unwrap();
    assert_eq!((directory.uid(), directory.mode() & 0o777), (0, 0o711));
    let log = fs::metadata(world.root.join("var/log/banger-helper/audit.log")).unwrap();
    assert_eq!((log.uid(), log.mode() & 0o777), (0, 0o600));
}

/// A descriptor of every kind that somebody could try.
fn descriptors(world: &World) -> Vec<(&'static str, OwnedFd)> {
    let path = world.root.join("disk");
    fs::write(&path, "disk").unwrap();
    let others = world.root.join("others");
    fs::write(&others, "secret").unwrap();
    chown(&others, Some(OWNER + 1), None).unwrap();
    let link = world.root.join("link");
    fs::hard_link(&others, &link).unwrap();
    let open = |path: &str, flags| rustix::fs::open(path, flags, Mode::empty()).unwrap();
    let file =
        |path: &std::path::Path| OwnedFd::from(File::options().read(true).write(true).open(path).unwrap());
    vec![
        ("a file", file(&path)),
        ("a hard link of another's", file(&link)),
        ("a path", open(path.to_str().unwrap(), OFlags::PATH)),
        ("memory", rustix::fs::memfd_create("disk", MemfdFlags::CLOEXEC).unwrap()),
        ("/proc", open("/proc/self/mem", OFlags::RDWR)),
        ("a directory", open("/etc", OFlags::RDONLY | OFlags::DIRECTORY)),
        ("a device", open("/dev/null", OFlags::RDWR)),
        ("a pipe", std::io::pipe().unwrap().1.into()),
    ]
}

#[test]
fn every_request_with_a_descriptor_is_refused_and_none_is_kept() {
    let Some(world) = World::new() else { return };
    let held = || fs::read_dir(format!("/proc/{}/fd", world.pid())).unwrap().count();
    let connection = world.connect();
    let _ = exchange(&connection, Ask::Status);
    let before = held();
    for (what, descriptor) in descriptors(&world) {
        for ask in Ask::each(guest(9)) {
            connection.send(&packet(ask), &[descriptor.as_fd()]).unwrap();
            let answer = connection.receive(MAX_ANSWER).unwrap().unwrap();
            let refused = Ok(Answer::Refused(Refusal::Descriptors));
            assert_eq!(Answer::decode(&answer.bytes), refused, "{what}: {ask:?}");
        }
    }
    let _ = exchange(&connection, Ask::Status);
    assert_eq!(held(), before);
    assert_eq!(world.status().taps, []);
}

#[test]
fn numbers_that_no_guest_can_have_are_refused() {
    let Some(world) = World::new() else { return };
    assert_eq!(world.exchange(Ask::ApplyRules(guest(2))).0, Answer::Refused(Refusal::NoBridge));
    assert_eq!(world.exchange(Ask::CreateTap(guest(2).vm)).0, Answer::Refused(Refusal::NoBridge));
    assert_eq!(world.exchange(Ask::DnsSockets).0, Answer::Refused(Refusal::NoBridge));
    world.done(Ask::EnsureBridge);
    for host_number in [0, 1, 255, 256, 4096, u16::MAX] {
        let ask = Ask::ApplyRules(Guest { host_number, ..guest(2) });
        assert_eq!(world.exchange(ask).0, Answer::Refused(Refusal::HostNumber), "{host_number}");
    }
    world.done(Ask::ApplyRules(guest(2)));
    let same = Ask::ApplyRules(Guest { host_number: 2, ..guest(3) });
    assert_eq!(world.exchange(same).0, Answer::Refused(Refusal::AddressTaken));
    assert_eq!(world.status().guests, [guest(2).vm]);
}

#[test]
fn what_is_no_request_is_refused_and_the_connection_goes_on() {
    let Some(world) = World::new() else { return };
    let connection = world.connect();
    let good = packet(Ask::Status);
    for bad in
        [&good[..17], &[&good[..], &[0]].concat(), &[0; 64], &[1; 65], &[1; 4096], b"GET / HTTP/1.1\r\n"]
    {
        connection.send(bad, &[]).unwrap();
        let answer = connection.receive(MAX_ANSWER).unwrap().unwrap();
        assert_eq!(Answer::decode(&answer.bytes), Ok(Answer::Refused(Refusal::Malformed)), "{bad:?}");
    }
    assert!(matches!(exchange(&connection, Ask::Status).0, Answer::Status(_)));
}

#[test]
fn a_client_that_does_not_read_holds_up_nobody() {
    let Some(world) = World::new() else { return };
    let silent: Vec<Packets> = (0..40).map(|_| world.connect()).collect();
    for connection in &silent {
        let _ = connection.send(&packet(Ask::Status), &[]);
    }
    let _ = world.status();
}

#[test]
fn it_begins_with_nothing_of_who_starts_it() {
    let Some(mut world) = World::without_helper("") else { return };
    // The end of a pipe without close-on-exec, as a careless service manager leaves it.
    let (_reader, writer) = std::io::pipe().unwrap();
    rustix::io::fcntl_setfd(&writer, rustix::io::FdFlags::empty()).unwrap();
    world.begin();
    let links: Vec<String> = fs::read_dir(format!("/proc/{}/fd", world.pid()))
        .unwrap()
        .filter_map(|entry| fs::read_link(entry.unwrap().path()).ok())
        .map(|link| link.display().to_string())
        .collect();
    let own = fs::read_link(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&writer))).unwrap();
    assert!(!links.contains(&own.display().to_string()), "{links:?}");
    let status = fs::read_to_string(format!("/proc/{}/status", world.pid())).unwrap();
    assert!(status.contains("Umask:\t0077"), "{status}");
    let directory = fs::read_link(format!("/proc/{}/cwd", world.pid())).unwrap();
    assert_eq!(directory.to_str(), Some("/"));
}

#[test]
fn settings_that_others_can_have_written_are_not_believed() {
    let Some(world) = World::without_helper("") else { return };
    let file = world.root.join("etc/banger/install.toml");
    let directory = file.parent().unwrap();
    let refused = |why: &str| {
        let output = world.command().stdin(Stdio::null()).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && said.contains(why), "{why}: {said}");
    };
    fs::set_permissions(&file, fs::Permissions::from_mode(0o664)).unwrap();
    refused("others than root may write to it");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    chown(&file, Some(OWNER), None).unwrap();
    refused("it does not belong to root");
    chown(&file, Some(0), None).unwrap();
    chown(directory, Some(OWNER), None).unwrap();
    refused("it does not belong to root");
    chown(directory, Some(0), None).unwrap();
    fs::write(&file, "owner = 1\nshell = '/bin/sh'\n").unwrap();
    refused("unknown field `shell`");
    fs::remove_file(&file).unwrap();
    refused("cannot open");
}

#[test]
fn each_request_is_in_the_log_with_its_caller_and_its_outcome() {
    let Some(world) = World::new() else { return };
    world.done(Ask::EnsureBridge);
    let _ = world.exchange(Ask::ApplyRules(guest(255)));
    let own = format!("uid=0 pid={}", std::process::id());
    let operation = "op=07070707-0707-0707-0707-070707070707";
    let audit = world.audit();
    let said: Vec<&str> =
        audit.lines().filter_map(|line| line.split_once(' ')).map(|(_, said)| said).collect();
    assert_eq!(
        said,
        [
            format!("{own} {operation} ensure-bridge asked"),
            format!("{own} {operation} ensure-bridge done"),
            format!("{own} {operation} apply-rules vm=ffffffffffff asked"),
            format!(
                "{own} {operation} apply-rules vm=ffffffffffff refused: the subnet has no such address for a guest"
            ),
        ]
    );
}
