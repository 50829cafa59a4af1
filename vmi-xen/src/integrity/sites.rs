// SPDX-License-Identifier: GPL-3.0-only
//! Places in the text that the kernel itself patches while it runs: each may
//! hold a few things only, and those are checked.

use super::MAX_FINDINGS;
use super::finding::{Finding, SiteKind};
use super::target::{AddressBook, Owner, Target};
use super::text::Text;
use crate::linux::{Linux, LinuxError, group};
use crate::memory::PhysicalMemory;

/// Pages of ftrace's records; Debian's kernels need about 200 (of 4 KiB) or ten
/// (of larger order).
const MAX_RECORD_PAGES: usize = 4096;
/// Records of one of them.
const MAX_RECORDS: u32 = 1 << 20;
/// Bytes of a table of static keys or static calls.
const MAX_TABLE: u64 = 16 << 20;
/// Labels in ftrace's own trampolines whose instruction is patched.
const FTRACE_LABELS: [&str; 3] = ["ftrace_call", "ftrace_regs_call", "ftrace_graph_call"];
/// How the kernel's trampolines are called that a traced function calls.
const FTRACE: &str = "ftrace_";
/// Functions that are one such place as a whole: BPF rewrites them.
const DISPATCHERS: &str = "bpf_dispatcher_";

const INT3: u8 = 0xcc;
const CALL: u8 = 0xe8;
const JMP: u8 = 0xe9;
const JMP_SHORT: u8 = 0xeb;
/// NOPs of two and five bytes that the kernel uses, by CPU model and version.
const NOP2: [u8; 2] = [0x66, 0x90];
const NOP5: [[u8; 5]; 3] = [
    [0x0f, 0x1f, 0x44, 0x00, 0x00],
    [0x66, 0x66, 0x66, 0x66, 0x90],
    [0x3e, 0x8d, 0x74, 0x26, 0x00],
];
/// What a static call may hold instead of a call (arch/x86/kernel/static_call.c):
/// "return 0", by version, the trap of a warning, and since 7.3 the release of a
/// spin lock where no hypervisor wants to know of it (`movb $0, (%rdi)`).
const NO_CALL: [[u8; 5]; 5] = [
    [0x67, 0x48, 0x0f, 0xb9, 0x3a],
    [0x2e, 0x2e, 0x2e, 0x31, 0xc0],
    [0x66, 0x66, 0x48, 0x31, 0xc0],
    [0x66, 0x2e, 0x2e, 0x31, 0xc0],
    [0x3e, 0x3e, 0xc6, 0x07, 0x00],
];
const RET: u8 = 0xc3;

/// What a place may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    /// A NOP, or a call of a tracer.
    Ftrace,
    /// A NOP, or a jump to this address.
    Jump(u64),
    /// A call or a jump, or a constant for it.
    Call,
}

/// A place that the kernel patches.
#[derive(Debug, Clone, Copy)]
struct Site {
    va: u64,
    rule: Rule,
}

/// What was found at patched places.
#[derive(Debug, Default, Clone, Copy)]
pub struct Count {
    /// Places that ftrace patches.
    pub ftrace: usize,
    /// Branches of static keys.
    pub keys: usize,
    /// Static calls.
    pub calls: usize,
}

/// Checks every place that the kernel patches, then blanks it in `text`.
/// `own` tells whether a breakpoint at an address is the engine's.
///
/// # Errors
/// If a table of such places cannot be read; the text is then not blanked as a
/// whole and must not be compared.
pub fn check<M: PhysicalMemory>(
    linux: &Linux<M>,
    book: &AddressBook<'_, M>,
    text: &mut Text,
    own: &dyn Fn(u64) -> bool,
    findings: &mut Vec<Finding>,
) -> Result<Count, LinuxError> {
    let mut sites = Vec::new();
    let mut count = Count::default();
    ftrace(linux, &mut sites)?;
    labels(linux, &mut sites);
    count.ftrace = sites.len();
    static_keys(linux, &mut sites)?;
    count.keys = sites.len() - count.ftrace;
    static_calls(linux, &mut sites)?;
    count.calls = sites.len() - count.keys - count.ftrace;
    sites.retain(|site| book.text.contains(&site.va));
    let judged = sites.iter().filter_map(|site| judge(book, text, *site, own));
    findings.extend(judged.take(MAX_FINDINGS));
    for site in &sites {
        let len = site_len(text.at(site.va, 6));
        text.blank(site.va, len);
    }
    blank_dispatchers(linux, text);
    Ok(count)
}

