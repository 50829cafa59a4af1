// SPDX-License-Identifier: GPL-3.0-only
//! The datapath beside a bare bridge and beside nftables: throughput, round trips, and what a packet costs by how much is in
//! the tables.
//!
//! All contenders are there at once, each with namespaces of its own, and are measured in turn, round by round: what
//! disturbs the machine disturbs all alike. `cargo xtask bench netback` reads the lines that begin with `bench:`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a bench that cannot go on has failed"
)]

mod contenders;
mod load;
mod scale;
#[path = "../../tests/support/mod.rs"]
mod support;

use contenders::Contender;
use load::{Conversation, percentile};

/// Each contender is measured so many times.
const ROUNDS: usize = 15;
const ROUND_TRIPS: usize = 4000;

fn main() {
    // One group alone, and of it what has a word in its name: `cargo bench -p netback-filter --bench netback -- bridge TCX`.
    let mut args = std::env::args().skip(1).filter(|arg| !arg.starts_with("--"));
    let (only, word) = (args.next(), args.next().unwrap_or_default());
    type Group = (&'static str, fn() -> Vec<Contender>);
    let groups: [Group; 2] = [("bridge", contenders::bridged), ("routed", contenders::routed)];
    let is_wanted = |name: &str| only.as_ref().is_none_or(|only| only == name);
    for (group, contenders) in groups.into_iter().filter(|(name, _)| is_wanted(name)) {
        let mut contenders = contenders();
        contenders.retain(|one| one.name.contains(&word));
        let mut running: Vec<Running> = contenders.into_iter().map(Running::new).collect();
        for round in 0..=ROUNDS {
            // Nobody always comes behind the same one.
            let first = round % running.len();
            let (behind, ahead) = running.split_at_mut(first);
            for one in ahead.iter_mut().chain(behind) {
                one.measure(round == 0);
            }
        }
        for (what, unit, value) in MEASURES {
            for one in &running {
                println!(
                    "bench: {:.3} {unit} {group}, {what}: {}",
                    value(one),
                    one.contender.name
                );
            }
        }
    }
    if is_wanted("scale") {
        scale::measure();
    }
}

/// One contender and its figures so far, one a round.
struct Running {
    contender: Contender,
    conversation: Conversation,
    gigabits: Vec<f64>,
    median_us: Vec<f64>,
    p99_us: Vec<f64>,
}

type Measure = (&'static str, &'static str, fn(&Running) -> f64);
const MEASURES: [Measure; 3] = [
    ("stream", "Gb/s", |r| percentile(&r.gigabits, 0.5)),
    ("round trip p50", "us", |r| percentile(&r.median_us, 0.5)),
    ("round trip p99", "us", |r| percentile(&r.p99_us, 0.5)),
];

impl Running {
    fn new(contender: Contender) -> Self {
        Self {
            conversation: Conversation::open(&contender),
            contender,
            gigabits: Vec::new(),
            median_us: Vec::new(),
            p99_us: Vec::new(),
        }
    }

    /// `warm`: only to have everything in its caches.
    fn measure(&mut self, warm: bool) {
        self.contender.begin();
        let gigabits = self.conversation.stream();
        let trips = self.conversation.round_trips(ROUND_TRIPS);
        if !warm {
            self.gigabits.push(gigabits);
            self.median_us.push(percentile(&trips, 0.5));
            self.p99_us.push(percentile(&trips, 0.99));
        }
    }
}
