//! The world as it is at one moment: database, ledger, files and processes; and what of it belongs to nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use model::{
    network::Link,
    undo::{NewDisk, Undo},
    vm::State,
};
use store::Store;
use testkit::tree;
use wire::helper::Status;

/// Writable disks by VM and file, each with its inode and size.
pub type Disks = BTreeMap<String, (u64, u64)>;

/// What there is, by names.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Scene {
    /// What people see, without identities that differ from run to run: `vm a running`.
    pub seen: BTreeSet<String>,
    /// Which disks there are.
    pub disks: Disks,
    /// What should not be there, or is missing.
    pub leaks: Vec<String>,
}

impl Scene {
    /// Looks at the installation in `home`, where nothing is under way.
    pub fn of(home: &Path) -> Self {
        let state = home.join("state");
        let store = Store::open(&state.join("banger.db")).unwrap();
        let mut scene = Self::default();
        let mut processes = processes(home);
        let mut companions = companions(home);
        let mut ledger = store.ledger_list(None).unwrap();
        let (mut vms, mut images) = (BTreeSet::new(), BTreeSet::new());
        let (mut kernels, mut snapshots) = (BTreeSet::new(), BTreeSet::new());
        for vm in store.vm_list().unwrap() {
            let nat = if vm.network.nat.is_on() { ", nat" } else { "" };
            scene.seen.insert(format!("vm {} {}{nat}", vm.name, vm.state));
            if matches!(vm.state, State::Starting | State::Stopping | State::Deleting) {
                scene.leaks.push(format!("{} is {} while nothing is under way", vm.name, vm.state));
            }
            vms.insert(vm.id.to_string());
            let directory = state.join("vms").join(vm.id.to_string());
            let runs = vm.state == State::Running;
            let mut own = Vec::new();
            ledger.retain(|entry| {
                let is_own = entry.vm == Some(vm.id);
                if is_own {
                    own.push(entry.clone());
                }
                !is_own
            });
            // It gets a directory when it first starts.
            let mut missing = BTreeSet::new();
            if runs || directory.exists() {
                missing.insert("vm_directory");
            }
            if runs {
                missing.extend(["run_directory", "process"]);
                match vm.network.link {
                    Some(Link::Namespace) if vm.network.nat.is_on() => drop(missing.insert("companion")),
                    Some(Link::Bridge) => missing.extend(["rules", "tap"]),
                    Some(Link::Namespace | Link::BuiltIn) | None => {}
                }
            }
            for entry in own {
                if !(entry.taken && missing.remove(entry.undo.kind())) {
                    scene.leaks.push(format!("ledger: {entry:?} of {} in {}", vm.name, vm.state));
                }
                if let Undo::Companion(process) = &entry.undo
                    && !companions.remove(&process.pid)
                {
                    scene.leaks.push(format!("{}: its companion is not there", vm.name));
                }
                if let Undo::Process(process) = &entry.undo {
                    match processes.remove(&process.pid) {
                        Some(place) if place == directory.join("run") => {}
                        other => scene.leaks.push(format!("{}: its process is {other:?}", vm.name)),
                    }
                }
            }
            scene.leaks.extend(missing.iter().map(|kind| format!("{}: no {kind} in the ledger", vm.name)));
            if runs || directory.exists() {
                scene.look_into(&directory, vm.name.as_str(), runs);
            }
        }
        for image in store.image_list().unwrap() {
            let rootfs = state.join("images").join(&image.id).join("rootfs.ext4");
            let elsewhere = if rootfs.is_symlink() { ", registered" } else { "" };
            let name = match image.is_superseded() {
                // Its own name has its id in it.
                true => format!("{}, superseded", image.name.as_str().rsplit_once('-').unwrap().0),
                false => image.name.to_string(),
            };
            scene.seen.insert(format!("image {name}{elsewhere}"));
            if !rootfs.is_file() {
                scene.leaks.push(format!("image {} has no file", image.name));
            }
            images.insert(image.id);
        }
        for kernel in store.kernel_list().unwrap() {
            let file = state.join("kernels").join(&kernel.id).join("vmlinux");
            let elsewhere = if file.is_symlink() { ", registered" } else { "" };
            scene.seen.insert(format!("kernel {}{elsewhere}", kernel.name));
            if !file.is_file() {
                scene.leaks.push(format!("kernel {} has no file", kernel.name));
            }
            kernels.insert(kernel.id);
        }
        for snapshot in store.snapshot_list().unwrap() {
            scene.seen.insert(format!("snapshot {}", snapshot.name));
            let found = names(&state.join("snapshots").join(&snapshot.id));
            if found != ["overlay.ext4", "state", "work.ext4"] {
                scene.leaks.push(format!("snapshot {} has the files {found:?}", snapshot.name));
            }
            snapshots.insert(snapshot.id);
        }
        for name in names(&state.join("catalogs")) {
            match name.strip_suffix(".json") {
                Some(kind) => drop(scene.seen.insert(format!("catalog {kind}"))),
                None => scene.leaks.push(format!("catalogs/{name} is left")),
            }
        }
        scene.leaks.extend(ledger.iter().map(|entry| format!("ledger: {entry:?} of nothing")));
        scene.leaks.extend(companions.iter().map(|pid| format!("companion {pid} of nothing")));
        scene
            .leaks
            .extend(processes.iter().map(|(pid, place)| format!("process {pid} in {}", place.display())));
        for (place, known) in [
            ("vms", vms),
            ("images", images),
            ("kernels", kernels),
            ("snapshots", snapshots),
            ("staging", BTreeSet::new()),
        ] {
            let strays = names(&state.join(place)).into_iter().filter(|name| !known.contains(name));
            scene.leaks.extend(strays.map(|name| format!("{place}/{name} belongs to nothing")));
        }
        for place in ["aside", "partial"] {
            let left = names(&home.join("cache").join(place));
            scene.leaks.extend(left.iter().map(|name| format!("cache/{place}/{name} is left")));
        }
        for place in ["templates", "payload"] {
            let unfinished = names(&home.join("cache").join(place))
                .into_iter()
                .filter(|n| n.starts_with('.') || n.ends_with(".new"));
            scene.leaks.extend(unfinished.map(|name| format!("cache/{place}/{name} is unfinished")));
        }
        scene
    }

