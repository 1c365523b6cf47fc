//! What a VMM's last words and a console's last lines say of a machine's end.

use model::end::MachineEnd;

/// What Linux writes when it gives up.
const PANIC: &[u8] = b"Kernel panic - not syncing";

/// How the machine ended, by the `reason` in QEMU's SHUTDOWN event and the end of its `console`.
pub(crate) fn classify(reason: Option<&str>, console: &[u8]) -> MachineEnd {
    match reason {
        Some("guest-shutdown") => MachineEnd::Poweroff,
        // A panic resets the machine at once (`panic=-1`), so the console's end is the panic.
        Some("guest-reset") if console.windows(PANIC.len()).any(|window| window == PANIC) => {
            MachineEnd::Panic
        }
        Some("guest-reset") => MachineEnd::Reset,
        Some("guest-panic") => MachineEnd::Panic,
        Some("host-qmp-quit" | "host-qmp-system-reset" | "host-signal" | "host-ui") => MachineEnd::Quit,
        Some(_) | None => MachineEnd::VmmDied,
    }
}

/// What to try about a QEMU that said `lines` and ended.
pub(crate) fn hint(lines: &[String]) -> Option<&'static str> {
    const HINTS: &[(&str, &str)] = &[
        (
            "Cannot allocate memory",
            "the host has too little free memory for this VM: give it less with --memory",
        ),
        (
            "cannot set up guest memory",
            "the host has too little free memory for this VM: give it less with --memory",
        ),
        (
            "Failed to get \"write\" lock",
            "another process uses this VM's disk: end it, then start the VM again",
        ),
        ("No space left on device", "the disk is full: free some space, then start the VM again"),
        ("Too many open files", "raise the limit of open files (ulimit -n) of the daemon"),
        ("-sandbox", "this QEMU was built without seccomp; use the distribution's qemu-system-x86"),
        ("/dev/kvm", "KVM stopped being usable; `banger doctor` says why"),
        ("failed to set MSR", "KVM is not usable for ordinary guests here; set `accelerator = \"tcg\"`"),
    ];
    let said = |text: &str| lines.iter().any(|line| line.contains(text));
    HINTS.iter().find(|(text, _)| said(text)).map(|(_, hint)| *hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_told_apart() {
        let panic = b"noise\n[    1.0] Kernel panic - not syncing: Attempted to kill init!\nCall Trace:\n";
        let table: [(Option<&str>, &[u8], MachineEnd); 8] = [
            (Some("guest-shutdown"), b"", MachineEnd::Poweroff),
            // Who powers off has survived it.
            (Some("guest-shutdown"), panic, MachineEnd::Poweroff),
            (Some("guest-reset"), b"rebooting", MachineEnd::Reset),
            (Some("guest-reset"), panic, MachineEnd::Panic),
            (Some("guest-panic"), b"", MachineEnd::Panic),
            (Some("host-qmp-quit"), panic, MachineEnd::Quit),
            (None, panic, MachineEnd::VmmDied),
            (Some("something-new"), b"", MachineEnd::VmmDied),
        ];
        for (reason, console, end) in table {
            assert_eq!(classify(reason, console), end, "{reason:?}");
        }
    }

    #[test]
    fn known_errors_have_a_hint() {
        let lines = |text: &str| vec!["other".to_owned(), format!("qemu-system-x86_64: {text}")];
        assert!(
            hint(&lines("cannot set up guest memory 'pc.ram': Cannot allocate memory"))
                .unwrap()
                .contains("memory")
        );
        assert!(hint(&lines("Failed to get \"write\" lock")).unwrap().contains("disk"));
        assert_eq!(hint(&lines("something new")), None);
    }
}
