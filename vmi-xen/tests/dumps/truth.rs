// SPDX-License-Identifier: GPL-3.0-only
//! Parses what a guest's init told of its own /proc.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// A row of /proc/net/tcp and its like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SocketRow {
    pub udp: bool,
    pub ipv6: bool,
    pub local: SocketAddr,
    pub remote: SocketAddr,
    pub state: u8,
    /// Of a listening socket: connections that wait.
    pub receive_queue: u32,
    /// 0 if no file ever was, or is any more.
    pub inode: u64,
}

/// A line of /proc/PID/maps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MapsRow {
    pub start: u64,
    pub end: u64,
    /// `r-xp` and so on.
    pub access: String,
    pub offset: u64,
    /// As told: with ` (deleted)`; none of memory of no file.
    pub file: Option<String>,
}

impl MapsRow {
    fn parse(line: &str) -> Self {
        let words: Vec<&str> = line.split_whitespace().collect();
        let hex = |text: &str| u64::from_str_radix(text, 16).expect("a number");
        let (start, end) = words[0].split_once('-').expect("a range");
        // Names of the kernel's own, such as [heap], are of no file.
        let file = words.get(5).filter(|name| !name.starts_with('['));
        Self {
            start: hex(start),
            end: hex(end),
            access: words[1].to_owned(),
            offset: hex(words[2]),
            file: file.map(|_| words[5..].join(" ")),
        }
    }
}

/// One process by its own /proc.
#[derive(Debug, Default)]
pub struct ProcessTruth {
    pub name: String,
    pub state: String,
    pub tgid: u32,
    pub ppid: u32,
    /// Real, effective, saved, of the file system.
    pub uid: [u32; 4],
    pub gid: [u32; 4],
    pub groups: Vec<u32>,
    /// Inheritable, permitted, effective, bounding, ambient.
    pub capabilities: [u64; 5],
    pub threads: usize,
    /// In hundredths of a second since boot.
    pub start_ticks: u64,
    pub loginuid: u32,
    /// Of version 2.
    pub cgroup: String,
    /// Of the controller `pids` in version 1.
    pub cgroup_v1: String,
    pub exe: Option<String>,
    pub root: String,
    pub cmdline: Vec<u8>,
    pub namespaces: BTreeMap<String, u32>,
    /// Descriptor to inode of its socket.
    pub socket_fds: BTreeMap<u32, u64>,
    /// Lines of /proc/PID/maps.
    pub maps: Vec<MapsRow>,
    /// Descriptor to `pipe:[N]` or the path of a FIFO.
    pub pipes: BTreeMap<u32, String>,
}

/// One network namespace by its own /proc.
#[derive(Debug, Default)]
pub struct NetTruth {
    /// Sorted.
    pub sockets: Vec<SocketRow>,
    /// Interface, address, prefix length.
    pub addresses: BTreeSet<(String, IpAddr, u8)>,
    /// Unix sockets: inode to the path, where there is one.
    pub local: BTreeMap<u64, Option<String>>,
}

/// All that init told.
#[derive(Debug, Default)]
pub struct Truth {
    pub release: String,
    /// Name and address of some of the kernel's symbols, none of modules.
    pub symbols: Vec<(String, u64)>,
    pub processes: BTreeMap<u32, ProcessTruth>,
    /// By inode number.
    pub netns: BTreeMap<u32, NetTruth>,
}

/// What the lines that follow are about.
enum Section {
    Symbols,
    Process(u32),
    Netns(u32),
}

impl Truth {
    pub fn parse(told: &str) -> Self {
        let mut truth = Self::default();
        let mut section = Section::Symbols;
        for line in told.lines() {
            let (key, rest) = split(line);
            match key {
                "@release" => truth.release = rest.to_owned(),
                "@process" => section = Section::Process(rest.parse().expect("a PID")),
                "@netns" => section = Section::Netns(namespace(rest).1),
                _ => truth.line(&section, line),
            }
        }
        for net in truth.netns.values_mut() {
            net.sockets.sort();
        }
        truth
    }

    fn line(&mut self, section: &Section, line: &str) {
        let (key, rest) = split(line);
        match *section {
            Section::Process(pid) => self.processes.entry(pid).or_default().line(key, rest),
            Section::Netns(inode) => self.netns.entry(inode).or_default().line(key, rest),
            Section::Symbols => {
                let words: Vec<&str> = line.split_whitespace().collect();
                if let [address, _, name] = words[..]
                    && let Ok(address) = u64::from_str_radix(address, 16)
                {
                    self.symbols.push((name.to_owned(), address));
                }
            }
        }
    }

    /// Address of a symbol that was told.
    pub fn symbol(&self, name: &str) -> u64 {
        let found = self.symbols.iter().find(|(symbol, _)| symbol == name);
        found.unwrap_or_else(|| panic!("{name} was not told")).1
    }

    /// Every socket of the guest, by the inode of its network namespace.
    pub fn sockets(&self) -> impl Iterator<Item = (u32, SocketRow)> + '_ {
        self.netns
            .iter()
            .flat_map(|(&netns, net)| net.sockets.iter().map(move |&row| (netns, row)))
    }
}

fn split(line: &str) -> (&str, &str) {
    let (key, rest) = line.split_once([' ', '\t']).unwrap_or((line, ""));
    (key, rest.trim())
}

/// "net:[4026531840]"
fn namespace(text: &str) -> (&str, u32) {
    let (kind, inode) = text.split_once(":[").expect("namespace");
    let inode = inode.trim_end_matches(']').parse().expect("namespace");
    (kind, inode)
}

