// SPDX-License-Identifier: GPL-3.0-only
//! Rule sets: what is published as one, and how it is laid out in the tables. Pure.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};

use crate::layout::{
    CLASS_ANY, PORT_ANY, PORT_OF_PROTO_0, PROTO_ANY, RawAddress, RawPeer, RawRule, RawRuleKey, be16,
    raw_address,
};
use crate::mirror::Mirror;
use crate::shape::Mark;
use crate::types::{Action, Direction, Protocol};

/// Class of every address that no peer covers.
const CLASS_WORLD: u32 = 0;
/// Bits in front of an IPv4 address in its v4-mapped form.
const V4_MAPPED_BITS: u32 = 96;
/// Bits of the slot, which leads the key of a peer.
const SLOT_BITS: u32 = 32;

/// A prefix of remote addresses and the class they are in. The longest prefix wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The network; bits behind the prefix are ignored.
    pub address: IpAddr,
    /// 0 to 32, or to 128 for IPv6.
    pub prefix_bits: u8,
    /// Any number but `u32::MAX`; 0 is "the world", the class of addresses without a peer.
    pub class: u32,
}

/// Which remote ends a rule is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PeerMatch {
    /// All.
    Any,
    /// Those of one class.
    Class(u32),
}

/// One rule. The first that matches decides, in this order of precision: rules for the remote end's own class come
/// before rules for any peer; among them a rule with the port before one with the protocol alone, and that before one
/// with neither.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Any number but 0, which stands for a scope's default.
    pub id: u32,
    /// The guest (its domid).
    pub scope: u32,
    /// The end that opens the flow.
    pub direction: Direction,
    /// The other end.
    pub peer: PeerMatch,
    /// `None`: any.
    pub protocol: Option<Protocol>,
    /// Of the end that does not open the flow; `None`: any. Only with TCP, UDP and their like.
    pub port: Option<u16>,
    /// What becomes of such flows.
    pub action: Action,
    /// How their packets are treated where they pass.
    pub mark: Mark,
}

/// Peers and rules that take force together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuleSet {
    /// In any order.
    pub peers: Vec<Peer>,
    /// In any order.
    pub rules: Vec<Rule>,
}

/// Why a rule set cannot be published.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RuleError {
    /// The prefix is longer than the address.
    #[error("peer {address}/{bits}: the prefix is longer than the address")]
    PrefixTooLong {
        /// The peer's address.
        address: IpAddr,
        /// Its prefix.
        bits: u8,
    },
    /// The class is reserved.
    #[error("class {CLASS_ANY} stands for any peer and cannot be given to one")]
    ReservedClass,
    /// Two classes for one prefix.
    #[error("peer {address}/{bits} is in class {first} and in class {second}")]
    TwoClasses {
        /// The peer's address.
        address: IpAddr,
        /// Its prefix.
        bits: u8,
        /// One class.
        first: u32,
        /// The other.
        second: u32,
    },
    /// The id is reserved.
    #[error("a rule has id 0, which stands for a scope's default")]
    ReservedId,
    /// The number is reserved.
    #[error("rule {id}: port 0 cannot be matched; leave it out to match any")]
    Zero {
        /// The rule.
        id: u32,
    },
    /// A port of what has none.
    #[error("rule {id}: a port needs a protocol that has ports")]
    PortWithoutProtocol {
        /// The rule.
        id: u32,
    },
    /// Two rules match exactly the same.
    #[error("rules {first} and {second} match the same flows and say different things")]
    Contradiction {
        /// One rule.
        first: u32,
        /// The other.
        second: u32,
    },
}

/// A peer as the trie takes it: prefix length and key.
pub(crate) type PeerEntry = (u32, RawPeer, u32);

/// A rule set as the tables of one slot take it.
#[derive(Debug, Default)]
pub(crate) struct Tables {
    pub peers: Vec<PeerEntry>,
    pub rules: Vec<(RawRuleKey, RawRule)>,
}

