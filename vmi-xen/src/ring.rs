// SPDX-License-Identifier: GPL-3.0-only
//! The ring of one domain: waiting for events, and serving them. What engines of either kind do alike.
//!
//! **Invariant:** each event is answered before the next is taken, on every path. What can fail (a hypercall, the handler) is
//! done first and its failure kept until the answer is on the ring.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::{Duration, Instant};

use xen_bindings::{
    DomId, Gfn, Xen, domain,
    memory::ForeignPages,
    monitor::{Monitor, Request, Response},
};

use crate::altp2m::{EngineError, INT3, ProbeId, Spin, Stats, Trap, Waker, Woken, sleep};
use crate::traps::Handler;

/// How often to ask whether a silent domain still exists.
const ALIVE_EVERY: Duration = Duration::from_secs(1);

/// A handler's panic.
pub(crate) type Panic = Box<dyn Any + Send>;

/// The answer, and the handler's panic if it had one.
pub(crate) type Decided = (Response, Option<Panic>);

/// The ring, and what an engine knows by it.
pub(crate) struct Ring {
    pub xen: Xen,
    pub domid: DomId,
    /// `None` once the guest was freed.
    pub monitor: Option<Monitor>,
    pub stats: Stats,
    pub waker: Waker,
    spin: Spin,
    /// When the domain was last known to exist.
    seen_alive: Instant,
}

/// An engine, as far as its ring is concerned.
pub(crate) trait Engine {
    fn ring(&mut self) -> &mut Ring;

    /// What is answered to an event.
    fn decide(&mut self, request: &Request, handler: &mut Handler<'_>) -> Decided;

    /// The answer to an event that deciding on failed: the vCPU goes on as if nobody watched, as far as that can be.
    fn let_go(request: &Request) -> Response;

    /// Called between events. Returns when to call it again at the latest, if it is to be called.
    ///
    /// # Errors
    /// Ends the engine.
    fn settle(&mut self) -> Result<Option<Instant>, EngineError> {
        Ok(None)
    }
}

/// As [`Traps::poll`](crate::traps::Traps::poll). Goes on with the handler's panic, after the event was answered.
pub(crate) fn poll<E: Engine>(
    engine: &mut E,
    timeout: Duration,
    handler: &mut Handler<'_>,
) -> Result<usize, EngineError> {
    // A timeout beyond what the clock can hold is none.
    let deadline = Instant::now().checked_add(timeout);
    loop {
        let served = serve_all(engine, handler)?;
        let settle_by = engine.settle()?;
        if served > 0 {
            return Ok(served);
        }
        let ring = engine.ring();
        match ring.wait([deadline, settle_by])? {
            None | Some(Woken::Event) => {}
            Some(Woken::Waker) => return Ok(0),
            Some(Woken::Timeout) => {
                ring.check_alive()?;
                if deadline.is_some_and(|at| Instant::now() >= at) {
                    return serve_all(engine, handler);
                }
            }
        }
    }
}

/// Serves what is on the ring.
fn serve_all<E: Engine>(engine: &mut E, handler: &mut Handler<'_>) -> Result<usize, EngineError> {
    let mut served = 0;
    while let Some(monitor) = &mut engine.ring().monitor {
        let Some(request) = monitor.next_event()? else {
            break;
        };
        serve(engine, &request, handler)?;
        engine.ring().spin.found();
        served += 1;
    }
    Ok(served)
}

/// Serves one event: decides, answers, then reports what went wrong.
fn serve<E: Engine>(engine: &mut E, request: &Request, handler: &mut Handler<'_>) -> Result<(), EngineError> {
    let ring = engine.ring();
    ring.stats.events += 1;
    ring.seen_alive = Instant::now();
    // The engine stays consistent: counters and marks are all that a panic can interrupt.
    let decided = catch_unwind(AssertUnwindSafe(|| engine.decide(request, handler)));
    let (response, panic) = decided.unwrap_or_else(|panic| (E::let_go(request), Some(panic)));
    let answered = match &mut engine.ring().monitor {
        Some(monitor) => monitor.answer(&response),
        None => Ok(()),
    };
    if let Some(panic) = panic {
        resume_unwind(panic);
    }
    Ok(answered?)
}

impl Ring {
    /// Of a domain whose events are enabled.
    pub fn new(xen: &Xen, domid: DomId, monitor: Monitor, waker: Waker, spin: Duration) -> Ring {
        Ring {
            xen: xen.clone(),
            domid,
            monitor: Some(monitor),
            stats: Stats::default(),
            waker,
            spin: Spin::new(spin),
            seen_alive: Instant::now(),
        }
    }

    /// Waits for an event, but not beyond any of these times. None: there is one already.
    fn wait(&mut self, until: [Option<Instant>; 2]) -> Result<Option<Woken>, EngineError> {
        let Some(monitor) = &self.monitor else {
            return Err(EngineError::Gone(self.domid));
        };
        if self.spin.look(|| monitor.waiting() != Ok(0)) {
            return Ok(None);
        }
        let Some(channel) = monitor.fd() else {
            return Err(EngineError::Gone(self.domid));
        };
        let now = Instant::now();
        let rests = until
            .into_iter()
            .flatten()
            .map(|at| at.saturating_duration_since(now));
        let rest = rests.fold(ALIVE_EVERY, Duration::min);
        let woken = sleep(channel, &self.waker, rest).map_err(EngineError::Wait)?;
        if woken == Woken::Event {
            // Before looking at the ring: what comes after notifies again.
            monitor.acknowledge()?;
        }
        Ok(Some(woken))
    }

    /// Finds out whether a silent domain still exists.
    fn check_alive(&mut self) -> Result<(), EngineError> {
        if self.seen_alive.elapsed() < ALIVE_EVERY {
            return Ok(());
        }
        self.seen_alive = Instant::now();
        match domain::info(&self.xen, self.domid)? {
            Some(info) if !info.dying => Ok(()),
            _ => Err(EngineError::Gone(self.domid)),
        }
    }

    /// Calls the handler of a probe that fired; returns its panic, if it had one.
    pub fn call(&mut self, handler: &mut Handler<'_>, request: &Request, id: ProbeId) -> Option<Panic> {
        self.stats.traps += 1;
        let trap = Trap {
            // Xen has fewer vCPUs than that.
            vcpu: request.vcpu() as u16,
            va: request.registers().rip,
            regs: request.registers(),
        };
        let start = Instant::now();
        let outcome = catch_unwind(AssertUnwindSafe(|| handler(id, &trap)));
        self.stats.handler_took(start.elapsed());
        outcome.err()
    }

    /// Whether the guest's memory has an int3 there. Where it cannot be read the CPU is believed, which did execute one.
    pub fn breaks_at(&self, gfn: Gfn, offset: usize) -> bool {
        let mut byte = [0];
        ForeignPages::map_one(&self.xen, self.domid, gfn, false)
            .and_then(|page| page.read(offset, &mut byte))
            .map_or(true, |()| byte[0] == INT3)
    }
}
