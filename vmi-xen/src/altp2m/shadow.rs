// SPDX-License-Identifier: GPL-3.0-only
//! Shadow pages: copies of guest pages that hold the probes' int3s, shown to the
//! guest in their place while it is on our view.

use xen_bindings::{DomId, Gfn, PAGE_SIZE, Xen, XenError, memory::ForeignPages};

use super::{
    ProbeId,
    insn::{self, INT3},
};

/// One probe within its page.
#[derive(Debug, Clone, Copy)]
pub(super) struct Probe {
    pub id: ProbeId,
    /// Byte within the page.
    pub offset: usize,
    /// Length of the NOP that it replaced; `None` for another instruction, which
    /// must be executed.
    pub nop: Option<u8>,
    /// First bytes of the instruction, to notice that the guest changed it.
    code: [u8; insn::LONGEST],
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
    probes: Vec<Probe>,
}

impl Shadow {
    /// Fills the frame `copy` with what `gfn` holds.
    pub(super) fn new(xen: &Xen, domid: DomId, gfn: Gfn, slot: u32, copy: Gfn) -> Result<Self, XenError> {
        let shadow = Self {
            slot,
            original: ForeignPages::map_one(xen, domid, gfn, false)?,
            copy: ForeignPages::map_one(xen, domid, copy, true)?,
            probes: Vec::new(),
        };
        let mut page = [0; PAGE_SIZE];
        shadow.original.read(0, &mut page)?;
        shadow.copy.write(0, &page)?;
        Ok(shadow)
    }

    /// The probe at a byte of the page.
    pub(super) fn probe_at(&self, offset: usize) -> Option<&Probe> {
        self.probes.iter().find(|probe| probe.offset == offset)
    }

    pub(super) fn has(&self, id: ProbeId) -> bool {
        self.probes.iter().any(|probe| probe.id == id)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.probes.is_empty()
    }

    /// Whether the guest's own page has an int3 at `offset`.
    pub(super) fn original_breaks_at(&self, offset: usize) -> Result<bool, XenError> {
        let mut byte = [0];
        self.original.read(offset, &mut byte)?;
        Ok(byte[0] == INT3)
    }

    /// Puts a probe at `offset`; the guest meets it from now on.
    pub(super) fn put(&mut self, id: ProbeId, offset: usize) -> Result<Probe, XenError> {
        let mut page = [0; PAGE_SIZE];
        self.original.read(0, &mut page)?;
        let code = code_at(&page, offset);
        let probe = Probe {
            id,
            offset,
            nop: nop_at(&page, offset),
            code,
        };
        self.copy.write(offset, &[INT3])?;
        self.probes.push(probe);
        Ok(probe)
    }

    /// Takes a probe away; returns whether it was here.
    pub(super) fn take(&mut self, id: ProbeId) -> Result<bool, XenError> {
        let Some(index) = self.probes.iter().position(|probe| probe.id == id) else {
            return Ok(false);
        };
        let offset = self.probes[index].offset;
        let mut byte = [0];
        self.original.read(offset, &mut byte)?;
        self.copy.write(offset, &byte)?;
        self.probes.swap_remove(index);
        Ok(true)
    }

    /// Brings the copy up to date with the guest's page, with the probes in
    /// place. Only bytes that differ are written, each at once, so other vCPUs
    /// may run on the page meanwhile: they see what they would have seen of the
    /// guest's own write.
    pub(super) fn refresh(&mut self) -> Result<Refreshed, XenError> {
        let mut wanted = [0; PAGE_SIZE];
        self.original.read(0, &mut wanted)?;
        let mut found = Refreshed::default();
        for probe in &mut self.probes {
            let code = code_at(&wanted, probe.offset);
            if code != probe.code {
                // The bytes may belong to what follows a shorter instruction;
                // only a change of how to resume is worth telling of.
                let nop = nop_at(&wanted, probe.offset);
                found.instructions += u64::from(nop != probe.nop || code[0] != probe.code[0]);
                probe.code = code;
                probe.nop = nop;
            }
        }
        for probe in &self.probes {
            wanted[probe.offset] = INT3;
        }
        let mut shown = [0; PAGE_SIZE];
        self.copy.read(0, &mut shown)?;
        for (offset, byte) in wanted.iter().enumerate() {
            if *byte != shown[offset] {
                self.copy.write(offset, &[*byte])?;
                found.changed = true;
            }
        }
        Ok(found)
    }
}

/// The bytes at `offset`, padded with zeros at the end of the page.
fn code_at(page: &[u8; PAGE_SIZE], offset: usize) -> [u8; insn::LONGEST] {
    let mut code = [0; insn::LONGEST];
    let rest = page.get(offset..).unwrap_or_default();
    let length = rest.len().min(code.len());
    code[..length].copy_from_slice(&rest[..length]);
    code
}

/// The NOP at `offset`, if a whole one is there.
fn nop_at(page: &[u8; PAGE_SIZE], offset: usize) -> Option<u8> {
    insn::nop_length(page.get(offset..)?)
}
