//! The nodes of a tree grouped by their directory, in eight bytes a node.

use super::tree::{NONE, Node};

/// All nodes but the root, by directory.
#[derive(Debug)]
pub(crate) struct Children {
    /// Their numbers, those of one directory together, in the order in which they came.
    order: Vec<u32>,
    /// Where each node's children start in `order`.
    starts: Vec<u32>,
}

impl Children {
    /// Those of `nodes` that name something.
    pub(super) fn group(nodes: &[Node]) -> Self {
        let named = || nodes.iter().enumerate().skip(1).filter(|(_, node)| node.inode != NONE);
        let mut starts = vec![0_u32; nodes.len() + 1];
        named().for_each(|(_, node)| starts[node.parent as usize + 1] += 1);
        for index in 1..starts.len() {
            starts[index] += starts[index - 1];
        }
        let mut order = vec![0; starts[starts.len() - 1] as usize];
        let mut next = starts.clone();
        for (index, node) in named() {
            let place = &mut next[node.parent as usize];
            order[*place as usize] = index as u32;
            *place += 1;
        }
        Self { order, starts }
    }

    /// The children of directory `node`.
    pub(crate) fn of(&self, node: u32) -> &[u32] {
        let index = node as usize;
        &self.order[self.starts[index] as usize..self.starts[index + 1] as usize]
    }
}
