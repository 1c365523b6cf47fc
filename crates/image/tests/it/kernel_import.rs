//! Importing kernels that were made for the purpose: every form of source, and what is refused.

use std::{error::Error, fs, ops::ControlFlow, path::Path, process::Command};

use image::kernel::{self, HowRecord, KernelError, KernelManifest, Source};

use crate::{
    kernel_forge::{
        CONFIG, RELEASE, add, bzimage, bzip2, deb, gzip, lz4, lzma, module, tar, vmlinux, xz, zstd,
    },
    kernel_support::{Scratch, run},
};

/// Imports into a new directory.
fn import(scratch: &Scratch, source: &Source) -> Result<KernelManifest, KernelError> {
    let staging = scratch.path().join("staging");
    let _ = fs::remove_dir_all(&staging);
    fs::create_dir(&staging).unwrap();
    kernel::import(source, &staging, &mut |_| ControlFlow::Continue(()))
}

/// The error and its causes in one line.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.extend([": ", &error.to_string()]);
        cause = error.source();
    }
    text
}

/// A directory with a kernel that has `config`, and these modules.
fn directory(scratch: &Scratch, config: &str, modules: &[(&str, Vec<u8>)]) -> Source {
    let _ = fs::remove_dir_all(scratch.path().join("source"));
    scratch.file("source/vmlinuz", &bzimage(&gzip(&vmlinux(None))));
    scratch.file("source/config", config.as_bytes());
    for (path, content) in modules {
        scratch.file(&format!("source/lib/modules/{RELEASE}/{path}"), content);
    }
    Source::Directory(scratch.path().join("source"))
}

#[test]
fn every_packing_of_the_kernel_is_undone() {
    let elf = vmlinux(Some(CONFIG));
    let with_length = |mut packed: Vec<u8>| {
        packed.extend(u32::try_from(elf.len()).unwrap().to_le_bytes());
        packed
    };
    // The kernel's build appends the length, but to gzip, which has it.
    let payloads = [
        gzip(&elf),
        with_length(xz(&elf)),
        with_length(zstd(&elf)),
        with_length(lz4(&elf)),
        lzma(&elf),
        with_length(bzip2(&elf)),
        elf.clone(),
    ];
    for payload in payloads {
        let image = bzimage(&payload);
        assert_eq!(kernel::extract_vmlinux(&image).unwrap(), elf);
        let cut = &image[..image.len() - payload.len() / 2];
        assert_eq!(chain(&kernel::extract_vmlinux(cut).unwrap_err()), "it is cut short");
    }
    let damaged = bzimage(&gzip(b"something else"));
    assert_eq!(chain(&kernel::extract_vmlinux(&damaged).unwrap_err()), "the kernel inside is no ELF file");
    let error = chain(&kernel::extract_vmlinux(&bzimage(b"\x89LZO\0\r\n")).unwrap_err());
    assert_eq!(error, "the kernel inside cannot be unpacked: LZO compression is not supported");
}

#[test]
fn a_small_file_does_not_become_a_large_kernel() {
    let mut elf = vmlinux(Some(CONFIG));
    elf.resize(17 << 20, 0);
    let packed = zstd(&elf);
    assert!(packed.len() < elf.len() / 64);
    assert_eq!(
        chain(&kernel::extract_vmlinux(&bzimage(&packed)).unwrap_err()),
        "the kernel inside cannot be unpacked: it unpacks to more than anything of its kind does"
    );
}

#[test]
fn a_configuration_is_looked_for_in_a_few_places_only() {
    let begin = b"IKCFG_ST\x1f\x8b\x08";
    let with = |count: usize| [begin.repeat(count), vmlinux(Some(CONFIG))].concat();
    assert_eq!(kernel::embedded_config(&with(3)).as_deref(), Some(CONFIG.as_bytes()));
    assert_eq!(kernel::embedded_config(&with(4)), None);
    // With as many searches as beginnings this would not end today.
    assert_eq!(kernel::embedded_config(&begin.repeat(1 << 20)), None);
}

