// SPDX-License-Identifier: GPL-3.0-only
//! A policy that is not in force, tried on kinds of flow as the history has them.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use policy::document::{Peer, Selector};
use policy::{
    Decider, Decision, Document, Endpoint, Flow, Level, Lock, Owner, Process, Protocol, Ruleset, VmId,
};
use policyd_api::{FlowEnd, FlowName, Verdict};

/// Ways in which the rules of a policy hold that are told apart within a bucket of time.
const WAYS: usize = 16;

/// A policy to try.
#[derive(Clone)]
pub struct Candidate {
    rules: Arc<Ruleset>,
    asks: Asks,
    /// The guests that there are, by UUID.
    guests: Arc<HashMap<[u8; 16], VmId>>,
}

/// What a policy asks that the history does not always have.
#[derive(Debug, Clone, Copy, Default)]
struct Asks {
    arguments: bool,
    /// Roles.
    users: bool,
    parents: bool,
    /// How surely it is known who an end is.
    authentication: bool,
    /// Whether its program was what policy takes it to be.
    measured: bool,
    /// What xenstore and Xen say of guests.
    guests: bool,
}

/// Times, seconds since 1970: of each way in which the rules of a policy hold one. Of two parts of the past that have the same, all is the same.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Times {
    each: Vec<i64>,
    /// There are more of them.
    more: bool,
}

impl Times {
    /// Whether the same rules hold all the time.
    pub fn is_one(&self) -> bool {
        self.each.len() == 1 && !self.more
    }
}

/// Finds the times at which other rules of a policy hold.
pub struct Clock<'c> {
    rules: &'c Ruleset,
    /// By what windows are open, the first time that was asked for of which that is so.
    known: RefCell<BTreeMap<Box<[bool]>, i64>>,
}

impl Clock<'_> {
    /// Those from when until when.
    pub fn times(&self, since: u64, until: u64) -> Times {
        let seconds = |at: u64| i64::try_from(at).unwrap_or(i64::MAX);
        let (mut at, until) = (seconds(since), seconds(until));
        let mut times = Times {
            each: Vec::new(),
            more: false,
        };
        loop {
            let known = *self
                .known
                .borrow_mut()
                .entry(self.rules.hours_at(at))
                .or_insert(at);
            if !times.each.contains(&known) {
                times.more = times.each.len() >= WAYS;
                if times.more {
                    break;
                }
                times.each.push(known);
            }
            match self.rules.next_change(at).filter(|next| *next < until) {
                Some(next) => at = next,
                None => break,
            }
        }
        times.each.sort_unstable();
        times
    }
}

/// What a policy says of a kind of flow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judgement {
    /// Pass or not.
    pub verdict: Verdict,
    /// By what, as in a decision.
    pub rule: String,
    /// Why it is not sure.
    pub unsure: Option<String>,
}

