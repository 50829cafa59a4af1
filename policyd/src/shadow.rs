// SPDX-License-Identifier: GPL-3.0-only
//! A policy that runs beside the one in force: each flow that is recorded is judged by it, too, and what it would do otherwise is
//! counted. It changes nothing, and the trap path does not know of it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use policyd_api::{Author, Differences, FlowExample, FlowName, FlowTotals, ShadowStatus, SourceText};
use policyd_store::{FlowStore, FlowsError};
use serde::{Deserialize, Serialize};
use vmi_xen::observe::Subject;

use crate::daemon::DaemonError;
use crate::differences::Tally;
use crate::gate::Way;
use crate::registry::lock;
use policyd_advice::{Candidate, Judgement};

/// Under which name the flow history keeps it.
const NOTE: &str = "shadow";
/// How often what was counted is written.
const SAVE: Duration = Duration::from_secs(60);
/// Kinds of flow whose judgement is kept; it is made again for others.
const JUDGED: usize = 16 << 10;

/// Makes the example of a flow.
pub struct Example;

impl Example {
    /// A flow that `who` opened.
    pub fn of(way: &Way, who: Option<&Subject>) -> FlowExample {
        FlowExample {
            local: way.local,
            remote: way.remote,
            pid: who.map(|who| who.process.tgid),
        }
    }
}

/// The policy beside the one in force.
#[derive(Default)]
pub struct Shadow(Mutex<State>);

#[derive(Default)]
struct State {
    asked: Asked,
    /// None while there is none, or it is not valid.
    candidate: Option<Candidate>,
    /// From when until when the rules of it hold by which flows are judged now.
    hours: (u64, u64),
    problem: Option<String>,
    tally: Tally,
    judged: HashMap<Arc<FlowName>, Option<Judgement>>,
    /// Counted since it was written.
    unsaved: bool,
    saved: Option<Instant>,
}

/// What is asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// The sets.
    pub documents: Vec<SourceText>,
    /// Who asked.
    pub by: Author,
    /// Since when it is counted, seconds since 1970.
    pub since: u64,
    /// The generation in force that it is held against.
    pub generation: u64,
}

/// As it is on the disk.
#[derive(Serialize, Deserialize)]
struct Saved {
    #[serde(flatten)]
    asked: Asked,
    counted: Differences,
}

impl Shadow {
    /// What the history says that there was; it does not run before [`Shadow::run`].
    pub fn load(store: &FlowStore) -> Shadow {
        let mut state = State::default();
        if let Some(saved) = store.note::<Saved>(NOTE) {
            state.asked = saved.asked;
            state.tally = Tally::resumed(&saved.counted);
        }
        Shadow(Mutex::new(state))
    }

    /// The sets that are to run; none: there is no such policy.
    pub fn documents(&self) -> Vec<SourceText> {
        lock(&self.0).asked.documents.clone()
    }

    /// Makes durable what is asked for, before it runs.
    ///
    /// # Errors
    /// When it could not be written.
    pub fn put(store: &FlowStore, asked: &Asked) -> Result<(), FlowsError> {
        let counted = Differences::default();
        store.put_note(
            NOTE,
            &Saved {
                asked: asked.clone(),
                counted,
            },
        )
    }

    /// Begins anew with what is asked for.
    pub fn set(&self, asked: Asked, candidate: Result<Candidate, DaemonError>) {
        *lock(&self.0) = State {
            asked,
            ..State::default()
        };
        self.run(candidate, None);
    }

    /// Lets what is asked for run, compiled anew beside the sets in force. `changed`: the policy in force is another since then, so
    /// what was counted does not count any more.
    pub fn run(&self, candidate: Result<Candidate, DaemonError>, changed: Option<(u64, u64)>) {
        let state = &mut *lock(&self.0);
        if let Some((generation, at)) =
            changed.filter(|(generation, _)| state.asked.generation != *generation)
        {
            (state.asked.generation, state.asked.since) = (generation, at);
            state.tally = Tally::default();
            state.unsaved = true;
        }
        state.judged.clear();
        state.hours = (0, 0);
        (state.candidate, state.problem) = match candidate {
            _ if state.asked.documents.is_empty() => (None, None),
            Ok(candidate) => (Some(candidate), None),
            Err(e) => (None, Some(e.to_string())),
        };
    }

    /// A flow was decided.
    pub fn observe(&self, name: &Arc<FlowName>, at: u64, example: impl FnOnce() -> FlowExample) {
        let state = &mut *lock(&self.0);
        let Some(candidate) = &mut state.candidate else {
            return;
        };
        let (from, to) = state.hours;
        if !(from..to).contains(&at) {
            *candidate = candidate.at(at);
            state.hours = (at, candidate.next_change(at).unwrap_or(u64::MAX));
            state.judged.clear();
        }
        if state.judged.len() >= JUDGED && !state.judged.contains_key(name) {
            state.judged.clear();
        }
        let judged = state
            .judged
            .entry(Arc::clone(name))
            .or_insert_with(|| candidate.judge(name));
        let totals = FlowTotals {
            flows: 1,
            first: at,
            last: at,
            ..FlowTotals::default()
        };
        state
            .tally
            .take(name, judged.as_ref(), &totals, || Some(example()));
        state.unsaved = true;
    }

