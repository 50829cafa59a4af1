// SPDX-License-Identifier: GPL-3.0-only
//! `xmesh top` and `xmesh signals`: the built command against a daemon on a real socket, on a real terminal and in a pipe.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[allow(dead_code, reason = "other tests use the rest")]
mod daemon;
#[path = "top/mesh.rs"]
mod mesh;
#[path = "top/terminal.rs"]
mod terminal;

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::Output;
use std::time::Duration;

use daemon::{Daemon, command};
use nix::sys::signal::Signal;
use serde_json::Value as Json;
use terminal::{Terminal, eventually};

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn it_starts_takes_keys_and_gives_the_terminal_back() {
    let daemon = Daemon::start(mesh::answer());
    let mut terminal = Terminal::run(command(&daemon.socket(), &["top", "--delay", "0.5"]), 80, 24);
    terminal.until("the domains", |screen| {
        screen[6].contains("web1") && screen[0].starts_with("xmesh top")
    });
    assert!(terminal.took_the_screen());
    assert!(terminal.is_raw());
    // web1 sends 1 MiB at each look.
    terminal.until("rates", |screen| {
        screen[2].contains("/s out") && !screen[2].contains("-/s out")
    });
    // What the guest is called has not cleared the screen.
    terminal.until("the hostile name", |screen| {
        screen.iter().any(|line| line.contains("evil\\u{"))
    });

    terminal.type_("\r");
    terminal.until("its processes", |screen| {
        screen[4].starts_with("Domains > Processes of web1") && screen[6].contains("/usr/sbin/nginx")
    });
    terminal.type_("\r");
    terminal.until("its flows", |screen| screen[6].contains("10.0.0.2:5432"));
    terminal.type_("\x1b");
    terminal.until("back", |screen| {
        screen[4].starts_with("Domains > Processes of web1:")
    });
    terminal.type_("3");
    terminal.until("pairs", |screen| screen[6].contains("shop/front"));
    terminal.type_("/nothing");
    terminal.until("the filter", |screen| {
        screen[6].contains("nothing that the filter lets through")
    });
    terminal.type_("\x1b");
    terminal.until("all pairs", |screen| screen[6].contains("shop/front"));
    terminal.type_("?");
    terminal.until("help", |screen| screen[0].starts_with(" Keys"));
    terminal.type_(" q");
    assert_eq!(terminal.end().code(), Some(0));
    assert!(terminal.is_given_back());
}

#[test]
fn it_fits_every_size_that_the_terminal_takes() {
    let daemon = Daemon::start(mesh::answer());
    let mut terminal = Terminal::run(command(&daemon.socket(), &["top", "--view", "pairs"]), 80, 24);
    terminal.until("pairs", |screen| screen[6].contains("shop/front"));
    terminal.until("narrow", |screen| !screen[5].contains("Retr/s"));
    terminal.resize(200, 50);
    terminal.until("wide", |screen| {
        screen[5].contains("Retr/s") && screen[49].starts_with("q quit")
    });
    terminal.resize(20, 5);
    terminal.until("tiny", |screen| screen[4].starts_with("q quit"));
    terminal.resize(80, 24);
    terminal.until("as before", |screen| {
        screen[6].contains("shop/front") && screen[23].starts_with("q quit")
    });
    terminal.type_("\x03");
    assert_eq!(terminal.end().code(), Some(0));
    assert!(terminal.is_given_back());
}

#[test]
fn signals_end_it_as_they_do_and_the_terminal_is_given_back() {
    let daemon = Daemon::start(mesh::answer());
    for signal in [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGINT] {
        let mut terminal = Terminal::run(command(&daemon.socket(), &["top"]), 80, 24);
        terminal.until("the domains", |screen| screen[6].contains("web1"));
        terminal.kill(signal);
        assert_eq!(terminal.end().signal(), Some(signal as i32), "{signal}");
        assert!(terminal.is_given_back(), "{signal}");
    }
}

