// SPDX-License-Identifier: GPL-3.0-only
//! Finds and decodes kallsyms, the kernel's own symbol table, in the bytes of
//! its read-only data. Pure functions over bytes.
//!
//! What `scripts/kallsyms.c` of the kernel writes, by version:
//!
//! | kernel | order of the tables | address of symbol i |
//! |---|---|---|
//! | to 6.3 | offsets, relative_base, num_syms, names, markers, (6.2: seqs_of_names), token_table, token_index | offset < 0: base - 1 - offset, else absolute |
//! | 6.4 to 6.14 | num_syms, names, markers, token_table, token_index, offsets, relative_base, seqs_of_names | same |
//! | 6.15 to 6.19 | same | base + unsigned offset |
//! | 7.0 on | same, without relative_base, aligned to 4 rather than 8 | address of offsets\[i\] + offsets\[i\] |
//!
//! Nothing here asks for the version. Each table is recognised by what it must
//! look like and proved by the others: the token index is the running sum of
//! the token table, the markers are the running sum of the names, and which of
//! the address rules holds is for the caller to prove with symbols whose
//! address it knows.

use std::ops::Range;

use super::symbols::{Name, Symbols};

/// Tokens in the table: one for each byte value.
const TOKENS: usize = 256;
/// Longest token that is believed, in bytes. Real ones have up to about 40.
const MAX_TOKEN: usize = 256;
/// The marker table has an entry for each 256th symbol.
const SYMBOLS_PER_MARKER: usize = 256;
/// A kernel with fewer symbols does not exist; keeps chance matches out.
const MIN_SYMBOLS: usize = 4096;
/// More symbols than any kernel has (allyesconfig: about a million).
const MAX_SYMBOLS: usize = 2_000_000;
/// Bytes of decoded names; real kernels have 3 to 30 MiB.
const MAX_ARENA: usize = 128 << 20;
/// Places that look like a token index, and token tables that prove one, before
/// the search gives up: a real kernel has one of each, and a block full of
/// imitations must not keep the engine busy.
const MAX_INDEXES: usize = 256;
const MAX_TABLES: usize = 8;
/// Entries looked at in search of the names' start. A real table is found among
/// the first places tried; bytes that repeat fit at many places nearly to their
/// end.
const MAX_TRIED: usize = 16 * MAX_SYMBOLS;
/// KSYM_NAME_LEN of the kernel, plus the kind.
const MAX_NAME: usize = 513;
/// Longest entry of the names table: two bytes of length, then tokens.
const MAX_ENTRY: usize = MAX_NAME + 2;

/// kallsyms found in a block of bytes: the names, and where the tables lie.
pub struct Kallsyms<'a> {
    bytes: &'a [u8],
    /// Where `num_syms` lies, in the block.
    num_syms_at: usize,
    /// First byte behind `token_index`.
    token_index_end: usize,
    arena: String,
    names: Vec<Name>,
}

/// How an address follows from an offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressRule {
    /// Negative: base - 1 - offset; otherwise the offset itself (per-CPU).
    Signed {
        /// kallsyms_relative_base.
        base: u64,
    },
    /// base + offset, the offset taken as unsigned.
    Unsigned {
        /// kallsyms_relative_base.
        base: u64,
    },
    /// The entry's own address + offset.
    SelfRelative,
}

/// One reading of the offsets table, to be proved by the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// Where the offsets table lies in the block.
    offsets_at: usize,
    rule: AddressRule,
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

impl<'a> Kallsyms<'a> {
    /// Searches `bytes`, which must start 8-byte aligned in the guest.
    /// Returns the first set of tables that proves itself.
    pub fn find(bytes: &'a [u8]) -> Option<Self> {
        let mut from = 0;
        let mut tables = 0;
        for _ in 0..MAX_INDEXES {
            let index_at = find_token_index(bytes, from)?;
            if let Some(tokens) = Tokens::before(bytes, index_at) {
                if let Some(found) = Self::with_tokens(bytes, index_at, &tokens) {
                    return Some(found);
                }
                tables += 1;
                if tables == MAX_TABLES {
                    return None;
                }
            }
            from = index_at + 4;
        }
        None
    }

