// SPDX-License-Identifier: GPL-3.0-only
//! Keeps one byte off a domU's console: Linux takes ^O there for SysRq and the byte after it for a
//! command, and 'b' means reboot.

const SYSRQ: u8 = 0x0f;
const ESCAPE: u8 = 0x10;
const SHIFT: u8 = 0x40;

/// The bytes to send in place of these.
pub fn stuff(bytes: &[u8]) -> Vec<u8> {
    let mut stuffed = Vec::with_capacity(bytes.len() + bytes.len() / 64);
    for byte in bytes {
        match *byte {
            SYSRQ | ESCAPE => stuffed.extend([ESCAPE, byte ^ SHIFT]),
            other => stuffed.push(other),
        }
    }
    stuffed
}

/// The inverse of [`stuff`], over a stream that may be cut anywhere.
#[derive(Default)]
pub struct Unstuff {
    escaped: bool,
}

impl Unstuff {
    /// The bytes that were meant.
    pub fn take(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut plain = Vec::with_capacity(bytes.len());
        for byte in bytes {
            match (self.escaped, *byte) {
                (true, byte) => {
                    plain.push(byte ^ SHIFT);
                    self.escaped = false;
                }
                (false, ESCAPE) => self.escaped = true,
                (false, byte) => plain.push(byte),
            }
        }
        plain
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_sysrq_is_sent_and_nothing_is_lost(
            bytes in prop::collection::vec(prop_oneof![Just(0x0f), Just(0x10), any::<u8>()], 0..200),
            cut in 1usize..20,
        ) {
            let sent = stuff(&bytes);
            prop_assert!(!sent.contains(&0x0f));
            let mut unstuff = Unstuff::default();
            let plain: Vec<u8> = sent.chunks(cut).flat_map(|part| unstuff.take(part)).collect();
            prop_assert_eq!(plain, bytes);
        }
    }
}
