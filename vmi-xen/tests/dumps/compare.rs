// SPDX-License-Identifier: GPL-3.0-only
//! What the engine read, against what the guest told.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use vmi_xen::kernel::Kernel;
use vmi_xen::linux::{Flow, HeldSocket, Ids, Linux, Process, Protocol, Socket, SocketState};
use vmi_xen::memory::{Dump, MemoryError, PhysicalMemory};

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
    let free = (1..).find(|pid| linux.task_numbered(*pid).expect("a table").is_none());
    let free = free.expect("there are billions");
    assert!(free > 1 && !by_pid.contains_key(&free), "{free} is nobody's");
    for beyond in [0, 1 << 22, u32::MAX] {
        assert_eq!(linux.task_numbered(beyond).expect("a table"), None, "{beyond}");
    }
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
}

fn one<M: PhysicalMemory>(linux: &Linux<M>, process: &Process, truth: &ProcessTruth) {
    let who = format!("{} {}", process.pid, truth.name);
    assert_eq!(process.tgid, truth.tgid, "{who}");
    assert_eq!(process.ppid, truth.ppid, "{who}");
    assert_eq!(process.uid, truth.uid[0], "{who}");
    assert_eq!(process.euid, truth.uid[1], "{who}");
    assert_eq!(process.gid, truth.gid[0], "{who}");
    let credentials = &process.credentials;
    let ids = |ids: Ids| [ids.real, ids.effective, ids.saved, ids.fs];
    assert_eq!(ids(credentials.uid), truth.uid, "{who}");
    assert_eq!(ids(credentials.gid), truth.gid, "{who}");
    assert_eq!(credentials.groups, truth.groups, "{who}");
    let c = credentials.capabilities;
    let sets = [c.inheritable, c.permitted, c.effective, c.bounding, c.ambient];
    assert_eq!(sets, truth.capabilities, "{who}");
    assert_eq!(process.loginuid, truth.loginuid, "{who}");
    assert_eq!(process.start_time_ns / 10_000_000, truth.start_ticks, "{who}");
    // /proc shows what a worker does, and long names, behind the 15 bytes.
    assert!(truth.name.starts_with(&process.comm), "{who}: {}", process.comm);
    let cgroup = if truth.cgroup == "/" {
        &truth.cgroup_v1
    } else {
        &truth.cgroup
    };
    assert_eq!(process.cgroup.as_deref(), Some(&**cgroup), "{who}");
    let in_container = cgroup.contains("docker");
    assert_eq!(process.container.is_some(), in_container, "{who}");
    let threads = linux.threads(process.task).expect("threads");
    assert_eq!(threads.len(), truth.threads, "{who}");
    for thread in threads {
        let number = linux.pid(thread).expect("a number");
        assert_eq!(
            linux.task_numbered(number).expect("a table"),
            Some(thread),
            "{who}"
        );
    }
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
        ("user", credentials.userns),
    ] {
        assert_eq!(Some(&seen), truth.namespaces.get(kind), "{who} {kind}");
    }
}

