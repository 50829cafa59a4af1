// SPDX-License-Identifier: GPL-3.0-only
//! What is done about a threat by itself: an ordinary change of policy.
//!
//! So it is in the history, with why; it revokes what is open, can be explained, gone back from, and deleted, and it survives a
//! restart.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use policy::document::Answer;
use policyd_analytics::Found;
use policyd_api::{Author, SourceText};
use serde_json::{Value, json};

use crate::control::Control;
use crate::daemon::DaemonError;
use crate::enforcer::{Request, Wish};
use crate::world::World;

/// Answers in an hour. Who can make a guest look attacked shall not be able to write policy without end.
const MOST: usize = 32;
/// The hour.
const HOUR: Duration = Duration::from_secs(3600);

/// Answers threats as the policy says.
pub struct Answers {
    control: Arc<Control>,
    world: Arc<ArcSwap<World>>,
    given: VecDeque<Instant>,
}

impl Answers {
    /// `control`: where changes are asked for.
    pub fn new(control: Arc<Control>, world: Arc<ArcSwap<World>>) -> Answers {
        Answers {
            control,
            world,
            given: VecDeque::new(),
        }
    }

    /// Does what the policy says is to be done, and tells what that was, and whether anything was done now; none where it says
    /// nothing, or that it is only to be told.
    pub fn give(&mut self, found: &Found) -> Option<(String, bool)> {
        let world = self.world.load_full();
        let vm = world.vms().iter().find(|vm| vm.id.name == found.domain)?;
        let threat = &found.threat;
        let said = world
            .rules
            .answer_of(&vm.id, &threat.rule, threat.severity.as_str())?;
        let exe = threat.process.as_ref().and_then(|process| process.exe.as_deref());
        let (set, did) = match (&said.value, exe) {
            (Answer::Tell, _) => return None,
            (Answer::Deny, Some(exe)) => (
                denial(&found.domain, exe),
                format!("{exe} in {} is denied", found.domain),
            ),
            (Answer::Decoy(to), Some(exe)) if **to != *found.domain => (
                decoy(&found.domain, exe, to),
                format!("{exe} in {} reaches {to}, and nobody else", found.domain),
            ),
            // The decoy itself is attacked: that is what it is for, and it shall reach nobody.
            (Answer::Decoy(_), Some(exe)) => (
                denial(&found.domain, exe),
                format!("{exe} in {} is denied", found.domain),
            ),
            (answer @ (Answer::Deny | Answer::Decoy(_)), None) => {
                let why = "was not possible: no program is known; answer with `quarantine`";
                return Some((
                    format!("`{}`, as {} says, {why}", answer.as_str(), said.set),
                    false,
                ));
            }
            (Answer::Quarantine, _) => (
                quarantine(&found.domain),
                format!("{} is quarantined", found.domain),
            ),
        };
        let name = set["policy"].as_str().unwrap_or_default().to_owned();
        if self.control.policy(&name).is_ok() {
            return Some((format!("{did} already, by policy {name}"), false));
        }
        let now = Instant::now();
        while self
            .given
            .front()
            .is_some_and(|at| now.duration_since(*at) >= HOUR)
        {
            self.given.pop_front();
        }
        if self.given.len() >= MOST {
            let why = format!("none: {MOST} were given within an hour, which is the most");
            return Some((why, false));
        }
        self.given.push_back(now);
        Some(match self.apply(&name, &set, found) {
            Ok(generation) => {
                let by = format!("by policy {name} (generation {generation}, as {} says)", said.set);
                (format!("{did}, {by}; undo: xmesh policy-delete {name}"), true)
            }
            Err(why) => {
                log::error!("a threat could not be answered: {why}");
                (format!("`{}` failed: {why}", said.value.as_str()), false)
            }
        })
    }

    fn apply(&self, name: &str, set: &Value, found: &Found) -> Result<u64, DaemonError> {
        let threat = &found.threat;
        // JSON is YAML too.
        let text = serde_json::to_string_pretty(set).map_err(|e| DaemonError::Internal(e.to_string()))?;
        let applied = self.control.change(Request {
            wish: Wish::Apply(vec![SourceText {
                file: format!("{name}.yaml"),
                text,
            }]),
            by: Author {
                uid: 0,
                name: Some("policyd".into()),
            },
            message: Some(format!(
                "threat {} ({}): {}",
                threat.rule, threat.technique, threat.title
            )),
            if_generation: None,
            dry_run: false,
        })?;
        Ok(applied.generation)
    }
}

/// What an executable in a VM opens is denied.
fn denial(vm: &str, exe: &str) -> Value {
    json!({
        "policy": set_name("deny", &[vm, exe]),
        "description": format!("Answer to a threat: {exe} in {vm} opens nothing"),
        "rules": [{
            "name": "answer",
            "from": { "vm": literal(vm), "exe": literal(exe) },
            "to": "any",
            "action": "deny",
        }],
    })
}

/// What an executable in a VM opens goes to another VM instead: TCP and UDP; all else is denied.
fn decoy(vm: &str, exe: &str, to: &str) -> Value {
    json!({
        "policy": set_name("decoy", &[vm, exe, to]),
        "description": format!("Answer to a threat: {exe} in {vm} reaches {to}, and nobody else"),
        "rules": [{
            "name": "answer",
            "from": { "vm": literal(vm), "exe": literal(exe) },
            "to": "any",
            "action": "deny",
            "instead": { "vm": literal(to) },
        }],
    })
}

