// SPDX-License-Identifier: GPL-3.0-only
//! All sets together, compiled for deciding.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::block::Block;
use crate::document::{Action, Document, Lock, MAX_RULES, Other, Peer, Refuse, Selector, Tagged};
use crate::flow::{Flow, Owner, Side, VmId};
use crate::index::Index;
use crate::matching::{Subject, Truth, port_in};
use crate::mirror::{Mirroring, Mirrors};
use crate::port::{PortRange, Protocol};
use crate::problem::{Problem, Problems};
use crate::qos::{self, ClassId, Classes};
use crate::route::{self, Route};
use crate::settings::{Settings, VmSetting};
use crate::target::Instead;

/// Number of a rule. It names the same rule for as long as the generation lasts, no longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RuleId(pub u32);

/// What a person calls a rule. Prints as `set/name`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RuleName<'r> {
    /// Number within the generation.
    pub id: RuleId,
    /// The set it is written in.
    pub set: &'r str,
    /// Its name within the set.
    pub name: &'r str,
}

impl std::fmt::Display for RuleName<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.set, self.name)
    }
}

/// Pass or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// The flow passes.
    Allow,
    /// The flow is refused.
    Deny,
}

/// What decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Decider {
    /// A rule; [`Ruleset::rule_name`] says which.
    Rule(RuleId),
    /// No rule matched; the default of the VM at this end decided.
    Default(Side),
    /// No rule matched and neither end has a default that says anything.
    Nothing,
    /// It is for a route that has no backend for it. Never of [`Ruleset::decide`]: who serves is not known here.
    Unserved,
}

/// What happens to a flow, and by what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Decision {
    /// Pass or not.
    pub verdict: Verdict,
    /// How the client is told, should the verdict be deny.
    pub refuse: Refuse,
    /// Whether a flow that passes leaves an event. Refusals always do; this is `false` for them.
    pub audit: bool,
    /// What decided.
    pub by: Decider,
    /// The class of a flow that passes.
    pub class: Option<ClassId>,
    /// Who gets copies of a flow that passes, by the rule that decided.
    pub mirror: Option<Mirroring>,
    /// The generation of the ruleset.
    pub generation: u64,
}

impl Decision {
    fn new(action: Action, by: Decider, generation: u64) -> Self {
        let (verdict, refuse) = match action {
            Action::Allow | Action::Audit => (Verdict::Allow, Refuse::Rst),
            Action::Deny { refuse } => (Verdict::Deny, refuse),
        };
        Decision {
            verdict,
            refuse,
            audit: action == Action::Audit,
            by,
            class: None,
            mirror: None,
            generation,
        }
    }

    /// Whether `action` would come to the same.
    fn does(&self, action: Action) -> bool {
        let other = Decision::new(action, self.by, self.generation);
        *self
            == Decision {
                class: self.class,
                mirror: self.mirror,
                ..other
            }
    }
}

/// One end of a compiled rule: a [`Peer`] whose service has been looked up.
#[derive(Debug)]
pub(crate) enum End {
    Any,
    World,
    Unattributed,
    Selector {
        /// The service's name, unless the selector stands in the rule.
        service: Option<Box<str>>,
        selector: Arc<Selector>,
    },
}

impl End {
    pub(crate) fn matches(&self, subject: &Subject<'_>) -> Truth {
        match self {
            End::Any => Truth::Yes,
            End::World => subject.vm.is_none().into(),
            End::Unattributed => match (&subject.owner, subject.vm) {
                (_, None) | (Owner::Process(_), _) => Truth::No,
                (Owner::Unattributed, _) => Truth::Yes,
                (Owner::Unknown, _) => Truth::Maybe,
            },
            End::Selector { selector, .. } => selector.matches(subject),
        }
    }

    fn asks_owner(&self) -> bool {
        match self {
            End::Any | End::World => false,
            End::Unattributed => true,
            End::Selector { selector, .. } => selector.asks_process(),
        }
    }
}

