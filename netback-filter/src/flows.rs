// SPDX-License-Identifier: GPL-3.0-only
//! Verdicts on single flows, and what became of the flows.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::error::Error;
use crate::layout::{RawChoice, RawEndpoint, RawFlowKey, RawFlowValue, SCOPES, SEEN_FIN, SEEN_RST, SEEN_SYN};
use crate::serve::Target;
use crate::sys::{Position, Table, monotonic_ns};
use crate::types::{DecidedBy, FlowKey, Verdict};

pub(crate) type FlowTable = Table<RawFlowKey, RawFlowValue>;

/// All by flow: `verdicts` is written here and only counted in by the programs, `flows` is theirs but for
/// [`FlowWriter::settle`]; `choices` is written here and taken by them, `redirects` and `returns` are theirs.
#[derive(Clone)]
pub(crate) struct FlowTables {
    pub verdicts: FlowTable,
    pub flows: FlowTable,
    pub choices: Table<RawFlowKey, RawChoice>,
    pub redirects: Table<RawFlowKey, RawEndpoint>,
    pub returns: Table<RawFlowKey, RawEndpoint>,
    pub with_verdicts: ScopesWithVerdicts,
}

/// The scopes whose packets look for verdicts. Those that share a cell do so together, and none ceases to.
#[derive(Clone)]
pub(crate) struct ScopesWithVerdicts {
    table: Table<u32, u32>,
    /// The cells that this process has written.
    written: Arc<[AtomicBool]>,
}

impl ScopesWithVerdicts {
    pub(crate) fn new(table: Table<u32, u32>) -> Self {
        Self {
            table,
            written: (0..SCOPES).map(|_| AtomicBool::new(false)).collect(),
        }
    }

    /// To be done before a verdict is written: no packet that comes after that may miss it. One system call, a scope's first time.
    fn add(&self, scope: u32) -> io::Result<()> {
        let cell = scope % SCOPES;
        let written = &self.written[cell as usize];
        if !written.load(Ordering::Acquire) {
            self.table.set(&cell, &1)?;
            written.store(true, Ordering::Release);
        }
        Ok(())
    }
}

impl FlowTables {
    /// Lets go of a flow's backend: what else the flow sends goes where it is addressed.
    pub(crate) fn forget_backend(&self, key: &FlowKey) -> io::Result<()> {
        let raw = key.raw();
        if let Some(backend) = self.redirects.get(&raw)? {
            let back = RawFlowKey {
                remote: backend.address,
                remote_port: backend.port,
                ..raw
            };
            self.returns.remove(&back)?;
            self.redirects.remove(&raw)?;
        }
        Ok(())
    }
}

/// Writes verdicts on single flows, from any thread. What it wrote is in force for the next packet.
#[derive(Clone)]
pub struct FlowWriter {
    tables: FlowTables,
}

impl FlowWriter {
    pub(crate) fn new(tables: FlowTables) -> Self {
        Self { tables }
    }

    /// The verdict on a flow that is about to begin: whatever was counted under the same key starts from 0.
    ///
    /// One system call of some microseconds, two for the first verdict of a scope; no lock, no allocation. The entry is exchanged
    /// as a whole, so a packet sees the old verdict or the new one. A packet that is being counted into the old entry meanwhile is
    /// lost to the counts, or lands in the flow that gets the freed entry next: the counts of that flow are then one packet off.
    ///
    /// # Errors
    /// What the kernel says; the flow is then decided by the rules.
    pub fn set(&self, key: &FlowKey, verdict: Verdict) -> io::Result<()> {
        let mut value = RawFlowValue::default();
        verdict.write(&mut value, DecidedBy::Userspace);
        self.tables.with_verdicts.add(key.scope)?;
        self.tables.verdicts.set(&key.raw_in_any_vlan(), &value)
    }

    /// Another verdict on a flow that is under way, decided here or by the rules: its counts and its TCP state go
    /// on. Two system calls; packets between them are lost to the counts.
    ///
    /// # Errors
    /// What the kernel says; the earlier verdict then stands.
    pub fn revise(&self, key: &FlowKey, verdict: Verdict) -> io::Result<()> {
        let any = key.raw_in_any_vlan();
        let mut value = self.value(key)?.unwrap_or_default();
        verdict.write(&mut value, DecidedBy::Userspace);
        value.told = 0;
        self.tables.with_verdicts.add(key.scope)?;
        self.tables.verdicts.set(&any, &value)
    }

