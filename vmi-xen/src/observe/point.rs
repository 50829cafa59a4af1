// SPDX-License-Identifier: GPL-3.0-only
//! Where a guest's kernel is probed.
//!
//! Every point is the start of a function, where compilers leave a NOP for ftrace: one exit a trap. Where the end of a
//! function would be the natural place, one that it calls once all is known stands in for it. Functions that only a table
//! of operations calls (`udp_prot`, `udpv6_prot`) cannot be inlined; the others lie in another file of the kernel than
//! their callers. `tests/dumps/points.rs` proves both on each kernel.

use crate::kernel::{Group, Layout};

/// An occasion to look at the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Point {
    /// A TCP connection is opened, over IPv4 or IPv6; its source port is chosen.
    Connect,
    /// A TCP socket begins to listen.
    Listen,
    /// A UDP socket is connected over IPv4.
    ConnectUdp4,
    /// A UDP socket is connected over IPv6.
    ConnectUdp6,
    /// A UDP socket over IPv4 that is being connected got its source address.
    SourceUdp4,
    /// A UDP socket over IPv6 that is being connected got its source address.
    SourceUdp6,
    /// A UDP socket is being given a port.
    Bind,
    /// An exec has succeeded: this is its last step.
    Exec,
    /// A TCP connection is handed to who listened for it.
    Accept,
    /// A process is about to take other credentials.
    Credentials,
    /// A thread ends.
    Exit,
    /// A task was made and is about to run.
    Fork,
    /// A TCP socket stops listening.
    Unlisten,
    /// A UDP socket gives its port back.
    Unbind,
}

impl Point {
    /// All, the ones that policy needs first.
    pub const ALL: [Point; 14] = [
        Point::Connect,
        Point::Listen,
        Point::ConnectUdp4,
        Point::SourceUdp4,
        Point::ConnectUdp6,
        Point::SourceUdp6,
        Point::Exec,
        Point::Credentials,
        Point::Exit,
        Point::Fork,
        Point::Bind,
        Point::Accept,
        Point::Unlisten,
        Point::Unbind,
    ];

    /// The kernel functions that serve, the best first; a kernel has at least one of them.
    pub fn functions(self) -> &'static [&'static str] {
        match self {
            Point::Connect => &["tcp_connect"],
            Point::Listen => &["inet_csk_listen_start"],
            // Up to 6.13 raw and UDP sockets share one.
            Point::ConnectUdp4 => &["udp_connect", "ip4_datagram_connect"],
            Point::ConnectUdp6 => &["udpv6_connect", "ip6_datagram_connect"],
            Point::SourceUdp4 => &["udp_v4_rehash"],
            Point::SourceUdp6 => &["udp_v6_rehash"],
            Point::Bind => &["udp_lib_get_port"],
            Point::Exec => &["finalize_exec"],
            Point::Accept => &["security_sock_graft"],
            Point::Credentials => &["commit_creds"],
            // `taskstats_exit(task, group_dead)` comes after the thread has been counted out, so exactly one thread of a
            // process has `group_dead` set. A kernel without CONFIG_TASKSTATS has only `do_exit(code)`: the first thread's
            // end is then taken for its process's.
            Point::Exit => &["taskstats_exit", "do_exit"],
            Point::Fork => &["wake_up_new_task"],
            Point::Unlisten => &["inet_csk_listen_stop"],
            Point::Unbind => &["udp_lib_unhash"],
        }
    }

    /// What a kernel of this layout cannot be asked at this point: a trap that tells nothing only costs.
    ///
    /// # Errors
    /// What is missing.
    pub fn readable(self, layout: &Layout) -> Group<()> {
        match self {
            Point::Exec | Point::Fork | Point::Credentials => layout.sees_processes(),
            Point::Exit => layout.sees_processes().and(layout.exit.clone()).map(drop),
            Point::ConnectUdp6 | Point::SourceUdp6 => {
                layout.sees_sockets().and(layout.sock6.clone()).map(drop)
            }
            _ => layout.sees_sockets(),
        }
    }

    /// What is not seen where it cannot be armed.
    pub fn covers(self) -> &'static str {
        match self {
            Point::Connect => "connections are decided by VM, not by process",
            Point::Listen => "listeners are found by reading the guest, a little later",
            Point::ConnectUdp4 | Point::SourceUdp4 => {
                "UDP over IPv4 is decided by VM, address and port, not by process"
            }
            Point::ConnectUdp6 | Point::SourceUdp6 => {
                "UDP over IPv6 is decided by VM, address and port, not by process"
            }
            Point::Bind => "who owns a UDP port is found by reading the guest, a little later",
            Point::Exec => "no exec events",
            Point::Accept => "no accept events",
            Point::Credentials => "no cred events",
            Point::Exit => "no exit events",
            Point::Fork => "no fork events",
            Point::Unlisten => "a closed listener is known until the domain is attached to again",
            Point::Unbind => "a UDP port given back is known until the domain is attached to again",
        }
    }
}
