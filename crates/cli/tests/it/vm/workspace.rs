//! A repository into a machine and the work there back, in real machines that have no git.

use std::{
    collections::BTreeMap,
    fs,
    io::Read,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use testkit::{
    home::{Home, finish, spawn_apart, wait_until},
    images::{Tar, with_busybox},
    need,
};

use super::{create, home};

/// Where the log of mise is.
const LOG: &str = "/root/.cache/banger/mise.log";
const SOON: Duration = Duration::from_secs(60);
const SMALL: [&str; 4] = ["--image", "busybox", "--memory", "256M"];

pub fn git(dir: &Path, words: &[&str]) -> String {
    let output = Command::new("git")
        .args(["-c", "user.name=A", "-c", "user.email=a@b"])
        .args(words)
        .current_dir(dir)
        .output()
        .unwrap();
    assert!(output.status.success(), "git {words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
}

/// A repository in `home` with a file, an edited one and an untracked one.
fn repository(home: &Home) -> PathBuf {
    let dir = home.path().join("repo");
    fs::create_dir(&dir).unwrap();
    git(&dir, &["init", "-q", "-b", "main"]);
    for (name, text) in [("file", "1\n"), ("edited", "1\n"), (".gitignore", "*.o\n")] {
        fs::write(dir.join(name), text).unwrap();
    }
    git(&dir, &["add", "-A"]);
    git(&dir, &["commit", "-q", "-m", "one"]);
    fs::write(dir.join("edited"), "2\n").unwrap();
    fs::write(dir.join("untracked"), "3\n").unwrap();
    dir
}

/// Every file below `dir` with its content.
pub fn content(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut todo = vec![dir.to_owned()];
    while let Some(dir) = todo.pop() {
        for path in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                todo.push(path);
            } else {
                found.insert(path.clone(), fs::read(&path).unwrap());
            }
        }
    }
    found
}

pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn a_repository_goes_in_and_its_patch_comes_out() {
    let Some(home) = home() else { return };
    let repo = repository(&home);
    let before = content(&repo);
    let script =
        "pwd; cat file edited; echo x >>file; rm edited; echo new >dir.o; mkdir d; echo new >d/new; ls";
    let words =
        [&["vm", "run", text(&repo), "--name", "dev"], &SMALL[..], &["--", "sh", "-c", script]].concat();
    let ran = home.run(&words);
    assert_eq!((ran.code(), ran.stderr.as_str()), (0, ""), "command mode says nothing itself");
    assert_eq!(ran.text(), "/root/repo\n1\n2\nd\ndir.o\nfile");
    assert_eq!(home.vm("dev")["workspace"], "/root/repo");

    let listed = home.ok(&["vm", "workspace", "export", "dev", "--list"]);
    assert_eq!(listed, "added     d/new\ndeleted   edited\nmodified  file");
    let patch = home.path().join("work.patch");
    assert_eq!(home.ok(&["vm", "workspace", "export", "dev", "--output", text(&patch)]), "");
    assert_eq!(home.run(&["vm", "workspace", "export", "dev"]).stdout, fs::read(&patch).unwrap());
    assert_eq!(content(&repo), before, "the host's repository is as it was, its index too");

    // As a branch it is two commits on the one that was checked out: what was edited here, and what was done there.
    let landed = home.run(&["vm", "workspace", "export", "dev", "--to-branch", "work"]);
    assert_eq!((landed.code(), landed.text()), (0, git(&repo, &["rev-parse", "work"])), "{}", landed.stderr);
    assert_eq!(git(&repo, &["diff", "--name-status", "work^", "work"]), "A\td/new\nD\tedited\nM\tfile");
    assert_eq!(git(&repo, &["diff", "--name-status", "main", "work^"]), "M\tedited");
    assert_eq!(git(&repo, &["status", "--porcelain"]), " M edited\n?? untracked");
    let refused = home.run(&["vm", "workspace", "export", "dev", "--to-branch", "main"]);
    assert!(refused.code() == 1 && refused.stderr.contains("checked out"), "{}", refused.stderr);
    git(&repo, &["apply", text(&patch)]);
    assert_eq!(fs::read_to_string(repo.join("file")).unwrap(), "1\nx\n");
    assert_eq!(fs::read_to_string(repo.join("d/new")).unwrap(), "new\n");
    assert!(!repo.join("edited").exists() && !repo.join("dir.o").exists());

    // It is there after a restart, and commands run in it.
    let _ = home.ok(&["vm", "stop", "dev"]);
    assert_eq!(home.run(&["vm", "workspace", "export", "dev"]).code(), 5, "it is not running");
    let _ = home.ok(&["vm", "start", "dev"]);
    assert_eq!(home.ok(&["vm", "exec", "dev", "--", "cat", "file"]), "1\nx");
    assert_eq!(home.ok(&["vm", "exec", "dev", "--cwd", "/etc", "--", "pwd"]), "/etc");
    assert_eq!(home.run(&["vm", "workspace", "export", "dev"]).stdout, fs::read(&patch).unwrap());

    // What was done there is not overwritten by accident, and a repository that changed or moved is told.
    let told = home.run(&["-v", "vm", "exec", "dev", "--", "true"]);
    assert!(told.stderr.contains("has other files since it was shipped"), "{}", told.stderr);
    let refused = home.run(&["vm", "exec", "dev", "--auto-prepare", "--", "true"]);
    assert_eq!(refused.code(), 125);
    assert!(refused.stderr.contains("was changed since it was shipped"), "{}", refused.stderr);
    let again = home.run(&["vm", "workspace", "prepare", "dev", text(&repo)]);
    assert_eq!(again.code(), 1);
    assert!(again.stderr.contains("was changed since it was shipped"), "{}", again.stderr);
    git(&repo, &["commit", "-qam", "two"]);
    let told = home.run(&["-v", "vm", "exec", "dev", "--", "true"]);
    assert!(told.stderr.contains("has another commit checked out"), "{}", told.stderr);
    let forced = ["vm", "workspace", "prepare", "dev", text(&repo), "--force", "--include-untracked"];
    assert_eq!(home.ok(&forced), "/root/repo");
    assert_eq!(home.ok(&["vm", "exec", "dev", "--", "cat", "untracked"]), "3");
    assert_eq!(home.ok(&["vm", "workspace", "export", "dev"]), "");
    fs::write(repo.join("untracked"), "4\n").unwrap();
    let ran = home.run(&["vm", "exec", "dev", "--auto-prepare", "--", "cat", "untracked"]);
    assert_eq!((ran.text().as_str(), ran.stderr.as_str()), ("4", ""), "it went as it did before");
    let told = home.run(&["-v", "vm", "exec", "dev", "--auto-prepare", "--", "true"]);
    assert!(!told.stderr.contains("shipping"), "nothing changed since: {}", told.stderr);
}

/// As deep as was asked for, on the branch that was asked for; seen by a git of this host, since the machine has none.
#[test]
fn history_and_branch_are_those_that_were_asked_for() {
    let Some(home) = home() else { return };
    let repo = repository(&home);
    (0..14).for_each(|_| drop(git(&repo, &["commit", "-q", "--allow-empty", "-m", "more"])));
    let _ = home.ok(&create("dev"));
    let head = git(&repo, &["rev-parse", "HEAD"]);
    for (words, commits, branch) in [
        (&[][..], "10", "main"),
        (&["--depth", "3", "--branch", "work"], "3", "work"),
        (&["--full-history"], "15", "main"),
        (&["--branch", "old", "--from", "HEAD~5"], "10", "old"),
    ] {
        let prepared =
            home.run(&[&["vm", "workspace", "prepare", "dev", text(&repo), "--force"], words].concat());
        assert_eq!((prepared.code(), prepared.text().as_str()), (0, "/root/repo"), "{}", prepared.stderr);
        assert_eq!(
            prepared.stderr.contains("what is not committed"),
            words.contains(&"--from"),
            "{}",
            prepared.stderr
        );
        let there = home.path().join(format!("there{}", words.len()));
        let _ = home.ok(&["vm", "cp", "dev:/root/repo", text(&there)]);
        assert_eq!(git(&there, &["rev-list", "--count", "HEAD"]), commits, "{words:?}");
        assert_eq!(git(&there, &["branch", "--show-current"]), branch);
        let from = if branch == "old" { git(&repo, &["rev-parse", "HEAD~5"]) } else { head.clone() };
        assert_eq!(git(&there, &["rev-parse", "HEAD"]), from);
        fs::remove_dir_all(there).unwrap();
    }
    assert_eq!(git(&repo, &["branch", "--list"]), "* main", "none of them is a branch here");
}

