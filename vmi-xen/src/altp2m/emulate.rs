// SPDX-License-Identifier: GPL-3.0-only
//! Instructions that a probe is resumed past with one exit: what they do is worked out here, and given to the vCPU as
//! registers.
//!
//! Only what touches registers, flags and RIP, by the rules of the Intel SDM, volume 2. An instruction that reads or
//! writes memory is stepped instead. `ret` is among those on purpose: what is at RSP must be the very frame that the guest has
//! there at this instant. A mapping that was kept may be stale, since a guest that balloons changes frames, and a wrong return
//! address is the guest's death; mapping page tables and stack anew at each trap costs more than the exit that is saved.

use iced_x86::{Code, ConditionCode, Decoder, DecoderOptions, Instruction, Mnemonic, OpKind, Register};
use xen_bindings::vm_event_regs_x86;

const CARRY: u64 = 1;
const PARITY: u64 = 1 << 2;
const ADJUST: u64 = 1 << 4;
const ZERO: u64 = 1 << 6;
const SIGN: u64 = 1 << 7;
const OVERFLOW: u64 = 1 << 11;
/// The flags that arithmetic sets.
const STATUS: u64 = CARRY | PARITY | ADJUST | ZERO | SIGN | OVERFLOW;

/// What an instruction may change: general registers in the order of their numbers, RIP and RFLAGS.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct State {
    pub general: [u64; 16],
    pub rip: u64,
    pub rflags: u64,
}

impl State {
    /// The part of an event's registers.
    pub fn of(regs: &vm_event_regs_x86) -> State {
        State {
            general: [
                regs.rax, regs.rcx, regs.rdx, regs.rbx, regs.rsp, regs.rbp, regs.rsi, regs.rdi, regs.r8,
                regs.r9, regs.r10, regs.r11, regs.r12, regs.r13, regs.r14, regs.r15,
            ],
            rip: regs.rip,
            rflags: regs.rflags,
        }
    }

    /// An event's registers with this part changed.
    pub fn within(&self, regs: &vm_event_regs_x86) -> vm_event_regs_x86 {
        let [
            rax,
            rcx,
            rdx,
            rbx,
            rsp,
            rbp,
            rsi,
            rdi,
            r8,
            r9,
            r10,
            r11,
            r12,
            r13,
            r14,
            r15,
        ] = self.general;
        vm_event_regs_x86 {
            rax,
            rcx,
            rdx,
            rbx,
            rsp,
            rbp,
            rsi,
            rdi,
            r8,
            r9,
            r10,
            r11,
            r12,
            r13,
            r14,
            r15,
            rip: self.rip,
            rflags: self.rflags,
            ..*regs
        }
    }

    fn get(&self, register: u8) -> u64 {
        // Numbers of registers are made by `number`, which gives 0 to 15.
        self.general[usize::from(register & 15)]
    }

    /// Writing the low half of a register clears the other.
    fn set(&mut self, register: u8, value: u64, wide: bool) {
        self.general[usize::from(register & 15)] = if wide { value } else { value & 0xffff_ffff };
    }

    fn is(&self, flag: u64) -> bool {
        self.rflags & flag != 0
    }

    fn holds(&self, condition: ConditionCode) -> bool {
        let less = self.is(SIGN) != self.is(OVERFLOW);
        match condition {
            ConditionCode::None => true,
            ConditionCode::o => self.is(OVERFLOW),
            ConditionCode::no => !self.is(OVERFLOW),
            ConditionCode::b => self.is(CARRY),
            ConditionCode::ae => !self.is(CARRY),
            ConditionCode::e => self.is(ZERO),
            ConditionCode::ne => !self.is(ZERO),
            ConditionCode::be => self.is(CARRY) || self.is(ZERO),
            ConditionCode::a => !self.is(CARRY) && !self.is(ZERO),
            ConditionCode::s => self.is(SIGN),
            ConditionCode::ns => !self.is(SIGN),
            ConditionCode::p => self.is(PARITY),
            ConditionCode::np => !self.is(PARITY),
            ConditionCode::l => less,
            ConditionCode::ge => !less,
            ConditionCode::le => less || self.is(ZERO),
            ConditionCode::g => !less && !self.is(ZERO),
        }
    }
}

