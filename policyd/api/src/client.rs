// SPDX-License-Identifier: GPL-3.0-only
//! A blocking client for a command-line tool: one request at a time, over the unix socket or by TLS.

mod connection;
mod control;
mod past;

use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::HeaderValue;
use hyper::http::request::Builder;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::runtime::Runtime;

pub use connection::Identity;
use connection::Place;

use crate::*;

/// Longest line of a stream that is accepted; an event is a few hundred bytes.
const MAX_LINE: usize = 1 << 20;

/// What can go wrong on the client's side.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error(
        "cannot reach policyd at {}: {source}; is it running? (start it with `policyd` as root in dom0, or name its socket with --socket)",
        path.display()
    )]
    Unreachable {
        /// The socket tried.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Nobody answers there, or one of both is not believed to be who it says.
    #[error(
        "cannot reach policyd at {url}: {why}; is it started with --listen, its certificate of an authority in --ca, and yours of one in its --client-ca?"
    )]
    Remote {
        /// Where it should be.
        url: String,
        /// Why.
        why: String,
    },
    /// A URL that policyd cannot have.
    #[error("`{url}` is not where policyd can be: {why}; write https://HOST:PORT")]
    Url {
        /// The URL.
        url: String,
        /// Why.
        why: String,
    },
    /// A file has not what the client needs to prove who it is, or to believe who the daemon is.
    #[error("{}: {why}; it is to have certificates or, for --key, a private key without a passphrase, in PEM form", path.display())]
    Identity {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// The daemon refused; its own words.
    #[error("{message}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// The daemon's explanation.
        message: String,
    },
    /// The connection broke or the answer was not understood.
    #[error("policyd's answer could not be read: {0}; tool and daemon may be of different versions")]
    Protocol(String),
}

/// A connection-per-request client of policyd.
pub struct Client {
    place: Place,
    runtime: Runtime,
}

impl Client {
    /// Prepares a client; connects only when asked something.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`] when no runtime can be made (out of file descriptors).
    pub fn new(path: impl AsRef<Path>) -> Result<Client, ClientError> {
        Client::at(Place::Socket(path.as_ref().to_path_buf()))
    }

    /// The same for a daemon elsewhere, by TLS. `url`: `https://HOST[:PORT]`.
    ///
    /// # Errors
    /// A URL that is none, files that cannot be used, and what [`Client::new`] gives.
    pub fn remote(url: &str, identity: &Identity) -> Result<Client, ClientError> {
        Client::at(Place::host(url, identity)?)
    }

