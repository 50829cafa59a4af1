// SPDX-License-Identifier: GPL-3.0-only
//! A process whose user, group and capability sets all differ from each other.

use rustix::process::{Gid, Uid};
use rustix::thread::{self, CapabilitySet, CapabilitySets};

/// Becomes such a process, and stays.
pub fn run() {
    let group = |id| Gid::from_raw(id);
    let user = |id| Uid::from_raw(id);
    thread::remove_capability_from_bounding_set(CapabilitySet::SYS_ADMIN).expect("bounding set");
    thread::set_thread_groups(&[group(4), group(27), group(70_000)]).expect("groups");
    thread::set_thread_res_gid(group(1000), group(1001), group(1002)).expect("group");
    thread::set_keep_capabilities(true).expect("keep capabilities");
    thread::set_thread_res_uid(user(1000), user(1001), user(1002)).expect("user");
    let permitted = CapabilitySet::NET_BIND_SERVICE | CapabilitySet::NET_RAW | CapabilitySet::CHOWN;
    let sets = CapabilitySets {
        effective: CapabilitySet::NET_BIND_SERVICE | CapabilitySet::CHOWN,
        permitted,
        inheritable: CapabilitySet::NET_RAW,
    };
    thread::set_capabilities(None, sets).expect("capabilities");
    thread::configure_capability_in_ambient_set(CapabilitySet::NET_RAW, true).expect("ambient set");
    crate::forever();
}
