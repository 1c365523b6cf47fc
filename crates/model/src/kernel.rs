//! What a kernel must be able to do to run a guest, and which modules it needs loaded before the guest's disks exist.
//!
//! The answers are functions of what was found: the kernel's configuration, its module tree, its list of built-in
//! modules. Finding those is the work of `image::kernel`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use crate::boot::Machine;

/// Something that a guest asks of its kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Feature {
    /// A RAM disk as the first root: the boot payload.
    Initramfs,
    /// Device nodes made by the kernel, before anything of the image runs.
    Devtmpfs,
    /// Virtio devices on PCI, as QEMU's q35 has them.
    VirtioPci,
    /// Virtio devices at fixed addresses, as Firecracker and QEMU's microvm have them.
    VirtioMmio,
    /// Disks.
    VirtioBlk,
    /// The network card.
    VirtioNet,
    /// The agent's channel under QEMU.
    VirtioConsole,
    /// The agent's channel under Firecracker.
    Vsock,
    /// The file system of every disk.
    Ext4,
    /// The root: the image below, the VM's own layer above.
    Overlay,
}

impl Feature {
    /// All of them, in the order in which they are shown.
    pub const ALL: [Self; 10] = [
        Self::Initramfs,
        Self::Devtmpfs,
        Self::VirtioPci,
        Self::VirtioMmio,
        Self::VirtioBlk,
        Self::VirtioNet,
        Self::VirtioConsole,
        Self::Vsock,
        Self::Ext4,
        Self::Overlay,
    ];

    /// The name used in manifests and messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.facts().0
    }

    /// The configuration option that stands for it, without `CONFIG_`.
    #[must_use]
    pub fn option(self) -> &'static str {
        self.facts().1
    }

    /// The module that brings it, where it can be a module at all.
    #[must_use]
    pub fn module(self) -> Option<&'static str> {
        self.facts().2
    }

    /// Name, option, module.
    fn facts(self) -> (&'static str, &'static str, Option<&'static str>) {
        match self {
            Self::Initramfs => ("initramfs", "BLK_DEV_INITRD", None),
            Self::Devtmpfs => ("devtmpfs", "DEVTMPFS", None),
            Self::VirtioPci => ("virtio-pci", "VIRTIO_PCI", Some("virtio_pci")),
            Self::VirtioMmio => ("virtio-mmio", "VIRTIO_MMIO", Some("virtio_mmio")),
            Self::VirtioBlk => ("virtio-blk", "VIRTIO_BLK", Some("virtio_blk")),
            Self::VirtioNet => ("virtio-net", "VIRTIO_NET", Some("virtio_net")),
            Self::VirtioConsole => ("virtio-console", "VIRTIO_CONSOLE", Some("virtio_console")),
            Self::Vsock => ("vsock", "VIRTIO_VSOCKETS", Some("vmw_vsock_virtio_transport")),
            Self::Ext4 => ("ext4", "EXT4_FS", Some("ext4")),
            Self::Overlay => ("overlay", "OVERLAY_FS", Some("overlay")),
        }
    }
}

impl fmt::Display for Feature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How a kernel has a feature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// It is part of the kernel.
    Builtin,
    /// A module brings it.
    Module,
    /// It is not there.
    Missing,
}

impl How {
    /// The word used in manifests.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Builtin => "builtin",
            Self::Module => "module",
            Self::Missing => "missing",
        }
    }
}

/// A kernel's configuration: the options that are on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Config(BTreeMap<String, Setting>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Setting {
    Yes,
    Module,
}

impl Config {
    /// Reads the text of a `.config`. Lines that are no tristate setting say nothing about a feature and are passed over.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let setting = |line: &str| {
            let (option, value) = line.trim().strip_prefix("CONFIG_")?.split_once('=')?;
            let value = match value {
                "y" => Setting::Yes,
                "m" => Setting::Module,
                _ => return None,
            };
            Some((option.to_owned(), value))
        };
        Self(text.lines().filter_map(setting).collect())
    }

    /// Whether the text had any setting: a configuration without one is no configuration.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// What was found out about a kernel.
