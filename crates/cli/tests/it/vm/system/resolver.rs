//! Names below `.vm` for the host: a real systemd-resolved, told by the helper, also after either came back.

use testkit::home::Home;

use super::{
    OWNER,
    helper::{ask, request},
    ok, sh,
};

/// A server for names that says of everything that it is 172.30.0.7.
const SERVER: &str = r#"use Socket;
socket(my $s, AF_INET, SOCK_DGRAM, 0) or die "socket: $!";
bind($s, pack_sockaddr_in(42070, INADDR_LOOPBACK)) or die "bind: $!";
while (my $from = recv($s, my $q, 512, 0)) {
    my $end = index($q, "\0", 12) + 5;
    my $is = unpack("n", substr($q, $end - 4, 2)) == 1;
    my $answer = substr($q, 0, 2) . pack("n5", 0x8580, 1, $is, 0, 0) . substr($q, 12, $end - 12);
    $answer .= pack("nnnNnC4", 0xc00c, 1, 1, 5, 4, 172, 30, 0, 7) if $is;
    send($s, $answer, 0, $from);
}
"#;
/// Port 42070 in hexadecimal digits.
const PORT: &str = "a456";
/// Asks the host's resolver until it knows the name, for as long as the helper may take to see that it came back, and more.
const KNOWN: &str =
    "timeout 60 sh -c 'until resolvectl query --cache=no dev.vm; do sleep 0.2; done' | grep '^dev.vm'";

/// With the bridge there and the owner's right to ask the helper, the names come, stay, and go.
pub(super) fn names_are_routed_to_the_daemon_and_come_back(home: &Home) {
    ok(
        home,
        &format!(
            "cat > /srv/names.pl <<'END'\n{SERVER}END\nsystemd-run --quiet --unit names perl /srv/names.pl"
        ),
    );
    ok(home, "systemctl is-active systemd-resolved");
    assert_ne!(sh(home, "resolvectl query --cache=no dev.vm").0, 0, "nobody knows it yet");

    let route = ask(OWNER, &[request("08", PORT)]);
    assert_eq!(ok(home, &route), "done");
    assert!(ok(home, KNOWN).contains("172.30.0.7"));
    let status = ok(home, "resolvectl status br-banger");
    assert!(status.contains("DNS Domain: ~vm") && status.contains("-DefaultRoute"), "{status}");
    assert!(ok(home, "/srv/banger system status -o json").contains("\"named\": true"));

    // A resolver that knows nothing any more is told again, and so is one that the helper did not see come back.
    let forget = "systemctl stop systemd-resolved; rm -rf /run/systemd/resolve/netif; ";
    ok(home, &format!("{forget} systemctl start systemd-resolved"));
    ok(home, KNOWN);
    ok(
        home,
        &format!(
            "{forget} systemctl stop banger-helper.service; systemctl start systemd-resolved; /srv/banger system restart"
        ),
    );
    ok(home, KNOWN);
    // Without a resolver that is said, and made good once there is one.
    ok(home, &format!("{forget} true"));
    let failed = ok(home, &route);
    assert!(failed.starts_with("4systemd-resolved does not run here"), "{failed}");
    ok(home, &format!("systemctl start systemd-resolved; {KNOWN}"));
    // Another bridge is another link.
    ok(home, &format!("ip link delete br-banger; {}", ask(OWNER, &[request("00", "")])));
    ok(home, KNOWN);

    assert_eq!(ok(home, &ask(OWNER, &[request("09", "")])), "done");
    assert_ne!(sh(home, "resolvectl query --cache=no dev.vm").0, 0, "nobody is asked any more");
    assert_eq!(sh(home, "ip link show banger-carrier").0, 1);
    // What is still wanted when all goes, goes too.
    assert_eq!(ok(home, &route), "done");
    ok(home, "systemctl stop names; rm /srv/names.pl");
}