impl RuleSet {
    pub(crate) fn tables(&self, slot: u32) -> Result<Tables, RuleError> {
        Ok(Tables {
            peers: self.peer_entries(slot)?,
            rules: self.rule_entries(slot)?,
        })
    }

    fn peer_entries(&self, slot: u32) -> Result<Vec<PeerEntry>, RuleError> {
        let mut classes = HashMap::new();
        for peer in &self.peers {
            let (key, bits) = peer.key()?;
            if peer.class == CLASS_ANY {
                return Err(RuleError::ReservedClass);
            }
            if let Some(other) = classes.insert((key, bits), peer.class)
                && other != peer.class
            {
                return Err(RuleError::TwoClasses {
                    address: peer.address,
                    bits: peer.prefix_bits,
                    first: other,
                    second: peer.class,
                });
            }
        }
        // IPv4 lies inside IPv6 here: without a root of its own it would fall under a peer like ::/0.
        let v4_root = (raw_address(Ipv4Addr::UNSPECIFIED.into()), V4_MAPPED_BITS);
        classes.entry(v4_root).or_insert(CLASS_WORLD);
        Ok(classes
            .into_iter()
            .map(|((address, bits), class)| (SLOT_BITS + bits, RawPeer { slot, address }, class))
            .collect())
    }

    /// Whether [`Datapath::publish`](crate::Datapath::publish) would take these rules, if there is room for them.
    ///
    /// # Errors
    /// As there.
    pub fn check(&self) -> Result<(), RuleError> {
        self.peer_entries(0)?;
        self.rule_entries(0)?;
        Ok(())
    }

    fn rule_entries(&self, slot: u32) -> Result<Vec<(RawRuleKey, RawRule)>, RuleError> {
        let mut entries: HashMap<RawRuleKey, RawRule> = HashMap::with_capacity(self.rules.len());
        for rule in &self.rules {
            let (key, value) = rule.entry(slot)?;
            if let Some(other) = entries.insert(key, value)
                && other != value
            {
                return Err(RuleError::Contradiction {
                    first: other.rule,
                    second: value.rule,
                });
            }
        }
        Ok(entries.into_iter().collect())
    }
}

impl Peer {
    fn key(&self) -> Result<(RawAddress, u32), RuleError> {
        let (most, before) = match self.address {
            IpAddr::V4(_) => (32, V4_MAPPED_BITS),
            IpAddr::V6(_) => (128, 0),
        };
        if u32::from(self.prefix_bits) > most {
            return Err(RuleError::PrefixTooLong {
                address: self.address,
                bits: self.prefix_bits,
            });
        }
        let bits = before + u32::from(self.prefix_bits);
        let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
        let address = u128::from_be_bytes(raw_address(self.address)) & mask;
        Ok((address.to_be_bytes(), bits))
    }
}