#[test]
fn what_cannot_be_shipped_is_refused_before_anything_is_made() {
    let Some(home) = home() else { return };
    let repo = repository(&home);
    let dry = home.run(&["vm", "run", text(&repo), "--dry-run"]);
    assert_eq!((dry.code(), dry.text().as_str()), (0, ".gitignore\nedited\nfile"));
    assert!(dry.stderr.contains("1 untracked file stays here; --include-untracked"), "{}", dry.stderr);
    let bare = home.path().join("bare");
    git(home.path(), &["clone", "-q", "--bare", "repo", "bare"]);
    for (words, code) in [
        (&["vm", "run", text(&bare), "--", "true"][..], 2),
        (&["vm", "run", "/nowhere", "--", "true"], 2),
        (&["vm", "run", text(&repo), "--guest-path", "/etc", "--", "true"], 2),
        (&["vm", "run", text(&repo), "--branch", "a..b", "--", "true"], 2),
        (&["vm", "run", text(&repo), "--from", "main", "--", "true"], 2),
    ] {
        assert_eq!(home.run(words).code(), code, "{words:?}");
    }
    assert_eq!(home.ok(&["vm", "list", "-q"]), "");
}

/// Stands for mise: notes where and with what it was asked to install, and fails where it is told to.
const MISE: &str = "#!/bin/sh\n[ \"$1\" = exec ] && shift 2 && exec \"$@\"\necho \"$* in $PWD trusts $MISE_TRUSTED_CONFIG_PATHS\" >>/root/asked\necho said\n! grep -q broken mise.toml\n";

