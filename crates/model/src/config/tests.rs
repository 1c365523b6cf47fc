//! Every key with what it takes and what it refuses.

use super::*;
use crate::size::{GIB, MIB};

fn entry(name: &str, value: Value) -> Entry {
    Entry { name: name.to_owned(), name_at: 0..1, value, value_at: 2..3 }
}

fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

fn texts(all: &[&str]) -> Value {
    Value::Texts(all.iter().map(|text| (*text).to_owned()).collect())
}

fn file(name: &str, value: Value) -> Result<Config, Vec<String>> {
    let checked = check(vec![entry(name, value)], |_| None);
    checked.map(|c| c.config).map_err(|mistakes| mistakes.iter().map(|m| m.reason.to_string()).collect())
}

const KEY: &str = "RWTzo/NJiQzoxV6C4S91FyZbIQQqGgVx++mPdQdYGG2U0RR1wQVESeN4";

const fn seconds(number: u64) -> Duration {
    Duration::from_secs(number)
}

#[test]
fn every_key_takes_its_values() {
    let base = Config::default();
    let at = |text: &str| Location::try_from(text).unwrap();
    let sizes = |sizes: Wish| Config { sizes, ..base.clone() };
    let upstream = |all: &[&str]| {
        let config =
            Config { upstream_dns: Some(Resolvers::try_from(&*all.join(" ")).unwrap()), ..base.clone() };
        let addresses = config.upstream_dns.as_ref().unwrap().addresses().iter();
        assert_eq!(addresses.map(ToString::to_string).collect::<Vec<_>>(), all);
        config
    };
    let limits = |limits: Limits| Config { limits, ..base.clone() };
    let cases = [
        ("log_level", text("trace"), Config { log_level: LogLevel("trace"), ..base.clone() }),
        (
            "default_image",
            text("a_1.b"),
            Config { default_image: ImageName::try_from("a_1.b").unwrap(), ..base.clone() },
        ),
        (
            "default_kernel",
            text("mine"),
            Config { default_kernel: KernelName::try_from("mine").unwrap(), ..base.clone() },
        ),
        (
            "image_catalog",
            text("https://a/images.json"),
            Config { image_catalog: Some(at("https://a/images.json")), ..base.clone() },
        ),
        (
            "kernel_catalog",
            text("file:///m/kernels.json"),
            Config { kernel_catalog: Some(at("file:///m/kernels.json")), ..base.clone() },
        ),
        (
            "catalog_key",
            text(KEY),
            Config { catalog_key: Some(SigningKey::try_from(KEY).unwrap()), ..base.clone() },
        ),
        ("vmm", text("qemu"), Config { vmm: Vmm::Qemu, ..base.clone() }),
        ("vmm", text("auto"), base.clone()),
        ("accelerator", text("kvm"), Config { accelerator: Accelerator::Kvm, ..base.clone() }),
        ("accelerator", text("tcg"), Config { accelerator: Accelerator::Tcg, ..base.clone() }),
        ("accelerator", text("auto"), base.clone()),
        ("qemu_bin", text("/opt/qemu"), Config { qemu_bin: Some("/opt/qemu".into()), ..base.clone() }),
        (
            "firecracker_bin",
            text("/opt/fc"),
            Config { firecracker_bin: Some("/opt/fc".into()), ..base.clone() },
        ),
        ("stop_timeout", text("1s"), Config { stop_timeout: seconds(1), ..base.clone() }),
        ("stop_timeout", text("24h"), Config { stop_timeout: seconds(86_400), ..base.clone() }),
        ("boot_timeout", text("5m"), Config { boot_timeout: seconds(300), ..base.clone() }),
        ("auto_stop_stale_after", text("never"), base.clone()),
        (
            "auto_stop_stale_after",
            text("90m"),
            Config { auto_stop_stale_after: Some(seconds(5400)), ..base.clone() },
        ),
        ("stats_interval", text("3s"), Config { stats_interval: seconds(3), ..base.clone() }),
        ("vm_defaults.vcpu", Value::Integer(3), sizes(Wish { vcpu: Some(3), ..Wish::default() })),
        ("vm_defaults.memory", text("1G"), sizes(Wish { memory: Some(GIB), ..Wish::default() })),
        ("vm_defaults.memory", Value::Integer(96), sizes(Wish { memory: Some(96 * MIB), ..Wish::default() })),
        ("vm_defaults.disk_size", text("64m"), sizes(Wish { disk: Some(64 * MIB), ..Wish::default() })),
        ("vm_defaults.overlay_size", text("2GiB"), sizes(Wish { overlay: Some(2 * GIB), ..Wish::default() })),
        ("vm_defaults.nat", Value::Switch(true), Config { nat: Nat::On, ..base.clone() }),
        ("vm_defaults.nat", Value::Switch(false), base.clone()),
        ("network.mode", text("user"), Config { network_mode: NetworkMode::User, ..base.clone() }),
        ("network.mode", text("bridge"), Config { network_mode: NetworkMode::Bridge, ..base.clone() }),
        ("network.mode", text("auto"), base.clone()),
        ("network.dns_port", Value::Integer(5353), Config { dns_port: 5353, ..base.clone() }),
        ("network.upstream_dns", texts(&["192.0.2.1"]), upstream(&["192.0.2.1:53"])),
        ("network.upstream_dns", text("192.0.2.1:5353"), upstream(&["192.0.2.1:5353"])),
        (
            "network.upstream_dns",
            texts(&["127.0.0.1:5353", "2001:db8::1", "[2001:db8::2]:5353"]),
            upstream(&["127.0.0.1:5353", "[2001:db8::1]:53", "[2001:db8::2]:5353"]),
        ),
        (
            "network.upstream_dns",
            Value::Untyped("192.0.2.1 192.0.2.2".to_owned()),
            upstream(&["192.0.2.1:53", "192.0.2.2:53"]),
        ),
        ("limits.disk_rate", text("none"), base.clone()),
        ("limits.disk_rate", Value::Integer(50), limits(Limits { disk: Some(50 * MIB), network: None })),
        ("limits.network_rate", text("1M"), limits(Limits { disk: None, network: Some(MIB) })),
    ];
    for key in KEYS {
        assert!(cases.iter().any(|(name, ..)| *name == key.name), "{} is tested", key.name);
    }
    for (name, value, expect) in cases {
        assert_eq!(file(name, value.clone()), Ok(expect), "{name} = {value:?}");
    }
}

