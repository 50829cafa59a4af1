// SPDX-License-Identifier: GPL-3.0-only
//! All sets together, compiled for deciding.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::block::Block;
use crate::by_vm::ByVm;
use crate::clock::{self, Time};
use crate::document::{
    Action, Answer, Document, Level, Lock, MAX_RULES_IN_ALL, Other, Peer, Program, Refuse, Require, Selector,
    Tagged,
};
use crate::flow::{Flow, Owner, Side, VmId};
use crate::index::{Index, Place};
use crate::labels;
use crate::matching::{Subject, Truth, port_in};
use crate::mirror::Mirroring;
use crate::parts::{Parts, Staged};
use crate::port::{PortRange, Protocol};
use crate::problem::{Problem, Problems};
use crate::qos::{self, ClassId, Classes};
use crate::rollout::{Rollout, Stage};
use crate::route::{self, Route};
use crate::settings::VmSetting;
use crate::target::Instead;
use crate::window::Window;

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

/// What a person calls a program. Prints as `set/name`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProgramName<'r> {
    /// The set it is written in.
    pub set: &'r str,
    /// Its name within the set.
    pub name: &'r str,
}

impl std::fmt::Display for ProgramName<'_> {
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
    /// What the rules that are in dry run would make of it; `None` where they would make no difference.
    pub dry_run: Option<DryRun>,
    /// The generation of the ruleset.
    pub generation: u64,
}

/// What would decide a flow if no rule were in dry run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct DryRun {
    /// The rule, which is in dry run.
    pub rule: RuleId,
    /// Pass or not.
    pub verdict: Verdict,
    /// Whether it would leave an event where it passes.
    pub audit: bool,
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
            dry_run: None,
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
                dry_run: self.dry_run,
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
    pub require: Option<Box<Require>>,
    /// It decides nothing.
    pub dry_run: bool,
    pub instead: Option<Instead>,
    pub mirror: Option<Mirroring>,
}

impl CompiledRule {
    fn named(&self, id: RuleId) -> RuleName<'_> {
        RuleName {
            id,
            set: &self.set,
            name: &self.name,
        }
    }

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

    /// Whether it holds now.
    pub(crate) fn is_open(&self, time: Time) -> bool {
        self.require.as_ref().is_none_or(|require| require.is_open(time))
    }

    fn asks_owner(&self, side: Side) -> bool {
        self.require
            .as_ref()
            .is_some_and(|require| require.asks_owner(side))
    }

    /// Whether this level of authentication, or a higher one, is required of an end.
    pub(crate) fn asks_level(&self, level: Level) -> bool {
        self.require
            .as_ref()
            .is_some_and(|require| require.authentication.asks(level))
    }

    /// Whether all holds but the time.
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
        let ends = to.min(any(&self.from, source));
        match &self.require {
            Some(require) if ends != Truth::No => ends.min(require.holds(source, destination)),
            _ => ends,
        }
    }
}

/// A service of a set, for identities.
#[derive(Debug)]
pub(crate) struct Service {
    pub set: Arc<str>,
    pub name: Box<str>,
    pub selector: Arc<Selector>,
}

/// All policy sets of one generation, at one time. Immutable: share it in an `Arc` and replace it whole. A clone shares all parts.
#[derive(Debug, Clone)]
pub struct Ruleset {
    pub(crate) parts: Arc<Parts>,
    routes: Arc<[Arc<Route>]>,
    by_vm: Arc<ByVm>,
    /// The same of the policy as it will be.
    by_vm_after: Option<Arc<ByVm>>,
    pub(crate) rollout: Option<Arc<Rollout>>,
    pub(crate) classes: Arc<Classes>,
    index: Arc<Index>,
    /// What time it is.
    pub(crate) time: Time,
    /// The times that rules name, each once.
    pub(crate) windows: Arc<[Window]>,
    /// Some rule is in dry run.
    tries: bool,
    generation: u64,
}

