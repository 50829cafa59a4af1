// SPDX-License-Identifier: GPL-3.0-only
//! What the inner rooms hold, as the API shows it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use netback_filter::{Class, ClassStats, Direction, FlowKey, FlowRecord, Priority};
use policy::{ClassId, Decider, Endpoint, Protocol, Role, Side};
use policyd_api as api;
use vmi_xen::integrity::{Finding, Report, Severity};
use vmi_xen::linux::{self, Socket};
use vmi_xen::meter::Meter;
use vmi_xen::observe::Subject;

use crate::holding::Counts;
use crate::lookups::Stats;
use crate::measures::Looked;
use crate::routes::{Facade, Failure, Member, Standing};
use crate::world::World;

/// `loginuid` of a process nobody logged in for (linux/audit.h: AUDIT_UID_UNSET).
pub const NO_LOGIN: u32 = u32::MAX;

/// A process.
pub fn process(subject: &Subject) -> api::Process {
    let p = &subject.process;
    let sets = p.credentials.capabilities;
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
        cgroup: p.cgroup.as_deref().map(str::to_owned),
        netns: p.netns,
        pidns: p.pidns,
        mntns: p.mntns,
        capabilities: api::Capabilities {
            inheritable: sets.inheritable,
            permitted: sets.permitted,
            effective: sets.effective,
            bounding: sets.bounding,
            ambient: sets.ambient,
        },
        start_time_ns: p.start_time_ns,
        parents: subject.parents.iter().map(|p| p.to_string()).collect(),
    }
}

/// What a check found.
pub fn finding(finding: &Finding) -> api::Finding {
    let mut shown = api::Finding {
        severity: match finding.severity() {
            Severity::Notice => api::Severity::Notice,
            Severity::Warning => api::Severity::Warning,
            Severity::Alert => api::Severity::Alert,
        },
        kind: finding.kind().to_owned(),
        message: finding.to_string(),
        pid: None,
        name: None,
        seen_in: Vec::new(),
        missing_in: Vec::new(),
    };
    match finding {
        Finding::HiddenTask(task) => {
            shown.pid = Some(task.pid);
            shown.name = Some(task.comm.clone());
            shown.seen_in = words(task.seen_in.iter());
            shown.missing_in = words(task.missing_in.iter());
        }
        Finding::UnheldSocket(unheld) => shown.pid = unheld.holder,
        Finding::HiddenModule {
            name,
            seen_in,
            missing_in,
            ..
        } => {
            shown.name = Some(name.clone());
            shown.seen_in = words(seen_in.iter());
            shown.missing_in = words(missing_in.iter());
        }
        _ => {}
    }
    shown
}

fn words(items: impl Iterator<Item = impl ToString>) -> Vec<String> {
    items.map(|item| item.to_string()).collect()
}

/// What a look at the text of a process's program showed that is news.
pub fn measured(who: &Subject, looked: &Looked) -> api::What {
    api::What::Measured {
        process: process(who),
        text: text(looked),
    }
}

/// What a look at the text of a process's program showed.
pub fn text(looked: &Looked) -> api::Text {
    api::Text {
        measured: match looked.measured() {
            policy::Measured::Unknown => api::Measured::Unknown,
            policy::Measured::Unregistered => api::Measured::Unregistered,
            policy::Measured::Same => api::Measured::Same,
            policy::Measured::Changed => api::Measured::Changed,
        },
        program: looked.program.clone(),
        pages: looked.pages,
        changed: looked.changed.clone(),
        private: looked.private.clone(),
        unmapped: looked.unmapped,
    }
}

/// A whole check, the worst finding first.
pub fn check(domain: &str, report: &Report) -> api::Check {
    let mut findings: Vec<api::Finding> = report.findings.iter().map(finding).collect();
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    let extent = report.extent;
    api::Check {
        domain: domain.to_owned(),
        findings,
        unchecked: report.unchecked.clone(),
        tasks: extent.tasks,
        sockets: extent.sockets,
        modules: extent.modules,
        system_calls: extent.system_calls,
        registers: extent.registers,
        gates: extent.gates,
        sites: extent.sites,
        operations: extent.operations,
        text: extent.text,
        functions: extent.functions,
        took_ms: report.took.as_millis() as u64,
    }
}

