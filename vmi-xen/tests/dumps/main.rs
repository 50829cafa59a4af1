// SPDX-License-Identifier: GPL-3.0-only
//! The engine against memory of real kernels.
//!
//! Debian's kernels are booted under QEMU's emulator, dumped, and what the
//! engine reads is compared with what the guest's own /proc told at that
//! moment. Dumps are cached in `$XMESH_CACHE` (default `~/.cache/xmesh`).
//!
//! By default two kernels are tried; with `XMESH_ALL_KERNELS=1` all of them;
//! with `XMESH_QUICK=1` none. Needs apt-get, dpkg, rustc, xz and
//! qemu-system-x86_64.

#![allow(clippy::expect_used, reason = "all of it is test code")]

mod compare;
mod flow;
mod forge;
mod formats;
#[path = "../../fuzz/src/lib.rs"]
#[allow(dead_code, reason = "some of it is for libFuzzer only")]
mod fuzz;
mod hostile;
mod initramfs;
mod kernels;
mod machine;
mod mapped;
mod plain;
mod points;
mod syscalls;
mod truth;

use kernels::{Loaded, MEASURED_MIB, NEWEST, selected};
use vmi_xen::kernel::{Kernel, exits};
use vmi_xen::linux::Linux;
use vmi_xen::memory::CpuState;

#[test]
fn engine_agrees_with_the_guests_own_proc() {
    for kernel in selected() {
        let Loaded { dump, truth, .. } = kernel.load();
        let found = Kernel::find(&dump, dump.cpus()).expect(kernel.series);
        assert!(found.layout.gaps().is_empty(), "{:?}", found.layout.gaps());
        assert_eq!(found.release, truth.release);
        assert_eq!(found.text_base, truth.symbol("_text"));
        compare::lookups_are_cheap(&dump, &found);
        let linux = Linux::new(&dump, found);
        compare::symbols(&linux, &truth);
        compare::processes(&linux, &truth);
        mapped::mappings(&linux, &truth);
        mapped::text_is_as_in_the_file(&linux);
        mapped::text_of_its_own_is_told(&linux);
        compare::descriptors(&linux, &truth);
        compare::sockets(&linux, &truth);
        compare::addresses(&linux, &truth);
        flow::compare(&linux, &truth);
        syscalls::entries(&&dump, linux.kernel());
        syscalls::sites(&&dump, linux.kernel());
        for cpu in dump.cpus() {
            linux.prove_current(cpu).expect("current task");
        }
    }
}

#[test]
fn there_is_a_place_for_every_probe() {
    for kernel in selected() {
        let Loaded { dump, .. } = kernel.load();
        let found = Kernel::find(&dump, dump.cpus()).expect(kernel.series);
        points::are_there(&dump, &found);
    }
}

/// What a live domain has and QEMU's dumps lack: LSTAR.
#[test]
fn the_system_call_entry_alone_leads_to_the_kernel() {
    for kernel in selected() {
        let Loaded { dump, truth, .. } = kernel.load();
        let with_lstar = |lstar: u64, idt_base: u64| -> Vec<CpuState> {
            let cpus = dump.cpus().iter();
            cpus.map(|&cpu| CpuState {
                lstar,
                idt_base,
                rip: 0,
                ..cpu
            })
            .collect()
        };
        let entry = truth.symbol("entry_SYSCALL_64");
        let found = Kernel::find(&dump, &with_lstar(entry, 0)).expect(kernel.series);
        assert_eq!(found.release, truth.release);
        assert_eq!(found.syscall_entry_intact, Some(true));

        // Taken over by something in the image, and by something outside of it.
        for hooked in [truth.symbol("do_exit"), 0xffff_ffff_c012_3450] {
            let idt_base = dump.cpus()[0].idt_base;
            let found = Kernel::find(&dump, &with_lstar(hooked, idt_base)).expect(kernel.series);
            assert_eq!(found.syscall_entry_intact, Some(false));
        }

        // Nothing to go by.
        assert!(Kernel::find(&dump, &with_lstar(0, 0)).is_err());
        assert!(Kernel::find(&dump, &[]).is_err());
    }
}

/// Where a function returns is found by decoding it; system calls are functions of every kind.
#[test]
fn functions_return_where_they_are_said_to() {
    for kernel in selected() {
        let Loaded { dump, .. } = kernel.load();
        let found = Kernel::find(&dump, dump.cpus()).expect(kernel.series);
        let symbols = found.symbols.iter();
        let calls: Vec<(String, u64)> = symbols
            .filter(|s| s.name.starts_with("__x64_sys_") && !s.name.contains('.'))
            .map(|s| (s.name.to_owned(), s.address))
            .collect();
        assert!(
            calls.len() > 250,
            "{}: {} system calls",
            kernel.series,
            calls.len()
        );
        for (name, va) in calls {
            let exits =
                exits(&dump, &found, va).unwrap_or_else(|error| panic!("{}: {name}: {error}", kernel.series));
            let ends = ["__x64_sys_exit", "__x64_sys_exit_group"].contains(&name.as_str());
            let left = !exits.returns.is_empty() || !exits.tail_calls.is_empty() || exits.indirect;
            assert!(left || ends, "{}: {name} is never left: {exits:?}", kernel.series);
            for at in exits.returns {
                let mut byte = [0];
                found.space.read(&dump, at, &mut byte).expect("text");
                // ret, ret imm16, jmp rel32, jmp rel8 (rep before ret).
                assert!(
                    [0xc3, 0xc2, 0xe9, 0xeb, 0xf3].contains(&byte[0]),
                    "{name}: {at:#x}: {byte:x?}"
                );
            }
        }
        let accept = found.symbols.address("inet_csk_accept").expect("inet_csk_accept");
        let accept = exits(&dump, &found, accept).expect(kernel.series);
        assert!(!accept.returns.is_empty(), "{}", kernel.series);
        let exit = found.symbols.address("do_exit").expect("do_exit");
        let exit = exits(&dump, &found, exit).expect(kernel.series);
        assert!(exit.returns.is_empty(), "{}: {exit:?}", kernel.series);
    }
}

/// Prints where the dumps are that `cargo xtask bench bringup` reads; makes those that are not there.
#[test]
#[ignore = "makes dumps to be measured"]
fn dumps_to_measure() {
    for kernel in std::iter::once(&NEWEST).chain(selected()) {
        let path = kernel.dump_of(MEASURED_MIB).expect(kernel.series);
        println!("dump: {}", path.display());
    }
}
