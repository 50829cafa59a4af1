// SPDX-License-Identifier: GPL-3.0-only
//! Events by either channel: what is told, in which order, and that loss is counted. And how large the programs are, since
//! that bounds the kernels that take them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on has failed"
)]

mod support;

use std::os::fd::AsFd;

use netback_filter::{
    Action, Config, Datapath, Direction, EventChannel, EventKind, Opened, RuleSet, VifConfig,
};
use nix::poll::{PollFd, PollFlags, poll};
use support::frame::{SYN, tcp_packet};
use support::run::program_sizes;
use support::wire::Wire;
use support::*;

const CHANNELS: [EventChannel; 2] = [EventChannel::Ring, EventChannel::PerfArray];
const PORT: u16 = 7000;

fn open(world: &World, events: EventChannel, event_bytes: u32) -> Datapath {
    let config = Config {
        events,
        event_bytes,
        ..world.config()
    };
    let mut datapath = Datapath::open(config).unwrap();
    if datapath.opened() == Opened::Fresh {
        datapath.set_scope(SCOPE, no_adoption()).unwrap();
        let set = RuleSet {
            peers: vec![],
            rules: vec![allow_tcp(1, PORT)],
        };
        datapath.publish(&set, 1).unwrap();
        let vif = VifConfig {
            scope: SCOPE,
            mac: Some(GUEST_MAC),
        };
        datapath.attach(VIF, vif).unwrap();
    }
    datapath
}

/// Within a second something can be read.
fn is_readable(events: &impl AsFd) -> bool {
    let mut fds = [PollFd::new(events.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, 1000_u16).unwrap() == 1
}

#[test]
fn a_connection_is_told_from_its_start_to_its_end() {
    for channel in CHANNELS {
        World::run(|world| {
            let datapath = open(world, channel, 1 << 16);
            let mut events = datapath.events().unwrap();
            assert!(events.next().is_none());
            let listener = world.listen("peer", PEER4, PORT);
            let stream = world.connect("guest", (PEER4, PORT).into()).unwrap();
            let from = stream.local_addr().unwrap();
            assert!(is_readable(&events), "{channel:?}");
            drop((listener.accept().unwrap(), stream));
            assert!(world.connect("guest", (PEER4, PORT + 1).into()).is_err());
            let mut told = Vec::new();
            while told.len() < 3 {
                assert!(is_readable(&events), "{channel:?}: {told:?}");
                told.extend(events.by_ref().map(|e| (e.kind, e.flow.key.remote.port(), e.ns)));
            }
            assert!(told.is_sorted_by_key(|(_, _, ns)| *ns), "{channel:?}: {told:?}");
            let told: Vec<_> = told.iter().map(|(kind, port, _)| (*kind, *port)).collect();
            let wanted = [
                (EventKind::Start, PORT),
                (EventKind::End, PORT),
                (EventKind::Refused, PORT + 1),
            ];
            assert_eq!(told, wanted, "{channel:?}");
            let flow = datapath
                .flows(None)
                .map(Result::unwrap)
                .find(|f| f.key.local == from);
            assert_eq!(flow.unwrap().verdict.action, Action::Allow);
        });
    }
}

#[test]
fn what_is_not_read_in_time_is_lost_and_counted_and_no_packet_is() {
    for channel in CHANNELS {
        World::run(|world| {
            let datapath = open(world, channel, 4096);
            let mut events = datapath.events().unwrap();
            let (guest, peer) = (Wire::open(world, "guest"), Wire::open(world, "peer"));
            let count = 500;
            for port in 0..count {
                let packet = tcp_packet(GUEST4, PEER4, (10_000 + port, PORT), SYN);
                guest.send(&frame::from_guest(GUEST4, &packet));
                assert!(peer.sees(std::time::Duration::from_secs(1), |f| f.ends_with(&packet)));
            }
            let read = events.by_ref().filter(|e| e.kind == EventKind::Start).count() as u64;
            let stats = counters(&datapath, Direction::FromGuest);
            assert!(
                stats.events_lost > 0 && read > 0,
                "{channel:?}: {read} of {stats:?}"
            );
            // The peer refuses each: an end, too, is told or lost.
            let back = counters(&datapath, Direction::ToGuest).events_lost;
            assert!(read + stats.events_lost + back >= u64::from(count), "{channel:?}");
            assert_eq!(stats.denied, 0);
        });
    }
}

#[test]
fn maps_that_are_taken_over_keep_their_channel() {
    for channel in CHANNELS {
        World::run(|world| {
            drop(open(world, channel, 1 << 16));
            for wanted in [EventChannel::Auto, EventChannel::Ring, EventChannel::PerfArray] {
                let datapath = open(world, wanted, 1 << 16);
                assert_eq!(datapath.opened(), Opened::Adopted);
                assert!(datapath.took_over_programs(), "{channel:?} and {wanted:?}");
                let mut events = datapath.events().unwrap();
                events.by_ref().for_each(drop);
                assert!(world.connect("guest", (PEER4, PORT + 1).into()).is_err());
                assert!(is_readable(&events), "{channel:?} and {wanted:?}");
                assert_eq!(events.next().unwrap().kind, EventKind::Refused);
                // The next refusal of the same flow is no news: another source port.
            }
        });
    }
}

/// Linux 5.2 and newer take a million instructions, counted along all ways through the program; before that it was 4096.
#[test]
fn the_programs_are_within_what_a_verifier_takes() {
    for channel in CHANNELS {
        World::run(|world| {
            let _datapath = open(world, channel, 1 << 16);
            for name in ["from_guest", "to_guest"] {
                let (instructions, verified) = program_sizes(name);
                println!("{channel:?}: {name}: {instructions} instructions, {verified} verified");
                assert!(verified < 300_000, "{name}: {verified}: too near to a million");
                assert!(
                    instructions < 32_767,
                    "{name}: {instructions}: a jump may be too far"
                );
            }
        });
    }
}
