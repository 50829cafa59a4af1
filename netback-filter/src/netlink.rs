// SPDX-License-Identifier: GPL-3.0-only
//! The few messages of rtnetlink that put a BPF filter on a vif. The loader library can attach one but neither exchange
//! it in place by handle, nor list others' filters, nor take the qdisc off again. `shape` adds those that shape.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send, socket,
};

pub(crate) const RTM_NEWQDISC: u16 = 36;
pub(crate) const RTM_DELQDISC: u16 = 37;
pub(crate) const RTM_GETQDISC: u16 = 38;
pub(crate) const RTM_NEWTFILTER: u16 = 44;
const RTM_DELTFILTER: u16 = 45;
const RTM_GETTFILTER: u16 = 46;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;

const NLM_F_REQUEST: u16 = 0x001;
pub(crate) const NLM_F_ACK: u16 = 0x004;
pub(crate) const NLM_F_EXCL: u16 = 0x200;
pub(crate) const NLM_F_CREATE: u16 = 0x400;
pub(crate) const NLM_F_DUMP: u16 = 0x300;

pub(crate) const TCA_KIND: u16 = 1;
pub(crate) const TCA_OPTIONS: u16 = 2;
const TCA_BPF_FD: u16 = 6;
const TCA_BPF_NAME: u16 = 7;
const TCA_BPF_FLAGS: u16 = 8;
const TCA_BPF_FLAG_ACT_DIRECT: u32 = 1;

const CLSACT_KIND: &[u8] = b"clsact\0";
const CLSACT: u32 = 0xffff_fff1;
const CLSACT_HANDLE: u32 = 0xffff_0000;
/// ETH_P_ALL, in network order as `tcm_info` wants it.
const ALL_PROTOCOLS: u32 = 0x0003_u16.to_be() as u32;

const HEADER: usize = 16;
pub(crate) const TCMSG: usize = 20;

/// A hook of the clsact qdisc: the parent of its filters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Hook {
    Ingress = 0xffff_fff2,
    Egress = 0xffff_fff3,
}

/// One filter on a hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Filter {
    pub handle: u32,
    pub priority: u16,
    /// The BPF program's name as it was attached; empty for filters of other kinds.
    pub name: String,
}

/// `struct tcmsg`.
pub(crate) struct TcMessage {
    pub ifindex: u32,
    pub handle: u32,
    pub parent: u32,
    pub info: u32,
}

/// A socket of rtnetlink, in the network namespace of the thread that opened it.
pub(crate) struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

impl Netlink {
    pub(crate) fn open() -> io::Result<Self> {
        Self::open_on(SockProtocol::NetlinkRoute)
    }

    /// The same of another family of messages.
    pub(crate) fn open_on(protocol: SockProtocol) -> io::Result<Self> {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            protocol,
        )?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Puts the clsact qdisc on an interface; one that is there already will do.
    ///
    /// # Errors
    /// EBUSY when the older `ingress` qdisc has the place: it would take a filter for egress, too, and run it on
    /// ingress.
    pub(crate) fn add_clsact(&mut self, ifindex: u32) -> io::Result<()> {
        let tc = TcMessage {
            ifindex,
            handle: CLSACT_HANDLE,
            parent: CLSACT,
            info: 0,
        };
        let mut attributes = Vec::new();
        put(&mut attributes, TCA_KIND, CLSACT_KIND);
        match self.request(
            RTM_NEWQDISC,
            NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL,
            &tc,
            &attributes,
        ) {
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => match self.has_clsact(ifindex)? {
                true => Ok(()),
                false => Err(io::Error::from_raw_os_error(libc::EBUSY)),
            },
            result => result.map(|_| ()),
        }
    }

