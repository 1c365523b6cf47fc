//! How each effect on the host is taken back.
//!
//! An [`Undo`] is written to the ledger before its effect. It is data, so a crash, a failure and a cancel run the same
//! code; it says what to make true, so it may run twice, and where the effect never happened or half happened.

/// One entry of the ledger. Paths are derived from the VM's id, never stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Undo {
    /// Remove the VM's run directory: sockets, links to kernel and image, the boot payload.
    RunDirectory,
    /// Remove the disk of this role, which this operation made.
    Disk(NewDisk),
    /// End this process, the VM's VMM, and wait until it is gone.
    Process(ProcessEntry),
    /// The same for the process that connects the VM's network to the world.
    Companion(ProcessEntry),
    /// Have the helper remove the VM's rules on the bridge.
    Rules,
    /// Have the helper remove the VM's tap on the bridge.
    Tap,
    /// Remove the system overlay that a reset put out of use: not an undo, but what a reset is only to be finished by.
    OldOverlay,
    /// Remove the VM's directory with everything in it, disks and logs included.
    VmDirectory,
    /// Remove the record of a VM whose creation is not through.
    Record,
    /// Remove the staging directory of an image, kernel or snapshot that was not published; a plain name below `staging/`.
    Staging(String),
    /// Let the VM go on, which is held for its snapshot. Whoever has its machine does that; where that is gone, nothing is to do.
    Held,
}

/// A writable disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NewDisk {
    /// The system overlay.
    Overlay,
    /// The work disk.
    Work,
}

/// A process as it can be found again: a pid alone is reused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessEntry {
    /// The pid.
    pub pid: u32,
    /// Its start time in clock ticks since boot: field 22 of proc_pid_stat(5).
    pub start: u64,
    /// The boot id of the host that it ran on.
    pub boot: String,
}

impl Undo {
    /// The stable name of the variant, as the ledger stores it.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::RunDirectory => "run_directory",
            Self::Disk(NewDisk::Overlay) => "disk_overlay",
            Self::Disk(NewDisk::Work) => "disk_work",
            Self::Rules => "rules",
            Self::Tap => "tap",
            Self::OldOverlay => "old_overlay",
            Self::Process(_) => "process",
            Self::Companion(_) => "companion",
            Self::VmDirectory => "vm_directory",
            Self::Record => "record",
            Self::Staging(_) => "staging",
            Self::Held => "held",
        }
    }

    /// What the variant carries, as the ledger stores it: words without blanks.
    #[must_use]
    pub fn detail(&self) -> String {
        match self {
            Self::RunDirectory
            | Self::Disk(_)
            | Self::Rules
            | Self::Tap
            | Self::OldOverlay
            | Self::VmDirectory
            | Self::Record
            | Self::Held => String::new(),
            Self::Process(p) | Self::Companion(p) => format!("{} {} {}", p.pid, p.start, p.boot),
            Self::Staging(name) => name.clone(),
        }
    }

    /// The undo that was stored as `kind` and `detail`; `None` for one that this version does not know.
    #[must_use]
    pub fn parse(kind: &str, detail: &str) -> Option<Self> {
        Some(match kind {
            "run_directory" => Self::RunDirectory,
            "disk_overlay" => Self::Disk(NewDisk::Overlay),
            "disk_work" => Self::Disk(NewDisk::Work),
            "rules" => Self::Rules,
            "tap" => Self::Tap,
            "old_overlay" => Self::OldOverlay,
            "vm_directory" => Self::VmDirectory,
            "record" => Self::Record,
            "held" => Self::Held,
            "process" | "companion" => {
                let mut words = detail.split(' ');
                let pid = words.next()?.parse().ok()?;
                let start = words.next()?.parse().ok()?;
                let boot = words.next()?.to_owned();
                let entry = ProcessEntry { pid, start, boot };
                if kind == "process" { Self::Process(entry) } else { Self::Companion(entry) }
            }
            // It becomes part of a path that is removed.
            "staging" if !detail.is_empty() && !detail.starts_with('.') && !detail.contains('/') => {
                Self::Staging(detail.to_owned())
            }
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_undo_is_read_back_as_it_was_written() {
        for undo in [
            Undo::RunDirectory,
            Undo::Disk(NewDisk::Overlay),
            Undo::Disk(NewDisk::Work),
            Undo::Process(ProcessEntry { pid: 7, start: 99, boot: "b".to_owned() }),
            Undo::Companion(ProcessEntry { pid: 8, start: 100, boot: "b".to_owned() }),
            Undo::Rules,
            Undo::Tap,
            Undo::OldOverlay,
            Undo::VmDirectory,
            Undo::Record,
            Undo::Staging("image-x".to_owned()),
            Undo::Held,
        ] {
            assert_eq!(Undo::parse(undo.kind(), &undo.detail()), Some(undo));
        }
    }

    #[test]
    fn what_is_not_known_or_not_safe_is_refused() {
        for (kind, detail) in
            [("mount", ""), ("process", "7 9"), ("staging", ".."), ("staging", "a/b"), ("staging", "")]
        {
            assert_eq!(Undo::parse(kind, detail), None, "{kind} {detail}");
        }
    }
}
