// SPDX-License-Identifier: GPL-3.0-only
//! The eBPF datapath on vifs and its loader.
//!
//! Two small programs sit on the hooks of every attached vif: TCX links where the kernel has them, clsact filters
//! elsewhere ([`Attach`]). They know flows, verdicts, addresses and
//! classes, and **nothing of processes or policies**: who may talk to whom is put in from outside, as verdicts on
//! single flows ([`FlowWriter`]) and as rules for flows nobody decided yet ([`RuleSet`]).
//!
//! The kernel holds everything: filters and maps stay in force when the process that set them up dies, and the
//! next [`Datapath::open`] takes them over.
//!
//! # How a packet is decided
//!
//! 1. Malformed or truncated headers: dropped. ARP, IPv6 neighbour discovery and multicast listener messages pass.
//!    A later fragment passes when its first fragment did; frames of an unknown L3 protocol or to
//!    another MAC than the guest's go by [`ScopeConfig`], and so do tagged ones, unless they are judged by what is behind their
//!    tags ([`Tagged`]).
//! 2. A verdict of userspace on exactly this flow.
//! 3. The entry of a flow that the rules allowed earlier, in either direction. When the rules were exchanged
//!    since, they are asked again first.
//! 4. The rules ([`Rule`] tells their precedence), and when none matches the scope's default. A TCP segment that
//!    opens no connection gets so far only while [`ScopeConfig::adopt_established`] lets it.
//!
//! Flows that the guest opens can be sent elsewhere than they are addressed: to a backend of a [`Service`], or to the
//! [`Target`] that userspace chose for one flow. All the above is about the flow as the guest has it; its packets are
//! translated on their way through this vif, both ways, and the backend's own vif sees a flow from the guest to it.
//!
//! A rule may have a packet held that it denies ([`Refuse::Hold`]): userspace gets the frame, and may let it go once it has
//! written a verdict ([`Release`]).
//!
//! Sequence numbers are not followed: what a stranger can inject into an allowed connection is what TCP itself lets
//! through.
//!
//! A verdict or rule also says how the flow's packets are treated where they pass: a [`Mark`] has a DSCP, which is written into them,
//! and a [`Class`], which says how they share the bandwidth of a vif that is shaped ([`Datapath::shape`]).
//!
//! Between two guests of one plain bridge, what passes goes straight from vif to vif, as long as somebody sees to it
//! ([`Datapath::renew_direct`]).
//!
//! It may also name a guest that gets copies of a share of such flows: a [`Mirror`].
//!
//! # Kernels
//!
//! The programs have some 10,500 instructions, for which the verifier follows up to 240,000: so Linux 5.2 is the oldest that
//! takes them (older ones stop at 4096), and programs that are in the kernel already are taken over rather than loaded again. Below 5.8 events come by one buffer a CPU ([`EventChannel`]), below 5.6 tables are
//! read entry by entry, below 6.6 there is no TCX. `cargo test -p netback-filter --test events` prints the counts; what was
//! loaded on which kernel is what was tested, the rest is by the kernels' documentation.
//!
//! # Sizes
//!
//! A scope has so many flows at once ([`Config::scope_flows`]), verdicts of userspace included once they have a packet. One that has
//! them all, and opens another, loses one of its own: one that is over, else one that nobody answered, else one that is idle.
//! So what one guest does evicts no flow of another, as long as the shares of all that do so fit into the tables. Beyond that
//! entries of flows and verdicts are evicted when least recently used. An evicted verdict is one that the rules
//! take over; flows opened under the rules are kept apart from verdicts and cannot evict them.

mod attach;
mod datapath;
mod direct;
mod error;
mod events;
mod flows;
mod held;
mod histograms;
mod inject;
mod layout;
mod link;
mod mirror;
mod netlink;
mod perf;
mod pins;
mod programs;
mod prohibited;
mod publish;
mod revoke;
mod rules;
mod scopes;
mod serve;
mod services;
mod shape;
mod shaping;
mod shares;
mod spread;
mod sys;
mod tcx;
mod types;

pub use attach::{Attach, Hooks};
pub use datapath::{AttachedVif, Config, Datapath, Opened};
pub use direct::{BridgeWatch, Detour, DirectVif, LEASE as DIRECT_LEASE};
pub use error::Error;
pub use events::{Event, EventChannel, EventKind, Events, Report};
pub use flows::{FlowRecord, FlowWriter, Flows};
pub use held::{HeldFrame, Release};
pub use histograms::{ConnectionHistograms, Histogram};
pub use mirror::{Mirror, MirrorStats, Share};
pub use prohibited::Prohibited;
pub use revoke::Revoker;
pub use rules::{Peer, PeerMatch, Rule, RuleError, RuleSet};
pub use serve::Target;
pub use services::{Backend, BackendState, Service, ServiceError};
pub use shape::{
    Class, ClassStats, Discipline, Dscp, Leaf, Mark, Priority, Rate, ShapeClass, ShapeError, Shaper, Shaping,
};
pub use types::{
    Action, AdoptEstablished, Counters, DecidedBy, Direction, FlowKey, Lock, Protocol, Refuse, ScopeConfig,
    ScopeStats, Tagged, Verdict, VifConfig, Vlan,
};
