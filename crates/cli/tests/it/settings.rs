//! The settings, as the real daemon takes them and `config show` tells them.

use std::fs;

use testkit::home::{Home, Output};

fn home(config: &str) -> Home {
    let home = Home::empty(env!("CARGO_BIN_EXE_banger"));
    fs::create_dir(home.path().join("config")).unwrap();
    fs::write(home.path().join("config/config.toml"), config).unwrap();
    home
}

/// What is said on both streams, without what differs from home to home.
fn told(home: &Home, output: &Output) -> (String, String) {
    let plain = |text: &str| text.replace(home.path().to_str().unwrap(), "HOME");
    (plain(&String::from_utf8_lossy(&output.stdout)), plain(&output.stderr))
}

fn assert_nothing_started(home: &Home) {
    assert!(home.processes().is_empty(), "{:?}", home.processes());
    assert!(!home.path().join("state/banger.db").exists(), "no daemon came as far as its database");
}

#[test]
fn settings_are_shown_with_where_they_came_from() {
    let home = home(
        "default_image = 'mine'\nvmm = 'auto'\nqemu_bin = '/opt/qemu'\n\n\
         [vm_defaults]\nvcpu = 3\nmemory = 2048\noverlay_size = '1G'\n",
    )
    .with_env("BANGER_VMM", "qemu")
    .with_env("BANGER_FIRECRACKER_BIN", "/opt/firecracker")
    .with_env("BANGER_VM_DEFAULTS_OVERLAY_SIZE", "1536M")
    .with_env("BANGER_NETWORK_UPSTREAM_DNS", "192.0.2.1:5353");
    let output = home.run(&["config", "show"]);
    assert_eq!((output.code(), output.stderr.as_str()), (0, ""));
    insta::assert_snapshot!(told(&home, &output).0, @r#"
    KEY                       VALUE             FROM
    log_level                 info              default
    default_image             mine              HOME/config/config.toml:1
    default_kernel            debian-cloud      default
    image_catalog             (none found)      auto
    kernel_catalog            (none found)      auto
    catalog_key               (none found)      auto
    vmm                       qemu              env BANGER_VMM
    accelerator               auto              default
    qemu_bin                  /opt/qemu         HOME/config/config.toml:3
    firecracker_bin           /opt/firecracker  env BANGER_FIRECRACKER_BIN
    stop_timeout              10s               default
    boot_timeout              2m                default
    auto_stop_stale_after     never             default
    stats_interval            10s               default
    vm_defaults.vcpu          3                 HOME/config/config.toml:6
    vm_defaults.memory        2G                HOME/config/config.toml:7
    vm_defaults.disk_size     8G                default
    vm_defaults.overlay_size  1536M             env BANGER_VM_DEFAULTS_OVERLAY_SIZE
    vm_defaults.nat           false             default
    network.mode              auto              default
    network.dns_port          42069             default
    network.upstream_dns      192.0.2.1:5353    env BANGER_NETWORK_UPSTREAM_DNS
    limits.disk_rate          none              default
    limits.network_rate       none              default
    "#);
    assert_nothing_started(&home);
}

#[test]
fn files_of_the_owner_are_shown_with_where_they_came_from() {
    let home = home(
        "[[file_sync]]\nhost = '~/.netrc'\nguest = '/root/.netrc'\nmode = '0600'\n\n\
         [[file_sync]]\nhost = '~/.config/tool'\nguest = '~/.config/tool'\n",
    );
    let output = home.run(&["config", "show"]);
    assert_eq!((output.code(), output.stderr.as_str()), (0, ""));
    let shown = told(&home, &output).0;
    let entries: Vec<_> = shown.lines().filter(|line| line.starts_with("file_sync")).collect();
    insta::assert_snapshot!(entries.join("\n"), @r"
    file_sync[1]              ~/.netrc -> /root/.netrc (0600)       HOME/config/config.toml:1
    file_sync[2]              ~/.config/tool -> /root/.config/tool  HOME/config/config.toml:6
    ");
    assert_nothing_started(&home);
}

#[test]
fn settings_are_told_to_programs_too() {
    let home = home("[vm_defaults]\nmemory = '2G'\n").with_env("BANGER_VMM", "qemu");
    let output = home.run(&["config", "show", "-o", "json"]);
    assert_eq!((output.code(), output.stderr.as_str()), (0, ""));
    let json = output.json();
    assert_eq!(json["file"], home.path().join("config/config.toml").to_str().unwrap());
    let setting = |key: &str| {
        let all = json["settings"].as_array().unwrap();
        all.iter().find(|setting| setting["key"] == key).unwrap().clone()
    };
    for (key, expect) in [
        ("log_level", serde_json::json!({ "key": "log_level", "value": "info", "origin": "default" })),
        (
            "vmm",
            serde_json::json!({ "key": "vmm", "value": "qemu", "origin": "env", "variable": "BANGER_VMM" }),
        ),
        (
            "vm_defaults.memory",
            serde_json::json!({ "key": "vm_defaults.memory", "value": "2G", "origin": "file", "file": json["file"], "line": 2 }),
        ),
    ] {
        assert_eq!(setting(key), expect);
    }
    let cpus = setting("vm_defaults.vcpu");
    assert_eq!(cpus["origin"], "auto");
    assert!((1..=4).contains(&cpus["value"].as_str().unwrap().parse::<u32>().unwrap()), "{cpus}");
}

#[test]
fn a_mistake_is_shown_where_it_is_and_nothing_started() {
    let home = home("# mine\ndefalt_image = 'x'\nstop_timeout = 10\n\n[jailer]\nbin = '/opt/jailer'\n");
    for (words, code) in [
        (&["config", "show"][..], 1),
        (&["config", "show", "-o", "json"], 1),
        (&["vm", "list"], 1),
        (&["vm", "run", "--", "true"], 125),
        (&["daemon", "start"], 1),
    ] {
        let output = home.run(words);
        assert_eq!((output.code(), output.text().as_str()), (code, ""), "{words:?}");
        insta::allow_duplicates! {
            insta::assert_snapshot!(told(&home, &output).1, @r#"
            error: HOME/config/config.toml:2:1: unknown key `defalt_image`; is `default_image` meant?
              |
            2 | defalt_image = 'x'
              | ^^^^^^^^^^^^
            HOME/config/config.toml:3:16: `stop_timeout`: a time is a whole number and a unit: 10s, 5m, 2h (1s to 24h)
              |
            3 | stop_timeout = 10
              |                ^^
            HOME/config/config.toml:5:2: `jailer` is not supported by this version
              |
            5 | [jailer]
              |  ^^^^^^
            "#);
        }
    }
    assert_nothing_started(&home);
}

#[test]
fn a_mistake_in_the_environment_names_the_variable() {
    let home = home("").with_env("BANGER_VM_DEFAULTS_MEMORY", "0");
    let output = home.run(&["vm", "list"]);
    assert_eq!(output.code(), 1);
    insta::assert_snapshot!(output.stderr, @r#"
    error: BANGER_VM_DEFAULTS_MEMORY: `vm_defaults.memory`: a size must be more than zero
    "#);
    assert_nothing_started(&home);
}

#[test]
fn a_file_that_cannot_be_read_is_no_empty_file() {
    let home = home("");
    let file = home.path().join("config/config.toml");
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    let output = home.run(&["vm", "list"]);
    assert_eq!(output.code(), 1);
    insta::assert_snapshot!(told(&home, &output).1, @r#"
    error: cannot use the configuration: cannot read HOME/config/config.toml: Is a directory (os error 21)
    "#);
    assert_nothing_started(&home);
}

#[test]
fn the_daemon_goes_by_the_file_and_by_the_environment_of_whoever_starts_it() {
    let file = || home("default_image = 'mine'\nlog_level = 'error'\n");
    let variables = || file().with_env("BANGER_DEFAULT_IMAGE", "other").with_env("BANGER_LOG_LEVEL", "info");
    for (home, image, informs) in [(file(), "mine", false), (variables(), "other", true)] {
        let output = home.run(&["vm", "create"]);
        assert_eq!(output.code(), 4, "{}", output.stderr);
        let expect = format!(
            "error: there is no image {image:?}\n\
             hint: banger image import SRC --name {image}, or change `default_image`\n"
        );
        assert_eq!(output.stderr.get(..expect.len()), Some(expect.as_str()));
        let log = fs::read_to_string(home.path().join("state/bangerd.log")).unwrap();
        assert_eq!((log.contains(" ERROR "), log.contains(" INFO ")), (true, informs), "{log}");
    }
}

#[test]
fn sizes_of_the_settings_are_those_of_a_vm() {
    let home = home("[vm_defaults]\nmemory = '8000G'\n");
    let output = home.run(&["vm", "create"]);
    assert_eq!(output.code(), 2, "{}", output.stderr);
    let expect = "error: vm_defaults.memory 7.8 TiB is out of range: ";
    assert_eq!(output.stderr.get(..expect.len()), Some(expect));
}

#[test]
fn a_misspelt_variable_is_told_and_a_relative_home_refused() {
    let home = home("").with_env("BANGER_VMMM", "qemu").with_env("BANGER_TURBO", "1");
    let output = home.run(&["config", "show"]);
    assert_eq!(output.code(), 0);
    insta::assert_snapshot!(output.stderr, @r#"
    warning: the variable BANGER_TURBO means nothing to banger
    warning: the variable BANGER_VMMM means nothing to banger; is BANGER_VMM meant?
    "#);
    assert_eq!(home.run(&["--quiet", "config", "show"]).stderr, "");

    for words in [&["vm", "list"][..], &["daemon", "status"], &["ssh-config"]] {
        let output =
            home.command(words).env("BANGER_HOME", "here").current_dir(home.path()).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{words:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        let expect = "error: BANGER_HOME is \"here\", which is no absolute path\n\
                      hint: set BANGER_HOME to a directory of yours, from the root\n";
        assert!(said.ends_with(expect), "{said}");
    }
    assert!(!home.path().join("here").exists());
    assert_nothing_started(&home);
}
