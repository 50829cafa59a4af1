// SPDX-License-Identifier: GPL-3.0-only
//! Shadow pages: copies of guest pages that hold the probes' int3s, shown to the
//! guest in their place while it is on our view.

use xen_bindings::{DomId, Gfn, PAGE_SIZE, Xen, XenError, memory::ForeignPages};

use super::{
    ProbeId,
    emulate::Plan,
    insn::{self, INT3},
};

type Page = [u8; PAGE_SIZE];

/// One probe within its page.
#[derive(Debug, Clone, Copy)]
pub(super) struct Probe {
    pub id: ProbeId,
    /// Byte within the page.
    pub offset: usize,
    /// What the instruction that it replaced does, if that can be done without
    /// executing it.
    pub plan: Option<Plan>,
    /// Accesses of the guest to the page that trapped on this probe's account.
    pub accesses: u64,
    /// First bytes of the instruction, to notice that the guest changed it.
    code: [u8; insn::LONGEST],
}

/// The probes of one page: pure bookkeeping over the page's bytes.
#[derive(Default)]
struct Probes(Vec<Probe>);

impl Probes {
    /// Adds a probe on the instruction at `offset` of `page`.
    fn add(&mut self, id: ProbeId, offset: usize, page: &Page) -> Probe {
        let probe = Probe {
            id,
            offset,
            plan: plan_at(page, offset),
            accesses: 0,
            code: code_at(page, offset),
        };
        self.0.push(probe);
        probe
    }

    /// An access to the page trapped: the probes take turns to bear the cost, so that none of it is counted twice.
    fn charge(&mut self) {
        if let Some(probe) = self.0.iter_mut().min_by_key(|probe| probe.accesses) {
            probe.accesses += 1;
        }
    }

    /// Learns what the guest's page looks like now. Returns for how many probes
    /// the instruction is another one.
    fn follow(&mut self, page: &Page) -> u64 {
        let mut changed = 0;
        for probe in &mut self.0 {
            let (code, plan) = (code_at(page, probe.offset), plan_at(page, probe.offset));
            // Later bytes may belong to what follows a shorter instruction, so
            // only another opcode or another way to resume counts.
            changed += u64::from(plan != probe.plan || code[0] != probe.code[0]);
            probe.code = code;
            probe.plan = plan;
        }
        changed
    }

    /// Puts the int3s into a copy of the guest's page.
    fn overlay(&self, page: &mut Page) {
        for probe in &self.0 {
            page[probe.offset] = INT3;
        }
    }
}

/// What a refresh found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Refreshed {
    /// The page had changed.
    pub changed: bool,
    /// Probes whose own instruction had changed.
    pub instructions: u64,
}

/// A guest page and its copy.
pub(super) struct Shadow {
    /// Which of the shadow slots the copy is in.
    pub slot: u32,
    original: ForeignPages,
    copy: ForeignPages,
    probes: Probes,
}

impl Shadow {
    /// Fills the frame `copy` with what `gfn` holds.
    pub(super) fn new(xen: &Xen, domid: DomId, gfn: Gfn, slot: u32, copy: Gfn) -> Result<Self, XenError> {
        let shadow = Self {
            slot,
            original: ForeignPages::map_one(xen, domid, gfn, false)?,
            copy: ForeignPages::map_one(xen, domid, copy, true)?,
            probes: Probes::default(),
        };
        shadow.copy.write(0, &shadow.original_page()?)?;
        Ok(shadow)
    }

    /// The probe at a byte of the page.
    pub(super) fn probe_at(&self, offset: usize) -> Option<&Probe> {
        self.probes.0.iter().find(|probe| probe.offset == offset)
    }

    pub(super) fn has(&self, id: ProbeId) -> bool {
        self.probe(id).is_some()
    }

    pub(super) fn probe(&self, id: ProbeId) -> Option<&Probe> {
        self.probes.0.iter().find(|probe| probe.id == id)
    }

    /// Whether it has no probe left, and nothing to hide.
    pub(super) fn is_bare(&self) -> bool {
        self.probes.0.is_empty()
    }

    /// Counts an access of the guest that trapped.
    pub(super) fn charge(&mut self) {
        self.probes.charge();
    }

    /// Whether the guest's own page has an int3 at `offset`.
    pub(super) fn original_breaks_at(&self, offset: usize) -> Result<bool, XenError> {
        let mut byte = [0];
        self.original.read(offset, &mut byte)?;
        Ok(byte[0] == INT3)
    }

    /// Puts a probe at `offset`; the guest meets it from now on.
    pub(super) fn put(&mut self, id: ProbeId, offset: usize) -> Result<Probe, XenError> {
        let page = self.original_page()?;
        self.copy.write(offset, &[INT3])?;
        Ok(self.probes.add(id, offset, &page))
    }