impl Candidate {
    /// `documents`: those that `rules` were compiled from.
    pub fn new<'d>(rules: Arc<Ruleset>, documents: impl Iterator<Item = &'d Document>) -> Candidate {
        let mut asks = Asks::default();
        for document in documents {
            let services = document.services().iter();
            services
                .flat_map(|(name, service)| service.selectors(name))
                .for_each(|(_, selector)| asks.note(&selector));
            for rule in document.rules() {
                for end in rule.from.iter().chain(&rule.to) {
                    if let Peer::Inline(selector) = end {
                        asks.note(selector);
                    }
                }
                asks.users |= !rule.require.role.is_empty();
                asks.authentication |= !rule.require.authentication.is_empty();
                asks.measured |= rule.require.authentication.asks(Level::Measured);
            }
        }
        Candidate {
            rules,
            asks,
            guests: Arc::default(),
        }
    }

    /// The same at a time, seconds since 1970: times of the week that rules require are of then.
    #[must_use]
    pub fn at(&self, time: u64) -> Candidate {
        Candidate {
            rules: Arc::new(self.rules.at(i64::try_from(time).unwrap_or(i64::MAX))),
            ..self.clone()
        }
    }

    /// When other rules of it may hold next, after this time; seconds since 1970.
    pub fn next_change(&self, time: u64) -> Option<u64> {
        let next = self.rules.next_change(i64::try_from(time).unwrap_or(i64::MAX))?;
        u64::try_from(next).ok()
    }

    /// What tells times apart at which other rules of it hold.
    pub fn clock(&self) -> Clock<'_> {
        Clock {
            rules: &self.rules,
            known: RefCell::default(),
        }
    }

    /// The same at each of these times.
    pub fn at_each(&self, times: &Times) -> Candidates {
        let each = times.each.iter().map(|time| Candidate {
            rules: Arc::new(self.rules.at(*time)),
            ..self.clone()
        });
        Candidates {
            each: each.collect(),
            more: times.more,
        }
    }

    /// The same where these guests are known: a flow of one of them is judged by the labels that it has now.
    pub fn among(self, guests: impl IntoIterator<Item = VmId>) -> Candidate {
        let guests = guests.into_iter().map(|vm| (vm.uuid, self.rules.known(&vm)));
        Candidate {
            guests: Arc::new(guests.collect()),
            ..self
        }
    }

    /// The guest of a name, if it is here.
    fn here(&self, vm: &VmId) -> Option<&VmId> {
        self.guests.get(&vm.uuid).filter(|here| here.name == vm.name)
    }

    fn is_gone(&self, end: &End<'_>) -> bool {
        end.vm.as_ref().is_some_and(|vm| self.here(vm).is_none())
    }

    fn known(&self, vm: VmId) -> VmId {
        match self.here(&vm) {
            Some(here) => here.clone(),
            None => self.rules.known(&vm),
        }
    }

    /// Judges a kind of flow; none where it is not for rules to decide, or not known well enough.
    pub fn judge(&self, name: &FlowName) -> Option<Judgement> {
        if !name.by_policy {
            return None;
        }
        let protocol: Protocol = name.protocol.parse().ok()?;
        let end = |end| {
            let end = End::of(end)?.known(|vm| self.known(vm));
            Some(end.held_by(&self.rules))
        };
        let (from, to) = (end(&name.from)?, end(&name.to)?);
        let flow = Flow {
            protocol,
            source: from.endpoint(),
            destination: to.endpoint(),
            port: name.port.unwrap_or(0),
        };
        let decision = decide(&self.rules, &flow);
        let ends = [&name.from, &name.to];
        // Of an end whose process was not known there is nothing more to keep.
        let lacks = |asked: bool, has: fn(&FlowEnd) -> bool| {
            asked && ends.iter().any(|end| end.uid.is_some() && !has(end))
        };
        let unsure = match () {
            () if name.port.is_none() => Some("they went to many ports, which are not kept each"),
            () if name.from.prefix.or(name.to.prefix).is_some() => {
                Some("they had many addresses outside, which are not kept each")
            }
            () if lacks(self.asks.arguments, |end| end.args.is_some()) => {
                Some("arguments of the program are not kept")
            }
            () if lacks(self.asks.users, |end| end.user.is_some()) => {
                Some("groups and login of the user are not kept")
            }
            () if lacks(self.asks.parents, |end| end.parents.is_some()) => {
                Some("ancestors of the program are not kept")
            }
            () if self.asks.authentication
                && ends.iter().any(|end| end.domain.is_some() && end.given.is_none()) =>
            {
                Some("whether dom0 gave them their addresses is not kept")
            }
            () if lacks(self.asks.measured, |_| false) => {
                Some("whether programs were what policy knows of them is not kept")
            }
            () if self.asks.guests && (self.is_gone(&from) || self.is_gone(&to)) => {
                Some("what xenstore and Xen said of a guest that is gone is not kept")
            }
            () => None,
        };
        Some(Judgement {
            verdict: match decision.verdict {
                policy::Verdict::Allow => Verdict::Allow,
                policy::Verdict::Deny => Verdict::Deny,
            },
            rule: rule(&self.rules, &decision, name),
            unsure: unsure.map(str::to_owned),
        })
    }
}

