// SPDX-License-Identifier: GPL-3.0-only
//! Guest memory from dom0: foreign mappings, and giving a domain pages or
//! taking them back.

use std::{os::raw::c_int, ptr::NonNull};

use xenctrl_sys as xc;

use crate::{DomId, Gfn, PAGE_SIZE, Xen, XenError, sys};

/// Guest frames mapped into this process, unmapped when dropped.
///
/// The guest (or Xen) may change the content at any time; therefore bytes are
/// only ever copied in and out, and no reference to them is given.
///
/// A mapping keeps its frames allocated: one that outlives its domain keeps a
/// zombie of the domain around, so drop it when the domain dies.
pub struct ForeignPages {
    xen: Xen,
    domid: DomId,
    base: NonNull<u8>,
    /// For each page 0, or the errno for which it could not be mapped.
    errors: Box<[c_int]>,
    writable: bool,
}

// SAFETY: the mapping is owned memory of the process; no thread has a claim.
unsafe impl Send for ForeignPages {}

impl ForeignPages {
    /// Maps one frame.
    ///
    /// # Errors
    /// Where no memory backs the frame, or the domain does not exist.
    pub fn map_one(xen: &Xen, domid: DomId, gfn: Gfn, writable: bool) -> Result<Self, XenError> {
        let pages = Self::map_batch(xen, domid, &[gfn], writable)?;
        match pages.errors[0] {
            0 => Ok(pages),
            errno => Err(XenError::from_errno("xenforeignmemory_map", Some(domid), errno)),
        }
    }

    /// Maps several frames in one call. Frames that cannot be mapped do not
    /// fail the call: see [`Self::page_error`].
    ///
    /// # Errors
    /// Where nothing can be mapped at all, or `gfns` is empty.
    pub fn map_batch(xen: &Xen, domid: DomId, gfns: &[Gfn], writable: bool) -> Result<Self, XenError> {
        let prot = if writable {
            libc::PROT_READ | libc::PROT_WRITE
        } else {
            libc::PROT_READ
        };
        let mut errors = vec![0; gfns.len()].into_boxed_slice();
        let base = xen.with_foreign(|handle| {
            // SAFETY: both arrays have `gfns.len()` elements.
            unsafe {
                sys::xenforeignmemory_map(
                    handle,
                    domid,
                    prot,
                    gfns.len(),
                    gfns.as_ptr(),
                    errors.as_mut_ptr(),
                )
            }
        });
        let base = NonNull::new(base.cast::<u8>())
            .ok_or_else(|| XenError::last_os("xenforeignmemory_map", Some(domid)))?;
        // The library answers with positive or negative errnos by its version.
        errors.iter_mut().for_each(|e| *e = e.saturating_abs());
        Ok(Self {
            xen: xen.clone(),
            domid,
            base,
            errors,
            writable,
        })
    }

    /// Number of pages.
    pub fn pages(&self) -> usize {
        self.errors.len()
    }

    /// The errno for which page `index` could not be mapped, if so.
    pub fn page_error(&self, index: usize) -> Option<i32> {
        match self.errors.get(index) {
            Some(0) => None,
            Some(errno) => Some(*errno),
            None => Some(libc::ERANGE),
        }
    }

    /// Address of `len` bytes at `offset`, if all of them are mapped.
    fn checked(&self, offset: usize, len: usize) -> Result<*mut u8, XenError> {
        let fail = |errno| XenError::from_errno("guest page access", Some(self.domid), errno);
        let end = offset.checked_add(len).ok_or_else(|| fail(libc::ERANGE))?;
        if end > self.pages() * PAGE_SIZE {
            return Err(fail(libc::ERANGE));
        }
        if len > 0 {
            for index in offset / PAGE_SIZE..=(end - 1) / PAGE_SIZE {
                if let Some(errno) = self.page_error(index) {
                    return Err(fail(errno));
                }
            }
        }
        // SAFETY: `offset` lies within the mapping.
        Ok(unsafe { self.base.as_ptr().add(offset) })
    }

    /// Copies `buf.len()` bytes at byte `offset` of the mapping.
    ///
    /// # Errors
    /// Where the range leaves the mapping or touches a page that failed to map.
    pub fn read(&self, offset: usize, buf: &mut [u8]) -> Result<(), XenError> {
        let mut from = self.checked(offset, buf.len())?;
        let mut rest = buf;
        // Volatile, since another domain may write at the same time. Whole
        // words where both sides allow: this is the hot path of introspection.
        while let Some((first, tail)) = rest.split_first_mut() {
            if (from as usize).is_multiple_of(8) && tail.len() >= 7 {
                // SAFETY: `checked` covers these eight bytes; aligned as tested.
                let word = unsafe { from.cast::<u64>().read_volatile() };
                *first = word.to_ne_bytes()[0];
                let (word_rest, after) = tail.split_at_mut(7);
                word_rest.copy_from_slice(&word.to_ne_bytes()[1..]);
                rest = after;
                from = from.wrapping_add(8);
            } else {
                // SAFETY: `checked` covers this byte.
                *first = unsafe { from.read_volatile() };
                rest = tail;
                from = from.wrapping_add(1);
            }
        }
        Ok(())
    }

