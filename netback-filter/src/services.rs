// SPDX-License-Identifier: GPL-3.0-only
//! Services: addresses without a host, whose flows go to backends, and how they are laid out in the tables. Pure.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::{IpAddr, SocketAddr};

use crate::layout::{
    BACKENDS, NO_BACKEND, PORT_ANY, PROTO_ANY, RawDead, RawEndpoint, RawService, RawServiceKey, RawSpread,
    SERVICES, SPREAD_CELLS, be16, raw_address, socket_address,
};
use crate::spread::{self, Seat};
use crate::types::{Protocol, Refuse};

/// What an address and port stand for. A guest that opens a flow there is served by one of the backends, and sees nothing
/// but the service; rules and verdicts are about the service, too. A guest cannot be its own backend: what it sends does
/// not come back to it.
///
/// Guests on the service's own subnet are told a MAC address that stands for all services (02:78:6d:65:73:68), and its
/// address answers echo requests that the rules let through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// The address that guests know.
    pub address: IpAddr,
    /// Not 0.
    pub port: u16,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// In any order. Without one that serves, flows are refused.
    pub backends: Vec<Backend>,
    /// All flows from one address go to one backend, as long as the backends stay the same.
    pub affinity: bool,
    /// How flows are refused that no backend is there for.
    pub refuse: Refuse,
}

/// Where a service's flows go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Of the service's family.
    pub address: IpAddr,
    /// Not 0.
    pub port: u16,
    /// Where it is on the guests' own bridge, its MAC address. `None`: the frame goes where the guest sent it, to its
    /// gateway; nowhere if the service's address is on the guest's own subnet, and is then counted
    /// ([`crate::Counters::unrouted`]).
    pub mac: Option<[u8; 6]>,
    /// Its share of new flows is this by the sum of all that serve. 0: none.
    pub weight: u16,
    /// Whether it takes flows.
    pub state: BackendState,
}

/// What a backend does for its flows. One that is left out of the list drains, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BackendState {
    /// New flows go there.
    Serving,
    /// Flows that are there stay until they end; new ones go elsewhere.
    Draining,
    /// Flows that are there end with their next packet: of TCP by a RST, of UDP by going elsewhere.
    Dead,
}

/// Why services cannot be published.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ServiceError {
    /// The protocol has no ports.
    #[error("service {service}: {protocol} cannot be redirected, only TCP and UDP")]
    Protocol {
        /// The service.
        service: SocketAddr,
        /// Its protocol.
        protocol: Protocol,
    },
    /// A port of 0.
    #[error("service {service}: port 0 is none; give the port of the service and of each backend")]
    NoPort {
        /// The service.
        service: SocketAddr,
    },
    /// An address that is no host's.
    #[error("service {service}: {address} is not the address of one host")]
    Address {
        /// The service.
        service: SocketAddr,
        /// The address.
        address: IpAddr,
    },
    /// IPv4 for IPv6, or the reverse.
    #[error("service {service}: backend {backend} is of another address family")]
    Family {
        /// The service.
        service: SocketAddr,
        /// The backend.
        backend: SocketAddr,
    },
    /// A MAC address that is no station's.
    #[error("service {service}: the MAC address of backend {backend} is that of a group, or of none")]
    Mac {
        /// The service.
        service: SocketAddr,
        /// The backend.
        backend: SocketAddr,
    },
    /// The same service twice.
    #[error("service {service} over {protocol} is there twice: put their backends into one")]
    Twice {
        /// The service.
        service: SocketAddr,
        /// Its protocol.
        protocol: Protocol,
    },
    /// The same backend twice.
    #[error("service {service}: backend {backend} is there twice: add up its weights")]
    BackendTwice {
        /// The service.
        service: SocketAddr,
        /// The backend.
        backend: SocketAddr,
    },
    /// A backend is dead for one service only.
    #[error(
        "backend {backend} over {protocol} is dead in one service and alive in another: say the same of it in both"
    )]
    DeadAndAlive {
        /// The backend.
        backend: SocketAddr,
        /// The protocol.
        protocol: Protocol,
    },
    /// More services than there is room for.
    #[error("{count} services: {SERVICES} are the most")]
    TooManyServices {
        /// How many.
        count: usize,
    },
    /// More backends than there is room for.
    #[error("{count} backends of all services: {BACKENDS} are the most")]
    TooManyBackends {
        /// How many.
        count: usize,
    },
}

