//! What a VM said: its console, its VMM, and of the console what banger's own agent wrote.

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::PathBuf,
    time::Duration,
};

use model::{VmId, vm::State};
use vmm::ring::{self, Begin};

use crate::{Engine, Result, blocking};

/// Which log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The guest's serial console.
    Console,
    /// The VMM's own output.
    Vmm,
    /// The lines of the console that are the agent's. A guest can write such lines too.
    Agent,
}

impl Source {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Console, Self::Vmm, Self::Agent];

    /// Its stable name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Console => "console",
            Self::Vmm => "vmm",
            Self::Agent => "agent",
        }
    }

    /// The log of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|source| source.name() == name)
    }
}

/// How often a log that is followed is looked at.
const LOOK: Duration = Duration::from_millis(150);
/// The most bytes that are read at once.
const CHUNK: usize = 64 << 10;

/// A log that is being read, the oldest first.
#[derive(Debug)]
pub struct Log {
    engine: Engine,
    vm: VmId,
    tail: Tail,
    filter: Option<AgentLines>,
}

impl Log {
    /// What comes next; `None` where that is all there is now.
    ///
    /// # Errors
    /// Where the log cannot be read.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>> {
        loop {
            let mut tail = std::mem::take(&mut self.tail);
            let (tail, read) = blocking(move || {
                let read = tail.read()?;
                Ok((tail, read))
            })
            .await?;
            self.tail = tail;
            match (&mut self.filter, read) {
                (_, None) => return Ok(None),
                (None, Some(bytes)) => return Ok(Some(bytes)),
                (Some(filter), Some(bytes)) => {
                    let lines = filter.take(&bytes);
                    if !lines.is_empty() {
                        return Ok(Some(lines));
                    }
                }
            }
        }
    }

    /// What comes next, waiting for it as long as the VM runs; `None` where no more will come.
    ///
    /// # Errors
    /// As [`Log::next`].
    pub async fn follow(&mut self) -> Result<Option<Vec<u8>>> {
        loop {
            // In this order: what is written last is written before the state says so.
            let runs = self.engine.still_speaks(self.vm)?;
            let read = self.next().await?;
            if read.is_some() || !runs {
                return Ok(read);
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// One file after the other, as long as they grow. A file that was renamed is read to its end first.
#[derive(Debug, Default)]
struct Tail {
    /// What is read before the file that grows.
    older: Option<PathBuf>,
    /// The file that is read, and its inode.
    open: Option<(File, u64)>,
    /// The one that took its place.
    next: Option<(File, u64)>,
    path: PathBuf,
    /// As much of the first file is passed over.
    skip: u64,
}

impl Tail {
    fn of(older: Option<PathBuf>, path: PathBuf) -> Self {
        Self { older, path, ..Self::default() }
    }

    /// The ring of a console in `directory`, from where `begin` says.
    fn of_console(directory: &std::path::Path, begin: Begin) -> Self {
        let (older, path) = (directory.join(ring::OLDER), directory.join(ring::FILE));
        match begin {
            Begin::Older(skip) => Self { skip, ..Self::of(Some(older), path) },
            Begin::Newer(skip) => Self { skip, ..Self::of(None, path) },
        }
    }

    /// The next bytes; `None` where there are no more now.
    fn read(&mut self) -> Result<Option<Vec<u8>>> {
        loop {
            if let Some((file, _)) = &mut self.open {
                let mut bytes = vec![0; CHUNK];
                let count = file.read(&mut bytes).map_err(|e| host::Error::path("read", &self.path, e))?;
                if count > 0 {
                    bytes.truncate(count);
                    return Ok(Some(bytes));
                }
            }
            if let Some(next) = self.next.take() {
                self.open = Some(next);
            } else if !self.look()? {
                return Ok(None);
            }
        }
    }

    /// Opens the file that comes next, where there is one. What was written to the other until then is still to be read.
    fn look(&mut self) -> Result<bool> {
        let path = self.older.take().unwrap_or_else(|| self.path.clone());
        let opened = host::fs::open(&path).and_then(|file| Ok((host::fs::inode(&file, &path)?, file)));
        match opened {
            Ok((inode, _)) if self.open.as_ref().is_some_and(|(_, known)| *known == inode) => Ok(false),
            Ok((inode, mut file)) => {
                let skip = std::mem::take(&mut self.skip);
                file.seek(SeekFrom::Start(skip)).map_err(|e| host::Error::path("read", &path, e))?;
                self.next = Some((file, inode));
                Ok(true)
            }
            Err(error) if error.is_missing() => Ok(path != self.path),
            Err(error) => Err(error.into()),
        }
    }
}

/// What the agent's lines have in them: it writes to the console while it boots the guest, and to the kernel's log later.
const AGENT: &[u8] = b"banger: ";
/// A longer line is none of the agent's.
const LONGEST_LINE: usize = 8 << 10;

/// Picks the agent's lines from a console.
#[derive(Debug, Default)]
struct AgentLines {
    unfinished: Vec<u8>,
}

impl AgentLines {
    /// The agent's lines that end in `bytes`.
    fn take(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut lines = Vec::new();
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            if self.unfinished.len() < LONGEST_LINE {
                self.unfinished.extend_from_slice(part);
            }
            if part.ends_with(b"\n") {
                let line = std::mem::take(&mut self.unfinished);
                if is_agents(&line) {
                    lines.extend(line);
                }
            }
        }
        lines
    }
}

/// Whether a line begins as the agent's do, be it after the kernel's time.
fn is_agents(line: &[u8]) -> bool {
    let text = match line.strip_prefix(b"[") {
        Some(rest) => rest.splitn(2, |byte| *byte == b']').nth(1).map(<[u8]>::trim_ascii_start),
        None => Some(line),
    };
    text.is_some_and(|text| text.starts_with(AGENT))
}

impl Engine {
    /// The log `source` of the VM that `text` refers to, from the beginning or from `since_ms` on, in milliseconds since the Unix
    /// epoch. What a VMM says has no times, and is given whole.
    ///
    /// # Errors
    /// Where there is no such VM, or its log cannot be read.
    pub fn vm_log(&self, text: &str, source: Source, since_ms: Option<u64>) -> Result<Log> {
        let vm = self.resolve(text)?;
        let directory = self.paths().vm(vm);
        let console = || -> Result<Tail> {
            let begin = since_ms.map_or(Ok(Begin::Older(0)), |since| ring::begin(&directory, since))?;
            Ok(Tail::of_console(&directory, begin))
        };
        let (tail, filter) = match source {
            Source::Console => (console()?, None),
            Source::Agent => (console()?, Some(AgentLines::default())),
            Source::Vmm => (Tail::of(None, directory.join(VMM_LOG)), None),
        };
        Ok(Log { engine: self.clone(), vm, tail, filter })
    }

    /// Whether VM `id` is there and something of it may still write to its logs.
    fn still_speaks(&self, id: VmId) -> Result<bool> {
        match self.store().vm_get(id) {
            Ok(vm) => Ok(match vm.state {
                State::Starting | State::Running | State::Stopping => true,
                State::Created | State::Stopped | State::Error | State::Deleting => false,
            }),
            Err(store::Error::Missing) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// What a VM's console said at the end, made safe to show; nothing where it cannot be read.
    pub(crate) fn last_words(&self, id: VmId, count: usize) -> Vec<String> {
        let lines = ring::last_lines(&self.paths().vm(id), LOOK_BACK).unwrap_or_default();
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

    #[test]
    fn a_log_is_read_on_behind_its_turn() {
        let dir = std::env::temp_dir().join(format!("banger-tail-{}", std::process::id()));
        host::fs::remove_all(&dir).unwrap();
        host::fs::create_dir(&dir).unwrap();
        let (older, path) = (dir.join("log.1"), dir.join("log"));
        let write = |path: &std::path::Path, text: &str| {
            std::io::Write::write_all(&mut host::fs::append(path).unwrap(), text.as_bytes()).unwrap();
        };
        let mut tail = Tail::of(Some(older.clone()), path.clone());
        let mut read = || {
            let mut all = Vec::new();
            while let Some(bytes) = tail.read().unwrap() {
                all.extend(bytes);
            }
            String::from_utf8(all).unwrap()
        };
        assert_eq!(read(), "", "it may come later");
        write(&path, "one\n");
        assert_eq!(read(), "one\n");
        write(&path, "two\n");
        assert_eq!(read(), "two\n");
        write(&path, "three\n");
        host::fs::rename(&path, &older).unwrap();
        assert_eq!(read(), "three\n");
        write(&path, "four\n");
        assert_eq!(read(), "four\n");
        assert_eq!(read(), "");
        let mut tail = Tail::of(Some(older), path);
        assert_eq!(tail.read().unwrap().unwrap(), b"one\ntwo\nthree\n");
        assert_eq!(tail.read().unwrap().unwrap(), b"four\n");
        assert_eq!(tail.read().unwrap(), None);
        host::fs::remove_all(&dir).unwrap();
    }

    #[test]
    fn the_agents_lines() {
        let mut lines = AgentLines::default();
        let console: &[&[u8]] = &[
            b"[    0.1] Linux\r\nban",
            b"ger: note: x\r\nnot banger: y\n[    1.5] banger: z\n",
            &[b'a'; 2 * LONGEST_LINE],
            b"banger: no\nbanger: unfinished",
        ];
        let found: Vec<_> = console.iter().flat_map(|bytes| lines.take(bytes)).collect();
        assert_eq!(String::from_utf8_lossy(&found), "banger: note: x\r\n[    1.5] banger: z\n");
    }
}
