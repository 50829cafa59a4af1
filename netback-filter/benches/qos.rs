// SPDX-License-Identifier: GPL-3.0-only
//! What shaping keeps to: rates, guarantees and the time of a small question while bulk takes all there is, with real TCP through
//! network namespaces. `cargo xtask bench qos` reads the lines that begin with `bench:`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a bench that cannot go on has failed"
)]

#[path = "../tests/support/mod.rs"]
mod support;

use std::thread::sleep;
use std::time::Duration;

use netback_filter::{
    Action, Class, Datapath, Direction, Mark, PeerMatch, Priority, Protocol, Rate, Rule, ScopeConfig,
    ShapeClass, Shaping,
};
use support::traffic::{Stream, ask, mbits, percentile};
use support::*;

const WARM: Duration = Duration::from_secs(1);
const TIME: Duration = Duration::from_secs(3);
const QUICK: u16 = 6000;
const BULK: u16 = 6001;
const GOLD: u16 = 6002;
const CAPPED: u16 = 6003;
/// Each with a percentile of its own, of which the median is told: other work on the machine is in some of them only.
const ROUNDS: usize = 9;
const QUESTIONS: usize = 400;

fn class(index: u16, priority: Priority, guarantee: u64, ceiling: u64) -> ShapeClass {
    ShapeClass {
        class: Class::new(index, priority).unwrap(),
        guarantee: rate(guarantee),
        ceiling: rate(ceiling),
    }
}

fn rate(mbit: u64) -> Option<Rate> {
    Rate::from_bits(mbit * 1_000_000)
}

fn classes() -> [(u16, ShapeClass); 4] {
    [
        (QUICK, class(0, Priority::Realtime, 0, 0)),
        (BULK, class(1, Priority::Bulk, 0, 0)),
        (GOLD, class(2, Priority::Default, 120, 0)),
        (CAPPED, class(3, Priority::Default, 0, 90)),
    ]
}

fn rules() -> Vec<Rule> {
    let rule = |direction, (port, shaped): (u16, ShapeClass)| Rule {
        id: u32::from(port),
        scope: SCOPE,
        direction,
        peer: PeerMatch::Any,
        protocol: Some(Protocol::TCP),
        port: Some(port),
        action: Action::Allow,
        mark: Mark {
            class: Some(shaped.class),
            dscp: None,
            mirror: None,
        },
    };
    Direction::BOTH
        .iter()
        .flat_map(|direction| classes().map(|class| rule(*direction, class)))
        .collect()
}

fn shape(datapath: &mut Datapath, mbit: u64) {
    let shaping = Shaping {
        to_guest: rate(mbit),
        from_guest: rate(mbit),
        classes: classes()
            .into_iter()
            .map(|(_, class)| class)
            .filter(|class| class.guarantee <= rate(mbit))
            .collect(),
    };
    datapath.shape(VIF, &shaping).unwrap();
}

fn stream(world: &World, direction: Direction, port: u16) -> Stream {
    match direction {
        Direction::FromGuest => Stream::start(world, "guest", "peer", (PEER4, port).into()),
        Direction::ToGuest => Stream::start(world, "peer", "guest", (GUEST4, port).into()),
    }
}

fn words(direction: Direction) -> &'static str {
    match direction {
        Direction::FromGuest => "from the guest",
        Direction::ToGuest => "to the guest",
    }
}

/// p50 and p99 of a small question.
fn question(world: &World, port: u16, count: usize) -> [Duration; 2] {
    let times = ask(world, (PEER4, port), count, Duration::from_millis(1));
    [0.5, 0.99].map(|share| percentile(&times, share))
}

fn tell(what: &str, mut rounds: Vec<[Duration; 2]>) {
    for (at, name) in ["p50", "p99"].into_iter().enumerate() {
        rounds.sort_unstable_by_key(|round| round[at]);
        let micros = rounds[rounds.len() / 2][at].as_nanos() as f64 / 1000.0;
        println!("bench: {micros:.0} µs {name} of a question, {what}");
    }
}

/// Idle and beside bulk by turns, so that both meet the machine as it is.
fn questions(world: &World, datapath: &mut Datapath) {
    let (mut bare, mut idle, mut beside) = (vec![], vec![], vec![]);
    for _ in 0..ROUNDS {
        datapath.unshape(VIF).unwrap();
        bare.push(question(world, QUICK, QUESTIONS));
        shape(datapath, 200);
        idle.push(question(world, QUICK, QUESTIONS));
        let _streams = Direction::BOTH.map(|direction| stream(world, direction, BULK));
        sleep(WARM / 2);
        beside.push(question(world, QUICK, QUESTIONS));
    }
    tell("idle, not shaped", bare);
    tell("idle, shaped", idle);
    tell("realtime beside bulk both ways", beside);
    let _streams = Direction::BOTH.map(|direction| stream(world, direction, 7000));
    sleep(WARM);
    tell(
        "beside bulk both ways in one class with it",
        vec![question(world, 7001, 50)],
    );
}

fn main() {
    World::run(|world| {
        let mut datapath = world.attach(ScopeConfig::open(), rules());
        println!("shaper: {}", datapath.shaper().unwrap());
        questions(world, &mut datapath);

        for mbit in [20, 100, 200, 1000] {
            shape(&mut datapath, mbit);
            for direction in Direction::BOTH {
                let stream = stream(world, direction, 7000);
                sleep(WARM);
                let [is] = mbits([&stream], TIME);
                let percent = is * 100.0 / mbit as f64;
                println!("bench: {percent:.2} % of {mbit}mbit, {}", words(direction));
            }
        }

        shape(&mut datapath, 200);
        for direction in Direction::BOTH {
            let way = words(direction);
            let capped = stream(world, direction, CAPPED);
            sleep(WARM);
            let [alone] = mbits([&capped], TIME);
            println!("bench: {:.2} % of a ceiling of 90mbit, {way}", alone / 0.9);
            let bulk = stream(world, direction, BULK);
            let gold = stream(world, direction, GOLD);
            sleep(WARM);
            let [gold, capped, bulk] = mbits([&gold, &capped, &bulk], TIME);
            println!(
                "bench: {:.2} % of a guarantee of 120mbit of 200mbit among three, {way}",
                gold / 1.2
            );
            println!(
                "bench: {:.2} % of 200mbit that the three have, {way}",
                (gold + capped + bulk) / 2.0
            );
        }
        datapath.detach_all().unwrap();
    });
}
