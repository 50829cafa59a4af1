// SPDX-License-Identifier: GPL-3.0-only
//! BTF, the type information that a kernel carries about itself, as a pure
//! function over bytes. Format: the kernel's Documentation/bpf/btf.rst.
//!
//! The bytes come from a guest and may be anything: every offset is checked,
//! chains of types are followed a fixed number of steps, and no input makes
//! this allocate more than a small multiple of its own length.

use std::fmt;

use thiserror::Error;

const MAGIC: u16 = 0xeb9f;
/// Steps along modifiers (typedef, const, …) before a chain counts as cyclic.
const MAX_MODIFIERS: u32 = 32;
/// Longer names are not looked up: KSYM_NAME_LEN of the kernel.
const MAX_NAME: usize = 512;
/// Nesting of anonymous members. The kernel's deepest is about four.
const MAX_NESTING: u32 = 8;
/// Members looked at in one lookup, over all nesting and all types of one name:
/// an end to types that contain each other many times over.
const MAX_MEMBERS: u32 = 100_000;

const KIND_INT: u32 = 1;
const KIND_PTR: u32 = 2;
const KIND_ARRAY: u32 = 3;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_ENUM: u32 = 6;
const KIND_FWD: u32 = 7;
const KIND_TYPEDEF: u32 = 8;
const KIND_VOLATILE: u32 = 9;
const KIND_CONST: u32 = 10;
const KIND_RESTRICT: u32 = 11;
const KIND_FUNC: u32 = 12;
const KIND_FUNC_PROTO: u32 = 13;
const KIND_VAR: u32 = 14;
const KIND_DATASEC: u32 = 15;
const KIND_FLOAT: u32 = 16;
const KIND_DECL_TAG: u32 = 17;
const KIND_TYPE_TAG: u32 = 18;
const KIND_ENUM64: u32 = 19;

/// Why bytes are not BTF that this parser understands.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum BtfError {
    /// The header is missing, or is not that of BTF version 1.
    #[error("not BTF: bad header")]
    Header,
    /// A section or a type runs past the end.
    #[error("BTF is cut off at byte {at}")]
    Truncated {
        /// Offset from the start of the BTF data.
        at: usize,
    },
    /// A kind of type that is newer than this parser.
    #[error("BTF type {id} has unknown kind {kind}")]
    UnknownKind {
        /// Number of the type.
        id: u32,
        /// Its kind.
        kind: u32,
    },
}

/// A member that was looked for and is not there; the kernel's structures
/// differ from those this engine knows.
#[derive(Debug, Clone, Error, PartialEq, Eq)]
#[error("this kernel has no `{path}`")]
pub struct MissingMember {
    /// What was looked for, such as `task_struct.mm`.
    pub path: String,
}

/// Bits of a word that a bit-field occupies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BitField {
    /// First bit, counted from the lowest bit of the byte at the member's offset.
    pub shift: u8,
    /// Number of bits.
    pub width: u8,
}

/// Where a member lies in the outermost structure of its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// Offset in bytes.
    pub offset: u32,
    /// Size in bytes: of the whole array for an array, of a pointer 8.
    pub size: u32,
    /// For an array, the number of its elements; otherwise 1.
    pub count: u32,
    /// Set if the member is a bit-field.
    pub bits: Option<BitField>,
}

/// Parsed type information. Borrows the bytes it was parsed from.
pub struct Btf<'a> {
    /// The type section.
    types: &'a [u8],
    /// The string section.
    strings: &'a [u8],
    /// Offset of each type in `types`; type 0 is void and has no record.
    offsets: Vec<u32>,
    /// Named structs, unions and typedefs, sorted by name.
    named: Vec<(&'a [u8], u32)>,
}

impl fmt::Debug for Btf<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Btf")
            .field("types", &self.offsets.len())
            .field("named", &self.named.len())
            .finish_non_exhaustive()
    }
}

/// The fixed part of a type record.
#[derive(Clone, Copy)]
struct Type {
    name: u32,
    kind: u32,
    vlen: u32,
    kind_flag: bool,
    /// Size, or the number of another type; which one depends on the kind.
    size_or_type: u32,
    /// Where the kind's own data starts in the type section.
    data: usize,
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let raw = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(raw.try_into().ok()?))
}

