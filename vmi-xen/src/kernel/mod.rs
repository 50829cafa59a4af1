// SPDX-License-Identifier: GPL-3.0-only
//! An unknown running Linux kernel becomes a typed [`Layout`] and a table of
//! [`Symbols`], from its memory and its vCPUs' registers alone: no profile, no
//! symbol file, no scan of all memory. (Where there are no registers, as in a
//! raw image, one look at each page finds the image: [`Kernel::find_in`].)
//!
//! The way: a register points into the kernel image (LSTAR, or a handler in
//! the IDT). The page tables around it tell how far the image goes. kallsyms
//! in its read-only data gives the symbols, which must agree with what the
//! registers and page tables said. BTF, found by symbol, gives the layout of
//! every structure. The kernel's own top page table replaces the borrowed one.

pub mod btf;
mod exits;
mod image;
pub mod kallsyms;
pub mod layout;
mod scan;
mod symbols;

pub use exits::{Exits, ExitsError, exits};
pub use image::Region;
pub use layout::{Group, Layout, LayoutError};
pub use symbols::{Symbol, Symbols};

use std::cell::Cell;
use std::ops::Range;

use thiserror::Error;

use crate::memory::{AddressSpace, CpuState, MemoryError, PAGE_SIZE, PhysicalMemory};
use btf::Btf;
use image::Image;
use kallsyms::Kallsyms;

/// Read-only data larger than this is not searched. Debian's is 12 to 20 MiB,
/// a debug kernel's up to about 100 MiB.
const MAX_RODATA: u64 = 128 << 20;
/// Pages looked up in page tables, and bytes read, in search of a kernel: an end
/// to tables that map the whole area for image, through the registers of many
/// vCPUs, as something new each time. A kernel is found with some ten thousand
/// pages and its own read-only data.
const MAX_SEARCH: Effort = Effort {
    pages: 2 << 20,
    bytes: 512 << 20,
};
/// Larger BTF is not read. Distribution kernels carry 4 to 8 MiB.
const MAX_BTF: u64 = 64 << 20;
/// Longest banner that is believed.
const MAX_BANNER: usize = 512;

/// Why no Linux kernel was recognised in a guest.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum KernelError {
    /// No vCPU runs in 64-bit mode, or none has entered its kernel yet.
    #[error("no vCPU points into a kernel image: not booted yet, or not 64-bit Linux; try again later")]
    NoAnchor,
    /// No page of the memory looks like a Linux kernel's own page table.
    #[error("no kernel image in this memory: not 64-bit Linux, not booted yet, or memory is missing")]
    NoImage,
    /// An image is mapped there, but holds no symbol table.
    #[error(
        "no kallsyms in the {len} bytes mapped at {start:#x}: not Linux, still \
         decompressing, or built without CONFIG_KALLSYMS"
    )]
    NoKallsyms {
        /// First address of the image.
        start: u64,
        /// Length of the image in bytes.
        len: u64,
    },
    /// The symbol table names functions only.
    #[error(
        "kallsyms of the kernel at {start:#x} has no data symbols (built without \
         CONFIG_KALLSYMS_ALL): tasks and types cannot be found"
    )]
    NoDataSymbols {
        /// First address of the image.
        start: u64,
    },
    /// Symbols were found, but under no rule do they agree with the page
    /// tables and registers.
    #[error("kallsyms of the kernel at {start:#x} agrees with no known way to store addresses")]
    UnprovenSymbols {
        /// First address of the image.
        start: u64,
    },
    /// The kernel does not run on its own page tables yet.
    #[error("the kernel at {start:#x} is still booting; try again in a moment")]
    Booting {
        /// First address of the image.
        start: u64,
    },
    /// Guest memory could not be read.
    #[error("recognising the kernel: {0}")]
    Memory(#[from] MemoryError),
}