    /// Looks at what the helper has for the installation in `home`.
    pub fn look_at_bridge(&mut self, home: &Path, status: &Status) {
        let store = Store::open(&home.join("state/banger.db")).unwrap();
        let vms = store.vm_list().unwrap();
        let on_bridge = |vm: &&store::Vm| vm.state == State::Running && vm.network.link == Some(Link::Bridge);
        let expect: BTreeSet<_> = vms.iter().filter(on_bridge).map(|vm| vm.id).collect();
        for (what, found) in [("taps", &status.taps), ("rules", &status.guests)] {
            let found: BTreeSet<_> = found.iter().copied().collect();
            if found != expect {
                self.leaks.push(format!("there are {what} of {found:?}, not of {expect:?}"));
            }
        }
        self.leaks.extend(
            vms.iter()
                .filter(|vm| vm.network.number.is_none())
                .map(|vm| format!("{} has no address", vm.name)),
        );
    }

    /// Looks at the directory of VM `name`.
    fn look_into(&mut self, directory: &Path, name: &str, runs: bool) {
        let disks = NewDisk::ALL.map(NewDisk::file);
        for entry in names(directory) {
            match entry.as_str() {
                "console.log" | "console.log.1" | "vmm.log" | "network.log" => {}
                "run" if runs => {}
                disk if disks.contains(&disk) => {
                    let about = std::fs::metadata(directory.join(disk)).unwrap();
                    self.disks.insert(format!("{name}/{disk}"), (about.ino(), about.len()));
                }
                _ => self.leaks.push(format!("{name}: {entry} is left in its directory")),
            }
        }
        if !directory.is_dir() || runs && !directory.join("run").is_dir() {
            self.leaks.push(format!("{name}: its directory is missing"));
        }
    }
}

fn names(directory: &Path) -> Vec<String> {
    let name = |path: PathBuf| path.file_name().unwrap().to_string_lossy().into_owned();
    tree::list(directory).into_iter().map(name).collect()
}

/// The processes that connect a network to the world and log below `home`. They have no working directory of ours.
pub fn companions(home: &Path) -> BTreeSet<u32> {
    let log = home.join("state/vms").display().to_string();
    let is_ours = |pid: &u32| {
        let words = host::fs::read(Path::new(&format!("/proc/{pid}/cmdline"))).unwrap_or_default();
        let program = words.split(|byte| *byte == 0).next().unwrap_or_default();
        program.ends_with(b"pasta") && String::from_utf8_lossy(&words).contains(&log)
    };
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(is_ours).collect()
}

/// The processes whose working directory is below `home`, with that directory.
pub fn processes(home: &Path) -> BTreeMap<u32, PathBuf> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let pid = entry.file_name().to_str().and_then(|name| name.parse().ok());
        let place = std::fs::read_link(entry.path().join("cwd"));
        if let (Some(pid), Ok(place)) = (pid, place)
            && place.starts_with(home)
        {
            found.insert(pid, place);
        }
    }
    found
}
