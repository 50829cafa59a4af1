// SPDX-License-Identifier: GPL-3.0-only
//! The API: HTTP/1.1 and JSON on a unix socket that only root may open.
//!
//! Handlers translate; what they ask for is done by [`Daemon`]. Whatever may block (guest memory, the store, the
//! enforcer) runs on the blocking pool, so a slow question delays nobody else.

mod control;
mod handlers;
mod stream;
mod trace;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::extract::connect_info::Connected;
use axum::routing::{get, post};
use axum::serve::IncomingStream;
use tokio::net::UnixListener;

use crate::daemon::Daemon;

/// A policy file may have 1 MiB; its JSON string at worst doubles.
const MAX_BODY: usize = 4 << 20;

/// Why the API could not be served.
#[derive(Debug, thiserror::Error)]
#[error("cannot serve the API on {}: {source}; is the directory there and writable?", path.display())]
pub struct ServeError {
    path: PathBuf,
    source: std::io::Error,
}

/// Who calls, by the kernel's word.
#[derive(Debug, Clone, Copy)]
struct Caller {
    uid: u32,
}

impl Connected<IncomingStream<'_, UnixListener>> for Caller {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Caller {
        // A peer whose credentials cannot be read is nobody, not root.
        Caller {
            uid: stream.io().peer_cred().map_or(u32::MAX, |c| c.uid()),
        }
    }
}

/// Binds the socket, mode 0600. A left-over socket file is replaced: the instance lock proves that nobody serves it.
pub fn bind(path: &Path) -> Result<UnixListener, ServeError> {
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
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(error)?;
    Ok(listener)
}

/// Serves until `stop` resolves.
pub async fn serve(
    listener: UnixListener,
    daemon: Arc<Daemon>,
    stop: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let router = Router::new()
        .route("/v1/status", get(handlers::status))
        .route("/v1/domains", get(handlers::domains))
        .route("/v1/domains/{domain}/processes", get(handlers::processes))
        .route("/v1/domains/{domain}/connections", get(handlers::connections))
        .route("/v1/domains/{domain}/check", get(handlers::check))
        .route("/v1/domains/{domain}/graph", get(handlers::graph))
        .route("/v1/domains/{domain}/trace", get(trace::trace))
        .route("/v1/flows", get(handlers::flows))
        .route("/v1/routes", get(handlers::routes))
        .route("/v1/qos", get(handlers::qos))
        .route("/v1/stats", get(handlers::stats))
        .route("/v1/events", get(stream::events))
        .route("/v1/explain", post(handlers::explain))
        .merge(control::routes(Arc::clone(&daemon.control)))
        .fallback(handlers::not_found)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(daemon);
    axum::serve(listener, router.into_make_service_with_connect_info::<Caller>())
        .with_graceful_shutdown(stop)
        .await
}
