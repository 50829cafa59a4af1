// SPDX-License-Identifier: GPL-3.0-only
//! The kernel's own tables of sockets: what /proc/net/tcp and its like are made
//! of. They hold sockets that no process has a descriptor of, too: connections
//! nobody has accepted yet, closed ones whose end still has to be told to the
//! peer, TIME-WAIT, the kernel's own.
//!
//! Where they are: `tcp_hashinfo` and `udp_table` for the whole kernel, and from
//! 6.1 and 6.2 on a network namespace may have tables of its own. Connected TCP
//! sockets are in `ehash`; listening ones in `lhash2`, or before 5.19 in
//! `listening_hash`; all bound UDP sockets are in `hash`.

use std::collections::HashSet;

use super::{Linux, LinuxError, Socket, group};
use crate::memory::PhysicalMemory;

/// Buckets of all tables together that are looked at. The kernel makes at most
/// 512 Ki for TCP unless it is told otherwise.
const MAX_BUCKETS: u64 = 1 << 22;
/// Sockets of all tables together.
const MAX_SOCKETS: usize = 1 << 20;
/// Bytes of buckets read at a time.
const BUCKETS_A_READ: usize = 4096;
/// Buckets are no larger: a spinlock, a list and a count, or with lock
/// debugging more.
const MAX_BUCKET_LEN: u64 = 256;

/// A hash table of sockets: an array of buckets, each the head of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Table {
    /// Address of the first bucket.
    pub buckets: u64,
    /// Number of buckets.
    pub count: u64,
    /// Size of a bucket in bytes.
    pub bucket_len: u64,
    /// Where in a bucket the list starts.
    pub chain: u64,
    /// Where in a socket the link to the next lies.
    pub link: u64,
}

/// What a walk may still do.
struct Limits {
    buckets: u64,
    sockets: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            buckets: MAX_BUCKETS,
            sockets: MAX_SOCKETS,
        }
    }
}

impl<M: PhysicalMemory> Linux<M> {
    /// Every TCP and UDP socket in the kernel's tables, once each. Sockets that
    /// neither are bound nor connected are in none. On a running guest a list
    /// that changes while it is read may cost some of its sockets.
    ///
    /// # Errors
    /// If this kernel's tables are not understood.
    pub fn hashed_sockets(&self) -> Result<Vec<Socket>, LinuxError> {
        let mut limits = Limits::default();
        let mut seen = HashSet::new();
        let mut sockets = Vec::new();
        let namespaces = self.network_namespaces()?;
        let mut tables = self.tcp_tables(&namespaces)?;
        tables.extend(self.listen_tables(&namespaces)?);
        tables.extend(self.udp_tables(&namespaces)?);
        for table in tables {
            self.walk(&table, &mut limits, &mut |_, sk| {
                if seen.insert(sk)
                    && let Ok(socket) = self.socket(sk)
                {
                    sockets.push(socket);
                }
                true
            });
        }
        Ok(sockets)
    }

    /// Addresses of the `struct inet_hashinfo` in use, without repetition.
    fn hashinfos(&self, namespaces: &[u64]) -> Result<Vec<u64>, LinuxError> {
        let global = self
            .landmarks
            .tcp_hashinfo
            .ok_or(LinuxError::NoSymbol("tcp_hashinfo"))?;
        Ok(self.with_own(
            global,
            self.kernel.layout.net_tcp_tables.as_ref().ok(),
            namespaces,
        ))
    }

    /// `global` and what the namespaces have of their own.
    fn with_own(&self, global: u64, own: Option<&u64>, namespaces: &[u64]) -> Vec<u64> {
        let mut all = vec![global];
        if let Some(offset) = own {
            all.extend(
                namespaces
                    .iter()
                    .filter_map(|net| self.pointer(net.wrapping_add(*offset)).ok()?),
            );
        }
        let mut seen = HashSet::new();
        all.retain(|&address| seen.insert(address));
        all
    }

    /// Tables of connected TCP sockets.
    pub(super) fn tcp_tables(&self, namespaces: &[u64]) -> Result<Vec<Table>, LinuxError> {
        let offsets = group(&self.kernel.layout.tcp_table)?;
        let bucket_len = group(&self.kernel.layout.tcp_bucket)?;
        let table = |info: u64| -> Result<Table, LinuxError> {
            Ok(Table {
                buckets: self.u64(info.wrapping_add(offsets.buckets))?,
                count: u64::from(self.u32(info.wrapping_add(offsets.mask))?) + 1,
                bucket_len,
                chain: offsets.chain,
                link: offsets.link,
            })
        };
        let infos = self.hashinfos(namespaces)?;
        Ok(infos.into_iter().filter_map(|info| table(info).ok()).collect())
    }

