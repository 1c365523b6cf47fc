//! Where a kernel's files lie in each kind of source.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    ops::ControlFlow,
    path::{Path, PathBuf},
};

use host::fs;

use super::{
    BootImage, Found, KernelError, Progress,
    boot_image::MAX_CONFIG,
    compression,
    deb::{self, DebError, FileKind, PackedFile},
    tree::{MAX_MODULE, ModuleTree},
};

/// More than any bootable file, a `vmlinux` with debug information included.
const MAX_IMAGE: u64 = 1 << 30;
/// The directories that module trees lie in, before and after `/usr` was merged.
const TREES: [&str; 2] = ["lib/modules", "usr/lib/modules"];

/// What a file of a root directory is to a kernel.
#[derive(Debug, PartialEq, Eq)]
enum Part<'a> {
    /// A bootable file. The lowest rank found counts.
    Image {
        rank: u8,
    },
    Config,
    /// A file of the module tree of a release.
    Tree {
        release: &'a str,
        path: &'a str,
    },
}

impl<'a> Part<'a> {
    /// What the file at `path` is.
    fn of(path: &'a str) -> Option<Self> {
        match path {
            "vmlinuz" => return Some(Self::Image { rank: 0 }),
            "vmlinux" => return Some(Self::Image { rank: 1 }),
            "config" => return Some(Self::Config),
            _ => {}
        }
        if let Some(file) = path.strip_prefix("boot/") {
            return match file {
                _ if file.contains('/') => None,
                _ if file.starts_with("vmlinuz-") => Some(Self::Image { rank: 2 }),
                _ if file.starts_with("vmlinux-") => Some(Self::Image { rank: 3 }),
                _ if file.starts_with("config-") => Some(Self::Config),
                _ => None,
            };
        }
        let tree = TREES.iter().find_map(|dir| path.strip_prefix(dir)?.strip_prefix('/'))?;
        let (release, path) = tree.split_once('/')?;
        match path {
            "vmlinuz" => Some(Self::Image { rank: 4 }),
            "config" => Some(Self::Config),
            _ => ModuleTree::wants(path).then_some(Self::Tree { release, path }),
        }
    }
}

/// The kernel in Debian packages.
pub(super) fn from_debs(
    paths: &[PathBuf],
    mut modules: ModuleTree,
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<Found, KernelError> {
    let names = paths.iter().map(|path| file_name(path)).collect::<Vec<_>>().join(", ");
    let mut images = BTreeMap::new();
    let mut config = None;
    let mut releases = BTreeSet::new();
    for path in paths {
        let fail = |cause| KernelError::Deb { path: path.clone(), cause };
        let mut take = |entry: PackedFile<'_>| -> Result<(), DebOrKernel> {
            let Some(part) = Part::of(entry.path) else { return Ok(()) };
            let limit = match part {
                Part::Image { .. } => MAX_IMAGE,
                Part::Config => MAX_CONFIG,
                Part::Tree { .. } => MAX_MODULE,
            };
            let refuse = |why| DebError::Entry { entry: entry.path.to_owned(), why };
            if entry.kind != FileKind::Regular {
                return Err(refuse("is no regular file").into());
            }
            if entry.size > limit {
                return Err(refuse("is larger than any file of its kind").into());
            }
            let mut content = Vec::new();
            entry.content.read_to_end(&mut content).map_err(DebError::Unpack)?;
            if content.len() as u64 != entry.size {
                return Err(DebError::Truncated.into());
            }
            match part {
                Part::Image { rank } => {
                    images.insert((rank, entry.path.to_owned()), content);
                }
                Part::Config => config = Some(content),
                Part::Tree { release, path } => {
                    modules.add(path, content)?;
                    releases.insert(release.to_owned());
                }
            }
            Ok(())
        };
        let deb = fs::open(path)?;
        let mut cancelled = false;
        let mut tell = |done, total| {
            let flow = progress(Progress::Reading { done, total });
            cancelled = flow.is_break();
            flow
        };
        let read = deb::each_file(&deb, &mut tell, &mut take);
        read.map_err(|error| match error {
            DebOrKernel::Deb(_) if cancelled => KernelError::Cancelled,
            DebOrKernel::Deb(cause) => fail(cause),
            DebOrKernel::Kernel(error) => error,
        })?;
    }
    let (file, image) = single(images, &names)?;
    Ok(Found { source: names, file, image, config, modules, releases })
}

