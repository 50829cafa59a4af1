// SPDX-License-Identifier: GPL-3.0-only
//! Tracing system calls of a guest, on demand and from outside.
//!
//! A probe stands at the entry of each function that carries out a traced call,
//! where `rdi` points to the caller's registers, and one at each of its returns,
//! where `rax` has the result. The two are brought together by the task and by
//! the stack pointer, which at a return is again where it was at the entry.
//!
//! What a call points to is read at its entry. What was not in memory then
//! (a path in a page that nobody has touched) is read again at the return: by
//! then the kernel itself has read it.
//!
//! Calls become text while their vCPU waits, since the memory may change as soon
//! as it goes on; everything else is done elsewhere.
//!
//! **Invariant:** a trace that is over its limit takes its own probes away, and
//! only those: what the mesh itself watches does not change. What traces cost
//! counts towards the guest's budget, and over it they are the first to rest.

mod limit;
mod memory;
pub mod sites;
mod tracer;

pub use limit::LeftOut;
pub use tracer::{Filter, Told, Traced, Tracer};