#[test]
fn a_bare_kernel_tells_its_configuration_itself() {
    let scratch = Scratch::new("kernel-bare");
    let image = bzimage(&zstd(&vmlinux(Some(CONFIG))));
    for (name, content) in [("bzImage", &image), ("vmlinux", &vmlinux(Some(CONFIG)))] {
        let manifest = import(&scratch, &Source::Image(scratch.file(name, content))).unwrap();
        assert_eq!((manifest.release.as_str(), manifest.arch.as_str()), (RELEASE, "x86_64"));
        assert!(manifest.features.values().all(|how| *how == HowRecord::Builtin));
        assert_eq!(manifest.boot.image.is_some(), name == "bzImage");
        assert_eq!(fs::read(scratch.path().join("staging/vmlinux")).unwrap(), vmlinux(Some(CONFIG)));
        assert_eq!(fs::read(scratch.path().join("staging/config")).unwrap(), CONFIG.as_bytes());
        assert_eq!((manifest.boot_modules.len(), manifest.module_count), (0, 0));
        assert!(!scratch.path().join("staging/modules.cpio").exists());
    }
}

#[test]
fn a_bare_file_that_no_guest_could_boot_is_refused() {
    let scratch = Scratch::new("kernel-refused");
    let check = |content: &[u8], expect: &str| {
        let path = scratch.file("file", content);
        let error = import(&scratch, &Source::Image(path.clone())).unwrap_err();
        assert_eq!(chain(&error).replace(&path.display().to_string(), "FILE"), expect);
    };
    const NOT: &str = "FILE is not a kernel that banger can boot: ";
    check(b"", &format!("{NOT}it is neither a bzImage, nor an ELF vmlinux, nor an arm64 Image"));
    check(b"#!/bin/sh\n", &format!("{NOT}it is neither a bzImage, nor an ELF vmlinux, nor an arm64 Image"));
    let whole = vmlinux(Some(CONFIG));
    check(&whole[..whole.len() - 1], &format!("{NOT}it is cut short"));
    check(&whole[..40], &format!("{NOT}it is cut short"));
    let image = bzimage(&gzip(&whole));
    check(&image[..image.len() - 16], &format!("{NOT}it is cut short"));
    check(&image[..0x210], &format!("{NOT}it is cut short"));
    let mut program = whole.clone();
    let at = memchr::memmem::rfind(&program, b"Linux version").unwrap();
    program[at] = b'B';
    check(&program, &format!("{NOT}it does not say which Linux it is"));
    let mut small = whole.clone();
    small[4] = 1;
    check(&small, &format!("{NOT}it is for a processor that banger has no machines for"));
    let mut foreign = whole.clone();
    foreign[18] = 183;
    check(&foreign, "the kernel is for aarch64, but this machine is x86_64");
    check(
        &vmlinux(None),
        "nothing tells what this kernel can do: it carries no configuration and came without modules",
    );
    let config = CONFIG.replace("CONFIG_VIRTIO_BLK=y\n", "").replace("OVERLAY_FS=y", "OVERLAY_FS=m");
    check(
        &vmlinux(Some(&config)),
        "the kernel lacks virtio-blk (CONFIG_VIRTIO_BLK), overlay (CONFIG_OVERLAY_FS)",
    );
}

