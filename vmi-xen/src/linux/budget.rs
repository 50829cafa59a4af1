// SPDX-License-Identifier: GPL-3.0-only
//! How much of a guest's memory one operation may read.
//!
//! Each walk has bounds of its own, but they multiply: a guest that shares one long list among many others can make a sweep of
//! bounded loops take hours. So reads are counted where they are made, and what an operation may take is one number.

use std::cell::Cell;

use super::{Linux, LinuxError};
use crate::memory::MemoryError;

/// What an operation may take at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Reads of guest-virtual memory. Each costs a walk of the page tables more where its page was not translated before.
    pub reads: u64,
    /// Bytes in all.
    pub bytes: u64,
}

impl Budget {
    /// A trap, during which a vCPU is held. A process met for the first time takes a few hundred reads with all its parents, one
    /// met before about thirty.
    pub const TRAP: Budget = Budget {
        reads: 8 << 10,
        bytes: 512 << 10,
    };
    /// All about one process. Paths of a thousand directories fit.
    pub const PROCESS: Budget = Budget::TRAP;
    /// All sockets of one process: sixteen reads each, for as many descriptors as are looked at.
    pub const SOCKETS: Budget = Budget {
        reads: 1 << 20,
        bytes: 16 << 20,
    };
    /// All that one process has mapped: six reads each, and a path for each file.
    pub const MAPPINGS: Budget = Budget::SOCKETS;
    /// The text of one program, page by page.
    pub const MEASURE: Budget = Budget {
        reads: 2 << 20,
        bytes: 1 << 30,
    };
    /// The process behind a flow: six reads for each process and one for each 64 of its descriptors, the first time.
    pub const LOOKUP: Budget = Budget {
        reads: 1 << 20,
        bytes: 64 << 20,
    };
    /// A sweep over the whole guest: the processes of a full PID space take ten million reads. A census is
    /// three of these at most, a check of the kernel with the census in it four.
    pub const SWEEP: Budget = Budget {
        reads: 16 << 20,
        bytes: 2 << 30,
    };
    const NONE: Budget = Budget {
        reads: u64::MAX,
        bytes: u64::MAX,
    };

    fn min(self, other: Budget) -> Budget {
        Budget {
            reads: self.reads.min(other.reads),
            bytes: self.bytes.min(other.bytes),
        }
    }

    fn less(self, other: Budget) -> Budget {
        Budget {
            reads: self.reads.saturating_sub(other.reads),
            bytes: self.bytes.saturating_sub(other.bytes),
        }
    }
}

/// What is left of the budget of the operation that runs.
#[derive(Debug)]
pub(super) struct Meter {
    left: Cell<Budget>,
    /// A read was refused since the innermost operation that runs began.
    refused: Cell<bool>,
}

impl Default for Meter {
    fn default() -> Self {
        Self {
            left: Cell::new(Budget::NONE),
            refused: Cell::new(false),
        }
    }
}

impl Meter {
    /// Takes some reads of `bytes` in all.
    ///
    /// # Errors
    /// [`MemoryError::OverBudget`] where the operation has not that much left. It has nothing left then, so that it ends soon.
    pub(super) fn charge(&self, va: u64, reads: u64, bytes: u64) -> Result<(), MemoryError> {
        let left = self.left.get();
        match (left.reads.checked_sub(reads), left.bytes.checked_sub(bytes)) {
            (Some(reads), Some(bytes)) => {
                self.left.set(Budget { reads, bytes });
                Ok(())
            }
            _ => {
                self.left.set(Budget { reads: 0, bytes: 0 });
                self.refused.set(true);
                Err(MemoryError::OverBudget { va })
            }
        }
    }
}

/// Gives the outer operation back what the inner one did not use, also where that panicked.
struct Inner<'a> {
    meter: &'a Meter,
    outer: Budget,
    granted: Budget,
    outer_refused: bool,
}

impl Drop for Inner<'_> {
    fn drop(&mut self) {
        let used = self.granted.less(self.meter.left.get());
        self.meter.left.set(self.outer.less(used));
        // What is missing in a part is missing in the whole.
        self.meter
            .refused
            .set(self.meter.refused.get() || self.outer_refused);
    }
}

impl<M> Linux<M> {
    /// Runs an operation that may read as much as `budget` says, and no more than what is left of the operation it is part of.
    /// Reads beyond that fail. The flag tells whether any did, in it or in an operation that is part of it: what it gives may be
    /// less than the truth then.
    pub fn within<T>(&self, budget: Budget, operation: impl FnOnce() -> T) -> (T, bool) {
        let meter = &self.meter;
        let outer = meter.left.get();
        let granted = outer.min(budget);
        let inner = Inner {
            meter,
            outer,
            granted,
            outer_refused: meter.refused.get(),
        };
        meter.left.set(granted);
        meter.refused.set(false);
        let result = operation();
        let refused = meter.refused.get();
        drop(inner);
        (result, refused)
    }

    /// As [`Linux::within`], for what means nothing unless it is whole.
    ///
    /// # Errors
    /// That of the operation, or [`MemoryError::OverBudget`] where a read was refused.
    pub(crate) fn wholly<T>(
        &self,
        budget: Budget,
        operation: impl FnOnce() -> Result<T, LinuxError>,
    ) -> Result<T, LinuxError> {
        match self.within(budget, operation) {
            (Ok(_), true) => Err(MemoryError::OverBudget { va: 0 }.into()),
            (result, _) => result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(reads: u64, bytes: u64) -> Budget {
        Budget { reads, bytes }
    }

    /// `within` without a guest.
    fn within<T>(meter: &Meter, budget: Budget, operation: impl FnOnce() -> T) -> T {
        let outer = meter.left.get();
        let granted = outer.min(budget);
        meter.left.set(granted);
        let _inner = Inner {
            meter,
            outer,
            granted,
            outer_refused: false,
        };
        operation()
    }

    #[test]
    fn reads_and_bytes_both_end_an_operation() {
        for (most, ok) in [(budget(3, 100), 3), (budget(100, 24), 3)] {
            let meter = Meter::default();
            let done = within(&meter, most, || {
                (0..10).filter(|_| meter.charge(0, 1, 8).is_ok()).count()
            });
            assert_eq!(done, ok);
        }
    }

    #[test]
    fn an_inner_operation_takes_from_the_outer_one_only_what_it_used() {
        let meter = Meter::default();
        within(&meter, budget(10, 1000), || {
            within(&meter, budget(4, 1000), || {
                assert!(meter.charge(0, 3, 30).is_ok());
            });
            assert_eq!(meter.left.get(), budget(7, 970));
            // It cannot take more than the outer one has.
            within(&meter, budget(1000, 1000), || {
                assert!(meter.charge(0, 8, 0).is_err());
                assert!(meter.charge(0, 1, 0).is_err(), "nothing is left after a refusal");
            });
            assert_eq!(meter.left.get(), budget(0, 0));
        });
        assert_eq!(meter.left.get().reads, u64::MAX - 10);
    }

    #[test]
    fn a_panic_gives_the_budget_back() {
        let meter = Meter::default();
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            within(&meter, budget(5, 5), || panic!("in an operation"));
        }));
        assert!(panicked.is_err());
        assert_eq!(meter.left.get(), Budget::NONE);
    }
}
