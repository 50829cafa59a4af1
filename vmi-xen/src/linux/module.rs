// SPDX-License-Identifier: GPL-3.0-only
//! Loaded modules, by every way that leads to one.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use super::{Linux, LinuxError, group};
use crate::memory::PhysicalMemory;

/// Modules of one guest.
const MAX_MODULES: usize = 4096;
/// Nodes of the tree of addresses: a module has one for each kind of memory.
const MAX_NODES: usize = 1 << 16;
/// MODULE_NAME_LEN: what is left of 64 bytes beside a word.
const NAME_LEN: usize = 56;
/// Areas of one module; the kernel has seven kinds.
const MAX_AREAS: u32 = 16;
/// MODULE_STATE_LIVE of the kernel's module.h. Modules that come or go are on
/// some of the lists only.
const STATE_LIVE: u32 = 0;

/// A way to find a module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ModuleView {
    /// The list of all modules, which /proc/modules and lsmod show.
    List,
    /// The objects that /sys/module shows.
    Sysfs,
    /// The tree by which the kernel finds whose an address is.
    AddressTree,
}

impl fmt::Display for ModuleView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ModuleView::List => "the list of modules",
            ModuleView::Sysfs => "sysfs",
            ModuleView::AddressTree => "the tree of module addresses",
        })
    }
}

/// A loaded module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// Address of its `struct module`.
    pub at: u64,
    /// Its name.
    pub name: String,
    /// It is neither being loaded nor unloaded.
    pub live: bool,
    /// Guest-virtual memory that it occupies: text and data.
    pub memory: Vec<Range<u64>>,
    /// Where it was seen, in a fixed order; never empty.
    pub seen_in: Vec<ModuleView>,
}

impl<M: PhysicalMemory> Linux<M> {
    /// Every module that any view shows, by address, and which views there are
    /// in this kernel.
    ///
    /// # Errors
    /// If this kernel's modules are not understood, or it has no list of them.
    pub fn modules(&self) -> Result<(Vec<Module>, Vec<ModuleView>), LinuxError> {
        let offsets = group(&self.kernel.layout.module)?;
        let symbol = |name| self.kernel.symbols.address(name);
        let mut seen: BTreeMap<u64, Vec<ModuleView>> = BTreeMap::new();
        let mut note = |module: u64, view: ModuleView| {
            if seen.len() < MAX_MODULES {
                let views = seen.entry(module).or_default();
                if !views.contains(&view) {
                    views.push(view);
                }
            }
        };
        let list = symbol("modules").ok_or(LinuxError::NoSymbol("modules"))?;
        self.each_in_list(list, offsets.list, MAX_MODULES, |module| {
            note(module, ModuleView::List);
        })?;
        let mut views = vec![ModuleView::List];

        let kset = symbol("module_kset").and_then(|va| self.pointer(va).ok().flatten());
        if let Some(kset) = kset {
            let entry = offsets.mkobj_kobj.wrapping_add(offsets.kobj_entry);
            // Built-in modules have an object there, but no `struct module`.
            self.each_in_list(
                kset.wrapping_add(offsets.kset_list),
                entry,
                MAX_MODULES,
                |object| {
                    if let Ok(Some(module)) = self.pointer(object.wrapping_add(offsets.mkobj_mod)) {
                        note(module, ModuleView::Sysfs);
                    }
                },
            )?;
            views.push(ModuleView::Sysfs);
        }

        if let Some(tree) = symbol("mod_tree") {
            // One of two trees with the same content; writers change them in turn.
            let root = self.pointer(tree.wrapping_add(offsets.tree))?;
            let mut nodes: Vec<u64> = root.into_iter().collect();
            let mut budget = MAX_NODES;
            while let Some(node) = nodes.pop() {
                let Some(left) = budget.checked_sub(1) else { break };
                budget = left;
                let tree_node = node.wrapping_sub(offsets.mtn_node);
                let Ok(module) = self.u64(tree_node.wrapping_add(offsets.mtn_mod)) else {
                    continue;
                };
                note(module, ModuleView::AddressTree);
                for child in [offsets.rb_left, offsets.rb_right] {
                    if let Ok(Some(child)) = self.pointer(node.wrapping_add(child)) {
                        nodes.push(child);
                    }
                }
            }
            views.push(ModuleView::AddressTree);
        }
        let modules = seen
            .into_iter()
            .filter_map(|(at, seen_in)| self.module(at, seen_in).ok())
            .collect();
        Ok((modules, views))
    }

    fn module(&self, at: u64, seen_in: Vec<ModuleView>) -> Result<Module, LinuxError> {
        let offsets = group(&self.kernel.layout.module)?;
        let areas = group(&self.kernel.layout.module_memory)?;
        let memory = (0..u64::from(areas.count.min(MAX_AREAS)))
            .filter_map(|index| {
                let area = at.wrapping_add(areas.first + index * areas.stride);
                let base = self.pointer(area.wrapping_add(areas.base)).ok()??;
                let size = self.u32(area.wrapping_add(areas.size)).ok()?;
                (size > 0).then(|| base..base.saturating_add(u64::from(size)))
            })
            .collect();
        Ok(Module {
            at,
            name: self.text::<NAME_LEN>(at.wrapping_add(offsets.name))?,
            live: self.u32(at.wrapping_add(offsets.state))? == STATE_LIVE,
            memory,
            seen_in,
        })
    }
}
