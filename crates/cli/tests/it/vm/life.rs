//! Stop, start, delete, and what happens when a guest ends by itself.

use super::{create, home};

#[test]
fn what_was_written_right_before_a_stop_is_there_after_the_start() {
    let Some(home) = home() else { return };
    let _ = home.ok(&create("dev"));
    let write = "echo work >/root/file; echo system >/etc/file; mkdir -p /var/lib/docker; echo plain >/var/lib/docker/file; \
                 dd if=/dev/urandom of=/root/big bs=1M count=8 2>/dev/null; sha256sum /root/big >/root/sum || true";
    let _ = home.ok(&["vm", "exec", "dev", "--", "sh", "-c", write]);
    let before = home.vm("dev")["boot_id"].clone();
    let _ = home.ok(&["vm", "stop", "dev"]);
    let stopped = home.vm("dev");
    assert_eq!(
        (stopped["state"].as_str(), stopped["reason"].as_str()),
        (Some("stopped"), Some("it was stopped"))
    );
    assert_eq!(stopped["pid"], serde_json::Value::Null);
    assert_eq!(home.run(&["vm", "exec", "dev", "--", "true"]).code(), 125, "it does not run");

    let _ = home.ok(&["vm", "start", "dev"]);
    let read = "cat /root/file /etc/file /var/lib/docker/file; wc -c </root/big";
    let output = home.ok(&["vm", "exec", "dev", "--", "sh", "-c", read]);
    assert_eq!(output.split_whitespace().collect::<Vec<_>>(), ["work", "system", "plain", "8388608"]);
    assert_ne!(home.vm("dev")["boot_id"], before, "another boot");
    let log = home.ok(&["vm", "logs", "dev"]);
    assert!(!log.contains("Kernel panic"), "{log}");
}

#[test]
fn start_and_stop_are_done_once() {
    let Some(home) = home() else { return };
    let _ = home.ok(&[&create("dev")[..], &["--no-start"]].concat());
    assert_eq!(home.vm("dev")["state"], "created");
    assert_eq!(home.ok(&["vm", "stop", "dev"]), home.ok(&["vm", "stop", "dev"]));
    let _ = home.ok(&["vm", "start", "dev"]);
    let pid = home.vm("dev")["pid"].clone();
    let _ = home.ok(&["vm", "start", "dev"]);
    assert_eq!(home.vm("dev")["pid"], pid, "a second start changes nothing");
    let _ = home.ok(&["vm", "kill", "dev"]);
    assert_eq!(home.vm("dev")["state"], "stopped");
}

#[test]
fn a_guest_that_powers_itself_off_is_stopped() {
    let Some(home) = home() else { return };
    let _ = home.ok(&create("dev"));
    let _ = home.run(&["vm", "exec", "dev", "--", "poweroff", "-f"]);
    home.wait_for_state("dev", "stopped");
    assert_eq!(home.vm("dev")["reason"], "the guest powered itself off");
}

#[test]
fn a_guest_that_reboots_comes_back_with_another_boot_id() {
    let Some(home) = home() else { return };
    let _ = home.ok(&create("dev"));
    let before = home.vm("dev")["boot_id"].clone();
    let _ = home.run(&["vm", "exec", "dev", "--", "reboot", "-f"]);
    testkit::home::wait_until(std::time::Duration::from_secs(120), "it is up again", || {
        let vm = home.vm("dev");
        vm["state"] == "running" && vm["boot_id"] != before && vm["boot_id"].is_string()
    });
    assert_eq!(home.ok(&["vm", "exec", "dev", "--", "echo", "back"]), "back");
}

