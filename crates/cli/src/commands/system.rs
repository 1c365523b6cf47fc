//! `banger system`: installs what only root can give. Each step is right also where it was done before.

use std::{path::Path, time::Duration};

use host::{
    fs,
    packet::Packets,
    proc::{Command, Exit, Program, own_uid},
};
use model::{
    OperationId,
    system::{
        INSTALL, Installation, LOG, PROGRAM, RUNTIME, SERVICE_UNIT, SOCKET, SOCKET_UNIT, SystemFile, UNITS,
    },
};
use serde::Serialize;
use wire::{
    doctor::Row,
    helper::{Answer, Ask, MAX_ANSWER, Request},
};

use crate::{
    args::{InstallArgs, Output, SystemCommand, UninstallArgs},
    error::Error,
    talk::{Talk, print, print_json},
    text::fields,
};

/// How long the helper may take to answer: it may have to begin.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long systemd may take.
const SYSTEMD: Duration = Duration::from_secs(120);
/// The most of what it says.
const SAID: usize = 4096;

/// `system`.
///
/// # Errors
/// Where something cannot be done; what was done before stays, and the same command goes on there.
pub fn run(talk: &Talk, command: SystemCommand) -> Result<(), Error> {
    match command {
        SystemCommand::Install(args) => install(talk, &args),
        SystemCommand::Status(format) => status(format.output),
        SystemCommand::Restart => {
            require_root("restart")?;
            systemctl(&["restart", SERVICE_UNIT])?;
            ask(Ask::Status).map(|_| ())
        }
        SystemCommand::Uninstall(args) => uninstall(talk, &args),
    }
}

fn failed(message: impl Into<String>, hint: Option<&'static str>) -> Error {
    Error::System { message: message.into(), hint }
}

fn require_root(what: &str) -> Result<(), Error> {
    match own_uid() {
        0 => Ok(()),
        _ => Err(failed(format!("only root can {what} what is root's"), Some("put sudo before the command"))),
    }
}

/// Where the helper is installed.
enum Placed {
    /// It came with the system's programs.
    There(String),
    /// It is copied from here.
    Copied(std::path::PathBuf),
}

fn install(talk: &Talk, args: &InstallArgs) -> Result<(), Error> {
    let owner = owner(args.owner.clone().or_else(|| host::env::text("SUDO_USER")))?;
    let before = fs::read_text(Path::new(INSTALL)).ok().and_then(|text| Installation::read(&text));
    let before = before.unwrap_or_default();
    let installation =
        Installation { owner, bridge: before.bridge, subnet: args.subnet.clone().or(before.subnet) };
    let placed = helper()?;
    let program = match &placed {
        Placed::There(program) => program,
        Placed::Copied(_) => PROGRAM,
    };
    let files = installation.files(program);
    if args.dry_run {
        return print(&plan(&files, &placed));
    }
    require_root("install")?;
    for program in [Program::Nft, Program::Systemctl] {
        program.path().map_err(|_| {
            failed(
                "nft and systemctl are needed, and one of them is not here",
                Some("apt install nftables; without systemd, banger works in user mode alone"),
            )
        })?;
    }
    let mut changed = false;
    if let Placed::Copied(source) = &placed {
        talk.say(&format!("writes {PROGRAM}: the helper, a copy that only root can change"));
        changed |= write(Path::new(PROGRAM), &fs::read(source)?, 0o755)?;
    }
    for file in &files {
        talk.say(&format!("writes {}: {}", file.path, file.why));
        changed |= write(Path::new(&file.path), file.text.as_bytes(), 0o644)?;
    }
    systemctl(&["daemon-reload"])?;
    systemctl(&["enable", SERVICE_UNIT])?;
    if changed {
        // The socket of another owner goes with the unit that made it.
        systemctl(&["stop", SERVICE_UNIT, SOCKET_UNIT])?;
    }
    systemctl(&["start", SOCKET_UNIT])?;
    ask(Ask::Status)?;
    talk.say(&format!("the helper answers at {SOCKET}, for user {owner} and root alone"));
    Ok(())
}

/// What would be written.
fn plan(files: &[SystemFile], placed: &Placed) -> String {
    let mut text = String::new();
    if let Placed::Copied(source) = placed {
        text.push_str(&format!("# {PROGRAM}: a copy of {}\n\n", source.display()));
    }
    for file in files {
        text.push_str(&format!("# {}: {}\n{}\n", file.path, file.why, file.text));
    }
    text
}

/// The user that `name`, or the number that it is, stands for.
fn owner(name: Option<String>) -> Result<u32, Error> {
    let name = name.ok_or_else(|| Error::Usage {
        message: "whose installation is it?".to_owned(),
        hint: Some("--owner USER"),
    })?;
    if let Ok(number) = name.parse() {
        return Ok(number);
    }
    let users = fs::read_text(Path::new("/etc/passwd"))?;
    let found = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next()? == name).then(|| fields.nth(1)?.parse().ok())?
    });
    found.ok_or_else(|| Error::Usage {
        message: format!("there is no user {name} in /etc/passwd"),
        hint: Some("--owner takes a number too, as `id -u USER` says it"),
    })
}