/// Sockets by descriptor, of each process.
pub fn descriptors<M: PhysicalMemory>(linux: &Linux<M>, truth: &Truth) {
    let mut compared = 0;
    for process in linux.processes().expect("processes") {
        let Some(told) = truth.processes.get(&process.pid) else {
            continue;
        };
        let who = format!("{} {}", process.pid, told.name);
        let netns = told
            .namespaces
            .get("net")
            .and_then(|inode| truth.netns.get(inode));
        let rows = netns.map(|net| net.sockets.as_slice()).unwrap_or_default();
        let told: BTreeMap<u32, SocketRow> = told
            .socket_fds
            .iter()
            .filter_map(|(&fd, &inode)| Some((fd, *rows.iter().find(|row| row.inode == inode)?)))
            .collect();
        let found = linux.sockets_of(process.task).expect("sockets");
        let seen: BTreeMap<u32, Socket> = found
            .into_iter()
            // /proc/net/tcp leaves out what neither listens nor is connected, and
            // /proc/net/udp what is not bound.
            .filter(|(_, s)| {
                s.local.port() != 0 && (s.protocol == Protocol::Udp || s.state != SocketState::Close)
            })
            .collect();
        assert!(seen.keys().eq(told.keys()), "{who}: {seen:?} {told:?}");
        for (fd, socket) in seen {
            let row = told[&fd];
            assert_eq!(socket.netns, process.netns, "{who} {fd}");
            assert_eq!(socket.protocol == Protocol::Udp, row.udp, "{who} {fd}");
            assert_eq!(number(socket.state), row.state, "{who} {fd}");
            assert_eq!(socket.local, canonical(row.local), "{who} {fd}");
            let remote = canonical(row.remote);
            assert_eq!(
                socket.remote,
                (remote.port() != 0).then_some(remote),
                "{who} {fd}"
            );
            let waiting = socket.backlog.map_or(0, |backlog| backlog.waiting);
            assert_eq!(waiting, row.receive_queue, "{who} {fd}");
            let flow = Flow {
                protocol: socket.protocol,
                netns: Some(socket.netns),
                local: socket.local,
                remote: socket.remote.unwrap_or(STRANGER),
            };
            let owner = linux.socket_owner(&flow).expect("sweep").expect("owner");
            assert_eq!(owner.socket.local, socket.local, "{who} {flow:?}");
            compared += 1;
        }
    }
    assert!(compared >= 30, "the guest told its sockets: {compared}");
}

/// All sockets, from the kernel's tables, and who holds each.
pub fn sockets<M: PhysicalMemory>(linux: &Linux<M>, truth: &Truth) {
    let held = linux.held_sockets().expect("sockets");
    let row = |held: &HeldSocket| {
        let s = &held.socket;
        let (local, remote) = s.as_shown();
        let row = SocketRow {
            udp: s.protocol == Protocol::Udp,
            ipv6: s.ipv6,
            local,
            remote,
            state: number(s.state),
            receive_queue: s.backlog.map_or(0, |backlog| backlog.waiting),
            inode: held.inode,
        };
        (s.netns, row)
    };
    let (hashed, bound): (Vec<&HeldSocket>, Vec<&HeldSocket>) = held.iter().partition(|held| held.hashed);
    let mut seen: Vec<_> = hashed.into_iter().map(row).collect();
    seen.sort();
    let told: Vec<_> = truth.sockets().collect();
    assert_eq!(seen, told, "the tables of sockets");
    let bound: Vec<_> = bound.iter().map(|held| held.socket.local.port()).collect();
    assert_eq!(bound, [7050], "bound, but in no table of /proc");

    let states: BTreeSet<u8> = told.iter().map(|(_, row)| row.state).collect();
    assert_eq!(
        states,
        BTreeSet::from([1, 2, 3, 4, 5, 6, 7, 8, 10]),
        "the workload's states"
    );
    for socket in &held {
        holders(socket, truth);
        owner(linux, socket, &held);
    }
    // In flight between processes: it has a file, and nobody has it.
    let at = |port: u16| {
        held.iter()
            .find(move |held| held.socket.local.port() == port)
            .expect("a socket")
    };
    assert!(at(5320).inode != 0 && at(5320).holders.is_empty());
    // A server and its child.
    let pids: BTreeSet<u32> = at(7060).holders.iter().map(|holder| holder.pid).collect();
    assert_eq!(pids.len(), 2, "{:?}", at(7060));
    // Not accepted, and half-open.
    let listeners = |port: u16| -> Vec<u16> {
        let of = |sk: u64| held.iter().find(|held| held.socket.sk == sk).expect("a listener");
        held.iter()
            .filter(|held| held.socket.local.port() == port)
            .filter_map(|held| Some(of(held.listener?).socket.local.port()))
            .collect()
    };
    assert_eq!(listeners(7010), [7010, 7010]);
    assert_eq!(listeners(7040), [7040]);
    let waiting = held.iter().filter(|held| held.listener.is_some());
    assert!(waiting.clone().count() == 3 && waiting.clone().all(|held| held.holders.is_empty()));
}

