// SPDX-License-Identifier: GPL-3.0-only
//! The back end of a vm_event ring: index arithmetic over one shared page.
//!
//! The other end is Xen. Still nothing in the page is trusted: an index that no
//! honest front end can produce is an error, never an access out of the page.

use std::{
    mem::offset_of,
    ptr::NonNull,
    sync::atomic::{AtomicU32, Ordering, fence},
};

use thiserror::Error;

use crate::{PAGE_SIZE, sys};

type Slot = sys::vm_event_sring_entry;
type Shared = sys::vm_event_sring;

/// Where the slots start within the page.
const SLOTS_AT: usize = offset_of!(Shared, ring);
/// Slots that fit the page, rounded down to a power of two as the protocol wants.
pub const SLOTS: u32 = {
    let fit = (PAGE_SIZE - SLOTS_AT) / size_of::<Slot>();
    // At most a page of slots, so the value fits.
    1 << (usize::BITS - 1 - fit.leading_zeros())
};
const _: () = assert!(SLOTS_AT + SLOTS as usize * size_of::<Slot>() <= PAGE_SIZE);

/// The shared page holds what the protocol rules out.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
#[error(
    "vm_event ring out of order: producer at {produced}, consumer at {consumed}, {SLOTS} slots; \
     detach and attach again"
)]
pub struct RingError {
    /// What the page says was put.
    pub produced: u32,
    /// What this end has taken.
    pub consumed: u32,
}

/// Number of requests that wait, or an error where the producer is further
/// ahead than the ring is long. Indices run freely over the 32-bit range.
fn waiting(produced: u32, consumed: u32) -> Result<u32, RingError> {
    let ahead = produced.wrapping_sub(consumed);
    if ahead > SLOTS {
        return Err(RingError { produced, consumed });
    }
    Ok(ahead)
}

/// Our end of the ring.
pub(super) struct BackRing {
    page: NonNull<Shared>,
    requests_taken: u32,
    responses_put: u32,
}

// SAFETY: the page is memory of the process, reached through this value alone.
unsafe impl Send for BackRing {}

