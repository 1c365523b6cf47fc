//! The files beside the modules that `modprobe`, `udev` and busybox look things up in: what `depmod` makes when a package is
//! installed, and what a package therefore lacks.

use std::{collections::BTreeMap, fmt::Write as _};

use model::kernel::{ModuleGraph, module_name};

use super::{modinfo::Modinfo, trie::Index};

/// A module of the tree.
#[derive(Debug)]
pub(crate) struct Module {
    /// Its path in the tree: `kernel/fs/overlayfs/overlay.ko`.
    pub(crate) path: String,
    /// What it says of itself.
    pub(crate) info: Modinfo,
}

/// What the kernel's own build left about modules; empty where it is not there.
#[derive(Debug, Default)]
pub(crate) struct BuildLists {
    /// `modules.order`: paths, in the order in which modules of equal claim are tried.
    pub(crate) order: String,
    /// `modules.builtin`: the paths that what is built in would have as modules.
    pub(crate) builtin: String,
    /// `modules.builtin.modinfo`: `module.key=value`, each ended by a zero.
    pub(crate) builtin_info: Vec<u8>,
}

impl BuildLists {
    /// The names of what is built in.
    pub(crate) fn builtin_names(&self) -> impl Iterator<Item = String> {
        self.builtin.lines().filter_map(name_of)
    }
}

/// The name of the module at `path`, which ends in `.ko`.
pub(crate) fn name_of(path: &str) -> Option<String> {
    let file = path.rsplit('/').next()?.strip_suffix(".ko")?;
    (!file.is_empty()).then(|| module_name(file))
}

/// The index files of a tree: their names and what is in them.
pub(crate) fn files(
    modules: &BTreeMap<String, Module>,
    graph: &ModuleGraph,
    lists: &BuildLists,
) -> Vec<(&'static str, Vec<u8>)> {
    let ranks: BTreeMap<&str, u32> = (0..).zip(lists.order.lines()).map(|(at, path)| (path, at)).collect();
    let rank = |module: &Module| ranks.get(module.path.as_str()).copied().unwrap_or(u32::MAX);
    let mut ordered: Vec<(&String, &Module)> = modules.iter().collect();
    ordered.sort_by_key(|(name, module)| (rank(module), *name));

    let mut dep = Index::default();
    let mut alias = Index::default();
    let mut symbol = Index::default();
    let mut texts = Texts::new();
    for (at, (name, module)) in (0..).zip(ordered) {
        let mut line = format!("{}:", module.path);
        for need in graph.dependencies(name) {
            if let Some(need) = modules.get(need) {
                line.extend([" ", &need.path]);
            }
        }
        texts.dep.extend([&line, "\n"]);
        dep.insert(name, at, line);
        for pattern in &module.info.aliases {
            let _ = writeln!(texts.alias, "alias {pattern} {name}");
            alias.insert(&underscored(pattern), at, name.clone());
        }
        for softdep in &module.info.softdeps {
            let _ = writeln!(texts.softdep, "softdep {name} {softdep}");
        }
        for exported in &module.info.symbols {
            let _ = writeln!(texts.symbols, "alias symbol:{exported} {name}");
            symbol.insert(&format!("symbol:{exported}"), at, name.clone());
        }
        if let Some(line) = device_node(name, &module.info.aliases) {
            texts.devname.extend([&line, "\n"]);
        }
    }

    let mut builtin = Index::default();
    for name in lists.builtin_names() {
        builtin.insert(&name, 0, String::new());
    }
    let mut builtin_alias = Index::default();
    for entry in lists.builtin_info.split(|b| *b == 0).filter_map(|entry| str::from_utf8(entry).ok()) {
        if let Some((name, pattern)) = entry.split_once(".alias=") {
            builtin_alias.insert(&underscored(pattern), 0, module_name(name));
        }
    }
    vec![
        ("modules.dep", texts.dep.into_bytes()),
        ("modules.dep.bin", dep.to_bytes()),
        ("modules.alias", texts.alias.into_bytes()),
        ("modules.alias.bin", alias.to_bytes()),
        ("modules.softdep", texts.softdep.into_bytes()),
        ("modules.symbols", texts.symbols.into_bytes()),
        ("modules.symbols.bin", symbol.to_bytes()),
        ("modules.devname", texts.devname.into_bytes()),
        ("modules.builtin.bin", builtin.to_bytes()),
        ("modules.builtin.alias.bin", builtin_alias.to_bytes()),
    ]
}