/// The helper beside this program, and whether it can be run where it lies.
fn helper() -> Result<Placed, Error> {
    let own = std::env::current_exe().map_err(|e| host::Error::new("find", "this program", e))?;
    let dir = own.parent().unwrap_or(Path::new("/"));
    let beside = [dir.join("banger-helper"), dir.join("../libexec/banger/banger-helper")];
    let found = beside
        .into_iter()
        .find(|path| fs::is_file(path))
        .ok_or_else(|| failed("there is no banger-helper beside banger or in ../libexec/banger", None))?;
    let real = fs::real_path(&found)?;
    // Elsewhere, as in a home, units do not see it, or others can write it.
    let is_systems = real.starts_with("/usr") && fs::program_of_root(&real).is_ok();
    Ok(if is_systems { Placed::There(real.display().to_string()) } else { Placed::Copied(real) })
}

/// Puts `bytes` at `path`; tells whether that changed something.
fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<bool, Error> {
    if let Some(directory) = path.parent() {
        fs::public_dir(directory)?;
    }
    let is_there = fs::openness(path, mode).is_ok_and(|openness| openness == fs::Openness::Private)
        && fs::read(path).is_ok_and(|there| there == bytes);
    if !is_there {
        fs::write_atomic(path, bytes)?;
        fs::restrict(path, mode)?;
    }
    Ok(!is_there)
}

fn systemctl(words: &[&str]) -> Result<(), Error> {
    let output = Command::new(Program::Systemctl).args(words.iter().copied()).output(SAID, SYSTEMD)?;
    match output.exit {
        Exit::Code(0) => Ok(()),
        exit => Err(failed(
            format!(
                "systemctl {} ended with {exit}: {}",
                words.join(" "),
                String::from_utf8_lossy(&output.stderr).trim()
            ),
            Some("journalctl -u banger-helper.service"),
        )),
    }
}

fn ask(ask: Ask) -> Result<Answer, Error> {
    let connection = Packets::connect(Path::new(SOCKET), PATIENCE)?;
    let operation = OperationId::from_uuid(uuid());
    connection.send(&Request { operation, ask }.encode(), &[])?;
    let packet = connection.receive(MAX_ANSWER)?.filter(|packet| packet.whole);
    let answer = packet.and_then(|packet| Answer::decode(&packet.bytes).ok());
    match answer {
        Some(Answer::Refused(why)) => Err(failed(format!("the helper refuses: {why}"), None)),
        Some(Answer::Failed(why)) => Err(failed(format!("the helper cannot do it: {why}"), None)),
        Some(answer) => Ok(answer),
        None => Err(failed("the helper's answer is not understood", Some("banger system restart"))),
    }
}

/// A UUID of version 7: this moment, then chance.
fn uuid() -> [u8; 16] {
    let mut bytes: [u8; 16] = host::rand::bytes();
    bytes[..6].copy_from_slice(&host::clock::now_ms().to_be_bytes()[2..]);
    bytes[6] = bytes[6] & 0x0f | 0x70;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    bytes
}

/// What `system status -o json` tells; the other fields only of a helper that works.
#[derive(Debug, Default, Serialize)]
struct SystemStatus {
    installed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    owner: Option<u32>,
    works: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    gateway: Option<String>,
    bridge: bool,
    filtered: bool,
    taps: usize,
    guests: usize,
}

fn status(output: Output) -> Result<(), Error> {
    let installation = fs::read_text(Path::new(INSTALL)).ok().and_then(|text| Installation::read(&text));
    let mut status = SystemStatus {
        installed: installation.is_some(),
        owner: installation.map(|installation| installation.owner),
        ..SystemStatus::default()
    };
    let answer = if status.installed { Some(ask(Ask::Status)) } else { None };
    if let Some(Ok(Answer::Status(helper))) = &answer {
        status.works = true;
        status.gateway = Some(format!("{}/{}", helper.gateway, helper.prefix));
        (status.bridge, status.filtered) = (helper.bridge, helper.filtered);
        (status.taps, status.guests) = (helper.taps.len(), helper.guests.len());
    }
    let yes = |is: bool| if is { "yes" } else { "no" }.to_owned();
    match output {
        Output::Json => print_json(&status)?,
        Output::Text if !status.installed => print("not installed\n")?,
        Output::Text => print(&fields(&[
            ("owner", status.owner.map(|owner| owner.to_string()).unwrap_or_default()),
            ("works", yes(status.works)),
            ("gateway", status.gateway.clone().unwrap_or_default()),
            ("bridge", yes(status.bridge)),
            ("filtered", yes(status.filtered)),
            ("taps", status.taps.to_string()),
            ("guests", status.guests.to_string()),
        ]))?,
    }
    match answer {
        Some(Err(error)) => Err(error),
        _ if status.works => Ok(()),
        _ => Err(Error::Several { failed: 1, all: 1, code: model::exit::UNREACHABLE }),
    }
}