/// An operand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Value {
    Register(u8),
    Immediate(u64),
    /// An address, as `lea` computes one.
    Address {
        base: Option<u8>,
        index: Option<(u8, u32)>,
        displacement: u64,
        from_rip: bool,
    },
}

impl Value {
    fn of(self, state: &State) -> u64 {
        match self {
            Value::Register(register) => state.get(register),
            Value::Immediate(value) => value,
            Value::Address {
                base,
                index,
                displacement,
                from_rip,
            } => {
                let start = if from_rip { state.rip } else { 0 };
                let scaled = index.map_or(0, |(index, scale)| {
                    state.get(index).wrapping_mul(u64::from(scale))
                });
                let base = base.map_or(0, |base| state.get(base));
                start
                    .wrapping_add(base)
                    .wrapping_add(scaled)
                    .wrapping_add(displacement)
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operation {
    Add,
    Subtract,
    And,
    Or,
    Xor,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Effect {
    Nothing,
    Set {
        to: u8,
        value: Value,
        wide: bool,
    },
    Compute {
        operation: Operation,
        left: u8,
        right: Value,
        /// Whether the result goes to the left operand: `cmp` and `test` keep the flags only.
        kept: bool,
        wide: bool,
    },
    Jump {
        condition: ConditionCode,
        /// From the instruction's own address.
        displacement: u64,
    },
}

/// An instruction that is understood in full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Plan {
    length: u8,
    effect: Effect,
}

impl Plan {
    /// A NOP of so many bytes.
    pub fn nop(length: u8) -> Plan {
        Plan {
            length,
            effect: Effect::Nothing,
        }
    }

    /// What the instruction that `code` starts with does in 64-bit mode, if that is all understood.
    pub fn of(code: &[u8]) -> Option<Plan> {
        // At address zero, relative addresses are told as distances.
        let instruction = Decoder::with_ip(64, code, 0, DecoderOptions::NONE).decode();
        let prefixed =
            instruction.has_lock_prefix() || instruction.has_rep_prefix() || instruction.has_repne_prefix();
        if instruction.is_invalid() || prefixed {
            return None;
        }
        Some(Plan {
            length: u8::try_from(instruction.len()).ok()?,
            effect: effect(&instruction)?,
        })
    }

    /// Carries it out.
    pub fn apply(&self, state: &mut State) {
        let next = state.rip.wrapping_add(u64::from(self.length));
        match self.effect {
            Effect::Nothing => {}
            Effect::Set { to, value, wide } => state.set(to, value.of(state), wide),
            Effect::Compute {
                operation,
                left,
                right,
                kept,
                wide,
            } => {
                let (result, flags) = compute(operation, state.get(left), right.of(state), wide);
                state.rflags = (state.rflags & !STATUS) | flags;
                if kept {
                    state.set(left, result, wide);
                }
            }
            Effect::Jump {
                condition,
                displacement,
            } if state.holds(condition) => {
                state.rip = state.rip.wrapping_add(displacement);
                return;
            }
            Effect::Jump { .. } => {}
        }
        state.rip = next;
    }
}

fn effect(instruction: &Instruction) -> Option<Effect> {
    if let Some(jump) = jump(instruction) {
        return Some(jump);
    }
    let compute = |operation, kept| {
        let (left, wide) = number(instruction, 0)?;
        Some(Effect::Compute {
            operation,
            left,
            right: operand(instruction, wide)?,
            kept,
            wide,
        })
    };
    match instruction.mnemonic() {
        Mnemonic::Mov => {
            let (to, wide) = number(instruction, 0)?;
            let value = operand(instruction, wide)?;
            Some(Effect::Set { to, value, wide })
        }
        Mnemonic::Lea => {
            let (to, wide) = number(instruction, 0)?;
            let value = address(instruction)?;
            Some(Effect::Set { to, value, wide })
        }
        Mnemonic::Add => compute(Operation::Add, true),
        Mnemonic::Sub => compute(Operation::Subtract, true),
        Mnemonic::Cmp => compute(Operation::Subtract, false),
        Mnemonic::And => compute(Operation::And, true),
        Mnemonic::Test => compute(Operation::And, false),
        Mnemonic::Or => compute(Operation::Or, true),
        Mnemonic::Xor => compute(Operation::Xor, true),
        _ => None,
    }
}

/// A near jump. Of the plain length: what a prefix does to one is not the same on all CPUs.
fn jump(instruction: &Instruction) -> Option<Effect> {
    let plain = match instruction.code() {
        Code::Jmp_rel8_64 => 2,
        Code::Jmp_rel32_64 => 5,
        _ if instruction.is_jcc_short() => 2,
        _ if instruction.is_jcc_near() => 6,
        _ => return None,
    };
    let near = instruction.op0_kind() == OpKind::NearBranch64 && instruction.len() == plain;
    near.then(|| Effect::Jump {
        condition: instruction.condition_code(),
        displacement: instruction.near_branch64(),
    })
}

/// The number of a register operand, and whether all its 64 bits are meant; none for the other widths.
fn number(instruction: &Instruction, operand: u32) -> Option<(u8, bool)> {
    if instruction.op_kind(operand) != OpKind::Register {
        return None;
    }
    let register = instruction.op_register(operand);
    let wide = register.is_gpr64();
    (wide || register.is_gpr32()).then_some((register.number() as u8, wide))
}

/// The second operand, if it is a register or a number.
fn operand(instruction: &Instruction, wide: bool) -> Option<Value> {
    match number(instruction, 1) {
        Some((register, as_wide)) => (wide == as_wide).then_some(Value::Register(register)),
        None => instruction.try_immediate(1).ok().map(Value::Immediate),
    }
}

fn address(instruction: &Instruction) -> Option<Value> {
    let part = |register: Register| match register {
        Register::None => Some(None),
        register if register.is_gpr64() => Some(Some(register.number() as u8)),
        _ => None,
    };
    let displacement = instruction.memory_displacement64();
    if instruction.memory_base() == Register::RIP {
        return Some(Value::Address {
            base: None,
            index: None,
            displacement,
            from_rip: true,
        });
    }
    let base = part(instruction.memory_base())?;
    let index = part(instruction.memory_index())?.map(|index| (index, instruction.memory_index_scale()));
    // A bare number does not show how wide addresses are.
    (base.is_some() || index.is_some()).then_some(Value::Address {
        base,
        index,
        displacement,
        from_rip: false,
    })
}

/// The result and the status flags. Of logic operations the adjust flag is undefined; here it is cleared.
fn compute(operation: Operation, left: u64, right: u64, wide: bool) -> (u64, u64) {
    let (mask, top) = if wide {
        (u64::MAX, 1 << 63)
    } else {
        (0xffff_ffff, 1 << 31)
    };
    let (left, right) = (left & mask, right & mask);
    let result = mask
        & match operation {
            Operation::Add => left.wrapping_add(right),
            Operation::Subtract => left.wrapping_sub(right),
            Operation::And => left & right,
            Operation::Or => left | right,
            Operation::Xor => left ^ right,
        };
    let (carry, overflow, adjust) = match operation {
        Operation::Add => (
            result < left,
            (left ^ result) & (right ^ result) & top != 0,
            (left ^ right ^ result) & 0x10 != 0,
        ),
        Operation::Subtract => (
            left < right,
            (left ^ right) & (left ^ result) & top != 0,
            (left ^ right ^ result) & 0x10 != 0,
        ),
        Operation::And | Operation::Or | Operation::Xor => (false, false, false),
    };
    let flag = |set: bool, flag: u64| if set { flag } else { 0 };
    let flags = flag(carry, CARRY)
        | flag((result as u8).count_ones().is_multiple_of(2), PARITY)
        | flag(adjust, ADJUST)
        | flag(result == 0, ZERO)
        | flag(result & top != 0, SIGN)
        | flag(overflow, OVERFLOW);
    (result, flags)
}

#[cfg(test)]
#[path = "emulate_tests.rs"]
mod tests;
