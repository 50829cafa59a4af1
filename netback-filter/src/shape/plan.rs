// SPDX-License-Identifier: GPL-3.0-only
//! From what a vif is to have to HTB's numbers. Pure.
//!
//! HTB lets a class send within its own rate whatever the others do, and beyond it what its parent has left, by priority. So the
//! rates of all classes together must stay within the total, and each class needs one: what has no guarantee gets a small
//! one, latency classes the largest, so that they need not wait until a burst of another's is paid for.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{BURST, Class, Priority, Rate, ShapeClass, Shaping};
use crate::types::Direction;

/// Time that a queue without a manager of its own may hold at its class's ceiling.
const QUEUE: Duration = Duration::from_millis(50);
/// Of the largest packet with segmentation offload: as much may go at a turn.
const GSO: u64 = 65_536;

/// Why a vif cannot be shaped so.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ShapeError {
    /// More is promised than there is.
    #[error(
        "guarantees of {guaranteed} are more than the total of {total} {}: lower them, or raise the total",
        words(*direction)
    )]
    Oversold {
        /// Which way.
        direction: Direction,
        /// The sum of the guarantees.
        guaranteed: Rate,
        /// What the vif may carry that way.
        total: Rate,
    },
    /// A class that may not have what it is promised.
    #[error("class {index}: a guarantee of {guarantee} is more than the ceiling of {ceiling}")]
    AboveCeiling {
        /// The class's index.
        index: u16,
        /// What it is promised.
        guarantee: Rate,
        /// What it may have.
        ceiling: Rate,
    },
    /// A class is there twice.
    #[error("class {index} is there twice, or is the default class")]
    Twice {
        /// The class's index; 0 for the default class.
        index: u16,
    },
}

fn words(direction: Direction) -> &'static str {
    match direction {
        Direction::FromGuest => "from the guest",
        Direction::ToGuest => "to the guest",
    }
}

/// One HTB class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    pub class: Class,
    /// Bytes per second.
    pub rate: u64,
    pub ceil: u64,
    /// HTB's: 0 is first.
    pub prio: u32,
    /// Bytes at a turn among classes of one priority.
    pub quantum: u32,
    /// Bytes that a queue without a manager of its own may hold.
    pub limit: u32,
}

/// One direction of a vif: the total in bytes per second, and the classes below it, the default class first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tree {
    pub total: u64,
    pub nodes: Vec<Node>,
}

/// Percent of the total that a class without a guarantee is given.
fn share(priority: Priority) -> u64 {
    match priority {
        Priority::Realtime | Priority::Interactive => 10,
        Priority::Default => 5,
        Priority::Bulk => 1,
    }
}

impl Shaping {
    /// Whether a vif could be shaped so.
    ///
    /// # Errors
    /// When the classes contradict themselves or a total.
    pub fn check(&self) -> Result<(), ShapeError> {
        for direction in Direction::BOTH {
            self.tree(direction)?;
        }
        Ok(())
    }

    /// `None`: that direction needs no shaper.
    ///
    /// # Errors
    /// When the classes contradict themselves or the total.
    pub(crate) fn tree(&self, direction: Direction) -> Result<Option<Tree>, ShapeError> {
        let mut seen = BTreeSet::new();
        for class in &self.classes {
            let index = class.class.index();
            if index.is_none() || !seen.insert(index) {
                return Err(ShapeError::Twice {
                    index: index.unwrap_or(0),
                });
            }
            if let (Some(guarantee), Some(ceiling)) = (class.guarantee, class.ceiling)
                && guarantee > ceiling
            {
                return Err(ShapeError::AboveCeiling {
                    index: index.unwrap_or(0),
                    guarantee,
                    ceiling,
                });
            }
        }
        let total = match direction {
            Direction::FromGuest => self.from_guest,
            Direction::ToGuest => self.to_guest,
        };
        if total.is_none() && self.classes.iter().all(|class| class.ceiling.is_none()) {
            return Ok(None);
        }
        self.nodes(direction, total.unwrap_or(Rate::MAX)).map(Some)
    }

    fn nodes(&self, direction: Direction, total: Rate) -> Result<Tree, ShapeError> {
        let guaranteed = self
            .classes
            .iter()
            .filter_map(|class| class.guarantee)
            .fold(0_u64, |sum, rate| sum.saturating_add(rate.bits()));
        if guaranteed > total.bits() {
            return Err(ShapeError::Oversold {
                direction,
                guaranteed: Rate(guaranteed),
                total,
            });
        }
        let default = ShapeClass {
            class: Class::DEFAULT,
            guarantee: None,
            ceiling: None,
        };
        let all = || std::iter::once(&default).chain(&self.classes);
        let percent: u64 = all()
            .filter(|class| class.guarantee.is_none())
            .map(|class| share(class.class.priority()))
            .sum();
        // What is not promised, in hundredths; where the shares come to more than that, they shrink alike.
        let left = (total.bytes() - guaranteed / 8).min(total.bytes() * percent / 100);
        let node = |class: &ShapeClass| {
            let ceil = class
                .ceiling
                .map_or(total.bytes(), |c| c.bytes().min(total.bytes()));
            let rate = match class.guarantee {
                Some(guarantee) => guarantee.bytes(),
                None => left * share(class.class.priority()) / percent,
            };
            Node {
                class: class.class,
                rate: rate.clamp(Rate::MIN.bytes(), ceil),
                ceil,
                prio: class.class.priority() as u32,
                // The value is within u32 by the bounds.
                quantum: within(ceil, Duration::from_millis(2)).clamp(2_000, GSO) as u32,
                limit: within(ceil, QUEUE).clamp(2 * GSO, 256 * GSO) as u32,
            }
        };
        Ok(Tree {
            total: total.bytes(),
            nodes: all().map(node).collect(),
        })
    }
}

