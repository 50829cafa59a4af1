// SPDX-License-Identifier: GPL-3.0-only
use std::io::Write;

use super::*;
use proptest::prelude::*;

fn open(bytes: &[u8]) -> Result<Dump, DumpError> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    Dump::open(file.path())
}

fn put(bytes: &mut Vec<u8>, at: usize, value: &[u8]) {
    if bytes.len() < at + value.len() {
        bytes.resize(at + value.len(), 0);
    }
    bytes[at..at + value.len()].copy_from_slice(value);
}

fn put64(bytes: &mut Vec<u8>, at: usize, value: u64) {
    put(bytes, at, &value.to_le_bytes());
}

fn put32(bytes: &mut Vec<u8>, at: usize, value: u32) {
    put(bytes, at, &value.to_le_bytes());
}

fn header(segments: u16, sections: u16, sections_at: u64) -> Vec<u8> {
    let mut bytes = vec![0; 64];
    put(&mut bytes, 0, b"\x7fELF\x02\x01\x01");
    put64(&mut bytes, 32, 64);
    put64(&mut bytes, 40, sections_at);
    put(&mut bytes, 56, &segments.to_le_bytes());
    put(&mut bytes, 60, &sections.to_le_bytes());
    bytes
}

/// As QEMU writes it: a note with one vCPU, and two pieces of memory with a
/// hole in between.
fn qemu() -> Vec<u8> {
    let mut bytes = header(3, 0, 0);
    let mut segment = |index: usize, kind: u32, offset: u64, pa: u64, len: u64| {
        let at = 64 + index * 56;
        put32(&mut bytes, at, kind);
        put64(&mut bytes, at + 8, offset);
        put64(&mut bytes, at + 24, pa);
        put64(&mut bytes, at + 32, len);
    };
    segment(0, 4, 0x400, 0, 12 + 8 + 440);
    segment(1, 1, 0x1000, 0x1_0000_0000, 0x1000);
    segment(2, 1, 0x2000, 0, 0x2000);
    let state = 0x400 + 20;
    put32(&mut bytes, 0x400, 5);
    put32(&mut bytes, 0x404, 440);
    put(&mut bytes, 0x40c, b"QEMU\0");
    let registers = state + 8;
    put64(&mut bytes, registers + 6 * 8, 0x1111); // rsp
    put64(&mut bytes, registers + 16 * 8, 0x2222); // rip
    let segments = registers + 18 * 8;
    put32(&mut bytes, segments, 0x33); // cs, of user code
    put64(&mut bytes, segments + 4 * 24 + 16, 0x4444); // gs
    put64(&mut bytes, segments + 9 * 24 + 16, 0x5555); // idt
    let control = segments + 10 * 24;
    put64(&mut bytes, control, 0x8000_0001);
    put64(&mut bytes, control + 3 * 8, 0x6000);
    put64(&mut bytes, control + 4 * 8, 0x1000);
    put64(&mut bytes, control + 5 * 8, 0x7777);
    put(&mut bytes, 0x1000, b"high memory");
    put(&mut bytes, 0x2ffe, b"across");
    bytes.resize(0x4000, 0);
    bytes
}

/// As `xl dump-core` writes it: pages 5, 6 and 9.
fn xen() -> Vec<u8> {
    let mut bytes = header(0, 4, 64);
    let names = b"\0.shstrtab\0.xen_pages\0.xen_pfn\0";
    let mut section = |index: usize, name: u32, offset: u64, len: u64| {
        let at = 64 + index * 64;
        put32(&mut bytes, at, name);
        put64(&mut bytes, at + 24, offset);
        put64(&mut bytes, at + 32, len);
    };
    section(1, 1, 0x400, names.len() as u64);
    section(2, 11, 0x1000, 0x3000);
    section(3, 22, 0x500, 24);
    put(&mut bytes, 62, &1u16.to_le_bytes());
    put(&mut bytes, 0x400, names);
    for (index, frame) in [5, 6, 9].into_iter().enumerate() {
        put64(&mut bytes, 0x500 + index * 8, frame);
        put(&mut bytes, 0x1000 + index * 0x1000, &[frame as u8; 0x1000]);
    }
    bytes
}

