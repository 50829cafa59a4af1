// SPDX-License-Identifier: GPL-3.0-only
//! What another policy would do otherwise, counted by kind of flow.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

use policyd_api::{Difference, Differences, FlowExample, FlowName, FlowTotals, PastFlow, Verdict};

use policyd_advice::{Candidate, Judgement};
use policyd_store::{FlowStore, FlowsError};

/// Differences that are listed.
const LISTED: usize = 1000;
/// Kinds of flow that are counted each; of more, only the flows are.
const KINDS: usize = 8192;

/// A time, seconds since 1970.
pub struct Span {
    /// From when on.
    pub since: u64,
    /// Until when.
    pub until: u64,
}

/// What differs so far.
#[derive(Default)]
pub struct Tally {
    flows: u64,
    not_judged: u64,
    cut: u64,
    opened: u64,
    kinds: HashMap<Arc<FlowName>, Kind>,
    left_out: u64,
}

struct Kind {
    judged: Judgement,
    totals: FlowTotals,
    example: Option<FlowExample>,
}

impl Tally {
    /// Takes flows of one kind, and what the other policy says of them. `example`: one of them.
    pub fn take(
        &mut self,
        name: &Arc<FlowName>,
        judged: Option<&Judgement>,
        totals: &FlowTotals,
        example: impl FnOnce() -> Option<FlowExample>,
    ) {
        self.flows += totals.flows;
        let Some(judged) = judged else {
            self.not_judged += totals.flows;
            return;
        };
        if judged.verdict == name.verdict {
            return;
        }
        match judged.verdict {
            Verdict::Deny => self.cut += totals.flows,
            Verdict::Allow => self.opened += totals.flows,
        }
        if let Some(kind) = self.kinds.get_mut(name) {
            kind.totals.add(totals);
            // Of one time it may be sure, and of another not.
            if kind.judged.unsure.is_none() {
                kind.judged.unsure = judged.unsure.clone();
            }
            kind.example = example().or(kind.example.take());
        } else if self.kinds.len() < KINDS {
            let kind = Kind {
                judged: judged.clone(),
                totals: *totals,
                example: example(),
            };
            self.kinds.insert(Arc::clone(name), kind);
        } else {
            self.left_out += 1;
        }
    }

    /// Takes all flows of some time, each by the rules of the policy that held when it was.
    pub fn of_past(
        store: &FlowStore,
        since: u64,
        until: u64,
        candidate: &Candidate,
    ) -> Result<(Span, Tally), FlowsError> {
        let clock = candidate.clock();
        let time = |from, to| {
            let times = clock.times(from, to);
            let is_one = times.is_one();
            (times, is_one)
        };
        let parts = store.past_apart(since, until, |_| true, time)?;
        // All parts are of one span, and there is one at least.
        let span = parts.first().map_or(Span { since, until }, |(_, past)| Span {
            since: past.since,
            until: past.until,
        });
        let mut tally = Tally::default();
        for (times, past) in parts {
            let candidates = candidate.at_each(&times);
            for (name, totals) in &past.flows {
                tally.take(name, candidates.judge(name).as_ref(), totals, || None);
            }
        }
        Ok((span, tally))
    }

    /// What was counted before.
    pub fn resumed(before: &Differences) -> Tally {
        let kind = |d: &Difference| {
            let judged = Judgement {
                verdict: d.would,
                rule: d.would_rule.clone(),
                unsure: d.unsure.clone(),
            };
            let kind = Kind {
                judged,
                totals: d.flow.totals,
                example: d.example.clone(),
            };
            (Arc::new(d.flow.name.clone()), kind)
        };
        Tally {
            flows: before.flows,
            not_judged: before.not_judged,
            cut: before.cut,
            opened: before.opened,
            kinds: before.differences.iter().map(kind).collect(),
            left_out: before.left_out,
        }
    }