/// Bytes at a rate in a time.
fn within(bytes_per_second: u64, time: Duration) -> u64 {
    // Rate::MAX times any of the times here is far from the end of u64.
    bytes_per_second.saturating_mul(time.as_micros() as u64) / 1_000_000
}

/// Bytes that may go at once at a rate; never less than two packets.
pub(crate) fn burst(bytes_per_second: u64) -> u32 {
    u32::try_from(within(bytes_per_second, BURST).max(3_028)).unwrap_or(u32::MAX)
}

/// HTB's buffers are times, in units of 64 ns (PSCHED_SHIFT of net/pkt_sched.h).
pub(crate) fn buffer() -> u32 {
    (BURST.as_nanos() / 64) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MBIT: u64 = 1_000_000;

    fn rate(mbit: u64) -> Option<Rate> {
        Rate::from_bits(mbit * MBIT)
    }

    fn class(index: u16, priority: Priority, guarantee: u64, ceiling: u64) -> ShapeClass {
        ShapeClass {
            class: Class::new(index, priority).unwrap(),
            guarantee: rate(guarantee),
            ceiling: rate(ceiling),
        }
    }

    fn shaping(to_guest: u64, classes: Vec<ShapeClass>) -> Shaping {
        Shaping {
            to_guest: rate(to_guest),
            from_guest: None,
            classes,
        }
    }

    #[test]
    fn a_direction_without_limits_is_left_alone() {
        let classes = vec![class(0, Priority::Bulk, 10, 0)];
        let one_way = shaping(100, classes.clone());
        assert!(one_way.tree(Direction::ToGuest).unwrap().is_some());
        assert_eq!(one_way.tree(Direction::FromGuest), Ok(None));
        let ceiling = shaping(0, vec![class(0, Priority::Bulk, 0, 10)]);
        let tree = ceiling.tree(Direction::FromGuest).unwrap().unwrap();
        assert_eq!(
            (tree.total, tree.nodes[1].ceil),
            (Rate::MAX.bytes(), 10 * MBIT / 8)
        );
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let of = |total, classes| shaping(total, classes).tree(Direction::ToGuest);
        let two = |a, b| vec![class(0, Priority::Bulk, a, 0), class(1, Priority::Bulk, b, 0)];
        assert!(of(100, two(60, 40)).is_ok());
        assert!(matches!(of(100, two(60, 41)), Err(ShapeError::Oversold { .. })));
        assert!(matches!(
            of(100, vec![class(3, Priority::Bulk, 20, 10)]),
            Err(ShapeError::AboveCeiling { index: 3, .. })
        ));
        let same = vec![class(1, Priority::Bulk, 1, 0), class(1, Priority::Realtime, 1, 0)];
        assert_eq!(of(100, same), Err(ShapeError::Twice { index: 1 }));
    }

    proptest! {
        #[test]
        fn rates_stay_within_the_total_and_guarantees_hold(
            total in 1_u64..20_000,
            parts in proptest::collection::vec((0_u64..100, 0_u64..100, 0_u16..4), 0..30),
        ) {
            let priorities = [Priority::Realtime, Priority::Interactive, Priority::Default, Priority::Bulk];
            let classes: Vec<ShapeClass> = parts.iter().enumerate().map(|(index, (guarantee, more, priority))| {
                let guarantee = Rate::from_bits(total * MBIT * guarantee / 3_000);
                ShapeClass {
                    class: Class::new(index as u16, priorities[usize::from(*priority)]).unwrap(),
                    guarantee,
                    ceiling: Rate::from_bits(guarantee.map_or(0, Rate::bits) + more * MBIT).filter(|_| more % 3 != 0),
                }
            }).collect();
            let tree = shaping(total, classes.clone()).tree(Direction::ToGuest).unwrap().unwrap();
            let sum: u64 = tree.nodes.iter().map(|node| node.rate).sum();
            prop_assert!(sum <= tree.total + tree.nodes.len() as u64 * Rate::MIN.bytes());
            prop_assert_eq!(tree.nodes.len(), classes.len() + 1);
            for (node, class) in tree.nodes.iter().skip(1).zip(&classes) {
                prop_assert!(node.rate <= node.ceil && node.ceil <= tree.total);
                if let Some(guarantee) = class.guarantee {
                    prop_assert!(node.rate >= guarantee.bytes());
                }
            }
        }
    }
}
