// SPDX-License-Identifier: GPL-3.0-only
//! The whole API as it is served, asked over real sockets by callers of several kinds. Needs root.

mod callers;
mod contract;
mod page;
mod tls;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Parser;
use tokio::runtime::Runtime;

use super::*;
use crate::args::Args;
use crate::daemon::harness::Harness;

/// The API of a daemon without Xen.
struct Served {
    harness: Harness,
    socket: PathBuf,
    runtime: Option<Runtime>,
}

impl Served {
    /// `options`: of the API, as on the command line.
    fn new(options: &[&str]) -> Served {
        Served::of(Harness::start(), options)
    }

    fn of(harness: Harness, options: &[&str]) -> Served {
        // Others than root must get to the socket.
        use std::os::unix::fs::PermissionsExt;
        let open = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(harness.dir.path(), open).expect("is ours");
        let socket = harness.path("api.sock");
        let line = ["policyd"].iter().chain(options);
        let access = Args::try_parse_from(line)
            .unwrap_or_else(|e| panic!("{e}"))
            .options
            .api;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime");
        let listener = runtime.block_on(async { bind(&socket, &access).expect("binds") });
        let (daemon, mut stopping) = (Arc::clone(&harness.daemon), harness.daemon.stopping());
        let (serving, is_serving) = std::sync::mpsc::channel();
        runtime.spawn(async move {
            let stop = async move { drop(stopping.wait_for(|stopping| *stopping).await) };
            if let Err(e) = serve(listener, &access, daemon, stop).await {
                let _ = serving.send(e.to_string());
            }
        });
        if let Ok(error) = is_serving.recv_timeout(Duration::from_millis(200)) {
            panic!("{error}");
        }
        Served {
            harness,
            socket,
            runtime: Some(runtime),
        }
    }

    fn ask(&self, request: &str) -> Answer {
        ask(&self.socket, request, b"")
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.harness.stop.send_replace(true);
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(5));
        }
    }
}

/// An answer as it came over the wire.
#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines
            .find(|(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    }

    fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    fn text(&self) -> String {
        self.json()["error"].as_str().expect("a refusal").to_owned()
    }
}

/// Asks as who runs the test. `request`: `METHOD path`, then headers, a line each.
fn ask(socket: &Path, request: &str, body: &[u8]) -> Answer {
    let (first, headers) = request.split_once('\n').unwrap_or((request, ""));
    let headers: String = headers
        .lines()
        .map(|line| format!("{}\r\n", line.trim()))
        .collect();
    let mut stream = UnixStream::connect(socket).unwrap_or_else(|e| panic!("{}: {e}", socket.display()));
    write!(
        stream,
        "{first} HTTP/1.1\r\nhost: p\r\nconnection: close\r\ncontent-length: {}\r\n{headers}\r\n",
        body.len()
    )
    .expect("asks");
    // Who is refused may not be listened to.
    let _ = stream.write_all(body);
    let mut all = Vec::new();
    // What was not read of a request that is refused ends in a reset, after the answer.
    if let Err(e) = stream.read_to_end(&mut all) {
        assert_eq!(e.kind(), std::io::ErrorKind::ConnectionReset, "{e}");
    }
    let end = all.windows(4).position(|w| w == b"\r\n\r\n").expect("a head");
    let head = String::from_utf8(all[..end].to_vec()).expect("text");
    let body = all[end + 4..].to_vec();
    let chunked = head.to_lowercase().contains("transfer-encoding: chunked");
    Answer {
        status: head
            .split(' ')
            .nth(1)
            .and_then(|s| s.parse().ok())
            .expect("a status"),
        body: if chunked { unchunked(&body) } else { body },
        head,
    }
}

fn unchunked(mut body: &[u8]) -> Vec<u8> {
    let mut whole = Vec::new();
    loop {
        let end = body.windows(2).position(|w| w == b"\r\n").expect("a length");
        let length = std::str::from_utf8(&body[..end]).expect("digits");
        let length = usize::from_str_radix(length, 16).expect("a length");
        if length == 0 {
            return whole;
        }
        whole.extend(&body[end + 2..end + 2 + length]);
        body = &body[end + length + 4..];
    }
}
