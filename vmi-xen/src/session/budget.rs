// SPDX-License-Identifier: GPL-3.0-only
//! What a session's probes have cost, and keeping them within the budget.

use std::time::Instant;

use super::{Probe, ProbeStatus, Session, Status, arm, id};
use crate::altp2m::{Armed, EngineError};
use crate::meter::{Governor, Meter, Need, TrapBudget, Verdict};
use crate::observe::{Observer, Point};
use crate::traps::Degree;

impl<O: Observer> Session<O> {
    /// What was done so far.
    pub fn status(&self) -> Status {
        let lasted = self.begun.elapsed().as_secs_f64().max(0.001);
        let share = |meter: &Meter| meter.cost().as_secs_f64() / lasted;
        let taps = self.taps.status();
        let uncovered = self
            .probes
            .iter()
            .filter_map(|p| Some((p, p.armed.as_ref().err()?)))
            .map(|(p, why)| format!("{}: {why}; {}", p.function, p.point.covers()));
        let resting = taps
            .rests
            .iter()
            .map(|why| format!("traces: tracing {why}; no traced call is told"));
        Status {
            traps: self.engine.stats().traps,
            probes: self
                .probes
                .iter()
                .map(|p| ProbeStatus {
                    function: p.function,
                    resume: match &p.armed {
                        Ok(Armed { one_exit: true, .. }) => "skip".into(),
                        Ok(_) if self.degree() == Degree::Breakpoint => "emulate".into(),
                        Ok(_) => "step".into(),
                        Err(why) => format!("not armed: {why}"),
                    },
                    address: p.armed.as_ref().map_or(0, |armed| armed.va),
                    meter: p.meter,
                    share: share(&p.meter),
                })
                .collect(),
            uncovered: uncovered.chain(resting).collect(),
            connects_rest: self
                .probes
                .iter()
                .enumerate()
                .any(|(index, p)| p.point == Point::Connect && self.governor.is_away(index)),
            counts_listeners: [Point::Listen, Point::Unlisten].into_iter().all(|point| {
                let mut all = self.probes.iter();
                all.any(|p| p.point == point && p.armed.is_ok())
            }),
            unreadable: self.unreadable,
            taps_share: share(&taps.meter),
            taps,
        }
    }

    /// Takes probes away that cost too much, and puts back those that have rested.
    pub(super) fn keep_within_budget(&mut self) -> Result<(), EngineError> {
        for probe in &mut self.probes {
            // The engine counts from nothing whenever a probe is armed.
            let counted = self.engine.page_accesses(id(probe.point));
            probe.meter.accesses += counted.saturating_sub(probe.accesses);
            probe.accesses = counted;
        }
        let mut meters: Vec<Meter> = self.probes.iter().map(|probe| probe.meter).collect();
        meters.push(self.taps.metered(&*self.engine));
        loop {
            let verdict = self.governor.judge(&meters, Instant::now());
            // Beyond the probes there is one more: all those of the taps.
            match verdict {
                Verdict::Keep => return Ok(()),
                Verdict::Rest { probe, rest, .. } => {
                    let why = verdict.why(self.governor.budget()).unwrap_or_default();
                    match self.probes.get_mut(probe) {
                        Some(probe) => {
                            self.engine.disarm(id(probe.point))?;
                            probe.armed = Err(why);
                        }
                        None => self.taps.rest(rest, why),
                    }
                }
                Verdict::Return { probe } => match self.probes.get_mut(probe) {
                    Some(probe) => {
                        (probe.function, probe.armed) = arm(&mut *self.engine, &self.linux, probe.point);
                    }
                    None => self.taps.resume(),
                },
            }
        }
    }
}

/// Traces are for who looks at them; exec, exit and fork are told for the record; listen and connect are what verdicts are
/// made of.
pub(super) fn governor(budget: TrapBudget, probes: &[Probe]) -> Governor {
    let mut needs: Vec<Need> = probes
        .iter()
        .map(|probe| match probe.point {
            Point::Connect | Point::Listen => Need::Decided,
            _ => Need::Recorded,
        })
        .collect();
    needs.push(Need::Shown);
    Governor::new(budget, &needs, Instant::now())
}