/// Services as the tables of one slot take them. `spreads` and `backends` are arrays: each stands for the cells from the
/// slot's first on.
#[derive(Debug, Default)]
pub(crate) struct ServiceTables {
    pub services: BTreeMap<RawServiceKey, RawService>,
    pub spreads: Vec<RawSpread>,
    pub backends: Vec<RawEndpoint>,
    pub dead: BTreeSet<RawDead>,
}

impl ServiceTables {
    pub(crate) fn new(services: &[Service], slot: u32) -> Result<Self, ServiceError> {
        let backends = services.iter().map(|service| service.backends.len()).sum();
        if services.len() > SERVICES as usize {
            return Err(ServiceError::TooManyServices {
                count: services.len(),
            });
        }
        if backends > BACKENDS as usize {
            return Err(ServiceError::TooManyBackends { count: backends });
        }
        let mut tables = Self::default();
        let mut alive = BTreeSet::new();
        for service in services {
            service.check()?;
            tables.add(service, slot)?;
            for backend in &service.backends {
                let end = backend.dead_key(service.protocol);
                match backend.state {
                    BackendState::Dead => tables.dead.insert(end),
                    _ => alive.insert(end),
                };
            }
        }
        match tables.dead.intersection(&alive).next() {
            Some(end) => Err(ServiceError::DeadAndAlive {
                backend: socket_address(end.address, end.port),
                protocol: Protocol(end.proto),
            }),
            None => Ok(tables),
        }
    }

    fn add(&mut self, service: &Service, slot: u32) -> Result<(), ServiceError> {
        let first = self.backends.len();
        let seats: Vec<Seat> = service.backends.iter().map(Backend::seat).collect();
        let mut cells = [NO_BACKEND; SPREAD_CELLS];
        for (cell, place) in cells.iter_mut().zip(spread::fill(&seats)) {
            if place != NO_BACKEND {
                *cell = first as u16 + place;
            }
        }
        let spread = slot * SERVICES + self.spreads.len() as u32;
        self.spreads.push(RawSpread { cells });
        self.backends
            .extend(service.backends.iter().map(Backend::endpoint));
        let address = RawServiceKey {
            slot,
            proto: PROTO_ANY,
            port: PORT_ANY,
            address: raw_address(service.address),
            ..RawServiceKey::default()
        };
        let key = RawServiceKey {
            proto: service.protocol.0,
            port: be16(service.port),
            ..address
        };
        self.services.insert(address, RawService::default());
        let value = RawService {
            spread,
            affinity: service.affinity.into(),
            // Nothing is to be found out that would give it a backend.
            refuse: match service.refuse {
                Refuse::Drop | Refuse::Hold => Refuse::Drop,
                other => other,
            }
            .raw(),
            ..RawService::default()
        };
        match self.services.insert(key, value) {
            None => Ok(()),
            Some(_) => Err(ServiceError::Twice {
                service: service.end(),
                protocol: service.protocol,
            }),
        }
    }
}

impl Service {
    fn end(&self) -> SocketAddr {
        SocketAddr::new(self.address, self.port)
    }

    fn check(&self) -> Result<(), ServiceError> {
        let service = self.end();
        if !matches!(self.protocol, Protocol::TCP | Protocol::UDP) {
            return Err(ServiceError::Protocol {
                service,
                protocol: self.protocol,
            });
        }
        let mut seen = HashSet::new();
        for backend in &self.backends {
            let end = SocketAddr::new(backend.address, backend.port);
            if end.is_ipv4() != service.is_ipv4() {
                return Err(ServiceError::Family {
                    service,
                    backend: end,
                });
            }
            if backend.mac.is_some_and(|mac| !is_station(mac)) {
                return Err(ServiceError::Mac {
                    service,
                    backend: end,
                });
            }
            if !seen.insert(end) {
                return Err(ServiceError::BackendTwice {
                    service,
                    backend: end,
                });
            }
        }
        for end in seen.into_iter().chain([service]) {
            if end.port() == 0 {
                return Err(ServiceError::NoPort { service });
            }
            if !is_host(end.ip()) {
                return Err(ServiceError::Address {
                    service,
                    address: end.ip(),
                });
            }
        }
        Ok(())
    }
}