/// A recognised kernel.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// Release, as `uname -r` prints it.
    pub release: String,
    /// The whole banner, as at the head of /proc/version.
    pub banner: String,
    /// Address of `_text`, the image's first byte.
    pub text_base: u64,
    /// Bytes by which KASLR moved the image from where it was linked.
    pub slide: u64,
    /// Symbols of the image.
    pub symbols: Symbols,
    /// Offsets of structures.
    pub layout: Layout,
    /// The kernel's own page tables (`init_top_pgt`).
    pub space: AddressSpace,
    /// False if a vCPU's LSTAR is not the kernel's own system-call entry:
    /// somebody in the guest, a rootkit perhaps, took it over. None where LSTAR
    /// is not known.
    pub syscall_entry_intact: Option<bool>,
    image: Image,
}

/// What is left of the effort for a search.
struct Effort {
    pages: u64,
    bytes: u64,
}

/// Where the image is linked with CONFIG_PHYSICAL_START at its default, as
/// every distribution has it.
const LINKED_AT: u64 = 0xffff_ffff_8100_0000;

impl Kernel {
    /// Recognises the kernel that runs in a guest.
    ///
    /// Reads the image's page tables and its read-only data, once, in large
    /// blocks; nothing else.
    ///
    /// # Errors
    /// [`KernelError`] tells how far it came and what would help.
    pub fn find<M: PhysicalMemory + ?Sized>(mem: &M, cpus: &[CpuState]) -> Result<Self, KernelError> {
        let mut failure = KernelError::NoAnchor;
        let mut effort = MAX_SEARCH;
        // Images that were searched already, by guest-physical address: most
        // vCPUs and anchors lead to the same one.
        let mut searched = Vec::new();
        for cpu in cpus.iter().filter(|cpu| cpu.in_long_mode()) {
            let root = cpu.page_table_root();
            // Under KPTI bit 12 tells the user half from the kernel half, and
            // the kernel half is below. Without KPTI the bit is part of an
            // ordinary address, and clearing it leads nowhere.
            let mut roots = vec![root & !0x1000, root];
            roots.dedup();
            for root in roots {
                let space = AddressSpace::new(root, cpu.paging_levels());
                for anchor in image::anchors(mem, &space, cpu) {
                    let found = match Image::around(mem, &space, anchor, &mut effort.pages) {
                        Ok(Some(image)) => {
                            let Ok(place) = space.translate(mem, image.start()) else {
                                continue;
                            };
                            if searched.contains(&(place, image.len())) {
                                continue;
                            }
                            searched.push((place, image.len()));
                            Self::from_image(mem, &space, image, place, cpus, &mut effort.bytes)
                        }
                        Ok(None) => continue,
                        Err(error) => Err(error.into()),
                    };
                    match found {
                        Ok(kernel) => return Ok(kernel),
                        Err(error) => failure = error,
                    }
                }
            }
        }
        Err(failure)
    }

