//! Templates: e2fsck is content, the kernel writes to them, and they are small.

use std::{fs, process::Command};

use image::template::{Error, Role, ensure, set_uuid};

use testkit::listing::Mount;

use crate::{
    kernel_support::{Scratch, run},
    rootfs_support::{e2fsck, features},
};

#[test]
fn templates_of_all_sizes_are_clean_and_small() {
    let scratch = Scratch::new("templates");
    let mib = 1 << 20;
    // Among them last groups that are whole, cut short, and too short to be used.
    for size in [16 * mib, 64 * mib, 100 * mib, 1000 * mib, 8193 * mib, 65 << 30, 1 << 40] {
        let path = ensure(scratch.path(), Role::Overlay, size).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), size);
        let used = host::fs::disk_usage(&path).unwrap();
        assert!(used < 4 << 20, "{used} bytes for a disk of {size}");
        if e2fsck(&path).is_none() {
            return;
        }
    }
}

#[test]
fn the_features_of_a_template() {
    let scratch = Scratch::new("template-features");
    let template = ensure(scratch.path(), Role::Work, 64 << 20).unwrap();
    let Some(found) = features(&template) else { return };
    assert_eq!(
        found,
        "has_journal ext_attr dir_index filetype meta_bg extent 64bit flex_bg metadata_csum_seed sparse_super \
         large_file huge_file dir_nlink extra_isize metadata_csum"
    );
}

#[test]
fn a_clone_with_its_own_identity_can_be_written() {
    let scratch = Scratch::new("template-clone");
    let template = ensure(scratch.path(), Role::Work, 64 << 20).unwrap();
    let disk = scratch.path().join("disk");
    host::fs::clone_sparse(&template, &disk).unwrap();
    set_uuid(&disk, *b"0123456789abcdef").unwrap();
    let write = || {
        e2fsck(&disk)?;
        let said = run(Command::new("blkid").args(["-p", "-o", "value", "-s", "UUID"]).arg(&disk));
        assert_eq!(said.trim(), "30313233-3435-3637-3839-616263646566");
        let mount = Mount::new(&scratch.dir("mount"), &disk, "loop")?;
        assert_eq!(fs::read_dir(mount.path()).unwrap().count(), 0);
        for index in 0..500 {
            fs::write(mount.path().join(index.to_string()), vec![1; 20_000]).unwrap();
        }
        drop(mount);
        e2fsck(&disk)
    };
    write();
}

#[test]
fn many_at_once_make_one_template() {
    let scratch = Scratch::new("template-race");
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| ensure(scratch.path(), Role::Overlay, 64 << 20).unwrap());
        }
    });
    let left = host::fs::list(scratch.path()).unwrap();
    assert_eq!(left.len(), 1, "{left:?}");
    e2fsck(&left[0]);
}

#[test]
fn what_is_no_template_is_refused() {
    let scratch = Scratch::new("no-template");
    assert!(matches!(ensure(scratch.path(), Role::Work, 1 << 20), Err(Error::Size { .. })));
    let other = scratch.file("other", &[0; 8192]);
    assert!(matches!(set_uuid(&other, [1; 16]), Err(Error::NotATemplate { .. })));
    assert_eq!(fs::read(&other).unwrap(), [0; 8192]);
}