#[test]
fn every_key_refuses_what_is_none_of_its_values() {
    const RESOLVERS: &str = "it is a list of 1 to 3 addresses, each like 192.0.2.1 or 192.0.2.1:5353";
    const TIME: &str = "a time is a whole number and a unit: 10s, 5m, 2h (1s to 24h)";
    const SIZE: &str = "a size is a whole number and a unit, like 512M or 8G (a plain number is MiB)";
    let cases = [
        ("log_level", text("loud"), "it is one of error, warn, info, debug, trace"),
        ("log_level", text("INFO"), "it is one of error, warn, info, debug, trace"),
        ("default_image", text("A"), "'A' is not allowed; use a-z, 0-9, -, . and _"),
        ("default_image", text(""), "it is empty"),
        ("default_kernel", text("../x"), "'/' is not allowed; use a-z, 0-9, -, . and _"),
        ("default_kernel", Value::Integer(6), "it cannot be a number"),
        ("image_catalog", text("/images.json"), "an address begins with https://, http:// or file:///"),
        ("kernel_catalog", text("https://u:p@a/"), "it may have no name or password in it"),
        ("kernel_catalog", Value::Integer(1), "it cannot be a number"),
        ("catalog_key", text("RW"), "a public key of minisign has 56 characters and begins with RW"),
        ("catalog_key", text(&KEY[1..]), "a public key of minisign has 56 characters and begins with RW"),
        ("catalog_key", Value::Integer(1), "it cannot be a number"),
        ("vmm", text("xen"), "it is one of auto, firecracker, qemu"),
        ("accelerator", text("hvf"), "it is one of auto, kvm, tcg"),
        ("vmm", Value::Switch(true), "it cannot be a boolean"),
        ("qemu_bin", text("qemu"), "it is an absolute path"),
        ("qemu_bin", text("~/qemu"), "it is an absolute path"),
        ("firecracker_bin", text("firecracker"), "it is an absolute path"),
        ("stop_timeout", text("0s"), TIME),
        ("stop_timeout", text("s"), TIME),
        ("stop_timeout", text("10"), TIME),
        ("stop_timeout", text("-1s"), TIME),
        ("stop_timeout", text("25h"), TIME),
        ("stop_timeout", text("5000000000000000h"), TIME),
        ("stop_timeout", text("é"), TIME),
        ("boot_timeout", Value::Integer(10), TIME),
        ("boot_timeout", Value::Other("a date"), "it cannot be a date"),
        ("auto_stop_stale_after", text("soon"), TIME),
        ("stats_interval", text("never"), TIME),
        ("vm_defaults.vcpu", Value::Integer(0), "it is a number from 1 to 64"),
        ("vm_defaults.vcpu", Value::Integer(65), "it is a number from 1 to 64"),
        ("vm_defaults.vcpu", Value::Integer(-1), "it is a number from 1 to 64"),
        ("vm_defaults.vcpu", text("2"), "it is a number from 1 to 64"),
        ("vm_defaults.memory", Value::Integer(0), "a size must be more than zero"),
        ("vm_defaults.memory", text("0G"), "a size must be more than zero"),
        ("vm_defaults.memory", text("95M"), "it is at least 96 MiB"),
        ("vm_defaults.memory", text("much"), SIZE),
        (
            "vm_defaults.memory",
            Value::Other("a number with a fraction"),
            "it cannot be a number with a fraction",
        ),
        ("vm_defaults.disk_size", text("-8G"), "a size must be more than zero"),
        ("vm_defaults.disk_size", text("9T"), "it is from 64 MiB to 8 TiB"),
        ("vm_defaults.overlay_size", text("1M"), "it is from 64 MiB to 8 TiB"),
        ("vm_defaults.overlay_size", Value::Other("a table"), "it cannot be a table"),
        ("limits.disk_rate", text("512K"), "it is from 1 MiB to 1 TiB"),
        ("limits.disk_rate", text("never"), "it is a size for each second, like 50M, or none"),
        ("limits.network_rate", Value::Integer(0), "it is a size for each second, like 50M, or none"),
        ("limits.network_rate", text("2T"), "it is from 1 MiB to 1 TiB"),
        ("vm_defaults.nat", text("true"), "it cannot be a string"),
        ("vm_defaults.nat", Value::Integer(1), "it cannot be a number"),
        ("network.mode", text("tap"), "it is one of auto, user, bridge"),
        ("network.mode", Value::Switch(true), "it cannot be a boolean"),
        ("network.dns_port", Value::Integer(53), "it is a number from 1024 to 65535"),
        ("network.dns_port", Value::Integer(65536), "it is a number from 1024 to 65535"),
        ("network.dns_port", text("5353"), "it is a number from 1024 to 65535"),
        ("network.upstream_dns", texts(&["dns.example"]), RESOLVERS),
        ("network.upstream_dns", texts(&["192.0.2.1", "0.0.0.0"]), RESOLVERS),
        ("network.upstream_dns", text("192.0.2.1:0"), RESOLVERS),
        ("network.upstream_dns", text("255.255.255.255"), RESOLVERS),
        ("network.upstream_dns", text("ff02::1"), RESOLVERS),
        ("network.upstream_dns", texts(&["192.0.2.1"; 4]), RESOLVERS),
        ("network.upstream_dns", text(""), RESOLVERS),
        ("network.upstream_dns", Value::Tables(vec![]), RESOLVERS),
        ("network.upstream_dns", Value::Integer(1), "it cannot be a number"),
        ("network.upstream_dns", Value::Other("a list"), "it cannot be a list"),
        ("network.dns_port", texts(&["5353"]), "it cannot be a list"),
    ];
    for key in KEYS {
        assert!(cases.iter().any(|(name, ..)| *name == key.name), "{} is tested", key.name);
    }
    for (name, value, expect) in cases {
        assert_eq!(file(name, value.clone()), Err(vec![format!("`{name}`: {expect}")]), "{name} = {value:?}");
    }
}

