// SPDX-License-Identifier: GPL-3.0-only
//! One guest in every kind of file that is understood.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use vmi_xen::linux::{HeldSocket, Linux, Process};
use vmi_xen::memory::{Dump, Format, PAGE_SIZE, PhysicalMemory};
use vmi_xen::offline::Offline;

use crate::kernels::selected;

const FOUR_GIB: u64 = 1 << 32;

/// All that is seen of a guest.
#[derive(PartialEq)]
struct Sight {
    release: String,
    text_base: u64,
    processes: Vec<Process>,
    sockets: Vec<HeldSocket>,
}

fn sight<M: PhysicalMemory>(linux: &Linux<M>) -> Sight {
    let kernel = linux.kernel();
    Sight {
        release: kernel.release.clone(),
        text_base: kernel.text_base,
        processes: linux.processes().expect("processes"),
        sockets: linux.held_sockets().expect("sockets"),
    }
}

/// Copies memory to where `place` says; pages that are zero stay holes.
fn copy(dump: &Dump, file: &File, mut place: impl FnMut(u64) -> Option<u64>) {
    let mut page = [0; PAGE_SIZE as usize];
    for range in dump.ranges() {
        for pa in range.step_by(PAGE_SIZE as usize) {
            let Some(offset) = place(pa) else { continue };
            dump.read_phys(pa, &mut page).expect("a page");
            if page.iter().any(|&byte| byte != 0) {
                file.write_all_at(&page, offset).expect("a page written");
            }
        }
    }
}

/// Memory as the guest was given it: no ROM and no flash below 4 GiB.
fn is_ram(pa: u64, low: u64) -> bool {
    pa < low || pa >= FOUR_GIB
}

/// Bytes of memory below 4 GiB, and the end of all memory.
fn extent(dump: &Dump) -> (u64, u64) {
    let ranges: Vec<_> = dump.ranges().collect();
    // The first gap is the hole for devices; video memory lies in no gap.
    let mut low = 0;
    for range in &ranges {
        if range.start <= low.max(1 << 20) {
            low = low.max(range.end);
        }
    }
    let end = ranges.last().map_or(0, |range| range.end);
    (low, if end > FOUR_GIB { end } else { low })
}

/// As `xl dump-core` writes it, but for the registers.
fn write_xen_core(dump: &Dump, path: &Path) {
    let (low, _) = extent(dump);
    let names = b"\0.shstrtab\0.xen_pages\0.xen_pfn\0";
    let mut frames: Vec<u64> = dump
        .ranges()
        .flat_map(|range| range.step_by(PAGE_SIZE as usize))
        .filter(|&pa| is_ram(pa, low))
        .map(|pa| pa / PAGE_SIZE)
        .collect();
    // Nobody promises an order.
    frames.reverse();
    let pages_at = PAGE_SIZE;
    let frames_at = pages_at + frames.len() as u64 * PAGE_SIZE;
    let mut header = vec![0; 64 + 4 * 64];
    header[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    let mut put = |at: usize, value: u64, len: usize| {
        header[at..at + len].copy_from_slice(&value.to_le_bytes()[..len]);
    };
    put(40, 64, 8);
    put(60, 4, 2);
    put(62, 1, 2);
    let sections = [
        (1u64, 1024, names.len() as u64),
        (11, pages_at, frames.len() as u64 * PAGE_SIZE),
        (22, frames_at, frames.len() as u64 * 8),
    ];
    for (index, (name, offset, len)) in sections.into_iter().enumerate() {
        let at = 64 + (index + 1) * 64;
        put(at, name, 4);
        put(at + 24, offset, 8);
        put(at + 32, len, 8);
    }
    let mut file = File::create(path).expect("a file");
    file.write_all(&header).expect("the header");
    file.write_all_at(names, 1024).expect("the names");
    let places: std::collections::HashMap<u64, u64> = frames
        .iter()
        .zip(0u64..)
        .map(|(&frame, index)| (frame, pages_at + index * PAGE_SIZE))
        .collect();
    copy(dump, &file, |pa| places.get(&(pa / PAGE_SIZE)).copied());
    file.seek(SeekFrom::Start(frames_at)).expect("seek");
    let raw: Vec<u8> = frames.iter().flat_map(|frame| frame.to_le_bytes()).collect();
    file.write_all(&raw).expect("the frame numbers");
}

#[test]
fn every_kind_of_file_shows_the_same_guest() {
    for kernel in selected() {
        let loaded = kernel.load();
        let dump = &loaded.dump;
        let whole = Offline::open(&loaded.path).expect(kernel.series);
        assert_eq!(
            (whole.linux.memory().format(), whole.missing),
            (Format::QemuCore, 0)
        );
        let expected = sight(&whole.linux);
        assert!(expected.processes.len() > 40 && expected.sockets.len() > 40);

        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("image");
        let (low, end) = extent(dump);
        let compare = |what: &str, format: Format| {
            let opened =
                Offline::open(&path).unwrap_or_else(|error| panic!("{} {what}: {error}", kernel.series));
            assert_eq!(opened.linux.memory().format(), format, "{what}");
            assert!(sight(&opened.linux) == expected, "{} {what}", kernel.series);
            assert_eq!(opened.missing, 0, "{what}");
            assert!(opened.linux.kernel().layout.gaps().is_empty());
            opened.assumed
        };

        write_xen_core(dump, &path);
        assert_eq!(compare("Xen core", Format::XenCore), None);

        let file = File::create(&path).expect("a file");
        copy(dump, &file, |pa| is_ram(pa, low).then_some(pa));
        file.set_len(end).expect("a length");
        let assumed = compare("raw image", Format::Raw).expect("an assumption");
        assert!(assumed.contains("byte n"), "{assumed}");

        if end > FOUR_GIB {
            let file = File::create(&path).expect("a file");
            copy(dump, &file, |pa| {
                is_ram(pa, low).then(|| if pa < low { pa } else { pa - FOUR_GIB + low })
            });
            file.set_len(end - FOUR_GIB + low).expect("a length");
            let assumed = compare("raw image without the hole", Format::Raw).expect("an assumption");
            assert!(assumed.contains(&format!("{low:#x}")), "{assumed}");
        }
    }
}