#[test]
fn a_directory_with_packed_modules_gives_the_boot_closure() {
    if testkit::need::program("cpio", "cpio").is_none() {
        return;
    }
    let scratch = Scratch::new("kernel-directory");
    let config = CONFIG.replace("VIRTIO_BLK=y", "VIRTIO_BLK=m").replace("OVERLAY_FS=y", "OVERLAY_FS=m");
    let source = directory(
        &scratch,
        &config,
        &[
            (
                "kernel/drivers/block/virtio_blk.ko.xz",
                xz(&module(&["depends=virtio-ring", "softdep=pre: crc32c"])),
            ),
            ("kernel/drivers/virtio/virtio-ring.ko.zst", zstd(&module(&["depends=virtio"]))),
            ("kernel/drivers/virtio/virtio.ko.gz", gzip(&module(&["depends="]))),
            ("kernel/arch/x86/crypto/fast.ko", module(&["depends=", "alias=crc32c"])),
            ("kernel/fs/overlayfs/overlay.ko", module(&["depends="])),
            ("kernel/sound/other.ko", module(&["depends="])),
            ("modules.order", b"kernel/sound/other.ko\n".to_vec()),
            ("vdso/vdso64.so", b"left out".to_vec()),
        ],
    );
    std::os::unix::fs::symlink(
        "/nonexistent",
        scratch.path().join(format!("source/lib/modules/{RELEASE}/build")),
    )
    .unwrap();
    let manifest = import(&scratch, &source).unwrap();
    assert_eq!(manifest.boot_modules, ["fast", "virtio", "virtio_ring", "virtio_blk", "overlay"]);
    assert_eq!(manifest.module_count, 6);
    assert_eq!(manifest.features["virtio-blk"], HowRecord::Module);

    let cpio = scratch.path().join("staging/modules.cpio");
    assert_eq!(fs::metadata(&cpio).unwrap().len() % 4, 0);
    let out = scratch.dir("out");
    run(Command::new("cpio")
        .args(["-i", "-d", "--quiet", "--no-absolute-filenames", "-F"])
        .arg(&cpio)
        .current_dir(&out));
    let list = fs::read_to_string(out.join("banger/modules.load")).unwrap();
    let prefix = format!("/lib/modules/{RELEASE}/kernel");
    let expect = [
        "arch/x86/crypto/fast",
        "drivers/virtio/virtio",
        "drivers/virtio/virtio-ring",
        "drivers/block/virtio_blk",
        "fs/overlayfs/overlay",
    ]
    .map(|path| format!("{prefix}/{path}.ko"));
    assert_eq!(list.lines().collect::<Vec<_>>(), expect);
    let devices = fs::read_to_string(out.join("banger/modules.devices")).unwrap();
    let expect = expect[..4].iter().map(|path| format!("{path} virtio:d00000002")).collect::<Vec<_>>();
    assert_eq!(devices.lines().collect::<Vec<_>>(), expect, "virtio_blk and what it needs, and not overlay");
    for path in list.lines() {
        assert!(fs::read(out.join(&path[1..])).unwrap().starts_with(b"\x7fELF"), "{path} is unpacked");
    }
    assert!(!out.join(format!("lib/modules/{RELEASE}/kernel/sound")).exists());

    let first = fs::read(&cpio).unwrap();
    import(&scratch, &source).unwrap();
    assert_eq!(fs::read(&cpio).unwrap(), first, "the same source gives the same bytes");
}

#[test]
fn a_directory_that_holds_no_usable_kernel_is_refused() {
    let scratch = Scratch::new("kernel-directory-refused");
    let check = |source: &Source, expect: &str| {
        let text = chain(&import(&scratch, source).unwrap_err());
        assert_eq!(text.replace(&scratch.path().display().to_string(), "HERE"), expect);
    };
    let blk = "kernel/virtio_blk.ko";
    check(
        &Source::Directory(scratch.path().join("none")),
        "cannot open HERE/none: No such file or directory (os error 2)",
    );
    check(
        &Source::Directory(scratch.dir("empty")),
        "HERE/empty holds no kernel: neither vmlinuz nor boot/vmlinuz-*",
    );
    let config = CONFIG.replace("VIRTIO_BLK=y", "VIRTIO_BLK=m");
    check(&directory(&scratch, &config, &[]), "the kernel lacks virtio-blk (CONFIG_VIRTIO_BLK)");
    check(
        &directory(&scratch, &config, &[(blk, module(&["depends=absent"]))]),
        "the kernel lacks virtio-blk (CONFIG_VIRTIO_BLK)",
    );
    check(
        &directory(&scratch, CONFIG, &[(blk, b"text".to_vec())]),
        "cannot use the module kernel/virtio_blk.ko: it is no 64-bit ELF object",
    );
    let packed = xz(&module(&["depends="]));
    check(
        &directory(&scratch, CONFIG, &[("kernel/virtio_blk.ko.xz", packed[..packed.len() - 20].to_vec())]),
        "cannot use the module kernel/virtio_blk.ko.xz: it cannot be unpacked: failed to fill whole buffer",
    );
    check(
        &directory(&scratch, CONFIG, &[("kernel/with space.ko", module(&["depends="]))]),
        "refused \"kernel/with space.ko\": its name is not one that a module has",
    );
    let source = directory(&scratch, CONFIG, &[]);
    scratch.file("source/lib/modules/5.10.0/kernel/x.ko", b"");
    check(&source, "the kernel is 6.1.0-test, but its modules are for 5.10.0");
    let source = directory(&scratch, CONFIG, &[]);
    fs::remove_file(scratch.path().join("source/vmlinuz")).unwrap();
    scratch.file("source/boot/vmlinuz-1", b"");
    scratch.file("source/boot/vmlinuz-2", b"");
    check(&source, "HERE/source holds several kernels: boot/vmlinuz-1, boot/vmlinuz-2");
}

