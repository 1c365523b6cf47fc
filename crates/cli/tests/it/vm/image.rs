//! Images of every kind boot: with and without init, with the wrong init, with a hostile fstab, with docker inside.

use std::{path::PathBuf, process::Command, time::Duration};

use testkit::{
    home::Home,
    images::{Tar, with_busybox},
    kernel_deb, need,
    oci::{self, Access, Registry, USER},
    token::{IDENTITY, Issuer},
};

use super::home;

/// Imports `tar` as `name`.
fn import(home: &Home, name: &str, tar: &[u8]) {
    let output = home.run_with(&["image", "import", "-", "--name", name], tar);
    assert!(output.status.success(), "{}", output.stderr);
}

/// What `vm run --rm` of image `name` prints for a shell script.
fn run(home: &Home, name: &str, script: &str) -> String {
    home.ok(&["vm", "run", "--rm", "--image", name, "--memory", "512M", "--", "sh", "-c", script])
}

/// A Debian root as a tar, made once per set of packages and kept with the build.
#[expect(clippy::disallowed_methods, reason = "tests use the machine's own tools")]
pub(super) fn debian(label: &str, packages: &str, hooks: &[&str]) -> Option<PathBuf> {
    let program = need::program("mmdebstrap", "mmdebstrap")?;
    let assets = kernel_deb::assets();
    let lock = std::fs::File::create(assets.join("debian.lock")).unwrap();
    lock.lock().unwrap();
    let tar = assets.join(format!("debian-{label}.tar"));
    if !tar.exists() {
        let staged = assets.join(format!("debian-{label}.new.tar"));
        let hooks = hooks.iter().map(|hook| format!("--customize-hook={hook}"));
        let made = Command::new(program)
            .args(["--quiet", "--variant=minbase", &format!("--include={packages}")])
            .args(hooks)
            .arg("bookworm")
            .arg(&staged)
            .status()
            .unwrap();
        assert!(made.success(), "mmdebstrap: {made}");
        std::fs::rename(&staged, &tar).unwrap();
    }
    Some(tar)
}

/// Makes the image `tag` of `tar` and a layer that hides `hidden` of it, in a layout of `home`.
fn layout(home: &Home, tag: &str, tar: &[u8], hidden: &str, config: &[&str]) -> Option<PathBuf> {
    let layout = home.path().join("layout");
    oci::layout(&layout, tag, &[tar], &[hidden], config)?;
    Some(layout)
}

#[test]
fn a_layout_of_layers_becomes_an_image_that_keeps_its_config() {
    let Some(home) = home() else { return };
    let Some(busybox) = need::program("busybox", "busybox") else { return };
    let tar = with_busybox(&busybox).file("etc/hidden", 0o644, b"").file("etc/seen", 0o644, b"seen").finish();
    let config = ["--config.entrypoint=/bin/cat", "--config.cmd=/etc/seen", "--config.env=A=b c"];
    let Some(layout) = layout(&home, "one", &tar, "/etc/hidden", &config) else { return };
    let imported =
        home.ok(&["image", "import", layout.to_str().unwrap(), "--name", "layers", "--tag", "one"]);
    assert_eq!(imported, "layers");
    let shown: serde_json::Value =
        serde_json::from_str(&home.ok(&["image", "show", "layers", "-o", "json"])).unwrap();
    let run = serde_json::json!({
        "entrypoint": ["/bin/cat"], "cmd": ["/etc/seen"], "env": ["A=b c"], "user": null, "workdir": null,
    });
    assert_eq!(shown["run"], run);
    assert_eq!(
        self::run(&home, "layers", "cat /etc/seen; ls /etc/hidden 2>/dev/null || echo hidden"),
        "seenhidden"
    );

    let nothing = home.run(&["image", "import", layout.to_str().unwrap(), "--name", "none", "--tag", "two"]);
    assert_eq!(nothing.code(), 1);
    assert!(nothing.stderr.contains("there is no image \"two\" in it, only: one"), "{}", nothing.stderr);
    assert_eq!(home.run(&["image", "show", "none"]).code(), 4);
}

