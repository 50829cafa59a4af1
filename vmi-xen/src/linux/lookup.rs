// SPDX-License-Identifier: GPL-3.0-only
//! The socket a flow belongs to, found as the kernel finds it: in one bucket of
//! its own table.
//!
//! Which bucket is a matter of the kernel's version and of its secrets, so it is
//! proved first, by sockets that lie in the table. The secrets are static
//! variables that many kernels do not name; but the function that uses them
//! tells where they are, so every place in the image that its code mentions is
//! tried. Where no known rule holds, or there are too few sockets to prove one,
//! the whole table is walked.

use std::cell::Cell;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::hashes::{self, AddressRule, Ends, PortRule, Rule4, Rule6};
use super::owner::{Fit, fit, same_but_for_its_address};
use super::tables::Table;
use super::{Flow, Linux, LinuxError, Protocol, Socket, group};
use crate::memory::{MemoryError, PhysicalMemory};

/// Sockets that prove where listeners and UDP sockets lie: each must be in the
/// bucket that the rule says, which by chance one in 256 is, in the smallest
/// table there is.
const LEAST_PROOFS: usize = 3;
const MOST_PROOFS: usize = 16;
/// Connections that prove a rule and a secret. Each has its hash of 32 bits.
const SAMPLES: usize = 2;
/// Bytes of code searched for the secrets.
const CODE_LEN: usize = 768;
/// Namespaces whose buckets are looked at when a flow's is not known.
const MAX_NAMESPACES: usize = 256;

/// What is known of a rule.
#[derive(Debug, Clone, Copy, Default)]
enum Known<T> {
    /// Nothing yet: there was not enough to prove it by.
    #[default]
    Nothing,
    /// This holds.
    Proved(T),
    /// None that is known here holds.
    None,
}

impl<T> Known<T> {
    fn rule(self) -> Option<T> {
        match self {
            Self::Proved(rule) => Some(rule),
            Self::Nothing | Self::None => None,
        }
    }
}

/// What is known of the rules, by table. They are those of the kernel and its
/// secrets stay as they are, so what is proved once holds.
#[derive(Debug, Default)]
pub(super) struct Rules {
    tcp4: Cell<Known<Rule4>>,
    tcp6: Cell<Known<Rule6>>,
    listen: Cell<Known<()>>,
    udp: Cell<Known<()>>,
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

    /// The connected socket of a flow that the guest itself translates on its way out: its own address is that of a container,
    /// its port and its peer are as the flow's. (Linux keeps the port where it is free; one that is not, or that a rule says
    /// otherwise of, is not found.)
    pub(super) fn translated(&self, flow: &Flow) -> Result<Option<Socket>, LinuxError> {
        let namespaces = self.network_namespaces()?;
        let spaces = self.spaces(&namespaces, flow);
        let inside = self.addresses()?;
        let inside = inside
            .iter()
            .filter(|a| a.addr.is_ipv4() == flow.local.is_ipv4() && a.addr != flow.local.ip())
            .filter_map(|a| Some((spaces.iter().find(|space| space.inum == a.netns)?, a.addr)));
        let mut best: Best = None;
        match flow.protocol {
            Protocol::Tcp => {
                for table in self.tcp_tables(&namespaces)? {
                    let hash = |(space, address): (&Space, IpAddr)| {
                        self.connection_hash(space, (address, flow.local.port()).into(), flow.remote)
                    };
                    let numbers = inside.clone().map(hash).collect::<Option<Vec<u32>>>();
                    let numbers = numbers.filter(|_| !spaces.is_empty());
                    self.search(&table, numbers, flow, same_but_for_its_address, &mut best);
                }
            }
            Protocol::Udp => {
                for table in self.udp_tables(&namespaces)? {
                    let known = self.rules.udp.get().rule().is_some();
                    let number = |space: &Space| hashes::udp_port(space.mix, flow.local.port());
                    let numbers = spaces.iter().map(number).collect();
                    let numbers = Some(numbers).filter(|_| known && !spaces.is_empty());
                    self.search(&table, numbers, flow, same_but_for_its_address, &mut best);
                }
            }
        }
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
        for table in self.tcp_tables(namespaces)? {
            self.prove_connections(&table, namespaces, flow.local.is_ipv6());
            let hash = |space: &Space| self.connection_hash(space, flow.local, flow.remote);
            let numbers = spaces.iter().map(hash).collect::<Option<Vec<u32>>>();
            let numbers = numbers.filter(|numbers| !numbers.is_empty());
            self.search(&table, numbers, flow, fit, best);
        }
        Ok(())
    }

