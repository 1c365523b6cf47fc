//! What a VMM's last words and a console's last lines say of a machine's end.

use memchr::memmem;
use model::end::MachineEnd;

/// What Linux writes when it gives up.
const PANIC: &[u8] = b"Kernel panic - not syncing";
/// What it writes, always and last, before it stops for good (`kernel/reboot.c`); the longest of them decides [`LONGEST`].
const HALTED: [&[u8]; 3] =
    [b"reboot: Power down", b"reboot: System halted", b"reboot: Power off not available: System halted"];
/// What it writes, always and last, before it resets its machine.
const RESTARTING: &[u8] = b"reboot: Restarting system";
/// As many bytes are enough to find any of these words in, whatever pieces they come in.
pub(crate) const LONGEST: usize = 64;

/// What a VMM tells of its machine's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Told {
    /// The guest powered off.
    Poweroff,
    /// The guest reset the machine.
    Reset,
    /// The guest panicked.
    Panic,
    /// The VMM did what somebody on the host asked it for.
    Quit,
}

/// How the machine ended, by what its VMM `told` and the end of its `console`.
pub(crate) fn classify(told: Option<Told>, console: &[u8]) -> MachineEnd {
    match told {
        Some(Told::Poweroff) => MachineEnd::Poweroff,
        // A panic resets the machine at once (`panic=-1`), so the console's end is the panic.
        Some(Told::Reset) if says(console, PANIC) => MachineEnd::Panic,
        Some(Told::Reset) => MachineEnd::Reset,
        Some(Told::Panic) => MachineEnd::Panic,
        Some(Told::Quit) => MachineEnd::Quit,
        None => MachineEnd::VmmDied,
    }
}

/// Whether the guest has halted by the end of its `console`. Linux halts where it cannot power off.
pub(crate) fn says_halted(console: &[u8]) -> bool {
    HALTED.iter().any(|words| says(console, words))
}

/// Whether the guest has reset its machine by the end of its `console`.
pub(crate) fn says_reset(console: &[u8]) -> bool {
    says(console, RESTARTING) || says(console, PANIC)
}

fn says(console: &[u8], words: &[u8]) -> bool {
    memmem::find(console, words).is_some()
}

/// What to try about a VMM that said `lines` and ended.
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
        ("Error creating the vcpu", "KVM stopped being usable; `banger doctor` says why"),
        ("Error creating KVM object", "KVM stopped being usable; `banger doctor` says why"),
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
        for (told, console, end) in [
            (Some(Told::Poweroff), b"".as_slice(), MachineEnd::Poweroff),
            // Who powers off has survived it.
            (Some(Told::Poweroff), panic, MachineEnd::Poweroff),
            (Some(Told::Reset), b"rebooting", MachineEnd::Reset),
            (Some(Told::Reset), panic, MachineEnd::Panic),
            (Some(Told::Panic), b"", MachineEnd::Panic),
            (Some(Told::Quit), panic, MachineEnd::Quit),
            (None, panic, MachineEnd::VmmDied),
        ] {
            assert_eq!(classify(told, console), end, "{told:?}");
        }
    }

    #[test]
    fn a_halt_and_a_reset_are_read_from_the_console() {
        for (console, halted, reset) in [
            (b"[   12.3] reboot: Power down\r\n".as_slice(), true, false),
            (b"reboot: System halted\n", true, false),
            (b"reboot: Power off not available: System halted instead\n", true, false),
            (b"[    0.9] reboot: Restarting system\n", false, true),
            (b"Kernel panic - not syncing: Attempted to kill init!", false, true),
            (b"login: halted, restarting\n", false, false),
        ] {
            let shown = String::from_utf8_lossy(console);
            assert_eq!((says_halted(console), says_reset(console)), (halted, reset), "{shown}");
        }
        let longest = HALTED.iter().chain([&RESTARTING, &PANIC]).map(|words| words.len()).max();
        assert!(longest.unwrap() <= LONGEST);
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