#[derive(Debug, Clone, Copy)]
pub struct Evidence<'a> {
    /// Its configuration, where it was found.
    pub config: Option<&'a Config>,
    /// The modules that `modules.builtin` lists.
    pub builtin: &'a BTreeSet<String>,
    /// The modules of its tree and what each needs.
    pub modules: &'a ModuleGraph,
}

impl Evidence<'_> {
    /// Whether it says anything at all; if not, every feature would look missing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.config.is_none() && self.builtin.is_empty() && self.modules.is_empty()
    }

    /// How the kernel has `feature`. A module counts when its file is there with everything it needs: an `=m` in the
    /// configuration of a kernel that came without its modules is worth nothing.
    #[must_use]
    pub fn how(&self, feature: Feature) -> How {
        let Some(module) = feature.module() else {
            // Only a configuration could tell; without one it is taken as there, as it is in every distribution.
            let there =
                self.config.is_none_or(|config| config.0.get(feature.option()) == Some(&Setting::Yes));
            return if there { How::Builtin } else { How::Missing };
        };
        let setting = self.config.and_then(|config| config.0.get(feature.option()));
        if setting == Some(&Setting::Yes) || self.builtin.contains(module) {
            How::Builtin
        } else if self.modules.is_loadable(module) {
            How::Module
        } else {
            How::Missing
        }
    }

    /// How the kernel has each feature, or the report of what is missing.
    ///
    /// # Errors
    /// [`Missing`] when a guest could not run at all. What one VMM needs and another does not is recorded only, as the network
    /// is: see [`needed_on`].
    pub fn assess(&self) -> Result<Vec<(Feature, How)>, Missing> {
        let all: Vec<_> = Feature::ALL.map(|feature| (feature, self.how(feature))).to_vec();
        let lacks = |feature| all.contains(&(feature, How::Missing));
        let no_transport = lacks(Feature::VirtioPci) && lacks(Feature::VirtioMmio);
        let no_channel = lacks(Feature::VirtioConsole) && lacks(Feature::Vsock);
        let fatal = |feature: &Feature| match feature {
            Feature::VirtioPci | Feature::VirtioMmio => no_transport,
            Feature::VirtioConsole | Feature::Vsock => no_channel,
            Feature::VirtioNet => false,
            Feature::Initramfs
            | Feature::Devtmpfs
            | Feature::VirtioBlk
            | Feature::Ext4
            | Feature::Overlay => true,
        };
        let missing: Vec<_> = Feature::ALL.into_iter().filter(|f| lacks(*f) && fatal(f)).collect();
        if missing.is_empty() { Ok(all) } else { Err(Missing(missing)) }
    }
}

/// What `machine` asks of a kernel beyond what every one does: how its devices are found, and the agent's channel.
#[must_use]
pub fn needed_on(machine: Machine) -> [Feature; 2] {
    match machine {
        Machine::Pc => [Feature::VirtioPci, Feature::VirtioConsole],
        Machine::Firecracker => [Feature::VirtioMmio, Feature::Vsock],
    }
}

/// The features that a kernel lacks and a guest does not run without.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing(pub Vec<Feature>);

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the kernel lacks ")?;
        for (i, feature) in self.0.iter().enumerate() {
            let comma = if i == 0 { "" } else { ", " };
            write!(f, "{comma}{feature} (CONFIG_{})", feature.option())?;
        }
        Ok(())
    }
}

impl std::error::Error for Missing {}

/// The modules that `/init` loads, where the kernel has them as modules, most urgent first, and what each is for. What a
/// module needs comes before it by [`ModuleGraph::boot_plan`]. Each costs a boot some milliseconds in software emulation,
/// so the driver of a device is loaded where the device is.
pub const BOOT_MODULES: [(&str, LoadWhen); 14] = [
    ("virtio_pci", LoadWhen::Always),
    ("virtio_mmio", LoadWhen::Always),
    ("virtio_blk", LoadWhen::Device("virtio:d00000002")),
    // The checksums of ext4, for kernels that have neither built in.
    ("crc32c_generic", LoadWhen::Always),
    ("ext4", LoadWhen::Always),
    ("overlay", LoadWhen::Always),
    ("virtio_console", LoadWhen::Device("virtio:d00000003")),
    ("vmw_vsock_virtio_transport", LoadWhen::Device("virtio:d00000013")),
    ("virtio_net", LoadWhen::Device("virtio:d00000001")),
    ("unix", LoadWhen::Always),
    ("af_packet", LoadWhen::Always),
    // The guest's entropy, most of all that of a restored clone.
    ("virtio_rng", LoadWhen::Device("virtio:d00000004")),
    ("virtio_balloon", LoadWhen::Device("virtio:d00000005")),
    // Tells QEMU that the guest panicked.
    ("pvpanic_pci", LoadWhen::Device("pci:v00001B36d00000011")),
];

