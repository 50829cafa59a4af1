// SPDX-License-Identifier: GPL-3.0-only
//! One int3 in the guest's own text: what was there before, and putting that back.

use xen_bindings::{DomId, Gfn, PAGE_SIZE, Xen, memory};

use crate::altp2m::{EngineError, INT3, UndoRecord};

/// Patches that one guest can have: what its undo record has room for.
pub const MAX_PATCHES: usize = 124;
/// Bytes of an instruction kept; the longest there is has 15.
pub(super) const CODE: usize = xen_bindings::monitor::INSN_ROOM;

/// One byte of the guest's text that is, or may be, an int3 of ours, and the instruction that began with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patch {
    gfn: Gfn,
    offset: u16,
    length: u8,
    code: [u8; CODE],
}

impl Patch {
    /// Size of an encoded patch in bytes.
    pub(crate) const SIZE: usize = 32;

    /// A patch of the instruction `code` at byte `offset` of `gfn`; none where it is empty, too long or reaches over the
    /// end of the page.
    pub(crate) fn new(gfn: Gfn, offset: usize, code: &[u8]) -> Option<Patch> {
        let fits = !code.is_empty() && code.len() < CODE && offset + code.len() <= PAGE_SIZE;
        fits.then(|| {
            let mut room = [0; CODE];
            room[..code.len()].copy_from_slice(code);
            Patch {
                gfn,
                // Both are small, as just checked.
                offset: offset as u16,
                length: code.len() as u8,
                code: room,
            }
        })
    }

    /// Guest-physical address of the int3.
    pub fn pa(&self) -> u64 {
        self.gfn * PAGE_SIZE as u64 + u64::from(self.offset)
    }

    /// The guest's own instruction.
    pub fn original(&self) -> &[u8] {
        &self.code[..usize::from(self.length)]
    }

    /// The instruction as Xen's emulator is given it.
    pub(super) fn code(&self) -> &[u8; CODE] {
        &self.code
    }

    /// Whether `found`, read at [`Self::pa`] over the length of the instruction, is the instruction with our int3 over its first
    /// byte. Where the guest changed it meanwhile it is not: an int3 there is a step of the guest's own patching.
    pub(super) fn is_applied(&self, found: &[u8]) -> bool {
        found.first() == Some(&INT3) && found.get(1..) == self.original().get(1..)
    }

    /// Puts the guest's own byte into `buffer`, which was read at guest-physical `pa`, where that still holds the int3: for
    /// whoever compares text, which is to look as the guest has it.
    pub fn hide(&self, pa: u64, buffer: &mut [u8]) {
        let at = self.pa().checked_sub(pa).and_then(|at| usize::try_from(at).ok());
        if let Some(byte) = at.and_then(|at| buffer.get_mut(at))
            && *byte == INT3
        {
            *byte = self.code[0];
        }
    }

    pub(crate) fn encode(&self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        bytes[0..8].copy_from_slice(&self.gfn.to_le_bytes());
        bytes[8..10].copy_from_slice(&self.offset.to_le_bytes());
        bytes[10] = self.length;
        bytes[16..].copy_from_slice(&self.code);
        bytes
    }

    pub(crate) fn decode(bytes: &[u8; Self::SIZE]) -> Option<Patch> {
        let gfn = Gfn::from_le_bytes(*bytes.first_chunk()?);
        let offset = u16::from_le_bytes([bytes[8], bytes[9]]);
        let code = bytes[16..].get(..usize::from(bytes[10]))?;
        // No address that such a frame number could mean overflows.
        let gfn = (gfn < u64::MAX / PAGE_SIZE as u64).then_some(gfn)?;
        Patch::new(gfn, usize::from(offset), code)
    }
}

/// Puts the guest's own bytes back wherever `record` says that an int3 of ours may be, and takes that off the record. A byte
/// that is not (any more) ours is left alone.
///
/// # Errors
/// Where Xen refuses; the record then still names what is left.
pub(crate) fn restore_all(xen: &Xen, record: &mut UndoRecord) -> Result<(), EngineError> {
    if record.applied().patches.is_empty() {
        return Ok(());
    }
    for patch in &record.applied().patches {
        match memory::ForeignPages::map_one(xen, record.domid(), patch.gfn, true) {
            Ok(page) => {
                restore(xen, record.domid(), patch, &page)?;
            }
            Err(error) if error.is_gone() => return Err(error.into()),
            // The guest gave the page away, and with it the int3.
            Err(error) => log::debug!("domain {}: frame {:#x}: {error}", record.domid(), patch.gfn),
        }
    }
    record.update(|applied| applied.patches.clear())?;
    Ok(())
}

