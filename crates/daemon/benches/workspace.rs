//! A repository into a machine, and again after a change: over a plain tar of the same files through the same agent, and over
//! `git bundle` and `tar | ssh` into the same machine; and 100 changed files out of it over the guest's own `git diff`.
//!
//! ```text
//! cargo xtask build --release && cargo bench -p daemon --bench workspace
//! ```
//! The guest has this machine's git, ssh daemon and tar.
#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a bench measures the real thing and prints what it found"
)]

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use testkit::{
    home::{Home, wait_until},
    images::{with_busybox, with_programs},
    need,
};

/// How often each is measured, in turn.
const RUNS: usize = 5;
/// The repository: files, their bytes, commits; and how many files are changed in the guest.
const FILES: usize = 5_000;
const SIZE: usize = 10_000;
const COMMITS: usize = 10;
const CHANGED: usize = 100;
const VM: &str = "dev";
/// What this machine's tar is called there, which has busybox's too.
const TAR: &str = "gnu-tar";
const SOON: Duration = Duration::from_secs(60);

fn main() {
    let own = std::env::current_exe().unwrap();
    let banger = own.ancestors().nth(2).unwrap().join("banger");
    let Some(home) = Home::new(banger.to_str().unwrap()) else { return };
    let Some(image) = image() else { return };
    let imported = home.run_with(&["image", "import", "-", "--name", "tools"], &image);
    assert!(imported.status.success(), "{}", imported.stderr);
    let _ = home.ok(&["vm", "create", "--name", VM, "--image", "tools", "--memory", "1G"]);
    let _ = in_guest(&home, "mkdir -p /run/sshd && /usr/sbin/sshd");
    wait_until(SOON, "the sshd listens", || home.ok(&["vm", "ports", VM]).contains("sshd"));
    let repository = home.path().join("repository");
    fill(&repository);

    let (mut plain, mut by_ssh) = (Vec::new(), Vec::new());
    let (mut prepared, mut again, mut unchanged) = (Vec::new(), Vec::new(), Vec::new());
    let (mut exported, mut diffed) = (Vec::new(), Vec::new());
    let prepare = ["vm", "workspace", "prepare", VM, repository.to_str().unwrap()];
    // Nothing that one of them left to be written to the guest's disk is written in the time of the next.
    let timed = |work: &dyn Fn()| {
        let _ = in_guest(&home, "sync");
        timed(work)
    };
    for run in 0..RUNS {
        let _ = in_guest(&home, "rm -rf /root/repo /root/plain /root/copy /root/bundle && mkdir /root/plain");
        plain.push(timed(&|| plain_tar(&home, &repository)));
        by_ssh.push(timed(&|| bundle_and_tar(&home, &repository)));
        prepared.push(timed(&|| drop(home.ok(&[&prepare[..], &["--force"]].concat()))));
        fs::write(path(&repository, run), text(2 * FILES + run)).unwrap();
        again.push(timed(&|| drop(home.ok(&prepare))));
        unchanged.push(timed(&|| drop(home.ok(&prepare))));

        // Git there has looked at all of its files once, so that what it does is to compare those that were changed.
        let _ = in_guest(&home, "cd /root/repo && git status --short >/dev/null");
        let change = format!(
            "cd /root/repo && for file in $(git ls-files | tail -n {CHANGED}); do echo {run} >>$file; done"
        );
        let _ = in_guest(&home, &change);
        diffed.push(timed(&|| drop(in_guest(&home, "cd /root/repo && git diff --binary >/dev/null"))));
        let patch = home.path().join("patch");
        let words = ["vm", "workspace", "export", VM, "--output", patch.to_str().unwrap()];
        exported.push(timed(&|| drop(home.ok(&words))));
        let listed = home.ok(&["vm", "workspace", "export", VM, "--list"]);
        assert_eq!(listed.lines().count(), CHANGED, "what was changed comes back");
    }
    let [plain, by_ssh, prepared, again, unchanged] = [plain, by_ssh, prepared, again, unchanged].map(median);
    let [exported, diffed] = [exported, diffed].map(median);
    println!("a plain tar of the files {plain:.2} s, git bundle and tar over ssh {by_ssh:.2} s");
    println!("prepare {prepared:.2} s, after a change of one file {again:.2} s, after none {unchanged:.2} s");
    println!("export of {CHANGED} files {exported:.2} s, git diff of them in the guest {diffed:.2} s");
    println!("prepare, over a plain tar of the files: {:.2} (at most 1.3)", prepared / plain);
    println!("prepare, over one after a change of one file: {:.2} (at least 5)", prepared / again);
    println!("prepare, over git bundle and tar over ssh: {:.2} (at most 1)", prepared / by_ssh);
    println!(
        "export of {CHANGED} changed files, over git diff in the guest: {:.2} (at most 2)",
        exported / diffed
    );
}

