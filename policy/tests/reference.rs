// SPDX-License-Identifier: GPL-3.0-only
//! The compiled ruleset against a plain reading of the same documents.
//!
//! The reference is written from the crate's documentation, rule by rule and list by list, and shares
//! nothing with the ruleset but patterns, blocks and ranges, which have tests of their own.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use common::{documents, flow};
use policy::document::{ContainerPattern, MirrorTo, Peer, Rule, Selector, Target, VmPattern};
use policy::{
    Action, Decider, Decision, Document, Endpoint, Flow, Owner, Process, Refuse, Ruleset, Side, Verdict, VmId,
};
use proptest::prelude::*;

/// What a reader of the documents expects: verdict, refusal, audit, the name of the rule, and where the flow goes instead.
type Expected = (Verdict, Refuse, bool, Option<String>, Option<String>);

fn expect(documents: &[Document], flow: &Flow<'_>) -> Expected {
    let mut sets: Vec<&Document> = documents.iter().collect();
    sets.sort_by_key(|d| d.name());
    for kind in ["deny", "audit", "allow"] {
        for set in &sets {
            for rule in set.rules() {
                if rule.action.as_str() == kind && holds(set, rule, flow) {
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
fn expect_class(documents: &[Document], flow: &Flow<'_>) -> Option<String> {
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
                action: Action::Allow,
                instead: None,
                mirror: None,
            };
            holds(set, &rule, flow)
        })?;
        Some(format!("{}/{}", set.name(), class.name))
    })
}

fn holds(set: &Document, rule: &Rule, flow: &Flow<'_>) -> bool {
    let ported = matches!(flow.protocol.0, 6 | 17 | 132);
    rule.protocol.is_none_or(|p| p == flow.protocol)
        && (rule.ports.is_empty() || ported && rule.ports.iter().any(|r| r.contains(flow.port)))
        && rule.from.iter().any(|p| is(set, p, &flow.source, None))
        && rule.to.iter().any(|p| is(set, p, &flow.destination, Some(flow)))
}

fn is(set: &Document, peer: &Peer, end: &Endpoint<'_>, to: Option<&Flow<'_>>) -> bool {
    match peer {
        Peer::Any => true,
        Peer::World => end.vm.is_none(),
        Peer::Unattributed => end.vm.is_some() && end.owner == Owner::Unattributed,
        Peer::Service(name) => selects(&set.services()[name], end, to),
        Peer::Inline(selector) => selects(selector, end, to),
    }
}

fn selects(s: &Selector, end: &Endpoint<'_>, to: Option<&Flow<'_>>) -> bool {
    let process: Option<&Process<'_>> = match &end.owner {
        Owner::Process(process) if end.vm.is_some() => Some(process),
        _ => None,
    };
    let address = end.address.to_canonical();
    let vm = s.vm.is_empty()
        || end.vm.is_some_and(|vm| {
            s.vm.iter().any(|p| match p {
                VmPattern::Name(pattern) => pattern.matches(&vm.name),
                VmPattern::Uuid(uuid, _) => *uuid == vm.uuid,
            })
        });
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
    let addressed = s.address.is_empty() || s.address.iter().any(|b| b.contains(address));
    vm && exe && arg && uid && container && listens && addressed
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

/// 2000 policies with 100 flows each.
const POLICIES: u32 = 2_000;
const FLOWS: usize = 100;

/// A failing case is printed in full, so no file of seeds is kept.
fn config(cases: u32) -> ProptestConfig {
    ProptestConfig {
        failure_persistence: None,
        max_shrink_iters: 2_000,
        ..ProptestConfig::with_cases(cases)
    }
}

proptest! {
    #![proptest_config(config(POLICIES))]

    #[test]
    fn decisions_are_those_of_a_plain_reading(
        documents in documents(),
        flows in proptest::collection::vec(flow(), FLOWS),
    ) {
        let ruleset = Ruleset::compile(&documents, 1).unwrap();
        for owned in &flows {
            let flow = owned.flow();
            let decision = ruleset.decide(&flow);
            prop_assert_eq!(got(&ruleset, &decision), expect(&documents, &flow), "{:?}", owned);
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
                Verdict::Allow => expect_class(&documents, &flow),
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
fn canary<'d>(set: &'d Document, flow: &Flow<'_>) -> Option<&'d str> {
    let route = set.routes().values().next().unwrap();
    route
        .canary
        .iter()
        .find(|c| c.from.iter().any(|p| is(set, p, &flow.source, None)))
        .map(|c| c.to.as_str())
}

proptest! {
    #![proptest_config(config(300))]

    #[test]
    fn canaries_are_those_of_a_plain_reading(
        documents in documents(),
        flows in proptest::collection::vec(flow(), FLOWS),
    ) {
        let ruleset = Ruleset::compile(&documents, 1).unwrap();
        for owned in &flows {
            let flow = owned.flow();
            for route in ruleset.routes() {
                let set = documents.iter().find(|d| d.name() == &*route.set).unwrap();
                let version = route.canary(&flow.source).map(|v| route.version_name(v));
                prop_assert_eq!(version, canary(set, &flow), "{:?}", owned);
            }
        }
    }

    #[test]
    fn what_holds_for_any_process_holds_for_each(
        documents in documents(),
        flows in proptest::collection::vec(flow(), FLOWS),
    ) {
        let ruleset = Ruleset::compile(&documents, 1).unwrap();
        for owned in &flows {
            let mut flow = owned.flow();
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
        let ruleset = Ruleset::compile(&documents, 1).unwrap();
        for owned in &flows {
            let flow = owned.flow();
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
                prop_assert!(explanation.also.is_empty());
            }
            for near in &explanation.near {
                prop_assert!(!near.wanted.is_empty(), "{:?}", near);
            }
            prop_assert!(explanation.to_string().lines().count() > 0);
        }
    }

    #[test]
    fn order_of_documents_and_form_of_text_do_not_matter(
        documents in documents(),
        flows in proptest::collection::vec(flow(), 20),
    ) {
        let ruleset = Ruleset::compile(&documents, 1).unwrap();
        let again: Vec<Document> = documents
            .iter()
            .rev()
            .map(|d| Document::parse("canonical", &serde_json::to_string(d).unwrap()).unwrap())
            .collect();
        let mut back = again.clone();
        back.reverse();
        prop_assert_eq!(&back, &documents);
        let again = Ruleset::compile(&again, 1).unwrap();
        for owned in &flows {
            prop_assert_eq!(ruleset.decide(&owned.flow()), again.decide(&owned.flow()));
        }
    }
}