#[test]
fn qemu_memory_and_registers() {
    let dump = open(&qemu()).unwrap();
    let mut buf = [0; 6];
    dump.read_phys(0xffe, &mut buf).unwrap();
    assert_eq!(&buf, b"across");
    dump.read_phys(0x1_0000_0000, &mut buf).unwrap();
    assert_eq!(&buf, b"high m");
    assert!(matches!(
        dump.read_phys(0x1ffe, &mut buf),
        Err(MemoryError::Absent { pa: 0x2000 })
    ));
    assert_eq!(dump.memory_len(), 0x3000);
    let cpu = dump.cpus()[0];
    assert_eq!((cpu.rsp, cpu.rip, cpu.cpl), (0x1111, 0x2222, 3));
    assert_eq!((cpu.gs_base, cpu.idt_base), (0x4444, 0x5555));
    assert_eq!((cpu.cr3, cpu.shadow_gs), (0x6000, 0x7777));
    assert_eq!(cpu.paging_levels(), 5);
    assert!(cpu.in_long_mode());
}

#[test]
fn xen_pages_lie_where_their_frame_numbers_say() {
    let dump = open(&xen()).unwrap();
    let mut buf = [0; 2];
    dump.read_phys(0x5fff, &mut buf).unwrap();
    assert_eq!(buf, [5, 6]);
    dump.read_phys(0x9ffe, &mut buf).unwrap();
    assert_eq!(buf, [9, 9]);
    assert!(dump.read_phys(0x6fff, &mut buf).is_err());
    assert!(dump.cpus().is_empty());
}

/// With `-p` QEMU lists memory by virtual address: the same bytes of the file
/// several times, whole or in part, in any order.
#[test]
fn memory_that_is_listed_twice_is_there_once() {
    let mut bytes = qemu();
    let mut segment = |index: usize, offset: u64, pa: u64, len: u64| {
        let at = 64 + index * 56;
        put32(&mut bytes, at, 1);
        put64(&mut bytes, at + 8, offset);
        put64(&mut bytes, at + 24, pa);
        put64(&mut bytes, at + 32, len);
    };
    segment(3, 0x2000, 0, 0x1000);
    segment(4, 0x2800, 0x800, 0x1800);
    // Mapped, but no memory: QEMU gives it no place in the file.
    segment(5, u64::MAX, 0xfee0_0000, 0);
    put(&mut bytes, 56, &6u16.to_le_bytes());
    let dump = open(&bytes).unwrap();
    assert_eq!(dump.memory_len(), 0x3000);
    assert_eq!(
        dump.ranges().collect::<Vec<_>>(),
        [0..0x2000, 0x1_0000_0000..0x1_0000_1000]
    );
    let mut buf = [0; 6];
    dump.read_phys(0xffe, &mut buf).unwrap();
    assert_eq!(&buf, b"across");
}

/// More segments than 16 bits can count: their number is in section 0.
#[test]
fn the_number_of_segments_may_be_in_a_section() {
    let mut bytes = qemu();
    let sections_at = bytes.len() as u64;
    put(&mut bytes, 56, &0xffffu16.to_le_bytes());
    put64(&mut bytes, 40, sections_at);
    put(&mut bytes, 60, &1u16.to_le_bytes());
    put32(&mut bytes, sections_at as usize + 44, 3);
    bytes.resize(sections_at as usize + 64, 0);
    let dump = open(&bytes).unwrap();
    assert_eq!((dump.memory_len(), dump.cpus().len()), (0x3000, 1));
}

#[test]
fn a_file_cannot_hold_more_memory_than_bytes() {
    let mut bytes = qemu();
    for (index, pa) in (3..8).zip((0x2_0000_0000u64..).step_by(0x4000)) {
        let at = 64 + index * 56;
        put32(&mut bytes, at, 1);
        put64(&mut bytes, at + 24, pa);
        put64(&mut bytes, at + 32, 0x4000);
    }
    put(&mut bytes, 56, &8u16.to_le_bytes());
    let error = open(&bytes).unwrap_err();
    assert!(error.to_string().contains("less than it claims"), "{error}");
}