/// A rule, ready to be tried on a flow.
#[derive(Debug)]
pub(crate) struct CompiledRule {
    pub set: Arc<str>,
    pub name: Box<str>,
    pub action: Action,
    pub protocol: Option<Protocol>,
    pub ports: Box<[PortRange]>,
    pub from: Box<[End]>,
    pub to: Box<[End]>,
    pub instead: Option<Instead>,
    pub mirror: Option<Mirroring>,
}

impl CompiledRule {
    pub(crate) fn ends(&self, side: Side) -> &[End] {
        match side {
            Side::Source => &self.from,
            Side::Destination => &self.to,
        }
    }

    pub(crate) fn protocol_holds(&self, flow: &Flow<'_>) -> bool {
        self.protocol.is_none_or(|p| p == flow.protocol)
    }

    pub(crate) fn port_holds(&self, flow: &Flow<'_>) -> bool {
        self.ports.is_empty() || port_in(&self.ports, flow.protocol, flow.port)
    }

    pub(crate) fn matches(&self, flow: &Flow<'_>, source: &Subject<'_>, destination: &Subject<'_>) -> Truth {
        if !self.protocol_holds(flow) || !self.port_holds(flow) {
            return Truth::No;
        }
        let any = |ends: &[End], subject| {
            let mut best = Truth::No;
            for end in ends {
                best = best.max(end.matches(subject));
                if best == Truth::Yes {
                    break;
                }
            }
            best
        };
        let to = any(&self.to, destination);
        if to == Truth::No {
            return Truth::No;
        }
        to.min(any(&self.from, source))
    }
}

/// A service of a set, for identities.
#[derive(Debug)]
pub(crate) struct Service {
    pub set: Arc<str>,
    pub name: Box<str>,
    pub selector: Arc<Selector>,
}

/// All policy sets of one generation. Immutable: share it in an `Arc` and replace it whole.
#[derive(Debug)]
pub struct Ruleset {
    pub(crate) rules: Box<[CompiledRule]>,
    pub(crate) services: Box<[Service]>,
    routes: Box<[Arc<Route>]>,
    pub(crate) defaults: Settings<Action>,
    locks: Settings<Lock>,
    tagged: Settings<Tagged>,
    other: Settings<Other>,
    pub(crate) classes: Classes,
    pub(crate) mirrors: Mirrors,
    index: Index,
    generation: u64,
}

impl Ruleset {
    /// Joins the documents. Their order does not matter: sets are taken by name, rules as written.
    ///
    /// # Errors
    /// Two sets of one name, or two routes of one address, port and protocol; more than [`MAX_RULES`] rules or
    /// [`crate::document::MAX_ROUTES`] routes in all.
    pub fn compile(documents: &[Document], generation: u64) -> Result<Ruleset, Problems> {
        let mut documents: Vec<&Document> = documents.iter().collect();
        documents.sort_by(|a, b| a.name.cmp(&b.name));
        check(&documents)?;

        let mut rules = Vec::new();
        let mut mirrors = Mirrors::default();
        let mut services = Vec::new();
        let mut routes = Vec::new();
        for document in &documents {
            let set: Arc<str> = document.name.as_str().into();
            let mine: Vec<Service> = document
                .services
                .iter()
                .map(|(name, selector)| Service {
                    set: set.clone(),
                    name: name.as_str().into(),
                    selector: Arc::new(selector.clone()),
                })
                .collect();
            rules.extend(document.rules.iter().map(|rule| {
                CompiledRule {
                    set: set.clone(),
                    name: rule.name.as_str().into(),
                    action: rule.action,
                    protocol: rule.protocol,
                    ports: rule.ports.as_slice().into(),
                    from: ends(&rule.from, &mine),
                    to: ends(&rule.to, &mine),
                    instead: rule
                        .instead
                        .as_ref()
                        .and_then(|target| Instead::new(target, |name| selector_of(&mine, name))),
                    mirror: rule
                        .mirror
                        .as_ref()
                        .map(|mirror| mirrors.number(document, mirror)),
                }
            }));
            routes.extend(document.routes.iter().map(|(name, route)| {
                let service = |name: &str| selector_of(&mine, name);
                Arc::new(Route::new(&set, name, route, service, |peers| ends(peers, &mine)))
            }));
            services.extend(mine);
        }
        Ok(Ruleset {
            index: Index::build(&rules),
            classes: Classes::compile(&documents, &services),
            rules: rules.into(),
            mirrors,
            services: services.into(),
            routes: routes.into(),
            defaults: defaults(&documents),
            locks: locks(&documents),
            tagged: tagged(&documents),
            other: other(&documents),
            generation,
        })
    }

