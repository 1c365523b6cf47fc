//! A real Debian kernel, from its package to what a guest boots.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    ops::ControlFlow,
    path::Path,
    process::Command,
};

use image::{
    initramfs,
    kernel::{self, HowRecord, KernelManifest, Progress, Source},
};
use model::kernel::Feature;

use crate::kernel_support::{Scratch, boot, run, static_busybox};

/// What Debian's cloud kernel is known to be.
#[track_caller]
fn check_manifest(manifest: &KernelManifest, dir: &Path) {
    assert!(manifest.release.ends_with("-cloud-amd64"), "{}", manifest.release);
    assert_eq!(manifest.arch, "x86_64");
    let config = fs::read_to_string(dir.join(kernel::CONFIG)).unwrap();
    for feature in Feature::ALL {
        let is_built_in = config.contains(&format!("\nCONFIG_{}=y\n", feature.option()));
        let expect = if is_built_in { HowRecord::Builtin } else { HowRecord::Module };
        assert_eq!(manifest.features[feature.name()], expect, "{feature}");
    }
    assert!(manifest.module_count > 500, "{}", manifest.module_count);
    assert_eq!(KernelManifest::read(dir).unwrap(), *manifest);
    for (name, record) in &manifest.files {
        let said = run(Command::new("sha256sum").arg(dir.join(name)));
        assert_eq!(said.split(' ').next(), Some(record.sha256.as_str()), "{name}");
        assert_eq!(fs::metadata(dir.join(name)).unwrap().len(), record.size, "{name}");
    }
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.retain(|name| name != KernelManifest::FILE);
    names.sort();
    assert_eq!(
        names,
        manifest.files.keys().cloned().collect::<Vec<_>>(),
        "nothing else is left in the directory"
    );
}