impl BackRing {
    /// Starts an empty ring in `page`.
    ///
    /// # Safety
    /// `page` must be a mapped, writable page that outlives the value, and no
    /// other back end may work on it.
    pub(super) unsafe fn start(page: NonNull<u8>) -> Self {
        let ring = Self {
            page: page.cast(),
            requests_taken: 0,
            responses_put: 0,
        };
        ring.index(offset_of!(Shared, req_prod))
            .store(0, Ordering::Relaxed);
        ring.index(offset_of!(Shared, rsp_prod))
            .store(0, Ordering::Relaxed);
        ring.index(offset_of!(Shared, req_event))
            .store(1, Ordering::Relaxed);
        ring.index(offset_of!(Shared, rsp_event))
            .store(1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        ring
    }

    fn index(&self, offset: usize) -> &AtomicU32 {
        // SAFETY: `offset` is that of an aligned u32 within the live page, which
        // both ends only ever access as a whole word.
        unsafe { AtomicU32::from_ptr(self.page.as_ptr().cast::<u8>().add(offset).cast()) }
    }

    fn slot(&self, index: u32) -> *mut Slot {
        let offset = SLOTS_AT + (index % SLOTS) as usize * size_of::<Slot>();
        // SAFETY: stays within the page, as asserted beside SLOTS.
        unsafe { self.page.as_ptr().cast::<u8>().add(offset).cast() }
    }

    /// Number of requests that wait.
    pub(super) fn waiting(&self) -> Result<u32, RingError> {
        let produced = self.index(offset_of!(Shared, req_prod)).load(Ordering::Acquire);
        waiting(produced, self.requests_taken)
    }

    /// Takes the oldest request, copied out of the page.
    pub(super) fn take(&mut self) -> Result<Option<sys::vm_event_st>, RingError> {
        if self.waiting()? == 0 {
            return Ok(None);
        }
        // SAFETY: the slot lies in the page; any bytes are a valid value of this
        // type of plain integers; volatile, since the page is shared.
        let request = unsafe {
            self.slot(self.requests_taken)
                .cast::<sys::vm_event_st>()
                .read_volatile()
        };
        self.requests_taken = self.requests_taken.wrapping_add(1);
        // Asks to be notified of the next request.
        self.index(offset_of!(Shared, req_event))
            .store(self.requests_taken.wrapping_add(1), Ordering::Release);
        Ok(Some(request))
    }

    /// Puts a response where Xen will read it. The caller notifies Xen after.
    pub(super) fn put(&mut self, response: &sys::vm_event_st) {
        // SAFETY: as in `take`. The slot is free: it is that of a request that
        // was taken, or (see `Monitor::release_all`) of one never made.
        unsafe {
            self.slot(self.responses_put)
                .cast::<sys::vm_event_st>()
                .write_volatile(*response);
        }
        self.responses_put = self.responses_put.wrapping_add(1);
        self.index(offset_of!(Shared, rsp_prod))
            .store(self.responses_put, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[repr(align(4096))]
    struct Page([u8; PAGE_SIZE]);

    /// A front end over the same page, as Xen has it.
    struct Front<'a>(&'a BackRing, u32);

    impl Front<'_> {
        fn push(&mut self, vcpu: u32) {
            let event = sys::vm_event_st {
                vcpu_id: vcpu,
                ..Default::default()
            };
            // SAFETY: the test's page is live and large enough.
            unsafe { self.0.slot(self.1).cast::<sys::vm_event_st>().write(event) };
            self.1 = self.1.wrapping_add(1);
            self.0
                .index(offset_of!(Shared, req_prod))
                .store(self.1, Ordering::Release);
        }
    }

    fn ring(page: &mut Page) -> BackRing {
        // SAFETY: the page outlives the ring in each test.
        unsafe { BackRing::start(NonNull::from(&mut page.0).cast()) }
    }

    #[test]
    fn a_page_holds_eight_slots() {
        assert_eq!(SLOTS, 8);
    }

    #[test]
    fn requests_come_out_in_order_and_over_the_wrap_of_indices() {
        let mut page = Page([0; PAGE_SIZE]);
        let mut back = ring(&mut page);
        let start = u32::MAX - 3;
        back.requests_taken = start;
        back.responses_put = start;
        let mut produced = start;
        for vcpu in 0..20 {
            // A second view of the same ring plays Xen.
            let shadow = BackRing {
                page: back.page,
                requests_taken: 0,
                responses_put: 0,
            };
            let mut front = Front(&shadow, produced);
            front.push(vcpu);
            produced = front.1;
            let request = back.take().expect("in order").expect("one waits");
            assert_eq!(request.vcpu_id, vcpu);
            back.put(&request);
            assert!(back.take().expect("in order").is_none());
        }
        assert_eq!(
            back.index(offset_of!(Shared, rsp_prod)).load(Ordering::Acquire),
            start.wrapping_add(20)
        );
    }

    #[test]
    fn an_absurd_producer_index_is_an_error_and_takes_nothing() {
        let mut page = Page([0; PAGE_SIZE]);
        let mut back = ring(&mut page);
        back.index(offset_of!(Shared, req_prod))
            .store(SLOTS + 1, Ordering::Release);
        assert!(back.take().is_err());
        assert_eq!(back.requests_taken, 0);
    }

    proptest! {
        #[test]
        fn waiting_is_never_more_than_the_ring(produced: u32, consumed: u32) {
            match waiting(produced, consumed) {
                Ok(count) => prop_assert!(count <= SLOTS && consumed.wrapping_add(count) == produced),
                Err(_) => prop_assert!(produced.wrapping_sub(consumed) > SLOTS),
            }
        }

        #[test]
        fn any_bytes_in_the_page_are_survived(bytes in proptest::collection::vec(any::<u8>(), PAGE_SIZE)) {
            let mut page = Page([0; PAGE_SIZE]);
            let mut back = ring(&mut page);
            // SAFETY: the page is as large as `bytes`.
            unsafe { std::ptr::copy(bytes.as_ptr(), back.page.as_ptr().cast::<u8>(), PAGE_SIZE) };
            for _ in 0..20 {
                if let Ok(Some(request)) = back.take() {
                    back.put(&request);
                }
            }
            prop_assert!(back.requests_taken <= SLOTS);
        }
    }
}