    fn with_tokens(bytes: &'a [u8], index_at: usize, tokens: &Tokens<'_>) -> Option<Self> {
        let (markers_at, markers) = find_markers(bytes, tokens.start)?;
        let (num_syms_at, names_at, count) = find_names(bytes, markers_at, &markers)?;
        let (arena, names) = decode_names(bytes.get(names_at..markers_at)?, count, tokens)?;
        Some(Self {
            bytes,
            num_syms_at,
            token_index_end: index_at + TOKENS * 2,
            arena,
            names,
        })
    }

    /// Where the tables lie in the block that do not move between kernels: from `num_syms` to the end of `token_index`.
    pub fn extent(&self) -> Range<usize> {
        self.num_syms_at..self.token_index_end
    }

    /// Position in the table of the first symbol called `name`.
    pub fn position(&self, name: &str) -> Option<usize> {
        self.names.iter().position(|entry| self.text(entry) == name)
    }

    fn text(&self, name: &Name) -> &str {
        let start = name.start as usize;
        self.arena.get(start..start + usize::from(name.len)).unwrap_or("")
    }

    /// Every way the addresses could be laid out. Cheap: nothing is decoded.
    pub fn candidates(&self) -> Vec<Candidate> {
        let mut candidates = Vec::new();
        let mut with_base = |offsets_at: usize, base_at: usize| {
            if let Some(base) = u64_at(self.bytes, base_at) {
                for rule in [AddressRule::Signed { base }, AddressRule::Unsigned { base }] {
                    candidates.push(Candidate { offsets_at, rule });
                }
            }
        };
        let table = self.names.len() * 4;
        // Before the names: offsets, relative_base, num_syms.
        if let Some(base_at) = self.num_syms_at.checked_sub(8)
            && let Some(offsets_at) = base_at.checked_sub(table.next_multiple_of(8))
        {
            with_base(offsets_at, base_at);
        }
        // Behind the token index: offsets, relative_base.
        let behind = self.token_index_end.next_multiple_of(8);
        with_base(behind, behind + table.next_multiple_of(8));
        candidates.push(Candidate {
            offsets_at: self.token_index_end.next_multiple_of(4),
            rule: AddressRule::SelfRelative,
        });
        candidates
    }

    /// Address of the symbol at `position` as `candidate` has it. `block` is
    /// the address of the block's first byte.
    pub fn address(&self, candidate: Candidate, block: u64, position: usize) -> Option<u64> {
        let at = candidate.offsets_at.checked_add(position.checked_mul(4)?)?;
        let raw = u32_at(self.bytes, at)?;
        let signed = i64::from(raw as i32);
        Some(match candidate.rule {
            AddressRule::Signed { base } if signed < 0 => base.wrapping_sub(1).wrapping_add_signed(-signed),
            AddressRule::Signed { .. } => u64::from(raw),
            AddressRule::Unsigned { base } => base.wrapping_add(u64::from(raw)),
            AddressRule::SelfRelative => block.wrapping_add(at as u64).wrapping_add_signed(signed),
        })
    }

    /// All symbols, with the addresses that `candidate` gives. Symbols without
    /// an offset (the table is cut off) are left out.
    pub fn into_symbols(mut self, candidate: Candidate, block: u64) -> Symbols {
        let arena = std::mem::take(&mut self.arena);
        let names = std::mem::take(&mut self.names);
        let addresses = (0..names.len()).map_while(|i| self.address(candidate, block, i));
        Symbols::build(arena, names.iter().copied(), addresses)
    }
}

/// Finds 256 ascending 16-bit values that start at 0 and grow by what tokens
/// can be long. Alignment is 4 from 7.0 on, before that 8.
fn find_token_index(bytes: &[u8], from: usize) -> Option<usize> {
    let from = from.next_multiple_of(4);
    let fits = |at: usize| {
        let Some(table) = bytes.get(at..at + TOKENS * 2) else {
            return false;
        };
        let mut previous = 0usize;
        table[2..].chunks_exact(2).all(|raw| {
            let value = usize::from(u16::from_le_bytes([raw[0], raw[1]]));
            let fits = value > previous + 1 && value - previous <= MAX_TOKEN;
            previous = value;
            fits
        })
    };
    // Megabytes are searched: by the first two entries, some words at once and without a branch, which the compiler turns
    // into vector instructions.
    let starts_table = |word: u32| {
        let second = word >> 16;
        (word & 0xffff == 0) & (second > 1) & (second <= MAX_TOKEN as u32)
    };
    let (words, _) = bytes.get(from..)?.as_chunks::<4>();
    for (index, block) in words.chunks(16).enumerate() {
        let any = block
            .iter()
            .fold(false, |any, word| any | starts_table(u32::from_le_bytes(*word)));
        if !any {
            continue;
        }
        for (within, word) in block.iter().enumerate() {
            let at = from + (index * 16 + within) * 4;
            if starts_table(u32::from_le_bytes(*word)) && fits(at) {
                return Some(at);
            }
        }
    }
    None
}

