// SPDX-License-Identifier: GPL-3.0-only
//! Where real kernels have the functions of system calls.

use std::collections::BTreeSet;

use vmi_xen::kernel::Kernel;
use vmi_xen::memory::PhysicalMemory;
use vmi_xen::syscall::{Abi, Entries, table};
use vmi_xen::trace::sites::{self, Site, Wanted};

/// The kernel's own tables are the truth about numbers, and about the functions' names, which is all there is where
/// a kernel has no table.
pub fn entries<M: PhysicalMemory>(mem: &M, kernel: &Kernel) {
    let entries = Entries::new(kernel);
    for abi in [Abi::X64, Abi::Ia32] {
        let (mut by_table, mut agree) = (0, 0);
        let mut wrong = Vec::new();
        for signature in table::all().iter().filter(|call| call.number(abi).is_some()) {
            let Some(va) = entries.by_table(mem, abi, signature) else {
                continue;
            };
            by_table += 1;
            let symbols = &kernel.symbols;
            let name = symbols.name(va).unwrap_or("nothing");
            let stub = name.contains("ni_syscall");
            match entries.of_abi(mem, abi, signature.name) {
                Some(found) => assert_eq!(found, va, "{abi:?} {}: {name}", signature.name),
                None => assert!(stub, "{abi:?} {}: {name}", signature.name),
            }
            if !stub {
                let by_symbol = entries.by_symbol(abi, signature.function_name());
                if by_symbol == Some(va) {
                    agree += 1;
                } else {
                    wrong.push(format!("{} is {name}", signature.name));
                }
            }
        }
        eprintln!(
            "{} {abi:?}: {agree} functions of {by_table} numbers",
            kernel.release
        );
        // Kernels with the mitigation of branch history injection dispatch by a switch, and keep the 64-bit table alone,
        // which is for tracing.
        let tabled = abi == Abi::X64 || kernel.symbols.address("ia32_sys_call_table").is_some();
        assert_eq!(by_table > 0, tabled, "{} {abi:?}", kernel.release);
        let found = table::all()
            .iter()
            .filter(|call| call.number(abi).is_some() && entries.of_abi(mem, abi, call.name).is_some())
            .count();
        assert!(found > 330, "{} {abi:?}: {found}", kernel.release);
    }
    // By name alone, in every kernel and both ABIs.
    for name in [
        "openat", "connect", "execve", "mmap2", "clone", "fstat64", "futex", "getpid", "select", "getuid32",
    ] {
        assert!(!entries.of(mem, name).is_empty(), "{} {name}", kernel.release);
    }
    let shared = entries.of(mem, "getpid");
    assert!(
        matches!(shared[..], [entry] if entry.abis.x64 && entry.abis.ia32),
        "{shared:?}"
    );
    assert_eq!(entries.of(mem, "openat").len(), 2);
    assert!(
        entries.of(mem, "query_module").is_empty(),
        "a call that no kernel has"
    );
    assert!(entries.of(mem, "no_such_call").is_empty());
}

/// Every call that a trace takes by default has a return that can be probed, unless it never returns.
pub fn sites<M: PhysicalMemory>(mem: &M, kernel: &Kernel) {
    let wanted: Vec<Wanted> = table::CLASSES
        .iter()
        .flat_map(|(_, calls)| *calls)
        .map(|name| Wanted {
            name: (*name).into(),
            optional: true,
        })
        .collect();
    let mut calls = 0;
    for one in &wanted {
        let (name, release) = (&one.name, &kernel.release);
        let found = sites::find(mem, kernel, std::slice::from_ref(one));
        assert!(found.gaps.is_empty(), "{release} {:?}", found.gaps);
        if found.found.is_empty() {
            continue;
        }
        calls += 1;
        let returns = found
            .places
            .values()
            .filter(|site| **site == Site::Return)
            .count();
        assert!(found.places.len() > returns, "{release} {name}: no entry");
        assert!(
            returns > 0 || name.starts_with("exit"),
            "{release} {name}: no return"
        );
    }
    let all = sites::find(mem, kernel, &wanted);
    let pages: BTreeSet<u64> = all.places.keys().map(|va| va / 4096).collect();
    let (places, pages) = (all.places.len(), pages.len());
    eprintln!(
        "{}: {calls} calls, {places} places on {pages} pages",
        kernel.release
    );
    assert!(calls > 70, "{} {calls}", kernel.release);
}
