//! What `vm exec` costs over the agent's bare exec: the command line, the socket, and in a workspace the look at its repository.
//!
//! ```text
//! cargo xtask build --release && cargo bench -p daemon --bench exec
//! ```
//! The engine is in this process, behind the home's socket, so that the same machine is asked both ways in turn.
#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a bench measures the real thing and prints what it found"
)]

use std::{
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use engine::{Engine, Seams, config::Config};
use testkit::home::Home;
use tokio::runtime::Runtime;
use wire::exec::{Decoder, Frame, Spec};

/// Commands that are measured, each way.
const RUNS: usize = 41;
/// Files of the repository, as in the bench `workspace`.
const FILES: usize = 5_000;
const VM: &str = "dev";

fn main() {
    let own = std::env::current_exe().unwrap();
    let banger = own.ancestors().nth(2).unwrap().join("banger");
    let Some(home) = Home::new(banger.to_str().unwrap()) else { return };
    let _ = home.ok(&["vm", "create", "--name", VM, "--image", "busybox", "--memory", "256M"]);
    let served = Served::of(&home);
    let (bare, plain) = served.compare(&home, &["vm", "exec", VM, "--", "true"]);
    println!("agent's bare exec: {bare:.1} ms");
    println!("vm exec, over the agent's bare exec: {:.1} ms (at most 20 ms)", plain - bare);
    drop(served);

    let repository = home.path().join("repository");
    fill(&repository);
    let _ = home.ok(&["vm", "workspace", "prepare", VM, repository.to_str().unwrap()]);
    let served = Served::of(&home);
    let (bare, shipped) = served.compare(&home, &["vm", "exec", VM, "--", "true"]);
    println!("vm exec in a workspace, over the same: {:.1} ms (at most 20 ms)", shipped - bare);
    // With -v it waits to be told whether its repository is what was shipped, as one at a terminal does.
    let (bare, told) = served.compare(&home, &["-v", "vm", "exec", VM, "--", "true"]);
    println!("vm exec that tells of its {FILES} files, over the same: {:.1} ms (at most 20 ms)", told - bare);
}

/// The engine of a home, in this process.
struct Served {
    engine: Engine,
    runtime: Runtime,
}

impl Served {
    /// In the place of the home's daemon.
    fn of(home: &Home) -> Self {
        let _ = home.ok(&["daemon", "stop"]);
        let [state, cache, runtime, config] =
            ["state", "cache", "run", "config"].map(|name| home.path().join(name));
        let dirs = host::dirs::Dirs { state, cache, runtime, config };
        let (socket, agent) = (dirs.socket(), home.programs().join("banger-agent"));
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let engine = runtime.block_on(async {
            loop {
                let opening = Engine::open(dirs.clone(), Config::default(), agent.clone(), Seams::default());
                // The daemon lets go of it a moment after it said that it stops.
                match opening.await.unwrap() {
                    Some(engine) => return engine,
                    None => tokio::time::sleep(Duration::from_millis(10)).await,
                }
            }
        });
        let (served, at) = (engine.clone(), socket.clone());
        runtime.spawn(async move { daemon::server::serve(served, &at, None).await.unwrap() });
        while std::os::unix::net::UnixStream::connect(&socket).is_err() {
            std::thread::yield_now();
        }
        Self { engine, runtime }
    }

    /// The median milliseconds of the bare command, and of `banger` with `words`, in turn.
    fn compare(&self, home: &Home, words: &[&str]) -> (f64, f64) {
        let (mut bare, mut whole) = (Vec::new(), Vec::new());
        for _ in 0..RUNS {
            let begin = Instant::now();
            self.bare();
            bare.push(begin.elapsed());
            let begin = Instant::now();
            let _ = home.command(words).output().unwrap();
            whole.push(begin.elapsed());
        }
        (median(bare), median(whole))
    }

    /// Runs `true` by the agent alone.
    fn bare(&self) {
        let run = async {
            let (mut input, mut output, _ending) = self.engine.vm_exec(VM).await.unwrap().into_parts();
            let spec = Spec {
                argv: vec!["true".into()],
                env: vec![],
                cwd: None,
                user: None,
                terminal: None,
                through: Vec::new(),
            };
            input.send_data(Frame::Spec(Box::new(spec)).to_bytes()).await.unwrap();
            let mut decoder = Decoder::default();
            loop {
                while let Some(frame) = decoder.next_frame().unwrap() {
                    if matches!(frame, Frame::Exited(_)) {
                        return;
                    }
                }
                decoder.push(&output.next().await.unwrap().unwrap());
            }
        };
        self.runtime.block_on(run);
    }
}

fn median(mut all: Vec<Duration>) -> f64 {
    all.sort();
    all[all.len() / 2].as_secs_f64() * 1000.0
}

/// A repository of [`FILES`] files.
fn fill(repository: &Path) {
    let git = |words: &[&str]| {
        let mut git = Command::new("git");
        git.args(["-c", "user.name=A", "-c", "user.email=a@b"]).args(words).current_dir(repository);
        assert!(git.status().unwrap().success(), "git {words:?}");
    };
    for number in 0..FILES {
        let directory = repository.join(format!("src/{:02}", number / 100));
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join(format!("file-{number}")), format!("{number}\n")).unwrap();
    }
    git(&["init", "-q"]);
    git(&["add", "-A"]);
    git(&["commit", "-q", "-m", "all"]);
    // What was written a moment ago has no stamp yet (two seconds), and would have to be read each time.
    std::thread::sleep(Duration::from_secs(3));
}