/// What a machine needs to take a repository by other ways.
fn image() -> Option<Vec<u8>> {
    let busybox = need::program("busybox", "busybox")?;
    let (sshd, git) = (need::program("sshd", "sshd")?, need::program("git", "git")?);
    let tar = need::program("tar", "tar")?;
    let keygen = need::program("ssh", "ssh-keygen")?;
    let libexec = ["sshd-session", "sshd-auth"].map(|name| Path::new("/usr/lib/openssh").join(name));
    let programs =
        [&sshd, &git, &keygen, &tar].into_iter().chain(libexec.iter().filter(|path| path.exists()));
    let programs: Vec<&Path> = programs.map(PathBuf::as_path).collect();
    let users = b"root:x:0:0:root:/root:/bin/sh\nsshd:x:100:65534::/run/sshd:/bin/false\n";
    // The default exchange of keys takes an emulated guest seconds.
    let config = "Include /etc/ssh/sshd_config.d/*.conf\nKexAlgorithms curve25519-sha256\n";
    let image = with_programs(with_busybox(&busybox), &programs).file("etc/passwd", 0o644, users).file(
        "etc/ssh/sshd_config",
        0o644,
        config.as_bytes(),
    );
    let git = git.to_string_lossy().into_owned();
    let names = ["git", "git-upload-pack"].map(|name| format!("bin/{name}"));
    let image = image.symlink(&format!("bin/{TAR}"), &tar.to_string_lossy());
    Some(names.iter().fold(image, |image, name| image.symlink(name, &git)).finish())
}

/// The files alone, by the agent and the tar there.
fn plain_tar(home: &Home, repository: &Path) {
    let mut exec = home.command(&["vm", "exec", VM, "--cwd", "/root", "--", TAR, "-x", "-C", "plain"]);
    packed(repository, |files| exec.stdin(files).output().unwrap());
}

/// Gives a tar of the files of `repository` to `take`, which must succeed.
fn packed(repository: &Path, take: impl FnOnce(Stdio) -> Output) {
    let mut pack = Command::new("tar")
        .args(["--exclude=./.git", "-C"])
        .arg(repository)
        .args(["-c", "."])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let done = take(pack.stdout.take().unwrap().into());
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert!(pack.wait().unwrap().success());
}

/// Ships it as one would by hand: the history by a bundle that is cloned there, the files over that.
fn bundle_and_tar(home: &Home, repository: &Path) {
    let bundle = home.path().join("bundle");
    git(repository, &["bundle", "create", "-q", bundle.to_str().unwrap(), "HEAD", "main"]);
    let clone = "cat >/root/bundle && git clone -q -b main /root/bundle /root/copy";
    let done = ssh(home, clone, File::open(&bundle).unwrap().into());
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    packed(repository, |files| ssh(home, &format!("{TAR} -x -C /root/copy"), files));
}

fn ssh(home: &Home, script: &str, input: Stdio) -> Output {
    home.command(&["vm", "ssh", VM, "--", "sh", "-c", script]).stdin(input).output().unwrap()
}

fn in_guest(home: &Home, script: &str) -> String {
    home.ok(&["vm", "exec", VM, "--cwd", "/root", "--", "sh", "-c", script])
}

fn timed(work: &dyn Fn()) -> Duration {
    let begin = Instant::now();
    work();
    begin.elapsed()
}

fn median(mut all: Vec<Duration>) -> f64 {
    all.sort();
    all[all.len() / 2].as_secs_f64()
}

fn git(dir: &Path, words: &[&str]) {
    let mut git = Command::new("git");
    git.args(["-c", "user.name=A", "-c", "user.email=a@b"]).args(words).current_dir(dir);
    assert!(git.status().unwrap().success(), "git {words:?}");
}

/// A repository of [`FILES`] files, each of [`SIZE`] bytes, and [`COMMITS`] commits, in one pack as a clone has it.
fn fill(repository: &Path) {
    for number in 0..FILES {
        let path = path(repository, number);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text(number)).unwrap();
    }
    git(repository, &["init", "-q", "-b", "main"]);
    for commit in 0..COMMITS {
        fs::write(path(repository, commit), text(FILES + commit)).unwrap();
        git(repository, &["add", "-A"]);
        git(repository, &["commit", "-q", "-m", "a commit"]);
    }
    git(repository, &["gc", "-q"]);
}

fn path(repository: &Path, number: usize) -> PathBuf {
    repository.join(format!("src/{:02}/file-{number}", number / 100))
}

/// [`SIZE`] bytes, about as compressible as source code, and no two the same.
fn text(seed: usize) -> String {
    (0..SIZE / 10)
        .map(|at| format!("{:09x}\n", (seed * 7919 + at).wrapping_mul(2_654_435_761) & 0xf_ffff_ffff))
        .collect()
}
