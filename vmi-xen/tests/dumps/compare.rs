// SPDX-License-Identifier: GPL-3.0-only
//! What the engine read, against what the guest told.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use vmi_xen::linux::{Flow, Linux, Process, Protocol, SocketState};
use vmi_xen::memory::PhysicalMemory;

use crate::truth::{ProcessTruth, SocketRow, Truth};

/// Arguments are cut there by the engine.
const MAX_ARGS: usize = 32 << 10;

pub fn symbols<M: PhysicalMemory>(linux: &Linux<M>, truth: &Truth) {
    let symbols = &linux.kernel().symbols;
    assert!(truth.symbols.len() > 400, "the guest told its symbols");
    for (name, address) in &truth.symbols {
        let known = symbols.all(name).any(|symbol| symbol.address == *address);
        assert!(known, "{name} should be at {address:#x}");
    }
    for name in ["tcp_connect", "do_exit", "commit_creds", "finalize_exec"] {
        let address = truth.symbol(name);
        assert_eq!(symbols.address(name), Some(address), "{name}");
        let (nearest, distance) = symbols.nearest(address + 3).expect("a symbol");
        assert_eq!((nearest.address, distance), (address, 3), "{name}");
        assert!(linux.kernel().is_text(address), "{name}");
    }
}

pub fn processes<M: PhysicalMemory>(linux: &Linux<M>, truth: &Truth) {
    let processes = linux.processes().expect("processes");
    let by_pid: BTreeMap<u32, &Process> = processes.iter().map(|p| (p.pid, p)).collect();
    assert_eq!(by_pid.len(), processes.len(), "a PID is listed once");
    let user = |truth: &ProcessTruth| truth.exe.is_some();
    let told: BTreeSet<u32> = truth
        .processes
        .iter()
        .filter_map(|(&pid, truth)| user(truth).then_some(pid))
        .collect();
    let seen: BTreeSet<u32> = processes
        .iter()
        .filter_map(|p| p.exe.is_some().then_some(p.pid))
        .collect();
    assert_eq!(seen, told, "processes that have an executable");
    assert!(told.len() > 20, "the workload runs: {told:?}");
    let mut keys = BTreeSet::new();
    for (pid, truth) in &truth.processes {
        // Kernel workers come and go between the telling and the dump.
        let Some(process) = by_pid.get(pid) else {
            assert!(!user(truth), "{pid} {} is missing", truth.name);
            continue;
        };
        one(linux, process, truth);
        let key = linux.identity_key(process.task).expect("key");
        assert_eq!(key.start_time_ns, process.start_time_ns);
        assert_eq!((key.uid, key.euid), (process.uid, process.euid));
        assert!(keys.insert(key.leader), "leaders are distinct");
    }
    let all_sockets = truth
        .processes
        .values()
        .map(|p| p.socket_fds.len())
        .sum::<usize>();
    assert!(all_sockets >= 15, "the guest told its sockets");
}

