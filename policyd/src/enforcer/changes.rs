// SPDX-License-Identifier: GPL-3.0-only
//! Changes of policy: durable first, then in force, then acknowledged; or refused, and that noted.

use std::sync::Arc;

use policyd_api::{Applied, What};

use super::Enforcer;
use super::policies::{Prepared, Request};
use crate::daemon::DaemonError;

impl Enforcer {
    /// Does what is asked, or notes in the audit log that it was refused and why.
    pub(super) fn change(&mut self, request: &Request) -> Result<Applied, DaemonError> {
        let result = self.policies.prepare(request).and_then(|prepared| {
            self.check(&prepared)?;
            if request.dry_run {
                return Ok(Applied {
                    names: prepared.names(),
                    generation: self.policies.generation(),
                    flows_changed: 0,
                    dry_run: true,
                });
            }
            self.carry_out(prepared)
        });
        if let Err(e) = &result
            && !request.dry_run
        {
            self.policies.note_refusal(request, &e.to_string());
        }
        result
    }

    /// Whether it suits the guests that are here.
    fn check(&self, prepared: &Prepared) -> Result<(), DaemonError> {
        self.check_shapes(prepared.rules())?;
        self.check_routes(prepared.rules(), &prepared.names())
    }

    /// When it cannot be put in force it is taken back from the store, so that a refused change is absent everywhere.
    fn carry_out(&mut self, prepared: Prepared) -> Result<Applied, DaemonError> {
        let rules = Arc::clone(prepared.rules());
        let undo = self.policies.store_change(&prepared).inspect_err(|e| {
            let message = e.to_string();
            self.log.publish(None, What::Store { message });
        })?;
        let held = self.policies.release();
        // What is acknowledged is in force.
        self.settled = true;
        // The classes before the flows that are marked to be in them.
        let in_force = self.shape(&rules).and_then(|()| self.enforce(Arc::clone(&rules)));
        match in_force {
            Ok(flows_changed) => {
                let (names, change) = (prepared.names(), prepared.summary());
                self.policies.adopt(prepared);
                self.dry_runs.keep(&rules);
                self.run_shadow();
                let generation = rules.generation();
                self.log.publish(None, What::Policy { generation, change });
                Ok(Applied {
                    names,
                    generation,
                    flows_changed,
                    dry_run: false,
                })
            }
            Err(e) => {
                self.policies.hold(held);
                let before = self.policies.rules();
                if let Err(again) = self.shape(&before) {
                    log::error!("the vifs are not shaped as they were: {again}");
                }
                self.policies.take_back(undo, &e.to_string())?;
                Err(e)
            }
        }
    }
}