impl Ruleset {
    /// Joins the documents. Their order does not matter: sets are taken by name, rules as written.
    ///
    /// # Errors
    /// Two sets of one name, or two routes of one address, port and protocol; more than [`MAX_RULES_IN_ALL`] rules or
    /// [`crate::document::MAX_ROUTES`] routes in all.
    pub fn compile(documents: &[Document], generation: u64) -> Result<Ruleset, Problems> {
        let documents = documents.iter().map(|document| Arc::new(document.clone()));
        Ruleset::empty(0).changed(documents.collect(), generation)
    }

    /// The ruleset of these documents, in place of those of this one. Those that this one has, as the same allocations, are not compiled
    /// again: that makes a change of one document cheap among many.
    ///
    /// # Errors
    /// As [`Ruleset::compile`].
    pub fn changed(&self, documents: Vec<Arc<Document>>, generation: u64) -> Result<Ruleset, Problems> {
        let documents = sorted(documents);
        let plain = plain(&documents);
        check(&plain)?;
        let staged: Vec<Staged> = documents.iter().map(|d| (Arc::clone(d), Stage::Both)).collect();
        Ok(Ruleset {
            by_vm: ByVm::of(&plain).into(),
            ..self.rebuilt(&staged, generation)
        })
    }

    /// The ruleset in which a change is rolled out: `after` holds for flows with one of the VMs of `rollout` at an end, `before` for all
    /// others. What this ruleset has of either is taken over as by [`Ruleset::changed`].
    ///
    /// # Errors
    /// As [`Ruleset::compile`], for each of both; and where they differ in routes, which cannot be in two states.
    pub fn staged(
        &self,
        before: Vec<Arc<Document>>,
        after: Vec<Arc<Document>>,
        rollout: Rollout,
        generation: u64,
    ) -> Result<Ruleset, Problems> {
        let (before, after) = (sorted(before), sorted(after));
        let (plain_before, plain_after) = (plain(&before), plain(&after));
        check(&plain_before)?;
        check(&plain_after)?;
        route::check_same(&plain_before, &plain_after)?;
        let is_in = |documents: &[Arc<Document>], one: &Arc<Document>| {
            let at = documents.binary_search_by(|d| d.name.cmp(&one.name));
            at.is_ok_and(|at| documents.get(at).is_some_and(|d| Arc::ptr_eq(d, one)))
        };
        let stage = |other: &[Arc<Document>], one: &Arc<Document>, stage| match is_in(other, one) {
            true => Stage::Both,
            false => stage,
        };
        let of_before = before
            .iter()
            .map(|d| (Arc::clone(d), stage(&after, d, Stage::Before)));
        let of_after = after
            .iter()
            .map(|d| (Arc::clone(d), stage(&before, d, Stage::After)))
            .filter(|(_, stage)| *stage == Stage::After);
        let mut staged: Vec<Staged> = of_before.chain(of_after).collect();
        staged.sort_by(|(a, x), (b, y)| (&a.name, x).cmp(&(&b.name, y)));
        Ok(Ruleset {
            by_vm: ByVm::of(&plain_before).into(),
            by_vm_after: Some(ByVm::of(&plain_after).into()),
            rollout: Some(rollout.into()),
            ..self.rebuilt(&staged, generation)
        })
    }

    /// From documents by name. What is said of VMs is that of this ruleset.
    fn rebuilt(&self, documents: &[Staged], generation: u64) -> Ruleset {
        let mut index = (*self.index).clone();
        let parts = Arc::new(Parts::build(documents, &self.parts, &mut index));
        let tries = parts.iter().any(|(part, _)| part.tries);
        // Those of both policies are the same.
        let of_now = parts.iter().filter(|(_, stage)| *stage != Stage::After);
        let routes = of_now.flat_map(|(part, _)| part.routes.iter().cloned()).collect();
        Ruleset {
            index: index.into(),
            classes: Classes::compile(parts.iter()).into(),
            time: None,
            windows: clock::windows(documents.iter().map(|(document, _)| &**document)),
            tries,
            routes,
            parts,
            by_vm: Arc::clone(&self.by_vm),
            by_vm_after: None,
            rollout: None,
            generation,
        }
    }

