// SPDX-License-Identifier: GPL-3.0-only
//! ELF cores: which of the two formats that hold a whole guest it is, and its
//! tables of segments and sections.

use super::bytes::{Source, u16_at, u32_at, u64_at};
use super::{Contents, FormatError, qemu, xen};

const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
/// Value of `e_phnum` that says: the number did not fit, look in section 0.
const PN_XNUM: u16 = 0xffff;
/// Tables and notes larger than this are not read.
const MAX_TABLE: u64 = 64 << 20;

/// A segment (program header).
pub(super) struct Segment {
    pub offset: u64,
    /// Guest-physical address.
    pub pa: u64,
    /// Bytes of it in the file.
    pub len: u64,
}

/// A section.
#[derive(Clone, Copy)]
pub(super) struct Section {
    pub offset: u64,
    pub len: u64,
    /// Size of one entry; 0 where it has none.
    pub entry_len: u64,
}

pub(super) fn parse(source: &Source<'_>) -> Result<Contents, FormatError> {
    let header = source.table(0, 64, 64).map_err(|_| CUT)?;
    if header[4..6] != [2, 1] {
        return Err(FormatError::Malformed("not a 64-bit little-endian ELF"));
    }
    let phoff = u64_at(&header, 32).ok_or(CUT)?;
    let phnum = u16_at(&header, 56).ok_or(CUT)?;
    let sections = sections(source, &header)?;
    let phnum = match (phnum, sections.first()) {
        (PN_XNUM, Some((_, raw))) => u64::from(u32_at(raw, 44).ok_or(CUT)?),
        _ => u64::from(phnum),
    };
    let mut loads = Vec::new();
    let mut notes = Vec::new();
    for raw in source.table(phoff, phnum * 56, MAX_TABLE)?.chunks_exact(56) {
        let word = |at| u64_at(raw, at).unwrap_or(0);
        let segment = Segment {
            offset: word(8),
            pa: word(24),
            len: word(32),
        };
        match u32_at(raw, 0) {
            // Memory that was mapped but is not RAM.
            Some(PT_LOAD) if segment.len == 0 => {}
            Some(PT_LOAD) if source.holds(segment.offset, segment.len) => loads.push(segment),
            Some(PT_LOAD) => return Err(FormatError::Malformed("the file is shorter than its memory")),
            Some(PT_NOTE) => notes.push(source.table(segment.offset, segment.len, MAX_TABLE)?),
            _ => {}
        }
    }
    if !loads.is_empty() {
        return Ok(qemu::contents(&loads, &notes));
    }
    let find = |wanted: &str| {
        let section = sections.iter().find(|(name, _)| name == wanted.as_bytes());
        section.and_then(|(_, raw)| {
            Some(Section {
                offset: u64_at(raw, 24)?,
                len: u64_at(raw, 32)?,
                entry_len: u64_at(raw, 56)?,
            })
        })
    };
    xen::contents(source, find)
}

const CUT: FormatError = FormatError::Malformed("the ELF header is cut off");

/// Name and header of a section.
type Named = (Vec<u8>, Vec<u8>);

/// All sections; their names are empty if there is no table of them.
fn sections(source: &Source<'_>, header: &[u8]) -> Result<Vec<Named>, FormatError> {
    let shoff = u64_at(header, 40).ok_or(CUT)?;
    let shnum = u64::from(u16_at(header, 60).ok_or(CUT)?);
    let names_index = usize::from(u16_at(header, 62).ok_or(CUT)?);
    let table = source.table(shoff, shnum * 64, MAX_TABLE)?;
    let place = |raw: &[u8]| Some((u64_at(raw, 24)?, u64_at(raw, 32)?));
    let names = match table.chunks_exact(64).nth(names_index).and_then(place) {
        Some((offset, len)) => source.table(offset, len, MAX_TABLE)?,
        None => Vec::new(),
    };
    let name = |raw: &[u8]| {
        let start = u32_at(raw, 0).unwrap_or(0) as usize;
        let tail = names.get(start..).unwrap_or(&[]);
        let len = tail.iter().position(|&byte| byte == 0).unwrap_or(0);
        tail[..len].to_vec()
    };
    Ok(table
        .chunks_exact(64)
        .map(|raw| (name(raw), raw.to_vec()))
        .collect())
}
