// SPDX-License-Identifier: GPL-3.0-only
//! Whether a process runs the program that its file holds: the text of its executable in memory, page by page, against
//! digests of the file.
//!
//! Only pages that are in the process's page tables are compared: no other has been executed through them. What a process
//! maps beside its executable (libraries, code made at run time) is counted, not measured.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Read;
use std::path::Path;

use sha2::{Digest, Sha256};
use thiserror::Error;

use super::{Budget, Linux, LinuxError, Process, TaskAddr, group};
use crate::memory::{AddressSpace, PAGE_SIZE, PhysicalMemory};

/// No program's text is larger; a file that claims so is refused.
const MAX_TEXT: u64 = 1 << 30;
/// Changed pages that are named.
const MAX_NAMED: usize = 16;
/// Of the ELF format (elf(5)), for 64 bits.
const HEADER: usize = 64;
const PROGRAM_HEADER: usize = 56;
const PT_LOAD: u32 = 1;
const PF_X: u32 = 1;
/// Where `struct page`s are in a kernel that lays its memory out in one way (Documentation/arch/x86/x86_64/mm.rst).
const VMEMMAP: u64 = 0xffff_ea00_0000_0000;
/// PAGE_MAPPING_ANON (include/linux/page-flags.h): the page is of no file.
const OF_NO_FILE: u64 = 1;
/// Of `compound_head`: the page is not the first of several.
const TAIL: u64 = 1;
/// From here on it is a mask. No `struct page` lies so high: their array ends below the CPU entry area, at 0xfffffe0000000000 (mm.rst as
/// above), and a mask is of 16 MiB of them at most.
const MASKS: u64 = 0xffff_ff00_0000_0000;

/// Why a file cannot be measured.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum MeasureError {
    /// It cannot be read.
    #[error("reading {path}: {source}")]
    Read {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// A script, or a program for another machine.
    #[error("{path} is no 64-bit ELF program ({what}): of a script, measure its interpreter")]
    NotElf {
        /// The file.
        path: String,
        /// What is wrong.
        what: &'static str,
    },
}

/// SHA-256 digests of the pages of a program's text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageDigests {
    /// By the page's number in the file.
    pages: BTreeMap<u64, [u8; 32]>,
}

impl PageDigests {
    /// Measures a program: every page of its file that is loaded to be executed.
    ///
    /// # Errors
    /// Where the file cannot be read or is no program.
    pub fn of_elf(path: &Path) -> Result<Self, MeasureError> {
        let name = || path.display().to_string();
        let mut file = Vec::new();
        File::open(path)
            .and_then(|opened| opened.take(MAX_TEXT).read_to_end(&mut file))
            .map_err(|source| MeasureError::Read { path: name(), source })?;
        Self::of_bytes(&file).map_err(|what| MeasureError::NotElf { path: name(), what })
    }

    /// As [`PageDigests::of_elf`], of a file in memory.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn of_bytes(file: &[u8]) -> Result<Self, &'static str> {
        let segments = executable_segments(file)?;
        let mut pages = BTreeMap::new();
        for (offset, len) in segments {
            let end = offset.checked_add(len).ok_or("a segment without end")?;
            if end > file.len() as u64 {
                return Err("a segment beyond the file's end");
            }
            for page in offset / PAGE_SIZE..end.div_ceil(PAGE_SIZE) {
                let start = (page * PAGE_SIZE) as usize;
                let mut bytes = [0; PAGE_SIZE as usize];
                // What is behind the file's end the kernel shows as zeros.
                let there = &file[start..file.len().min(start + PAGE_SIZE as usize)];
                bytes[..there.len()].copy_from_slice(there);
                pages.insert(page, Sha256::digest(bytes).into());
            }
        }
        if pages.is_empty() {
            return Err("nothing of it is executed");
        }
        Ok(Self { pages })
    }

    /// Pages, in the order of the file: each one's number there, and its digest.
    pub fn pages(&self) -> impl ExactSizeIterator<Item = (u64, &[u8; 32])> {
        self.pages.iter().map(|(&page, digest)| (page, digest))
    }

    /// One digest for all of them: SHA-256 of each page's number (8 bytes, little-endian) and digest, in order.
    pub fn digest(&self) -> [u8; 32] {
        let mut all = Sha256::new();
        for (page, digest) in self.pages() {
            all.update(page.to_le_bytes());
            all.update(digest);
        }
        all.finalize().into()
    }
}

