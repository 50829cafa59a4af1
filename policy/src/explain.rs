// SPDX-License-Identifier: GPL-3.0-only
//! Why a flow passes or not: for people who ask, not for the path of packets.

use std::fmt::{self, Display};

use serde::{Deserialize, Serialize};

use crate::clock::Time;
use crate::document::{Action, Require, Selector};
use crate::flow::{Flow, Measured, Owner, Process, Side, VmId};
use crate::label::{GuestType, Label, value_of};
use crate::matching::{Condition, Subject, Truth, label_is, of_roles};
use crate::ruleset::{CompiledRule, Decider, Decision, End, Ruleset, Verdict};

/// At most so many near misses are listed; a large policy has many of no interest.
const MAX_NEAR: usize = 20;

/// Why a flow passes or not. Prints as some lines of text, the decision first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// What was decided.
    pub decision: Decision,
    /// The class of bandwidth that it is in if it passes, and how that is treated.
    pub class: Option<String>,
    /// Who gets copies of it, and of how many such flows.
    pub mirror: Option<String>,
    /// The rule that decided, if one did.
    pub rule: Option<Match>,
    /// Every other rule that matched, in order.
    pub also: Vec<Match>,
    /// What would become of it if no rule were in dry run, where that is another thing: as `deny by rule shop/no-telnet`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dry_run: Option<String>,
    /// Rules that ask one thing that does not hold, in order; the first 20.
    pub near: Vec<NearMiss>,
    /// Near misses that are not listed.
    pub more_near: usize,
    /// The defaults of the VMs at both ends; consulted only where no rule matched.
    pub defaults: Vec<Consulted>,
}

/// A rule that matched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Match {
    /// `set/name`.
    pub rule: String,
    /// `allow`, `deny` or `audit`.
    pub action: String,
    /// What the source matched: a service's name, `any`, …
    pub from: String,
    /// What the destination matched.
    pub to: String,
    /// Where it sends what it denies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instead: Option<String>,
    /// It is in dry run, and decides nothing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
}

/// A rule that all but matched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NearMiss {
    /// `set/name`.
    pub rule: String,
    /// `allow`, `deny` or `audit`.
    pub action: String,
    /// The end that missed; none where protocol or port did.
    pub side: Option<Side>,
    /// What did not hold.
    pub condition: Condition,
    /// What the rule asks.
    pub wanted: String,
    /// What the flow has.
    pub found: String,
}

/// What was said of a VM's default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Consulted {
    /// The end.
    pub side: Side,
    /// Its VM.
    pub vm: String,
    /// `allow`, `deny` or `audit`.
    pub action: String,
    /// Set and pattern that say so; none where no set says anything, which allows.
    pub said: Option<(String, String)>,
}

impl Ruleset {
    /// Why a flow passes or not. Tries every rule, so it costs what the policy is large.
    pub fn explain(&self, flow: &Flow<'_>) -> Explanation {
        let decision = self.decide(flow);
        let mut explanation = Explanation {
            decision,
            class: decision
                .class
                .and_then(|id| self.class(id))
                .map(|class| format!("{class} ({})", class.treatment)),
            mirror: decision.mirror.and_then(|mirror| {
                let name = self.mirror_name(mirror.to)?;
                Some(format!("{} of such flows, to {name}", mirror.share))
            }),
            rule: None,
            also: Vec::new(),
            dry_run: decision.dry_run.and_then(|would| {
                let verdict = match (would.verdict, would.audit) {
                    (Verdict::Deny, _) => "deny",
                    (Verdict::Allow, true) => "allow with an event",
                    (Verdict::Allow, false) => "allow",
                };
                Some(format!("{verdict} by rule {}", self.rule_name(would.rule)?))
            }),
            near: Vec::new(),
            more_near: 0,
            defaults: self.consulted(flow),
        };
        let after = self.is_after(flow);
        let ends = [Side::Source, Side::Destination].map(|side| (side, Subject::of(flow, side, after)));
        for (id, rule) in self.parts.rules_of(after) {
            let mut misses = rule.misses(flow, &ends, self.time);
            match (misses.pop(), misses.is_empty()) {
                (None, _) => {
                    let matched = rule.matched(&ends);
                    if decision.by == Decider::Rule(id) {
                        explanation.rule = Some(matched);
                    } else {
                        explanation.also.push(matched);
                    }
                }
                (Some(miss), true) if explanation.near.len() < MAX_NEAR => {
                    explanation.near.push(NearMiss {
                        rule: rule.full_name(),
                        action: rule.action.as_str().to_owned(),
                        side: miss.side,
                        condition: miss.condition,
                        wanted: miss.wanted,
                        found: miss.found,
                    });
                }
                (Some(_), true) => explanation.more_near += 1,
                (Some(_), false) => {}
            }
        }
        explanation
    }

