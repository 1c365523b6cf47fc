//! A kernel's module tree, collected file by file from wherever it comes, unpacked, checked and indexed.
//!
//! Modules are kept unpacked: which packings a guest's `modprobe` knows is the image's matter, and a kernel runs with any
//! image. What a tree holds besides modules (links to headers, debug images) is left out.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use host::fs;
use model::kernel::{BOOT_MODULES, ModuleGraph, Needs, module_name};

use super::{
    KernelError, compression,
    index::{self, BuildLists, Module},
    modinfo::{Modinfo, ModuleError},
};
use crate::initramfs::{Archive, Entry, MODULES_LIST_PATH};

/// More than any module takes, debug information included.
pub(crate) const MAX_MODULE: u64 = 512 << 20;
/// More than a distribution's whole tree takes unpacked.
const MAX_TREE: u64 = 4 << 30;
/// More modules than Linux has.
const MAX_MODULES: usize = 100_000;

/// A module tree being collected under `dir`.
#[derive(Debug)]
pub(crate) struct ModuleTree {
    dir: PathBuf,
    made: BTreeSet<String>,
    modules: BTreeMap<String, Module>,
    lists: BuildLists,
    bytes: u64,
}

impl ModuleTree {
    /// A tree to be collected in `dir`, which is made.
    pub(crate) fn new(dir: PathBuf) -> Result<Self, KernelError> {
        fs::create_dir(&dir)?;
        let tree = Self {
            dir,
            made: BTreeSet::new(),
            modules: BTreeMap::new(),
            lists: BuildLists::default(),
            bytes: 0,
        };
        share(&tree.dir, 0o755)?;
        Ok(tree)
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
            return Err(KernelError::Entry {
                entry: path.to_owned(),
                why: "its name is not one that a module has",
            });
        }
        let content =
            compression::unpack(content, MAX_MODULE).map_err(|e| refuse(ModuleFileError::Unpack(e)))?;
        self.bytes += content.len() as u64;
        if self.bytes > MAX_TREE || self.modules.len() >= MAX_MODULES {
            return Err(KernelError::Entry { entry: path.to_owned(), why: "the module tree is too large" });
        }
        let info = Modinfo::parse(&content).map_err(|e| refuse(ModuleFileError::Content(e)))?;
        self.write(unpacked_path, &content)?;
        let name = index::name_of(unpacked_path).expect("module_file saw that it ends in .ko");
        let module = Module { path: unpacked_path.to_owned(), info };
        // Of two with a name the one that a distribution or its user put in place of the kernel's own counts.
        match self.modules.get(&name) {
            Some(other) if !other.path.starts_with("kernel/") => {}
            _ => {
                self.modules.insert(name, module);
            }
        }
        Ok(())
    }

    /// Resolves what the modules need, and writes the indexes.
    pub(crate) fn finish(mut self) -> Result<Modules, KernelError> {
        let graph = graph(&self.modules);
        let builtin = self.lists.builtin_names().collect();
        if self.modules.is_empty() {
            return Ok(Modules { dir: self.dir, files: BTreeMap::new(), graph, builtin });
        }
        for (name, content) in index::files(&self.modules, &graph, &self.lists) {
            self.write(name, &content)?;
        }
        let lists = std::mem::take(&mut self.lists);
        self.write("modules.order", lists.order.as_bytes())?;
        self.write("modules.builtin", lists.builtin.as_bytes())?;
        self.write("modules.builtin.modinfo", &lists.builtin_info)?;
        let files = self.modules.into_iter().map(|(name, module)| (name, module.path)).collect();
        Ok(Modules { dir: self.dir, files, graph, builtin })
    }

    fn add_list(&mut self, path: &str, content: Vec<u8>) -> Result<(), KernelError> {
        let text = |content| {
            String::from_utf8(content)
                .map_err(|_| KernelError::Entry { entry: path.to_owned(), why: "it is not text" })
        };
        match path {
            "modules.order" => self.lists.order = text(content)?,
            "modules.builtin" => self.lists.builtin = text(content)?,
            "modules.builtin.modinfo" => self.lists.builtin_info = content,
            _ => {}
        }
        Ok(())
    }

    /// Writes the new file `path` of the tree, readable by all as it will be in the guest.
    fn write(&mut self, path: &str, content: &[u8]) -> Result<(), KernelError> {
        for (at, _) in path.match_indices('/') {
            if self.made.insert(path[..at].to_owned()) {
                let dir = self.dir.join(&path[..at]);
                fs::create_dir(&dir)?;
                share(&dir, 0o755)?;
            }
        }
        let path = self.dir.join(path);
        fs::create_new(&path)?.write_all(content).map_err(|e| host::Error::path("write", &path, e))?;
        share(&path, 0o644)
    }
}

/// A whole module tree on disk.
#[derive(Debug)]
pub(crate) struct Modules {
    /// Where it lies: what will be `/lib/modules/<release>`.
    pub(crate) dir: PathBuf,
    /// The path of each module.
    pub(crate) files: BTreeMap<String, String>,
    /// What each needs.
    pub(crate) graph: ModuleGraph,
    /// What the kernel has built in, by its own list.
    pub(crate) builtin: BTreeSet<String>,
}

impl Modules {
    /// The modules that a guest loads at boot, in this order.
    pub(crate) fn boot(&self) -> Vec<&str> {
        self.graph.load_order(BOOT_MODULES)
    }

    /// Writes `modules.cpio`: the boot modules, and the list of them in their order.
    pub(crate) fn pack_boot(&self, release: &str, out: impl Write) -> Result<(), KernelError> {
        let write = |e| KernelError::Write { file: super::MODULES_CPIO, cause: e };
        let mut archive = Archive::new(out);
        let mut made = BTreeSet::new();
        let mut list = String::new();
        for name in self.boot() {
            let path = format!("lib/modules/{release}/{}", self.files[name]);
            for (at, _) in path.match_indices('/') {
                if made.insert(path[..at].to_owned()) {
                    archive.add(&path[..at], &Entry::Directory).map_err(write)?;
                }
            }
            let content = fs::read_limited(&self.dir.join(&self.files[name]), MAX_MODULE)?;
            archive.add(&path, &Entry::File { mode: 0o644, content: &content }).map_err(write)?;
            list.extend(["/", &path, "\n"]);
        }
        archive.add("banger", &Entry::Directory).map_err(write)?;
        let entry = Entry::File { mode: 0o644, content: list.as_bytes() };
        archive.add(MODULES_LIST_PATH, &entry).map_err(write)?;
        archive.finish().and_then(|mut out| out.flush()).map_err(write)
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

fn share(path: &Path, mode: u32) -> Result<(), KernelError> {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
        .map_err(|e| host::Error::path("set the mode of", path, e).into())
}