impl FromIterator<(u64, [u8; 32])> for PageDigests {
    fn from_iter<I: IntoIterator<Item = (u64, [u8; 32])>>(pages: I) -> Self {
        Self {
            pages: pages.into_iter().collect(),
        }
    }
}

/// Offset and length in the file of each segment that is executed.
fn executable_segments(file: &[u8]) -> Result<Vec<(u64, u64)>, &'static str> {
    let short = "its header is cut short";
    let header = file.get(..HEADER).ok_or(short)?;
    if &header[..4] != b"\x7fELF" {
        return Err("no ELF header");
    }
    // Class 64, little-endian, machine x86-64.
    if header[4] != 2 || header[5] != 1 || header[18..20] != [62, 0] {
        return Err("for another machine");
    }
    let half = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
    let table = word(header, 32).ok_or(short)?;
    let (size, count) = (usize::from(half(54)), usize::from(half(56)));
    if size < PROGRAM_HEADER {
        return Err("its table of segments is of no known kind");
    }
    let mut segments = Vec::new();
    for index in 0..count {
        let start = usize::try_from(table)
            .ok()
            .and_then(|at| at.checked_add(index * size));
        let entry = start
            .and_then(|at| file.get(at..at.checked_add(PROGRAM_HEADER)?))
            .ok_or(short)?;
        // Type and flags, four bytes each.
        let kind = word(entry, 0).ok_or(short)?;
        if kind as u32 == PT_LOAD && (kind >> 32) as u32 & PF_X != 0 {
            segments.push((word(entry, 8).ok_or(short)?, word(entry, 32).ok_or(short)?));
        }
    }
    Ok(segments)
}

/// The first of the pages that one is of, by what its `compound_head` says.
fn first_of(page: u64, head: u64) -> u64 {
    match head {
        _ if head & TAIL == 0 => page,
        MASKS.. => page & head,
        _ => head & !TAIL,
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

/// The text of a process's executable, as it is in memory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Text {
    /// The pages that are in the process's page tables, in the order of their addresses.
    pub pages: Vec<TextPage>,
    /// Pages that are not: never executed, or reclaimed.
    pub absent: u64,
    /// Executable mappings of memory of no file: code made at run time. The vDSO is one.
    pub made: u64,
    /// Executable mappings of other files: libraries.
    pub libraries: u64,
}

/// One page of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TextPage {
    /// Where in the file, in bytes.
    pub offset: u64,
    /// SHA-256 of what is in memory; `None` where nobody asked for it.
    pub sha256: Option<[u8; 32]>,
    /// The process has it for itself: somebody wrote to it there, and not to the file. A debugger's breakpoint does that, a probe in
    /// a program (uprobe), and whoever puts other code in a process's place. `None` where this kernel does not tell.
    pub private: Option<bool>,
}

/// What was hashed already, by frame. A frame that several processes share is hashed once; not to be kept for longer than one sweep,
/// since guests run meanwhile.
#[derive(Debug, Default)]
pub struct Hashed {
    frames: HashMap<u64, [u8; 32]>,
}

impl Text {
    /// Holds it against digests of a file.
    pub fn against(&self, digests: &PageDigests) -> Measurement {
        let mut found = Measurement {
            absent: self.absent,
            ..Measurement::default()
        };
        for page in &self.pages {
            match page.sha256 {
                None => found.absent += 1,
                Some(is) if digests.pages.get(&(page.offset / PAGE_SIZE)) == Some(&is) => found.same += 1,
                Some(_) if found.changed.len() < MAX_NAMED => found.changed.push(page.offset),
                Some(_) => {}
            }
        }
        found
    }

    /// Where in the file pages are that the process has for itself: bytes, the first 16.
    pub fn private(&self) -> Vec<u64> {
        let own = self.pages.iter().filter(|page| page.private == Some(true));
        own.map(|page| page.offset).take(MAX_NAMED).collect()
    }
}

/// What a process's text in memory is, beside digests of a file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Measurement {
    /// Pages that are as in the file.
    pub same: u64,
    /// Pages that could not be compared.
    pub absent: u64,
    /// Where in the file pages differ, or are of no digest: bytes, the first 16.
    pub changed: Vec<u64>,
}

impl Measurement {
    /// Something was compared, and nothing differed.
    pub fn is_sound(&self) -> bool {
        self.same > 0 && self.changed.is_empty()
    }
}

