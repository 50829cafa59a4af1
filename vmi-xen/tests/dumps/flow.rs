// SPDX-License-Identifier: GPL-3.0-only
//! Data flow as the engine reads it, against the guest's own /proc.

use std::collections::BTreeMap;

use vmi_xen::linux::{DataFlow, Linux, LocalEnd, Via};
use vmi_xen::memory::PhysicalMemory;

use crate::truth::Truth;

/// Compares local ends with /proc, and edges with what the workload is known to
/// do.
pub fn compare<M: PhysicalMemory>(linux: &Linux<M>, truth: &Truth) {
    let mut paths = 0;
    for process in linux.processes().expect("processes") {
        let Some(told) = truth
            .processes
            .get(&process.pid)
            .filter(|told| told.exe.is_some())
        else {
            continue;
        };
        let who = format!("{} {}", process.pid, told.name);
        let mut pipes = BTreeMap::new();
        for (fd, end) in linux.local_ends_of(process.task).expect("ends") {
            match end {
                LocalEnd::Pipe { inode, path, .. } => {
                    pipes.insert(fd, path.unwrap_or_else(|| format!("pipe:[{inode}]")));
                }
                LocalEnd::Unix { inode, name, .. } => {
                    assert_eq!(told.socket_fds.get(&fd), Some(&inode), "{who}");
                    let netns = &truth.netns[&process.netns];
                    assert_eq!(netns.local.get(&inode), Some(&name), "{who} {fd}");
                    paths += usize::from(name.is_some());
                }
            }
        }
        // init itself opens and closes while it tells.
        if process.pid != 1 {
            assert_eq!(pipes, told.pipes, "{who}");
        }
    }
    assert!(paths >= 2, "the listener and what it accepted");
    edges(&linux.data_flow().expect("data flow"), truth);
}

fn edges(flow: &DataFlow, truth: &Truth) {
    // Several processes may have the same arguments.
    let pids = |args: &str| -> Vec<u32> {
        let told = truth.processes.iter().filter(|(_, told)| {
            let cmdline = String::from_utf8_lossy(&told.cmdline).replace('\0', " ");
            cmdline.trim_end() == args
        });
        let pids: Vec<u32> = told.map(|(&pid, _)| pid).collect();
        assert!(!pids.is_empty(), "no process {args}");
        pids
    };
    let between = |from: &str, to: &str| -> Vec<&Via> {
        let (from, to) = (pids(from), pids(to));
        let edges = flow.edges.iter();
        edges
            .filter(|edge| from.contains(&edge.from) && to.contains(&edge.to))
            .map(|edge| &edge.via)
            .collect()
    };
    let pipe = between("sleep 1012", "sleep 1013");
    let [Via::Pipe(inode)] = pipe.as_slice() else {
        panic!("{pipe:?}")
    };
    let told = format!("pipe:[{inode}]");
    let writers = pids("sleep 1012");
    assert!(
        writers
            .iter()
            .any(|pid| truth.processes[pid].pipes.get(&1) == Some(&told))
    );
    assert!(
        between("sleep 1013", "sleep 1012").is_empty(),
        "a pipe flows one way"
    );
    assert_eq!(
        between("sleep 1014", "sleep 1015"),
        [&Via::Fifo("/tmp/fifo".into())]
    );

    let (server, client) = (
        "/workload local-serve /tmp/local.sock",
        "/workload local-connect /tmp/local.sock",
    );
    assert_eq!(
        between(client, server),
        [&Via::Unix(Some("/tmp/local.sock".into()))]
    );
    assert!(between(server, client).is_empty(), "a connection counts once");
    let child = "/workload hold";
    let pair = [between(server, child), between(child, server)].concat();
    assert_eq!(pair, [&Via::Unix(None)], "a pair counts once");

    let (server, client) = (
        "/workload serve [::1]:7003 127.0.0.1:7001",
        "/workload connect [::1]:7003 127.0.0.1:7001",
    );
    let mut there: Vec<String> = between(client, server)
        .into_iter()
        .map(|via| match via {
            Via::Inet { remote, .. } => remote.to_string(),
            other => panic!("{other:?}"),
        })
        .collect();
    there.sort();
    assert_eq!(there, ["127.0.0.1:7001", "[::1]:7003"]);
    assert!(between(server, client).is_empty());
}
