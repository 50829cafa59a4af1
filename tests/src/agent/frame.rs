// SPDX-License-Identifier: GPL-3.0-only
//! The frames that carry sessions between the host, dom0's agent and a domU's agent.
//!
//! A domU's agent speaks over its console, where a dying kernel may write as well. So a frame can be
//! told from noise (magic and checksum), and whatever is not a frame is handed out as noise rather
//! than lost: it is the domain's log.

/// Bytes of a frame besides its payload.
const OVERHEAD: usize = HEADER + 4;
const HEADER: usize = 9;
/// Two bytes that no UTF-8 text holds next to each other.
const MAGIC: [u8; 2] = [0xfe, 0xc5];

/// Largest payload of one frame, bytes.
pub const MAX_PAYLOAD: usize = 32 * 1024;

/// What a frame says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A domU's agent is there: sent when it starts, and in answer to [`Kind::Ping`].
    Hello = 1,
    /// Asks for [`Kind::Hello`].
    Ping = 2,
    /// Starts a session; the payload is a [`super::request::Request`].
    Open = 3,
    /// Bytes for the session's input; an empty payload ends it.
    Input = 4,
    /// Bytes of standard output, or of the file asked for.
    Output = 5,
    /// Bytes of standard error.
    Error = 6,
    /// Bytes taken off a stream: payload is the acknowledged [`Kind`] and a little-endian `u32`.
    Ack = 7,
    /// The session is over; payload is an exit status, little-endian `i32`.
    Exit = 8,
    /// The session could not be carried out; the payload says why, in words.
    Refused = 9,
    /// The other side is gone: end the session's program.
    Hangup = 10,
}

impl Kind {
    /// The kind a byte stands for.
    pub fn from_byte(byte: u8) -> Option<Kind> {
        use Kind::*;
        [
            Hello, Ping, Open, Input, Output, Error, Ack, Exit, Refused, Hangup,
        ]
        .into_iter()
        .find(|kind| *kind as u8 == byte)
    }
}

/// One message of one session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Whose message it is; 0 is the link itself.
    pub session: u32,
    /// What it says.
    pub kind: Kind,
    /// Up to [`MAX_PAYLOAD`] bytes.
    pub payload: Vec<u8>,
}

impl Frame {
    /// A frame; the payload must not exceed [`MAX_PAYLOAD`] (it is cut there).
    pub fn new(session: u32, kind: Kind, payload: impl Into<Vec<u8>>) -> Frame {
        let mut payload = payload.into();
        payload.truncate(MAX_PAYLOAD);
        Frame {
            session,
            kind,
            payload,
        }
    }

    /// The bytes to send.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.payload.len() + OVERHEAD);
        bytes.extend(MAGIC);
        bytes.extend(self.session.to_le_bytes());
        bytes.push(self.kind as u8);
        bytes.extend((self.payload.len() as u16).to_le_bytes());
        bytes.extend(&self.payload);
        bytes.extend(checksum(&bytes).to_le_bytes());
        bytes
    }
}

/// FNV-1a: tells noise from frames. Nobody here forges frames.
fn checksum(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |sum, byte| {
        (sum ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
    })
}

/// What a stream of bytes holds.
#[derive(Debug, PartialEq, Eq)]
pub enum Item {
    /// A whole frame.
    Frame(Frame),
    /// Bytes that are no part of one.
    Noise(Vec<u8>),
}

/// Finds frames in a stream of bytes.
#[derive(Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    start: usize,
}

impl Decoder {
    /// Adds bytes as they come.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.start);
        self.start = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// The next frame or noise, or nothing until more bytes come.
    pub fn next_item(&mut self) -> Option<Item> {
        let rest = self.buffer.get(self.start..)?;
        if rest.is_empty() {
            return None;
        }
        let noise = match rest.windows(2).position(|pair| pair == MAGIC) {
            Some(0) => match parse(rest) {
                Parsed::Frame(frame, length) => {
                    self.start += length;
                    return Some(Item::Frame(frame));
                }
                Parsed::Incomplete => return None,
                Parsed::Broken => MAGIC.len(),
            },
            Some(position) => position,
            // The last byte may be the first of a magic whose second is still to come.
            None if rest.ends_with(&MAGIC[..1]) => rest.len() - 1,
            None => rest.len(),
        };
        if noise == 0 {
            return None;
        }
        let noise = rest.get(..noise)?.to_vec();
        self.start += noise.len();
        Some(Item::Noise(noise))
    }
}

enum Parsed {
    Frame(Frame, usize),
    Incomplete,
    Broken,
}

fn parse(bytes: &[u8]) -> Parsed {
    let Some((header, rest)) = bytes.split_first_chunk::<HEADER>() else {
        return Parsed::Incomplete;
    };
    let [_, _, a, b, c, d, kind, low, high] = *header;
    let length = usize::from(u16::from_le_bytes([low, high]));
    let Some(kind) = Kind::from_byte(kind).filter(|_| length <= MAX_PAYLOAD) else {
        return Parsed::Broken;
    };
    let (Some(payload), Some(sum)) = (rest.get(..length), rest.get(length..length + 4)) else {
        return Parsed::Incomplete;
    };
    if checksum(&bytes[..HEADER + length]).to_le_bytes() != sum {
        return Parsed::Broken;
    }
    let session = u32::from_le_bytes([a, b, c, d]);
    Parsed::Frame(
        Frame {
            session,
            kind,
            payload: payload.to_vec(),
        },
        length + OVERHEAD,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(decoder: &mut Decoder) -> Vec<Item> {
        std::iter::from_fn(|| decoder.next_item()).collect()
    }

    #[test]
    fn noise_around_a_frame_is_handed_out() {
        let frame = Frame::new(7, Kind::Output, *b"hello");
        let mut bytes = b"[ 1.0] panic\n".to_vec();
        bytes.extend(frame.encode());
        bytes.extend(b"tail");
        let mut decoder = Decoder::default();
        decoder.push(&bytes);
        let items = all(&mut decoder);
        assert_eq!(
            items,
            [
                Item::Noise(b"[ 1.0] panic\n".to_vec()),
                Item::Frame(frame),
                Item::Noise(b"tail".to_vec())
            ]
        );
    }

    #[test]
    fn a_damaged_frame_does_not_hide_the_next() {
        let mut bytes = Frame::new(1, Kind::Output, *b"first").encode();
        bytes[11] ^= 1;
        let second = Frame::new(1, Kind::Exit, 0i32.to_le_bytes());
        bytes.extend(second.encode());
        let mut decoder = Decoder::default();
        decoder.push(&bytes);
        assert_eq!(all(&mut decoder).last(), Some(&Item::Frame(second)));
    }

    proptest! {
        #[test]
        fn frames_survive_any_cutting(
            payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 1..5),
            cut in 1usize..50,
        ) {
            let frames: Vec<_> = payloads.into_iter().map(|p| Frame::new(3, Kind::Input, p)).collect();
            let bytes: Vec<u8> = frames.iter().flat_map(Frame::encode).collect();
            let mut decoder = Decoder::default();
            let mut found = Vec::new();
            for part in bytes.chunks(cut) {
                decoder.push(part);
                found.extend(all(&mut decoder));
            }
            let expected: Vec<_> = frames.into_iter().map(Item::Frame).collect();
            prop_assert_eq!(found, expected);
        }
    }
}
