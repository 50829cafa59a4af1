// SPDX-License-Identifier: GPL-3.0-only
//! How a vCPU gets past an int3 that stays where it is.

use iced_x86::{Decoder, DecoderOptions, Mnemonic};

use super::patch::CODE;
use crate::altp2m::{ENDBR64, INT3, nop_length};

/// A probed instruction, and how it is carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Resume {
    /// It is a NOP of so many bytes: moving RIP is all.
    Skip(u8),
    /// Xen's emulator carries it out, from this copy.
    Emulate([u8; CODE]),
}

/// Why an instruction cannot be probed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unfit {
    /// There is a breakpoint already, of the guest's: a kprobe, or a step of its patching, which passes.
    Breakpoint,
    /// It reaches over the end of the page, or is none that is surely carried out alike.
    Instruction,
}

/// The instruction that `code` (what is left of its page, at most [`CODE`] bytes) begins with: its length and how to resume.
///
/// Only plain instructions are taken, which Xen's emulator has had since long before 4.17 and does as the processor does. One that it did
/// not know would raise #UD in the guest.
pub(super) fn resume_of(code: &[u8]) -> Result<(usize, Resume), Unfit> {
    if code.first() == Some(&INT3) {
        return Err(Unfit::Breakpoint);
    }
    if let Some(length) = nop_length(code) {
        return Ok((usize::from(length), Resume::Skip(length)));
    }
    // A breakpoint in its place would make an indirect call raise #CP.
    if code.starts_with(&ENDBR64) {
        return Err(Unfit::Instruction);
    }
    let instruction = Decoder::new(64, code, DecoderOptions::NONE).decode();
    let plain = matches!(
        instruction.mnemonic(),
        Mnemonic::Push
            | Mnemonic::Pop
            | Mnemonic::Mov
            | Mnemonic::Movzx
            | Mnemonic::Movsxd
            | Mnemonic::Lea
            | Mnemonic::Add
            | Mnemonic::Sub
            | Mnemonic::And
            | Mnemonic::Or
            | Mnemonic::Xor
            | Mnemonic::Cmp
            | Mnemonic::Test
            | Mnemonic::Call
            | Mnemonic::Jmp
            | Mnemonic::Je
            | Mnemonic::Jne
            | Mnemonic::Ret
    );
    // Moves to control, debug and segment registers have effects beyond their operands.
    let special = (0..instruction.op_count()).any(|index| {
        let register = instruction.op_register(index);
        register.is_cr() || register.is_dr() || register.is_segment_register()
    });
    let far = instruction.is_call_far()
        || instruction.is_call_far_indirect()
        || instruction.is_jmp_far()
        || instruction.is_jmp_far_indirect();
    if instruction.is_invalid() || !plain || special || far {
        return Err(Unfit::Instruction);
    }
    let mut copy = [0; CODE];
    copy[..code.len().min(CODE)].copy_from_slice(&code[..code.len().min(CODE)]);
    Ok((instruction.len(), Resume::Emulate(copy)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ftrace_sites_are_skipped_and_calls_emulated() {
        let nop = [0x0f, 0x1f, 0x44, 0x00, 0x00, 0x55];
        assert_eq!(resume_of(&nop), Ok((5, Resume::Skip(5))));
        let call = [0xe8, 1, 2, 3, 4, 0x55];
        let (length, resume) = resume_of(&call).expect("a call");
        assert_eq!(length, 5);
        assert!(matches!(resume, Resume::Emulate(copy) if copy.starts_with(&call)));
    }

    #[test]
    fn what_functions_begin_and_end_with_is_fit() {
        let plain: [&[u8]; 9] = [
            &[0x55],
            &[0x41, 0x57],
            &[0x48, 0x89, 0xe5],
            &[0x48, 0x83, 0xec, 0x18],
            &[0x65, 0x48, 0x8b, 0x04, 0x25, 0x28, 0x00, 0x00, 0x00],
            &[0xf6, 0xc7, 0x01],
            &[0xe9, 1, 2, 3, 4],
            &[0xc3],
            &[0x83, 0xe7, 0x01],
        ];
        for code in plain {
            assert_eq!(
                resume_of(code).map(|(length, _)| length),
                Ok(code.len()),
                "{code:02x?}"
            );
        }
    }

    #[test]
    fn what_does_more_than_it_seems_is_not() {
        let others: [&[u8]; 9] = [
            &ENDBR64,
            // mov cr3, rax; mov ds, eax; syscall; wrmsr; lcall; lret; hlt; cut off; nothing.
            &[0x0f, 0x22, 0xd8],
            &[0x8e, 0xd8],
            &[0x0f, 0x05],
            &[0x0f, 0x30],
            &[0xff, 0x18],
            &[0xf4],
            &[0xe8, 1, 2],
            &[],
        ];
        for code in others {
            assert_eq!(resume_of(code), Err(Unfit::Instruction), "{code:02x?}");
        }
        assert_eq!(resume_of(&[INT3, 0x1f]), Err(Unfit::Breakpoint));
    }
}
