// SPDX-License-Identifier: GPL-3.0-only
//! What each request passes before its handler: who is it, how often has it asked, may it do that.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use axum::extract::{ConnectInfo, FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use policyd_api::Author;

use super::grants::{AsGrant, Grants, Role};
use super::handlers::Refusal;
use super::limits::Limits;
use super::peer::Peer;
use crate::registry::lock;

/// Who calls, for handlers.
#[derive(Debug, Clone)]
pub struct Caller(Arc<Peer>);

impl Caller {
    /// Who changes are ascribed to. Looks into dom0's user database, so it may block.
    pub fn author(&self) -> Author {
        self.0.author()
    }
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Caller, Infallible> {
        let caller = parts.extensions.get::<Caller>().cloned();
        Ok(caller.unwrap_or_else(|| Caller(Arc::new(Peer::Unknown))))
    }
}

/// What is known of callers.
#[derive(Debug)]
pub struct Doorman {
    grants: Grants,
    limits: Mutex<Limits>,
}

impl Doorman {
    /// `rate`: requests a second of one caller, 0 for any number.
    pub fn new(grants: Grants, rate: u32) -> Doorman {
        Doorman {
            grants,
            limits: Mutex::new(Limits::new(rate)),
        }
    }
}

/// Every request passes here first, whatever it is for.
pub async fn admit(State(door): State<Arc<Doorman>>, mut request: Request, next: Next) -> Response {
    let peer = match request.extensions().get::<ConnectInfo<Peer>>() {
        Some(ConnectInfo(peer)) => peer.clone(),
        None => Peer::Unknown,
    };
    let taken = lock(&door.limits).take((&peer).into(), Instant::now());
    if let Err(wait) = taken {
        let seconds = wait.as_secs().saturating_add(1);
        let mut response = Refusal::new(
            StatusCode::TOO_MANY_REQUESTS,
            format!("too many requests; try again in {seconds} s, or have policyd started with a higher --rate-limit"),
        )
        .into_response();
        response
            .headers_mut()
            .insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        return response;
    }
    request.extensions_mut().insert(Caller(Arc::new(peer)));
    next.run(request).await
}

/// Every request for a route passes here, before its body is read.
pub async fn authorise(
    State((door, needed)): State<(Arc<Doorman>, Role)>,
    caller: Caller,
    request: Request,
    next: Next,
) -> Response {
    let has = door.grants.role(&caller.0);
    if has >= Some(needed) {
        return next.run(request).await;
    }
    let changes = !request.method().is_safe();
    // Names of users are looked up on the way, and only for who is refused.
    let refusal = tokio::task::spawn_blocking(move || {
        let (needed, who) = (needed.as_str(), AsGrant(&caller.0));
        let has = has.map_or("no role", Role::as_str);
        if changes {
            log::warn!("{who}, who has {has}, tried what needs the role {needed}");
        }
        format!(
            "this needs the role {needed}, and {who} has {has}; have policyd started with --grant {needed}={who}"
        )
    });
    let text = refusal.await;
    Refusal::new(
        StatusCode::FORBIDDEN,
        text.unwrap_or_else(|_| format!("this needs the role {}", needed.as_str())),
    )
    .into_response()
}