/// The kernel in a directory that is laid out like a root, or has `vmlinuz` and `lib/modules`.
pub(super) fn from_directory(
    dir: &Path,
    modules: ModuleTree,
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<Found, KernelError> {
    fs::open(dir)?; // what is below is looked for and may be missing, but this must be there
    let mut images = BTreeMap::new();
    let trees = TREES.map(|tree| dir.join(tree));
    let mut candidates = vec![dir.join("vmlinuz"), dir.join("vmlinux")];
    candidates.extend(fs::list(&dir.join("boot"))?);
    for tree in &trees {
        candidates.extend(fs::list(tree)?.into_iter().map(|release| release.join("vmlinuz")));
    }
    for path in candidates {
        let relative = path.strip_prefix(dir).ok().and_then(Path::to_str);
        if let Some((relative, Part::Image { rank })) = relative.and_then(|r| Some((r, Part::of(r)?)))
            && path.exists()
        {
            images.insert((rank, relative.to_owned()), path);
        }
    }
    let place = dir.display().to_string();
    let (file, path) = single(images, &place)?;
    let release_of = |image: &[u8]| -> Result<String, KernelError> {
        let refuse = |cause| KernelError::BootImage { file: file.clone(), cause };
        Ok(BootImage::identify(image).map_err(refuse)?.release)
    };
    let image = fs::read_limited(&path, MAX_IMAGE)?;
    let release = release_of(&image)?;
    let configs = ["config".to_owned(), ".config".to_owned(), format!("boot/config-{release}")];
    let in_trees = trees.iter().map(|tree| tree.join(&release).join("config"));
    let config = first_of(configs.iter().map(|name| dir.join(name)).chain(in_trees))?;
    let mut found = Found { source: place, file, image, config, modules, releases: BTreeSet::new() };
    match trees.iter().map(|tree| tree.join(&release)).find(|tree| tree.is_dir()) {
        Some(tree) => add_tree(&tree, &mut found.modules, progress)?,
        // Modules of other releases only: the wrong vmlinuz, most likely, and worth more than "no modules".
        None => {
            for tree in trees.iter().filter(|tree| tree.is_dir()) {
                found.releases.extend(fs::list(tree)?.iter().map(|path| file_name(path)));
            }
        }
    }
    Ok(found)
}

/// The kernel in a bare file.
pub(super) fn from_image(path: &Path, modules: ModuleTree) -> Result<Found, KernelError> {
    let image = fs::read_limited(path, MAX_IMAGE)?;
    let file = path.display().to_string();
    Ok(Found { source: file.clone(), file, image, config: None, modules, releases: BTreeSet::new() })
}

/// The kernel that runs the machine whose root directory is `root`.
pub(super) fn from_host(
    root: &Path,
    modules: ModuleTree,
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<Found, KernelError> {
    let release = fs::read_text(&root.join("proc/sys/kernel/osrelease"))?.trim().to_owned();
    let trees = TREES.map(|tree| root.join(tree).join(&release));
    let images = [
        root.join("boot").join(format!("vmlinuz-{release}")),
        trees[0].join("vmlinuz"),
        trees[1].join("vmlinuz"),
    ];
    let candidates = images.into_iter().map(|path| (fs::read_limited(&path, MAX_IMAGE), path));
    let (path, image) = first_readable(candidates, &release)?;
    let configs = [
        root.join("boot").join(format!("config-{release}")),
        trees[0].join("config"),
        trees[1].join("config"),
    ];
    let mut config = first_of(configs.into_iter())?;
    if config.is_none()
        && let Some(packed) = first_of([root.join("proc/config.gz")].into_iter())?
    {
        config = compression::unpack(packed, MAX_CONFIG).ok();
    }
    let file = path.display().to_string();
    let source = format!("host {release}");
    let mut found = Found { source, file, image, config, modules, releases: BTreeSet::new() };
    if let Some(tree) = trees.iter().find(|tree| tree.is_dir()) {
        add_tree(tree, &mut found.modules, progress)?;
        found.releases.insert(release);
    }
    Ok(found)
}

/// The first of the host's bootable files that can be read. Ubuntu lets only root read its kernels.
fn first_readable(
    candidates: impl Iterator<Item = (host::Result<Vec<u8>>, PathBuf)>,
    release: &str,
) -> Result<(PathBuf, Vec<u8>), KernelError> {
    let mut unreadable = None;
    for (read, path) in candidates {
        match read {
            Ok(image) => return Ok((path, image)),
            Err(e) if e.is_missing() => {}
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => unreadable = unreadable.or(Some(path)),
            Err(e) => return Err(e.into()),
        }
    }
    Err(match unreadable {
        Some(path) => KernelError::Unreadable { path },
        None => KernelError::NoKernel { place: format!("this machine, which runs {release},") },
    })
}

/// The one image of the best rank.
fn single<T>(images: BTreeMap<(u8, String), T>, place: &str) -> Result<(String, T), KernelError> {
    let best = images.keys().next().map(|(rank, _)| *rank);
    let mut best: Vec<_> = images.into_iter().filter(|((rank, _), _)| Some(*rank) == best).collect();
    match best.len() {
        0 => Err(KernelError::NoKernel { place: place.to_owned() }),
        1 => {
            let ((_, file), image) = best.remove(0);
            Ok((file, image))
        }
        _ => {
            let found = best.into_iter().map(|((_, file), _)| file).collect();
            Err(KernelError::SeveralKernels { place: place.to_owned(), found })
        }
    }
}

/// The first of `paths` that is there and can be read; a configuration that only root can read is as good as none.
fn first_of(paths: impl Iterator<Item = PathBuf>) -> Result<Option<Vec<u8>>, KernelError> {
    for path in paths {
        match fs::read_limited(&path, MAX_CONFIG) {
            Ok(bytes) => return Ok(Some(bytes)),
            Err(e) if e.is_missing() || e.kind() == io::ErrorKind::PermissionDenied => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(None)
}

/// Adds what lies in the module tree `dir`.
fn add_tree(
    dir: &Path,
    modules: &mut ModuleTree,
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<(), KernelError> {
    const MAX_DEPTH: usize = 32;
    let mut files = Vec::new();
    let mut open = vec![(dir.to_owned(), 0)];
    while let Some((at, depth)) = open.pop() {
        for path in fs::list(&at)? {
            let meta = path.symlink_metadata().map_err(|e| host::Error::path("stat", &path, e))?;
            let Some(relative) = path.strip_prefix(dir).ok().and_then(Path::to_str) else { continue };
            if meta.is_dir() && depth < MAX_DEPTH {
                open.push((path, depth + 1));
            } else if meta.is_file() && ModuleTree::wants(relative) {
                files.push((relative.to_owned(), meta.len()));
            }
        }
    }
    files.sort();
    let total = files.iter().map(|(_, size)| size).sum();
    let mut done = 0;
    for (relative, size) in files {
        modules.add(&relative, fs::read_limited(&dir.join(&relative), MAX_MODULE)?)?;
        done += size;
        if progress(Progress::Reading { done, total }).is_break() {
            return Err(KernelError::Cancelled);
        }
    }
    Ok(())
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

/// What stops the reading of a package: the package, or what is in it.
enum DebOrKernel {
    Deb(DebError),
    Kernel(KernelError),
}

impl From<DebError> for DebOrKernel {
    fn from(error: DebError) -> Self {
        Self::Deb(error)
    }
}

impl From<KernelError> for DebOrKernel {
    fn from(error: KernelError) -> Self {
        Self::Kernel(error)
    }
}

#[cfg(test)]
mod tests {
    use std::{fs as plain, io::Write};

    use super::*;
    use crate::kernel::modinfo::tests::module;

    /// A machine's root directory with these files, and where to collect modules.
    struct Machine(PathBuf);

    impl Machine {
        fn new(name: &str, files: &[(&str, &[u8])]) -> Self {
            let root = std::env::temp_dir().join(format!("banger-image-{name}-{}", std::process::id()));
            let _ = fs::remove_all(&root);
            for (path, content) in files {
                let path = root.join(path);
                plain::DirBuilder::new().recursive(true).create(path.parent().unwrap()).unwrap();
                fs::create_new(&path).unwrap().write_all(content).unwrap();
            }
            Self(root)
        }

        fn find(&self) -> Result<Found, KernelError> {
            let tree = ModuleTree::new(&self.0.join("modules.ext4"))?;
            from_host(&self.0, tree, &mut |_| ControlFlow::Continue(()))
        }
    }

    impl Drop for Machine {
        fn drop(&mut self) {
            let _ = fs::remove_all(&self.0);
        }
    }

    const RELEASE: (&str, &[u8]) = ("proc/sys/kernel/osrelease", b"6.1.0-5-amd64\n");

    #[test]
    fn the_host_gives_the_kernel_that_it_runs() {
        let ko = module(&["depends="]);
        let machine = Machine::new(
            "host",
            &[
                RELEASE,
                ("boot/vmlinuz-6.1.0-4-amd64", b"older"),
                ("boot/vmlinuz-6.1.0-5-amd64", b"running"),
                ("boot/config-6.1.0-5-amd64", b"its config"),
                ("lib/modules/6.1.0-4-amd64/kernel/old.ko", &ko),
                ("lib/modules/6.1.0-5-amd64/kernel/overlay.ko", &ko),
            ],
        );
        let found = machine.find().unwrap();
        assert_eq!(
            (found.image.as_slice(), found.config.as_deref()),
            (&b"running"[..], Some(&b"its config"[..]))
        );
        assert_eq!(found.source, "host 6.1.0-5-amd64");
        assert_eq!(found.modules.index().unwrap().files.into_keys().collect::<Vec<_>>(), ["overlay"]);
    }

    #[test]
    fn the_host_keeps_its_kernel_beside_its_modules_or_its_configuration_in_proc() {
        let machine = Machine::new(
            "host-modern",
            &[
                RELEASE,
                ("usr/lib/modules/6.1.0-5-amd64/vmlinuz", b"running"),
                ("proc/config.gz", b"in the clear here"),
            ],
        );
        let found = machine.find().unwrap();
        assert_eq!(
            (found.image.as_slice(), found.config.as_deref()),
            (&b"running"[..], Some(&b"in the clear here"[..]))
        );
    }

    #[test]
    fn a_host_without_its_kernel_says_which_it_wants() {
        let machine = Machine::new("host-bare", &[RELEASE, ("boot/vmlinuz-6.1.0-4-amd64", b"older")]);
        let error = machine.find().err().unwrap().to_string();
        assert_eq!(
            error,
            "this machine, which runs 6.1.0-5-amd64, holds no kernel: neither vmlinuz nor boot/vmlinuz-*"
        );
    }

    #[test]
    fn a_kernel_that_only_root_reads_is_said_to_be_so() {
        let path = PathBuf::from("/boot/vmlinuz-6.8.0-45-generic");
        let denied =
            || (Err(host::Error::path("read", &path, io::ErrorKind::PermissionDenied)), path.clone());
        let missing =
            || (Err(host::Error::path("read", &path, io::ErrorKind::NotFound)), PathBuf::from("/other"));
        let error = first_readable([missing(), denied(), missing()].into_iter(), "6.8.0").unwrap_err();
        assert_eq!(error.to_string(), "only root can read the host's kernel /boot/vmlinuz-6.8.0-45-generic");
        assert!(error.hint().unwrap().contains("chmod a+r /boot/vmlinuz-6.8.0-45-generic"));
        let readable = (Ok(b"kernel".to_vec()), PathBuf::from("/readable"));
        let found = first_readable([denied(), readable].into_iter(), "6.8.0").unwrap();
        assert_eq!(found.0, Path::new("/readable"));
    }

    #[test]
    fn what_a_path_is_to_a_kernel() {
        let check = |path, expect| assert_eq!(Part::of(path), expect, "{path}");
        check("vmlinuz", Some(Part::Image { rank: 0 }));
        check("boot/vmlinuz-6.1", Some(Part::Image { rank: 2 }));
        check("boot/grub/vmlinuz-6.1", None);
        check("boot/System.map-6.1", None);
        check("usr/lib/debug/boot/vmlinux-6.1", None);
        check("boot/config-6.1", Some(Part::Config));
        check("usr/lib/modules/6.1/vmlinuz", Some(Part::Image { rank: 4 }));
        check("lib/modules/6.1/kernel/a.ko.xz", Some(Part::Tree { release: "6.1", path: "kernel/a.ko.xz" }));
        check(
            "lib/modules/6.1/modules.builtin",
            Some(Part::Tree { release: "6.1", path: "modules.builtin" }),
        );
        check("lib/modules/6.1/modules.dep", None);
        check("lib/modules/6.1/build", None);
        check("lib/modules-load.d/a.ko", None);
        check("lib/modules", None);
    }
}