impl Asks {
    fn note(&mut self, selector: &Selector) {
        self.arguments |= !selector.arg.is_empty();
        self.users |= !selector.role.is_empty();
        self.parents |= !selector.parent.is_empty();
        self.guests |= !selector.label.is_empty() || !selector.xen.is_empty();
    }
}

/// A policy to try at several times.
pub struct Candidates {
    each: Vec<Candidate>,
    /// There are more times.
    more: bool,
}

impl Candidates {
    /// Judges a kind of flow that was seen at one of the times; nobody knows at which.
    pub fn judge(&self, name: &FlowName) -> Option<Judgement> {
        let (first, others) = self.each.split_first()?;
        let judged = first.judge(name)?;
        let differs = |other: &Candidate| {
            other
                .judge(name)
                .is_none_or(|other| other.verdict != judged.verdict)
        };
        if self.more || others.iter().any(differs) {
            let unsure = "it depends on the time, and they are not kept by the minute any more";
            return Some(Judgement {
                unsure: judged.unsure.or_else(|| Some(unsure.to_owned())),
                ..judged
            });
        }
        Some(judged)
    }
}

/// As the daemon decides flows: where it depends on a process that is not known, the answer is deny.
fn decide(rules: &Ruleset, flow: &Flow<'_>) -> Decision {
    rules.decide_for_any_process(flow).unwrap_or_else(|| {
        let decision = rules.decide(flow);
        match decision.verdict {
            policy::Verdict::Deny => decision,
            policy::Verdict::Allow => Decision {
                verdict: policy::Verdict::Deny,
                by: Decider::Nothing,
                ..decision
            },
        }
    })
}

fn rule(rules: &Ruleset, decision: &Decision, name: &FlowName) -> String {
    match decision.by {
        Decider::Rule(id) => rules
            .rule_name(id)
            .map_or_else(|| format!("rule {}", id.0), |rule| rule.to_string()),
        Decider::Default(policy::Side::Source) => match &name.from.domain {
            Some(domain) => format!("default (from {domain})"),
            None => "default (from)".into(),
        },
        Decider::Default(policy::Side::Destination) => "default (to)".into(),
        Decider::Nothing if decision.verdict == policy::Verdict::Deny => "process unknown".into(),
        Decider::Nothing | Decider::Unserved => "no rule".into(),
    }
}

/// An end as policy looks at it.
pub struct End<'e> {
    vm: Option<VmId>,
    address: IpAddr,
    parents: Vec<Arc<str>>,
    /// By its lock the guest can use no other address.
    proven: bool,
    of: &'e FlowEnd,
}

impl<'e> End<'e> {
    /// None of an end that stands for many.
    pub fn of(end: &'e FlowEnd) -> Option<End<'e>> {
        let vm = end.domain.as_ref().map(|name| {
            let uuid = end.uuid.as_deref().and_then(uuid);
            VmId::new(name.as_str(), uuid.unwrap_or_default())
        });
        if vm.is_none() && end.address.is_none() {
            return None;
        }
        Some(End {
            vm,
            address: end.address.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
            parents: end
                .parents
                .iter()
                .flatten()
                .map(|exe| exe.as_str().into())
                .collect(),
            proven: false,
            of: end,
        })
    }

    /// The same with what is known of its guest.
    pub fn known(self, known: impl FnOnce(VmId) -> VmId) -> End<'e> {
        End {
            vm: self.vm.map(known),
            ..self
        }
    }