    /// Tables of listening TCP sockets.
    pub(super) fn listen_tables(&self, namespaces: &[u64]) -> Result<Vec<Table>, LinuxError> {
        let layout = &self.kernel.layout;
        let bucket_len = group(&layout.listen_bucket)?;
        let link = group(&layout.tcp_table)?.link;
        let infos = self.hashinfos(namespaces)?;
        // Before 5.19 `lhash2` is there too, but links sockets by another
        // member.
        if let Ok(array) = &layout.listen_array {
            let tables = infos.into_iter().map(|info| Table {
                buckets: info.wrapping_add(array.buckets.offset),
                count: u64::from(array.buckets.count),
                bucket_len,
                chain: array.chain,
                link,
            });
            return Ok(tables.collect());
        }
        let offsets = group(&layout.listen_table)?;
        let table = |info: u64| -> Result<Table, LinuxError> {
            Ok(Table {
                buckets: self.u64(info.wrapping_add(offsets.buckets))?,
                count: u64::from(self.u32(info.wrapping_add(offsets.mask))?) + 1,
                bucket_len,
                chain: offsets.chain,
                link,
            })
        };
        Ok(infos.into_iter().filter_map(|info| table(info).ok()).collect())
    }

    /// Tables of UDP sockets, by port.
    pub(super) fn udp_tables(&self, namespaces: &[u64]) -> Result<Vec<Table>, LinuxError> {
        let layout = &self.kernel.layout;
        let offsets = group(&layout.udp_table)?;
        let bucket_len = group(&layout.udp_bucket)?;
        let global = self
            .landmarks
            .udp_table
            .ok_or(LinuxError::NoSymbol("udp_table"))?;
        let table = |at: u64| -> Result<Table, LinuxError> {
            Ok(Table {
                buckets: self.u64(at.wrapping_add(offsets.buckets))?,
                count: self.scalar(at, offsets.mask)?.saturating_add(1),
                bucket_len,
                chain: offsets.chain,
                link: offsets.link,
            })
        };
        let tables = self.with_own(global, layout.net_udp_table.as_ref().ok(), namespaces);
        Ok(tables.into_iter().filter_map(|at| table(at).ok()).collect())
    }

    /// Calls `visit` with each socket in a table and the number of its bucket,
    /// until that returns false.
    pub(super) fn each_with_bucket(&self, table: &Table, visit: &mut dyn FnMut(u64, u64) -> bool) {
        self.walk(table, &mut Limits::default(), visit);
    }

    /// Calls `visit` with each socket in the bucket of this number (before the
    /// table's mask), until that returns false.
    pub(super) fn each_in_bucket(&self, table: &Table, number: u64, visit: &mut dyn FnMut(u64) -> bool) {
        let index = number & table.count.saturating_sub(1);
        let at = table.buckets.wrapping_add(index.wrapping_mul(table.bucket_len));
        if let Ok(first) = self.u64(at.wrapping_add(table.chain)) {
            self.each_in_chain(first, table.link, MAX_SOCKETS, visit);
        }
    }

    /// Walks a table as far as the limits allow. Returns false if `visit` ended
    /// it.
    fn walk(&self, table: &Table, limits: &mut Limits, visit: &mut dyn FnMut(u64, u64) -> bool) -> bool {
        if !(8..=MAX_BUCKET_LEN).contains(&table.bucket_len) || table.chain > table.bucket_len - 8 {
            return true;
        }
        let count = table.count.min(limits.buckets);
        limits.buckets -= count;
        let a_read = BUCKETS_A_READ as u64 / table.bucket_len;
        let mut raw = [0; BUCKETS_A_READ];
        let mut index = 0;
        while index < count {
            let some = (count - index).min(a_read);
            let raw = &mut raw[..(some * table.bucket_len) as usize];
            let at = table.buckets.wrapping_add(index * table.bucket_len);
            // A table without memory behind it ends.
            if self.read(at, raw).is_err() {
                break;
            }
            for (bucket, bytes) in (index..).zip(raw.chunks_exact(table.bucket_len as usize)) {
                let start = table.chain as usize;
                let first = bytes[start..start + 8].try_into().map_or(0, u64::from_le_bytes);
                let mut goes_on = true;
                let seen = self.each_in_chain(first, table.link, limits.sockets, &mut |sk| {
                    goes_on = visit(bucket, sk);
                    goes_on
                });
                limits.sockets -= seen;
                if !goes_on {
                    return false;
                }
            }
            index += some;
        }
        true
    }

    /// Walks one list of a hash table: `struct hlist_head`, whose end is null,
    /// or `struct hlist_nulls_head`, whose end is odd. Returns how many there
    /// were, at most `limit`.
    fn each_in_chain(
        &self,
        first: u64,
        link: u64,
        limit: usize,
        visit: &mut dyn FnMut(u64) -> bool,
    ) -> usize {
        let mut here = first;
        // Brent's cycle detection: a marker that moves ahead in powers of two.
        let (mut marker, mut until_next_marker) = (0, 1usize);
        for index in 0..limit {
            if here == 0 || here & 1 != 0 || here == marker {
                return index;
            }
            if !visit(here.wrapping_sub(link)) {
                return index + 1;
            }
            if index == until_next_marker {
                marker = here;
                until_next_marker = until_next_marker.saturating_mul(2);
            }
            match self.u64(here) {
                Ok(next) => here = next,
                Err(_) => return index + 1,
            }
        }
        limit
    }
}
