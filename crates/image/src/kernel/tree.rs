//! A kernel's module tree, collected file by file from wherever it comes, checked, indexed, and written straight to the
//! ext4 file system that guests see it as.
//!
//! Modules are kept unpacked: which packings a guest's `modprobe` knows is the image's matter, and a kernel runs with any
//! image. What a tree holds besides modules (links to headers, debug images) is left out.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use model::kernel::{ModuleGraph, Needs, module_name};

use super::{
    KernelError, compression,
    index::{self, BuildLists, Module},
    modinfo::{Modinfo, ModuleError},
};
use crate::{
    ext4::{
        AttributeSet, FillError, Writer, Written,
        tree::{InodeId, Meta, NodeId, ROOT, Timestamp},
    },
    initramfs::{Archive, Entry, MODULES_DEVICES_PATH, MODULES_LIST_PATH},
};

/// More than any module takes, debug information included.
pub(crate) const MAX_MODULE: u64 = 512 << 20;
/// More than a distribution's whole tree takes unpacked.
const MAX_TREE: u64 = 4 << 30;
/// More modules than Linux has.
const MAX_MODULES: usize = 100_000;
/// The label of the file system.
const LABEL: &str = "banger-modules";

/// A module tree being collected.
#[derive(Debug)]
pub(crate) struct ModuleTree {
    writer: Writer,
    modules: BTreeMap<String, (Module, NodeId)>,
    lists: BuildLists,
}

impl ModuleTree {
    /// A tree to be collected in the new file `path`, which goes away again where the tree is not finished.
    pub(crate) fn new(path: &Path) -> Result<Self, KernelError> {
        let writer = Writer::create(path, meta(0o755), MAX_TREE).map_err(KernelError::Tree)?;
        Ok(Self { writer, modules: BTreeMap::new(), lists: BuildLists::default() })
    }

    /// Whether `path`, relative to the tree, is something that [`ModuleTree::add`] keeps.
    pub(crate) fn wants(path: &str) -> bool {
        matches!(path, "modules.order" | "modules.builtin" | "modules.builtin.modinfo")
            || module_file(path).is_some()
    }

    /// Adds the file at `path`, which [`ModuleTree::wants`].
    pub(crate) fn add(&mut self, path: &str, content: Vec<u8>) -> Result<(), KernelError> {
        let refuse = |cause| KernelError::Module { module: path.to_owned(), cause };
        let Some(unpacked_path) = module_file(path) else {
            return self.add_list(path, content);
        };
        if !is_plain(unpacked_path) {
            return Err(entry(path, "its name is not one that a module has"));
        }
        let content =
            compression::unpack(content, MAX_MODULE).map_err(|e| refuse(ModuleFileError::Unpack(e)))?;
        let info = Modinfo::parse(&content).map_err(|e| refuse(ModuleFileError::Content(e)))?;
        if self.modules.len() >= MAX_MODULES {
            return Err(entry(path, "there are too many modules"));
        }
        let node = self.write(unpacked_path, &content)?;
        let name = index::name_of(unpacked_path).expect("module_file saw that it ends in .ko");
        // Of two with a name the one that a distribution or its user put in place of the kernel's own counts.
        let replaced = self.modules.get(&name).is_none_or(|(other, _)| other.path.starts_with("kernel/"));
        if replaced {
            self.modules.insert(name, (Module { path: unpacked_path.to_owned(), info }, node));
        }
        Ok(())
    }

    /// Resolves what the modules need, and adds the indexes.
    pub(crate) fn index(mut self) -> Result<Modules, KernelError> {
        let lists = std::mem::take(&mut self.lists);
        let (mut modules, mut nodes) = (BTreeMap::new(), BTreeMap::new());
        for (name, (module, node)) in std::mem::take(&mut self.modules) {
            nodes.insert(name.clone(), node);
            modules.insert(name, module);
        }
        let graph = graph(&modules);
        let builtin = lists.builtin_names().collect();
        if !modules.is_empty() {
            for (name, content) in index::files(&modules, &graph, &lists) {
                self.write(name, &content)?;
            }
            self.write("modules.order", lists.order.as_bytes())?;
            self.write("modules.builtin", lists.builtin.as_bytes())?;
            self.write("modules.builtin.modinfo", &lists.builtin_info)?;
        }
        let files = modules.into_iter().map(|(name, module)| (name, module.path)).collect();
        Ok(Modules { writer: self.writer, files, nodes, graph, builtin })
    }

    fn add_list(&mut self, path: &str, content: Vec<u8>) -> Result<(), KernelError> {
        let text = |content| String::from_utf8(content).map_err(|_| entry(path, "it is not text"));
        match path {
            "modules.order" => self.lists.order = text(content)?,
            "modules.builtin" => self.lists.builtin = text(content)?,
            "modules.builtin.modinfo" => self.lists.builtin_info = content,
            _ => {}
        }
        Ok(())
    }

