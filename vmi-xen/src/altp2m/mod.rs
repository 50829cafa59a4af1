// SPDX-License-Identifier: GPL-3.0-only
//! Probes in a running guest that the guest cannot see: int3s that exist only in
//! an altp2m view.
//!
//! A probed page gets a copy (a *shadow*) in a frame above the guest's highest.
//! The copy holds the int3s, and our view shows it in the page's place. A vCPU
//! that meets an int3 exits to Xen and waits; the [`Engine`] finds the probe,
//! calls the handler and answers.
//!
//! Resuming: where the probe stands on an instruction that changes nothing but
//! registers (every traceable kernel function starts with a NOP), the vCPU is
//! given what they are then, and that is all: one exit per trap. Any other
//! instruction is executed in view 0, alone on its vCPU, by a single step.
//!
//! **Invariants**
//! - Every event that is taken from the ring is answered, also when the handler
//!   panics or Xen refuses a call.
//! - The [`UndoRecord`] names a change before it is made, so [`undo`] frees the
//!   guest from any process at any instant.
//! - The guest executes its own text, as it is: shadowed pages are
//!   write-protected in the view, and a write brings the copy up to date before
//!   its vCPU goes on.
//! - A guest's own breakpoint reaches the guest.

mod attach;
mod dispatch;
mod emulate;
mod engine;
mod error;
mod insn;
mod record;
mod shadow;
mod stats;
mod undo;
mod wait;

pub(crate) use attach::{enable_events, watchable};
pub(crate) use dispatch::TRAP_FLAG;
pub use dispatch::Trap;
pub(crate) use engine::starts_with_endbr;
pub use engine::{Armed, Config, Engine};
pub use error::EngineError;
pub(crate) use insn::{ENDBR64, INT3, nop_length};
pub use record::{RecordError, SHADOW_SLOTS, UndoRecord};
pub use stats::Stats;
pub use undo::{Undone, undo};
pub(crate) use undo::{hold, let_one_go};
pub use wait::Waker;
pub(crate) use wait::{Spin, Woken, sleep};
pub use xen_bindings::vm_event_regs_x86;

/// The caller's name for a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProbeId(pub u32);