    /// What says in which bucket a connection lies; none where the rule for it is not known.
    fn connection_hash(&self, space: &Space, local: SocketAddr, remote: SocketAddr) -> Option<u32> {
        let ends = ends(space, local, remote);
        match self.rules.tcp4.get().rule().and_then(|rule| rule.hash(&ends)) {
            None => self.rules.tcp6.get().rule()?.hash(&ends),
            hash => hash,
        }
    }

    /// Finds the rule and the secrets for connections of a family, unless they
    /// are known.
    fn prove_connections(&self, table: &Table, namespaces: &[u64], six: bool) {
        let open = match six {
            true => matches!(self.rules.tcp6.get(), Known::Nothing),
            false => matches!(self.rules.tcp4.get(), Known::Nothing),
        };
        if !open {
            return;
        }
        let samples = self.samples(table, namespaces, six);
        if samples.len() < SAMPLES {
            return;
        }
        let ports = [PortRule::Hashed, PortRule::Added];
        if six {
            let secrets = self.words_used_by("inet6_ehashfn");
            let rules = secrets.iter().flat_map(|&secret| {
                secrets.iter().flat_map(move |&address_secret| {
                    ports.into_iter().flat_map(move |port| {
                        [AddressRule::Whole, AddressRule::Folded].map(|address| Rule6 {
                            port,
                            address,
                            secret,
                            address_secret,
                        })
                    })
                })
            });
            let holds = |rule: &Rule6| samples.iter().all(|(ends, hash)| rule.hash(ends) == Some(*hash));
            let found = rules.into_iter().find(holds);
            self.rules.tcp6.set(found.map_or(Known::None, Known::Proved));
        } else {
            let secrets = self.words_used_by("inet_ehashfn");
            let rules = secrets
                .into_iter()
                .flat_map(|secret| ports.map(|port| Rule4 { port, secret }));
            let holds = |rule: &Rule4| samples.iter().all(|(ends, hash)| rule.hash(ends) == Some(*hash));
            let found = rules.into_iter().find(holds);
            self.rules.tcp4.set(found.map_or(Known::None, Known::Proved));
        }
    }

    /// Connections of a family, each with its hash as the kernel keeps it.
    fn samples(&self, table: &Table, namespaces: &[u64], six: bool) -> Vec<(Ends, u32)> {
        let spaces = self.all_spaces(namespaces);
        let mut samples = Vec::new();
        let Ok(offsets) = group(&self.kernel.layout.sock) else {
            return samples;
        };
        self.each_with_bucket(table, &mut |_, sk| {
            if let Ok(socket) = self.socket(sk)
                && let Some(remote) = socket.remote.filter(|remote| remote.is_ipv6() == six)
                && let Some(space) = spaces.iter().find(|space| space.inum == socket.netns)
                && let Ok(hash) = self.u32(sk.wrapping_add(offsets.hash))
            {
                samples.push((ends(space, socket.local, remote), hash));
            }
            samples.len() < SAMPLES
        });
        samples
    }

