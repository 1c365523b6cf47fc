//! What a VM said: its console, its VMM.

use model::VmId;

use crate::{Engine, Result};

/// Which log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The guest's serial console.
    Console,
    /// The VMM's own output.
    Vmm,
}

impl Engine {
    /// All that is kept of a log of the VM that `text` refers to, the oldest first.
    ///
    /// # Errors
    /// Where there is no such VM, or the log cannot be read.
    pub fn vm_logs(&self, text: &str, source: Source) -> Result<Vec<u8>> {
        let id = self.resolve(text)?;
        let directory = self.paths().vm(id);
        Ok(match source {
            Source::Console => vmm::ring::read(&directory)?,
            Source::Vmm => read_small(&directory.join(VMM_LOG))?,
        })
    }

    /// What a VM's console said at the end, made safe to show; nothing where it cannot be read.
    pub(crate) fn last_words(&self, id: VmId, count: usize) -> Vec<String> {
        let lines = vmm::ring::last_lines(&self.paths().vm(id), LOOK_BACK).unwrap_or_default();
        last_words(&lines, count).to_vec()
    }
}

/// A panic's registers and calls fit into so many lines.
const LOOK_BACK: usize = 200;
const PANIC: &str = "Kernel panic - not syncing";

/// The last `count` of `lines`, or as many from a panic on: what the kernel dumps after it tells a user less.
fn last_words(lines: &[String], count: usize) -> &[String] {
    let panic = lines.iter().rposition(|line| line.contains(PANIC));
    let begin = panic.unwrap_or(lines.len().saturating_sub(count));
    &lines[begin..lines.len().min(begin + count)]
}

/// The file that a VMM's own output goes to ([`vmm::Place`]).
const VMM_LOG: &str = "vmm.log";
/// More than a VMM ever says.
const VMM_LOG_MAX: u64 = 8 << 20;

fn read_small(path: &std::path::Path) -> Result<Vec<u8>> {
    match host::fs::read_limited(path, VMM_LOG_MAX) {
        Err(error) if error.is_missing() => Ok(Vec::new()),
        read => Ok(read?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_told_by_its_first_line() {
        let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
        let panic = lines("a\nb\nKernel panic - not syncing: x\nRAX\nRBX\nRCX");
        assert_eq!(last_words(&panic, 2), ["Kernel panic - not syncing: x", "RAX"]);
        assert_eq!(last_words(&lines("a\nb\nc"), 2), ["b", "c"]);
        assert_eq!(last_words(&[], 2), [""; 0]);
    }
}
