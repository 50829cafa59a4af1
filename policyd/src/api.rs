// SPDX-License-Identifier: GPL-3.0-only
//! The API: HTTP/1.1 and JSON on a unix socket, and by TLS if asked for.
//!
//! Handlers translate; what they ask for is done by [`Daemon`]. Whatever may block (guest memory, the store, the
//! enforcer) runs on the blocking pool, so a slow question delays nobody else. Every request passes the [`door`] first, where
//! it is seen who asks and whether that may be; routes and their roles are in one [`table`]. The web [`page`] is among them: what it
//! shows it asks here, as who has opened it.

mod access;
mod browser;
mod connections;
mod control;
mod describe;
mod door;
mod grants;
mod handlers;
mod inputs;
mod limits;
mod metrics;
mod page;
mod paging;
pub mod past;
mod peer;
mod stream;
mod table;
mod tls;
mod trace;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::Router;
use tokio::net::UnixListener;

pub use access::Access;
use connections::{Bounded, Room};
use door::Doorman;
use grants::Role::{Operator, Viewer};
use peer::Peer;
use table::{Row, Table};

use crate::daemon::Daemon;

/// Why the API could not be served.
#[derive(Debug, thiserror::Error)]
#[error("cannot serve the API on {}: {source}; is the directory there and writable?", path.display())]
pub struct ServeError {
    path: PathBuf,
    source: std::io::Error,
}

/// Binds the socket, so that root alone, or whom a grant is for, may connect. A left-over socket file is replaced: the instance
/// lock proves that nobody serves it.
pub fn bind(path: &Path, access: &Access) -> Result<UnixListener, ServeError> {
    let error = |source| ServeError {
        path: path.to_path_buf(),
        source,
    };
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(error(e)),
        _ => {}
    }
    // Made with no permissions for others from the first moment on: there is no window between bind and chmod.
    let before = nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o177));
    let listener = UnixListener::bind(path);
    nix::sys::stat::umask(before);
    let listener = listener.map_err(error)?;
    grants::set_opening(path, access.grants().opening()).map_err(error)?;
    Ok(listener)
}

/// All routes, and their rows in the table.
fn router(door: &Arc<Doorman>, daemon: Arc<Daemon>) -> (Router, Vec<Row>) {
    let control = control::routes(door, Arc::clone(&daemon.control));
    let past = past::routes(door, Arc::clone(&daemon.past));
    let page = page::routes(door);
    Table::new(door)
        .get("/v1/status", Viewer, "The daemon itself.", handlers::status)
        .get(
            "/v1/domains",
            Viewer,
            "The domains of this host.",
            handlers::domains,
        )
        .get(
            "/v1/domains/{domain}/processes",
            Viewer,
            "Processes of a domain, by name or id.",
            handlers::processes,
        )
        .get(
            "/v1/domains/{domain}/connections",
            Viewer,
            "Sockets of a domain, by name or id.",
            handlers::connections,
        )
        .get(
            "/v1/domains/{domain}/check",
            Viewer,
            "Checks the kernel of a domain, by name or id.",
            handlers::check,
        )
        .get(
            "/v1/domains/{domain}/graph",
            Viewer,
            "Data flow of a domain, by name or id.",
            handlers::graph,
        )
        .get(
            "/v1/domains/{domain}/trace",
            Operator,
            "Traces system calls of a domain, by name or id.",
            trace::trace,
        )
        .get("/v1/flows", Viewer, "Flows at the vifs.", handlers::flows)
        .get(
            "/v1/routes",
            Viewer,
            "Routes with their backends.",
            handlers::routes,
        )
        .get(
            "/v1/qos",
            Viewer,
            "How vifs are shaped, and what they carried.",
            handlers::qos,
        )
        .get(
            "/v1/stats",
            Viewer,
            "What the datapath counted and measured.",
            handlers::stats,
        )
        .get(
            "/v1/signals",
            Viewer,
            "How services fare with one another, and what makes them slow.",
            handlers::signals,
        )
        .get(
            "/metrics",
            Viewer,
            "What is counted and measured, for Prometheus.",
            metrics::metrics,
        )
        .get(
            "/v1/measured",
            Viewer,
            "What programs processes run, by the text in their memory.",
            handlers::measured,
        )
        .get(
            "/v1/threats",
            Viewer,
            "What looks like an attack, the newest first.",
            handlers::threats,
        )
        .get(
            "/v1/threats/rules",
            Viewer,
            "By which rules threats are found.",
            handlers::threat_rules,
        )
        .get(
            "/v1/events",
            Viewer,
            "Events, those kept first; then, if asked for, those that come.",
            stream::events,
        )
        .post(
            "/v1/explain",
            Viewer,
            "What would happen to a flow, and why.",
            handlers::explain,
        )
        .with_state(daemon)
        .merge(control)
        .merge(past)
        .merge(page)
        .finish()
}

/// Serves until `stop` resolves; by TLS, too, where that is asked for.
///
/// # Errors
/// What keeps it from serving, as a sentence for the log.
pub async fn serve(
    listener: UnixListener,
    access: &Access,
    daemon: Arc<Daemon>,
    stop: impl Future<Output = ()> + Send + 'static,
) -> Result<(), Box<dyn std::error::Error>> {
    let mut stopping = daemon.stopping();
    let (router, _) = router(&Arc::new(access.doorman()), daemon);
    let service = router.into_make_service_with_connect_info::<Peer>();
    let room = Room::default();
    if let Some(options) = access.tls() {
        let listener = Bounded::new(tls::listen(&options).await?, &room);
        log::info!("serving https://{}", options.listen);
        let stop = async move { drop(stopping.wait_for(|stopping| *stopping).await) };
        tokio::spawn(
            axum::serve(listener, service.clone())
                .with_graceful_shutdown(stop)
                .into_future(),
        );
    }
    axum::serve(Bounded::new(listener, &room), service)
        .with_graceful_shutdown(stop)
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests;