/// How a flow fares.
pub fn timing(record: &FlowRecord) -> api::Timing {
    let micros = |time: Option<Duration>| time.map(|time| time.as_micros() as u64);
    let ([rtt_out, rtt_in], [out, back]) = (record.rtt, record.retransmissions);
    let [shut_out, shut_in] = record.zero_windows;
    api::Timing {
        setup_us: micros(record.setup),
        first_byte_us: micros(record.first_byte),
        rtt_out_us: micros(rtt_out),
        rtt_in_us: micros(rtt_in),
        retransmissions_out: out,
        retransmissions_in: back,
        zero_windows_out: shut_out,
        zero_windows_in: shut_in,
    }
}

/// A class at a vif.
pub fn class(world: &World, stats: &ClassStats) -> api::ShapedClass {
    let index = stats.class.and_then(Class::index);
    let name = match (stats.class, index) {
        (None, _) => "total".to_owned(),
        (Some(_), None) => "default".to_owned(),
        // The number may be of a class that is just going.
        (Some(_), Some(index)) => match world.rules.class(ClassId(index.into())) {
            Some(class) => class.to_string(),
            None => format!("class {index}"),
        },
    };
    api::ShapedClass {
        direction: match stats.direction {
            Direction::FromGuest => "out",
            Direction::ToGuest => "in",
        }
        .into(),
        class: name,
        priority: stats.class.map(|class| {
            match class.priority() {
                Priority::Realtime => "realtime",
                Priority::Interactive => "interactive",
                Priority::Default => "default",
                Priority::Bulk => "bulk",
            }
            .to_owned()
        }),
        rate: stats.rate.bits(),
        ceiling: stats.ceiling.bits(),
        bytes: stats.bytes,
        packets: stats.packets,
        drops: stats.drops,
        backlog_bytes: stats.backlog_bytes,
        backlog_packets: stats.backlog_packets,
    }
}

/// What lookups have cost and given, and what became of the packets that waited for them.
pub fn lookups(stats: &Stats, waited: &Counts, waits: &Meter) -> api::Lookups {
    api::Lookups {
        made: stats.meter.hits,
        found: stats.found,
        dropped: stats.dropped,
        mean_us: stats.meter.mean().as_secs_f64() * 1e6,
        p99_us: stats.meter.p99().as_secs_f64() * 1e6,
        held: waited.held,
        released: waited.released,
        late: waited.late,
        unowned: waited.unowned,
        no_room: waited.full,
        lost: waited.failed,
        wait_mean_us: waits.mean().as_secs_f64() * 1e6,
        wait_p99_us: waits.p99().as_secs_f64() * 1e6,
    }
}

/// Credentials.
pub fn credentials(credentials: &linux::Credentials) -> api::Credentials {
    api::Credentials {
        uid: credentials.uid.real,
        euid: credentials.uid.effective,
        gid: credentials.gid.real,
        egid: credentials.gid.effective,
        permitted: credentials.capabilities.permitted,
        effective: credentials.capabilities.effective,
    }
}

/// A socket and its owner.
pub fn connection(socket: &Socket, owner: Option<&Subject>) -> api::Connection {
    api::Connection {
        protocol: match socket.protocol {
            linux::Protocol::Tcp => "tcp",
            linux::Protocol::Udp => "udp",
        }
        .into(),
        local: socket.local,
        remote: socket.remote,
        state: socket.state.as_ss().into(),
        pid: owner.map(|s| s.process.tgid),
        uid: owner.map(|s| s.process.uid),
        exe: owner.and_then(|s| s.process.exe.as_deref().map(str::to_owned)),
        netns: socket.netns,
    }
}