#[test]
fn tools_that_a_repository_pins_are_installed_for_who_works_there() {
    let Some(home) = home() else { return };
    let Some(busybox) = need::program("busybox", "busybox") else { return };
    if need::namespaces().is_none() {
        return;
    }
    let tar = with_busybox(&busybox).file("bin/mise", 0o755, MISE.as_bytes()).finish();
    let imported = home.run_with(&["image", "import", "-", "--name", "mise"], &tar);
    assert!(imported.status.success(), "{}", imported.stderr);
    let repo = repository(&home);
    let place = text(&repo);
    fs::write(repo.join("mise.toml"), "[tools]\n").unwrap();
    git(&repo, &["add", "mise.toml"]);
    let run = |words: &[&str], input: &str| {
        let words = [&["vm", "run", place, "--nat", "--image", "mise", "--memory", "256M"], words].concat();
        let ran = home.run_with(&words, input.as_bytes());
        assert_eq!(ran.code(), 0, "{}", ran.stderr);
        ran
    };
    let asked = "install in /root/repo trusts /root/repo";

    // Before the name is printed; the log stays in the machine.
    assert_eq!(run(&["-d", "--name", "dev"], "").text(), "dev");
    assert_eq!(home.ok(&["vm", "exec", "dev", "--", "cat", "/root/asked", LOG]), format!("{asked}\nsaid"));
    // Beside a shell, whose input is its own.
    let wait = "until [ -s /root/asked ]; do :; done; cat /root/asked";
    let shell = run(&["--rm"], wait);
    assert_eq!(shell.text(), asked, "{}", shell.stderr);
    assert!(shell.stderr.contains(LOG), "{}", shell.stderr);
    // Not for a command, nor for who does not want it.
    let look = "cat /root/asked || echo nobody";
    assert_eq!(run(&["--rm", "--", "sh", "-c", look], "").text(), "nobody");
    assert_eq!(run(&["--rm", "--no-bootstrap"], look).text(), "nobody");
    // What it cannot install is no reason to have no machine.
    fs::write(repo.join("mise.toml"), "broken\n").unwrap();
    let broken = run(&["-d", "--name", "broken"], "");
    assert_eq!(broken.text(), "broken");
    let told = "warning: mise install ended with 1: banger vm exec broken -- cat";
    assert!(broken.stderr.contains(told), "{}", broken.stderr);
    let without = home.run(&[
        "vm", "run", place, "-d", "--nat", "--name", "without", "--image", "busybox", "--memory", "256M",
    ]);
    assert_eq!((without.code(), without.text().as_str()), (0, "without"), "{}", without.stderr);
    assert!(without.stderr.contains("without has no mise"), "{}", without.stderr);
    // Where they could not be fetched nothing is made, and both ways out are named.
    let refused = home.run(&["vm", "run", place, "-d", "--name", "never", "--image", "busybox"]);
    assert_eq!(refused.code(), 2, "{}", refused.stderr);
    assert!(
        refused.stderr.contains("--nat") && refused.stderr.contains("--no-bootstrap"),
        "{}",
        refused.stderr
    );
    assert!(!home.ok(&["vm", "list"]).contains("never"));
    // A file that is first of all somebody else's keeps nobody from a machine.
    git(&repo, &["rm", "-qf", "mise.toml"]);
    fs::write(repo.join("go.mod"), "module x\n").unwrap();
    git(&repo, &["add", "go.mod"]);
    let others = home.run(&["vm", "run", place, "-d", "--name", "go", "--image", "mise", "--memory", "256M"]);
    assert_eq!((others.code(), others.text().as_str()), (0, "go"), "{}", others.stderr);
    assert!(others.stderr.contains("the tools that go.mod pins are not installed"), "{}", others.stderr);
}

/// Stands for mise as it runs a command: sets a variable, and becomes it.
const MISE_EXEC: &str = "#!/bin/sh\n[ \"$1 $2\" = 'exec --' ] || exit 9\nshift 2\nexport TOOL=pinned TRUSTED=$MISE_TRUSTED_CONFIG_PATHS\nexec \"$@\"\n";

