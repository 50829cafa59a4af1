// SPDX-License-Identifier: GPL-3.0-only
//! The ways into the kernel: system calls, entry registers, interrupts.

use super::finding::Finding;
use super::target::AddressBook;
use crate::linux::{Linux, LinuxError};
use crate::memory::{CpuState, PhysicalMemory};

/// Tables of system calls; a kernel has those of the ABIs it was built with.
const TABLES: [&str; 3] = ["sys_call_table", "ia32_sys_call_table", "x32_sys_call_table"];
/// Entries of one table that are looked at; Linux has about 470.
const MAX_CALLS: usize = 1024;
/// Vectors of x86.
const VECTORS: usize = 256;
/// Tables of small stubs, one for each vector, so that gates lead into their
/// middle. Vectors that are never used keep the stubs of the early boot.
const STUBS: [&str; 4] = [
    "irq_entries_start",
    "spurious_entries_start",
    "early_idt_handler_array",
    "xen_early_idt_handler_array",
];
/// Longest such table: 16 bytes for each vector.
const MAX_STUBS: u64 = 256 * 16;

/// Checks that every entry of every system-call table is a system call of the
/// kernel; returns how many entries there are.
pub fn system_calls<M: PhysicalMemory>(
    linux: &Linux<M>,
    book: &AddressBook<'_, M>,
    findings: &mut Vec<Finding>,
) -> Result<usize, LinuxError> {
    let symbols = &linux.kernel().symbols;
    let mut checked = 0;
    for table in TABLES {
        let Some(start) = symbols.address(table) else {
            continue;
        };
        let end = symbols.above(start).unwrap_or(start);
        let count = ((end - start) / 8).min(MAX_CALLS as u64) as usize;
        let mut raw = vec![0; count * 8];
        linux.read(start, &mut raw)?;
        for (number, word) in raw.chunks_exact(8).enumerate() {
            let address = word.try_into().map_or(0, u64::from_le_bytes);
            // Padding behind the last call.
            if address == 0 {
                continue;
            }
            checked += 1;
            // The same code may have several names, for several ABIs.
            let honest =
                book.text.contains(&address) && symbols.names(address).any(|name| name.contains("sys_"));
            if !honest {
                findings.push(Finding::SystemCall {
                    table,
                    number,
                    target: book.target(address),
                });
            }
        }
    }
    if checked == 0 {
        return Err(LinuxError::NoSymbol("sys_call_table"));
    }
    Ok(checked)
}

/// Checks the registers that say where vCPUs enter the kernel; returns how many
/// were known.
pub fn registers<M: PhysicalMemory>(
    linux: &Linux<M>,
    book: &AddressBook<'_, M>,
    cpus: &[CpuState],
    findings: &mut Vec<Finding>,
) -> usize {
    let symbols = &linux.kernel().symbols;
    let mut checked = 0;
    for (vcpu, cpu) in cpus.iter().enumerate().filter(|(_, cpu)| cpu.in_long_mode()) {
        let entries: [(&str, u64, &[&str]); 1] = [("LSTAR", cpu.lstar, &["entry_SYSCALL_64"])];
        for (register, address, honest) in entries {
            if address == 0 {
                continue;
            }
            checked += 1;
            if !honest.iter().any(|name| symbols.address(name) == Some(address)) {
                findings.push(Finding::Entry {
                    vcpu,
                    register,
                    target: book.target(address),
                });
            }
        }
    }
    checked
}

/// Checks that every vCPU uses the kernel's interrupt descriptor table and that
/// its gates lead to handlers of the kernel; returns the number of gates.
pub fn interrupts<M: PhysicalMemory>(
    linux: &Linux<M>,
    book: &AddressBook<'_, M>,
    cpus: &[CpuState],
    findings: &mut Vec<Finding>,
) -> Result<usize, LinuxError> {
    let kernel = linux.kernel();
    let table = kernel.symbols.address("idt_table");
    let table = table.ok_or(LinuxError::NoSymbol("idt_table"))?;
    let home = kernel.space.translate(linux.memory(), table)?;
    for (vcpu, cpu) in cpus.iter().enumerate().filter(|(_, cpu)| cpu.in_long_mode()) {
        // The CPUs see it by another, read-only mapping of the same page.
        let used = kernel.space.translate(linux.memory(), cpu.idt_base).ok();
        if cpu.idt_base != 0 && used != Some(home) {
            findings.push(Finding::ForeignIdt {
                vcpu,
                base: cpu.idt_base,
            });
        }
    }
    let mut raw = [0; VECTORS * 16];
    linux.read(table, &mut raw)?;
    let mut checked = 0;
    for (vector, gate) in (0..=u8::MAX).zip(raw.chunks_exact(16)) {
        let Some(address) = handler(gate) else { continue };
        checked += 1;
        let symbols = &kernel.symbols;
        let stub = symbols.nearest(address).is_some_and(|(symbol, offset)| {
            let mut names = symbols.names(symbol.address);
            offset < MAX_STUBS && names.any(|name| STUBS.contains(&name))
        });
        let target = book.target(address);
        if !stub && !target.is_function() {
            findings.push(Finding::Gate { vector, target });
        }
    }
    Ok(checked)
}

/// Handler of a gate of 16 bytes (Intel SDM volume 3, figure "64-Bit IDT Gate
/// Descriptors"), if the gate is present.
fn handler(gate: &[u8]) -> Option<u64> {
    let raw: [u8; 16] = gate.try_into().ok()?;
    let word = u128::from_le_bytes(raw);
    let present = word >> 47 & 1 != 0;
    let low = word & 0xffff;
    let middle = word >> 48 & 0xffff;
    let high = word >> 64 & 0xffff_ffff;
    present.then_some((low | middle << 16 | high << 32) as u64)
}

#[cfg(test)]
mod tests {
    use super::handler;

    #[test]
    fn a_gate_is_put_together_from_three_parts() {
        let gate = [
            0x30, 0x10, 0x10, 0x00, 0x00, 0x8e, 0x00, 0x8b, 0xfe, 0xff, 0xff, 0xff, 0, 0, 0, 0,
        ];
        assert_eq!(handler(&gate), Some(0xffff_fffe_8b00_1030));
        let mut absent = gate;
        absent[5] = 0x0e;
        assert_eq!(handler(&absent), None);
        assert_eq!(handler(&gate[..8]), None);
    }
}
