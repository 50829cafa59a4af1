// SPDX-License-Identifier: GPL-3.0-only
//! The compiled ruleset against a plain reading of the same documents.
//!
//! The reference is written from the crate's documentation, rule by rule and list by list, and shares
//! nothing with the ruleset but patterns, blocks and ranges, which have tests of their own.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;

use common::{document_of_any, documents, flow, flows, time};
use policy::document::{ContainerPattern, MirrorTo, Peer, Require, Role, Rule, Selector, Target, VmPattern};
use policy::pattern::Pattern;
use policy::window::Window;
use policy::{
    Action, Decider, Decision, Document, Endpoint, Flow, Level, Owner, Process, Refuse, Rollout, Ruleset,
    Side, Verdict, VmId,
};
use proptest::prelude::*;

/// What a reader of the documents expects: verdict, refusal, audit, the name of the rule, and where the flow goes instead.
type Expected = (Verdict, Refuse, bool, Option<String>, Option<String>);

/// What is asked: a flow at a time.
#[derive(Clone, Copy)]
struct Asked<'a> {
    flow: &'a Flow<'a>,
    time: i64,
    /// As if no rule were in dry run.
    tried: bool,
}

fn expect(documents: &[Document], asked: Asked<'_>) -> Expected {
    let Asked { flow, time, tried } = asked;
    let mut sets: Vec<&Document> = documents.iter().collect();
    sets.sort_by_key(|d| d.name());
    for kind in ["deny", "audit", "allow"] {
        for set in &sets {
            for rule in set.rules() {
                if rule.action.as_str() == kind
                    && (tried || !rule.dry_run)
                    && holds(&sets, set, rule, flow, time)
                {
                    let (verdict, refuse, audit) = outcome(rule.action);
                    return (
                        verdict,
                        refuse,
                        audit,
                        Some(format!("{}/{}", set.name(), rule.name)),
                        rule.instead.as_ref().map(place),
                    );
                }
            }
        }
    }
    let ends = [flow.source.vm, flow.destination.vm];
    let actions: Vec<Action> = ends
        .iter()
        .flatten()
        .filter_map(|vm| default(&sets, vm))
        .collect();
    for kind in ["deny", "audit"] {
        if let Some(action) = actions.iter().find(|a| a.as_str() == kind) {
            let (verdict, refuse, audit) = outcome(*action);
            return (verdict, refuse, audit, None, None);
        }
    }
    (Verdict::Allow, Refuse::Rst, false, None, None)
}

fn place(target: &Target) -> String {
    match target {
        Target::Service(name) => name.clone(),
        Target::Inline(selector) => selector.to_string(),
        Target::Address(address) => address.to_string(),
    }
}

fn outcome(action: Action) -> (Verdict, Refuse, bool) {
    match action {
        Action::Allow => (Verdict::Allow, Refuse::Rst, false),
        Action::Audit => (Verdict::Allow, Refuse::Rst, true),
        Action::Deny { refuse } => (Verdict::Deny, refuse, false),
    }
}

fn default(sets: &[&Document], vm: &VmId) -> Option<Action> {
    let literal = |pattern: &str| pattern.chars().filter(|c| !"*?".contains(*c)).count();
    let strictness = |action: &Action| {
        ["deny", "audit", "allow"]
            .iter()
            .position(|a| *a == action.as_str())
    };
    let mut said: Vec<(bool, usize, _, Action)> = Vec::new();
    for set in sets {
        for (pattern, action) in set.defaults() {
            if pattern.matches(&vm.name) {
                let wild = pattern.as_str().contains(['*', '?']);
                said.push((
                    wild,
                    usize::MAX - literal(pattern.as_str()),
                    strictness(action),
                    *action,
                ));
            }
        }
    }
    said.into_iter()
        .min_by_key(|(wild, vague, strict, _)| (*wild, *vague, *strict))
        .map(|s| s.3)
}

