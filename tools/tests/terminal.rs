// SPDX-License-Identifier: GPL-3.0-only
//! What somebody at a terminal gets: tables that fit, colours, completions. The terminal and the shell are real.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[allow(dead_code, reason = "other tests use the rest")]
mod daemon;

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};

use daemon::{Daemon, command, json};
use nix::pty::{Winsize, openpty};
use policyd_api::{Decision, Domain, Flow, Label, Mode, Party, PolicySummary, Routed, Verdict};

fn domain(name: &str, id: u16) -> Domain {
    Domain {
        id,
        name: name.into(),
        uuid: "0f3a1c52-77aa-4b1e-9d10-ffee00112233".into(),
        state: "running".into(),
        mode: Mode::Altp2m,
        problems: Vec::new(),
        kernel: Some("6.1.0-18-amd64".into()),
        vcpus: 2,
        processes: 87,
        connections: 12,
        flows: 4,
        vifs: Vec::new(),
        addresses: Vec::new(),
        probes: Vec::new(),
        traps: 1234,
        labels: vec![Label {
            key: "tier".into(),
            value: "front".into(),
            from: "set shop (\"web*\")".into(),
        }],
        guest_type: Some("pvh".into()),
        pool: Some("Pool-0".into()),
    }
}

fn flow() -> Flow {
    Flow {
        domain: "web1".into(),
        protocol: "tcp".into(),
        local: "10.100.100.101:40000".parse().unwrap(),
        remote: "10.100.100.102:6379".parse().unwrap(),
        outgoing: true,
        route: Some(Routed {
            route: Some("shop/cache".into()),
            version: Some("v2".into()),
            backend: "10.100.100.103:6380".parse().unwrap(),
            instead: false,
        }),
        who: Some(Party {
            domain: Some("web1".into()),
            exe: Some("/usr/lib/some/long/way/to/a/program/curl".into()),
            pid: Some(4),
            uid: Some(1000),
            services: Vec::new(),
            id: "spiffe://xmesh/vm/web1".into(),
        }),
        decision: Decision {
            verdict: Verdict::Deny,
            rule: "default of db1".into(),
            generation: 4,
        },
        packets_out: 1,
        bytes_out: 60,
        packets_in: 0,
        bytes_in: 0,
        age_ms: 61_000,
        idle_ms: 3,
        timing: Default::default(),
        state: "new".into(),
    }
}

/// What a terminal of so many columns gets to show.
fn shown(mut command: Command, columns: u16) -> String {
    let size = Winsize {
        ws_row: 24,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    let pty = openpty(&size, None).unwrap();
    let mut child = command
        .env_remove("NO_COLOR")
        .env("TERM", "xterm")
        .stdout(Stdio::from(pty.slave))
        .spawn()
        .unwrap();
    // The terminal ends when nobody has it open any more, which is an error of reading.
    drop(command);
    let mut bytes = Vec::new();
    let _ = File::from(pty.master).read_to_end(&mut bytes);
    assert!(child.wait().unwrap().success());
    String::from_utf8(bytes).unwrap().replace("\r\n", "\n")
}

/// The text without its colours.
fn bare(text: &str) -> String {
    let mut parts = text.split("\x1b[");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |out, part| out + part.split_once('m').unwrap().1)
}

#[test]
fn tables_fit_the_terminal_and_are_whole_in_a_pipe() {
    let daemon = Daemon::start(|_| json(&vec![flow()]));
    let flows = || command(&daemon.socket(), &["flows"]);
    let piped = String::from_utf8(flows().output().unwrap().stdout).unwrap();
    assert_eq!(piped.lines().count(), 2);
    assert!(piped.contains("/usr/lib/some/long/way/to/a/program/curl") && !piped.contains('\x1b'));
    let natural = piped.lines().map(|l| l.chars().count()).max().unwrap();
    assert!(natural > 120, "a table that always fits proves nothing");
    for columns in [80, 100, 120] {
        let text = bare(&shown(flows(), columns));
        for line in text.lines() {
            assert!(line.chars().count() <= columns.into(), "{columns}: {line}");
        }
        // Whatever is cut, addresses are not, and no column is missing.
        for whole in [
            "10.100.100.101:40000",
            "10.100.100.102:6379",
            "deny",
            "Exe",
            "Via",
            "curl",
        ] {
            assert!(text.contains(whole), "{columns}: {whole} in {text}");
        }
    }
    assert_eq!(bare(&shown(flows(), 240)), piped);
}

