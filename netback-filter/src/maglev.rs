// SPDX-License-Identifier: GPL-3.0-only
//! Maglev tables (Eisenbud et al., NSDI 2016), with weights: which backend each cell of a service's table names. Pure.
//!
//! Every backend has an order of its own in which it would take the cells, and a time of its own for each turn, the heavier
//! ones more often. So shares are as the weights to within a cell or so, and when backends or weights change, most cells
//! that need not change their backend keep it. Orders and times depend on nothing but the backend itself: two hosts with
//! the same backends make the same table.

use crate::layout::{MAGLEV_CELLS, NO_BACKEND};

/// What has a place in the table: a number that stands for the backend wherever it appears, and its weight.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seat {
    pub identity: u64,
    pub weight: u16,
}

/// The cells, each the place of a seat in `seats`, or [`NO_BACKEND`] everywhere when none has any weight.
pub(crate) fn fill(seats: &[Seat]) -> Vec<u16> {
    let mut cells = vec![NO_BACKEND; MAGLEV_CELLS];
    let mut orders: Vec<Order> = seats
        .iter()
        .enumerate()
        .filter(|(_, seat)| seat.weight > 0)
        .map(|(place, seat)| Order::new(place, *seat))
        .collect();
    for _ in 0..MAGLEV_CELLS {
        let Some(order) = orders.iter_mut().min_by_key(|order| (order.time, order.identity)) else {
            break;
        };
        order.time += order.interval;
        if let Some(cell) = order.find(|cell| cells[*cell] == NO_BACKEND) {
            cells[cell] = order.place as u16;
        }
    }
    cells
}

/// The cells in the order in which one backend would take them; without end.
struct Order {
    place: usize,
    identity: u64,
    /// Of its next turn.
    time: u64,
    /// Between turns: the less the heavier.
    interval: u64,
    next: usize,
    step: usize,
}

impl Order {
    fn new(place: usize, seat: Seat) -> Self {
        let cells = MAGLEV_CELLS as u64;
        let interval = (1 << 40) / u64::from(seat.weight);
        Self {
            place,
            identity: seat.identity,
            // Not all at once, or the first turns would all be of one weight.
            time: interval / 256 * (seat.identity >> 56),
            interval,
            next: (seat.identity % cells) as usize,
            step: (seat.identity.rotate_left(32) % (cells - 1) + 1) as usize,
        }
    }
}

impl Iterator for Order {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        let cell = self.next;
        self.next = (cell + self.step) % MAGLEV_CELLS;
        Some(cell)
    }
}

/// A number for these bytes, the same on every host and in every build: FNV-1a, its bits stirred once more.
pub(crate) fn identity(parts: &[&[u8]]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in parts.iter().copied().flatten() {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash = (hash ^ hash >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ hash >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ hash >> 33
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn seats() -> impl Strategy<Value = Vec<Seat>> {
        proptest::collection::vec((any::<u32>(), 1_u16..=20), 2..12).prop_map(|list| {
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

    fn share(cells: &[u16], place: usize) -> usize {
        cells.iter().filter(|cell| usize::from(**cell) == place).count()
    }

    /// Cells by the seats' identities, so that tables of different lists compare.
    fn named(seats: &[Seat]) -> Vec<u64> {
        fill(seats)
            .into_iter()
            .map(|c| seats[usize::from(c)].identity)
            .collect()
    }

    proptest! {
        #[test]
        fn shares_are_as_the_weights(seats in seats()) {
            let cells = fill(&seats);
            let sum: usize = seats.iter().map(|seat| usize::from(seat.weight)).sum();
            for (place, seat) in seats.iter().enumerate() {
                let wanted = MAGLEV_CELLS * usize::from(seat.weight) / sum;
                let got = share(&cells, place);
                prop_assert!(got.abs_diff(wanted) <= 2 + seats.len(), "{got} of {wanted} cells");
            }
        }

        #[test]
        fn the_order_of_the_list_does_not_matter(seats in seats()) {
            let turned: Vec<Seat> = seats.iter().rev().copied().collect();
            prop_assert_eq!(named(&seats), named(&turned));
        }

        #[test]
        fn who_leaves_moves_little_but_its_own(seats in seats(), which: prop::sample::Index) {
            prop_assume!(seats.len() > 1);
            let gone = which.index(seats.len());
            let mut rest = seats.clone();
            rest.remove(gone);
            let (before, after) = (named(&seats), named(&rest));
            let others = before
                .iter()
                .zip(&after)
                .filter(|(b, a)| **b != seats[gone].identity && a != b)
                .count();
            let needless = others as f64 / MAGLEV_CELLS as f64;
            let own = share(&fill(&seats), gone) as f64 / MAGLEV_CELLS as f64;
            prop_assert!(needless <= 0.02 + own, "{needless} of the cells moved for nothing, {own} had to");
        }

        #[test]
        fn another_weight_moves_little_but_what_it_must(seats in seats(), which: prop::sample::Index, weight in 1_u16..=20) {
            let at = which.index(seats.len());
            let mut other = seats.clone();
            other[at].weight = weight;
            let (before, after) = (fill(&seats), fill(&other));
            let moved = before.iter().zip(&after).filter(|(b, a)| a != b).count();
            let must: usize = (0..seats.len())
                .map(|place| share(&after, place).saturating_sub(share(&before, place)))
                .sum();
            prop_assert!(moved <= 3 * must + MAGLEV_CELLS / 20, "{moved} moved, {must} had to");
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