impl<M: PhysicalMemory> Linux<M> {
    /// Reads the text of a process's executable. Nothing of a kernel thread, and of a process that is exiting. Without `hashed` its
    /// pages have no digests: that is most of the work.
    ///
    /// # Errors
    /// If the task or its mappings cannot be read, or they are more than any real process has.
    pub fn program_text(
        &self,
        process: &Process,
        mut hashed: Option<&mut Hashed>,
    ) -> Result<Text, LinuxError> {
        let read = || {
            let mm = match process.mm {
                0 => return Ok(Text::default()),
                mm => mm,
            };
            let own = self.executable_place(mm)?;
            let space = self.space_of(mm)?;
            let mut found = Text::default();
            for area in self.areas(mm)?.into_iter().filter(|area| area.is_executable()) {
                if area.file == 0 {
                    found.made += 1;
                } else if own.is_none() || self.place_of_file(area.file).ok() != own {
                    found.libraries += 1;
                } else {
                    for va in (area.start..area.end).step_by(PAGE_SIZE as usize) {
                        let offset = area.offset.wrapping_add(va - area.start);
                        match self.text_page(&space, va, offset, hashed.as_deref_mut())? {
                            Some(page) => found.pages.push(page),
                            None => found.absent += 1,
                        }
                    }
                }
            }
            Ok(found)
        };
        self.wholly(Budget::MEASURE, read)
    }

    /// Whether the process is still there that was read as `process`, and runs the same program.
    ///
    /// # Errors
    /// If its tasks cannot be read.
    pub fn is_still(&self, process: &Process) -> Result<bool, LinuxError> {
        let offsets = group(&self.kernel.layout.task)?;
        let leader = process.leader;
        if self.u32(leader.0.wrapping_add(offsets.pid))? != process.tgid
            || self.u64(leader.0.wrapping_add(offsets.start_time))? != process.start_time_ns
        {
            return Ok(false);
        }
        let is_its = |task| Ok::<_, LinuxError>(self.memory_of(task)?.unwrap_or(0) == process.mm);
        if is_its(leader)? {
            return Ok(true);
        }
        // The first thread may have ended before the others, and has no memory then.
        let threads = match self.memory_of(leader)? {
            Some(_) => Vec::new(),
            None => self.threads(leader)?,
        };
        Ok(threads.into_iter().any(|thread| is_its(thread).unwrap_or(false)))
    }

    /// What is in a page of a process that is at `offset` in its file; `None` where it has none there.
    fn text_page(
        &self,
        space: &AddressSpace,
        va: u64,
        offset: u64,
        hashed: Option<&mut Hashed>,
    ) -> Result<Option<TextPage>, LinuxError> {
        self.meter.charge(va, 1, 0)?;
        let Ok(pa) = space.translate(&self.mem, va) else {
            return Ok(None);
        };
        let frame = pa / PAGE_SIZE;
        let sha256 = match hashed.map(|hashed| hashed.frames.entry(frame)) {
            None => None,
            Some(Entry::Occupied(known)) => Some(*known.get()),
            Some(Entry::Vacant(free)) => {
                let mut bytes = [0; PAGE_SIZE as usize];
                if self.prefix(space, va, &mut bytes) < bytes.len() {
                    return Ok(None);
                }
                Some(*free.insert(Sha256::digest(bytes).into()))
            }
        };
        Ok(Some(TextPage {
            offset,
            sha256,
            private: self.is_of_no_file(frame).ok(),
        }))
    }

    /// Whether a frame is memory of no file: what a process that wrote to a page of a file has in its place.
    fn is_of_no_file(&self, frame: u64) -> Result<bool, LinuxError> {
        let offsets = group(&self.kernel.layout.page)?;
        let size = group(&self.kernel.layout.page_size)?;
        let page = self.vmemmap()?.wrapping_add(frame.wrapping_mul(size));
        let head = first_of(page, self.u64(page.wrapping_add(offsets.compound_head))?);
        // A page that nothing has mapped would be in no page table.
        match self.u64(head.wrapping_add(offsets.mapping))? {
            0 => Err(LinuxError::Implausible {
                what: "a page",
                va: head,
            }),
            mapping => Ok(mapping & OF_NO_FILE != 0),
        }
    }

