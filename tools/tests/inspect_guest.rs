// SPDX-License-Identifier: GPL-3.0-only
//! `xmesh inspect --json` on dumps of real guests: what it prints is what the guest's own /proc told, under the names that
//! scripts rely on. Dumps are those of vmi-xen's tests, with which they share the cache.
#![allow(clippy::expect_used, reason = "all of it is test code")]

#[allow(dead_code, reason = "some of it is for vmi-xen's own tests")]
#[path = "../../vmi-xen/tests/dumps/initramfs.rs"]
mod initramfs;
#[allow(dead_code, reason = "as above")]
#[path = "../../vmi-xen/tests/dumps/kernels.rs"]
mod kernels;
#[path = "../../vmi-xen/tests/dumps/machine.rs"]
mod machine;
#[allow(dead_code, reason = "as above")]
#[path = "../../vmi-xen/tests/dumps/truth.rs"]
mod truth;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use kernels::{Loaded, selected};
use serde_json::{Value, json};
use truth::{ProcessTruth, SocketRow, Truth};

/// Arguments are cut there.
const MAX_ARGS: usize = 32 << 10;

/// What the real command prints.
fn inspect(dump: &Path) -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_xmesh"))
        .args(["inspect", "--json"])
        .arg(dump)
        .output()
        .expect("xmesh starts");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && errors.is_empty(), "{errors}");
    serde_json::from_slice(&output.stdout).expect("JSON, and nothing else")
}

#[test]
fn a_dump_is_told_as_the_guest_itself_tells_it() {
    for kernel in selected() {
        let Loaded { path, truth, .. } = kernel.load();
        let told = inspect(&path);
        assert_eq!(told["kernel"]["release"], truth.release);
        assert_eq!(told["kernel"]["base"], format!("{:#x}", truth.symbol("_text")));
        processes(rows(&told, "processes"), &truth);
        sockets(rows(&told, "sockets"), &truth);
    }
}

fn rows<'a>(told: &'a Value, what: &str) -> &'a [Value] {
    told[what].as_array().expect(what)
}

fn number(row: &Value, field: &str) -> u32 {
    let number = row[field].as_u64().and_then(|number| u32::try_from(number).ok());
    number.unwrap_or_else(|| panic!("no number {field} in {row}"))
}

fn text<'a>(row: &'a Value, field: &str) -> &'a str {
    let text = row[field].as_str();
    text.unwrap_or_else(|| panic!("no text {field} in {row}"))
}

fn processes(rows: &[Value], truth: &Truth) {
    let seen: BTreeMap<u32, &Value> = rows.iter().map(|row| (number(row, "pid"), row)).collect();
    assert_eq!(seen.len(), rows.len(), "a PID is listed once");
    let of_users: BTreeSet<u32> = seen
        .iter()
        .filter_map(|(&pid, row)| row["exe"].is_string().then_some(pid))
        .collect();
    let told = truth.processes.iter().filter(|(_, told)| told.exe.is_some());
    assert_eq!(of_users, told.map(|(&pid, _)| pid).collect());
    assert!(of_users.len() > 20, "the workload runs: {of_users:?}");
    for (pid, told) in &truth.processes {
        match seen.get(pid) {
            Some(row) => process(row, told),
            // Kernel workers come and go between the telling and the dump.
            None => assert!(told.exe.is_none(), "{pid} {} is missing", told.name),
        }
    }
}

fn process(row: &Value, told: &ProcessTruth) {
    assert_eq!(number(row, "ppid"), told.ppid, "{row}");
    assert_eq!(number(row, "uid"), told.uid[0], "{row}");
    assert_eq!(number(row, "gid"), told.gid[0], "{row}");
    // /proc shows what a worker does, and long names, behind the 15 bytes.
    assert!(told.name.starts_with(text(row, "comm")), "{row}");
    let args: Vec<&str> = row["args"]
        .as_array()
        .expect("args")
        .iter()
        .map(|arg| arg.as_str().expect("a text"))
        .collect();
    let Some(exe) = &told.exe else {
        assert_eq!(row["exe"], Value::Null, "{row}");
        return;
    };
    assert_eq!(
        text(row, "exe"),
        exe.strip_suffix(" (deleted)").unwrap_or(exe),
        "{row}"
    );
    let cmdline = &told.cmdline[..told.cmdline.len().min(MAX_ARGS)];
    let len = cmdline.iter().rposition(|&byte| byte != 0).map_or(0, |at| at + 1);
    assert_eq!(args.join("\0").as_bytes(), &cmdline[..len], "{row}");
    assert_eq!(Some(&number(row, "netns")), told.namespaces.get("net"), "{row}");
}

fn sockets(rows: &[Value], truth: &Truth) {
    let row = |row: &Value| {
        let fields = ["proto", "local", "remote", "state", "netns", "pids"];
        fields.map(|field| row[field].to_string())
    };
    // Bound, and neither listening nor connected: in no table of /proc.
    let (bound, listed): (Vec<&Value>, Vec<&Value>) = rows
        .iter()
        .partition(|row| row["proto"] == "tcp" && row["state"] == "UNCONN");
    let bound: Vec<&str> = bound.iter().map(|row| text(row, "local")).collect();
    assert!(matches!(bound[..], [one] if one.ends_with(":7050")), "{bound:?}");
    let mut seen: Vec<_> = listed.into_iter().map(row).collect();
    let mut told: Vec<_> = truth
        .sockets()
        .map(|(netns, socket)| row(&told_socket(netns, &socket, truth)))
        .collect();
    assert!(told.len() > 30, "the guest told its sockets: {}", told.len());
    seen.sort();
    told.sort();
    for (seen, told) in seen.iter().zip(&told) {
        assert_eq!(seen, told);
    }
    assert_eq!(seen.len(), told.len());
}

/// A row of /proc/net, as the command is to print it.
fn told_socket(netns: u32, socket: &SocketRow, truth: &Truth) -> Value {
    let holds =
        |told: &ProcessTruth| socket.inode != 0 && told.socket_fds.values().any(|&i| i == socket.inode);
    let holders = truth.processes.iter().filter(|(_, told)| holds(told));
    json!({
        "proto": if socket.udp { "udp" } else { "tcp" },
        "local": socket.local.to_string(),
        "remote": socket.remote.to_string(),
        "state": state(socket),
        "netns": netns,
        "pids": holders.map(|(pid, _)| pid).collect::<Vec<_>>(),
    })
}

/// As ss(8) prints the kernel's numbers (include/net/tcp_states.h).
fn state(socket: &SocketRow) -> &'static str {
    match socket.state {
        1 => "ESTAB",
        2 => "SYN-SENT",
        3 | 12 => "SYN-RECV",
        4 => "FIN-WAIT-1",
        5 => "FIN-WAIT-2",
        6 => "TIME-WAIT",
        7 => "UNCONN",
        8 => "CLOSE-WAIT",
        9 => "LAST-ACK",
        10 => "LISTEN",
        11 => "CLOSING",
        other => panic!("no state {other}"),
    }
}
