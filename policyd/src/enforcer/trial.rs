// SPDX-License-Identifier: GPL-3.0-only
//! The policy that runs beside the one in force: compiled anew with each change, so that it is always what would be in force.

use policyd_advice::Candidate;
use policyd_api::SourceText;

use super::Enforcer;
use crate::daemon::DaemonError;
use crate::events::now_ns;
use crate::shadow::Asked;

impl Enforcer {
    /// Compiles sets beside those in force, to be tried on flows of the guests that there are.
    pub(super) fn try_out(&self, documents: &[SourceText]) -> Result<Candidate, DaemonError> {
        self.policies
            .try_out(documents, self.guests.values().map(|vm| &vm.id))
    }

    /// Lets what is asked for run in place of what ran so before.
    pub(super) fn set_shadow(&mut self, asked: Asked) {
        let candidate = self.try_out(&asked.documents);
        self.shadow.set(asked, candidate);
        // It may have been asked for before a change that came first.
        self.run_shadow();
    }

    /// Compiles it beside the sets that are in force now.
    pub(super) fn run_shadow(&mut self) {
        let documents = self.shadow.documents();
        if !documents.is_empty() {
            let at = now_ns() / 1_000_000_000;
            let candidate = self.try_out(&documents);
            self.shadow.run(candidate, Some((self.policies.generation(), at)));
        }
    }
}