#[test]
fn unknown_keys_are_told() {
    for (name, expect) in [
        ("defalt_image", "unknown key `defalt_image`; is `default_image` meant?"),
        (
            "vm_defaults.log_level",
            "unknown key `vm_defaults.log_level`; is `log_level`, above the first [table], meant?",
        ),
        ("colour", "unknown key `colour`"),
        ("jailer", "`jailer` is not supported by this version"),
        ("network.subnet", "unknown key `network.subnet`"),
        ("vm_defaults", "`vm_defaults` is a table: write [vm_defaults], and its keys below"),
    ] {
        assert_eq!(file(name, text("x")), Err(vec![expect.to_owned()]));
    }
}

#[test]
fn of_two_files_the_last_one_counts_key_by_key() {
    let sync = |host: &str| {
        let entries = vec![entry("host", text(host)), entry("guest", text("/root/.netrc"))];
        entry("file_sync", Value::Tables(vec![Table { at: 7..8, entries }]))
    };
    let later = |name: &str, value: Value| Entry { name_at: 100..101, ..entry(name, value) };
    let checked = check(
        vec![
            entry("stop_timeout", text("2m")),
            entry("boot_timeout", text("3m")),
            sync("~/.first"),
            later("stop_timeout", text("5s")),
            sync("~/.second"),
        ],
        |_| None,
    )
    .unwrap();
    assert_eq!((checked.config.stop_timeout, checked.config.boot_timeout), (seconds(5), seconds(180)));
    assert_eq!(checked.place(Field::StopTimeout), Some(&Place::File(100)));
    assert_eq!(checked.place(Field::BootTimeout), Some(&Place::File(0)));
    assert_eq!(checked.config.file_sync.len(), 1, "a list is one key");
    assert!(checked.config.file_sync[0].to_string().starts_with("~/.second"));
    // What is overridden has to be right nevertheless.
    let twice = vec![entry("stop_timeout", text("0s")), entry("stop_timeout", text("5s"))];
    assert_eq!(check(twice, |_| None).unwrap_err().len(), 1);
}

