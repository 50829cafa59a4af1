// SPDX-License-Identifier: GPL-3.0-only
//! Hooks: kernel probes, users of ftrace, detours at the head of functions,
//! constant tables of operations that point elsewhere.

use super::finding::Finding;
use super::target::{AddressBook, Owner};
use super::text::Text;
use crate::linux::{Linux, LinuxError, group};
use crate::memory::PhysicalMemory;

/// KPROBE_TABLE_SIZE of the kernel, in all versions.
const KPROBE_BUCKETS: u64 = 64;
/// Probes in one bucket.
const MAX_PROBES: usize = 4096;
/// Longest table of operations; struct net_device_ops has about 700 bytes.
const MAX_OPERATIONS: u64 = 2048;
/// How constant tables of operations are called.
const OPERATIONS: [&str; 6] = ["_ops", "_operations", "_fops", "_aops", "_iops", "_sops"];
/// Kernel addresses are the negative half; the last pages are error numbers.
const FIRST_KERNEL: u64 = 0xffff_8000_0000_0000;
const FIRST_ERROR: u64 = 0xffff_ffff_ffff_f000;

/// Tells of every kernel probe; returns their places.
pub fn kprobes<M: PhysicalMemory>(
    linux: &Linux<M>,
    book: &AddressBook<'_, M>,
    findings: &mut Vec<Finding>,
) -> Result<Vec<u64>, LinuxError> {
    let offsets = group(&linux.kernel().layout.kprobe)?;
    let table = linux.kernel().symbols.address("kprobe_table");
    let table = table.ok_or(LinuxError::NoSymbol("kprobe_table"))?;
    let mut places = Vec::new();
    for bucket in 0..KPROBE_BUCKETS {
        let mut next = linux.pointer(table.wrapping_add(bucket * 8))?;
        for _ in 0..MAX_PROBES {
            let Some(link) = next else { break };
            let probe = link.wrapping_sub(offsets.hlist);
            let place = linux.u64(probe.wrapping_add(offsets.addr))?;
            let handler = linux.u64(probe.wrapping_add(offsets.pre_handler))?;
            places.push(place);
            findings.push(Finding::Kprobe {
                place: book.target(place),
                handler: book.target(handler),
            });
            next = linux.pointer(link)?;
        }
    }
    Ok(places)
}

/// Tells of users of ftrace that are not the kernel's own.
pub fn tracers<M: PhysicalMemory>(book: &AddressBook<'_, M>, findings: &mut Vec<Finding>) -> usize {
    for tracer in &book.tracers {
        let callback = book.target(tracer.callback);
        if !callback.is_kernel() {
            findings.push(Finding::Tracer {
                at: tracer.at,
                callback,
            });
        }
    }
    book.tracers.len()
}

/// Tells of functions whose first instruction leads out of the kernel's text
/// and of what the kernel knows. Wants text in which the places that ftrace
/// patches are blanked: those are told apart.
pub fn detours<M: PhysicalMemory>(
    linux: &Linux<M>,
    book: &AddressBook<'_, M>,
    text: &Text,
    findings: &mut Vec<Finding>,
) {
    let mut last = 0;
    for symbol in linux.kernel().symbols.iter() {
        if !book.text.contains(&symbol.address) || symbol.address == last {
            continue;
        }
        last = symbol.address;
        let Some(address) = detour(symbol.address, text.at(symbol.address, 32)) else {
            continue;
        };
        let target = book.target(address);
        if !target.is_kernel() {
            findings.push(Finding::Detour {
                function: book.target(symbol.address),
                target,
            });
        }
    }
}

