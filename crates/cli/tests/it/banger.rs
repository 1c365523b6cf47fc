//! Running the program with a home of its own, and never longer than a test may take.

use std::{
    fs,
    io::{Read, Write},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc, Condvar, Mutex, MutexGuard,
        atomic::{AtomicU32, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

/// Long enough for a machine that is busy with something else.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// A home of banger that is gone after the test.
pub struct Home(PathBuf);

impl Home {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("banger-cli-{}-{number}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir(&dir).unwrap();
        Self(dir)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The program with `words` as its arguments, standard input empty, its output captured, in a frozen environment.
    pub fn banger(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_banger"));
        command
            .args(words)
            .env_clear()
            .env("BANGER_HOME", &self.0)
            .env("PATH", "/usr/bin:/bin")
            .env("COLUMNS", "100")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// What a run came to.
#[derive(Debug)]
pub struct Outcome {
    pub code: i32,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

impl Outcome {
    pub fn out(&self) -> String {
        String::from_utf8(self.stdout.clone()).unwrap()
    }

    pub fn err(&self) -> String {
        String::from_utf8(self.stderr.clone()).unwrap()
    }
}

/// A run under way; killed where the test does not wait for its end.
pub struct Running {
    child: Child,
    stdout: Option<Capture>,
    stderr: Option<Capture>,
}

impl Running {
    pub fn start(command: &mut Command) -> Self {
        let mut child = command.spawn().unwrap();
        let stdout = child.stdout.take().map(Capture::of);
        let stderr = child.stderr.take().map(Capture::of);
        Self { child, stdout, stderr }
    }

    /// Starts it, leaving its standard output to the caller.
    pub fn start_unread(command: &mut Command) -> (Self, std::process::ChildStdout) {
        let mut child = command.spawn().unwrap();
        let stdout = child.stdout.take().unwrap();
        let stderr = child.stderr.take().map(Capture::of);
        (Self { child, stdout: None, stderr }, stdout)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn stdin(&mut self) -> std::process::ChildStdin {
        self.child.stdin.take().unwrap()
    }

    /// Waits until `text` came out.
    pub fn until(&self, text: &str) {
        let found =
            |captured: &Captured| captured.bytes.windows(text.len()).any(|part| part == text.as_bytes());
        drop(self.stdout.as_ref().unwrap().wait(text, found));
    }

    /// Sends a signal by its name.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args(["-s", name, &self.pid().to_string()]).status().unwrap();
        assert!(status.success());
    }

    /// Waits for its end.
    pub fn end(mut self) -> Outcome {
        let status = self.wait();
        let take = |stream: Option<Capture>| stream.map(Capture::whole).unwrap_or_default();
        let code = std::os::unix::process::ExitStatusExt::signal(&status)
            .map_or_else(|| status.code(), |s| Some(-s));
        Outcome { code: code.unwrap(), stdout: take(self.stdout.take()), stderr: take(self.stderr.take()) }
    }

    fn wait(&mut self) -> ExitStatus {
        // `Child::wait` has no deadline: a watcher ends what takes too long, and the test fails on its status.
        let (done, watched) = mpsc::channel::<()>();
        let pid = self.pid();
        let watcher = thread::spawn(move || {
            if watched.recv_timeout(DEADLINE) == Err(mpsc::RecvTimeoutError::Timeout) {
                let _ = Command::new("kill").args(["-s", "KILL", &pid.to_string()]).status();
            }
        });
        let status = self.child.wait().unwrap();
        drop(done);
        watcher.join().unwrap();
        status
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What comes out of a stream, as it comes.
struct Capture(Arc<(Mutex<Captured>, Condvar)>);

#[derive(Default)]
struct Captured {
    bytes: Vec<u8>,
    ended: bool,
}

impl Capture {
    fn of(mut from: impl Read + Send + 'static) -> Self {
        let shared = Arc::new((Mutex::new(Captured::default()), Condvar::new()));
        let into = Arc::clone(&shared);
        thread::spawn(move || {
            let mut buffer = vec![0; 64 << 10];
            loop {
                let count = from.read(&mut buffer).unwrap_or(0);
                let mut captured = into.0.lock().unwrap();
                captured.bytes.extend_from_slice(&buffer[..count]);
                captured.ended = count == 0;
                into.1.notify_all();
                if count == 0 {
                    return;
                }
            }
        });
        Self(shared)
    }

    fn wait(&self, what: &str, until: impl Fn(&Captured) -> bool) -> MutexGuard<'_, Captured> {
        let (captured, changed) = &*self.0;
        let guard = captured.lock().unwrap();
        let (guard, timeout) =
            changed.wait_timeout_while(guard, DEADLINE, |captured| !until(captured)).unwrap();
        assert!(!timeout.timed_out(), "no {what} in {:?}", String::from_utf8_lossy(&guard.bytes));
        guard
    }

    fn whole(self) -> Vec<u8> {
        std::mem::take(&mut self.wait("end", |captured| captured.ended).bytes)
    }
}

/// Waits for a state that nobody tells of.
pub fn wait_until(what: &str, state: impl Fn() -> bool) {
    let begin = Instant::now();
    while !state() {
        assert!(begin.elapsed() < DEADLINE, "no {what} in time");
        thread::park_timeout(Duration::from_millis(5));
    }
}

/// Runs it to its end.
pub fn run(command: &mut Command) -> Outcome {
    Running::start(command).end()
}

/// Runs it to its end with `input` on its standard input.
pub fn run_with(command: &mut Command, input: &[u8]) -> Outcome {
    let mut running = Running::start(command.stdin(Stdio::piped()));
    let mut stdin = running.stdin();
    let input = input.to_vec();
    let writer = thread::spawn(move || {
        let _ = stdin.write_all(&input);
    });
    let outcome = running.end();
    writer.join().unwrap();
    outcome
}
