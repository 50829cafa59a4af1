// SPDX-License-Identifier: GPL-3.0-only
//! A place in the guest's text that holds an int3 of ours, or is to hold one.

use xen_bindings::{DomId, Gfn, PAGE_SIZE, Xen, XenError, memory::ForeignPages};

use super::{
    guard::Guard,
    patch::{self, CODE, Patch},
    resume::{Resume, Unfit, resume_of},
};
use crate::altp2m::{EngineError, INT3, ProbeId};

/// What a place is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// A caller's probe.
    Probe(ProbeId),
    /// Learning that the guest is about to patch.
    Guard(Guard),
}

/// How far probes are to go out of the guest's way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Scope {
    /// All that can be traced or probed by the guest: the guard of ftrace stays, so that it goes on telling.
    Traceable,
    /// All.
    All,
}

/// An int3 that is in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Placed {
    pub patch: Patch,
    pub resume: Resume,
}

/// One place.
pub(super) struct Site {
    pub purpose: Purpose,
    pub gfn: Gfn,
    pub offset: usize,
    /// None while it is out of the guest's way.
    pub placed: Option<Placed>,
    page: ForeignPages,
}

impl Site {
    /// A place at guest-physical `pa`, nothing written yet.
    pub(super) fn new(xen: &Xen, domid: DomId, purpose: Purpose, pa: u64) -> Result<Site, EngineError> {
        let (gfn, offset) = (pa / PAGE_SIZE as u64, (pa % PAGE_SIZE as u64) as usize);
        let page = ForeignPages::map_one(xen, domid, gfn, true)
            .map_err(|source| EngineError::NoPage { gfn, source })?;
        Ok(Site {
            purpose,
            gfn,
            offset,
            placed: None,
            page,
        })
    }

    /// Whether it goes out of the guest's way in `scope`.
    pub(super) fn goes(&self, scope: Scope) -> bool {
        scope == Scope::All || self.purpose != Purpose::Guard(Guard::Ftrace)
    }

    /// What an int3 here would replace, as the guest has it now.
    pub(super) fn survey(&self) -> Result<Result<Placed, Unfit>, XenError> {
        let mut code = [0; CODE];
        let room = CODE.min(PAGE_SIZE - self.offset);
        self.page.read(self.offset, &mut code[..room])?;
        Ok(resume_of(&code[..room]).and_then(|(length, resume)| {
            let patch = Patch::new(self.gfn, self.offset, &code[..length]).ok_or(Unfit::Instruction)?;
            Ok(Placed { patch, resume })
        }))
    }

    /// Writes the int3 that [`Self::survey`] planned; it must be on record.
    pub(super) fn place(&mut self, xen: &Xen, domid: DomId, placed: Placed) -> Result<(), EngineError> {
        patch::apply(xen, domid, &placed.patch, &self.page)?;
        self.placed = Some(placed);
        Ok(())
    }

    /// Takes the int3 away, if it is there; returns whether it was.
    pub(super) fn withdraw(&mut self, xen: &Xen, domid: DomId) -> Result<bool, EngineError> {
        match self.placed {
            Some(placed) => {
                let was = patch::restore(xen, domid, &placed.patch, &self.page)?;
                self.placed = None;
                Ok(was)
            }
            None => Ok(false),
        }
    }

    /// Whether the int3 is in place and the rest of the instruction is the guest's own of then.
    pub(super) fn is_intact(&self) -> Result<bool, XenError> {
        let Some(placed) = self.placed else {
            return Ok(false);
        };
        let mut found = [0; CODE];
        let found = &mut found[..placed.patch.original().len()];
        self.page.read(self.offset, found)?;
        Ok(placed.patch.is_applied(found))
    }

    /// Whether an int3 is there, whoever's.
    pub(super) fn breaks(&self) -> Result<bool, XenError> {
        let mut byte = [0];
        self.page.read(self.offset, &mut byte)?;
        Ok(byte[0] == INT3)
    }
}