    /// The verdict on a flow that began under the rules, now that it is known whose it is; its counts and its TCP state go
    /// on. It ends with the flow: a connection that opens anew between the same ends, and a datagram after three idle minutes,
    /// meet the rules again, and so does the flow itself once another rule set is published. Two system calls; packets
    /// between them are lost to the counts.
    ///
    /// # Errors
    /// What the kernel says; the rules then go on to decide.
    pub fn settle(&self, key: &FlowKey, verdict: Verdict) -> io::Result<()> {
        let raw = key.raw();
        let now = monotonic_ns();
        let mut value = self.tables.flows.get(&raw)?.unwrap_or_default();
        verdict.write(&mut value, DecidedBy::Lookup);
        value.told = 0;
        // A flow that was refused so far has no entry: it begins now.
        if value.last_ns == 0 {
            value.last_ns = now;
        }
        self.tables.flows.set(&raw, &value)
    }

    /// Sends a TCP or UDP flow that the guest is about to open to `target`, whatever its service says and be it for a
    /// service or not; rules and verdicts go on to see the flow as it is addressed. It holds for the one flow that begins
    /// within 10 seconds: a connection, or a datagram after three idle minutes. What is under way stays where it is.
    ///
    /// One system call, of the kind of [`FlowWriter::set`]; to be done before the flow's verdict is written.
    ///
    /// # Errors
    /// `InvalidInput` where flow and target are not of one family, are without ports, or the MAC address is no station's;
    /// else what the kernel says. The flow then goes where it would.
    pub fn redirect(&self, key: &FlowKey, target: &Target) -> io::Result<()> {
        target.check(key)?;
        let choice = RawChoice {
            ns: monotonic_ns(),
            backend: RawEndpoint::new(target.end, target.mac),
        };
        self.tables.choices.set(&key.raw(), &choice)
    }

    /// Takes [`FlowWriter::redirect`] back, if no flow has begun by it: the next one goes where it would. One system call.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn forget_choice(&self, key: &FlowKey) -> io::Result<()> {
        self.tables.choices.remove(&key.raw()).map(drop)
    }

    /// Where a flow goes in place of the remote end of its key; `None` for one that goes there, or has not begun. One system call.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn backend(&self, key: &FlowKey) -> io::Result<Option<SocketAddr>> {
        let redirect = self.tables.redirects.get(&key.raw())?;
        Ok(redirect.and_then(|backend| backend.end()))
    }

    /// What the programs have of a flow.
    pub(crate) fn value(&self, key: &FlowKey) -> io::Result<Option<RawFlowValue>> {
        match self.tables.verdicts.get(&key.raw_in_any_vlan())? {
            Some(value) => Ok(Some(value)),
            None => self.tables.flows.get(&key.raw()),
        }
    }

    /// A flow that packets were seen of. Some system calls.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn record(&self, key: &FlowKey) -> io::Result<Option<FlowRecord>> {
        let raw = key.raw();
        let seen = |value: &RawFlowValue| value.first_ns != 0;
        let value = match self.value(key)?.filter(seen) {
            Some(value) => Some(value),
            // A verdict that came when rules had decided it already.
            None => self.tables.flows.get(&raw)?.filter(seen),
        };
        let Some(value) = value else { return Ok(None) };
        Ok(Some(FlowRecord::from_raw(&raw, &value, self.backend(key)?)))
    }

    /// Forgets the flow, and where it was to be redirected to: its next packet is decided by the rules. A connection under way
    /// keeps its backend. Returns whether there was a verdict or an entry of it.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn remove(&self, key: &FlowKey) -> io::Result<bool> {
        let raw = key.raw();
        self.tables.choices.remove(&raw)?;
        let verdict = self.tables.verdicts.remove(&key.raw_in_any_vlan())?;
        Ok(self.tables.flows.remove(&raw)? || verdict)
    }
}

