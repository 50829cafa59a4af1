// SPDX-License-Identifier: GPL-3.0-only
//! A guest's sockets as its own /proc tells them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use serde_json::Value;

use super::Mesh;

/// All sockets of the guest's own network namespace, and who holds what, in one look. What only waits for its time to be over is no
/// socket any more, and left out below.
const LOOK: &str = "for f in tcp tcp6 udp udp6; do sed \"1d; s/^/$f /\" /proc/net/$f; done; readlink /proc/self/ns/net; \
                    find /proc/[0-9]*/fd -lname 'socket:*' -printf '%h %l\\n' 2>/dev/null; true";

/// A TCP or UDP socket.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Socket {
    pub protocol: String,
    pub local: SocketAddr,
    /// None of what is not connected.
    pub remote: Option<SocketAddr>,
    /// As ss has it.
    pub state: String,
    /// Inode of its network namespace.
    pub netns: u64,
    /// Who holds it.
    pub pids: Vec<u64>,
}

impl Socket {
    /// Alike but for who holds it.
    pub fn same_as(&self, other: &Socket) -> bool {
        let all = |s: &Socket| Socket {
            pids: Vec::new(),
            ..s.clone()
        };
        all(self) == all(other)
    }
}

/// One of `xmesh conns`.
pub fn of_conns(entry: &Value) -> Option<Socket> {
    let address = |name: &str| entry[name].as_str()?.parse::<SocketAddr>().ok();
    Some(Socket {
        protocol: entry["protocol"].as_str()?.to_owned(),
        local: address("local")?,
        remote: address("remote").filter(|remote| remote.port() != 0),
        state: entry["state"].as_str()?.to_owned(),
        netns: entry["netns"].as_u64()?,
        pids: entry["pid"].as_u64().into_iter().collect(),
    })
}

/// What the guest says of itself, sorted.
pub fn read(mesh: &Mesh, guest: &str) -> Result<Vec<Socket>, Box<dyn std::error::Error>> {
    let text = mesh.0.check(guest, &["bash", "-c", LOOK])?;
    let netns = text
        .lines()
        .find_map(|line| line.strip_prefix("net:[")?.strip_suffix(']')?.parse().ok())
        .ok_or("no network namespace")?;
    let holders: Vec<(u64, u64)> = text.lines().filter_map(holder).collect();
    let mut sockets: Vec<Socket> = text
        .lines()
        .filter_map(|line| socket(line, netns, &holders))
        .collect();
    sockets.sort();
    Ok(sockets)
}

/// Inode and process, of `/proc/PID/fd socket:[INODE]`.
fn holder(line: &str) -> Option<(u64, u64)> {
    let (path, link) = line.split_once(' ')?;
    let pid = path.strip_prefix("/proc/")?.strip_suffix("/fd")?.parse().ok()?;
    let inode = link.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()?;
    Some((inode, pid))
}

/// A line of /proc/net/FILE, behind the file's name.
fn socket(line: &str, netns: u64, holders: &[(u64, u64)]) -> Option<Socket> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [file, _, local, remote, state, ..] = words[..] else {
        return None;
    };
    let inode: u64 = words.get(10)?.parse().ok()?;
    let protocol = ["tcp", "udp"].into_iter().find(|name| file.starts_with(name))?;
    let mut pids: Vec<u64> = holders
        .iter()
        .filter(|(i, _)| *i == inode)
        .map(|(_, pid)| *pid)
        .collect();
    pids.sort_unstable();
    pids.dedup();
    Some(Socket {
        protocol: protocol.to_owned(),
        local: address(local)?,
        remote: address(remote).filter(|remote| remote.port() != 0),
        state: name(state)?.to_owned(),
        netns,
        pids,
    })
}

/// `0100007F:1F90`: words of 32 bits as the processor has them, and the port.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let words: Option<Vec<u8>> = (0..ip.len() / 8)
        .map(|i| {
            Some(
                u32::from_str_radix(ip.get(i * 8..i * 8 + 8)?, 16)
                    .ok()?
                    .to_le_bytes(),
            )
        })
        .collect::<Option<Vec<[u8; 4]>>>()
        .map(|words| words.concat());
    let bytes = words?;
    let ip = match bytes.len() {
        4 => IpAddr::from(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?)),
        _ => IpAddr::from(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?)),
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}

/// The kernel's number of a state as ss names it.
fn name(number: &str) -> Option<&'static str> {
    Some(match number {
        "01" => "ESTAB",
        "07" => "UNCONN",
        "08" => "CLOSE-WAIT",
        "0A" => "LISTEN",
        _ => return None,
    })
}