/// What doctor says of the helper.
#[must_use]
pub fn row() -> Row {
    let installed = fs::exists(Path::new(INSTALL));
    row_of(installed.then(|| ask(Ask::Status)))
}

/// The row where the helper, if it is installed, said `answer`.
fn row_of(answer: Option<Result<Answer, Error>>) -> Row {
    const NAME: &str = "helper";
    match answer {
        None => Row::pass(NAME, "not installed: there is no bridge, and all else works without it"),
        Some(Ok(Answer::Status(status))) if status.bridge && !status.filtered => Row::fail(
            NAME,
            "its rules cannot be made, so machines on the bridge are cut off",
            format!("see {LOG}/audit.log; something on this host takes nftables' tables `banger`"),
        ),
        Some(Ok(Answer::Status(status))) if status.bridge => {
            Row::pass(NAME, format!("works; on the bridge: {}", status.taps.len()))
        }
        Some(Ok(_)) => Row::pass(NAME, "works; nobody needed the bridge yet"),
        Some(Err(Error::Host(error))) if error.kind() == std::io::ErrorKind::PermissionDenied => Row::warn(
            NAME,
            "it is another user's: there is no bridge for you",
            "sudo banger system install --owner $USER takes it over",
        ),
        Some(Err(error)) => Row::fail(NAME, error.to_string(), "sudo banger system restart"),
    }
}

fn uninstall(talk: &Talk, args: &UninstallArgs) -> Result<(), Error> {
    require_root("uninstall")?;
    let unit = |name: &str| Path::new(UNITS).join(name);
    if fs::exists(&unit(SOCKET_UNIT)) && fs::exists(&unit(SERVICE_UNIT)) {
        systemctl(&["start", SOCKET_UNIT])?;
        if let Answer::Status(status) = ask(Ask::Status)?
            && !status.taps.is_empty()
        {
            return Err(failed(
                format!("{} machines are on the bridge", status.taps.len()),
                Some("stop them first"),
            ));
        }
        ask(Ask::RemoveBridge)?;
        systemctl(&["disable", "--now", SOCKET_UNIT, SERVICE_UNIT])?;
    }
    for file in [&unit(SOCKET_UNIT), &unit(SERVICE_UNIT), Path::new(INSTALL), Path::new(PROGRAM)] {
        if fs::exists(file) {
            talk.say(&format!("removes {}", file.display()));
            fs::remove(file)?;
        }
    }
    systemctl(&["daemon-reload"])?;
    fs::remove_all(Path::new(RUNTIME))?;
    for file in [INSTALL, PROGRAM] {
        fs::remove_empty_dir(Path::new(file).parent().unwrap_or(Path::new("/")))?;
    }
    if args.purge {
        talk.say(&format!("removes {LOG}"));
        fs::remove_all(Path::new(LOG))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use wire::{doctor::Verdict, helper::Status};

    use super::*;

    #[test]
    fn doctor_says_how_the_helper_is() {
        let status = |bridge, filtered| {
            let gateway = std::net::Ipv4Addr::new(172, 30, 0, 1);
            Ok(Answer::Status(Status { gateway, prefix: 24, bridge, filtered, taps: vec![], guests: vec![] }))
        };
        let denied = host::Error::new("connect to", SOCKET, std::io::ErrorKind::PermissionDenied);
        let gone = host::Error::new("connect to", SOCKET, std::io::ErrorKind::ConnectionRefused);
        for (answer, verdict, found) in [
            (None, Verdict::Pass, "not installed"),
            (Some(status(false, false)), Verdict::Pass, "nobody needed the bridge"),
            (Some(status(true, true)), Verdict::Pass, "works; on the bridge: 0"),
            (Some(status(true, false)), Verdict::Fail, "cut off"),
            (Some(Err(denied.into())), Verdict::Warn, "another user's"),
            (Some(Err(gone.into())), Verdict::Fail, "cannot connect to"),
        ] {
            let row = row_of(answer);
            assert_eq!(row.verdict, verdict, "{found}");
            assert!(row.found.contains(found), "{}", row.found);
        }
    }

    #[test]
    fn owners_have_names_and_numbers() {
        assert_eq!(owner(Some("root".to_owned())).unwrap(), 0);
        assert_eq!(owner(Some("4711".to_owned())).unwrap(), 4711);
        for bad in [None, Some("nobody-at-all".to_owned()), Some("-1".to_owned())] {
            assert!(matches!(owner(bad), Err(Error::Usage { .. })));
        }
    }
}