#[test]
fn a_directory_is_an_image_and_a_file_stays_where_it_is_until_it_is_promoted() {
    let Some(home) = home() else { return };
    let Some(busybox) = need::program("busybox", "busybox") else { return };
    let tree = home.path().join("tree");
    std::fs::create_dir_all(tree.join("bin")).unwrap();
    std::fs::copy(&busybox, tree.join("bin/busybox")).unwrap();
    for applet in ["sh", "stat", "cat"] {
        std::os::unix::fs::symlink("/bin/busybox", tree.join("bin").join(applet)).unwrap();
    }
    std::fs::write(tree.join("word"), "kept\n").unwrap();
    let owner = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(&tree).unwrap()).to_string();
    let _ = home.ok(&["image", "import", tree.to_str().unwrap(), "--name", "tree"]);
    let show = |name: &str| -> serde_json::Value {
        serde_json::from_str(&home.ok(&["image", "show", name, "-o", "json"])).unwrap()
    };
    let file = home.path().join("mine.ext4");
    std::fs::copy(show("tree")["rootfs"].as_str().unwrap(), &file).unwrap();
    assert_eq!(home.ok(&["image", "register", file.to_str().unwrap(), "--name", "mine"]), "mine");
    assert_eq!(show("mine")["rootfs"].as_str(), file.to_str());
    let script = "stat -c %u /word; cat /word";
    assert_eq!(run(&home, "mine", script), format!("{owner}\nkept"));

    assert_eq!(home.ok(&["image", "promote", "mine"]), "mine");
    std::fs::remove_file(&file).unwrap();
    assert_eq!(run(&home, "mine", script), format!("{owner}\nkept"));
}

/// Each was once a path of the API that no image could be reached behind.
#[test]
fn an_image_can_be_called_like_a_word_of_the_api() {
    let Some(home) = home() else { return };
    let tar = Tar::default().directory("etc").finish();
    for name in ["pull", "build", "cache", "import", "register", "promote", "prune", "images"] {
        import(&home, name, &tar);
        let shown = home.ok(&["image", "show", name]);
        assert!(shown.contains(&format!("name:        {name}")), "{shown}");
        let _ = home.ok(&["image", "delete", name]);
        assert_eq!(home.run(&["image", "show", name]).code(), 4);
    }
}

#[test]
fn an_image_of_a_registry_runs_its_entrypoint() {
    let Some(home) = home() else { return };
    let Some(busybox) = need::program("busybox", "busybox") else { return };
    let Some(registry) = Registry::start(Access::Password) else { return };
    // A script, so that the entrypoint can say what it sees.
    let script = b"#!/bin/sh\necho \"$0 $*\"; id -u; id -g; pwd; echo \"$FROM_IMAGE $FROM_USER\"; cat /etc/hidden || exit 7\n";
    let tar = with_busybox(&busybox)
        .directory("srv")
        .directory("opt")
        .file("opt/entry", 0o755, script)
        .file("etc/hidden", 0o644, b"")
        .finish();
    let config = [
        "--config.entrypoint=entry",
        "--config.entrypoint=an argument",
        "--config.cmd=and more",
        "--config.user=7:8",
        "--config.workingdir=/srv",
        "--config.env=PATH=/bin:/opt",
        "--config.env=FROM_IMAGE=image",
        "--config.env=FROM_USER=not this",
    ];
    let Some(layout) = layout(&home, "tag", &tar, "/etc/hidden", &config) else { return };
    registry.push(&layout, "tag", "x:tag");
    let auths =
        serde_json::json!({ "auths": { registry.address(): { "username": USER.0, "password": USER.1 } } });
    let file = home.path().join("auth.json");
    host::fs::write_atomic(&file, auths.to_string().as_bytes()).unwrap();
    let home = home.with_env("REGISTRY_AUTH_FILE", file.to_str().unwrap());
    // The daemon of before does not know of it.
    let _ = home.run(&["daemon", "stop"]);

    let reference = format!("{}/x:tag", registry.address());
    let words = ["vm", "run", "--rm", "--image", &reference, "--memory", "256M", "--env", "FROM_USER=user"];
    let output = home.run(&words);
    assert_eq!(output.text(), "/opt/entry an argument and more\n7\n8\n/srv\nimage user", "{}", output.stderr);
    assert_eq!(output.code(), 7, "{}", output.stderr);
    for stage in ["pulling image", "importing image", "booting"] {
        assert!(output.stderr.contains(stage), "{}", output.stderr);
    }

    // It is there now; a command takes the entrypoint's place, and has the image's environment.
    let command = ["--", "sh", "-c", "id -u; echo $FROM_IMAGE $PATH"];
    let output = home.run(&[&words[..7], &command].concat());
    assert_eq!((output.text().as_str(), output.stderr.as_str()), ("0\nimage /bin:/opt", ""));
    assert_eq!(
        registry.requests("banger/").iter().filter(|request| request.contains("/manifests/")).count(),
        2
    );
}

