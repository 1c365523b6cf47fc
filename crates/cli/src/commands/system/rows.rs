//! What doctor says of an installation with the system: the helper, the units, and what on this host is in a bridge's way.
//!
//! What is found is looked at first; what it means is decided apart from that.

use std::{net::Ipv4Addr, path::Path};

use host::{
    dirs, fs,
    links::{Links, Route},
};
use model::{
    network::Subnet,
    system::{DAEMON_UNITS, HELPER_UNITS, INSTALL, Installation, LOG, UNITS},
};
use wire::{
    doctor::Row,
    helper::{Answer, Ask, Status},
};

use super::{ask, install::home_of, systemctl};
use crate::error::Error;

const HELPER: &str = "helper";
/// What writes an installation anew as it should be.
const ANEW: &str = "sudo banger system install";
/// Where systemd-resolved is asked.
const RESOLVED: &str = "/run/systemd/resolve/io.systemd.Resolve";
/// Directives that a drop-in must not take back, by the names that systemd shows them by.
const HELD: [&str; 4] =
    ["NoNewPrivileges=yes", "ProtectSystem=strict", "RestrictSUIDSGID=yes", "KillMode=process"];

/// The rows.
#[must_use]
pub fn rows() -> Vec<Row> {
    let Some(installation) = dirs::installation() else {
        return vec![match fs::exists(Path::new(INSTALL)) {
            true => Row::fail(HELPER, format!("{INSTALL} is not root's alone, so nobody believes it"), ANEW),
            false => Row::pass(HELPER, "not installed: there is no bridge, and all else works without it"),
        }];
    };
    let answer = ask(Ask::Status);
    let mut rows = vec![units(&differing(&installation), &changed())];
    if let Ok(Answer::Status(status)) = &answer {
        let bridge = installation.bridge();
        rows.push(subnet(status, Links::open().and_then(|mut links| own_routes(&mut links, bridge))));
        rows.push(names(status, host::sock::connect(Path::new(RESOLVED)).is_ok()));
        rows.push(forwarding(bridge, firewalls()));
    }
    rows.push(helper(answer));
    rows
}

/// The row of a helper that said `answer`.
fn helper(answer: Result<Answer, Error>) -> Row {
    match answer {
        Ok(Answer::Status(status)) if status.bridge && !status.filtered => Row::fail(
            HELPER,
            "its rules cannot be made, so machines on the bridge are cut off",
            format!("see {LOG}/audit.log; something on this host takes nftables' tables `banger`"),
        ),
        Ok(Answer::Status(status)) if status.bridge => {
            Row::pass(HELPER, format!("works; on the bridge: {}", status.taps.len()))
        }
        Ok(_) => Row::pass(HELPER, "works; nobody needed the bridge yet"),
        Err(Error::Host(error)) if error.kind() == std::io::ErrorKind::PermissionDenied => Row::warn(
            HELPER,
            "it is another user's: there is no bridge for you",
            "sudo banger system install --owner $USER takes it over",
        ),
        Err(error) => Row::fail(HELPER, error.to_string(), "sudo banger system restart"),
    }
}

/// The units that are not as this banger writes them.
fn differing(installation: &Installation) -> Vec<String> {
    let there = |path: &str| fs::read_text(Path::new(path)).unwrap_or_default();
    let [_, daemon] = DAEMON_UNITS;
    // Where its programs are is the installation's choice.
    let unit = there(&format!("{UNITS}/{daemon}"));
    let program = unit.lines().find_map(|line| line.strip_prefix("ExecStart="));
    let programs = program.and_then(|program| program.strip_suffix("/bangerd")).unwrap_or_default();
    let files = installation.files(programs, home_of(installation.owner).as_deref());
    files.into_iter().filter(|file| there(&file.path) != file.text).map(|file| file.path).collect()
}

/// What systemd goes by that is not as the units say it.
fn changed() -> Vec<String> {
    let ([_, helper], [_, daemon]) = (HELPER_UNITS, DAEMON_UNITS);
    let mut found = Vec::new();
    for unit in [helper, daemon] {
        let names = HELD.iter().filter_map(|line| line.split('=').next());
        let words: Vec<&str> =
            ["show", unit].into_iter().chain(names.flat_map(|name| ["--property", name])).collect();
        match systemctl(&words) {
            Ok(said) => {
                let other = said.lines().filter(|line| !HELD.contains(line));
                found.extend(other.map(|line| format!("{unit} has {line}")));
            }
            Err(error) => found.push(error.to_string()),
        }
    }
    found
}