    fn consulted(&self, flow: &Flow<'_>) -> Vec<Consulted> {
        let said = &self.by_vm(self.is_after(flow)).defaults;
        [
            (Side::Source, flow.source.vm),
            (Side::Destination, flow.destination.vm),
        ]
        .into_iter()
        .filter_map(|(side, vm)| {
            let vm = vm?;
            let default = said.of(vm);
            Some(Consulted {
                side,
                vm: vm.name.clone(),
                action: default.map_or(Action::Allow, |d| d.value).as_str().to_owned(),
                said: default.map(|d| (d.set.to_string(), d.pattern.to_string())),
            })
        })
        .collect()
    }
}

/// Both ends of a flow.
type Ends<'f> = [(Side, Subject<'f>); 2];

/// One thing that a rule asks and that does not hold.
struct Miss {
    side: Option<Side>,
    condition: Condition,
    wanted: String,
    found: String,
}

impl CompiledRule {
    pub(crate) fn full_name(&self) -> String {
        format!("{}/{}", self.set, self.name)
    }

    fn matched(&self, [source, destination]: &Ends<'_>) -> Match {
        let end = |(side, subject): &(Side, Subject<'_>)| {
            self.ends(*side)
                .iter()
                .find(|end| end.matches(subject) == Truth::Yes)
                .map(End::label)
                .unwrap_or_default()
        };
        Match {
            rule: self.full_name(),
            action: self.action.as_str().to_owned(),
            from: end(source),
            to: end(destination),
            instead: self.instead.as_ref().map(|instead| instead.name.to_string()),
            dry_run: self.dry_run,
        }
    }

    /// What does not hold: of the rule itself, and of the alternative at each end that misses least.
    fn misses(&self, flow: &Flow<'_>, ends: &Ends<'_>, time: Time) -> Vec<Miss> {
        let mut misses = Vec::new();
        if !self.protocol_holds(flow) {
            misses.push(Miss {
                side: None,
                condition: Condition::Protocol,
                wanted: self.protocol.map(|p| p.to_string()).unwrap_or_default(),
                found: flow.protocol.to_string(),
            });
        }
        if !self.port_holds(flow) {
            misses.push(Miss {
                side: None,
                condition: Condition::Port,
                wanted: join(&self.ports),
                found: flow.port.to_string(),
            });
        }
        for (side, subject) in ends {
            let least = self
                .ends(*side)
                .iter()
                .map(|end| end.misses(*side, subject))
                .min_by_key(Vec::len);
            misses.extend(least.unwrap_or_default());
        }
        if let Some(require) = &self.require {
            misses.extend(require.misses(ends, time));
        }
        misses
    }
}