    /// No policy at all: everything passes.
    pub fn empty(generation: u64) -> Ruleset {
        Ruleset {
            rules: Box::default(),
            mirrors: Mirrors::default(),
            services: Box::default(),
            routes: Box::default(),
            defaults: defaults(&[]),
            locks: locks(&[]),
            tagged: tagged(&[]),
            other: other(&[]),
            classes: Classes::compile(&[], &[]),
            index: Index::build(&[]),
            generation,
        }
    }

    /// The generation it was compiled as.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Decides on a flow. Allocates nothing, takes no lock, and does not fail.
    ///
    /// 1. A deny rule that matches decides, whatever else matches.
    /// 2. Else an audit rule that matches lets it pass with an event.
    /// 3. Else an allow rule that matches lets it pass.
    /// 4. Else the defaults of both VMs decide: deny at either end denies, audit at either end audits.
    ///
    /// Of several rules of one kind the first of the first set by name is said to have decided. A rule that
    /// asks for a process does not match an end whose process is not known ([`Owner::Unknown`]). The class is the first that
    /// matches in that sense.
    pub fn decide(&self, flow: &Flow<'_>) -> Decision {
        let source = Subject::of(flow, Side::Source);
        let destination = Subject::of(flow, Side::Destination);
        let candidates = self.index.candidates(&source, &destination);
        let first = candidates.first(|id| {
            self.rule(id)
                .is_some_and(|rule| rule.matches(flow, &source, &destination) == Truth::Yes)
        });
        let decision = match first.and_then(|id| Some((id, self.rule(id)?))) {
            Some((id, rule)) => Decision {
                // The document has none where nothing passes.
                mirror: rule.mirror,
                ..Decision::new(rule.action, Decider::Rule(id), self.generation)
            },
            None => self.by_default(flow),
        };
        match decision.verdict {
            Verdict::Allow => Decision {
                class: self.classes.of(flow, &source, &destination),
                ..decision
            },
            Verdict::Deny => decision,
        }
    }

    /// The decision, where it is the same whatever process is at an end that is [`Owner::Unknown`]; `None`
    /// where it depends. Verdict, `refuse` and `audit` hold; the rule named, the class and the copies may be others once more is known.
    ///
    /// This is what may stand in a table that does not know processes.
    pub fn decide_for_any_process(&self, flow: &Flow<'_>) -> Option<Decision> {
        let now = self.decide(flow);
        let source = Subject::of(flow, Side::Source);
        let destination = Subject::of(flow, Side::Destination);
        let decider = match now.by {
            Decider::Rule(id) => self.rule(id).map(|rule| (severity(rule.action), id)),
            Decider::Default(_) | Decider::Nothing | Decider::Unserved => None,
        };
        let mut depends = false;
        self.index.candidates(&source, &destination).each(|id| {
            let Some(rule) = self.rule(id) else { return };
            let first = decider.is_none_or(|decider| (severity(rule.action), id) < decider);
            depends |=
                first && !now.does(rule.action) && rule.matches(flow, &source, &destination) == Truth::Maybe;
        });
        (!depends).then_some(now)
    }