/// Puts the guest's own byte back, if the int3 is still ours; returns whether it was.
///
/// One byte, written at once: a vCPU that fetches the instruction meanwhile finds the int3 or the whole original, whose other
/// bytes never changed. So the guest need not be paused.
pub(super) fn restore(
    xen: &Xen,
    domid: DomId,
    patch: &Patch,
    page: &memory::ForeignPages,
) -> Result<bool, EngineError> {
    let mut found = [0; CODE];
    let (found, at) = (&mut found[..patch.original().len()], usize::from(patch.offset));
    page.read(at, found)?;
    if !patch.is_applied(found) {
        return Ok(false);
    }
    write(xen, domid, patch, page, patch.code[0])?;
    Ok(true)
}

/// Writes the int3.
pub(super) fn apply(
    xen: &Xen,
    domid: DomId,
    patch: &Patch,
    page: &memory::ForeignPages,
) -> Result<(), EngineError> {
    write(xen, domid, patch, page, INT3)
}

fn write(
    xen: &Xen,
    domid: DomId,
    patch: &Patch,
    page: &memory::ForeignPages,
    byte: u8,
) -> Result<(), EngineError> {
    page.write(usize::from(patch.offset), &[byte])?;
    // A save or a migration that sent the page already must send it again.
    memory::mark_modified(xen, domid, patch.gfn)?;
    Ok(())
}

/// Any patch that can be: for the tests of the record.
#[cfg(test)]
pub(crate) fn any_patch() -> impl proptest::strategy::Strategy<Value = Patch> {
    use proptest::prelude::*;
    (
        0..1_u64 << 40,
        0..PAGE_SIZE - CODE,
        prop::collection::vec(any::<u8>(), 1..CODE),
    )
        .prop_map(|(gfn, offset, code)| Patch::new(gfn, offset, &code).expect("it fits"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOP5: [u8; 5] = [0x0f, 0x1f, 0x44, 0x00, 0x00];

    #[test]
    fn only_our_own_int3_is_taken_for_ours() {
        let patch = Patch::new(1, 0x10, &NOP5).expect("it fits");
        assert!(patch.is_applied(&[INT3, 0x1f, 0x44, 0x00, 0x00]));
        assert!(!patch.is_applied(&NOP5), "the guest's own");
        assert!(!patch.is_applied(&[INT3, 1, 2, 3, 4]), "the guest patches it");
        assert!(!patch.is_applied(&[0xe8, 0x1f, 0x44, 0x00, 0x00]));
    }

    #[test]
    fn an_instruction_over_the_end_of_the_page_is_not_patched() {
        assert!(Patch::new(1, PAGE_SIZE - 5, &NOP5).is_some());
        assert_eq!(Patch::new(1, PAGE_SIZE - 4, &NOP5), None);
        assert_eq!(Patch::new(1, 0, &[]), None);
        assert_eq!(Patch::new(1, 0, &[0x90; CODE]), None);
    }

    #[test]
    fn a_reader_that_hides_patches_sees_the_guests_own_text() {
        let patch = Patch::new(2, 0x10, &NOP5).expect("it fits");
        let mut page = [INT3; 0x20];
        patch.hide(2 * PAGE_SIZE as u64, &mut page);
        assert_eq!(page[0x0f..0x12], [INT3, 0x0f, INT3]);
        patch.hide(2 * PAGE_SIZE as u64 + 0x11, &mut page);
        patch.hide(0, &mut page);
        assert_eq!(page[0x0f..0x12], [INT3, 0x0f, INT3], "elsewhere nothing changes");
        let mut own = [0x55; 0x20];
        patch.hide(2 * PAGE_SIZE as u64, &mut own);
        assert_eq!(own, [0x55; 0x20], "what the guest wrote since stays");
    }

    proptest! {
        #[test]
        fn no_bytes_make_a_patch_that_is_out_of_bounds(bytes: [u8; Patch::SIZE]) {
            if let Some(patch) = Patch::decode(&bytes) {
                prop_assert!(patch.pa() % PAGE_SIZE as u64 + patch.original().len() as u64 <= PAGE_SIZE as u64);
            }
        }

        #[test]
        fn encoding_loses_nothing(patch in any_patch()) {
            prop_assert_eq!(Patch::decode(&patch.encode()), Some(patch));
        }
    }
}
