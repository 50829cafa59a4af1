// SPDX-License-Identifier: GPL-3.0-only
//! Routes of flows of the past, and of policies that are tried on them or beside the one in force.

use std::sync::Arc;

use axum::extract::State;
use policyd_api::{
    PastPage, PastQuery, Replay, ReplayRequest, ShadowRequest, ShadowStatus, SuggestQuery, Suggested,
};

use super::door::{Caller, Doorman};
use super::grants::Role::{Operator, Viewer};
use super::handlers::{Answer, blocking};
use super::inputs::{Asked, Body};
use super::table::Table;
use crate::past::PastFlows;

/// The routes.
pub fn routes(door: &Arc<Doorman>, past: Arc<PastFlows>) -> Table {
    Table::new(door)
        .get(
            "/v1/flows/history",
            Viewer,
            "Flows of the past, those with most flows first.",
            flows,
        )
        .post(
            "/v1/replay",
            Operator,
            "What sets would have done to flows of the past.",
            replay,
        )
        .get(
            "/v1/shadow",
            Viewer,
            "The policy that runs beside the one in force.",
            shadow,
        )
        .put(
            "/v1/shadow",
            Operator,
            "Lets sets run beside those in force, or none.",
            set_shadow,
        )
        .get(
            "/v1/suggest",
            Viewer,
            "The least policy that allows what was seen, what it would have cut, and what of the policy in force was used.",
            suggest,
        )
        .with_state(past)
}

async fn flows(State(past): State<Arc<PastFlows>>, Asked(query): Asked<PastQuery>) -> Answer<PastPage> {
    blocking(move || past.flows(&query)).await
}

async fn replay(State(past): State<Arc<PastFlows>>, Body(request): Body<ReplayRequest>) -> Answer<Replay> {
    blocking(move || past.replay(&request)).await
}

async fn suggest(State(past): State<Arc<PastFlows>>, Asked(query): Asked<SuggestQuery>) -> Answer<Suggested> {
    blocking(move || past.suggest(&query)).await
}

async fn shadow(State(past): State<Arc<PastFlows>>) -> Answer<ShadowStatus> {
    blocking(move || past.shadow()).await
}

async fn set_shadow(
    State(past): State<Arc<PastFlows>>,
    caller: Caller,
    Body(request): Body<ShadowRequest>,
) -> Answer<ShadowStatus> {
    blocking(move || past.set_shadow(request, caller.author())).await
}

#[cfg(test)]
pub mod tests {
    use std::path::Path;

    use super::*;
    use crate::api::connections::{Bounded, Room};
    use crate::api::grants::Grants;
    use crate::api::peer::Peer;

    /// Serves these routes until the runtime is dropped.
    pub fn serve(past: Arc<PastFlows>, socket: &Path) -> tokio::runtime::Runtime {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let listener = runtime.block_on(async { tokio::net::UnixListener::bind(socket).expect("binds") });
        let door = Arc::new(Doorman::new(Grants::default(), 0));
        let (router, _) = routes(&door, past).finish();
        let service = router.into_make_service_with_connect_info::<Peer>();
        runtime.spawn(async { axum::serve(Bounded::new(listener, &Room::default()), service).await });
        runtime
    }
}