#[test]
fn a_command_runs_with_the_tools_that_its_workspace_pins() {
    let Some(home) = home() else { return };
    let Some(busybox) = need::program("busybox", "busybox") else { return };
    let tar = with_busybox(&busybox).file("bin/mise", 0o755, MISE_EXEC.as_bytes()).finish();
    let imported = home.run_with(&["image", "import", "-", "--name", "mise"], &tar);
    assert!(imported.status.success(), "{}", imported.stderr);
    let repo = repository(&home);
    let _ = home.ok(&["vm", "create", "--name", "dev", "--image", "mise", "--memory", "256M"]);
    let _ = home.ok(&["vm", "workspace", "prepare", "dev", text(&repo)]);
    let exec = |words: &[&str], input: &str| {
        home.run_with(&[&["vm", "exec", "dev"], words].concat(), input.as_bytes())
    };
    let tool = "echo ${TOOL:-none}";
    assert_eq!(exec(&["--", "sh", "-c", tool], "").text(), "none", "nothing is pinned");
    fs::write(repo.join(".tool-versions"), "node 20\n").unwrap();
    git(&repo, &["add", ".tool-versions"]);
    let _ = home.ok(&["vm", "workspace", "prepare", "dev", text(&repo)]);
    assert_eq!(
        exec(&["--", "sh", "-c", "echo $TOOL $TRUSTED $PWD"], "").text(),
        "pinned /root/repo /root/repo"
    );

    // Its words, streams, code and signals are its own.
    let ran = exec(&["--", "sh", "-c", "cat; echo \"$1\" >&2; exit 7", "x", "a  b"], "in");
    assert_eq!((ran.code(), ran.stdout.as_slice(), ran.stderr.as_str()), (7, &b"in"[..], "a  b\n"));
    assert_eq!(exec(&["--", "sh", "-c", "kill -TERM $$"], "").code(), 143);
    assert_eq!(exec(&["--", "no-such-program"], "").code(), 127);
    assert_eq!(exec(&["--", "./file"], "").code(), 126);
    // Elsewhere, and for who does not want it, it runs as it is.
    for words in [&["--no-tools"][..], &["--cwd", "/root"]] {
        assert_eq!(exec(&[words, &["--", "sh", "-c", tool]].concat(), "").text(), "none", "{words:?}");
    }
    // A machine without mise has what its path has.
    let _ = home.ok(&create("plain"));
    let _ = home.ok(&["vm", "workspace", "prepare", "plain", text(&repo)]);
    assert_eq!(home.ok(&["vm", "exec", "plain", "--", "sh", "-c", tool]), "none");
}

/// It lies in their home, and all of it is theirs, also what comes later.
#[test]
fn a_repository_can_belong_to_a_user_of_the_machine() {
    let Some(home) = home() else { return };
    let repo = repository(&home);
    std::os::unix::fs::symlink("file", repo.join("link")).unwrap();
    git(&repo, &["add", "link"]);
    let place = text(&repo);
    let dry = home.run(&["vm", "run", place, "--user", "user", "--dry-run"]);
    assert!(dry.stderr.contains("would go to ~user/repo"), "{}", dry.stderr);
    let owners = "stat -c '%u:%g %n' . .git .git/HEAD file link";
    let script = format!("id -u; pwd; echo x >new; {owners} new");
    let words =
        [&["vm", "run", place, "--name", "dev", "--user", "user"], &SMALL[..], &["--", "sh", "-c", &script]];
    let ran = home.run(&words.concat());
    let theirs = "1000:1000 .\n1000:1000 .git\n1000:1000 .git/HEAD\n1000:1000 file\n1000:1000 link";
    assert_eq!(ran.text(), format!("1000\n/home/user/repo\n{theirs}\n1000:1000 new"), "{}", ran.stderr);
    assert_eq!(home.vm("dev")["workspace"], "/home/user/repo");
    assert_eq!(home.ok(&["vm", "workspace", "export", "dev", "--list"]), "added     new");

    // Again, in a directory that is new too.
    let _ = home.ok(&["vm", "exec", "dev", "--", "rm", "new"]);
    fs::create_dir(repo.join("deep")).unwrap();
    fs::write(repo.join("deep/more"), "1\n").unwrap();
    git(&repo, &["add", "deep"]);
    let again = "id -u; pwd; stat -c '%u:%g %n' deep deep/more";
    let again = home.run(&["vm", "exec", "dev", "--auto-prepare", "--", "sh", "-c", again]);
    assert_eq!(
        again.text(),
        "1000\n/home/user/repo\n1000:1000 deep\n1000:1000 deep/more",
        "{}",
        again.stderr
    );
    let refused = home.run(&["vm", "workspace", "prepare", "dev", place, "--user", "nobody"]);
    assert_eq!(refused.code(), 1, "{}", refused.stderr);
    assert!(refused.stderr.contains("the guest has no user nobody"), "{}", refused.stderr);
    // By number, and at another place.
    let placed =
        home.run(&["vm", "workspace", "prepare", "dev", place, "--user", "4711", "--guest-path", "/srv/x"]);
    assert_eq!((placed.code(), placed.text().as_str()), (0, "/srv/x"), "{}", placed.stderr);
    assert_eq!(home.ok(&["vm", "exec", "dev", "--", "stat", "-c", "%u", "/srv/x/file"]), "4711");
}

