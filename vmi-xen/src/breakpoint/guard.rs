// SPDX-License-Identifier: GPL-3.0-only
//! Keeping out of the way of a guest that patches its own text.
//!
//! Linux looks before it patches: ftrace compares what is at each function's start with what it left there, and an int3
//! makes it warn and switch itself off until the next boot; a kprobe is refused where the function up to its place does not decode.
//! So the functions that begin such work are probed too, and take our int3s away before the guest can look:
//!
//! | function | begins | in kernels |
//! |---|---|---|
//! | `arch_ftrace_update_code`, else `ftrace_modify_all_code` | switching ftrace sites: tracers, livepatch, kprobes at entries, BPF trampolines | 5.10 to 7.x |
//! | `register_kprobe` | decoding a function, copying an instruction | 5.10 to 7.x |
//! | `freeze_processes` | suspend, hibernation, `xl save` and migration: memory is about to be copied | 5.10 to 7.x |
//!
//! Whoever writes to kernel text holds `text_mutex` (kernel/extable.c), ftrace from before it looks until after it wrote. So our
//! int3s go (back) in only while the guest is paused and nobody holds it: then no patching is half done. Other patchers (static
//! keys, static calls, alternatives) look at and write their own sites only, none of which is a function's start.

use crate::{altp2m::EngineError, kernel::Kernel, memory::PhysicalMemory};

/// A function of the guest that tells of what is to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Guard {
    /// ftrace is about to look at, and change, functions' starts. Not a function that can be traced itself.
    Ftrace,
    /// A function is about to be decoded for a kprobe.
    Kprobe,
    /// The system is about to sleep, and its memory to be copied perhaps.
    Sleep,
}

impl Guard {
    const ALL: [Guard; 3] = [Guard::Ftrace, Guard::Kprobe, Guard::Sleep];

    /// Names of the function, the best first.
    fn functions(self) -> &'static [&'static str] {
        match self {
            Guard::Ftrace => &["arch_ftrace_update_code", "ftrace_modify_all_code"],
            Guard::Kprobe => &["register_kprobe"],
            Guard::Sleep => &["freeze_processes"],
        }
    }

    /// A function that every kernel has which does what the guard is for.
    fn sign(self) -> &'static str {
        match self {
            Guard::Ftrace => "ftrace_replace_code",
            Guard::Kprobe => "register_kprobe",
            Guard::Sleep => "freeze_processes",
        }
    }
}

/// Functions that an engine may have a breakpoint in beside its callers' probes.
pub fn guard_functions() -> impl Iterator<Item = &'static str> {
    Guard::ALL.into_iter().flat_map(Guard::functions).copied()
}

/// A function of the guest to be guarded.
#[derive(Debug, Clone, Copy)]
pub(super) struct Watched {
    pub guard: Guard,
    pub function: &'static str,
    pub va: u64,
    pub pa: u64,
}

/// What an engine needs to know of a kernel to keep out of its way.
#[derive(Debug, Clone)]
pub struct Guards {
    /// Guest-physical address of the owner word of `text_mutex`: zero but for its lowest bits while nobody holds it.
    pub(super) text_mutex: u64,
    pub(super) watched: Vec<Watched>,
}

/// The lowest bits of a mutex's owner word are flags (kernel/locking/mutex.c).
pub(super) const MUTEX_FLAGS: u64 = 7;

impl Guards {
    /// Finds them in a kernel.
    ///
    /// # Errors
    /// [`EngineError::NoGuard`] where the kernel patches itself and it cannot be told when: breakpoints would upset it.
    pub fn find<M: PhysicalMemory + ?Sized>(memory: &M, kernel: &Kernel) -> Result<Guards, EngineError> {
        let physical = |name: &str| {
            let va = kernel.symbols.address(name)?;
            let pa = kernel.space.translate(memory, va).ok()?;
            Some((va, pa))
        };
        // With PREEMPT_RT a mutex is another structure, whose first word says nothing, and this is no function.
        let plain_mutex = kernel.symbols.address("mutex_is_locked").is_some();
        let (_, text_mutex) = physical("text_mutex")
            .filter(|_| plain_mutex)
            .ok_or(EngineError::NoGuard("text_mutex"))?;
        let mut watched = Vec::new();
        for guard in Guard::ALL {
            let found = guard
                .functions()
                .iter()
                .find_map(|function| Some((*function, physical(function)?)));
            match found {
                Some((function, (va, pa))) => watched.push(Watched {
                    guard,
                    function,
                    va,
                    pa,
                }),
                // What a kernel cannot do needs no guard.
                None if kernel.symbols.address(guard.sign()).is_none() => {}
                None => return Err(EngineError::NoGuard(guard.sign())),
            }
        }
        Ok(Guards { text_mutex, watched })
    }
}
