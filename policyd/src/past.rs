// SPDX-License-Identifier: GPL-3.0-only
//! What the API asks about flows of the past, and about policies that are tried on them or beside the one in force.

mod filter;
mod suggest;

pub use filter::with_services;

use std::cmp::Reverse;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;
use policyd_api as api;
use policyd_store::{FlowStore, FlowsError};

use crate::control::Control;
use crate::daemon::DaemonError;
use crate::differences::Tally;
use crate::events::now_ns;
use crate::shadow::{Asked, Shadow};
use crate::world::World;
use filter::Filter;
use policyd_advice::Candidate;

/// Seconds that are looked back unless told.
const LOOK_BACK: u64 = 3600;
/// The same of a replay.
const REPLAY_BACK: u64 = 7 * 24 * 3600;
/// Kinds of flow in an answer unless told.
const PAGE: usize = 100;
/// Most kinds of flow in an answer.
const MAX_PAGE: usize = 1000;

impl From<FlowsError> for DaemonError {
    fn from(e: FlowsError) -> DaemonError {
        match e {
            FlowsError::Full { .. } => DaemonError::Unavailable(e.to_string()),
            e => DaemonError::Internal(e.to_string()),
        }
    }
}

/// Flows of the past.
pub struct PastFlows {
    /// None where no history is kept, and why.
    store: Result<FlowStore, String>,
    shadow: Arc<Shadow>,
    control: Arc<Control>,
    world: Arc<ArcSwap<World>>,
    lost: Arc<AtomicU64>,
    /// Held while a policy is learned.
    suggesting: Mutex<()>,
}

impl PastFlows {
    /// `lost`: notes on their way to the history that found no room.
    pub fn new(
        store: Result<FlowStore, String>,
        shadow: Arc<Shadow>,
        control: Arc<Control>,
        world: Arc<ArcSwap<World>>,
        lost: Arc<AtomicU64>,
    ) -> PastFlows {
        PastFlows {
            store,
            shadow,
            control,
            world,
            lost,
            suggesting: Mutex::default(),
        }
    }

    fn store(&self) -> Result<&FlowStore, DaemonError> {
        self.store
            .as_ref()
            .map_err(|why| DaemonError::Unavailable(why.clone()))
    }

    /// How the history is.
    pub fn status(&self) -> api::FlowHistoryStatus {
        match &self.store {
            Ok(store) => api::FlowHistoryStatus {
                lost: self.lost.load(Ordering::Relaxed),
                ..store.status()
            },
            Err(why) => api::FlowHistoryStatus {
                problem: Some(why.clone()),
                ..api::FlowHistoryStatus::default()
            },
        }
    }

    /// `GET /v1/flows/history`.
    pub fn flows(&self, query: &api::PastQuery) -> Result<api::PastPage, DaemonError> {
        let store = self.store()?;
        let limit = match query.limit.unwrap_or(PAGE) {
            n @ 1..=MAX_PAGE => n,
            n => {
                return Err(DaemonError::Invalid(format!(
                    "a limit is 1 to {MAX_PAGE}, not {n}; ask for the rest with `skip`"
                )));
            }
        };
        let world = self.world.load_full();
        let filter = Filter::new(&world, query)?;
        let (since, until) = span(query.since, query.until, LOOK_BACK)?;
        let mut past = store.past(since, until, |name| filter.matches(name))?;
        past.flows
            .sort_by(|(a, x), (b, y)| (Reverse(x.flows), a).cmp(&(Reverse(y.flows), b)));
        let (all, skip) = (past.flows.len(), query.skip.unwrap_or(0));
        let shown = past.flows.into_iter().skip(skip).take(limit);
        let flows: Vec<api::PastFlow> = shown
            .map(|(name, totals)| api::PastFlow {
                name: filter::with_services(&world, &name),
                totals,
            })
            .collect();
        let next = skip.saturating_add(flows.len());
        Ok(api::PastPage {
            since: past.since,
            until: past.until,
            all,
            next: (next < all).then_some(next),
            flows,
        })
    }

    /// `POST /v1/replay`.
    pub fn replay(&self, request: &api::ReplayRequest) -> Result<api::Replay, DaemonError> {
        let store = self.store()?;
        let (since, until) = span(request.since, request.until, REPLAY_BACK)?;
        let candidate = self.control.compile(&request.documents)?;
        let (past, tally) = Tally::of_past(store, since, until, &candidate)?;
        Ok(api::Replay {
            since: past.since,
            until: past.until,
            differences: tally.differences(Some(&self.in_force())),
        })
    }

    /// `GET /v1/shadow`.
    pub fn shadow(&self) -> Result<api::ShadowStatus, DaemonError> {
        self.store()?;
        Ok(self.shadow.status(&self.in_force()))
    }

    /// `PUT /v1/shadow`.
    pub fn set_shadow(
        &self,
        request: api::ShadowRequest,
        by: api::Author,
    ) -> Result<api::ShadowStatus, DaemonError> {
        let store = self.store()?;
        if !request.documents.is_empty() {
            self.control.compile(&request.documents)?;
        }
        let asked = Asked {
            documents: request.documents,
            by,
            since: now_ns() / 1_000_000_000,
            generation: self.world.load().rules.generation(),
        };
        Shadow::put(store, &asked)?;
        self.control.set_shadow(asked)?;
        self.shadow()
    }

    fn in_force(&self) -> Candidate {
        let world = self.world.load();
        let guests = world.vms().iter().map(|vm| vm.id.clone());
        Candidate::new(Arc::clone(&world.rules), std::iter::empty()).among(guests)
    }
}

/// Where the history is kept, beside the store of policies.
pub fn beside(store: &Path) -> std::path::PathBuf {
    let mut name = store.as_os_str().to_owned();
    name.push(".flows");
    name.into()
}

/// From when until when, seconds since 1970.
fn span(since: Option<u64>, until: Option<u64>, back: u64) -> Result<(u64, u64), DaemonError> {
    let now = now_ns() / 1_000_000_000;
    // The second that is now is part of it.
    let until = until.unwrap_or(now.saturating_add(1)).min(now.saturating_add(1));
    let since = since.unwrap_or(until.saturating_sub(back));
    match since < until {
        true => Ok((since, until)),
        false => Err(DaemonError::Invalid(
            "that time ends before it begins, or has not come yet".into(),
        )),
    }
}

#[cfg(test)]
mod tests;