/// The files of a package that is right.
fn package() -> Vec<(String, Vec<u8>)> {
    let tree = format!("./lib/modules/{RELEASE}");
    vec![
        (format!("./boot/config-{RELEASE}"), CONFIG.replace("VIRTIO_BLK=y", "VIRTIO_BLK=m").into_bytes()),
        (format!("./boot/vmlinuz-{RELEASE}"), bzimage(&lz4(&vmlinux(None)))),
        (format!("{tree}/kernel/virtio_blk.ko"), module(&["depends="])),
        (format!("{tree}/modules.builtin"), b"kernel/fs/ext4/ext4.ko\n".to_vec()),
        ("./usr/share/doc/linux/copyright".to_owned(), b"left out".to_vec()),
    ]
}

fn tar_of(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    tar(&files.iter().map(|(path, content)| (path.as_str(), content.as_slice())).collect::<Vec<_>>())
}

#[test]
fn a_package_is_read_in_every_packing() {
    let scratch = Scratch::new("kernel-package");
    let files = package();
    let tar = tar_of(&files);
    for (name, data) in [
        ("data.tar", tar.clone()),
        ("data.tar.gz", gzip(&tar)),
        ("data.tar.xz", xz(&tar)),
        ("data.tar.zst", zstd(&tar)),
    ] {
        let path = scratch.file("linux.deb", &deb(&[("control.tar", b"odd"), (name, &data)]));
        let manifest =
            import(&scratch, &Source::Deb(vec![path])).unwrap_or_else(|e| panic!("{name}: {}", chain(&e)));
        assert_eq!(manifest.source, "linux.deb");
        assert_eq!(manifest.boot_modules, ["virtio_blk"]);
    }
    // Ubuntu's two packages.
    let (image, modules) = files.split_at(2);
    let image = scratch.file("image.deb", &deb(&[("data.tar.zst", &zstd(&tar_of(image)))]));
    let modules = scratch.file("modules.deb", &deb(&[("data.tar.zst", &zstd(&tar_of(modules)))]));
    let error = import(&scratch, &Source::Deb(vec![image.clone()])).unwrap_err();
    assert!(matches!(error, KernelError::Missing(_)), "{error}");
    assert!(error.hint().unwrap().contains("linux-modules"));
    let manifest = import(&scratch, &Source::Deb(vec![image, modules])).unwrap();
    assert_eq!(manifest.source, "image.deb, modules.deb");
}

#[test]
fn a_package_cut_anywhere_is_refused() {
    let scratch = Scratch::new("kernel-cut");
    let tar = tar_of(&package());
    for data in [
        ("data.tar", tar.clone()),
        ("data.tar.gz", gzip(&tar)),
        ("data.tar.xz", xz(&tar)),
        ("data.tar.zst", zstd(&tar)),
    ] {
        let whole = deb(&[(data.0, &data.1)]);
        let source = |bytes: &[u8]| Source::Deb(vec![scratch.file("cut.deb", bytes)]);
        import(&scratch, &source(&whole)).unwrap();
        for length in (0..whole.len() - 1).step_by(whole.len() / 40) {
            import(&scratch, &source(&whole[..length])).expect_err("it was cut");
            // The archive is whole, but what is packed in it is not.
            let part = data.1.len() * length / whole.len();
            if data.0 != "data.tar" {
                import(&scratch, &source(&deb(&[(data.0, &data.1[..part])]))).expect_err("it was cut inside");
            }
        }
    }
}