#[test]
fn colours_are_for_terminals() {
    let daemon = Daemon::start(|_| json(&vec![flow()]));
    let with = |args: &[&str]| command(&daemon.socket(), args);
    assert!(shown(with(&["flows"]), 240).contains("\x1b[31mdeny\x1b[0m"));
    assert!(!shown(with(&["--color", "never", "flows"]), 240).contains('\x1b'));
    assert!(!shown(with(&["--json", "flows"]), 240).contains('\x1b'));
    let piped = |args: &[&str]| String::from_utf8(with(args).output().unwrap().stdout).unwrap();
    assert!(piped(&["flows", "--color=always"]).contains("\x1b[31mdeny\x1b[0m"));
    let refused = with(&["--color", "sometimes", "flows"]).output().unwrap();
    assert_eq!(refused.status.code(), Some(2));
}

/// What bash offers for a line, with the script of this tool, and the tool on its PATH.
fn offered(folder: &Path, words: &[&str]) -> Vec<String> {
    let tool = folder.join("xmesh");
    if !tool.exists() {
        symlink(env!("CARGO_BIN_EXE_xmesh"), &tool).unwrap();
    }
    let line = words.iter().map(|word| format!("'{word}' ")).collect::<String>();
    let script = format!(
        "source <(xmesh completions bash)\n\
         COMP_WORDS=({line}); COMP_CWORD={}; COMP_TYPE=9\n\
         function_name=$(complete -p xmesh | sed 's/.*-F \\([^ ]*\\).*/\\1/')\n\
         \"$function_name\" xmesh '{}' ''\n\
         printf '%s\\n' \"${{COMPREPLY[@]}}\"",
        words.len() - 1,
        words[words.len() - 1]
    );
    let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap());
    let output = Command::new("bash")
        .args(["--norc", "-c", &script])
        .env("PATH", path)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|l| l.trim().to_owned()).collect()
}

#[test]
fn bash_completes_commands_options_and_what_the_daemon_knows() {
    let daemon = Daemon::start(|target| match target {
        "GET /v1/policies" => json(&vec![PolicySummary {
            name: "shop".into(),
            description: None,
            services: 0,
            rules: 0,
            routes: 0,
            generation: 1,
            applied_ns: 0,
            by_uid: 0,
            by_name: None,
        }]),
        _ => json(&vec![domain("web1", 1), domain("web2", 2), domain("db1", 3)]),
    });
    let socket = daemon.socket();
    let socket = socket.to_str().unwrap();
    let offers = |words: &[&str]| offered(daemon.folder.path(), words);
    assert_eq!(
        offers(&["xmesh", "--socket", socket, "ps", "we"]),
        ["web1", "web2"]
    );
    assert_eq!(
        offers(&["xmesh", "--socket", socket, "policy-show", ""])[0],
        "shop"
    );
    assert_eq!(
        offers(&["xmesh", "--socket", socket, "events", "--domain", "d"]),
        ["db1"]
    );
    assert_eq!(offers(&["xmesh", "policy-rollb"]), ["policy-rollback"]);
    assert_eq!(offers(&["xmesh", "trace", "--sys"]), ["--syscall"]);
    // Nobody at the socket: nothing is offered, and nothing is said.
    assert_eq!(offers(&["xmesh", "--socket", "/nonexistent", "ps", "we"]), [""]);
}

#[test]
fn every_shell_has_a_script() {
    for shell in ["bash", "zsh", "fish"] {
        let output = command(Path::new("/nonexistent"), &["completions", shell])
            .output()
            .unwrap();
        let script = String::from_utf8(output.stdout).unwrap();
        assert!(script.contains("_XMESH_COMPLETE"), "{shell}: {script}");
        assert!(
            !script.contains("target/"),
            "{shell}: names the tool that made it"
        );
    }
}