impl Require {
    fn misses(&self, ends: &Ends<'_>, time: Time) -> Vec<Miss> {
        let mut misses = Vec::new();
        for (side, subject) in ends {
            let mut miss = |condition, wanted| {
                misses.push(Miss {
                    side: Some(*side),
                    condition,
                    wanted,
                    found: found(condition, subject),
                });
            };
            if let Some(level) = self
                .authentication
                .of(*side)
                .filter(|level| level.holds(subject) != Truth::Yes)
            {
                miss(Condition::Authentication, level.as_str().to_owned());
            }
            let asked = *side == Side::Source && !self.role.is_empty();
            if asked && of_roles(&self.role, subject) != Truth::Yes {
                miss(Condition::Role, join(self.role.iter().map(|role| &role.name)));
            }
        }
        if !self.is_open(time) {
            misses.push(Miss {
                side: None,
                condition: Condition::Time,
                wanted: join(&self.time),
                found: "another time".to_owned(),
            });
        }
        misses
    }
}

impl End {
    pub(crate) fn label(&self) -> String {
        match self {
            End::Any => "any".to_owned(),
            End::World => "world".to_owned(),
            End::Unattributed => "unattributed".to_owned(),
            End::Selector {
                service: Some(name), ..
            } => name.to_string(),
            End::Selector { selector, .. } => selector.to_string(),
        }
    }

    fn misses(&self, side: Side, subject: &Subject<'_>) -> Vec<Miss> {
        let miss = |condition, wanted| Miss {
            side: Some(side),
            condition,
            wanted,
            found: found(condition, subject),
        };
        match self {
            _ if self.matches(subject) == Truth::Yes => Vec::new(),
            End::Any => Vec::new(),
            End::World => vec![miss(Condition::World, "no guest of this host".to_owned())],
            End::Unattributed => {
                vec![miss(Condition::Unattributed, "no socket that owns it".to_owned())]
            }
            End::Selector { selector, .. } => Condition::OF_SELECTOR
                .into_iter()
                .filter(|condition| {
                    matches!(
                        selector.check(*condition, subject),
                        Some(Truth::No | Truth::Maybe)
                    )
                })
                .flat_map(|condition| match condition {
                    // Each of their fields is one thing that is asked.
                    Condition::Label | Condition::Xen => selector
                        .fields_missed(condition, subject)
                        .into_iter()
                        .map(|(wanted, found)| Miss {
                            found,
                            ..miss(condition, wanted)
                        })
                        .collect(),
                    _ => vec![miss(condition, selector.wanted(condition))],
                })
                .collect(),
        }
    }
}

impl Selector {
    /// What of `label` or `xen` does not hold, field by field: what is asked, and what the end has.
    fn fields_missed(&self, condition: Condition, subject: &Subject<'_>) -> Vec<(String, String)> {
        let Some(vm) = subject.vm else {
            return vec![(self.wanted(condition), found(condition, subject))];
        };
        match condition {
            Condition::Label => self
                .label
                .iter()
                .filter(|(key, values)| !label_is(subject.labels, key, values))
                .map(|(key, values)| {
                    let has = value_of(subject.labels, key);
                    let has = has.map_or(format!("without {key}"), |value| format!("{key}={value}"));
                    (format!("{key}={}", join(values)), has)
                })
                .collect(),
            _ => {
                let of_type = (!self.xen.type_holds(vm)).then(|| {
                    let wanted = format!("type {}", join(&self.xen.guest_type));
                    (wanted, format!("type {}", guest_type(vm)))
                });
                let of_pool = (!self.xen.pool_holds(vm)).then(|| {
                    let wanted = format!("pool {}", join(&self.xen.pool));
                    (wanted, format!("pool {}", pool(vm)))
                });
                of_type.into_iter().chain(of_pool).collect()
            }
        }
    }

