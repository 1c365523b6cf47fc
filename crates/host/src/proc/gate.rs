//! Processes that outlive us: behind a gate, or at once.
//!
//! A VMM must never run before its identity is durable, or a crash in between would leave one that nobody knows. So its
//! process is forked first and waits before its exec: the caller commits [`Gated::id`], then calls [`Gated::release`].

use std::os::fd::OwnedFd;

use rustix::{
    pipe::{PipeFlags, pipe_with},
    process::{Pid, Resource, Rlimit, getrlimit, prlimit},
};

use super::{
    Command, Process, ProcessId, Signal,
    fork::{Forked, Leads, RELEASE, fork},
};
use crate::{Error, Result};

impl Command {
    /// A process of this command, in its own session, that waits to be released.
    ///
    /// # Errors
    /// Where it cannot be forked.
    pub fn gated(self) -> Result<Gated> {
        let (inner, outer) =
            pipe_with(PipeFlags::CLOEXEC).map_err(|e| Error::new("make", "the pipe of a gate", e))?;
        let forked = fork(self, Leads::Session, Some(inner))?;
        Ok(Gated { inner: Some((forked, outer)) })
    }

    /// Starts this command in its own session; it goes on when this process ends.
    ///
    /// # Errors
    /// Where it cannot be executed.
    pub fn detached(self) -> Result<Process> {
        fork(self, Leads::Session, None)?.executed()
    }
}

/// A process that exists and has executed nothing. It ends when this is dropped, and when this process ends however.
#[must_use = "release it, or it ends unexecuted"]
pub struct Gated {
    /// Present until it is released or dropped.
    inner: Option<(Forked, OwnedFd)>,
}

impl Gated {
    /// Its identity, which stays the same after the release.
    ///
    /// # Panics
    /// Never: what was released is consumed.
    #[must_use]
    pub fn id(&self) -> &ProcessId {
        self.inner.as_ref().map(|(forked, _)| forked.process.id()).expect("present until it is consumed")
    }

    /// Lets it execute its program.
    ///
    /// # Errors
    /// Where it cannot be executed, or somebody killed it. It is gone then.
    ///
    /// # Panics
    /// Never: it can be released once.
    pub fn release(mut self) -> Result<Process> {
        let (forked, gate) = self.inner.take().expect("present until it is consumed");
        match rustix::io::retry_on_intr(|| rustix::io::write(&gate, &[RELEASE])) {
            Ok(_) => {}
            Err(e) => {
                let error = Error::new("start", &forked.program, e);
                end(&forked);
                return Err(error);
            }
        }
        // A process that was killed at its gate closes its status pipe, too; its caller sees it end at once.
        forked.executed()
    }
}

/// What a process may have no more of than it is let (getrlimit(2)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// Bytes of a file of its memory when it crashes.
    Core,
    /// Open descriptors.
    Descriptors,
    /// Bytes of memory that are its own: what it allocates, written or not, stacks of threads included.
    Memory,
}

impl Gated {
    /// Lets it, and what it starts, have at most `most` of that, for good.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn limit(&self, what: Limit, most: u64) -> Result<()> {
        let resource = match what {
            Limit::Core => Resource::Core,
            Limit::Descriptors => Resource::Nofile,
            Limit::Memory => Resource::Data,
        };
        let pid = i32::try_from(self.id().pid).ok().and_then(Pid::from_raw);
        // It has ours, and only root has more.
        let most = getrlimit(resource).maximum.map_or(most, |own| own.min(most));
        prlimit(pid, resource, Rlimit { current: Some(most), maximum: Some(most) })
            .map(drop)
            .map_err(|e| Error::new("limit", self.id(), e))
    }
}

impl Drop for Gated {
    fn drop(&mut self) {
        if let Some((forked, _gate)) = self.inner.take() {
            end(&forked);
        }
    }
}

impl std::fmt::Debug for Gated {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Gated").field(self.id()).finish()
    }
}

