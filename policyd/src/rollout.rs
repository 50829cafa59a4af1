// SPDX-License-Identifier: GPL-3.0-only
//! Watches over a change that holds for some VMs first: takes it back when more of their flows are refused than before, and
//! lets it hold for all when its time has passed without that.

mod refusals;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use policy::pattern::Pattern;
use policyd_api::{Author, Refusals, Rollout, Stage};

use crate::control::Control;
use crate::daemon::DaemonError;
use crate::enforcer::{Request, Wish};
use crate::events::now_ns;
use crate::world::World;
pub use refusals::Refused;

/// How often it is looked.
const TICK: Duration = Duration::from_secs(2);
/// How far is looked back before the change, seconds.
const BEFORE: u64 = 600;
/// Fewer refusals are no reason.
const FEWEST: u64 = 5;
/// Nor is a share that grew by less.
const LEAST: f64 = 0.01;
/// Where fewer flows were seen before, it is as if there had been so many, none of them refused.
const QUIET: u64 = 20;
/// One-sided, this is by chance once in a thousand looks.
const Z: f64 = 3.09;

/// What a roll-out's thread needs.
pub struct Watch {
    /// Where changes are asked for.
    pub control: Arc<Control>,
    /// Who is asked whether anything is rolled out at all.
    pub world: Arc<ArcSwap<World>>,
    /// What was refused.
    pub refused: Arc<Refused>,
}

impl Watch {
    /// Looks until `stop`.
    pub fn run(&self, stop: &AtomicBool) {
        while !stop.load(Ordering::Acquire) {
            std::thread::sleep(TICK);
            if self.world.load().rules.rollout().is_some()
                && let Err(e) = self.look()
            {
                log::warn!("the roll-out is not looked after: {e}");
            }
        }
    }

    fn look(&self) -> Result<(), DaemonError> {
        let (generation, stage) = self.control.rollout()?;
        let Some(stage) = stage else { return Ok(()) };
        let Rollout { before, since, .. } = status(&self.refused, stage.clone(), now_ns());
        let (wish, why) = match trouble(before, since) {
            Some(why) => (Wish::Abandon, why),
            None if stage.until_ns.is_some_and(|until| now_ns() >= until) => (
                Wish::Promote,
                format!("{} of {} flows were refused", since.refused, since.flows),
            ),
            None => return Ok(()),
        };
        let request = Request {
            wish,
            by: Author {
                uid: 0,
                name: Some("policyd".into()),
            },
            message: Some(format!("roll-out to {}: {why}", stage.vms.join(" "))),
            // Who was faster decided.
            if_generation: Some(generation),
            dry_run: false,
        };
        self.control.change(request).map(drop)
    }
}

/// What was refused to its VMs before and since.
pub fn status(refused: &Refused, stage: Stage, now_ns: u64) -> Rollout {
    let vms: Vec<Pattern> = stage.vms.iter().filter_map(|text| text.parse().ok()).collect();
    let (since, now) = (stage.since_ns / 1_000_000_000, now_ns / 1_000_000_000);
    Rollout {
        before: refused.of(&vms, since.saturating_sub(BEFORE), since),
        since: refused.of(&vms, since, now.saturating_add(1)),
        stage: Some(stage),
    }
}

/// Why a change is to be taken back: a test of two proportions, with the variance of both together.
fn trouble(before: Refusals, since: Refusals) -> Option<String> {
    let flows = before.flows.max(QUIET) as f64;
    let was = before.refused as f64 / flows;
    let is = since.refused as f64 / since.flows.max(1) as f64;
    if since.refused < FEWEST || is - was < LEAST {
        return None;
    }
    let both = (before.refused + since.refused) as f64 / (flows + since.flows as f64);
    let deviation = (both * (1.0 - both) * (1.0 / flows + 1.0 / since.flows.max(1) as f64)).sqrt();
    // All were refused, always: nothing has changed.
    let z = (is - was) / deviation.max(f64::MIN_POSITIVE);
    (z >= Z).then(|| {
        format!(
            "{} of {} flows were refused ({:.1} %), before {} of {} ({:.1} %)",
            since.refused,
            since.flows,
            is * 100.0,
            before.refused,
            before.flows,
            was * 100.0
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn troubled(before: (u64, u64), since: (u64, u64)) -> bool {
        let of = |(refused, flows)| Refusals { flows, refused };
        trouble(of(before), of(since)).is_some()
    }

    #[test]
    fn more_refusals_than_chance_gives_are_trouble() {
        assert!(!troubled((0, 1000), (0, 1000)));
        assert!(troubled((0, 1000), (10, 1000)));
        assert!(troubled((2, 1200), (7, 50)));
        // A handful is no reason, nor is a share that hardly grew.
        assert!(!troubled((0, 1000), (4, 4)));
        assert!(!troubled((5000, 1_000_000), (6000, 1_000_000)));
        assert!(!troubled((100, 1000), (12, 100)));
        // Nothing was seen before.
        assert!(troubled((0, 0), (10, 12)));
        assert!(!troubled((0, 0), (5, 100)));
        // Refused it was before, too.
        assert!(!troubled((50, 50), (50, 50)));
        assert!(!troubled((500, 1000), (260, 500)));
    }

    #[test]
    fn why_is_said_in_figures() {
        let refusals = |refused, flows| Refusals { flows, refused };
        assert_eq!(
            trouble(refusals(2, 1200), refusals(7, 50)).as_deref(),
            Some("7 of 50 flows were refused (14.0 %), before 2 of 1200 (0.2 %)")
        );
    }
}