/// One end of a flow, with the process that owns it if that is known. `listens`: what it serves on, for a destination.
pub fn party(
    world: &World,
    end: &Endpoint<'_>,
    listens: Option<(Protocol, u16)>,
    subject: Option<&Arc<Subject>>,
) -> api::Party {
    let identity = world.rules.identity(end, listens);
    api::Party {
        domain: end.vm.map(|vm| vm.name.clone()),
        exe: subject.and_then(|s| s.process.exe.as_deref().map(str::to_owned)),
        pid: subject.map(|s| s.process.tgid),
        uid: subject.map(|s| s.process.uid),
        services: identity.services.iter().map(|s| s.to_string()).collect(),
        id: identity.id,
    }
}

/// The labels of a guest, by key.
pub fn labels(facts: &policy::Facts) -> Vec<api::Label> {
    let label = |label: &policy::Label| api::Label {
        key: label.key().to_owned(),
        value: label.value().to_owned(),
        from: label.from().to_string(),
    };
    facts.labels().iter().map(label).collect()
}

/// Refused by the lock of guest `scope`.
pub fn locked(world: &World, scope: u32) -> api::Decision {
    let vm = world.vm(scope);
    let said = vm.and_then(|vm| world.rules.lock_of(&vm.id));
    api::Decision {
        verdict: api::Verdict::Deny,
        rule: match (said, vm) {
            (Some(said), Some(vm)) => {
                format!("{}/lock ({} of {})", said.set, said.value.as_str(), vm.id.name)
            }
            _ => "lock".into(),
        },
        generation: world.rules.generation(),
    }
}

/// A decision on a flow of guest `scope`, with its rule by name.
pub fn decision(world: &World, scope: u32, decision: &policy::Decision) -> api::Decision {
    let by_default = |side: &str| match world.vm(scope) {
        Some(vm) => format!("default ({side} {})", vm.id.name),
        None => format!("default ({side})"),
    };
    api::Decision {
        verdict: match decision.verdict {
            policy::Verdict::Allow => api::Verdict::Allow,
            policy::Verdict::Deny => api::Verdict::Deny,
        },
        rule: match decision.by {
            Decider::Rule(id) => match world.rules.rule_name(id) {
                Some(name) => name.to_string(),
                None => format!("rule {}", id.0),
            },
            Decider::Default(Side::Source) => by_default("from"),
            Decider::Default(Side::Destination) => "default (to)".into(),
            Decider::Unserved => "no backend".into(),
            Decider::Nothing if decision.verdict == policy::Verdict::Deny => "process unknown".into(),
            Decider::Nothing => "no rule".into(),
        },
        generation: decision.generation,
    }
}

/// The backend of a guest's flow, with its route as it is now.
/// `instead`: a rule that denies the flow sent it there.
pub fn routed(
    world: &World,
    key: &FlowKey,
    backend: Option<SocketAddr>,
    instead: bool,
) -> Option<api::Routed> {
    let backend = backend?;
    let facade = world.routes.at(Protocol(key.protocol.0), key.remote);
    let member = facade
        .and_then(|facade| facade.member(backend))
        .filter(|_| !instead);
    Some(api::Routed {
        instead,
        route: facade.map(|facade| facade.route.to_string()),
        version: facade
            .zip(member)
            .and_then(|(facade, member)| version_of(facade, member)),
        backend,
    })
}

/// Refused since the route that a flow is for has no backend for it.
pub fn unserved(world: &World, key: &FlowKey, decision: &policy::Decision) -> api::Decision {
    let facade = world.routes.at(Protocol(key.protocol.0), key.remote);
    api::Decision {
        verdict: api::Verdict::Deny,
        rule: match facade {
            Some(facade) => format!("no backend of {}", facade.route),
            None => "no backend".into(),
        },
        generation: decision.generation,
    }
}

/// Name of a backend's domain.
pub fn domain_of(world: &World, member: &Member) -> Option<String> {
    let vm = member.scope.and_then(|scope| world.vm(scope));
    vm.map(|vm| vm.id.name.clone())
}

