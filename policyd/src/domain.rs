// SPDX-License-Identifier: GPL-3.0-only
//! The thread of one domain: finds its kernel, attaches, watches, and starts over when the guest changes under it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use crossbeam_channel::{Sender, bounded};
use netback_filter::FlowWriter;
use policy::Protocol;
use policyd_api::{Mode, Probe, What};
use vmi_xen::linux::{LinuxError, SocketState};
use vmi_xen::meter::TrapBudget;
use vmi_xen::session::{End, Inspector, Session, SessionError, Status};
use vmi_xen::traps::Degree;
use xen_bindings::Xen;
use xen_bindings::domain::{self, DomainInfo};

use crate::addresses;
use crate::enforcer::Order;
use crate::gate::{Gate, Told, protocol};
use crate::inventory::{FoundConnection, FoundListener, Inventory};
use crate::priority;
use crate::registry::{DomainEntry, lock};
use crate::world::World;

/// What breakpoints in the guest's own memory mean, for `xmesh list`.
const VISIBLE: &str =
    " (as breakpoints in the guest's own memory, since this host offers no altp2m: the guest could see them)";
/// What is said of a guest that does not run for the time being.
const SHUT_DOWN: &str = "it has shut down or is suspended; it is looked at again when it goes on";
/// How often a domain that is shut down is asked for. One hypercall each.
const SHUT_DOWN_PERIOD: Duration = Duration::from_millis(100);
/// What the probes of all traces are shown as.
const TRACES: &str = "(traces)";
/// A guest that is still booting is looked at again this soon, then ever more rarely.
const FIRST_RETRY: Duration = Duration::from_millis(500);
/// The longest pause between two tries.
const LAST_RETRY: Duration = Duration::from_secs(10);
/// How often listeners are read where no trap tells of them.
const LOOKUP_PERIOD: Duration = Duration::from_secs(5);

/// What the threads of all domains share.
pub struct Context {
    /// The domains.
    pub registry: Arc<crate::registry::Registry>,
    /// What the gates decide by.
    pub world: Arc<ArcSwap<World>>,
    /// Where the gates write.
    pub flows: FlowWriter,
    /// To the enforcer.
    pub orders: Sender<Order>,
    /// To the enforcer, from the trap path.
    pub facts: Sender<Told>,
    /// Where the undo records are.
    pub undo_dir: PathBuf,
    /// What traps may cost a guest.
    pub budget: TrapBudget,
    /// Whether a guest's own memory may be given breakpoints where there is no altp2m.
    pub breakpoints: bool,
}

impl Context {
    /// Gives the enforcer an order.
    pub fn order(&self, order: Order) {
        // The enforcer ends last; when it is gone so is the use of the order.
        let _ = self.orders.send(order);
    }

    /// Logs an event about a domain.
    pub fn say(&self, entry: &DomainEntry, what: What) {
        self.order(Order::Say {
            domain: Some((entry.id, entry.vm.name.clone())),
            what,
        });
    }
}

/// Watches one domain until it or the daemon ends.
pub fn watch(context: &Context, entry: &Arc<DomainEntry>) {
    priority::of_this_thread(priority::TRAPS);
    let mut pause = FIRST_RETRY;
    while !entry.stopping() {
        // A fault of ours in one guest's thread must cost neither that guest (the session is dropped, which frees it) nor the
        // others.
        let outcome = catch_unwind(AssertUnwindSafe(|| try_watch(context, entry)));
        entry.set_waker(None);
        entry.serving(false);
        entry.set_taps(None);
        let outcome = outcome.unwrap_or(Err(SessionError::Fault));
        match outcome {
            Ok(End::Stopped) if entry.stopping() => break,
            Ok(End::Stopped | End::Gone) => entry.shut_down(),
            Err(e) => {
                let mode = without_traps(entry);
                sight(context, entry, mode, false, &e.to_string());
                if mode == Mode::Lookup && e.is_permanent() {
                    look_up(context, entry);
                    pause = FIRST_RETRY;
                }
                nap(entry, pause);
                pause = (pause * 2).min(LAST_RETRY);
            }
        }
        // It may be the same domain that goes on: one that was saved and kept, or that starts its next kernel by itself (kexec).
        if entry.is_down() {
            wait_until_it_runs(context, entry);
            pause = FIRST_RETRY;
        }
    }
    *lock(&entry.inspector) = None;
}

/// The degree of sight that is left.
fn without_traps(entry: &DomainEntry) -> Mode {
    match lock(&entry.inspector).is_some() {
        true => Mode::Lookup,
        false => Mode::Vm,
    }
}

