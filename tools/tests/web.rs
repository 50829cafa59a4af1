// SPDX-License-Identifier: GPL-3.0-only
//! `xmesh web` between a browser's requests and a daemon that gives fixed answers.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod daemon;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Stdio};

use daemon::{Daemon, command, json, xmesh};
use policyd_api::{FlowHistoryStatus, Lookups, Status, StoreStatus};

fn status() -> Status {
    Status {
        version: "0.1.0".into(),
        pid: 1,
        guardian: None,
        uptime: 5,
        generation: 14,
        xen: "4.17.5".into(),
        events_lost: 0,
        datapath_events_lost: 0,
        lookups: Lookups::default(),
        store: StoreStatus::default(),
        flow_history: FlowHistoryStatus::default(),
    }
}

fn answer(target: &str) -> daemon::Answer {
    match target {
        "GET /v1/status" => json(&status()),
        "GET /" => (200, "the page".to_owned()),
        _ => (404, r#"{"error": "there is none"}"#.to_owned()),
    }
}

/// The command as it serves, until dropped.
struct Serving {
    child: Child,
    port: u16,
    token: String,
}

impl Serving {
    fn start(daemon: &Daemon) -> Serving {
        let mut child = command(&daemon.socket(), &["web"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let rest = line.trim().strip_prefix("http://127.0.0.1:").unwrap();
        let (port, token) = rest.split_once("/?token=").unwrap();
        assert_eq!(token.len(), 32, "{line}");
        Serving {
            child,
            port: port.parse().unwrap(),
            token: token.to_owned(),
        }
    }

    /// Head and body of an answer. `headers`: whole lines.
    fn ask(&self, request: &str, host: &str, headers: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        write!(
            stream,
            "{request} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n{headers}\r\n"
        )
        .unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    }

    fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_browser_gets_in_by_the_address_and_sees_what_the_daemon_says() {
    let daemon = Daemon::start(answer);
    let serving = Serving::start(&daemon);
    let host = serving.host();
    let entered = serving.ask(&format!("GET /?token={}", serving.token), &host, "");
    assert!(entered.starts_with("HTTP/1.1 303"), "{entered}");
    assert!(entered.contains("location: /\r\n"), "{entered}");
    let cookie = entered
        .lines()
        .find_map(|line| line.strip_prefix("set-cookie: "))
        .expect("a cookie");
    assert!(
        cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict"),
        "{cookie}"
    );
    let cookie = format!("cookie: {}\r\n", cookie.split(';').next().unwrap());
    let page = serving.ask("GET /", &host, &cookie);
    assert!(
        page.starts_with("HTTP/1.1 200") && page.ends_with("the page"),
        "{page}"
    );
    assert!(page.contains("etag: \"0\"\r\n"), "the daemon's headers: {page}");
    let told = serving.ask("GET /v1/status", &host, &cookie);
    assert!(told.contains("\"generation\":14"), "{told}");
    // The daemon's own refusals, too.
    let none = serving.ask("GET /v1/domains/none", &host, &cookie);
    assert!(
        none.starts_with("HTTP/1.1 404") && none.contains("there is none"),
        "{none}"
    );
    assert_eq!(
        daemon.asked()[1..],
        ["GET /", "GET /v1/status", "GET /v1/domains/none"].map(str::to_owned)
    );
}

#[test]
fn nobody_else_gets_anything_and_nothing_is_changed() {
    let daemon = Daemon::start(answer);
    let serving = Serving::start(&daemon);
    let host = serving.host();
    let cookie = format!("cookie: xmesh-{}={}\r\n", serving.port, serving.token);
    for (request, host, headers, status) in [
        ("GET /v1/status", host.as_str(), "", 403),
        ("GET /", &host, "", 403),
        ("GET /?token=0", &host, "", 403),
        ("GET /v1/status", "evil.example.org", &cookie, 421),
        ("POST /v1/policies", &host, &cookie, 405),
        ("DELETE /v1/policies/shop", &host, &cookie, 405),
        ("GET /v1/export", &host, &cookie, 404),
        ("GET /v1/domains/web1/trace", &host, &cookie, 404),
    ] {
        let answer = serving.ask(request, host, headers);
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{request}: {answer}"
        );
        assert!(answer.contains("\"error\""), "{request}: {answer}");
    }
    // At its start the command has asked whether there is a daemon.
    assert_eq!(daemon.asked(), ["GET /v1/status"]);
}

#[test]
fn without_a_daemon_there_is_no_address() {
    let folder = tempfile::TempDir::new().unwrap();
    let output = xmesh(&folder.path().join("none.sock"), &["web"]);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    assert!(output.stdout.is_empty());
}

#[test]
fn a_port_that_is_taken_is_named() {
    let daemon = Daemon::start(answer);
    let serving = Serving::start(&daemon);
    let output = daemon.run(&["web", "--port", &serving.port.to_string()]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(
        text.contains(&serving.host()) && text.contains("--port"),
        "{text}"
    );
}