/// Name of the class that a flow which passes is in.
fn expect_class(documents: &[Document], flow: &Flow<'_>, time: i64) -> Option<String> {
    let mut sets: Vec<&Document> = documents.iter().collect();
    sets.sort_by_key(|d| d.name());
    sets.iter().find_map(|set| {
        let class = set.qos().classes.iter().find(|class| {
            let rule = Rule {
                name: String::new(),
                description: None,
                from: class.from.clone(),
                to: class.to.clone(),
                ports: class.ports.clone(),
                protocol: class.protocol,
                require: Require::default(),
                action: Action::Allow,
                dry_run: false,
                instead: None,
                mirror: None,
            };
            holds(&sets, set, &rule, flow, time)
        })?;
        Some(format!("{}/{}", set.name(), class.name))
    })
}

fn holds(sets: &[&Document], set: &Document, rule: &Rule, flow: &Flow<'_>, time: i64) -> bool {
    let ported = matches!(flow.protocol.0, 6 | 17 | 132);
    rule.protocol.is_none_or(|p| p == flow.protocol)
        && (rule.ports.is_empty() || ported && rule.ports.iter().any(|r| r.contains(flow.port)))
        && rule.from.iter().any(|p| is(sets, set, p, &flow.source, None))
        && rule
            .to
            .iter()
            .any(|p| is(sets, set, p, &flow.destination, Some(flow)))
        && required(&rule.require, flow, time)
}

fn required(require: &Require, flow: &Flow<'_>, time: i64) -> bool {
    let known = |end: &Endpoint<'_>| match require.authentication {
        None => true,
        Some(Level::Network) => end.vm.is_some() && end.proven,
        Some(Level::Process) => end.vm.is_some() && end.proven && matches!(end.owner, Owner::Process(_)),
    };
    known(&flow.source)
        && known(&flow.destination)
        && (require.role.is_empty() || has_role(&require.role, &flow.source))
        && (require.time.is_empty() || require.time.iter().any(|window| is_open(window, time)))
}

fn has_role(roles: &[Role], end: &Endpoint<'_>) -> bool {
    let (Some(vm), Owner::Process(process)) = (end.vm, &end.owner) else {
        return false;
    };
    roles.iter().any(|role| {
        role.users.iter().any(|users| {
            let groups = || process.groups.iter().chain([&process.gid]);
            (users.vm.is_empty() || users.vm.iter().any(|p| is_vm(p, vm)))
                && (users.uid.is_empty() || users.uid.iter().any(|r| r.contains(process.uid)))
                && (users.gid.is_empty() || groups().any(|g| users.gid.iter().any(|r| r.contains(*g))))
                && (users.loginuid.is_empty()
                    || users
                        .loginuid
                        .iter()
                        .any(|r| process.loginuid.is_some_and(|id| r.contains(id))))
        })
    })
}

/// By what is written of it.
fn is_open(window: &Window, time: i64) -> bool {
    let written = serde_json::to_value(window).unwrap();
    // 1970 began on a Thursday.
    let names = ["thu", "fri", "sat", "sun", "mon", "tue", "wed"];
    let minutes = |text: &str| {
        let (hours, minutes) = text.split_once(':').unwrap();
        hours.parse::<i64>().unwrap() * 60 + minutes.parse::<i64>().unwrap()
    };
    let zone = match written["zone"].as_str() {
        None | Some("utc") => 0,
        Some(zone) if zone.starts_with('-') => -minutes(&zone[1..]),
        Some(zone) => minutes(&zone[1..]),
    };
    let minute = (time + 604_800) / 60 + zone;
    let day_is = |day: i64| {
        let name = names[(day % 7) as usize];
        written["days"]
            .as_array()
            .is_none_or(|days| days.iter().any(|d| d == name))
    };
    let (from, to) = match written["hours"].as_str() {
        Some(hours) => {
            let (from, to) = hours.split_once('-').unwrap();
            (minutes(from), minutes(to))
        }
        None => (0, 1440),
    };
    let (today, now) = (minute / 1440, minute % 1440);
    match from < to {
        true => day_is(today) && (from..to).contains(&now),
        false => (day_is(today) && now >= from) || (day_is(today + 6) && now < to),
    }
}

