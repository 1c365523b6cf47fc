//! Debian's real kernel as other distributions pack and lay out theirs, by the tools and with the flags that kernels are built with: what
//! comes of it is always the same.

use std::{
    fs,
    ops::ControlFlow,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use image::kernel::{self, KernelManifest, Source};

use crate::{
    kernel_forge::gzip,
    kernel_support::{Scratch, run},
};

/// How `arch/x86/boot/compressed/Makefile` packs, but at the levels that take the least time; all but gzip get the length appended.
const PAYLOADS: [(&str, &str); 6] = [
    ("gzip", "gzip -n -1"),
    ("bzip2", "bzip2 -1"),
    ("lzma", "xz --format=lzma --lzma1=preset=0,dict=64MiB"),
    ("xz", "xz --check=crc32 --x86 --lzma2=preset=0,dict=32MiB"),
    ("lz4", "lz4 -q -l -1"),
    ("zstd", "zstd -q -1 --ultra --long=27"),
];

/// How `scripts/Makefile.modinst` packs modules, likewise.
const MODULES: [(&str, &str); 3] =
    [("gz", "gzip -n -1"), ("xz", "xz --check=crc32 --lzma2=preset=0,dict=1MiB"), ("zst", "zstd -q -1 --rm")];

/// The parts of the module tree that say most of it; all would take long to pack.
const PARTS: [&str; 7] = [
    "drivers/virtio",
    "drivers/block",
    "drivers/char",
    "fs",
    "net/vmw_vsock",
    "net/core",
    "drivers/net/virtio_net.ko",
];

/// Debian's kernel, unpacked, and what is packed in it.
struct Debian {
    scratch: Scratch,
    root: PathBuf,
    release: String,
    bzimage: Vec<u8>,
    elf: Vec<u8>,
}

impl Debian {
    fn new(name: &str) -> Option<Self> {
        for program in ["bzip2", "gzip", "lz4", "xz", "zstd"] {
            testkit::need::program(program, program)?;
        }
        let deb = testkit::kernel_deb::path()?;
        let scratch = Scratch::new(name);
        let root = scratch.dir("debian");
        run(Command::new("dpkg-deb").arg("-x").arg(deb).arg(&root));
        let image = fs::read_dir(root.join("boot")).unwrap().map(|entry| entry.unwrap().path());
        let image = image.into_iter().find(|path| path.to_string_lossy().contains("/vmlinuz-")).unwrap();
        let release = image.file_name().unwrap().to_str().unwrap()["vmlinuz-".len()..].to_owned();
        let bzimage = fs::read(image).unwrap();
        let elf = kernel::extract_vmlinux(&bzimage).unwrap();
        Some(Self { scratch, root, release, bzimage, elf })
    }

    /// The same kernel with the packed `payload` in it.
    fn with(&self, payload: &[u8]) -> Vec<u8> {
        let number = |at: usize| u32::from_le_bytes(self.bzimage[at..at + 4].try_into().unwrap()) as usize;
        let begin = (usize::from(self.bzimage[0x1f1]) + 1) * 512;
        let mut bytes = self.bzimage[..begin + number(0x248)].to_vec();
        bytes.extend(payload);
        bytes.resize(bytes.len().next_multiple_of(16), 0);
        let mut put = |at: usize, value: usize| {
            bytes[at..at + 4].copy_from_slice(&u32::try_from(value).unwrap().to_le_bytes());
        };
        put(0x24c, payload.len());
        let paragraphs = (begin + number(0x248) + payload.len()).next_multiple_of(16) - begin;
        put(0x1f4, paragraphs / 16);
        bytes
    }

    /// A `bzImage` with `elf` packed as `how` says.
    fn packed(&self, how: &str, elf: &[u8]) -> Vec<u8> {
        let (_, line) = PAYLOADS.iter().find(|(name, _)| *name == how).unwrap();
        let plain = self.scratch.file("vmlinux.bin", elf);
        let mut payload = piped(line, &plain);
        if how != "gzip" {
            payload.extend(u32::try_from(elf.len()).unwrap().to_le_bytes());
        }
        self.with(&payload)
    }

    /// Copies [`PARTS`] of the module tree to `tree`, with the modules packed as `how` says.
    fn modules(&self, tree: &Path, how: Option<&str>) {
        let from = self.root.join("lib/modules").join(&self.release);
        for part in PARTS {
            let to = tree.join("kernel").join(part);
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            run(Command::new("cp").arg("-r").arg(from.join("kernel").join(part)).arg(to));
        }
        for list in ["modules.order", "modules.builtin", "modules.builtin.modinfo"] {
            fs::copy(from.join(list), tree.join(list)).unwrap();
        }
        if let Some(how) = how {
            let (_, line) = MODULES.iter().find(|(name, _)| *name == how).unwrap();
            let words: Vec<_> = line.split(' ').collect();
            run(Command::new("find")
                .arg(tree)
                .args(["-name", "*.ko", "-exec"])
                .args(words)
                .args(["{}", "+"]));
            let left = run(Command::new("find").arg(tree).args(["-name", "*.ko"]));
            assert_eq!(left, "", "all are packed");
        }
    }

    fn config(&self) -> PathBuf {
        self.root.join("boot").join(format!("config-{}", self.release))
    }

    /// Imports `source`, and gives the bytes of the packed and of the whole module tree, and the unpacked kernel.
    fn import(&self, source: Source) -> (KernelManifest, [Vec<u8>; 3]) {
        let staging = self.scratch.path().join("staging");
        let _ = fs::remove_dir_all(&staging);
        fs::create_dir(&staging).unwrap();
        let manifest = kernel::import(&source, &staging, &mut |_| ControlFlow::Continue(())).unwrap();
        assert_eq!(manifest.release, self.release);
        let read = |name| fs::read(staging.join(name)).unwrap();
        (manifest, [kernel::MODULES_CPIO, kernel::MODULES_EXT4, kernel::VMLINUX].map(read))
    }
}

/// What the program `line` makes of the file `from`, from a pipe to a pipe as in the kernel's build.
fn piped(line: &str, from: &Path) -> Vec<u8> {
    let mut words = line.split(' ');
    let mut command = Command::new(words.next().unwrap());
    let output = command.args(words).stdin(fs::File::open(from).unwrap()).stderr(Stdio::inherit()).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{line}");
    output.stdout
}

#[test]
fn a_kernel_packed_in_any_way_is_the_same_kernel() {
    let Some(debian) = Debian::new("kernel-payloads") else { return };
    for (how, _) in PAYLOADS {
        let image = debian.packed(how, &debian.elf);
        assert!(kernel::extract_vmlinux(&image).unwrap() == debian.elf, "{how}");
    }
}

#[test]
fn kernels_laid_out_as_other_distributions_do_are_the_same_kernel() {
    let Some(debian) = Debian::new("kernel-layouts") else { return };
    let release = &debian.release;
    let fresh = |name: &str| {
        let dir = debian.scratch.path().join(name);
        fs::create_dir_all(&dir).unwrap();
        dir
    };
    let put = |root: &Path, path: &str, content: &[u8]| {
        fs::create_dir_all(root.join(path).parent().unwrap()).unwrap();
        fs::write(root.join(path), content).unwrap();
    };
    let config = fs::read(debian.config()).unwrap();
    let plain = fresh("plain");
    put(&plain, &format!("boot/vmlinuz-{release}"), &debian.bzimage);
    put(&plain, &format!("boot/config-{release}"), &config);
    debian.modules(&plain.join("lib/modules").join(release), None);
    let (expected, files) = debian.import(Source::Directory(plain));
    assert!(expected.module_count > 50 && expected.boot_modules.len() > 5, "{expected:?}");
    let check = |what: &str, source: Source| {
        let (found, [cpio, ext4, vmlinux]) = debian.import(source);
        assert_eq!(found.features, expected.features, "{what}");
        assert_eq!(found.boot_modules, expected.boot_modules, "{what}");
        assert!(cpio == files[0] && ext4 == files[1], "{what}");
        assert!(vmlinux.starts_with(&files[2]), "{what}");
    };

    // Two packages, the second with configuration and modules.
    let (image, modules) = (fresh("ubuntu-image"), fresh("ubuntu-modules"));
    put(&image, &format!("boot/vmlinuz-{release}"), &debian.packed("zstd", &debian.elf));
    put(&modules, &format!("boot/config-{release}"), &config);
    put(&modules, &format!("boot/System.map-{release}"), b"");
    debian.modules(&modules.join("lib/modules").join(release), Some("zst"));
    let packages = [image, modules].map(|root| {
        put(
            &root,
            "DEBIAN/control",
            b"Package: linux\nVersion: 1\nArchitecture: amd64\nMaintainer: a <a@b>\nDescription: x\n",
        );
        fs::set_permissions(root.join("DEBIAN"), PermissionsExt::from_mode(0o755)).unwrap();
        let deb = root.with_extension("deb");
        run(Command::new("dpkg-deb")
            .args(["-Zzstd", "-z1", "--root-owner-group", "-b"])
            .arg(&root)
            .arg(&deb));
        deb
    });
    check("Ubuntu", Source::Deb(packages.to_vec()));

    // kernel-core and kernel-modules-core, unpacked into one directory.
    let fedora = fresh("fedora");
    let tree = format!("lib/modules/{release}");
    put(&fedora, &format!("{tree}/vmlinuz"), &debian.packed("zstd", &debian.elf));
    put(&fedora, &format!("{tree}/config"), &config);
    put(&fedora, &format!("{tree}/System.map"), b"");
    debian.modules(&fedora.join(&tree), Some("xz"));
    check("Fedora", Source::Directory(fedora));

    // The configuration is in the kernel alone.
    let arch = fresh("arch");
    let tree = format!("usr/lib/modules/{release}");
    let elf = [&debian.elf[..], b"IKCFG_ST", &gzip(&config), b"IKCFG_ED"].concat();
    put(&arch, &format!("{tree}/vmlinuz"), &debian.packed("zstd", &elf));
    put(&arch, &format!("{tree}/pkgbase"), b"linux\n");
    debian.modules(&arch.join(&tree), Some("zst"));
    check("Arch", Source::Directory(arch));

    // The kernel is called by its flavour, the rest by its release.
    let alpine = fresh("alpine");
    put(&alpine, "boot/vmlinuz-virt", &debian.packed("gzip", &debian.elf));
    put(&alpine, &format!("boot/config-{release}"), &config);
    put(&alpine, &format!("lib/modules/{release}/kernel-suffix"), b"-virt\n");
    debian.modules(&alpine.join("lib/modules").join(release), Some("gz"));
    check("Alpine", Source::Directory(alpine));
}