/// Its commands are theirs from the first to the last, and so is what is shipped into it.
#[test]
fn a_machine_can_have_a_user_for_all_that_is_run_in_it() {
    let Some(home) = home() else { return };
    for (user, why) in [("", "a user has a name"), ("a\nb", "control characters")] {
        let refused = home.run(&["vm", "create", "--name", "dev", "--user", user]);
        assert_eq!(refused.code(), 2, "{}", refused.stderr);
        assert!(refused.stderr.contains(why), "{}", refused.stderr);
    }
    let _ = home.ok(&[&["vm", "create", "--name", "dev", "--user", "user"], &SMALL[..]].concat());
    assert_eq!(home.vm("dev")["user"], "user");
    assert_eq!(home.ok(&["vm", "exec", "dev", "--", "id", "-u"]), "1000");
    assert_eq!(home.ok(&["vm", "exec", "dev", "--user", "root", "--", "id", "-u"]), "0");
    let repo = repository(&home);
    assert_eq!(home.ok(&["vm", "workspace", "prepare", "dev", text(&repo)]), "/home/user/repo");
    let _ = home.ok(&["vm", "restart", "dev"]);
    assert_eq!(home.ok(&["vm", "exec", "dev", "--", "sh", "-c", "id -u; pwd"]), "1000\n/home/user/repo");
    assert_eq!(home.ok(&["vm", "exec", "dev", "--", "stat", "-c", "%u", "file"]), "1000");
}

/// A machine that has one program and no shell, tar or git.
#[test]
fn a_machine_with_nothing_takes_a_repository_and_gives_its_work() {
    let Some(home) = home() else { return };
    let Some(busybox) = need::program("busybox", "busybox") else { return };
    let binary = fs::read(busybox).unwrap();
    let tar = Tar::default().file("busybox", 0o755, &binary).finish();
    let imported = home.run_with(&["image", "import", "-", "--name", "sole"], &tar);
    assert!(imported.status.success(), "{}", imported.stderr);
    let repo = repository(&home);
    let words = ["vm", "run", text(&repo), "--name", "dev", "--image", "sole", "--memory", "256M", "--"];
    let ran = home.run(&[&words[..], &["/busybox", "cp", "edited", "new"]].concat());
    assert_eq!((ran.code(), ran.stderr.as_str()), (0, ""));
    assert_eq!(home.ok(&["vm", "workspace", "export", "dev", "--list"]), "added     new");
    fs::write(repo.join("file"), "3\n").unwrap();
    let _ = home.ok(&["vm", "workspace", "prepare", "dev", text(&repo), "--force"]);
    assert_eq!(home.ok(&["vm", "exec", "dev", "--", "/busybox", "cat", "file"]), "3");
}

#[test]
fn a_read_only_workspace_is_written_by_nobody_in_the_guest() {
    let Some(home) = home() else { return };
    let repo = repository(&home);
    let _ = home.ok(&create("dev"));
    let prepare = ["vm", "workspace", "prepare", "dev", text(&repo)];
    let _ = home.ok(&[&prepare[..], &["--readonly"]].concat());
    // By root, who is told so by the kernel.
    let write =
        ["vm", "exec", "dev", "--", "sh", "-c", "cat edited; echo x >edited; touch new; rm -f file; ls"];
    let refused = || {
        let tried = home.run(&write);
        assert_eq!(tried.text(), "2\nedited\nfile", "{}", tried.stderr);
        assert_eq!(tried.stderr.matches("Read-only file system").count(), 3, "{}", tried.stderr);
        assert_eq!(home.ok(&["vm", "workspace", "export", "dev"]), "");
    };
    refused();
    // It is so again after a restart, and when it is shipped again in the same way.
    let _ = home.ok(&["vm", "stop", "dev"]);
    let _ = home.ok(&["vm", "start", "dev"]);
    refused();
    fs::write(repo.join("more"), "1\n").unwrap();
    git(&repo, &["add", "more"]);
    let ran = home.run(&["vm", "exec", "dev", "--auto-prepare", "--", "sh", "-c", "cat more; touch more"]);
    assert_eq!((ran.code(), ran.text().as_str()), (1, "1"), "{}", ran.stderr);
    // Without the word it is as any other, and the new files can be written.
    let _ = home.ok(&prepare);
    assert_eq!(home.ok(&["vm", "exec", "dev", "--", "sh", "-c", "echo 2 >more; cat more"]), "2");
    assert_eq!(home.ok(&["vm", "workspace", "export", "dev", "--list"]), "modified  more");
}

