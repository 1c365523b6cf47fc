//! A real Debian kernel, from its package to what a guest boots.

use std::{fs, ops::ControlFlow, path::Path, process::Command};

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
    for feature in Feature::ALL {
        let expect = match feature {
            Feature::Initramfs | Feature::Devtmpfs | Feature::Ext4 => HowRecord::Builtin,
            _ => HowRecord::Module,
        };
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

    let position = |name| manifest.boot_modules.iter().position(|m| m == name).unwrap();
    assert!(position("virtio_ring") < position("virtio_pci"));
    assert!(position("net_failover") < position("virtio_net"));

    let Some(busybox) = static_busybox() else { return };
    let base = scratch.path().join("base");
    let modules = dir.join(kernel::MODULES_CPIO);
    initramfs::base(&busybox, Some(&modules), &mut fs::File::create(&base).unwrap()).unwrap();
    let payload = scratch.path().join("payload");
    initramfs::assemble(&base, br#"{"secret":1}"#, &payload).unwrap();
    let script = "
        b() { /busybox \"$@\"; }
        b mount -t proc proc /proc; b mount -t sysfs sys /sys; b mount -t devtmpfs dev /dev
        while read -r module; do b insmod $module || echo failed: $module; done < /banger/modules.load
        echo release: $(b uname -r)
        echo config: $(b stat -c %a:%u /banger/config.json) $(b cat /banger/config.json)
        for driver in virtio_blk virtio_console virtio_net; do b test -d /sys/bus/virtio/drivers/$driver && echo has: $driver; done
        b grep -q overlay /proc/filesystems && echo has: overlay
        b test -e /dev/vsock && echo has: vsock
        b reboot -f
    ";
    let Some(console) = boot(&scratch, &dir.join(kernel::VMLINUZ), &payload, None, script) else { return };
    let lines: Vec<&str> = console.lines().map(str::trim).collect();
    assert!(lines.contains(&format!("release: {}", manifest.release).as_str()), "{console}");
    for expect in [
        "config: 600:0 {\"secret\":1}",
        "has: virtio_blk",
        "has: virtio_console",
        "has: virtio_net",
        "has: overlay",
        "has: vsock",
    ] {
        assert!(lines.contains(&expect), "{expect:?} in:\n{console}");
    }
}
