// SPDX-License-Identifier: GPL-3.0-only
//! What is decided on: one flow, with what is known of its two ends.

use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::label::Facts;
use crate::port::Protocol;

/// A guest, as dom0 knows it. Guests cannot choose any part.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct VmId {
    /// The name, unique on the host at any one time.
    pub name: String,
    /// The UUID, which stays over a rename, a reboot and a migration.
    pub uuid: [u8; 16],
    /// Its labels, and what Xen says of it.
    pub facts: Arc<Facts>,
}

impl VmId {
    /// A guest of which nothing else is known.
    pub fn new(name: impl Into<String>, uuid: [u8; 16]) -> VmId {
        VmId {
            name: name.into(),
            uuid,
            facts: Arc::default(),
        }
    }

    /// The UUID in the common form, as `xl list -v` prints it.
    pub fn uuid_text(&self) -> String {
        format_uuid(&self.uuid)
    }
}

/// The process that owns a socket, as read out of the guest's memory.
///
/// The guest's kernel says all of this, so a guest whose kernel is taken over can say what it likes
/// about itself; it cannot pose as another VM.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Process<'a> {
    /// Path of the executable in its own mount namespace, without a ` (deleted)` mark. `None`: not readable.
    pub exe: Option<&'a str>,
    /// Arguments. A process may rewrite its own.
    pub args: &'a [String],
    /// Effective user id in the guest's initial user namespace.
    pub uid: u32,
    /// Effective group id, likewise.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: &'a [u32],
    /// User id of the login that it comes from, which no later change of user changes; `None` where there was no login.
    pub loginuid: Option<u32>,
    /// Id of the container it runs in; `None` outside of one.
    pub container: Option<&'a str>,
    /// Executables of its ancestors, the nearest first, as far as they are known.
    pub parents: &'a [Arc<str>],
    /// Whether it runs what policy takes its executable to be.
    pub measured: Measured,
}

/// Whether the text of a process's executable, in the guest's memory, is that of a program that policy names.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Measured {
    /// Nobody has looked yet: it may be.
    #[default]
    Unknown,
    /// No program of the policy lies where its executable does, or nothing of it could be read.
    Unregistered,
    /// It is.
    Same,
    /// It is not.
    Changed,
}

/// Who in the guest owns an end of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner<'a> {
    /// This process.
    Process(Process<'a>),
    /// Nobody has looked, or nobody could: it may be any process.
    ///
    /// It never matches a selector that asks for `exe`, `arg`, `uid`, `role`, `container` or `parent`, for allow AND for deny.
    /// A deny by process therefore does not hold where sight is lost; a default of deny does.
    Unknown,
    /// Looked for, and no socket in the guest owns it: a raw socket, or a hidden process.
    Unattributed,
}

/// One end of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Endpoint<'a> {
    /// The guest, or `None` when the end is not a guest of this host.
    pub vm: Option<&'a VmId>,
    /// The process, as far as it is known. Of no meaning where `vm` is `None`.
    pub owner: Owner<'a>,
    /// The address; IPv4-mapped IPv6 is taken as IPv4.
    pub address: IpAddr,
    /// The address is one that dom0 gave this guest and that its vif holds it to. Of no meaning where `vm` is `None`.
    pub proven: bool,
}

impl<'a> Endpoint<'a> {
    /// An end that is not a guest of this host.
    pub fn world(address: IpAddr) -> Self {
        Endpoint {
            vm: None,
            owner: Owner::Unknown,
            address,
            proven: false,
        }
    }

    /// An end in a guest whose process nobody knows (yet).
    pub fn guest(vm: &'a VmId, address: IpAddr) -> Self {
        Endpoint {
            vm: Some(vm),
            owner: Owner::Unknown,
            address,
            proven: false,
        }
    }

    /// The same end, where its address is proven.
    pub fn proven(self) -> Self {
        Endpoint { proven: true, ..self }
    }

    /// The same end, owned by `process`.
    pub fn with_process(self, process: Process<'a>) -> Self {
        Endpoint {
            owner: Owner::Process(process),
            ..self
        }
    }
}

/// One flow, in the direction of its first packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flow<'a> {
    /// The IP protocol.
    pub protocol: Protocol,
    /// The end that sends the first packet.
    pub source: Endpoint<'a>,
    /// The end that it is sent to.
    pub destination: Endpoint<'a>,
    /// The destination's port; 0 where the protocol has none.
    pub port: u16,
}

/// Which end of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// The end that sends the first packet: `from`.
    Source,
    /// The end that it is sent to: `to`.
    Destination,
}

impl std::fmt::Display for Side {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Side::Source => "from",
            Side::Destination => "to",
        })
    }
}

/// A UUID in the common form.
fn format_uuid(uuid: &[u8; 16]) -> String {
    let mut text = String::with_capacity(36);
    for (i, byte) in uuid.iter().enumerate() {
        if matches!(i, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

/// Reads the common form: 8-4-4-4-12 hexadecimal digits.
pub(crate) fn parse_uuid(text: &str) -> Option<[u8; 16]> {
    let bytes = text.as_bytes();
    if bytes.len() != 36 || [8, 13, 18, 23].iter().any(|i| bytes[*i] != b'-') {
        return None;
    }
    let mut digits = bytes
        .iter()
        .enumerate()
        .filter(|(i, _)| !matches!(i, 8 | 13 | 18 | 23))
        .map(|(_, b)| char::from(*b).to_digit(16));
    let mut uuid = [0; 16];
    for byte in &mut uuid {
        let (high, low) = (digits.next()??, digits.next()??);
        *byte = u8::try_from(high << 4 | low).ok()?;
    }
    Some(uuid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuids_round_trip() {
        let text = "0f3a1c52-77aa-4b1e-9d10-ffee00112233";
        let uuid = parse_uuid(text).unwrap();
        assert_eq!(uuid[..4], [0x0f, 0x3a, 0x1c, 0x52]);
        assert_eq!(format_uuid(&uuid), text);
        for bad in [
            "",
            "web1",
            "0f3a1c52-77aa-4b1e-9d10-ffee0011223g",
            "0f3a1c52x77aa-4b1e-9d10-ffee00112233",
        ] {
            assert_eq!(parse_uuid(bad), None);
        }
    }
}
