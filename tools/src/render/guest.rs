// SPDX-License-Identifier: GPL-3.0-only
//! A guest read from a dump.

use std::collections::HashMap;

use serde::Serialize;
use vmi_xen::linux::{HeldSocket, Ids, Process, Protocol, SocketState};
use vmi_xen::offline::Offline;

use super::table::{Align::Left, Align::Right, Table};
use super::{or_dash, plain};

/// "Not set" of `loginuid` in the kernel.
const NO_LOGIN: u32 = u32::MAX;

/// What `xmesh inspect` tells. The field names are the JSON names; man page
/// xmesh(1) says what each means.
#[derive(Serialize)]
pub struct Guest {
    image: ImageRow,
    kernel: KernelRow,
    processes: Vec<ProcessRow>,
    sockets: Vec<SocketRow>,
    gaps: Vec<String>,
}

#[derive(Serialize)]
struct ImageRow {
    format: String,
    bytes: u64,
    missing: u64,
    assumed: Option<String>,
}

#[derive(Serialize)]
struct KernelRow {
    release: String,
    base: String,
    banner: String,
}

#[derive(Serialize)]
struct ProcessRow {
    pid: u32,
    ppid: u32,
    uid: u32,
    gid: u32,
    comm: String,
    exe: Option<String>,
    args: Vec<String>,
    netns: u32,
    euid: u32,
    suid: u32,
    fsuid: u32,
    egid: u32,
    sgid: u32,
    fsgid: u32,
    groups: Vec<u32>,
    capabilities: CapabilityRow,
    loginuid: Option<u32>,
    start_time_ns: u64,
    exe_deleted: bool,
    chroot: Option<String>,
    kthread: bool,
    pidns: u32,
    mntns: u32,
    userns: u32,
    cgroup: Option<String>,
    container: Option<String>,
}

/// As in /proc/PID/status: 16 hexadecimal digits each.
#[derive(Serialize)]
struct CapabilityRow {
    inheritable: String,
    permitted: String,
    effective: String,
    bounding: String,
    ambient: String,
}

#[derive(Serialize)]
struct SocketRow {
    proto: &'static str,
    local: String,
    remote: String,
    state: &'static str,
    netns: u32,
    pids: Vec<u32>,
    inode: u64,
    holders: Vec<HolderRow>,
    /// Of a connection that nobody has accepted yet: who may.
    listener_pids: Vec<u32>,
}

#[derive(Serialize)]
struct HolderRow {
    pid: u32,
    fd: u32,
}

impl Guest {
    /// Puts together what was read.
    pub fn new(offline: &Offline, processes: &[Process], sockets: &[HeldSocket]) -> Self {
        let kernel = offline.linux.kernel();
        let memory = offline.linux.memory();
        let listeners: Listeners = sockets
            .iter()
            .filter(|held| held.socket.state == SocketState::Listen)
            .map(|held| (held.socket.sk, held))
            .collect();
        Guest {
            image: ImageRow {
                format: memory.format().to_string(),
                bytes: memory.memory_len(),
                missing: offline.missing,
                assumed: offline.assumed.clone(),
            },
            kernel: KernelRow {
                release: kernel.release.clone(),
                base: format!("{:#x}", kernel.text_base),
                banner: kernel.banner.clone(),
            },
            processes: processes.iter().map(process).collect(),
            sockets: sockets.iter().map(|held| socket(held, &listeners)).collect(),
            gaps: kernel
                .layout
                .gaps()
                .into_iter()
                .map(|(what, why)| format!("{what}: {why}"))
                .collect(),
        }
    }
}

fn process(p: &Process) -> ProcessRow {
    let Ids {
        effective: euid,
        saved: suid,
        fs: fsuid,
        ..
    } = p.credentials.uid;
    let Ids {
        effective: egid,
        saved: sgid,
        fs: fsgid,
        ..
    } = p.credentials.gid;
    let sets = p.credentials.capabilities;
    let set = |bits: u64| format!("{bits:016x}");
    ProcessRow {
        pid: p.tgid,
        ppid: p.ppid,
        uid: p.uid,
        gid: p.gid,
        comm: p.comm.clone(),
        // As /proc shows it to a process outside of the chroot.
        exe: p
            .exe
            .as_deref()
            .map(|exe| format!("{}{exe}", p.chroot.as_deref().unwrap_or(""))),
        args: p.args.clone(),
        netns: p.netns,
        euid,
        suid,
        fsuid,
        egid,
        sgid,
        fsgid,
        groups: p.credentials.groups.clone(),
        capabilities: CapabilityRow {
            inheritable: set(sets.inheritable),
            permitted: set(sets.permitted),
            effective: set(sets.effective),
            bounding: set(sets.bounding),
            ambient: set(sets.ambient),
        },
        loginuid: (p.loginuid != NO_LOGIN).then_some(p.loginuid),
        start_time_ns: p.start_time_ns,
        exe_deleted: p.exe_deleted,
        chroot: p.chroot.as_deref().map(str::to_owned),
        kthread: p.kthread,
        pidns: p.pidns,
        mntns: p.mntns,
        userns: p.credentials.userns,
        cgroup: p.cgroup.as_deref().map(str::to_owned),
        container: p.container.clone(),
    }
}

