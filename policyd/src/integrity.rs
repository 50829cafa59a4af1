// SPDX-License-Identifier: GPL-3.0-only
//! Checks of guests' kernels: now and then by a thread of their own, and when somebody asks. Beside the trap path; what is new is
//! an event.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use policyd_api::{Mode, What};
use vmi_xen::breakpoint::guard_functions;
use vmi_xen::integrity::{Checker, Finding, Report};

use crate::enforcer::Order;
use crate::present;
use crate::registry::{DomainEntry, Registry, lock};

/// How often the thread looks whether the daemon ends.
const NAP: Duration = Duration::from_millis(200);

/// What is remembered of a domain from one check to the next.
#[derive(Default)]
pub struct Watchdog {
    checker: Checker,
    /// Findings of the last check: told once, and again only after they were gone.
    told: Vec<Finding>,
}

/// Checks every domain again and again until `stop`.
pub fn run(registry: &Registry, orders: &Sender<Order>, every: Duration, stop: &AtomicBool) {
    let mut next = Instant::now() + every;
    while !stop.load(Ordering::SeqCst) {
        if Instant::now() < next {
            std::thread::sleep(NAP);
            continue;
        }
        for entry in registry.all() {
            if stop.load(Ordering::SeqCst) {
                return;
            }
            // A fault of ours with one guest must not end the checks of the others.
            match catch_unwind(AssertUnwindSafe(|| check(&entry, orders))) {
                Ok(Ok(report)) => log::debug!("{}: checked in {:?}", entry.vm.name, report.took),
                Ok(Err(why)) => log::debug!("{}: not checked: {why}", entry.vm.name),
                Err(_) => log::error!("{}: a fault in its check; please report this log", entry.vm.name),
            }
        }
        next = Instant::now() + every;
    }
}

/// Checks one domain now, and tells what is new.
///
/// # Errors
/// Why it cannot be checked, as a sentence.
pub fn check(entry: &DomainEntry, orders: &Sender<Order>) -> Result<Report, String> {
    // First of the two locks: a second asker waits here and holds up nobody who wants the inspector for something else.
    let mut watchdog = lock(&entry.watchdog);
    let own = own_probes(entry);
    let taps = entry.taps().filter(|_| entry.sight().mode != Mode::Altp2m);
    let report = {
        let inspector = lock(&entry.inspector);
        let inspector = inspector.as_ref().ok_or("its kernel is not understood (yet)")?;
        let symbols = &inspector.kernel().symbols;
        let is_own = |va: u64| {
            let tapped = taps.as_ref().is_some_and(|taps| taps.has_probe_at(va));
            tapped
                || symbols.nearest(va).is_some_and(|(symbol, offset)| {
                    offset <= LONGEST_ENDBR && own.iter().any(|name| name == symbol.name)
                })
        };
        inspector
            .check(&mut watchdog.checker, &is_own)
            .map_err(|e| e.to_string())?
    };
    for finding in &report.findings {
        if watchdog.told.iter().any(|told| told.is_same(finding)) {
            continue;
        }
        log::warn!("{}: {}: {finding}", entry.vm.name, finding.severity().as_str());
        let shown = present::finding(finding);
        // The enforcer ends last; when it is gone so is the use of the order.
        let _ = orders.send(Order::Say {
            domain: Some((entry.id, entry.vm.name.clone())),
            what: match finding {
                Finding::HiddenTask(_) | Finding::HiddenModule { .. } | Finding::UnheldSocket(_) => {
                    What::Hidden { finding: shown }
                }
                _ => What::Integrity { finding: shown },
            },
        });
    }
    watchdog.told.clone_from(&report.findings);
    Ok(report)
}

/// Bytes of `endbr64`, behind which a probe may lie.
const LONGEST_ENDBR: u64 = 4;

/// Functions with a breakpoint of ours in the guest's own memory. Those of an altp2m view are not there to be seen.
fn own_probes(entry: &DomainEntry) -> Vec<String> {
    let sight = entry.sight();
    if sight.mode == Mode::Altp2m {
        return Vec::new();
    }
    let probes = sight.probes.iter().map(|probe| probe.function.clone());
    probes.chain(guard_functions().map(str::to_owned)).collect()
}
