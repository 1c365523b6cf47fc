//! What doctor says of an installation: that nothing is in its way, and then each thing that is.

use std::collections::BTreeMap;

use testkit::home::Home;

use super::{OWNER, of, ok, sh};

/// Verdict and words of each row, for the owner.
fn rows(home: &Home) -> BTreeMap<String, (String, String)> {
    let (_, said) = sh(home, &of(OWNER, "env --chdir=/ HOME=/home/alice /srv/banger doctor -o json"));
    let rows: serde_json::Value =
        serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"));
    let text = |row: &serde_json::Value, key: &str| row[key].as_str().unwrap_or_default().to_owned();
    let rows = rows.as_array().unwrap().iter();
    rows.map(|row| (text(row, "name"), (text(row, "verdict"), text(row, "found")))).collect()
}

/// With bridge and names there: all is well; then everything is broken at once.
pub(super) fn doctor_says_what_is_in_the_way(home: &Home) {
    let well = rows(home);
    for (name, found) in [
        ("units", "as this banger writes them"),
        ("subnet", "172.30.0.0/24 is machines' alone"),
        ("names", "systemd-resolved asks banger"),
        ("forwarding", "no firewall"),
        ("helper", "works; on the bridge: 0"),
        ("daemon", "runs with pid"),
        ("socket", "/run/banger/bangerd.sock"),
        ("directories", "/var/lib/banger"),
        ("network", "worked together"),
        ("ssh", "says nothing of machines"),
    ] {
        let row = &well[name];
        assert!(row.0 == "pass" && row.1.contains(found), "{name}: {row:?}");
    }

    ok(
        home,
        "mkdir /run/systemd/system/bangerd.service.d; \
         printf '[Service]\\nNoNewPrivileges=no\\n' > /run/systemd/system/bangerd.service.d/weak.conf; systemctl daemon-reload; \
         ip link add docker0 type dummy; ip route add 172.30.0.128/25 dev lo; systemctl stop systemd-resolved",
    );
    let ill = rows(home);
    for (name, verdict, found) in [
        ("units", "warn", "bangerd.service has NoNewPrivileges=no"),
        ("subnet", "fail", "overlaps with the route to 172.30.0.128/25"),
        ("names", "warn", "systemd-resolved does not run"),
        ("forwarding", "warn", "docker drops"),
    ] {
        let row = &ill[name];
        assert!(row.0 == verdict && row.1.contains(found), "{name}: {row:?}");
    }
    ok(
        home,
        "rm -r /run/systemd/system/bangerd.service.d; echo '# mine' >> /etc/systemd/system/bangerd.service; systemctl daemon-reload; \
         ip link delete docker0; ip route delete 172.30.0.128/25 dev lo; systemctl start systemd-resolved",
    );
    let (verdict, found) = &rows(home)["units"];
    assert_eq!(
        (verdict.as_str(), found.as_str()),
        ("warn", "not as this banger writes them: /etc/systemd/system/bangerd.service")
    );
    ok(home, "/srv/banger system install --owner alice");
}