#[test]
fn a_guest_that_panics_is_an_error_with_its_last_words() {
    let Some(home) = home() else { return };
    let _ = home.ok(&create("dev"));
    let crash = "echo 1 >/proc/sys/kernel/sysrq; echo c >/proc/sysrq-trigger";
    let output = home.run(&["vm", "exec", "dev", "--", "sh", "-c", crash]);
    assert_eq!(output.code(), 125, "the stream ends with a reason");
    assert!(output.stderr.contains("VM dev ended: the guest's kernel panicked"), "{}", output.stderr);
    home.wait_for_state("dev", "error");
    let reason = home.vm("dev")["reason"].to_string();
    assert!(reason.contains("Kernel panic - not syncing: sysrq triggered crash"), "{reason}");
    // It can be used again.
    let _ = home.ok(&["vm", "start", "dev"]);
    assert_eq!(home.ok(&["vm", "exec", "dev", "--", "echo", "again"]), "again");
}

#[test]
fn what_was_synced_survives_a_kill() {
    let Some(home) = home() else { return };
    let _ = home.ok(&create("dev"));
    let write = "echo kept >/root/synced; echo kept >/etc/synced; sync";
    let _ = home.ok(&["vm", "exec", "dev", "--", "sh", "-c", write]);
    let _ = home.ok(&["vm", "kill", "dev"]);
    let _ = home.ok(&["vm", "start", "dev"]);
    assert_eq!(home.ok(&["vm", "exec", "dev", "--", "cat", "/root/synced", "/etc/synced"]), "kept\nkept");
}

#[test]
fn whatever_signal_kills_it_a_vm_is_stopped() {
    let Some(home) = home() else { return };
    let _ = home.ok(&create("dev"));
    // QEMU ends of the first, does not mind the second, and dies of the third.
    for signal in ["TERM", "USR2", "ABRT"] {
        let _ = home.ok(&["vm", "start", "dev"]);
        assert_eq!(home.ok(&["vm", "kill", "--signal", signal, "dev"]), "dev");
        let vm = home.vm("dev");
        assert_eq!((vm["state"].as_str(), vm["reason"].as_str()), (Some("stopped"), Some("it was killed")));
    }
}

#[test]
fn a_vm_is_enlarged_while_it_runs_and_while_it_does_not() {
    let Some(home) = home() else { return };
    let sizes = ["--disk-size", "128M", "--overlay-size", "128M"];
    let _ = home.ok(&[&create("dev")[..], &sizes].concat());
    let mib = |path: &str| {
        let script = format!("echo kept >>{path}/file; df -m {path} | tail -1 | awk '{{print $2}}'");
        home.ok(&["vm", "exec", "dev", "--", "sh", "-c", &script]).parse::<u64>().unwrap()
    };
    assert!(mib("/root") < 128 && mib("/") < 128);

    let refused = home.run(&["vm", "set", "dev", "--disk-size", "256M", "--memory", "300M"]);
    assert_eq!(refused.code(), 1);
    assert!(refused.stderr.contains("hint: banger vm stop dev"), "{}", refused.stderr);
    let refused = home.run(&["vm", "set", "dev", "--overlay-size", "256M", "--disk-size", "100M"]);
    assert_eq!(refused.code(), 2, "{}", refused.stderr);
    assert!(mib("/root") < 128 && mib("/") < 128, "nothing was changed");

    let _ = home.ok(&["vm", "set", "dev", "--disk-size", "256M"]);
    assert!((200..256).contains(&mib("/root")), "it grows under the guest");
    let _ = home.ok(&["vm", "stop", "dev"]);
    let _ = home.ok(&["vm", "set", "dev", "--overlay-size", "300M", "--vcpu", "2", "--memory", "200M"]);
    let _ = home.ok(&["vm", "start", "dev"]);
    assert!((240..300).contains(&mib("/")), "and at its start");
    assert_eq!(home.ok(&["vm", "exec", "dev", "--", "grep", "-c", "^processor", "/proc/cpuinfo"]), "2");
    assert_eq!(home.ok(&["vm", "exec", "dev", "--", "cat", "/root/file"]), "kept\n".repeat(3).trim());
    let vm = home.vm("dev");
    assert_eq!(
        (vm["disk"]["value"].as_u64(), vm["memory"]["value"].as_u64()),
        (Some(256 << 20), Some(200 << 20))
    );
}