/// The token table.
struct Tokens<'a> {
    start: usize,
    table: [&'a str; TOKENS],
}

impl<'a> Tokens<'a> {
    /// Finds the token table that ends before the token index at `index_at`,
    /// and proves it: each index must start a string and each string end where
    /// the next starts.
    fn before(bytes: &'a [u8], index_at: usize) -> Option<Self> {
        let index = |i: usize| u16_at(bytes, index_at + i * 2).map(usize::from);
        let last = index(TOKENS - 1)?;
        for len in last + 2..last + 1 + MAX_TOKEN {
            for alignment in [4, 8] {
                let Some(start) = index_at.checked_sub(len.next_multiple_of(alignment)) else {
                    continue;
                };
                let token = |i: usize| {
                    let end = if i + 1 < TOKENS { index(i + 1)? } else { len };
                    let token = bytes.get(start + index(i)?..start + end)?;
                    let (&nul, text) = token.split_last()?;
                    let printable = text.iter().all(u8::is_ascii_graphic);
                    if nul != 0 || !printable {
                        return None;
                    }
                    std::str::from_utf8(text).ok()
                };
                // First what repeating bytes do not have, whatever their length.
                if token(usize::from(b'0')) != Some("0") || token(usize::from(b'a')) != Some("a") {
                    continue;
                }
                let mut table = [""; TOKENS];
                let whole = table.iter_mut().enumerate().all(|(i, place)| {
                    token(i).is_some_and(|text| {
                        *place = text;
                        true
                    })
                });
                if whole {
                    return Some(Self { start, table });
                }
            }
        }
        None
    }
}

/// Finds the marker table before `end`: it starts with 0 and grows by what 256
/// names can take. Returns its place and its entries; the last ones may be
/// chance continuations of what follows it.
fn find_markers(bytes: &[u8], end: usize) -> Option<(usize, Vec<u32>)> {
    let step = SYMBOLS_PER_MARKER * 2..=SYMBOLS_PER_MARKER * MAX_ENTRY;
    let least = MIN_SYMBOLS / SYMBOLS_PER_MARKER;
    let mut at = end.checked_sub(least * 4)?;
    // 6.2 and 6.3 have three bytes for each symbol in between.
    let lowest = end.saturating_sub(MAX_SYMBOLS * 3 + MAX_SYMBOLS / 64);
    loop {
        if u32_at(bytes, at)? == 0 {
            let mut markers = vec![0];
            let mut previous = 0;
            while markers.len() <= MAX_SYMBOLS / SYMBOLS_PER_MARKER {
                let here = at + markers.len() * 4;
                let Some(value) = u32_at(bytes, here).filter(|_| here + 4 <= end) else {
                    break;
                };
                let grows = value
                    .checked_sub(previous)
                    .is_some_and(|by| step.contains(&(by as usize)));
                if !grows {
                    break;
                }
                markers.push(value);
                previous = value;
            }
            if markers.len() >= least {
                return Some((at, markers));
            }
        }
        at = at.checked_sub(4).filter(|&at| at >= lowest)?;
    }
}