#[test]
fn a_package_becomes_a_kernel_that_boots() {
    let Some(deb) = testkit::kernel_deb::path() else { return };
    let scratch = Scratch::new("kernel-deb");
    let dir = scratch.dir("kernel");
    let mut told = Vec::new();
    let manifest = kernel::import(&Source::Deb(vec![deb]), &dir, &mut |at| {
        told.push(at);
        ControlFlow::Continue(())
    })
    .unwrap();
    check_manifest(&manifest, &dir);
    assert_eq!(told.last(), Some(&Progress::Packing));
    let last_read = told.iter().rev().find(|at| **at != Progress::Packing).unwrap();
    assert!(matches!(last_read, Progress::Reading { done, total } if done == total), "{last_read:?}");

    // What is built in has no place.
    let position = |name| manifest.boot_modules.iter().position(|m| m == name);
    assert!(position("virtio_ring") <= position("virtio_pci"));
    assert!(position("net_failover") < position("virtio_net"));

    let Some(busybox) = static_busybox() else { return };
    let base = scratch.path().join("base");
    let modules = dir.join(kernel::MODULES_CPIO);
    initramfs::base(&busybox, Some(&modules), &mut fs::File::create(&base).unwrap()).unwrap();
    let payload = scratch.path().join("payload");
    initramfs::assemble(&base, br#"{"secret":1}"#, &payload).unwrap();
    // What /init will do, in shell: the boot modules for the devices that are there, then the tree from its disk.
    let script = "
        b() { /busybox \"$@\"; }
        b mount -t proc proc /proc; b mount -t sysfs sys /sys; b mount -t devtmpfs dev /dev
        there() { for want; do b cat /sys/bus/*/devices/*/modalias | b grep -q ^$want && return; done; return 1; }
        while read -r module; do
            devices=$(b grep \"^$module \" /banger/modules.devices); devices=${devices#* }
            if [ -z \"$devices\" ] || there $devices
            then b insmod $module || echo failed: $module
            else echo without a device: ${module##*/}
            fi
        done < /banger/modules.load
        echo release: $(b uname -r)
        echo config: $(b stat -c %a:%u /banger/config.json) $(b cat /banger/config.json)
        for driver in virtio_blk virtio_console; do b test -d /sys/bus/virtio/drivers/$driver && echo has: $driver; done
        b grep -q overlay /proc/filesystems && echo has: overlay
        echo serial: $(b cat /sys/block/vda/serial)
        b mount -t ext4 -o ro,noload /dev/vda /lib/modules/$(b uname -r) || echo failed: mount
        b modprobe bridge && b grep -q ^llc /proc/modules && echo has: bridge and what it needs
        b reboot -f
    ";
    let tree = dir.join(kernel::MODULES_EXT4);
    let Some(console) = boot(&scratch, &dir.join(kernel::VMLINUZ), &payload, Some(&tree), script) else {
        return;
    };
    let lines: Vec<&str> = console.lines().map(str::trim).collect();
    assert!(lines.contains(&format!("release: {}", manifest.release).as_str()), "{console}");
    assert!(!console.contains("failed: "), "{console}");
    assert!(lines.contains(&"without a device: virtio_net.ko"), "{console}");
    for expect in ["config: 600:0 {\"secret\":1}", "has: virtio_blk", "has: virtio_console", "has: overlay"] {
        assert!(lines.contains(&expect), "{expect:?} in:\n{console}");
    }
}

/// The lines of a text index without its comments, sorted.
fn lines(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap();
    let mut lines: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect();
    lines.sort();
    lines
}

/// What `modules.dep` says that each module needs, in any order.
fn needs(path: &Path) -> BTreeMap<String, BTreeSet<String>> {
    let entry = |line: &String| {
        let (module, needs) = line.split_once(':').unwrap();
        (module.to_owned(), needs.split_ascii_whitespace().map(str::to_owned).collect())
    };
    lines(path).iter().map(entry).collect()
}

#[test]
fn the_module_tree_is_what_depmod_makes_of_the_package() {
    let Some(deb) = testkit::kernel_deb::path() else { return };
    let found = [
        ("e2fsck", "e2fsck"),
        ("e2fsck", "debugfs"),
        ("kmod", "depmod"),
        ("kmod", "modprobe"),
        ("dpkg", "dpkg-deb"),
    ]
    .map(|(word, name)| testkit::need::program(word, name));
    let [Some(e2fsck), Some(debugfs), Some(depmod), Some(modprobe), Some(dpkg_deb)] = found else { return };
    let scratch = Scratch::new("kernel-tree");
    let dir = scratch.dir("kernel");
    let import = || kernel::import(&Source::Deb(vec![deb.clone()]), &dir, &mut |_| ControlFlow::Continue(()));
    let manifest = import().unwrap();
    let image = dir.join(kernel::MODULES_EXT4);
    run(Command::new(e2fsck).arg("-fn").arg(&image));

    let [ours, theirs] =
        ["ours", "theirs"].map(|name| scratch.dir(&format!("{name}/lib/modules/{}", manifest.release)));
    run(Command::new(&debugfs).args(["-R", &format!("rdump / {}", ours.display())]).arg(&image));
    fs::remove_dir(ours.join("lost+found")).ok();
    // Theirs is made of the package alone, which keeps it below /usr and packed since Debian 13.
    let root = scratch.path().join("theirs");
    fs::remove_dir_all(&root).unwrap();
    run(Command::new(dpkg_deb).arg("-x").arg(&deb).arg(&root));
    if !root.join("lib").exists() {
        std::os::unix::fs::symlink("usr/lib", root.join("lib")).unwrap();
    }
    run(Command::new("find").arg(&theirs).args(["-name", "*.ko.xz", "-exec", "unxz", "{}", "+"]));
    run(Command::new(depmod).arg("-b").arg(scratch.path().join("theirs")).arg(&manifest.release));

    let files = |dir: &Path| run(Command::new("find").args([".", "-type", "f"]).current_dir(dir));
    let sorted = |text: String| text.lines().map(str::to_owned).collect::<BTreeSet<_>>();
    assert_eq!(sorted(files(&ours)), sorted(files(&theirs)));
    run(Command::new("diff").arg("-r").arg(ours.join("kernel")).arg(theirs.join("kernel")));
    for index in ["modules.alias", "modules.symbols", "modules.softdep", "modules.devname"] {
        assert_eq!(lines(&ours.join(index)), lines(&theirs.join(index)), "{index}");
    }
    for index in ["modules.alias.bin", "modules.builtin.bin", "modules.builtin.alias.bin", "modules.order"] {
        assert!(fs::read(ours.join(index)).unwrap() == fs::read(theirs.join(index)).unwrap(), "{index}");
    }
    assert_eq!(needs(&ours.join("modules.dep")), needs(&theirs.join("modules.dep")));
    let look_up = |root: &str, what: &[&str]| {
        let root = scratch.path().join(root);
        let said =
            run(Command::new(&modprobe).arg("-d").arg(&root).args(["-S", &manifest.release]).args(what));
        said.replace(&root.display().to_string(), "").lines().map(str::to_owned).collect::<BTreeSet<_>>()
    };
    let all: Vec<_> = lines(&ours.join("modules.dep"))
        .iter()
        .map(|line| line.split(':').next().unwrap().rsplit('/').next().unwrap().replace(".ko", ""))
        .collect();
    assert_eq!(all.len(), manifest.module_count);
    let mut what = vec!["--show-depends", "-a"];
    what.extend(all.iter().map(String::as_str));
    assert_eq!(look_up("ours", &what), look_up("theirs", &what));
    for alias in ["net-pf-38", "virtio:d00000001v00001AF4", "symbol:failover_register"] {
        assert_eq!(look_up("ours", &["-R", alias]), look_up("theirs", &["-R", alias]), "{alias}");
    }
}