/// The text files, each with the line that says what it is.
struct Texts {
    dep: String,
    alias: String,
    softdep: String,
    symbols: String,
    devname: String,
}

impl Texts {
    fn new() -> Self {
        Self {
            dep: String::new(),
            alias: "# Aliases that the modules declare.\n".to_owned(),
            softdep: "# Soft dependencies that the modules declare.\n".to_owned(),
            symbols: "# Aliases for the symbols that the modules export.\n".to_owned(),
            devname: "# Device nodes whose use loads a module.\n".to_owned(),
        }
    }
}

/// An alias as it is looked up: `-` is `_`, except between brackets, where it is a range.
fn underscored(pattern: &str) -> String {
    let mut in_brackets = false;
    let letter = |letter| {
        match letter {
            '[' => in_brackets = true,
            ']' => in_brackets = false,
            '-' if !in_brackets => return '_',
            _ => {}
        }
        letter
    };
    pattern.chars().map(letter).collect()
}

/// The line of `modules.devname` for a module that names a device node and its number.
fn device_node(name: &str, aliases: &[String]) -> Option<String> {
    let node = aliases.iter().find_map(|alias| alias.strip_prefix("devname:"))?;
    let number = |prefix, kind| {
        aliases.iter().find_map(|alias| {
            let (major, minor) = alias.strip_prefix(prefix)?.split_once('-')?;
            let (major, minor): (u32, u32) = (major.parse().ok()?, minor.parse().ok()?);
            Some(format!("{name} {node} {kind}{major}:{minor}"))
        })
    };
    number("char-major-", 'c').or_else(|| number("block-major-", 'b'))
}

#[cfg(test)]
mod tests {
    use model::kernel::Needs;

    use super::*;

    #[test]
    fn the_text_indexes_say_what_depmod_would() {
        let info = |aliases: &[&str], softdeps: &[&str], symbols: &[&str]| Modinfo {
            depends: Vec::new(),
            aliases: aliases.iter().map(|a| (*a).to_owned()).collect(),
            softdeps: softdeps.iter().map(|a| (*a).to_owned()).collect(),
            symbols: symbols.iter().map(|a| (*a).to_owned()).collect(),
        };
        let module = |path: &str, info| Module { path: path.to_owned(), info };
        let modules = BTreeMap::from([
            (
                "tun".to_owned(),
                module("kernel/tun.ko", info(&["devname:net/tun", "char-major-10-200"], &[], &[])),
            ),
            ("ring".to_owned(), module("kernel/ring.ko", info(&[], &["pre: crc"], &["kick"]))),
        ]);
        let mut graph = ModuleGraph::default();
        graph.insert("tun".to_owned(), Needs { hard: vec!["ring".to_owned()], soft: Vec::new() });
        graph.insert("ring".to_owned(), Needs::default());
        let lists =
            BuildLists { order: "kernel/tun.ko\nkernel/ring.ko\n".to_owned(), ..BuildLists::default() };
        let files: BTreeMap<_, _> = files(&modules, &graph, &lists).into_iter().collect();
        let text =
            |name| str::from_utf8(&files[name]).unwrap().lines().skip_while(|l| l.starts_with('#')).collect();
        let lines = |name| -> Vec<&str> { text(name) };
        assert_eq!(lines("modules.dep"), ["kernel/tun.ko: kernel/ring.ko", "kernel/ring.ko:"]);
        assert_eq!(lines("modules.alias"), ["alias devname:net/tun tun", "alias char-major-10-200 tun"]);
        assert_eq!(lines("modules.softdep"), ["softdep ring pre: crc"]);
        assert_eq!(lines("modules.symbols"), ["alias symbol:kick ring"]);
        assert_eq!(lines("modules.devname"), ["tun net/tun c10:200"]);
    }

    #[test]
    fn an_alias_is_looked_up_with_underscores_but_for_ranges() {
        assert_eq!(underscored("fs-ext4-[a-z]-x"), "fs_ext4_[a-z]_x");
    }
}