    fn at(place: Place) -> Result<Client, ClientError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|source| match &place {
                Place::Socket(path) => ClientError::Unreachable {
                    path: path.clone(),
                    source,
                },
                Place::Host(_) => place.broken(source),
            })?;
        Ok(Client { place, runtime })
    }

    /// The daemon's own state.
    pub fn status(&self) -> Result<Status, ClientError> {
        self.get("/v1/status")
    }

    /// All domains.
    pub fn domains(&self) -> Result<Vec<Domain>, ClientError> {
        self.get("/v1/domains")
    }

    /// Processes of one domain, by name or id.
    pub fn processes(&self, domain: &str) -> Result<Vec<Process>, ClientError> {
        self.get(&format!("/v1/domains/{}/processes", escape(domain)))
    }

    /// Sockets of one domain, by name or id.
    pub fn connections(&self, domain: &str) -> Result<Vec<Connection>, ClientError> {
        self.get(&format!("/v1/domains/{}/connections", escape(domain)))
    }

    /// Checks the kernel of one domain, by name or id.
    pub fn check(&self, domain: &str) -> Result<Check, ClientError> {
        self.get(&format!("/v1/domains/{}/check", escape(domain)))
    }

    /// Data flow of one domain, by name or id.
    pub fn graph(&self, domain: &str) -> Result<Graph, ClientError> {
        self.get(&format!("/v1/domains/{}/graph", escape(domain)))
    }

    /// Routes with their backends.
    pub fn routes(&self) -> Result<Vec<Route>, ClientError> {
        self.get("/v1/routes")
    }

    /// Flows at the vifs, of one domain or all.
    pub fn flows(&self, domain: Option<&str>) -> Result<Vec<Flow>, ClientError> {
        match domain {
            Some(d) => self.get(&format!("/v1/flows?domain={}", escape(d))),
            None => self.get("/v1/flows"),
        }
    }

    /// How vifs are shaped, and what they carried, of one domain or all.
    pub fn qos(&self, domain: Option<&str>) -> Result<Qos, ClientError> {
        match domain {
            Some(d) => self.get(&format!("/v1/qos?domain={}", escape(d))),
            None => self.get("/v1/qos"),
        }
    }

    /// What the datapath counted and measured, of one domain or all.
    pub fn stats(&self, domain: Option<&str>) -> Result<Stats, ClientError> {
        match domain {
            Some(d) => self.get(&format!("/v1/stats?domain={}", escape(d))),
            None => self.get("/v1/stats"),
        }
    }

    /// How services fare with one another.
    pub fn signals(&self, query: &SignalsQuery) -> Result<Signals, ClientError> {
        let window = query.window.map(|seconds| format!("window={seconds}"));
        let from = query.from.as_deref().map(|name| format!("from={}", escape(name)));
        let to = query.to.as_deref().map(|name| format!("to={}", escape(name)));
        let query: Vec<String> = [window, from, to].into_iter().flatten().collect();
        self.get(&format!("/v1/signals?{}", query.join("&")))
    }

    /// What programs processes run, by the text in their memory: of one domain or all.
    pub fn measured(&self, domain: Option<&str>) -> Result<MeasuredProcesses, ClientError> {
        let query = domain
            .map(|d| format!("domain={}", escape(d)))
            .unwrap_or_default();
        self.get(&format!("/v1/measured?{query}"))
    }

    /// What looks like an attack.
    pub fn threats(&self, query: &ThreatQuery) -> Result<Threats, ClientError> {
        let domain = query.domain.as_deref().map(|d| format!("domain={}", escape(d)));
        let severity = query.severity.map(|s| format!("severity={}", s.as_str()));
        let query: Vec<String> = [domain, severity].into_iter().flatten().collect();
        self.get(&format!("/v1/threats?{}", query.join("&")))
    }

    /// By which rules threats are found.
    pub fn threat_rules(&self) -> Result<Vec<ThreatRule>, ClientError> {
        self.get("/v1/threats/rules")
    }

    /// Events, those kept by the daemon first; with `follow`, then those that come.
    pub fn events(&self, filter: &EventFilter) -> Result<Stream<'_, Event>, ClientError> {
        let mut query = vec![format!("follow={}", filter.follow)];
        if let Some(d) = &filter.domain {
            query.push(format!("domain={}", escape(d)));
        }
        if let Some(k) = &filter.kind {
            query.push(format!("kind={}", escape(k)));
        }
        if let Some(a) = filter.after {
            query.push(format!("after={a}"));
        }
        self.stream(&format!("/v1/events?{}", query.join("&")))
    }

    /// Traces system calls of one domain, by name or id. The trace ends with the stream.
    pub fn trace(&self, domain: &str, filter: &TraceFilter) -> Result<Stream<'_, TraceItem>, ClientError> {
        let mut query = vec![format!("syscall={}", escape(&filter.syscall))];
        let mut add = |name: &str, value: Option<String>| {
            query.extend(value.map(|value| format!("{name}={}", escape(&value))));
        };
        add("pid", filter.pid.map(|n| n.to_string()));
        add("exe", filter.exe.clone());
        add("limit", filter.limit.map(|n| n.to_string()));
        add("count", filter.count.map(|n| n.to_string()));
        add("duration", filter.duration.map(|n| n.to_string()));
        self.stream(&format!(
            "/v1/domains/{}/trace?{}",
            escape(domain),
            query.join("&")
        ))
    }

    fn stream<T>(&self, path: &str) -> Result<Stream<'_, T>, ClientError> {
        let response = self.runtime.block_on(self.send(Method::GET, path, None, None))?;
        Ok(Stream {
            client: self,
            body: response.into_body(),
            pending: BytesMut::new(),
            ended: false,
            item: std::marker::PhantomData,
        })
    }

    /// Policy sets in force.
    pub fn policies(&self) -> Result<Vec<PolicySummary>, ClientError> {
        self.get("/v1/policies")
    }

    /// One policy set with its text.
    pub fn policy(&self, name: &str) -> Result<PolicyDocument, ClientError> {
        self.get(&format!("/v1/policies/{}", escape(name)))
    }

    /// The same, and the generation in force then, for a change that stands on it.
    pub fn policy_seen(&self, name: &str) -> Result<(Option<u64>, PolicyDocument), ClientError> {
        let path = format!("/v1/policies/{}", escape(name));
        self.runtime.block_on(async {
            let response = self.send(Method::GET, &path, None, None).await?;
            let tag = response.headers().get("etag").and_then(|tag| tag.to_str().ok());
            let generation = tag.and_then(|tag| tag.trim_matches('"').parse().ok());
            let body = response.into_body().collect().await.map_err(protocol)?.to_bytes();
            Ok((generation, serde_json::from_slice(&body).map_err(protocol)?))
        })
    }

    /// Asks what would happen to a flow and why.
    pub fn explain(&self, request: &ExplainRequest) -> Result<Explained, ClientError> {
        self.call(Method::POST, "/v1/explain", Some(json(request)?), None)
    }

    pub(crate) fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.call(Method::GET, path, None, None)
    }

    pub(crate) fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<Bytes>,
        if_generation: Option<u64>,
    ) -> Result<T, ClientError> {
        let bytes = self.bytes(method, path, body, if_generation)?;
        serde_json::from_slice(&bytes).map_err(protocol)
    }

    /// Asks, and gives the answer as it is.
    pub(crate) fn bytes(
        &self,
        method: Method,
        path: &str,
        body: Option<Bytes>,
        if_generation: Option<u64>,
    ) -> Result<Bytes, ClientError> {
        self.runtime.block_on(async {
            let response = self.send(method, path, body, if_generation).await?;
            Ok(response.into_body().collect().await.map_err(protocol)?.to_bytes())
        })
    }

    /// Asks for somebody else, on the runtime of the caller, and gives the answer as it comes, whatever its status. `target`: path and
    /// query. `known`: for the header `If-None-Match`.
    ///
    /// # Errors
    /// What keeps the daemon from answering at all.
    pub async fn forward(
        &self,
        method: Method,
        target: &str,
        known: Option<HeaderValue>,
    ) -> Result<Response<Incoming>, ClientError> {
        let mut request = Request::builder().method(method).uri(target);
        if let Some(known) = known {
            request = request.header("if-none-match", known);
        }
        self.exchange(request, Bytes::new()).await
    }

    /// `if_generation`: for the header `If-Match`.
    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<Bytes>,
        if_generation: Option<u64>,
    ) -> Result<Response<Incoming>, ClientError> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", "application/json");
        if let Some(generation) = if_generation {
            request = request.header("if-match", format!("\"{generation}\""));
        }
        let response = self.exchange(request, body.unwrap_or_default()).await?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let bytes = response.into_body().collect().await.map_err(protocol)?.to_bytes();
        Err(refusal(status, &bytes))
    }

    /// One request on a connection of its own.
    async fn exchange(&self, request: Builder, body: Bytes) -> Result<Response<Incoming>, ClientError> {
        let stream = self.place.connect().await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(protocol)?;
        // The connection ends with its response body; errors surface there.
        tokio::spawn(async move {
            let _ = connection.await;
        });
        let request = request.header("host", "policyd").body(Full::new(body));
        let response = sender.send_request(request.map_err(protocol)?).await;
        response.map_err(|e| self.place.broken(e))
    }
}

