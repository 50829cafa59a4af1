// SPDX-License-Identifier: GPL-3.0-only
//! What of a policy was used: rules that decided nothing, and rules that let pass more than what used them.
//!
//! How wide a rule is, is measured in each thing that it can be wide in by counting what it allows and what of that was used:
//!
//! | in | what is counted |
//! |---|---|
//! | domains of `from`, of `to` | guests that there are and that the end may be |
//! | programs of `from`, of `to` | executables that the flows of the time know in the guests that used the rule and that the end may be; and one more where it may be any, or a pattern: a program that nobody has seen yet |
//! | addresses of `from`, of `to` | addresses of its blocks, 2^32 at most; where only the end's being outside counts, 2^32 |
//! | ports | ports of 65535, of protocols that have them |
//! | protocols | the protocols that the time knows, and one more, where the rule asks for none |
//!
//! In each the rule is `allowed / used` times as wide as it need be, and in all by the product of these, since the parts are chosen
//! one by one: a rule that lets four programs reach ten ports, of which one program reached one port, allows forty times as much.
//! Where nothing of an end's programs was used that is known (ICMP, guests whose programs cannot be seen), a program could not be asked for, and is not counted.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use policy::document::{Action, Peer, Rule, Selector};
use policy::{Block, Document, PortRange, Protocol, Ruleset};
use policyd_api::{Dimension, Excess, FlowEnd, FlowName, FlowTotals, PolicyUsage, UnusedRule, WideRule};

use crate::{Candidate, Guest};

/// Rules in each list.
const LISTED: usize = 1000;
/// Names in a sentence.
const NAMED: usize = 5;
/// More addresses than this are not counted.
const ADDRESSES: u64 = 1 << 32;

/// Looks at rules that are in force and not in dry run. `flows`: of some time. Since when a rule is in force is not known here.
///
/// A flow counts as a use of the rule that decides such a flow now, and of the one that decided it then, where that is
/// still there.
pub fn usage(
    documents: &[Document],
    rules: &Arc<Ruleset>,
    flows: &[(Arc<FlowName>, FlowTotals)],
    guests: &[Guest],
) -> PolicyUsage {
    let candidate = Candidate::new(Arc::clone(rules), documents.iter()).among(guests.iter().map(Guest::id));
    let mut uses: HashMap<String, Uses<'_>> = HashMap::new();
    for (name, totals) in flows {
        let now = candidate.judge(name).map(|judged| (judged.rule, judged.verdict));
        let now = now
            .filter(|(_, verdict)| *verdict == name.verdict)
            .map(|(rule, _)| rule);
        // Mostly the same.
        let then = Some(name.rule.clone()).filter(|then| now.as_ref() != Some(then));
        for rule in [now, then].into_iter().flatten() {
            let uses = uses.entry(rule).or_default();
            uses.totals.add(totals);
            uses.names.push(name);
        }
    }
    let known = Known::new(flows);
    let (mut unused, mut wide) = (Vec::new(), Vec::new());
    for document in documents {
        for rule in document.rules().iter().filter(|rule| !rule.dry_run) {
            let id = format!("{}/{}", document.name(), rule.name);
            let Some(uses) = uses.get(&id) else {
                unused.push(UnusedRule {
                    rule: id,
                    action: rule.action.as_str().to_owned(),
                    in_force_since: None,
                    or_longer: false,
                });
                continue;
            };
            if matches!(rule.action, Action::Deny { .. }) {
                // Who forbids more than is tried does no harm.
                continue;
            }
            let excess = excess(document, rule, uses, &known, guests);
            if excess.is_empty() {
                continue;
            }
            let factor = excess
                .iter()
                .map(|e| e.allowed as f64 / e.used.max(1) as f64)
                .product();
            wide.push(WideRule {
                rule: id,
                totals: uses.totals,
                factor,
                excess,
            });
        }
    }
    wide.sort_by(|a: &WideRule, b| b.factor.total_cmp(&a.factor).then_with(|| a.rule.cmp(&b.rule)));
    unused.truncate(LISTED);
    wide.truncate(LISTED);
    PolicyUsage { unused, wide }
}

