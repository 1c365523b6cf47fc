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

    /// The last lines of a VM's console, made safe to show; none where it cannot be read.
    pub(crate) fn console_tail(&self, id: VmId, lines: usize) -> Vec<String> {
        vmm::ring::last_lines(&self.paths().vm(id), lines).unwrap_or_default()
    }
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
