//! The daemon as a service: who reaches it, what its machines inherit, and what outlives what.

use std::time::Duration;

use super::{OWNER, home, machine, of, ok, sh, traces};

/// How long a machine within a machine may take, both in software.
const NESTED: Duration = Duration::from_secs(1500);

/// Has the daemon's program look at the host as the unit lets it, and nothing else of that unit.
const PROBE: &str = "sed -e 's#^ExecStart=.*#& --doctor#' -e 's/^Type=.*/Type=oneshot/' -e '/^Requires=/d' -e '/^Restart/d' \
    -e '/^Type=/a StandardOutput=file:/run/probe.json' /etc/systemd/system/bangerd.service > /run/systemd/system/probe.service; \
    systemctl daemon-reload; systemctl start probe; rm /run/systemd/system/probe.service; systemctl daemon-reload";

/// The script of the owner's command line.
fn banger(words: &str) -> String {
    of(OWNER, &format!("env --chdir=/ HOME=/home/alice /srv/banger {words}"))
}

#[test]
fn a_machine_of_the_installed_daemon_outlives_both_services() {
    let Some(outer) = machine("1536M") else { return };
    let Some(seed) = home() else { return };
    let before = traces(&outer);

    // Images and kernels of an installation that was another owner's are there, and become the new one's.
    let _ = outer.ok(&["vm", "cp", &seed.path().join("state").to_string_lossy(), "dev:/srv/"]);
    ok(&outer, "chown -R 0:0 /srv/state; mv /srv/state /var/lib/banger");
    for moment in ["0.1", "0.3", "0.6", "1"] {
        sh(&outer, &format!("timeout -s KILL {moment} /srv/banger system install --owner daemon"));
    }
    let said = ok(&outer, "/srv/banger system install --owner alice");
    assert!(said.contains("helper and daemon work for user 1234 and root alone"), "{said}");
    assert_eq!(
        ok(
            &outer,
            "cd /; stat -c '%a %U %n' run/banger run/banger/bangerd.sock var/lib/banger var/lib/banger/images \
                    var/cache/banger run/banger-helper/helper.sock"
        ),
        "700 alice run/banger\n600 alice run/banger/bangerd.sock\n700 alice var/lib/banger\n\
         700 alice var/lib/banger/images\n700 alice var/cache/banger\n600 alice run/banger-helper/helper.sock"
    );
    let verified = ok(&outer, "systemd-analyze verify /etc/systemd/system/bangerd.*");
    assert!(!verified.contains("bangerd"), "{verified}");
    let status = ok(&outer, "/srv/banger system status -o json");
    assert!(status.contains("\"daemon\": \"active\"") && status.contains("\"works\": true"), "{status}");

    // The owner's commands find it, with the settings of the system; nobody else gets near.
    ok(&outer, "printf 'boot_timeout = \"20m\"\\n' > /etc/banger/config.toml; /srv/banger system restart");
    let own = "mkdir -p /home/alice/.config/banger; printf '[network]\\nmode = \"bridge\"\\n' > /home/alice/.config/banger/config.toml";
    ok(&outer, own);
    let shown = ok(&outer, &banger("config show"));
    for place in ["/etc/banger/config.toml:1", "/home/alice/.config/banger/config.toml:2"] {
        assert!(shown.contains(place), "{shown}");
    }
    assert!(ok(&outer, &banger("daemon status")).contains("/run/banger/bangerd.sock"));
    let connect = "perl -MSocket -e 'socket(my $s, AF_UNIX, SOCK_STREAM, 0); \
                   connect($s, pack_sockaddr_un(\"/run/banger/bangerd.sock\")) or die \"$!\\n\"'";
    assert_eq!(ok(&outer, &of(OWNER, connect)), "");
    assert!(sh(&outer, &of(1, connect)).1.contains("Permission denied"));

    // What the unit lets through is enough for emulation, and for a network without root: namespaces, tap, rules and pasta.
    ok(&outer, PROBE);
    let probed: serde_json::Value = serde_json::from_str(&ok(&outer, "cat /run/probe.json")).unwrap();
    for (name, found) in [("network", "worked together"), ("kvm", "guests are emulated")] {
        let row = probed.as_array().unwrap().iter().find(|row| row["name"] == name).unwrap();
        assert!(row["found"].as_str().unwrap().contains(found), "{row}");
    }
    // A machine runs under it, on the bridge, as the helper is there.
    let create = "vm create --name inner --image busybox --vcpu 1 --memory 128M --nat";
    let command = format!("exec 2>&1; {}", banger(create));
    let made = outer.run_long(&["vm", "exec", "dev", "--", "sh", "-c", &command], NESTED);
    let log = || ok(&outer, "journalctl -u bangerd -o cat -n 50");
    assert!(made.status.success(), "{}\n{}\n{}", made.text(), made.stderr, log());
    let group =
        "cat /sys/fs/cgroup/system.slice/bangerd.service/cgroup.procs | xargs ps -o comm= -p | sort -u";
    assert_eq!(ok(&outer, group), "bangerd\nqemu-system-x86");
    assert!(ok(&outer, "ip -brief link show master br-banger").contains("bg-"));
    let known =
        "timeout 60 sh -c 'until resolvectl query --cache=no inner.vm; do sleep 0.2; done' 2>/dev/null";
    assert!(ok(&outer, known).contains("inner.vm: 172.30.0.2"), "this host's resolver asks the daemon");

    // Neither a restart nor a death of the services ends it.
    let machine = "pgrep qemu-system";
    let daemon = "systemctl show -p MainPID --value bangerd";
    let (pid, first) = (ok(&outer, machine), ok(&outer, daemon));
    ok(&outer, "/srv/banger system restart");
    assert_ne!(ok(&outer, daemon), first);
    let uname = banger("vm exec inner -- uname");
    assert_eq!((ok(&outer, machine), ok(&outer, &uname)), (pid.clone(), "Linux".to_owned()));
    ok(&outer, "systemctl kill --kill-who=main -s KILL bangerd");
    assert_eq!((ok(&outer, machine), ok(&outer, &uname)), (pid.clone(), "Linux".to_owned()));
    // Who stops it has it again at the next command, as without root.
    ok(&outer, &banger("daemon stop"));
    let asked = ok(&outer, "resolvectl domain br-banger; resolvectl dns br-banger");
    assert!(!asked.contains("~vm") && !asked.contains("42069"), "nobody is asked who is not there: {asked}");
    assert_eq!((ok(&outer, machine), ok(&outer, &uname)), (pid, "Linux".to_owned()));
    assert!(ok(&outer, known).contains("inner.vm: 172.30.0.2"), "this host's resolver asks again");
    assert!(ok(&outer, &banger("logs")).contains("serving"), "the owner reads the daemon's log");

    // While it runs nothing is taken away, also where the daemon itself does not run.
    ok(&outer, "systemctl stop bangerd.socket bangerd.service");
    let told = sh(&outer, &banger("vm list"));
    assert!(told.0 == 3 && told.1.contains("hint: sudo banger system restart"), "{told:?}");
    let busy = sh(&outer, "/srv/banger system uninstall");
    assert!(busy.0 == 1 && busy.1.contains("machines run"), "{busy:?}");
    ok(&outer, "systemctl start bangerd.socket");
    ok(&outer, &banger("vm delete inner"));

    // What was made stays, until that is to go too.
    ok(&outer, "rm /etc/banger/config.toml; /srv/banger system uninstall");
    let left = "ls -d /run/banger /run/banger-helper /usr/local/lib/banger /etc/banger /var/lib/banger /var/cache/banger \
                /var/log/banger-helper 2>/dev/null; systemctl list-units --all --no-legend 'banger*'; true";
    assert_eq!(ok(&outer, left), "/var/cache/banger\n/var/lib/banger\n/var/log/banger-helper");
    ok(&outer, "/srv/banger system uninstall --purge");
    assert_eq!(ok(&outer, left), "");
    assert_eq!(traces(&outer), before);
}
