// SPDX-License-Identifier: GPL-3.0-only
//! How many flows were opened between which domains, and how many of them refused, of the last hour and a bit.

use std::collections::{HashMap, VecDeque};
use std::sync::Mutex;

use policy::pattern::Pattern;
use policyd_api::{FlowName, Refusals, Verdict};

use crate::registry::lock;

/// Seconds that are counted together, at most.
const SLOT: u64 = 5;
/// Seconds that are kept: 75 minutes.
const KEPT: u64 = 4500;
/// Slots that are kept, also where policy changes all the time.
const SLOTS: usize = 2048;
/// Pairs of domains that are told apart in a slot; others are left out.
const PAIRS: usize = 4096;

/// Names of the domains at both ends; an end outside has none.
type Ends = (Option<String>, Option<String>);

/// What is counted together.
struct Slot {
    /// When it began, seconds since 1970.
    begin: u64,
    /// The policy that was in force: what one cut is not counted with what another did.
    generation: u64,
    counts: HashMap<Ends, Refusals>,
}

/// Counts by time and domains.
#[derive(Default)]
pub struct Refused(Mutex<VecDeque<Slot>>);

impl Refused {
    /// A flow was opened. `now`: seconds since 1970; a clock that goes back adds to the last slot. `generation`: of the policy that is in
    /// force now.
    pub fn count(&self, name: &FlowName, now: u64, generation: u64) {
        let mut slots = lock(&self.0);
        let begin = now.max(slots.back().map_or(0, |last| last.begin));
        let goes_on = |last: &Slot| last.generation == generation && begin < last.begin + SLOT;
        if !slots.back().is_some_and(goes_on) {
            slots.push_back(Slot {
                begin,
                generation,
                counts: HashMap::new(),
            });
        }
        while slots.len() > SLOTS || slots.front().is_some_and(|first| first.begin + KEPT <= begin) {
            slots.pop_front();
        }
        let Some(Slot { counts, .. }) = slots.back_mut() else {
            return;
        };
        let ends = (name.from.domain.clone(), name.to.domain.clone());
        if counts.len() >= PAIRS && !counts.contains_key(&ends) {
            return;
        }
        let count = counts.entry(ends).or_default();
        count.flows += 1;
        count.refused += u64::from(name.verdict == Verdict::Deny);
    }

    /// Flows with one of these VMs at an end, in a time (seconds since 1970) as far as it is kept, to within some seconds.
    pub fn of(&self, vms: &[Pattern], since: u64, until: u64) -> Refusals {
        let is_one = |name: &Option<String>| {
            let name = name.as_deref();
            name.is_some_and(|name| vms.iter().any(|vm| vm.matches(name)))
        };
        let slots = lock(&self.0);
        let within = slots
            .iter()
            .filter(|slot| slot.begin >= since && slot.begin < until);
        let counts = within.flat_map(|slot| &slot.counts);
        let of_them = counts.filter(|((from, to), _)| is_one(from) || is_one(to));
        of_them.fold(Refusals::default(), |all, (_, more)| Refusals {
            flows: all.flows + more.flows,
            refused: all.refused + more.refused,
        })
    }
}

#[cfg(test)]
mod tests {
    use policyd_api::FlowEnd;

    use super::*;

    const AT: u64 = 1_000_000_000;

    fn flow(from: &str, to: Option<&str>, verdict: Verdict) -> FlowName {
        let end = |domain: Option<&str>| FlowEnd {
            domain: domain.map(str::to_owned),
            ..FlowEnd::default()
        };
        FlowName {
            from: end(Some(from)),
            to: end(to),
            protocol: "tcp".into(),
            port: Some(80),
            verdict,
            rule: String::new(),
            by_policy: true,
        }
    }

    #[test]
    fn flows_are_counted_once_by_either_end() {
        let refused = Refused::default();
        let vms = |text: &str| vec![text.parse::<Pattern>().expect("a pattern")];
        refused.count(&flow("web1", Some("web2"), Verdict::Allow), AT, 1);
        refused.count(&flow("web1", Some("db1"), Verdict::Deny), AT, 1);
        refused.count(&flow("db1", None, Verdict::Deny), AT + 20, 1);
        let of = |text: &str, since, until| {
            let of = refused.of(&vms(text), since, until);
            (of.flows, of.refused)
        };
        assert_eq!(of("web*", AT, AT + 60), (2, 1));
        assert_eq!(of("web2", AT, AT + 60), (1, 0));
        assert_eq!(of("db1", AT, AT + 60), (2, 2));
        assert_eq!(of("db1", AT + 20, AT + 60), (1, 1));
        assert_eq!(of("db1", AT, AT + 20), (1, 1));
        assert_eq!(of("*", AT - 600, AT), (0, 0));
        // What is too old goes.
        refused.count(&flow("web1", None, Verdict::Allow), AT + KEPT, 1);
        assert_eq!(of("*", AT, u64::MAX), (2, 1));
    }

    #[test]
    fn what_a_change_cuts_at_once_is_counted_since_it() {
        let refused = Refused::default();
        let vms = vec!["web1".parse::<Pattern>().expect("a pattern")];
        let flow = |verdict| flow("web1", None, verdict);
        for _ in 0..20 {
            refused.count(&flow(Verdict::Allow), AT, 1);
        }
        // Within the same second.
        for _ in 0..6 {
            refused.count(&flow(Verdict::Deny), AT + 1, 2);
        }
        refused.count(&flow(Verdict::Allow), AT + 2, 3);
        let of = |since, until| {
            let of = refused.of(&vms, since, until);
            (of.flows, of.refused)
        };
        assert_eq!(of(AT - 600, AT + 1), (20, 0));
        assert_eq!(of(AT + 1, AT + 60), (7, 6));
        // However often policy changes, there is an end to it.
        for generation in 0..2 * SLOTS as u64 {
            refused.count(&flow(Verdict::Allow), AT + 3, generation);
        }
        assert!(of(0, u64::MAX).0 <= SLOTS as u64);
    }
}