/// The row of the units, of which those files are others than this banger writes, and those directives were changed.
fn units(differing: &[String], changed: &[String]) -> Row {
    const NAME: &str = "units";
    if !differing.is_empty() {
        let found = format!("not as this banger writes them: {}", differing.join(", "));
        return Row::warn(NAME, found, ANEW);
    }
    match changed {
        [] => Row::pass(NAME, "as this banger writes them, with all that holds them back"),
        _ => Row::warn(NAME, changed.join(", "), "systemctl revert banger-helper.service bangerd.service"),
    }
}

/// The routes that are not by `bridge`.
fn own_routes(links: &mut Links, bridge: &str) -> host::Result<Vec<Route>> {
    let index = links.find(bridge)?.map(|link| link.index);
    Ok(links.routes()?.into_iter().filter(|route| route.link.is_none() || route.link != index).collect())
}

/// The row of the guests' subnet, where the host has these routes besides.
fn subnet(status: &Status, routes: host::Result<Vec<Route>>) -> Row {
    const NAME: &str = "subnet";
    let own = Subnet::of(status.gateway, status.prefix);
    let routes = match routes {
        Ok(routes) => routes,
        Err(error) => {
            return Row::warn(NAME, error.to_string(), "banger cannot tell whether another network has it");
        }
    };
    let of = |route: &Route| Subnet::of(route.destination, route.prefix);
    let clash = routes.iter().filter(|route| route.prefix > 0 && route.destination != Ipv4Addr::UNSPECIFIED);
    match clash.map(of).find(|other| own.holds(*other) || other.holds(own)) {
        None => Row::pass(NAME, format!("{own} is machines' alone")),
        Some(other) => Row::fail(
            NAME,
            format!("{own}, machines' own, overlaps with the route to {other}"),
            format!("{ANEW} --subnet NETWORK, while no machine runs"),
        ),
    }
}

/// The row of the host's resolver, where systemd-resolved runs or does not.
fn names(status: &Status, has_resolved: bool) -> Row {
    const NAME: &str = "names";
    match (status.named, has_resolved, status.bridge) {
        (true, true, _) => Row::pass(NAME, "systemd-resolved asks banger for names below .vm"),
        (_, _, false) => Row::pass(NAME, "there is no bridge yet whose machines have names"),
        (false, true, true) => {
            Row::warn(NAME, "systemd-resolved was not told of names below .vm", "sudo banger system restart")
        }
        (_, false, true) => Row::warn(
            NAME,
            "systemd-resolved does not run, and nothing else here asks banger for names below .vm",
            "for dnsmasq: server=/vm/127.0.0.1#42069",
        ),
    }
}

/// A firewall that drops what it does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Firewall {
    Docker,
    Ufw,
    Firewalld,
}

/// Those of this host.
fn firewalls() -> Vec<Firewall> {
    let docker = Links::open().and_then(|mut links| links.find("docker0"));
    let ufw = fs::read_text(Path::new("/etc/ufw/ufw.conf")).unwrap_or_default();
    let found = [
        (Firewall::Docker, docker.is_ok_and(|link| link.is_some())),
        (Firewall::Ufw, ufw.lines().any(|line| line.trim() == "ENABLED=yes")),
        (Firewall::Firewalld, fs::exists(Path::new("/run/firewalld"))),
    ];
    found.into_iter().filter(|(_, is)| *is).map(|(firewall, _)| firewall).collect()
}

/// The row of firewalls that would drop what goes from and to `bridge`.
fn forwarding(bridge: &str, firewalls: Vec<Firewall>) -> Row {
    const NAME: &str = "forwarding";
    let recipe = |firewall: Firewall| match firewall {
        Firewall::Docker => (
            "docker drops what others forward",
            format!(
                "sudo iptables -I DOCKER-USER -i {bridge} -j ACCEPT; sudo iptables -I DOCKER-USER -o {bridge} -j ACCEPT"
            ),
        ),
        Firewall::Ufw => ("ufw drops what others forward", format!("sudo ufw route allow in on {bridge}")),
        Firewall::Firewalld => (
            "firewalld rejects what others forward",
            format!(
                "sudo firewall-cmd --permanent --zone=trusted --add-interface={bridge}; sudo firewall-cmd --reload"
            ),
        ),
    };
    let (found, hints): (Vec<_>, Vec<_>) = firewalls.into_iter().map(recipe).unzip();
    match found.is_empty() {
        true => Row::pass(NAME, "no firewall that is known to drop what machines send to the world"),
        false => Row::warn(NAME, found.join(", "), hints.join("; ")),
    }
}

