// SPDX-License-Identifier: GPL-3.0-only
//! What was counted of one bucket of time, as bytes: small numbers take one byte, and of a number of a name only how far it is
//! from the one before.

use std::collections::BTreeMap;

use policyd_api::FlowTotals;

/// Totals by number of a name.
pub type Cells = BTreeMap<u32, FlowTotals>;

/// Most bytes of one record. Sled rewrites up to sixteen records together, and puts what is much larger into files of its own.
const CHUNK: usize = 8 << 10;

/// Why a record is not what this version writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a record of the flow history is cut short or has a number that is too large")]
pub struct BadRecord;

/// The cells as records. `start`: when the bucket begins, seconds since 1970.
pub fn encode(cells: &Cells, start: u64) -> Vec<Vec<u8>> {
    let mut chunks = Vec::new();
    let mut chunk = Vec::new();
    let mut before = 0;
    for (id, totals) in cells {
        let first = totals.first.saturating_sub(start);
        for number in [
            u64::from(id - before),
            totals.flows,
            totals.refused,
            totals.packets_out,
            totals.bytes_out,
            totals.packets_in,
            totals.bytes_in,
            first,
            totals.last.saturating_sub(start).saturating_sub(first),
        ] {
            put(&mut chunk, number);
        }
        before = *id;
        if chunk.len() >= CHUNK {
            chunks.push(std::mem::take(&mut chunk));
            before = 0;
        }
    }
    if !chunk.is_empty() {
        chunks.push(chunk);
    }
    chunks
}

/// Adds the cells of a record to `cells`, those whose name is wanted.
pub fn decode(
    mut record: &[u8],
    start: u64,
    wanted: impl Fn(u32) -> bool,
    cells: &mut Cells,
) -> Result<(), BadRecord> {
    let mut id = 0u32;
    while !record.is_empty() {
        let step = u32::try_from(take(&mut record)?).map_err(|_| BadRecord)?;
        id = id.checked_add(step).ok_or(BadRecord)?;
        let mut numbers = [0; 8];
        for number in &mut numbers {
            *number = take(&mut record)?;
        }
        if !wanted(id) {
            continue;
        }
        let [
            flows,
            refused,
            packets_out,
            bytes_out,
            packets_in,
            bytes_in,
            first,
            long,
        ] = numbers;
        let first = start.saturating_add(first);
        cells.entry(id).or_default().add(&FlowTotals {
            flows,
            refused,
            packets_out,
            bytes_out,
            packets_in,
            bytes_in,
            first,
            last: first.saturating_add(long),
        });
    }
    Ok(())
}

/// Seven bits a byte, the lowest first; the highest bit says that more follow.
fn put(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        // Masked to seven bits.
        out.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn take(record: &mut &[u8]) -> Result<u64, BadRecord> {
    let mut number = 0u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = record.split_first().ok_or(BadRecord)?;
        *record = rest;
        let bits = u64::from(byte & 0x7f);
        if shift == 63 && bits > 1 {
            return Err(BadRecord);
        }
        number |= bits << shift;
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err(BadRecord)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn totals(n: u64) -> FlowTotals {
        FlowTotals {
            flows: n,
            refused: n / 2,
            packets_out: n * 3,
            bytes_out: u64::MAX - n,
            packets_in: 0,
            bytes_in: n << 40,
            first: 1000 + n % 60,
            last: 1059,
        }
    }

    #[test]
    fn cells_come_back_as_they_were_and_those_not_wanted_do_not() {
        let cells: Cells = (0..3000).map(|n| (n * 7, totals(n.into()))).collect();
        let chunks = encode(&cells, 1000);
        assert!(chunks.len() > 1 && chunks.iter().all(|c| c.len() < CHUNK + 100));
        let read = |wanted: &dyn Fn(u32) -> bool| {
            let mut back = Cells::new();
            for chunk in &chunks {
                decode(chunk, 1000, wanted, &mut back).expect("whole");
            }
            back
        };
        assert_eq!(read(&|_| true), cells);
        let few = read(&|id| id == 14);
        assert_eq!(few.into_iter().collect::<Vec<_>>(), [(14, totals(2))]);
    }

    #[test]
    fn a_record_that_is_cut_or_made_up_is_refused_and_never_panics() {
        let cells: Cells = [(5, totals(9)), (900, totals(1))].into();
        let whole = encode(&cells, 1000).remove(0);
        let read = |bytes: &[u8]| decode(bytes, 1000, |_| true, &mut Cells::new());
        for end in 1..whole.len() {
            let one_cell = encode(&[(5, totals(9))].into(), 1000)[0].len();
            assert_eq!(read(&whole[..end]).is_ok(), end == one_cell, "{end}");
        }
        assert_eq!(read(&[0xff; 90]), Err(BadRecord));
        assert_eq!(
            read(&[0xff, 0xff, 0xff, 0xff, 0x7f, 0, 0, 0, 0, 0, 0, 0, 0]),
            Err(BadRecord)
        );
    }
}
