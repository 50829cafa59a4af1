// SPDX-License-Identifier: GPL-3.0-only
//! Parsers of bytes that a guest, or a file, brings.

use std::cell::Cell;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::PathBuf;

use vmi_xen::kernel::btf::Btf;
use vmi_xen::kernel::kallsyms::Kallsyms;
use vmi_xen::kernel::{Kernel, Layout};
use vmi_xen::linux::Linux;
use vmi_xen::memory::{AddressSpace, CpuState, Dump, MemoryError, PhysicalMemory};

use super::edits::edited;

/// Counts reads.
struct Counted<'a>(&'a [u8], Cell<u64>);

impl PhysicalMemory for Counted<'_> {
    fn read_phys(&self, pa: u64, buf: &mut [u8]) -> Result<(), MemoryError> {
        self.1.set(self.1.get() + 1);
        self.0.read_phys(pa, buf)
    }
}

/// Page tables of any content: the input is memory from address 0 on, after an address to look up.
pub fn paging(data: &[u8]) {
    let Some((head, memory)) = data.split_at_checked(10) else {
        return;
    };
    let va = u64::from_le_bytes([
        head[0], head[1], head[2], head[3], head[4], head[5], head[6], head[7],
    ]);
    let memory = Counted(memory, Cell::new(0));
    let space = AddressSpace::new(u64::from(head[8]) << 12, head[9]);
    for va in [va, ((va << 16) as i64 >> 16) as u64] {
        memory.1.set(0);
        let walked = space.walk(&memory, va).map(|found| found.pa).ok();
        let reads = memory.1.take();
        assert!(reads <= 5, "{reads} reads for one walk");
        assert_eq!(walked, space.translate(&memory, va).ok());
        memory.1.set(0);
        let mut buf = [0; 10_000];
        let _ = space.read(&memory, va, &mut buf);
        let got = space.read_prefix(&memory, va, &mut buf);
        assert!(got <= buf.len());
        let reads = memory.1.take();
        assert!(reads <= 2 * 6 * 4, "{reads} reads for four pages, twice");
        // The same tables as those of a guest that is to be recognised.
        let cpu = CpuState {
            cr0: 1 << 31,
            cr3: space.root(),
            cr4: if head[9] == 5 { 1 << 12 } else { 0 },
            lstar: va,
            rip: va,
            ..CpuState::default()
        };
        if let Ok(kernel) = Kernel::find(&memory, &[cpu]) {
            let _ = Linux::new(&memory, kernel).processes();
        }
    }
}

/// kallsyms with edits. An input whose first byte is odd is the block itself.
pub fn kallsyms(data: &[u8]) {
    let block = match data.split_first() {
        Some((first, rest)) if first % 2 == 1 => rest.to_vec(),
        Some((_, rest)) => edited(&sound_kallsyms(), rest),
        None => sound_kallsyms(),
    };
    any_kallsyms(&block, "s7");
}

/// Reads a block that may hold kallsyms; with a symbol that a sound one has.
pub fn any_kallsyms(block: &[u8], symbol: &str) {
    let Some(found) = Kallsyms::find(block) else {
        return;
    };
    let position = found.position(symbol);
    let base = 0xffff_ffff_8100_0000;
    for candidate in found.candidates() {
        let _ = position.and_then(|position| found.address(candidate, base, position));
        let _ = found.address(candidate, base, usize::MAX);
    }
    if let Some(&candidate) = found.candidates().last() {
        let symbols = found.into_symbols(candidate, base);
        let _ = (symbols.address(symbol), symbols.nearest(u64::MAX));
        assert!(symbols.len() <= block.len());
    }
}

/// A table of 5000 symbols `s0` … as 7.0 lays it out: num_syms, names, markers, tokens, index, offsets.
fn sound_kallsyms() -> Vec<u8> {
    const SYMBOLS: u32 = 5000;
    let mut names = Vec::new();
    let mut markers = Vec::new();
    for number in 0..SYMBOLS {
        if number % 256 == 0 {
            markers.extend((names.len() as u32).to_le_bytes());
        }
        let name = format!("Ts{number}");
        names.push(name.len() as u8);
        names.extend(name.bytes());
    }
    let mut block = vec![0; 64];
    block.extend(SYMBOLS.to_le_bytes());
    block.extend(names);
    block.resize(block.len().next_multiple_of(4), 0);
    block.extend(markers);
    let mut tokens = Vec::new();
    let mut index = Vec::new();
    for byte in 0..=u8::MAX {
        index.extend((tokens.len() as u16).to_le_bytes());
        // Letters and digits stand for themselves; the rest is never used.
        tokens.push(if byte.is_ascii_alphanumeric() { byte } else { b'x' });
        tokens.push(0);
    }
    block.extend(tokens);
    block.extend(index);
    for number in 0..SYMBOLS {
        block.extend((number * 16).to_le_bytes());
    }
    block
}