    /// The same where these rules are in force: their locks hold guests to what dom0 gave them.
    pub fn held_by(self, rules: &Ruleset) -> End<'e> {
        let lock = self.vm.as_ref().and_then(|vm| rules.lock_of(vm));
        End {
            proven: self.of.given == Some(true) && lock.is_some_and(|said| said.value == Lock::Address),
            ..self
        }
    }

    /// For the policy engine. What it may ask of a process beyond what the history has, is not met.
    #[allow(clippy::needless_update, reason = "what else a process has is not kept")]
    pub fn endpoint(&self) -> Endpoint<'_> {
        let Some(vm) = &self.vm else {
            return Endpoint::world(self.address);
        };
        let end = Endpoint::guest(vm, self.address);
        let end = match self.proven {
            true => end.proven(),
            false => end,
        };
        let user = self.of.user.as_ref();
        match self.of.uid {
            Some(uid) => end.with_process(Process {
                exe: self.of.exe.as_deref(),
                args: self.of.args.as_deref().unwrap_or_default(),
                uid,
                // Nobody's, where it is not kept: 0 would be root's.
                gid: user.map_or(u32::MAX, |user| user.gid),
                groups: user.map_or(&[], |user| &user.groups),
                loginuid: user.and_then(|user| user.loginuid),
                parents: &self.parents,
                container: self.of.container.as_deref(),
                ..Process::default()
            }),
            None => Endpoint {
                owner: Owner::Unknown,
                ..end
            },
        }
    }
}

/// The common form: 32 hexadecimal digits, with dashes between.
fn uuid(text: &str) -> Option<[u8; 16]> {
    let digits: String = text.chars().filter(|c| *c != '-').collect();
    u128::from_str_radix(&digits, 16).ok().map(u128::to_be_bytes)
}

#[cfg(test)]
mod tests {
    use policyd_api::FlowUser;

    use super::*;

    /// A candidate of one document.
    fn candidate(text: &str) -> Candidate {
        let documents = [Document::parse("t.yaml", text).expect("valid")];
        let rules = Ruleset::compile(&documents, 2).expect("valid");
        Candidate::new(Arc::new(rules), documents.iter())
    }

    /// A flow from a program in web1 to db1.
    fn flow(exe: Option<&str>, verdict: Verdict) -> FlowName {
        let end = |domain: &str, address: &str| FlowEnd {
            domain: Some(domain.into()),
            uuid: Some("00000000-0000-0000-0000-0000000000ff".into()),
            address: address.parse().ok(),
            ..FlowEnd::default()
        };
        FlowName {
            from: FlowEnd {
                exe: exe.map(str::to_owned),
                uid: exe.map(|_| 1000),
                args: exe.map(|exe| vec![exe.to_owned(), "-s".into()]),
                ..end("web1", "10.0.0.11")
            },
            to: end("db1", "10.0.0.12"),
            protocol: "tcp".into(),
            port: Some(80),
            verdict,
            rule: "no rule".into(),
            by_policy: true,
        }
    }

    const POLICY: &str = "policy: shop
default: { db1: deny }
services: { curl: { vm: web1, exe: /usr/bin/curl } }
rules:
  - { name: reads, from: curl, to: { vm: db1 }, ports: 80, action: allow }
";

    fn verdict(candidate: &Candidate, name: &FlowName) -> (Verdict, String, bool) {
        let judged = candidate.judge(name).expect("judged");
        (judged.verdict, judged.rule, judged.unsure.is_none())
    }

    #[test]
    fn flows_of_the_past_are_judged_as_those_of_now() {
        let candidate = candidate(POLICY);
        let curl = flow(Some("/usr/bin/curl"), Verdict::Allow);
        assert_eq!(
            verdict(&candidate, &curl),
            (Verdict::Allow, "shop/reads".into(), true)
        );
        let wget = flow(Some("/usr/bin/wget"), Verdict::Allow);
        assert_eq!(
            verdict(&candidate, &wget),
            (Verdict::Deny, "default (to)".into(), true)
        );
        // An unknown process matches no allow rule that asks for one.
        let unknown = flow(None, Verdict::Allow);
        assert_eq!(verdict(&candidate, &unknown).0, Verdict::Deny);
        let mut other = curl.clone();
        other.port = Some(443);
        assert_eq!(verdict(&candidate, &other).0, Verdict::Deny);
        other.from = FlowEnd {
            address: "192.0.2.7".parse().ok(),
            ..FlowEnd::default()
        };
        assert_eq!(verdict(&candidate, &other).0, Verdict::Deny);
    }

