// SPDX-License-Identifier: GPL-3.0-only
//! What a policy says and its author may not mean: rules that contradict each other, that decide nothing, or that say too much.
//!
//! What is found is so. What is not found may be there all the same: two patterns are compared by what is written, and a rule that
//! several others cover together is not seen.

mod candidates;
mod relation;

use std::fmt;

use serde::Serialize;

use crate::document::{Action, Document, Level};
use crate::flow::Side;
use crate::problem::{Place, Problems};
use crate::ruleset::{CompiledRule, End, Ruleset, severity};
use candidates::Candidates;
use relation::{
    Service, destinations_cover, has_users, overlap, requires_no_more, selector, services_cover,
    sources_cover,
};

/// What kind of thing was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A rule that allows and one that denies speak of the same flows, and neither is the exception of the other.
    Conflict,
    /// Another rule decides all of its flows.
    Shadowed,
    /// No flow can match it.
    NeverMatches,
    /// It lets more pass than a rule should.
    TooWide,
    /// It names a VM that is none of those that were given. A note: it may come.
    UnknownVm,
}

impl Kind {
    /// The word in messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Conflict => "conflict",
            Kind::Shadowed => "shadowed",
            Kind::NeverMatches => "never-matches",
            Kind::TooWide => "too-wide",
            Kind::UnknownVm => "unknown-vm",
        }
    }

    /// Whether it is only told, and not a fault.
    pub fn is_note(self) -> bool {
        self == Kind::UnknownVm
    }
}

/// One thing that was found. Prints as `file:line:column: kind: what; remedy`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The name that the document was read under.
    pub file: String,
    /// Line of the rule's name, from 1.
    pub line: u32,
    /// Its column in characters, from 1.
    pub column: u32,
    /// What kind it is.
    pub kind: Kind,
    /// The rule, as `set/name`.
    pub rule: String,
    /// The other rule, where there are two.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub other: Option<String>,
    /// What is so.
    pub what: String,
    /// What to do about it.
    pub remedy: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (file, line, column) = (&self.file, self.line, self.column);
        let (kind, what, remedy) = (self.kind.as_str(), &self.what, &self.remedy);
        write!(f, "{file}:{line}:{column}: {kind}: {what}; {remedy}")
    }
}

/// Looks at all rules of the documents together. `vms`: names of the VMs there are; with none no VM is unknown.
///
/// # Errors
/// As [`Ruleset::compile`].
pub fn check(documents: &[Document], vms: &[String]) -> Result<Vec<Finding>, Problems> {
    let ruleset = Ruleset::compile(documents, 0)?;
    let mut sets: Vec<&Document> = documents.iter().collect();
    sets.sort_by_key(|document| document.name());
    let places = sets.iter().flat_map(|document| {
        let places = document.origin.rules.iter();
        places.map(|place| (document.origin.file.as_str(), *place))
    });
    let rules: Vec<Placed<'_>> = (0..)
        .zip(ruleset.rules().map(|(_, rule)| rule))
        .zip(places)
        .map(|((number, rule), (file, place))| Placed {
            number,
            rule,
            file,
            place,
        })
        .collect();
    let candidates = Candidates::new(ruleset.rules().map(|(_, rule)| rule).collect());
    let mut findings = Vec::new();
    for one in &rules {
        if let Some(why) = never(one.rule) {
            findings.push(one.finding(Kind::NeverMatches, None, why, "change or remove it"));
            continue;
        }
        if one.rule.asks_level(Level::Measured) && !ruleset.has_programs() {
            findings.push(one.finding(
                Kind::NeverMatches,
                None,
                "it requires authentication by measured, and no set has `programs`".to_owned(),
                "let `xmesh measure FILE` write some of those whom it lets pass",
            ));
            continue;
        }
        let near = || {
            candidates
                .of(one.number)
                .filter_map(|n| rules.get(n))
                .filter(|r| r.number != one.number)
        };
        if let Some(by) = near().find(|by| shadows(by, one)) {
            let what = format!(
                "{} decides every flow that this rule matches",
                by.rule.full_name()
            );
            let remedy = match (one.rule.action, by.rule.action) {
                (Action::Deny { .. }, _) | (_, Action::Deny { .. }) => {
                    "narrow one of them, or remove this one"
                }
                _ => "remove one of them",
            };
            findings.push(one.finding(Kind::Shadowed, Some(by), what, remedy));
        }
        if let Action::Deny { .. } = one.rule.action {
            findings.extend(near().filter(|allow| conflict(allow.rule, one.rule)).map(|allow| {
                let what = format!(
                    "it denies flows that {} allows, and neither rule is the exception of the other",
                    allow.rule.full_name()
                );
                let remedy = "the denial holds; say in the rule that allows what is to be left out, or narrow this one";
                one.finding(Kind::Conflict, Some(allow), what, remedy)
            }));
        }
        findings.extend(wide(one.rule).map(|(what, remedy)| one.finding(Kind::TooWide, None, what, remedy)));
        findings.extend(unknown(one.rule, vms).map(|pattern| {
            let what = format!("none of the VMs is `{pattern}`");
            one.finding(
                Kind::UnknownVm,
                None,
                what,
                "look at the spelling; `xmesh list` lists them",
            )
        }));
    }
    Ok(findings)
}

/// A rule and where it stands.
struct Placed<'r> {
    number: usize,
    rule: &'r CompiledRule,
    file: &'r str,
    place: Place,
}