#[test]
fn it_goes_to_the_background_and_comes_back() {
    let daemon = Daemon::start(mesh::answer());
    let mut terminal = Terminal::run(command(&daemon.socket(), &["top"]), 80, 24);
    terminal.until("the domains", |screen| screen[6].contains("web1"));
    terminal.type_("\x1a");
    eventually("it stops", || terminal.is_stopped());
    assert!(terminal.is_given_back());
    terminal.kill(Signal::SIGCONT);
    terminal.until("it is there again", |screen| screen[6].contains("web1"));
    // Whatever has been written over it.
    terminal.scribble();
    terminal.type_("\x0c");
    terminal.until("it is drawn anew", |screen| screen[6].contains("web1"));
    assert!(terminal.is_raw());
    terminal.type_("q");
    assert_eq!(terminal.end().code(), Some(0));
    assert!(terminal.is_given_back());
}

#[test]
fn a_daemon_that_goes_is_said_and_comes_back_by_itself() {
    let daemon = Daemon::start(mesh::answer());
    let (socket, hidden) = (daemon.socket(), daemon.folder.path().join("hidden"));
    let mut terminal = Terminal::run(command(&socket, &["top", "--delay", "0.5"]), 100, 24);
    terminal.until("the domains", |screen| screen[6].contains("web1"));
    fs::rename(&socket, &hidden).unwrap();
    terminal.until("away", |screen| {
        screen[0].contains("policyd is AWAY; this is") && screen[6].contains("web1")
    });
    terminal.until("why", |screen| screen[23].contains("cannot reach policyd at"));
    // Keys do not wait for it.
    terminal.type_("s");
    terminal.until("the menu", |screen| {
        screen.iter().any(|line| line.contains("Sort by"))
    });
    terminal.type_("\x1b");
    fs::rename(&hidden, &socket).unwrap();
    terminal.until("back", |screen| screen[0].contains("policyd 0.1.0"));
    terminal.type_("q");
    assert_eq!(terminal.end().code(), Some(0));
}

#[test]
fn a_daemon_that_hangs_does_not_hold_the_keys() {
    let daemon = Daemon::start(|_| {
        std::thread::sleep(Duration::from_secs(3600));
        (500, String::new())
    });
    let mut terminal = Terminal::run(command(&daemon.socket(), &["top", "--delay", "0.5"]), 80, 24);
    terminal.until("no answer", |screen| screen[0].contains("NO ANSWER"));
    terminal.type_("?");
    terminal.until("help", |screen| screen[0].starts_with(" Keys"));
    terminal.type_(" q");
    assert_eq!(terminal.end().code(), Some(0));
    assert!(terminal.is_given_back());
}

#[test]
fn only_what_is_shown_is_asked_for() {
    let daemon = Daemon::start(mesh::answer());
    let mut terminal = Terminal::run(command(&daemon.socket(), &["top", "--delay", "0.5"]), 80, 24);
    terminal.until("rates", |screen| screen[2].contains("M/s out"));
    let asked = daemon.asked();
    assert!(
        asked
            .iter()
            .all(|q| !q.contains("processes") && !q.contains("flows")),
        "{asked:?}"
    );
    let threats = asked.iter().filter(|q| q.starts_with("GET /v1/threats"));
    assert_eq!(threats.count(), 1, "{asked:?}");
    terminal.type_("\r");
    terminal.until("its processes", |screen| screen[6].contains("/usr/sbin/nginx"));
    let asked = daemon.asked();
    assert!(
        asked.iter().any(|q| q == "GET /v1/domains/web1/processes"),
        "{asked:?}"
    );
    assert!(
        asked.iter().any(|q| q == "GET /v1/flows?domain=web1"),
        "{asked:?}"
    );
    terminal.type_("q");
    terminal.end();
}

#[test]
fn batch_prints_a_table_each_time_and_ends() {
    let daemon = Daemon::start(mesh::answer());
    let asked = ["top", "--batch", "-n", "2", "--delay", "0.5", "--view", "domains"];
    let output = daemon.run(&asked);
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    let text = out(&output);
    let heads = text.lines().filter(|line| line.starts_with("Name "));
    assert_eq!(heads.count(), 2, "{text}");
    let web1 = text.lines().find(|line| line.starts_with("web1 ")).unwrap();
    let fields: Vec<&str> = web1.split_whitespace().collect();
    assert_eq!(&fields[..5], ["web1", "1", "altp2m", "12", "3"], "{text}");
    // The first table has rates already: some 2 MiB a second.
    assert!(fields[7].ends_with('M'), "{text}");
    assert!(
        !text.contains('\x1b') && text.contains("evil\\u{1b}[2J"),
        "{text}"
    );
    // A pipe is no terminal, whatever was said.
    let piped = daemon.run(&["top", "-n", "1", "--delay", "0.5", "1"]);
    assert!(out(&piped).contains("/usr/sbin/nginx"), "{}", out(&piped));
}

