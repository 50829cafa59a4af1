// SPDX-License-Identifier: GPL-3.0-only
//! What is known of one process, and when it is looked at again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use policy::Measured;
use vmi_xen::linux::{PageDigests, Text as MemoryText};
use vmi_xen::observe::Subject;

use super::results::{Found, Text};
use super::{LATER, LEAST, SOON};

/// Tries of which nothing came before a process is left to its round.
const TRIES: u32 = 20;

/// A process that is looked at.
pub struct Known {
    /// The process.
    pub who: Arc<Subject>,
    /// What was seen last.
    pub looked: Option<Looked>,
    due: Option<Instant>,
    last: Option<Instant>,
    tries: u32,
}

/// What a look at a process showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Looked {
    /// For policy; none where nothing of its text is in memory (yet).
    pub found: Option<Found>,
    /// The program of the policy that it is, as `set/name`.
    pub program: Option<String>,
    /// Pages that were looked at.
    pub pages: u64,
    /// Where in the file pages differ from the program that is nearest: bytes, the first few.
    pub changed: Vec<u64>,
    /// Where in the file pages are that somebody wrote to in this process alone: bytes, the first few.
    pub private: Vec<u64>,
    /// Nothing of its executable is where it could be executed.
    pub unmapped: bool,
}

/// Texts of the policy, made ready for comparison.
#[derive(Default)]
pub struct Digests {
    ready: Vec<(Text, PageDigests)>,
}

impl Digests {
    fn of(&mut self, text: &Text) -> &PageDigests {
        let at = self.ready.iter().position(|(known, _)| Arc::ptr_eq(known, text));
        let at = at.unwrap_or_else(|| {
            let pages = text.iter().flat_map(|run| (run.page..).zip(&run.sha256));
            let digests = pages.map(|(page, sha256)| (u64::from(page), *sha256)).collect();
            self.ready.push((Arc::clone(text), digests));
            self.ready.len() - 1
        });
        &self.ready[at].1
    }
}

impl Looked {
    /// What `text` is among the programs that policy has for `exe`. `begins`: the process may have been started just now.
    pub fn of(
        text: &MemoryText,
        exe: &Arc<str>,
        programs: Vec<(String, Text)>,
        begins: bool,
        digests: &mut Digests,
    ) -> Looked {
        let unmapped = !begins && text.pages.is_empty() && text.absent == 0;
        let among: Vec<Text> = programs.iter().map(|(_, text)| Arc::clone(text)).collect();
        let mut best: Option<(usize, Vec<u64>)> = None;
        let mut is = None;
        for (name, program) in programs {
            let measurement = text.against(digests.of(&program));
            if measurement.is_sound() {
                is = Some((name, program));
                break;
            }
            let fewer = |(least, _): &(usize, _)| measurement.changed.len() < *least;
            if best.as_ref().is_none_or(fewer) {
                best = Some((measurement.changed.len(), measurement.changed));
            }
        }
        let measured = match (&is, among.is_empty(), text.pages.is_empty()) {
            (_, true, _) => Measured::Unregistered,
            (Some(_), ..) => Measured::Same,
            // Nothing of it is there to be looked at.
            (None, false, true) if !unmapped => Measured::Unknown,
            (None, false, _) => Measured::Changed,
        };
        let (program, is) = is.unzip();
        Looked {
            found: (measured != Measured::Unknown).then(|| Found {
                exe: Arc::clone(exe),
                measured,
                among,
                is,
            }),
            changed: match measured {
                Measured::Changed => best.map(|(_, changed)| changed).unwrap_or_default(),
                _ => Vec::new(),
            },
            program,
            pages: text.pages.len() as u64,
            private: text.private(),
            unmapped,
        }
    }

    /// What policy takes of it.
    pub fn measured(&self) -> Measured {
        self.found
            .as_ref()
            .map_or(Measured::Unknown, |found| found.measured)
    }

    /// Whether somebody should hear of it who knows `before`.
    fn is_news(&self, before: Option<&Looked>) -> bool {
        let odd = |looked: &Looked| {
            (
                looked.measured() == Measured::Changed,
                !looked.private.is_empty(),
                looked.unmapped,
            )
        };
        odd(self) != before.map_or((false, false, false), odd)
    }
}

impl Known {
    /// A process that is to be looked at in such a time.
    pub fn new(who: Arc<Subject>, wait: Duration) -> Known {
        Known {
            who,
            looked: None,
            due: Some(Instant::now() + wait),
            last: None,
            tries: 0,
        }
    }

    /// Somebody asks for it. Where its first look is due soon it is left at that.
    pub fn ask(&mut self) {
        let soon = Instant::now() + LATER;
        if self.looked.is_none() && self.due.is_some_and(|due| due <= soon) {
            return;
        }
        let soonest = match (&self.looked, self.last) {
            (Some(looked), Some(last)) if looked.found.is_some() => last + LEAST,
            _ => Instant::now(),
        };
        self.due = Some(self.due.map_or(soonest, |due| due.min(soonest)));
    }

    /// It is to be looked at as soon as can be.
    pub fn hurry(&mut self) {
        (self.due, self.tries) = (Some(Instant::now()), 0);
    }

    /// Whether it is to be looked at.
    pub fn is_due(&self, now: Instant) -> bool {
        self.due.is_some_and(|due| due <= now)
    }

    /// Whether it may have been started just now.
    pub fn begins(&self) -> bool {
        self.tries < TRIES
    }