    /// Writes what was counted, now and then. `now`: in any case.
    pub fn save(&self, store: &FlowStore, now: bool) {
        let saved = {
            let state = &mut *lock(&self.0);
            let due = now || state.saved.is_none_or(|at| at.elapsed() >= SAVE);
            if state.asked.documents.is_empty() || !state.unsaved || !due {
                return;
            }
            (state.unsaved, state.saved) = (false, Some(Instant::now()));
            Saved {
                asked: state.asked.clone(),
                counted: state.tally.differences(None),
            }
        };
        if let Err(e) = store.put_note(NOTE, &saved) {
            log::warn!("what the shadow policy would do otherwise is not written: {e}");
        }
    }

    /// How it stands. `now`: the policy in force.
    pub fn status(&self, now: &Candidate) -> ShadowStatus {
        let state = lock(&self.0);
        if state.asked.documents.is_empty() {
            return ShadowStatus::default();
        }
        ShadowStatus {
            files: state.asked.documents.iter().map(|d| d.file.clone()).collect(),
            by: state.asked.by.clone(),
            since: state.asked.since,
            problem: state.problem.clone(),
            differences: state.tally.differences(Some(now)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::differences::samples::{candidate, flow};
    use policyd_api::Verdict;
    use policyd_store::FlowConfig;

    const CANDIDATE: &str = "policy: a
default: { db1: deny }
rules:
  - { name: r, from: { vm: web1, exe: /bin/a }, to: { vm: db1 }, action: allow }
";

    fn asked() -> Asked {
        Asked {
            documents: vec![SourceText {
                file: "a.yaml".into(),
                text: CANDIDATE.into(),
            }],
            by: Author::default(),
            since: 5,
            generation: 1,
        }
    }

    fn example() -> FlowExample {
        FlowExample {
            local: "10.0.0.11:4000".parse().expect("an address"),
            remote: "10.0.0.12:80".parse().expect("an address"),
            pid: Some(7),
        }
    }

    #[test]
    fn flows_are_judged_by_the_rules_of_their_time() {
        let shadow = Shadow::default();
        let text = CANDIDATE.replace(
            "action: allow }",
            "action: allow, require: { time: { hours: 08:00-18:00 } } }",
        );
        shadow.set(asked(), Ok(candidate(&text)));
        let name = Arc::new(flow(Some("/bin/a"), Verdict::Allow));
        let cut = || shadow.status(&candidate("policy: a\n")).differences.cut;
        let hour = 3600;
        shadow.observe(&name, 9 * hour, example);
        shadow.observe(&name, 17 * hour, example);
        assert_eq!(cut(), 0);
        shadow.observe(&name, 18 * hour, example);
        shadow.observe(&name, 20 * hour, example);
        assert_eq!(cut(), 2);
        // The next day; and a clock that goes back.
        shadow.observe(&name, 32 * hour, example);
        assert_eq!(cut(), 2);
        shadow.observe(&name, 7 * hour, example);
        assert_eq!(cut(), 3);
    }

    #[test]
    fn what_differs_is_counted_and_outlives_the_process_but_not_a_change_of_policy() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("flows");
        let config = FlowConfig {
            reserve: 0,
            ..FlowConfig::default()
        };
        let store = FlowStore::open(&path, config).expect("opens");
        let none = candidate("policy: a\n");
        let shadow = Shadow::load(&store);
        let (a, b) = (
            Arc::new(flow(Some("/bin/a"), Verdict::Allow)),
            Arc::new(flow(Some("/bin/b"), Verdict::Allow)),
        );
        // Nothing runs yet.
        shadow.observe(&b, 10, example);
        assert_eq!(shadow.status(&none), ShadowStatus::default());
        Shadow::put(&store, &asked()).expect("is written");
        shadow.set(asked(), Ok(candidate(CANDIDATE)));
        shadow.observe(&a, 11, example);
        shadow.observe(&b, 12, example);
        shadow.observe(&b, 13, example);
        let status = shadow.status(&none);
        assert_eq!((status.differences.flows, status.differences.cut), (3, 2));
        let [found] = status.differences.differences.as_slice() else {
            panic!("{status:?}");
        };
        assert_eq!((found.flow.totals.first, found.flow.totals.last), (12, 13));
        assert_eq!(found.example, Some(example()));
        shadow.save(&store, true);
        drop(store);

        let store = FlowStore::open(&path, config).expect("opens again");
        let shadow = Shadow::load(&store);
        assert_eq!(shadow.documents(), asked().documents);
        shadow.run(Ok(candidate(CANDIDATE)), Some((1, 100)));
        assert_eq!(shadow.status(&none), status);
        shadow.observe(&b, 14, example);
        assert_eq!(shadow.status(&none).differences.cut, 3);
        shadow.run(Err(DaemonError::Invalid("no".into())), Some((2, 100)));
        let status = shadow.status(&none);
        assert_eq!((status.problem.as_deref(), status.since), (Some("no"), 100));
        assert_eq!(status.differences.flows, 0);
        shadow.set(Asked::default(), Ok(candidate(CANDIDATE)));
        shadow.observe(&b, 15, example);
        assert_eq!(shadow.status(&none), ShadowStatus::default());
    }
}