#[test]
fn a_hostile_package_is_refused() {
    use tar::EntryType;
    let scratch = Scratch::new("kernel-hostile");
    let check = |bytes: &[u8], expect: &str| {
        let path = scratch.file("bad.deb", bytes);
        let error = chain(&import(&scratch, &Source::Deb(vec![path.clone()])).unwrap_err());
        let error = error.replace(&scratch.path().display().to_string(), "HERE");
        assert_eq!(error.replace("cannot import the package HERE/bad.deb", "BAD"), expect);
        assert!(!scratch.path().join("escaped.ko").exists());
        assert_eq!(fs::read_dir(scratch.path().join("staging")).unwrap().count(), 0, "something is left");
    };
    let with = |path: &str, kind: EntryType, content: &[u8]| {
        let mut tar = tar::Builder::new(Vec::new());
        for (path, content) in package() {
            add(&mut tar, &path, EntryType::Regular, &content);
        }
        add(&mut tar, path, kind, content);
        deb(&[("data.tar", &tar.into_inner().unwrap())])
    };
    check(b"not a package at all", "BAD: it is no Debian package");
    check(&deb(&[("control.tar", b"")]), "BAD: it has no files to install");
    let mut lies = deb(&[("data.tar", &tar_of(&package()))]);
    let at = memchr::memmem::find(&lies, b"data.tar").unwrap() + 48;
    lies[at..at + 10].copy_from_slice(b"9999999999");
    check(&lies, "BAD: it is cut short");
    lies[at..at + 10].copy_from_slice(b"-1        ");
    check(&lies, "BAD: it is no Debian package");

    let inside = format!("lib/modules/{RELEASE}/kernel");
    let ko = module(&["depends="]);
    check(
        &with(&format!("{inside}/../../../../../escaped.ko"), EntryType::Regular, &ko),
        &format!("BAD: its entry \"{inside}/../../../../../escaped.ko\" leads out of the package"),
    );
    check(
        &with("/lib/x.ko", EntryType::Regular, &ko),
        "BAD: its entry \"/lib/x.ko\" leads out of the package",
    );
    for kind in [EntryType::Symlink, EntryType::Link, EntryType::Fifo, EntryType::Char, EntryType::GNUSparse]
    {
        check(
            &with(&format!("{inside}/link.ko"), kind, b""),
            &format!("BAD: its entry \"{inside}/link.ko\" is no regular file"),
        );
    }
    check(
        &with("lib/modules/5.10.0/kernel/x.ko", EntryType::Regular, &ko),
        "the kernel is 6.1.0-test, but its modules are for 5.10.0, 6.1.0-test",
    );
    check(
        &with("boot/vmlinuz-5.10.0", EntryType::Regular, b"second"),
        "bad.deb holds several kernels: boot/vmlinuz-5.10.0, boot/vmlinuz-6.1.0-test",
    );
    check(
        &with("odd", EntryType::XHeader, b"20 size=99999999999\n"),
        "BAD: its entry \"odd\" has its size in an extended header",
    );
    check(
        &with("odd", EntryType::XHeader, b"99 path=x\n"),
        "BAD: its entry \"odd\" has a broken extended header",
    );
    check(
        &with("odd", EntryType::GNULongName, &[b'a'; 5000]),
        "BAD: its files cannot be unpacked: it unpacks to more than anything of its kind does",
    );
    check(
        &with(&format!("{inside}/virtio_blk.ko/x.ko"), EntryType::Regular, &ko),
        "refused \"kernel/virtio_blk.ko/x.ko\": it lies in what is a file",
    );
    check(
        &with(&format!("{inside}/virtio_blk.ko"), EntryType::Regular, &ko),
        "refused \"kernel/virtio_blk.ko\": it is there twice",
    );
    let bomb = gzip(&tar(&[("./usr/share/bomb", &vec![0; 40 << 20])]));
    check(
        &deb(&[("data.tar.gz", &bomb)]),
        "BAD: its files cannot be unpacked: it unpacks to more than anything of its kind does",
    );
    let module_bomb = gzip(&vec![0; 40 << 20]);
    check(
        &with(&format!("{inside}/bomb.ko.gz"), EntryType::Regular, &module_bomb),
        "cannot use the module kernel/bomb.ko.gz: it cannot be unpacked: it unpacks to more than anything of its kind does",
    );
    let mut huge = tar::Header::new_gnu();
    huge.set_path("boot/vmlinuz-huge").unwrap();
    huge.set_size(1 << 40);
    huge.set_entry_type(EntryType::Regular);
    huge.set_cksum();
    check(
        &deb(&[("data.tar", huge.as_bytes())]),
        "BAD: its entry \"boot/vmlinuz-huge\" is larger than any file of its kind",
    );
}

