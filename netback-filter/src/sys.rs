// SPDX-License-Identifier: GPL-3.0-only
//! bpf(2) on maps through a shared reference, for what the loader library offers only through an exclusive one or not
//! at all: writes from the trap path, and reading a table in batches while it changes.

use std::ffi::CString;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use aya::Pod;

const BPF_MAP_LOOKUP_ELEM: i32 = 1;
const BPF_MAP_UPDATE_ELEM: i32 = 2;
const BPF_MAP_DELETE_ELEM: i32 = 3;
const BPF_MAP_GET_NEXT_KEY: i32 = 4;
const BPF_OBJ_GET: i32 = 7;
const BPF_MAP_LOOKUP_BATCH: i32 = 24;
const BPF_LINK_DETACH: i32 = 34;

/// Entries asked for at once. More than any bucket holds: a hash map hands out whole buckets.
const BATCH: usize = 512;
/// Entries of a table that is read one by one: more than one holds that is not changed meanwhile.
const WALK: usize = 4 << 20;

/// The part of `union bpf_attr` for single elements.
#[repr(C)]
struct ElementAttr {
    map_fd: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// The part of `union bpf_attr` for batches.
#[repr(C)]
struct BatchAttr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// A hash map of `K` to `V`. Clones are the same map; every call is one system call and none takes a lock in this
/// process.
pub(crate) struct Table<K, V> {
    fd: Arc<OwnedFd>,
    types: PhantomData<fn() -> (K, V)>,
}

impl<K, V> Clone for Table<K, V> {
    fn clone(&self) -> Self {
        Self {
            fd: Arc::clone(&self.fd),
            types: PhantomData,
        }
    }
}

impl<K: Pod, V: Pod> Table<K, V> {
    /// # Errors
    /// When the map's own sizes are not those of `K` and `V`.
    pub(crate) fn new(map: &aya::maps::MapData) -> io::Result<Self> {
        let info = map.info().map_err(io::Error::other)?;
        if info.key_size() as usize != size_of::<K>() || info.value_size() as usize != size_of::<V>() {
            return Err(io::Error::other("key or value of another size"));
        }
        Ok(Self {
            fd: Arc::new(map.fd().as_fd().try_clone_to_owned()?),
            types: PhantomData,
        })
    }

    fn element(&self, command: i32, key: &K, value: *mut V) -> io::Result<()> {
        let mut attr = ElementAttr {
            map_fd: self.fd.as_raw_fd() as u32,
            pad: 0,
            key: std::ptr::from_ref(key) as u64,
            value: value as u64,
            flags: 0,
        };
        let (attr, size) = (&raw mut attr, size_of::<ElementAttr>());
        // SAFETY: `attr` lives through the call and has the size given. `new` compared the map's sizes with K and
        // V, so the kernel reads and writes no more than `key` and `value` are; where `value` is null, the command
        // does not use it.
        let result = unsafe { libc::syscall(libc::SYS_bpf, command, attr, size) };
        if result < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    }

    pub(crate) fn get(&self, key: &K) -> io::Result<Option<V>> {
        let mut value = std::mem::MaybeUninit::<V>::zeroed();
        absent(
            self.element(BPF_MAP_LOOKUP_ELEM, key, value.as_mut_ptr())
                .map(|()| {
                    // SAFETY: zeroed, then written by the kernel; any bytes are a V (Pod).
                    unsafe { value.assume_init() }
                }),
        )
    }

    pub(crate) fn set(&self, key: &K, value: &V) -> io::Result<()> {
        // The kernel only reads the value of an update.
        self.element(BPF_MAP_UPDATE_ELEM, key, std::ptr::from_ref(value).cast_mut())
    }

    /// Whether there was such an entry.
    pub(crate) fn remove(&self, key: &K) -> io::Result<bool> {
        Ok(absent(self.element(BPF_MAP_DELETE_ELEM, key, std::ptr::null_mut()))?.is_some())
    }

