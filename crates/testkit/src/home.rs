//! A throw-away home for the real programs: nothing in it is shared with the user's, and nothing of it outlives its test.
//!
//! The programs are those that a build left side by side. A home begins with a kernel and the image `busybox`, which are
//! imported once per build and then shared by hard links, since neither is ever modified.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read, Write},
    os::unix::{fs::MetadataExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use crate::{kernel_deb, need, tree};

/// How long one command may take on a loaded machine in software emulation.
const COMMAND: Duration = Duration::from_secs(240);

/// What a command did.
#[derive(Debug)]
pub struct Output {
    /// Its exit status.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error as text.
    pub stderr: String,
}

impl Output {
    /// Its exit code.
    ///
    /// # Panics
    /// Where a signal ended it.
    #[must_use]
    pub fn code(&self) -> i32 {
        self.status.code().expect("it exits")
    }

    /// Its standard output as text without the last line's end.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim_end().to_owned()
    }

    /// Its standard output as JSON.
    ///
    /// # Panics
    /// Where it is none.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.stdout).expect("the output is JSON")
    }
}

/// A home, removed when dropped, with everything that runs from it.
#[derive(Debug)]
pub struct Home {
    path: PathBuf,
    programs: PathBuf,
    env: BTreeMap<String, String>,
    mounted: bool,
    /// Who runs the programs, where that is not this test's own user.
    user: Option<u32>,
}

impl Home {
    /// A home with a kernel and the image `busybox`. `None` where the machine lacks what it takes, which was said.
    ///
    /// # Panics
    /// Where something that `BANGER_REQUIRE` names is missing, or the programs were not built.
    #[must_use]
    pub fn new(banger: &str) -> Option<Self> {
        need::qemu()?;
        let home = Self::empty(banger);
        home.fill(&home.template()?);
        Some(home)
    }