/// One attachment, from reading the kernel to its end.
fn try_watch(context: &Context, entry: &Arc<DomainEntry>) -> Result<End, SessionError> {
    let domid = u32::from(entry.id);
    *lock(&entry.inspector) = None;
    let inspector = Inspector::open(domid)?;
    {
        let mut sight = entry.sight();
        sight.kernel = Some(inspector.release().to_owned());
        sight.vcpus = inspector.vcpus();
    }
    let kernel = inspector.kernel().clone();
    SessionError::if_blind(&kernel)?;
    *lock(&entry.inspector) = Some(inspector);

    let gate = Gate::new(
        entry.scope(),
        Arc::clone(&context.world),
        context.flows.clone(),
        context.facts.clone(),
        Arc::clone(&entry.gate),
    );
    // Before any trap: from here on nothing of an earlier attachment is believed.
    take_stock(context, entry, false);
    let mut session = Session::attach(domid, kernel, &context.undo_dir, context.breakpoints, gate)?;
    session.set_budget(context.budget);
    entry.set_waker(Some(session.waker()));
    entry.set_taps(Some(session.taps()));
    let status = session.status();
    let degree = session.degree();
    std::thread::scope(|scope| {
        // From now on vCPUs may be waiting for this thread, so it serves them and nothing else.
        scope.spawn(|| begin(context, entry, degree, &status));
        // Dropped here, before the other is waited for: whatever ends the session, the guest is freed at once.
        let mut session = session;
        let mut stop = || {
            // Called at least twice a second: the guardian's proof that vCPUs do not wait in vain.
            entry.serving(true);
            entry.stopping() || entry.is_down()
        };
        let mut uncovered = status.uncovered.clone();
        session.run(&mut stop, &mut |status| {
            publish(entry, status);
            if uncovered != status.uncovered {
                uncovered.clone_from(&status.uncovered);
                // Telling may wait for the enforcer, and vCPUs must not.
                let status = status.clone();
                scope.spawn(move || tell_sight(context, entry, degree, &status));
            }
        })
    })
}

/// What is told and read once the probes are armed.
fn begin(context: &Context, entry: &DomainEntry, degree: Degree, status: &Status) {
    publish(entry, status);
    // A connection is in this inventory, or it trapped, or both.
    take_stock(context, entry, true);
    tell_sight(context, entry, degree, status);
}

/// Tells which degree of sight the probes make.
fn tell_sight(context: &Context, entry: &DomainEntry, degree: Degree, status: &Status) {
    let mut message = match status.uncovered.as_slice() {
        [] => "every probe is armed".to_owned(),
        uncovered => uncovered.join("; "),
    };
    let mode = match degree {
        _ if status.connects_rest => Mode::Lookup,
        Degree::Altp2m => Mode::Altp2m,
        Degree::Breakpoint => Mode::Breakpoint,
    };
    if mode == Mode::Breakpoint {
        message.push_str(VISIBLE);
    }
    sight(context, entry, mode, status.counts_listeners, &message);
    if mode == Mode::Altp2m && status.uncovered.is_empty() {
        entry.sight().problems.clear();
    }
}

/// Without traps: reads the guest now and then, so that processes and listeners are known. Returns when it cannot be
/// read any more, or has booted again.
fn look_up(context: &Context, entry: &DomainEntry) {
    let is_same_boot = || {
        lock(&entry.inspector)
            .as_ref()
            .is_some_and(Inspector::is_same_boot)
    };
    while !entry.stopping() && !entry.is_down() && is_same_boot() && take_stock(context, entry, false) {
        nap(entry, LOOKUP_PERIOD);
    }
}

/// Returns when a domain that was shut down runs again, or its entry is to stop, as it is when the domain is gone.
fn wait_until_it_runs(context: &Context, entry: &DomainEntry) {
    let Ok(xen) = Xen::open() else { return };
    let info = || domain::info(&xen, u32::from(entry.id));
    // One that was destroyed is not said to have shut down.
    if !matches!(info(), Ok(None) | Ok(Some(DomainInfo { dying: true, .. }))) {
        // A copy's original goes on where it was: until its probes are back, who opens a connection is looked up.
        sight(context, entry, without_traps(entry), false, SHUT_DOWN);
    }
    while !entry.stopping() {
        match info() {
            Ok(Some(info)) if !info.dying && info.shutdown.is_none() => break,
            Ok(_) => nap(entry, SHUT_DOWN_PERIOD),
            Err(_) => break,
        }
    }
    entry.goes_on();
}

