// SPDX-License-Identifier: GPL-3.0-only
//! How a service's flows are spread: a table of cells, each of which names a backend. Pure.
//!
//! A client's hash is a cell, as with Maglev; but a cell goes to the backend that draws the best lot for it, where the lots
//! of the heavier ones are better (weighted rendezvous, Thaler and Ravishankar). So what is changed of one backend moves no
//! cell but to it or from it: Maglev's turns would move up to as many cells again that need not. The price is that shares
//! are as the weights only as lots are: with 4096 cells, a share of 20 % has a standard deviation of 0.6. Lots depend on
//! nothing but backend and cell, so that two hosts with the same backends make the same table.

use std::net::SocketAddr;

use crate::layout::{NO_BACKEND, SPREAD_CELLS, be16, raw_address};

/// What has a place in the table: a number that stands for the backend wherever it appears, and its weight.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seat {
    pub identity: u64,
    pub weight: u16,
}

impl Seat {
    /// The least wins: an exponential variate of the rate `weight`, of which each is the least as often as its rate is of the
    /// sum of rates.
    fn lot(&self, cell: u64) -> f64 {
        let bits = stir(self.identity ^ stir(cell)) >> 11;
        let uniform = (bits + 1) as f64 / (1_u64 << 53) as f64;
        -uniform.ln() / f64::from(self.weight)
    }
}

/// The cell of a client, as `client_cell` of `bpf/service.h` has it.
pub(crate) fn client_cell(client: SocketAddr, affinity: bool) -> u64 {
    let address = raw_address(client.ip());
    let (words, _) = address.as_chunks::<4>();
    let port = if affinity { 0 } else { be16(client.port()).into() };
    let words = words.iter().map(|word| u32::from_ne_bytes(*word));
    let hash = words.chain([port]).fold(0, mix);
    u64::from(hash) % SPREAD_CELLS as u64
}

fn mix(hash: u32, word: u32) -> u32 {
    let mut hash = (hash ^ word).wrapping_mul(0x85eb_ca6b);
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(0xc2b2_ae35);
    hash ^ hash >> 16
}

/// Of those with a weight the one that a cell names.
pub(crate) fn draw<T>(seats: impl Iterator<Item = (T, Seat)>, cell: u64) -> Option<T> {
    seats
        .filter(|(_, seat)| seat.weight > 0)
        .map(|(of, seat)| (seat.lot(cell), of))
        .min_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, of)| of)
}

/// The cells, each the place of a seat in `seats`, or [`NO_BACKEND`] everywhere when none has any weight.
pub(crate) fn fill(seats: &[Seat]) -> Vec<u16> {
    let places = || (0..).zip(seats.iter().copied());
    (0..SPREAD_CELLS as u64)
        .map(|cell| draw(places(), cell).unwrap_or(NO_BACKEND))
        .collect()
}

/// A number for these bytes, the same on every host and in every build: FNV-1a, its bits stirred.
pub(crate) fn identity(parts: &[&[u8]]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in parts.iter().copied().flatten() {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    stir(hash)
}

/// Every bit of the result depends on every bit of the number (the last step of splitmix64).
fn stir(number: u64) -> u64 {
    let mut bits = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ bits >> 31
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn seats() -> impl Strategy<Value = Vec<Seat>> {
        proptest::collection::vec((any::<u32>(), 1_u16..=100), 2..12).prop_map(|list| {
            let mut seats: Vec<Seat> = list
                .into_iter()
                .map(|(number, weight)| Seat {
                    identity: identity(&[&number.to_be_bytes()]),
                    weight,
                })
                .collect();
            seats.sort_by_key(|seat| seat.identity);
            seats.dedup_by_key(|seat| seat.identity);
            seats
        })
    }

    /// Cells by the seats' identities, so that tables of different lists compare.
    fn named(seats: &[Seat]) -> Vec<u64> {
        let identity = |cell: u16| seats[usize::from(cell)].identity;
        fill(seats).into_iter().map(identity).collect()
    }

    proptest! {
        #[test]
        fn shares_are_as_the_weights(seats in seats()) {
            let cells = named(&seats);
            let sum: f64 = seats.iter().map(|seat| f64::from(seat.weight)).sum();
            for seat in &seats {
                let share = f64::from(seat.weight) / sum;
                let wanted = SPREAD_CELLS as f64 * share;
                let got = cells.iter().filter(|cell| **cell == seat.identity).count() as f64;
                let deviation = (wanted * (1.0 - share)).sqrt();
                prop_assert!((got - wanted).abs() <= 3.0 + 6.0 * deviation, "{got} of {wanted} cells");
            }
        }

        #[test]
        fn the_order_of_the_list_does_not_matter(seats in seats()) {
            let turned: Vec<Seat> = seats.iter().rev().copied().collect();
            prop_assert_eq!(named(&seats), named(&turned));
        }

        #[test]
        fn who_leaves_moves_nothing_but_its_own(seats in seats(), which: prop::sample::Index) {
            prop_assume!(seats.len() > 1);
            let gone = which.index(seats.len());
            let mut rest = seats.clone();
            rest.remove(gone);
            for (before, after) in named(&seats).into_iter().zip(named(&rest)) {
                prop_assert!(before == after || before == seats[gone].identity);
            }
        }

        #[test]
        fn another_weight_moves_cells_to_or_from_its_backend_alone(
            seats in seats(), which: prop::sample::Index, weight in 0_u16..=100,
        ) {
            let at = which.index(seats.len());
            let mut other = seats.clone();
            other[at].weight = weight;
            prop_assume!(other.iter().any(|seat| seat.weight > 0));
            let (more, changed) = (weight > seats[at].weight, seats[at].identity);
            for (before, after) in named(&seats).into_iter().zip(named(&other)) {
                let theirs = if more { after } else { before };
                prop_assert!(before == after || theirs == changed);
            }
        }
    }

    #[test]
    fn nobody_without_weight_is_named() {
        let seat = |identity, weight| Seat { identity, weight };
        assert!(fill(&[]).iter().all(|cell| *cell == NO_BACKEND));
        assert!(fill(&[seat(1, 0)]).iter().all(|cell| *cell == NO_BACKEND));
        assert!(fill(&[seat(1, 0), seat(2, 3)]).iter().all(|cell| *cell == 1));
    }
}