#[test]
fn the_environment_beats_the_file() {
    let entries = || {
        vec![
            entry("vm_defaults.memory", text("512M")),
            entry("vm_defaults.vcpu", Value::Integer(3)),
            entry("stop_timeout", text("2m")),
        ]
    };
    let variable = |name: &str| match name {
        "BANGER_VM_DEFAULTS_MEMORY" => Some(Value::Untyped("2G".to_owned())),
        "BANGER_VM_DEFAULTS_VCPU" => Some(Value::Untyped("4".to_owned())),
        _ => None,
    };
    let Checked { config, .. } = check(entries(), |_| None).unwrap();
    assert_eq!((config.sizes.memory, config.sizes.vcpu), (Some(512 * MIB), Some(3)));
    let checked = check(entries(), variable).unwrap();
    assert_eq!((checked.config.sizes.memory, checked.config.sizes.vcpu), (Some(2 * GIB), Some(4)));
    assert_eq!(checked.config.stop_timeout, seconds(120));
    assert_eq!(checked.place(Field::Memory), Some(&Place::Variable("BANGER_VM_DEFAULTS_MEMORY")));
    assert_eq!(checked.place(Field::StopTimeout), Some(&Place::File(0)));
    assert_eq!(checked.place(Field::Vmm), None);
}

#[test]
fn all_mistakes_are_told_also_those_that_a_variable_hides() {
    let variable = |name: &str| match name {
        "BANGER_VMM" => Some(Value::Untyped("qemu".to_owned())),
        "BANGER_QEMU_BIN" => Some(Value::Other("text that is not UTF-8")),
        _ => None,
    };
    let mistakes = check(vec![entry("a", text("")), entry("vmm", text(""))], variable).unwrap_err();
    let told: Vec<_> = mistakes.iter().map(|mistake| mistake.render("c", "a = ''\n")).collect();
    assert_eq!(told[0], "c:1:1: unknown key `a`\n  |\n1 | a = ''\n  | ^");
    assert_eq!(told[1], "c:1:3: `vmm`: it is one of auto, firecracker, qemu\n  |\n1 | a = ''\n  |   ^");
    assert_eq!(told[2..], ["BANGER_QEMU_BIN: `qemu_bin`: it cannot be text that is not UTF-8"]);
}