    /// Writes `bytes` at byte `offset` of the mapping, one byte after another:
    /// each single byte appears to the guest at once or not at all.
    ///
    /// # Errors
    /// As [`Self::read`], and EACCES where the mapping is read-only.
    pub fn write(&self, offset: usize, bytes: &[u8]) -> Result<(), XenError> {
        if !self.writable {
            return Err(XenError::from_errno(
                "guest page access",
                Some(self.domid),
                libc::EACCES,
            ));
        }
        let to = self.checked(offset, bytes.len())?;
        for (index, byte) in bytes.iter().enumerate() {
            // SAFETY: `checked` covers the range, and the mapping is writable.
            unsafe { to.add(index).write_volatile(*byte) };
        }
        Ok(())
    }
}

impl Drop for ForeignPages {
    fn drop(&mut self) {
        let (base, pages) = (self.base.as_ptr(), self.pages());
        self.xen.with_foreign(|handle| {
            // SAFETY: mapped by `map_batch` with this many pages, and unused now.
            unsafe { sys::xenforeignmemory_unmap(handle, base.cast(), pages) }
        });
    }
}

/// Tells Xen that dom0 wrote to `gfn`, so that a save or a migration under way sends the page again: writes
/// through a foreign mapping are not noticed by themselves.
///
/// # Errors
/// Where the domain does not exist.
pub fn mark_modified(xen: &Xen, domid: DomId, gfn: Gfn) -> Result<(), XenError> {
    xen.call("xendevicemodel_modified_memory", Some(domid), |handle| {
        // SAFETY: plain calls on a live handle; the second handle belongs to it. Numbers of domains are 16 bits
        // wide.
        unsafe {
            sys::xendevicemodel_modified_memory(
                xc::xc_interface_dmod_handle(handle).cast(),
                domid as u16,
                gfn,
                1,
            )
        }
    })?;
    Ok(())
}

/// The highest guest frame number that was ever in use by the domain.
///
/// # Errors
/// Where the domain does not exist.
pub fn highest_gfn(xen: &Xen, domid: DomId) -> Result<Gfn, XenError> {
    let mut gfn = 0;
    xen.call("xc_domain_maximum_gpfn", Some(domid), |handle| {
        // SAFETY: `gfn` outlives the call.
        unsafe { xc::xc_domain_maximum_gpfn(handle, domid, &mut gfn) }
    })?;
    Ok(gfn)
}

/// Whether memory backs `gfn` in the domain's own map, found out by mapping it.
///
/// # Errors
/// Where the domain does not exist.
pub fn is_populated(xen: &Xen, domid: DomId, gfn: Gfn) -> Result<bool, XenError> {
    match ForeignPages::map_one(xen, domid, gfn, false) {
        Ok(_) => Ok(true),
        Err(error) if error.is_gone() => Err(error),
        // Which errno an empty frame gives depends on dom0's kernel.
        Err(_) => Ok(false),
    }
}

/// Gives the domain one fresh page at `gfn`, which must be empty.
///
/// # Errors
/// Where the domain is at its maximum or memory is short.
pub fn populate(xen: &Xen, domid: DomId, gfn: Gfn) -> Result<(), XenError> {
    let mut frame = gfn;
    xen.call("xc_domain_populate_physmap", Some(domid), |handle| {
        // SAFETY: one extent is passed and one is announced.
        unsafe { xc::xc_domain_populate_physmap_exact(handle, domid, 1, 0, 0, &mut frame) }
    })?;
    Ok(())
}

/// Takes the page at `gfn` from the domain. Returns whether there was one.
///
/// # Errors
/// Where the domain does not exist.
pub fn release(xen: &Xen, domid: DomId, gfn: Gfn) -> Result<bool, XenError> {
    let mut frame = gfn;
    let done = xen.call("xc_domain_decrease_reservation", Some(domid), |handle| {
        // SAFETY: one extent is passed and one is announced.
        unsafe { xc::xc_domain_decrease_reservation(handle, domid, 1, 0, &mut frame) }
    })?;
    Ok(done == 1)
}
