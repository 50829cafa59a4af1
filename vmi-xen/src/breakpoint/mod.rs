// SPDX-License-Identifier: GPL-3.0-only
//! Probes where there is no altp2m (AMD to this day): int3s in the guest's own text.
//!
//! The int3 goes over the first byte of the NOP that every traceable kernel function starts with, behind its `endbr64`. A vCPU
//! that meets it exits to Xen and waits; the [`Engine`] calls the handler and answers with RIP behind the NOP: one exit per
//! trap, nothing is executed, so no other vCPU can slip by. Where the guest turned the NOP into a call (it traces the function
//! itself), or a probe stands on another plain instruction, Xen's emulator carries out the guest's own; the int3 stays.
//!
//! **What it costs.** The guest can see the int3s: a kernel that hashes its text finds them, and so does a debugger. One
//! that patches its text must not, or it breaks; `guard` says how that is kept. While the guest patches, and after
//! it began to fall asleep, there are no traps; traffic is then decided by VM, as where there is no sight of processes.
//!
//! **Invariants**
//! - Every event that is taken from the ring is answered, also when the handler panics or Xen refuses a call.
//! - The [`UndoRecord`] names a byte, and the guest's own instruction, before an int3 is written over it. Undoing writes only
//!   where our int3 still is.
//! - An int3 is written only while the guest is paused and patches no text, so what is read there is what is there.
//! - A guest's own breakpoint reaches the guest.
//!
//! [`UndoRecord`]: crate::altp2m::UndoRecord

mod attach;
mod dispatch;
mod engine;
mod guard;
mod patch;
mod resume;
mod site;

pub use engine::Engine;
pub use guard::{Guards, guard_functions};
#[cfg(test)]
pub(crate) use patch::any_patch;
pub(crate) use patch::restore_all;
pub use patch::{MAX_PATCHES, Patch};