    /// Whether an end in this VM may need its process known before a verdict is sure: some rule that could
    /// match the VM at this end asks for one.
    pub fn depends_on_process(&self, vm: &VmId, side: Side) -> bool {
        self.rules.iter().any(|rule| {
            rule.ends(side).iter().any(|end| {
                end.asks_owner()
                    && match end {
                        End::Selector { selector, .. } => {
                            selector.vm.is_empty() || selector.vm.iter().any(|p| p.matches(vm))
                        }
                        _ => true,
                    }
            })
        })
    }

    /// What a person calls a rule of this generation.
    pub fn rule_name(&self, id: RuleId) -> Option<RuleName<'_>> {
        self.rule(id).map(|rule| RuleName {
            id,
            set: &rule.set,
            name: &rule.name,
        })
    }

    /// The rules in order, by number.
    pub fn rule_names(&self) -> impl Iterator<Item = RuleName<'_>> {
        (0..).map(RuleId).map_while(|id| self.rule_name(id))
    }

    /// Where a flow goes instead that this denies; `None` for what sends nothing elsewhere.
    pub fn instead(&self, by: Decider) -> Option<&Instead> {
        match by {
            Decider::Rule(id) => self.rule(id)?.instead.as_ref(),
            Decider::Default(_) | Decider::Nothing | Decider::Unserved => None,
        }
    }

    /// The rules that send what they deny elsewhere, by number.
    pub fn diverting(&self) -> impl Iterator<Item = (RuleId, &Instead)> {
        (0..)
            .map(RuleId)
            .zip(&self.rules)
            .filter_map(|(id, rule)| Some((id, rule.instead.as_ref()?)))
    }

    /// The routes, by set and name.
    pub fn routes(&self) -> &[Arc<Route>] {
        &self.routes
    }

    /// Every block of addresses that the end of a rule or class, or a service mentions.
    pub fn address_blocks(&self) -> BTreeSet<Block> {
        self.selectors()
            .flat_map(|selector| selector.address.iter().copied())
            .collect()
    }

    /// Every destination port that a rule, a class or a service mentions, with the protocol it is narrowed to.
    pub fn ports(&self) -> BTreeSet<(Option<Protocol>, PortRange)> {
        let of_rules = self
            .rules
            .iter()
            .chain(&self.classes.rules)
            .flat_map(|rule| rule.ports.iter().map(|range| (rule.protocol, *range)));
        let of_selectors = self
            .selectors()
            .flat_map(|s| s.port.iter().map(|range| (s.protocol, *range)));
        of_rules.chain(of_selectors).collect()
    }

    /// Every protocol that a rule, a class, a service or a route names.
    pub fn protocols(&self) -> BTreeSet<Protocol> {
        let of_rules = self.rules.iter().chain(&self.classes.rules);
        let of_rules = of_rules.filter_map(|rule| rule.protocol);
        let of_selectors = self.selectors().filter_map(|selector| selector.protocol);
        let of_routes = self.routes.iter().map(|route| route.protocol);
        of_rules.chain(of_selectors).chain(of_routes).collect()
    }

    /// The default of a VM: action, and `set` and pattern that say so; `None` where no set says anything.
    pub fn default_of(&self, vm: &VmId) -> Option<&VmSetting<Action>> {
        self.defaults.of(vm)
    }

    /// What a VM may send from, and `set` and pattern that say so; `None` where no set says anything.
    pub fn lock_of(&self, vm: &VmId) -> Option<&VmSetting<Lock>> {
        self.locks.of(vm)
    }

    /// What becomes of a VM's tagged frames, and who says so; `None` where no set says anything.
    pub fn tagged_of(&self, vm: &VmId) -> Option<&VmSetting<Tagged>> {
        self.tagged.of(vm)
    }

    /// What becomes of a VM's frames that are neither IP nor ARP, and who says so; `None` where no set says anything.
    pub fn other_of(&self, vm: &VmId) -> Option<&VmSetting<Other>> {
        self.other.of(vm)
    }

    pub(crate) fn rule(&self, id: RuleId) -> Option<&CompiledRule> {
        self.rules.get(usize::try_from(id.0).ok()?)
    }

    fn selectors(&self) -> impl Iterator<Item = &Selector> {
        let all = self.rules.iter().chain(&self.classes.rules);
        let of_rules = all.flat_map(|rule| {
            rule.from.iter().chain(&rule.to).filter_map(|end| match end {
                End::Selector { selector, .. } => Some(&**selector),
                _ => None,
            })
        });
        of_rules.chain(self.services.iter().map(|s| &*s.selector))
    }

    fn by_default(&self, flow: &Flow<'_>) -> Decision {
        let of = |side, vm: Option<&VmId>| Some((side, self.defaults.of(vm?)?.value));
        let source = of(Side::Source, flow.source.vm);
        let destination = of(Side::Destination, flow.destination.vm);
        // Of two equal ones the source's, which the flow meets first.
        let said = [source, destination]
            .into_iter()
            .flatten()
            .min_by_key(|(_, action)| severity(*action));
        match said {
            Some((side, action)) => Decision::new(action, Decider::Default(side), self.generation),
            None => Decision::new(Action::Allow, Decider::Nothing, self.generation),
        }
    }
}

