// SPDX-License-Identifier: GPL-3.0-only
//! The reference is this machine's CPU: instructions are put into a small program that loads the registers, executes one,
//! and writes out what they are then.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::process::Command;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use super::*;

/// Where the program is, below 2 GiB: absolute addresses fit into 32 bits.
const BASE: u64 = 0x40_0000;
/// A case's data: sixteen registers before, RFLAGS before, sixteen after, RFLAGS after, and where it came out.
const SLOT: u64 = 35 * 8;
/// A stack for the program's own use, at the end of its data.
const STACK: u64 = 4096;
/// Jumps go this far beyond the instruction: over the code of "not taken".
const SKIP: u8 = 11;

/// A machine instruction under test with what it finds.
#[derive(Debug, Clone)]
struct Case {
    code: Vec<u8>,
    before: State,
}

/// `mov`s between the general register `n` and the absolute address `at`.
fn transfer(code: &mut Vec<u8>, store: bool, n: u8, at: u64) {
    let opcode = if store { 0x89 } else { 0x8b };
    code.extend([0x48 | (n >> 3) << 2, opcode, 0x04 | (n & 7) << 3, 0x25]);
    code.extend((at as u32).to_le_bytes());
}

/// `mov byte [at], value`: eight bytes.
fn mark(code: &mut Vec<u8>, at: u64, value: u8) {
    code.extend([0xc6, 0x04, 0x25]);
    code.extend((at as u32).to_le_bytes());
    code.push(value);
}

/// The code of one case: load all, execute, note where it came out, store all.
fn chunk(case: &Case, slot: u64, stack: u64) -> Vec<u8> {
    let mut code = vec![0x48, 0xc7, 0xc4];
    code.extend((stack as u32).to_le_bytes());
    code.extend([0xff, 0x34, 0x25]);
    code.extend(((slot + 16 * 8) as u32).to_le_bytes());
    code.push(0x9d);
    for n in 0..16 {
        transfer(&mut code, false, n, slot + u64::from(n) * 8);
    }
    code.extend(&case.code);
    // Not taken: the mark, a short jump over the other mark, and one byte that is not executed.
    mark(&mut code, slot + 34 * 8, 1);
    code.extend([0xeb, 0x09, 0xcc]);
    mark(&mut code, slot + 34 * 8, 2);
    for n in 0..16 {
        transfer(&mut code, true, n, slot + u64::from(17 + n) * 8);
    }
    code.extend([0x48, 0xc7, 0xc4]);
    code.extend((stack as u32).to_le_bytes());
    code.extend([0x9c, 0x8f, 0x04, 0x25]);
    code.extend(((slot + 33 * 8) as u32).to_le_bytes());
    code
}