impl ProcessTruth {
    fn line(&mut self, key: &str, rest: &str) {
        let number = |index: usize| -> u32 {
            let word = rest.split_whitespace().nth(index);
            word.and_then(|word| word.parse().ok())
                .unwrap_or_else(|| panic!("no number {index} in {key} {rest}"))
        };
        let mut capabilities = |index: usize| {
            self.capabilities[index] = u64::from_str_radix(rest, 16).expect("capabilities");
        };
        match key {
            "Name:" => self.name = rest.to_owned(),
            "State:" => self.state = rest.to_owned(),
            "Tgid:" => self.tgid = number(0),
            "PPid:" => self.ppid = number(0),
            "Uid:" => self.uid = [0, 1, 2, 3].map(number),
            "Gid:" => self.gid = [0, 1, 2, 3].map(number),
            "Groups:" => {
                self.groups = rest
                    .split_whitespace()
                    .map(|id| id.parse().expect("group"))
                    .collect()
            }
            "CapInh:" => capabilities(0),
            "CapPrm:" => capabilities(1),
            "CapEff:" => capabilities(2),
            "CapBnd:" => capabilities(3),
            "CapAmb:" => capabilities(4),
            "Threads:" => self.threads = number(0) as usize,
            "stat" => {
                // The name, in brackets, may hold anything.
                let (_, after) = rest.rsplit_once(')').expect("stat");
                let start = after.split_whitespace().nth(19).expect("starttime");
                self.start_ticks = start.parse().expect("starttime");
            }
            "loginuid" => self.loginuid = number(0),
            "cgroup" => match rest.strip_prefix("0::") {
                Some(path) => self.cgroup = path.to_owned(),
                None => self.cgroup_v1 = rest.splitn(3, ':').nth(2).expect("path").to_owned(),
            },
            "exe" => self.exe = Some(rest.to_owned()),
            "root" => self.root = rest.to_owned(),
            "cmdline" => self.cmdline = base64(rest),
            "ns" => {
                let (kind, inode) = namespace(rest);
                self.namespaces.insert(kind.to_owned(), inode);
            }
            "maps" => self.maps.push(MapsRow::parse(rest)),
            "pipe" => {
                let (fd, pipe) = rest.split_once(' ').expect("fd");
                self.pipes.insert(fd.parse().expect("fd"), pipe.to_owned());
            }
            "fd" => {
                let (fd, socket) = rest.split_once(" socket:[").expect("fd");
                let inode = socket.trim_end_matches(']').parse().expect("inode");
                self.socket_fds.insert(fd.parse().expect("fd"), inode);
            }
            _ => {}
        }
    }
}

impl NetTruth {
    fn line(&mut self, key: &str, rest: &str) {
        match key {
            "tcp" | "tcp6" | "udp" | "udp6" => self.socket_row(key, rest),
            "addr" => self.address(rest),
            "unix" => self.local_socket(rest),
            _ => {}
        }
    }

    fn local_socket(&mut self, rest: &str) {
        let words: Vec<&str> = rest.split_whitespace().collect();
        if let [_, _, _, _, _, _, inode, rest @ ..] = words.as_slice()
            && let Ok(inode) = inode.parse()
        {
            self.local
                .insert(inode, rest.first().map(|&path| path.to_owned()));
        }
    }

    fn socket_row(&mut self, table: &str, rest: &str) {
        let words: Vec<&str> = rest.split_whitespace().collect();
        if words.first().is_none_or(|word| !word.ends_with(':')) {
            return;
        }
        let (local, remote) = socket_addr(words[1])
            .zip(socket_addr(words[2]))
            .expect("addresses");
        let (_, receive) = words[4].split_once(':').expect("queues");
        let state = u8::from_str_radix(words[3], 16).expect("state");
        let receive = u32::from_str_radix(receive, 16).expect("queue");
        self.sockets.push(SocketRow {
            udp: table.starts_with("udp"),
            ipv6: table.ends_with('6'),
            local,
            remote,
            state,
            // Other sockets' queues are bytes, which the engine leaves out.
            receive_queue: if state == LISTEN { receive } else { 0 },
            inode: words[9].parse().expect("inode"),
        });
    }

    fn address(&mut self, rest: &str) {
        let words: Vec<&str> = rest.split_whitespace().collect();
        if let [_, name, "inet" | "inet6", network, ..] = words[..] {
            let (address, prefix) = network.split_once('/').expect("prefix");
            self.addresses.insert((
                name.to_owned(),
                address.parse().expect("address"),
                prefix.parse().expect("prefix"),
            ));
        }
    }
}

/// TCP_LISTEN of include/net/tcp_states.h.
const LISTEN: u8 = 10;

/// "0100007F:1B59": words in the CPU's order, then the port.
fn socket_addr(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let bytes: Vec<u8> = (0..address.len() / 8)
        .filter_map(|word| u32::from_str_radix(address.get(word * 8..word * 8 + 8)?, 16).ok())
        .flat_map(u32::to_le_bytes)
        .collect();
    let ip = match bytes.len() {
        4 => Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).into(),
        _ => Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into(),
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}

fn base64(text: &str) -> Vec<u8> {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut bytes = Vec::new();
    let (mut bits, mut count) = (0u32, 0);
    for digit in text.bytes() {
        let Some(value) = DIGITS.iter().position(|&d| d == digit) else {
            break;
        };
        bits = bits << 6 | value as u32;
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
        }
    }
    bytes
}