fn is_vm(pattern: &VmPattern, vm: &VmId) -> bool {
    match pattern {
        VmPattern::Name(pattern) => pattern.matches(&vm.name),
        VmPattern::Uuid(uuid, _) => *uuid == vm.uuid,
    }
}

/// The labels of a guest of which the ruleset was not asked: those of xenstore are in it.
fn labels(sets: &[&Document], vm: &VmId) -> BTreeMap<String, String> {
    let mut said = Vec::new();
    for set in sets {
        for (pattern, labels) in set.labels() {
            let text = pattern.as_str();
            let is = match text == "01010101-0101-0101-0101-010101010101" {
                true => vm.uuid == [1; 16],
                false => pattern.matches(&vm.name),
            };
            let wild = text.contains(['*', '?']);
            let literal = text.chars().filter(|c| !"*?".contains(*c)).count();
            if is {
                said.push((
                    wild,
                    if wild { usize::MAX - literal } else { 0 },
                    set.name(),
                    text,
                    labels,
                ));
            }
        }
    }
    // The last word is the one that counts, so the least comes first.
    said.sort_by(|a, b| (b.0, b.1, b.2, b.3).cmp(&(a.0, a.1, a.2, a.3)));
    let given = vm.facts.labels().iter();
    let mut all: BTreeMap<String, String> = given
        .map(|l| (l.key().to_owned(), l.value().to_owned()))
        .collect();
    for (.., labels) in said {
        all.extend(labels.clone());
    }
    all
}

fn is(sets: &[&Document], set: &Document, peer: &Peer, end: &Endpoint<'_>, to: Option<&Flow<'_>>) -> bool {
    let selects = |s: &Selector| selects(s, end, to) && is_labelled(sets, s, end);
    match peer {
        Peer::Any => true,
        Peer::World => end.vm.is_none(),
        Peer::Unattributed => end.vm.is_some() && end.owner == Owner::Unattributed,
        Peer::Service(name) => match name.split_once('@') {
            None => selects(&set.services()[name].selector),
            Some((name, version)) => {
                let service = &set.services()[name];
                selects(&service.selector) && selects(&service.versions[version])
            }
        },
        Peer::Inline(selector) => selects(selector),
    }
}

fn is_labelled(sets: &[&Document], s: &Selector, end: &Endpoint<'_>) -> bool {
    let Some(vm) = end.vm else {
        return s.label.is_empty() && s.xen.is_empty();
    };
    let labels = labels(sets, vm);
    let labelled = s.label.iter().all(|(key, values)| match labels.get(key) {
        Some(value) => values.iter().any(|pattern| pattern.matches(value)),
        None => false,
    });
    let typed = s.xen.guest_type.is_empty()
        || vm
            .facts
            .guest_type
            .is_some_and(|of| s.xen.guest_type.contains(&of));
    let pooled = s.xen.pool.is_empty()
        || vm
            .facts
            .pool
            .as_ref()
            .is_some_and(|pool| s.xen.pool.iter().any(|p| p.matches(pool)));
    labelled && typed && pooled
}