#[test]
fn a_credential_helper_is_asked_for_a_registry_of_its_own() {
    let Some(issuer) = Issuer::start() else { return };
    let Some(registry) = Registry::start_with_tokens(&issuer) else { return };
    let home = Home::empty(env!("CARGO_BIN_EXE_banger"));
    let Some(layout) = layout(&home, "1", &Tar::default().directory("etc").finish(), "/none", &[]) else {
        return;
    };
    registry.push(&layout, "1", "some/app:1");
    let _ = issuer.asked();
    let (programs, host) = (home.path().join("programs"), registry.address());
    std::fs::create_dir(&programs).unwrap();
    let (helper, answer) = (programs.join("docker-credential-of-the-test"), home.path().join("answer"));
    let script = format!(
        "#!/bin/sh\n[ \"$1 $(cat)\" = 'get {host}' ] || {{ echo 'credentials not found in native keychain'; exit 1; }}\n\
         cat {}\n",
        answer.display()
    );
    std::fs::write(&helper, script).unwrap();
    std::fs::set_permissions(&helper, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let file = home.path().join("auth.json");
    let auths = serde_json::json!({ "credHelpers": { &host: "of-the-test" } });
    host::fs::write_atomic(&file, auths.to_string().as_bytes()).unwrap();
    let path = format!("{}:/usr/local/bin:/usr/bin:/bin", programs.display());
    let home = home.with_env("PATH", &path).with_env("REGISTRY_AUTH_FILE", file.to_str().unwrap());
    // A password, or a token that stands for one.
    for (name, user, secret, seen) in [
        ("one", USER.0, USER.1, "user"),
        ("two", "<token>", IDENTITY, "identity"),
        ("three", USER.0, "wrong", "stranger"),
    ] {
        let said = serde_json::json!({ "ServerURL": "", "Username": user, "Secret": secret });
        std::fs::write(&answer, said.to_string()).unwrap();
        let output = home.run(&["image", "pull", &format!("{host}/some/app:1"), "--name", name]);
        assert_eq!(output.stdout.is_empty(), seen == "stranger", "{}", output.stderr);
        assert_eq!(issuer.asked(), [format!("{seen} repository:some/app:pull")]);
    }
}

#[test]
fn an_image_without_init_runs_under_the_agent() {
    let Some(home) = home() else { return };
    let script = "cat /proc/1/comm; readlink /proc/self/fd/0 >/dev/null; test -d /dev/pts && mount | grep -c cgroup2; \
                  sleep 0 & wait; echo reaped";
    let output =
        home.ok(&["vm", "run", "--rm", "--image", "busybox", "--memory", "256M", "--", "sh", "-c", script]);
    let lines: Vec<_> = output.lines().collect();
    assert_eq!(lines[1..], ["1", "reaped"], "{output}");
    assert_ne!(lines[0], "busybox");
}

#[test]
fn a_bare_busybox_init_is_not_run() {
    let Some(home) = home() else { return };
    let Some(busybox) = need::program("busybox", "busybox") else { return };
    // As in alpine's image: an inittab whose openrc is not installed and whose gettys would respawn for ever.
    let inittab = b"::sysinit:/sbin/openrc sysinit\n::wait:/sbin/openrc default\ntty1::respawn:/sbin/getty 38400 tty1\n";
    let tar = with_busybox(&busybox)
        .directory("sbin")
        .symlink("sbin/init", "/bin/busybox")
        .file("etc/inittab", 0o644, inittab)
        .finish();
    import(&home, "alpine-like", &tar);
    assert_eq!(run(&home, "alpine-like", "ps | grep -c '[g]etty\\|[o]penrc' || true; echo fine"), "0\nfine");
}

#[test]
fn a_static_binary_alone_is_an_image() {
    let Some(home) = home() else { return };
    let Some(busybox) = need::program("busybox", "busybox") else { return };
    #[expect(clippy::disallowed_methods, reason = "the machine's own busybox")]
    let binary = std::fs::read(busybox).unwrap();
    import(&home, "scratch", &Tar::default().file("busybox", 0o755, &binary).finish());
    let words =
        ["vm", "run", "--rm", "--image", "scratch", "--memory", "256M", "--", "/busybox", "echo", "alone"];
    assert_eq!(home.ok(&words), "alone");
}

#[test]
fn sysvinit_is_run() {
    let Some(home) = home() else { return };
    let Some(tar) = debian("sysvinit", "sysvinit-core,procps", &[]) else { return };
    let imported = home.run(&["image", "import", &tar.to_string_lossy(), "--name", "sysvinit"]);
    assert!(imported.status.success(), "{}", imported.stderr);
    let create = ["vm", "create", "--name", "dev", "--image", "sysvinit", "--memory", "512M"];
    let _ = home.ok(&create);
    assert_eq!(home.ok(&["vm", "exec", "dev", "--", "cat", "/proc/1/comm"]), "init");
    assert_eq!(home.run(&["vm", "exec", "dev", "--", "sh", "-c", "echo kept >/root/kept"]).code(), 0);
    let _ = home.ok(&["vm", "stop", "dev"]);
    assert_eq!(home.vm("dev")["reason"], "it was stopped");
    let _ = home.ok(&["vm", "start", "dev"]);
    assert_eq!(home.ok(&["vm", "exec", "dev", "--", "cat", "/root/kept"]), "kept");
}

#[test]
fn systemd_with_networkd_and_a_hostile_fstab_waits_for_nothing() {
    let Some(home) = home() else { return };
    let hostile = "printf '/dev/sdz9 / ext4 errors=remount-ro 0 1\\nUUID=dead-beef /home xfs defaults 0 2\\n\
                   nowhere:/x /mnt nfs defaults 0 0\\n/dev/sdz8 none swap sw 0 0\\n' > \"$1\"/etc/fstab";
    let hooks = [hostile, "chroot \"$1\" systemctl enable systemd-networkd systemd-networkd-wait-online"];
    let Some(tar) = debian("networkd", "systemd,systemd-sysv,udev,dbus,procps", &hooks) else { return };
    let imported = home.run(&["image", "import", &tar.to_string_lossy(), "--name", "networkd"]);
    assert!(imported.status.success(), "{}", imported.stderr);
    let create =
        ["vm", "create", "--name", "dev", "--image", "networkd", "--memory", "512M", "--wait", "init"];
    let _ = home.ok(&create);
    let init = home.ok(&["vm", "exec", "dev", "--", "readlink", "/proc/1/exe"]);
    assert!(init.ends_with("/systemd"), "{init}");
    let state = home.run(&["vm", "exec", "dev", "--", "systemctl", "is-system-running"]);
    assert!(["running", "degraded"].contains(&state.text().as_str()), "{}", state.text());
    // What waits for a disk or a network that never comes is given up by systemd in the end, which tells that.
    let journal = home.ok(&["vm", "exec", "dev", "--", "journalctl", "-b", "-o", "cat", "--no-pager"]);
    assert!(journal.contains("Startup finished in "), "{journal}");
    assert!(!journal.to_lowercase().contains("timed out"), "{journal}");
    let _ = home.ok(&["vm", "stop", "dev"]);
    assert_eq!(home.vm("dev")["reason"], "it was stopped");
}

#[test]
fn the_default_image_is_built_when_first_needed_and_runs_docker() {
    let Some(home) = home() else { return };
    if need::program("mmdebstrap", "mmdebstrap").is_none() {
        return;
    }
    let Some(busybox) = need::program("busybox", "busybox") else { return };
    let create = ["vm", "create", "--name", "dev", "--memory", "1G"];
    let created = home.run_long(&create, Duration::from_secs(900));
    assert!(created.status.success(), "{}", created.stderr);
    assert_eq!(home.run(&["image", "show", "debian-bookworm", "-o", "json"]).json()["ready"], "init");
    // Nobody waits for docker who does not use it.
    let active =
        home.run(&["vm", "exec", "dev", "--", "systemctl", "is-active", "docker.socket", "docker.service"]);
    assert_eq!(active.text(), "active\ninactive", "{}", active.stderr);
    let image = with_busybox(&busybox).finish();
    let loaded = home.run_with(&["vm", "exec", "dev", "--", "docker", "import", "-", "local"], &image);
    assert!(loaded.status.success(), "{}", loaded.stderr);
    let run = ["vm", "exec", "dev", "--", "docker", "run", "--rm", "local", "/bin/echo", "from docker"];
    assert_eq!(home.ok(&run), "from docker");
}