/// BTF with edits. An input whose first byte is odd is the BTF itself.
pub fn btf(data: &[u8]) {
    let block = match data.split_first() {
        Some((first, rest)) if first % 2 == 1 => rest.to_vec(),
        Some((_, rest)) => edited(&sound_btf(), rest),
        None => sound_btf(),
    };
    any_btf(&block);
}

/// Reads a block that may be BTF.
pub fn any_btf(block: &[u8]) {
    let Ok(btf) = Btf::parse(block) else { return };
    for path in [
        "sock.__sk_common.port",
        "sock.flags",
        "sock.next.next",
        "sock",
        "",
    ] {
        let _ = btf.member(path);
    }
    let _ = btf.size_of("sock");
    let _ = Layout::from_btf(&btf);
}

/// Types that lead into each other: a struct with an anonymous union, a bit-field, an array and a pointer to itself.
fn sound_btf() -> Vec<u8> {
    let strings = b"\0u32\0sock\0__sk_common\0port\0flags\0next\0alias\0task_struct\0";
    let name = |name: &str| {
        let at = strings
            .windows(name.len())
            .position(|part| part == name.as_bytes());
        at.expect("a name of the table") as u32
    };
    let record = |name: u32, kind: u32, flag: u32, vlen: u32, size: u32| {
        vec![name, flag << 31 | kind << 24 | vlen, size]
    };
    let mut words = Vec::new();
    words.extend(record(name("u32"), 1, 0, 0, 4)); // 1: int
    words.push(32);
    words.extend(record(name("alias"), 8, 0, 0, 1)); // 2: typedef of 1
    words.extend(record(0, 2, 0, 0, 6)); // 3: pointer to 6
    words.extend(record(0, 5, 0, 2, 8)); // 4: anonymous union
    words.extend([name("next"), 3, 0, name("port"), 2, 0]);
    words.extend(record(name("__sk_common"), 4, 0, 2, 16)); // 5: struct
    words.extend([0, 4, 0, name("port"), 2, 64]);
    words.extend(record(name("sock"), 4, 1, 3, 64)); // 6: struct with bit-fields
    words.extend([
        name("__sk_common"),
        5,
        0,
        name("flags"),
        1,
        3 << 24 | 128,
        0,
        7,
        192,
    ]);
    words.extend(record(name("task_struct"), 4, 0, 1, 64)); // 7: struct
    words.extend([name("next"), 8, 0]);
    words.extend(record(0, 3, 0, 0, 0)); // 8: array
    words.extend([3, 1, 4]);
    let types: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let mut block = vec![0x9f, 0xeb, 1, 0];
    for word in [24, 0, types.len(), types.len(), strings.len()] {
        block.extend((word as u32).to_le_bytes());
    }
    block.extend(types);
    block.extend(strings);
    block
}

/// A dump file of any content. An input whose first byte is even is changes to an ELF core as QEMU writes it.
pub fn dump(data: &[u8]) {
    let bytes = match data.split_first() {
        Some((first, rest)) if first % 2 == 1 => rest.to_vec(),
        Some((_, rest)) => edited(&sound_core(), rest),
        None => sound_core(),
    };
    let mut file = tempfile::tempfile().expect("a temporary file");
    file.write_all(&bytes).expect("a temporary file");
    let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    let Ok(dump) = Dump::open(&path) else { return };
    let mut buf = [0; 300];
    for pa in [0, 0xfff, 0x1000, 0x1_0000_0000, u64::MAX - 3, dump.memory_len()] {
        let _ = dump.read_phys(pa, &mut buf);
    }
    let _ = Kernel::find(&dump, dump.cpus());
}

/// A note with one vCPU and two pieces of memory.
fn sound_core() -> Vec<u8> {
    let mut bytes = vec![0; 0x3000];
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    put(0, b"\x7fELF\x02\x01\x01");
    put(16, &4u16.to_le_bytes());
    put(18, &62u16.to_le_bytes());
    put(32, &64u64.to_le_bytes());
    put(54, &56u16.to_le_bytes());
    put(56, &3u16.to_le_bytes());
    for (index, (kind, offset, pa, len)) in [
        (4u32, 0x400u64, 0u64, 20 + 440u64),
        (1, 0x1000, 0, 0x1000),
        (1, 0x2000, 1 << 32, 0x1000),
    ]
    .into_iter()
    .enumerate()
    {
        let at = 64 + index * 56;
        put(at, &kind.to_le_bytes());
        put(at + 8, &offset.to_le_bytes());
        put(at + 24, &pa.to_le_bytes());
        put(at + 32, &len.to_le_bytes());
        put(at + 40, &len.to_le_bytes());
    }
    put(0x400, &5u32.to_le_bytes());
    put(0x404, &440u32.to_le_bytes());
    put(0x40c, b"QEMU\0");
    let state = 0x400 + 20;
    put(state, &1u32.to_le_bytes());
    put(state + 4, &440u32.to_le_bytes());
    // CR0 with paging on, CR3, in front of the kernel's GS base.
    put(state + 392, &0x8000_0001u64.to_le_bytes());
    put(state + 392 + 24, &0u64.to_le_bytes());
    bytes
}
