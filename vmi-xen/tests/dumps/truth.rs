// SPDX-License-Identifier: GPL-3.0-only
//! Parses what a guest's init told of its own /proc.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// A row of /proc/net/tcp and its like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SocketRow {
    pub udp: bool,
    pub local: SocketAddr,
    pub remote: Option<SocketAddr>,
    pub state: u8,
    /// Of a listening socket: connections that wait.
    pub receive_queue: u32,
}

/// One process by its own /proc.
#[derive(Debug, Default)]
pub struct ProcessTruth {
    pub name: String,
    pub tgid: u32,
    pub ppid: u32,
    pub uid: u32,
    pub euid: u32,
    pub gid: u32,
    pub threads: usize,
    /// In hundredths of a second since boot.
    pub start_ticks: u64,
    pub loginuid: u32,
    pub cgroup: String,
    pub exe: Option<String>,
    pub root: String,
    pub cmdline: Vec<u8>,
    pub namespaces: BTreeMap<String, u32>,
    /// Descriptor to inode of its socket.
    pub socket_fds: BTreeMap<u32, u64>,
    /// Inode to socket, of the process's network namespace.
    pub sockets: BTreeMap<u64, SocketRow>,
    /// Interface, address, prefix length, of the process's network namespace.
    pub addresses: BTreeSet<(String, IpAddr, u8)>,
}

/// All that init told.
#[derive(Debug, Default)]
pub struct Truth {
    pub release: String,
    /// Name and address of some of the kernel's symbols, none of modules.
    pub symbols: Vec<(String, u64)>,
    pub processes: BTreeMap<u32, ProcessTruth>,
}

impl Truth {
    pub fn parse(told: &str) -> Self {
        let mut truth = Self::default();
        let mut pid = 0;
        for line in told.lines() {
            let (key, rest) = split(line);
            match key {
                "@release" => truth.release = rest.to_owned(),
                "@process" => pid = rest.parse().expect("a PID"),
                _ if pid == 0 => {
                    let words: Vec<&str> = line.split_whitespace().collect();
                    if let [address, _, name] = words[..]
                        && let Ok(address) = u64::from_str_radix(address, 16)
                    {
                        truth.symbols.push((name.to_owned(), address));
                    }
                }
                _ => truth.processes.entry(pid).or_default().line(key, rest),
            }
        }
        truth
    }

    /// Address of a symbol that was told.
    pub fn symbol(&self, name: &str) -> u64 {
        let found = self.symbols.iter().find(|(symbol, _)| symbol == name);
        found.unwrap_or_else(|| panic!("{name} was not told")).1
    }
}

fn split(line: &str) -> (&str, &str) {
    let (key, rest) = line.split_once([' ', '\t']).unwrap_or((line, ""));
    (key, rest.trim())
}

impl ProcessTruth {
    fn line(&mut self, key: &str, rest: &str) {
        let number = |index: usize| -> u32 {
            let word = rest.split_whitespace().nth(index);
            word.and_then(|word| word.parse().ok())
                .unwrap_or_else(|| panic!("no number {index} in {key} {rest}"))
        };
        match key {
            "Name:" => self.name = rest.to_owned(),
            "Tgid:" => self.tgid = number(0),
            "PPid:" => self.ppid = number(0),
            "Uid:" => (self.uid, self.euid) = (number(0), number(1)),
            "Gid:" => self.gid = number(0),
            "Threads:" => self.threads = number(0) as usize,
            "stat" => {
                // The name, in brackets, may hold anything.
                let (_, after) = rest.rsplit_once(')').expect("stat");
                let start = after.split_whitespace().nth(19).expect("starttime");
                self.start_ticks = start.parse().expect("starttime");
            }
            "loginuid" => self.loginuid = number(0),
            "cgroup" => self.cgroup = rest.strip_prefix("0::").unwrap_or(rest).to_owned(),
            "exe" => self.exe = Some(rest.to_owned()),
            "root" => self.root = rest.to_owned(),
            "cmdline" => self.cmdline = base64(rest),
            "ns" => {
                let (kind, inode) = rest.split_once(":[").expect("namespace");
                let inode = inode.trim_end_matches(']').parse().expect("namespace");
                self.namespaces.insert(kind.to_owned(), inode);
            }
            "fd" => {
                let (fd, socket) = rest.split_once(" socket:[").expect("fd");
                let inode = socket.trim_end_matches(']').parse().expect("inode");
                self.socket_fds.insert(fd.parse().expect("fd"), inode);
            }
            "tcp" | "tcp6" | "udp" | "udp6" => self.socket_row(key, rest),
            "addr" => self.address(rest),
            _ => {}
        }
    }

    fn socket_row(&mut self, table: &str, rest: &str) {
        let words: Vec<&str> = rest.split_whitespace().collect();
        if words.first().is_none_or(|word| !word.ends_with(':')) || words[0] == "sl" {
            return;
        }
        let Some((local, remote)) = socket_addr(words[1]).zip(socket_addr(words[2])) else {
            return;
        };
        let (_, receive) = words[4].split_once(':').expect("queues");
        let row = SocketRow {
            udp: table.starts_with("udp"),
            local,
            remote: (remote.port() != 0).then_some(remote),
            state: u8::from_str_radix(words[3], 16).expect("state"),
            receive_queue: u32::from_str_radix(receive, 16).expect("queue"),
        };
        self.sockets.insert(words[9].parse().expect("inode"), row);
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

/// "0100007F:1B59": words in the CPU's order, then the port.
fn socket_addr(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let bytes: Vec<u8> = (0..address.len() / 8)
        .filter_map(|word| u32::from_str_radix(address.get(word * 8..word * 8 + 8)?, 16).ok())
        .flat_map(u32::to_le_bytes)
        .collect();
    let ip = match bytes.len() {
        4 => Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).into(),
        _ => Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).to_canonical(),
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