/// Length of the instruction that is patched, by what is there now. After all
/// sites are judged, so that one which reaches into another hides nothing.
fn site_len(bytes: &[u8]) -> usize {
    match bytes {
        [JMP_SHORT, ..] => 2,
        [a, b, ..] if [*a, *b] == NOP2 => 2,
        // A conditional jump whose target is switched.
        [0x0f, 0x80..=0x8f, ..] => 6,
        _ => 5,
    }
}

/// Where a jump or call of five bytes at `va` leads.
fn rel32(va: u64, bytes: &[u8]) -> Option<u64> {
    let (_, rest) = bytes.split_first()?;
    let distance = i32::from_le_bytes(*rest.first_chunk()?);
    Some(va.wrapping_add(5).wrapping_add_signed(i64::from(distance)))
}

fn judge<M: PhysicalMemory>(
    book: &AddressBook<'_, M>,
    text: &Text,
    site: Site,
    own: &dyn Fn(u64) -> bool,
) -> Option<Finding> {
    let bytes: [u8; 5] = *text.at(site.va, 5).first_chunk()?;
    let first = bytes[0];
    let target = match first {
        CALL | JMP => rel32(site.va, &bytes),
        JMP_SHORT => {
            let distance = i64::from(bytes[1] as i8);
            Some(site.va.wrapping_add(2).wrapping_add_signed(distance))
        }
        0x0f if bytes[1] & 0xf0 == 0x80 => rel32(site.va + 1, text.at(site.va + 1, 5)),
        _ => None,
    };
    let overwritten = |kind: SiteKind| {
        Some(Finding::Overwritten {
            site: kind,
            place: book.target(site.va),
            bytes,
            target: target.map(|target| book.target(target)),
        })
    };
    if first == INT3 && own(site.va) {
        return None;
    }
    match site.rule {
        Rule::Ftrace => {
            if NOP5.contains(&bytes) {
                return None;
            }
            let function = book.target(site.va);
            match target.map(|target| book.target(target)) {
                Some(by) if matches!(first, CALL | JMP) => match &by.owner {
                    // ftrace's own trampolines call its own functions.
                    Owner::Kernel { .. } if is_label(&function) => None,
                    Owner::Kernel { symbol, .. } if !symbol.starts_with(FTRACE) => {
                        overwritten(SiteKind::Ftrace)
                    }
                    Owner::Nobody | Owner::KernelData { .. } => overwritten(SiteKind::Ftrace),
                    _ => Some(Finding::Traced { function, by }),
                },
                _ => overwritten(SiteKind::Ftrace),
            }
        }
        Rule::Jump(honest) => {
            let nop = NOP5.contains(&bytes) || bytes.starts_with(&NOP2);
            let jump = matches!(first, JMP | JMP_SHORT) && target == Some(honest);
            if nop || jump {
                None
            } else {
                overwritten(SiteKind::StaticKey)
            }
        }
        Rule::Call => {
            let constant = NOP5.contains(&bytes) || NO_CALL.contains(&bytes) || first == RET;
            let known = target.is_some_and(|target| {
                first != JMP_SHORT
                    && !matches!(
                        book.target(target).owner,
                        Owner::Nobody | Owner::KernelData { .. }
                    )
            });
            if constant || known {
                None
            } else {
                overwritten(SiteKind::StaticCall)
            }
        }
    }
}

fn is_label(place: &Target) -> bool {
    matches!(&place.owner, Owner::Kernel { symbol, .. } if FTRACE_LABELS.contains(&symbol.as_str()))
}

/// The first instruction of every function that can be traced.
fn ftrace<M: PhysicalMemory>(linux: &Linux<M>, sites: &mut Vec<Site>) -> Result<(), LinuxError> {
    let kernel = linux.kernel();
    let offsets = group(&kernel.layout.ftrace)?;
    let size = group(&kernel.layout.dyn_ftrace_size)?.clamp(8, 64) as usize;
    let start = kernel.symbols.address("ftrace_pages_start");
    let start = start.ok_or(LinuxError::NoSymbol("ftrace_pages_start"))?;
    let mut next = linux.pointer(start)?;
    let mut raw = Vec::new();
    for _ in 0..MAX_RECORD_PAGES {
        let Some(page) = next else { break };
        let count = linux.u32(page.wrapping_add(offsets.page_index))?;
        if count > MAX_RECORDS {
            return Err(LinuxError::Implausible {
                what: "page of ftrace's records",
                va: page,
            });
        }
        raw.resize(count as usize * size, 0);
        linux.read(linux.u64(page.wrapping_add(offsets.page_records))?, &mut raw)?;
        for record in raw.chunks_exact(size) {
            let ip = record.get(offsets.ip as usize..).and_then(<[u8]>::first_chunk);
            sites.push(Site {
                va: ip.map_or(0, |ip| u64::from_le_bytes(*ip)),
                rule: Rule::Ftrace,
            });
        }
        next = linux.pointer(page.wrapping_add(offsets.page_next))?;
    }
    Ok(())
}