    fn has_clsact(&mut self, ifindex: u32) -> io::Result<bool> {
        let all = TcMessage {
            ifindex,
            handle: 0,
            parent: 0,
            info: 0,
        };
        // Older kernels list the qdiscs of every interface.
        Ok(self
            .request(RTM_GETQDISC, NLM_F_DUMP, &all, &[])?
            .iter()
            .any(|body| {
                u32_at(body, 4) == Some(ifindex)
                    && body
                        .get(TCMSG..)
                        .and_then(|attributes| attribute(attributes, TCA_KIND))
                        == Some(CLSACT_KIND)
            }))
    }

    pub(crate) fn delete_clsact(&mut self, ifindex: u32) -> io::Result<()> {
        let tc = TcMessage {
            ifindex,
            handle: CLSACT_HANDLE,
            parent: CLSACT,
            info: 0,
        };
        self.request(RTM_DELQDISC, NLM_F_ACK, &tc, &[]).map(|_| ())
    }

    /// Sets a filter, or exchanges the one of the same priority and handle: no packet passes between the two.
    pub(crate) fn set_filter(
        &mut self,
        ifindex: u32,
        hook: Hook,
        filter: &Filter,
        program: i32,
    ) -> io::Result<()> {
        let tc = filter_message(ifindex, hook, filter);
        let mut options = Vec::new();
        put(&mut options, TCA_BPF_FD, &program.to_ne_bytes());
        put(
            &mut options,
            TCA_BPF_NAME,
            &[filter.name.as_bytes(), b"\0"].concat(),
        );
        put(
            &mut options,
            TCA_BPF_FLAGS,
            &TCA_BPF_FLAG_ACT_DIRECT.to_ne_bytes(),
        );
        let mut attributes = Vec::new();
        put(&mut attributes, TCA_KIND, b"bpf\0");
        put(&mut attributes, TCA_OPTIONS, &options);
        self.request(RTM_NEWTFILTER, NLM_F_ACK | NLM_F_CREATE, &tc, &attributes)
            .map(|_| ())
    }

    pub(crate) fn delete_filter(&mut self, ifindex: u32, hook: Hook, filter: &Filter) -> io::Result<()> {
        let tc = filter_message(ifindex, hook, filter);
        let mut attributes = Vec::new();
        put(&mut attributes, TCA_KIND, b"bpf\0");
        self.request(RTM_DELTFILTER, NLM_F_ACK, &tc, &attributes)
            .map(|_| ())
    }

    /// The filters on a hook; none where there is no clsact qdisc.
    pub(crate) fn filters(&mut self, ifindex: u32, hook: Hook) -> io::Result<Vec<Filter>> {
        let tc = TcMessage {
            ifindex,
            handle: 0,
            parent: hook as u32,
            info: 0,
        };
        let answers = match self.request(RTM_GETTFILTER, NLM_F_DUMP, &tc, &[]) {
            // Without the qdisc, kernels differ between an empty list and these.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOENT)) => vec![],
            result => result?,
        };
        // Each priority has an entry of its own without a handle: not a filter.
        Ok(answers
            .iter()
            .filter_map(|body| parse_filter(body))
            .filter(|f| f.handle != 0)
            .collect())
    }

    /// A request of traffic control: see [`Self::send`].
    pub(crate) fn request(
        &mut self,
        kind: u16,
        flags: u16,
        tc: &TcMessage,
        attributes: &[u8],
    ) -> io::Result<Vec<Vec<u8>>> {
        let mut body = Vec::with_capacity(TCMSG + attributes.len());
        body.extend(0_u32.to_ne_bytes()); // family and padding
        for word in [tc.ifindex, tc.handle, tc.parent, tc.info] {
            body.extend(word.to_ne_bytes());
        }
        body.extend(attributes);
        self.send(kind, flags, &body)
    }