/// The flows that a rule decided.
#[derive(Default)]
struct Uses<'f> {
    totals: FlowTotals,
    names: Vec<&'f FlowName>,
}

/// What is known of programs and protocols.
struct Known<'f> {
    programs: BTreeMap<&'f str, BTreeSet<&'f str>>,
    protocols: BTreeSet<&'f str>,
}

impl<'f> Known<'f> {
    fn new(flows: &'f [(Arc<FlowName>, FlowTotals)]) -> Known<'f> {
        let mut programs: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for end in flows.iter().flat_map(|(name, _)| [&name.from, &name.to]) {
            if let (Some(guest), Some(exe)) = (&end.domain, &end.exe) {
                programs.entry(guest).or_default().insert(exe);
            }
        }
        Known {
            programs,
            protocols: flows.iter().map(|(name, _)| name.protocol.as_str()).collect(),
        }
    }
}

/// What one end of a rule may be.
enum Allowed {
    Any,
    World,
    Unattributed,
    Selector(Box<Selector>),
}

fn allowed(document: &Document, peers: &[Peer]) -> Vec<Allowed> {
    let of = |peer: &Peer| match peer {
        Peer::Any => Some(Allowed::Any),
        Peer::World => Some(Allowed::World),
        Peer::Unattributed => Some(Allowed::Unattributed),
        Peer::Inline(selector) => Some(Allowed::Selector(selector.clone())),
        Peer::Service(name) => {
            let (service, _) = name.split_once('@').unwrap_or((name, ""));
            let mut all = document.services().get(service)?.selectors(service);
            all.find(|(known, _)| known == name)
                .map(|(_, selector)| Allowed::Selector(selector.into()))
        }
    };
    peers.iter().filter_map(of).collect()
}

impl Allowed {
    /// Whether it may be in this guest.
    fn is_in(&self, guest: &Guest) -> bool {
        match self {
            Allowed::Any | Allowed::Unattributed => true,
            Allowed::World => false,
            Allowed::Selector(selector) => selector.is_guest(&guest.id()),
        }
    }

    /// Whether it may be this program; none: one that nobody has seen yet.
    fn is_program(&self, exe: Option<&str>) -> bool {
        match self {
            Allowed::Any | Allowed::Unattributed => true,
            Allowed::World => false,
            Allowed::Selector(selector) => {
                selector.exe.is_empty()
                    || selector.exe.iter().any(|pattern| match exe {
                        Some(exe) => pattern.matches(exe),
                        None => pattern.exact().is_none(),
                    })
            }
        }
    }