    /// Words of the kernel's data that the code of a function mentions, relative
    /// to itself or by their address. What is none is among them: code is not
    /// decoded.
    fn words_used_by(&self, function: &str) -> Vec<u32> {
        let Some(start) = self.kernel.symbols.address(function) else {
            return Vec::new();
        };
        let mut code = [0; CODE_LEN];
        if self.read(start, &mut code).is_err() {
            return Vec::new();
        }
        let mut places: Vec<u64> = (start..)
            .zip(code.windows(4))
            .flat_map(|(at, raw)| {
                let displacement = raw.try_into().map_or(0, i32::from_le_bytes);
                let displacement = i64::from(displacement);
                [
                    at.wrapping_add(4).wrapping_add_signed(displacement),
                    displacement as u64,
                ]
            })
            .filter(|&place| place % 4 == 0 && self.kernel.in_image(place) && !self.kernel.is_text(place))
            .collect();
        places.sort_unstable();
        places.dedup();
        places
            .into_iter()
            .filter_map(|place| self.u32(place).ok())
            .collect()
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
        let number = |space: &Space, local: SocketAddr| hashes::listener(space.mix, local.ip(), local.port());
        for table in self.listen_tables(namespaces)? {
            if is_table {
                self.prove_buckets(&self.rules.listen, &table, namespaces, &number);
            }
            let known = is_table && self.rules.listen.get().rule().is_some();
            let any = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), flow.local.port());
            let numbers = spaces
                .iter()
                .flat_map(|space| [number(space, flow.local), number(space, any)])
                .collect();
            self.search(
                &table,
                Some(numbers).filter(|_| known && !spaces.is_empty()),
                flow,
                fit,
                best,
            );
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
        let number = |space: &Space, local: SocketAddr| hashes::udp_port(space.mix, local.port());
        for table in self.udp_tables(namespaces)? {
            self.prove_buckets(&self.rules.udp, &table, namespaces, &number);
            let known = self.rules.udp.get().rule().is_some();
            let numbers = spaces.iter().map(|space| number(space, flow.local)).collect();
            self.search(
                &table,
                Some(numbers).filter(|_| known && !spaces.is_empty()),
                flow,
                fit,
                best,
            );
        }
        Ok(())
    }

    /// Looks for the best fit in the buckets with these numbers, or in all.
    fn search(
        &self,
        table: &Table,
        numbers: Option<Vec<u32>>,
        flow: &Flow,
        fit: impl Fn(&Socket, &Flow) -> Option<Fit>,
        best: &mut Best,
    ) {
        let num = self.kernel.layout.sock.as_ref().map_or(0, |offsets| offsets.num);
        let mut visit = |sk: u64| {
            // Most sockets are told apart by their port.
            if self
                .u16(sk.wrapping_add(num))
                .is_ok_and(|port| port == flow.local.port())
                && let Ok(socket) = self.socket(sk)
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

    /// Proves by the sockets of a table that they lie in the buckets that a rule
    /// gives, unless that is known.
    fn prove_buckets(
        &self,
        known: &Cell<Known<()>>,
        table: &Table,
        namespaces: &[u64],
        number: &dyn Fn(&Space, SocketAddr) -> u32,
    ) {
        if !matches!(known.get(), Known::Nothing) {
            return;
        }
        let spaces = self.all_spaces(namespaces);
        let (mut right, mut wrong) = (0, 0);
        self.each_with_bucket(table, &mut |bucket, sk| {
            if let Ok(socket) = self.socket(sk)
                && let Some(space) = spaces.iter().find(|space| space.inum == socket.netns)
            {
                if u64::from(number(space, socket.local)) & (table.count - 1) == bucket {
                    right += 1;
                } else {
                    wrong += 1;
                }
            }
            wrong == 0 && right < MOST_PROOFS
        });
        if wrong > 0 {
            known.set(Known::None);
        } else if right >= LEAST_PROOFS {
            known.set(Known::Proved(()));
        }
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
}

fn ends(space: &Space, local: SocketAddr, remote: SocketAddr) -> Ends {
    let part = |address: SocketAddr| -> (IpAddr, u16) { (address.ip(), address.port()) };
    Ends {
        mix: space.mix,
        local: part(local),
        remote: part(remote),
    }
}