#[test]
fn a_full_copy_has_the_submodules_in_a_machine_without_git() {
    let Some(home) = home() else { return };
    let repo = repository(&home);
    let lib = home.path().join("lib");
    fs::create_dir(&lib).unwrap();
    git(&lib, &["init", "-q", "-b", "main"]);
    fs::write(lib.join("lib.txt"), "1\n").unwrap();
    git(&lib, &["add", "-A"]);
    git(&lib, &["commit", "-qm", "lib"]);
    git(&repo, &["-c", "protocol.file.allow=always", "submodule", "--quiet", "add", text(&lib), "lib"]);
    git(&repo, &["branch", "more"]);
    let _ = home.ok(&create("dev"));
    let prepare = ["vm", "workspace", "prepare", "dev", text(&repo)];
    let refused = home.run(&prepare);
    assert_eq!(refused.code(), 2, "{}", refused.stderr);
    assert!(refused.stderr.contains("hint: --mode full-copy"), "{}", refused.stderr);
    let full = [&prepare[..], &["--mode", "full-copy"]].concat();
    let dry = home.run(&[&full[..], &["--dry-run"]].concat());
    assert_eq!(dry.text(), ".gitignore\n.gitmodules\nedited\nfile\nlib/lib.txt");
    assert!(dry.stderr.contains("mode full-copy with 1 submodule"), "{}", dry.stderr);
    let before = content(&repo);
    let _ = home.ok(&full);
    let there = home.path().join("there");
    let _ = home.ok(&["vm", "cp", "dev:/root/repo", text(&there)]);
    for path in [".", "lib"] {
        git(&there.join(path), &["fsck", "--strict", "--no-dangling"]);
        for words in [&["for-each-ref"][..], &["status", "--porcelain", "-uno"], &["submodule", "status"]] {
            assert_eq!(git(&there.join(path), words), git(&repo.join(path), words), "{path}: {words:?}");
        }
    }
    let _ = home.ok(&["vm", "exec", "dev", "--", "sh", "-c", "echo 2 >lib/lib.txt; echo 2 >file"]);
    assert_eq!(
        home.ok(&["vm", "workspace", "export", "dev", "--list"]),
        "modified  file\nmodified  lib/lib.txt"
    );
    let patch = home.path().join("work.patch");
    let _ = home.ok(&["vm", "workspace", "export", "dev", "--output", text(&patch)]);
    assert_eq!(content(&repo), before, "the host's repository is as it was");
    git(&repo, &["apply", text(&patch)]);
    assert_eq!(fs::read_to_string(repo.join("lib/lib.txt")).unwrap(), "2\n");
}

