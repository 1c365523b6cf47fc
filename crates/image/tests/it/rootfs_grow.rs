//! Templates in the kernel that guests have: it mounts them, writes to them, and grows them while they are mounted.
//! Growing needs a right that test machines may lack, so a real guest does it.

use std::{
    fs,
    ops::ControlFlow,
    path::{Path, PathBuf},
    process::Command,
};

use image::{
    initramfs::{self, Archive, Entry},
    kernel::{self, Source},
    template::{Role, ensure, set_uuid},
};
use testkit::need;

use crate::{
    kernel_support::{Scratch, run, static_busybox},
    rootfs_support::e2fsck,
};

/// A clone of a template of `size` bytes in a file of `grown` bytes.
fn disk(scratch: &Scratch, size: u64, grown: u64) -> PathBuf {
    let template = ensure(scratch.path(), Role::Overlay, size).unwrap();
    let disk = scratch.path().join(format!("disk-{size}"));
    host::fs::clone_sparse(&template, &disk).unwrap();
    set_uuid(&disk, [9; 16]).unwrap();
    host::fs::open_rw(&disk).unwrap().set_len(grown).unwrap();
    disk
}

/// Adds `program` and the libraries that it needs.
fn add_program(archive: &mut Archive<Vec<u8>>, program: &Path) {
    let said = run(Command::new("ldd").arg(program));
    let libraries = said.split_whitespace().filter(|word| word.starts_with('/'));
    for path in libraries.chain([program.to_str().unwrap()]) {
        let mut parent = String::new();
        for name in
            path.split('/').rev().skip(1).collect::<Vec<_>>().into_iter().rev().filter(|n| !n.is_empty())
        {
            parent = format!("{parent}{name}");
            archive.add(&parent, &Entry::Directory).unwrap();
            parent += "/";
        }
        let content = fs::read(path).unwrap();
        archive.add(path.trim_start_matches('/'), &Entry::File { mode: 0o755, content: &content }).unwrap();
    }
}

#[test]
fn a_mounted_disk_grows() {
    let needs =
        || Some((static_busybox()?, need::program("e2fsck", "resize2fs")?, testkit::kernel_deb::path()?));
    let Some((busybox, resize2fs, deb)) = needs() else { return };
    let scratch = Scratch::new("grow");
    let dir = scratch.dir("kernel");
    kernel::import(&Source::Deb(vec![deb]), &dir, &mut |_| ControlFlow::Continue(())).unwrap();

    // Within the first group, into more groups, into more that share descriptors, and far more of them.
    let (mib, gib) = (1 << 20, 1 << 30);
    let sizes = [(64 * mib, 100 * mib), (100 * mib, 3 * gib), (4 * gib, 50 * gib), (9 * gib, 900 * gib)];
    let disks: Vec<_> = sizes.iter().map(|(size, grown)| disk(&scratch, *size, *grown)).collect();

    let mut base = Vec::new();
    initramfs::base(&busybox, Some(&dir.join(kernel::MODULES_CPIO)), &mut base).unwrap();
    let mut payload = Archive::new(base);
    add_program(&mut payload, &resize2fs);
    let script = format!(
        "b() {{ /busybox \"$@\"; }}
        b mount -t proc proc /proc; b mount -t sysfs sys /sys; b mount -t devtmpfs dev /dev
        while read -r module; do b insmod $module; done < /banger/modules.load
        b ln -s /proc/self/mounts /etc/mtab; b mkdir /mnt
        for disk in vda vdb vdc vdd; do
            b mount -t ext4 /dev/$disk /mnt || echo $disk: cannot be mounted
            b mkdir /mnt/before; for i in 1 2 3 4 5 6 7 8 9; do echo $i > /mnt/before/$i; done
            {} /dev/$disk || echo $disk: cannot be grown
            b mkdir /mnt/after; for i in 1 2 3 4 5 6 7 8 9; do echo $i > /mnt/after/$i; done
            b dd if=/dev/zero of=/mnt/large bs=1M count=20 2>&1 | b grep -v records
            echo $disk: $(b df -m /mnt | b tail -n 1 | b awk '{{print $2}}') MiB, $(b ls /mnt/before /mnt/after | b wc -l) lines
            b umount /mnt
        done
        b reboot -f
        ",
        resize2fs.display()
    );
    payload.add("etc", &Entry::Directory).unwrap();
    payload.add("busybox", &Entry::Symlink { target: "init" }).unwrap();
    payload.add("script", &Entry::File { mode: 0o755, content: script.as_bytes() }).unwrap();
    let initrd = scratch.file("initrd", &payload.finish().unwrap());
    let Some(console) = boot(&dir.join(kernel::VMLINUZ), &initrd, &disks) else { return };

    assert!(!console.contains("cannot be"), "{console}");
    for (disk, ((_, grown), letter)) in disks.iter().zip(sizes.iter().zip(["a", "b", "c", "d"])) {
        let line = console.lines().find_map(|line| line.trim().strip_prefix(&format!("vd{letter}: ")));
        let line = line.unwrap_or_else(|| panic!("{console}"));
        assert!(line.ends_with("MiB, 21 lines"), "{line}");
        let size: u64 = line.split(' ').next().unwrap().parse().unwrap();
        assert!(size * mib > grown / 10 * 9 && size * mib < *grown, "{line} of {grown} bytes");
        e2fsck(disk);
    }
}

fn boot(kernel: &Path, initrd: &Path, disks: &[PathBuf]) -> Option<String> {
    let line = model::boot::command_line(model::boot::Machine::Pc);
    let mut command = Command::new("timeout");
    command.args(["--kill-after=5", "180"]).arg(need::qemu()?);
    command.args(["-machine", "q35", "-accel", "tcg", "-cpu", "max", "-m", "512", "-nodefaults"]);
    command.args(["-no-user-config", "-display", "none", "-serial", "stdio", "-no-reboot"]);
    command.arg("-kernel").arg(kernel).arg("-initrd").arg(initrd);
    command.args(["-append", &format!("{line} rdinit=/busybox -- sh /script")]);
    for disk in disks {
        command.args(["-drive", &format!("file={},format=raw,if=virtio,discard=unmap", disk.display())]);
    }
    Some(run(&mut command))
}
