// SPDX-License-Identifier: GPL-3.0-only
//! Where the kernel image lies, told by the page tables alone.

use crate::memory::{AddressSpace, CpuState, MemoryError, PhysicalMemory};

/// x86-64 Linux maps its image here, KASLR or not (Documentation/arch/x86/
/// x86_64/mm.rst: "kernel text mapping")…
const IMAGE_AREA: u64 = 0xffff_ffff_8000_0000;
/// … and this far at most (KERNEL_IMAGE_SIZE with KASLR).
const IMAGE_AREA_LEN: u64 = 1 << 30;
/// Holes inside the image are smaller: init sections that were freed, and the
/// padding of sections to 2 MiB. Modules, where they share the area, are
/// farther away.
const MAX_HOLE: u64 = 32 << 20;

/// A run of pages with the same rights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Region {
    /// Address of its first byte.
    pub start: u64,
    /// Length in bytes.
    pub len: u64,
    /// It may be written.
    pub writable: bool,
    /// It may be executed.
    pub executable: bool,
}

impl Region {
    /// First address behind the region.
    pub fn end(&self) -> u64 {
        self.start.saturating_add(self.len)
    }

    /// Whether `va` lies in the region.
    pub fn contains(&self, va: u64) -> bool {
        va >= self.start && va < self.end()
    }
}

/// The mapped regions of the kernel image, by ascending address; never empty.
#[derive(Debug, Clone)]
pub struct Image {
    regions: Vec<Region>,
}

/// Whether `va` can be an address in a kernel image at all.
pub fn in_image_area(va: u64) -> bool {
    (IMAGE_AREA..IMAGE_AREA + IMAGE_AREA_LEN).contains(&va)
}

impl Image {
    /// Walks the area for kernel images and returns the mapped regions around
    /// `anchor`, or nothing if that is not mapped. Each page or hole walked takes
    /// one of `pages_left`; at none the area ends.
    ///
    /// # Errors
    /// [`MemoryError`] other than "not mapped" if the tables cannot be read.
    pub fn around<M: PhysicalMemory + ?Sized>(
        mem: &M,
        space: &AddressSpace,
        anchor: u64,
        pages_left: &mut u64,
    ) -> Result<Option<Self>, MemoryError> {
        let regions = mapped_regions(mem, space, pages_left)?;
        let Some(home) = regions.iter().position(|region| region.contains(anchor)) else {
            return Ok(None);
        };
        let near = |a: &Region, b: &Region| b.start - a.end() <= MAX_HOLE;
        let mut first = home;
        while first > 0 && near(&regions[first - 1], &regions[first]) {
            first -= 1;
        }
        let mut last = home;
        while last + 1 < regions.len() && near(&regions[last], &regions[last + 1]) {
            last += 1;
        }
        Ok(Some(Self {
            regions: regions[first..=last].to_vec(),
        }))
    }

    /// Address of the image's first byte.
    pub fn start(&self) -> u64 {
        self.regions.first().map_or(0, |region| region.start)
    }

    /// Bytes from the first to the last mapped one.
    pub fn len(&self) -> u64 {
        self.regions.last().map_or(0, |region| region.end()) - self.start()
    }

    /// Whether `va` lies in the image, in an executable region.
    pub fn is_text(&self, va: u64) -> bool {
        self.regions
            .iter()
            .any(|region| region.executable && region.contains(va))
    }

    /// Regions that may hold read-only data, likeliest first: read-only data as
    /// it is once the kernel has booted; data, as it is before; text, for
    /// kernels with rodata protection off.
    pub fn data_regions(&self) -> Vec<Region> {
        let mut regions = self.regions.clone();
        regions.sort_by_key(|region| (region.executable, region.writable));
        regions
    }
}

/// The first address in the area for kernel images that is mapped; takes of
/// `pages_left` as [`Image::around`] does.
pub fn first_mapped<M: PhysicalMemory + ?Sized>(
    mem: &M,
    space: &AddressSpace,
    pages_left: &mut u64,
) -> Option<u64> {
    let regions = mapped_regions(mem, space, pages_left).ok()?;
    regions.first().map(|region| region.start)
}

/// Mapped pages of the area for images, joined to runs with the same rights.
fn mapped_regions<M: PhysicalMemory + ?Sized>(
    mem: &M,
    space: &AddressSpace,
    pages_left: &mut u64,
) -> Result<Vec<Region>, MemoryError> {
    let mut regions: Vec<Region> = Vec::new();
    let end = IMAGE_AREA + IMAGE_AREA_LEN;
    let mut va = IMAGE_AREA;
    // At least one page a round, so at most 262 144 rounds.
    while va < end {
        let Some(left) = pages_left.checked_sub(1) else {
            break;
        };
        *pages_left = left;
        let step = match space.walk(mem, va) {
            Ok(page) => {
                let size = page.page_size - va % page.page_size;
                let (writable, executable) = (page.flags.writable, page.flags.executable);
                match regions.last_mut() {
                    Some(last)
                        if last.end() == va && last.writable == writable && last.executable == executable =>
                    {
                        last.len += size;
                    }
                    _ => regions.push(Region {
                        start: va,
                        len: size,
                        writable,
                        executable,
                    }),
                }
                size
            }
            // A table that lies outside memory maps nothing.
            Err(MemoryError::Absent { .. }) => 1 << 21,
            Err(MemoryError::NotMapped { level, .. }) => {
                let covered = 1u64 << (12 + 9 * u32::from(level.clamp(1, 4) - 1));
                covered - va % covered
            }
            Err(error) => return Err(error),
        };
        va = va.saturating_add(step);
    }
    Ok(regions)
}

/// Addresses in the kernel image that a vCPU's registers tell, best first: the
/// system-call entry, then the handlers of page fault and breakpoint, then the
/// instruction pointer.
pub fn anchors<M: PhysicalMemory + ?Sized>(mem: &M, space: &AddressSpace, cpu: &CpuState) -> Vec<u64> {
    let gate = |vector: u64| -> Option<u64> {
        let mut raw = [0; 16];
        let at = cpu.idt_base.checked_add(vector * 16)?;
        space.read(mem, at, &mut raw).ok()?;
        let low = u64::from(u16::from_le_bytes([raw[0], raw[1]]));
        let middle = u64::from(u16::from_le_bytes([raw[6], raw[7]]));
        let high = u64::from(u32::from_le_bytes([raw[8], raw[9], raw[10], raw[11]]));
        Some(low | middle << 16 | high << 32)
    };
    [Some(cpu.lstar), gate(14), gate(3), Some(cpu.rip)]
        .into_iter()
        .flatten()
        .filter(|&va| in_image_area(va))
        .collect()
}