/// Registers as xen/include/public/arch-x86/xen.h lays them out.
#[test]
fn registers_of_a_xen_core() {
    for cs in [0x10, 0x33] {
        let mut bytes = xen();
        put(&mut bytes, 60, &5u16.to_le_bytes());
        let section = 64 + 4 * 64;
        let names_len = b"\0.shstrtab\0.xen_pages\0.xen_pfn\0".len();
        put(&mut bytes, 0x400 + names_len, b".xen_prstatus\0");
        put64(&mut bytes, 64 + 64 + 32, (names_len + 14) as u64);
        put32(&mut bytes, section, names_len as u32);
        put64(&mut bytes, section + 24, 0x4000);
        put64(&mut bytes, section + 32, 5168);
        put64(&mut bytes, section + 56, 5168);
        put64(&mut bytes, 0x4000 + 520 + 16 * 8, 0x2222); // rip
        put64(&mut bytes, 0x4000 + 520 + 17 * 8, cs);
        put64(&mut bytes, 0x4000 + 520 + 19 * 8, 0x1111); // rsp
        put64(&mut bytes, 0x4000 + 4984, 0x8000_0001); // cr0
        put64(&mut bytes, 0x4000 + 4984 + 3 * 8, 0x6000); // cr3
        put64(&mut bytes, 0x4000 + 5152, 0x4444); // GS base of the kernel
        put64(&mut bytes, 0x4000 + 5160, 0x5555); // and of user code
        let dump = open(&bytes).unwrap();
        let [cpu] = dump.cpus() else { panic!("one vCPU") };
        assert_eq!((cpu.rip, cpu.rsp, cpu.cr3), (0x2222, 0x1111, 0x6000));
        assert_eq!((cpu.cpl, cpu.kernel_gs_base()), (cs as u8 & 3, 0x4444));
        assert!(cpu.in_long_mode());
    }
}

#[test]
fn a_core_of_a_pv_guest_is_refused() {
    let mut bytes = xen();
    put(&mut bytes, 0x400 + 22, b".xen_p2m\0");
    let error = open(&bytes).unwrap_err();
    assert!(error.to_string().contains("PV guest"), "{error}");
}

#[test]
fn a_raw_image_may_leave_out_the_hole() {
    let mut dump = open(&[[1; 0x3000], [2; 0x3000]].concat()).unwrap();
    dump.place_hole(0x3000);
    let mut buf = [0; 2];
    dump.read_phys(0x2ffe, &mut buf).unwrap();
    assert_eq!(buf, [1, 1]);
    dump.read_phys(0x1_0000_0000, &mut buf).unwrap();
    assert_eq!(buf, [2, 2]);
    assert!(dump.read_phys(0x3000, &mut buf).is_err());
    assert_eq!(dump.memory_len(), 0x6000);
}

#[test]
fn anything_else_is_a_raw_image() {
    let dump = open(b"not an ELF file").unwrap();
    let mut buf = [0; 3];
    dump.read_phys(7, &mut buf).unwrap();
    assert_eq!(&buf, b"ELF");
    assert!(dump.read_phys(14, &mut buf).is_err());
    assert!(dump.read_phys(u64::MAX, &mut buf).is_err());
}

#[test]
fn errors_name_the_file() {
    let error = open(&qemu()[..0x1800]).unwrap_err();
    assert!(error.to_string().contains("shorter than its memory"), "{error}");
    let error = Dump::open(Path::new("/nowhere/dump")).unwrap_err();
    assert!(error.to_string().contains("/nowhere/dump"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn damaged_files_do_not_panic(
        is_xen in any::<bool>(),
        damage in proptest::collection::vec((0usize..0x600, any::<u8>()), 1..30),
        pa in any::<u64>(),
    ) {
        let mut bytes = if is_xen { xen() } else { qemu() };
        for (at, value) in damage {
            bytes[at] = value;
        }
        if let Ok(dump) = open(&bytes) {
            let mut buf = [0; 64];
            for pa in [pa, pa % 0x10000, 0x5000] {
                let _ = dump.read_phys(pa, &mut buf);
            }
        }
    }
}
