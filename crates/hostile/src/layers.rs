//! What layers of entries become, said a second time and as plainly as can be: a map of paths, copied freely.
//!
//! The rules are those at the top of `image::rootfs`'s `merge` and `whiteout`; nothing of their code is used.

use std::collections::{BTreeMap, BTreeSet};

/// The most symbolic links on the way to one entry.
const MOST_LINKS: u32 = 40;

/// Components of a path.
pub type Path = Vec<String>;

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A regular file with this content.
    File(String),
    /// A symbolic link to this target.
    Link(String),
    /// One more name of the file at this path.
    HardLink(String),
    /// A character device.
    Device,
}

/// A name of the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    /// Files with the same number are one.
    pub file: usize,
    /// What it is; never a hard link.
    pub kind: Kind,
    /// The layer whose entry made this name.
    layer: usize,
    /// Whether the layer that is being applied made it, changed it, or has something below it.
    touched: bool,
}

/// An entry is refused, and with it the image.
#[derive(Debug)]
pub struct Refused;

/// The tree so far, by path. The root is not in it.
#[derive(Debug, Default)]
pub struct Merged {
    /// All names.
    pub names: BTreeMap<Path, Name>,
    layer: usize,
    files: usize,
}

impl Merged {
    /// Says that the entries to come are those of one more layer.
    pub fn begin_layer(&mut self) {
        self.layer += 1;
        self.names.values_mut().for_each(|name| name.touched = false);
    }

    /// Applies an entry.
    ///
    /// # Errors
    /// Where it is refused.
    pub fn apply(&mut self, path: &str, kind: Kind) -> Result<(), Refused> {
        let path = components(path)?;
        if let Some((last, parents)) = path.split_last()
            && let Some(hidden) = last.strip_prefix(".wh.")
        {
            return self.hide(parents, hidden);
        }
        let Some((last, parents)) = path.split_last() else {
            return if kind == Kind::Directory { Ok(()) } else { Err(Refused) };
        };
        let Some(mut at) = self.resolve(parents, true)? else { return Err(Refused) };
        at.push(last.clone());
        let known = self.names.get(&at).cloned();
        let name = match kind {
            Kind::Directory if known.as_ref().is_some_and(|name| name.kind == Kind::Directory) => {
                self.touch(&at);
                return Ok(());
            }
            Kind::HardLink(target) => {
                let target = components(&target)?;
                let Some((last, parents)) = target.split_last() else { return Err(Refused) };
                let Some(mut found) = self.resolve(parents, false)? else { return Err(Refused) };
                found.push(last.clone());
                if found == at && known.as_ref().is_some_and(|name| name.kind != Kind::Directory) {
                    self.touch(&at);
                    return Ok(());
                }
                match self.names.get(&found) {
                    Some(name) if name.kind != Kind::Directory => name.clone(),
                    _ => return Err(Refused),
                }
            }
            Kind::Link(target) if target.is_empty() => return Err(Refused),
            kind => {
                self.files += 1;
                Name { file: self.files, kind, layer: self.layer, touched: true }
            }
        };
        self.remove(&at);
        self.names.insert(at.clone(), Name { layer: self.layer, ..name });
        self.touch(&at);
        Ok(())
    }

    /// A whiteout: `.wh.hidden` in the directory `parents`.
    fn hide(&mut self, parents: &[String], hidden: &str) -> Result<(), Refused> {
        if matches!(hidden, "" | "." | "..") {
            return Err(Refused);
        }
        let at = match self.resolve_or_file(parents)? {
            Some(at) => at,
            None => return Ok(()),
        };
        if hidden == ".wh..opq" {
            self.sweep(&at);
            return Ok(());
        }
        let path = [&at[..], &[hidden.to_owned()]].concat();
        match self.names.get(&path) {
            Some(name) if name.touched => self.sweep(&path),
            Some(_) => self.remove(&path),
            None => {}
        }
        Ok(())
    }

    /// Removes what is below `directory` and neither of this layer nor touched by it.
    fn sweep(&mut self, directory: &[String]) {
        let is_below = |path: &Path| path.len() > directory.len() && path.starts_with(directory);
        let gone: Vec<Path> = self
            .names
            .iter()
            .filter(|(path, name)| is_below(path) && !name.touched && name.layer < self.layer)
            .map(|(path, _)| path.clone())
            .collect();
        gone.iter().for_each(|path| self.remove(path));
    }

    fn touch(&mut self, path: &[String]) {
        for length in 1..=path.len() {
            if let Some(name) = self.names.get_mut(&path[..length]) {
                name.touched = true;
            }
        }
    }

    fn remove(&mut self, path: &[String]) {
        self.names.retain(|known, _| !known.starts_with(path));
    }

    /// The directory at `path` with links followed, or nothing where there is none.
    fn resolve_or_file(&mut self, path: &[String]) -> Result<Option<Path>, Refused> {
        match self.walk(path, false)? {
            Way::Directory(at) => Ok(Some(at)),
            Way::Missing | Way::File => Ok(None),
        }
    }

    fn resolve(&mut self, path: &[String], make: bool) -> Result<Option<Path>, Refused> {
        match self.walk(path, make)? {
            Way::Directory(at) => Ok(Some(at)),
            Way::Missing => Ok(None),
            Way::File => Err(Refused),
        }
    }

    fn walk(&mut self, path: &[String], make: bool) -> Result<Way, Refused> {
        let mut at = Path::new();
        let mut links = 0;
        let mut rest: Vec<String> = path.iter().rev().cloned().collect();
        while let Some(part) = rest.pop() {
            match &part[..] {
                "" | "." => continue,
                ".." => {
                    at.pop().ok_or(Refused)?;
                    continue;
                }
                _ => at.push(part),
            }
            match self.names.get(&at).map(|name| &name.kind) {
                Some(Kind::Directory) => {}
                Some(Kind::Link(target)) => {
                    links += 1;
                    if links > MOST_LINKS {
                        return Err(Refused);
                    }
                    rest.extend(target.split('/').rev().map(str::to_owned));
                    if target.starts_with('/') {
                        at.clear();
                    } else {
                        at.pop();
                    }
                }
                Some(Kind::File(_) | Kind::HardLink(_) | Kind::Device) => return Ok(Way::File),
                None if !make => return Ok(Way::Missing),
                None => {
                    self.files += 1;
                    let made =
                        Name { file: self.files, kind: Kind::Directory, layer: self.layer, touched: false };
                    self.names.insert(at.clone(), made);
                }
            }
        }
        Ok(Way::Directory(at))
    }

    /// The files, each with its names.
    #[must_use]
    pub fn files(&self) -> BTreeSet<Vec<Path>> {
        let mut files: BTreeMap<usize, Vec<Path>> = BTreeMap::new();
        for (path, name) in &self.names {
            files.entry(name.file).or_default().push(path.clone());
        }
        files.into_values().collect()
    }
}

/// Where a path leads.
enum Way {
    Directory(Path),
    Missing,
    /// To something that is no directory, or through it.
    File,
}

/// The names on the way to `path`, with each `..` taken back.
fn components(path: &str) -> Result<Path, Refused> {
    let mut found = Path::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(found.pop().ok_or(Refused)?),
            _ => found.push(part.to_owned()),
        }
    }
    Ok(found)
}