    /// The same on a file system of its own with `size` bytes. `None` also where this user cannot mount one.
    ///
    /// # Panics
    /// As [`Home::new`].
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "a test's files are its own")]
    pub fn on_small_disk(banger: &str, size: u64) -> Option<Self> {
        need::qemu()?;
        let mut home = Self::empty(banger);
        let template = home.template()?;
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size},mode=0700"), "banger-test"])
            .arg(&home.path)
            .status();
        if !mounted.is_ok_and(|status| status.success()) {
            return need::missing("mount", "no right to mount a tmpfs");
        }
        home.mounted = true;
        home.fill(&template);
        Some(home)
    }

    /// The same of the ordinary user `uid`, who has a copy of the programs in it. For tests that are root.
    ///
    /// # Panics
    /// As [`Home::new`].
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "a test's files are its own")]
    pub fn of(banger: &str, uid: u32) -> Option<Self> {
        need::qemu()?;
        let mut home = Self::empty(banger);
        let template = home.template()?;
        for name in ["state", "cache"] {
            // Shared files would be the other owner's too.
            tree::copy(&template.join(name), &home.path.join(name));
        }
        let bin = home.path.join("bin");
        fs::create_dir(&bin).expect("the home is writable");
        for name in ["banger", "bangerd", "banger-agent"] {
            fs::copy(home.programs.join(name), bin.join(name)).expect("it was built");
        }
        let given = Command::new("chown").arg("-R").arg(format!("{uid}:{uid}")).arg(&home.path).status();
        assert!(given.is_ok_and(|status| status.success()), "the home is given away");
        (home.programs, home.user) = (bin, Some(uid));
        Some(home)
    }

    /// A home with nothing in it.
    ///
    /// # Panics
    /// Where the programs were not built, or the directory cannot be made.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "a test's files are its own")]
    pub fn empty(banger: &str) -> Self {
        let programs = Path::new(banger).parent().expect("it lies in the target directory").to_owned();
        for name in ["bangerd", "banger-agent"] {
            assert!(
                programs.join(name).exists(),
                "{name} is not beside {banger}: run `cargo xtask build` first"
            );
        }
        // Short, as a socket's path is at most 108 bytes long; XDG_RUNTIME_DIR may be longer than what is tested here.
        let path = Path::new("/tmp").join(format!("bt-{}-{:x}", std::process::id(), unique()));
        fs::create_dir(&path).expect("/tmp is writable");
        Self { path, programs, env: BTreeMap::new(), mounted: false, user: None }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the programs are.
    #[must_use]
    pub fn programs(&self) -> &Path {
        &self.programs
    }

    /// Sets a variable for everything that is started from here.
    #[must_use]
    pub fn with_env(mut self, name: &str, value: &str) -> Self {
        self.env.insert(name.to_owned(), value.to_owned());
        self
    }

    /// `banger` with `arguments`, ready to be started.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "tests start the programs they test")]
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.programs.join("banger"));
        command.args(arguments).env("BANGER_HOME", &self.path).envs(&self.env).env_remove("XDG_RUNTIME_DIR");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        if let Some(uid) = self.user {
            // In no other group, and nowhere that only the test's own user may be.
            command.uid(uid).gid(uid).env("HOME", &self.path).current_dir(&self.path);
        }
        command
    }

    /// The daemon of this home, ready to be started by a test that wants it as its child.
    ///
    /// # Panics
    /// Where its log cannot be written.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "tests start the programs they test")]
    pub fn daemon(&self) -> Command {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.path.join("state/bangerd.log"));
        let mut command = Command::new(self.programs.join("bangerd"));
        command.env("BANGER_HOME", &self.path).envs(&self.env).env_remove("XDG_RUNTIME_DIR");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log.expect("the home is writable"));
        command
    }

    /// Runs `banger` with `arguments` and no input.
    #[must_use]
    pub fn run(&self, arguments: &[&str]) -> Output {
        self.run_with(arguments, b"")
    }

    /// Runs `banger` with `arguments` and `input`.
    ///
    /// # Panics
    /// Where it does not end in time.
    #[must_use]
    pub fn run_with(&self, arguments: &[&str], input: &[u8]) -> Output {
        let mut command = self.command(arguments);
        command.stdin(Stdio::piped());
        finish(command.spawn().expect("banger was built"), input, COMMAND, arguments)
    }

    /// The same for a command that may take long: one that builds an image first.
    ///
    /// # Panics
    /// Where it does not end in `limit`.
    #[must_use]
    pub fn run_long(&self, arguments: &[&str], limit: Duration) -> Output {
        finish(self.command(arguments).spawn().expect("banger was built"), b"", limit, arguments)
    }

    /// Runs `banger` with `arguments`, which must succeed; gives what it printed.
    ///
    /// # Panics
    /// Where it fails.
    #[must_use]
    pub fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "banger {arguments:?}: {}\n{}", output.status, output.stderr);
        output.text()
    }

    /// VM `name` as `vm show -o json` tells it.
    ///
    /// # Panics
    /// Where there is none.
    #[must_use]
    pub fn vm(&self, name: &str) -> serde_json::Value {
        let output = self.run(&["vm", "show", name, "-o", "json"]);
        assert!(output.status.success(), "{}", output.stderr);
        output.json()
    }

    /// Waits until the VM is in `state`.
    ///
    /// # Panics
    /// Where it is not in time.
    pub fn wait_for_state(&self, name: &str, state: &str) {
        wait_until(COMMAND, &format!("{name} is {state}"), || self.vm(name)["state"] == state);
    }

    /// The daemon's process.
    ///
    /// # Panics
    /// Where there is none.
    #[must_use]
    pub fn daemon_pid(&self) -> i32 {
        let status = self.run(&["daemon", "status", "-o", "json"]).json();
        i32::try_from(status["pid"].as_i64().expect("a daemon runs")).expect("pids are small")
    }

    /// Ends process `pid`, one of this home's, without a chance to clean up, and waits until it is gone.
    ///
    /// # Panics
    /// Where it is none of this home's or does not go.
    pub fn kill_9(&self, pid: i32) {
        assert!(self.processes().contains_key(&pid), "process {pid} is none of this test's");
        let target = rustix::process::Pid::from_raw(pid).expect("a pid");
        let process = rustix::process::pidfd_open(target, rustix::process::PidfdFlags::empty());
        let process = process.expect("it runs");
        rustix::process::pidfd_send_signal(&process, rustix::process::Signal::KILL).expect("it is ours");
        // By its descriptor: what /proc says of a process is gone before its sockets are closed.
        let limit = rustix::time::Timespec { tv_sec: COMMAND.as_secs().cast_signed(), tv_nsec: 0 };
        let mut end = [rustix::event::PollFd::new(&process, rustix::event::PollFlags::IN)];
        assert_eq!(rustix::event::poll(&mut end, Some(&limit)), Ok(1), "process {pid} is gone");
    }

    /// The processes that run from this home, by pid, with their command lines.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "the harness looks at the world from outside")]
    pub fn processes(&self) -> BTreeMap<i32, String> {
        let own = self.path.as_os_str().as_encoded_bytes();
        let mut found = BTreeMap::new();
        for entry in fs::read_dir("/proc").expect("proc is mounted").flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
                continue;
            };
            let read = |name: &str| fs::read(entry.path().join(name)).unwrap_or_default();
            let line = read("cmdline");
            // A zombie holds nothing, and its parent, who may be about to reap it, is looked at too.
            let dead = String::from_utf8_lossy(&read("stat"))
                .rsplit_once(") ")
                .is_some_and(|(_, s)| s.starts_with('Z'));
            let below = fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(&self.path));
            let names = |bytes: &[u8]| bytes.windows(own.len()).any(|window| window == own);
            if !dead
                && (below || names(&read("environ")) || names(&line))
                && pid.unsigned_abs() != std::process::id()
            {
                found.insert(pid, String::from_utf8_lossy(&line).replace('\0', " "));
            }
        }
        found
    }

    /// What is left of VMs and unfinished work on disk.
    #[must_use]
    pub fn leftovers(&self) -> Vec<PathBuf> {
        let state = self.path.join("state");
        ["vms", "staging"].iter().flat_map(|name| tree::list(&state.join(name))).collect()
    }

    /// Deletes all VMs, stops the daemon, and asserts that nothing is left.
    fn clean_up(&self) {
        if self.processes().is_empty() && self.leftovers().is_empty() {
            return;
        }
        for id in self.ok(&["vm", "list", "-q"]).lines() {
            let _ = self.ok(&["vm", "delete", id]);
        }
        let _ = self.ok(&["daemon", "stop"]);
        wait_until(COMMAND, "no process is left", || self.processes().is_empty());
        assert_eq!(self.leftovers(), Vec::<PathBuf>::new(), "nothing of a VM is left");
        assert_eq!(tree::list(&self.path.join("run")), Vec::<PathBuf>::new(), "no socket is left");
    }

    /// The home that others are filled from, made by this build's own programs.
    #[expect(clippy::disallowed_methods, reason = "a directory of the build, not of banger")]
    fn template(&self) -> Option<PathBuf> {
        let deb = kernel_deb::path()?;
        let busybox = need::program("busybox", "busybox")?;
        let assets = kernel_deb::assets();
        let build = fs::metadata(self.programs.join("bangerd")).expect("it is there");
        let template = assets.join(format!("home-{:x}-{:x}", build.mtime(), build.mtime_nsec()));
        let lock = fs::File::create(assets.join("home.lock")).expect("the assets are writable");
        lock.lock().expect("a local file can be locked");
        if template.exists() {
            return Some(template);
        }
        for old in tree::list(&assets).iter().filter(|path| name_of(path).starts_with("home-")) {
            fs::remove_dir_all(old).expect("the assets are ours");
        }
        let maker = Self::empty(&self.programs.join("banger").to_string_lossy());
        let _ = maker.ok(&["kernel", "import", "debian-cloud", "--from", &deb.to_string_lossy()]);
        let tar = maker.path.join("busybox.tar");
        fs::write(&tar, crate::images::busybox(&busybox)).expect("the home is writable");
        let _ = maker.ok(&["image", "import", &tar.to_string_lossy(), "--name", "busybox"]);
        let _ = maker.ok(&["daemon", "stop"]);
        wait_until(COMMAND, "its daemon is gone", || maker.processes().is_empty());
        let staged = assets.join("home.new");
        let _ = fs::remove_dir_all(&staged);
        tree::copy(&maker.path, &staged);
        fs::rename(&staged, &template).expect("one file system");
        Some(template)
    }

    fn fill(&self, template: &Path) {
        for name in ["state", "cache"] {
            tree::link(&template.join(name), &self.path.join(name));
        }
    }
}

