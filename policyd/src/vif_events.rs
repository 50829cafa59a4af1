// SPDX-License-Identifier: GPL-3.0-only
//! Carries the datapath's reports to the enforcer.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossbeam_channel::Sender;
use netback_filter::Events;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::enforcer::Order;

/// How long a stop may go unnoticed.
const NAP: Duration = Duration::from_millis(250);

/// Forwards until `stop`. Blocks when the enforcer is behind: then the ring fills, and the datapath drops reports and counts
/// them, never packets.
pub fn forward(mut events: Events, orders: &Sender<Order>, stop: &AtomicBool) {
    while !stop.load(Ordering::SeqCst) {
        let timeout = PollTimeout::try_from(NAP).unwrap_or(PollTimeout::NONE);
        // An interrupted poll only means to look.
        let _ = poll(&mut [PollFd::new(events.as_fd(), PollFlags::POLLIN)], timeout);
        for event in events.by_ref() {
            if orders.send(Order::Vif(event)).is_err() {
                return;
            }
        }
    }
}