/// Finds `num_syms` and the names before the markers. Returns the place of
/// both and the number of symbols.
fn find_names(bytes: &[u8], markers_at: usize, markers: &[u32]) -> Option<(usize, usize, usize)> {
    let mut tries = MAX_TRIED;
    // Dropping the last markers allows for chance continuations.
    for used in (markers.len().saturating_sub(2)..=markers.len()).rev() {
        let markers = markers.get(..used)?;
        let last = *markers.last()? as usize;
        let most = used * SYMBOLS_PER_MARKER;
        let counts = most - SYMBOLS_PER_MARKER + 1..=most;
        let Some(highest) = markers_at.checked_sub(last) else {
            continue;
        };
        let lowest = highest.saturating_sub(SYMBOLS_PER_MARKER * MAX_ENTRY + 16);
        for names_at in (lowest.next_multiple_of(4)..highest)
            .rev()
            .filter(|at| at % 4 == 0)
        {
            // num_syms is 4 bytes, aligned to 8 before 7.0.
            for gap in [8, 4] {
                let Some(num_syms_at) = names_at.checked_sub(gap) else {
                    continue;
                };
                let count = u32_at(bytes, num_syms_at)? as usize;
                if !counts.contains(&count) {
                    continue;
                }
                let names = bytes.get(names_at..markers_at)?;
                if names_fit(names, count, markers, &mut tries) {
                    return Some((num_syms_at, names_at, count));
                }
                if tries == 0 {
                    return None;
                }
            }
        }
    }
    None
}

/// Splits the first entry off the names table: its tokens, and what follows.
fn split_entry(names: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&first, rest) = names.split_first()?;
    let (len, rest) = if first & 0x80 != 0 {
        let (&second, rest) = rest.split_first()?;
        (usize::from(first & 0x7f) | usize::from(second) << 7, rest)
    } else {
        (usize::from(first), rest)
    };
    rest.split_at_checked(len)
}

/// Whether the entries of the names table start where the markers say, and the
/// last one ends where the table does (but for alignment). Each entry takes one
/// of `tries`.
fn names_fit(names: &[u8], count: usize, markers: &[u32], tries: &mut usize) -> bool {
    let mut rest = names;
    for i in 0..count {
        let Some(left) = tries.checked_sub(1) else {
            return false;
        };
        *tries = left;
        if i % SYMBOLS_PER_MARKER == 0 {
            let at = names.len() - rest.len();
            if markers.get(i / SYMBOLS_PER_MARKER) != Some(&(at as u32)) {
                return false;
            }
        }
        let Some((_, next)) = split_entry(rest) else {
            return false;
        };
        rest = next;
    }
    rest.len() < 8
}

fn decode_names(names: &[u8], count: usize, tokens: &Tokens<'_>) -> Option<(String, Vec<Name>)> {
    /// Nearly all tokens fit: copied whole, they need no call for each.
    const SHORT: usize = 16;
    let short = tokens.table.each_ref().map(|token| {
        let mut padded = [0; SHORT];
        let fits = token.len() <= SHORT;
        if fits {
            padded[..token.len()].copy_from_slice(token.as_bytes());
        }
        (padded, if fits { token.len() } else { 0 })
    });
    // One more than a name can have, so that the longest is seen to be too long.
    const ROOM: usize = MAX_NAME + 1 + SHORT;
    let mut name = [0u8; ROOM];
    let mut arena: Vec<u8> = Vec::with_capacity(names.len() * 2);
    let mut decoded = Vec::with_capacity(count);
    let mut rest = names;
    for _ in 0..count {
        let (entry, next) = split_entry(rest)?;
        rest = next;
        let mut len = 0;
        for &token in entry {
            let (padded, token_len) = &short[usize::from(token)];
            if *token_len == 0 {
                let token = tokens.table[usize::from(token)].as_bytes();
                name.get_mut(len..len + token.len())?.copy_from_slice(token);
                len += token.len();
            } else {
                let place: &mut [u8; SHORT] = name.get_mut(len..)?.first_chunk_mut()?;
                *place = *padded;
                len += token_len;
            }
        }
        let text = name.get(..len).filter(|_| (1..=MAX_NAME).contains(&len))?;
        let start = arena.len();
        // The first character is the kind; it stays in the arena, unused.
        arena.extend_from_slice(text);
        if arena.len() > MAX_ARENA {
            return None;
        }
        decoded.push(Name {
            start: u32::try_from(start + 1).ok()?,
            len: (len - 1) as u16,
            kind: text[0],
        });
    }
    arena.shrink_to_fit();
    // Tokens are ASCII.
    Some((String::from_utf8(arena).ok()?, decoded))
}

#[cfg(test)]
#[path = "kallsyms_tests.rs"]
mod tests;