/// Ends a child that has not executed anything.
fn end(forked: &Forked) {
    let _ = forked.process.signal(Signal::Kill);
    let _ = forked.process.wait();
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        io::{BufRead, BufReader},
        path::{Path, PathBuf},
        time::Duration,
    };

    use super::{
        super::{Exit, Program, tests::shell},
        *,
    };

    const DEADLINE: Duration = Duration::from_secs(20);

    fn scratch(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("banger-gate-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir(&dir).unwrap();
        dir
    }

    /// The program that a process executes: its own test binary's before the gate, another one after.
    fn program(id: &ProcessId) -> PathBuf {
        fs::read_link(format!("/proc/{}/exe", id.pid)).unwrap()
    }

    fn touches(file: &Path) -> Command {
        shell("echo ran > \"$1\"").arg("sh").arg(file)
    }

    #[test]
    fn nothing_is_executed_before_the_release() {
        let dir = scratch("release");
        let file = dir.join("ran");
        let gated = touches(&file).gated().unwrap();
        let id = gated.id().clone();
        assert_eq!(program(&id), std::env::current_exe().unwrap());
        assert!(id.open().unwrap().is_some(), "its identity is good already");
        // Other processes come and go meanwhile.
        assert!(shell("exit 0").detached().unwrap().wait().unwrap().success());
        assert!(!file.exists());
        let process = gated.release().unwrap();
        assert_eq!(process.id(), &id, "the identity is the same");
        assert_eq!(process.wait().unwrap(), Exit::Code(0));
        assert_eq!(fs::read_to_string(&file).unwrap(), "ran\n");
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn what_is_limited_stays_so_after_its_exec() {
        let dir = scratch("limits");
        let file = dir.join("limits");
        let gated = shell("cat /proc/self/limits > \"$1\"").arg("sh").arg(&file).gated().unwrap();
        for (what, most) in [(Limit::Core, 0), (Limit::Descriptors, 40), (Limit::Memory, 64 << 20)] {
            gated.limit(what, most).unwrap();
        }
        assert!(gated.release().unwrap().wait().unwrap().success());
        let text = fs::read_to_string(&file).unwrap();
        let of = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.split_whitespace().take(2).map(str::to_owned).collect::<Vec<_>>()
        };
        for (name, most) in
            [("Max core file size", "0"), ("Max open files", "40"), ("Max data size", "67108864")]
        {
            assert_eq!(of(name), [most, most], "{text}");
        }
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn what_is_dropped_never_executes() {
        let dir = scratch("drop");
        let file = dir.join("ran");
        let gated = touches(&file).gated().unwrap();
        let id = gated.id().clone();
        drop(gated);
        assert!(id.open().unwrap().is_none());
        assert!(!Path::new(&format!("/proc/{}", id.pid)).exists(), "not even a zombie");
        assert!(!file.exists());
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn gates_do_not_hold_each_other() {
        // A child that waits must not keep the pipes of another one open, or the second release would hang.
        let gated: Vec<Gated> = (0..8).map(|_| shell("exit 3").gated().unwrap()).collect();
        for gated in gated.into_iter().rev() {
            assert_eq!(gated.release().unwrap().wait().unwrap(), Exit::Code(3));
        }
    }

    #[test]
    fn a_program_that_cannot_run_is_an_error_with_its_path() {
        let missing = || Command::new(Program::Qemu("/nonexistent/qemu".into()));
        let gated = missing().gated().unwrap();
        let id = gated.id().clone();
        for error in [gated.release().unwrap_err(), missing().detached().unwrap_err()] {
            assert_eq!(error.to_string(), "cannot start /nonexistent/qemu");
            assert!(error.is_missing());
        }
        assert!(!Path::new(&format!("/proc/{}", id.pid)).exists());
    }

    #[test]
    fn a_child_has_its_own_session_and_only_what_it_was_given() {
        let dir = scratch("only");
        let report = dir.join("report");
        let given = fs::File::open("/dev/zero").unwrap();
        let _not_given = fs::File::open("/dev/full").unwrap();
        let script = "for fd in /proc/self/fd/*; do readlink $fd; done; env; pwd; cut -d' ' -f6 /proc/$$/stat; \
                      kill -PIPE $$; echo alive";
        let mut command =
            shell(script).env("EXTRA", "yes").dir(&dir).stdout(fs::File::create(&report).unwrap());
        let number = command.pass(given);
        let process = command.gated().unwrap().release().unwrap();
        let pid = process.id().pid.to_string();
        assert_eq!(process.wait().unwrap(), Exit::Signal(13), "it does not ignore SIGPIPE as we do");
        let text = fs::read_to_string(&report).unwrap();
        let has = |line: &str| text.lines().any(|l| l == line);
        assert!(has("/dev/null") && has("/dev/zero") && has("EXTRA=yes") && has("LC_ALL=C.UTF-8"), "{text}");
        assert!(has(dir.to_str().unwrap()) && has(&pid), "{text}");
        assert!(!text.contains("/dev/full") && !text.contains("CARGO") && !text.contains("HOME="), "{text}");
        assert!(number > 2 && !text.contains("pipe:") && !text.contains("alive"), "{text}");
        fs::remove_dir_all(dir).unwrap();
    }

    /// Not a test of its own: the part of the next test that is killed.
    #[test]
    fn helper_that_waits_at_a_gate() {
        let Some(file) = crate::env::var("BANGER_TEST_GATE") else { return };
        let gated = touches(Path::new(&file)).gated().unwrap();
        println!("gated {}", gated.id().pid);
        std::thread::park();
    }

    #[test]
    fn a_waiting_child_ends_with_a_parent_that_is_killed() {
        let dir = scratch("orphan");
        let file = dir.join("ran");
        let mut parent = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--nocapture", "proc::gate::tests::helper_that_waits_at_a_gate"])
            .env("BANGER_TEST_GATE", &file)
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(parent.stdout.take().unwrap()).lines();
        let pid = lines
            .map_while(Result::ok)
            .find_map(|line| line.split_once("gated ")?.1.parse::<u32>().ok())
            .expect("the helper says its child's pid");
        let child = ProcessId::of(pid).unwrap();
        let watch = child.open().unwrap().expect("it waits");
        parent.kill().unwrap();
        parent.wait().unwrap();
        assert!(watch.wait_exit(DEADLINE).unwrap(), "the child ends with its parent");
        assert!(!file.exists());
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn what_is_detached_is_in_its_own_session() {
        let process = shell("exec tail -f /dev/null").detached().unwrap();
        let stat = fs::read_to_string(format!("/proc/{}/stat", process.id().pid)).unwrap();
        let session = stat.rsplit_once(')').unwrap().1.split_ascii_whitespace().nth(3).unwrap();
        assert_eq!(session, process.id().pid.to_string());
        process.signal(Signal::Kill).unwrap();
        assert_eq!(process.wait().unwrap(), Exit::Signal(9));
    }
}