#[test]
fn what_is_shown_of_a_value_is_what_the_file_takes() {
    let base = Config::default();
    for key in KEYS {
        let expect = match key.fallback {
            Fallback::Value(text) => Some(text.to_owned()),
            Fallback::Auto(_) => None,
        };
        assert_eq!(base.text(key.field), expect, "the fallback of {}", key.name);
        if let Some(text) = expect {
            let mut again = base.clone();
            assert_eq!(again.set(key, &Value::Untyped(text)), Ok(()));
            assert_eq!(again.text(key.field), base.text(key.field));
        }
    }
    for (key, given, shown) in [
        ("vm_defaults.memory", "1024", "1G"),
        ("vm_defaults.memory", "1536M", "1536M"),
        ("vm_defaults.memory", "98305K", "98305K"),
        ("stop_timeout", "90s", "90s"),
        ("stop_timeout", "120s", "2m"),
    ] {
        let key = KEYS.iter().find(|k| k.name == key).unwrap();
        let mut config = base.clone();
        assert_eq!(config.set(key, &text(given)), Ok(()));
        assert_eq!(config.text(key.field).as_deref(), Some(shown));
    }
}

#[test]
fn names_of_variables_follow_from_names_of_keys() {
    for key in KEYS {
        let expect = format!("BANGER_{}", key.name.replace('.', "_").to_ascii_uppercase());
        assert_eq!(key.variable, expect);
        assert!(!LATER.contains(&key.name), "{} is supported", key.name);
    }
}

#[test]
fn files_of_the_owner_are_named_in_tables() {
    let table = |keys: &[(&str, Value)]| Table {
        at: 5..9,
        entries: keys.iter().map(|(name, value)| entry(name, value.clone())).collect(),
    };
    let sync = |tables: Vec<Table>| file("file_sync", Value::Tables(tables)).map(|config| config.file_sync);
    let (host, guest) = (("host", text("~/.netrc")), ("guest", text("~/.netrc")));
    let whole = table(&[host.clone(), guest.clone(), ("mode", text("0600"))]);
    let read = sync(vec![whole.clone(), table(&[host.clone(), guest.clone()])]).unwrap();
    let shown: Vec<String> = read.iter().map(ToString::to_string).collect();
    assert_eq!(shown, ["~/.netrc -> /root/.netrc (0600)", "~/.netrc -> /root/.netrc"]);
    for (wrong, why) in [
        (vec![], "it has no `host`"),
        (vec![host.clone()], "it has no `guest`"),
        (vec![host.clone(), ("guest", text("/etc/passwd"))], "`guest` is below /root: ~/… or /root/…"),
        (vec![("host", text("x"))], "`host` begins with ~/ or /"),
        (vec![("host", Value::Integer(1))], "`host` is a string"),
        (vec![("mode", Value::Integer(600))], "`mode` is a string"),
        (vec![("mode", text("4755"))], "`mode` is a string of octal digits, up to \"0777\""),
        (vec![("source", text("x"))], "the keys are `host`, `guest` and `mode`"),
    ] {
        // The others are told too.
        let told = sync(vec![whole.clone(), table(&wrong), table(&wrong)]).unwrap_err();
        let expect = [2, 3].map(|number| format!("`file_sync` entry {number}: {why}"));
        assert_eq!(told, expect);
    }
    let told = file("file_sync", text("~/.netrc")).unwrap_err();
    assert_eq!(told, ["`file_sync` entry 1: an entry is a table: write [[file_sync]], and its keys below"]);
    let places = check(vec![entry("file_sync", Value::Tables(vec![whole]))], |_| None).unwrap().file_sync_at;
    assert_eq!(places, [5]);
}