/// One flow as the datapath has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowRecord {
    /// Which.
    pub key: FlowKey,
    /// What was decided.
    pub verdict: Verdict,
    /// By whom.
    pub decided_by: DecidedBy,
    /// Where it goes in place of the remote end of its key.
    pub backend: Option<SocketAddr>,
    /// Packets from and to the guest: of the wire, so many for one that is segmented later.
    pub packets: [u64; 2],
    /// Bytes from and to the guest, Ethernet headers included.
    pub bytes: [u64; 2],
    /// When its first packet was seen, CLOCK_MONOTONIC in nanoseconds; 0: none yet.
    pub first_ns: u64,
    /// When its last packet was seen, or up to a tick of the kernel (1 to 10 ms) before; never before `first_ns`.
    pub last_ns: u64,
    /// Both ends sent TCP's SYN: the connection came about.
    pub established: bool,
    /// Both ends sent TCP's FIN, or one its RST. Until then, or for other protocols, false.
    pub ended: bool,
    /// TCP: from its SYN to the SYN-ACK, both as they passed the vif.
    pub setup: Option<Duration>,
    /// TCP: from the first data of who opened it to the first of the other; from the SYN, where the other speaks first. None of a
    /// connection whose handshake was not seen.
    pub first_byte: Option<Duration>,
    /// TCP: smoothed time between data from and to the guest, and their ACKs, as they passed the vif. So the first is the way to
    /// the peer and back, the second the way into the guest and back.
    pub rtt: [Option<Duration>; 2],
    /// TCP: segments from and to the guest that had passed before.
    pub retransmissions: [u32; 2],
    /// TCP: segments from and to the guest whose sender said that it takes no more data.
    pub zero_windows: [u32; 2],
}

impl FlowRecord {
    pub(crate) fn from_raw(key: &RawFlowKey, value: &RawFlowValue, backend: Option<SocketAddr>) -> Self {
        let [from, to] = value.seen;
        Self {
            key: FlowKey::from_raw(key),
            verdict: Verdict::from_raw(value),
            decided_by: DecidedBy::from_raw(value.decided_by),
            backend,
            packets: value.packets,
            bytes: value.bytes,
            first_ns: value.first_ns,
            last_ns: value.last_ns,
            established: from & to & SEEN_SYN != 0,
            ended: (from | to) & SEEN_RST != 0 || from & to & SEEN_FIN != 0,
            setup: measured(value.setup_us),
            first_byte: measured(value.first_byte_us),
            rtt: value.rtt_us.map(measured),
            retransmissions: value.retransmissions,
            zero_windows: value.zero_windows,
        }
    }
}

/// 0 stands for nothing.
fn measured(micros: u32) -> Option<Duration> {
    (micros != 0).then(|| Duration::from_micros(micros.into()))
}

/// Iterates over the flows, verdicts of userspace first. Flows that come or go meanwhile may be in or not.
///
/// A flow that the rules decided before userspace did comes twice; the record of [`DecidedBy::Userspace`] is the one
/// in force.
pub struct Flows {
    tables: VecDeque<(FlowTable, Position)>,
    redirects: Table<RawFlowKey, RawEndpoint>,
    batch: Vec<(RawFlowKey, RawFlowValue)>,
    scope: Option<u32>,
}

impl Flows {
    pub(crate) fn new(flow_tables: &FlowTables, scope: Option<u32>) -> Self {
        let tables = [&flow_tables.verdicts, &flow_tables.flows].map(|t| (t.clone(), Position::default()));
        Self {
            tables: tables.into(),
            redirects: flow_tables.redirects.clone(),
            batch: Vec::new(),
            scope,
        }
    }
}

impl Flows {
    /// One system call, but for flows that go where they are addressed.
    fn backend(&self, key: &RawFlowKey, value: &RawFlowValue) -> Result<Option<SocketAddr>, Error> {
        if value.plain != 0 {
            return Ok(None);
        }
        let redirect = self.redirects.get(key).map_err(|source| Error::Map {
            map: "redirects",
            source: source.into(),
        })?;
        Ok(redirect.and_then(|backend| backend.end()))
    }
}

impl Iterator for Flows {
    type Item = Result<FlowRecord, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            while let Some((key, value)) = self.batch.pop() {
                if self.scope.is_some_and(|scope| scope != key.scope) {
                    continue;
                }
                let backend = self.backend(&key, &value);
                return Some(backend.map(|backend| FlowRecord::from_raw(&key, &value, backend)));
            }
            let (table, position) = self.tables.front_mut()?;
            if position.done {
                self.tables.pop_front();
                continue;
            }
            if let Err(source) = table.batch(position, &mut self.batch) {
                self.tables.clear();
                return Some(Err(Error::Map {
                    map: "flows",
                    source: source.into(),
                }));
            }
        }
    }
}