/// What a backend runs.
pub fn version_of(facade: &Facade, member: &Member) -> Option<String> {
    let version = member.version?;
    Some(facade.route.version_name(version).to_owned())
}

/// How a backend stands, in a word.
pub fn state_of(member: &Member) -> api::BackendState {
    match member.standing {
        Standing::Serves => api::BackendState::Up,
        Standing::Drains => api::BackendState::Draining,
        Standing::Fails(_) => api::BackendState::Down,
        Standing::Gone => api::BackendState::Gone,
    }
}

/// Why a backend takes no flows.
pub fn why_of(member: &Member) -> Option<String> {
    Some(match &member.standing {
        Standing::Serves => return None,
        Standing::Drains => "its policy lets it drain".into(),
        Standing::Fails(Failure::Check) => "it does not answer dom0's checks".into(),
        Standing::Fails(Failure::Connects) => "connects to it were refused, or not answered".into(),
        Standing::Fails(Failure::NobodyListens) => "nobody listens on its port".into(),
        Standing::Fails(Failure::Another(exe)) => match exe {
            Some(exe) => format!("{exe} listens on its port, which is not its service"),
            None => "another program than its service listens on its port".into(),
        },
        Standing::Fails(Failure::Paused) => "its domain is paused".into(),
        Standing::Gone => "its domain is no more".into(),
    })
}

/// A route's address, with the backends it has now. `flows`: how many are with each.
pub fn route(world: &World, facade: &Facade, flows: impl Fn(SocketAddr) -> usize) -> api::Route {
    let all: f64 = facade.members.iter().map(|m| f64::from(m.table.weight)).sum();
    let backends = facade.members.iter().map(|member| api::RouteBackend {
        address: member.end(),
        domain: domain_of(world, member),
        version: version_of(facade, member),
        role: match member.role {
            Role::Share => "share",
            Role::Failover => "failover",
            Role::Decoy => "denied",
        }
        .into(),
        weight: member.table.weight,
        share: f64::from(member.table.weight) / all.max(1.0),
        state: state_of(member),
        why: why_of(member),
        flows: flows(member.end()),
    });
    api::Route {
        name: facade.route.to_string(),
        address: facade.end,
        protocol: facade.route.protocol.to_string(),
        affinity: facade.route.affinity,
        backends: backends.collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_confines_a_process_is_shown_under_its_own_name() {
        let capabilities = linux::Capabilities {
            inheritable: 1,
            permitted: 0x1ff_ffff_ffff,
            effective: 0xa804_25fb,
            bounding: 8,
            ambient: 0x10,
        };
        let process = linux::Process {
            task: linux::TaskAddr(0),
            pid: 7,
            tgid: 7,
            ppid: 1,
            comm: String::new(),
            exe: None,
            mm: 1,
            leader: linux::TaskAddr(0),
            exe_deleted: false,
            chroot: None,
            args: Vec::new(),
            uid: 0,
            euid: 0,
            gid: 0,
            credentials: linux::Credentials {
                capabilities,
                ..Default::default()
            },
            loginuid: NO_LOGIN,
            start_time_ns: 0,
            netns: 11,
            pidns: 12,
            mntns: 13,
            cgroup: Some("/system.slice/nginx.service".into()),
            container: None,
            kthread: false,
        };
        let shown = super::process(&Subject {
            process,
            parents: Vec::new(),
        });
        assert_eq!((shown.netns, shown.pidns, shown.mntns), (11, 12, 13));
        assert_eq!(shown.cgroup.as_deref(), Some("/system.slice/nginx.service"));
        let sets = shown.capabilities;
        assert_eq!(
            [
                sets.inheritable,
                sets.permitted,
                sets.effective,
                sets.bounding,
                sets.ambient
            ],
            [1, 0x1ff_ffff_ffff, 0xa804_25fb, 8, 0x10]
        );
    }
}