impl Placed<'_> {
    fn finding(
        &self,
        kind: Kind,
        other: Option<&Placed<'_>>,
        what: String,
        remedy: impl Into<String>,
    ) -> Finding {
        Finding {
            file: self.file.to_owned(),
            line: self.place.line,
            column: self.place.column,
            kind,
            rule: self.rule.full_name(),
            other: other.map(|other| other.rule.full_name()),
            what,
            remedy: remedy.into(),
        }
    }
}

/// Why no flow can match.
fn never(rule: &CompiledRule) -> Option<String> {
    if rule.to.iter().all(|to| Service::of(rule, to).is_none()) {
        return Some("no protocol and port are those of the rule and of who it is to".into());
    }
    let outside = |ends: &[End]| ends.iter().all(|end| matches!(end, End::World));
    if outside(&rule.from) && outside(&rule.to) {
        return Some("a flow between two ends outside of this host passes no interface of it".into());
    }
    let nobody = |end: &End| selector(end).is_some_and(|s| !has_users(&s.role, s));
    if [&rule.from, &rule.to].iter().any(|ends| ends.iter().all(nobody)) {
        return Some("nobody who has the role is who the selector asks for besides".into());
    }
    let require = rule.require.as_ref()?;
    let unknown = |ends: &[End], level: Level| {
        ends.iter().all(|end| match end {
            End::World => true,
            End::Unattributed => level >= Level::Process,
            End::Any | End::Selector { .. } => false,
        })
    };
    for side in [Side::Source, Side::Destination] {
        if let Some(level) = require.authentication.of(side)
            && unknown(rule.ends(side), level)
        {
            return Some(format!(
                "it requires authentication by {}, which this end never has",
                level.as_str()
            ));
        }
    }
    let roleless = |end: &End| match end {
        End::World | End::Unattributed => true,
        End::Any => false,
        End::Selector { selector, .. } => !has_users(&require.role, selector),
    };
    (!require.role.is_empty() && rule.from.iter().all(roleless))
        .then(|| "nobody whom it is from has the role that it requires".into())
}

/// Whether `by` decides all flows of `one`.
fn shadows(by: &Placed<'_>, one: &Placed<'_>) -> bool {
    let standing = |placed: &Placed<'_>| (severity(placed.rule.action), placed.number);
    standing(by) < standing(one)
        && !by.rule.dry_run
        && requires_no_more(by.rule, one.rule)
        && sources_cover(by.rule, one.rule)
        && services_cover(by.rule, one.rule)
}

/// Whether flows are of both, and neither rule's ends lie within the other's: then one would be the exception or the ground that it
/// is the exception of. Of two with the same ends it is the protocol and the ports that tell.
fn conflict(allow: &CompiledRule, deny: &CompiledRule) -> bool {
    if matches!(allow.action, Action::Deny { .. }) || allow.dry_run || deny.dry_run || !overlap(allow, deny) {
        return false;
    }
    let within = |outer, inner| sources_cover(outer, inner) && destinations_cover(outer, inner);
    match (within(allow, deny), within(deny, allow)) {
        (false, false) => true,
        (true, true) => !services_cover(allow, deny) && !services_cover(deny, allow),
        (true, false) | (false, true) => false,
    }
}

/// What an allow lets pass too much of, and what to do.
fn wide(rule: &CompiledRule) -> Option<(String, &'static str)> {
    if rule.action != Action::Allow || rule.require.is_some() {
        return None;
    }
    let any = |ends: &[End]| ends.iter().any(|end| matches!(end, End::Any));
    let all_services =
        |to: &End| Service::of(rule, to).is_some_and(|s| s.protocol.is_none() && s.ports.is_none());
    let everything = rule
        .to
        .iter()
        .any(|to| matches!(to, End::Any) && all_services(to));
    if any(&rule.from) && everything {
        return Some((
            "it lets everything pass".into(),
            "say who, to whom or which ports; what no rule decides is for `default`",
        ));
    }
    let open = |to: &&End| match to {
        End::Any => all_services(to),
        End::Selector { selector, .. } => {
            !selector.asks_process() && selector.asks_guest() && all_services(to)
        }
        End::World | End::Unattributed => false,
    };
    let from_outside = rule.from.iter().any(|end| match end {
        End::Any | End::World => true,
        End::Unattributed => false,
        End::Selector { selector, .. } => {
            !selector.asks_process()
                && !selector.asks_guest()
                && selector.address.iter().any(|block| block.length() == 0)
        }
    });
    let open = rule.to.iter().find(open).filter(|_| from_outside)?;
    let what = format!(
        "it opens every port of {} to whoever there is outside",
        open.label()
    );
    Some((what, "say which ports or services"))
}

/// Patterns of VMs that none of these match.
fn unknown<'r>(rule: &'r CompiledRule, vms: &'r [String]) -> impl Iterator<Item = &'r str> {
    let selectors = rule.from.iter().chain(&rule.to).filter_map(selector);
    let patterns = selectors.flat_map(|selector| &selector.vm);
    patterns.filter_map(move |pattern| match pattern {
        crate::document::VmPattern::Name(name) => {
            let known = vms.is_empty() || vms.iter().any(|vm| name.matches(vm));
            (!known).then_some(name.as_str())
        }
        crate::document::VmPattern::Uuid(..) => None,
    })
}