/// Who holds a socket, against all descriptors of all processes.
fn holders(held: &HeldSocket, truth: &Truth) {
    let mut told: Vec<(u32, u32)> = Vec::new();
    for (&pid, process) in &truth.processes {
        let fds = process
            .socket_fds
            .iter()
            .filter(|(_, inode)| **inode == held.inode);
        told.extend(fds.map(|(&fd, _)| (pid, fd)));
    }
    let seen: Vec<_> = held
        .holders
        .iter()
        .map(|holder| (holder.pid, holder.fd))
        .collect();
    assert_eq!(seen, told, "{held:?}");
}

/// The process behind a flow: one that holds the socket, or its listener, or
/// another one that takes packets there.
fn owner<M: PhysicalMemory>(linux: &Linux<M>, held: &HeldSocket, all: &[HeldSocket]) {
    let socket = &held.socket;
    let flow = Flow {
        protocol: socket.protocol,
        netns: Some(socket.netns),
        local: socket.local,
        remote: socket.remote.unwrap_or(STRANGER),
    };
    // Asked twice: looked for, then remembered.
    let found = linux.socket_owner(&flow).expect("lookup");
    assert_eq!(linux.socket_owner(&flow).expect("lookup"), found, "{held:?}");
    let Some(found) = found else {
        let takes_nothing = socket.state == SocketState::Close && socket.protocol == Protocol::Tcp;
        assert!(held.holders.is_empty() || takes_nothing, "{held:?}");
        return;
    };
    let there = all
        .iter()
        .find(|other| other.socket.sk == found.socket.sk)
        .expect("a socket");
    let holds = there
        .holders
        .iter()
        .any(|holder| (holder.task, holder.fd) == (found.task, found.fd));
    assert!(holds, "{found:?} {there:?}");
    assert_eq!(found.socket.local.port(), socket.local.port());
    let own = there.socket.sk == socket.sk;
    let shared = there.socket.local == socket.local && there.socket.remote == socket.remote;
    assert!(own || shared || held.holders.is_empty(), "{held:?} {there:?}");
}

/// A lookup that is remembered reads a bucket and the holder, and no more than
/// that however many processes there are.
pub fn lookups_are_cheap(dump: &Dump, found: &Kernel) {
    let counted = Counted {
        dump,
        reads: Cell::new(0),
    };
    let linux = Linux::new(&counted, found.clone());
    let mut asked = 0;
    for held in linux.held_sockets().expect("sockets") {
        let Some(remote) = held.socket.remote.filter(|_| !held.holders.is_empty()) else {
            continue;
        };
        let flow = Flow {
            protocol: held.socket.protocol,
            netns: None,
            local: held.socket.local,
            remote,
        };
        linux.socket_owner(&flow).expect("lookup").expect("owner");
        let before = counted.reads.get();
        linux.socket_owner(&flow).expect("lookup").expect("owner");
        let reads = counted.reads.get() - before;
        assert!(reads < 400, "{reads} reads for {flow:?}");
        asked += 1;
    }
    assert!(asked > 10);
}

/// A memory that counts how often it is read.
struct Counted<'a> {
    dump: &'a Dump,
    reads: Cell<u64>,
}

impl PhysicalMemory for Counted<'_> {
    fn read_phys(&self, pa: u64, buf: &mut [u8]) -> Result<(), MemoryError> {
        self.reads.set(self.reads.get() + 1);
        self.dump.read_phys(pa, buf)
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// A peer that no socket of the workload is connected to.
const STRANGER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(203, 0, 113, 9)), 9);

/// The kernel's number of a state (include/net/tcp_states.h).
fn number(state: SocketState) -> u8 {
    match state {
        SocketState::Established => 1,
        SocketState::SynSent => 2,
        SocketState::SynReceived | SocketState::NewSynReceived => 3,
        SocketState::FinWait1 => 4,
        SocketState::FinWait2 => 5,
        SocketState::TimeWait => 6,
        SocketState::Close => 7,
        SocketState::CloseWait => 8,
        SocketState::LastAck => 9,
        SocketState::Listen => 10,
        SocketState::Closing => 11,
        SocketState::BoundInactive => 13,
    }
}

pub fn addresses<M: PhysicalMemory>(linux: &Linux<M>, truth: &Truth) {
    let told: BTreeSet<_> = truth
        .netns
        .iter()
        .flat_map(|(&netns, net)| {
            net.addresses
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
