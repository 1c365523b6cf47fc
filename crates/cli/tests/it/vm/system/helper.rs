//! The helper under systemd: installed, asked, restarted, killed and removed.

use super::{OWNER, doctor, machine, of, ok, resolver, sh, traces};

/// Asks the helper as somebody who speaks its packets: perl is in every Debian. Prints the answer's kind and first detail.
const ASK: &str = r#"use Socket;
socket(my $s, AF_UNIX, SOCK_SEQPACKET, 0) or die "socket: $!";
connect($s, pack_sockaddr_un("/run/banger-helper/helper.sock")) or die "connect: $!";
for my $ask (@ARGV) {
    syswrite($s, pack("H*", $ask)) or die "write: $!";
    sysread($s, my $answer, 60000) or die "read: $!";
    my (undef, $kind, $detail) = unpack("CCa*", $answer);
    print "$kind$detail\n" if $kind;
}
print "done\n";
"#;
const OPERATION: &str = "07070707070707070707070707070707";
const VM: &str = "020202020202";

/// The script in which user `uid` asks the helper.
pub(super) fn ask(uid: u32, requests: &[String]) -> String {
    of(uid, &format!("perl -e '{ASK}' {}", requests.join(" ")))
}

/// A request of that `kind`, with what it needs.
pub(super) fn request(kind: &str, rest: &str) -> String {
    format!("01{kind}{OPERATION}{rest}")
}

#[test]
fn the_helper_is_installed_used_restarted_and_removed_under_systemd() {
    let Some(home) = machine("768M") else { return };
    let install = "/srv/banger system install --owner alice";
    let before = traces(&home);

    // Whose it is and what would be written is told, and nothing is written yet.
    assert_eq!(sh(&home, "/srv/banger system install --owner nobody-at-all").0, 2);
    let plan = ok(&home, &format!("{install} --dry-run"));
    assert!(plan.contains("owner = 1234") && plan.contains("ExecStart=/usr/local/lib/banger"), "{plan}");
    assert_eq!(sh(&home, "/srv/banger system status"), (3, "not installed".to_owned()));
    assert_eq!(sh(&home, &of(OWNER, install)).0, 1);
    assert_eq!(traces(&home), before);

    // The daemon leaves the helper to this test.
    ok(&home, "mkdir /etc/banger; printf '[network]\\nmode = \"user\"\\n' > /etc/banger/config.toml");
    // Killed at any moment, it goes on where it was.
    for moment in ["0.05", "0.1", "0.2", "0.4", "0.8"] {
        sh(&home, &format!("timeout -s KILL {moment} {install}"));
    }
    let said = ok(&home, install);
    assert!(said.contains("the helper answers at /run/banger-helper/helper.sock"), "{said}");
    let verified = ok(
        &home,
        "systemd-analyze verify /etc/systemd/system/banger-helper.service /etc/systemd/system/banger-helper.socket",
    );
    assert!(!verified.contains("banger-helper"), "{verified}");
    let pid = "systemctl show -p MainPID --value banger-helper";
    let first = ok(&home, pid);
    ok(&home, install);
    assert_eq!(ok(&home, pid), first, "doing it again changes nothing");

    // The owner asks, and nobody else; what it does works under the unit's directives.
    let all = [request("00", ""), request("02", VM), request("04", &format!("{VM}0002000001"))];
    assert_eq!(ok(&home, &ask(OWNER, &all)), "done");
    let stranger = sh(&home, &ask(1, &all));
    assert!(stranger.0 != 0 && stranger.1.contains("Permission denied"), "{stranger:?}");
    let status = ok(&home, &of(OWNER, "/srv/banger system status -o json"));
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    for (key, expect) in [("works", true), ("bridge", true), ("filtered", true)] {
        assert_eq!(status[key], expect, "{status}");
    }
    assert_eq!((&status["owner"], &status["taps"], &status["guests"]), (&OWNER.into(), &1.into(), &1.into()));
    assert_eq!(status["gateway"], "172.30.0.1/24");
    let link = ok(&home, "ip -details link show bg-020202020202; cat /proc/sys/net/ipv4/ip_forward");
    assert!(
        link.contains("master br-banger") && link.contains("user alice") && link.ends_with('1'),
        "{link}"
    );
    let rules = ok(&home, "nft list ruleset");
    assert!(rules.contains("172.30.0.2"), "{rules}");

    // Taps, rules and what the helper knows outlive it, however it ends; a flush is answered.
    ok(&home, "/srv/banger system restart");
    assert_ne!(ok(&home, pid), first);
    ok(&home, "systemctl kill -s KILL banger-helper; /srv/banger system status");
    assert_eq!(ok(&home, "nft list ruleset"), rules);
    ok(&home, "nft flush ruleset; /srv/banger system status");
    assert_eq!(ok(&home, "nft list ruleset"), rules);

    // Nothing goes while a machine is there; then all of it does, with and without being killed.
    let busy = sh(&home, "/srv/banger system uninstall");
    assert!(busy.0 == 1 && busy.1.contains("1 machines are on the bridge"), "{busy:?}");
    assert_eq!(ok(&home, &ask(OWNER, &[request("05", VM), request("03", VM)])), "done");
    resolver::names_are_routed_to_the_daemon_and_come_back(&home);
    doctor::doctor_says_what_is_in_the_way(&home);
    ok(&home, "rm /etc/banger/config.toml");
    for moment in ["0.05", "0.2", "0.6"] {
        sh(&home, &format!("timeout -s KILL {moment} /srv/banger system uninstall --purge"));
    }
    ok(&home, "/srv/banger system uninstall --purge");
    let left = ok(
        &home,
        "ls -d /run/banger-helper /var/log/banger-helper /usr/local/lib/banger /etc/banger 2>/dev/null; \
         systemctl list-units --all --no-legend 'banger*'; true",
    );
    assert_eq!(left, "");
    assert_eq!(traces(&home), before);
}