    #[test]
    fn what_is_not_for_rules_to_decide_is_not_judged() {
        let candidate = candidate(POLICY);
        let mut name = flow(Some("/usr/bin/curl"), Verdict::Deny);
        name.by_policy = false;
        assert_eq!(candidate.judge(&name), None);
        name.by_policy = true;
        name.from = FlowEnd::default();
        assert_eq!(candidate.judge(&name), None);
    }

    #[test]
    fn what_is_not_sure_says_so() {
        let plain = candidate(POLICY);
        let asks = candidate(&POLICY.replace("exe: /usr/bin/curl", "exe: /usr/bin/curl, arg: -s"));
        let mut name = flow(Some("/usr/bin/curl"), Verdict::Allow);
        assert_eq!(verdict(&asks, &name), (Verdict::Allow, "shop/reads".into(), true));
        name.from.args = None;
        assert!(verdict(&plain, &name).2);
        assert!(!verdict(&asks, &name).2);
        name.port = None;
        assert!(!verdict(&plain, &name).2);
    }

    #[test]
    fn guests_are_judged_by_the_labels_that_they_have_now() {
        let text = POLICY.replace("vm: web1, exe", "label: { tier: front }, exe");
        let curl = flow(Some("/usr/bin/curl"), Verdict::Allow);
        // By the candidate's own word.
        let own = candidate(&format!("{text}labels: {{ web1: {{ tier: front }} }}\n"));
        assert_eq!(verdict(&own, &curl).0, Verdict::Allow);
        let from = policy::LabelFrom::Xenstore("/local/domain/1/xmesh/labels/tier".into());
        let front = policy::Label::new("tier", "front", from).expect("a label");
        let web = VmId {
            facts: Arc::new(policy::Facts::new(None, None, vec![front])),
            ..VmId::new("web1", 0xff_u128.to_be_bytes())
        };
        let gone = candidate(&text);
        assert_eq!(
            verdict(&gone, &curl),
            (Verdict::Deny, "default (to)".into(), false)
        );
        let mut curl = curl;
        curl.to.uuid = Some("00000000-0000-0000-0000-000000000001".into());
        let db = VmId::new("db1", 1_u128.to_be_bytes());
        let here = candidate(&text).among([web, db]);
        assert_eq!(verdict(&here, &curl), (Verdict::Allow, "shop/reads".into(), true));
    }

    #[test]
    fn roles_and_ancestors_are_judged_by_what_is_kept_of_a_process() {
        let text = POLICY.replace(
            "rules:",
            "roles: { staff: { gid: 200 }, people: { loginuid: 1000-1999, uid: 0-9999 } }\nrules:",
        );
        let by_role = |role: &str| {
            candidate(&text.replace("ports: 80,", &format!("ports: 80, require: {{ role: {role} }},")))
        };
        let by_parent =
            candidate(&POLICY.replace("exe: /usr/bin/curl", "exe: /usr/bin/curl, parent: /usr/sbin/cron"));
        let mut name = flow(Some("/usr/bin/curl"), Verdict::Allow);
        // As an earlier version wrote it.
        for asks in [by_role("staff"), by_role("people"), by_parent.clone()] {
            assert_eq!(
                verdict(&asks, &name),
                (Verdict::Deny, "default (to)".into(), false)
            );
        }
        assert!(verdict(&candidate(POLICY), &name).2);
        name.from.user = Some(FlowUser {
            gid: 100,
            groups: vec![27, 200],
            loginuid: Some(1000),
        });
        name.from.parents = Some(vec!["/bin/dash".into(), "/usr/sbin/cron".into()]);
        for asks in [by_role("staff"), by_role("people"), by_parent.clone()] {
            assert_eq!(verdict(&asks, &name), (Verdict::Allow, "shop/reads".into(), true));
        }
        name.from.user = Some(FlowUser::default());
        name.from.parents = Some(Vec::new());
        for asks in [by_role("staff"), by_role("people"), by_parent] {
            assert_eq!(
                verdict(&asks, &name),
                (Verdict::Deny, "default (to)".into(), true)
            );
        }
    }