/// Listening sockets by the address of their structure.
type Listeners<'a> = HashMap<u64, &'a HeldSocket>;

fn socket(held: &HeldSocket, listeners: &Listeners<'_>) -> SocketRow {
    let (local, remote) = held.socket.as_shown();
    let listener = held.listener.and_then(|sk| listeners.get(&sk));
    SocketRow {
        proto: match held.socket.protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        },
        local: local.to_string(),
        remote: remote.to_string(),
        state: held.socket.state.as_ss(),
        netns: held.socket.netns,
        pids: pids(held),
        inode: held.inode,
        holders: held
            .holders
            .iter()
            .map(|holder| HolderRow {
                pid: holder.pid,
                fd: holder.fd,
            })
            .collect(),
        listener_pids: listener.map(|held| pids(held)).unwrap_or_default(),
    }
}

/// Processes that hold a socket, each once.
fn pids(held: &HeldSocket) -> Vec<u32> {
    let mut pids: Vec<u32> = held.holders.iter().map(|holder| holder.pid).collect();
    pids.dedup();
    pids
}

/// For people: kernel, processes, listeners, sockets, and what is not known.
pub fn text(guest: &Guest) -> String {
    let image = &guest.image;
    let mut facts = vec![
        ("kernel", guest.kernel.release.clone()),
        ("base", guest.kernel.base.clone()),
        ("image", format!("{}, {} MiB", image.format, image.bytes >> 20)),
    ];
    facts.extend(image.assumed.clone().map(|assumed| ("assumed", assumed)));
    facts.extend(guest.gaps.iter().map(|gap| ("not known", gap.clone())));
    let mut out: String = facts
        .into_iter()
        .map(|(name, value)| format!("{name:<12} : {}\n", plain(&value)))
        .collect();
    let listens = |row: &&SocketRow| row.state == SocketState::Listen.as_ss();
    for (title, table) in [
        ("Processes", processes(&guest.processes)),
        ("Listeners", sockets(guest, guest.sockets.iter().filter(listens))),
        (
            "Sockets",
            sockets(guest, guest.sockets.iter().filter(|row| !listens(row))),
        ),
    ] {
        out.push_str(&format!("\n{title}\n{}", table.render()));
    }
    out
}

fn processes(rows: &[ProcessRow]) -> Table {
    let mut table = Table::new(&[
        ("PID", Right),
        ("PPID", Right),
        ("UID", Right),
        ("Netns", Right),
        ("Container", Left),
        ("Exe", Left),
        ("Args", Left),
    ]);
    for p in rows {
        // As in /proc: what is in brackets has no executable.
        let mut exe = p.exe.clone().unwrap_or_else(|| format!("[{}]", p.comm));
        if p.exe_deleted {
            exe.push_str(" (deleted)");
        }
        let container = p.container.as_ref();
        table.row([
            p.pid.to_string(),
            p.ppid.to_string(),
            p.euid.to_string(),
            p.netns.to_string(),
            // The first twelve digits are what container tools show.
            or_dash(container.map(|id| id.chars().take(12).collect::<String>())),
            exe,
            p.args.get(1..).unwrap_or_default().join(" "),
        ]);
    }
    table
}

fn sockets<'a>(guest: &Guest, rows: impl Iterator<Item = &'a SocketRow>) -> Table {
    let mut table = Table::new(&[
        ("Proto", Left),
        ("Local", Left),
        ("Remote", Left),
        ("State", Left),
        ("Netns", Right),
        ("PIDs", Left),
        ("Exe", Left),
    ]);
    let exes: HashMap<u32, &str> = guest
        .processes
        .iter()
        .filter_map(|p| Some((p.pid, p.exe.as_deref()?)))
        .collect();
    for s in rows {
        let exe = s.pids.first().and_then(|pid| exes.get(pid));
        let pids: Vec<String> = s.pids.iter().map(ToString::to_string).collect();
        table.row([
            s.proto.to_owned(),
            s.local.clone(),
            s.remote.clone(),
            s.state.to_owned(),
            s.netns.to_string(),
            pids.join(","),
            or_dash(exe),
        ]);
    }
    table
}
