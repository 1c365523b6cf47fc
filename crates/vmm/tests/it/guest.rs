//! A kernel and an initramfs for the suite's guest, made once for each build.

use std::{
    fs,
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use image::{
    initramfs,
    kernel::{self, Source},
};
use model::boot::Machine;
use wire::session::Secret;

/// What every machine of the suite boots.
#[derive(Debug, Clone)]
pub struct Guest {
    /// What boot loaders start.
    pub kernel: PathBuf,
    /// The bare ELF file.
    pub elf: PathBuf,
    base: PathBuf,
}

impl Guest {
    /// The guest, where there are a kernel and QEMU.
    pub fn get() -> Option<&'static Self> {
        static GUEST: OnceLock<Option<Guest>> = OnceLock::new();
        GUEST.get_or_init(Self::make).as_ref()
    }

    fn make() -> Option<Self> {
        let dir = kernel_directory(&testkit::kernel_deb::path()?);
        let program = example("conformance_guest");
        let base = Path::new(env!("CARGO_TARGET_TMPDIR")).join("conformance-base");
        let staged = base.with_extension(std::process::id().to_string());
        let mut file = fs::File::create(&staged).unwrap();
        initramfs::base(&program, Some(&dir.join(kernel::MODULES_CPIO)), &mut file).unwrap();
        // Another run of the tests may be using it.
        fs::rename(&staged, &base).unwrap();
        Some(Self { kernel: dir.join(kernel::VMLINUZ), elf: dir.join(kernel::VMLINUX), base })
    }

    /// The same with `kernel`, an ELF file that needs no modules.
    pub fn with_kernel(&self, kernel: PathBuf) -> Self {
        let base = self.base.with_extension("without-modules");
        let staged = base.with_extension(std::process::id().to_string());
        let mut file = fs::File::create(&staged).unwrap();
        initramfs::base(&example("conformance_guest"), None, &mut file).unwrap();
        fs::rename(&staged, &base).unwrap();
        Self { elf: kernel, base, ..self.clone() }
    }

    /// Writes the boot payload for `machine` with `secret` to `path`.
    pub fn payload(&self, machine: Machine, secret: &Secret, path: &Path) {
        let config = match machine {
            Machine::Pc => secret.to_hex(),
            Machine::Firecracker => "vsock".to_owned(),
        };
        initramfs::assemble(&self.base, config.as_bytes(), path).unwrap();
    }
}

/// The imported kernel, kept between runs: its import is not what is tested here.
fn kernel_directory(deb: &Path) -> PathBuf {
    let name = deb.file_stem().unwrap().to_string_lossy().into_owned();
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("kernel-{name}"));
    let lock = fs::File::create(dir.with_extension("lock")).unwrap();
    lock.lock().unwrap();
    if !dir.join("manifest.json").exists() {
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir(&dir).unwrap();
        kernel::import(&Source::Deb(vec![deb.to_owned()]), &dir, &mut |_| ControlFlow::Continue(())).unwrap();
    }
    dir
}

/// The example `name`, up to date: cargo builds examples only for some ways of running these tests.
pub fn example(name: &str) -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let mut cargo = std::process::Command::new(env!("CARGO"));
    cargo
        .args(["rustc", "--quiet", "--offline", "--package", "vmm", "--example", name, "--target-dir"])
        .arg(target);
    // A guest has nothing but its program, and some take long to unpack what is large.
    cargo.args(["--", "-C", "target-feature=+crt-static", "-C", "strip=symbols"]);
    let status = cargo.current_dir(env!("CARGO_MANIFEST_DIR")).status().unwrap();
    assert!(status.success(), "{name} builds");
    target.join("debug/examples").join(name)
}
