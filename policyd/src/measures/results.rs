// SPDX-License-Identifier: GPL-3.0-only
//! What processes were found to run. The trap path reads it by one atomic load; the enforcer alone writes it.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use policy::{Measured, Ruleset, Run, VmId};
use vmi_xen::linux::Process;

/// Names what a process runs: after an exec it is another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Runs {
    tgid: u32,
    start_time_ns: u64,
    mm: u64,
}

impl From<&Process> for Runs {
    fn from(process: &Process) -> Runs {
        Runs {
            tgid: process.tgid,
            start_time_ns: process.start_time_ns,
            mm: process.mm,
        }
    }
}

/// The text of a program as policy has it.
pub type Text = Arc<[Run]>;

/// What a process was found to run, and among which programs it was looked for: with others it would be another question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its executable.
    pub exe: Arc<str>,
    /// The answer; never [`Measured::Unknown`].
    pub measured: Measured,
    /// The texts that policy had for the executable.
    pub among: Vec<Text>,
    /// That of the program it is.
    pub is: Option<Text>,
}

impl Found {
    /// Whether it is true under `rules`, too.
    pub fn holds(&self, rules: &Ruleset, vm: &VmId) -> bool {
        let mut texts = rules
            .programs_for(vm, &self.exe)
            .map(|(_, program)| &program.text);
        match &self.is {
            Some(is) => texts.any(|text| text == is),
            None => texts.eq(self.among.iter()),
        }
    }
}

type OfGuest = HashMap<Runs, Found>;

/// What is known of all guests' processes.
#[derive(Default)]
pub struct Results {
    guests: ArcSwap<HashMap<u32, Arc<OfGuest>>>,
}

impl Results {
    /// What a process of the guest with this scope was found to run.
    pub fn of(&self, scope: u32, process: &Process) -> Measured {
        let guests = self.guests.load();
        let found = guests.get(&scope).and_then(|guest| guest.get(&process.into()));
        found.map_or(Measured::Unknown, |found| found.measured)
    }

    /// Takes what was found. Gives what was known before.
    pub fn set(&self, scope: u32, runs: Runs, found: Found) -> Option<Found> {
        let mut guests = HashMap::clone(&self.guests.load());
        let before = Arc::make_mut(guests.entry(scope).or_default()).insert(runs, found);
        self.guests.store(guests.into());
        before
    }

    /// Forgets processes that are not to be `kept`.
    pub fn retain(&self, kept: impl Fn(u32, &Runs) -> bool) {
        let before = self.guests.load();
        let is_kept = |scope: u32, guest: &OfGuest| guest.keys().all(|runs| kept(scope, runs));
        if before.iter().all(|(scope, guest)| is_kept(*scope, guest)) {
            return;
        }
        self.keep(|scope, runs, _| kept(scope, runs));
    }

    fn keep(&self, keeps: impl Fn(u32, &Runs, &Found) -> bool) {
        let before = self.guests.load();
        let kept = before.iter().filter_map(|(scope, guest)| {
            let kept = guest.iter().filter(|(runs, found)| keeps(*scope, runs, found));
            let kept: OfGuest = kept.map(|(runs, found)| (*runs, found.clone())).collect();
            (!kept.is_empty()).then(|| (*scope, Arc::new(kept)))
        });
        self.guests.store(Arc::new(kept.collect()));
    }

    /// Forgets what may not be so under `rules`. Gives whose it was.
    pub fn keep_what_holds<'v>(
        &self,
        rules: &Ruleset,
        vm: impl Fn(u32) -> Option<&'v VmId>,
    ) -> Vec<(u32, Runs)> {
        let before = self.guests.load();
        let holds = |scope: u32, found: &Found| vm(scope).is_some_and(|vm| found.holds(rules, vm));
        let all = before
            .iter()
            .flat_map(|(scope, guest)| guest.iter().map(move |one| (*scope, one)));
        let gone: Vec<(u32, Runs)> = all
            .filter(|(scope, (_, found))| !holds(*scope, found))
            .map(|(scope, (runs, _))| (scope, *runs))
            .collect();
        if !gone.is_empty() {
            self.keep(|scope, _, found| holds(scope, found));
        }
        gone
    }
}

#[cfg(test)]
mod tests {
    use policy::Document;

    use super::*;

    const DIGEST: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    const OTHER: &str = "BBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBA=";

    fn rules(programs: &str) -> Ruleset {
        let document = Document::parse("p", &format!("policy: p\n{programs}")).expect("a document");
        Ruleset::compile(&[document], 1).expect("rules")
    }

    fn program(sha256: &str) -> String {
        format!("programs: {{ curl: {{ exe: /usr/bin/curl, text: {{ page: 1, sha256: {sha256} }} }} }}")
    }

    fn text(rules: &Ruleset, vm: &VmId) -> Text {
        let (_, program) = rules.programs_for(vm, "/usr/bin/curl").next().expect("a program");
        Arc::clone(&program.text)
    }

    #[test]
    fn what_was_found_holds_for_as_long_as_the_programs_do() {
        let vm = VmId {
            name: "web1".into(),
            uuid: [1; 16],
            facts: Arc::default(),
        };
        let (one, same, other, none) = (
            rules(&program(DIGEST)),
            rules(&program(DIGEST)),
            rules(&program(OTHER)),
            rules(""),
        );
        let of = |measured, is: Option<Text>, among| Found {
            exe: "/usr/bin/curl".into(),
            measured,
            among,
            is,
        };
        let is = text(&one, &vm);
        let found = of(Measured::Same, Some(Arc::clone(&is)), vec![Arc::clone(&is)]);
        assert!(found.holds(&one, &vm) && found.holds(&same, &vm));
        assert!(!found.holds(&other, &vm) && !found.holds(&none, &vm));
        let found = of(Measured::Changed, None, vec![is]);
        assert!(found.holds(&same, &vm) && !found.holds(&other, &vm) && !found.holds(&none, &vm));
        let found = of(Measured::Unregistered, None, Vec::new());
        assert!(found.holds(&none, &vm) && !found.holds(&one, &vm));

        let results = Results::default();
        let runs = |tgid| Runs {
            tgid,
            start_time_ns: 7,
            mm: 9,
        };
        let knows = |results: &Results, tgid| {
            let guests = results.guests.load();
            guests
                .get(&1)
                .is_some_and(|guest| guest.contains_key(&runs(tgid)))
        };
        let is = text(&one, &vm);
        results.set(1, runs(1), of(Measured::Same, Some(is), Vec::new()));
        results.set(1, runs(2), of(Measured::Unregistered, None, Vec::new()));
        assert_eq!(
            results.keep_what_holds(&one, |_| None).len(),
            2,
            "a guest that is gone"
        );
        assert!(!knows(&results, 1));
        let is = text(&one, &vm);
        results.set(1, runs(1), of(Measured::Same, Some(is), Vec::new()));
        results.set(1, runs(2), of(Measured::Unregistered, None, Vec::new()));
        assert_eq!(results.keep_what_holds(&same, |_| Some(&vm)), [(1, runs(2))]);
        assert!(knows(&results, 1) && !knows(&results, 2));
        assert!(results.keep_what_holds(&same, |_| Some(&vm)).is_empty());
        results.retain(|scope, is| scope == 1 && *is == runs(1));
        assert!(knows(&results, 1));
        results.retain(|_, is| *is == runs(2));
        assert!(!knows(&results, 1));
    }
}