    /// Reads on from `position`. Entries that come or go meanwhile may be in or not; no other is missed, and none
    /// comes twice unless it was written anew.
    pub(crate) fn batch(&self, position: &mut Position, into: &mut Vec<(K, V)>) -> io::Result<()> {
        let mut keys = Vec::<K>::with_capacity(BATCH);
        let mut values = Vec::<V>::with_capacity(BATCH);
        let mut next = 0_u32;
        let mut attr = BatchAttr {
            in_batch: position
                .token
                .as_ref()
                .map_or(0, |token| std::ptr::from_ref(token) as u64),
            out_batch: &raw mut next as u64,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count: BATCH as u32,
            map_fd: self.fd.as_raw_fd() as u32,
            elem_flags: 0,
            flags: 0,
        };
        // SAFETY: every pointer is to memory that lives through the call: the tokens are a u32 each, which is what
        // hash maps use, and the buffers hold BATCH elements of the sizes compared in `new`.
        let result = unsafe {
            libc::syscall(
                libc::SYS_bpf,
                BPF_MAP_LOOKUP_BATCH,
                &raw mut attr,
                size_of::<BatchAttr>(),
            )
        };
        if result < 0 {
            let error = io::Error::last_os_error();
            match error.raw_os_error() {
                // The last batch comes with this; its count holds.
                Some(libc::ENOENT) => position.done = true,
                // Before Linux 5.6 there are no batches.
                Some(libc::EINVAL) if position.token.is_none() => {
                    position.done = true;
                    return self.walk(into);
                }
                _ => return Err(error),
            }
        }
        position.token = Some(next);
        let count = (attr.count as usize).min(BATCH);
        // SAFETY: the kernel filled `count` elements of both, and any bytes are a K and a V (Pod).
        unsafe {
            keys.set_len(count);
            values.set_len(count);
        }
        into.extend(keys.into_iter().zip(values));
        Ok(())
    }
}

impl<K: Pod, V: Pod> Table<K, V> {
    /// Reads all, entry by entry. Where an entry goes meanwhile the kernel begins anew, so that some may come twice; there
    /// is an end to that.
    fn walk(&self, into: &mut Vec<(K, V)>) -> io::Result<()> {
        let mut key: Option<K> = None;
        for _ in 0..WALK {
            let mut next = std::mem::MaybeUninit::<K>::zeroed();
            let mut attr = ElementAttr {
                map_fd: self.fd.as_raw_fd() as u32,
                pad: 0,
                key: key.as_ref().map_or(0, |key| std::ptr::from_ref(key) as u64),
                value: next.as_mut_ptr() as u64,
                flags: 0,
            };
            // SAFETY: `attr` lives through the call and has the size given; `new` compared the size of the map's keys with
            // K, of which the kernel reads one, or none where the pointer is null, and writes one.
            let result = unsafe {
                libc::syscall(
                    libc::SYS_bpf,
                    BPF_MAP_GET_NEXT_KEY,
                    &raw mut attr,
                    size_of::<ElementAttr>(),
                )
            };
            if result < 0 {
                let error = io::Error::last_os_error();
                return match error.raw_os_error() {
                    Some(libc::ENOENT) => Ok(()),
                    _ => Err(error),
                };
            }
            // SAFETY: zeroed, then written by the kernel; any bytes are a K (Pod).
            let found = unsafe { next.assume_init() };
            if let Some(value) = self.get(&found)? {
                into.push((found, value));
            }
            key = Some(found);
        }
        Ok(())
    }
}

/// Where [`Table::batch`] goes on.
#[derive(Default)]
pub(crate) struct Position {
    token: Option<u32>,
    /// There is no more.
    pub done: bool,
}

fn absent<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Takes the link of a pin off at once: one whose pin is removed ends only some time later. The pin is then of nothing.
pub(crate) fn detach_pinned_link(pin: &Path) -> io::Result<()> {
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let get = [path.as_ptr() as u64, 0];
    // SAFETY: the part of `union bpf_attr` for this command is a pointer to a path and two u32; it and the path, which
    // ends with 0, live through the call, and the kernel only reads them.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, BPF_OBJ_GET, &raw const get, size_of_val(&get)) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just opened it for us.
    let link = unsafe { OwnedFd::from_raw_fd(fd as i32) };
    let attr = link.as_raw_fd() as u32;
    // SAFETY: the part of `union bpf_attr` for this command is one u32, which the kernel only reads.
    let result = unsafe { libc::syscall(libc::SYS_bpf, BPF_LINK_DETACH, &raw const attr, size_of::<u32>()) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Waits until every packet that was being decided at the time of the call is done (an RCU grace period).
pub(crate) fn wait_for_packets() {
    const MEMBARRIER_CMD_GLOBAL: i32 = 1;
    // SAFETY: the call takes two plain integers and touches no memory of ours.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) };
    if result < 0 {
        // Refused on kernels with nohz_full CPUs. A packet is decided within microseconds.
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

/// CLOCK_MONOTONIC, which is what the programs stamp with.
pub(crate) fn monotonic_ns() -> u64 {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)
        .map(|now| now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64)
        // The clock cannot fail on Linux; 0 would only let a grace time end early.
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    const BPF_MAP_CREATE: i32 = 0;
    const BPF_MAP_TYPE_HASH: u32 = 1;

    fn table(entries: u32) -> Table<u32, u64> {
        let attr = [BPF_MAP_TYPE_HASH, 4, 8, entries, 0];
        // SAFETY: the part of `union bpf_attr` for this command begins with five u32, which the kernel only reads.
        let fd = unsafe { libc::syscall(libc::SYS_bpf, BPF_MAP_CREATE, &raw const attr, size_of_val(&attr)) };
        assert!(fd >= 0, "{}: these tests need root", io::Error::last_os_error());
        Table {
            // SAFETY: the kernel has just opened it for us.
            fd: Arc::new(unsafe { OwnedFd::from_raw_fd(fd as i32) }),
            types: PhantomData,
        }
    }

    #[test]
    fn entry_by_entry_is_what_batches_give() {
        let table = table(2000);
        let entries: BTreeSet<(u32, u64)> = (0..1500).map(|i| (i, u64::from(i) * 3)).collect();
        for (key, value) in &entries {
            table.set(key, value).unwrap();
        }
        let (mut walked, mut batched) = (Vec::new(), Vec::new());
        table.walk(&mut walked).unwrap();
        let mut position = Position::default();
        while !position.done {
            table.batch(&mut position, &mut batched).unwrap();
        }
        assert_eq!((walked.len(), batched.len()), (entries.len(), entries.len()));
        assert_eq!(walked.into_iter().collect::<BTreeSet<_>>(), entries);
        assert_eq!(batched.into_iter().collect::<BTreeSet<_>>(), entries);
    }

    #[test]
    fn an_empty_table_is_walked_at_once() {
        let mut walked = Vec::new();
        table(10).walk(&mut walked).unwrap();
        assert!(walked.is_empty());
    }
}
