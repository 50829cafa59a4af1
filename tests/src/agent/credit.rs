// SPDX-License-Identifier: GPL-3.0-only
//! How much of a stream may be under way: so that a slow reader holds up its own session alone, and no
//! relay between ever has to store more than [`WINDOW`] bytes a stream.

use std::sync::{Condvar, Mutex, PoisonError};

/// Unacknowledged bytes a stream may have under way.
pub const WINDOW: usize = 256 * 1024;

/// The sender's allowance of one stream.
pub struct Credit {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    left: usize,
    closed: bool,
}

impl Default for Credit {
    fn default() -> Credit {
        Credit {
            state: Mutex::new(State {
                left: WINDOW,
                closed: false,
            }),
            changed: Condvar::new(),
        }
    }
}

impl Credit {
    /// Waits until `bytes` may be sent; false once the other side is gone.
    pub fn take(&self, bytes: usize) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        while state.left < bytes && !state.closed {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.left = state.left.saturating_sub(bytes);
        !state.closed
    }

    /// The other side has taken `bytes` off.
    pub fn give(&self, bytes: usize) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.left = (state.left + bytes).min(WINDOW);
        self.changed.notify_all();
    }

    /// The other side is gone: nobody waits any longer.
    pub fn close(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).closed = true;
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn a_full_window_waits_for_an_acknowledgement() {
        let credit = Arc::new(Credit::default());
        assert!(credit.take(WINDOW));
        let waiter = std::thread::spawn({
            let credit = Arc::clone(&credit);
            move || credit.take(10)
        });
        credit.give(9);
        assert!(!waiter.is_finished());
        credit.give(1);
        assert!(waiter.join().unwrap());
    }

    #[test]
    fn closing_frees_whoever_waits() {
        let credit = Credit::default();
        assert!(credit.take(WINDOW));
        credit.close();
        assert!(!credit.take(1));
    }
}