/// Shows the status, unless somebody is just looking: the trap path waits for no reader, and the next status comes in a second.
fn publish(entry: &DomainEntry, status: &Status) {
    let Ok(mut sight) = entry.sight.try_lock() else {
        return;
    };
    sight.traps = status.traps;
    sight.probes = status
        .probes
        .iter()
        .map(|p| Probe {
            function: p.function.to_owned(),
            resume: p.resume.clone(),
            address: (p.address != 0).then(|| format!("{:#x}", p.address)),
            hits: p.meter.hits,
            mean_us: micros(p.meter.mean()),
            p99_us: micros(p.meter.p99()),
            max_us: micros(p.meter.max),
            page_accesses: p.meter.accesses,
            share: p.share,
        })
        .collect();
    sight.probes.extend(traces(status));
}

/// The probes of all traces, as one; none where there are none.
fn traces(status: &Status) -> Option<Probe> {
    let taps = &status.taps;
    let resume = match &taps.rests {
        Some(why) => format!("not armed: {why}"),
        None if taps.probes > 0 => format!("{} probes", taps.probes),
        None => return None,
    };
    Some(Probe {
        function: TRACES.to_owned(),
        resume,
        address: None,
        hits: taps.meter.hits,
        mean_us: micros(taps.meter.mean()),
        p99_us: micros(taps.meter.p99()),
        max_us: micros(taps.meter.max),
        page_accesses: taps.meter.accesses,
        share: status.taps_share,
    })
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// Reads addresses, listeners and connections, and hands them to the enforcer; returns when the World has them. Returns whether
/// they could be read.
fn take_stock(context: &Context, entry: &DomainEntry, beside_traps: bool) -> bool {
    let inventory = {
        let inspector = lock(&entry.inspector);
        let Some(inspector) = inspector.as_ref() else {
            return false;
        };
        if let Some((claimed, several)) = addresses::read(inspector) {
            let scope = entry.scope();
            context.order(Order::Addresses {
                scope,
                claimed,
                several,
            });
        }
        let sockets = inspector.sockets();
        let sockets_read = sockets.is_ok();
        let sockets = match sockets {
            Ok(sockets) => sockets,
            // A kernel that does not say how its sockets look is still known by its processes and addresses.
            Err(LinuxError::Layout(_)) => Vec::new(),
            Err(e) => {
                log::warn!("{}: sockets could not be read: {e}", entry.vm.name);
                return false;
            }
        };
        let mut inventory = Inventory {
            beside_traps,
            sockets_read,
            ..Inventory::default()
        };
        for (socket, subject) in sockets {
            let protocol = protocol(&socket);
            match socket.remote {
                Some(remote) => {
                    inventory.connections.push(FoundConnection {
                        protocol,
                        local: socket.local,
                        remote,
                        subject,
                    });
                }
                None if socket.local.port() != 0
                    && (protocol == Protocol::UDP || socket.state == SocketState::Listen) =>
                {
                    inventory.listeners.push(FoundListener {
                        protocol,
                        sk: socket.sk,
                        local: socket.local,
                        subject,
                    });
                }
                _ => {}
            }
        }
        inventory
    };
    let (done, is_done) = bounded(1);
    context.order(Order::Inventory {
        scope: entry.scope(),
        inventory,
        done,
    });
    // An enforcer that is gone drops its end.
    let _ = is_done.recv();
    true
}

/// `counts`: traps tell of each listener that comes or goes.
fn sight(context: &Context, entry: &DomainEntry, mode: Mode, counts: bool, message: &str) {
    let changed = {
        let mut sight = entry.sight();
        let news = sight.mode != mode || sight.problems.first().map(String::as_str) != Some(message);
        sight.mode = mode;
        sight.problems = vec![message.to_owned()];
        if mode < Mode::Breakpoint {
            sight.probes.clear();
        }
        news
    };
    context.order(Order::Trapped {
        scope: entry.scope(),
        trapped: mode >= Mode::Breakpoint,
        opaque: mode == Mode::Vm,
        counts,
    });
    if changed {
        log::info!("{}: {}: {message}", entry.vm.name, mode.as_str());
        context.say(
            entry,
            What::Sight {
                mode,
                message: message.to_owned(),
            },
        );
    }
}

/// Sleeps, but not past a stop.
fn nap(entry: &DomainEntry, time: Duration) {
    let end = Instant::now() + time;
    while !entry.stopping() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(50).min(time));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traces_are_shown_as_one_probe_while_they_are_there_or_rest() {
        let mut status = Status::default();
        status.taps.meter.add(Duration::from_micros(20));
        assert!(traces(&status).is_none(), "what is over is not listed");
        status.taps.probes = 3;
        status.taps_share = 0.25;
        let shown = traces(&status).expect("a row");
        assert_eq!(
            (shown.resume.as_str(), shown.hits, shown.share),
            ("3 probes", 1, 0.25)
        );
        status.taps.probes = 0;
        status.taps.rests = Some("rests for 10 s: it costs too much".into());
        let shown = traces(&status).expect("a row");
        assert_eq!(shown.resume, "not armed: rests for 10 s: it costs too much");
    }
}
