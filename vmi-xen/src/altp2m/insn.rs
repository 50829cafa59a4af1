// SPDX-License-Identifier: GPL-3.0-only
//! The few instructions that a probe can be resumed past without executing them.

/// What `endbr64` looks like. The target of an indirect call must start with it
/// where IBT is on, so it is never replaced.
pub const ENDBR64: [u8; 4] = [0xf3, 0x0f, 0x1e, 0xfa];
/// The breakpoint instruction.
pub const INT3: u8 = 0xcc;

/// The longest NOP that is recognised, in bytes.
pub const LONGEST: usize = 11;

/// Length of the NOP that `bytes` start with, if they start with one.
///
/// Recognised are `nop` (90) and the long NOP (0f 1f /0) with any operand and
/// any number of 66 prefixes: they read no memory and change no register or
/// flag, so moving RIP behind them is all that executing them does. The ftrace
/// NOP (0f 1f 44 00 00) is one of them. `pause` (f3 90) and `endbr64` are not.
pub fn nop_length(bytes: &[u8]) -> Option<u8> {
    let prefixes = bytes.iter().take_while(|byte| **byte == 0x66).count();
    let length = prefixes
        + match bytes.get(prefixes..)? {
            [0x90, ..] => 1,
            [0x0f, 0x1f, rest @ ..] => 2 + operand_length(rest)?,
            _ => return None,
        };
    (length <= bytes.len().min(LONGEST)).then_some(length as u8)
}

/// Length of ModRM, SIB and displacement in 64-bit mode, for opcode extension 0.
fn operand_length(bytes: &[u8]) -> Option<usize> {
    let modrm = *bytes.first()?;
    let (mode, extension, rm) = (modrm >> 6, (modrm >> 3) & 7, modrm & 7);
    if extension != 0 {
        return None;
    }
    if mode == 3 {
        return Some(1);
    }
    let sib = if rm == 4 { 1 } else { 0 };
    let displacement = match mode {
        0 if rm == 5 => 4,
        0 if rm == 4 && bytes.get(1)? & 7 == 5 => 4,
        0 => 0,
        1 => 1,
        _ => 4,
    };
    Some(1 + sib + displacement)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_nops_that_kernels_are_padded_with() {
        // Intel's recommended sequences, as in the kernel's asm/nops.h.
        let nops: [&[u8]; 10] = [
            &[0x90],
            &[0x66, 0x90],
            &[0x0f, 0x1f, 0x00],
            &[0x0f, 0x1f, 0x40, 0x00],
            &[0x0f, 0x1f, 0x44, 0x00, 0x00],
            &[0x66, 0x0f, 0x1f, 0x44, 0x00, 0x00],
            &[0x0f, 0x1f, 0x80, 0, 0, 0, 0],
            &[0x0f, 0x1f, 0x84, 0x00, 0, 0, 0, 0],
            &[0x66, 0x0f, 0x1f, 0x84, 0x00, 0, 0, 0, 0],
            &[0x66, 0x66, 0x0f, 0x1f, 0x84, 0x00, 0, 0, 0, 0],
        ];
        for nop in nops {
            let mut code = nop.to_vec();
            code.extend([0x55; 4]);
            assert_eq!(nop_length(&code), Some(nop.len() as u8), "{nop:02x?}");
            assert_eq!(nop_length(&nop[..nop.len() - 1]), None, "cut {nop:02x?}");
        }
    }

    #[test]
    fn what_has_an_effect_is_not_a_nop() {
        let others: [&[u8]; 6] = [
            &ENDBR64,
            &[0xf3, 0x90],
            &[0x55, 0x48, 0x89, 0xe5],
            &[INT3],
            &[0xe8, 0, 0, 0, 0],
            // 0f 1f /1 is reserved, not documented as a NOP.
            &[0x0f, 0x1f, 0x48, 0x00],
        ];
        for other in others {
            assert_eq!(nop_length(other), None, "{other:02x?}");
        }
    }

    proptest! {
        #[test]
        fn never_longer_than_what_was_given(bytes in proptest::collection::vec(any::<u8>(), 0..16)) {
            if let Some(length) = nop_length(&bytes) {
                prop_assert!(usize::from(length) <= bytes.len() && length > 0);
            }
        }
    }
}