#[test]
fn an_import_can_be_cancelled() {
    let scratch = Scratch::new("kernel-cancelled");
    let path = scratch.file("linux.deb", &deb(&[("data.tar.gz", &gzip(&tar_of(&package())))]));
    let sources =
        [Source::Deb(vec![path]), directory(&scratch, CONFIG, &[("kernel/a.ko", module(&["depends="]))])];
    for source in sources {
        for allowed in 0..2 {
            let mut told = 0;
            let staging = scratch.dir(&format!("staging-{allowed}"));
            let result = kernel::import(&source, &staging, &mut |_| {
                told += 1;
                if told > allowed { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            });
            assert!(matches!(result, Err(KernelError::Cancelled)), "{result:?}");
            fs::remove_dir_all(staging).unwrap();
        }
    }
}

#[test]
fn a_manifest_of_another_version_is_refused() {
    let scratch = Scratch::new("kernel-manifest");
    let check = |json: &str, expect: &str| {
        scratch.file("manifest.json", json.as_bytes());
        let error = KernelManifest::read(scratch.path()).unwrap_err().to_string();
        assert_eq!(error.replace(&scratch.path().display().to_string(), "HERE"), expect);
    };
    check("{", "HERE/manifest.json is no manifest of a kernel");
    check(r#"{"version":1}"#, "HERE/manifest.json is no manifest of a kernel");
    check(
        r#"{"version":2,"anything":[]}"#,
        "HERE/manifest.json has version 2, which this banger does not know",
    );
    assert!(KernelManifest::read(Path::new("/nonexistent")).is_err());
}

proptest::proptest! {
    #![proptest_config(proptest::test_runner::Config { cases: 200, failure_persistence: None, ..Default::default() })]

    /// Whatever bytes are damaged, an answer comes: no panic, no endless loop, no memory without bound.
    #[test]
    fn damage_is_answered(packing in 0..5usize, damage in proptest::collection::vec((0.0..1.0f64, 0..=255u8), 1..8)) {
        let pack = [lz4, gzip, xz, zstd, lzma][packing];
        let hurt = |mut bytes: Vec<u8>| {
            for (place, value) in &damage {
                let at = (place * bytes.len() as f64) as usize;
                bytes[at] = *value;
            }
            bytes
        };
        let elf = vmlinux(Some(CONFIG));
        let _ = kernel::embedded_config(&hurt(elf.clone()));
        let _ = kernel::BootImage::identify(&hurt(elf.clone()));
        let image = hurt(bzimage(&pack(&elf)));
        let _ = kernel::BootImage::identify(&image);
        let _ = kernel::extract_vmlinux(&image);
        let scratch = Scratch::new("kernel-damage");
        let package = if packing == 0 { tar_of(&package()) } else { pack(&tar_of(&package())) };
        let path = scratch.file("linux.deb", &hurt(deb(&[("data.tar", &package)])));
        let _ = import(&scratch, &Source::Deb(vec![path]));
    }
}
