// SPDX-License-Identifier: GPL-3.0-only
//! What rules want to know of guests, until its time has come. Each guest has a queue and a share of dom0's time of its own: one that
//! does much cannot keep others from being looked at.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use policyd_analytics::Question;

use crate::allowance::Allowance;

/// Questions of one guest that wait.
const WAITING: usize = 256;

/// Questions that wait for their time, by guest.
pub struct Asked {
    /// Of one dom0 CPU, that reading one guest for answers may take.
    share: f64,
    guests: HashMap<u16, Guest>,
}

struct Guest {
    waiting: VecDeque<(Instant, Question)>,
    allowance: Allowance,
}

impl Asked {
    /// None yet.
    pub fn new(share: f64) -> Asked {
        Asked {
            share,
            guests: HashMap::new(),
        }
    }

    /// The oldest of a guest go where there are too many: what they were about is over soonest.
    pub fn put(&mut self, questions: Vec<Question>) {
        let now = Instant::now();
        for question in questions {
            let guest = self.guests.entry(question.domid).or_insert_with(|| Guest {
                waiting: VecDeque::new(),
                allowance: Allowance::full(self.share),
            });
            if guest.waiting.len() >= WAITING {
                guest.waiting.pop_front();
            }
            guest
                .waiting
                .push_back((now + Duration::from_millis(question.after_ms), question));
        }
    }

    /// One whose time has come, of a guest that may be read now.
    pub fn due(&mut self) -> Option<Question> {
        let (now, share) = (Instant::now(), self.share);
        // A guest of whom nothing is asked is forgotten once nothing would be remembered of it.
        self.guests
            .retain(|_, guest| !guest.waiting.is_empty() || !guest.allowance.is_full(share));
        self.guests.values_mut().find_map(|guest| {
            let index = guest.waiting.iter().position(|(due, _)| *due <= now)?;
            if !guest.allowance.has_some(share) {
                return None;
            }
            guest.waiting.remove(index).map(|(_, question)| question)
        })
    }

    /// Reading a guest took so long.
    pub fn spent(&mut self, domid: u16, took: Duration) {
        if let Some(guest) = self.guests.get_mut(&domid) {
            guest.allowance.spend(took);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(domid: u16, after_ms: u64) -> Question {
        Question {
            domid,
            domain: "web1".into(),
            process: serde_json::from_value(serde_json::json!({
                "pid": 1, "ppid": 0, "uid": 0, "euid": 0, "gid": 0, "loginuid": null, "comm": "sh", "exe": "/bin/sh",
                "exe_deleted": false, "args": [], "container": null, "netns": 1, "start_time_ns": 1, "parents": [],
            }))
            .expect("a process"),
            after_ms,
            about: policyd_analytics::About::StandardSockets,
        }
    }

    fn answered(asked: &mut Asked, took: Duration) -> [usize; 2] {
        let mut of = [0; 2];
        while let Some(question) = asked.due() {
            asked.spent(question.domid, took);
            of[usize::from(question.domid) - 1] += 1;
        }
        of
    }

    #[test]
    fn a_guest_is_read_for_its_share_and_keeps_no_other_from_being_read() {
        let mut asked = Asked::new(0.01);
        asked.put(vec![question(1, 60_000)]);
        assert!(asked.due().is_none(), "its time has not come");
        let many = |domid| (0..2 * WAITING).map(move |_| question(domid, 0)).collect();
        asked.put(many(1));
        assert_eq!(asked.guests[&1].waiting.len(), WAITING);
        // 50 ms may be saved up.
        let first = answered(&mut asked, Duration::from_millis(10));
        assert!((5..=6).contains(&first[0]), "{first:?}");
        asked.put(many(2));
        let next = answered(&mut asked, Duration::from_millis(10));
        assert!(next[0] <= 1 && (5..=6).contains(&next[1]), "{next:?}");
        // Who costs nothing is answered wholly.
        let mut asked = Asked::new(0.01);
        asked.put(many(1));
        assert_eq!(answered(&mut asked, Duration::ZERO), [WAITING, 0]);
        assert!(asked.due().is_none() && asked.guests.is_empty());
    }
}