fn selects(s: &Selector, end: &Endpoint<'_>, to: Option<&Flow<'_>>) -> bool {
    let process: Option<&Process<'_>> = match &end.owner {
        Owner::Process(process) if end.vm.is_some() => Some(process),
        _ => None,
    };
    let address = end.address.to_canonical();
    let vm = s.vm.is_empty() || end.vm.is_some_and(|vm| s.vm.iter().any(|p| is_vm(p, vm)));
    let exe = s.exe.is_empty()
        || process
            .and_then(|p| p.exe)
            .is_some_and(|exe| s.exe.iter().any(|p| p.matches(exe)));
    let arg = s.arg.is_empty()
        || process.is_some_and(|p| p.args.iter().any(|a| s.arg.iter().any(|x| x.matches(a))));
    let uid = s.uid.is_empty() || process.is_some_and(|p| s.uid.iter().any(|r| r.contains(p.uid)));
    let container = s.container.is_empty()
        || process.is_some_and(|p| {
            s.container.iter().any(|c| match c {
                ContainerPattern::Outside => p.container.is_none(),
                ContainerPattern::Id(pattern) => p.container.is_some_and(|id| pattern.matches(id)),
            })
        });
    let listens = to.is_none_or(|flow| {
        let ported = matches!(flow.protocol.0, 6 | 17 | 132);
        (s.port.is_empty() || ported && s.port.iter().any(|r| r.contains(flow.port)))
            && s.protocol.is_none_or(|p| p == flow.protocol)
    });
    let role = s.role.is_empty() || has_role(&s.role, end);
    let parent = s.parent.is_empty()
        || process.is_some_and(|p| {
            p.parents
                .iter()
                .any(|exe| s.parent.iter().any(|x| x.matches(exe)))
        });
    let addressed = s.address.is_empty() || s.address.iter().any(|b| b.contains(address));
    vm && exe && arg && uid && container && role && parent && listens && addressed
}

fn got(ruleset: &Ruleset, decision: &Decision) -> Expected {
    let rule = match decision.by {
        Decider::Rule(id) => Some(ruleset.rule_name(id).unwrap().to_string()),
        Decider::Default(_) | Decider::Nothing | Decider::Unserved => None,
    };
    let instead = ruleset
        .instead(decision.by)
        .map(|instead| instead.name.to_string());
    (decision.verdict, decision.refuse, decision.audit, rule, instead)
}

/// As many policies, unless `XMESH_POLICIES` says how many. Each is asked of some 600 flows: 10,000 policies make six million
/// decisions.
const POLICIES: u32 = 200;
/// For the other properties.
const FLOWS: usize = 100;

fn policies() -> u32 {
    let said = std::env::var("XMESH_POLICIES").ok();
    said.map_or(POLICIES, |n| n.parse().unwrap())
}

fn without_routes(document: &Document) -> Document {
    let mut value = serde_json::to_value(document).unwrap();
    value.as_object_mut().unwrap().remove("routes");
    Document::parse("without", &value.to_string()).unwrap()
}

/// A failing case is printed in full, so no file of seeds is kept.
fn config(cases: u32) -> ProptestConfig {
    ProptestConfig {
        failure_persistence: None,
        max_shrink_iters: 2_000,
        ..ProptestConfig::with_cases(cases)
    }
}

proptest! {
    #![proptest_config(config(policies()))]

    #[test]
    fn decisions_are_those_of_a_plain_reading(
        documents in documents(),
        flows in flows(),
        time in time(),
    ) {
        let ruleset = Ruleset::compile(&documents, 1).unwrap().at(time);
        for owned in &flows {
            let known = owned.known(&ruleset);
            let (plain, flow) = (owned.flow(), known.flow());
            let decision = ruleset.decide(&flow);
            let asked = Asked { flow: &plain, time, tried: false };
            let expected = expect(&documents, asked);
            prop_assert_eq!(&got(&ruleset, &decision), &expected, "{:?}", owned);
            let tried = expect(&documents, Asked { tried: true, ..asked });
            let differs = tried.3 != expected.3 && (tried.0, tried.2) != (expected.0, expected.2);
            let would = decision.dry_run.map(|d| (ruleset.rule_name(d.rule).unwrap().to_string(), d.verdict, d.audit));
            prop_assert_eq!(
                would,
                differs.then(|| (tried.3.unwrap(), tried.0, tried.2)),
                "{:?}", owned
            );
            let mirror = decision
                .mirror
                .map(|m| (ruleset.mirror_name(m.to).unwrap().to_owned(), m.share));
            let by = got(&ruleset, &decision).3;
            let rules = documents.iter().flat_map(|set| set.rules().iter().map(move |rule| (set, rule)));
            let said = rules
                .filter(|(set, rule)| by.as_ref() == Some(&format!("{}/{}", set.name(), rule.name)))
                .find_map(|(_, rule)| rule.mirror.as_ref());
            let said = said.map(|m| match &m.to {
                MirrorTo::Vm(vm) => (vm.as_str().to_owned(), m.share),
                MirrorTo::Service(name) => panic!("{name} is none"),
            });
            prop_assert_eq!(mirror, said, "{:?}", owned);
            let class = decision.class.map(|id| ruleset.class(id).unwrap().to_string());
            let expected = match decision.verdict {
                Verdict::Allow => expect_class(&documents, &plain, time),
                Verdict::Deny => None,
            };
            prop_assert_eq!(class, expected, "{:?}", owned);
            if let Some(id) = decision.class {
                for vm in [flow.source.vm, flow.destination.vm].into_iter().flatten() {
                    // Both their vifs have it.
                    prop_assert!(ruleset.classes_of(vm).any(|class| class.id == id), "{:?}", owned);
                }
            }
        }
    }
}