/// Where the code at `va` jumps at once, if it does in one of the usual ways of
/// a detour.
fn detour(mut va: u64, mut code: &[u8]) -> Option<u64> {
    const ENDBR64: [u8; 4] = [0xf3, 0x0f, 0x1e, 0xfa];
    if let Some(rest) = code.strip_prefix(&ENDBR64) {
        code = rest;
        va = va.wrapping_add(4);
    }
    let constant = |code: &[u8]| code.first_chunk().map(|raw| u64::from_le_bytes(*raw));
    match code {
        // jmp rel32
        [0xe9, rest @ ..] => {
            let distance = i32::from_le_bytes(*rest.first_chunk()?);
            Some(va.wrapping_add(5).wrapping_add_signed(i64::from(distance)))
        }
        // mov rax, imm64; jmp rax, or push rax; ret
        [0x48, 0xb8, rest @ ..] => match rest.get(8..10)? {
            [0xff, 0xe0] | [0x50, 0xc3] => constant(rest),
            _ => None,
        },
        // jmp [rip + 0], then the address
        [0xff, 0x25, 0, 0, 0, 0, rest @ ..] => constant(rest),
        // push imm32 (sign-extended); ret
        [0x68, a, b, c, d, 0xc3, ..] => Some(i64::from(i32::from_le_bytes([*a, *b, *c, *d])) as u64),
        _ => None,
    }
}

/// Tells of constant tables of operations that point out of the image; returns
/// how many tables were read.
pub fn operations<M: PhysicalMemory>(
    linux: &Linux<M>,
    book: &AddressBook<'_, M>,
    findings: &mut Vec<Finding>,
) -> Result<usize, LinuxError> {
    let kernel = linux.kernel();
    let symbol = |name| kernel.symbols.address(name).ok_or(LinuxError::NoSymbol(name));
    let rodata = symbol("__start_rodata")?..symbol("__end_rodata")?;
    // Set while the kernel boots, so what they point at may lie anywhere.
    let set_at_boot = symbol("__start_ro_after_init")?..symbol("__end_ro_after_init")?;
    let mut raw = [0; MAX_OPERATIONS as usize];
    let mut tables = 0;
    for symbol in kernel.symbols.iter() {
        let start = symbol.address;
        let name = symbol.name;
        if !rodata.contains(&start)
            || set_at_boot.contains(&start)
            || !OPERATIONS.iter().any(|suffix| name.ends_with(suffix))
        {
            continue;
        }
        let end = kernel.symbols.above(start).unwrap_or(start);
        let len = end.min(rodata.end).saturating_sub(start).min(MAX_OPERATIONS) as usize;
        let raw = &mut raw[..len];
        linux.read(start, raw)?;
        tables += 1;
        for (word, offset) in raw.chunks_exact(8).zip((0u64..).step_by(8)) {
            let address = word.try_into().map_or(0, u64::from_le_bytes);
            if !(FIRST_KERNEL..FIRST_ERROR).contains(&address) || kernel.in_image(address) {
                continue;
            }
            // A number that looks like an address leads nowhere.
            if kernel.space.translate(linux.memory(), address).is_err() {
                continue;
            }
            let target = book.target(address);
            if !matches!(target.owner, Owner::Kernel { .. } | Owner::KernelData { .. }) {
                findings.push(Finding::Operations {
                    table: name.to_owned(),
                    offset,
                    target,
                });
            }
        }
    }
    Ok(tables)
}

#[cfg(test)]
mod tests {
    use super::detour;

    #[test]
    fn the_usual_detours_are_recognised() {
        let to = 0xffff_ffff_c012_3450u64;
        let mut absolute = vec![0x48, 0xb8];
        absolute.extend(to.to_le_bytes());
        let mut push = absolute.clone();
        absolute.extend([0xff, 0xe0]);
        push.extend([0x50, 0xc3]);
        assert_eq!(detour(0x1000, &absolute), Some(to));
        assert_eq!(detour(0x1000, &push), Some(to));
        let mut indirect = vec![0xff, 0x25, 0, 0, 0, 0];
        indirect.extend(to.to_le_bytes());
        assert_eq!(detour(0x1000, &indirect), Some(to));
        assert_eq!(detour(0x1000, &[0x68, 0x50, 0x34, 0x12, 0xc0, 0xc3]), Some(to));
        let relative = [0xf3, 0x0f, 0x1e, 0xfa, 0xe9, 0x10, 0, 0, 0];
        assert_eq!(detour(0x1000, &relative), Some(0x1019));
        // push rbp; mov rbp, rsp
        assert_eq!(detour(0x1000, &[0x55, 0x48, 0x89, 0xe5, 0x53, 0x50]), None);
        assert_eq!(detour(0x1000, &[0xe9, 1]), None);
        assert_eq!(detour(0x1000, &[]), None);
    }
}