#[cfg(test)]
mod tests {
    use model::system::SOCKET;
    use wire::doctor::Verdict;

    use super::*;

    fn status(bridge: bool, filtered: bool, named: bool) -> Status {
        let gateway = Ipv4Addr::new(172, 30, 0, 1);
        Status { gateway, prefix: 24, bridge, filtered, named, jails: false, taps: vec![], guests: vec![] }
    }

    fn check(row: &Row, verdict: Verdict, found: &str) {
        assert_eq!(row.verdict, verdict, "{found}");
        assert!(row.found.contains(found), "{}", row.found);
        assert_eq!(row.hint.is_none(), verdict == Verdict::Pass, "{found}");
    }

    #[test]
    fn doctor_says_how_the_helper_is() {
        let answer = |bridge, filtered| Ok(Answer::Status(status(bridge, filtered, false)));
        let denied = host::Error::new("connect to", SOCKET, std::io::ErrorKind::PermissionDenied);
        let gone = host::Error::new("connect to", SOCKET, std::io::ErrorKind::ConnectionRefused);
        check(&helper(answer(false, false)), Verdict::Pass, "nobody needed the bridge");
        check(&helper(answer(true, true)), Verdict::Pass, "works; on the bridge: 0");
        check(&helper(answer(true, false)), Verdict::Fail, "cut off");
        check(&helper(Err(denied.into())), Verdict::Warn, "another user's");
        check(&helper(Err(gone.into())), Verdict::Fail, "cannot connect to");
    }

    #[test]
    fn doctor_says_what_was_changed_of_units() {
        let some = |text: &str| vec![text.to_owned()];
        check(&units(&[], &[]), Verdict::Pass, "as this banger writes them");
        check(&units(&some("/etc/x.service"), &[]), Verdict::Warn, "/etc/x.service");
        check(&units(&[], &some("x has KillMode=mixed")), Verdict::Warn, "KillMode=mixed");
    }

    #[test]
    fn doctor_says_who_else_has_the_subnet() {
        let route = |a, b, prefix| Route { destination: Ipv4Addr::new(a, b, 0, 0), prefix, link: Some(2) };
        let of = |routes| subnet(&status(true, true, true), Ok(routes));
        check(&of(vec![route(0, 0, 0), route(10, 0, 8)]), Verdict::Pass, "172.30.0.0/24 is machines' alone");
        check(&of(vec![route(172, 30, 16)]), Verdict::Fail, "route to 172.30.0.0/16");
        check(&of(vec![route(172, 30, 25)]), Verdict::Fail, "route to 172.30.0.0/25");
        let error = host::Error::new("list", "routes", std::io::ErrorKind::PermissionDenied);
        check(&subnet(&status(true, true, true), Err(error)), Verdict::Warn, "cannot list routes");
    }

    #[test]
    fn doctor_says_who_asks_for_names() {
        check(&names(&status(true, true, true), true), Verdict::Pass, "asks banger");
        check(&names(&status(false, false, false), true), Verdict::Pass, "no bridge yet");
        check(&names(&status(true, true, false), true), Verdict::Warn, "was not told");
        check(&names(&status(true, true, false), false), Verdict::Warn, "does not run");
        check(&names(&status(true, true, true), false), Verdict::Warn, "does not run");
    }

    #[test]
    fn doctor_says_which_firewall_is_in_the_way() {
        check(&forwarding("br0", vec![]), Verdict::Pass, "no firewall");
        let row = forwarding("br0", vec![Firewall::Docker, Firewall::Ufw, Firewall::Firewalld]);
        check(&row, Verdict::Warn, "docker drops what others forward, ufw");
        assert_eq!(row.hint.unwrap().matches("br0").count(), 4);
    }
}
