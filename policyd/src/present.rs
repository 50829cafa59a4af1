// SPDX-License-Identifier: GPL-3.0-only
//! What the inner rooms hold, as the API shows it.

use std::sync::Arc;

use policy::{Endpoint, Ruleset};
use policyd_api as api;
use vmi_xen::linux::Socket;
use vmi_xen::observe::Subject;

use crate::world::World;

/// `loginuid` of a process nobody logged in for (linux/audit.h: AUDIT_UID_UNSET).
const NO_LOGIN: u32 = u32::MAX;

/// A process.
pub fn process(subject: &Subject) -> api::Process {
    let p = &subject.process;
    api::Process {
        pid: p.tgid,
        ppid: p.ppid,
        uid: p.uid,
        euid: p.euid,
        gid: p.gid,
        loginuid: (p.loginuid != NO_LOGIN).then_some(p.loginuid),
        comm: p.comm.clone(),
        exe: p.exe.as_deref().map(str::to_owned),
        exe_deleted: p.exe_deleted,
        args: p.args.clone(),
        container: p.container.clone(),
        netns: p.netns,
        start_time_ns: p.start_time_ns,
        parents: subject.parents.iter().map(|p| p.to_string()).collect(),
    }
}

/// A socket and its owner.
pub fn connection(socket: &Socket, owner: Option<&Subject>) -> api::Connection {
    api::Connection {
        protocol: socket.protocol.to_string(),
        local: socket.local,
        remote: socket.remote,
        state: socket.state.to_string(),
        pid: owner.map(|s| s.process.tgid),
        uid: owner.map(|s| s.process.uid),
        exe: owner.and_then(|s| s.process.exe.as_deref().map(str::to_owned)),
        netns: socket.netns,
    }
}

/// One end of a flow, with the process that owns it if that is known.
pub fn party(world: &World, end: &Endpoint<'_>, subject: Option<&Arc<Subject>>) -> api::Party {
    let identity = world.rules.identity(end);
    api::Party {
        domain: end.vm.map(|vm| vm.name.clone()),
        exe: subject.and_then(|s| s.process.exe.as_deref().map(str::to_owned)),
        pid: subject.map(|s| s.process.tgid),
        uid: subject.map(|s| s.process.uid),
        services: identity.services().map(|s| s.to_string()).collect(),
        id: identity.to_string(),
    }
}

/// A decision, with its rule by name.
pub fn decision(rules: &Ruleset, decision: &policy::Decision) -> api::Decision {
    api::Decision {
        verdict: match decision.verdict {
            policy::Verdict::Allow => api::Verdict::Allow,
            policy::Verdict::Deny => api::Verdict::Deny,
        },
        rule: rules.rule_name(&decision.rule).to_string(),
        generation: decision.generation,
    }
}