fn one<M: PhysicalMemory>(linux: &Linux<M>, process: &Process, truth: &ProcessTruth) {
    let who = format!("{} {}", process.pid, truth.name);
    assert_eq!(process.tgid, truth.tgid, "{who}");
    assert_eq!(process.ppid, truth.ppid, "{who}");
    assert_eq!(process.uid, truth.uid, "{who}");
    assert_eq!(process.euid, truth.euid, "{who}");
    assert_eq!(process.gid, truth.gid, "{who}");
    assert_eq!(process.loginuid, truth.loginuid, "{who}");
    assert_eq!(process.start_time_ns / 10_000_000, truth.start_ticks, "{who}");
    // /proc shows what a worker does, and long names, behind the 15 bytes.
    assert!(truth.name.starts_with(&process.comm), "{who}: {}", process.comm);
    assert_eq!(process.cgroup.as_deref(), Some(&*truth.cgroup), "{who}");
    let in_container = truth.cgroup.contains("docker-");
    assert_eq!(process.container.is_some(), in_container, "{who}");
    let threads = linux.threads(process.task).expect("threads");
    assert_eq!(threads.len(), truth.threads, "{who}");
    let Some(exe) = &truth.exe else { return };
    assert!(!process.kthread, "{who}");
    let (path, deleted) = match exe.strip_suffix(" (deleted)") {
        Some(path) => (path, true),
        None => (exe.as_str(), false),
    };
    let chroot = process.chroot.as_deref().unwrap_or("");
    let seen = process.exe.as_deref().unwrap_or("");
    assert_eq!(format!("{chroot}{seen}"), path, "{who}");
    assert_eq!(process.exe_deleted, deleted, "{who}");
    assert_eq!(process.chroot.as_deref().unwrap_or("/"), truth.root, "{who}");
    let told = &truth.cmdline[..truth.cmdline.len().min(MAX_ARGS)];
    let len = told.iter().rposition(|&byte| byte != 0).map_or(0, |at| at + 1);
    assert_eq!(process.args.join("\0").as_bytes(), &told[..len], "{who}");
    for (kind, seen) in [
        ("net", process.netns),
        ("pid", process.pidns),
        ("mnt", process.mntns),
    ] {
        assert_eq!(Some(&seen), truth.namespaces.get(kind), "{who} {kind}");
    }
    sockets(linux, process, truth, &who);
}

fn sockets<M: PhysicalMemory>(linux: &Linux<M>, process: &Process, truth: &ProcessTruth, who: &str) {
    let told: BTreeMap<u32, SocketRow> = truth
        .socket_fds
        .iter()
        .filter_map(|(&fd, inode)| Some((fd, *truth.sockets.get(inode)?)))
        .collect();
    let found = linux.sockets_of(process.task).expect("sockets");
    let seen: BTreeMap<u32, SocketRow> = found
        .iter()
        .map(|(fd, socket)| {
            assert_eq!(socket.netns, process.netns, "{who} {fd}");
            let row = SocketRow {
                udp: socket.protocol == Protocol::Udp,
                local: socket.local,
                remote: socket.remote,
                state: number(socket.state),
                // Other sockets' queues are bytes, which the engine leaves out.
                receive_queue: socket.backlog.map_or(0, |backlog| backlog.waiting),
            };
            (*fd, row)
        })
        .collect();
    assert_eq!(seen, told, "{who}");
    for (fd, socket) in found {
        let flow = Flow {
            protocol: socket.protocol,
            netns: Some(socket.netns),
            local: socket.local,
            remote: socket.remote.unwrap_or(STRANGER),
        };
        let owner = linux.socket_owner(&flow).expect("sweep").expect("owner");
        assert_eq!((owner.task, owner.fd), (process.task, fd), "{who} {flow:?}");
    }
}

/// A peer that no socket of the workload is connected to.
const STRANGER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(203, 0, 113, 9)), 9);

fn number(state: SocketState) -> u8 {
    match state {
        SocketState::Established => 1,
        SocketState::Close => 7,
        SocketState::Listen => 10,
        other => panic!("the workload has no socket in state {other:?}"),
    }
}

pub fn addresses<M: PhysicalMemory>(linux: &Linux<M>, truth: &Truth) {
    let told: BTreeSet<_> = truth
        .processes
        .values()
        .filter_map(|process| Some((*process.namespaces.get("net")?, &process.addresses)))
        .flat_map(|(netns, addresses)| {
            addresses
                .iter()
                .map(move |(name, addr, prefix)| (netns, name.clone(), *addr, *prefix))
        })
        .collect();
    let seen: BTreeSet<_> = linux
        .addresses()
        .expect("addresses")
        .into_iter()
        .map(|a| (a.netns, a.ifname, a.addr, a.prefix_len))
        .collect();
    assert_eq!(seen, told);
    assert!(told.len() >= 10, "two namespaces' addresses: {told:?}");
}