    /// It could not be looked at.
    pub fn put_off(&mut self, every: Option<Duration>) {
        self.tries = self.tries.saturating_add(1);
        let now = Instant::now();
        self.due = match self.tries <= TRIES {
            true => Some(now + SOON),
            false => every.map(|every| now + every),
        };
    }

    /// Takes what a look showed. Gives it back where it is news.
    pub fn take(&mut self, looked: Looked, every: Option<Duration>) -> Option<Looked> {
        let news = looked.is_news(self.looked.as_ref()).then(|| looked.clone());
        match looked.found {
            None => self.put_off(every),
            // Known to be of no program, and perhaps not yet there.
            Some(_) if looked.pages == 0 && self.begins() => self.put_off(every),
            Some(_) => {
                let now = Instant::now();
                self.last = Some(now);
                self.due = every.map(|every| now + every);
            }
        }
        self.looked = Some(looked);
        news
    }
}

#[cfg(test)]
mod tests {
    use policy::Run;
    use vmi_xen::linux::TextPage;

    use super::*;

    fn program(name: &str, digests: &[u8]) -> (String, Text) {
        let run = Run {
            page: 4,
            sha256: digests.iter().map(|byte| [*byte; 32]).collect(),
        };
        (name.to_owned(), vec![run].into())
    }

    /// Pages from the fourth on, as in memory; `private`: those that the process has for itself.
    fn memory(digests: &[u8], private: &[u64]) -> MemoryText {
        let pages = (4..).zip(digests).map(|(page, byte)| TextPage {
            offset: page * 4096,
            sha256: Some([*byte; 32]),
            private: Some(private.contains(&page)),
        });
        MemoryText {
            pages: pages.collect(),
            absent: 1,
            ..MemoryText::default()
        }
    }

    fn look(text: &MemoryText, programs: Vec<(String, Text)>, begins: bool) -> Looked {
        Looked::of(text, &"/bin/c".into(), programs, begins, &mut Digests::default())
    }

    #[test]
    fn a_process_is_the_program_all_of_whose_pages_it_has() {
        let both = || vec![program("p/old", &[1, 2, 3]), program("p/new", &[1, 2, 4])];
        let new = look(&memory(&[1, 2, 4], &[]), both(), false);
        assert_eq!(
            (new.measured(), new.program.as_deref()),
            (Measured::Same, Some("p/new"))
        );
        let odd = look(&memory(&[1, 9, 4], &[5]), both(), false);
        assert_eq!(
            (odd.measured(), odd.program.as_deref()),
            (Measured::Changed, None)
        );
        // Beside the one that it is nearest to.
        assert_eq!((odd.changed, odd.private), (vec![5 * 4096], vec![5 * 4096]));
        assert_eq!(odd.found.map(|found| found.among.len()), Some(2));
        let none = look(&memory(&[1, 2, 3], &[]), Vec::new(), false);
        assert_eq!(none.measured(), Measured::Unregistered);
    }

    #[test]
    fn where_nothing_is_in_memory_it_is_not_known_unless_nothing_could_be() {
        let programs = || vec![program("p/c", &[1])];
        let reclaimed = MemoryText {
            absent: 3,
            ..MemoryText::default()
        };
        assert_eq!(look(&reclaimed, programs(), false).measured(), Measured::Unknown);
        let elsewhere = MemoryText {
            made: 2,
            ..MemoryText::default()
        };
        assert_eq!(look(&elsewhere, programs(), true).measured(), Measured::Unknown);
        let hollow = look(&elsewhere, programs(), false);
        assert!(hollow.unmapped && hollow.measured() == Measured::Changed);
    }

    #[test]
    fn it_is_looked_at_soon_and_then_seldom_and_told_of_what_is_new() {
        let mut known = Known::new(Arc::new(crate::gate::tests::running("/bin/c")), Duration::ZERO);
        let every = Some(Duration::from_secs(600));
        let now = Instant::now;
        let programs = || vec![program("p/c", &[1])];
        assert!(known.is_due(now()) && known.begins());
        let nothing = MemoryText {
            absent: 1,
            ..MemoryText::default()
        };
        assert!(known.take(look(&nothing, programs(), true), every).is_none());
        assert!(!known.is_due(now()) && known.is_due(now() + SOON));
        assert!(
            known
                .take(look(&memory(&[1], &[]), programs(), true), every)
                .is_none()
        );
        assert!(!known.is_due(now() + LEAST));
        known.ask();
        assert!(
            !known.is_due(now()) && known.is_due(now() + LEAST),
            "not at once again"
        );
        let changed = look(&memory(&[7], &[4]), programs(), false);
        assert_eq!(known.take(changed.clone(), every), Some(changed.clone()));
        assert_eq!(known.take(changed, every), None, "told once");
        let back = look(&memory(&[1], &[]), programs(), false);
        assert!(known.take(back, every).is_some());
        known.hurry();
        assert!(known.is_due(now()));

        // A first look that waits is not hurried by who asks.
        let mut known = Known::new(Arc::new(crate::gate::tests::running("/bin/c")), LATER);
        known.ask();
        assert!(!known.is_due(now()) && known.is_due(now() + LATER));

        // Who never has anything in memory is left to the rounds.
        let mut known = Known::new(Arc::new(crate::gate::tests::running("/bin/c")), Duration::ZERO);
        for _ in 0..=TRIES {
            known.put_off(every);
        }
        assert!(!known.begins() && !known.is_due(now() + LEAST));
        known.put_off(None);
        assert!(!known.is_due(now() + Duration::from_secs(1_000_000)));
    }
}