    /// Takes a probe away; returns whether it was here.
    pub(super) fn take(&mut self, id: ProbeId) -> Result<bool, XenError> {
        let Some(index) = self.probes.0.iter().position(|probe| probe.id == id) else {
            return Ok(false);
        };
        let offset = self.probes.0[index].offset;
        let mut byte = [0];
        self.original.read(offset, &mut byte)?;
        self.copy.write(offset, &byte)?;
        self.probes.0.swap_remove(index);
        Ok(true)
    }

    /// Brings the copy up to date with the guest's page, with the probes in
    /// place. Only bytes that differ are written, each at once, so other vCPUs
    /// may run on the page meanwhile: they see what they would have seen of the
    /// guest's own write.
    pub(super) fn refresh(&mut self) -> Result<Refreshed, XenError> {
        let mut wanted = self.original_page()?;
        let instructions = self.probes.follow(&wanted);
        self.probes.overlay(&mut wanted);
        let mut shown = [0; PAGE_SIZE];
        self.copy.read(0, &mut shown)?;
        let mut changed = false;
        for (offset, (wanted, shown)) in wanted.iter().zip(&shown).enumerate() {
            if wanted != shown {
                self.copy.write(offset, &[*wanted])?;
                changed = true;
            }
        }
        Ok(Refreshed {
            changed,
            instructions,
        })
    }

    fn original_page(&self) -> Result<Page, XenError> {
        let mut page = [0; PAGE_SIZE];
        self.original.read(0, &mut page)?;
        Ok(page)
    }
}

/// The bytes at `offset`, padded with zeros at the end of the page.
fn code_at(page: &Page, offset: usize) -> [u8; insn::LONGEST] {
    let mut code = [0; insn::LONGEST];
    let rest = page.get(offset..).unwrap_or_default();
    let length = rest.len().min(code.len());
    code[..length].copy_from_slice(&rest[..length]);
    code
}

/// What the instruction at `offset` does, if a whole one is there that is understood.
fn plan_at(page: &Page, offset: usize) -> Option<Plan> {
    let code = page.get(offset..)?;
    insn::nop_length(code).map(Plan::nop).or_else(|| Plan::of(code))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOP5: [u8; 5] = [0x0f, 0x1f, 0x44, 0x00, 0x00];

    fn page_with(offset: usize, code: &[u8]) -> Page {
        let mut page = [0x55; PAGE_SIZE];
        page[offset..offset + code.len()].copy_from_slice(code);
        page
    }

    #[test]
    fn an_ftrace_site_that_becomes_a_call_and_back_stays_probed() {
        let idle = page_with(0x100, &NOP5);
        let mut probes = Probes::default();
        assert_eq!(probes.add(ProbeId(1), 0x100, &idle).plan, Some(Plan::nop(5)));

        // The kernel pokes an int3 first, then the tail, then the head.
        let mut page = page_with(0x100, &[INT3, 0x1f, 0x44, 0x00, 0x00]);
        assert_eq!(probes.follow(&page), 1);
        assert_eq!(probes.0[0].plan, None);
        page = page_with(0x100, &[0xe8, 1, 2, 3, 4]);
        assert_eq!(probes.follow(&page), 1);
        probes.overlay(&mut page);
        assert_eq!(page[0x100..0x105], [INT3, 1, 2, 3, 4]);

        assert_eq!(probes.follow(&idle), 1);
        assert_eq!(probes.0[0].plan, Some(Plan::nop(5)));
    }

    #[test]
    fn a_change_elsewhere_on_the_page_is_no_change_of_the_probe() {
        let mut page = page_with(0x100, &NOP5);
        let mut probes = Probes::default();
        probes.add(ProbeId(1), 0x100, &page);
        page[0x105..0x120].fill(0x90);
        page[0xfff] = 0;
        assert_eq!(probes.follow(&page), 0);
    }

    #[test]
    fn what_a_page_costs_is_shared_by_its_probes_and_counted_once() {
        let page = page_with(0x100, &NOP5);
        let mut probes = Probes::default();
        probes.charge();
        probes.add(ProbeId(1), 0x100, &page);
        (0..7).for_each(|_| probes.charge());
        // The newcomer catches up: from then on both bear the same.
        probes.add(ProbeId(2), 0x200, &page);
        (0..9).for_each(|_| probes.charge());
        assert_eq!(probes.0.iter().map(|p| p.accesses).sum::<u64>(), 16);
        assert_eq!(probes.0.iter().map(|p| p.accesses).max(), Some(8));
    }

    #[test]
    fn an_instruction_cut_by_the_end_of_the_page_is_stepped() {
        let page = page_with(PAGE_SIZE - 3, &NOP5[..3]);
        let mut probes = Probes::default();
        assert_eq!(probes.add(ProbeId(1), PAGE_SIZE - 3, &page).plan, None);
        assert_eq!(probes.follow(&page), 0);
    }
}