    /// What it asks of one condition; empty where it does not.
    fn wanted(&self, condition: Condition) -> String {
        match condition {
            Condition::Protocol => self.protocol.map(|p| p.to_string()).unwrap_or_default(),
            Condition::Port => join(&self.port),
            Condition::Vm => join(self.vm.iter().map(|p| p.as_str())),
            Condition::Label => {
                let pairs = self
                    .label
                    .iter()
                    .map(|(key, values)| format!("{key}: {}", join(values)));
                fields(pairs)
            }
            Condition::Xen => {
                let guest_type = (!self.xen.guest_type.is_empty()).then(|| join(&self.xen.guest_type));
                let pool = (!self.xen.pool.is_empty()).then(|| join(&self.xen.pool));
                let guest_type = guest_type.map(|said| format!("type: {said}"));
                fields(
                    guest_type
                        .into_iter()
                        .chain(pool.map(|said| format!("pool: {said}"))),
                )
            }
            Condition::Address => join(&self.address),
            Condition::Exe => join(&self.exe),
            Condition::Arg => join(&self.arg),
            Condition::Uid => join(&self.uid),
            Condition::Role => join(self.role.iter().map(|role| &role.name)),
            Condition::Parent => join(&self.parent),
            Condition::Container => join(self.container.iter().map(|p| p.as_str())),
            Condition::World | Condition::Unattributed | Condition::Authentication | Condition::Time => {
                String::new()
            }
        }
    }
}

/// What is said of several fields as one text; empty where there are none.
fn fields(said: impl Iterator<Item = String>) -> String {
    let said: Vec<String> = said.collect();
    match said.is_empty() {
        true => String::new(),
        false => format!("{{ {} }}", said.join(", ")),
    }
}

/// As in a document: `{ vm: web1, exe: /usr/bin/curl }`.
impl Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let said: Vec<String> = Condition::OF_SELECTOR
            .into_iter()
            .map(|condition| (condition, self.wanted(condition)))
            .filter(|(_, wanted)| !wanted.is_empty())
            .map(|(condition, wanted)| format!("{condition}: {wanted}"))
            .collect();
        write!(f, "{{ {} }}", said.join(", "))
    }
}

/// What the end has, where a condition misses.
fn found(condition: Condition, subject: &Subject<'_>) -> String {
    let of_process = match (&subject.owner, subject.vm) {
        (_, None) => Err("not a guest of this host"),
        (Owner::Unknown, _) => Err("not known: the process has not been seen"),
        (Owner::Unattributed, _) => Err("none: no socket in the guest owns it"),
        (Owner::Process(process), _) => Ok(process),
    };
    match condition {
        Condition::Protocol => subject.listens.map(|(p, _)| p.to_string()).unwrap_or_default(),
        Condition::Port => subject
            .listens
            .map(|(_, port)| port.to_string())
            .unwrap_or_default(),
        Condition::Vm | Condition::World => subject
            .vm
            .map_or("not a guest of this host".to_owned(), |vm| vm.name.clone()),
        Condition::Label => match (subject.vm, subject.labels) {
            (None, _) => "not a guest of this host".to_owned(),
            (Some(_), []) => "a VM without labels".to_owned(),
            (Some(_), labels) => {
                let labels: Vec<String> = labels.iter().map(Label::to_string).collect();
                labels.join(", ")
            }
        },
        Condition::Xen => subject.vm.map_or("not a guest of this host".to_owned(), |vm| {
            format!("type {}, pool {}", guest_type(vm), pool(vm))
        }),
        Condition::Address => subject.address.to_string(),
        Condition::Exe => {
            of_process.map_or_else(str::to_owned, |p| p.exe.unwrap_or("not readable").to_owned())
        }
        Condition::Arg => of_process.map_or_else(str::to_owned, |p| p.args.join(" ")),
        Condition::Uid => of_process.map_or_else(str::to_owned, |p| p.uid.to_string()),
        Condition::Container => {
            of_process.map_or_else(str::to_owned, |p| p.container.unwrap_or("none").to_owned())
        }
        Condition::Role => of_process.map_or_else(str::to_owned, user),
        Condition::Parent => of_process.map_or_else(str::to_owned, |p| match p.parents {
            [] => "a process without ancestors that are known".to_owned(),
            parents => parents.join(" of "),
        }),
        Condition::Authentication => match (subject.vm, subject.proven) {
            (None, _) => "not a guest of this host".to_owned(),
            (Some(_), false) => format!("{}, which no lock holds it to", subject.address),
            (Some(_), true) => of_process.map_or_else(str::to_owned, |p| {
                let beyond = match p.measured {
                    Measured::Same => return "measured".to_owned(),
                    Measured::Unknown => "its text has not been measured yet",
                    Measured::Unregistered => "no program of the policy is its executable",
                    Measured::Changed => "its text is that of no program of the policy",
                };
                format!("process: {beyond}")
            }),
        },
        // Of no end.
        Condition::Time => String::new(),
        Condition::Unattributed => of_process.map_or_else(str::to_owned, |p| {
            p.exe.unwrap_or("a process whose path is not readable").to_owned()
        }),
    }
}

