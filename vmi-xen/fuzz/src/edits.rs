// SPDX-License-Identifier: GPL-3.0-only
//! An input taken as a list of changes to something sound. So most inputs get past the first check.

/// One change.
#[derive(Clone, Copy)]
pub struct Edit {
    /// What kind of change.
    pub kind: u8,
    /// Where: the caller takes it modulo what there is.
    pub place: u32,
    /// With what.
    pub value: u64,
}

/// Bytes an edit takes.
const LEN: usize = 8;
/// Edits of one input that count.
const MAX: usize = 64;

/// The edits that an input says.
pub fn edits(data: &[u8]) -> impl Iterator<Item = Edit> {
    data.chunks_exact(LEN).take(MAX).map(|raw| {
        let small = u64::from(raw[7]);
        Edit {
            kind: raw[0],
            place: u32::from_le_bytes([raw[1], raw[2], raw[3], 0]),
            value: match raw[4] % 12 {
                0 => 0,
                1 => u64::MAX,
                2 => small,
                3 => u64::from(u32::MAX),
                4 => 0x7fff_ffff,
                // No canonical address, the lowest kernel address, the last bytes of all.
                5 => 0x0000_8000_0000_0000,
                6 => 0xffff_8000_0000_0000,
                7 => u64::MAX - small,
                8 => 1 << (small % 64),
                9 => u64::from(u16::from_le_bytes([raw[5], raw[6]])),
                10 => 0xffff_8880_0000_0000 | u64::from(u16::from_le_bytes([raw[5], raw[6]])) << 12,
                _ => u64::from(u32::from_le_bytes([raw[4], raw[5], raw[6], raw[7]])),
            },
        }
    })
}

/// A sound block with the edits of an input: 1, 2, 4 or 8 bytes overwritten, or the end cut off.
pub fn edited(sound: &[u8], data: &[u8]) -> Vec<u8> {
    let mut bytes = sound.to_vec();
    for edit in edits(data) {
        if bytes.is_empty() {
            break;
        }
        let at = edit.place as usize % bytes.len();
        if edit.kind == u8::MAX {
            bytes.truncate(at);
            continue;
        }
        let raw = edit.value.to_le_bytes();
        let len = (1 << (edit.kind % 4)).min(bytes.len() - at);
        bytes[at..at + len].copy_from_slice(&raw[..len]);
    }
    bytes
}