/// When a boot module is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoadWhen {
    /// At every boot.
    Always,
    /// Where there is a device whose `modalias` begins with this.
    Device(&'static str),
}

/// A module of the boot, in its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootModule<'a> {
    /// Its name.
    pub name: &'a str,
    /// It is loaded where there is a device whose `modalias` begins with one of these, and always where there are none.
    pub devices: Vec<&'static str>,
}

/// A module's name in its one spelling: file names use `-` and `_` as they like, the kernel only `_`.
#[must_use]
pub fn module_name(spelling: &str) -> String {
    spelling.replace('-', "_")
}

/// The modules of a tree, and what each needs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ModuleGraph(BTreeMap<String, Needs>);

/// What a module needs before it can be loaded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Needs {
    /// Modules whose symbols it uses.
    pub hard: Vec<String>,
    /// Modules that should be there first, and are left out where the tree has none of that name.
    pub soft: Vec<String>,
}

impl ModuleGraph {
    /// Adds a module; a later one of the same name replaces it.
    pub fn insert(&mut self, name: String, needs: Needs) {
        self.0.insert(name, needs);
    }

    /// Whether there is no module.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the module is there, and all whose symbols it uses, and theirs.
    #[must_use]
    pub fn is_loadable(&self, name: &str) -> bool {
        let (mut seen, mut open) = (BTreeSet::new(), vec![name]);
        while let Some(name) = open.pop() {
            let Some(needs) = self.0.get(name) else { return false };
            if seen.insert(name) {
                open.extend(needs.hard.iter().map(String::as_str));
            }
        }
        true
    }

    /// The modules to load for `wanted`, each once and after what it needs. Those that are not there, or that lack
    /// something, are left out.
    #[must_use]
    pub fn load_order<'a>(&'a self, wanted: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
        let (mut order, mut seen) = (Vec::new(), BTreeSet::new());
        for name in wanted.into_iter().filter(|name| self.is_loadable(name)) {
            self.visit(name, Follow::HardAndSoft, &mut order, &mut seen);
        }
        order
    }

    /// The modules that a guest loads at boot, in order, each after what it needs. What several need is loaded where one of
    /// them is.
    #[must_use]
    pub fn boot_plan(&self) -> Vec<BootModule<'_>> {
        let mut plan: Vec<BootModule<'_>> = Vec::new();
        let mut always = BTreeSet::new();
        for (wanted, when) in BOOT_MODULES {
            for name in self.load_order([wanted]) {
                let at = plan.iter().position(|module| module.name == name).unwrap_or_else(|| {
                    plan.push(BootModule { name, devices: Vec::new() });
                    plan.len() - 1
                });
                match when {
                    LoadWhen::Always => {
                        always.insert(name);
                    }
                    LoadWhen::Device(device) => plan[at].devices.push(device),
                }
            }
        }
        for module in plan.iter_mut().filter(|module| always.contains(module.name)) {
            module.devices.clear();
        }
        plan
    }

    /// Everything whose symbols `name` uses, itself not included; what must be loaded first comes last, as
    /// `modules.dep` has it.
    #[must_use]
    pub fn dependencies<'a>(&'a self, name: &'a str) -> Vec<&'a str> {
        let (mut order, mut seen) = (Vec::new(), BTreeSet::new());
        self.visit(name, Follow::Hard, &mut order, &mut seen);
        order.pop();
        order.reverse();
        order
    }

    /// Appends `root` after what it needs. An explicit stack: the depth of the graph is not ours to choose.
    fn visit<'a>(
        &'a self,
        root: &'a str,
        follow: Follow,
        order: &mut Vec<&'a str>,
        seen: &mut BTreeSet<&'a str>,
    ) {
        enum Step<'a> {
            Enter(&'a str),
            Leave(&'a str),
        }
        let mut steps = vec![Step::Enter(root)];
        while let Some(step) = steps.pop() {
            let name = match step {
                Step::Leave(name) => {
                    order.push(name);
                    continue;
                }
                Step::Enter(name) => name,
            };
            let Some(needs) = self.0.get(name) else { continue };
            if !seen.insert(name) {
                continue;
            }
            steps.push(Step::Leave(name));
            // The stack turns the order around, so what was named first is pushed last.
            steps.extend(needs.hard.iter().rev().map(|need| Step::Enter(need)));
            if follow == Follow::HardAndSoft {
                let soft = needs.soft.iter().rev().filter(|need| self.is_loadable(need));
                steps.extend(soft.map(|need| Step::Enter(need)));
            }
        }
    }
}