#[test]
fn the_names_of_a_guest_do_nothing_to_a_terminal() {
    let Some(home) = home() else { return };
    let repo = repository(&home);
    let _ = home.ok(&create("dev"));
    let _ = home.ok(&["vm", "workspace", "prepare", "dev", text(&repo)]);
    let script = "touch \"$(printf 'a\\033[2Jb')\" \"$(printf 'c\\nd')\" \"$(printf '\\377')\"; mkdir .vscode; touch .vscode/\"$(printf '\\033]0;x\\007')\"";
    let _ = home.ok(&["vm", "exec", "dev", "--", "sh", "-c", script]);
    for words in [&["--list"][..], &[]] {
        let told = home.run(&[&["vm", "workspace", "export", "dev"], words].concat());
        assert_eq!(told.code(), 0, "{}", told.stderr);
        let printed = [told.stdout.as_slice(), told.stderr.as_bytes()].concat();
        let steers = |byte: &u8| byte.is_ascii_control() && *byte != b'\n';
        assert!(!printed.iter().any(steers), "{}", printed.escape_ascii());
        assert!(told.stderr.contains("since they may run by themselves"), "{}", told.stderr);
    }
    assert_eq!(
        home.ok(&["vm", "workspace", "export", "dev", "--list"]).lines().count(),
        4,
        "a name is one line"
    );
}

#[test]
fn a_patch_is_written_through_no_link() {
    let Some(home) = home() else { return };
    let repo = repository(&home);
    let _ = home.ok(&create("dev"));
    // A place is data, whatever a shell would make of it.
    let place = "/srv/it's \"deep\"; touch /pwned; $(touch /pwned)/`touch /pwned` & ?path=%2Fx";
    let _ = home.ok(&["vm", "workspace", "prepare", "dev", text(&repo), "--guest-path", place]);
    let script = "pwd; ls -d /pwned* 2>/dev/null; echo x >>file";
    assert_eq!(home.ok(&["vm", "exec", "dev", "--", "sh", "-c", script]), place);
    let victim = home.path().join("victim");
    fs::write(&victim, "precious").unwrap();
    let link = home.path().join("link");
    std::os::unix::fs::symlink(&victim, &link).unwrap();
    let refused = home.run(&["vm", "workspace", "export", "dev", "--output", text(&link)]);
    assert_eq!(refused.code(), 2, "{}", refused.stderr);
    assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
    let _ = home.ok(&["vm", "workspace", "export", "dev", "--output", text(&victim)]);
    assert!(fs::read_to_string(&victim).unwrap().contains("+x\n"), "a plain file is replaced");
}

#[test]
fn a_prepare_ends_with_its_vm() {
    let Some(home) = home() else { return };
    let repo = repository(&home);
    // Large enough to be under way for a while.
    let noise: Vec<u8> = (0..64u32 << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    fs::write(repo.join("file"), noise).unwrap();
    let _ = home.ok(&create("dev"));
    for (how, expect) in [(&["vm", "stop", "dev"][..], "ended"), (&["vm", "kill", "dev"], "ended")] {
        let mut client = spawn_apart(home.command(&["-v", "vm", "workspace", "prepare", "dev", text(&repo)]));
        let mut said = client.stderr.take().unwrap();
        let mut seen = String::new();
        while !seen.contains("shipping") {
            let mut piece = [0; 256];
            let count = said.read(&mut piece).unwrap();
            assert!(count > 0, "it ended early: {seen}");
            seen.push_str(&String::from_utf8_lossy(&piece[..count]));
        }
        let begin = Instant::now();
        let _ = home.ok(how);
        said.read_to_string(&mut seen).unwrap();
        let ended = finish(client, b"", SOON, how);
        assert!(begin.elapsed() < SOON && ended.code() == 1, "{how:?}: {seen}");
        assert!(seen.contains(expect), "{how:?}: {seen}");
        let staging = home.path().join("state/staging");
        wait_until(SOON, "nothing of it stays", || fs::read_dir(&staging).unwrap().next().is_none());
        let _ = home.ok(&["vm", "start", "dev"]);
        let _ = home.ok(&["vm", "exec", "dev", "--", "rm", "-rf", "/root/repo"]);
    }
    assert_eq!(home.vm("dev")["workspace"], serde_json::Value::Null);
}