    #[test]
    fn addresses_are_proven_by_the_locks_of_the_candidate() {
        let asks = POLICY.replace("ports: 80,", "ports: 80, require: { authentication: network },");
        let locked = candidate(&format!("{asks}lock: {{ \"*\": address }}\n"));
        let mut name = flow(Some("/usr/bin/curl"), Verdict::Allow);
        assert_eq!(
            verdict(&locked, &name),
            (Verdict::Deny, "default (to)".into(), false)
        );
        (name.from.given, name.to.given) = (Some(true), Some(true));
        assert_eq!(
            verdict(&locked, &name),
            (Verdict::Allow, "shop/reads".into(), true)
        );
        assert_eq!(
            verdict(&candidate(&asks), &name).0,
            Verdict::Deny,
            "no lock holds them"
        );
        name.to.given = Some(false);
        assert_eq!(
            verdict(&locked, &name),
            (Verdict::Deny, "default (to)".into(), true)
        );
    }

    #[test]
    fn a_time_of_the_week_is_that_of_the_flow() {
        const HOUR: u64 = 3600;
        let asks = candidate(&POLICY.replace(
            "ports: 80,",
            "ports: 80, require: { time: { hours: 08:00-18:00 } },",
        ));
        let curl = flow(Some("/usr/bin/curl"), Verdict::Allow);
        assert_eq!(verdict(&asks.at(9 * HOUR), &curl).0, Verdict::Allow);
        assert_eq!(verdict(&asks.at(19 * HOUR), &curl).0, Verdict::Deny);
        assert_eq!(asks.next_change(9 * HOUR), Some(18 * HOUR));
        let clock = asks.clock();
        let (day, night) = (
            clock.times(9 * HOUR, 10 * HOUR),
            clock.times(17 * HOUR, 19 * HOUR),
        );
        assert!(day.is_one() && !night.is_one());
        // Another day at that time is the same.
        assert_eq!(clock.times(33 * HOUR, 34 * HOUR), day);
        assert_eq!(
            clock.times(17 * HOUR, 18 * HOUR),
            day,
            "it ends when the window does"
        );
        let judged = asks.at_each(&day).judge(&curl).expect("judged");
        assert_eq!((judged.verdict, judged.unsure), (Verdict::Allow, None));
        let judged = asks.at_each(&night).judge(&curl).expect("judged");
        assert!(judged.unsure.expect("it depends").contains("depends on the time"));
        // What no rule with a time decides does not depend on it.
        let wget = flow(Some("/usr/bin/wget"), Verdict::Allow);
        assert_eq!(asks.at_each(&night).judge(&wget).expect("judged").unsure, None);
        let many: String = (0..20)
            .map(|n| format!("  - {{ name: t{n}, from: any, to: any, ports: {}, require: {{ time: {{ hours: \"{n:02}:00-{n:02}:30\" }} }}, action: deny }}\n", n + 1))
            .collect();
        let many = candidate(&format!("{POLICY}{many}"));
        let whole = many.clock().times(0, 24 * HOUR);
        assert!(!whole.is_one() && whole.each.len() <= WAYS);
        assert!(
            many.at_each(&whole)
                .judge(&curl)
                .expect("judged")
                .unsure
                .is_some()
        );
    }

    #[test]
    fn a_uuid_selects_its_guest() {
        let candidate = candidate(&POLICY.replace("vm: web1", "vm: 00000000-0000-0000-0000-0000000000ff"));
        let curl = flow(Some("/usr/bin/curl"), Verdict::Allow);
        assert_eq!(verdict(&candidate, &curl).0, Verdict::Allow);
    }
}