/// Which needs a walk follows.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Follow {
    Hard,
    HardAndSoft,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(modules: &[(&str, &[&str], &[&str])]) -> ModuleGraph {
        let own = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
        let mut graph = ModuleGraph::default();
        for (name, hard, soft) in modules {
            graph.insert((*name).to_owned(), Needs { hard: own(hard), soft: own(soft) });
        }
        graph
    }

    /// Builtin names and module names of a kernel that has all there is.
    const WHOLE: &str = "CONFIG_BLK_DEV_INITRD=y\nCONFIG_DEVTMPFS=y\nCONFIG_VIRTIO_PCI=y\nCONFIG_VIRTIO_MMIO=y\n\
        CONFIG_VIRTIO_BLK=y\nCONFIG_VIRTIO_NET=y\nCONFIG_VIRTIO_CONSOLE=y\nCONFIG_VIRTIO_VSOCKETS=y\n\
        CONFIG_EXT4_FS=y\nCONFIG_OVERLAY_FS=y\n";

    #[track_caller]
    fn check_missing(off: &[&str], expect: &[Feature]) {
        let text: String = WHOLE
            .lines()
            .filter(|l| !off.iter().any(|o| l[7..].starts_with(o)))
            .map(|l| format!("{l}\n"))
            .collect();
        let config = Config::parse(&text);
        let evidence =
            Evidence { config: Some(&config), builtin: &BTreeSet::new(), modules: &ModuleGraph::default() };
        let found = evidence.assess().err().map_or_else(Vec::new, |missing| missing.0);
        assert_eq!(found, expect, "without {off:?}");
    }

    #[test]
    fn what_no_guest_runs_without_is_refused_as_a_whole_list() {
        check_missing(&[], &[]);
        check_missing(&["VIRTIO_NET=", "VIRTIO_VSOCKETS="], &[]);
        check_missing(&["VIRTIO_CONSOLE="], &[]);
        check_missing(&["VIRTIO_CONSOLE=", "VIRTIO_VSOCKETS="], &[Feature::VirtioConsole, Feature::Vsock]);
        check_missing(&["VIRTIO_PCI="], &[]);
        check_missing(&["VIRTIO_MMIO="], &[]);
        check_missing(&["VIRTIO_PCI=", "VIRTIO_MMIO="], &[Feature::VirtioPci, Feature::VirtioMmio]);
        check_missing(&["BLK_DEV_INITRD="], &[Feature::Initramfs]);
        check_missing(&["DEVTMPFS="], &[Feature::Devtmpfs]);
        check_missing(
            &["VIRTIO_BLK=", "EXT4_FS=", "OVERLAY_FS=", "VIRTIO_NET="],
            &[Feature::VirtioBlk, Feature::Ext4, Feature::Overlay],
        );
    }

    #[test]
    fn the_refusal_names_every_option() {
        let missing = Missing(vec![Feature::VirtioBlk, Feature::Ext4]);
        assert_eq!(
            missing.to_string(),
            "the kernel lacks virtio-blk (CONFIG_VIRTIO_BLK), ext4 (CONFIG_EXT4_FS)"
        );
    }

    #[test]
    fn a_module_counts_when_its_file_and_all_it_needs_are_there() {
        let config = Config::parse("CONFIG_VIRTIO_NET=m\nCONFIG_EXT4_FS=y\nCONFIG_OVERLAY_FS=m\n");
        let builtin = BTreeSet::from(["virtio_blk".to_owned()]);
        let modules = graph(&[
            ("virtio_net", &["net_failover"], &[]),
            ("net_failover", &["failover"], &[]),
            ("failover", &[], &[]),
            ("virtio_console", &["virtio"], &[]),
        ]);
        let evidence = Evidence { config: Some(&config), builtin: &builtin, modules: &modules };
        assert_eq!(evidence.how(Feature::VirtioNet), How::Module);
        assert_eq!(evidence.how(Feature::Ext4), How::Builtin);
        assert_eq!(evidence.how(Feature::VirtioBlk), How::Builtin, "modules.builtin speaks for it");
        assert_eq!(evidence.how(Feature::Overlay), How::Missing, "=m without the file");
        assert_eq!(evidence.how(Feature::VirtioConsole), How::Missing, "virtio.ko is not there");
        assert_eq!(evidence.how(Feature::Devtmpfs), How::Missing);
        let without = Evidence { config: None, ..evidence };
        assert_eq!(without.how(Feature::Devtmpfs), How::Builtin, "only a configuration could tell");
        assert!(!without.is_empty());
    }

    #[test]
    fn a_configuration_is_read_line_by_line() {
        let config = Config::parse(
            "# CONFIG_EXT4_FS is not set\nCONFIG_HZ=250\nCONFIG_X=\"y\"\n CONFIG_A=y\r\nCONFIG_B=m\nnoise",
        );
        assert_eq!(
            config.0.into_iter().collect::<Vec<_>>(),
            [("A".to_owned(), Setting::Yes), ("B".to_owned(), Setting::Module)]
        );
        assert!(Config::parse("hello").is_empty());
    }

    #[test]
    fn the_load_order_puts_needs_first_and_each_once() {
        let graph = graph(&[
            ("ring", &["virtio"], &[]),
            ("virtio", &[], &[]),
            ("pci", &["ring", "virtio", "legacy"], &[]),
            ("legacy", &[], &[]),
            ("blk", &["virtio", "ring"], &["absent", "crc"]),
            ("crc", &[], &[]),
            ("broken", &["absent"], &[]),
        ]);
        assert_eq!(
            graph.load_order(["pci", "none", "broken", "blk", "pci"]),
            ["virtio", "ring", "legacy", "pci", "crc", "blk"]
        );
        assert_eq!(graph.dependencies("pci"), ["legacy", "ring", "virtio"]);
        assert_eq!(graph.dependencies("blk"), ["ring", "virtio"], "soft needs are not in modules.dep");
    }

    #[test]
    fn the_boot_plan_loads_a_driver_where_its_device_is() {
        let graph = graph(&[
            ("virtio_blk", &["virtio"], &[]),
            ("virtio", &[], &[]),
            ("virtio_pci", &["virtio"], &[]),
            ("virtio_net", &["net_failover"], &[]),
            ("virtio_rng", &["shared"], &[]),
            ("virtio_balloon", &["shared"], &[]),
            ("net_failover", &[], &[]),
            ("shared", &[], &[]),
            ("virtio_console", &["absent"], &[]),
            ("unrelated", &[], &[]),
        ]);
        let plan = graph.boot_plan();
        let plan: Vec<_> = plan.iter().map(|module| (module.name, module.devices.as_slice())).collect();
        assert_eq!(
            plan,
            [
                ("virtio", &[][..]),
                ("virtio_pci", &[]),
                ("virtio_blk", &["virtio:d00000002"]),
                ("net_failover", &["virtio:d00000001"]),
                ("virtio_net", &["virtio:d00000001"]),
                ("shared", &["virtio:d00000004", "virtio:d00000005"]),
                ("virtio_rng", &["virtio:d00000004"]),
                ("virtio_balloon", &["virtio:d00000005"]),
            ]
        );
    }

    #[test]
    fn a_circle_of_needs_ends() {
        let graph = graph(&[("a", &["b"], &[]), ("b", &["a"], &["a"])]);
        assert_eq!(graph.load_order(["a"]), ["b", "a"]);
        assert_eq!(graph.dependencies("a"), ["b"]);
    }
}