/// A stream of JSON lines, read as an iterator that blocks.
pub struct Stream<'c, T> {
    client: &'c Client,
    body: Incoming,
    pending: BytesMut,
    ended: bool,
    item: std::marker::PhantomData<T>,
}

impl<T: DeserializeOwned> Iterator for Stream<'_, T> {
    type Item = Result<T, ClientError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(end) = self.pending.iter().position(|b| *b == b'\n') {
                let line = self.pending.split_to(end + 1);
                if line.len() > 1 {
                    return Some(serde_json::from_slice(&line).map_err(protocol));
                }
                continue;
            }
            if self.ended {
                return None;
            }
            if self.pending.len() > MAX_LINE {
                self.ended = true;
                self.pending.clear();
                return Some(Err(protocol("a line of over 1 MiB")));
            }
            match self.client.runtime.block_on(self.body.frame()) {
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        self.pending.extend_from_slice(data);
                    }
                }
                Some(Err(e)) => {
                    self.ended = true;
                    return Some(Err(protocol(e)));
                }
                None => self.ended = true,
            }
        }
    }
}

pub(crate) fn json(value: &impl Serialize) -> Result<Bytes, ClientError> {
    serde_json::to_vec(value).map(Bytes::from).map_err(protocol)
}

fn protocol(e: impl std::fmt::Display) -> ClientError {
    ClientError::Protocol(e.to_string())
}

fn refusal(status: StatusCode, body: &[u8]) -> ClientError {
    let message = match serde_json::from_slice::<ErrorBody>(body) {
        Ok(e) => e.error,
        Err(_) => format!(
            "policyd answered {status}: {}",
            String::from_utf8_lossy(body).trim()
        ),
    };
    ClientError::Refused {
        status: status.as_u16(),
        message,
    }
}

/// Percent-encodes what may not stand in a path or query as it is.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for b in text.bytes() {
        if b.is_ascii_alphanumeric() || b"-_.~,".contains(&b) {
            out.push(char::from(b));
        } else {
            out.push_str(&format!("%{b:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_what_http_forbids() {
        assert_eq!(escape("web1"), "web1");
        assert_eq!(escape("a b/c?%"), "a%20b%2Fc%3F%25");
    }

    #[test]
    fn unreachable_names_the_socket_and_the_remedy() {
        let client = Client::new("/nonexistent/api.sock").expect("a runtime");
        let text = client.domains().expect_err("nobody listens").to_string();
        assert!(
            text.contains("/nonexistent/api.sock") && text.contains("--socket"),
            "{text}"
        );
    }
}
