// SPDX-License-Identifier: GPL-3.0-only
//! A policy that is not in force, tried on kinds of flow as the history has them.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use policy::document::Peer;
use policy::{Decider, Decision, Document, Endpoint, Flow, Owner, Process, Protocol, Ruleset, VmId};
use policyd_api::{FlowEnd, FlowName, Verdict};

/// A policy to try.
pub struct Candidate {
    rules: Arc<Ruleset>,
    /// It has selectors that ask for arguments, which the history does not always have.
    asks_arguments: bool,
    /// Something in it asks for what is kept of no flow: a role, an ancestor, a level of authentication, a time of the week.
    asks_more: bool,
    /// What xenstore and Xen say of guests is asked.
    asks_guests: bool,
    /// The guests that there are, by UUID.
    guests: HashMap<[u8; 16], VmId>,
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
        let (mut asks_arguments, mut asks_more, mut asks_guests) = (false, false, false);
        for document in documents {
            let services = document.services().values().map(|service| &service.selector);
            let ends = document
                .rules()
                .iter()
                .flat_map(|rule| rule.from.iter().chain(&rule.to));
            let inline = ends.filter_map(|end| match end {
                Peer::Inline(selector) => Some(&**selector),
                _ => None,
            });
            for selector in services.chain(inline) {
                asks_arguments |= !selector.arg.is_empty();
                asks_guests |= !selector.label.is_empty() || !selector.xen.is_empty();
                asks_more |= !selector.role.is_empty() || !selector.parent.is_empty();
            }
            asks_more |= document.rules().iter().any(|rule| !rule.require.is_empty());
        }
        Candidate {
            rules,
            asks_arguments,
            asks_more,
            asks_guests,
            guests: HashMap::new(),
        }
    }

    /// The same where these guests are known: a flow of one of them is judged by the labels that it has now.
    pub fn among(self, guests: impl IntoIterator<Item = VmId>) -> Candidate {
        let guests = guests.into_iter().map(|vm| (vm.uuid, self.rules.known(&vm)));
        Candidate {
            guests: guests.collect(),
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
        let end = |end| Some(End::of(end)?.known(|vm| self.known(vm)));
        let (from, to) = (end(&name.from)?, end(&name.to)?);
        let flow = Flow {
            protocol,
            source: from.endpoint(),
            destination: to.endpoint(),
            port: name.port.unwrap_or(0),
        };
        let decision = decide(&self.rules, &flow);
        let cut = |end: &FlowEnd| end.uid.is_some() && end.args.is_none();
        let unsure = match () {
            () if name.port.is_none() => Some("they went to many ports, which are not kept each"),
            () if name.from.prefix.or(name.to.prefix).is_some() => {
                Some("they had many addresses outside, which are not kept each")
            }
            () if self.asks_arguments && (cut(&name.from) || cut(&name.to)) => {
                Some("arguments of the program are not kept")
            }
            () if self.asks_guests && (self.is_gone(&from) || self.is_gone(&to)) => {
                Some("what xenstore and Xen said of a guest that is gone is not kept")
            }
            () if self.asks_more => {
                Some("roles, ancestors, levels of authentication and times of the week are not kept")
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

    /// For the policy engine. What it may ask of a process beyond what the history has, is not met.
    #[allow(clippy::needless_update, reason = "what else a process has is not kept")]
    pub fn endpoint(&self) -> Endpoint<'_> {
        let Some(vm) = &self.vm else {
            return Endpoint::world(self.address);
        };
        let end = Endpoint::guest(vm, self.address);
        match self.of.uid {
            Some(uid) => end.with_process(Process {
                exe: self.of.exe.as_deref(),
                args: self.of.args.as_deref().unwrap_or_default(),
                uid,
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
    fn a_uuid_selects_its_guest() {
        let candidate = candidate(&POLICY.replace("vm: web1", "vm: 00000000-0000-0000-0000-0000000000ff"));
        let curl = flow(Some("/usr/bin/curl"), Verdict::Allow);
        assert_eq!(verdict(&candidate, &curl).0, Verdict::Allow);
    }
}