    /// Sends a request and gathers the bodies of its answers, up to the acknowledgement or the end of the dump.
    pub(crate) fn send(&mut self, kind: u16, flags: u16, body: &[u8]) -> io::Result<Vec<Vec<u8>>> {
        self.sequence += 1;
        let mut message = Vec::with_capacity(HEADER + body.len());
        message.extend(((HEADER + body.len()) as u32).to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend((NLM_F_REQUEST | flags).to_ne_bytes());
        message.extend(self.sequence.to_ne_bytes());
        message.extend(0_u32.to_ne_bytes());
        message.extend(body);
        send(self.socket.as_raw_fd(), &message, MsgFlags::empty())?;

        let mut bodies = Vec::new();
        let mut buffer = vec![0_u8; 64 * 1024];
        loop {
            let length = recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
            let mut rest = &buffer[..length];
            while let Some((kind, sequence, body, next)) = split_message(rest) {
                rest = next;
                if sequence != self.sequence {
                    continue;
                }
                match kind {
                    NLMSG_DONE => return Ok(bodies),
                    NLMSG_ERROR => {
                        return match body.first_chunk().map(|code| i32::from_ne_bytes(*code)) {
                            Some(0) => Ok(bodies),
                            Some(code) => Err(io::Error::from_raw_os_error(code.wrapping_neg())),
                            None => Err(io::ErrorKind::InvalidData.into()),
                        };
                    }
                    _ => bodies.push(body.to_vec()),
                }
            }
        }
    }
}

pub(crate) fn filter_message(ifindex: u32, hook: Hook, filter: &Filter) -> TcMessage {
    TcMessage {
        ifindex,
        handle: filter.handle,
        parent: hook as u32,
        info: (u32::from(filter.priority) << 16) | ALL_PROTOCOLS,
    }
}

/// Appends an attribute, padded to 4 bytes.
pub(crate) fn put(to: &mut Vec<u8>, kind: u16, value: &[u8]) {
    to.extend(((4 + value.len()) as u16).to_ne_bytes());
    to.extend(kind.to_ne_bytes());
    to.extend(value);
    to.resize(to.len().next_multiple_of(4), 0);
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|b| u16::from_ne_bytes(*b))
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|b| u32::from_ne_bytes(*b))
}

/// Kind, sequence number and body of the first message, and what follows it.
pub(crate) fn split_message(bytes: &[u8]) -> Option<(u16, u32, &[u8], &[u8])> {
    let length = u32_at(bytes, 0)? as usize;
    let body = bytes.get(HEADER..length)?;
    let next = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    Some((u16_at(bytes, 4)?, u32_at(bytes, 8)?, body, next))
}

pub(crate) fn attribute(mut bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let length = u16_at(bytes, 0)? as usize;
        let value = bytes.get(4..length)?;
        // The top bits are flags.
        if u16_at(bytes, 2)? & 0x3fff == wanted {
            return Some(value);
        }
        bytes = bytes.get(length.next_multiple_of(4)..)?;
    }
}

fn parse_filter(body: &[u8]) -> Option<Filter> {
    let name =
        attribute(body.get(TCMSG..)?, TCA_OPTIONS).and_then(|options| attribute(options, TCA_BPF_NAME));
    Some(Filter {
        handle: u32_at(body, 8)?,
        priority: (u32_at(body, 16)? >> 16) as u16,
        name: name
            .map(|n| String::from_utf8_lossy(n).trim_end_matches('\0').to_owned())
            .unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn attributes_are_found_behind_others() {
        let mut bytes = Vec::new();
        put(&mut bytes, TCA_KIND, b"bpf\0");
        put(&mut bytes, TCA_BPF_NAME, b"odd\0\0");
        put(&mut bytes, TCA_BPF_FD, &7_u32.to_ne_bytes());
        assert_eq!(attribute(&bytes, TCA_BPF_FD), Some(&7_u32.to_ne_bytes()[..]));
        assert_eq!(attribute(&bytes, TCA_BPF_FLAGS), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            parse_filter(&bytes);
            attribute(&bytes, TCA_OPTIONS);
            if let Some((_, _, body, next)) = split_message(&bytes) {
                prop_assert!(body.len() + next.len() < bytes.len());
            }
        }
    }
}