    /// How many addresses outside it may be.
    fn addresses(&self) -> u64 {
        match self {
            Allowed::Any | Allowed::World => ADDRESSES,
            Allowed::Unattributed => 0,
            Allowed::Selector(selector) if selector.asks_guest() || selector.asks_process() => 0,
            Allowed::Selector(selector) if selector.address.is_empty() => ADDRESSES,
            Allowed::Selector(selector) => selector.address.iter().map(size).sum(),
        }
    }
}

fn size(block: &Block) -> u64 {
    let all: u8 = if block.address().is_ipv4() { 32 } else { 128 };
    1 << (all - block.length()).min(32)
}

fn excess(
    document: &Document,
    rule: &Rule,
    uses: &Uses<'_>,
    known: &Known<'_>,
    guests: &[Guest],
) -> Vec<Excess> {
    let mut found = Vec::new();
    type End = fn(&FlowName) -> &FlowEnd;
    let sides: [(&[Peer], End, [Dimension; 3], &str); 2] = [
        (
            &rule.from,
            |name| &name.from,
            [Dimension::FromVm, Dimension::FromProgram, Dimension::FromAddress],
            "from",
        ),
        (
            &rule.to,
            |name| &name.to,
            [Dimension::ToVm, Dimension::ToProgram, Dimension::ToAddress],
            "to",
        ),
    ];
    for (peers, end, [vm, program, address], side) in sides {
        let ends: Vec<&FlowEnd> = uses.names.iter().map(|name| end(name)).collect();
        let allowed = allowed(document, peers);
        found.extend(domains(vm, side, &allowed, &ends, guests));
        found.extend(programs(program, side, &allowed, &ends, known));
        found.extend(addresses(address, side, &allowed, &ends));
    }
    found.extend(ports(document, rule, uses));
    found.extend(protocols(document, rule, uses, known));
    found
}

fn domains(
    of: Dimension,
    side: &str,
    allowed: &[Allowed],
    ends: &[&FlowEnd],
    guests: &[Guest],
) -> Option<Excess> {
    let used: BTreeSet<&str> = ends.iter().filter_map(|end| end.domain.as_deref()).collect();
    if used.is_empty() {
        // Where addresses outside are meant no guest is counted.
        return None;
    }
    let may = guests
        .iter()
        .filter(|guest| allowed.iter().any(|allowed| allowed.is_in(guest)));
    let may: BTreeSet<&str> = may
        .map(|guest| guest.name.as_str())
        .chain(used.iter().copied())
        .collect();
    (may.len() > used.len()).then(|| Excess {
        of,
        allowed: may.len() as u64,
        used: used.len() as u64,
        open_ended: false,
        says: format!(
            "{side} {} domains: only {} used it; write `vm: {}`",
            may.len(),
            names(&used),
            written(&used)
        ),
    })
}

fn programs(
    of: Dimension,
    side: &str,
    allowed: &[Allowed],
    ends: &[&FlowEnd],
    known: &Known<'_>,
) -> Option<Excess> {
    let guests: BTreeSet<&str> = ends.iter().filter_map(|end| end.domain.as_deref()).collect();
    let used: BTreeSet<&str> = ends
        .iter()
        .filter(|end| end.domain.is_some())
        .filter_map(|end| end.exe.as_deref())
        .collect();
    // Without a program at some use, none can be asked for.
    let unknown = ends.iter().any(|end| end.domain.is_some() && end.exe.is_none());
    if used.is_empty() || unknown {
        return None;
    }
    let there = guests
        .iter()
        .filter_map(|guest| known.programs.get(guest))
        .flatten();
    let may = there.filter(|exe| allowed.iter().any(|allowed| allowed.is_program(Some(exe))));
    let may: BTreeSet<&str> = may.copied().chain(used.iter().copied()).collect();
    let any = allowed.iter().any(|allowed| allowed.is_program(None));
    let count = may.len() as u64 + u64::from(any);
    (count > used.len() as u64).then(|| Excess {
        of,
        allowed: count,
        used: used.len() as u64,
        open_ended: any,
        says: format!(
            "{side} {} of {}: only {} used it; write `exe: {}`",
            if any {
                "any program".to_owned()
            } else {
                format!("{count} programs")
            },
            names(&guests),
            names(&used),
            written(&used)
        ),
    })
}

fn addresses(of: Dimension, side: &str, allowed: &[Allowed], ends: &[&FlowEnd]) -> Option<Excess> {
    let outside = ends.iter().filter(|end| end.domain.is_none());
    let used: BTreeSet<Block> = outside
        .filter_map(|end| {
            let address = end.address?.to_canonical();
            Some(
                end.prefix
                    .map_or_else(|| Block::from(address), |prefix| Block::new(address, prefix)),
            )
        })
        .collect();
    if used.is_empty() {
        return None;
    }
    let count = used.iter().map(size).sum::<u64>().min(ADDRESSES);
    let may = allowed.iter().map(Allowed::addresses).sum::<u64>().min(ADDRESSES);
    let texts: Vec<String> = used.iter().take(NAMED).map(ToString::to_string).collect();
    let more = used.len().saturating_sub(NAMED);
    let more = if more > 0 {
        format!(" and {more} more")
    } else {
        String::new()
    };
    (may > count).then(|| Excess {
        of,
        allowed: may,
        used: count,
        open_ended: false,
        says: format!(
            "{side} {may} addresses outside: {count} used it; write `address` with {}{more}",
            texts.join(", ")
        ),
    })
}

fn ports(document: &Document, rule: &Rule, uses: &Uses<'_>) -> Option<Excess> {
    const ALL: u64 = u16::MAX as u64;
    let ported = |name: &&&FlowName| name.protocol.parse().is_ok_and(Protocol::has_ports);
    let mut used: BTreeSet<u16> = BTreeSet::new();
    for name in uses.names.iter().filter(ported) {
        // What was not kept may have been any.
        used.insert(name.port?);
    }
    if used.is_empty() {
        return None;
    }
    let of_end = |allowed: &Allowed| match allowed {
        Allowed::Selector(selector) if !selector.port.is_empty() => width(&selector.port),
        _ => ALL,
    };
    let to = allowed(document, &rule.to)
        .iter()
        .map(of_end)
        .max()
        .unwrap_or(ALL);
    let may = match rule.ports.is_empty() {
        true => to,
        false => width(&rule.ports).min(to),
    };
    let texts: BTreeSet<String> = used.iter().map(u16::to_string).collect();
    let refs: BTreeSet<&str> = texts.iter().map(String::as_str).collect();
    (may > used.len() as u64).then(|| Excess {
        of: Dimension::Port,
        allowed: may,
        used: used.len() as u64,
        open_ended: false,
        says: format!(
            "{may} ports: only {} were used; write `ports: {}`",
            names(&refs),
            written(&refs)
        ),
    })
}

fn width(ranges: &[PortRange]) -> u64 {
    ranges.iter().map(|r| u64::from(r.last() - r.first()) + 1).sum()
}

fn protocols(document: &Document, rule: &Rule, uses: &Uses<'_>, known: &Known<'_>) -> Option<Excess> {
    // Only protocols with ports can be meant where ports are asked for.
    let asks = |allowed: &Allowed| matches!(allowed, Allowed::Selector(s) if s.protocol.is_some() || !s.port.is_empty());
    if rule.protocol.is_some() || !rule.ports.is_empty() || allowed(document, &rule.to).iter().all(asks) {
        return None;
    }
    let used: BTreeSet<&str> = uses.names.iter().map(|name| name.protocol.as_str()).collect();
    Some(Excess {
        of: Dimension::Protocol,
        allowed: known.protocols.len() as u64 + 1,
        used: used.len() as u64,
        open_ended: true,
        says: format!(
            "any protocol: only {} was used; write `protocol: {}`",
            names(&used),
            written(&used)
        ),
    })
}

/// Some of these in a sentence.
fn names(of: &BTreeSet<&str>) -> String {
    let shown: Vec<&str> = of.iter().take(NAMED).copied().collect();
    match of.len().saturating_sub(NAMED) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

/// As in a document.
fn written(of: &BTreeSet<&str>) -> String {
    match of.len() {
        1 => names(of),
        0..=NAMED => format!("[{}]", names(of)),
        _ => "[…]".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use policyd_api::Verdict;

    const POLICY: &str = "policy: shop
default: { \"*\": deny }
services:
  psql: { vm: \"web*\", exe: \"/usr/bin/*\" }
  db: { vm: \"db*\", exe: /usr/bin/postgres, port: 5432, protocol: tcp }
rules:
  - { name: reads, from: { vm: \"web*\" }, to: db, action: allow }
  - { name: exact, from: { vm: web1, exe: /usr/bin/ntpd }, to: { address: 192.0.2.1 }, ports: 123, protocol: udp, action: allow }
  - { name: outside, from: psql, to: { address: 198.51.100.0/24 }, ports: [443, 8000-8009], action: allow }
  - { name: never, from: psql, to: any, ports: 22, action: allow }
  - { name: forbids, from: { vm: web2 }, to: { vm: db2 }, action: deny }
  - { name: tried, from: any, to: any, action: deny, dry_run: true }
";

    fn end(guest: &str, exe: Option<&str>) -> FlowEnd {
        FlowEnd {
            domain: Some(guest.into()),
            exe: exe.map(str::to_owned),
            uid: exe.map(|_| 0),
            address: Some([10, 0, 0, 1].into()),
            ..FlowEnd::default()
        }
    }

    fn outside(address: [u8; 4]) -> FlowEnd {
        FlowEnd {
            address: Some(address.into()),
            ..FlowEnd::default()
        }
    }

    fn flow(
        from: FlowEnd,
        to: FlowEnd,
        protocol: &str,
        port: u16,
        flows: u64,
    ) -> (Arc<FlowName>, FlowTotals) {
        let name = FlowName {
            from,
            to,
            protocol: protocol.into(),
            port: Some(port),
            verdict: Verdict::Allow,
            rule: "no rule".into(),
            by_policy: true,
        };
        let totals = FlowTotals {
            flows,
            first: 1,
            last: 2,
            ..FlowTotals::default()
        };
        (Arc::new(name), totals)
    }

    fn used(flows: &[(Arc<FlowName>, FlowTotals)]) -> PolicyUsage {
        let documents = [Document::parse("shop.yaml", POLICY).unwrap_or_else(|e| panic!("{e}"))];
        let rules = Arc::new(Ruleset::compile(&documents, 1).unwrap());
        let guests: Vec<Guest> = ["web1", "web2", "web3", "db1", "db2"]
            .map(|name| Guest {
                name: name.into(),
                uuid: [0; 16],
                facts: Arc::default(),
                sighted: true,
            })
            .into();
        usage(&documents, &rules, flows, &guests)
    }

    fn flows() -> Vec<(Arc<FlowName>, FlowTotals)> {
        let (psql, curl) = (Some("/usr/bin/psql"), Some("/usr/bin/curl"));
        vec![
            flow(
                end("web1", psql),
                end("db1", Some("/usr/bin/postgres")),
                "tcp",
                5432,
                9,
            ),
            flow(
                end("web1", Some("/usr/bin/ntpd")),
                outside([192, 0, 2, 1]),
                "udp",
                123,
                4,
            ),
            flow(end("web1", curl), outside([198, 51, 100, 7]), "tcp", 443, 3),
            flow(end("web2", curl), outside([198, 51, 100, 9]), "tcp", 8001, 2),
        ]
    }

    #[test]
    fn rules_that_decided_nothing_are_named() {
        let unused = |flows: &[_]| used(flows).unused.into_iter().map(|r| r.rule).collect::<Vec<_>>();
        assert_eq!(unused(&flows()), ["shop/never", "shop/forbids"]);
        assert_eq!(unused(&[]).len(), 5);
        // By the word of then, too.
        let mut denied = flows().remove(0);
        let name = FlowName {
            verdict: Verdict::Deny,
            rule: "shop/forbids".into(),
            ..(*denied.0).clone()
        };
        denied.0 = Arc::new(name);
        assert!(!unused(&[denied]).contains(&"shop/forbids".to_owned()));
    }

    #[test]
    fn a_rule_is_as_wide_as_what_it_allows_by_what_used_it() {
        let found = used(&flows());
        let rules: Vec<(&str, f64)> = found.wide.iter().map(|w| (&*w.rule, w.factor)).collect();
        // outside: 3 guests by 2; curl of curl, ntpd, psql and whatever else is there: 4 by 1; 256 addresses by 2; 11 ports by 2.
        // reads: 3 guests by 1, 2 by 1; 4 programs of web1 by 1.
        assert_eq!(
            rules,
            [
                ("shop/outside", 1.5 * 4.0 * 128.0 * 5.5),
                ("shop/reads", 3.0 * 2.0 * 4.0)
            ]
        );
        assert_eq!(found.wide[1].totals.flows, 9);
        let says: Vec<&str> = found.wide[1].excess.iter().map(|e| &*e.says).collect();
        assert_eq!(
            says,
            [
                "from 3 domains: only web1 used it; write `vm: web1`",
                "from any program of web1: only /usr/bin/psql used it; write `exe: /usr/bin/psql`",
                "to 2 domains: only db1 used it; write `vm: db1`"
            ]
        );
        let says: Vec<&str> = found.wide[0].excess.iter().map(|e| &*e.says).collect();
        assert_eq!(
            says[2],
            "to 256 addresses outside: 2 used it; write `address` with 198.51.100.7, 198.51.100.9"
        );
        assert_eq!(
            says[3],
            "11 ports: only 443, 8001 were used; write `ports: [443, 8001]`"
        );
    }
}
