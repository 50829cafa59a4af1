// SPDX-License-Identifier: GPL-3.0-only
//! The socket a flow belongs to, found as the kernel finds it: in one bucket of
//! its own table.
//!
//! Which bucket is a matter of the kernel's version and of its secrets, so it is
//! proved first: a few sockets that lie in the table must lie in the buckets
//! that the rule gives. Where none of the known rules does, or there are too few
//! sockets to prove one, the whole table is walked.

use std::cell::Cell;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::hashes::{self, Ends, PortRule, Secrets};
use super::owner::{Fit, fit};
use super::tables::Table;
use super::{Flow, Linux, LinuxError, Protocol, Socket, group};
use crate::memory::{MemoryError, PhysicalMemory};

/// Sockets that prove a rule: each must lie where it says. By chance that is
/// less than one in 256 for one, in the smallest table there is.
const LEAST_PROOFS: usize = 3;
const MOST_PROOFS: usize = 16;
/// Namespaces whose buckets are looked at when a flow's is not known.
const MAX_NAMESPACES: usize = 256;

/// What is known of the rules, by table. Rules are those of the kernel, so what
/// is proved once holds.
#[derive(Debug, Default)]
pub(super) struct Rules {
    tcp4: Cell<Option<PortRule>>,
    tcp6: Cell<Option<PortRule>>,
    listen: Cell<Option<()>>,
    udp: Cell<Option<()>>,
}

/// A network namespace, as far as lookups need it.
#[derive(Debug, Clone, Copy)]
struct Space {
    inum: u32,
    mix: u32,
}

/// Best fit so far.
type Best = Option<(Fit, Socket)>;

impl<M: PhysicalMemory> Linux<M> {
    /// The socket a flow belongs to: the connected one, or else the one that
    /// listens or, over UDP, receives there.
    pub(super) fn socket_of(&self, flow: &Flow) -> Result<Option<Socket>, LinuxError> {
        let namespaces = self.network_namespaces()?;
        let spaces = self.spaces(&namespaces, flow);
        let mut best: Best = None;
        match flow.protocol {
            Protocol::Tcp => {
                self.connected(flow, &namespaces, &spaces, &mut best)?;
                if best.is_none() {
                    self.listening(flow, &namespaces, &spaces, &mut best)?;
                }
            }
            Protocol::Udp => self.receiving(flow, &namespaces, &spaces, &mut best)?,
        }
        Ok(best.map(|(_, socket)| socket))
    }

    /// The socket that listens where a flow goes.
    pub(super) fn listener_of(&self, flow: &Flow) -> Result<Option<Socket>, LinuxError> {
        let namespaces = self.network_namespaces()?;
        let mut best: Best = None;
        self.listening(flow, &namespaces, &self.spaces(&namespaces, flow), &mut best)?;
        Ok(best.map(|(_, socket)| socket))
    }

    /// The namespaces that a flow can be in; empty where that is too many.
    fn spaces(&self, namespaces: &[u64], flow: &Flow) -> Vec<Space> {
        let Ok(mix) = group(&self.kernel.layout.net_hash_mix) else {
            return Vec::new();
        };
        let Ok(offsets) = group(&self.kernel.layout.net) else {
            return Vec::new();
        };
        let space = |net: u64| -> Result<Space, MemoryError> {
            Ok(Space {
                inum: self.u32(net.wrapping_add(offsets.inum))?,
                mix: self.u32(net.wrapping_add(mix))?,
            })
        };
        let spaces: Vec<Space> = namespaces
            .iter()
            .filter_map(|&net| space(net).ok())
            .filter(|space| flow.netns.is_none_or(|inum| inum == space.inum))
            .take(MAX_NAMESPACES + 1)
            .collect();
        match spaces.len() {
            0..=MAX_NAMESPACES => spaces,
            _ => Vec::new(),
        }
    }

    fn connected(
        &self,
        flow: &Flow,
        namespaces: &[u64],
        spaces: &[Space],
        best: &mut Best,
    ) -> Result<(), LinuxError> {
        let ends = |space: &Space, local: (IpAddr, u16), remote: (IpAddr, u16)| Ends {
            mix: space.mix,
            local,
            remote,
        };
        let six = flow.local.is_ipv6();
        let proved = if six { &self.rules.tcp6 } else { &self.rules.tcp4 };
        let secrets = self.secrets();
        let place = |rule: PortRule, space: &Space, socket: &Socket| {
            let remote = socket.remote?;
            let local = (socket.local.ip(), socket.local.port());
            hashes::connection(rule, &secrets?, &ends(space, local, (remote.ip(), remote.port())))
        };
        let wanted = |rule: PortRule, space: &Space| {
            let local = (flow.local.ip(), flow.local.port());
            let remote = (flow.remote.ip(), flow.remote.port());
            hashes::connection(rule, &secrets?, &ends(space, local, remote))
        };
        for table in self.tcp_tables(namespaces)? {
            let rule = proved.get().or_else(|| {
                let all = self.all_spaces(namespaces);
                let rule = [PortRule::Hashed, PortRule::Added].into_iter().find(|&rule| {
                    self.proves(&table, &all, &|space, socket| {
                        (socket.remote?.is_ipv6() == six).then_some(())?;
                        place(rule, space, socket)
                    })
                });
                proved.set(rule);
                rule
            });
            let numbers: Option<Vec<u32>> = rule
                .filter(|_| !spaces.is_empty())
                .and_then(|rule| spaces.iter().map(|space| wanted(rule, space)).collect());
            self.search(&table, numbers, flow, best);
        }
        Ok(())
    }