impl Rule {
    fn entry(&self, slot: u32) -> Result<(RawRuleKey, RawRule), RuleError> {
        if self.id == 0 {
            return Err(RuleError::ReservedId);
        }
        if self.port == Some(PORT_ANY) {
            return Err(RuleError::Zero { id: self.id });
        }
        if self.port.is_some() && !self.protocol.is_some_and(Protocol::has_ports) {
            return Err(RuleError::PortWithoutProtocol { id: self.id });
        }
        let peer_class = match self.peer {
            PeerMatch::Any => CLASS_ANY,
            PeerMatch::Class(CLASS_ANY) => return Err(RuleError::ReservedClass),
            PeerMatch::Class(class) => class,
        };
        let (action, refuse) = self.action.raw();
        let key = RawRuleKey {
            scope: self.scope,
            peer_class,
            port: be16(match self.protocol {
                Some(Protocol(PROTO_ANY)) => PORT_OF_PROTO_0,
                _ => self.port.unwrap_or(PORT_ANY),
            }),
            proto: self.protocol.map_or(PROTO_ANY, |p| p.0),
            direction: self.direction.raw(),
            slot,
        };
        let (class, dscp) = self.mark.raw();
        let (mirror, share) = Mirror::raw(self.mark.mirror);
        Ok((
            key,
            RawRule {
                rule: self.id,
                action,
                refuse,
                class,
                dscp,
                mirror,
                share,
                ..RawRule::default()
            },
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Refuse;

    fn rule(id: u32, port: Option<u16>, action: Action) -> Rule {
        Rule {
            id,
            scope: 1,
            direction: Direction::FromGuest,
            peer: PeerMatch::Any,
            protocol: Some(Protocol::TCP),
            port,
            action,
            mark: Mark::NONE,
        }
    }

    fn peer(text: &str, prefix_bits: u8, class: u32) -> Peer {
        Peer {
            address: text.parse().unwrap(),
            prefix_bits,
            class,
        }
    }

    #[test]
    fn contradictions_are_found_and_repetitions_are_not() {
        let deny = Action::Deny(Refuse::Drop);
        let set = |rules| RuleSet { peers: vec![], rules }.tables(0);
        let contradiction = set(vec![rule(1, Some(80), Action::Allow), rule(2, Some(80), deny)]);
        assert_eq!(
            contradiction.unwrap_err(),
            RuleError::Contradiction { first: 1, second: 2 }
        );
        let twice = set(vec![
            rule(1, Some(80), deny),
            rule(1, Some(80), deny),
            rule(2, None, deny),
        ]);
        assert_eq!(twice.unwrap().rules.len(), 2);
    }

    #[test]
    fn impossible_rules_are_named() {
        let one = |r: Rule| {
            RuleSet {
                peers: vec![],
                rules: vec![r],
            }
            .tables(0)
            .unwrap_err()
        };
        assert_eq!(one(rule(0, None, Action::Allow)), RuleError::ReservedId);
        assert_eq!(one(rule(3, Some(0), Action::Allow)), RuleError::Zero { id: 3 });
        let icmp = Rule {
            protocol: Some(Protocol::ICMP),
            ..rule(4, Some(8), Action::Allow)
        };
        assert_eq!(one(icmp), RuleError::PortWithoutProtocol { id: 4 });
    }

    #[test]
    fn protocol_0_is_not_any_protocol() {
        let of = |protocol, action| Rule {
            protocol,
            ..rule(1, None, action)
        };
        let rules = vec![
            of(Some(Protocol(0)), Action::Allow),
            of(None, Action::Deny(Refuse::Drop)),
        ];
        let set = RuleSet { peers: vec![], rules };
        assert_eq!(set.tables(0).unwrap().rules.len(), 2);
    }

    #[test]
    fn peers_are_masked_and_ipv4_has_its_own_root() {
        let set = RuleSet {
            peers: vec![peer("10.9.8.7", 8, 5), peer("::", 0, 9)],
            rules: vec![],
        };
        let mut entries = set.tables(1).unwrap().peers;
        entries.sort_by_key(|e| e.0);
        let ten: RawAddress = "::ffff:10.0.0.0".parse::<std::net::Ipv6Addr>().unwrap().octets();
        assert_eq!(entries.len(), 3);
        assert_eq!((entries[0].0, entries[0].2), (32, 9));
        assert_eq!((entries[1].0, entries[1].2), (32 + 96, CLASS_WORLD));
        assert_eq!(
            entries[2],
            (
                32 + 96 + 8,
                RawPeer {
                    slot: 1,
                    address: ten
                },
                5
            )
        );
    }

    #[test]
    fn a_prefix_has_one_class() {
        let set = RuleSet {
            peers: vec![peer("10.1.0.0", 16, 5), peer("10.1.2.3", 16, 6)],
            rules: vec![],
        };
        assert!(matches!(
            set.tables(0),
            Err(RuleError::TwoClasses {
                first: 5,
                second: 6,
                ..
            })
        ));
        let long = RuleSet {
            peers: vec![peer("10.0.0.0", 33, 5)],
            rules: vec![],
        };
        assert!(matches!(
            long.tables(0),
            Err(RuleError::PrefixTooLong { bits: 33, .. })
        ));
    }
}