/// An ELF executable of one segment that runs all cases and writes their data to its standard output. Also gives the address of
/// each case's instruction.
fn program(cases: &[Case]) -> (Vec<u8>, Vec<u64>) {
    const HEADERS: u64 = 64 + 56;
    const FINISH: u64 = 40;
    let sizes: Vec<u64> = cases.iter().map(|case| chunk(case, 0, 0).len() as u64).collect();
    let data = BASE + HEADERS + sizes.iter().sum::<u64>() + FINISH;
    let length = cases.len() as u64 * SLOT;
    let stack = data + length + STACK;
    let mut code = Vec::new();
    let mut places = Vec::new();
    for (case, number) in cases.iter().zip(0..) {
        // Before it: the stack (7), flags (8), and sixteen loads of 8.
        places.push(BASE + HEADERS + code.len() as u64 + 7 + 8 + 128);
        code.extend(chunk(case, data + number * SLOT, stack));
    }
    // write(1, data, length); exit(0)
    code.extend([0xb8, 1, 0, 0, 0, 0xbf, 1, 0, 0, 0, 0xbe]);
    code.extend((data as u32).to_le_bytes());
    code.push(0xba);
    code.extend((length as u32).to_le_bytes());
    code.extend([0x0f, 0x05, 0xb8, 60, 0, 0, 0, 0x31, 0xff, 0x0f, 0x05]);
    code.resize((data - BASE - HEADERS) as usize, 0x90);
    for case in cases {
        for register in case.before.general {
            code.extend(register.to_le_bytes());
        }
        code.extend(case.before.rflags.to_le_bytes());
        code.extend([0; 18 * 8]);
    }
    let mut elf = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    elf.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    elf.extend((BASE + HEADERS).to_le_bytes());
    elf.extend(64_u64.to_le_bytes());
    elf.extend([0; 12]);
    elf.extend([64, 0, 56, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    // PT_LOAD, readable, writable and executable.
    elf.extend([1, 0, 0, 0, 7, 0, 0, 0]);
    let file = HEADERS + code.len() as u64;
    for value in [0, BASE, BASE, file, file + STACK, 4096] {
        elf.extend(value.to_le_bytes());
    }
    elf.extend(code);
    (elf, places)
}

/// What the CPU made of a case: general registers, status flags, and whether it jumped.
type After = ([u64; 16], u64, bool);

/// Executes all cases. Also gives the address of each one's instruction.
fn executed(cases: &[Case]) -> (Vec<After>, Vec<u64>) {
    let (elf, places) = program(cases);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cases");
    let mut options = std::fs::OpenOptions::new();
    let mut file = options
        .create_new(true)
        .write(true)
        .mode(0o700)
        .open(&path)
        .unwrap();
    file.write_all(&elf).unwrap();
    drop(file);
    let output = Command::new(&path).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(output.stdout.len(), cases.len() * SLOT as usize);
    let words = |bytes: &[u8]| -> Vec<u64> {
        bytes
            .chunks_exact(8)
            .map(|word| u64::from_le_bytes(word.try_into().unwrap()))
            .collect()
    };
    let results = output.stdout.chunks_exact(SLOT as usize).map(|slot| {
        let slot = words(slot);
        (slot[17..33].try_into().unwrap(), slot[33] & STATUS, slot[34] == 2)
    });
    (results.collect(), places)
}

/// Instructions as compilers make them, in all forms that are understood.
fn code() -> impl Strategy<Value = Vec<u8>> {
    let rex = |wide: bool, reg: u8, index: u8, rm: u8| {
        0x40 | u8::from(wide) << 3 | (reg >> 3) << 2 | (index >> 3) << 1 | rm >> 3
    };
    // add, or, and, sub, xor, cmp, test, mov: register to register, both directions where there are two.
    let opcodes = prop::sample::select(vec![
        0x01, 0x03, 0x09, 0x0b, 0x21, 0x23, 0x29, 0x2b, 0x31, 0x33, 0x39, 0x3b, 0x85, 0x89, 0x8b,
    ]);
    let registers = (opcodes, any::<bool>(), 0..16_u8, 0..16_u8).prop_map(move |(opcode, wide, reg, rm)| {
        vec![rex(wide, reg, 0, rm), opcode, 0xc0 | (reg & 7) << 3 | rm & 7]
    });
    // The same with a number, of a byte or four: /0 add, /1 or, /4 and, /5 sub, /6 xor, /7 cmp.
    let group = prop::sample::select(vec![0_u8, 1, 4, 5, 6, 7]);
    let numbers = (group, any::<bool>(), 0..16_u8, any::<i32>(), any::<bool>()).prop_map(
        move |(operation, wide, rm, number, short)| {
            let opcode = if short { 0x83 } else { 0x81 };
            let mut code = vec![rex(wide, 0, 0, rm), opcode, 0xc0 | operation << 3 | rm & 7];
            let bytes = number.to_le_bytes();
            code.extend(&bytes[..if short { 1 } else { 4 }]);
            code
        },
    );
    let set = (0..16_u8, any::<u64>(), 0..3).prop_map(move |(rm, number, form)| {
        let bytes = number.to_le_bytes();
        let mut code = match form {
            0 => vec![rex(true, 0, 0, rm), 0xb8 | rm & 7],
            1 => vec![rex(false, 0, 0, rm), 0xb8 | rm & 7],
            _ => vec![rex(true, 0, 0, rm), 0xc7, 0xc0 | rm & 7],
        };
        code.extend(&bytes[..if form == 0 { 8 } else { 4 }]);
        code
    });
    // lea with base, index, scale and displacement of four bytes; with RIP.
    let lea = (any::<bool>(), 0..16_u8, 0..16_u8, 0..16_u8, 0..4_u8, any::<i32>()).prop_map(
        move |(wide, reg, base, index, scale, displacement)| {
            let sib = scale << 6 | (index & 7) << 3 | base & 7;
            let mut code = vec![rex(wide, reg, index, base), 0x8d, 0x84 | (reg & 7) << 3, sib];
            code.extend(displacement.to_le_bytes());
            code
        },
    );
    let lea_rip = (0..16_u8, any::<i32>()).prop_map(move |(reg, displacement)| {
        let mut code = vec![rex(true, reg, 0, 0), 0x8d, 0x05 | (reg & 7) << 3];
        code.extend(displacement.to_le_bytes());
        code
    });
    let jumps = (0..18_u8).prop_map(|condition| match condition {
        16 => vec![0xeb, SKIP],
        17 => vec![0xe9, SKIP, 0, 0, 0],
        condition => vec![0x70 | condition, SKIP],
    });
    let near = (0..16_u8).prop_map(|condition| vec![0x0f, 0x80 | condition, SKIP, 0, 0, 0]);
    prop_oneof![4 => registers, 4 => numbers, 1 => set, 2 => lea, 1 => lea_rip, 2 => jumps, 2 => near]
}

/// Numbers at the edges as often as any.
fn word() -> impl Strategy<Value = u64> {
    prop_oneof![
        any::<u64>(),
        any::<u8>().prop_map(u64::from),
        any::<i8>().prop_map(|n| n as u64),
        any::<i32>().prop_map(|n| n as u64),
        prop::sample::select(vec![
            0,
            1,
            0x7fff_ffff,
            0x8000_0000,
            i64::MAX as u64,
            i64::MIN as u64,
            u64::MAX
        ]),
    ]
}

fn case() -> impl Strategy<Value = Case> {
    (code(), prop::array::uniform16(word()), any::<u64>()).prop_map(|(code, general, flags)| Case {
        code,
        before: State {
            general,
            rip: 0,
            // Bit 1 is always set; interrupts are on in a process.
            rflags: flags & STATUS | 0x202,
        },
    })
}

#[test]
fn the_cpu_does_the_same() {
    let mut runner = TestRunner::default();
    let strategy = prop::collection::vec(case(), 4000);
    let cases = strategy.new_tree(&mut runner).unwrap().current();
    let (results, places) = executed(&cases);
    let mut jumped = 0;
    for ((case, (general, flags, taken)), place) in cases.iter().zip(results).zip(places) {
        let plan = Plan::of(&case.code).unwrap_or_else(|| panic!("not understood: {case:02x?}"));
        let mut state = State {
            rip: place,
            ..case.before
        };
        plan.apply(&mut state);
        let next = place + case.code.len() as u64;
        assert_eq!(state.general, general, "{case:02x?}");
        assert_eq!(
            state.rip,
            if taken { next + u64::from(SKIP) } else { next },
            "{case:02x?}"
        );
        let logic = matches!(
            plan.effect,
            Effect::Compute {
                operation: Operation::And | Operation::Or | Operation::Xor,
                ..
            }
        );
        let defined = if logic { STATUS & !ADJUST } else { STATUS };
        assert_eq!(state.rflags & defined, flags & defined, "{case:02x?}");
        assert_eq!(
            state.rflags & !STATUS,
            case.before.rflags & !STATUS,
            "{case:02x?}"
        );
        jumped += usize::from(taken);
    }
    assert!(jumped > 100, "only {jumped} jumps were taken");
}

#[test]
fn what_touches_memory_or_more_is_not_understood() {
    let others: [&[u8]; 14] = [
        &[0xc3],
        &[0x55],
        &[0x5d],
        &[0xc9],
        &[0xcc],
        &[0xe8, 0, 0, 0, 0],
        &[0xff, 0xe0],
        // mov rax, [rdi] and back; lock add; add with a memory operand
        &[0x48, 0x8b, 0x07],
        &[0x48, 0x89, 0x07],
        &[0xf0, 0x48, 0x01, 0x07],
        &[0x48, 0x03, 0x07],
        // 16 and 8 bits
        &[0x66, 0x01, 0xc8],
        &[0x00, 0xc8],
        // a jump with a prefix that CPUs disagree on
        &[0x66, 0xe9, 0, 0, 0, 0],
    ];
    for other in others {
        assert_eq!(Plan::of(other), None, "{other:02x?}");
    }
    // mov to segment and control registers, and cut ones.
    for other in [&[0x8e, 0xd8][..], &[0x0f, 0x22, 0xd8], &[0x48, 0x01], &[]] {
        assert_eq!(Plan::of(other), None, "{other:02x?}");
    }
}

proptest! {
    #[test]
    fn hostile_bytes_are_no_trouble(code in prop::collection::vec(any::<u8>(), 0..20), general in prop::array::uniform16(any::<u64>())) {
        if let Some(plan) = Plan::of(&code) {
            prop_assert!(usize::from(plan.length) <= code.len().min(15));
            let mut state = State { general, rip: u64::MAX, rflags: 2 };
            plan.apply(&mut state);
        }
    }
}
