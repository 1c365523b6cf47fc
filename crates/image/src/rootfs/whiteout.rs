//! What a layer hides of the layers below it.
//!
//! | entry | hides |
//! | --- | --- |
//! | `.wh.x` | `x`, and where that is a directory all below it |
//! | `.wh..wh..opq` | all that is in its directory, but not that |
//!
//! Both count wherever they stand in their layer, and hide nothing that the layer itself has: what an entry of it made or
//! changed, and the directories on the way there, are *touched*. A layer hides each directory's content at most once, so
//! that many whiteouts cost no more than one walk through the tree.

use std::mem;

use super::merge::Refusal;
use crate::ext4::{
    children::Children,
    tree::{NodeId, ROOT, Tree},
};

const PREFIX: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// What an entry hides.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Whiteout<'a> {
    /// This name in its directory.
    Name(&'a [u8]),
    /// All that is in its directory.
    Everything,
}

impl<'a> Whiteout<'a> {
    /// What an entry called `name` hides; `None` where it is an entry like others.
    pub fn of(name: &'a [u8]) -> Result<Option<Self>, Refusal> {
        match name.strip_prefix(PREFIX) {
            None => Ok(None),
            Some(_) if name == OPAQUE => Ok(Some(Self::Everything)),
            Some(b"" | b"." | b"..") => Err(Refusal::EmptyWhiteout),
            Some(hidden) => Ok(Some(Self::Name(hidden))),
        }
    }
}

/// The layer that is being applied, above others.
#[derive(Debug)]
pub(super) struct Upper {
    /// Nodes below this one are of the layers below.
    first: u32,
    touched: Bits,
    /// Directories whose content was hidden.
    swept: Bits,
    /// What the layers below have, from the first time on that it is asked for.
    lower: Option<Children>,
}

impl Upper {
    /// The layer above all that `tree` has.
    pub fn new(tree: &Tree) -> Self {
        Self { first: tree.count(), touched: Bits::default(), swept: Bits::default(), lower: None }
    }

    /// Says that an entry of this layer made or changed `node`.
    pub fn touch(&mut self, tree: &Tree, node: NodeId) {
        let mut at = node;
        while at != ROOT && self.touched.set(at.0) {
            at = tree.parent(at);
        }
    }

    /// Hides `node`, where it is not this layer's.
    pub fn hide(&mut self, tree: &mut Tree, node: NodeId) {
        if self.touched.has(node.0) {
            self.sweep(tree, node);
        } else {
            tree.remove(node);
        }
    }

    /// Hides what is in `directory` and not this layer's.
    pub fn sweep(&mut self, tree: &mut Tree, directory: NodeId) {
        let mut rest = vec![directory];
        while let Some(directory) = rest.pop() {
            // What is in a directory of this layer is of this layer.
            if directory.0 >= self.first || !self.swept.set(directory.0) {
                continue;
            }
            let lower = self.lower.get_or_insert_with(|| tree.children());
            for child in lower.of(directory.0).iter().copied().filter(|child| *child < self.first) {
                let child = NodeId(child);
                if !tree.is_named(child) {
                    continue;
                }
                if !self.touched.has(child.0) {
                    tree.remove(child);
                } else if tree.is_directory(child) {
                    rest.push(child);
                }
            }
        }
    }
}

/// A set of nodes, a bit for each.
#[derive(Debug, Default)]
struct Bits(Vec<u64>);

impl Bits {
    fn has(&self, node: u32) -> bool {
        self.0.get(node as usize / 64).is_some_and(|word| word & (1 << (node % 64)) != 0)
    }

    /// Adds `node`, and says whether it was not there.
    fn set(&mut self, node: u32) -> bool {
        let at = node as usize / 64;
        if at >= self.0.len() {
            self.0.resize((at + 1).next_power_of_two(), 0);
        }
        let with = self.0[at] | 1 << (node % 64);
        mem::replace(&mut self.0[at], with) != with
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let check = |name: &str, expected| {
            assert_eq!(Whiteout::of(name.as_bytes()).ok(), expected, "{name}");
        };
        check("x", Some(None));
        check("wh.x", Some(None));
        check(".whx", Some(None));
        check(".wh.x", Some(Some(Whiteout::Name(b"x"))));
        check(".wh..x", Some(Some(Whiteout::Name(b".x"))));
        check(".wh..wh.x", Some(Some(Whiteout::Name(b".wh.x"))));
        check(".wh..wh..opq", Some(Some(Whiteout::Everything)));
        check(".wh.", None);
        check(".wh..", None);
        check(".wh...", None);
    }

    #[test]
    fn a_set_grows() {
        let mut bits = Bits::default();
        assert!(!bits.has(1000));
        assert!(bits.set(1000));
        assert!(!bits.set(1000));
        assert!(bits.has(1000) && !bits.has(999) && !bits.has(1001));
    }
}