/// All of a VM's traffic is denied.
fn quarantine(vm: &str) -> Value {
    json!({
        "policy": set_name("quarantine", &[vm]),
        "description": format!("Answer to a threat: {vm} neither sends nor receives"),
        "rules": [
            { "name": "out", "from": { "vm": literal(vm) }, "to": "any", "action": "deny" },
            { "name": "in", "from": "any", "to": { "vm": literal(vm) }, "action": "deny" },
        ],
    })
}

/// A pattern that this text alone matches.
fn literal(text: &str) -> String {
    let mut pattern = String::with_capacity(text.len());
    for c in text.chars() {
        if matches!(c, '*' | '?' | '[' | ']' | '{' | '}' | '\\') {
            pattern.push('\\');
        }
        pattern.push(c);
    }
    pattern
}

/// A name for a set: readable, and another for each other thing that it is about.
fn set_name(what: &str, about: &[&str]) -> String {
    let mut hasher = DefaultHasher::new();
    about.hash(&mut hasher);
    let words: String = about
        .iter()
        .map(|word| word.rsplit('/').next().unwrap_or(word).to_lowercase())
        .collect::<Vec<_>>()
        .join("-")
        .chars()
        .map(|c| {
            if c.is_ascii_lowercase() || c.is_ascii_digit() {
                c
            } else {
                '-'
            }
        })
        .take(40)
        .collect();
    format!("{what}-{words}-{:08x}", hasher.finish() as u32)
}

#[cfg(test)]
mod tests {
    use policy::{Document, Ruleset, VmId};

    use super::*;

    #[test]
    fn what_is_written_is_a_policy_about_exactly_that() {
        for (vm, exe) in [
            ("web1", "/usr/bin/bash"),
            ("Web_1.example", "/tmp/a b/[x]*?{y}\\z\"'"),
            (
                "a-name-that-is-longer-than-most-names-of-machines-are",
                "/memfd:\u{e9}vil",
            ),
        ] {
            let text = denial(vm, exe).to_string();
            let denial = Document::parse("x.yaml", &text).unwrap_or_else(|e| panic!("{text}: {e}"));
            let text = decoy(vm, exe, "honey[1]").to_string();
            let decoy = Document::parse("x.yaml", &text).unwrap_or_else(|e| panic!("{text}: {e}"));
            let sent = Ruleset::compile(std::slice::from_ref(&decoy), 1).expect("rules");
            assert_eq!(sent.diverting().count(), 1);
            let text = quarantine(vm).to_string();
            let quarantine = Document::parse("x.yaml", &text).unwrap_or_else(|e| panic!("{text}: {e}"));
            assert!(Ruleset::compile(&[denial.clone(), quarantine.clone()], 1).is_ok());
            assert_ne!(denial.name(), quarantine.name());
        }
        assert_eq!(literal("/tmp/[a]*?{b}\\"), "/tmp/\\[a\\]\\*\\?\\{b\\}\\\\");
    }

    #[test]
    fn it_is_about_that_program_and_no_other() {
        let text = denial("web1", "/tmp/a*b").to_string();
        let rules = Ruleset::compile(&[Document::parse("x", &text).expect("a policy")], 1).expect("rules");
        let vm = VmId::new("web1", [1; 16]);
        let verdict = |exe: &str| {
            let subject = crate::gate::tests::running(exe);
            let source = policy::Endpoint::guest(&vm, [10, 0, 0, 1].into());
            let flow = policy::Flow {
                protocol: policy::Protocol::TCP,
                source: source
                    .with_process(crate::world::policy_process(&subject, policy::Measured::Unknown)),
                destination: policy::Endpoint::world([192, 0, 2, 1].into()),
                port: 80,
            };
            rules.decide(&flow).verdict
        };
        assert_eq!(verdict("/tmp/a*b"), policy::Verdict::Deny);
        assert_eq!(verdict("/tmp/axb"), policy::Verdict::Allow);
    }

    #[test]
    fn the_rule_counts_before_how_bad_it_is() {
        let text = r#"{policy: p, answers: {"web*": {alert: quarantine, miner: tell, sweep: {decoy: honey1}}, web1: {alert: deny}}}"#;
        let rules = Ruleset::compile(&[Document::parse("p", text).expect("a policy")], 1).expect("rules");
        let vm = |name: &str| VmId::new(name, [1; 16]);
        let answer = |name: &str, rule: &str| {
            rules
                .answer_of(&vm(name), rule, "alert")
                .map(|said| said.value.clone())
        };
        assert_eq!(answer("web1", "reverse-shell"), Some(Answer::Deny));
        assert_eq!(answer("web2", "reverse-shell"), Some(Answer::Quarantine));
        assert_eq!(answer("web2", "miner"), Some(Answer::Tell));
        assert_eq!(answer("web2", "sweep"), Some(Answer::Decoy("honey1".into())));
        assert_eq!(answer("db1", "miner"), None);
    }

    #[test]
    fn policy_may_speak_of_every_rule_that_there_is() {
        let rules = policyd_analytics::rules();
        let words: std::collections::BTreeSet<&str> = rules
            .iter()
            .map(|rule| rule.id.as_str())
            .chain(["notice", "warning", "alert"])
            .collect();
        assert_eq!(words, policy::document::THREATS.into());
    }
}
