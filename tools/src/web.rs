// SPDX-License-Identifier: GPL-3.0-only
//! The page of policyd for a browser on this host: a proxy on 127.0.0.1 that asks the daemon as who runs this command.
//!
//! Anybody on this host may connect, and any page in the browser may try. So [`Door`] lets in only who has the address that was
//! printed, and only to look.

mod door;

use std::convert::Infallible;
use std::fs::File;
use std::io::{self, Read};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper::header::{self, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use policyd_api::{Client, ErrorBody};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

pub use door::Door;
use door::Way;

use crate::error::ToolError;

/// Connections at once; a browser keeps six.
const CONNECTIONS: usize = 64;
/// How long a browser may take to say what it wants.
const PATIENCE: Duration = Duration::from_secs(30);

/// 128 random bits in hexadecimal digits.
///
/// # Errors
/// If the system gives none.
pub fn token() -> Result<String, ToolError> {
    let mut bits = [0; 16];
    let read = File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bits));
    read.map_err(ToolError::Random)?;
    Ok(bits.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Serves on a port of 127.0.0.1 until the process ends. `port`: 0 for any that is free. `open`: makes the door, once the port is known.
///
/// # Errors
/// If the port cannot be had, and what `open` gives.
pub fn serve(
    client: Client,
    port: u16,
    open: impl FnOnce(u16) -> Result<Door, ToolError>,
) -> Result<(), ToolError> {
    let place = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let failed = |source| ToolError::Serve { place, source };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(failed)?;
    let listener = runtime.block_on(TcpListener::bind(place)).map_err(failed)?;
    let port = listener.local_addr().map_err(failed)?.port();
    let proxy = Arc::new(Proxy {
        door: open(port)?,
        client,
    });
    runtime.block_on(accept(&listener, &proxy)).map_err(failed)
}

/// Gives only an error: of a listener that takes no connection any more.
async fn accept(listener: &TcpListener, proxy: &Arc<Proxy>) -> io::Result<()> {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        // Never closed, so a place always comes.
        let place = Arc::clone(&room)
            .acquire_owned()
            .await
            .map_err(io::Error::other)?;
        let (stream, _) = match listener.accept().await {
            Ok(accepted) => accepted,
            // Of the connection, not of the listener.
            Err(e) if e.kind() == io::ErrorKind::ConnectionAborted => continue,
            Err(e) => return Err(e),
        };
        let proxy = Arc::clone(proxy);
        tokio::spawn(async move {
            let service = service_fn(|request| {
                let proxy = Arc::clone(&proxy);
                async move { Ok::<_, Infallible>(proxy.answer(&request).await) }
            });
            // What breaks here is one browser's connection, and it knows.
            let _ = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(PATIENCE)
                .serve_connection(TokioIo::new(stream), service)
                .await;
            drop(place);
        });
    }
}

struct Proxy {
    door: Door,
    client: Client,
}

/// Of the daemon, or our own.
type Body = Either<Incoming, Full<Bytes>>;

impl Proxy {
    async fn answer(&self, request: &Request<Incoming>) -> Response<Body> {
        let target = match self.door.way(request.method(), request.uri(), request.headers()) {
            Way::Forward(target) => target,
            Way::Enter { cookie } => {
                let mut response = own(StatusCode::SEE_OTHER, "text/plain", String::new());
                let headers = response.headers_mut();
                headers.insert(header::LOCATION, HeaderValue::from_static("/"));
                headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
                // A name of ours, digits and words: always a header's value.
                if let Ok(cookie) = HeaderValue::from_str(&cookie) {
                    headers.insert(header::SET_COOKIE, cookie);
                }
                return response;
            }
            Way::Refuse(status, why) => return refusal(status, why),
        };
        let known = request.headers().get(header::IF_NONE_MATCH).cloned();
        let asked = self.client.forward(request.method().clone(), &target, known);
        match asked.await {
            Ok(response) => response.map(Either::Left),
            Err(e) => refusal(StatusCode::BAD_GATEWAY, &e.to_string()),
        }
    }
}

/// As the daemon refuses.
fn refusal(status: StatusCode, why: &str) -> Response<Body> {
    let body = ErrorBody {
        error: why.to_owned(),
    };
    // A text in a field can always be written.
    let json = serde_json::to_string(&body).unwrap_or_default();
    own(status, "application/json", json)
}

fn own(status: StatusCode, kind: &'static str, text: String) -> Response<Body> {
    let mut response = Response::new(Either::Right(Full::new(Bytes::from(text))));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    response
}
