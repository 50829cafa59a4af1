// SPDX-License-Identifier: GPL-3.0-only
//! Frames that the programs gave to userspace to hold ([`crate::Refuse::Hold`]), and their way back.

use std::io;

use crate::inject::{Injector, checksum, put};
use crate::layout::{self, RawHeld};
use crate::types::{Direction, FlowKey, Protocol};

/// Marks of bpf/hold.h: a frame that bears one is not held again.
const FROM_GUEST_MARK: u32 = 0x786d_4846;
const TO_GUEST_MARK: u32 = 0x786d_4854;

const ETHERNET: usize = 14;

/// A frame that a vif's program took out of the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldFrame {
    /// When, CLOCK_MONOTONIC in nanoseconds.
    pub ns: u64,
    /// Which way it went.
    pub direction: Direction,
    /// The vif.
    pub ifindex: u32,
    /// Its flow.
    pub key: FlowKey,
    /// The frame from its Ethernet header on, at most 1514 bytes. A sum that was left for a device to complete is complete.
    pub bytes: Vec<u8>,
}

impl HeldFrame {
    /// `None` for a record that is cut short.
    pub(crate) fn from_record(record: &[u8]) -> Option<Self> {
        let raw: RawHeld = layout::read(record)?;
        let frame = record.get(size_of::<RawHeld>()..)?;
        // Behind it a buffer may have bytes that only fill it up.
        let mut bytes = frame.get(..usize::from(raw.length))?.to_vec();
        let key = FlowKey::from_raw(&raw.key);
        complete_sum(&mut bytes, key.protocol, raw.l4.into(), raw.l3_end.into());
        Some(Self {
            ns: raw.ns,
            direction: Direction::from_raw(raw.direction),
            ifindex: raw.ifindex,
            key,
            bytes,
        })
    }
}

/// Where the sum of a TCP segment or UDP datagram is that of its pseudo header, it was left for a device to complete
/// (CHECKSUM_PARTIAL), which no field tells. A sum that was complete and is the same by chance is none the worse for it.
fn complete_sum(frame: &mut [u8], protocol: Protocol, l4: usize, l3_end: usize) {
    let field = match protocol {
        Protocol::TCP => 16,
        Protocol::UDP => 6,
        _ => return,
    };
    let addresses = match frame.get(12..ETHERNET) {
        Some([0x08, 0x00]) => frame.get(ETHERNET + 12..ETHERNET + 20),
        Some([0x86, 0xdd]) => frame.get(ETHERNET + 8..ETHERNET + 40),
        _ => return,
    };
    let (Some(addresses), Some(segment)) = (addresses, frame.get(l4..l3_end)) else {
        return;
    };
    let length = (segment.len() as u32).to_be_bytes();
    let pseudo = !checksum(&[addresses, &length, &[0, 0, 0, protocol.0]]);
    let there = segment.get(field..field + 2);
    if there != Some(&pseudo.to_be_bytes()[..]) {
        return;
    }
    // The sum of the pseudo header is in the field, and so in this one.
    let sum = match (checksum(&[segment]), protocol) {
        // Of UDP, 0 says that there is none.
        (0, Protocol::UDP) => 0xffff,
        (sum, _) => sum,
    };
    put(frame, l4 + field, sum);
}

/// Lets held frames go: each meets the programs of its vif as when it first came, and the verdict that is in force by then.
/// It is counted, translated, shaped and, where it is denied, answered like any other.
pub struct Release {
    from_guest: Injector,
    to_guest: Injector,
}

impl Release {
    /// Opens packet sockets in the network namespace of the calling thread.
    ///
    /// # Errors
    /// What the kernel says; it asks for CAP_NET_RAW and CAP_NET_ADMIN.
    pub fn open() -> io::Result<Release> {
        Ok(Release {
            from_guest: Injector::open(FROM_GUEST_MARK)?,
            to_guest: Injector::open(TO_GUEST_MARK)?,
        })
    }

    /// Lets a frame go. Those of one flow keep the order of these calls. Never waits.
    ///
    /// To be called while the datapath is attached to the frame's vif: without its programs, a guest would get its own frame.
    ///
    /// # Errors
    /// What the kernel says: the vif is gone or down. The frame is lost.
    pub fn send(&self, frame: &HeldFrame) -> io::Result<()> {
        // A vif's egress is the one place where a frame can be put; the program there hands those from the guest on.
        let injector = match frame.direction {
            Direction::FromGuest => &self.from_guest,
            Direction::ToGuest => &self.to_guest,
        };
        match injector.send(frame.ifindex, &frame.bytes) {
            // How a packet socket tells that the program, or a queue behind it, dropped it: as it may any packet.
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => Ok(()),
            sent => sent,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// UDP from 10.0.0.1:5000 to 10.0.0.2:53 with a payload of 3 bytes and 2 bytes of Ethernet padding.
    fn datagram(sum: [u8; 2]) -> Vec<u8> {
        let mut frame = vec![0; 12];
        frame.extend([0x08, 0x00]);
        frame.extend([
            0x45, 0, 0, 31, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
        ]);
        frame.extend([
            0x13, 0x88, 0, 53, 0, 11, sum[0], sum[1], b'a', b'b', b'c', 0xee, 0xee,
        ]);
        frame
    }

    #[test]
    fn a_sum_that_was_left_to_a_device_is_completed_and_no_other_is_touched() {
        // 0x0a00 + 0x0001 + 0x0a00 + 0x0002 + 11 + 17
        let mut frame = datagram(0x141f_u16.to_be_bytes());
        complete_sum(&mut frame, Protocol::UDP, 34, 45);
        let pseudo: [u8; 12] = [10, 0, 0, 1, 10, 0, 0, 2, 0, 17, 0, 11];
        assert_eq!(checksum(&[&pseudo, &frame[34..45]]), 0, "it adds up");
        let complete = frame.clone();
        complete_sum(&mut frame, Protocol::UDP, 34, 45);
        assert_eq!(frame, complete);
        for sum in [[0, 0], [0xab, 0xcd]] {
            let mut frame = datagram(sum);
            complete_sum(&mut frame, Protocol::UDP, 34, 45);
            assert_eq!(frame, datagram(sum), "none, or the sender's own");
        }
    }

    #[test]
    fn offsets_that_cannot_be_are_survived() {
        for (l4, l3_end) in [(0, 0), (45, 34), (34, 4000), (34, 36), (usize::from(u16::MAX), 0)] {
            complete_sum(&mut datagram([0x14, 0x1f]), Protocol::UDP, l4, l3_end);
        }
        complete_sum(&mut [], Protocol::TCP, 34, 54);
        assert_eq!(HeldFrame::from_record(&[0; 63]), None);
        let mut record = [0; 80];
        record[10] = 17;
        assert_eq!(
            HeldFrame::from_record(&record),
            None,
            "it says more than there is"
        );
    }
}