#[test]
fn a_vm_that_nobody_uses_is_stopped_and_one_that_is_used_is_not() {
    let Some(home) = home() else { return };
    let home = home.with_env("BANGER_AUTO_STOP_STALE_AFTER", "2s").with_env("BANGER_STATS_INTERVAL", "1s");
    let _ = home.ok(&create("dev"));
    // A stream keeps it up, however long; looking at it does not.
    let asked = home.run(&["vm", "exec", "dev", "--", "sleep", "5"]);
    assert!(asked.status.success(), "{}", asked.stderr);
    let stats = home.run(&["vm", "stats", "dev", "-o", "json"]).json();
    let stats = &stats["vms"][0];
    assert_eq!(stats["name"], "dev");
    assert!(stats["cpu_percent"].is_number(), "it was asked more than once: {stats}");
    assert!(stats["host_memory"].as_u64().unwrap() > 10 << 20, "{stats}");
    let (available, total) = (&stats["guest"]["memory_available"], &stats["guest"]["memory_total"]);
    assert!(available.as_u64().unwrap() < total.as_u64().unwrap(), "{stats}");
    home.wait_for_state("dev", "stopped");
    assert_eq!(home.vm("dev")["reason"], "it was stopped because nobody used it");
    assert_eq!(home.run(&["vm", "stats", "dev"]).code(), 5, "it does not run");
}

#[test]
fn a_reset_makes_the_system_new_and_keeps_the_work() {
    let Some(home) = home() else { return };
    let _ = home.ok(&create("dev"));
    let _ = home.ok(&["vm", "exec", "dev", "--", "sh", "-c", "echo x >/etc/system; echo x >/root/work"]);
    let refused = home.run(&["vm", "reset", "dev"]);
    assert_eq!(refused.code(), 1, "a running one is not touched: {}", refused.stderr);
    let _ = home.ok(&["vm", "stop", "dev"]);
    assert_eq!(home.run(&["vm", "reset", "dev", "--image", "nowhere"]).code(), 4);
    assert_eq!(home.ok(&["vm", "reset", "dev"]), "dev");
    let _ = home.ok(&["vm", "start", "dev"]);
    let look = "test ! -e /etc/system && cat /root/work";
    assert_eq!(home.ok(&["vm", "exec", "dev", "--", "sh", "-c", look]), "x");
}

#[test]
fn a_guest_cannot_write_to_its_image() {
    let Some(home) = home() else { return };
    let _ = home.ok(&create("dev"));
    let shown = home.run(&["image", "show", "busybox", "-o", "json"]).json();
    let rootfs = std::path::PathBuf::from(shown["rootfs"].as_str().unwrap());
    #[expect(clippy::disallowed_methods, reason = "a test looks from outside")]
    let read = || std::fs::read(&rootfs).unwrap();
    let before = read();
    let attack = "mount -o remount,rw /banger/image 2>/dev/null; echo x >/etc/passwd; \
                  for disk in /dev/vd?; do test $(cat /sys/block/${disk#/dev/}/ro) = 1 && echo x >$disk; done";
    let _ = home.run(&["vm", "exec", "dev", "--", "sh", "-c", attack]);
    let disks = "cat /sys/block/vd?/ro | grep -c 1";
    assert_eq!(home.ok(&["vm", "exec", "dev", "--", "sh", "-c", disks]), "2", "the image and the modules");
    let _ = home.ok(&["vm", "stop", "dev"]);
    assert!(read() == before, "the image is as it was");
}

#[test]
fn a_start_tells_what_it_spent_its_time_on() {
    let Some(home) = home() else { return };
    let _ = home.ok(&create("dev"));
    let vm = home.vm("dev");
    let steps: Vec<(&str, &str)> = vm["timeline"]
        .as_array()
        .unwrap()
        .iter()
        .map(|phase| (phase["place"].as_str().unwrap(), phase["name"].as_str().unwrap()))
        .collect();
    for step in
        [("host", "disks"), ("host", "payload"), ("host", "vmm"), ("host", "guest"), ("guest", "modules")]
    {
        assert!(steps.contains(&step), "{step:?} is missing in {steps:?}");
    }
}