/// What comes first when several actions apply: 0 deny, 1 audit, 2 allow.
pub(crate) fn severity(action: Action) -> usize {
    match action {
        Action::Deny { .. } => 0,
        Action::Audit => 1,
        Action::Allow => 2,
    }
}

fn defaults(documents: &[&Document]) -> Settings<Action> {
    Settings::build(documents, |d| &d.defaults, severity)
}

fn locks(documents: &[&Document]) -> Settings<Lock> {
    Settings::build(documents, |d| &d.locks, Reverse)
}

fn tagged(documents: &[&Document]) -> Settings<Tagged> {
    Settings::build_part(documents, |d| &d.frames, |frames| frames.tagged, Reverse)
}

fn other(documents: &[&Document]) -> Settings<Other> {
    Settings::build_part(documents, |d| &d.frames, |frames| frames.other, Reverse)
}

fn check(documents: &[&Document]) -> Result<(), Problems> {
    let mut problems = Vec::new();
    for pair in documents.windows(2) {
        if let [first, second] = pair
            && first.name == second.name
        {
            problems.push(Problem {
                file: second.origin.file.clone(),
                line: second.origin.name.line,
                column: second.origin.name.column,
                what: format!("a second policy set named `{}`", second.name),
                remedy: format!(
                    "rename one; the other is at {}:{}:{}",
                    first.origin.file, first.origin.name.line, first.origin.name.column
                ),
            });
        }
    }
    let rules: usize = documents.iter().map(|d| d.rules.len()).sum();
    if let Some(last) = documents.last().filter(|_| rules > MAX_RULES) {
        problems.push(Problem {
            file: last.origin.file.clone(),
            line: last.origin.name.line,
            column: last.origin.name.column,
            what: format!("{rules} rules in all sets together, the limit is {MAX_RULES}"),
            remedy: "join rules: `from` and `to` take lists".to_owned(),
        });
    }
    route::check(documents, &mut problems);
    problems.extend(qos::check(documents));
    Problems::or(problems)
}

/// `services` are sorted by name, as they come out of a document.
fn selector_of(services: &[Service], name: &str) -> Option<Arc<Selector>> {
    let at = services.binary_search_by(|s| (*s.name).cmp(name)).ok()?;
    services.get(at).map(|service| service.selector.clone())
}

pub(crate) fn ends(peers: &[Peer], services: &[Service]) -> Box<[End]> {
    peers
        .iter()
        .filter_map(|peer| {
            Some(match peer {
                Peer::Any => End::Any,
                Peer::World => End::World,
                Peer::Unattributed => End::Unattributed,
                // A document's own services hold every name its rules use, so nothing is left out here.
                Peer::Service(name) => End::Selector {
                    service: Some(name.as_str().into()),
                    selector: selector_of(services, name)?,
                },
                Peer::Inline(selector) => End::Selector {
                    service: None,
                    selector: Arc::new((**selector).clone()),
                },
            })
        })
        .collect()
}