fn labels<M: PhysicalMemory>(linux: &Linux<M>, sites: &mut Vec<Site>) {
    for name in FTRACE_LABELS {
        if let Some(va) = linux.kernel().symbols.address(name) {
            sites.push(Site {
                va,
                rule: Rule::Ftrace,
            });
        }
    }
}

/// Bytes between two symbols. A kernel without them has no such table.
fn table<M: PhysicalMemory>(
    linux: &Linux<M>,
    start: &str,
    stop: &str,
) -> Result<Option<(u64, Vec<u8>)>, LinuxError> {
    let symbols = &linux.kernel().symbols;
    let Some((start, stop)) = symbols.address(start).zip(symbols.address(stop)) else {
        return Ok(None);
    };
    let len = stop.saturating_sub(start);
    if len > MAX_TABLE {
        return Err(LinuxError::Implausible {
            what: "table of patched places",
            va: start,
        });
    }
    let mut bytes = vec![0; len as usize];
    linux.read(start, &mut bytes)?;
    Ok(Some((start, bytes)))
}

/// A 32-bit field at `va` that holds the distance from itself.
fn relative(va: u64, bytes: &[u8], at: usize) -> u64 {
    let distance = bytes
        .get(at..)
        .and_then(<[u8]>::first_chunk)
        .map_or(0, |raw| i32::from_le_bytes(*raw));
    va.wrapping_add(at as u64)
        .wrapping_add_signed(i64::from(distance))
}

/// `struct jump_entry` (include/linux/jump_label.h): code and target, each
/// relative to itself in 32 bits, then 64 bits of key.
fn static_keys<M: PhysicalMemory>(linux: &Linux<M>, sites: &mut Vec<Site>) -> Result<(), LinuxError> {
    let Some((start, bytes)) = table(linux, "__start___jump_table", "__stop___jump_table")? else {
        return Ok(());
    };
    for (index, entry) in bytes.chunks_exact(16).enumerate() {
        let va = start + index as u64 * 16;
        sites.push(Site {
            va: relative(va, entry, 0),
            rule: Rule::Jump(relative(va, entry, 4)),
        });
    }
    Ok(())
}

/// `struct static_call_site` (include/linux/static_call_types.h): the place and
/// its key, each relative to itself in 32 bits. Beside those, every static call
/// has a trampoline.
fn static_calls<M: PhysicalMemory>(linux: &Linux<M>, sites: &mut Vec<Site>) -> Result<(), LinuxError> {
    let found = table(linux, "__start_static_call_sites", "__stop_static_call_sites")?;
    if let Some((start, bytes)) = found {
        for (index, entry) in bytes.chunks_exact(8).enumerate() {
            sites.push(Site {
                va: relative(start + index as u64 * 8, entry, 0),
                rule: Rule::Call,
            });
        }
    }
    for symbol in linux.kernel().symbols.iter() {
        if symbol.name.starts_with("__SCT__") {
            sites.push(Site {
                va: symbol.address,
                rule: Rule::Call,
            });
        }
    }
    Ok(())
}

fn blank_dispatchers<M: PhysicalMemory>(linux: &Linux<M>, text: &mut Text) {
    let symbols = &linux.kernel().symbols;
    for symbol in symbols.iter() {
        if symbol.name.starts_with(DISPATCHERS)
            && symbol.name.ends_with("_func")
            && let Some(end) = symbols.above(symbol.address)
        {
            text.blank(symbol.address, (end - symbol.address).min(64) as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_count_from_behind_the_instruction() {
        assert_eq!(rel32(0x1000, &[CALL, 0x10, 0, 0, 0]), Some(0x1015));
        assert_eq!(rel32(0x1000, &[JMP, 0xfb, 0xff, 0xff, 0xff]), Some(0x1000));
        assert_eq!(rel32(0x1000, &[JMP, 0]), None);
        assert_eq!(relative(0x1000, &[0, 0, 0, 0, 4, 0, 0, 0], 4), 0x1008);
    }

    #[test]
    fn the_instruction_tells_its_length() {
        assert_eq!(site_len(&[0xeb, 0x10, 0x90, 0x90, 0x90]), 2);
        assert_eq!(site_len(&[0x66, 0x90, 0x90, 0x90, 0x90]), 2);
        assert_eq!(site_len(&[0x0f, 0x84, 0, 0, 0, 0]), 6);
        assert_eq!(site_len(&[0x0f, 0x1f, 0x44, 0, 0]), 5);
        assert_eq!(site_len(&[CALL, 0, 0, 0, 0]), 5);
    }
}