impl Drop for Home {
    #[expect(clippy::disallowed_methods, clippy::print_stderr, reason = "a test's files are its own")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = fs::read_to_string(self.path.join("state/bangerd.log")).unwrap_or_default();
            let tail: Vec<&str> = log.lines().rev().take(40).collect();
            eprintln!("the daemon's log ends:\n{}", tail.into_iter().rev().collect::<Vec<_>>().join("\n"));
            for pid in self.processes().into_keys().filter_map(rustix::process::Pid::from_raw) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        } else {
            self.clean_up();
        }
        if self.mounted {
            let _ = Command::new("umount").arg(&self.path).status();
        }
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Waits until `is_so`.
///
/// # Panics
/// Where it is not within `limit`.
pub fn wait_until(limit: Duration, what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + limit;
    let mut pause = Duration::from_millis(1);
    while !is_so() {
        assert!(Instant::now() < deadline, "waited {limit:?} in vain until {what}");
        std::thread::sleep(pause);
        pause = Duration::from_millis(20).min(pause * 2);
    }
}

/// Feeds `child` its input and takes its output, all at once.
///
/// # Panics
/// Where it does not end in time.
#[must_use]
pub fn finish(mut child: Child, input: &[u8], limit: Duration, what: &[&str]) -> Output {
    let mut stdin = child.stdin.take();
    let (mut stdout, mut stderr) = (child.stdout.take(), child.stderr.take());
    std::thread::scope(|scope| {
        scope.spawn(move || {
            if let Some(stdin) = &mut stdin {
                // A command that reads no input may be gone before all of it is written.
                let _ = stdin.write_all(input);
            }
        });
        let out = scope.spawn(move || read(&mut stdout));
        let err = scope.spawn(move || read(&mut stderr));
        let deadline = Instant::now() + limit;
        let status = loop {
            if let Some(status) = child.try_wait().expect("it is our child") {
                break status;
            }
            if Instant::now() > deadline {
                child.kill().expect("it is our child");
                panic!("{what:?} did not end in {limit:?}");
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        let stderr = String::from_utf8_lossy(&err.join().expect("a reader")).into_owned();
        Output { status, stdout: out.join().expect("a reader"), stderr }
    })
}

fn read(stream: &mut Option<impl Read>) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(stream) = stream {
        stream.read_to_end(&mut bytes).expect("a pipe");
    }
    bytes
}

/// Starts `command` in a session of its own, so that a signal to it reaches nobody else.
///
/// # Panics
/// Where it cannot be started.
#[must_use]
pub fn spawn_apart(mut command: Command) -> Child {
    command.process_group(0).spawn().expect("it was built")
}

fn unique() -> u32 {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
