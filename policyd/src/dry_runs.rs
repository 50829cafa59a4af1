// SPDX-License-Identifier: GPL-3.0-only
//! What rules in dry run would have done, counted by rule.

use std::collections::BTreeMap;
use std::sync::Mutex;

use policy::{Ruleset, Verdict};
use policyd_api as api;

use crate::registry::lock;

/// The counts. The enforcer writes them, the API reads them.
#[derive(Default)]
pub struct DryRuns {
    /// By `SET/RULE`.
    counts: Mutex<BTreeMap<String, Count>>,
}

#[derive(Clone, Copy, Default)]
struct Count {
    allow: u64,
    deny: u64,
}

impl DryRuns {
    /// Counts a flow that the rule would have decided otherwise. Returns how many there are of its kind.
    pub fn count(&self, rule: &str, verdict: Verdict) -> u64 {
        let mut counts = lock(&self.counts);
        let count = counts.entry(rule.to_owned()).or_default();
        let of = match verdict {
            Verdict::Allow => &mut count.allow,
            Verdict::Deny => &mut count.deny,
        };
        *of += 1;
        *of
    }

    /// Forgets the rules that are no more in dry run. One that is changed meanwhile counts on.
    pub fn keep(&self, rules: &Ruleset) {
        let mut counts = lock(&self.counts);
        if !counts.is_empty() {
            let tried: Vec<String> = rules.dry_runs().map(|name| name.to_string()).collect();
            counts.retain(|rule, _| tried.contains(rule));
        }
    }

    /// All of them, as the API shows them: every rule that is in dry run, also one that made no difference yet.
    pub fn all(&self, rules: &Ruleset) -> Vec<api::DryRunStats> {
        let counts = lock(&self.counts);
        let shown = rules.dry_runs().map(|name| {
            let rule = name.to_string();
            let count = counts.get(&rule).copied().unwrap_or_default();
            api::DryRunStats {
                rule,
                allow: count.allow,
                deny: count.deny,
            }
        });
        shown.collect()
    }
}

#[cfg(test)]
mod tests {
    use policy::Document;

    use super::*;

    #[test]
    fn rules_are_counted_as_long_as_they_are_in_dry_run() {
        let rules = |action: &str| {
            let text = format!(
                "policy: p\nrules:\n- {{ name: a, from: any, to: any, action: deny, dry_run: true }}\n\
                 - {{ name: b, from: any, to: any, action: {action} }}\n"
            );
            let document = Document::parse("p.yaml", &text).expect("a document");
            Ruleset::compile(&[document], 1).expect("rules")
        };
        let both = rules("audit, dry_run: true");
        let counts = DryRuns::default();
        assert_eq!(counts.count("p/a", Verdict::Deny), 1);
        assert_eq!(counts.count("p/b", Verdict::Allow), 1);
        assert_eq!(counts.count("p/b", Verdict::Allow), 2);
        let told = |rules: &Ruleset| -> Vec<(String, u64, u64)> {
            let all = counts.all(rules).into_iter();
            all.map(|c| (c.rule, c.allow, c.deny)).collect()
        };
        assert_eq!(told(&both), [("p/a".into(), 0, 1), ("p/b".into(), 2, 0)]);
        counts.keep(&rules("audit"));
        assert_eq!(told(&both), [("p/a".into(), 0, 1), ("p/b".into(), 0, 0)]);
    }
}