    /// What differs. `now`: the policy in force, if that is asked for.
    pub fn differences(&self, now: Option<&Candidate>) -> Differences {
        let mut kinds: Vec<(&Arc<FlowName>, &Kind)> = self.kinds.iter().collect();
        kinds.sort_by(|(a, x), (b, y)| (Reverse(x.totals.flows), a).cmp(&(Reverse(y.totals.flows), b)));
        let left_out = self.left_out + kinds.len().saturating_sub(LISTED) as u64;
        kinds.truncate(LISTED);
        let shown = kinds.into_iter().map(|(name, kind)| Difference {
            flow: PastFlow {
                name: (**name).clone(),
                totals: kind.totals,
            },
            would: kind.judged.verdict,
            would_rule: kind.judged.rule.clone(),
            now: now
                .and_then(|now| now.judge(name))
                .map_or(name.verdict, |judged| judged.verdict),
            unsure: kind.judged.unsure.clone(),
            example: kind.example.clone(),
        });
        Differences {
            flows: self.flows,
            not_judged: self.not_judged,
            cut: self.cut,
            opened: self.opened,
            differences: shown.collect(),
            left_out,
        }
    }
}

/// Policies and flows for tests.
#[cfg(test)]
pub mod samples {
    use std::sync::Arc;

    use policy::{Document, Ruleset};
    use policyd_advice::Candidate;
    use policyd_api::{FlowEnd, FlowName, Verdict};

    /// A candidate of one document.
    pub fn candidate(text: &str) -> Candidate {
        let documents = [Document::parse("t.yaml", text).expect("valid")];
        let rules = Ruleset::compile(&documents, 2).expect("valid");
        Candidate::new(Arc::new(rules), documents.iter())
    }

    /// A flow from a program in web1 to db1.
    pub fn flow(exe: Option<&str>, verdict: Verdict) -> FlowName {
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
}

#[cfg(test)]
mod tests {
    use super::samples::{candidate, flow};
    use super::*;

    fn some(flows: u64) -> FlowTotals {
        FlowTotals {
            flows,
            first: 10,
            last: 20,
            ..FlowTotals::default()
        }
    }

    #[test]
    fn what_would_be_cut_and_opened_is_counted_and_listed_the_most_frequent_first() {
        let (old, new) = (
            candidate("policy: a\n"),
            candidate(
                "policy: a\ndefault: { db1: deny }\nrules:\n  - { name: r, from: { vm: web1, exe: /bin/a }, to: { vm: db1 }, action: allow }\n",
            ),
        );
        let mut tally = Tally::default();
        let mut take = |name: &FlowName, flows| {
            tally.take(
                &Arc::new(name.clone()),
                new.judge(name).as_ref(),
                &some(flows),
                || None,
            );
        };
        take(&flow(Some("/bin/a"), Verdict::Allow), 100);
        take(&flow(Some("/bin/b"), Verdict::Allow), 2);
        take(&flow(Some("/bin/b"), Verdict::Allow), 3);
        take(&flow(Some("/bin/c"), Verdict::Allow), 7);
        take(&flow(Some("/bin/a"), Verdict::Deny), 1);
        let mut locked = flow(Some("/bin/a"), Verdict::Deny);
        locked.by_policy = false;
        take(&locked, 4);
        let found = tally.differences(Some(&old));
        assert_eq!(
            (found.flows, found.not_judged, found.cut, found.opened),
            (117, 4, 12, 1)
        );
        let listed: Vec<(u64, Verdict, &str, Verdict)> = found
            .differences
            .iter()
            .map(|d| (d.flow.totals.flows, d.would, &*d.would_rule, d.now))
            .collect();
        assert_eq!(
            listed,
            [
                (7, Verdict::Deny, "default (to)", Verdict::Allow),
                (5, Verdict::Deny, "default (to)", Verdict::Allow),
                (1, Verdict::Allow, "a/r", Verdict::Allow),
            ]
        );
        let again = Tally::resumed(&found).differences(Some(&old));
        assert_eq!(again, found);
    }
}