    /// No policy at all: everything passes.
    pub fn empty(generation: u64) -> Ruleset {
        Ruleset {
            parts: Arc::default(),
            routes: Arc::default(),
            by_vm: ByVm::of(&[]).into(),
            by_vm_after: None,
            rollout: None,
            classes: Classes::compile(std::iter::empty()).into(),
            index: Arc::default(),
            time: None,
            windows: Arc::default(),
            tries: false,
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
    /// matches in that sense. A rule in dry run decides nothing; what it would decide is said beside.
    pub fn decide(&self, flow: &Flow<'_>) -> Decision {
        let after = self.is_after(flow);
        let source = Subject::of(flow, Side::Source, after);
        let destination = Subject::of(flow, Side::Destination, after);
        let candidates = self.index.candidates(&source, &destination);
        let matches = |rule: &CompiledRule| {
            rule.is_open(self.time) && rule.matches(flow, &source, &destination) == Truth::Yes
        };
        let order = |place| self.parts.number(place).0;
        let of_place = |place: Place| self.parts.at(place, after);
        let first = candidates.first(order, |place| {
            of_place(place).is_some_and(|rule| !rule.dry_run && matches(rule))
        });
        let decision = match first.and_then(|place| Some((place, of_place(place)?))) {
            Some((place, rule)) => Decision {
                // The document has none where nothing passes.
                mirror: rule
                    .mirror
                    .map(|mirror| mirror.among(self.parts.first_mirror(place))),
                ..Decision::new(
                    rule.action,
                    Decider::Rule(self.parts.number(place)),
                    self.generation,
                )
            },
            None => self.by_default(flow, after),
        };
        let decision = match decision.verdict {
            Verdict::Allow => Decision {
                class: self.classes.of(flow, &source, &destination, after),
                ..decision
            },
            Verdict::Deny => decision,
        };
        if !self.tries {
            return decision;
        }
        let would = candidates.first(order, |place| of_place(place).is_some_and(matches));
        Decision {
            dry_run: would.and_then(|place| self.dry_run(self.parts.number(place), &decision)),
            ..decision
        }
    }

    /// What the first of all rules that match makes of a flow, if it is in dry run and that is another thing than was decided.
    fn dry_run(&self, id: RuleId, decided: &Decision) -> Option<DryRun> {
        let rule = self.rule(id).filter(|rule| rule.dry_run)?;
        let would = Decision::new(rule.action, Decider::Rule(id), self.generation);
        let differs = (would.verdict, would.audit) != (decided.verdict, decided.audit);
        differs.then_some(DryRun {
            rule: id,
            verdict: would.verdict,
            audit: would.audit,
        })
    }

    /// The decision, where it is the same whatever process is at an end that is [`Owner::Unknown`]; `None`
    /// where it depends. Verdict, `refuse` and `audit` hold; the rule named, the class and the copies may be others once more is known.
    ///
    /// This is what may stand in a table that does not know processes.
    pub fn decide_for_any_process(&self, flow: &Flow<'_>) -> Option<Decision> {
        let now = self.decide(flow);
        let after = self.is_after(flow);
        let source = Subject::of(flow, Side::Source, after);
        let destination = Subject::of(flow, Side::Destination, after);
        let decider = match now.by {
            Decider::Rule(id) => self.rule(id).map(|rule| (severity(rule.action), id)),
            Decider::Default(_) | Decider::Nothing | Decider::Unserved => None,
        };
        let mut depends = false;
        self.index.candidates(&source, &destination).each(|place| {
            let rule = self
                .parts
                .at(place, after)
                .filter(|rule| !rule.dry_run && rule.is_open(self.time));
            let Some(rule) = rule else { return };
            let id = self.parts.number(place);
            let first = decider.is_none_or(|decider| (severity(rule.action), id) < decider);
            depends |=
                first && !now.does(rule.action) && rule.matches(flow, &source, &destination) == Truth::Maybe;
        });
        (!depends).then_some(now)
    }

    /// Whether an end in this VM may need its process known before a verdict is sure: some rule that could
    /// match the VM at this end asks for one.
    pub fn depends_on_process(&self, vm: &VmId, side: Side) -> bool {
        self.rules().any(|(_, rule)| {
            !rule.dry_run
                && rule.ends(side).iter().any(|end| {
                    (end.asks_owner() || rule.asks_owner(side))
                        && match end {
                            End::Selector { selector, .. } => selector.may_be_guest(vm),
                            End::World => false,
                            End::Any | End::Unattributed => true,
                        }
                })
        })
    }

    /// What a person calls a rule of this generation.
    pub fn rule_name(&self, id: RuleId) -> Option<RuleName<'_>> {
        self.rule(id).map(|rule| rule.named(id))
    }

    /// The rules in order, by number.
    pub fn rule_names(&self) -> impl Iterator<Item = RuleName<'_>> {
        self.rules().map(|(id, rule)| rule.named(id))
    }