#[test]
fn batch_in_json_is_an_object_each_time() {
    let daemon = Daemon::start(mesh::answer());
    let output = daemon.run(&["--json", "top", "-n", "2", "--delay", "0.5", "--view", "pairs"]);
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    let objects: Vec<Json> = out(&output)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(objects.len(), 2);
    let first = &objects[0];
    assert_eq!(
        (&first["view"], &first["generation"]),
        (&"pairs".into(), &12.into())
    );
    assert_eq!(first["rows"][0]["from"], "shop/front");
    assert!(
        first["rows"][0]["connections_per_s"].as_f64().unwrap() > 0.0,
        "{first}"
    );
    assert_eq!(first["rows"][0]["setup_p99_us"], 1080.0);
    assert_eq!(first["rows"][0]["version"], Json::Null);
    assert_eq!(first["threats"]["alert"], 1);
    assert!(first["bytes_out_per_s"].as_f64().unwrap() > 0.0);
}

#[test]
fn batch_says_what_is_wrong() {
    let daemon = Daemon::start(mesh::answer());
    let whose = daemon.run(&["top", "--batch", "--view", "processes"]);
    assert_eq!(whose.status.code(), Some(2));
    assert!(err(&whose).contains("xmesh top --batch web1"), "{}", err(&whose));
    let nobody = daemon.run(&["top", "-n", "1", "web9"]);
    assert_eq!(nobody.status.code(), Some(1));
    assert!(err(&nobody).contains("no domain \"web9\""), "{}", err(&nobody));
    let short = daemon.run(&["top", "--delay", "0.1"]);
    assert_eq!(short.status.code(), Some(2));
    let away = daemon::xmesh("/nonexistent/api.sock".as_ref(), &["top", "-n", "1"]);
    assert_eq!(away.status.code(), Some(3), "{}", err(&away));
    // An older daemon, that has no signals.
    let answer = mesh::answer();
    let older = Daemon::start(move |target| match target.starts_with("GET /v1/signals") {
        true => (404, String::new()),
        false => answer(target),
    });
    let output = older.run(&["top", "-n", "1", "--delay", "0.5", "--view", "pairs"]);
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    assert!(out(&output).contains("a newer one does"), "{}", out(&output));
}

#[test]
fn signals_are_tables_findings_and_json() {
    let daemon = Daemon::start(mesh::answer());
    let output = daemon.run(&["signals", "--from", "shop/front", "--window", "600"]);
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    assert_eq!(daemon.asked(), ["GET /v1/signals?window=600&from=shop%2Ffront"]);
    let text = out(&output);
    assert!(
        text.starts_with("From        To   Route  Version  Proto  Port"),
        "{text}"
    );
    assert!(text.contains("120 µs  240 µs  1.1 ms"), "{text}");
    let finding = "shop/front → db1 port 5432: the server makes it 9.5 times as slow\n    the first byte";
    assert!(text.contains(finding), "{text}");
    let found = out(&daemon.run(&["signals", "--findings"]));
    assert!(
        found.starts_with("shop/front → db1") && !found.contains("Conn/s"),
        "{found}"
    );
    let all: Json = serde_json::from_slice(&daemon.run(&["--json", "signals"]).stdout).unwrap();
    assert_eq!(all["pairs"][0]["to"]["name"], "db1");
    let found: Json =
        serde_json::from_slice(&daemon.run(&["--json", "signals", "--findings"]).stdout).unwrap();
    assert_eq!(found[0]["culprit"], "server");
    assert_eq!(daemon.run(&["signals", "--window", "30"]).status.code(), Some(2));
}
