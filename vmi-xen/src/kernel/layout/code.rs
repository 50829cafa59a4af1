// SPDX-License-Identifier: GPL-3.0-only
//! Offsets of what is code in a kernel beside its image: modules, BPF, and who patches it.

use super::Group;
use super::member::offsets;
use crate::kernel::btf::Btf;

offsets! {
    /// Loaded modules: their list, their objects in sysfs, the tree of their
    /// addresses.
    ModuleOffsets {
        list: u64 = "module.list",
        name: u64 = "module.name",
        state: u64 = "module.state",
        kset_list: u64 = "kset.list",
        kobj_entry: u64 = "kobject.entry",
        mkobj_kobj: u64 = "module_kobject.kobj",
        mkobj_mod: u64 = "module_kobject.mod",
        tree: u64 = "mod_tree_root.root.tree",
        mtn_mod: u64 = "mod_tree_node.mod",
        mtn_node: u64 = "mod_tree_node.node",
        rb_right: u64 = "rb_node.rb_right",
        rb_left: u64 = "rb_node.rb_left",
    }
}

/// Where a module says which memory is its own: one area up to 6.3, an array of
/// them since.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModuleMemory {
    /// Offset of the first area in `struct module`.
    pub first: u64,
    /// Bytes from one area to the next.
    pub stride: u64,
    /// Number of areas.
    pub count: u32,
    /// Offset of the area's address in it.
    pub base: u64,
    /// Offset of its length in bytes, 32 bits wide.
    pub size: u64,
}

impl ModuleMemory {
    pub(super) fn resolve(btf: &Btf<'_>) -> Group<Self> {
        let (areas, kind) = match btf.member("module.mem") {
            Ok(areas) => (areas, "module_memory"),
            Err(_) => (btf.member("module.core_layout")?, "module_layout"),
        };
        let of = |member: &str| btf.member(&format!("{kind}.{member}"));
        Ok(Self {
            first: u64::from(areas.offset),
            stride: u64::from(areas.size / areas.count.max(1)),
            count: areas.count,
            base: u64::from(of("base")?.offset),
            size: u64::from(of("size")?.offset),
        })
    }
}

offsets! {
    /// Symbols of code that BPF made: programs, trampolines, dispatchers.
    BpfSymbolOffsets {
        lnode: u64 = "bpf_ksym.lnode",
        start: u64 = "bpf_ksym.start",
        end: u64 = "bpf_ksym.end",
        name: u64 = "bpf_ksym.name",
    }
}

offsets! {
    /// ftrace: the places it may patch, and who asked for it.
    FtraceOffsets {
        page_next: u64 = "ftrace_page.next",
        page_records: u64 = "ftrace_page.records",
        page_index: u64 = "ftrace_page.index",
        ip: u64 = "dyn_ftrace.ip",
        ops_func: u64 = "ftrace_ops.func",
        ops_next: u64 = "ftrace_ops.next",
        ops_trampoline: u64 = "ftrace_ops.trampoline",
        ops_trampoline_size: u64 = "ftrace_ops.trampoline_size",
    }
}

offsets! {
    /// Kernel probes.
    KprobeOffsets {
        hlist: u64 = "kprobe.hlist",
        addr: u64 = "kprobe.addr",
        pre_handler: u64 = "kprobe.pre_handler",
    }
}