    /// Recognises the kernel in a memory of which no register is known, or none
    /// that helps: an image on file. `ranges` is where there is memory.
    ///
    /// # Errors
    /// As [`Kernel::find`].
    pub fn find_in<M: PhysicalMemory + ?Sized>(
        mem: &M,
        ranges: impl Iterator<Item = Range<u64>>,
    ) -> Result<Self, KernelError> {
        let mut failure = KernelError::NoImage;
        let mut bytes_left = MAX_SEARCH.bytes;
        let pages_left = Cell::new(MAX_SEARCH.pages);
        for scan::Candidate { space, anchor } in scan::candidates(mem, ranges, &pages_left) {
            let mut left = pages_left.get();
            let image = Image::around(mem, &space, anchor, &mut left)?;
            pages_left.set(left);
            let Some(image) = image else { continue };
            let Ok(place) = space.translate(mem, image.start()) else {
                continue;
            };
            match Self::from_image(mem, &space, image, place, &[], &mut bytes_left) {
                Ok(kernel) => return Ok(kernel),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    /// In an image that leaves out the hole below 4 GiB: how many bytes below
    /// its address the memory from 4 GiB on lies. None where no kernel lies
    /// there, or where nothing is left out.
    pub fn displacement<M: PhysicalMemory + ?Sized>(
        mem: &M,
        ranges: impl Iterator<Item = Range<u64>>,
    ) -> Option<u64> {
        scan::displacement(mem, ranges)
    }

    /// `place`: where the image begins in memory, in which it is one piece. So that is all that is needed of `borrowed`, the
    /// tables of a process that may end while its kernel is read.
    fn from_image<M: PhysicalMemory + ?Sized>(
        mem: &M,
        borrowed: &AddressSpace,
        image: Image,
        place: u64,
        cpus: &[CpuState],
        bytes_left: &mut u64,
    ) -> Result<Self, KernelError> {
        let (start, len) = (image.start(), image.len());
        let mut failure = KernelError::NoKallsyms { start, len };
        for region in image.data_regions() {
            if region.len > MAX_RODATA.min(*bytes_left) {
                continue;
            }
            *bytes_left -= region.len;
            let mut bytes = vec![0; region.len as usize];
            // A hole that only the hypervisor knows of ends the region.
            let at = place.wrapping_add(region.start - start);
            if mem.read_phys(at, &mut bytes).is_err() {
                continue;
            }
            let Some(found) = Kallsyms::find(&bytes) else {
                continue;
            };
            let Some(banner_at) = found.position("linux_banner") else {
                failure = KernelError::NoDataSymbols { start };
                continue;
            };
            let Some(symbols) = prove(found, banner_at, &region, &bytes, &image) else {
                failure = KernelError::UnprovenSymbols { start };
                continue;
            };
            let banner = symbols
                .address("linux_banner")
                .and_then(|at| banner(&bytes, &region, at))
                .unwrap_or_default();
            let space = own_space(mem, borrowed, &symbols, (start, place))?;
            let layout = layout(mem, &space, &symbols, &region, &bytes);
            return Ok(Self {
                release: banner.split(' ').nth(2).unwrap_or("").to_owned(),
                banner,
                text_base: start,
                slide: start.wrapping_sub(LINKED_AT),
                space,
                syscall_entry_intact: syscall_entry_intact(&symbols, cpus),
                symbols,
                layout,
                image,
            });
        }
        Err(failure)
    }

    /// Whether `va` lies in the kernel's image, between its first and its last
    /// mapped byte.
    pub fn in_image(&self, va: u64) -> bool {
        va.checked_sub(self.image.start())
            .is_some_and(|at| at < self.image.len())
    }

    /// First guest-physical address behind the memory that the kernel was given
    /// (its `max_pfn`), where it tells.
    pub fn memory_end<M: PhysicalMemory + ?Sized>(&self, mem: &M) -> Option<u64> {
        let at = self.symbols.address("max_pfn")?;
        self.space.read_u64(mem, at).ok()?.checked_mul(PAGE_SIZE)
    }

    /// Whether this very kernel still runs there: another one, started by kexec, has its banner elsewhere or another one there. One
    /// small read.
    pub fn is_still_there<M: PhysicalMemory + ?Sized>(&self, mem: &M) -> bool {
        // What was replaced while it was read cannot be compared; no kernel says such things.
        if !self.banner.is_ascii() {
            return true;
        }
        let mut bytes = vec![0; self.banner.len()];
        self.symbols
            .address("linux_banner")
            .is_some_and(|at| self.space.read(mem, at, &mut bytes).is_ok() && bytes == self.banner.as_bytes())
    }

    /// Whether `va` lies in the kernel's text.
    pub fn is_text(&self, va: u64) -> bool {
        self.image.is_text(va)
    }
}

/// Tries each way to store addresses until the symbols agree with what is known
/// from outside: the page tables' image starts at `_text`, and the banner is
/// where `linux_banner` says. Whether LSTAR agrees too is told apart
/// ([`Kernel::syscall_entry_intact`]): a hooked entry must not blind the engine.
fn prove(
    found: Kallsyms<'_>,
    banner_at: usize,
    region: &Region,
    bytes: &[u8],
    image: &Image,
) -> Option<Symbols> {
    let text = found.position("_text").or_else(|| found.position("_stext"))?;
    for candidate in found.candidates() {
        let address = |position| found.address(candidate, region.start, position);
        if address(text) != Some(image.start()) {
            continue;
        }
        if address(banner_at).is_none_or(|at| banner(bytes, region, at).is_none()) {
            continue;
        }
        return Some(found.into_symbols(candidate, region.start));
    }
    None
}

/// The kernel's banner, if it is one.
fn banner(bytes: &[u8], region: &Region, at: u64) -> Option<String> {
    let start = usize::try_from(at.checked_sub(region.start)?).ok()?;
    let tail = bytes.get(start..)?;
    let tail = &tail[..tail.len().min(MAX_BANNER)];
    if !tail.starts_with(b"Linux version ") {
        return None;
    }
    let end = tail
        .iter()
        .position(|&byte| byte == 0 || byte == b'\n')
        .unwrap_or(tail.len());
    Some(String::from_utf8_lossy(&tail[..end]).into_owned())
}

fn layout<M: PhysicalMemory + ?Sized>(
    mem: &M,
    space: &AddressSpace,
    symbols: &Symbols,
    region: &Region,
    bytes: &[u8],
) -> Layout {
    let bounds = symbols.address("__start_BTF").zip(symbols.address("__stop_BTF"));
    let Some((start, len)) = bounds
        .map(|(start, stop)| (start, stop.saturating_sub(start)))
        .filter(|&(_, len)| len > 0 && len <= MAX_BTF)
    else {
        return Layout::absent(&LayoutError::NoBtf);
    };
    // It lies in the region that was read already, in every kernel seen.
    let here = start
        .checked_sub(region.start)
        .and_then(|at| bytes.get(at as usize..(at + len) as usize));
    let elsewhere;
    let bytes = match here {
        Some(bytes) => bytes,
        None => {
            let mut buffer = vec![0; len as usize];
            if let Err(error) = space.read(mem, start, &mut buffer) {
                return Layout::absent(&LayoutError::Unreadable(error.to_string()));
            }
            elsewhere = buffer;
            &elsewhere
        }
    };
    match Btf::parse(bytes) {
        Ok(btf) => Layout::from_btf(&btf),
        Err(error) => Layout::absent(&error.into()),
    }
}

/// The kernel's own page tables, which outlive any process; proved by mapping
/// the image to the same place.
///
/// # Errors
/// [`KernelError::Booting`] while they do not: early in its boot a kernel runs
/// on other tables, which it then gives up, so nothing found through those
/// would last.
fn own_space<M: PhysicalMemory + ?Sized>(
    mem: &M,
    borrowed: &AddressSpace,
    symbols: &Symbols,
    (text, place): (u64, u64),
) -> Result<AddressSpace, KernelError> {
    // The table of the image alone does not tell how many are above it.
    let depths = match borrowed.levels() {
        3 => 4..=5,
        levels => levels..=levels,
    };
    symbols
        .address("init_top_pgt")
        .or_else(|| symbols.address("swapper_pg_dir"))
        .and_then(|va| place.checked_add(va.checked_sub(text)?))
        .and_then(|root| {
            depths
                .map(|levels| AddressSpace::new(root, levels))
                .find(|own| own.translate(mem, text).is_ok_and(|pa| pa == place))
        })
        .ok_or(KernelError::Booting { start: text })
}

fn syscall_entry_intact(symbols: &Symbols, cpus: &[CpuState]) -> Option<bool> {
    let entry = symbols.address("entry_SYSCALL_64")?;
    let mut known = cpus
        .iter()
        .filter(|cpu| cpu.in_long_mode() && cpu.lstar != 0)
        .peekable();
    known.peek()?;
    Some(known.all(|cpu| cpu.lstar == entry))
}
