//! A kernel and an initramfs for the suite's guest, made once for each build.

use std::{
    fs,
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use image::{
    initramfs::{self, Archive, Entry},
    kernel::{self, Source},
};
use wire::session::Secret;

/// What every machine of the suite boots.
#[derive(Debug)]
pub struct Guest {
    pub kernel: PathBuf,
    base: PathBuf,
}

impl Guest {
    /// The guest, where there are a kernel and QEMU.
    pub fn get() -> Option<&'static Self> {
        static GUEST: OnceLock<Option<Guest>> = OnceLock::new();
        GUEST.get_or_init(Self::make).as_ref()
    }

    fn make() -> Option<Self> {
        testkit::need::qemu()?;
        let dir = kernel_directory(&testkit::kernel_deb::path()?);
        let program = program();
        let base = Path::new(env!("CARGO_TARGET_TMPDIR")).join("conformance-base");
        let staged = base.with_extension(std::process::id().to_string());
        let mut archive = Archive::new(Vec::new());
        add_libraries(&mut archive, &program);
        let mut file = fs::File::create(&staged).unwrap();
        initramfs::base(&program, Some(&dir.join(kernel::MODULES_CPIO)), &mut file).unwrap();
        let length = file.metadata().unwrap().len();
        assert_eq!(length % 4, 0, "archives are padded");
        std::io::Write::write_all(&mut file, &archive.finish().unwrap()).unwrap();
        // Another run of the tests may be using it.
        fs::rename(&staged, &base).unwrap();
        Some(Self { kernel: dir.join(kernel::VMLINUZ), base })
    }

    /// Writes the boot payload with `secret` to `path`.
    pub fn payload(&self, secret: &Secret, path: &Path) {
        initramfs::assemble(&self.base, secret.to_hex().as_bytes(), path).unwrap();
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

/// The example `conformance_guest`, up to date: cargo builds examples only for some ways of running these tests.
fn program() -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let mut cargo = std::process::Command::new(env!("CARGO"));
    cargo.args([
        "build",
        "--quiet",
        "--offline",
        "--package",
        "vmm",
        "--example",
        "conformance_guest",
        "--target-dir",
    ]);
    let status = cargo.arg(target).current_dir(env!("CARGO_MANIFEST_DIR")).status().unwrap();
    assert!(status.success(), "the guest builds");
    target.join("debug/examples/conformance_guest")
}

/// The shared libraries that `program` needs, where it looks for them.
fn add_libraries(archive: &mut Archive<Vec<u8>>, program: &Path) {
    let listing = std::process::Command::new("ldd").arg(program).output().unwrap();
    let listing = String::from_utf8(listing.stdout).unwrap();
    let libraries =
        listing.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    let mut made = Vec::new();
    for library in libraries {
        let mut below = String::new();
        for part in Path::new(library).parent().unwrap().iter().skip(1) {
            below += &format!("{}{}", if below.is_empty() { "" } else { "/" }, part.to_string_lossy());
            if !made.contains(&below) {
                archive.add(&below, &Entry::Directory).unwrap();
                made.push(below.clone());
            }
        }
        let content = fs::read(library).unwrap();
        archive.add(&library[1..], &Entry::File { mode: 0o755, content: &content }).unwrap();
    }
}