    /// The rules that are in dry run.
    pub fn dry_runs(&self) -> impl Iterator<Item = RuleName<'_>> {
        let tried = self.rules().filter(|(_, rule)| rule.dry_run);
        tried.map(|(id, rule)| rule.named(id))
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
        self.rules()
            .filter_map(|(id, rule)| Some((id, rule.instead.as_ref()?)))
    }

    /// The routes, by set and name.
    pub fn routes(&self) -> &[Arc<Route>] {
        &self.routes
    }

    /// The programs that a process in this VM with this executable may run, by set and name.
    pub fn programs_for<'r>(
        &'r self,
        vm: &'r VmId,
        exe: &'r str,
    ) -> impl Iterator<Item = (ProgramName<'r>, &'r Program)> {
        let after = self.is_after_for(Some(vm));
        let parts = self.parts.iter().filter(move |(_, stage)| stage.holds(after));
        let programs = parts.flat_map(|(part, _)| {
            let set = part.document.name();
            let named = part.document.programs().iter();
            named.map(move |(name, program)| (ProgramName { set, name }, program))
        });
        programs.filter(move |(_, program)| program.is_for(vm, exe))
    }

    /// Whether any set has a program.
    pub fn has_programs(&self) -> bool {
        self.parts
            .iter()
            .any(|(part, _)| !part.document.programs().is_empty())
    }

    /// Whether a rule asks whether programs are what they are taken for.
    pub fn asks_measured(&self) -> bool {
        self.parts.iter().any(|(part, _)| part.measures)
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
            .rules()
            .map(|(_, rule)| rule)
            .chain(&self.classes.rules)
            .flat_map(|rule| rule.ports.iter().map(|range| (rule.protocol, *range)));
        let of_selectors = self
            .selectors()
            .flat_map(|s| s.port.iter().map(|range| (s.protocol, *range)));
        of_rules.chain(of_selectors).collect()
    }

    /// Every protocol that a rule, a class, a service or a route names.
    pub fn protocols(&self) -> BTreeSet<Protocol> {
        let of_rules = self.rules().map(|(_, rule)| rule).chain(&self.classes.rules);
        let of_rules = of_rules.filter_map(|rule| rule.protocol);
        let of_selectors = self.selectors().filter_map(|selector| selector.protocol);
        let of_routes = self.routes.iter().map(|route| route.protocol);
        of_rules.chain(of_selectors).chain(of_routes).collect()
    }

    /// The default of a VM: action, and `set` and pattern that say so; `None` where no set says anything.
    pub fn default_of(&self, vm: &VmId) -> Option<&VmSetting<Action>> {
        self.for_vm(vm).defaults.of(vm)
    }

    /// What a VM may send from, and `set` and pattern that say so; `None` where no set says anything.
    pub fn lock_of(&self, vm: &VmId) -> Option<&VmSetting<Lock>> {
        self.for_vm(vm).locks.of(vm)
    }

    /// What becomes of a VM's tagged frames, and who says so; `None` where no set says anything.
    pub fn tagged_of(&self, vm: &VmId) -> Option<&VmSetting<Tagged>> {
        self.for_vm(vm).tagged.of(vm)
    }

    /// What becomes of a VM's frames that are neither IP nor ARP, and who says so; `None` where no set says anything.
    pub fn other_of(&self, vm: &VmId) -> Option<&VmSetting<Other>> {
        self.for_vm(vm).other.of(vm)
    }

    /// What is done about a threat in a VM, and who says so: by the rule that found it, else by how bad it is (`notice`, `warning`,
    /// `alert`). `None` where no set says anything.
    pub fn answer_of(&self, vm: &VmId, rule: &str, severity: &str) -> Option<&VmSetting<Answer>> {
        let answers = &self.for_vm(vm).answers;
        let of = |word: &str| answers.get(word)?.of(vm);
        of(rule).or_else(|| of(severity))
    }

    /// What is said of VMs, as it was, or will be.
    pub(crate) fn by_vm(&self, after: bool) -> &ByVm {
        match &self.by_vm_after {
            Some(will_be) if after => will_be,
            _ => &self.by_vm,
        }
    }

    /// What holds of a VM.
    pub(crate) fn for_vm(&self, vm: &VmId) -> &ByVm {
        self.by_vm(self.is_after_for(Some(vm)))
    }

    pub(crate) fn rule(&self, id: RuleId) -> Option<&CompiledRule> {
        self.parts.rule(id)
    }

    /// The rules in order.
    pub(crate) fn rules(&self) -> impl Iterator<Item = (RuleId, &CompiledRule)> {
        self.parts.rules()
    }

    fn selectors(&self) -> impl Iterator<Item = &Selector> {
        let all = self.rules().map(|(_, rule)| rule).chain(&self.classes.rules);
        let of_rules = all.flat_map(|rule| {
            rule.from.iter().chain(&rule.to).filter_map(|end| match end {
                End::Selector { selector, .. } => Some(&**selector),
                _ => None,
            })
        });
        let services = self.parts.iter().flat_map(|(part, _)| part.services.iter());
        of_rules.chain(services.map(|s| &*s.selector))
    }

    fn by_default(&self, flow: &Flow<'_>, after: bool) -> Decision {
        let defaults = &self.by_vm(after).defaults;
        let of = |side, vm: Option<&VmId>| Some((side, defaults.of(vm?)?.value));
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

fn sorted(mut documents: Vec<Arc<Document>>) -> Vec<Arc<Document>> {
    documents.sort_by(|a, b| a.name.cmp(&b.name));
    documents
}

fn plain(documents: &[Arc<Document>]) -> Vec<&Document> {
    documents.iter().map(|document| &**document).collect()
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
    if let Some(last) = documents.last().filter(|_| rules > MAX_RULES_IN_ALL) {
        problems.push(Problem {
            file: last.origin.file.clone(),
            line: last.origin.name.line,
            column: last.origin.name.column,
            what: format!("{rules} rules in all sets together, the limit is {MAX_RULES_IN_ALL}"),
            remedy: "join rules: `from` and `to` take lists".to_owned(),
        });
    }
    route::check(documents, &mut problems);
    problems.extend(qos::check(documents));
    problems.extend(labels::check(documents));
    Problems::or(problems)
}

/// `services` are sorted by name, as they come out of a document.
pub(crate) fn selector_of(services: &[Service], name: &str) -> Option<Arc<Selector>> {
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