    /// Where the kernel's array of `struct page` is.
    fn vmemmap(&self) -> Result<u64, LinuxError> {
        match self.kernel.symbols.address("vmemmap_base") {
            // CONFIG_DYNAMIC_MEMORY_LAYOUT: with KASLR or 5-level paging.
            Some(variable) => Ok(self.u64(variable)?),
            None => Ok(VMEMMAP),
        }
    }

    /// The address space of a process's own memory; none of a kernel thread.
    ///
    /// # Errors
    /// If the task cannot be read.
    pub fn user_space(&self, task: TaskAddr) -> Result<Option<AddressSpace>, LinuxError> {
        self.memory_of(task)?.map(|mm| self.space_of(mm)).transpose()
    }

    /// That of the process whose `mm_struct` is at `mm`.
    pub(super) fn space_of(&self, mm: u64) -> Result<AddressSpace, LinuxError> {
        let offsets = group(&self.kernel.layout.args)?;
        let pgd = self.u64(mm.wrapping_add(offsets.pgd))?;
        let root = self.space().translate(&self.mem, pgd)?;
        Ok(AddressSpace::new(root, self.space().levels()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A program of one segment, at `offset` in the file.
    fn elf(offset: u64, len: u64, flags: u32) -> Vec<u8> {
        let mut file = vec![0; (offset + len) as usize];
        file[..4].copy_from_slice(b"\x7fELF");
        (file[4], file[5], file[18]) = (2, 1, 62);
        file[32..40].copy_from_slice(&64u64.to_le_bytes());
        (file[54], file[56]) = (PROGRAM_HEADER as u8, 1);
        file[64..68].copy_from_slice(&PT_LOAD.to_le_bytes());
        file[68..72].copy_from_slice(&flags.to_le_bytes());
        file[72..80].copy_from_slice(&offset.to_le_bytes());
        file[96..104].copy_from_slice(&len.to_le_bytes());
        file
    }

    #[test]
    fn pages_of_segments_that_are_executed_have_a_digest() {
        let file = elf(0x1000, 0x1100, 5);
        let digests = PageDigests::of_bytes(&file).expect("a program");
        let mut last = [0; PAGE_SIZE as usize];
        last[..0x100].copy_from_slice(&file[0x2000..]);
        let expected = [
            (1, Sha256::digest(&file[0x1000..0x2000]).into()),
            (2, Sha256::digest(last).into()),
        ];
        assert_eq!(digests, expected.into_iter().collect());
        assert_eq!(
            PageDigests::of_bytes(&elf(0x1000, 0x1100, 4)),
            Err("nothing of it is executed")
        );
    }

    #[test]
    fn what_is_no_program_is_refused_whatever_it_holds() {
        let file = elf(0x1000, 0x1000, 5);
        for len in 0..200 {
            assert!(PageDigests::of_bytes(&file[..len]).is_err(), "{len}");
        }
        let mut wild = file.clone();
        for at in 0..120 {
            for byte in [0, 1, 0x7f, 0xff] {
                wild[at] = byte;
                let _ = PageDigests::of_bytes(&wild);
                wild[at] = file[at];
            }
        }
        wild[72..80].copy_from_slice(&u64::MAX.to_le_bytes());
        assert_eq!(PageDigests::of_bytes(&wild), Err("a segment without end"));
    }

    #[test]
    fn the_first_of_several_pages_is_told_by_its_address_or_by_a_mask() {
        let page = 0xffff_ea00_0012_3440;
        assert_eq!(first_of(page, 0), page);
        // What is there of a page that is the first is no pointer to one.
        assert_eq!(first_of(page, 0xffff_ea00_0012_0000), page);
        assert_eq!(first_of(page, 0xffff_ea00_0012_0001), 0xffff_ea00_0012_0000);
        // 512 pages of 64 bytes.
        assert_eq!(first_of(page, 0xffff_ffff_ffff_8001), 0xffff_ea00_0012_0000);
        assert_eq!(first_of(page, 0xffff_ffff_ff00_0001), 0xffff_ea00_0000_0000);
    }

    #[test]
    fn the_digest_of_all_depends_on_each() {
        let one: PageDigests = [(1, [7; 32])].into_iter().collect();
        let moved: PageDigests = [(2, [7; 32])].into_iter().collect();
        let other: PageDigests = [(1, [8; 32])].into_iter().collect();
        assert_ne!(one.digest(), moved.digest());
        assert_ne!(one.digest(), other.digest());
    }
}
