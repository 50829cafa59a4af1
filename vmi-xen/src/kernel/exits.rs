// SPDX-License-Identifier: GPL-3.0-only
//! Where a kernel function returns: a probe there sees the value that it gives back.
//!
//! The function's text is decoded from its first byte to the next symbol. Compilers put no data between instructions of the
//! kernel's text (jump tables are in read-only data), so that is sound; what does not decode ends the search with an error.

use iced_x86::{Code, Decoder, DecoderOptions, FlowControl, Instruction};
use thiserror::Error;

use super::Kernel;
use crate::memory::{MemoryError, PhysicalMemory};

/// Longer functions are not looked through. The longest in 7.2 that anyone would probe have 8 KiB.
const MAX_FUNCTION: u64 = 64 << 10;

/// Why the ends of a function are not known.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ExitsError {
    /// There is no such function.
    #[error("this kernel has no function {0}")]
    NoFunction(String),
    /// It is longer than what is looked through.
    #[error("the function at {0:#x} is too long to be looked through")]
    TooLong(u64),
    /// It holds what is no instruction.
    #[error("no instruction at {0:#x}")]
    Undecodable(u64),
    /// Its text could not be read.
    #[error(transparent)]
    Memory(#[from] MemoryError),
}

/// How a function is left.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Exits {
    /// Addresses of instructions that return to the caller: `ret`, and jumps to one of the kernel's return thunks. At each RSP
    /// points to the return address.
    pub returns: Vec<u64>,
    /// Functions that it jumps to in place of calling them last: their returns are its own.
    pub tail_calls: Vec<u64>,
    /// It has indirect jumps: by a jump table within itself, or to a function that is not known here.
    pub indirect: bool,
}

/// Looks through the function that starts at `va`, and through the part of it that the compiler put aside as `NAME.cold`.
///
/// # Errors
/// [`ExitsError`].
pub fn exits<M: PhysicalMemory + ?Sized>(mem: &M, kernel: &Kernel, va: u64) -> Result<Exits, ExitsError> {
    let mut found = Exits::default();
    let mut cold = Vec::new();
    walk(mem, kernel, va, &mut found, &mut cold)?;
    // Its cold parts have no further ones.
    for part in std::mem::take(&mut cold) {
        walk(mem, kernel, part, &mut found, &mut cold)?;
    }
    found.tail_calls.retain(|target| *target != va);
    Ok(found)
}

fn walk<M: PhysicalMemory + ?Sized>(
    mem: &M,
    kernel: &Kernel,
    start: u64,
    found: &mut Exits,
    cold: &mut Vec<u64>,
) -> Result<(), ExitsError> {
    let end = kernel
        .symbols
        .next_after(start)
        .ok_or(ExitsError::TooLong(start))?;
    let len = end - start;
    if len > MAX_FUNCTION {
        return Err(ExitsError::TooLong(start));
    }
    let mut text = vec![0; len as usize];
    kernel.space.read(mem, start, &mut text)?;
    let mut decoder = Decoder::with_ip(64, &text, start, DecoderOptions::NONE);
    let mut instruction = Instruction::default();
    while decoder.can_decode() {
        decoder.decode_out(&mut instruction);
        if instruction.is_invalid() {
            // The last instruction may be cut where padding is data; what padding is, is never reached.
            return Err(ExitsError::Undecodable(instruction.ip()));
        }
        match instruction.flow_control() {
            FlowControl::Return if is_near_return(instruction.code()) => found.returns.push(instruction.ip()),
            FlowControl::UnconditionalBranch | FlowControl::ConditionalBranch => {
                let target = instruction.near_branch_target();
                if (start..end).contains(&target) {
                    continue;
                }
                match kernel.symbols.name(target) {
                    Some(name) if name.ends_with("return_thunk") => found.returns.push(instruction.ip()),
                    // How a compiler jumps by a register where branches are guarded against speculation.
                    Some(name) if name.starts_with("__x86_indirect_thunk") => found.indirect = true,
                    Some(name) if name.contains(".cold") => push_new(cold, target),
                    Some(_) => push_new(&mut found.tail_calls, target),
                    // Back from a cold part into the middle of its function.
                    None => {}
                }
            }
            FlowControl::IndirectBranch => found.indirect = true,
            _ => {}
        }
    }
    Ok(())
}

fn is_near_return(code: Code) -> bool {
    matches!(code, Code::Retnq | Code::Retnq_imm16)
}

fn push_new(list: &mut Vec<u64>, item: u64) {
    if !list.contains(&item) {
        list.push(item);
    }
}
