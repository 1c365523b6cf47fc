//! The owner's files and name in a machine.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use testkit::home::Home;

use super::{create, home};

/// A home with the settings `config`, whose owner has a home of his own.
fn with_owner(config: &str) -> Option<(Home, PathBuf)> {
    let home = home()?;
    let owner = home.path().join("owner");
    fs::create_dir_all(&owner).unwrap();
    fs::create_dir_all(home.path().join("config")).unwrap();
    fs::write(home.path().join("config/config.toml"), config).unwrap();
    let home = home.with_env("HOME", owner.to_str().unwrap());
    Some((home, owner))
}

fn write(path: &Path, text: &str, mode: u32) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn files_of_the_owner_are_there_after_every_start() {
    let config = "
        [[file_sync]]
        host = '~/.netrc'
        guest = '/root/.netrc'
        [[file_sync]]
        host = '~/tool'
        guest = '~/.config/tool'
        [[file_sync]]
        host = '~/link'
        guest = '~/linked'
        mode = '0600'
        [[file_sync]]
        host = '~/none'
        guest = '~/none'
    ";
    let Some((home, owner)) = with_owner(config) else { return };
    write(&owner.join(".netrc"), "secret one", 0o600);
    write(&owner.join("tool/bin/run"), "run", 0o755);
    write(&owner.join("real"), "linked", 0o644);
    fs::set_permissions(owner.join("tool"), fs::Permissions::from_mode(0o700)).unwrap();
    symlink("/etc/hostname", owner.join("tool/outside")).unwrap();
    symlink("real", owner.join("link")).unwrap();
    write(&owner.join("more"), "[user]\n\temail = me@example.org\n", 0o644);
    write(&owner.join(".gitconfig"), "[user]\n\tname = Me \\\"You\\\"\n[include]\n\tpath = more\n", 0o644);

    let made = home.run(&create("dev"));
    assert_eq!(made.code(), 0, "{}", made.stderr);
    let missing = format!("warning: file_sync entry 4: {}/none is not there", owner.display());
    assert!(made.stderr.contains(&missing), "{}", made.stderr);
    let in_guest = |script: &str| home.ok(&["vm", "exec", "dev", "--", "sh", "-c", script]);
    let look = "cd /root && stat -c '%n %a %u:%g %F' .netrc .config/tool .config/tool/outside .config/tool/bin/run linked";
    assert_eq!(
        in_guest(look),
        ".netrc 600 0:0 regular file\n.config/tool 700 0:0 directory\n\
         .config/tool/outside 777 0:0 symbolic link\n.config/tool/bin/run 755 0:0 regular file\n\
         linked 600 0:0 regular file"
    );
    assert_eq!(in_guest("cat /root/.netrc /root/linked"), "secret onelinked");
    assert_eq!(
        in_guest("cat /root/.gitconfig"),
        "[user]\n\tname = \"Me \\\"You\\\"\"\n\temail = \"me@example.org\""
    );

    // Again at the next start, over what the guest made of them; but git's settings are the guest's by now.
    write(&owner.join(".netrc"), "secret two", 0o600);
    let _ = in_guest("echo mine >/root/.gitconfig; rm /root/.netrc; ln -s /etc/passwd /root/.netrc");
    let _ = home.ok(&["vm", "restart", "dev"]);
    assert_eq!(in_guest("cat /root/.netrc; echo; cat /root/.gitconfig"), "secret two\nmine");
    assert_eq!(in_guest("grep -c secret /etc/passwd || true"), "0", "not through a link");
    let told = [home.ok(&["logs"]), home.ok(&["vm", "show", "dev", "-o", "json"])].concat();
    assert!(!told.contains("secret"), "{told}");
}

#[test]
fn what_is_not_the_owners_is_refused_before_anything_is_made() {
    let entry = |host: &str| format!("[[file_sync]]\nhost = '{host}'\nguest = '~/x'\n");
    let Some((home, owner)) = with_owner(&entry("~/link")) else { return };
    let refused = |why: &str| {
        let refused = home.run(&create("dev"));
        assert_eq!(refused.code(), 1, "{}", refused.stderr);
        assert!(refused.stderr.contains("file_sync entry 1"), "{}", refused.stderr);
        assert!(refused.stderr.contains(why), "{}", refused.stderr);
        assert_eq!(home.ok(&["vm", "list", "-q"]), "");
    };
    symlink("/etc/passwd", owner.join("link")).unwrap();
    refused("/etc/passwd is not in your home directory");
    fs::remove_file(owner.join("link")).unwrap();
    symlink("..", owner.join("link")).unwrap();
    refused("is not in your home directory");
    fs::remove_file(owner.join("link")).unwrap();
    symlink(".", owner.join("link")).unwrap();
    refused("is not in your home directory");
    fs::remove_file(owner.join("link")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(owner.join("link")).unwrap();
    refused("is neither a file nor a directory");
}