impl<'a> Btf<'a> {
    /// Parses BTF of a whole kernel (not the split BTF of a module). Bytes
    /// after the end are ignored.
    ///
    /// # Errors
    /// [`BtfError`] tells what is wrong with the bytes.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, BtfError> {
        let header: &[u8; 24] = bytes.first_chunk().ok_or(BtfError::Header)?;
        let word = |at| u32_at(header, at).unwrap_or(0) as usize;
        if u16::from_le_bytes([header[0], header[1]]) != MAGIC || header[2] != 1 {
            return Err(BtfError::Header);
        }
        let (header_len, type_off, type_len) = (word(4), word(8), word(12));
        let (str_off, str_len) = (word(16), word(20));
        // 32-bit values added in 64 bits cannot overflow.
        let section = |offset: usize, len: usize| {
            let start = header_len + offset;
            bytes
                .get(start..start + len)
                .ok_or(BtfError::Truncated { at: start })
        };
        let mut btf = Self {
            types: section(type_off, type_len)?,
            strings: section(str_off, str_len)?,
            offsets: vec![0],
            named: Vec::new(),
        };
        btf.index()?;
        Ok(btf)
    }

    /// Finds the start of each type, and the named ones.
    fn index(&mut self) -> Result<(), BtfError> {
        let mut at = 0;
        while at < self.types.len() {
            let id = self.offsets.len() as u32;
            self.offsets.push(at as u32);
            let truncated = BtfError::Truncated { at };
            let ty = self.record(at).ok_or(truncated)?;
            let vlen = ty.vlen as usize;
            let data_len = match ty.kind {
                KIND_INT | KIND_VAR | KIND_DECL_TAG => 4,
                KIND_ARRAY => 12,
                KIND_STRUCT | KIND_UNION | KIND_DATASEC | KIND_ENUM64 => vlen * 12,
                KIND_ENUM | KIND_FUNC_PROTO => vlen * 8,
                KIND_PTR | KIND_FWD | KIND_TYPEDEF | KIND_VOLATILE | KIND_CONST | KIND_RESTRICT
                | KIND_FUNC | KIND_FLOAT | KIND_TYPE_TAG => 0,
                kind => return Err(BtfError::UnknownKind { id, kind }),
            };
            if matches!(ty.kind, KIND_STRUCT | KIND_UNION | KIND_TYPEDEF) && ty.name != 0 {
                self.named.push((self.string(ty.name), id));
            }
            at = ty.data + data_len;
        }
        if at != self.types.len() {
            return Err(BtfError::Truncated { at });
        }
        // Stable, so that types of one name stay in their order.
        self.named.sort_by_key(|&(name, _)| name);
        Ok(())
    }

    fn record(&self, at: usize) -> Option<Type> {
        let info = u32_at(self.types, at + 4)?;
        Some(Type {
            name: u32_at(self.types, at)?,
            kind: (info >> 24) & 0x1f,
            vlen: info & 0xffff,
            kind_flag: info >> 31 != 0,
            size_or_type: u32_at(self.types, at + 8)?,
            data: at + 12,
        })
    }

    fn type_of(&self, id: u32) -> Option<Type> {
        if id == 0 {
            return None;
        }
        self.record(*self.offsets.get(id as usize)? as usize)
    }

    /// The string at an offset of the string section; empty if out of range or
    /// too long to be a name.
    fn string(&self, offset: u32) -> &'a [u8] {
        let tail = self.strings.get(offset as usize..).unwrap_or(&[]);
        let tail = &tail[..tail.len().min(MAX_NAME)];
        let len = tail.iter().position(|&b| b == 0).unwrap_or(0);
        &tail[..len]
    }

    /// Whether the string at `offset` is `name`, without looking for its end.
    fn string_is(&self, offset: u32, name: &[u8]) -> bool {
        self.strings
            .get(offset as usize..)
            .is_some_and(|tail| tail.starts_with(name) && tail.get(name.len()) == Some(&0))
    }

    /// Follows typedefs and qualifiers to the type itself.
    fn strip(&self, mut id: u32) -> Option<Type> {
        for _ in 0..MAX_MODIFIERS {
            let ty = self.type_of(id)?;
            match ty.kind {
                KIND_TYPEDEF | KIND_VOLATILE | KIND_CONST | KIND_RESTRICT | KIND_TYPE_TAG => {
                    id = ty.size_or_type;
                }
                _ => return Some(ty),
            }
        }
        None
    }

    /// Size in bytes and element count of a type.
    fn size(&self, id: u32) -> Option<(u32, u32)> {
        let ty = self.strip(id)?;
        match ty.kind {
            KIND_PTR => Some((8, 1)),
            KIND_ARRAY => {
                let element = self.strip(u32_at(self.types, ty.data)?)?;
                let count = u32_at(self.types, ty.data + 8)?;
                let element_size = match element.kind {
                    KIND_PTR => 8,
                    // Of arrays of arrays nobody asks the size.
                    KIND_ARRAY => return Some((0, count)),
                    _ => element.size_or_type,
                };
                Some((element_size.checked_mul(count)?, count))
            }
            KIND_INT | KIND_STRUCT | KIND_UNION | KIND_ENUM | KIND_ENUM64 | KIND_FLOAT => {
                Some((ty.size_or_type, 1))
            }
            _ => None,
        }
    }

    /// All types of that name.
    fn named(&self, name: &str) -> impl Iterator<Item = u32> + '_ {
        let name = name.as_bytes();
        let start = self.named.partition_point(|&(n, _)| n < name);
        let end = self.named.partition_point(|&(n, _)| n <= name);
        self.named[start..end].iter().map(|&(_, id)| id)
    }

    /// Size in bytes of a struct, union or typedef, if there is one.
    pub fn size_of(&self, name: &str) -> Option<u32> {
        self.named(name).find_map(|id| Some(self.size(id)?.0))
    }

    /// Looks a member up by its path from a struct, union or typedef, such as
    /// `sock.__sk_common.skc_daddr`. Members of anonymous structs and unions
    /// count as members of what encloses them, as in C; pointers are not
    /// followed.
    ///
    /// # Errors
    /// [`MissingMember`] if no type of that name has such a member.
    pub fn member(&self, path: &str) -> Result<Member, MissingMember> {
        let missing = || MissingMember {
            path: path.to_owned(),
        };
        let (name, rest) = path.split_once('.').ok_or_else(missing)?;
        let mut budget = MAX_MEMBERS;
        self.named(name)
            .find_map(|id| self.resolve(id, rest, &mut budget))
            .ok_or_else(missing)
    }

    fn resolve(&self, mut id: u32, path: &str, budget: &mut u32) -> Option<Member> {
        let mut base_bits = 0u32;
        let mut found = None;
        for name in path.split('.') {
            let (bits, width, ty) = self.find(id, name.as_bytes(), MAX_NESTING, budget)?;
            base_bits = base_bits.checked_add(bits)?;
            id = ty;
            found = Some(width);
        }
        let width = found?;
        let (size, count) = self.size(id).unwrap_or((0, 1));
        Some(Member {
            offset: base_bits / 8,
            size,
            count,
            bits: (width != 0).then_some(BitField {
                shift: (base_bits % 8) as u8,
                width,
            }),
        })
    }

    /// Finds a member in a struct or union: its offset in bits, its width if it
    /// is a bit-field (otherwise 0), and the number of its type.
    fn find(&self, id: u32, name: &[u8], nesting: u32, budget: &mut u32) -> Option<(u32, u8, u32)> {
        let ty = self.strip(id)?;
        if !matches!(ty.kind, KIND_STRUCT | KIND_UNION) {
            return None;
        }
        for index in 0..ty.vlen as usize {
            *budget = budget.checked_sub(1)?;
            let at = ty.data + index * 12;
            let member_name = u32_at(self.types, at)?;
            let member_type = u32_at(self.types, at + 4)?;
            let raw = u32_at(self.types, at + 8)?;
            let (bits, width) = if ty.kind_flag {
                (raw & 0x00ff_ffff, (raw >> 24) as u8)
            } else {
                (raw, 0)
            };
            let anonymous = member_name == 0 || self.string_is(member_name, b"");
            if !anonymous {
                if self.string_is(member_name, name) {
                    return Some((bits, width, member_type));
                }
            } else if nesting > 0
                && let Some((inner, width, ty)) = self.find(member_type, name, nesting - 1, budget)
            {
                return Some((bits.checked_add(inner)?, width, ty));
            }
        }
        None
    }
}

#[cfg(test)]
#[path = "btf_tests.rs"]
mod tests;
