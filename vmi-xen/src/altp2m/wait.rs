// SPDX-License-Identifier: GPL-3.0-only
//! Waiting for events: for how long to look at the ring before sleeping, and
//! being woken from another thread.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
    sync::Arc,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::eventfd::{EfdFlags, EventFd},
};

/// Ends a wait of the engine from any thread, or from a signal handler.
#[derive(Clone)]
pub struct Waker {
    event: Arc<EventFd>,
}

impl Waker {
    pub(crate) fn new() -> io::Result<Self> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let event = EventFd::from_value_and_flags(0, flags)?;
        Ok(Self {
            event: Arc::new(event),
        })
    }

    /// Makes the present, or else the next, `Engine::poll` return at once.
    pub fn wake(&self) {
        // Fails only where the counter is full, which wakes as well.
        let _ = self.event.write(1);
    }

    /// Takes the wake-ups so far.
    fn reset(&self) {
        // Fails only where there is none to take.
        let _ = self.event.read();
    }
}

/// What ended a wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Woken {
    Event,
    Waker,
    Timeout,
}

/// Sleeps until the event channel is readable, the waker was used, or `timeout`
/// is over.
pub(crate) fn sleep(channel: BorrowedFd<'_>, waker: &Waker, timeout: Duration) -> io::Result<Woken> {
    let mut fds = [
        PollFd::new(channel, PollFlags::POLLIN),
        PollFd::new(waker.event.as_fd(), PollFlags::POLLIN),
    ];
    // Rounded up, lest a short rest be slept away in a busy loop of zeros.
    let millis = timeout.as_micros().div_ceil(1000);
    let timeout = PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX);
    match poll(&mut fds, timeout) {
        // A signal: let the caller look at its stop flag.
        Err(Errno::EINTR) => return Ok(Woken::Waker),
        Err(errno) => return Err(errno.into()),
        Ok(_) => {}
    }
    if fds[1].any().unwrap_or(true) {
        waker.reset();
        return Ok(Woken::Waker);
    }
    if fds[0].any().unwrap_or(true) {
        return Ok(Woken::Event);
    }
    Ok(Woken::Timeout)
}

/// For how long to look at the ring before sleeping.
///
/// Waking from poll(2) costs dom0 a scheduling of its vCPU, several times what
/// the answer itself takes. Looking is worth that only while events follow each
/// other closely, so the time grows when looking found one and shrinks fast when
/// it did not; a quiet guest costs nothing.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spin {
    now: Duration,
    most: Duration,
}

impl Spin {
    /// Shortest time worth looking.
    const LEAST: Duration = Duration::from_micros(2);

    /// Looks for `most` at the longest; zero means never.
    pub(crate) fn new(most: Duration) -> Self {
        Self {
            now: Duration::ZERO,
            most,
        }
    }

    /// Looks until `ready` says so, and returns whether it did.
    pub(crate) fn look(&mut self, mut ready: impl FnMut() -> bool) -> bool {
        if self.now.is_zero() {
            return false;
        }
        let end = Instant::now() + self.now;
        loop {
            if ready() {
                self.found();
                return true;
            }
            if Instant::now() >= end {
                self.missed();
                return false;
            }
            std::hint::spin_loop();
        }
    }

    /// An event came, so another may follow soon.
    pub(crate) fn found(&mut self) {
        self.now = (self.now * 2).max(Self::LEAST).min(self.most);
    }

    fn missed(&mut self) {
        self.now /= 4;
        if self.now < Self::LEAST {
            self.now = Duration::ZERO;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spinning_grows_to_its_limit_and_ends_when_nothing_comes() {
        let mut spin = Spin::new(Duration::from_micros(50));
        assert!(!spin.look(|| panic!("a quiet engine does not look")));
        for _ in 0..10 {
            spin.found();
        }
        assert_eq!(spin.now, Duration::from_micros(50));
        for _ in 0..3 {
            assert!(!spin.look(|| false));
        }
        assert_eq!(spin.now, Duration::ZERO);
    }

    #[test]
    fn spinning_can_be_switched_off() {
        let mut spin = Spin::new(Duration::ZERO);
        spin.found();
        assert_eq!(spin.now, Duration::ZERO);
    }

    #[test]
    fn a_waker_ends_a_sleep_from_another_thread() {
        let never = EventFd::new().expect("an eventfd");
        let waker = Waker::new().expect("an eventfd");
        let other = waker.clone();
        let woken = std::thread::scope(|scope| {
            scope.spawn(move || other.wake());
            sleep(never.as_fd(), &waker, Duration::from_secs(60)).expect("poll works")
        });
        assert_eq!(woken, Woken::Waker);
        let again = sleep(never.as_fd(), &waker, Duration::from_millis(1)).expect("poll works");
        assert_eq!(again, Woken::Timeout, "a wake-up counts once");
    }
}