    /// Writes the new file `path` of the tree, with its directories.
    fn write(&mut self, path: &str, content: &[u8]) -> Result<NodeId, KernelError> {
        let mut at = ROOT;
        let mut rest = path;
        while let Some((name, below)) = rest.split_once('/') {
            at = match self.writer.tree().find(at, name.as_bytes()) {
                Some(found) if self.writer.tree().is_directory(found) => found,
                Some(_) => return Err(entry(path, "it lies in what is a file")),
                None => {
                    let made = self.writer.directory(meta(0o755), &AttributeSet::default());
                    self.name(at, name, made.map_err(KernelError::Tree)?)?
                }
            };
            rest = below;
        }
        if self.writer.tree().find(at, rest.as_bytes()).is_some() {
            return Err(entry(path, "it is there twice"));
        }
        let made =
            self.writer.file(meta(0o644), &AttributeSet::default(), content.len() as u64, &mut &*content);
        let inode = made.map_err(|error| match error {
            FillError::Write(cause) => KernelError::Tree(cause),
            FillError::Read(cause) => KernelError::Write { file: super::MODULES_EXT4, cause },
            FillError::Ended => unreachable!("the content is in memory, as long as it says"),
        })?;
        self.name(at, rest, inode)
    }

    fn name(&mut self, directory: NodeId, name: &str, inode: InodeId) -> Result<NodeId, KernelError> {
        self.writer.tree_mut().insert(directory, name.as_bytes(), inode).map_err(KernelError::Tree)?;
        Ok(self.writer.tree().find(directory, name.as_bytes()).expect("it was inserted just now"))
    }
}

/// A module tree that is whole, and not written to its end yet.
#[derive(Debug)]
pub(crate) struct Modules {
    writer: Writer,
    /// The path of each module.
    pub(crate) files: BTreeMap<String, String>,
    nodes: BTreeMap<String, NodeId>,
    /// What each needs.
    pub(crate) graph: ModuleGraph,
    /// What the kernel has built in, by its own list.
    pub(crate) builtin: BTreeSet<String>,
}

impl Modules {
    /// `modules.cpio`: the boot modules, the list of them in their order, and which devices they are for.
    pub(crate) fn pack_boot(&mut self, release: &str) -> Result<Vec<u8>, KernelError> {
        let write = |cause| KernelError::Write { file: super::MODULES_CPIO, cause };
        let mut archive = Archive::new(Vec::new());
        let mut made = BTreeSet::new();
        let (mut list, mut devices) = (String::new(), String::new());
        for module in self.graph.boot_plan() {
            let file = &self.files[module.name];
            let path = format!("lib/modules/{release}/{file}");
            for (at, _) in path.match_indices('/') {
                if made.insert(path[..at].to_owned()) {
                    archive.add(&path[..at], &Entry::Directory).map_err(write)?;
                }
            }
            let content =
                self.writer.content(self.nodes[module.name], MAX_MODULE).map_err(KernelError::Tree)?;
            let content = content.expect("it was written as a file of at most this size");
            archive.add(&path, &Entry::File { mode: 0o644, content: &content }).map_err(write)?;
            list.extend(["/", &path, "\n"]);
            if !module.devices.is_empty() {
                devices.extend(["/", &path, " ", &module.devices.join(" "), "\n"]);
            }
        }
        archive.add("banger", &Entry::Directory).map_err(write)?;
        for (path, text) in [(MODULES_LIST_PATH, list), (MODULES_DEVICES_PATH, devices)] {
            archive.add(path, &Entry::File { mode: 0o644, content: text.as_bytes() }).map_err(write)?;
        }
        archive.finish().map_err(write)
    }

    /// Writes `modules.ext4` to its end.
    pub(crate) fn finish(self) -> Result<Written, KernelError> {
        self.writer.finish(None, LABEL).map_err(KernelError::Tree)
    }
}

/// Why a module could not be taken over.
#[derive(Debug, thiserror::Error)]
pub enum ModuleFileError {
    /// It is packed and does not unpack.
    #[error("it cannot be unpacked")]
    Unpack(#[source] std::io::Error),
    /// It is no module.
    #[error(transparent)]
    Content(ModuleError),
}

/// What each module needs, by the names that the tree has.
fn graph(modules: &BTreeMap<String, Module>) -> ModuleGraph {
    let mut by_alias: BTreeMap<String, Vec<&String>> = BTreeMap::new();
    for (name, module) in modules {
        for alias in &module.info.aliases {
            by_alias.entry(module_name(alias)).or_default().push(name);
        }
    }
    let mut graph = ModuleGraph::default();
    for (name, module) in modules {
        let hard = module.info.depends.iter().map(|need| module_name(need)).collect();
        let mut soft = Vec::new();
        for need in module.info.soft_needs().map(module_name) {
            match by_alias.get(&need) {
                _ if modules.contains_key(&need) => soft.push(need),
                Some(providers) => soft.extend(providers.iter().map(|name| (*name).clone())),
                None => {}
            }
        }
        graph.insert(name.clone(), Needs { hard, soft });
    }
    graph
}

/// The path without what its packing adds, where it is a module's.
fn module_file(path: &str) -> Option<&str> {
    let unpacked = [".xz", ".zst", ".gz"].iter().find_map(|end| path.strip_suffix(end)).unwrap_or(path);
    unpacked.ends_with(".ko").then_some(unpacked)
}

/// Whether `path` is relative, stays inside, and is made of the characters that modules' paths are made of. Others would
/// also break the lines of the indexes.
fn is_plain(path: &str) -> bool {
    let letter = |b: u8| b.is_ascii_alphanumeric() || b"._+-@,~=".contains(&b);
    path.len() < 1024
        && path.split('/').all(|part| !part.starts_with('.') && !part.is_empty() && part.bytes().all(letter))
}

/// Root's, at the beginning of time: the same modules give the same bytes.
fn meta(mode: u16) -> Meta {
    Meta { mode, uid: 0, gid: 0, mtime: Timestamp::default() }
}

fn entry(path: &str, why: &'static str) -> KernelError {
    KernelError::Entry { entry: path.to_owned(), why }
}
