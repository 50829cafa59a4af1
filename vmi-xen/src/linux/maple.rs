// SPDX-License-Identifier: GPL-3.0-only
//! Maple trees, in which kernels from 6.1 on keep a process's mappings. What is what: include/linux/maple_tree.h.

use super::{Linux, LinuxError, group};
use crate::kernel::layout::Array;
use crate::memory::PhysicalMemory;

/// Nodes are aligned to their size; the bits below say what they are.
const NODE_MASK: u64 = 0xff;
const TYPE_SHIFT: u32 = 3;
const TYPE_MASK: u64 = 0x0f;
/// `enum maple_type`.
const LEAF_64: u64 = 1;
const RANGE_64: u64 = 2;
const ARANGE_64: u64 = 3;
/// A tree of ten slots a node is no deeper, whatever it holds.
const MAX_DEPTH: usize = 24;
/// What is below is no pointer, but a mark (XA_ZERO_ENTRY and its like).
const LOWEST_POINTER: u64 = 4096;
/// Two low bits of an entry that leads to a node (`xa_is_node`).
const IS_NODE: u64 = 2;

/// A part of a tree that is still to be walked: what the entry holds, and the last index that is below it.
struct Branch {
    entry: u64,
    last: u64,
    depth: usize,
}

impl<M: PhysicalMemory> Linux<M> {
    /// Calls `visit` with every entry of the tree whose `ma_root` is at `root`, in order, `limit` at most.
    ///
    /// # Errors
    /// If this kernel has no such trees, or the root cannot be read. What cannot be read below is left out.
    pub(super) fn each_in_maple(
        &self,
        root: u64,
        limit: usize,
        mut visit: impl FnMut(u64),
    ) -> Result<(), LinuxError> {
        let offsets = group(&self.kernel.layout.maple)?;
        let entry = self.u64(root)?;
        if entry & 3 != IS_NODE || entry <= LOWEST_POINTER {
            // An entry by itself is the whole tree.
            if entry > LOWEST_POINTER {
                visit(entry);
            }
            return Ok(());
        }
        let mut left = limit;
        let mut stack = vec![Branch {
            entry,
            last: u64::MAX,
            depth: 0,
        }];
        while let Some(branch) = stack.pop() {
            let kind = branch.entry >> TYPE_SHIFT & TYPE_MASK;
            let (pivots, slots) = match kind {
                LEAF_64 | RANGE_64 => (offsets.range_pivot, offsets.range_slot),
                ARANGE_64 => (offsets.arange_pivot, offsets.arange_slot),
                _ => continue,
            };
            let Ok(slots) = self.slots(branch.entry & !NODE_MASK, pivots, slots, branch.last) else {
                continue;
            };
            if kind == LEAF_64 {
                for (entry, _) in slots.into_iter().filter(|(entry, _)| *entry > LOWEST_POINTER) {
                    if left == 0 {
                        return Ok(());
                    }
                    left -= 1;
                    visit(entry);
                }
            } else if branch.depth < MAX_DEPTH {
                // The last on the stack is the next to be walked.
                stack.extend(slots.into_iter().rev().map(|(entry, last)| Branch {
                    entry,
                    last,
                    depth: branch.depth + 1,
                }));
            }
            // A tree that lies has as many branches as it likes; reads are bounded by the operation's budget, memory by this.
            stack.truncate(MAX_DEPTH * slots_of_a_node(offsets.range_slot));
        }
        Ok(())
    }

    /// The slots in use of a node, each with the last index below it. `last` is the node's own.
    fn slots(
        &self,
        node: u64,
        pivots: Array,
        slots: Array,
        last: u64,
    ) -> Result<Vec<(u64, u64)>, LinuxError> {
        let array = |array: Array| -> Result<Vec<u64>, LinuxError> {
            let mut raw = vec![0; slots_of_a_node(array) * 8];
            self.read(node.wrapping_add(array.offset), &mut raw)?;
            let words = raw.chunks_exact(8);
            Ok(words
                .filter_map(|word| Some(u64::from_le_bytes(word.try_into().ok()?)))
                .collect())
        };
        let (pivots, entries) = (array(pivots)?, array(slots)?);
        let mut used = Vec::new();
        for (index, entry) in entries.into_iter().enumerate() {
            // The slot after the last pivot, or the one whose pivot was never set, goes on to the node's end.
            let end = match pivots.get(index) {
                Some(&pivot) if pivot != 0 || index == 0 => pivot.min(last),
                _ => last,
            };
            used.push((entry, end));
            if end >= last {
                break;
            }
        }
        Ok(used)
    }
}

/// As BTF tells; a node is of 256 bytes, so there are 32 words at most.
fn slots_of_a_node(array: Array) -> usize {
    (array.count as usize).min(32)
}