/// The version of the first canary of the set's route that matches.
fn canary<'d>(sets: &[&Document], set: &'d Document, flow: &Flow<'_>) -> Option<&'d str> {
    let route = set.routes().values().next().unwrap();
    route
        .canary
        .iter()
        .find(|c| c.from.iter().any(|p| is(sets, set, p, &flow.source, None)))
        .map(|c| c.to.as_str())
}

proptest! {
    #![proptest_config(config(50))]

    #[test]
    fn canaries_are_those_of_a_plain_reading(
        documents in documents(),
        flows in proptest::collection::vec(flow(), FLOWS),
    ) {
        let ruleset = Ruleset::compile(&documents, 1).unwrap().at(40_000);
        let mut sets: Vec<&Document> = documents.iter().collect();
        sets.sort_by_key(|d| d.name());
        for owned in &flows {
            let known = owned.known(&ruleset);
            let (plain, flow) = (owned.flow(), known.flow());
            for route in ruleset.routes() {
                let set = documents.iter().find(|d| d.name() == &*route.set).unwrap();
                let version = route.canary(&flow.source).map(|v| route.version_name(v));
                prop_assert_eq!(version, canary(&sets, set, &plain), "{:?}", owned);
            }
        }
    }

    #[test]
    fn what_holds_for_any_process_holds_for_each(
        documents in documents(),
        flows in proptest::collection::vec(flow(), FLOWS),
    ) {
        let ruleset = Ruleset::compile(&documents, 1).unwrap().at(40_000);
        for owned in &flows {
            let labelled = owned.known(&ruleset);
            let mut flow = labelled.flow();
            let known = ruleset.decide(&flow);
            flow.source.owner = Owner::Unknown;
            flow.destination.owner = Owner::Unknown;
            if let Some(sure) = ruleset.decide_for_any_process(&flow) {
                prop_assert_eq!(
                    (known.verdict, known.refuse, known.audit),
                    (sure.verdict, sure.refuse, sure.audit)
                );
            }
            // A VM none of whose rules ask for a process has nothing to wait for.
            let waits = |vm: Option<&VmId>, side| vm.is_some_and(|vm| ruleset.depends_on_process(vm, side));
            if !waits(flow.source.vm, Side::Source) && !waits(flow.destination.vm, Side::Destination) {
                prop_assert!(ruleset.decide_for_any_process(&flow).is_some());
            }
        }
    }

    #[test]
    fn explanations_agree_with_decisions(
        documents in documents(),
        flows in proptest::collection::vec(flow(), 20),
    ) {
        let ruleset = Ruleset::compile(&documents, 1).unwrap().at(40_000);
        for owned in &flows {
            let known = owned.known(&ruleset);
            let flow = known.flow();
            let explanation = ruleset.explain(&flow);
            let decision = ruleset.decide(&flow);
            prop_assert_eq!(explanation.decision, decision);
            let named = match decision.by {
                Decider::Rule(id) => Some(ruleset.rule_name(id).unwrap().to_string()),
                _ => None,
            };
            prop_assert_eq!(explanation.rule.as_ref().map(|m| m.rule.clone()), named);
            let instead = ruleset.instead(decision.by).map(|instead| instead.name.to_string());
            prop_assert_eq!(explanation.rule.as_ref().and_then(|m| m.instead.clone()), instead);
            if explanation.rule.is_none() {
                // What is in dry run matches and decides nothing.
                prop_assert!(explanation.also.iter().all(|also| also.dry_run));
            }
            for near in &explanation.near {
                prop_assert!(!near.wanted.is_empty(), "{:?}", near);
            }
            prop_assert!(explanation.to_string().lines().count() > 0);
        }
    }

    #[test]
    fn a_ruleset_that_was_changed_is_the_one_that_is_compiled_anew(
        steps in proptest::collection::vec((document_of_any(), any::<bool>()), 1..12),
        flows in proptest::collection::vec(flow(), 40),
    ) {
        let mut sets: BTreeMap<String, Arc<Document>> = BTreeMap::new();
        let mut ruleset = Ruleset::empty(0);
        for (generation, (document, stays)) in (1..).zip(steps) {
            let name = document.name().to_owned();
            // One that is there goes, or is replaced; one that is not comes.
            match sets.contains_key(&name) && !stays {
                true => drop(sets.remove(&name)),
                false => drop(sets.insert(name, Arc::new(document))),
            }
            ruleset = ruleset.changed(sets.values().cloned().collect(), generation).unwrap();
            let plain: Vec<Document> = sets.values().map(|d| (**d).clone()).collect();
            let anew = Ruleset::compile(&plain, generation).unwrap();
            let names = |r: &Ruleset| r.rule_names().map(|n| (n.id, n.to_string())).collect::<Vec<_>>();
            prop_assert_eq!(names(&ruleset), names(&anew));
            for (id, name) in names(&ruleset) {
                prop_assert_eq!(ruleset.rule_name(id).map(|n| n.to_string()), Some(name));
            }
            prop_assert_eq!(ruleset.ports(), anew.ports());
            let (then, anew) = (ruleset.at(40_000), anew.at(40_000));
            for owned in &flows {
                let known = owned.known(&then);
                prop_assert_eq!(&format!("{known:?}"), &format!("{:?}", owned.known(&anew)));
                let flow = known.flow();
                let decision = then.decide(&flow);
                prop_assert_eq!(decision, anew.decide(&flow));
                prop_assert_eq!(then.decide_for_any_process(&flow), anew.decide_for_any_process(&flow));
                let mirror = |r: &Ruleset| decision.mirror.map(|m| r.mirror_name(m.to).unwrap().to_owned());
                prop_assert_eq!(mirror(&then), mirror(&anew));
            }
        }
        // What is taken out leaves nothing behind.
        let nothing = ruleset.changed(Vec::new(), 99).unwrap();
        prop_assert_eq!(nothing.rule_names().count(), 0);
        for owned in &flows {
            prop_assert_eq!(nothing.decide(&owned.flow()), Ruleset::empty(99).decide(&owned.flow()));
        }
    }

    #[test]
    fn a_change_that_is_rolled_out_decides_as_one_of_both_policies(
        before in documents(),
        changes in proptest::collection::vec((document_of_any(), proptest::bool::weighted(0.8)), 1..4),
        stage in proptest::sample::select(vec!["web1", "web*", "*", "nobody"]),
        flows in proptest::collection::vec(flow(), 40),
    ) {
        // Only routes cannot be in two states.
        let before: BTreeMap<String, Arc<Document>> =
            before.iter().map(|d| (d.name().to_owned(), Arc::new(without_routes(d)))).collect();
        let mut after = before.clone();
        for (document, stays) in changes {
            match stays {
                true => drop(after.insert(document.name().to_owned(), Arc::new(without_routes(&document)))),
                false => drop(after.remove(document.name())),
            }
        }
        let all = |sets: &BTreeMap<String, Arc<Document>>| sets.values().cloned().collect::<Vec<_>>();
        let was = Ruleset::empty(0).changed(all(&before), 7).unwrap();
        let will_be = was.changed(all(&after), 7).unwrap().at(40_000);
        let vms: Vec<Pattern> = vec![stage.parse().unwrap()];
        let rollout = Rollout { vms };
        let staged = was.staged(all(&before), all(&after), rollout.clone(), 7).unwrap().at(40_000);
        let was = was.at(40_000);
        let plain = |name: String| name.replace(" (staged)", "");
        for owned in &flows {
            let flow = owned.flow();
            let is_after = [flow.source.vm, flow.destination.vm].into_iter().flatten().any(|vm| rollout.is_for(vm));
            let one = if is_after { &will_be } else { &was };
            let say = |r: &Ruleset, d: Decision| {
                let (verdict, refuse, audit, rule, instead) = got(r, &d);
                let class = d.class.map(|id| plain(r.class(id).unwrap().to_string()));
                let mirror = d.mirror.map(|m| (r.mirror_name(m.to).unwrap().to_owned(), m.share));
                let dry = d.dry_run.map(|d| (plain(r.rule_name(d.rule).unwrap().to_string()), d.verdict, d.audit));
                (verdict, refuse, audit, rule.map(plain), instead, class, mirror, dry)
            };
            prop_assert_eq!(say(&staged, staged.decide(&owned.known(&staged).flow())), say(one, one.decide(&owned.known(one).flow())), "{:?}", owned);
            let surely = |r: &Ruleset| {
                r.decide_for_any_process(&owned.known(r).flow()).map(|d| (d.verdict, d.refuse, d.audit))
            };
            prop_assert_eq!(surely(&staged), surely(one), "{:?}", owned);
            let walked = |r: &Ruleset| plain(r.explain(&owned.known(r).flow()).to_string());
            prop_assert_eq!(walked(&staged), walked(one), "{:?}", owned);
            for vm in [flow.source.vm, flow.destination.vm].into_iter().flatten() {
                let of = if rollout.is_for(vm) { &will_be } else { &was };
                prop_assert_eq!(staged.lock_of(vm).map(|s| s.value), of.lock_of(vm).map(|s| s.value));
                prop_assert_eq!(staged.default_of(vm).map(|s| s.value), of.default_of(vm).map(|s| s.value));
                for side in [Side::Source, Side::Destination] {
                    // It may be of the other end that the flow is decided by the policy as it will be. With labels of the one
                    // a rule of the other may seem to be about it, too.
                    let depends = |r: &Ruleset| r.depends_on_process(&r.known(vm), side);
                    let counts = depends(&will_be) || (!rollout.is_for(vm) && depends(&was));
                    prop_assert!(depends(&staged) || !counts);
                }
            }
        }
        // Taken back, nothing of it is left.
        let back = staged.changed(all(&before), 7).unwrap().at(40_000);
        for owned in &flows {
            let flow = owned.known(&back);
            prop_assert_eq!(back.decide(&flow.flow()), was.decide(&owned.known(&was).flow()));
        }
    }

    #[test]
    fn order_of_documents_and_form_of_text_do_not_matter(
        documents in documents(),
        flows in proptest::collection::vec(flow(), 20),
    ) {
        let ruleset = Ruleset::compile(&documents, 1).unwrap().at(40_000);
        let again: Vec<Document> = documents
            .iter()
            .rev()
            .map(|d| Document::parse("canonical", &serde_json::to_string(d).unwrap()).unwrap())
            .collect();
        let mut back = again.clone();
        back.reverse();
        prop_assert_eq!(&back, &documents);
        let again = Ruleset::compile(&again, 1).unwrap().at(40_000);
        for owned in &flows {
            let flow = owned.known(&ruleset);
            prop_assert_eq!(ruleset.decide(&flow.flow()), again.decide(&owned.known(&again).flow()));
        }
    }
}
