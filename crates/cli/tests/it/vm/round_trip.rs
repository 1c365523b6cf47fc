//! Random states of a repository into a real machine, and random work there back: two dozen in one machine, beside the hundreds
//! that the engine's tests make with the agent alone.
#![expect(clippy::disallowed_methods, reason = "tests make repositories and look at files as users do")]

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use super::{
    create, home,
    workspace::{content, git, text},
};

const ROUNDS: u64 = 24;
const NAMES: [&str; 9] =
    ["a", "README.md", "dir/one", "dir/two words", "dir/deep/er/x", "-dash", ":colon", "ümlaut/🦀", "other"];

/// The same numbers in each run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: usize) -> usize {
        // Knuth's generator; its upper bits are the good ones.
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % end
    }
}

/// Something done to a file.
enum Edit {
    Write(&'static str, String),
    Program(&'static str, String),
    Link(&'static str, &'static str),
    Delete(&'static str),
    Rename(&'static str, &'static str),
}

fn edits(numbers: &mut Numbers) -> Vec<Edit> {
    let name = |numbers: &mut Numbers| NAMES[numbers.below(NAMES.len())];
    (0..numbers.below(6))
        .map(|_| {
            let (path, other, number) = (name(numbers), name(numbers), numbers.below(90));
            let content = match number % 3 {
                0 => format!("line\n{number}\n").repeat(number),
                1 => format!("no end {number}"),
                _ => format!("dos\r\n{number}\r\n"),
            };
            match numbers.below(8) {
                0..4 => Edit::Write(path, content),
                4 => Edit::Program(path, content),
                // None that leads out of the tree.
                5 => Edit::Link(path, "a"),
                6 => Edit::Delete(path),
                _ => Edit::Rename(path, other),
            }
        })
        .collect()
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or(".", |(parent, _)| parent)
}

/// Does them here.
fn perform(dir: &Path, edits: &[Edit]) {
    for edit in edits {
        match edit {
            Edit::Write(path, content) | Edit::Program(path, content) => {
                fs::create_dir_all(dir.join(parent(path))).unwrap();
                let _ = fs::remove_file(dir.join(path));
                fs::write(dir.join(path), content).unwrap();
                if matches!(edit, Edit::Program(..)) {
                    fs::set_permissions(dir.join(path), fs::Permissions::from_mode(0o755)).unwrap();
                }
            }
            Edit::Link(path, target) => {
                fs::create_dir_all(dir.join(parent(path))).unwrap();
                let _ = fs::remove_file(dir.join(path));
                symlink(target, dir.join(path)).unwrap();
            }
            Edit::Delete(path) => drop(fs::remove_file(dir.join(path))),
            Edit::Rename(from, to) => {
                fs::create_dir_all(dir.join(parent(to))).unwrap();
                let _ = fs::rename(dir.join(from), dir.join(to));
            }
        }
    }
}

/// The words of a shell that does the same there.
fn script(edits: &[Edit]) -> String {
    let mut script = String::from("set -e\n");
    for edit in edits {
        script.push_str(&match edit {
            Edit::Write(path, content) | Edit::Program(path, content) => {
                let bytes: String = content.bytes().map(|byte| format!("\\{byte:03o}")).collect();
                let mode = if matches!(edit, Edit::Program(..)) { "755" } else { "644" };
                format!("mkdir -p './{}'; rm -f './{path}'; printf '{bytes}' >'./{path}'; chmod {mode} './{path}'\n", parent(path))
            }
            Edit::Link(path, target) => {
                format!("mkdir -p './{}'; rm -f './{path}'; ln -s '{target}' './{path}'\n", parent(path))
            }
            Edit::Delete(path) => format!("rm -f './{path}'\n"),
            Edit::Rename(from, to) if from == to => String::new(),
            Edit::Rename(from, to) => {
                format!("mkdir -p './{}'; test ! -e './{from}' -a ! -h './{from}' || mv './{from}' './{to}'\n", parent(to))
            }
        });
    }
    script
}

/// What lies in `dir` but for git's own: what each is and holds.
fn tree(dir: &Path) -> BTreeMap<PathBuf, (char, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let mut todo = vec![dir.to_owned()];
    while let Some(place) = todo.pop() {
        for path in fs::read_dir(&place).unwrap().map(|entry| entry.unwrap().path()) {
            let key = path.strip_prefix(dir).unwrap().to_owned();
            let meta = path.symlink_metadata().unwrap();
            if meta.is_symlink() {
                found.insert(key, ('l', text(&fs::read_link(&path).unwrap()).into()));
            } else if !meta.is_dir() {
                let kind = if meta.permissions().mode() & 0o100 == 0 { 'f' } else { 'x' };
                found.insert(key, (kind, fs::read(&path).unwrap()));
            } else if key != Path::new(".git") {
                todo.push(path);
            }
        }
    }
    found
}

#[test]
fn work_in_a_real_machine_comes_back_as_it_was_done() {
    let Some(home) = home() else { return };
    let repo = home.path().join("repo");
    fs::create_dir(&repo).unwrap();
    git(&repo, &["init", "-q", "-b", "main"]);
    git(&repo, &["commit", "-q", "--allow-empty", "-m", "one"]);
    let _ = home.ok(&create("dev"));
    let prints = "find .git -type f | sort | xargs sha256sum";
    let mut changed = 0;
    for round in 0..ROUNDS {
        let mut numbers = Numbers(round);
        perform(&repo, &edits(&mut numbers));
        if round % 3 == 0 {
            git(&repo, &["add", "-A"]);
            git(&repo, &["commit", "-q", "--allow-empty", "-m", "more"]);
        }
        // Half of them go over the work of the round before, whose new files stay and come back again.
        let place = format!("/root/work{}", round / 2);
        let prepare =
            ["vm", "workspace", "prepare", "dev", text(&repo), "--include-untracked", "--guest-path", &place];
        let force: &[&str] = if round % 2 == 0 { &[] } else { &["--force"] };
        let _ = home.ok(&[&prepare[..], force].concat());
        let before = (content(&repo.join(".git")), tree(&repo));

        let work = edits(&mut numbers);
        let words = format!("{}{prints}", script(&work));
        let git_before = home.ok(&["vm", "exec", "dev", "--", "sh", "-c", &words]);
        let patch = home.path().join("work.patch");
        let _ = home.ok(&["vm", "workspace", "export", "dev", "--output", text(&patch)]);
        let git_after = home.ok(&["vm", "exec", "dev", "--", "sh", "-c", prints]);
        assert!(git_before.contains(".git/index") && git_before.contains(".git/HEAD"), "{git_before}");
        assert_eq!(git_after, git_before, "{round}: the guest's repository is as it was");
        let after = (content(&repo.join(".git")), tree(&repo));
        assert_eq!(after, before, "{round}: the owner's repository is as it was");

        let there = home.path().join(format!("there{round}"));
        let _ = home.ok(&["vm", "cp", &format!("dev:{place}"), text(&there)]);
        let here = home.path().join(format!("here{round}"));
        let copied = Command::new("cp").arg("-a").args([&repo, &here]).status().unwrap();
        assert!(copied.success());
        git(&here, &["apply", "--allow-empty", "--whitespace=nowarn", text(&patch)]);
        assert_eq!(tree(&here), tree(&there), "{round}: the patch is the work");
        changed += usize::from(fs::metadata(&patch).unwrap().len() > 0);
    }
    assert!(changed > 12, "most of them did something: {changed}");
}