    fn listening(
        &self,
        flow: &Flow,
        namespaces: &[u64],
        spaces: &[Space],
        best: &mut Best,
    ) -> Result<(), LinuxError> {
        // An array is by port alone, and short.
        let is_table = self.kernel.layout.listen_array.is_err();
        for table in self.listen_tables(namespaces)? {
            if is_table && self.rules.listen.get().is_none() {
                let all = self.all_spaces(namespaces);
                let holds = self.proves(&table, &all, &|space, socket| {
                    Some(hashes::listener(
                        space.mix,
                        socket.local.ip(),
                        socket.local.port(),
                    ))
                });
                self.rules.listen.set(holds.then_some(()));
            }
            let known = is_table && self.rules.listen.get().is_some() && !spaces.is_empty();
            let numbers = known.then(|| {
                let addresses = [flow.local.ip(), Ipv4Addr::UNSPECIFIED.into()];
                spaces
                    .iter()
                    .flat_map(|space| {
                        addresses.map(|address| hashes::listener(space.mix, address, flow.local.port()))
                    })
                    .collect()
            });
            self.search(&table, numbers, flow, best);
        }
        Ok(())
    }

    fn receiving(
        &self,
        flow: &Flow,
        namespaces: &[u64],
        spaces: &[Space],
        best: &mut Best,
    ) -> Result<(), LinuxError> {
        for table in self.udp_tables(namespaces)? {
            if self.rules.udp.get().is_none() {
                let all = self.all_spaces(namespaces);
                let holds = self.proves(&table, &all, &|space, socket| {
                    Some(hashes::udp_port(space.mix, socket.local.port()))
                });
                self.rules.udp.set(holds.then_some(()));
            }
            let known = self.rules.udp.get().is_some() && !spaces.is_empty();
            let numbers = known.then(|| {
                spaces
                    .iter()
                    .map(|space| hashes::udp_port(space.mix, flow.local.port()))
                    .collect()
            });
            self.search(&table, numbers, flow, best);
        }
        Ok(())
    }

    /// Looks for the best fit in the buckets with these numbers, or in all.
    fn search(&self, table: &Table, numbers: Option<Vec<u32>>, flow: &Flow, best: &mut Best) {
        let mut visit = |sk: u64| {
            if let Ok(socket) = self.socket(sk)
                && let Some(fit) = fit(&socket, flow)
                && best.is_none_or(|(known, _)| fit > known)
            {
                *best = Some((fit, socket));
            }
            best.is_none_or(|(known, _)| known < Fit::Connected)
        };
        match numbers {
            Some(mut numbers) => {
                numbers.sort_unstable();
                numbers.dedup();
                for number in numbers {
                    self.each_in_bucket(table, u64::from(number), &mut visit);
                }
            }
            None => self.each_with_bucket(table, &mut |_, sk| visit(sk)),
        }
    }

    /// Whether sockets of a table lie in the buckets that a rule gives. The rule
    /// says nothing of sockets it is not for.
    fn proves(
        &self,
        table: &Table,
        spaces: &[Space],
        rule: &dyn Fn(&Space, &Socket) -> Option<u32>,
    ) -> bool {
        let (mut right, mut wrong) = (0, 0);
        self.each_with_bucket(table, &mut |bucket, sk| {
            if let Ok(socket) = self.socket(sk)
                && let Some(space) = spaces.iter().find(|space| space.inum == socket.netns)
                && let Some(number) = rule(space, &socket)
            {
                if u64::from(number) & (table.count - 1) == bucket {
                    right += 1;
                } else {
                    wrong += 1;
                }
            }
            wrong == 0 && right < MOST_PROOFS
        });
        wrong == 0 && right >= LEAST_PROOFS
    }

    fn all_spaces(&self, namespaces: &[u64]) -> Vec<Space> {
        let any = Flow {
            protocol: Protocol::Tcp,
            netns: None,
            local: (Ipv6Addr::UNSPECIFIED, 0).into(),
            remote: (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        self.spaces(namespaces, &any)
    }

    /// The secrets, where this kernel has all three in places that are known.
    fn secrets(&self) -> Option<Secrets> {
        let [ehash, ehash6, address6] = self.landmarks.hash_secrets;
        Some(Secrets {
            ehash: self.u32(ehash?).ok()?,
            ehash6: self.u32(ehash6?).ok()?,
            address6: self.u32(address6?).ok()?,
        })
    }
}