impl Backend {
    /// The one of these that a service with them gives to a flow of this client, be they all of its backends or some: what the
    /// programs on the vifs choose where nobody chose before. Allocates nothing; costs some 20 ns a backend.
    pub fn choose(
        backends: impl IntoIterator<Item = Backend>,
        client: SocketAddr,
        affinity: bool,
    ) -> Option<Backend> {
        let seats = backends.into_iter().map(|backend| (backend, backend.seat()));
        spread::draw(seats, spread::client_cell(client, affinity))
    }

    fn seat(&self) -> Seat {
        Seat {
            identity: spread::identity(&[&raw_address(self.address), &self.port.to_be_bytes()]),
            weight: match self.state {
                BackendState::Serving => self.weight,
                BackendState::Draining | BackendState::Dead => 0,
            },
        }
    }

    fn endpoint(&self) -> RawEndpoint {
        RawEndpoint::new(SocketAddr::new(self.address, self.port), self.mac)
    }

    fn dead_key(&self, protocol: Protocol) -> RawDead {
        RawDead {
            address: raw_address(self.address),
            port: be16(self.port),
            proto: protocol.0,
            pad: 0,
        }
    }
}

fn is_host(address: IpAddr) -> bool {
    let mapped = matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some());
    !address.is_unspecified() && !address.is_multicast() && !mapped
}

pub(crate) fn is_station(mac: [u8; 6]) -> bool {
    mac[0] & 1 == 0 && mac != [0; 6]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backend(address: &str, state: BackendState) -> Backend {
        Backend {
            address: address.parse().unwrap(),
            port: 80,
            mac: None,
            weight: 1,
            state,
        }
    }

    fn service(port: u16, backends: Vec<Backend>) -> Service {
        Service {
            address: "10.0.0.100".parse().unwrap(),
            port,
            protocol: Protocol::TCP,
            backends,
            affinity: false,
            refuse: Refuse::Reset,
        }
    }

    fn error(services: &[Service]) -> String {
        ServiceTables::new(services, 0).unwrap_err().to_string()
    }

    #[test]
    fn impossible_services_are_named_with_what_helps() {
        use BackendState::{Dead, Serving};
        let one = || service(80, vec![backend("10.0.0.1", Serving)]);
        let icmp = Service {
            protocol: Protocol::ICMP,
            ..one()
        };
        assert!(error(&[icmp]).contains("10.0.0.100:80") && !error(&[one(), one()]).is_empty());
        assert!(error(&[one(), one()]).contains("twice"));
        assert!(error(&[service(0, vec![])]).contains("port 0"));
        assert!(error(&[service(80, vec![backend("fd00::1", Serving)])]).contains("[fd00::1]:80"));
        assert!(error(&[service(80, vec![backend("224.0.0.1", Serving)])]).contains("224.0.0.1"));
        assert!(error(&[service(80, vec![backend("10.0.0.1", Serving); 2])]).contains("10.0.0.1:80"));
        let group = Backend {
            mac: Some([1, 0, 0x5e, 0, 0, 1]),
            ..backend("10.0.0.1", Serving)
        };
        assert!(error(&[service(80, vec![group])]).contains("MAC"));
        let dead = service(81, vec![backend("10.0.0.1", Dead)]);
        assert!(error(&[one(), dead]).contains("say the same"));
        let many: Vec<Service> = (1..=SERVICES as u16 + 1)
            .map(|port| service(port, vec![]))
            .collect();
        assert!(error(&many).contains("256 are the most"));
    }

    #[test]
    fn each_service_has_its_own_backends_in_its_table() {
        use BackendState::{Dead, Draining, Serving};
        let first = service(
            80,
            vec![backend("10.0.0.1", Draining), backend("10.0.0.2", Serving)],
        );
        let second = service(81, vec![backend("10.0.0.3", Serving), backend("10.0.0.4", Dead)]);
        let tables = ServiceTables::new(&[first, second], 1).unwrap();
        assert_eq!(tables.services.len(), 3, "two services, one address");
        assert!(tables.spreads[0].cells.iter().all(|cell| *cell == 1));
        assert!(tables.spreads[1].cells.iter().all(|cell| *cell == 2));
        assert_eq!((tables.backends.len(), tables.dead.len()), (4, 1));
        assert!(tables.services.keys().all(|key| key.slot == 1));
    }
}