fn guest_type(vm: &VmId) -> &'static str {
    vm.facts.guest_type.map_or("not known", GuestType::as_str)
}

fn pool(vm: &VmId) -> &str {
    vm.facts.pool.as_deref().unwrap_or("not known")
}

/// Who a process runs as.
fn user(process: &Process<'_>) -> String {
    let mut text = format!("uid {}, gid {}", process.uid, process.gid);
    if !process.groups.is_empty() {
        let groups: Vec<String> = process.groups.iter().map(u32::to_string).collect();
        text.push_str(&format!(", groups {}", groups.join(" ")));
    }
    if let Some(login) = process.loginuid {
        text.push_str(&format!(", login {login}"));
    }
    text
}

fn join(values: impl IntoIterator<Item = impl Display>) -> String {
    values
        .into_iter()
        .map(|value| value.to_string())
        .collect::<Vec<_>>()
        .join(" or ")
}

impl Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = match (self.decision.verdict, self.decision.audit) {
            (Verdict::Deny, _) => "deny",
            (Verdict::Allow, true) => "allow with an event",
            (Verdict::Allow, false) => "allow",
        };
        let vm = |side| {
            self.defaults
                .iter()
                .find(|d| d.side == side)
                .map_or("?", |d| d.vm.as_str())
        };
        let by = match (self.decision.by, &self.rule) {
            (Decider::Rule(_), Some(m)) => {
                let instead = m.instead.as_ref();
                let instead = instead.map_or(String::new(), |to| format!(", which sends it to {to} instead"));
                format!("by rule {} (from {} to {}){instead}", m.rule, m.from, m.to)
            }
            (Decider::Rule(_), None) => "by a rule".to_owned(),
            (Decider::Default(side), _) => {
                format!("by the default of {}, as no rule matches", vm(side))
            }
            (Decider::Nothing, _) => "as no rule matches and no default says otherwise".to_owned(),
            (Decider::Unserved, _) => "as its route has no backend for it".to_owned(),
        };
        write!(f, "{verdict} {by}; generation {}", self.decision.generation)?;
        if let Some(class) = &self.class {
            write!(f, "\nclass: {class}")?;
        }
        if let Some(mirror) = &self.mirror {
            write!(f, "\nmirrored: {mirror}")?;
        }
        for m in &self.also {
            let dry = if m.dry_run { ", in dry run" } else { "" };
            write!(
                f,
                "\nalso matches: {} ({}{dry}, from {} to {})",
                m.rule, m.action, m.from, m.to
            )?;
        }
        if let Some(dry_run) = &self.dry_run {
            write!(f, "\nwithout dry run: {dry_run}")?;
        }
        for miss in &self.near {
            write!(f, "\nall but matches: {miss}")?;
        }
        if self.more_near > 0 {
            write!(f, "\nand {} more that all but match", self.more_near)?;
        }
        for default in &self.defaults {
            write!(f, "\ndefault of {}: {}", default.vm, default.action)?;
            match &default.said {
                Some((set, pattern)) => write!(f, " (set {set}, \"{pattern}\")")?,
                None => f.write_str(" (no set says otherwise)")?,
            }
        }
        Ok(())
    }
}

impl Display for NearMiss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}): ", self.rule, self.action)?;
        if let Some(side) = self.side {
            write!(f, "{side} ")?;
        }
        write!(f, "{} must be {}, is {}", self.condition, self.wanted, self.found)
    }
}
